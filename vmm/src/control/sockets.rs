//! The socket by which programs on the host reach those in the guest: there while there is a machine.

use crate::config::VmConfig;
use crate::error::{Error, Result};
use crate::socket::{self, SocketFile, Stale};
use crate::vsock::Client;
use std::os::unix::net::UnixListener;

/// The file is dropped first: see there.
pub(super) type Bound = (SocketFile, UnixListener);

/// Makes the socket that `config` names, if it names one.
///
/// # Errors
/// See [`socket::bind_at`].
pub(super) fn bind(config: &VmConfig, stale: Stale) -> Result<Option<Bound>> {
    let vsock = config.vsock.as_ref();
    let bound = vsock.map(|vsock| socket::bind_at("vsock socket=", &vsock.socket, stale));
    Ok(bound.transpose()?.map(|(listener, file)| (file, listener)))
}

/// See the module.
pub(super) struct Sockets {
    /// The thread that serves it, if this process has one.
    thread: Option<Client>,
    /// Made before there was a machine.
    bound: Option<Bound>,
    /// While the thread listens on it.
    file: Option<SocketFile>,
}

impl Sockets {
    /// The one that `config` asks for, which was made already, or is made when it is needed.
    ///
    /// # Errors
    /// [`Error::Input`] where this process has no thread that could serve it.
    pub(super) fn new(
        config: &VmConfig,
        thread: Option<Client>,
        bound: Option<Bound>,
    ) -> Result<Self> {
        if config.vsock.is_some() && thread.is_none() {
            return Err(Error::input(
                "vsock",
                "this process was started for a machine without a socket device, and may connect to nobody",
                "start Hotvisor with --vsock, or without --kernel",
            ));
        }
        Ok(Self {
            thread,
            bound,
            file: None,
        })
    }

    /// Has the thread serve what `config` asks for.
    pub(super) fn open(&mut self, config: &VmConfig) -> Result<()> {
        let Some(vsock) = &config.vsock else {
            return Ok(());
        };
        let bound = match self.bound.take() {
            Some(bound) => Some(bound),
            None => bind(config, Stale::Kept)?,
        };
        let (Some(thread), Some((file, listener))) = (&self.thread, bound) else {
            return Err(Error::bug("vsock", "no thread serves it"));
        };
        thread.open(vsock.cid, listener, vsock.socket.clone());
        self.file = Some(file);
        Ok(())
    }

    /// Who serves a device of the machine's, if it is to have one.
    pub(super) fn server(&self) -> Option<&Client> {
        self.thread.as_ref().filter(|_| self.file.is_some())
    }

    /// Nobody reaches the guest any more.
    pub(super) fn close(&mut self) {
        if self.file.take().is_some() {
            self.thread.iter().for_each(Client::close);
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.close();
    }
}

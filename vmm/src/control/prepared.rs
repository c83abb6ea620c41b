//! What a machine is made of, opened by its name: by whoever may, before it is made and before this process gives up what
//! it will not need.

use super::sockets;
use crate::boot::Files;
use crate::config::{Serial, VmConfig};
use crate::error::{Error, Result};
use crate::isolation::confinement::{self, Grant};
use crate::kvm;
use crate::socket::{self, SocketFile, Stale};
use crate::stream::{self, NewFile, Target, open_or_make};
use kvm_ioctls::Kvm;
use std::fs::{File, OpenOptions};
use std::os::unix::net::UnixListener;

/// A machine that can be made: nothing that it names has been looked into or changed.
pub struct Prepared {
    pub(super) config: VmConfig,
    pub(super) kvm: Kvm,
    pub(super) files: Files,
    /// Where its serial port leads to, if that was opened with the rest.
    pub(super) far: Option<FarEnd>,
    /// Where programs on the host reach those in the guest, if that was opened with the rest.
    pub(super) socket: Option<sockets::Bound>,
}

impl Prepared {
    /// Opens what `config` names. The file of its serial port is made if it is not there, and is returned then.
    ///
    /// # Errors
    /// [`Error::Input`] for what may not be opened, for a host without KVM, and for a machine that cannot be.
    pub fn open(config: VmConfig) -> Result<(Self, Option<NewFile>)> {
        let mut prepared = Self::without_serial(config)?;
        let (far, made) = FarEnd::open(&prepared.config.serial, Stale::Replaced)?;
        prepared.far = Some(far);
        prepared.socket = sockets::bind(&prepared.config, Stale::Replaced)?;
        Ok((prepared, made))
    }

    /// The same for a machine that runs later, or not at all: its serial port leads somewhere when it does.
    pub(super) fn without_serial(config: VmConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            files: Files::open(&config)?,
            kvm: kvm::open()?,
            far: None,
            socket: None,
            config,
        })
    }

    /// Whether it has a socket device.
    #[must_use]
    pub fn has_vsock(&self) -> bool {
        self.config.vsock.is_some()
    }

    /// What it, and a machine like it in its place, needs of the file system.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant> {
        let VmConfig {
            kernel,
            initramfs,
            serial,
            ..
        } = &self.config;
        let boot = [Some(kernel), initramfs.as_ref()];
        let boot = boot.into_iter().flatten().map(Grant::read);
        let far = match serial {
            Serial::File(path) => Some(Grant::write(path)),
            Serial::Socket(path) => Some(Grant::socket(path)),
            Serial::Tty | Serial::Null | Serial::Off => None,
        };
        let vsock = self.config.vsock.as_ref();
        let vsock = vsock.map(|vsock| Grant::socket(&vsock.socket));
        boot.chain(far).chain(vsock).collect()
    }
}

/// What a serial port leads to.
pub(super) enum FarEnd {
    Nothing,
    /// A file that is emptied first.
    File(File),
    /// One that goes on.
    Further(File),
    /// The file is dropped first: see there.
    Socket(SocketFile, UnixListener),
    /// Standard output, and standard input beside it.
    Tty(Box<dyn Target>),
}

impl FarEnd {
    /// Opens it. A file that was not there is made, and is returned; one that was stays as it is.
    pub(super) fn open(serial: &Serial, stale: Stale) -> Result<(Self, Option<NewFile>)> {
        match serial {
            Serial::Null | Serial::Off => Ok((Self::Nothing, None)),
            Serial::Tty => Ok((Self::Tty(stream::stdout()?), None)),
            Serial::File(path) => {
                let opened = open_or_make(OpenOptions::new().write(true), path);
                let (file, made) = opened.map_err(|e| {
                    let usual = "name a file in a folder that exists and may be written";
                    let asked = format!("serial file={}", path.display());
                    Error::input(asked, &e, confinement::remedy(&e, usual))
                })?;
                Ok((Self::File(file), made))
            }
            Serial::Socket(path) => {
                let (socket, file) = socket::bind_at("serial socket=", path, stale)?;
                Ok((Self::Socket(file, socket), None))
            }
        }
    }
}

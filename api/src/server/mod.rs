//! The API's server: HTTP/1.1 on a Unix socket, on a thread of its own.
//!
//! It is made in two steps, because a bad path is bad input and must be known before a machine is made, and
//! because only a machine has something to serve:
//!
//! ```text
//! let bound = Server::bind(&place)?;          // exit code 2 where that fails
//! let running = bound.serve(client)?;         // when the control thread has given its client
//! ```

mod answer;
mod connections;
#[cfg(test)]
mod tests;

use crate::route;
use connections::{Limits, serve};
use hotvisor_vmm::error::FILES;
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::isolation::{Role, confine};
use hotvisor_vmm::socket::{self, SocketFile, Stale, inherited};
use hotvisor_vmm::{Error, Result};
use std::fmt;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::{self, Runtime};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tracing::{info, warn};

/// How long [`Running::stop`] waits for the thread beyond the time that requests are given.
const STOP: Duration = Duration::from_secs(1);

/// Where the API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At a socket file that we make.
    Path(PathBuf),
    /// At a listening socket that was passed to this process under this number.
    Passed(RawFd),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Passed(number) => write!(f, "fd={number}"),
        }
    }
}

/// The API's server.
pub(crate) struct Server;

impl Server {
    /// Listens at `place`; whoever connects has to wait until [`Bound::serve`].
    ///
    /// # Errors
    /// [`Error::Input`] for a place that cannot be used; nothing is left behind.
    pub(crate) fn bind(place: &Place) -> Result<Bound> {
        let asked = format!("--api-socket {place}");
        let (listener, file) = match place {
            Place::Path(path) => {
                let (listener, file) = socket::bind_at("--api-socket ", path, Stale::Replaced)?;
                (listener, Some(file))
            }
            Place::Passed(number) => (inherited::take(&asked, *number)?, None),
        };
        Ok(Bound {
            file,
            listener,
            asked,
        })
    }
}

/// A socket that nobody serves yet. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct Bound {
    // Removed before the socket is closed. A socket that was passed to us has a file that is not ours, or none.
    file: Option<SocketFile>,
    listener: UnixListener,
    /// How it was asked for.
    asked: String,
}

impl Bound {
    /// Serves `client`'s machine from now on.
    ///
    /// # Errors
    /// [`Error::Host`] where a thread or a descriptor is lacking.
    pub(crate) fn serve(self, client: Client) -> Result<Running> {
        self.serve_within(client, Limits::USUAL)
    }

    fn serve_within(self, client: Client, limits: Limits) -> Result<Running> {
        let Self {
            file,
            listener,
            asked,
        } = self;
        let (runtime, listener) = start(listener).map_err(|e| Error::host(&asked, e, FILES))?;
        let (stop, stopped) = watch::channel(false);
        let (alive, ended) = mpsc::channel();
        let connections = Arc::<AtomicU64>::default();
        let router = route::router(client, connections.clone());
        let (begun, begins) = mpsc::sync_channel(1);
        let body = move || {
            // Dropped last: after it, there is nothing left to wait for.
            let _alive: mpsc::Sender<()> = alive;
            let confined = confine(Role::Api);
            let goes_on = confined.is_ok();
            // Whoever waits for this takes it.
            let _ = begun.send(confined);
            if !goes_on {
                return;
            }
            let runtime = runtime;
            LocalSet::new().block_on(
                &runtime,
                serve(listener, (router, connections), limits, stopped),
            );
        };
        let thread = thread::Builder::new()
            .name("api".into())
            .spawn(body)
            .map_err(|e| Error::host(&asked, e, "raise the limit of threads (`ulimit -u`)"))?;
        let running = Running {
            file,
            stop,
            ended,
            thread: Some(thread),
            patience: limits.grace + STOP,
        };
        // The first thing that it does.
        begins
            .recv_timeout(running.patience)
            .map_err(|_| Error::bug(&asked, "its thread does not begin"))??;
        info!("the API is served ({asked})");
        Ok(running)
    }
}

/// The thread's runtime, and the listener registered with it.
fn start(listener: UnixListener) -> std::io::Result<(Runtime, tokio::net::UnixListener)> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let _inside = runtime.enter();
    let listener = tokio::net::UnixListener::from_std(listener)?;
    Ok((runtime, listener))
}

/// A server that runs. Dropping it is the same as [`Running::stop`].
#[derive(Debug)]
pub(crate) struct Running {
    /// Removed before the listener is gone, with which the thread ends.
    file: Option<SocketFile>,
    stop: watch::Sender<bool>,
    /// Disconnected by the thread's end.
    ended: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
    patience: Duration,
}

impl Running {
    /// Accepts no more connections, lets requests end that can do so soon, and removes the socket.
    pub(crate) fn stop(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        self.file = None;
        self.stop.send_replace(true);
        let Some(thread) = self.thread.take() else {
            return;
        };
        match self.ended.recv_timeout(self.patience) {
            Err(RecvTimeoutError::Timeout) => {
                warn!(
                    "gave up on the thread `api`, which did not end in {:?}",
                    self.patience
                );
            }
            // Joins at once: its closure is over.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                if thread.join().is_err() {
                    warn!("the thread `api` panicked");
                }
            }
        }
    }
}

//! Streams of the host's, and those who listen for the guest.

use crate::socket;
use hotvisor_devices::virtio::vsock::{Half, Key, Stream, Streams};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;

/// The host's port of events that are no connection's: the one that means "any", and is nobody's.
pub(super) const NOBODY: u32 = u32::MAX;

/// What an event of a connection is marked with.
pub(super) fn mark(key: Key) -> u64 {
    u64::from(key.host) << 32 | u64::from(key.guest)
}

/// The connection that is marked so, or whatever else has [`NOBODY`] as its host's port.
pub(super) fn marked(mark: u64) -> Key {
    // Both halves have 32 bits.
    Key {
        host: (mark >> 32) as u32,
        guest: (mark & 0xffff_ffff) as u32,
    }
}

/// An event for each change of what a stream is ready for.
pub(super) fn changes(key: Key) -> EpollEvent {
    let flags =
        EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    EpollEvent::new(flags, mark(key))
}

/// A stream, which the kernel takes from its set of descriptors when it is closed.
pub(super) struct HostStream(pub(super) UnixStream);

impl Read for HostStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for HostStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for HostStream {
    fn end(&mut self, half: Half) {
        let how = match half {
            Half::ToHost => Shutdown::Write,
            Half::FromHost => Shutdown::Read,
        };
        // It is gone already, else.
        let _ = self.0.shutdown(how);
    }
}

/// See the module.
pub(super) struct Host {
    pub(super) epoll: Rc<Epoll>,
    /// What the paths of those who listen begin with.
    pub(super) base: PathBuf,
}

impl Streams for Host {
    type Stream = HostStream;

    fn connect(&mut self, key: Key) -> io::Result<HostStream> {
        if key.host == NOBODY {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        let mut path = self.base.clone().into_os_string();
        path.push(format!("_{}", key.host));
        let stream = socket::connect_to(path.as_ref())?;
        self.epoll.add(&stream, changes(key))?;
        Ok(HostStream(stream))
    }
}

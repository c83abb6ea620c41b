//! Streams of the host's, and those who listen for the guest.

use crate::agent::{PORT, Presence, Session};
use crate::socket;
use hotvisor_devices::virtio::vsock::{Half, Key, Stream, Streams};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

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

/// What a connection of the guest's leads to.
pub(super) enum HostStream {
    /// A program on the host; the kernel takes it from its set of descriptors when it is closed.
    Program(UnixStream),
    /// Us: it is the agent's.
    Agent(Rc<RefCell<Session>>),
}

impl Read for HostStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Program(stream) => stream.read(buf),
            Self::Agent(session) => session.borrow_mut().read(buf),
        }
    }
}

impl Write for HostStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Program(stream) => stream.write(buf),
            Self::Agent(session) => session.borrow_mut().write(buf),
        }
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
        match self {
            // It is gone already, else.
            Self::Program(stream) => drop(stream.shutdown(how)),
            // One that says or hears no more is none.
            Self::Agent(session) => session.borrow_mut().over(),
        }
    }
}

impl Drop for HostStream {
    fn drop(&mut self) {
        if let Self::Agent(session) = self {
            session.borrow_mut().over();
        }
    }
}

/// The agent that has connected last, and by which connection.
#[derive(Default)]
pub(super) struct Agent {
    pub(super) presence: Presence,
    pub(super) session: Option<(Key, Rc<RefCell<Session>>)>,
}

impl Agent {
    /// Another connects, in place of the one before.
    fn connect(&mut self, key: Key) -> Rc<RefCell<Session>> {
        if let Some((_, before)) = self.session.take() {
            before.borrow_mut().over();
        }
        let session = Session::new(self.presence.clone(), Instant::now());
        let session = Rc::new(RefCell::new(session));
        self.session = Some((key, session.clone()));
        session
    }

    /// The connection by which it is to hear something.
    pub(super) fn has_more(&self) -> Option<Key> {
        let session = self.session.as_ref();
        let more = session.filter(|(_, session)| session.borrow().has_more());
        more.map(|(key, _)| *key)
    }

    /// Does something with it, if it is there.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let session = self.session.as_ref();
        session.map(|(_, session)| act(&mut session.borrow_mut()))
    }
}

/// See the module.
pub(super) struct Host {
    pub(super) epoll: Rc<Epoll>,
    pub(super) agent: Rc<RefCell<Agent>>,
    /// What the paths of those who listen begin with.
    pub(super) base: PathBuf,
}

impl Streams for Host {
    type Stream = HostStream;

    fn connect(&mut self, key: Key) -> io::Result<HostStream> {
        if key.host == NOBODY {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        if key.host == PORT {
            return Ok(HostStream::Agent(self.agent.borrow_mut().connect(key)));
        }
        let mut path = self.base.clone().into_os_string();
        path.push(format!("_{}", key.host));
        let stream = socket::connect_to(path.as_ref())?;
        self.epoll.add(&stream, changes(key))?;
        Ok(HostStream::Program(stream))
    }
}

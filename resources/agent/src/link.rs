//! The connection to the host, which may go away and come back.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use hotvisor_protocol::{Decoder, Fault, FromGuest, FromHost, Stamped, encode};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, VsockAddr, connect, getsockopt, socket, sockopt,
};
use nix::unistd::{read, write};

/// How long until it is tried to connect again: at first, and at most. Each time is twice the one before.
const FIRST_NS: u64 = 100_000_000;
const MOST_NS: u64 = 10_000_000_000;

/// How much waits for a host that does not read, in bytes: beyond this, what is only told is left out.
const PENDING: usize = 128 * 1024;
/// And beyond this, it is hung up on.
const MOST_PENDING: usize = 512 * 1024;

/// Where the host listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// At a port of virtio-vsock (vsock(7)).
    Vsock {
        /// Whose.
        cid: u32,
        /// Which.
        port: u32,
    },
    /// At a socket in the file system, in tests.
    Unix(PathBuf),
}

impl Address {
    /// Begins to connect. The socket can be written to when it is connected.
    fn connect(&self) -> nix::Result<OwnedFd> {
        let family = match self {
            Self::Vsock { .. } => AddressFamily::Vsock,
            Self::Unix(_) => AddressFamily::Unix,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Stream, flags, None)?;
        let connected = match self {
            Self::Vsock { cid, port } => connect(fd.as_raw_fd(), &VsockAddr::new(*cid, *port)),
            Self::Unix(path) => connect(fd.as_raw_fd(), &UnixAddr::new(path)?),
        };
        match connected {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug)]
enum State {
    /// Until then, nothing is tried.
    Apart {
        until_ns: u64,
    },
    Connecting(OwnedFd),
    Open(OwnedFd),
}

/// What a [`Link`] has to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// There is a host.
    Connected,
    /// It says something.
    Heard(Box<FromHost>),
    /// It says something that cannot be understood.
    Garbled(Fault),
    /// It is gone.
    Lost,
}

/// The connection to the host.
#[derive(Debug)]
pub struct Link {
    address: Address,
    state: State,
    wait_ns: u64,
    decoder: Decoder<FromHost>,
    pending: Vec<u8>,
}

impl Link {
    /// One that connects as soon as it is asked to.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            state: State::Apart { until_ns: 0 },
            wait_ns: FIRST_NS,
            decoder: Decoder::new(),
            pending: Vec::new(),
        }
    }

    /// What is to be waited for, and where.
    #[must_use]
    pub fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.state {
            State::Apart { .. } => None,
            State::Connecting(fd) => Some((fd.as_fd(), PollFlags::POLLOUT)),
            State::Open(fd) if self.pending.is_empty() => Some((fd.as_fd(), PollFlags::POLLIN)),
            State::Open(fd) => Some((fd.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT)),
        }
    }

    /// When it is tried to connect again.
    #[must_use]
    pub fn wakes_at(&self) -> Option<u64> {
        match self.state {
            State::Apart { until_ns } => Some(until_ns),
            State::Connecting(_) | State::Open(_) => None,
        }
    }

    /// Connects, if the time for it has come.
    pub fn tick(&mut self, now_ns: u64) {
        if matches!(self.state, State::Apart { until_ns } if until_ns <= now_ns) {
            match self.address.connect() {
                Ok(fd) => self.state = State::Connecting(fd),
                Err(_) => self.part(now_ns),
            }
        }
    }

    /// The host has agreed to talk: the next time, it is tried at once again.
    pub fn agreed(&mut self) {
        self.wait_ns = FIRST_NS;
    }

    /// Hangs up, and waits before it is tried again.
    pub fn part(&mut self, now_ns: u64) {
        let until_ns = now_ns + self.wait_ns;
        self.state = State::Apart { until_ns };
        self.wait_ns = (2 * self.wait_ns).min(MOST_NS);
        self.decoder = Decoder::new();
        self.pending = Vec::new();
    }

    /// Something can be done with the socket.
    pub fn ready(&mut self, now_ns: u64) -> Vec<News> {
        match &self.state {
            State::Apart { .. } => Vec::new(),
            State::Connecting(fd) => {
                let error = getsockopt(fd, sockopt::SocketError);
                match std::mem::replace(&mut self.state, State::Apart { until_ns: now_ns }) {
                    State::Connecting(fd) if error == Ok(0) => {
                        self.state = State::Open(fd);
                        vec![News::Connected]
                    }
                    _ => {
                        self.part(now_ns);
                        Vec::new()
                    }
                }
            }
            State::Open(_) => {
                let mut news = Vec::new();
                if !(self.receive(&mut news) && self.send()) {
                    self.part(now_ns);
                    news.push(News::Lost);
                }
                news
            }
        }
    }

    /// Reads what there is, a bounded part of it at a time; `false` if the host is gone.
    fn receive(&mut self, news: &mut Vec<News>) -> bool {
        let State::Open(fd) = &self.state else {
            return false;
        };
        let mut buffer = [0; 4096];
        match read(fd, &mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                let messages = self.decoder.push(&buffer[..length]);
                news.extend(messages.map(|message| match message {
                    Ok(message) => News::Heard(Box::new(message)),
                    Err(fault) => News::Garbled(fault),
                }));
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => true,
            Err(_) => false,
        }
    }

    /// Writes what the host takes; `false` if it is gone.
    fn send(&mut self) -> bool {
        let State::Open(fd) = &self.state else {
            return false;
        };
        while !self.pending.is_empty() {
            match write(fd, &self.pending) {
                Ok(length) => {
                    self.pending.drain(..length);
                }
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Says something, now or when the host takes it. `false` if the host is gone.
    #[must_use]
    pub fn say(&mut self, messages: Vec<FromGuest>, now_ns: u64) -> bool {
        if !matches!(self.state, State::Open(_)) {
            return true;
        }
        for message in messages {
            let is_only_told = matches!(
                message,
                FromGuest::Phase(_) | FromGuest::Pressure(_) | FromGuest::Problem(_)
            );
            if is_only_told && self.pending.len() > PENDING {
                continue;
            }
            let stamped = Stamped {
                at_ns: now_ns,
                message,
            };
            if let Err(error) = encode(&stamped, &mut self.pending) {
                eprintln!("hotvisor-agent: {error}");
            }
        }
        let goes_on = self.pending.len() <= MOST_PENDING && self.send();
        if !goes_on {
            self.part(now_ns);
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotvisor_protocol::{Ping, Pong};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    #[test]
    fn it_is_tried_again_later_and_later() {
        let mut link = Link::new(Address::Unix("/nowhere/at/all".into()));
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..9 {
            link.tick(now);
            let next = link.wakes_at().unwrap();
            waits.push((next - now) / 1_000_000);
            now = next;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
        link.agreed();
        link.tick(now);
        assert_eq!(link.wakes_at(), Some(now + FIRST_NS));
    }

    #[test]
    fn both_sides_are_heard_until_one_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host");
        let listener = UnixListener::bind(&path).unwrap();
        let mut link = Link::new(Address::Unix(path));
        link.tick(0);
        assert_eq!(link.ready(0), [News::Connected]);
        let (mut host, _) = listener.accept().unwrap();
        assert!(link.say(vec![Pong { id: 1 }.into()], 5));
        let expected = b"{\"at_ns\":5,\"pong\":{\"id\":1}}\n";
        let mut line = [0; 28];
        host.read_exact(&mut line).unwrap();
        assert_eq!(&line[..], &expected[..]);
        host.write_all(b"{\"ping\":{\"id\":2}}\nnonsense\n")
            .unwrap();
        let news = link.ready(6);
        let ping = FromHost::from(Ping { id: 2 });
        assert_eq!(news[0], News::Heard(Box::new(ping)));
        assert!(matches!(news[1], News::Garbled(_)));
        drop(host);
        assert_eq!(link.ready(7), [News::Lost]);
        assert_eq!(link.wakes_at(), Some(7 + FIRST_NS));
    }

    #[test]
    fn a_host_that_does_not_read_is_hung_up_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut link = Link::new(Address::Unix(path));
        link.tick(0);
        link.ready(0);
        let pong = || FromGuest::from(Pong { id: u64::MAX });
        let says = (0..1000)
            .take_while(|_| link.say((0..100).map(|_| pong()).collect(), 0))
            .count();
        assert!((1..1000).contains(&says), "{says}");
        assert_eq!(link.wakes_at(), Some(FIRST_NS));
    }
}

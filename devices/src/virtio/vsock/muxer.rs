//! All connections of one guest: whom a packet is for, and who is next to send one.

use super::connection::{Connection, Fate, PATIENCE, Ready, Stream};
use super::header::{HOST_CID, Header, Kind, Op};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Instant;

/// The most connections at a time; each has a descriptor.
pub const MOST_CONNECTIONS: usize = 256;
/// Answers to packets of no connection that wait for a buffer, before no more packets are taken.
const MOST_RESETS: usize = 64;
/// The first port of the host's of connections that it asks for: beyond those on which somebody is likely to listen.
const FIRST_PORT: u32 = 1 << 30;

/// A connection's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

/// Where the host's streams come from.
pub trait Streams {
    /// What they are.
    type Stream: Stream;

    /// Connects to whoever listens at the host's port of `key`, on behalf of the guest.
    ///
    /// # Errors
    /// The kernel's, where nobody does.
    fn connect(&mut self, key: Key) -> io::Result<Self::Stream>;
}

/// Why the guest is not asked for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoConnection {
    /// Its driver does not use the device, or not yet.
    #[error("no driver of the guest's uses its socket device")]
    NoDriver,
    /// There are [`MOST_CONNECTIONS`] already.
    #[error("there are {MOST_CONNECTIONS} connections with the guest already")]
    Full,
    /// There is no stream for it.
    #[error("{0}")]
    NoStream(io::ErrorKind),
}

/// Why a packet of the guest's is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Dropped {
    #[error("it is from context {0}, which is not the guest's")]
    From(u64),
    #[error("it is for context {0}, which is not the host's")]
    For(u64),
}

/// See the module.
pub(super) struct Muxer<B: Streams> {
    guest_cid: u64,
    streams: B,
    connections: HashMap<Key, Connection<B::Stream>>,
    /// Connections that have, or may have, something for the guest, each once.
    turns: VecDeque<Key>,
    /// Those that the guest has closed, and of which the host's programs have yet to take something.
    draining: Vec<Connection<B::Stream>>,
    /// Answers to packets of no connection.
    resets: VecDeque<Header>,
    next_port: u32,
}

impl<B: Streams> Muxer<B> {
    pub(super) fn new(guest_cid: u32, streams: B) -> Self {
        Self {
            guest_cid: guest_cid.into(),
            streams,
            connections: HashMap::new(),
            turns: VecDeque::new(),
            draining: Vec::new(),
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
        }
    }

    /// The guest has let go of all connections.
    pub(super) fn clear(&mut self) {
        self.connections.clear();
        self.turns.clear();
        self.resets.clear();
    }

    /// Whether a packet can be taken, whatever it will have to be answered.
    pub(super) fn takes_more(&self) -> bool {
        self.resets.len() < MOST_RESETS
    }

    /// Whether the guest is, or may have, to be told something.
    pub(super) fn has_more(&self) -> bool {
        !self.resets.is_empty() || !self.turns.is_empty()
    }

    /// Asks the guest for a connection to its port.
    pub(super) fn open(
        &mut self,
        guest: u32,
        stream: impl FnOnce(Key) -> io::Result<B::Stream>,
        now: Instant,
    ) -> Result<Key, NoConnection> {
        if self.is_full() {
            return Err(NoConnection::Full);
        }
        let key = loop {
            let host = self.next_port;
            // The one after the last means "any", and is nobody's.
            self.next_port = match host + 1 {
                u32::MAX => FIRST_PORT,
                next => next,
            };
            let key = Key { host, guest };
            if !self.connections.contains_key(&key) {
                break key;
            }
        };
        let stream = stream(key).map_err(|e| NoConnection::NoStream(e.kind()))?;
        let connection = Connection::to_guest(key, self.guest_cid, stream, now);
        self.connections.insert(key, connection);
        self.turns.push_back(key);
        Ok(key)
    }

    /// A packet of the guest's.
    pub(super) fn hear(
        &mut self,
        header: &Header,
        data: &[u8],
        now: Instant,
    ) -> Result<(), Dropped> {
        if header.src_cid != self.guest_cid {
            return Err(Dropped::From(header.src_cid));
        }
        if header.dst_cid != HOST_CID {
            return Err(Dropped::For(header.dst_cid));
        }
        let key = Key {
            host: header.dst_port,
            guest: header.src_port,
        };
        if header.kind != Kind::Stream {
            if header.op != Ok(Op::Reset) {
                self.answer_with_reset(header);
            }
        } else if let Some(connection) = self.connections.get_mut(&key) {
            let fate = connection.hear(header, data, now);
            self.settle(key, fate);
        } else if header.op == Ok(Op::Request) {
            self.requested(key, header);
        } else if header.op != Ok(Op::Reset) {
            self.answer_with_reset(header);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.connections.len() + self.draining.len() >= MOST_CONNECTIONS
    }

    fn requested(&mut self, key: Key, header: &Header) {
        let stream = match self.is_full() {
            true => Err(io::ErrorKind::QuotaExceeded.into()),
            false => self.streams.connect(key),
        };
        match stream {
            Ok(stream) => {
                let connection = Connection::from_guest(key, stream, header);
                self.connections.insert(key, connection);
                self.turns.push_back(key);
            }
            Err(_) => self.answer_with_reset(header),
        }
    }

    fn answer_with_reset(&mut self, header: &Header) {
        self.resets.push_back(Header {
            src_cid: header.dst_cid,
            dst_cid: header.src_cid,
            src_port: header.dst_port,
            dst_port: header.src_port,
            len: 0,
            kind: header.kind,
            op: Ok(Op::Reset),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        });
    }

    fn reset(&mut self, key: Key) {
        self.answer_with_reset(&Header {
            src_cid: self.guest_cid,
            dst_cid: HOST_CID,
            src_port: key.guest,
            dst_port: key.host,
            len: 0,
            kind: Kind::Stream,
            op: Ok(Op::Reset),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        });
    }

    /// What has become of a connection that something has happened to.
    fn settle(&mut self, key: Key, fate: Fate) {
        match fate {
            Fate::Lives => self.queue(key),
            Fate::Reset => {
                self.connections.remove(&key);
                self.reset(key);
            }
            Fate::Over => {
                self.connections.remove(&key);
            }
            Fate::Drains => self.draining.extend(self.connections.remove(&key)),
        }
    }

    /// Has a connection take its turn, if it needs one.
    fn queue(&mut self, key: Key) {
        let needs = self.connections.get(&key).is_some_and(Connection::has_more);
        if needs && !self.turns.contains(&key) {
            self.turns.push_back(key);
        }
    }

    /// The stream of a connection is ready for something. One that is gone is none.
    pub(super) fn ready(&mut self, key: Key, ready: Ready, now: Instant) {
        // Another may have the same ports already.
        self.draining
            .retain_mut(|connection| connection.key() != key || connection.drains());
        if let Some(connection) = self.connections.get_mut(&key) {
            let fate = connection.ready(ready, now);
            self.settle(key, fate);
        }
    }

    /// The next packet for the guest, with its data in `data`, no more than `most`.
    pub(super) fn tell(&mut self, data: &mut Vec<u8>, most: usize, now: Instant) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            data.clear();
            return Some(reset);
        }
        while let Some(key) = self.turns.pop_front() {
            let connection = self.connections.get_mut(&key);
            let told = connection.and_then(|connection| connection.tell(data, most, now));
            if told.is_some() {
                self.queue(key);
                return told;
            }
        }
        None
    }

    /// When somebody has to have answered, at the earliest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let all = self.connections.values().chain(&self.draining);
        all.filter_map(Connection::deadline).min()
    }

    /// Ends the connections whose deadlines have passed.
    pub(super) fn tick(&mut self, now: Instant) {
        self.draining
            .retain(|connection| !connection.has_waited(now));
        let late = self.connections.iter();
        let late = late.filter(|(_, connection)| connection.has_waited(now));
        let late = late.map(|(key, connection)| (*key, connection.given_up()));
        for (key, fate) in late.collect::<Vec<_>>() {
            self.settle(key, fate);
        }
    }

    /// Time has stood still for the guest.
    pub(super) fn resumed(&mut self, now: Instant) {
        for connection in self.connections.values_mut() {
            connection.resumed(now);
        }
    }
}

const _: () = assert!(
    PATIENCE.as_secs() < 8,
    "Linux gives up a connection that it closes after 8 s"
);

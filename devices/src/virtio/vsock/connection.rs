//! One stream between a port of the guest and a port of the host (section 5.10.6).
//!
//! ```text
//!             the guest's response             both sides have said that they send
//!  Requested ─────────────────────► Open ───┐  and receive no more
//!                 the guest's request ──►   └──────────────────────────────────────► Closing ──► gone
//!                                           the guest closes, and something is left ──► Draining ──► gone
//! ```
//!
//! Either side says how much room it has in all and how much it has passed on, and the other sends no more than fits.

use super::header::{HOST_CID, Header, Kind, NO_RECEIVE, NO_SEND, Op};
use super::muxer::Key;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::num::Wrapping;
use std::time::{Duration, Instant};

/// Room for what the guest has sent and the host has not taken yet.
pub(super) const ROOM: u32 = 64 << 10;
/// Once as much as this has been passed on, the guest is told without anything else to tell.
const TELL_AFTER: u32 = ROOM / 4;
/// The most data of one packet.
pub(super) const MOST_DATA: usize = 64 << 10;
/// How long a program on the host may take for what is left when the guest has closed its end.
const LEFT_FOR: Duration = Duration::from_secs(60);
/// How long the guest may take to answer to a request, or to a shutdown.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The direction that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// What the host's peer is sent.
    ToHost,
    /// What it sends.
    FromHost,
}

/// What a stream of the host's has become ready for since it last would have blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// There is something to read, or its end.
    pub readable: bool,
    /// There is room to write, or nobody who reads.
    pub writable: bool,
    /// Nobody has its other end any more.
    pub hung: bool,
}

/// A stream of the host's that never blocks.
pub trait Stream: Read + Write {
    /// One of its directions ends.
    fn end(&mut self, half: Half);
}

/// A signal that comes meanwhile is none of a stream's.
fn retried(mut io: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match io() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest was asked for it, and has until then.
    Requested(Instant),
    Open,
    /// The guest was told that it is over, and has until then.
    Closing(Instant),
    /// The guest has closed it, and the host's program has until then to take what is left.
    Draining(Instant),
}

/// What the guest is to be told, first things first.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit: bool,
    credit_request: bool,
    /// As flags of a shutdown.
    shutdown: u32,
}

/// What has become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Lives,
    /// It is over, and the guest is to be told so.
    Reset,
    /// It is over, and the guest knows.
    Over,
    /// So it is, and the host's program has yet to take what is left.
    Drains,
}

/// See the module.
pub(super) struct Connection<S> {
    key: Key,
    guest_cid: u64,
    stream: S,
    phase: Phase,
    owed: Owed,
    /// What the guest sends and receives no more, as flags of a shutdown.
    guest_ended: u32,
    /// What the host sends and receives no more, as the guest is told or is to be.
    host_ended: u32,
    /// The stream may have something to read.
    readable: bool,
    /// Nobody has the other end of it any more, though there may still be something to read.
    hung: bool,
    /// From the guest, not yet written.
    backlog: VecDeque<u8>,
    /// Bytes that were passed on to the stream.
    passed: Wrapping<u32>,
    /// The last of that number which the guest was told.
    told: Wrapping<u32>,
    /// The guest's room, what it has passed on, and what it was sent.
    guest_room: u32,
    guest_passed: Wrapping<u32>,
    sent: Wrapping<u32>,
    /// The guest was asked for credit, and has not said anything since.
    begs: bool,
}

impl<S: Stream> Connection<S> {
    fn new(key: Key, guest_cid: u64, stream: S, phase: Phase) -> Self {
        Self {
            key,
            guest_cid,
            stream,
            phase,
            owed: Owed::default(),
            guest_ended: 0,
            host_ended: 0,
            readable: true,
            hung: false,
            backlog: VecDeque::new(),
            passed: Wrapping(0),
            told: Wrapping(0),
            guest_room: 0,
            guest_passed: Wrapping(0),
            sent: Wrapping(0),
            begs: false,
        }
    }

    /// One that the guest is asked for.
    pub(super) fn to_guest(key: Key, guest_cid: u64, stream: S, now: Instant) -> Self {
        let phase = Phase::Requested(now + PATIENCE);
        let mut connection = Self::new(key, guest_cid, stream, phase);
        connection.owed.request = true;
        connection
    }

    /// One that the guest has asked for.
    pub(super) fn from_guest(key: Key, stream: S, request: &Header) -> Self {
        let mut connection = Self::new(key, request.src_cid, stream, Phase::Open);
        connection.hear_credit(request);
        connection.owed.response = true;
        connection
    }

    /// When somebody has to have answered.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Requested(by) | Phase::Closing(by) | Phase::Draining(by) => Some(by),
            Phase::Open => None,
        }
    }

    /// Time has stood still for the guest: whoever has to answer begins anew.
    pub(super) fn resumed(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Requested(by) | Phase::Closing(by) => *by = now + PATIENCE,
            Phase::Open | Phase::Draining(_) => {}
        }
    }

    fn hear_credit(&mut self, header: &Header) {
        self.guest_room = header.buf_alloc;
        self.guest_passed = Wrapping(header.fwd_cnt);
        // An answer that brings none is no reason to ask once more.
        self.begs &= self.credit() == 0;
    }

    /// How much the guest has room for. What it has sent has no meaning if it says that it has passed on more than that.
    fn credit(&self) -> usize {
        let under_way = (self.sent - self.guest_passed).0;
        let free = self.guest_room.saturating_sub(under_way);
        free as usize
    }

    /// A packet of the guest's about this connection, with its data.
    pub(super) fn hear(&mut self, header: &Header, data: &[u8], now: Instant) -> Fate {
        self.hear_credit(header);
        match (header.op, self.phase) {
            (Ok(Op::Reset), _) => {
                // Linux closes so when the host has not taken everything within 8 s.
                let _ = self.pass_on();
                if self.backlog.is_empty() || self.guest_ended & NO_SEND == 0 {
                    return Fate::Over;
                }
                self.phase = Phase::Draining(now + LEFT_FOR);
                Fate::Drains
            }
            (Ok(Op::Response), Phase::Requested(_)) => self.answered(),
            (Ok(Op::Data), Phase::Open | Phase::Closing(_)) => self.hear_data(data),
            (Ok(Op::CreditUpdate), Phase::Open | Phase::Closing(_)) => Fate::Lives,
            (Ok(Op::CreditRequest), Phase::Open | Phase::Closing(_)) => {
                self.owed.credit = true;
                Fate::Lives
            }
            (Ok(Op::Shutdown), Phase::Open | Phase::Closing(_)) => {
                self.guest_ended |= header.flags & (NO_RECEIVE | NO_SEND);
                if self.guest_ended & NO_RECEIVE != 0 {
                    self.stream.end(Half::FromHost);
                }
                self.after_passing(now)
            }
            // Out of its order, or without a meaning.
            _ => Fate::Reset,
        }
    }

    /// Whether somebody should have answered.
    pub(super) fn has_waited(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|by| by <= now)
    }

    /// What comes of it where nobody waits any longer: the guest is told of the end of what it was told of.
    pub(super) fn given_up(&self) -> Fate {
        if self.owed.request {
            Fate::Over
        } else {
            Fate::Reset
        }
    }

    /// The guest has answered: the client hears of it by a line, with the port that the host has in this.
    fn answered(&mut self) -> Fate {
        let line = format!("OK {}\n", self.key.host);
        match self.stream.write(line.as_bytes()) {
            Ok(n) if n == line.len() => {
                self.phase = Phase::Open;
                Fate::Lives
            }
            // Not even the first bytes: it is gone.
            Ok(_) | Err(_) => Fate::Reset,
        }
    }

    fn hear_data(&mut self, data: &[u8]) -> Fate {
        if self.guest_ended & NO_SEND != 0 || self.backlog.len() + data.len() > ROOM as usize {
            return Fate::Reset;
        }
        if self.host_ended & NO_RECEIVE != 0 {
            // It was told that nobody takes it, and may have sent it before.
            self.count_passed(data.len());
            return Fate::Lives;
        }
        self.backlog.extend(data);
        self.pass_on()
    }

    fn count_passed(&mut self, bytes: usize) {
        // No more than fits into the room at a time.
        self.passed += Wrapping(u32::try_from(bytes).unwrap_or(ROOM));
        if (self.passed - self.told).0 >= TELL_AFTER {
            self.owed.credit = true;
        }
    }

    /// Writes what the stream takes.
    fn pass_on(&mut self) -> Fate {
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            match retried(|| self.stream.write(front)) {
                Ok(0) => break,
                Ok(n) => {
                    self.backlog.drain(..n);
                    self.count_passed(n);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    let lost = self.backlog.len();
                    self.backlog.clear();
                    self.count_passed(lost);
                    self.host_ends(NO_RECEIVE);
                    break;
                }
            }
        }
        if self.backlog.is_empty() {
            self.backlog.shrink_to(0);
        }
        Fate::Lives
    }

    /// What follows from what both sides have ended, when all that could be passed on has been.
    fn after_passing(&mut self, now: Instant) -> Fate {
        if self.backlog.is_empty() && self.guest_ended & NO_SEND != 0 {
            self.stream.end(Half::ToHost);
            if self.guest_ended & NO_RECEIVE != 0 {
                return Fate::Reset;
            }
        }
        let all = NO_RECEIVE | NO_SEND;
        if self.phase == Phase::Open && self.host_ended == all && self.owed.shutdown == 0 {
            self.phase = Phase::Closing(now + PATIENCE);
        }
        Fate::Lives
    }

    fn host_ends(&mut self, what: u32) {
        if self.host_ended & what != what {
            self.host_ended |= what;
            self.owed.shutdown = self.host_ended;
        }
    }

    /// The stream is ready for something, or has come to its end.
    pub(super) fn ready(&mut self, ready: Ready, now: Instant) -> Fate {
        self.readable |= ready.readable;
        self.hung |= ready.hung;
        if self.hung && matches!(self.phase, Phase::Requested(_)) {
            // Who asked for it does not want it any more.
            return self.given_up();
        }
        // Nobody reads to the end what the guest does not take.
        let unread = self.guest_ended & NO_RECEIVE != 0;
        if self.hung && (unread || self.host_ended & NO_SEND != 0) {
            self.host_ends(NO_RECEIVE | NO_SEND);
        }
        if !ready.writable || matches!(self.phase, Phase::Requested(_)) {
            return Fate::Lives;
        }
        match self.pass_on() {
            Fate::Lives => self.after_passing(now),
            over => over,
        }
    }

    /// Passes on what is left, and returns whether there is still something.
    pub(super) fn drains(&mut self) -> bool {
        let _ = self.pass_on();
        !self.backlog.is_empty()
    }

    /// The connection's ports.
    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// Whether there is, or may be, something for the guest.
    pub(super) fn has_more(&self) -> bool {
        let Owed {
            request,
            response,
            credit,
            credit_request,
            shutdown,
        } = self.owed;
        request || response || credit || credit_request || shutdown != 0 || self.may_read()
    }

    fn may_read(&self) -> bool {
        let nobody = self.guest_ended & NO_RECEIVE != 0 || self.host_ended & NO_SEND != 0;
        self.phase == Phase::Open && self.readable && !nobody && (self.credit() > 0 || !self.begs)
    }

    /// The next packet for the guest, if there is one, with its data in `data`, no more than `most`.
    pub(super) fn tell(&mut self, data: &mut Vec<u8>, most: usize, now: Instant) -> Option<Header> {
        data.clear();
        let op = self.next_op(data, most)?;
        let mut header = self.header(op, data.len());
        if op == Op::Shutdown {
            header.flags = std::mem::take(&mut self.owed.shutdown);
        }
        // A shutdown of both directions begins to close it, which is no reason to end it here.
        let _ = self.after_passing(now);
        self.owed.credit = false;
        self.told = self.passed;
        Some(header)
    }

    fn next_op(&mut self, data: &mut Vec<u8>, most: usize) -> Option<Op> {
        let owed = &mut self.owed;
        if std::mem::take(&mut owed.request) {
            return Some(Op::Request);
        }
        if std::mem::take(&mut owed.response) {
            return Some(Op::Response);
        }
        if self.may_read() {
            let read = self.read(data, most);
            if read.is_some() {
                return read;
            }
        }
        if self.owed.shutdown != 0 {
            return Some(Op::Shutdown);
        }
        if std::mem::take(&mut self.owed.credit_request) {
            return Some(Op::CreditRequest);
        }
        std::mem::take(&mut self.owed.credit).then_some(Op::CreditUpdate)
    }

    /// Reads from the stream what the guest has room for.
    fn read(&mut self, data: &mut Vec<u8>, most: usize) -> Option<Op> {
        let most = self.credit().min(most).min(MOST_DATA);
        if most == 0 {
            self.begs = true;
            self.owed.credit_request = true;
            return None;
        }
        data.resize(most, 0);
        match retried(|| self.stream.read(data)) {
            Ok(0) if self.hung => self.host_ends(NO_SEND | NO_RECEIVE),
            Ok(0) => self.host_ends(NO_SEND),
            Ok(n) => {
                data.truncate(n);
                // No more than MOST_DATA.
                self.sent += Wrapping(u32::try_from(n).unwrap_or_default());
                return Some(Op::Data);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(_) => self.host_ends(NO_SEND | NO_RECEIVE),
        }
        data.clear();
        None
    }

    fn header(&self, op: Op, len: usize) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.key.host,
            dst_port: self.key.guest,
            // No more than MOST_DATA.
            len: u32::try_from(len).unwrap_or_default(),
            kind: Kind::Stream,
            op: Ok(op),
            flags: 0,
            buf_alloc: ROOM,
            fwd_cnt: self.passed.0,
        }
    }
}

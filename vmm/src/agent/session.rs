//! One connection of an agent's: what it says, and what it is told.

use super::{Presence, Waits};
use hotvisor_devices::ratelimit::RateLimit;
use hotvisor_protocol::{
    Begin, Decoder, End, FromGuest, FromHost, Hello, Stamped, Welcome, encode, negotiate,
};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// How long an agent may take to say what it is, and to answer to the beginning of an operation.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How much an agent may say in a second. A CPU that is taken down has some 200 steps, each with its begin and its end.
pub const MOST_MESSAGES: u32 = 20_000;
/// Bytes that wait for an agent that does not read.
pub const MOST_OUT: usize = 64 << 10;

/// Of all agents of a process together.
static SAID: RateLimit = RateLimit::new(8);

#[derive(Debug)]
enum Phase {
    /// It has not said yet what it is, and has until then.
    Greeting(Instant),
    /// It answers, as far as is known.
    Heard,
    /// It did not answer, and has not said anything since.
    Silent,
    /// It is not heard any more.
    Over,
}

/// See the module.
pub struct Session {
    presence: Presence,
    phase: Phase,
    decoder: Decoder<Stamped>,
    out: VecDeque<u8>,
    /// Those who wait for its answer, by operation, each until then.
    waiting: BTreeMap<u64, (Waits, Instant)>,
    /// Since when how much was said.
    said: (Instant, u32),
}

impl Session {
    /// Somebody connects.
    #[must_use]
    pub fn new(presence: Presence, now: Instant) -> Self {
        Self {
            presence,
            phase: Phase::Greeting(now + PATIENCE),
            decoder: Decoder::new(),
            out: VecDeque::new(),
            waiting: BTreeMap::new(),
            said: (now, 0),
        }
    }

    /// An operation begins; who waits goes on when the agent has done what it can, or nothing is to be hoped for.
    pub fn begin(&mut self, begin: Begin, waits: Option<Waits>, now: Instant) {
        let operation = begin.operation;
        if !matches!(self.phase, Phase::Heard) || !self.tell(&FromHost::Begin(begin)) {
            return;
        }
        if let Some(waits) = waits {
            self.waiting.insert(operation, (waits, now + PATIENCE));
        }
    }

    /// An operation has ended.
    pub fn end(&mut self, end: End) {
        self.waiting.remove(&end.operation);
        if matches!(self.phase, Phase::Heard | Phase::Silent) {
            self.tell(&FromHost::End(end));
        }
    }

    /// Whether there is something that it was not told yet, or the end of the connection.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.out.is_empty() || matches!(self.phase, Phase::Over)
    }

    /// When [`Session::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let greeting = match self.phase {
            Phase::Greeting(by) => Some(by),
            Phase::Heard | Phase::Silent | Phase::Over => None,
        };
        let waiting = self.waiting.values().map(|(_, by)| *by);
        waiting.chain(greeting).min()
    }

    /// Time has passed: nobody waits any longer than he was to.
    pub fn tick(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Greeting(by) if by <= now) {
            return self.hang_up("it has not said what it is");
        }
        let before = self.waiting.len();
        self.waiting.retain(|_, (_, by)| *by > now);
        if self.waiting.len() < before && matches!(self.phase, Phase::Heard) {
            warn!(
                "the guest's agent does not answer: it is not asked again before it says something"
            );
            self.phase = Phase::Silent;
            self.presence.set(false);
        }
    }

    /// Time has stood still for the guest: whoever has to answer begins anew.
    pub fn resumed(&mut self, now: Instant) {
        if let Phase::Greeting(by) = &mut self.phase {
            *by = now + PATIENCE;
        }
        for (_, by) in self.waiting.values_mut() {
            *by = now + PATIENCE;
        }
    }

    /// Says something, unless too much waits to be heard already.
    fn tell(&mut self, message: &FromHost) -> bool {
        let mut line = Vec::new();
        let said = encode(message, &mut line).is_ok() && self.out.len() + line.len() <= MOST_OUT;
        if said {
            self.out.extend(line);
        }
        said
    }

    fn hang_up(&mut self, why: &str) {
        if let Some(n) = SAID.pass() {
            warn!(n, "the guest's agent is not heard any more: {why}");
        }
        self.over();
    }

    /// It is not heard any more, and nobody waits for it.
    pub fn over(&mut self) {
        if matches!(self.phase, Phase::Heard | Phase::Silent) {
            info!("the guest's agent is gone");
            self.presence.set(false);
        }
        self.phase = Phase::Over;
        self.waiting.clear();
    }

    fn hear(&mut self, bytes: &[u8], now: Instant) {
        let mut decoder = std::mem::take(&mut self.decoder);
        for message in decoder.push(bytes) {
            if matches!(self.phase, Phase::Over) {
                return;
            }
            let since = now.saturating_duration_since(self.said.0);
            if since >= Duration::from_secs(1) {
                self.said = (now, 0);
            }
            self.said.1 += 1;
            if self.said.1 > MOST_MESSAGES {
                return self.hang_up("it says too much");
            }
            match message {
                Ok(Stamped { message, .. }) => self.message(message),
                Err(fault) => return self.hang_up(&fault.to_string()),
            }
        }
        self.decoder = decoder;
    }

    fn message(&mut self, message: FromGuest) {
        match (&self.phase, message) {
            (Phase::Greeting(_), FromGuest::Hello(hello)) => self.welcome(&hello),
            (Phase::Greeting(_), _) => self.hang_up("it did not say what it is"),
            (_, FromGuest::Hello(_)) => self.hang_up("it says twice what it is"),
            (_, message) => {
                if matches!(self.phase, Phase::Silent) {
                    self.phase = Phase::Heard;
                    self.presence.set(true);
                }
                self.word(message);
            }
        }
    }

    fn welcome(&mut self, hello: &Hello) {
        let Some(version) = negotiate(hello.version) else {
            return self.hang_up("it speaks no version of the protocol that is spoken here");
        };
        info!(agent = %hello.agent, kernel = %hello.kernel, version, "the guest has an agent");
        self.tell(&FromHost::Welcome(Welcome {
            version,
            pressure_ms: 0,
            expedite: true,
        }));
        self.phase = Phase::Heard;
        self.presence.set(true);
    }

    fn word(&mut self, message: FromGuest) {
        match message {
            FromGuest::Drained(drained) => {
                debug!(?drained, "the agent has moved what it can");
                self.waiting.remove(&drained.operation);
            }
            // It was not asked to refuse anything: what becomes of it the guest's kernel says.
            FromGuest::Refused(refused) => {
                debug!(?refused, "the agent refuses");
                self.waiting.remove(&refused.operation);
            }
            FromGuest::Problem(problem) => {
                if let Some(n) = SAID.pass() {
                    warn!(n, "the guest's agent says: {}", problem.text);
                }
            }
            other => debug!(?other, "the agent says"),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.over();
    }
}

impl Read for Session {
    /// What it is told.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.out.is_empty() && !matches!(self.phase, Phase::Over) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let read = self.out.read(buf);
        if self.out.is_empty() {
            self.out.shrink_to(0);
        }
        read
    }
}

impl Write for Session {
    /// What it says.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if matches!(self.phase, Phase::Over) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.hear(buf, Instant::now());
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

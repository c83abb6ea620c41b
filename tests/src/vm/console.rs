//! What a process writes, collected by a thread, with waiting for what is to come.

use std::fmt::{self, Display};
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A text in the console.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Offset of its first byte.
    pub start: usize,
    /// Offset behind its last byte.
    pub end: usize,
    /// When its last byte had arrived.
    pub at: Instant,
}

/// Why a text was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// The time is over.
    Deadline,
    /// The other end has closed.
    Closed,
    /// The guest's kernel panicked, so nothing is to come.
    Panicked,
}

impl Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "the time is over",
            Self::Closed => "the VMM closed it",
            Self::Panicked => "the guest's kernel panicked",
        })
    }
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Length after each read, and when that was.
    arrivals: Vec<(usize, Instant)>,
    closed: bool,
}

/// All bytes that a stream gave so far.
#[derive(Clone, Debug)]
pub struct Console {
    shared: Arc<(Mutex<Content>, Condvar)>,
}

const PANIC: &[u8] = b"Kernel panic - not syncing";

impl Console {
    /// Collects a stream on a thread of its own, which ends with the stream.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn collect(name: &str, mut from: impl Read + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new((Mutex::new(Content::default()), Condvar::new()));
        let console = Self {
            shared: Arc::clone(&shared),
        };
        let collector = console.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(length) = from.read(&mut buffer)
                    && length > 0
                {
                    collector.add(&buffer[..length]);
                }
                collector.lock().closed = true;
                collector.shared.1.notify_all();
            })?;
        Ok(console)
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bytes: &[u8]) {
        let mut content = self.lock();
        content.bytes.extend_from_slice(bytes);
        let length = content.bytes.len();
        content.arrivals.push((length, Instant::now()));
        drop(content);
        self.shared.1.notify_all();
    }

    /// Waits for a text at or behind an offset.
    ///
    /// # Errors
    /// Why it cannot come any more.
    pub fn wait_for(&self, text: &str, from: usize, end: Instant) -> Result<Found, Missed> {
        let mut content = self.lock();
        // Bytes before this were looked at already.
        let mut seen = from;
        loop {
            if let Some(start) = find(&content.bytes, text.as_bytes(), seen) {
                let end = start + text.len();
                let arrival = content
                    .arrivals
                    .partition_point(|(length, _)| *length < end);
                return Ok(Found {
                    start,
                    end,
                    at: content.arrivals[arrival].1,
                });
            }
            if find(&content.bytes, PANIC, from).is_some() && !PANIC.starts_with(text.as_bytes()) {
                return Err(Missed::Panicked);
            }
            if content.closed {
                return Err(Missed::Closed);
            }
            seen = from.max((content.bytes.len() + 1).saturating_sub(text.len()));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missed::Deadline);
            }
            let waited = self.shared.1.wait_timeout(content, left);
            content = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the other end has closed.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_for_close(&self, end: Instant) -> Result<(), Missed> {
        let left = end.saturating_duration_since(Instant::now());
        let open = |content: &mut Content| !content.closed;
        let waited = self.shared.1.wait_timeout_while(self.lock(), left, open);
        let (content, _) = waited.unwrap_or_else(PoisonError::into_inner);
        content.closed.then_some(()).ok_or(Missed::Deadline)
    }

    /// Number of bytes so far.
    #[must_use]
    pub fn length(&self) -> usize {
        self.lock().bytes.len()
    }

    /// What has arrived from an offset on.
    #[must_use]
    pub fn text(&self, from: usize) -> String {
        let content = self.lock();
        String::from_utf8_lossy(content.bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// What has arrived between two offsets.
    #[must_use]
    pub fn between(&self, start: usize, end: usize) -> String {
        let content = self.lock();
        String::from_utf8_lossy(content.bytes.get(start..end).unwrap_or_default()).into_owned()
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text(0);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

fn find(bytes: &[u8], text: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(text.len())
        .position(|window| window == text)
        .map(|at| at + from)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_text_is_found_although_it_comes_in_pieces() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let console = Console::collect("test", reader).unwrap();
        let waiting = {
            let console = console.clone();
            std::thread::spawn(move || console.wait_for("ready", 0, soon()))
        };
        for piece in ["re", "rea", "dy!"] {
            writer.write_all(piece.as_bytes()).unwrap();
        }
        let found = waiting.join().unwrap().unwrap();
        assert_eq!((found.start, found.end), (2, 7));
        assert_eq!(console.between(found.start, found.end), "ready");
    }

    #[test]
    fn what_cannot_come_any_more_is_not_waited_for() {
        let console = Console::collect("test", &b"one\ntwo\n"[..]).unwrap();
        assert_eq!(
            console.wait_for("three", 0, soon()).unwrap_err(),
            Missed::Closed
        );
        assert_eq!(console.tail(1), "two");
        let console = Console::collect("test", &b"Kernel panic - not syncing: x"[..]).unwrap();
        let _ = console.wait_for(": x", 0, soon());
        assert_eq!(
            console.wait_for("three", 0, soon()).unwrap_err(),
            Missed::Panicked
        );
    }

    #[test]
    fn a_deadline_that_has_passed_ends_the_wait() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let console = Console::collect("test", reader).unwrap();
        let missed = console.wait_for("never", 0, Instant::now()).unwrap_err();
        assert_eq!(missed, Missed::Deadline);
    }
}

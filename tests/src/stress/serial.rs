//! The guest's serial port at a Unix socket, for the time in which nobody else is connected to it.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use crate::vm::{Console, Missed, SOON};

/// A connection to the serial port.
#[derive(Debug)]
pub struct Serial {
    path: PathBuf,
    stream: UnixStream,
    console: Console,
}

/// Commands so far: an answer that comes too late is nobody else's.
static COMMANDS: AtomicU32 = AtomicU32::new(0);

impl Serial {
    /// Connects as soon as somebody listens, which is a moment after the VMM was started.
    ///
    /// # Errors
    /// Nobody listens in time.
    pub fn connect(path: &Path) -> Result<Self> {
        let (stream, console) = open(path)?;
        Ok(Self {
            path: path.to_owned(),
            stream,
            console,
        })
    }

    /// What the guest has printed since.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Waits until the guest has printed a text.
    ///
    /// # Errors
    /// It does not in time, or the VMM ends.
    pub fn wait_for(&self, text: &str, deadline: Duration) -> Result<()> {
        match self.console.wait_for(text, 0, Instant::now() + deadline) {
            Ok(_) => Ok(()),
            Err(why) => bail!(
                "waited {deadline:?} for {text:?} on the guest's console; {why}\n{}",
                self.console.tail(30)
            ),
        }
    }

    /// Runs a line of shell in the guest, which must succeed; returns what it printed.
    ///
    /// # Errors
    /// It fails, does not end in time, or somebody else is connected.
    pub fn sh(&mut self, command: &str, deadline: Duration) -> Result<String> {
        let end = Instant::now() + deadline;
        let word = format!("s{}", COMMANDS.fetch_add(1, Ordering::Relaxed));
        let mut from = self.console.length();
        let mut begin = self.begin(&word, command, from, end);
        // The port turns a client away until it has noticed that the one before is gone.
        while begin == Err(Missed::Closed) && Instant::now() < end {
            (self.stream, self.console) = open(&self.path)?;
            from = 0;
            begin = self.begin(&word, command, from, end);
        }
        let because = |why: Missed| {
            let said = self.console.tail(30);
            anyhow!("waited {deadline:?} for the guest to run {command:?}; {why}\n{said}")
        };
        let wait = |text: &str, from| self.console.wait_for(text, from, end).map_err(because);
        let begin = begin.map_err(because)?;
        let status = wait(&format!("\u{1e}{word} end "), begin)?;
        let line = wait("\n", status.end)?;
        let text = self.console.between(begin, status.start);
        let text = text.replace('\r', "").trim_matches('\n').to_owned();
        let code = self.console.between(status.end, line.start);
        let code = code.trim();
        ensure!(
            code == "0",
            "{command:?} ended with {code} in the guest: {text}"
        );
        Ok(text)
    }

    /// Sends a command; returns where in the console its output begins.
    fn begin(&self, word: &str, command: &str, from: usize, end: Instant) -> Result<usize, Missed> {
        let sent = (&self.stream).write_all(format!("{word} {command}\n").as_bytes());
        sent.map_err(|_| Missed::Closed)?;
        let begin = format!("\u{1e}{word} begin");
        Ok(self.console.wait_for(&begin, from, end)?.end)
    }
}

/// Connects as soon as somebody listens.
fn open(path: &Path) -> Result<(UnixStream, Console)> {
    let end = Instant::now() + SOON;
    let stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > end => {
                return Err(anyhow!("nobody listens at {}: {error}", path.display()));
            }
            Err(_) => std::thread::yield_now(),
        }
    };
    let console = Console::collect("serial", stream.try_clone()?)?;
    Ok((stream, console))
}

impl Drop for Serial {
    fn drop(&mut self) {
        // The collecting thread holds the connection open otherwise, and the port takes one client at a time.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A guest that answers each command with this text and status.
    fn answering(text: &'static str, status: u8) -> (tempfile::TempDir, Serial) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            // One is turned away.
            drop(listener.accept().unwrap());
            let (mut guest, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(guest.try_clone().unwrap()).lines();
            while let Some(Ok(line)) = lines.next() {
                let word = line.split(' ').next().unwrap();
                let answer =
                    format!("\u{1e}{word} begin\r\n{text}\r\n\u{1e}{word} end {status}\r\n");
                guest.write_all(answer.as_bytes()).unwrap();
            }
        });
        let serial = Serial::connect(&path).unwrap();
        (folder, serial)
    }

    #[test]
    fn each_command_has_its_own_answer() {
        let (_folder, mut serial) = answering("one\r\ntwo", 0);
        for _ in 0..2 {
            assert_eq!(serial.sh("anything", SOON).unwrap(), "one\ntwo");
        }
    }

    #[test]
    fn a_command_that_fails_says_so() {
        let (_folder, mut serial) = answering("no such thing", 127);
        let error = serial.sh("anything", SOON).unwrap_err().to_string();
        assert!(
            error.contains("127") && error.contains("no such thing"),
            "{error}"
        );
    }
}

//! Where our own messages go.

use hotvisor_vmm::isolation;
use hotvisor_vmm::stream::{self, NewFile, open_or_make};
use hotvisor_vmm::{Error, Result};
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Mutex;
use tracing::Level;

/// Sends messages to `file`, or else to standard error. `verbosity` counts `-v`. Returns the file if it was not there.
pub(super) fn start(verbosity: u8, file: Option<&Path>) -> Result<Option<NewFile>> {
    let level = match verbosity {
        0 => Level::WARN,
        1 => Level::INFO,
        2 => Level::DEBUG,
        _ => Level::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_max_level(level)
        .with_target(false);
    let Some(path) = file else {
        let ansi = io::stderr().is_terminal();
        // One that never blocks: a reader of our messages that stalls must not hold up a machine.
        builder
            .with_ansi(ansi)
            .with_writer(Mutex::new(Lossy::new(stream::stderr()?)))
            .init();
        return Ok(None);
    };
    let opened = open_or_make(OpenOptions::new().append(true), path);
    let (opened, made) = opened.map_err(|e| {
        let asked = format!("--log-file {}", path.display());
        Error::input(
            asked,
            e,
            "name a file in a folder that exists and may be written",
        )
    })?;
    isolation::tell_also(opened.as_raw_fd());
    builder
        .with_ansi(false)
        .with_writer(Mutex::new(Lossy::new(opened)))
        .init();
    Ok(made)
}

/// Where messages go, each in one piece. One that cannot be written whole is lost; how many were, and why, is said in their place with
/// the next one that can be written.
struct Lossy<W> {
    to: W,
    lost: u64,
    why: Option<io::Error>,
}

impl<W: Write> Lossy<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            lost: 0,
            why: None,
        }
    }

    /// Writes it whole, behind what is to be said of those before.
    fn try_write(&mut self, message: &[u8]) -> io::Result<()> {
        if let Some(why) = &self.why {
            // The first of them may have begun a line.
            let count = self.lost;
            let said = format!("\nmessages lost here: {count} ({why})\n");
            self.to.write_all(said.as_bytes())?;
            (self.lost, self.why) = (0, None);
        }
        self.to.write_all(message)
    }
}

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        if let Err(why) = self.try_write(message) {
            self.lost += 1;
            self.why = Some(why);
        }
        // Nobody is to try again: it may have been written in part.
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with so much room.
    struct Disk {
        room: usize,
        written: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.len().min(self.room);
            if fits == 0 {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.room -= fits;
            self.written.extend(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_lost_is_counted_and_said_when_there_is_room_again() {
        let disk = Disk {
            room: 8,
            written: Vec::new(),
        };
        let mut log = Lossy::new(disk);
        for message in ["first\n", "second\n", "third\n"] {
            log.write_all(message.as_bytes()).unwrap();
        }
        log.to.room = 1000;
        for message in ["fourth\n", "fifth\n"] {
            log.write_all(message.as_bytes()).unwrap();
        }
        let written = String::from_utf8(log.to.written).unwrap();
        let why = io::Error::from(io::ErrorKind::StorageFull);
        let said = format!("first\nse\nmessages lost here: 2 ({why})\nfourth\nfifth\n");
        assert_eq!(written, said);
    }

    /// They are said once more then.
    #[test]
    fn what_is_said_of_those_that_were_lost_may_be_lost() {
        let disk = Disk {
            room: 0,
            written: Vec::new(),
        };
        let mut log = Lossy::new(disk);
        for room in [0, 5, 0, 1000] {
            log.to.room = room;
            log.write_all(b"a message\n").unwrap();
        }
        let written = String::from_utf8(log.to.written).unwrap();
        assert!(written.ends_with("a message\n"), "{written}");
        assert!(written.contains("messages lost here: 3 "), "{written}");
    }
}

//! Where our own messages go.

use hotvisor_vmm::isolation;
use hotvisor_vmm::stream::{self, open_unblocking};
use hotvisor_vmm::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tracing::Level;

/// A log file, and whether we made it.
pub(super) struct LogFile {
    path: PathBuf,
    created: bool,
}

impl LogFile {
    /// Removes the file if nothing was there before: a run that was refused leaves nothing behind.
    pub(super) fn undo(&self) {
        if self.created {
            // Gone already is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Sends messages to `file`, or else to standard error. `verbosity` counts `-v`.
pub(super) fn start(verbosity: u8, file: Option<&Path>) -> Result<Option<LogFile>> {
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
        let ansi = std::io::stderr().is_terminal();
        // One that never blocks: a reader of our messages that stalls must not hold up a machine. What it
        // does not take is lost, and so is what cannot be written at all.
        builder
            .with_ansi(ansi)
            .with_writer(Mutex::new(stream::stderr()?))
            .init();
        return Ok(None);
    };
    let (opened, created) = open(path).map_err(|e| {
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
        .with_writer(Mutex::new(opened))
        .init();
    Ok(Some(LogFile {
        path: path.to_owned(),
        created,
    }))
}

/// Opens for appending; says whether the file is new.
fn open(path: &Path) -> std::io::Result<(File, bool)> {
    match open_unblocking(OpenOptions::new().append(true).create_new(true), path) {
        Ok(file) => Ok((file, true)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok((
            open_unblocking(OpenOptions::new().append(true), path)?,
            false,
        )),
        Err(e) => Err(e),
    }
}

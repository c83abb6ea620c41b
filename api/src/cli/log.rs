//! Where our own messages go.

use hotvisor_vmm::isolation;
use hotvisor_vmm::stream::{self, NewFile, open_or_make};
use hotvisor_vmm::{Error, Result};
use std::fs::OpenOptions;
use std::io::IsTerminal;
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
        let ansi = std::io::stderr().is_terminal();
        // One that never blocks: a reader of our messages that stalls must not hold up a machine. What it
        // does not take is lost, and so is what cannot be written at all.
        builder
            .with_ansi(ansi)
            .with_writer(Mutex::new(stream::stderr()?))
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
        .with_writer(Mutex::new(opened))
        .init();
    Ok(made)
}

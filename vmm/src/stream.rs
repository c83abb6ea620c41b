//! Files and standard streams that never make a thread of ours wait.

use crate::error::{Error, Result};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Something to read from.
pub trait Source: Read + AsFd + Send {}
impl<T: Read + AsFd + Send> Source for T {}

/// Something to write to.
pub trait Target: Write + AsFd + Send {}
impl<T: Write + AsFd + Send> Target for T {}

/// Whether `fd` becomes ready for `events` within `limit`.
pub fn wait_ready(fd: &impl AsFd, events: PollFlags, limit: Duration) -> bool {
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(fd.as_fd(), events)];
    poll(&mut fds, limit).is_ok_and(|ready| ready > 0)
}

fn own(fd: &impl AsFd, asked: &str) -> Result<File> {
    let owned = fd.as_fd().try_clone_to_owned().map_err(|e| {
        Error::input(
            asked,
            e,
            "leave the standard streams open, or use serial file=PATH",
        )
    })?;
    Ok(File::from(owned))
}

/// Standard input, as a descriptor of our own.
///
/// # Errors
/// [`Error::Input`] where there is none.
pub fn stdin() -> Result<File> {
    own(&io::stdin(), "serial tty: standard input")
}

/// Standard output, written to without ever waiting.
///
/// # Errors
/// [`Error::Input`] where there is none.
pub fn stdout() -> Result<Box<dyn Target>> {
    unblocking(own(&io::stdout(), "serial tty: standard output")?)
}

/// Standard error, written to without ever waiting.
///
/// # Errors
/// [`Error::Input`] where there is none.
pub fn stderr() -> Result<Box<dyn Target>> {
    unblocking(own(&io::stderr(), "standard error")?)
}

/// The same stream such that a write never blocks, where that can be had without changing the descriptor
/// that we share with whoever started us: terminals and pipes are opened once more by their name in /proc,
/// sockets are asked before each write. Regular files do not block.
fn unblocking(shared: File) -> Result<Box<dyn Target>> {
    let kind = shared
        .metadata()
        .map_err(|e| Error::input("a standard stream", e, "redirect it into a file"))?;
    let kind = kind.file_type();
    if kind.is_socket() {
        return Ok(Box::new(Asked(shared)));
    }
    if !kind.is_fifo() && !kind.is_char_device() {
        return Ok(Box::new(shared));
    }
    let name = format!("/proc/self/fd/{}", shared.as_raw_fd());
    Ok(
        match open_unblocking(OpenOptions::new().write(true), Path::new(&name)) {
            Ok(own) => Box::new(own),
            // No /proc, or another user's terminal.
            Err(_) => Box::new(Asked(shared)),
        },
    )
}

/// Opens such that neither opening nor reading nor writing waits for somebody at the other end, as of a FIFO.
/// Regular files are not changed by this.
///
/// # Errors
/// The kernel's.
pub fn open_unblocking(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
}

/// A file that was not there before.
#[derive(Debug)]
pub struct NewFile(PathBuf);

impl NewFile {
    /// Removes it again: what was refused leaves nothing behind.
    pub fn undo(&self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }

    /// The same, unless something has been written into it.
    pub fn undo_if_empty(&self) {
        if self.0.symlink_metadata().is_ok_and(|file| file.len() == 0) {
            self.undo();
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// The same for writing, or appending as `options` have it; a file that is not there is made.
///
/// # Errors
/// The kernel's.
pub fn open_or_make(options: &OpenOptions, path: &Path) -> io::Result<(File, Option<NewFile>)> {
    match open_unblocking(options.clone().create_new(true), path) {
        Ok(file) => Ok((file, Some(NewFile(path.to_owned())))),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let opened = match open_unblocking(&mut options.clone(), path) {
                // A link that leads to a file that is not there yet.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    open_unblocking(options.clone().create(true), path)
                }
                opened => opened,
            };
            Ok((opened?, None))
        }
        Err(e) => Err(e),
    }
}

/// A descriptor that would block and must stay as it is: it is asked before each write, and given little.
struct Asked(File);

impl Write for Asked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const LITTLE: usize = 256;
        if !wait_ready(&self.0, PollFlags::POLLOUT, Duration::ZERO) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.write(&bytes[..bytes.len().min(LITTLE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl AsFd for Asked {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

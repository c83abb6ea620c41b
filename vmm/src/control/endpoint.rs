//! What the console reads from and writes to: standard streams that never block us, files, sockets.

use crate::error::{Error, Result};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Something to read from.
pub(super) trait Source: Read + AsFd + Send {}
impl<T: Read + AsFd + Send> Source for T {}

/// Something to write to.
pub(super) trait Target: Write + AsFd + Send {}
impl<T: Write + AsFd + Send> Target for T {}

/// Whether `fd` becomes ready for `events` within `limit`.
pub(super) fn wait_ready(fd: &impl AsFd, events: PollFlags, limit: Duration) -> bool {
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(fd.as_fd(), events)];
    poll(&mut fds, limit).is_ok_and(|ready| ready > 0)
}

fn own(fd: &impl AsFd, asked: &str) -> Result<File> {
    let owned = fd.as_fd().try_clone_to_owned().map_err(|e| {
        Error::input(
            asked,
            e,
            "leave the standard streams open, or use --serial file=PATH",
        )
    })?;
    Ok(File::from(owned))
}

/// Standard input, as a descriptor of our own.
pub(super) fn stdin() -> Result<File> {
    own(&io::stdin(), "--serial tty: standard input")
}

/// Standard output, such that a write never blocks where that can be had without changing the descriptor
/// that we share with whoever started us: terminals and pipes are opened once more by their name in /proc,
/// sockets are asked before each write. Regular files do not block.
pub(super) fn stdout() -> Result<Box<dyn Target>> {
    let shared = own(&io::stdout(), "--serial tty: standard output")?;
    let kind = shared.metadata().map_err(|e| {
        Error::input(
            "--serial tty: standard output",
            e,
            "use --serial file=PATH instead",
        )
    })?;
    let kind = kind.file_type();
    if kind.is_socket() {
        return Ok(Box::new(Asked(shared)));
    }
    if !kind.is_fifo() && !kind.is_char_device() {
        return Ok(Box::new(shared));
    }
    let reopened = OpenOptions::new()
        .write(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(format!("/proc/self/fd/{}", shared.as_raw_fd()));
    Ok(match reopened {
        Ok(own) => Box::new(own),
        // No /proc, or another user's terminal.
        Err(_) => Box::new(Asked(shared)),
    })
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

/// Listens on a Unix socket at `path`. One that nobody listens on any more is replaced.
///
/// # Errors
/// [`Error::Input`] where something else has that name, where somebody listens there, or where the folder
/// cannot be used.
pub(super) fn listen(path: &Path) -> Result<UnixListener> {
    let asked = format!("--serial socket={}", path.display());
    if let Ok(metadata) = path.symlink_metadata() {
        if !metadata.file_type().is_socket() {
            let remedy = "name a path that is free, or remove what is there";
            return Err(Error::input(
                asked,
                "something that is no socket has that name",
                remedy,
            ));
        }
        if UnixStream::connect(path).is_ok() {
            let remedy = "name another path, or end the process that uses it";
            return Err(Error::input(
                asked,
                "somebody listens there already",
                remedy,
            ));
        }
        std::fs::remove_file(path)
            .map_err(|e| Error::input(&asked, e, "remove the stale socket, or name another"))?;
    }
    let listener = UnixListener::bind(path).map_err(|e| {
        Error::input(
            &asked,
            e,
            "name a path in a folder that exists and may be written",
        )
    })?;
    listener
        .set_nonblocking(true)
        .map_err(|e| Error::host(&asked, e, "report this bug in Hotvisor"))?;
    Ok(listener)
}

//! Socket files: made so that nobody but their owner can ever connect, and removed with whoever made them.

pub mod inherited;

use crate::error::{Error, FILES, Result};
use crate::isolation::confinement;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket file of ours. Dropping it removes the file, unless somebody has put another in its place. To be
/// dropped before the listener is: a socket that nobody listens on any more may be replaced, by one that may get
/// the same inode.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, which no other file has while this one is there.
    identity: (u64, u64),
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl SocketFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = self.path.symlink_metadata();
        if there.is_ok_and(|metadata| identity(&metadata) == self.identity) {
            // A folder that may not be written any more keeps a stale socket, which the next run replaces.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn stream() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Connects to whoever listens at `path`, without ever blocking.
///
/// # Errors
/// The kernel's: [`io::ErrorKind::WouldBlock`] where too many wait there already.
pub fn connect_to(path: &Path) -> io::Result<UnixStream> {
    let socket = stream()?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// What becomes of a socket that nobody listens on any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Another takes its place.
    Replaced,
    /// It stays: who asks may not try whether somebody listens, because he may not connect to anybody.
    Kept,
}

/// Whether nobody listens on `address`. Nothing but a refusal tells so: a socket of another type or user may be
/// in use, and one whose queue is full is.
fn is_stale(address: &UnixAddr) -> nix::Result<bool> {
    match connect(stream()?.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => Ok(true),
        Ok(()) | Err(Errno::EAGAIN) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Takes a socket away that nobody listens on any more, if there is one at `path`.
fn make_room(asked: &str, path: &Path, address: &UnixAddr, stale: Stale) -> Result<()> {
    let refuse =
        |found: &dyn std::fmt::Display, remedy: &str| Err(Error::input(asked, found, remedy));
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        let remedy = "name a path that is free, or remove what is there";
        return refuse(&"something that is no socket has that name", remedy);
    }
    if stale == Stale::Kept {
        let remedy = "name another path, or remove that socket if nobody listens there any more";
        return refuse(&"a socket has that name", remedy);
    }
    match is_stale(address) {
        Ok(true) => {}
        Ok(false) => {
            let remedy = "name another path, or end the process that uses it";
            return refuse(&"somebody listens there already", remedy);
        }
        Err(errno) => {
            let remedy = "name another path; what is there is no stale socket of ours";
            return refuse(&errno.desc(), remedy);
        }
    }
    std::fs::remove_file(path).or_else(|e| {
        let usual = "remove the stale socket, or name another path";
        refuse(&e, &confinement::remedy(&e, usual))
    })
}

/// Listens at `path`, with mode 0600, and without ever blocking. `option` is how the path was asked for, up to the
/// path itself; `stale` is for a socket that nobody listens on any more.
///
/// # Errors
/// [`Error::Input`] where something else has that name, where somebody listens there or, with [`Stale::Kept`], might,
/// or where the path cannot be used.
pub fn bind_at(option: &str, path: &Path, stale: Stale) -> Result<(UnixListener, SocketFile)> {
    let asked = format!("{option}{}", path.display());
    let refuse =
        |found: &dyn std::fmt::Display, remedy: &str| Err(Error::input(&asked, found, remedy));
    if path.as_os_str().is_empty() {
        // The kernel would take it for "any free abstract name".
        return refuse(&"no path", "name one, as /run/vm.sock");
    }
    let Ok(address) = UnixAddr::new(path) else {
        let remedy = "name a path of at most 107 bytes";
        return refuse(&"too long for a socket's address", remedy);
    };
    make_room(&asked, path, &address, stale)?;
    let listener = stream().map_err(|e| Error::host(&asked, e.desc(), FILES))?;
    // Before it has a name: Linux gives the name the mode of the descriptor, so that the file is at no moment
    // open to others, whatever the umask is.
    fchmod(&listener, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| Error::bug(&asked, e.desc()))?;
    if let Err(errno) = bind(listener.as_raw_fd(), &address) {
        let usual = "name a path in a folder that exists and may be written";
        return refuse(&errno.desc(), &confinement::remedy(&errno.into(), usual));
    }
    let metadata = path.symlink_metadata();
    let metadata = metadata.map_err(|e| Error::host(&asked, e, "leave the socket alone"))?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(&metadata),
    };
    let backlog = Backlog::new(BACKLOG).map_err(|e| Error::bug(&asked, e.desc()))?;
    listen(&listener, backlog).map_err(|e| Error::bug(&asked, e.desc()))?;
    Ok((UnixListener::from(listener), file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixDatagram;

    const OPTION: &str = "--api-socket ";

    fn refused(path: &Path) -> String {
        match bind_at(OPTION, path, Stale::Replaced) {
            Err(Error::Input(problem)) => problem.to_string(),
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    #[test]
    fn only_the_owner_may_connect_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let (listener, file) = bind_at(OPTION, &path, Stale::Replaced).unwrap();
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(listener);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_listener, _file) = bind_at(OPTION, &path, Stale::Replaced).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_stale_socket_stays_where_nobody_may_try() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial");
        drop(UnixListener::bind(&path).unwrap());
        let said = bind_at(OPTION, &path, Stale::Kept).unwrap_err().to_string();
        assert!(said.contains("a socket has that name; name another path, or remove"));
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        let (_listener, _file) = bind_at(OPTION, &path, Stale::Kept).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_somebody_else_has_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let (_listener, file) = bind_at(OPTION, &path, Stale::Replaced).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn bad_paths() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("text"), "kept").unwrap();
        let _in_use = UnixListener::bind(at("in-use")).unwrap();
        let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
        let cases = [
            (at("text"), "something that is no socket"),
            (dir.path().to_owned(), "something that is no socket"),
            (at("in-use"), "somebody listens there already"),
            (at("datagrams"), "no stale socket of ours"),
            (at("nowhere/api"), "No such file"),
            (at(&"x".repeat(120)), "too long"),
            (PathBuf::new(), "no path"),
        ];
        for (path, words) in cases {
            let said = refused(&path);
            assert!(said.starts_with(OPTION), "{said}");
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(fs::read(at("text")).unwrap(), b"kept");
        UnixStream::connect(at("in-use")).unwrap();
    }
}

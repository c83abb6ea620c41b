//! A listening socket that whoever started this process has left open for it, as systemd does.
#![allow(
    unsafe_code,
    reason = "to own a descriptor that is known by nothing but its number"
)]

use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::sockopt::{AcceptConn, SockType};
use nix::sys::socket::{self, UnixAddr, getsockname, getsockopt};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

/// The first descriptor that is not one of the standard streams.
const FIRST: RawFd = 3;

/// What can be done about a descriptor that will not do.
const REMEDY: &str =
    "pass a listening Unix stream socket under that number (systemd's first is 3), or name a path";

/// Takes over the descriptor `number`, which must be a listening Unix stream socket. It is no longer passed on
/// to other programs, and no longer blocks, neither here nor where else it is open. Its file, if it has one, is
/// not ours. `asked` is how it was asked for.
///
/// # Errors
/// [`Error::Input`] where it is anything else. It is closed then, if it was passed to this process.
pub fn take(asked: &str, number: RawFd) -> Result<UnixListener> {
    let refuse = |found: &str| Err(Error::input(asked, found, REMEDY));
    if number < FIRST {
        return refuse("that is a standard stream, or none");
    }
    // SAFETY: asks for a flag of whatever has this number, and passes no memory.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if Errno::result(flags).is_err() {
        return refuse("no such descriptor is open");
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return refuse("that is a descriptor of Hotvisor's own");
    }
    // SAFETY: it is open, and nothing in this process owns it: it was here when the program started, for
    // whatever is opened since then, by us or by the standard library, is opened to be closed by the next exec,
    // which it is not. It was not taken before either: that sets the same flag, below, in all cases but those
    // in which it is closed.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    match getsockopt(&descriptor, SockType) {
        Ok(socket::SockType::Stream) => {}
        Ok(_) => return refuse("that socket is no stream"),
        Err(_) => return refuse("that is no socket"),
    }
    if getsockname::<UnixAddr>(descriptor.as_raw_fd()).is_err() {
        return refuse("that is no Unix socket");
    }
    if getsockopt(&descriptor, AcceptConn) != Ok(true) {
        return refuse("that socket does not listen");
    }
    let listener = fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(std::io::Error::from)
        .map(|_| UnixListener::from(descriptor))
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|e| Error::bug(asked, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    /// As it is in a process that was started with it.
    fn passed(descriptor: impl Into<OwnedFd>) -> RawFd {
        let descriptor = descriptor.into();
        fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        descriptor.into_raw_fd()
    }

    fn refused(number: RawFd) -> String {
        match take("--api-socket fd=N", number) {
            Err(Error::Input(problem)) => problem.to_string(),
            other => panic!("{number}: {other:?}"),
        }
    }

    #[test]
    fn a_listening_socket_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let number = passed(UnixListener::bind(&path).unwrap());
        let listener = take("--api-socket fd=N", number).unwrap();
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
        let _client = UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        let flags = fcntl(&listener, FcntlArg::F_GETFD).unwrap();
        assert_eq!(FdFlag::from_bits_truncate(flags), FdFlag::FD_CLOEXEC);
        assert!(refused(number).contains("of Hotvisor's own"));
        listener.accept().unwrap_err();
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn an_abstract_socket_will_do() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("hotvisor-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        let number = passed(UnixListener::bind_addr(&address).unwrap());
        take("--api-socket fd=N", number).unwrap();
    }

    #[test]
    fn whatever_else_it_is_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        let cases = [
            (-1, "a standard stream, or none"),
            (0, "a standard stream"),
            (2, "a standard stream"),
            (RawFd::MAX, "no such descriptor is open"),
            (passed(File::open("/dev/null").unwrap()), "no socket"),
            (passed(UnixDatagram::unbound().unwrap()), "no stream"),
            (passed(stream), "does not listen"),
            (
                passed(TcpListener::bind("127.0.0.1:0").unwrap()),
                "no Unix socket",
            ),
        ];
        for (number, words) in cases {
            let said = refused(number);
            assert!(said.contains(words), "{words}: {said}");
        }
        let ours = UnixListener::bind(dir.path().join("api")).unwrap();
        assert!(refused(ours.as_raw_fd()).contains("of Hotvisor's own"));
        ours.set_nonblocking(true).unwrap();
        assert_eq!(
            ours.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
    }
}

//! What a client says first: `CONNECT PORT` and a newline, as Firecracker has it.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

/// How long a client may take to say it; somebody may type it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The longest one, with its newline.
const MOST: usize = "CONNECT 4294967295\r\n".len();
/// The port that means "any", and is nobody's.
const ANY: u32 = u32::MAX;

/// A client that has not said yet where it wants to go.
pub(super) struct Greeting<S> {
    stream: S,
    line: Vec<u8>,
    pub(super) by: Instant,
}

/// What has become of it.
pub(super) enum Said<S> {
    /// Not all of it yet.
    Waits(Greeting<S>),
    /// The port of the guest's that it wants to go to.
    Port(S, u32),
    /// Something else, or it is gone.
    Nothing,
}

impl<S: Read> Greeting<S> {
    pub(super) fn new(stream: S, now: Instant) -> Self {
        Self {
            stream,
            line: Vec::new(),
            by: now + PATIENCE,
        }
    }

    /// Reads what has come, byte by byte: what follows the line is the guest's.
    pub(super) fn hear(mut self) -> Said<S> {
        let mut byte = [0];
        while self.line.len() < MOST {
            match self.stream.read(&mut byte) {
                Ok(0) => return Said::Nothing,
                Ok(_) => self.line.extend(byte),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Said::Waits(self),
                Err(_) => return Said::Nothing,
            }
            if byte == *b"\n" {
                return match port(&self.line) {
                    Some(port) => Said::Port(self.stream, port),
                    None => Said::Nothing,
                };
            }
        }
        Said::Nothing
    }
}

/// The port of a whole line.
fn port(line: &[u8]) -> Option<u32> {
    let text = str::from_utf8(line).ok()?.trim_end_matches(['\r', '\n']);
    let (word, port) = text.split_once(' ')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|&port| digits && port != ANY)?;
    word.eq_ignore_ascii_case("connect").then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, Greeting<UnixStream>) {
        let (client, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (client, Greeting::new(ours, Instant::now()))
    }

    #[test]
    fn it_may_come_in_pieces_and_what_follows_is_left() {
        let (mut client, mut greeting) = pair();
        for piece in ["CON", "NECT 50", "00"] {
            client.write_all(piece.as_bytes()).unwrap();
            greeting = match greeting.hear() {
                Said::Waits(greeting) => greeting,
                Said::Port(..) | Said::Nothing => panic!("{piece} is not all"),
            };
        }
        client.write_all(b"\nfor the guest").unwrap();
        let Said::Port(mut stream, port) = greeting.hear() else {
            panic!("that is all");
        };
        assert_eq!(port, 5000);
        let mut rest = [0; 13];
        stream.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"for the guest");
    }

    #[test]
    fn spellings() {
        let cases: [(&[u8], Option<u32>); 14] = [
            (b"CONNECT 0\n", Some(0)),
            (b"connect 22\n", Some(22)),
            (b"CONNECT 4294967294\r\n", Some(u32::MAX - 1)),
            (b"CONNECT 4294967295\n", None),
            (b"CONNECT 4294967296\n", None),
            (b"CONNECT -1\n", None),
            (b"CONNECT +1\n", None),
            (b"CONNECT \n", None),
            (b"CONNECT 1 2\n", None),
            (b"CONNECT  1\n", None),
            (b"GET / HTTP/1.1\r\n", None),
            (b"\n", None),
            (b"\xff 1\n", None),
            (b"CONNECT 00000000000000000001\n", None),
        ];
        for (line, expected) in cases {
            let (mut client, greeting) = pair();
            client.write_all(line).unwrap();
            let port = match greeting.hear() {
                Said::Port(_, port) => Some(port),
                Said::Nothing => None,
                Said::Waits(_) => panic!("{line:?} is a whole line, or too long"),
            };
            assert_eq!(port, expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn one_that_is_gone() {
        let (client, greeting) = pair();
        drop(client);
        assert!(matches!(greeting.hear(), Said::Nothing));
    }
}

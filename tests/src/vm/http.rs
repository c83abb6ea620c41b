//! Requests over a Unix socket, and their answers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The most headers that an answer may have.
const HEADERS: usize = 32;

/// What a server answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body; `null` if there is none, and a string if it is text.
    pub body: Value,
}

/// A connection, for one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    pub(super) fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("nobody listens at {}", socket.display()))?;
        Ok(Self { stream })
    }

    /// Sends one request, and waits for the whole answer.
    pub(super) fn request(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: hotvisor\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.set_write_timeout(Some(patience))?;
        self.stream.write_all((head + &body).as_bytes())?;
        self.answer(patience)
            .with_context(|| format!("no whole answer to {method} {path}"))
    }

    fn answer(&mut self, patience: Duration) -> Result<Answer> {
        let end = Instant::now() + patience;
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if let Some(answer) = parse(&bytes).with_context(|| said(&bytes))? {
                return Ok(answer);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited {patience:?}; there came {:?}", said(&bytes));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the other end closed; there came {:?}", said(&bytes)),
                Ok(length) => bytes.extend_from_slice(&buffer[..length]),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock
                            | std::io::ErrorKind::TimedOut
                            | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The answer that `bytes` are, or nothing where they are its begin.
fn parse(bytes: &[u8]) -> Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(bytes)? else {
        return Ok(None);
    };
    let status = head.code.context("no status")?;
    let header = |name: &str| {
        let mut all = head.headers.iter();
        all.find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    if let Some(encoding) = header("transfer-encoding") {
        bail!("the body is encoded as {encoding}, and only plain bodies are read here");
    }
    let length: usize = match header("content-length") {
        Some(length) => length.parse().context("a bad Content-Length")?,
        None if status == 204 => 0,
        None => bail!("the answer does not say how long it is"),
    };
    let body = &bytes[start..];
    if body.len() < length {
        return Ok(None);
    }
    ensure!(
        body.len() == length,
        "the body has {} of {length} bytes",
        body.len()
    );
    Ok(Some(Answer {
        status,
        body: match body {
            [] => Value::Null,
            text if header("content-type").is_some_and(|kind| kind.starts_with("text/plain")) => {
                std::str::from_utf8(text)?.into()
            }
            _ => serde_json::from_slice(body).context("the body is not JSON")?,
        },
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::json;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_request_arrives_whole_and_its_answer_comes_back_from_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let mut length = 0;
            while !request[..length].ends_with(b"{\"desired\":3}") {
                length += stream.read(&mut request[length..]).unwrap();
            }
            for piece in [
                "HTTP/1.1 202 Acc",
                "epted\r\ncontent-length: 8\r\n\r\n{\"id\"",
                ":7}",
            ] {
                stream.write_all(piece.as_bytes()).unwrap();
            }
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let body = json!({"desired": 3});
        let mut connection = Connection::open(&socket).unwrap();
        let answer = connection.request("PUT", "/x?wait=1", Some(&body), PATIENCE);
        assert_eq!(
            answer.unwrap(),
            Answer {
                status: 202,
                body: json!({"id": 7})
            }
        );
        let request = server.join().unwrap();
        assert!(
            request.starts_with("PUT /x?wait=1 HTTP/1.1\r\n"),
            "{request}"
        );
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for (bytes, expected) in [
            (
                &b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}"[..],
                "2 of 1",
            ),
            (b"HTTP/1.1 200 OK\r\n\r\n{}", "how long"),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
                "chunked",
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
                "not JSON",
            ),
        ] {
            let error = parse(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let empty = parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!(empty.body, Value::Null);
    }

    /// Listens, and has `say` said to whoever asks; the error of who waits for more than that.
    fn error_after(say: &'static [u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut connection = Connection::open(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert_ne!(stream.read(&mut [0; 4096]).unwrap(), 0);
            stream.write_all(say).unwrap();
        });
        let answer = connection.request("GET", "/x", None, PATIENCE);
        server.join().unwrap();
        format!("{:#}", answer.unwrap_err())
    }

    #[test]
    fn an_answer_that_is_cut_short_is_an_error() {
        for say in [
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
        ] {
            let error = error_after(say);
            assert!(error.contains("the other end closed"), "{error}");
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_not_waited_for_beyond_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api");
        let _listener = UnixListener::bind(&socket).unwrap();
        let patience = Duration::from_millis(10);
        let mut connection = Connection::open(&socket).unwrap();
        let answer = connection.request("GET", "/x", None, patience);
        let error = format!("{:#}", answer.unwrap_err());
        assert!(error.contains("waited 10ms"), "{error}");
    }
}

//! One request over a Unix socket, and its answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The most headers that an answer may have.
const HEADERS: usize = 32;

/// What a server answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body; `null` if there is none.
    pub body: Value,
}

/// Sends one request on a connection of its own, and waits for the whole answer.
pub(super) fn request(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Answer> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("nobody listens at {}", socket.display()))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: hotvisor\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.set_write_timeout(Some(patience))?;
    stream.write_all((head + &body).as_bytes())?;
    let bytes = read_to_end(&mut stream, patience)
        .with_context(|| format!("no whole answer to {method} {path}"))?;
    parse(&bytes).with_context(|| {
        let answer = String::from_utf8_lossy(&bytes);
        format!("{method} {path} was answered by\n{answer}")
    })
}

/// All that comes until the other end closes.
fn read_to_end(stream: &mut UnixStream, patience: Duration) -> Result<Vec<u8>> {
    let end = Instant::now() + patience;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!(
                "the other end did not close within {patience:?}; it sent {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
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

fn parse(bytes: &[u8]) -> Result<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(bytes)? else {
        bail!("the answer ends in its head");
    };
    let header = |name: &str| {
        let mut all = head.headers.iter();
        all.find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    if let Some(encoding) = header("transfer-encoding") {
        bail!("the body is encoded as {encoding}, and only plain bodies are read here");
    }
    let body = &bytes[start..];
    if let Some(length) = header("content-length") {
        let length: usize = length.parse().context("a bad Content-Length")?;
        if body.len() != length {
            bail!("the body has {} of {length} bytes", body.len());
        }
    }
    Ok(Answer {
        status: head.code.context("no status")?,
        body: match body {
            [] => Value::Null,
            _ => serde_json::from_slice(body).context("the body is not JSON")?,
        },
    })
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
        let answer = request(&socket, "PUT", "/x?wait=1", Some(&body), PATIENCE).unwrap();
        assert_eq!(
            answer,
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
            (&b"HTTP/1.1 200 OK\r\n"[..], "ends in its head"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}", "2 of 3"),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
                "chunked",
            ),
            (b"HTTP/1.1 200 OK\r\n\r\nhello", "not JSON"),
        ] {
            let error = parse(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let empty = parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        assert_eq!(empty.body, Value::Null);
    }

    #[test]
    fn a_server_that_says_nothing_is_not_waited_for_beyond_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api");
        let _listener = UnixListener::bind(&socket).unwrap();
        let patience = Duration::from_millis(10);
        let error = request(&socket, "GET", "/x", None, patience).unwrap_err();
        assert!(format!("{error:#}").contains("did not close"), "{error:#}");
    }
}

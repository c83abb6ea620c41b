//! Requests to a VMM's API: HTTP/1.1 over a Unix socket, one request a connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::builder::api_socket;
use super::{SOON, Vm};

/// Time for an answer; a request may ask the server to wait for part of it.
const ANSWER: Duration = Duration::from_secs(90);

/// An answer of the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The `Location` header, or nothing.
    pub location: Option<String>,
    /// The body; null if there is none.
    pub body: Value,
}

impl Vm {
    /// Asks the API, which the VM was built with, for something.
    ///
    /// # Errors
    /// It does not answer, or not with JSON.
    pub fn http(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let what = || self.evidence(format!("{method} {path} has no good answer"));
        self.ask(method, path, body).with_context(what)
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let socket = api_socket(self.folder.path());
        let mut stream = UnixStream::connect(&socket)
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER))?;
        let body = body.map_or(String::new(), Value::to_string);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        parse(&answer)
    }

    /// Waits until something holds that only asking again can tell.
    ///
    /// # Errors
    /// It does not hold within [`SOON`]; or asking failed.
    pub fn wait_until(&self, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + SOON;
        while !holds()? {
            ensure!(
                Instant::now() < end,
                self.evidence(format!("waited {SOON:?} for {what}"))
            );
        }
        Ok(())
    }
}

fn parse(answer: &str) -> Result<Answer> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the headers")?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .context("no status")?;
    let location = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location")
            .then(|| value.trim().to_owned())
    });
    Ok(Answer {
        status: status.parse()?,
        location,
        body: if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(body)?
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let text = "HTTP/1.1 202 Accepted\r\nlocation: /x/1\r\n\r\n{\"id\":1}";
        let answer = parse(text).unwrap();
        assert_eq!(
            (answer.status, answer.location.as_deref()),
            (202, Some("/x/1"))
        );
        assert_eq!(answer.body["id"], 1);
        assert!(parse("HTTP/1.1 200 OK").is_err());
    }
}

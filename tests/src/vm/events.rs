//! Follows the API's events, as a client of server-sent events does.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::SOON;

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    stream: BufReader<UnixStream>,
    /// What was taken out of the body's chunks and is no whole block yet.
    text: String,
    /// Id of the last event, or where the stream began.
    last: u64,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number.
    pub id: u64,
    /// `phase`, `operation`, `machine` or `gap`.
    pub kind: String,
    /// What happened.
    pub data: Value,
}

impl Events {
    /// Follows from now on, or from after the event with an id.
    ///
    /// # Errors
    /// The answer is not a stream that begins there.
    pub fn open(socket: &Path, after: Option<u64>) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("nobody listens at {}", socket.display()))?;
        stream.set_read_timeout(Some(SOON))?;
        let after = after.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: hotvisor\r\n{after}\r\n");
        (&stream).write_all(request.as_bytes())?;
        let mut events = Self {
            stream: BufReader::new(stream),
            text: String::new(),
            last: 0,
        };
        let status = events.line()?;
        while !events.line()?.is_empty() {}
        ensure!(status == "HTTP/1.1 200 OK", "the events gave {status:?}");
        let begin = events.block()?.context("the stream ended at once")?;
        let begin = begin.strip_prefix("id: ").and_then(|id| id.parse().ok());
        events.last = begin.context("the stream does not say where it begins")?;
        Ok(events)
    }

    /// Id of the last event that was read, or of the one after which the stream began.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The next event; nothing when the stream has ended as it should.
    ///
    /// # Errors
    /// None comes in time, it is none, or its id does not follow.
    pub fn read(&mut self) -> Result<Option<Event>> {
        loop {
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            // A heartbeat.
            if block.starts_with(':') {
                continue;
            }
            let event = parse(&block).with_context(|| format!("no event: {block:?}"))?;
            let first = if event.kind == "gap" {
                event.data["first"]
                    .as_u64()
                    .context("a gap without begin")?
            } else {
                event.id
            };
            ensure!(first == self.last + 1, "after {} came {event:?}", self.last);
            self.last = event.id;
            return Ok(Some(event));
        }
    }

    /// All events up to one that is so, that one included.
    ///
    /// # Errors
    /// It does not come in time, or something else comes that must not.
    pub fn until(&mut self, last: impl Fn(&Event) -> bool) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            let event = self.read().with_context(|| format!("after {events:#?}"))?;
            let event = event.with_context(|| format!("the stream ended after {events:#?}"))?;
            events.push(event);
            if events.last().is_some_and(&last) {
                return Ok(events);
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|error| {
            let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            let error = anyhow::Error::from(error);
            if late {
                error.context(format!("waited {SOON:?} for an event"))
            } else {
                error
            }
        })?;
        Ok(line.trim_end().to_owned())
    }

    /// The next block of lines; nothing at the end of the last chunk.
    fn block(&mut self) -> Result<Option<String>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Ok(Some(block));
            }
            let size = self.line()?;
            let size = usize::from_str_radix(&size, 16)
                .with_context(|| format!("{size:?} is no size of a chunk"))?;
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk)?;
            if size == 0 {
                ensure!(self.text.is_empty(), "it ended within {:?}", self.text);
                return Ok(None);
            }
            self.text += std::str::from_utf8(&chunk[..size])?;
        }
    }
}

fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
    Some(Event {
        id: field("id: ")?.parse().ok()?,
        kind: field("event: ")?.to_owned(),
        data: serde_json::from_str(field("data: ")?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_as_the_api_writes_it() {
        let block = "id: 7\nevent: machine\ndata: {\"at\":\"x\",\"state\":\"paused\"}";
        let event = parse(block).unwrap();
        assert_eq!((event.id, &*event.kind), (7, "machine"));
        assert_eq!(event.data["state"], "paused");
        assert_eq!(parse("event: machine\ndata: {}"), None);
        assert_eq!(parse("id: 7\nevent: machine\ndata: {"), None);
    }
}

//! Server-sent events, out of bytes that come in pieces of any size (WHATWG HTML, section 9.2.6).

use std::collections::VecDeque;

/// Longest event. The longest that makes sense is an operation on 1,024 vCPUs, each with a sentence.
const LONGEST: usize = 4 << 20;

/// One event as it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The last id that the stream has named so far.
    pub(crate) id: Option<u64>,
    /// Its kind; `message` where none was named.
    pub(crate) kind: String,
    /// What it carries.
    pub(crate) data: String,
}

/// What cannot be an event of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endless;

/// Takes bytes, gives events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// The line that is not at its end yet.
    line: Vec<u8>,
    /// A carriage return ended the last line: a line feed now belongs to it.
    returned: bool,
    /// Whether a line has ended already; only the first may begin with a byte order mark.
    begun: bool,
    id: Option<u64>,
    kind: String,
    /// The data so far, each line with its end.
    data: String,
    ready: VecDeque<Frame>,
}

impl Parser {
    /// Takes the next bytes in.
    ///
    /// # Errors
    /// [`Endless`] for an event that is longer than any can be.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Endless> {
        for &byte in bytes {
            let second = std::mem::take(&mut self.returned) && byte == b'\n';
            match byte {
                b'\n' if second => {}
                b'\r' | b'\n' => {
                    self.returned = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    self.end_line(&line);
                }
                _ if self.line.len() + self.data.len() >= LONGEST => return Err(Endless),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// The next event that is complete.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        self.ready.pop_front()
    }

    fn end_line(&mut self, line: &[u8]) {
        let mark = if self.begun { "" } else { "\u{feff}" };
        self.begun = true;
        let line = String::from_utf8_lossy(line);
        let line = line.strip_prefix(mark).unwrap_or(&line);
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            // An id that is not one of ours says nothing about where to go on.
            "id" => self.id = value.parse().ok().or(self.id),
            // A comment, the time to wait before connecting again, or what is not known yet.
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let kind = std::mem::take(&mut self.kind);
        let mut data = std::mem::take(&mut self.data);
        if data.pop().is_none() {
            return;
        }
        let kind = if kind.is_empty() {
            "message".into()
        } else {
            kind
        };
        let id = self.id;
        self.ready.push_back(Frame { id, kind, data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: impl Into<Option<u64>>, kind: &str, data: &str) -> Frame {
        Frame {
            id: id.into(),
            kind: kind.into(),
            data: data.into(),
        }
    }

    fn all(parser: &mut Parser) -> Vec<Frame> {
        std::iter::from_fn(|| parser.next()).collect()
    }

    const STREAM: &str = "\u{feff}: hello\n\nid: 1\nevent: phase\ndata: {\"é\":1}\n\n\
        id:2\r\nevent:gap\r\ndata: a\r\ndata:\r\ndata:  b\r\n\r\n\
        data: c\r\rid: 4\n\nretry: 10\nnew: x\nnothing\ndata\n\nid: x\nevent: late\ndata: d\n\nevent: cut\ndata: off";

    fn expected() -> Vec<Frame> {
        vec![
            frame(1, "phase", "{\"é\":1}"),
            frame(2, "gap", "a\n\n b"),
            frame(2, "message", "c"),
            frame(4, "message", ""),
            frame(4, "late", "d"),
        ]
    }

    #[test]
    fn events_come_whole_whatever_pieces_they_come_in() {
        let bytes = STREAM.as_bytes();
        for size in 1..=bytes.len() {
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                parser.push(piece).unwrap();
                found.extend(all(&mut parser));
            }
            assert_eq!(found, expected(), "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_is_there_as_soon_as_it_is_complete() {
        let mut parser = Parser::default();
        parser.push(b"data: a\r\n\r").unwrap();
        assert_eq!(all(&mut parser), [frame(None, "message", "a")]);
        parser.push(b"\ndata: b\n").unwrap();
        assert_eq!(parser.next(), None);
        parser.push(b"\n").unwrap();
        assert_eq!(all(&mut parser), [frame(None, "message", "b")]);
    }

    #[test]
    fn a_kind_is_for_one_event_and_an_id_for_all_after_it() {
        let mut parser = Parser::default();
        parser
            .push(b"event: x\nid: 7\n\ndata: a\n\nevent: y\ndata: b\n\n")
            .unwrap();
        assert_eq!(
            all(&mut parser),
            [frame(7, "message", "a"), frame(7, "y", "b")]
        );
    }

    #[test]
    fn an_endless_event_is_given_up() {
        let line = [b"data: ".to_vec(), vec![b'x'; LONGEST / 4], b"\n".to_vec()].concat();
        let mut parser = Parser::default();
        let found = (0..8).find(|_| parser.push(&line).is_err());
        assert_eq!(found, Some(3));
        let mut parser = Parser::default();
        assert_eq!(parser.push(&vec![b'x'; LONGEST]), Ok(()));
        assert_eq!(parser.push(b"x"), Err(Endless));
        // Comments may go on for ever, as heartbeats do.
        let mut parser = Parser::default();
        for _ in 0..LONGEST / 1024 {
            parser
                .push(&[vec![b':'; 2048], b"\n\n".to_vec()].concat())
                .unwrap();
        }
    }
}

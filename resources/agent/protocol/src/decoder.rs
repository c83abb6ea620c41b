//! From bytes to messages, in whatever pieces they come.

use std::marker::PhantomData;

use crate::LINE_MAX;
use crate::bounded::Text;
use crate::line::Line;

/// Why a line is no message. The decoder goes on with the next one; whoever is not trusted is better hung up on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not end.
    #[error("a line of more than {LINE_MAX} bytes: no message is as long")]
    Oversized,
    /// It is no JSON, or something in it is out of bounds.
    #[error("a line that is no message: {why}")]
    Malformed {
        /// What is wrong with it, and where.
        why: Text<256>,
    },
}

/// Makes messages out of the bytes of one connection. It keeps [`LINE_MAX`] bytes at most.
#[derive(Debug)]
pub struct Decoder<L> {
    /// The beginning of a line that has not ended yet.
    line: Vec<u8>,
    /// Whether the rest of the line is of one that was too long.
    skipping: bool,
    messages: PhantomData<fn() -> L>,
}

impl<L> Default for Decoder<L> {
    fn default() -> Self {
        Self {
            line: Vec::new(),
            skipping: false,
            messages: PhantomData,
        }
    }
}

impl<L: Line> Decoder<L> {
    /// One for a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, and gives the messages that are complete with them, one by one. Empty lines and messages of later
    /// versions are skipped.
    ///
    /// Bytes that nobody came to, because the iterator was dropped before its end, are lost.
    pub fn push<'a>(&'a mut self, bytes: &'a [u8]) -> Messages<'a, L> {
        Messages {
            decoder: self,
            bytes,
        }
    }

    /// Bytes that are kept, for the line that has not ended.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.line.capacity()
    }

    /// Keeps a piece of a line that has not ended.
    fn keep(&mut self, piece: &[u8]) -> Result<(), Fault> {
        if self.skipping {
            return Ok(());
        }
        let length = self.line.len() + piece.len();
        if length > LINE_MAX {
            self.line = Vec::new();
            self.skipping = true;
            return Err(Fault::Oversized);
        }
        if length > self.line.capacity() {
            // Twice as much as before, as vectors do, but never beyond the limit.
            let room = (2 * self.line.capacity()).clamp(length, LINE_MAX);
            self.line.reserve_exact(room - self.line.len());
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    /// Takes the last piece of a line.
    fn end(&mut self, piece: &[u8]) -> Option<Result<L, Fault>> {
        if std::mem::take(&mut self.skipping) {
            return None;
        }
        let decoded = if self.line.is_empty() && piece.len() <= LINE_MAX {
            decode(piece)
        } else {
            let kept = self.keep(piece);
            self.skipping = false;
            kept.map_or_else(|fault| Some(Err(fault)), |()| decode(&self.line))
        };
        self.line.clear();
        decoded
    }
}

fn decode<L: Line>(line: &[u8]) -> Option<Result<L, Fault>> {
    if line.trim_ascii().is_empty() {
        return None;
    }
    let malformed = |error: serde_json::Error| Fault::Malformed {
        why: Text::new(&error.to_string()),
    };
    L::decode(line).map_err(malformed).transpose()
}

/// The messages in some bytes.
#[must_use = "bytes that nobody comes to are lost"]
#[derive(Debug)]
pub struct Messages<'a, L> {
    decoder: &'a mut Decoder<L>,
    bytes: &'a [u8],
}

impl<L: Line> Iterator for Messages<'_, L> {
    type Item = Result<L, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.bytes.is_empty() {
            let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else {
                let piece = std::mem::take(&mut self.bytes);
                return self.decoder.keep(piece).err().map(Err);
            };
            let (piece, rest) = self.bytes.split_at(end);
            self.bytes = &rest[1..];
            if let Some(found) = self.decoder.end(piece) {
                return Some(found);
            }
        }
        None
    }
}

//! The program's output as it arrives, with L1's own messages taken out of it.
//!
//! A message is the character 0x1e, the job's random word, a space, and a line. A program cannot
//! produce one by accident, whatever bytes it prints.

/// First byte of a message.
pub(super) const MARK: u8 = 0x1e;

/// What L1's first process says about its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The program starts now.
    Started,
    /// The program has ended with this code.
    Ended(i32),
    /// L1 could not run it.
    Failed(String),
}

impl Event {
    /// The message to send.
    pub(super) fn message(&self, nonce: &str) -> Vec<u8> {
        let line = match self {
            Self::Started => "started".to_owned(),
            Self::Ended(status) => format!("ended {status}"),
            Self::Failed(reason) => format!("failed {}", reason.replace('\n', "; ")),
        };
        let mut message = vec![MARK];
        message.extend_from_slice(format!("{nonce} {line}\n").as_bytes());
        message
    }

    fn parse(line: &str) -> Self {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("started", _) => Self::Started,
            ("ended", status) if status.parse::<i32>().is_ok() => {
                Self::Ended(status.parse().unwrap_or_default())
            }
            ("failed", reason) => Self::Failed(reason.to_owned()),
            _ => Self::Failed(format!("its first process sent {line:?}")),
        }
    }
}

/// Separates messages from output.
pub(super) struct Stream {
    prefix: Vec<u8>,
    /// The begin of what may become a message.
    held: Vec<u8>,
}

impl Stream {
    pub(super) fn new(nonce: &str) -> Self {
        let mut prefix = vec![MARK];
        prefix.extend_from_slice(nonce.as_bytes());
        prefix.push(b' ');
        Self {
            prefix,
            held: Vec::new(),
        }
    }

    /// Takes bytes as they arrive, gives output to `sink` at once, and returns whole messages.
    pub(super) fn push(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Vec<Event> {
        self.held.extend_from_slice(bytes);
        let mut events = Vec::new();
        while !self.held.is_empty() {
            let output = self.length_of_output();
            if output > 0 {
                sink(&self.held[..output]);
                self.held.drain(..output);
                continue;
            }
            let Some(end) = self.held.iter().position(|&byte| byte == b'\n') else {
                break;
            };
            if end < self.prefix.len() {
                break;
            }
            // A terminal puts a carriage return before each line feed.
            let line = String::from_utf8_lossy(&self.held[self.prefix.len()..end]);
            let line = line.trim_end_matches('\r').to_owned();
            self.held.drain(..=end);
            events.push(Event::parse(&line));
        }
        events
    }

    /// How many of the held bytes cannot belong to a message.
    fn length_of_output(&self) -> usize {
        let mark = self
            .held
            .iter()
            .position(|&byte| byte == MARK)
            .unwrap_or(self.held.len());
        let rest = &self.held[mark..];
        if mark > 0 || rest.starts_with(&self.prefix) || self.prefix.starts_with(rest) {
            return mark;
        }
        // A mark that is output itself.
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(chunks: &[&[u8]]) -> (Vec<u8>, Vec<Event>) {
        let mut stream = Stream::new("abc");
        let mut output = Vec::new();
        let mut events = Vec::new();
        for chunk in chunks {
            events.extend(stream.push(chunk, &mut |bytes| output.extend_from_slice(bytes)));
        }
        (output, events)
    }

    #[test]
    fn messages_come_out_however_the_bytes_are_cut() {
        let mut whole = b"one\n".to_vec();
        whole.extend(Event::Started.message("abc"));
        whole.extend(b"two\x1e\x1eab\x1e abc ended 1\n");
        whole.extend(Event::Ended(7).message("abc"));
        whole.extend(b"three");
        let expected = (
            b"one\ntwo\x1e\x1eab\x1e abc ended 1\nthree".to_vec(),
            vec![Event::Started, Event::Ended(7)],
        );
        for size in 1..whole.len() {
            let chunks: Vec<&[u8]> = whole.chunks(size).collect();
            assert_eq!(run(&chunks), expected, "cut into pieces of {size}");
        }
    }

    #[test]
    fn a_terminal_in_between_changes_nothing() {
        assert_eq!(run(&[b"\x1eabc ended 3\r\n"]).1, [Event::Ended(3)]);
    }

    #[test]
    fn a_failure_keeps_its_reason() {
        let message = Event::Failed("no such\nfile".to_owned()).message("abc");
        assert_eq!(
            run(&[&message]).1,
            [Event::Failed("no such; file".to_owned())]
        );
    }
}

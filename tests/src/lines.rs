//! Output that comes in pieces, as lines, so that what several say at once can be told apart.

/// Holds the begin of a line until its end comes.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes a piece of output, and gives each line that is complete now, without its end.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        self.begun.extend_from_slice(bytes);
        let Some(last) = self.begun.iter().rposition(|&byte| byte == b'\n') else {
            return;
        };
        let complete: Vec<u8> = self.begun.drain(..=last).collect();
        for line in String::from_utf8_lossy(&complete).lines() {
            each(line);
        }
    }

    /// Gives the last line, if it has no end.
    pub fn end(self, mut each: impl FnMut(&str)) {
        if !self.begun.is_empty() {
            each(&String::from_utf8_lossy(&self.begun));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut said = Vec::new();
        let mut lines = Lines::default();
        for piece in ["o", "ne\r\ntw", "", "o\n\nthr", "ee"] {
            lines.push(piece.as_bytes(), |line| said.push(line.to_owned()));
        }
        assert_eq!(said, ["one", "two", ""]);
        lines.end(|line| said.push(line.to_owned()));
        assert_eq!(said, ["one", "two", "", "three"]);
    }
}

//! What comes out of a guest's serial port: the kernel's lines, and between them, or in the midst of them, what the
//! shell on it says.
//!
//! The kernel writes a line as a whole, at any moment, and so in the middle of what the shell has written so far. Such a line
//! is known by its time; taken out, what the shell said is whole again.

use super::kernel::{Finder, Incidents};
use std::collections::VecDeque;

/// How much of the stream is kept for who wants to see it.
const KEPT: usize = 64 << 10;
/// Longest answer of a command.
const LONGEST: usize = 1 << 20;
/// Longest line of the kernel's; what has no end by then is none.
const LINE: usize = 2048;

/// The character that begins a mark, which neither a shell's echo nor a kernel's line holds.
pub(super) const MARK: u8 = 0x1e;

/// What a command of the guest's said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Both of its streams, without the line end at the end.
    pub(crate) text: String,
    /// Its exit status.
    pub(crate) status: u8,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Bytes of which it is not known yet whose they are.
    pending: Vec<u8>,
    /// The shell's.
    said: Vec<u8>,
    /// Where in `said` the line begins that is not over.
    line: usize,
    /// All, to be shown.
    kept: VecDeque<u8>,
    /// Bytes so far, so that it can be told whether there were any.
    pub(super) count: u64,
    /// In the midst of the answer of a command, whose lines are not the kernel's.
    answering: bool,
    finder: Finder,
    pub(super) incidents: Incidents,
}

impl Stream {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.count += bytes.len() as u64;
        self.kept.extend(bytes);
        let over = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..over);
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &*pending;
        while let Some(at) = rest.iter().position(|byte| *byte == b'[') {
            let (before, from) = rest.split_at(at);
            self.say(before);
            match kernel_line(from) {
                Kernel::Line(end) => {
                    let (line, after) = from.split_at(end);
                    self.find(&String::from_utf8_lossy(line));
                    rest = after;
                }
                Kernel::No => {
                    let (bracket, after) = from.split_at(1);
                    self.say(bracket);
                    rest = after;
                }
                Kernel::Perhaps => {
                    self.pending = from.to_vec();
                    return;
                }
            }
        }
        self.say(rest);
    }

    /// Takes what the shell says.
    fn say(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.said.push(*byte);
            if *byte == b'\n' {
                self.said_line();
            }
        }
        let over = self.said.len().saturating_sub(LONGEST);
        self.said.drain(..over);
        self.line = self.line.saturating_sub(over);
    }

    /// A line that may be the kernel's, if it gives no times, unless a command of ours says it.
    fn said_line(&mut self) {
        let line = self.said.get(self.line..).unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        self.line = self.said.len();
        match line.rfind(char::from(MARK)) {
            Some(mark) => self.answering = line[mark..].trim_end().ends_with(" begin"),
            None if !self.answering => self.find(&line),
            None => {}
        }
    }

    /// Takes a line that stands for itself, in a stream of lines that goes on.
    pub(super) fn find(&mut self, line: &str) {
        if let Some(incident) = self.finder.line(line) {
            self.incidents.add(incident);
        }
    }

    /// Takes lines from elsewhere, which are all there are.
    pub(super) fn lines<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        incidents(lines).for_each(|incident| self.incidents.add(incident));
    }

    /// Whether a complaint of the kernel's is not known to be over.
    pub(super) fn complains(&self) -> bool {
        self.finder.is_open()
    }

    /// The complaint that goes on is as long as it will get.
    pub(super) fn settle(&mut self) {
        if let Some(incident) = self.finder.close() {
            self.incidents.add(incident);
        }
    }

    /// The answer of a command with one of these words, if it is there. What came before is done with.
    pub(super) fn answer(&mut self, words: &[String]) -> Option<Output> {
        let (output, end) = words.iter().find_map(|word| answer(&self.said, word))?;
        self.said.drain(..end);
        self.line = self.line.saturating_sub(end);
        Some(output)
    }

    /// The last lines of all that came.
    pub(super) fn tail(&self, lines: usize) -> String {
        let kept: Vec<u8> = self.kept.iter().copied().collect();
        tail(&String::from_utf8_lossy(&kept), lines)
    }

    /// Whether the shell says nothing and somebody is asked for a name.
    pub(super) fn asks_for_login(&self) -> bool {
        let last = self.said.get(self.line..).unwrap_or_default();
        let last = String::from_utf8_lossy(last);
        let last = last.trim_end();
        last.ends_with("login:") || last.ends_with("Password:")
    }
}

/// The incidents in lines that are all there are.
pub(super) fn incidents<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    let mut finder = Finder::default();
    let mut found: Vec<String> = lines.filter_map(|line| finder.line(line)).collect();
    found.extend(finder.close());
    found.into_iter()
}

/// The last lines of a text, without what only a terminal understands.
pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().map(str::trim_end).collect();
    let last = &all[all.len().saturating_sub(lines)..];
    let strange = |c: char| c.is_control() && c != '\n' && c != '\t';
    last.join("\n").replace(strange, "·")
}

enum Kernel {
    /// A line with an end, which is so long.
    Line(usize),
    No,
    /// It has to go on first.
    Perhaps,
}

/// Whether a line of the kernel's begins here: `[   12.345678] text`, `[   12.345678][  T17] text`.
fn kernel_line(bytes: &[u8]) -> Kernel {
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let mut at = 1;
    at += bytes[at..].iter().take_while(|byte| **byte == b' ').count();
    let whole = digits(at);
    at += whole;
    match bytes.get(at) {
        None if at <= 16 => return Kernel::Perhaps,
        Some(b'.') if whole > 0 => at += 1,
        _ => return Kernel::No,
    }
    let fraction = digits(at);
    match bytes.get(at + fraction) {
        None if fraction <= 6 => return Kernel::Perhaps,
        Some(b']') if fraction == 6 => {}
        _ => return Kernel::No,
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if end < LINE => Kernel::Line(end + 1),
        None if bytes.len() < LINE => Kernel::Perhaps,
        _ => Kernel::No,
    }
}

/// The answer that stands between the marks with this word, and where it ends.
fn answer(said: &[u8], word: &str) -> Option<(Output, usize)> {
    let (_, begin) = find(said, format!("\u{1e}{word} begin").as_bytes(), 0)?;
    let (stop, end) = find(said, format!("\u{1e}{word} end ").as_bytes(), begin)?;
    let (digits, end) = find(said, b"\n", end).map(|(to, next)| (&said[end..to], next))?;
    let status = String::from_utf8_lossy(digits).trim().parse().ok()?;
    let text = String::from_utf8_lossy(&said[begin..stop]).replace('\r', "");
    let text = text.trim_matches('\n').to_owned();
    Some((Output { text, status }, end))
}

/// Where a text begins and ends.
fn find(bytes: &[u8], text: &[u8], from: usize) -> Option<(usize, usize)> {
    let rest = bytes.get(from..)?;
    let at = rest.windows(text.len()).position(|part| part == text)? + from;
    Some((at, at + text.len()))
}

/// A line for a shell that has it run a command and say where the answer begins and ends. The marks are printed by
/// number, so that an echo of the line has none. A program that reads lines of a word and a command, as the first process of our
/// test guest does, takes `:` for the word.
pub(super) fn line(word: &str, command: &str) -> String {
    format!(
        ": true; printf '\\036%s begin\\n' {word}; ( {command} ) 2>&1 </dev/null; \
         printf '\\036%s end %s\\n' {word} $?"
    )
}

/// Where a guest may have room for a file.
const PLACES: [&str; 3] = ["/run", "/tmp", "/dev/shm"];

/// The files in which commands may be left under this word.
fn files(word: &str) -> [String; 3] {
    PLACES.map(|place| format!("{place}/stress-{word}"))
}

/// A command that leaves these in a file of the guest's, each under its name, and says which file that is.
pub(super) fn leave(word: &str, commands: &[(&str, String)]) -> String {
    let functions: Vec<String> = commands
        .iter()
        .map(|(name, command)| format!("{name}() {{ {command}; }};"))
        .collect();
    let script = shell_words::quote(&functions.concat()).into_owned();
    let files = files(word).join(" ");
    // Nobody else's file is written to.
    format!(
        "umask 077; set -C; for f in {files}; do \
         printf %s {script} 2>/dev/null >$f && echo $f && exit; done"
    )
}

/// The file in which commands were left under this word, if the guest says that they were. Others may say something in the
/// midst of it.
pub(super) fn left(word: &str, output: &Output) -> Option<String> {
    let files = files(word);
    let mut said = output.text.lines().map(str::trim);
    said.find_map(|line| files.iter().find(|file| *file == line).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bytes: &[u8], at_once: usize) -> Stream {
        let mut stream = Stream::default();
        bytes.chunks(at_once).for_each(|part| stream.feed(part));
        stream
    }

    fn words(word: &str) -> Vec<String> {
        vec![word.to_owned()]
    }

    #[test]
    fn the_kernels_lines_are_taken_out_wherever_they_stand() {
        let kernel = "[   12.345678] smpboot: CPU 2 is now offline\r\n";
        let whole = "# echo\r\n\u{1e}w begin\r\n0-2,[x] [1.5]\r\n0\r\n\u{1e}w end 3\r\n# ";
        for at in (0..whole.len()).filter(|at| whole.is_char_boundary(*at)) {
            let text = format!("{}{kernel}{}", &whole[..at], &whole[at..]);
            for at_once in [1, 7, 1000] {
                let mut stream = heard(text.as_bytes(), at_once);
                let output = stream.answer(&words("w"));
                let output = output.unwrap_or_else(|| panic!("at {at}: {text:?}"));
                assert_eq!(output.text, "0-2,[x] [1.5]\n0");
                assert_eq!(output.status, 3);
            }
        }
    }

    #[test]
    fn only_the_own_answer_is_one() {
        let mut stream = heard(b"\x1eold begin\n1\n\x1eold end 0\n\x1enew begin\n2\n", 100);
        assert_eq!(stream.answer(&words("new")), None);
        stream.feed(b"\x1enew end 0");
        assert_eq!(stream.answer(&words("new")), None);
        stream.feed(b"\n");
        assert_eq!(
            stream.answer(&words("new")).map(|o| o.text),
            Some("2".to_owned())
        );
        assert_eq!(stream.answer(&words("new")), None);
        assert_eq!(stream.answer(&words("old")), None);
    }

    #[test]
    fn an_echo_of_the_line_is_no_answer() {
        let echo = line("w", "cat x") + "\r\n";
        let mut stream = heard(echo.as_bytes(), 100);
        assert_eq!(stream.answer(&words("w")), None);
    }

    #[test]
    fn garbage_is_survived() {
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes.extend(b"[[[ [    1.2345678] [ 1.123456]x");
        bytes.extend(b"[    1.123456] ".repeat(200));
        bytes.extend(b"\n\x1ew begin\n\xff\n\x1ew end 0\n");
        let mut stream = heard(&bytes, 3);
        assert_eq!(stream.answer(&words("w")).map(|o| o.status), Some(0));
    }

    #[test]
    fn complaints_are_the_kernels_and_not_an_answers() {
        let text = "[    1.000000] BUG: soft lockup - CPU\r\n[    3.000000] fine\r\n\
                    \u{1e}w begin\nKernel panic - not syncing: no\n\u{1e}w end 0\n\
                    Kernel panic - not syncing: yes\n";
        let mut stream = heard(text.as_bytes(), 10);
        assert!(stream.complains());
        stream.settle();
        let found = stream.incidents.take();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[1], "Kernel panic - not syncing: yes");
    }

    #[test]
    fn a_login_prompt_is_known() {
        assert!(heard(b"\r\nDebian GNU/Linux 12 vm ttyS0\r\n\r\nvm login: ", 9).asks_for_login());
        assert!(!heard(b"Last login: Tuesday\r\n# ", 9).asks_for_login());
    }

    #[test]
    fn the_end_is_shown_without_control_characters() {
        let stream = heard(b"a\nb\x1b[1m\r\n\x1ec\r\n", 2);
        assert_eq!(stream.tail(2), "b·[1m\n·c");
    }
}

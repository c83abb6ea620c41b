//! A file that somebody else writes to, read as it grows.

use super::stream;
use crate::client::Failure;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Most that is read to show a file's end.
const END: u64 = 64 << 10;
/// Most that is read at once; what grew by more than that is shown by its end.
const MOST: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct Followed {
    path: PathBuf,
    file: File,
    /// What was read up to.
    at: u64,
    /// A line without an end so far.
    rest: Vec<u8>,
}

impl Followed {
    /// Begins at its end: what is there already is from before.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let opened = File::open(path).and_then(|file| {
            let at = file.metadata()?.len();
            Ok((file, at))
        });
        let (file, at) = opened.map_err(|e| {
            let asked = format!("the guest's console {}", path.display());
            let remedy = "name the file that `hotvisor run --serial file=PATH` was given";
            Failure::input(&asked, &e.to_string(), remedy)
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            at,
            rest: Vec::new(),
        })
    }

    /// The lines that came since the last call.
    pub(super) fn lines(&mut self) -> Vec<String> {
        // A file that cannot be read says nothing; it was read before.
        let new = self.read().unwrap_or_default();
        self.rest.extend(new);
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n');
        let whole: Vec<u8> = self.rest.drain(..whole.map_or(0, |end| end + 1)).collect();
        let text = String::from_utf8_lossy(&whole);
        text.lines().map(str::to_owned).collect()
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let length = self.file.metadata()?.len();
        if length < self.at {
            // Somebody began it anew.
            self.at = 0;
            self.rest.clear();
        }
        self.at = self.at.max(length.saturating_sub(MOST));
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut new = Vec::new();
        self.at += (&self.file).take(MOST).read_to_end(&mut new)? as u64;
        Ok(new)
    }

    /// Its last lines.
    pub(super) fn tail(&self, lines: usize) -> String {
        tail(&self.path, lines).unwrap_or_else(|e| format!("{}: {e}", self.path.display()))
    }
}

/// The last lines of a file.
///
/// # Errors
/// It cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut bytes = Vec::new();
    file.take(END).read_to_end(&mut bytes)?;
    Ok(stream::tail(&String::from_utf8_lossy(&bytes), lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_whole_lines_that_are_new_are_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"old\n").unwrap();
        let mut followed = Followed::open(file.path()).unwrap();
        assert!(followed.lines().is_empty());
        file.write_all(b"new\nhal").unwrap();
        assert_eq!(followed.lines(), ["new"]);
        file.write_all(b"f\n").unwrap();
        assert_eq!(followed.lines(), ["half"]);
        file.as_file().set_len(0).unwrap();
        file.rewind().unwrap();
        file.write_all(b"a\n").unwrap();
        assert_eq!(followed.lines(), ["a"]);
        assert_eq!(followed.tail(5), "a");
    }

    #[test]
    fn a_file_that_is_not_there_is_bad_input() {
        let error = Followed::open(Path::new("/nowhere/console")).unwrap_err();
        assert!(matches!(error, Failure::Input(_)), "{error}");
    }
}

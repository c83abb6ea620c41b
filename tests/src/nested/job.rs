//! What L1 is asked to do, and the files that it sends back.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Where the job lies in L1.
pub(super) const PATH: &str = "bed/job.json";
/// Where L1's kernel modules lie, in the order of their names.
pub(super) const MODULES: &str = "bed/modules";

/// A program to run in L1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The program's path in L1. `/init` is the executable that made the job.
    pub program: String,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Variables to set, beside a `PATH`.
    pub env: Vec<(String, String)>,
    /// Whether a person sits at the other end: the program gets a terminal that echoes and signals.
    pub terminal: bool,
    /// Files to send back after the program has ended, and folders whose files are.
    pub collect: Vec<String>,
    /// A random word, so that L1's messages cannot be taken for the program's output.
    pub(super) nonce: String,
}

/// Set in L1, so that a program knows not to boot another one.
const IN_L1: &str = "HOTVISOR_IN_L1";

impl Job {
    /// A job for a program in L1.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn new(program: &str, args: impl IntoIterator<Item = String>) -> Result<Self> {
        let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
            .context("no random word can be had")?;
        Ok(Self {
            program: program.to_owned(),
            args: args.into_iter().collect(),
            env: vec![(IN_L1.to_owned(), "1".to_owned())],
            terminal: false,
            collect: Vec::new(),
            nonce: random.trim().replace('-', ""),
        })
    }

    /// Whether this process runs in L1.
    #[must_use]
    pub fn is_running() -> bool {
        std::env::var_os(IN_L1).is_some()
    }
}

/// One file on the way back: its length, its name, its bytes.
pub(super) fn result(path: &str, bytes: &[u8]) -> Vec<u8> {
    let mut record = format!("{} {path}\n", bytes.len()).into_bytes();
    record.extend_from_slice(bytes);
    record
}

/// Takes apart what [`result`] made.
pub(super) fn read_results(mut bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
        let head = std::str::from_utf8(&bytes[..end])?;
        let (length, path) = head
            .split_once(' ')
            .with_context(|| format!("bad head of a file: {head:?}"))?;
        let length: usize = length.parse()?;
        let rest = &bytes[end + 1..];
        if rest.len() < length {
            bail!("{path} came back with {} of its {length} bytes", rest.len());
        }
        files.push((path.to_owned(), rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_survive_the_way_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut bytes = result("/tmp/a b", &all);
        bytes.extend(result("/empty", b""));
        let files = read_results(&bytes).unwrap();
        assert_eq!(
            files,
            [
                ("/tmp/a b".to_owned(), all),
                ("/empty".to_owned(), Vec::new())
            ]
        );
    }

    #[test]
    fn a_cut_file_is_noticed() {
        assert!(
            read_results(b"10 /a\nshort")
                .unwrap_err()
                .to_string()
                .contains("5 of its 10")
        );
    }
}

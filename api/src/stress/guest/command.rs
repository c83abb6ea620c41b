//! A command of the host's that runs a line of shell in the guest, such as `ssh root@vm`.

use super::stream::{self, Output, Stream};
use super::{GuestError, word};
use crate::client::Failure;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout_at};

/// Most that is said of what went wrong.
const SAID: usize = 300;

/// The command's words; the line for the guest comes behind them.
#[derive(Debug)]
pub(super) struct Remote {
    words: Vec<String>,
}

impl Remote {
    pub(super) fn new(command: &str) -> Result<Self, Failure> {
        let asked = format!("guest command {command:?}");
        let remedy = "write it as for a shell, such as \"ssh root@vm\"";
        match shell_words::split(command) {
            Ok(words) if words.is_empty() => Err(Failure::input(&asked, "it is empty", remedy)),
            Ok(words) => Ok(Self { words }),
            Err(e) => Err(Failure::input(&asked, &e.to_string(), remedy)),
        }
    }

    /// Runs it until it ends or the time is over; then it is killed.
    pub(super) async fn run(
        &self,
        command: &str,
        patience: Duration,
    ) -> Result<Output, GuestError> {
        let end = Instant::now() + patience;
        let word = word();
        let (program, arguments) = self.words.split_at(1);
        let mut child = Command::new(&program[0])
            .args(arguments)
            .arg(stream::line(&word, command))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| GuestError::Closed(format!("{} cannot be run: {e}", program[0])))?;
        let Ok((said, complaint, status)) = timeout_at(end, collect(&mut child)).await else {
            // It is reaped here, so that none is left behind.
            let _ = child.kill().await;
            return Err(GuestError::Silent(command.to_owned(), patience));
        };
        let mut stream = Stream::default();
        stream.feed(&said);
        // The status of the whole is not the guest's where the guest could not be reached.
        stream.answer(&[word]).ok_or_else(|| {
            let complaint = String::from_utf8_lossy(&complaint);
            let complaint: String = complaint.trim().chars().take(SAID).collect();
            GuestError::Closed(match complaint.is_empty() {
                true => format!("{} ended with {status} and no answer", program[0]),
                false => format!("{} ended with {status}: {complaint}", program[0]),
            })
        })
    }
}

/// What it says on both of its streams, and how it ends.
async fn collect(child: &mut Child) -> (Vec<u8>, Vec<u8>, String) {
    let (mut said, mut complaint) = (Vec::new(), Vec::new());
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let read_output = async {
        if let Some(mut output) = output {
            // What cannot be read is missed below.
            let _ = output.read_to_end(&mut said).await;
        }
    };
    let read_errors = async {
        if let Some(mut errors) = errors {
            let _ = errors.read_to_end(&mut complaint).await;
        }
    };
    tokio::join!(read_output, read_errors);
    let status = match child.wait().await {
        Ok(status) => status.to_string(),
        Err(e) => e.to_string(),
    };
    (said, complaint, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_line_is_the_last_argument() {
        let remote = Remote::new("sh -c").unwrap();
        let output = remote
            .run("echo a; echo b >&2; exit 7", PATIENCE)
            .await
            .unwrap();
        assert_eq!(output.text, "a\nb");
        assert_eq!(output.status, 7);
    }

    #[tokio::test]
    async fn a_guest_that_is_not_reached_is_told_from_a_command_that_fails() {
        let remote = Remote::new("sh -c 'echo no route >&2; exit 255'").unwrap();
        let error = remote.run("true", PATIENCE).await.unwrap_err().to_string();
        assert!(
            error.contains("no route") && error.contains("255"),
            "{error}"
        );
        let remote = Remote::new("/nowhere/ssh").unwrap();
        let error = remote.run("true", PATIENCE).await.unwrap_err().to_string();
        assert!(error.contains("/nowhere/ssh"), "{error}");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_killed() {
        let remote = Remote::new("sh -c 'echo $$ >\"$0\"; exec sleep 1000'").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let remote = Remote {
            words: [remote.words, vec![file.display().to_string()]].concat(),
        };
        // Long enough for it to say who it is.
        let error = remote
            .run("true", Duration::from_secs(2))
            .await
            .unwrap_err();
        assert!(matches!(error, GuestError::Silent(..)), "{error}");
        let pid = std::fs::read_to_string(&file).unwrap();
        let there = std::path::Path::new("/proc").join(pid.trim()).exists();
        assert!(!there, "{pid} is still there");
    }

    #[test]
    fn a_command_that_is_none_is_bad_input() {
        assert!(Remote::new("").is_err());
        assert!(Remote::new("ssh 'root").is_err());
    }
}

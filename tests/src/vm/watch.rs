//! A child process whose end can be awaited with a deadline.

use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// A child process. Dropping kills and reaps it.
#[derive(Debug)]
pub(crate) struct Watched {
    child: Mutex<Child>,
    pid: u32,
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Watched {
    /// Starts a process, and a thread that notices its end but leaves it to be reaped here, so
    /// that its id cannot come to mean another process meanwhile.
    pub(crate) fn spawn(command: &mut Command) -> Result<(Self, Pipes)> {
        let line = crate::process::spelled(command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        let pipes = Pipes {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
        };
        let pid = child.id();
        let id = Pid::from_raw(i32::try_from(pid)?);
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let watched = Self {
            child: Mutex::new(child),
            pid,
            ended: Arc::clone(&ended),
        };
        std::thread::Builder::new()
            .name("vmm-exit".to_owned())
            .spawn(move || {
                let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
                while waitid(Id::Pid(id), flags) == Err(nix::errno::Errno::EINTR) {}
                *lock(&ended.0) = true;
                ended.1.notify_all();
            })?;
        Ok((watched, pipes))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn is_running(&self) -> bool {
        !*lock(&self.ended.0)
    }

    /// The process's status once it has ended, or nothing if it has not when the time is over.
    pub(crate) fn wait(&self, end: Instant) -> Result<Option<ExitStatus>> {
        let left = end.saturating_duration_since(Instant::now());
        let (ended, _) = self
            .ended
            .1
            .wait_timeout_while(lock(&self.ended.0), left, |ended| !*ended)
            .unwrap_or_else(PoisonError::into_inner);
        if !*ended {
            return Ok(None);
        }
        drop(ended);
        Ok(Some(lock(&self.child).wait()?))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        // Fails if it has ended, which is as well.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The pipes of a child process.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<std::process::ChildStdin>,
    pub(crate) stdout: Option<std::process::ChildStdout>,
    pub(crate) stderr: Option<std::process::ChildStderr>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_end_is_noticed_and_its_code_kept() {
        let (process, _) = Watched::spawn(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        let status = process.wait(end).unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.wait(end).unwrap().unwrap().code(), Some(3));
        assert!(!process.is_running());
    }

    #[test]
    fn a_process_that_stays_is_not_waited_for_beyond_the_deadline() {
        let (process, _) = Watched::spawn(Command::new("sleep").arg("60")).unwrap();
        assert!(process.wait(Instant::now()).unwrap().is_none());
        assert!(process.is_running());
    }
}

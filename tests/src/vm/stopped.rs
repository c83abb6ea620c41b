//! One thread of a VMM that does not run for a while, as on a host that is overloaded. SIGSTOP would stop all.

use std::marker::PhantomData;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{SOON, Vm};

/// A thread that is stopped until this is dropped.
#[derive(Debug)]
pub struct Stopped {
    thread: Pid,
    released: bool,
    /// The kernel lets only the thread that stopped another one do more to it.
    stays: PhantomData<*const ()>,
}

impl Stopped {
    fn new(thread: Pid) -> Result<Self> {
        ptrace::seize(thread, Options::empty()).context("it cannot be traced")?;
        let stopped = Self {
            thread,
            released: false,
            stays: PhantomData,
        };
        ptrace::interrupt(thread)?;
        let end = Instant::now() + SOON;
        loop {
            match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))? {
                WaitStatus::PtraceEvent(..) => return Ok(stopped),
                WaitStatus::StillAlive if Instant::now() < end => {}
                // Somebody kicked it at this very moment. It is to have its signal, and then to stop.
                WaitStatus::Stopped(_, signal) => ptrace::cont(thread, signal)?,
                other => bail!("it is not stopped: {other:?}"),
            }
        }
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// It has ended.
    pub fn release(mut self) -> Result<()> {
        self.released = true;
        ptrace::detach(self.thread, None).context("the stopped thread is gone")
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if !self.released {
            // It may have ended with its process.
            let _ = ptrace::detach(self.thread, None);
        }
    }
}

impl Vm {
    /// Stops the thread of a vCPU.
    ///
    /// # Errors
    /// It has none, or may not be traced.
    pub fn stop_vcpu(&self, id: u32) -> Result<Stopped> {
        self.stop_thread(&format!("vcpu-{id}"))
    }

    /// Stops the thread of this name.
    ///
    /// # Errors
    /// There is none, or it may not be traced.
    pub fn stop_thread(&self, name: &str) -> Result<Stopped> {
        let threads = self.threads()?;
        let thread = threads.iter().find(|thread| thread.name == name);
        let thread = thread.with_context(|| format!("there is no thread {name}"))?;
        Stopped::new(Pid::from_raw(i32::try_from(thread.id)?))
            .with_context(|| format!("cannot stop the thread {name}"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::vm::evidence::threads;

    #[test]
    fn a_thread_stops_and_goes_on() {
        let mut child = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let state = || threads(child.id())[0].state;
        let stopped = Stopped::new(Pid::from_raw(child.id().try_into().unwrap())).unwrap();
        assert_eq!(state(), 't');
        stopped.release().unwrap();
        assert_ne!(state(), 't');
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

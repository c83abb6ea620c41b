//! The `hotvisor` program as somebody uses it beside the one that runs the VM.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::watch::Watched;
use super::{Console, SOON, Vm};
use crate::process::spelled;

/// Size of a terminal.
const SIZE: Winsize = Winsize {
    ws_row: 24,
    ws_col: 100,
    ws_xpixel: 0,
    ws_ypixel: 0,
};

/// A command that has been started.
#[derive(Debug)]
pub struct Cli<'a> {
    vm: &'a Vm,
    line: String,
    process: Watched,
    /// What it has printed so far.
    pub stdout: Console,
    /// What it has said so far.
    pub stderr: Console,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Vm {
    /// Starts `hotvisor ARGS`, which finds this VM's socket in its environment.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_cli(&self, args: &[&str]) -> Result<Cli<'_>> {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let (process, pipes) = Watched::spawn(&mut command)?;
        let missing = "a command was started without a pipe";
        Ok(Cli {
            vm: self,
            line: spelled(&command),
            process,
            stdout: Console::collect("cli-stdout", pipes.stdout.context(missing)?)?,
            stderr: Console::collect("cli-stderr", pipes.stderr.context(missing)?)?,
        })
    }

    /// Starts `hotvisor ARGS` on a terminal, where standard output and standard error are one: it is the former here.
    ///
    /// # Errors
    /// As [`Vm::start_cli`].
    pub fn start_cli_on_terminal(&self, args: &[&str]) -> Result<Cli<'_>> {
        let terminal = openpty(Some(&SIZE), None)?;
        let mut command = self.command(args);
        command
            .stdout(terminal.slave.try_clone()?)
            .stderr(terminal.slave);
        let (process, _) = Watched::spawn(&mut command)?;
        let line = spelled(&command);
        // With it goes our copy of the terminal, without which there would be no end.
        drop(command);
        Ok(Cli {
            vm: self,
            line,
            process,
            stdout: Console::collect("cli-terminal", File::from(terminal.master))?,
            stderr: Console::collect("cli-stderr", std::io::empty())?,
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("HOTVISOR_SOCKET", self.api_socket())
            .env("TERM", "xterm")
            .stdin(Stdio::null());
        command
    }

    /// Runs `hotvisor ARGS` to its end.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time.
    pub fn cli(&self, args: &[&str]) -> Result<Came> {
        self.start_cli(args)?.end()
    }
}

impl Cli<'_> {
    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.process.pid())?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to `{}`", self.line))
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Waits until it has printed a text.
    ///
    /// # Errors
    /// It does not in time.
    pub fn printed(&self, text: &str) -> Result<()> {
        self.shows(&self.stdout, text)
    }

    /// Waits until it has said a text on standard error.
    ///
    /// # Errors
    /// It does not in time.
    pub fn said(&self, text: &str) -> Result<()> {
        self.shows(&self.stderr, text)
    }

    fn shows(&self, stream: &Console, text: &str) -> Result<()> {
        match stream.wait_for(text, 0, Instant::now() + SOON) {
            Ok(_) => Ok(()),
            Err(why) => Err(self.evidence(&format!("waited {SOON:?} for {text:?}; {why}"))),
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It does not in time, or by a signal.
    pub fn end(self) -> Result<Came> {
        self.end_within(SOON)
    }

    /// The same, of one that has more to do.
    ///
    /// # Errors
    /// As [`Cli::end`].
    pub fn end_within(self, patience: Duration) -> Result<Came> {
        let end = Instant::now() + patience;
        let Some(status) = self.process.wait(end)? else {
            return Err(self.evidence(&format!("waited {patience:?} for its end")));
        };
        for stream in [&self.stdout, &self.stderr] {
            if stream.wait_for_close(end).is_err() {
                return Err(self.evidence("its output has no end"));
            }
        }
        Ok(Came {
            code: status
                .code()
                .with_context(|| self.evidence("it ended by a signal"))?,
            out: self.stdout.text(0),
            err: self.stderr.text(0),
        })
    }

    fn evidence(&self, what: &str) -> anyhow::Error {
        let (line, out, err) = (&self.line, self.stdout.text(0), self.stderr.text(0));
        self.vm
            .evidence(format!("`{line}`: {what}\n--- it said ---\n{out}{err}"))
    }
}

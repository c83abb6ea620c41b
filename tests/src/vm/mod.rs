//! Drives one VMM process and the guest in it: build, boot, act, wait, end.
//!
//! Every wait has a deadline, and one that passes gives an error with the evidence: what was awaited,
//! the end of the console, what the VMM said, and where its threads are.

mod agree;
pub mod api;
mod builder;
mod cli;
mod console;
pub mod events;
mod evidence;
pub mod failpoints;
mod footprint;
mod http;
mod memory;
pub mod metrics;
mod qmp;
mod stopped;
mod watch;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};

pub use builder::{Builder, Vmm};
pub use cli::{Came, Cli};
pub use console::{Console, Found, Missed};
pub use evidence::Thread;
pub use footprint::Footprint;
pub use http::{Answer, Connection};
pub use memory::own_memory;
pub use qmp::{Event, Pluggable, Qmp};
pub use stopped::Stopped;

pub(crate) use watch::Watched;

/// What the guest's init prints first, before the seconds since its kernel started.
pub const INIT_MARKER: &str = "hotvisor-guest: init at ";
/// What it prints when it takes commands.
pub const READY_MARKER: &str = "hotvisor-guest: ready";

/// Time for a guest to come up. In the nested bed it needs 4 to 8 s on an idle machine.
pub const BOOT: Duration = Duration::from_secs(120);
/// Time for a guest or a VMM to do something small.
pub const SOON: Duration = Duration::from_secs(30);

/// A running VMM.
#[derive(Debug)]
pub struct Vm {
    vmm: Vmm,
    program: PathBuf,
    process: Watched,
    stdin: Option<ChildStdin>,
    /// The guest's serial port.
    console: Console,
    /// The VMM's messages.
    stderr: Console,
    started: Instant,
    commands: AtomicU32,
    /// Holds the VMM's sockets.
    folder: tempfile::TempDir,
}

/// What a command in the guest gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output and standard error, without the last line's end.
    pub text: String,
    /// Exit status.
    pub status: i32,
}

impl Vm {
    /// The process id of the VMM.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The VMM's executable.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// When the VMM was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The guest's serial port.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// What the VMM has written to its standard error.
    #[must_use]
    pub fn stderr(&self) -> &Console {
        &self.stderr
    }

    /// Waits until the console, from an offset on, holds a text.
    ///
    /// # Errors
    /// It does not come in time, the VMM ends, or the guest's kernel panics.
    pub fn wait_for(&self, text: &str, from: usize, deadline: Duration) -> Result<Found> {
        let end = Instant::now() + deadline;
        self.console.wait_for(text, from, end).map_err(|why| {
            self.evidence(format!(
                "waited {deadline:?} for {text:?} on the console; {why}"
            ))
        })
    }

    /// Waits until the guest is at its init for the n-th time, counted from 1, and takes commands.
    /// Returns when the marker of init arrived, and the seconds that the guest counted until then.
    ///
    /// # Errors
    /// As [`Vm::wait_for`].
    pub fn wait_for_init(&self, boot: u32) -> Result<(Instant, f64)> {
        let mut from = 0;
        let mut marker = None;
        for _ in 0..boot {
            let found = self.wait_for(INIT_MARKER, from, BOOT)?;
            from = self.wait_for(READY_MARKER, found.end, BOOT)?.end;
            marker = Some(found);
        }
        let marker = marker.context("boots are counted from 1")?;
        let line = self.console.text(marker.end);
        let uptime = line.split_whitespace().next().unwrap_or_default();
        let uptime = uptime
            .parse()
            .with_context(|| format!("init said {uptime:?} for a time"))?;
        Ok((marker.at, uptime))
    }

    /// Runs a line of shell in the guest.
    ///
    /// # Errors
    /// It does not end in time, or the line cannot be sent.
    pub fn sh(&self, command: &str, deadline: Duration) -> Result<Output> {
        ensure!(
            !command.contains('\n'),
            "a guest's command is one line; this is more: {command:?}"
        );
        let word = format!("c{}", self.commands.fetch_add(1, Ordering::Relaxed));
        let from = self.console.length();
        let line = format!("{word} {command}\n");
        let mut stdin = self.stdin.as_ref().context("the guest's input is closed")?;
        stdin
            .write_all(line.as_bytes())
            .and_then(|()| stdin.flush())
            .map_err(|error| self.evidence(format!("cannot send {command:?}: {error}")))?;
        let end = Instant::now() + deadline;
        let wait = |text: &str, from| {
            self.console.wait_for(text, from, end).map_err(|why| {
                self.evidence(format!(
                    "waited {deadline:?} for the guest to run {command:?}; {why}"
                ))
            })
        };
        let begin = wait(&format!("\u{1e}{word} begin"), from)?;
        let status = wait(&format!("\u{1e}{word} end "), begin.end)?;
        let line = wait("\n", status.end)?;
        let text = self.console.between(begin.end, status.start);
        let code = self.console.between(status.end, line.start);
        Ok(Output {
            text: text.replace('\r', "").trim_matches('\n').to_owned(),
            status: code
                .trim()
                .parse()
                .with_context(|| format!("the guest said {code:?}"))?,
        })
    }

    /// Runs a line of shell that must succeed, and returns what it printed.
    ///
    /// # Errors
    /// As [`Vm::sh`], or its exit status is not zero.
    pub fn sh_ok(&self, command: &str) -> Result<String> {
        let output = self.sh(command, SOON)?;
        if output.status != 0 {
            let what = format!(
                "{command:?} ended with {} in the guest: {}",
                output.status, output.text
            );
            return Err(self.evidence(what));
        }
        Ok(output.text)
    }

    /// Sends bytes to the guest's serial port as they are.
    ///
    /// # Errors
    /// The VMM does not take them.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        let mut stdin = self.stdin.as_ref().context("the guest's input is closed")?;
        stdin.write_all(bytes)?;
        Ok(stdin.flush()?)
    }

    /// Sends a command that ends or restarts the guest, and so has no answer.
    ///
    /// # Errors
    /// The VMM does not take it.
    pub fn sh_last(&self, command: &str) -> Result<()> {
        self.send(format!("last {command}\n").as_bytes())
    }

    /// Closes the guest's input, as a pipe's other end does when it goes away.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal to the VMM.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to the VMM"))
    }

    /// Presses the power button: SIGTERM for Hotvisor, its monitor's command for QEMU, a request for Cloud Hypervisor.
    ///
    /// # Errors
    /// The VMM cannot be told.
    pub fn press_power_button(&self) -> Result<()> {
        match self.vmm {
            Vmm::Hotvisor => self.signal(Signal::SIGTERM),
            Vmm::CloudHypervisor => match self.api().act("/api/v1/vm.power-button")? {
                Answer { status: 204, .. } => Ok(()),
                answer => Err(self.evidence(format!("the power button: {answer:?}"))),
            },
            Vmm::PeerQemu => self.monitor("system_powerdown"),
        }
    }

    fn monitor(&self, command: &str) -> Result<()> {
        let path = builder::monitor_socket(self.folder.path());
        let mut socket = std::os::unix::net::UnixStream::connect(&path)
            .with_context(|| format!("no monitor at {}", path.display()))?;
        socket.write_all(format!("{command}\n").as_bytes())?;
        // The monitor drops a command whose sender has gone, so stay for its answer.
        socket.set_read_timeout(Some(SOON))?;
        let mut answer = Vec::new();
        let mut buffer = [0; 256];
        while answer
            .windows(7)
            .filter(|window| window == b"(qemu) ")
            .count()
            < 2
        {
            match std::io::Read::read(&mut socket, &mut buffer)? {
                0 => break,
                length => answer.extend_from_slice(&buffer[..length]),
            }
        }
        Ok(())
    }

    /// A client of Hotvisor's API.
    #[must_use]
    pub fn api(&self) -> api::Api<'_> {
        api::Api::new(self, self.api_socket())
    }

    /// Where Hotvisor's API is.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        builder::api_socket(self.folder.path())
    }

    /// A client of Hotvisor's API at a socket that it was given.
    #[must_use]
    pub fn api_at(&self, socket: &Path) -> api::Api<'_> {
        api::Api::new(self, socket.to_owned())
    }

    /// A connection to QEMU's machine protocol.
    ///
    /// # Errors
    /// It is not QEMU that runs here, or it does not answer.
    pub fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&builder::qmp_socket(self.folder.path()))
            .map_err(|error| self.evidence(format!("{error:#}")))
    }

    /// Waits until the VMM's process ends.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        match self.process.wait(Instant::now() + deadline)? {
            Some(status) => Ok(status),
            None => Err(self.evidence(format!("waited {deadline:?} for the VMM to end"))),
        }
    }

    /// Waits until the VMM's process ends with code 0.
    ///
    /// # Errors
    /// It does not, or not in time.
    pub fn wait_success(&self, deadline: Duration) -> Result<()> {
        let status = self.wait_exit(deadline)?;
        if !status.success() {
            return Err(self.evidence(format!("the VMM ended with {status}")));
        }
        Ok(())
    }

    /// Whether the VMM's process is still there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// The VMM's threads.
    ///
    /// # Errors
    /// It has ended.
    pub fn threads(&self) -> Result<Vec<Thread>> {
        let threads = evidence::threads(self.pid());
        if threads.is_empty() {
            bail!("the VMM has ended and has no threads");
        }
        Ok(threads)
    }

    /// The VMM's own memory in KiB: what it has of the host without the guest's RAM, whose size is
    /// given in MiB.
    ///
    /// # Errors
    /// It has ended, or the guest's RAM cannot be told from the rest.
    pub fn own_memory(&self, guest: u32) -> Result<u64> {
        own_memory(self.pid(), guest)
    }

    /// An error that says what went wrong, followed by all that helps to find out why.
    pub fn evidence(&self, what: impl Display) -> anyhow::Error {
        let threads: String = evidence::threads(self.pid())
            .iter()
            .map(|thread| format!("\n{thread}"))
            .collect();
        anyhow!(
            "{what}\n--- end of the console ---\n{}\n--- the VMM said ---\n{}\n\
             --- the VMM's threads ---{threads}",
            self.console.tail(30),
            self.stderr.tail(30),
        )
    }
}

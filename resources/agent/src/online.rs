//! Brings up CPUs that were added: the kernel registers them and leaves them offline.
//!
//! Which of those that are offline shall run? An administrator may have taken one offline on purpose, and it must stay so.
//!
//! | a CPU that is present and offline | the agent |
//! |---|---|
//! | was added while the agent listened (`add` of the kernel's own) | brings it up |
//! | was not there when the agent last looked, before it was started again | brings it up |
//! | has never run since boot, and was not there at boot | brings it up |
//! | has never run since boot, although it was there at boot | brings it up, unless the kernel was told `maxcpus=` or `nosmp` |
//! | has run since boot, or the agent cannot tell | leaves it alone |
//!
//! A CPU has run if there is a thread `cpuhp/N`: Linux makes one when a CPU comes up for the first time, and only parks it
//! afterwards. That it was there at boot shows in its folder `hotplug`, which a CPU that was added later does not get. It can have been
//! there without having run: one that the host adds while the kernel looks for ACPI devices is registered, and nobody starts it.

use std::collections::BTreeSet;
use std::io;

use nix::errno::Errno;

use crate::cpus::{self, CPUS};
use crate::mask::Mask;
use crate::root::Root;
use crate::tasks;

/// How a CPU came to be online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// The agent has brought it up.
    Up,
    /// Somebody was faster: a rule of udev's, or whoever.
    Already,
    /// It is gone again.
    Gone,
}

/// Why a CPU is not online.
#[derive(Debug)]
pub struct NotUp {
    /// What the kernel said.
    pub error: io::Error,
    /// Whether it may say something else a little later: CPU hotplug is off for a moment while the guest boots or probes devices.
    pub is_busy: bool,
}

/// Brings a CPU up, and returns when it runs or cannot.
///
/// # Errors
/// What the kernel says, if the CPU is there and does not run.
pub fn bring_up(root: &Root, cpu: u32) -> Result<Brought, NotUp> {
    match cpus::is_online(root, cpu) {
        Some(false) => {}
        Some(true) => return Ok(Brought::Already),
        None => return Ok(Brought::Gone),
    }
    let written = root.write(&format!("{CPUS}/cpu{cpu}/online"), "1");
    // The kernel may say EBUSY or EINVAL to who was second. What counts is what became of the CPU.
    match (cpus::is_online(root, cpu), written) {
        (Some(true), Ok(())) => Ok(Brought::Up),
        (Some(true), Err(_)) => Ok(Brought::Already),
        (None, _) => Ok(Brought::Gone),
        (Some(false), written) => {
            let error = written.err().unwrap_or_else(|| {
                io::Error::other("the kernel took the order, and the CPU is offline")
            });
            let again = [Errno::EBUSY, Errno::EAGAIN].map(|errno| errno as i32);
            let is_busy = error
                .raw_os_error()
                .is_some_and(|errno| again.contains(&errno));
            Err(NotUp { error, is_busy })
        }
    }
}

/// The CPUs that are offline and shall be brought up when the agent starts; `before` are those that were present when an agent last
/// looked, if one did since boot.
#[must_use]
pub fn at_start(root: &Root, before: Option<Mask>) -> Mask {
    let present = cpus::set(root, "present");
    let offline = present.minus(&cpus::set(root, "online"));
    if offline.is_empty() {
        return offline;
    }
    let have_run: BTreeSet<u32> = tasks::all(root)
        .filter_map(|task| task.comm.strip_prefix("cpuhp/")?.parse().ok())
        .collect();
    if have_run.is_empty() {
        // There is one of the boot CPU at least: these are not the guest's own processes.
        return Mask::default();
    }
    let kept_so = root.read("proc/cmdline").is_ok_and(|line| {
        let mut words = line.split_ascii_whitespace();
        words.any(|word| word == "nosmp" || word.starts_with("maxcpus="))
    });
    let shall_run = |cpu: &u32| {
        let is_new = before.is_some_and(|before| !before.has(*cpu));
        let at_boot = root.has(&format!("{CPUS}/cpu{cpu}/hotplug"));
        is_new || !(have_run.contains(cpu) || at_boot && kept_so)
    };
    Mask::of(offline.iter().filter(shall_run))
}

/// When to try again to bring up a CPU that the kernel was too busy for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// When, in nanoseconds.
    pub at_ns: u64,
    /// How many tries there are after that.
    pub left: u32,
}

impl Retry {
    /// How often it is tried after the first time; the last is 12.7 seconds later.
    const TRIES: u32 = 6;

    /// How long until the first time; twice as long until each further one.
    const FIRST_NS: u64 = 100_000_000;

    /// The first one.
    #[must_use]
    pub fn first(now_ns: u64) -> Self {
        Self {
            at_ns: now_ns,
            left: Self::TRIES,
        }
        .after(now_ns)
    }

    /// The one after this, if there is one.
    #[must_use]
    pub fn next(self, now_ns: u64) -> Option<Self> {
        let left = self.left.checked_sub(1)?;
        Some(Self { left, ..self }.after(now_ns))
    }

    fn after(self, now_ns: u64) -> Self {
        let wait_ns = Self::FIRST_NS << (Self::TRIES - self.left);
        Self {
            at_ns: now_ns + wait_ns,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;

    /// Four CPUs, of which the last two are offline; the last was not there at boot.
    fn guest() -> Picture {
        let picture = Picture::of_cpus(4);
        picture.file("sys/devices/system/cpu/online", "0-1\n");
        for cpu in 2..4 {
            picture.file(&format!("sys/devices/system/cpu/cpu{cpu}/online"), "0\n");
        }
        for cpu in 0..3 {
            picture.file(
                &format!("sys/devices/system/cpu/cpu{cpu}/hotplug/state"),
                "0\n",
            );
        }
        for cpu in 0..2 {
            ran(&picture, cpu);
        }
        picture.file("proc/cmdline", "console=ttyS0\n");
        picture
    }

    fn ran(picture: &Picture, cpu: u32) {
        let (tid, name) = (cpu + 20, format!("cpuhp/{cpu}"));
        picture.task(tid, tid, &name, 0x0420_8040, 0, 0, &cpu.to_string());
    }

    #[test]
    fn what_was_added_and_has_never_run_shall_run() {
        let picture = guest();
        assert_eq!(at_start(picture.root(), None).list(), "2-3");
        picture.file("proc/cmdline", "quiet maxcpus=2\n");
        assert_eq!(at_start(picture.root(), None).list(), "3");
    }

    #[test]
    fn what_an_administrator_took_offline_stays_so() {
        let picture = guest();
        ran(&picture, 2);
        ran(&picture, 3);
        assert_eq!(at_start(picture.root(), None).list(), "");
        let all = Some(Mask::of(0..4));
        assert_eq!(at_start(picture.root(), all).list(), "");
    }

    #[test]
    fn what_came_while_no_agent_listened_shall_run() {
        let picture = guest();
        ran(&picture, 2);
        ran(&picture, 3);
        let before = Some(Mask::of(0..3));
        assert_eq!(at_start(picture.root(), before).list(), "3");
    }

    #[test]
    fn without_the_guests_threads_nothing_can_be_told() {
        let picture = guest();
        picture.remove("proc/20");
        picture.remove("proc/21");
        assert_eq!(at_start(picture.root(), None).list(), "");
    }

    #[test]
    fn a_cpu_is_brought_up_once() {
        let picture = guest();
        assert_eq!(bring_up(picture.root(), 3).unwrap(), Brought::Up);
        assert_eq!(picture.read("sys/devices/system/cpu/cpu3/online"), "1");
        assert_eq!(bring_up(picture.root(), 3).unwrap(), Brought::Already);
        assert_eq!(bring_up(picture.root(), 0).unwrap(), Brought::Already);
        assert_eq!(bring_up(picture.root(), 9).unwrap(), Brought::Gone);
    }

    #[test]
    fn it_is_tried_again_for_seconds_and_not_for_ever() {
        let mut retry = Some(Retry::first(0));
        let mut at = Vec::new();
        while let Some(this) = retry {
            at.push(this.at_ns / 1_000_000);
            retry = this.next(this.at_ns);
        }
        assert_eq!(at, [100, 300, 700, 1500, 3100, 6300, 12700]);
    }
}

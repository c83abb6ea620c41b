//! What the host shows of the VM's process: its threads, and that they are where the API says.

use crate::wire::vcpus::Vcpus;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// `ioctl(_, KVM_RUN, …)` as `/proc` shows it, but for the descriptor in its midst.
const IOCTL: &str = "16";
const KVM_RUN: &str = "0xae80";
/// Threads that are not the vCPUs': the program, the control thread, the API, and room for what they start.
const OTHERS: usize = 8;
/// Descriptors that may be added beside the vCPUs': connections that are on their way out.
const CONNECTIONS: usize = 32;

/// A process.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    proc: PathBuf,
    max: usize,
    /// Descriptors at the beginning.
    descriptors: Option<usize>,
}

/// A thread, as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thread {
    name: String,
    /// One letter: running, sleeping, stopped…
    state: char,
    /// The system call that it is in, by number and arguments; `running` if in none, empty where that may not be seen.
    syscall: String,
}

impl Thread {
    /// Whether it runs a guest, as far as can be seen: it is in `KVM_RUN`, or does something.
    fn is_in_guest(&self) -> bool {
        let mut words = self.syscall.split_whitespace();
        let in_run = words.next() == Some(IOCTL) && words.nth(1) == Some(KVM_RUN);
        in_run && !self.is_stopped() || self.state == 'R'
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't' | 'Z' | 'X')
    }
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            state,
            syscall,
        } = self;
        write!(f, "{name:<16} {state} system call {syscall}")
    }
}

impl Host {
    /// The process of this id, if what its threads do may be seen.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn open(pid: u32, max: u32) -> io::Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        fs::read_to_string(proc.join("syscall"))?;
        let mut host = Self {
            proc,
            max: usize::try_from(max).unwrap_or(usize::MAX),
            descriptors: None,
        };
        host.descriptors = host.descriptors().ok();
        Ok(host)
    }

    fn descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(self.proc.join("fd"))?.count())
    }

    /// Its threads.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn threads(&self) -> io::Result<Vec<Thread>> {
        let tasks = fs::read_dir(self.proc.join("task"))?;
        Ok(tasks
            .flatten()
            .filter_map(|task| thread(&task.path()))
            .collect())
    }

    /// What of it does not fit what the API says.
    pub(crate) fn contradictions(&self, vcpus: &Vcpus) -> Vec<String> {
        let Ok(threads) = self.threads() else {
            return vec!["the process of the VM has no threads".to_owned()];
        };
        let mut found = compare(&threads, vcpus);
        if threads.len() > self.max + OTHERS {
            found.push(format!("the VM has {} threads", threads.len()));
        }
        if let (Some(before), Ok(now)) = (self.descriptors, self.descriptors())
            // Each vCPU has two.
            && now > before + 2 * self.max + CONNECTIONS
        {
            found.push(format!("the VM has {now} descriptors, and had {before}"));
        }
        found
    }
}

fn compare(threads: &[Thread], vcpus: &Vcpus) -> Vec<String> {
    let mut found = Vec::new();
    for vcpu in &vcpus.vcpus {
        let id = vcpu.id;
        let name = format!("vcpu-{id}");
        let mut named = threads.iter().filter(|thread| thread.name == name);
        let thread = named.next();
        if named.next().is_some() {
            found.push(format!("vCPU {id} has two threads"));
        }
        match (&vcpu.thread, thread) {
            (Some(says), Some(is)) if says.running != is.is_in_guest() => {
                let says = if says.running { "runs" } else { "is parked" };
                found.push(format!(
                    "the thread of vCPU {id} {says} by the API, and by the host: {is}"
                ));
            }
            (Some(_), None) => found.push(format!("vCPU {id} has no thread")),
            (None, Some(is)) => found.push(format!("vCPU {id} must have no thread: {is}")),
            _ => {}
        }
    }
    found
}

fn thread(task: &Path) -> Option<Thread> {
    let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold any character.
    let state = read("stat").rsplit_once(") ")?.1.chars().next()?;
    Some(Thread {
        name: read("comm").trim().to_owned(),
        state,
        syscall: read("syscall").trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stress::model::tests::vcpus;

    const RUN: &str = "16 0xc 0xae80 0x0 0x0 0x0 0x0 0x7f 0x7f";
    const FUTEX: &str = "202 0x7f 0x189 0x0 0x0 0x0 0x0 0x7f 0x7f";

    fn thread(name: &str, state: char, syscall: &str) -> Thread {
        Thread {
            name: name.to_owned(),
            state,
            syscall: syscall.to_owned(),
        }
    }

    fn threads() -> Vec<Thread> {
        vec![
            thread("vmm", 'S', FUTEX),
            thread("vcpu-0", 'S', RUN),
            thread("vcpu-1", 'R', "running"),
            thread("vcpu-2", 'S', FUTEX),
        ]
    }

    #[test]
    fn each_thread_alone_can_contradict() {
        let vcpus = vcpus(&["online", "online", "dormant", "absent"]);
        let said = |threads: &[Thread]| compare(threads, &vcpus).join("; ");
        assert_eq!(said(&threads()), "");
        let mut wrong = threads();
        wrong[1].state = 't';
        assert!(
            said(&wrong).contains("vCPU 0 runs by the API"),
            "{}",
            said(&wrong)
        );
        wrong = threads();
        wrong[3].syscall = RUN.to_owned();
        assert!(said(&wrong).contains("vCPU 2 is parked by the API"));
        wrong = threads();
        wrong.remove(2);
        assert_eq!(said(&wrong), "vCPU 1 has no thread");
        wrong = threads();
        wrong.push(wrong[1].clone());
        assert_eq!(said(&wrong), "vCPU 0 has two threads");
        wrong[4].name = "vcpu-3".to_owned();
        assert!(said(&wrong).contains("vCPU 3 must have no thread"));
    }
}

//! Where the threads of a process are.

use std::fmt;
use std::fs;
use std::path::Path;

/// A thread, as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// One letter: running, sleeping, stopped…
    pub state: char,
    /// Kernel function that it sleeps in, if the kernel says so.
    pub sleeps_in: String,
    /// The system call that it is in, by number and arguments, or `running`.
    pub syscall: String,
}

/// `ioctl(_, KVM_RUN, …)` as `/proc` shows it, but for the descriptor in its midst.
const IOCTL: &str = "16";
const KVM_RUN: &str = "0xae80";

impl Thread {
    /// Whether it runs a guest, as far as `/proc` shows: it is in `KVM_RUN`, or it does something. A vCPU's
    /// thread that is parked sleeps elsewhere.
    #[must_use]
    pub fn is_in_guest(&self) -> bool {
        let mut words = self.syscall.split_whitespace();
        let in_run = words.next() == Some(IOCTL) && words.nth(1) == Some(KVM_RUN);
        in_run || self.state == 'R'
    }
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            name,
            state,
            sleeps_in,
            syscall,
        } = self;
        write!(
            f,
            "{id:>6} {name:<16} {state} in {sleeps_in}, system call {syscall}"
        )
    }
}

/// The threads of a process, none if it has ended.
pub(super) fn threads(pid: u32) -> Vec<Thread> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut threads: Vec<Thread> = tasks
        .flatten()
        .filter_map(|task| thread(&task.path()))
        .collect();
    threads.sort_by_key(|thread| thread.id);
    threads
}

fn thread(task: &Path) -> Option<Thread> {
    let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold any character.
    let state = read("stat").rsplit_once(") ")?.1.chars().next()?;
    Some(Thread {
        id: task.file_name()?.to_str()?.parse().ok()?,
        name: read("comm").trim().to_owned(),
        state,
        sleeps_in: read("wchan"),
        syscall: read("syscall").trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_this_thread() {
        let threads = threads(std::process::id());
        assert!(
            threads.iter().any(|thread| thread.state == 'R'),
            "{threads:?}"
        );
    }
}

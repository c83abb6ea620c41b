//! The guest's tasks, thread by thread (proc(5)).

use crate::mask::{Form, Mask};
use crate::root::Root;

/// The task is the kernel's (`PF_KTHREAD` in `include/linux/sched.h`).
const KERNEL: u64 = 0x0020_0000;
/// Its affinity is not to be changed (`PF_NO_SETAFFINITY`): it belongs to its CPUs.
const BOUND: u64 = 0x0400_0000;

/// `SCHED_DEADLINE`.
pub const DEADLINE: u32 = 6;

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub tid: u32,
    /// The id of its process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// When it was started, in ticks since boot: with its id, that is who it is.
    pub start: u64,
    /// Its scheduling policy, by number (sched(7)).
    pub policy: u32,
    /// Its real-time priority, 1 to 99, or 0.
    pub priority: u8,
    /// The CPUs that it may run on, whether there are such CPUs or not.
    pub allowed: Mask,
    flags: u64,
}

impl Task {
    /// Reads one of those that are wanted by their flags; what else there is of the others is not even looked at.
    fn read(root: &Root, pid: u32, tid: u32, is_wanted: fn(u64) -> bool) -> Option<Self> {
        let folder = format!("proc/{pid}/task/{tid}");
        let stat = root.read(&format!("{folder}/stat")).ok()?;
        let (before, after) = stat.rsplit_once(')')?;
        let (_, comm) = before.split_once('(')?;
        // The first one after the name is the third of all.
        let fields: Vec<&str> = after.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let flags = field(9).filter(|flags| is_wanted(*flags))?;
        let status = root.read(&format!("{folder}/status")).ok()?;
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some(Self {
            tid,
            pid,
            comm: comm.to_owned(),
            start: field(22)?,
            policy: u32::try_from(field(41)?).ok()?,
            priority: u8::try_from(field(40)?).ok()?,
            // sched_getaffinity(2) would leave out CPUs that are offline, and putting back what it says would keep the task
            // from them for good.
            allowed: Form::List.parse(list)?,
            flags,
        })
    }

    /// Whether it is one of the kernel's.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        self.flags & KERNEL != 0
    }

    /// Whether its affinity can be changed at all: not that of the kernel's own per-CPU threads, and not that of tasks with promised
    /// CPU time, which may use all CPUs of theirs.
    #[must_use]
    pub fn is_movable(&self) -> bool {
        self.flags & BOUND == 0 && self.policy != DEADLINE
    }

    /// Its policy's name, as chrt(1) has it.
    #[must_use]
    pub fn policy_name(&self) -> String {
        match self.policy {
            0 => "other".to_owned(),
            1 => "fifo".to_owned(),
            2 => "rr".to_owned(),
            3 => "batch".to_owned(),
            5 => "idle".to_owned(),
            DEADLINE => "deadline".to_owned(),
            7 => "ext".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Every thread that is there now; those that end meanwhile may be missing, and those that start may be, too.
pub fn all(root: &Root) -> impl Iterator<Item = Task> + '_ {
    each(root, |_| true)
}

/// The same, without those that belong to their CPUs: most of the threads of an idle guest.
pub fn unbound(root: &Root) -> impl Iterator<Item = Task> + '_ {
    each(root, |flags| flags & BOUND == 0)
}

fn each(root: &Root, is_wanted: fn(u64) -> bool) -> impl Iterator<Item = Task> + '_ {
    root.numbers("proc").into_iter().flat_map(move |pid| {
        let tids = root.numbers(&format!("proc/{pid}/task")).into_iter();
        tids.filter_map(move |tid| Task::read(root, pid, tid, is_wanted))
    })
}

/// When a process was started, in ticks since boot, if it is there.
#[must_use]
pub fn start_of(root: &Root, pid: u32) -> Option<u64> {
    Task::read(root, pid, pid, |_| true).map(|task| task.start)
}

/// Now, in ticks since boot, as start times of tasks are.
#[must_use]
pub fn now(root: &Root) -> u64 {
    // A tick is a hundredth of a second wherever user space can see it (USER_HZ).
    let uptime = root.read("proc/uptime").unwrap_or_default();
    let (seconds, hundredths) = uptime
        .split_ascii_whitespace()
        .next()
        .and_then(|text| text.split_once('.'))
        .unwrap_or_default();
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    number(seconds).saturating_mul(100) + number(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;

    #[test]
    fn names_may_be_anything() {
        let picture = Picture::new();
        picture.task(7, 8, "a) R (b", 0, 1, 50, "0-1");
        let tasks: Vec<Task> = all(picture.root()).collect();
        let [task] = tasks.as_slice() else {
            panic!("{tasks:?}")
        };
        assert_eq!(task.comm, "a) R (b");
        assert_eq!((task.tid, task.pid, task.priority), (8, 7, 50));
        assert_eq!(task.policy_name(), "fifo");
        assert_eq!(task.allowed, Mask::of([0, 1]));
        assert!(task.is_movable() && !task.is_kernel());
    }

    #[test]
    fn per_cpu_threads_stay() {
        let picture = Picture::new();
        picture.task(20, 20, "ksoftirqd/1", 0x0420_8040, 0, 0, "1");
        let task = all(picture.root()).next().unwrap();
        assert!(task.is_kernel() && !task.is_movable());
    }

    #[test]
    fn the_guests_own_tasks_are_there() {
        let real = Root::new(std::path::Path::new("/"));
        let me = std::process::id();
        assert!(all(&real).any(|task| task.pid == me && !task.allowed.is_empty()));
        assert!(start_of(&real, me).is_some_and(|start| start <= now(&real)));
    }
}

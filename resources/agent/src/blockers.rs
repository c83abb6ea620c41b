//! What is bound to one CPU, by name.

use std::fmt::Write;

use hotvisor_protocol::{
    BlockedCpuset, BlockedIrq, BlockedTask, Blocker, Isolated, NohzFull, Text,
};
use nix::errno::Errno;

use crate::cpus;
use crate::deadline;
use crate::knobs::{self, Knob};
use crate::mask::Mask;
use crate::root::Root;
use crate::tasks::{self, Task};

/// What is in the way of taking a CPU away.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Each of it. What Linux refuses for comes first.
    pub blockers: Vec<Blocker>,
    /// What could not be found out.
    pub problem: Option<String>,
}

impl Found {
    /// Whether something would be broken, or Linux would refuse: other entries only tell of the CPU.
    #[must_use]
    pub fn is_in_the_way(&self) -> bool {
        self.blockers.iter().any(|blocker| match blocker {
            Blocker::BlockedTask(_) | Blocker::BlockedIrq(_) | Blocker::BlockedCpuset(_) => true,
            other => other.refuses(),
        })
    }
}

/// Finds what is bound to a CPU, by Linux's number of it.
#[must_use]
pub fn find(root: &Root, cpu: u32) -> Found {
    let online = cpus::set(root, "online").with(cpu);
    let only = Mask::of([cpu]);
    let is_bound = |mask: &Mask| mask.and(&online) == only;
    let mut found = Found::default();
    let (promised, others): (Vec<Task>, Vec<Task>) = tasks::unbound(root)
        .filter(|task| task.policy == tasks::DEADLINE || is_bound(&task.allowed))
        .partition(|task| task.policy == tasks::DEADLINE);
    if let Some((bandwidth, unknown)) = deadline::without(root, cpu, &promised) {
        found.blockers.push(bandwidth.into());
        found.problem = (unknown > 0).then(|| {
            format!("this kernel does not say what was promised to {unknown} SCHED_DEADLINE tasks")
        });
    }
    let set = cpus::set(root, "isolated");
    if set.has(cpu) {
        let others_too = online.without(cpu).minus(&set).is_empty();
        found.blockers.push(Isolated { others_too }.into());
    }
    let set = cpus::set(root, "nohz_full");
    if set.has(cpu) {
        let others_too = online.without(cpu).minus(&set).is_empty();
        found.blockers.push(NohzFull { others_too }.into());
    }
    // The kernel's own per-CPU threads are not among them: they come and go with the CPU.
    found
        .blockers
        .extend(others.iter().map(|task| named(task).into()));
    for (irq, knob) in knobs::irqs(root) {
        if let Some(name) = bound_irq(root, irq, &knob, is_bound) {
            found.blockers.push(BlockedIrq { irq, name }.into());
        }
    }
    let sets = knobs::cpusets(root).into_iter();
    let sets = sets.filter(|knob| knob.read(root).is_some_and(|(_, mask)| is_bound(&mask)));
    let paths = sets.map(|knob| Text::new(knobs::group_of(&knob)));
    found
        .blockers
        .extend(paths.map(|path| BlockedCpuset { path }.into()));
    found
}

fn named(task: &Task) -> BlockedTask {
    BlockedTask {
        tid: task.tid,
        pid: task.pid,
        comm: Text::new(&task.comm),
        policy: Text::new(&task.policy_name()),
        priority: task.priority,
        cpus: Text::new(&task.allowed.list()),
    }
}

/// Whose interrupt this is, if it may go to one CPU only and somebody chose that.
fn bound_irq(
    root: &Root,
    irq: u32,
    knob: &Knob,
    is_bound: impl Fn(&Mask) -> bool,
) -> Option<Text<64>> {
    let (text, _) = knob.read(root).filter(|(_, mask)| is_bound(mask))?;
    let names = knobs::handlers(root, irq);
    if names.is_empty() {
        return None;
    }
    // One for each CPU, managed by the kernel: it is shut down and started with its CPU. The kernel shows in nothing else that it
    // is; to write what is there already changes nothing.
    let written = root.write(&knob.path, &text);
    let is_managed = written.is_err_and(|error| error.raw_os_error() == Some(Errno::EIO as i32));
    (!is_managed).then(|| Text::new(&names.join(" ")))
}

/// A table for people.
#[must_use]
pub fn table(cpu: u32, found: &Found) -> String {
    let mut text = String::new();
    if found.blockers.is_empty() {
        text = format!("Nothing is bound to CPU {cpu}.\n");
    }
    for blocker in &found.blockers {
        let (kind, what) = words(blocker);
        let refuses = if blocker.refuses() {
            "Linux refuses"
        } else {
            ""
        };
        let line = format!("{kind:<9} {what:<58} {refuses}");
        // A string takes everything.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if let Some(problem) = &found.problem {
        let _ = writeln!(text, "note      {problem}");
    }
    text
}

fn words(blocker: &Blocker) -> (&'static str, String) {
    let share = |ppm: u64| format!("{}.{} %", ppm / 10_000, ppm / 1000 % 10);
    match blocker {
        Blocker::BlockedTask(task) => {
            let BlockedTask {
                tid,
                pid,
                comm,
                policy,
                priority,
                cpus,
            } = task;
            let priority = if *priority > 0 {
                format!(" {priority}")
            } else {
                String::new()
            };
            let process = if tid == pid {
                String::new()
            } else {
                format!(" of {pid}")
            };
            (
                "task",
                format!("{tid}{process} {comm}, {policy}{priority}, on {cpus}"),
            )
        }
        Blocker::BlockedIrq(irq) => ("irq", format!("{} {}", irq.irq, irq.name)),
        Blocker::BlockedCpuset(set) => ("cpuset", set.path.to_string()),
        Blocker::Isolated(isolated) => ("isolated", also(isolated.others_too)),
        Blocker::NohzFull(nohz) => ("nohz_full", also(nohz.others_too)),
        Blocker::DeadlineBandwidth(bandwidth) => {
            let promised = share(bandwidth.promised_ppm);
            let room = match bandwidth.room_ppm {
                u64::MAX => "no limit".to_owned(),
                ppm => format!("room for {} without it", share(ppm)),
            };
            (
                "deadline",
                format!(
                    "{} tasks, {promised} of a CPU promised, {room}",
                    bandwidth.tasks
                ),
            )
        }
    }
}

fn also(others_too: bool) -> String {
    let text = if others_too {
        "as are all others that are online"
    } else {
        "others are not"
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;

    fn guest() -> Picture {
        let picture = Picture::of_cpus(4);
        picture.task(5, 6, "pinned", 0, 1, 50, "2");
        picture.task(7, 7, "wide", 0, 0, 0, "0-3");
        // CPU 9 is not there: it can run on no other.
        picture.task(8, 8, "alone", 0, 0, 0, "2,9");
        picture.task(9, 9, "ksoftirqd/2", 0x0420_8040, 0, 0, "2");
        picture.file("proc/irq/10/smp_affinity_list", "2\n");
        picture.file("proc/irq/10/eth0-rx/x", "");
        picture.file("proc/irq/11/smp_affinity_list", "2\n");
        picture.file("proc/irq/12/smp_affinity_list", "0-2\n");
        picture.file("proc/irq/12/acpi/x", "");
        picture.file("sys/fs/cgroup/lab/cpuset.cpus", "2\n");
        picture.file("sys/devices/system/cpu/isolated", "2\n");
        picture.file("sys/devices/system/cpu/nohz_full", "0-3\n");
        picture
    }

    #[test]
    fn what_is_bound_has_names() {
        let found = find(guest().root(), 2);
        assert_eq!(
            table(2, &found),
            "isolated  others are not\n\
             nohz_full as are all others that are online                          Linux refuses\n\
             task      6 of 5 pinned, fifo 50, on 2\n\
             task      8 alone, other, on 2,9\n\
             irq       10 eth0-rx\n\
             cpuset    /lab\n"
        );
        assert!(found.is_in_the_way());
    }

    #[test]
    fn other_cpus_are_free() {
        let picture = guest();
        picture.file("sys/devices/system/cpu/nohz_full", " (null)\n");
        let found = find(picture.root(), 3);
        assert_eq!(found, Found::default());
        assert_eq!(table(3, &found), "Nothing is bound to CPU 3.\n");
    }

    #[test]
    fn what_only_tells_of_the_cpu_is_not_in_the_way() {
        let picture = Picture::of_cpus(4);
        picture.file("sys/devices/system/cpu/isolated", "2\n");
        let found = find(picture.root(), 2);
        assert_eq!(found.blockers.len(), 1);
        assert!(!found.is_in_the_way());
    }
}

//! The guest's files that say on which CPUs something runs: interrupts, work queues, network queues, sets of CPUs.

use hotvisor_protocol::Moved;
use serde::{Deserialize, Serialize};

use crate::mask::{Form, Mask};
use crate::root::Root;

/// How deep sets of CPUs may lie in each other, and how many there may be: more are left alone.
const DEEPEST: usize = 16;
const MOST_SETS: usize = 4096;

/// Where control groups are: those of version 2, and the set of version 1.
const GROUPS: &str = "sys/fs/cgroup";
const CPUSETS: &str = "sys/fs/cgroup/cpuset";

/// What a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// A set of CPUs, of either version of control groups.
    Cpuset,
    /// An interrupt, or the default of new ones.
    Irq,
    /// Work queues that are bound to no CPU.
    Workqueue,
    /// A queue of a network device: where it is received (RPS), or from where it is sent (XPS).
    Queue,
}

impl About {
    /// Where it is counted.
    pub fn count(self, moved: &mut Moved) -> &mut u32 {
        match self {
            Self::Cpuset => &mut moved.cpusets,
            Self::Irq => &mut moved.irqs,
            Self::Workqueue => &mut moved.workqueues,
            Self::Queue => &mut moved.queues,
        }
    }
}

/// A file that says on which CPUs something runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knob {
    /// Its path.
    pub path: String,
    /// What it is about.
    pub about: About,
    /// How it is written.
    pub form: Form,
}

impl Knob {
    fn new(path: String, about: About, form: Form) -> Self {
        Self { path, about, form }
    }

    /// What it says, and the CPUs of that; `None` where it is gone, or nobody can read it.
    #[must_use]
    pub fn read(&self, root: &Root) -> Option<(String, Mask)> {
        let text = root.read(&self.path).ok()?;
        let mask = self.form.parse(&text)?;
        Some((text, mask))
    }
}

/// Everything that says where something runs, in the order in which CPUs are taken out of it: a set before the one that it lies in,
/// as version 1 wants it. They are put back in the other order.
#[must_use]
pub fn all(root: &Root) -> Vec<Knob> {
    let mut found = cpusets(root);
    found.reverse();
    let handled = irqs(root)
        .into_iter()
        .filter(|(irq, _)| !handlers(root, *irq).is_empty());
    found.extend(handled.map(|(_, knob)| knob));
    let default = "proc/irq/default_smp_affinity".to_owned();
    found.push(Knob::new(default, About::Irq, Form::Hex));
    found.extend(workqueues(root));
    found.extend(queues(root));
    found.retain(|knob| root.has(&knob.path));
    found
}

/// Interrupts, with their numbers.
#[must_use]
pub fn irqs(root: &Root) -> Vec<(u32, Knob)> {
    let knob = |irq: u32| {
        let path = format!("proc/irq/{irq}/smp_affinity_list");
        (irq, Knob::new(path, About::Irq, Form::List))
    };
    root.numbers("proc/irq").into_iter().map(knob).collect()
}

/// Who handles an interrupt: each has a folder of its name. Without one, nobody listens.
#[must_use]
pub fn handlers(root: &Root, irq: u32) -> Vec<String> {
    let folder = format!("proc/irq/{irq}");
    let mut names = root.list(&folder);
    names.retain(|name| root.path(&format!("{folder}/{name}")).is_dir());
    names
}

fn workqueues(root: &Root) -> Vec<Knob> {
    const FOLDER: &str = "sys/devices/virtual/workqueue";
    let names = root.list(FOLDER).into_iter();
    let each = names.map(|name| format!("{FOLDER}/{name}/cpumask"));
    let paths = each.chain([format!("{FOLDER}/cpumask")]);
    paths
        .map(|path| Knob::new(path, About::Workqueue, Form::Hex))
        .collect()
}

fn queues(root: &Root) -> Vec<Knob> {
    const FOLDER: &str = "sys/class/net";
    let mut found = Vec::new();
    for device in root.list(FOLDER) {
        let queues = format!("{FOLDER}/{device}/queues");
        for queue in root.list(&queues) {
            let file = if queue.starts_with("rx-") {
                "rps_cpus"
            } else {
                "xps_cpus"
            };
            let path = format!("{queues}/{queue}/{file}");
            found.push(Knob::new(path, About::Queue, Form::Hex));
        }
    }
    found
}

/// Sets of CPUs that name some, the outer before the inner ones.
#[must_use]
pub fn cpusets(root: &Root) -> Vec<Knob> {
    let mut found = Vec::new();
    // A mount of version 1 has a file that version 2 has not, and may lie in a folder of the same name.
    let old = root.has(&format!("{CPUSETS}/cpuset.cpu_exclusive"));
    let top = if old { CPUSETS } else { GROUPS };
    // What is at the top is not a set but all CPUs.
    for group in root.list(top) {
        below(root, &format!("{top}/{group}"), 1, &mut found);
    }
    found
}

fn below(root: &Root, folder: &str, depth: usize, found: &mut Vec<Knob>) {
    let path = root.path(folder);
    if depth > DEEPEST || found.len() >= MOST_SETS || !path.is_dir() || path.is_symlink() {
        return;
    }
    let knob = Knob::new(format!("{folder}/cpuset.cpus"), About::Cpuset, Form::List);
    // One that names none takes those of the one around it.
    if knob.read(root).is_some_and(|(_, mask)| !mask.is_empty()) {
        found.push(knob);
    }
    for group in root.list(folder) {
        below(root, &format!("{folder}/{group}"), depth + 1, found);
    }
}

/// A set's path below the mount point of control groups.
#[must_use]
pub fn group_of(knob: &Knob) -> &str {
    let path = knob.path.strip_suffix("/cpuset.cpus").unwrap_or(&knob.path);
    path.strip_prefix(GROUPS).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;

    #[test]
    fn inner_sets_come_before_outer_ones_and_all_else_after() {
        let picture = Picture::new();
        picture.file("sys/fs/cgroup/a/cpuset.cpus", "0-3\n");
        picture.file("sys/fs/cgroup/a/b/cpuset.cpus", "0-1\n");
        picture.file("sys/fs/cgroup/a/c/cpuset.cpus", "\n");
        for irq in 9..11 {
            picture.file(&format!("proc/irq/{irq}/smp_affinity_list"), "0-1\n");
            picture.file(&format!("proc/irq/{irq}/disk/x"), "");
        }
        picture.file("proc/irq/11/smp_affinity_list", "0-1\n");
        picture.file("proc/irq/default_smp_affinity", "3\n");
        picture.file("sys/devices/virtual/workqueue/cpumask", "f\n");
        picture.file("sys/devices/virtual/workqueue/writeback/cpumask", "f\n");
        picture.file("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n");
        picture.file("sys/class/net/eth0/queues/tx-0/xps_cpus", "f\n");
        let paths: Vec<String> = all(picture.root())
            .into_iter()
            .map(|knob| knob.path)
            .collect();
        assert_eq!(
            paths,
            [
                "sys/fs/cgroup/a/b/cpuset.cpus",
                "sys/fs/cgroup/a/cpuset.cpus",
                "proc/irq/9/smp_affinity_list",
                "proc/irq/10/smp_affinity_list",
                "proc/irq/default_smp_affinity",
                "sys/devices/virtual/workqueue/writeback/cpumask",
                "sys/devices/virtual/workqueue/cpumask",
                "sys/class/net/eth0/queues/rx-0/rps_cpus",
                "sys/class/net/eth0/queues/tx-0/xps_cpus",
            ]
        );
    }

    #[test]
    fn sets_of_version_1_are_found() {
        let picture = Picture::new();
        picture.file("sys/fs/cgroup/cpuset/cpuset.cpu_exclusive", "1\n");
        picture.file("sys/fs/cgroup/cpuset/cpuset.cpus", "0-3\n");
        picture.file("sys/fs/cgroup/cpuset/lab/cpuset.cpus", "2-3\n");
        let found = cpusets(picture.root());
        let [knob] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(group_of(knob), "/cpuset/lab");
    }
}

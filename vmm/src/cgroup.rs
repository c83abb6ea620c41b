//! How much memory the host's control groups let this process have.
//!
//! A guest uses its memory bit by bit, so that a limit is met long after the boot, and then the kernel kills the VMM. cgroup v2:
//! `memory.max` of the process's group and of each above it (Linux, `Documentation/admin-guide/cgroup-v2.rst`); v1:
//! `memory.limit_in_bytes` (`Documentation/admin-guide/cgroup-v1/memory.rst`). In a container, and under our unit for systemd,
//! the limits of groups above its own cannot be seen.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use tracing::warn;

/// What a VMM and its page tables need beside the guest's memory: at least so many bytes, and this part of it.
const OWN: u64 = 16 << 20;
const OWN_PART: u64 = 512;

/// The least limit that holds for this process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryLimit {
    bytes: u64,
    /// Where it is set.
    file: PathBuf,
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB ({})", self.bytes >> 20, self.file.display())
    }
}

impl MemoryLimit {
    /// That of this process, if there is one. To be asked before it gives up what it can reach.
    #[must_use]
    pub fn find() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::among(&groups, &mounts, Path::new("/"))
    }

    /// Says so where a machine of so many bytes does not fit in.
    pub(crate) fn warn_if_less_than(&self, memory: u64) {
        let needs = memory + memory / OWN_PART + OWN;
        if self.bytes < needs {
            warn!(
                "asked for {} MiB of guest memory, and the control group of this process has a memory limit of {self}: the \
                 kernel kills Hotvisor when it and the guest need more; raise the limit to {} MiB, or give the guest \
                 less memory",
                memory >> 20,
                needs.div_ceil(1 << 20)
            );
        }
    }

    /// The least of those that hold for the groups in `/proc/PID/cgroup` and can be seen where `/proc/PID/mountinfo` says.
    fn among(groups: &str, mounts: &str, root: &Path) -> Option<Self> {
        let mounts = || mounts.lines().filter_map(Mount::read);
        let limits = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, Path::new(parts.next()?));
            let (kind, file) = match controllers {
                "" => ("cgroup2", "memory.max"),
                _ => ("cgroup", "memory.limit_in_bytes"),
            };
            let mut controllers = controllers.split(',');
            if kind == "cgroup" && !controllers.any(|controller| controller == "memory") {
                return None;
            }
            let ours = mounts().filter(|mount| mount.is(kind));
            ours.filter_map(|mount| mount.least(path, file, root)).min()
        });
        limits.min()
    }
}

/// Where control groups can be seen (`proc_pid_mountinfo(5)`).
struct Mount<'a> {
    /// The group at the top of it.
    group: &'a str,
    folder: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (before, behind) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (group, folder) = (before.next()?, before.next()?);
        let mut behind = behind.split(' ');
        Some(Self {
            group,
            folder,
            kind: behind.next()?,
            options: behind.nth(1)?,
        })
    }

    fn is(&self, kind: &str) -> bool {
        let memory = || self.options.split(',').any(|option| option == "memory");
        self.kind == kind && (kind == "cgroup2" || memory())
    }

    /// The least number in the files of this name, of a group and of those above it.
    fn least(&self, path: &Path, file: &str, root: &Path) -> Option<MemoryLimit> {
        // Outside of what can be seen there is nothing of ours.
        let inside = path.strip_prefix(self.group).ok()?;
        if inside.starts_with("..") {
            return None;
        }
        let top = root.join(self.folder.trim_start_matches('/'));
        let group = top.join(inside);
        let up = group
            .ancestors()
            .take_while(|group| group.starts_with(&top));
        let limits = up.filter_map(|group| {
            let file = group.join(file);
            let text = fs::read_to_string(&file).ok()?;
            // Without a limit: `max`, or in v1 more than there can be.
            let bytes = text.trim().parse().ok()?;
            Some(MemoryLimit { bytes, file })
        });
        limits.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 23 0:28 /pod /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join("sys/fs/cgroup").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn bytes(groups: &str, mounts: &str, root: &Path) -> Option<u64> {
        MemoryLimit::among(groups, mounts, root).map(|limit| limit.bytes)
    }

    #[test]
    fn the_least_of_a_group_and_those_above_it_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let of = |groups| bytes(groups, V2, root);
        assert_eq!(of("0::/pod/vm\n"), None);
        write(root, "pod/memory.max", "1073741824\n");
        write(root, "pod/vm/memory.max", "max\n");
        assert_eq!(of("0::/pod/vm\n"), Some(1 << 30));
        write(root, "pod/vm/memory.max", "4096\n");
        let limit = MemoryLimit::among("0::/pod/vm\n", V2, root).unwrap();
        assert!(limit.file.ends_with("pod/vm/memory.max"), "{limit}");
        assert_eq!(of("0::/other\n"), None);
        // A container whose group is the topmost that it sees.
        write(root, "memory.max", "8192\n");
        assert_eq!(of("0::/\n"), Some(8192));
        // It was put elsewhere since.
        assert_eq!(of("0::/../elsewhere\n"), None);
    }

    #[test]
    fn the_older_hierarchies_are_known_too() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(
            root,
            "memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        write(root, "memory/vm/memory.limit_in_bytes", "65536\n");
        let of = |groups| bytes(groups, V1, root);
        let groups = "12:cpu,cpuacct:/pod/vm\n5:memory:/pod/vm\nnonsense\n";
        assert_eq!(of(groups), Some(65536));
        assert_eq!(of("5:memory:/pod\n"), Some(9_223_372_036_854_771_712));
        assert_eq!(of("5:memory:/seen/from/outside\n"), None);
        assert_eq!(of("12:cpu:/pod/vm\n"), None);
    }
}

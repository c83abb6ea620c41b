//! How much memory the host's control groups let this process have.
//!
//! Whoever uses more is killed, a VMM with its guest; and a guest uses its memory bit by bit, so that this comes long after
//! the boot. cgroup v2: `memory.max` of the process's group and of each above it (Linux,
//! `Documentation/admin-guide/cgroup-v2.rst`); v1: `memory.limit_in_bytes`
//! (`Documentation/admin-guide/cgroup-v1/memory.rst`).

use std::fs;
use std::path::{Path, PathBuf};
use tracing::warn;

/// The most bytes that this process may have, where there is a limit. To be asked before it gives up what it can reach.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit(&groups, Path::new("/sys/fs/cgroup"))
}

/// Says so where a machine of so many bytes is more than the limit.
pub(crate) fn hold_against(memory: u64, limit: Option<u64>) {
    if let Some(limit) = limit.filter(|limit| *limit <= memory) {
        warn!(
            "guest memory of {} MiB: the control group of this process may have {} MiB in all, and the kernel kills \
             Hotvisor when the guest uses more; raise the group's memory.max, or lower --memory size=",
            memory >> 20,
            limit >> 20
        );
    }
}

/// The least of all limits that hold for the groups that `/proc/PID/cgroup` names.
fn limit(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.is_empty() {
            return least(root.to_owned(), path, "memory.max");
        }
        let mut controllers = controllers.split(',');
        controllers.find(|controller| *controller == "memory")?;
        least(root.join("memory"), path, "memory.limit_in_bytes")
    });
    limits.min()
}

/// The least number in the files of this name, in a group and in those above it. In a container the path may be one that
/// is seen from elsewhere; what can be seen is the topmost.
fn least(top: PathBuf, path: &str, file: &str) -> Option<u64> {
    let group = top.join(path.trim_start_matches('/'));
    let up = group
        .ancestors()
        .take_while(|group| group.starts_with(&top));
    let numbers = up.filter_map(|group| {
        let text = fs::read_to_string(group.join(file)).ok()?;
        // Without a limit: `max`, or in v1 more than there can be.
        text.trim().parse().ok()
    });
    numbers.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_of_a_group_and_those_above_it_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let of = |groups| limit(groups, root);
        assert_eq!(of("0::/pod/vm\n"), None);
        write(root, "pod/memory.max", "1073741824\n");
        write(root, "pod/vm/memory.max", "max\n");
        assert_eq!(of("0::/pod/vm\n"), Some(1 << 30));
        write(root, "pod/vm/memory.max", "4096\n");
        assert_eq!(of("0::/pod/vm\n"), Some(4096));
        assert_eq!(of("0::/other\n"), None);
        // Seen from inside a container.
        write(root, "memory.max", "8192\n");
        assert_eq!(of("0::/../elsewhere\n"), Some(8192));
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
        write(root, "memory/pod/memory.limit_in_bytes", "65536\n");
        let groups = "12:cpu,cpuacct:/pod\n5:memory:/pod\nnonsense\n";
        assert_eq!(limit(groups, root), Some(65536));
        assert_eq!(
            limit("5:memory:/seen/from/outside\n", root),
            Some(9_223_372_036_854_771_712)
        );
        assert_eq!(limit("12:cpu:/pod\n", root), None);
    }
}

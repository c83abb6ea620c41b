//! A picture of a guest's `/proc` and `/sys`, for tests.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::root::Root;

pub(crate) struct Picture {
    _folder: TempDir,
    root: Root,
}

impl Picture {
    /// One of nothing.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        Self {
            _folder: folder,
            root,
        }
    }

    /// One with CPUs that are online, each with its number as its APIC id plus ten.
    pub(crate) fn of_cpus(count: u32) -> Self {
        let picture = Self::new();
        let set = format!("0-{}\n", count - 1);
        picture.file("sys/devices/system/cpu/present", &set);
        picture.file("sys/devices/system/cpu/online", &set);
        let about = |cpu| format!("processor\t: {cpu}\napicid\t\t: {}\n\n", cpu + 10);
        let cpuinfo: String = (0..count).map(about).collect();
        picture.file("proc/cpuinfo", &cpuinfo);
        picture.file("sys/devices/system/cpu/cpu0/uevent", "");
        for cpu in 1..count {
            picture.file(&format!("sys/devices/system/cpu/cpu{cpu}/online"), "1\n");
        }
        picture.file("proc/uptime", "50.00 10.00\n");
        picture
    }

    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    pub(crate) fn file(&self, path: &str, text: &str) {
        let path = self.root.path(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        self.root.read(path).unwrap()
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.root.path(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// A thread that was started at ten times its id.
    #[allow(clippy::too_many_arguments, reason = "as many as /proc has of it")]
    pub(crate) fn task(
        &self,
        pid: u32,
        tid: u32,
        comm: &str,
        flags: u64,
        policy: u32,
        priority: u8,
        cpus: &str,
    ) {
        let folder = format!("proc/{pid}/task/{tid}");
        let start = tid * 10;
        let mut fields = vec!["0".to_owned(); 50];
        for (number, value) in [
            (3, "S".to_owned()),
            (9, flags.to_string()),
            (22, start.to_string()),
            (40, priority.to_string()),
            (41, policy.to_string()),
        ] {
            fields[number - 3] = value;
        }
        let stat = format!("{tid} ({comm}) {}\n", fields.join(" "));
        self.file(&format!("{folder}/stat"), &stat);
        let status = format!("Name:\t{comm}\nCpus_allowed_list:\t{cpus}\n");
        self.file(&format!("{folder}/status"), &status);
    }

    /// The CPUs that a thread may run on.
    pub(crate) fn affinity(&self, pid: u32, tid: u32) -> String {
        let status = self.read(&format!("proc/{pid}/task/{tid}/status"));
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.unwrap().trim().to_owned()
    }
}

//! The guest's own files: `/proc`, `/sys`, `/run`, or a picture of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::mask::Mask;

/// Most bytes that are read of one file. What the agent reads whole is shorter by far.
const FILE_MAX: u64 = 256 * 1024;

/// Where the guest's files are. Paths are given without the `/` that they begin with.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// The files below a folder: `/`, or a picture of it.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Whether these are the guest's files themselves, and not a picture.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// A file's whole path.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// What a file says, without white space around it.
    ///
    /// # Errors
    /// Those of the file.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let mut text = Vec::new();
        File::open(self.path(path))?
            .take(FILE_MAX)
            .read_to_end(&mut text)?;
        // Names of tasks can be any bytes.
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// The lines of a file that may be long.
    ///
    /// # Errors
    /// Those of opening it; a line that cannot be read is the last.
    pub fn lines(&self, path: &str) -> io::Result<impl Iterator<Item = String> + use<>> {
        let file = BufReader::new(File::open(self.path(path))?);
        Ok(file.lines().map_while(Result::ok))
    }

    /// Writes to a file that is there, in one piece.
    ///
    /// # Errors
    /// Those of the file; the kernel's answer to what was written is one.
    pub fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(self.path(path))?;
        file.write_all(text.as_bytes())
    }

    /// The names in a folder, sorted; none if there is no such folder.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }

    /// The numbers in a folder whose names are such, sorted.
    #[must_use]
    pub fn numbers(&self, path: &str) -> Vec<u32> {
        let names = self.list(path);
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Whether there is such a file.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Lets a task run on these CPUs only. In a picture of a guest that is a line of the task's `status`.
    ///
    /// # Errors
    /// Those of `sched_setaffinity(2)`, or those of the picture's files.
    pub fn set_affinity(&self, pid: u32, tid: u32, mask: &Mask) -> io::Result<()> {
        if !self.is_real() {
            return self.set_pictured_affinity(pid, tid, mask);
        }
        let mut set = CpuSet::new();
        for cpu in mask.iter() {
            set.set(cpu as usize)?;
        }
        let tid = i32::try_from(tid).map_err(io::Error::other)?;
        Ok(sched_setaffinity(Pid::from_raw(tid), &set)?)
    }

    fn set_pictured_affinity(&self, pid: u32, tid: u32, mask: &Mask) -> io::Result<()> {
        const KEY: &str = "Cpus_allowed_list:";
        let path = format!("proc/{pid}/task/{tid}/status");
        let status = self.read(&path)?;
        let others = status.lines().filter(|line| !line.starts_with(KEY));
        let mut lines: Vec<String> = others.map(str::to_owned).collect();
        lines.push(format!("{KEY}\t{}\n", mask.list()));
        self.write(&path, &lines.join("\n"))
    }
}

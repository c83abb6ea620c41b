//! What kernels tell of themselves: L1's KVM of a guest's exits, and a guest's kernel of its own work.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hotvisor_tests::vm::Vm;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const TRACEFS: &str = "/sys/kernel/tracing";
const DEBUGFS: &str = "/sys/kernel/debug";

/// A buffer of our own for some kinds of events, which is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Trace {
    folder: PathBuf,
}

impl Trace {
    /// Collects these events from now on, each with the condition on which it counts.
    pub(super) fn begin(name: &str, events: &[(&str, &str)]) -> Result<Self> {
        let folder = Path::new(TRACEFS).join("instances").join(name);
        fs::create_dir(&folder)
            .with_context(|| format!("cannot trace in {}; only root may", folder.display()))?;
        let trace = Self { folder };
        for (event, filter) in events {
            trace.write(&format!("events/{event}/filter"), filter)?;
            trace.write(&format!("events/{event}/enable"), "1")?;
        }
        Ok(trace)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, text)
            .with_context(|| format!("cannot write {text:?} to {}", path.display()))
    }

    pub(super) fn clear(&self) -> Result<()> {
        self.write("trace", "")
    }

    /// Number of events since it was cleared.
    pub(super) fn count(&self) -> Result<usize> {
        let text = fs::read_to_string(self.folder.join("trace"))?;
        Ok(text.lines().filter(|line| !line.starts_with('#')).count())
    }

    /// Events as they come.
    pub(super) fn follow(&self) -> Result<Follow> {
        let pipe = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(self.folder.join("trace_pipe"))?;
        Ok(Follow {
            pipe: BufReader::new(pipe),
        })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Nothing else is lost if it stays.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Events as they come, each a line.
#[derive(Debug)]
pub(super) struct Follow {
    pipe: BufReader<File>,
}

impl Follow {
    /// The next event, and when it was read.
    pub(super) fn next(&mut self, end: Instant) -> Result<(String, Instant)> {
        let mut line = String::new();
        loop {
            match self.pipe.read_line(&mut line) {
                Ok(0) => bail!("the trace has ended"),
                Ok(_) if line.ends_with('\n') => return Ok((line, Instant::now())),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no such event came in time");
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1))?;
            let pipe = self.pipe.get_ref().as_fd();
            poll(&mut [PollFd::new(pipe, PollFlags::POLLIN)], timeout)?;
        }
    }
}

/// Counts the exits of one VM's guest.
#[derive(Debug)]
pub(super) struct Exits {
    /// Those to the VMM for registers, without the serial port's, with which the guest talks to us.
    registers: Trace,
    /// Where KVM counts all.
    all: PathBuf,
}

/// `KVM_EXIT_MMIO` of linux/kvm.h. KVM tells of port I/O by an event of its own, with the port.
const REGISTERS: [(&str, &str); 2] = [
    ("kvm/kvm_userspace_exit", "reason == 6"),
    ("kvm/kvm_pio", "port < 0x3f8 || port > 0x3ff"),
];

impl Exits {
    /// Of the only VM that there is.
    pub(super) fn begin() -> Result<Self> {
        let kvm = Path::new(DEBUGFS).join("kvm");
        if !kvm.exists() {
            mount(
                Some("debugfs"),
                DEBUGFS,
                Some("debugfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .context("cannot mount debugfs, where KVM counts; only root may")?;
        }
        // The name of a VM's folder is the id of the thread that made it, and a descriptor.
        let names: Vec<String> = fs::read_dir(&kvm)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let is_vm = |name: &&String| name.starts_with(|first: char| first.is_ascii_digit());
        let mut vms = names.iter().filter(is_vm);
        let vm = vms.next().with_context(|| {
            let kvm = kvm.display();
            format!("KVM counts for no VM: in {kvm} there are only {names:?}")
        })?;
        ensure!(vms.next().is_none(), "KVM counts for several VMs");
        Ok(Self {
            registers: Trace::begin("registers", &REGISTERS)?,
            all: kvm.join(vm).join("exits"),
        })
    }

    /// All exits so far.
    pub(super) fn all(&self) -> Result<u64> {
        Ok(fs::read_to_string(&self.all)?.trim().parse()?)
    }

    /// Exits for registers from now on.
    pub(super) fn clear(&self) -> Result<()> {
        self.registers.clear()
    }

    /// How many there were for registers.
    pub(super) fn registers(&self) -> Result<usize> {
        self.registers.count()
    }
}

/// The functions of the guest's kernel that take a CPU up or down, whoever asks, and the words that its trace has
/// for when each begins and ends.
const FUNCTIONS: [(&str, &str); 2] = [("up", "cpu_device_up"), ("down", "cpu_device_down")];

/// Has a guest's kernel note from when to when it brings CPUs up and takes them down.
pub(super) fn note_hotplug(vm: &Vm) -> Result<()> {
    let mut script = "cd /sys/kernel/tracing && echo mono >trace_clock".to_owned();
    for (word, function) in FUNCTIONS {
        script += &format!(
            " && echo 'p:{word}_begin {function}' >>kprobe_events && echo 'r:{word}_end {function}' >>kprobe_events"
        );
    }
    script += " && echo 1 >events/kprobes/enable";
    vm.sh_ok(&script).map(drop)
}

/// How long each time took, in milliseconds, in the order of time; what was noted is forgotten.
pub(super) fn noted_hotplug(vm: &Vm) -> Result<Noted> {
    let words = r"(up|down)_(begin|end)";
    let text = vm.sh_ok(&format!(
        "cd /sys/kernel/tracing && sed -nE 's/.* ([0-9]+\\.[0-9]+): {words}: .*/\\1 \\2 \\3/p' trace && echo >trace"
    ))?;
    Noted::read(&text).with_context(|| format!("the guest noted {text:?}"))
}

/// Milliseconds of the kernel's own.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Noted {
    pub(super) up: Vec<f64>,
    pub(super) down: Vec<f64>,
}

impl Noted {
    fn read(text: &str) -> Result<Self> {
        let mut noted = Self::default();
        let mut begun = None;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [at, which, end] = words[..] else {
                bail!("{line:?} is no event");
            };
            let at: f64 = at.parse()?;
            match (end, begun.take()) {
                ("begin", None) => begun = Some((which, at)),
                ("end", Some((of, begin))) if of == which => {
                    let ms = (at - begin) * 1000.0;
                    let times = if which == "up" {
                        &mut noted.up
                    } else {
                        &mut noted.down
                    };
                    times.push(ms);
                }
                _ => bail!("{line:?} has no begin or no end"),
            }
        }
        ensure!(begun.is_none(), "the last one has no end");
        Ok(noted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_and_ends_are_paired() {
        let text = "5.100000 up begin\n5.102500 up end\n6.000000 down begin\n6.020000 down end\n";
        let noted = Noted::read(text).unwrap();
        assert_eq!(noted.up.len(), 1);
        assert!((noted.up[0] - 2.5).abs() < 1e-6 && (noted.down[0] - 20.0).abs() < 1e-6);
        for text in [
            "1.0 up begin\n",
            "1.0 up end\n",
            "1.0 up begin\n2.0 down end\n",
            "x\n",
        ] {
            assert!(Noted::read(text).is_err(), "{text}");
        }
    }
}

//! What a machine is to be, and the checks that need no host.

use crate::arch::layout;
use crate::cgroup::MemoryLimit;
use crate::error::{Error, Result};
pub use hotvisor_devices::cpu_hotplug::GuestEject;
use std::path::PathBuf;
use std::time::Duration;

/// Most possible vCPUs of a machine; KVM may allow fewer.
pub const MAX_CPUS: u32 = 1024;

/// A machine.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// bzImage or ELF vmlinux.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// vCPUs.
    pub cpus: Cpus,
    /// Guest memory in bytes.
    pub memory: u64,
    /// COM1.
    pub serial: Serial,
    /// The socket device, if there is one.
    pub vsock: Option<Vsock>,
}

/// A socket device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vsock {
    /// The guest's context id.
    pub cid: u32,
    /// The Unix socket by which programs on the host reach those in the guest.
    pub socket: PathBuf,
}

/// How the process treats its machine, whichever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What a guest's reset does.
    pub on_reset: OnReset,
    /// How long a guest may take to power off after a signal had its power button pressed.
    pub shutdown_timeout: Duration,
    /// What becomes of an ejection that the guest does on its own account.
    pub guest_eject: GuestEject,
    /// How long an operation may take whose request names no other time.
    pub operation_timeout: Duration,
    /// How long the thread of an ejected vCPU is kept; `None` for ever.
    pub dormant_timeout: Option<Duration>,
    /// How much memory the host lets this process have, where that is limited.
    pub memory_limit: Option<MemoryLimit>,
}

/// How many vCPUs a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// vCPUs at boot.
    pub boot: u32,
    /// vCPUs that the guest can ever have.
    pub max: u32,
}

/// Where COM1 leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// Standard input and output.
    Tty,
    /// Output into a file, no input.
    File(PathBuf),
    /// A Unix socket that one client at a time connects to.
    Socket(PathBuf),
    /// A port with nothing behind it.
    Null,
    /// No port.
    Off,
}

/// What a guest's reset does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReset {
    /// The guest starts again, in the same process.
    Restart,
    /// The process ends.
    Exit,
}

impl Cpus {
    /// Checks the counts against each other and against what this program can lay out.
    ///
    /// # Errors
    /// [`Error::Input`] naming the count that does not fit.
    pub fn validate(self) -> Result<()> {
        let Self { boot, max } = self;
        let asked = format!("cpus boot={boot},max={max}");
        if boot == 0 {
            return Err(Error::input(
                asked,
                "a machine without a CPU",
                "ask for boot=1 or more",
            ));
        }
        if boot > max {
            let remedy = format!("raise max to {boot} or lower boot to {max}");
            return Err(Error::input(asked, "boot is greater than max", remedy));
        }
        if max > MAX_CPUS {
            let found = format!("{max} possible CPUs, and {MAX_CPUS} is the most");
            return Err(Error::input(
                asked,
                found,
                format!("lower max to {MAX_CPUS}"),
            ));
        }
        Ok(())
    }
}

impl Vsock {
    /// The first context id of a guest: those below are the hypervisor's, the local one and the host's.
    const FIRST: u32 = 3;
    /// The last one: the next means "any".
    const LAST: u32 = u32::MAX - 1;
    /// Most bytes of the path: behind it a port is written, and a Unix socket's address has 107 at most.
    const LONGEST: usize = 107 - "_4294967295".len();

    /// Checks it as far as that needs no host.
    ///
    /// # Errors
    /// [`Error::Input`] for what does not fit.
    pub fn validate(&self) -> Result<()> {
        let Self { cid, socket } = self;
        if !(Self::FIRST..=Self::LAST).contains(cid) {
            let remedy = format!("ask for one from {} to {}", Self::FIRST, Self::LAST);
            return Err(Error::input(
                format!("vsock cid={cid}"),
                "no guest can have this context id",
                remedy,
            ));
        }
        let asked = format!("vsock socket={}", socket.display());
        match socket.as_os_str().len() {
            0 => Err(Error::input(asked, "no path", "name one, as /run/vm.vsock")),
            1..=Self::LONGEST => Ok(()),
            _ => Err(Error::input(
                asked,
                "too long for a socket's address with a port behind it",
                format!("name a path of at most {} bytes", Self::LONGEST),
            )),
        }
    }
}

impl VmConfig {
    /// Checks everything that needs neither files nor KVM.
    ///
    /// # Errors
    /// [`Error::Input`] for the first thing that does not fit.
    pub fn validate(&self) -> Result<()> {
        self.cpus.validate()?;
        let (min, max) = (layout::MIN_MEMORY, layout::MAX_MEMORY);
        if !(min..=max).contains(&self.memory) || !self.memory.is_multiple_of(layout::PAGE) {
            return Err(Error::input(
                format!("memory size={}", self.memory),
                "not a size that a machine can have",
                format!(
                    "ask for {}M to {}G in whole pages of 4K",
                    min >> 20,
                    max >> 30
                ),
            ));
        }
        if let Some(vsock) = &self.vsock {
            vsock.validate()?;
        }
        if self.cmdline.contains('\0') {
            return Err(Error::input(
                "cmdline",
                "a NUL byte in it",
                "leave the NUL byte out",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_ids_and_paths_that_cannot_be_are_refused() {
        let vsock = |cid, socket: &str| {
            let socket = socket.into();
            Vsock { cid, socket }.validate()
        };
        for cid in [3, 52, u32::MAX - 1] {
            assert_eq!(vsock(cid, "/run/vm.vsock"), Ok(()));
        }
        for cid in [0, 1, 2, u32::MAX] {
            let said = vsock(cid, "/run/vm.vsock").unwrap_err().to_string();
            assert!(said.contains("3 to 4294967294"), "{said}");
        }
        assert_eq!(vsock(3, &"x".repeat(96)), Ok(()));
        let said = vsock(3, &"x".repeat(97)).unwrap_err().to_string();
        assert!(said.contains("at most 96 bytes"), "{said}");
        assert!(vsock(3, "").unwrap_err().to_string().contains("no path"));
    }

    #[test]
    fn counts_that_do_not_fit_are_named() {
        let refused = |boot, max| Cpus { boot, max }.validate().unwrap_err().to_string();
        assert!(refused(0, 4).contains("without a CPU"));
        assert!(refused(5, 4).contains("greater than max"));
        assert!(refused(1, 1025).contains("1024 is the most"));
        assert_eq!(
            Cpus {
                boot: 1024,
                max: 1024
            }
            .validate(),
            Ok(())
        );
    }
}

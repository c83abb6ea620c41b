//! The command line of a VMM, and its start.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use anyhow::{Context, Result};

use super::watch::Watched;
use super::{Console, Vm};

/// Which VMM to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// Hotvisor.
    Hotvisor,
    /// Debian's QEMU, to compare with.
    PeerQemu,
    /// Cloud Hypervisor, to compare with.
    CloudHypervisor,
}

/// A VM to be started.
#[derive(Clone, Debug)]
pub struct Builder {
    vmm: Vmm,
    program: PathBuf,
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    cmdline: String,
    boot_cpus: u32,
    max_cpus: u32,
    memory: u32,
    serial: String,
    /// What a shell does before it becomes Hotvisor.
    before: Vec<String>,
    /// The user and the group that it runs as, if not this process's.
    user: Option<(u32, u32)>,
    api: bool,
    machine: bool,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Vm {
    /// A VM under Hotvisor, by the path of its executable.
    #[must_use]
    pub fn hotvisor(program: impl Into<PathBuf>) -> Builder {
        Builder::new(Vmm::Hotvisor, program.into())
    }

    /// A VM under Cloud Hypervisor, or whatever takes its options, by the name of its executable.
    #[must_use]
    pub fn cloud_hypervisor(program: impl Into<PathBuf>) -> Builder {
        Builder::new(Vmm::CloudHypervisor, program.into())
    }

    /// A VM under Debian's QEMU with KVM.
    #[must_use]
    pub fn peer_qemu() -> Builder {
        Builder::new(Vmm::PeerQemu, "qemu-system-x86_64".into())
    }
}

/// Where QEMU listens for commands.
pub(super) fn monitor_socket(folder: &Path) -> PathBuf {
    folder.join("monitor")
}

/// Where QEMU listens for programs.
pub(super) fn qmp_socket(folder: &Path) -> PathBuf {
    folder.join("qmp")
}

/// Where Hotvisor listens for requests.
pub(super) fn api_socket(folder: &Path) -> PathBuf {
    folder.join("api")
}

impl Builder {
    fn new(vmm: Vmm, program: PathBuf) -> Self {
        Self {
            vmm,
            program,
            kernel: PathBuf::new(),
            initramfs: None,
            cmdline: "console=ttyS0 quiet".to_owned(),
            boot_cpus: 1,
            max_cpus: 1,
            memory: 512,
            serial: "tty".to_owned(),
            before: Vec::new(),
            user: None,
            api: true,
            machine: true,
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// The kernel: a bzImage, or an ELF file with a PVH note.
    #[must_use]
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.kernel = path.into();
        self
    }

    /// The initial RAM file system.
    #[must_use]
    pub fn initramfs(mut self, path: impl Into<PathBuf>) -> Self {
        self.initramfs = Some(path.into());
        self
    }

    /// The kernel's parameters, instead of `console=ttyS0 quiet`.
    #[must_use]
    pub fn cmdline(mut self, cmdline: &str) -> Self {
        cmdline.clone_into(&mut self.cmdline);
        self
    }

    /// Number of vCPUs at boot, and the number that it can grow to.
    #[must_use]
    pub fn cpus(mut self, boot: u32, max: u32) -> Self {
        self.boot_cpus = boot;
        self.max_cpus = max;
        self
    }

    /// The guest's memory in MiB.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }

    /// Where Hotvisor's serial port leads, instead of standard input and output.
    #[must_use]
    pub fn serial(mut self, serial: impl Into<String>) -> Self {
        self.serial = serial.into();
        self
    }

    /// Starts Hotvisor with these signals (`HUP INT`) ignored, as `nohup` does.
    #[must_use]
    pub fn ignoring(mut self, signals: &str) -> Self {
        self.before.push(format!("trap '' {signals}"));
        self
    }

    /// Starts Hotvisor where a process has this many descriptors unless it asks for more.
    #[must_use]
    pub fn descriptors(mut self, number: u32) -> Self {
        self.before.push(format!("ulimit -Sn {number}"));
        self
    }

    /// Starts Hotvisor where no file may have anything written to it (`RLIMIT_FSIZE`).
    #[must_use]
    pub fn without_files(mut self) -> Self {
        self.before.push("ulimit -f 0".to_owned());
        self
    }

    /// Starts Hotvisor in a control group, by its folder.
    #[must_use]
    pub fn control_group(mut self, folder: &Path) -> Self {
        let procs = folder.join("cgroup.procs");
        self.before.push(format!("echo $$ >{}", procs.display()));
        self
    }

    /// Starts the VMM as this user, in this group and no other.
    #[must_use]
    pub fn user(mut self, user: u32, group: u32) -> Self {
        self.user = Some((user, group));
        self
    }

    /// Hotvisor serves no API.
    #[must_use]
    pub fn without_api(mut self) -> Self {
        self.api = false;
        self
    }

    /// Hotvisor makes no machine: a client is to create one.
    #[must_use]
    pub fn without_machine(mut self) -> Self {
        self.machine = false;
        self
    }

    /// One more argument for the VMM.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// An environment variable of the VMM's.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The guest does not restart: when it reboots, the VMM ends.
    #[must_use]
    pub fn no_reboot(self) -> Self {
        let flag = match self.vmm {
            Vmm::Hotvisor => "--no-reboot",
            Vmm::PeerQemu => "-no-reboot",
            // It has no such option: it restarts.
            Vmm::CloudHypervisor => return self,
        };
        self.arg(flag)
    }

    /// Starts the VMM.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self) -> Result<Vm> {
        let folder = tempfile::Builder::new().prefix("vm-").tempdir()?;
        let mut command = match self.vmm {
            Vmm::Hotvisor => self.hotvisor(folder.path()),
            Vmm::PeerQemu => self.qemu(folder.path()),
            Vmm::CloudHypervisor => self.cloud_hypervisor(folder.path()),
        };
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some((user, group)) = self.user {
            // Its sockets are there.
            chown(folder.path(), Some(user), Some(group))?;
            command.uid(user).gid(group);
        }
        let started = Instant::now();
        let (process, pipes) = Watched::spawn(&mut command)?;
        let missing = "the VMM was started without a pipe";
        Ok(Vm {
            vmm: self.vmm,
            program: self.program.clone(),
            process,
            stdin: pipes.stdin,
            console: Console::collect("vm-console", pipes.stdout.context(missing)?)?,
            stderr: Console::collect("vmm-stderr", pipes.stderr.context(missing)?)?,
            started,
            commands: AtomicU32::new(0),
            folder,
        })
    }

    fn hotvisor(&self, folder: &Path) -> Command {
        let mut command = match &self.before[..] {
            [] => Command::new(&self.program),
            before => {
                let mut shell = Command::new("sh");
                let before = before.join("; ");
                shell.args(["-c", &format!("{before}; exec \"$0\" \"$@\"")]);
                shell.arg(&self.program);
                shell
            }
        };
        command.arg("run");
        if self.machine {
            self.describe(&mut command);
        }
        if self.api {
            command.arg("--api-socket").arg(api_socket(folder));
        }
        command.args(&self.args);
        command
    }

    /// Its options are Hotvisor's, without a subcommand.
    fn cloud_hypervisor(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        self.describe(&mut command);
        command.arg("--api-socket").arg(api_socket(folder));
        command.args(&self.args);
        command
    }

    /// What Hotvisor's machine is to be.
    fn describe(&self, command: &mut Command) {
        command.arg("--kernel").arg(&self.kernel);
        if let Some(initramfs) = &self.initramfs {
            command.arg("--initramfs").arg(initramfs);
        }
        command.args(["--cmdline", &self.cmdline]);
        command.args([
            "--cpus",
            &format!("boot={},max={}", self.boot_cpus, self.max_cpus),
        ]);
        command.args(["--memory", &format!("size={}M", self.memory)]);
        command.args(["--serial", &self.serial, "--console", "off"]);
    }

    fn qemu(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-no-user-config", "-nodefaults", "-display", "none"]);
        // Names its threads by what they do.
        command.args(["-name", "guest,debug-threads=on"]);
        command.args(["-machine", "q35", "-accel", "kvm", "-cpu", "host"]);
        command.args([
            "-smp",
            &format!("{},maxcpus={}", self.boot_cpus, self.max_cpus),
        ]);
        command.args(["-m", &self.memory.to_string()]);
        command.arg("-kernel").arg(&self.kernel);
        if let Some(initramfs) = &self.initramfs {
            command.arg("-initrd").arg(initramfs);
        }
        command.args(["-append", &self.cmdline]);
        command.args([
            "-chardev",
            "stdio,id=serial,signal=off",
            "-serial",
            "chardev:serial",
        ]);
        for (option, socket) in [
            ("-monitor", monitor_socket(folder)),
            ("-qmp", qmp_socket(folder)),
        ] {
            let listen = format!("unix:{},server=on,wait=off", socket.display());
            command.args([option, &listen]);
        }
        command.args(&self.args);
        command
    }
}

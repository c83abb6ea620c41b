//! `hotvisor run`.

use super::{log, options, say};
use crate::server::{Bound, Place, Server};
use hotvisor_vmm::cgroup::MemoryLimit;
use hotvisor_vmm::config::{OnReset, Rules, VmConfig};
use hotvisor_vmm::control::{Control, Prepared, Signals};
use hotvisor_vmm::end::End;
use hotvisor_vmm::hotplug::gate::Gate;
use hotvisor_vmm::isolation::confinement::{self, Grant, Landlock, Paths};
use hotvisor_vmm::isolation::seccomp::{self, Seccomp};
use hotvisor_vmm::isolation::{Role, confine, give_up, hide_memory};
use hotvisor_vmm::stream::NewFile;
use hotvisor_vmm::{Error, Result, heap, kvm, vsock};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tracing::info;

/// What `--help` ends with.
const AFTER_HELP: &str = "\
Ends:
  SIGTERM, SIGINT and SIGHUP press the guest's power button; a second one, or the timeout, ends the
  process. A guest that resets starts again in the same process.

Exit codes:
  0  the guest powered off        4  internal error of KVM
  1  the host failed              5  an exit that nobody handles
  2  bad input                    6  ended before the guest had powered off
  3  triple fault                 7  a system call that Hotvisor never makes

Example:
  hotvisor run --kernel /boot/vmlinuz --initramfs initramfs.cpio --cpus boot=2,max=8 \\
      --memory size=1G --cmdline \"console=ttyS0 quiet\"";

/// Boot a guest and run it to its end, or wait for the API to create one
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Kernel: a bzImage, or an ELF vmlinux with a PVH entry point; without one, the API creates the machine
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Initial RAM file system
    #[arg(long, value_name = "PATH", requires = "kernel")]
    initramfs: Option<PathBuf>,
    /// The kernel's command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "console=ttyS0",
        allow_hyphen_values = true,
        requires = "kernel"
    )]
    cmdline: String,
    /// vCPUs at boot, and how many the guest can ever have
    #[arg(
        long,
        value_name = "boot=N,max=M",
        default_value = "boot=1",
        requires = "kernel"
    )]
    cpus: String,
    /// Guest memory: bytes, or with K, M, G, T
    #[arg(
        long,
        value_name = "size=SIZE",
        default_value = "size=512M",
        requires = "kernel"
    )]
    memory: String,
    /// First serial port; tty is standard input and output [default: tty]
    #[arg(
        long,
        value_name = "tty|file=PATH|socket=PATH|null|off",
        hide_default_value = true,
        default_value = "tty",
        requires = "kernel"
    )]
    serial: String,
    /// Virtio console: there is none
    #[arg(long, value_name = "off", default_value = "off", requires = "kernel")]
    console: String,
    /// Socket device: the guest's context id, and the Unix socket by which programs on the host reach those in the guest
    #[arg(long, value_name = "cid=N,socket=PATH", requires = "kernel")]
    vsock: Option<String>,
    /// Unix socket of the REST API; fd=N is a listening one that was passed on under that number
    #[arg(long, value_name = "PATH|fd=N")]
    api_socket: Option<PathBuf>,
    /// What becomes of a vCPU that the guest ejects on its own account
    #[arg(long, value_name = "honour|ignore", default_value = "honour")]
    guest_eject: String,
    /// How long a plug or an unplug may take whose request names no other time
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    operation_timeout: u32,
    /// How long the thread of an ejected vCPU is kept for the next plug
    #[arg(long, value_name = "SECONDS|never", default_value = "300")]
    dormant_timeout: String,
    /// End when the guest resets, instead of starting it again
    #[arg(long)]
    no_reboot: bool,
    /// How long the guest may take to power off after its button was pressed
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    shutdown_timeout: u32,
    /// What a system call comes to that Hotvisor never makes: the end of the process, a line in the kernel's log, nothing
    #[arg(long, value_name = "true|log|false", default_value = "true")]
    seccomp: String,
    /// Reach no files but those that are named here: where the kernel can do it, or else not start, or not at all
    #[arg(
        long,
        value_name = "auto|true|false",
        num_args = 0..=1,
        default_value = "auto",
        default_missing_value = "true"
    )]
    landlock: String,
    /// Files, or all that is in a folder, that machines may be made of which clients of the API create; repeatable
    #[arg(long, value_name = "path=PATH,access=r|w|rw")]
    landlock_rules: Vec<String>,
    /// Let other processes of this user read the guest's memory, and the kernel write it into core files
    #[arg(long)]
    dumpable: bool,
    /// Say more; twice for even more
    #[arg(short = 'v', long = "verbose", action = clap::ArgAction::Count)]
    verbosity: u8,
    /// Write messages to this file instead of standard error
    #[arg(long, value_name = "PATH")]
    log_file: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, extend: impl FnOnce(&mut Control)) -> ExitCode {
        let started = self.start(extend);
        let (end, made) = started.unwrap_or_else(|e| (End::Failed(e), Made::default()));
        match &end {
            End::PoweredOff | End::Reset | End::Asked(_) => info!("{end}"),
            End::Failed(_) | End::Fault(..) | End::Abandoned(_) => say(&end),
        }
        if let End::Failed(error) = &end {
            made.undo(error);
        }
        ExitCode::from(end.code())
    }

    fn start(&self, extend: impl FnOnce(&mut Control)) -> Result<(End, Made)> {
        let (rules, config, isolation) = (self.rules()?, self.config()?, self.isolation()?);
        if config.is_none() && self.api_socket.is_none() {
            let remedy = "name a kernel with --kernel, or a socket with --api-socket to create a machine through";
            return Err(Error::input("hotvisor run", "nothing to run", remedy));
        }
        // Before any other thread exists.
        if !self.dumpable {
            hide_memory()?;
        }
        let signals = Signals::take()?;
        heap::share_arena();
        Gate::prepare();
        seccomp::choose(isolation.seccomp)?;
        let mut made = Made {
            log: log::start(self.verbosity, self.log_file.as_deref())?,
            serial: None,
        };
        let begun = self.begin(config, isolation, &mut made);
        let end = match begun {
            Ok((bound, prepared)) => {
                // Where no machine is to have any, no thread may connect to anybody.
                let sockets = prepared.as_ref().is_none_or(Prepared::has_vsock);
                run(bound, sockets, extend, move |control| {
                    control.run(rules, prepared, signals)
                })
            }
            Err(error) => End::Failed(error),
        };
        Ok((end, made))
    }

    /// Opens everything, whose bad names are bad input and known before there is a machine, and gives up the rest.
    fn begin(
        &self,
        config: Option<VmConfig>,
        isolation: Isolation,
        made: &mut Made,
    ) -> Result<(Option<Bound>, Option<Prepared>)> {
        let place = self.api_socket.as_deref().map(options::api_socket);
        let place = place.transpose()?;
        let bound = place.as_ref().map(Server::bind).transpose()?;
        let mut prepared = None;
        if let Some(config) = config {
            let (opened, serial) = Prepared::open(config)?;
            made.serial = serial;
            prepared = Some(opened);
        }
        let socket = match &place {
            Some(Place::Path(path)) => Some(path.as_path()),
            Some(Place::Passed(_)) | None => None,
        };
        let removed = socket.into_iter().chain(made.paths());
        let removed = removed.map(Grant::removal).collect();
        let machines = isolation.machines(prepared.as_ref())?;
        give_up()?;
        confinement::enforce(isolation.landlock, Paths { machines, removed })?;
        Ok((bound, prepared))
    }

    /// How any machine is treated.
    fn rules(&self) -> Result<Rules> {
        Ok(Rules {
            on_reset: if self.no_reboot {
                OnReset::Exit
            } else {
                OnReset::Restart
            },
            shutdown_timeout: Duration::from_secs(self.shutdown_timeout.into()),
            guest_eject: options::guest_eject(&self.guest_eject)?,
            operation_timeout: Duration::from_secs(self.operation_timeout.into()),
            dormant_timeout: options::dormant_timeout(&self.dormant_timeout)?,
            memory_limit: MemoryLimit::find(),
        })
    }

    /// What this process gives up.
    fn isolation(&self) -> Result<Isolation> {
        let rules = self.landlock_rules.iter();
        Ok(Isolation {
            seccomp: options::seccomp(&self.seccomp)?,
            landlock: options::landlock(&self.landlock)?,
            rules: rules
                .map(|rule| options::landlock_rule(rule))
                .collect::<Result<_>>()?,
        })
    }

    /// The machine that the options describe.
    fn config(&self) -> Result<Option<VmConfig>> {
        let Some(kernel) = self.kernel.clone() else {
            return Ok(None);
        };
        options::console(&self.console)?;
        let config = VmConfig {
            kernel,
            initramfs: self.initramfs.clone(),
            cmdline: self.cmdline.clone(),
            cpus: options::cpus(&self.cpus)?,
            memory: options::memory(&self.memory)?,
            serial: options::serial(&self.serial)?,
            vsock: self.vsock.as_deref().map(options::vsock).transpose()?,
        };
        config.validate()?;
        Ok(Some(config))
    }
}

/// What this process gives up, as it was asked for.
struct Isolation {
    seccomp: Seccomp,
    landlock: Landlock,
    rules: Vec<Grant>,
}

impl Isolation {
    /// What machines may be made of, if it is known.
    fn machines(&self, prepared: Option<&Prepared>) -> Result<Option<Vec<Grant>>> {
        if prepared.is_none() && self.rules.is_empty() {
            if self.landlock == Landlock::Required {
                let remedy = "name what machines may be made of with --landlock-rules, or use --landlock auto";
                let found = "nothing says what clients may create";
                return Err(Error::input("--landlock true", found, remedy));
            }
            return Ok(None);
        }
        let ours = [Some(Grant::device(kvm::DEVICE)), Grant::stdout()];
        let named = prepared.map_or_else(Vec::new, Prepared::grants);
        let all = ours.into_iter().flatten().chain(named);
        Ok(Some(all.chain(self.rules.iter().cloned()).collect()))
    }
}

/// Files that were not there before.
#[derive(Default)]
struct Made {
    log: Option<NewFile>,
    serial: Option<NewFile>,
}

impl Made {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.log.iter().chain(&self.serial).map(NewFile::path)
    }

    /// What was refused leaves nothing behind.
    fn undo(&self, error: &Error) {
        self.serial.iter().for_each(NewFile::undo_if_empty);
        if matches!(error, Error::Input(_)) {
            self.log.iter().for_each(NewFile::undo);
        }
    }
}

/// Serves the API, if there is one, and the guest's sockets where a machine may have some, and has a thread of its own run
/// machines to their end.
fn run(
    bound: Option<Bound>,
    sockets: bool,
    extend: impl FnOnce(&mut Control),
    body: impl FnOnce(Control) -> End + Send + 'static,
) -> End {
    supervise(bound, sockets, extend, body).unwrap_or_else(End::Failed)
}

fn supervise(
    bound: Option<Bound>,
    sockets: bool,
    extend: impl FnOnce(&mut Control),
    body: impl FnOnce(Control) -> End + Send + 'static,
) -> Result<End> {
    let asked = "control thread";
    let mut control = Control::new()?;
    extend(&mut control);
    let sockets = sockets.then(vsock::Thread::start).transpose()?;
    if let Some(thread) = &sockets {
        control.serve_sockets(thread.client());
    }
    let server = bound
        .map(|bound| bound.serve(control.client()))
        .transpose()?;
    let (go, goes) = mpsc::channel();
    let control = thread::Builder::new()
        .name("vmm".into())
        .spawn(move || goes.recv().ok().map(|()| body(control)))
        .map_err(|e| Error::host(asked, e, "raise the limit of threads (`ulimit -u`)"))?;
    // Its own filter comes after its last thread is born, and before there is a guest.
    confine(Role::Main)?;
    // The thread waits for this.
    let _ = go.send(());
    let end = control.join().unwrap_or_else(|_| {
        let remedy = "this is a bug in Hotvisor: please report it with the message above";
        Some(End::Failed(Error::host(asked, "it panicked", remedy)))
    });
    if let Some(server) = server {
        server.stop();
    }
    if let Some(sockets) = sockets {
        sockets.stop();
    }
    end.ok_or_else(|| Error::bug(asked, "it was not told to begin"))
}

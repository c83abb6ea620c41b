//! `hotvisor run`.

use super::{log, options, say};
use crate::server::Server;
use hotvisor_vmm::config::{OnReset, Rules, VmConfig};
use hotvisor_vmm::control::{Control, Signals};
use hotvisor_vmm::end::End;
use hotvisor_vmm::heap;
use hotvisor_vmm::hotplug::gate::Gate;
use hotvisor_vmm::isolation::seccomp::{self, Role};
use hotvisor_vmm::{Error, Result};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
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
    /// Say more; twice for even more
    #[arg(short = 'v', long = "verbose", action = clap::ArgAction::Count)]
    verbosity: u8,
    /// Write messages to this file instead of standard error
    #[arg(long, value_name = "PATH")]
    log_file: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, extend: impl FnOnce(&mut Control)) -> ExitCode {
        let (end, log_file) = match self.start(extend) {
            Ok((end, log_file)) => (end, log_file),
            Err(error) => (End::Failed(error), None),
        };
        match &end {
            End::PoweredOff | End::Reset | End::Asked(_) => info!("{end}"),
            End::Failed(_) | End::Fault(..) | End::Abandoned(_) => say(&end),
        }
        if let (End::Failed(Error::Input(_)), Some(log_file)) = (&end, log_file) {
            log_file.undo();
        }
        ExitCode::from(end.code())
    }

    fn start(&self, extend: impl FnOnce(&mut Control)) -> Result<(End, Option<log::LogFile>)> {
        let (rules, config) = (self.rules()?, self.config()?);
        let filters = options::seccomp(&self.seccomp)?;
        if config.is_none() && self.api_socket.is_none() {
            let remedy = "name a kernel with --kernel, or a socket with --api-socket to create a machine through";
            return Err(Error::input("hotvisor run", "nothing to run", remedy));
        }
        // Before any other thread exists.
        let signals = Signals::take()?;
        heap::share_arena();
        Gate::prepare();
        seccomp::choose(filters)?;
        let log_file = log::start(self.verbosity, self.log_file.as_deref())?;
        // A bad path is bad input: known before there is a machine.
        let bound = match &self.api_socket {
            Some(socket) => Some(Server::bind(&options::api_socket(socket)?)?),
            None => None,
        };
        let mut control = Control::new()?;
        extend(&mut control);
        let server = bound
            .map(|bound| bound.serve(control.client()))
            .transpose()?;
        let asked = "control thread";
        let (go, goes) = mpsc::channel();
        let control = std::thread::Builder::new()
            .name("vmm".into())
            .spawn(move || match goes.recv() {
                Ok(()) => control.run(rules, config, signals),
                Err(_) => End::Asked("nobody"),
            })
            .map_err(|e| Error::host(asked, e, "raise the limit of threads (`ulimit -u`)"))?;
        // Its own filter comes after its last thread is born, and before there is a guest.
        seccomp::confine(Role::Main)?;
        // The thread waits for this.
        let _ = go.send(());
        let end = control.join().unwrap_or_else(|_| {
            let remedy = "this is a bug in Hotvisor: please report it with the message above";
            End::Failed(Error::host(asked, "it panicked", remedy))
        });
        if let Some(server) = server {
            server.stop();
        }
        Ok((end, log_file))
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
        };
        config.validate()?;
        Ok(Some(config))
    }
}

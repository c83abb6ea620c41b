//! A guest as a user starts it, and `hotvisor stress` beside it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Scenario, Serial, Summary, clients, scenario};
use crate::artifacts::{Artifacts, Image};
use crate::kernels::Kernel;
use crate::vm::{BOOT, Builder, READY_MARKER, SOON, Vm, Watched};

/// The guest's memory in MiB. Its image is in there too.
const MEMORY: u32 = 512;

/// The guest without an operating system.
const BARE: &[u8] = include_bytes!(env!("HOTVISOR_BAREMETAL_GUEST"));

/// How long a single step may take before the whole is given up. A guest's boot is one.
const STEP: Duration = Duration::from_secs(240);

/// A guest whose vCPUs come and go.
#[derive(Debug)]
pub struct Guest {
    vm: Vm,
    /// Where its serial port is, if it has a shell.
    serial: Option<PathBuf>,
    kernel: Option<Kernel>,
    /// Holds the serial port's socket, and what the VMM writes.
    folder: tempfile::TempDir,
}

/// How long to go on, and with what.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// What the steps follow from.
    pub seed: u64,
    /// How many steps; otherwise it is the time that ends it.
    pub steps: Option<u64>,
    /// For how long.
    pub time: Duration,
    /// The steps and their weights, in place of the scenario's.
    pub mix: Option<String>,
    /// Whether what it says is kept, but not shown.
    pub quiet: bool,
}

/// What a run of `hotvisor stress` came to.
#[derive(Debug)]
pub struct Run {
    /// Its exit code, if it was no signal that ended it.
    pub code: Option<i32>,
    /// What it counted, if it came to that.
    pub summary: Option<Summary>,
    /// How many programs were killed meanwhile.
    pub killed: u64,
    /// One of them that ended by itself.
    pub client: Option<anyhow::Error>,
}

impl Guest {
    /// Boots the guest for a scenario with one of the kernels, and has it start its load.
    ///
    /// # Errors
    /// It does not come up.
    pub fn boot(artifacts: &Artifacts, kernel: Kernel, scenario: &Scenario) -> Result<Self> {
        let load = scenario.load.map(|load| format!("hotvisor.load={load}"));
        let guest = Self::start(artifacts, kernel, scenario, load.as_deref().unwrap_or(""))?;
        let mut serial = guest.serial()?;
        serial
            .wait_for(READY_MARKER, BOOT)
            .map_err(|error| guest.vm.evidence(format!("{error:#}")))?;
        at_work(&mut serial, scenario)?;
        Ok(guest)
    }

    fn start(
        artifacts: &Artifacts,
        kernel: Kernel,
        scenario: &Scenario,
        load: &str,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("stress-").tempdir()?;
        let serial = folder.path().join("serial");
        let parameters = format!("console=ttyS0 quiet {} {load}", scenario.parameters);
        let vm = Vm::hotvisor(artifacts.hotvisor())
            .kernel(artifacts.kernel(Image::Loaded(kernel)))
            .initramfs(artifacts.loaded(kernel))
            .cmdline(parameters.trim_end())
            .memory(MEMORY)
            .serial(format!("socket={}", serial.display()));
        Ok(Self {
            vm: logging(vm, scenario, folder.path()).start()?,
            serial: Some(serial),
            kernel: Some(kernel),
            folder,
        })
    }

    /// Boots the guest that is no Linux.
    ///
    /// # Errors
    /// It does not come up.
    pub fn bare(artifacts: &Artifacts, scenario: &Scenario) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("stress-").tempdir()?;
        let image = folder.path().join("guest.elf");
        fs::write(&image, BARE)?;
        let vm = Vm::hotvisor(artifacts.hotvisor()).kernel(image).memory(64);
        // It serves CPUs that it has not started itself.
        let vm = logging(vm, scenario, folder.path()).cpus(1, scenario.vcpus);
        let guest = Self {
            vm: vm.start()?,
            serial: None,
            kernel: None,
            folder,
        };
        guest.vm.wait_for("ready apic=0\n", 0, SOON)?;
        guest.vm.send(b"serve\n")?;
        guest.vm.wait_for("serving\n", 0, SOON)?;
        Ok(guest)
    }

    /// Connects to the guest's shell, for the time in which nobody else does.
    ///
    /// # Errors
    /// The guest has none, or nobody listens.
    pub fn serial(&self) -> Result<Serial> {
        let path = self.serial.as_deref();
        Serial::connect(path.context("this guest has no shell")?)
    }

    /// Has the guest start a scenario's load, in place of the one before.
    ///
    /// # Errors
    /// It does not do it.
    pub fn load(&self, scenario: &Scenario) -> Result<()> {
        let mut serial = self.serial()?;
        serial.sh("load stop", SOON)?;
        if let Some(load) = scenario.load {
            serial.sh(&format!("load {load} </dev/null >/run/load 2>&1 &"), SOON)?;
        }
        at_work(&mut serial, scenario)
    }

    /// Fails unless the guest is still at its load.
    ///
    /// # Errors
    /// It is not; the error holds what the load printed.
    pub fn at_work(&self, scenario: &Scenario) -> Result<()> {
        match &self.serial {
            Some(_) => at_work(&mut self.serial()?, scenario),
            None => Ok(()),
        }
    }

    /// The VMM.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Runs `hotvisor stress`, shows what it says, and leaves its report and all else that tells something in a
    /// folder, under names that begin with this number.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time.
    pub fn stress(
        &self,
        scenario: &Scenario,
        limits: &Limits,
        folder: &Path,
        number: u32,
    ) -> Result<Run> {
        let file = |name: &str| folder.join(format!("{number}-{name}"));
        let mut command = self.command(scenario, limits, &file("report.html"));
        let line = crate::process::spelled(&command);
        command
            .stdin(Stdio::null())
            .stdout(File::create(file("summary.json"))?)
            .stderr(Stdio::piped());
        let (process, pipes) = Watched::spawn(&mut command)?;
        let stderr = pipes.stderr.context("it was started without a pipe")?;
        let mut said = File::create(file("said.txt"))?;
        writeln!(said, "{line}")?;
        let over = AtomicBool::new(false);
        let (status, killed) = std::thread::scope(|scope| {
            scope.spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if !limits.quiet {
                        eprintln!("{line}");
                    }
                    // Where it cannot be kept, the numbers say the most of it.
                    let _ = writeln!(said, "{line}");
                }
            });
            let clients = scenario
                .clients
                .then(|| scope.spawn(|| clients::come_and_go(&self.vm, &over)));
            let status = process.wait(Instant::now() + patience(limits));
            over.store(true, Ordering::Relaxed);
            // Its output has no end before it has one itself.
            drop(process);
            let killed = clients.map(|clients| clients.join()).transpose();
            (status, killed)
        });
        let killed = killed.map_err(|_| anyhow::anyhow!("a thread of ours panicked"))?;
        fs::copy(self.log(), file("vmm.log"))?;
        let status = status?.with_context(|| {
            self.vm.evidence(format!(
                "`{line}` has not ended within {:?}",
                patience(limits)
            ))
        })?;
        let text = fs::read_to_string(file("summary.json"))?;
        // What was found comes first: a VM that is gone ends them all.
        let (killed, client) = match killed.transpose() {
            Ok(killed) => (killed.unwrap_or(0), None),
            Err(error) => (0, Some(error)),
        };
        Ok(Run {
            code: status.code(),
            summary: serde_json::from_str(&text).ok(),
            killed,
            client,
        })
    }

    fn command(&self, scenario: &Scenario, limits: &Limits, report: &Path) -> Command {
        let mut command = Command::new(self.vm.program());
        command.args(["stress", "--json"]);
        command.arg("--api-socket").arg(self.vm.api_socket());
        if let Some(serial) = &self.serial {
            command.arg("--guest-serial").arg(serial);
        }
        command.arg("--vmm-log").arg(self.log());
        command.arg("--report").arg(report);
        command.args(["--seed", &limits.seed.to_string()]);
        match limits.steps {
            Some(steps) => command.args(["--cycles", &steps.to_string()]),
            None => command.args(["--duration", &limits.time.as_secs().max(1).to_string()]),
        };
        let mut options = scenario.options.iter();
        while let Some(&option) = options.next() {
            match (option, &limits.mix) {
                ("--mix", Some(_)) => {
                    options.next();
                }
                _ => {
                    command.arg(option);
                }
            }
        }
        if let Some(mix) = &limits.mix {
            command.args(["--mix", mix]);
        }
        for text in self.kernel.into_iter().flat_map(scenario::own_complaints) {
            command.args(["--tolerate", text]);
        }
        command
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("vmm.log")
    }

    /// Presses the power button; the VMM must end well.
    ///
    /// # Errors
    /// It does not, or not in time.
    pub fn end(self) -> Result<()> {
        if let Some(serial) = &self.serial {
            // A guest that is at work takes long to hear of its power button.
            Serial::connect(serial)?.sh("load stop", BOOT).ok();
            self.vm.press_power_button()?;
        } else {
            self.vm.send(b"\noff 5\n")?;
        }
        self.vm.wait_success(BOOT)
    }
}

/// Waits until a load is at work.
pub(super) fn at_work(serial: &mut Serial, scenario: &Scenario) -> Result<()> {
    let Some(load) = scenario.load else {
        return Ok(());
    };
    let working = serial.sh(&format!("load await {}", scenario.processes), BOOT);
    working.with_context(|| format!("the load {load} is not at work"))?;
    Ok(())
}

/// With the possible vCPUs of a scenario, and a log that says all.
fn logging(vm: Builder, scenario: &Scenario, folder: &Path) -> Builder {
    vm.cpus(scenario.vcpus, scenario.vcpus)
        .arg("-v")
        .arg("--log-file")
        .arg(&folder.join("vmm.log").display().to_string())
}

fn patience(limits: &Limits) -> Duration {
    match limits.steps {
        Some(steps) => STEP + STEP / 8 * u32::try_from(steps).unwrap_or(u32::MAX / 1000),
        None => limits.time + 2 * STEP,
    }
}

impl Run {
    /// The summary, if nothing was found to be wrong.
    ///
    /// # Errors
    /// A contradiction, a complaint of the guest's kernel, or a run that came to nothing.
    pub fn good(&self) -> Result<&Summary> {
        if let Some(Summary {
            contradiction: Some(contradiction),
            seed,
            ..
        }) = &self.summary
        {
            anyhow::bail!(
                "with seed {seed}, after step {}: {}",
                contradiction.step,
                contradiction.what.join("; ")
            );
        }
        ensure!(
            self.code == Some(0),
            "`hotvisor stress` ended with {:?}",
            self.code
        );
        let summary = self.summary.as_ref().context("it printed no summary")?;
        ensure!(
            summary.kernel_warnings == 0,
            "the guest's kernel complained {} times",
            summary.kernel_warnings
        );
        if let Some(error) = &self.client {
            anyhow::bail!("{error:#}");
        }
        Ok(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_what_is_asked() {
        let steps = |steps| Limits {
            steps: Some(steps),
            ..Limits::default()
        };
        assert!(patience(&steps(1000)) > patience(&steps(1)));
        let hour = Duration::from_secs(3600);
        let long = Limits {
            time: hour,
            ..Limits::default()
        };
        assert!(patience(&long) > hour);
    }

    #[test]
    fn a_run_that_did_not_end_well_is_no_success() {
        let mut run = Run {
            code: Some(0),
            summary: Some(Summary::default()),
            killed: 0,
            client: None,
        };
        assert!(run.good().is_ok());
        run.code = Some(6);
        assert!(run.good().is_err());
        run.code = Some(0);
        run.summary = None;
        assert!(run.good().is_err());
        run.summary = Some(Summary {
            kernel_warnings: 1,
            ..Summary::default()
        });
        assert!(run.good().is_err());
    }
}

//! A guest whose CPUs come and go, under one VMM or another, each asked as programs ask it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hotvisor_tests::artifacts::Artifacts;
use hotvisor_tests::vm::api::{Api, Operation, State, Target};
use hotvisor_tests::vm::{BOOT, Builder, Connection, Pluggable, Qmp, Vm};
use hotvisor_tests::{paths, process};
use serde_json::json;

use super::results::{Guest, Peer};
use super::trace::{Follow, Trace};
use super::{KERNEL, MEMORY, on_path};

/// Makes the guest say on the console that a CPU is up, which the times of all VMMs end with.
const REPORT: &str = "hotvisor.report";
/// The most vCPUs of QEMU's q35 without a model of an IOMMU: of an interrupt controller with eight bits for a CPU.
const QEMU_MOST: u32 = 255;
/// The most vCPUs of any version of Cloud Hypervisor.
const CLOUD_HYPERVISOR_MOST: u32 = 254;
/// Longest time for a change, even of many vCPUs.
const PATIENCE: Duration = Duration::from_secs(45);
/// The end of a thread that runs a vCPU, as Cloud Hypervisor names them.
const VCPU_ENDS: (&str, &str) = ("sched/sched_process_exit", "comm ~ \"vcpu*\"");

impl Peer {
    /// What it is started with.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Hotvisor | Self::Unfiltered => "hotvisor",
            Self::Qemu => "qemu-system-x86_64",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    pub(super) fn builder(self, artifacts: &Artifacts) -> Builder {
        match self {
            Self::Hotvisor => Vm::hotvisor(artifacts.hotvisor()),
            Self::Unfiltered => Vm::hotvisor(artifacts.hotvisor())
                .arg("--seccomp")
                .arg("false"),
            Self::Qemu => Vm::peer_qemu(),
            Self::CloudHypervisor => Vm::cloud_hypervisor(self.program()),
        }
    }

    /// As it says itself.
    pub(super) fn version(self, artifacts: &Artifacts) -> Result<String> {
        let mut command = match self {
            _ if self.is_ours() => Command::new(artifacts.hotvisor()),
            _ => Command::new(self.program()),
        };
        let text = process::text(command.arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// What tells its program apart from another build's.
    pub(super) fn build(self, artifacts: &Artifacts) -> Result<String> {
        let program = match self {
            _ if self.is_ours() => artifacts.hotvisor(),
            _ => on_path(self.program()).context("a VMM is not on PATH")?,
        };
        Ok(format!("{:016x}", paths::fingerprint(&program)?))
    }

    /// Why it cannot have so many vCPUs.
    pub(super) fn refuses(self, max: u32) -> Option<&'static str> {
        match self {
            Self::Qemu if max > QEMU_MOST => Some(
                "n/a: q35 of Debian 12's QEMU has at most 288 vCPUs, and more than 255 only with an emulated IOMMU",
            ),
            Self::CloudHypervisor if max > CLOUD_HYPERVISOR_MOST => {
                Some("n/a: most versions of Cloud Hypervisor count vCPUs with eight bits")
            }
            _ => None,
        }
    }
}

/// A machine to be booted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) peer: Peer,
    pub(super) artifacts: &'a Artifacts,
    pub(super) guest: Guest,
    pub(super) boot: u32,
    pub(super) max: u32,
}

impl Plan<'_> {
    /// The machine, not yet started.
    pub(super) fn builder(&self) -> Builder {
        let parameters = self.guest.parameters();
        self.peer
            .builder(self.artifacts)
            .kernel(self.artifacts.bzimage(KERNEL))
            .initramfs(self.artifacts.initramfs(KERNEL))
            .cmdline(&format!("console=ttyS0 quiet {REPORT} {parameters}"))
            .memory(MEMORY)
            .cpus(self.boot, self.max)
    }
}

/// A guest that runs.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) vm: Vm,
    /// Milliseconds from the VMM's start to the guest's init.
    pub(super) init: f64,
    control: Control,
}

/// How its VMM is asked.
#[derive(Debug)]
enum Control {
    Hotvisor(RefCell<Connection>),
    Qemu {
        qmp: Qmp,
        cpus: Vec<Pluggable>,
    },
    CloudHypervisor {
        connection: RefCell<Connection>,
        ends: Ends,
    },
}

impl Machine {
    /// Boots, and waits until the guest takes commands.
    pub(super) fn boot(plan: &Plan<'_>) -> Result<Self> {
        let vm = plan.builder().start()?;
        let (init, _) = vm.wait_for_init(1)?;
        let init = milliseconds(vm.started(), init);
        let control = match plan.peer {
            Peer::Hotvisor | Peer::Unfiltered => Control::Hotvisor(vm.api().connect()?),
            Peer::Qemu => {
                let mut qmp = vm.qmp()?;
                let cpus = qmp.pluggable()?;
                Control::Qemu { qmp, cpus }
            }
            Peer::CloudHypervisor => Control::CloudHypervisor {
                connection: vm.api().connect()?,
                ends: Ends::begin()?,
            },
        };
        Ok(Self { vm, init, control })
    }

    /// Plugs vCPUs from 1 on, of which none is there, or one that has any number; returns the milliseconds until the
    /// guest has said of the last one that it is online.
    pub(super) fn plug(&mut self, vcpus: &[u32]) -> Result<f64> {
        let from = self.vm.console().length();
        let start = Instant::now();
        match &mut self.control {
            Control::Hotvisor(connection) => {
                let api = self.vm.api().over(connection);
                let operation = match vcpus {
                    [one] => api.vcpu_target(*one, Target::Online, PATIENCE)?,
                    _ => api.resize(count(vcpus)? + 1, PATIENCE)?,
                };
                succeeded(&self.vm, &operation)?;
            }
            Control::Qemu { qmp, cpus } => {
                for &vcpu in vcpus {
                    let cpu = cpus.get(vcpu as usize - 1);
                    qmp.plug(cpu.context("QEMU has no such vCPU")?, &name(vcpu))?;
                }
            }
            Control::CloudHypervisor { connection, .. } => {
                resize(&self.vm.api().over(connection), count(vcpus)? + 1)?;
            }
        }
        let mut last = start;
        for vcpu in vcpus {
            let up = self.vm.wait_for(&format!("cpu{vcpu} up"), from, PATIENCE)?;
            last = last.max(up.at);
        }
        Ok(milliseconds(start, last))
    }

    /// Unplugs what [`Machine::plug`] plugged, and returns the milliseconds until the VMM has let go of the last one.
    pub(super) fn unplug(&mut self, vcpus: &[u32]) -> Result<f64> {
        let start = Instant::now();
        let end = match &mut self.control {
            Control::Hotvisor(connection) => {
                let api = self.vm.api().over(connection);
                let operation = match vcpus {
                    [one] => api.vcpu_target(*one, Target::Offline, PATIENCE)?,
                    _ => api.resize(1, PATIENCE)?,
                };
                let end = Instant::now();
                succeeded(&self.vm, &operation)?;
                end
            }
            Control::Qemu { qmp, .. } => {
                let names: Vec<String> = vcpus.iter().map(|vcpu| name(*vcpu)).collect();
                qmp.unplug(&names, PATIENCE)?
            }
            Control::CloudHypervisor { connection, ends } => {
                ends.trace.clear()?;
                resize(&self.vm.api().over(connection), 1)?;
                ends.wait(vcpus.len())?
            }
        };
        Ok(milliseconds(start, end))
    }

    /// Lets the guest end what it still has to do, so that it does not count for what comes next.
    pub(super) fn settle(&self) -> Result<()> {
        self.vm.sh("true", PATIENCE).map(drop)
    }

    /// Which vCPU comes when one is asked for: Cloud Hypervisor takes the lowest.
    pub(super) fn picks_lowest(&self) -> bool {
        matches!(self.control, Control::CloudHypervisor { .. })
    }

    pub(super) fn end(self) -> Result<()> {
        self.vm.sh_last("poweroff -f")?;
        self.vm.wait_success(BOOT)
    }

    /// Nanoseconds of CPU time that each of the VMM's threads took so far, but for those that run the guest.
    pub(super) fn own_times(&self) -> Result<BTreeMap<u32, u64>> {
        let mut times = BTreeMap::new();
        for thread in self.vm.threads()? {
            let path = format!("/proc/{}/task/{}/schedstat", self.vm.pid(), thread.id);
            // It may have ended since.
            if let Ok(text) = std::fs::read_to_string(path)
                && !runs_guest(&thread.name)
            {
                let first = text.split_whitespace().next().unwrap_or_default();
                times.insert(thread.id, first.parse()?);
            }
        }
        Ok(times)
    }
}

/// What threads took from one reading to the next, in milliseconds; what ended in between is not known.
pub(super) fn taken(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> f64 {
    let took = after.iter().map(|(thread, time)| {
        let before = before.get(thread).copied().unwrap_or_default();
        time.saturating_sub(before)
    });
    took.sum::<u64>() as f64 / 1e6
}

/// Whether a thread of this name runs a vCPU: `vcpu-1`, `vcpu1`, `CPU 1/KVM`.
fn runs_guest(thread: &str) -> bool {
    thread.starts_with("vcpu") || (thread.starts_with("CPU ") && thread.ends_with("/KVM"))
}

/// Asks as clients of Cloud Hypervisor do; the answer comes before it is so.
fn resize(api: &Api<'_>, vcpus: u32) -> Result<()> {
    let answer = api.put("/api/v1/vm.resize", &json!({ "desired_vcpus": vcpus }))?;
    ensure!(answer.status == 204, "vm.resize was answered {answer:?}");
    Ok(())
}

/// Ends of vCPUs' threads, by which alone it can be known that Cloud Hypervisor has let go of a vCPU.
#[derive(Debug)]
struct Ends {
    /// Closed first: nobody may read what is taken away.
    follow: Follow,
    trace: Trace,
}

impl Ends {
    fn begin() -> Result<Self> {
        let trace = Trace::begin("ends", &[VCPU_ENDS])?;
        let follow = trace.follow()?;
        Ok(Self { follow, trace })
    }

    /// When so many more had ended.
    fn wait(&mut self, number: usize) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Instant::now();
        for _ in 0..number {
            (_, last) = self.follow.next(deadline)?;
        }
        Ok(last)
    }
}

/// QEMU's name for a vCPU.
fn name(vcpu: u32) -> String {
    format!("cpu{vcpu}")
}

fn count(vcpus: &[u32]) -> Result<u32> {
    Ok(u32::try_from(vcpus.len())?)
}

/// That an operation has come to the end that it was made for.
fn succeeded(vm: &Vm, operation: &Operation) -> Result<()> {
    match operation.state {
        State::Succeeded => Ok(()),
        _ => Err(vm.evidence(format!("it did not succeed: {operation:?}"))),
    }
}

pub(super) fn milliseconds(start: Instant, end: Instant) -> f64 {
    end.duration_since(start).as_secs_f64() * 1000.0
}

/// Between two ticks of Debian's kernels, in guests and in L1: CONFIG_HZ is 250.
const TICK: Duration = Duration::from_millis(4);
/// The golden ratio's part behind the point: multiples of it, without their whole parts, fill a tick evenly, however
/// many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Lets a part of a tick pass, another one for each number: else each request would come at the same moment between
/// two ticks, and be lucky or unlucky with what waits for them. Spins, because a sleep would end with a tick.
pub(super) fn drift(number: u32) {
    let start = Instant::now();
    let part = TICK.mul_f64((f64::from(number) * GOLDEN).fract());
    while start.elapsed() < part {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_threads_that_came_counts_and_of_those_that_went_does_not() {
        let before = BTreeMap::from([(1, 1_000_000), (2, 7_000_000)]);
        let after = BTreeMap::from([(1, 1_500_000), (3, 2_000_000)]);
        assert_eq!(taken(&before, &after), 2.5);
    }

    #[test]
    fn threads_that_run_the_guest_are_known_by_name() {
        for name in ["vcpu-1", "vcpu1", "CPU 0/KVM"] {
            assert!(runs_guest(name), "{name}");
        }
        for name in ["vmm", "api", "qemu-system-x86", "hotvisor", "CPU watcher"] {
            assert!(!runs_guest(name), "{name}");
        }
    }
}

//! A guest whose second CPU comes and goes, under one VMM or the other.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hotvisor_tests::artifacts::Artifacts;
use hotvisor_tests::vm::api::{Operation, State, Target};
use hotvisor_tests::vm::{Connection, Pluggable, Qmp, SOON, Vm};

use super::guest;

/// The vCPU that comes and goes.
pub(super) const VCPU: u32 = 1;
/// How many there can be.
pub(super) const MOST: u32 = 4;
/// Makes the guest say on the console that a CPU is up, which both VMMs' times end with.
pub(super) const REPORT: &str = "hotvisor.report";
/// QEMU's name for the vCPU.
const NAME: &str = "cpu";

/// How the vCPU is plugged and unplugged.
pub(super) enum Way {
    Hotvisor(RefCell<Connection>),
    Qemu { qmp: Qmp, cpu: Pluggable },
}

/// A guest with its boot CPU, under one of the two.
pub(super) fn boot(hotvisor: bool, artifacts: &Artifacts, parameters: &str) -> Result<(Vm, Way)> {
    let vm = match hotvisor {
        true => Vm::hotvisor(artifacts.hotvisor()),
        false => Vm::peer_qemu(),
    };
    let vm = guest(vm, artifacts, parameters).cpus(1, MOST).start()?;
    vm.wait_for_init(1)?;
    let way = match hotvisor {
        true => Way::Hotvisor(vm.api().connect()?),
        false => {
            let mut qmp = vm.qmp()?;
            let free = qmp.pluggable()?.into_iter().next();
            let cpu = free.context("QEMU has no CPU that could be plugged")?;
            Way::Qemu { qmp, cpu }
        }
    };
    Ok((vm, way))
}

impl Way {
    /// Plugs it, and returns the milliseconds from the request to the guest's word that it is online.
    pub(super) fn plug(&mut self, vm: &Vm) -> Result<f64> {
        let from = vm.console().length();
        let start = Instant::now();
        match self {
            Self::Hotvisor(connection) => {
                let api = vm.api().over(connection);
                succeeded(&api.vcpu_target(VCPU, Target::Online, SOON)?)?;
            }
            Self::Qemu { qmp, cpu } => qmp.plug(cpu, NAME)?,
        }
        let up = vm.wait_for(&up(VCPU), from, SOON)?;
        settle(vm)?;
        Ok(milliseconds(start, up.at))
    }

    /// Unplugs it, and returns the milliseconds from the request to the word that it is gone.
    pub(super) fn unplug(&mut self, vm: &Vm) -> Result<f64> {
        let start = Instant::now();
        let end = match self {
            Self::Hotvisor(connection) => {
                let api = vm.api().over(connection);
                let operation = api.vcpu_target(VCPU, Target::Offline, SOON)?;
                let end = Instant::now();
                succeeded(&operation)?;
                end
            }
            Self::Qemu { qmp, .. } => qmp.unplug(NAME)?.at,
        };
        settle(vm)?;
        Ok(milliseconds(start, end))
    }
}

/// What the guest says of a CPU that is online.
pub(super) fn up(cpu: u32) -> String {
    format!("cpu{cpu} up")
}

/// Lets the guest end what it still has to do, so that it does not count for what comes next.
pub(super) fn settle(vm: &Vm) -> Result<()> {
    vm.sh_ok("true").map(drop)
}

/// That an operation has come to the end that it was made for.
pub(super) fn succeeded(operation: &Operation) -> Result<()> {
    ensure!(
        operation.state == State::Succeeded,
        "it did not succeed: {operation:?}"
    );
    Ok(())
}

pub(super) fn milliseconds(start: Instant, end: Instant) -> f64 {
    end.duration_since(start).as_secs_f64() * 1000.0
}

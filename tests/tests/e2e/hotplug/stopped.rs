//! The host keeps a vCPU's thread from running while the guest waits for its CPU.

use std::time::Duration;

use anyhow::{Result, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::Vm;
use hotvisor_tests::vm::api::{State, Target};

use super::{
    SHORT, WAIT, comes_back, end, expect, expect_cpus, explains, runs_tasks, start,
    start_without_udev, succeeded, vcpu, with,
};

/// Longer than any kernel here waits for a CPU to come up, which is 10 s.
const COMING_UP: Duration = Duration::from_secs(40);

pub(super) fn tests() -> Vec<Test> {
    let (older, newer) = (Kernel::V6_1Cloud, Kernel::V6_12Cloud);
    [
        with(&[older], "stopped_when_ejected", ejected),
        with(&[older, newer], "stopped_when_brought_up", brought_up),
        with(&[newer], "stopped_when_plugged", plugged),
    ]
    .concat()
}

/// The guest has ejected the CPU, but its thread does not get to leave the guest: that is no success until it has.
fn ejected(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    // What the guest itself waits for is over then: it needs nothing more of the CPU for the eject.
    let offline = "echo 0 >/sys/devices/system/cpu/cpu1/online";
    vm.sh_ok(offline)?;
    let stopped = vm.stop_vcpu(1)?;
    let operation = vm.api().vcpu_target(1, Target::Offline, Duration::ZERO)?;
    is_stopping(&vm)?;
    let same = vm.api().operation(operation.id, Duration::ZERO)?;
    ensure!(same.state == State::Running, "it did not wait: {same:#?}");
    stopped.release()?;
    succeeded(&vm, &vm.api().operation(operation.id, WAIT)?, &[1])?;
    vm.agree(&[0])?;

    let operation = vm.api().vcpu_target(1, Target::Online, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0, 1])?;
    vm.sh_ok(offline)?;
    let stopped = vm.stop_vcpu(1)?;
    let api = vm.api().timeout(SHORT);
    let operation = api.vcpu_target(1, Target::Offline, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    explains(&vm, &operation, 1, "its thread has not left the guest")?;
    is_stopping(&vm)?;
    stopped.release()?;
    vm.agree(&[0])?;
    comes_back(&vm, &[1], &[0, 1])?;
    end(&vm)
}

/// vCPU 1 is not the guest's any more, and not gone.
fn is_stopping(vm: &Vm) -> Result<()> {
    vm.wait_until("the eject", || Ok(vcpu(vm, 1)?.phase == "stopping"))?;
    ensure!(vm.api().vcpus()?.plugged == 1, "it is still plugged");
    expect_cpus(vm, "0", "0")
}

/// The CPU does not answer when the guest starts it, for longer than the guest waits. It does later.
fn brought_up(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start_without_udev(context, kernel, 1, 2)?;
    let operation = vm.api().timeout(SHORT).resize(2, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    expect_cpus(&vm, "0-1", "0")?;
    let stopped = vm.stop_vcpu(1)?;
    let online = "echo 1 >/sys/devices/system/cpu/cpu1/online";
    let failed = vm.sh(online, COMING_UP)?;
    ensure!(failed.status != 0, "a CPU came up whose thread was stopped");
    expect_cpus(&vm, "0-1", "0")?;
    ensure!(
        vcpu(&vm, 1)?.phase == "plugged",
        "nobody has started vCPU 1: {:?}",
        vcpu(&vm, 1)?
    );
    stopped.release()?;
    vm.sh_ok(online)?;
    vm.agree(&[0, 1])?;
    runs_tasks(&vm, 1)?;
    end(&vm)
}

/// A parked thread that does not get to run is no CPU to offer: the guest is not told of it.
fn plugged(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    let operation = vm.api().resize(1, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    let stopped = vm.stop_vcpu(1)?;
    let operation = vm.api().timeout(SHORT).resize(2, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    explains(&vm, &operation, 1, "its thread did not come up in time")?;
    expect_cpus(&vm, "0", "0")?;
    stopped.release()?;
    vm.wait_until("the plug to be undone", || {
        Ok(vcpu(&vm, 1)?.phase == "dormant")
    })?;
    let operation = vm.api().resize(2, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0, 1])?;
    end(&vm)
}

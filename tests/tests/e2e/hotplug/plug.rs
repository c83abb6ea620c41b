//! vCPUs are added.

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{State, Target};

use super::{
    SHORT, WAIT, end, everywhere, expect, expect_cpus, explains, last_ost, runs_tasks, start,
    start_without_udev, succeeded,
};

pub(super) fn tests() -> Vec<Test> {
    [
        everywhere("plug_one", plug_one),
        everywhere("count_up_and_down", count_up_and_down),
        everywhere("set_of_ids", set_of_ids),
        everywhere("no_udev", no_udev),
    ]
    .concat()
}

fn plug_one(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 1, 4)?;
    vm.agree(&[0])?;
    let operation = vm.api().resize(2, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    last_ost(&vm, &operation, 1, &[[1, 0]])?;
    vm.agree(&[0, 1])?;
    runs_tasks(&vm, 1)?;
    let vcpus = vm.api().vcpus()?.vcpus;
    let vcpu = vcpus.get(1).context("there is no vCPU 1")?;
    ensure!(
        vcpu.generation == 1 && vcpu.last_operation == Some(operation.id),
        "{vcpu:?}"
    );
    // What is so already is done at once, and changes nothing.
    succeeded(&vm, &vm.api().resize(2, WAIT)?, &[])?;
    vm.agree(&[0, 1])?;
    end(&vm)
}

fn count_up_and_down(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 1, 4)?;
    for _ in 0..2 {
        let operation = vm.api().resize(4, WAIT)?;
        succeeded(&vm, &operation, &[1, 2, 3])?;
        vm.agree(&[0, 1, 2, 3])?;
        for cpu in 1..4 {
            runs_tasks(&vm, cpu)?;
        }
        let operation = vm.api().resize(1, WAIT)?;
        succeeded(&vm, &operation, &[1, 2, 3])?;
        vm.agree(&[0])?;
    }
    end(&vm)
}

fn set_of_ids(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 1, 4)?;
    let operation = vm.api().set_online([0, 2], WAIT)?;
    succeeded(&vm, &operation, &[2])?;
    vm.agree(&[0, 2])?;
    // Both directions in one operation.
    let operation = vm.api().set_online([0, 1, 3], WAIT)?;
    succeeded(&vm, &operation, &[1, 2, 3])?;
    vm.agree(&[0, 1, 3])?;
    let operation = vm.api().vcpu_target(3, Target::Offline, WAIT)?;
    succeeded(&vm, &operation, &[3])?;
    vm.agree(&[0, 1])?;
    end(&vm)
}

/// A guest in which nobody starts an added CPU has it, and does not use it: no success.
fn no_udev(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start_without_udev(context, kernel, 1, 2)?;
    let operation = vm.api().timeout(SHORT).resize(2, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    last_ost(&vm, &operation, 1, &[[1, 0]])?;
    explains(&vm, &operation, 1, "udev")?;
    expect_cpus(&vm, "0-1", "0")?;
    let vcpus = vm.api().vcpus()?;
    ensure!(vcpus.plugged == 2 && vcpus.online == 1, "{vcpus:?}");
    // Somebody does it after all, later than the operation waited.
    vm.sh_ok("echo 1 >/sys/devices/system/cpu/cpu1/online")?;
    vm.agree(&[0, 1])?;
    end(&vm)
}

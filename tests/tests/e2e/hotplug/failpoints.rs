//! Calls that hotplug needs fail while the guest is Linux: it notices nothing of a vCPU that does not come, waits for one that
//! goes, and the next request succeeds.

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::Vm;
use hotvisor_tests::vm::api::{State, Target};
use hotvisor_tests::vm::failpoints::{Failure, NEW, USED};

use super::{WAIT, end, expect, expect_cpus, explains, start, succeeded};

pub(super) fn tests() -> Vec<Test> {
    let image = Image::Failing(Kernel::V6_12Cloud);
    vec![Test::with_image("hotplug::failpoints", image, failpoints)]
}

fn failpoints(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 1, 2)?;
    for failure in NEW {
        does_not_come(&vm, failure)?;
    }
    changes(&vm, Target::Online, &[0, 1])?;
    vm.fail("kick", "3*return->off")?;
    vm.fail("interrupt", "1*return->off")?;
    changes(&vm, Target::Offline, &[0])?;
    for failure in USED {
        does_not_come(&vm, failure)?;
    }
    vm.fail("see-start", "3*return->off")?;
    vm.fail("interrupt", "1*return->off")?;
    changes(&vm, Target::Online, &[0, 1])?;
    let counts = vm.failpoints()?;
    for (point, times) in [("kick", 3), ("interrupt", 2), ("see-start", 3)] {
        let failed = counts[point]["failed"].as_u64();
        ensure!(failed == Some(times), "{point} failed {failed:?} times");
    }
    end(&vm)
}

/// A plug of vCPU 1 fails at a call, and the guest is as before.
fn does_not_come(vm: &Vm, (point, errno, says): Failure) -> Result<()> {
    vm.fail(point, &format!("return({})", errno as i32))?;
    let operation = vm.api().vcpu_target(1, Target::Online, WAIT)?;
    expect(vm, &operation, State::Failed)?;
    explains(vm, &operation, 1, says)?;
    vm.fail(point, "off")?;
    let vcpus = vm.api().vcpus()?;
    ensure!(
        (vcpus.plugged, vcpus.online) == (1, 1),
        "{point}: {vcpus:#?}"
    );
    expect_cpus(vm, "0", "0")
}

/// A request for vCPU 1 succeeds, and the guest has these afterwards.
fn changes(vm: &Vm, target: Target, online: &[u32]) -> Result<()> {
    let operation = vm.api().vcpu_target(1, target, WAIT)?;
    succeeded(vm, &operation, &[1])?;
    vm.agree(online)
}

//! Calls that hotplug needs fail while the guest is Linux: it notices nothing of a vCPU that does not come, waits for one that
//! goes, and the next request succeeds.

use std::time::Duration;

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{State, Target};
use hotvisor_tests::vm::failpoints::{Failure, NEW, USED};
use hotvisor_tests::vm::{SOON, Vm};

/// Longest wait for the end of an operation.
const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn tests() -> Vec<Test> {
    let image = Image::Failing(Kernel::V6_12Cloud);
    vec![Test::with_image("failpoints", image, failpoints)]
}

fn failpoints(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(1, 2).start()?;
    vm.wait_for_init(1)?;
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
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

/// A plug of vCPU 1 fails at a call, and the guest is as before.
fn does_not_come(vm: &Vm, (point, errno, says): Failure) -> Result<()> {
    vm.fail(point, &format!("return({})", errno as i32))?;
    let operation = vm.api().vcpu_target(1, Target::Online, WAIT)?;
    let outcome = operation.part(1).and_then(|part| part.outcome.as_ref());
    if outcome.is_none_or(|end| end.code != State::Failed || !end.detail.contains(says)) {
        return Err(vm.evidence(format!("{point}: {operation:#?}")));
    }
    vm.fail(point, "off")?;
    let vcpus = vm.api().vcpus()?;
    let present = vm.sh_ok("cat /sys/devices/system/cpu/present")?;
    if (vcpus.plugged, vcpus.online, present.as_str()) != (1, 1, "0") {
        return Err(vm.evidence(format!("{point}: the guest has {present}: {vcpus:#?}")));
    }
    Ok(())
}

/// A request for vCPU 1 succeeds, and the guest has these afterwards.
fn changes(vm: &Vm, target: Target, online: &[u32]) -> Result<()> {
    let operation = vm.api().vcpu_target(1, target, WAIT)?;
    if operation.state != State::Succeeded {
        return Err(vm.evidence(format!("not {target:?}: {operation:#?}")));
    }
    vm.agree(online)
}

//! Somebody says no: the guest, or a rule. Then everything is as it was, and can be tried again.

use anyhow::{Result, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{State, Target, VCPUS};
use hotvisor_tests::vm::{SOON, Vm};
use serde_json::json;

use super::{
    WAIT, end, everywhere, expect, expect_cpus, last_ost, runs_tasks, start, succeeded, with,
};

/// `_OST` (ACPI 6.3, section 6.3.5): an eject request, and why not.
const EJECT_NOT_SUPPORTED: [u32; 2] = [3, 0x80];
const EJECT_BUSY: [u32; 2] = [3, 0x82];

pub(super) fn tests() -> Vec<Test> {
    [
        everywhere("refused_by_profile", refused_by_profile),
        everywhere("refused_by_reservations", refused_by_reservations),
        everywhere("refused_by_isolation", refused_by_isolation),
        // Debian's cloud kernels cannot be held in the midst of it.
        with(&[Kernel::V6_1Rt], "refused_by_suspend", refused_by_suspend),
        everywhere("boot_cpu_stays", boot_cpu_stays),
    ]
    .concat()
}

/// Asks for an unplug that the guest refuses.
fn refuses(vm: &Vm, ost: [u32; 2]) -> Result<()> {
    let operation = vm.api().vcpu_target(1, Target::Offline, WAIT)?;
    expect(vm, &operation, State::Refused)?;
    last_ost(vm, &operation, 1, &[ost])
}

/// Asks for an unplug that the guest refuses, and finds the CPU as it was.
fn refused(vm: &Vm, ost: [u32; 2]) -> Result<()> {
    refuses(vm, ost)?;
    is_as_before(vm)
}

fn is_as_before(vm: &Vm) -> Result<()> {
    expect_cpus(vm, "0-1", "0-1")?;
    let vcpus = vm.api().vcpus()?;
    ensure!(vcpus.plugged == 2 && vcpus.online == 2, "{vcpus:#?}");
    runs_tasks(vm, 1)
}

/// The reason is gone: the same request succeeds.
fn succeeds_now(vm: &Vm) -> Result<()> {
    let operation = vm.api().vcpu_target(1, Target::Offline, WAIT)?;
    succeeded(vm, &operation, &[1])?;
    vm.agree(&[0])
}

/// Linux has a switch that makes it refuse every eject.
fn refused_by_profile(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    let switch = "/sys/firmware/acpi/hotplug/processor/enabled";
    vm.sh_ok(&format!("echo 0 >{switch}"))?;
    refused(&vm, EJECT_NOT_SUPPORTED)?;
    vm.sh_ok(&format!("echo 1 >{switch}"))?;
    succeeds_now(&vm)?;
    end(&vm)
}

/// Linux does not give a CPU away whose time it has promised to somebody.
fn refused_by_reservations(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    vm.sh_ok(
        "for n in 1 2; do sleep 9999 >/dev/null 2>&1 & echo $! >>/run/reserved; done; \
         schedule deadline $(cat /run/reserved)",
    )?;
    refused(&vm, EJECT_BUSY)?;
    // Asked again, it says no again.
    refused(&vm, EJECT_BUSY)?;
    vm.sh_ok("kill $(cat /run/reserved)")?;
    succeeds_now(&vm)?;
    end(&vm)
}

/// Linux keeps the last CPU that is not set apart from its own housekeeping.
fn refused_by_isolation(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(2, 2);
    let vm = vm.cmdline("console=ttyS0 quiet isolcpus=0").start()?;
    vm.wait_for_init(1)?;
    refused(&vm, EJECT_BUSY)?;
    end(&vm)
}

/// Linux gives no CPU away while it goes to sleep. Here it stops on its way there, as soon as its tasks are frozen,
/// and five seconds later turns back.
fn refused_by_suspend(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    let from = vm.console().length();
    vm.sh_ok(
        "dmesg -n 8; echo freezer >/sys/power/pm_test; \
         (sleep 1; echo freeze >/sys/power/state) >/dev/null 2>&1 &",
    )?;
    vm.wait_for("suspend debug: Waiting", from, SOON)?;
    refuses(&vm, EJECT_BUSY)?;
    vm.wait_for("PM: suspend exit", from, SOON)?;
    vm.sh_ok("dmesg -n 4")?;
    is_as_before(&vm)?;
    succeeds_now(&vm)?;
    end(&vm)
}

/// The boot CPU cannot be given back; the guest is not even asked.
fn boot_cpu_stays(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    let api = vm.api();
    for (path, body) in [
        (format!("{VCPUS}/0"), json!({"target": "offline"})),
        (VCPUS.to_owned(), json!({"online": [1]})),
        (VCPUS.to_owned(), json!({"desired": 0})),
        (VCPUS.to_owned(), json!({"desired": 3})),
        (format!("{VCPUS}/2"), json!({"target": "online"})),
    ] {
        let answer = api.put(&path, &body)?;
        ensure!(
            (400..500).contains(&answer.status),
            "{path} with {body} gave {answer:?}"
        );
    }
    vm.agree(&[0, 1])?;
    end(&vm)
}

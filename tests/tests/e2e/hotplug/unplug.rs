//! vCPUs are given back.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{State, Target, Vcpus};
use hotvisor_tests::vm::{SOON, Thread, Vm};

use super::{
    SHORT, WAIT, comes_back, end, everywhere, expect, expect_cpus, last_ost, runs_tasks, start,
    start_without_udev, succeeded, vcpu,
};

pub(super) fn tests() -> Vec<Test> {
    [
        everywhere("unplug_middle_and_replug", unplug_middle_and_replug),
        everywhere("unplug_offline", unplug_offline),
        everywhere("unplug_never_onlined", unplug_never_onlined),
        everywhere("unplug_under_a_task", unplug_under_a_task),
        everywhere("guest_ejects", guest_ejects),
        everywhere("guest_ejects_in_vain", guest_ejects_in_vain),
    ]
    .concat()
}

fn thread(vm: &Vm, id: u32) -> Result<Thread> {
    vm.vcpu_thread(id)?
        .with_context(|| format!("vCPU {id} has no thread"))
}

/// What the guest has evaluated `_OST` with, whichever kernel it is: source, status, how often, and nothing else. Its last word
/// on an ejection may come later than the end of the operation.
fn has_said(vm: &Vm, words: &[(&str, &str, u32)]) -> Result<()> {
    let expected: BTreeMap<String, f64> = words
        .iter()
        .map(|(source, status, count)| {
            let labels = format!("source=\"{source}\",status=\"{status}\"");
            (labels, f64::from(*count))
        })
        .collect();
    vm.wait_until("the guest's last words", || {
        let metrics = vm.api().metrics()?;
        let all = metrics.all("hotvisor_guest_ost_total");
        let said = all.filter(|(_, count)| *count > 0.0);
        let said: BTreeMap<String, f64> = said.map(|(of, n)| (of.to_owned(), n)).collect();
        Ok(said == expected)
    })
}

fn generation(vm: &Vm, id: u32) -> Result<u64> {
    Ok(vcpu(vm, id)?.generation)
}

fn unplug_middle_and_replug(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 4, 4)?;
    vm.agree(&[0, 1, 2, 3])?;
    let (before, first) = (thread(&vm, 2)?.id, generation(&vm, 2)?);
    for round in 1..=3 {
        let operation = vm.api().vcpu_target(2, Target::Offline, WAIT)?;
        succeeded(&vm, &operation, &[2])?;
        // The last word comes after the eject, and may come after the thread is parked.
        last_ost(&vm, &operation, 2, &[[3, 0x84], [3, 0]])?;
        vm.agree(&[0, 1, 3])?;
        // The thread is parked, not gone.
        ensure!(thread(&vm, 2)?.id == before, "vCPU 2 has another thread");
        let operation = vm.api().vcpu_target(2, Target::Online, WAIT)?;
        succeeded(&vm, &operation, &[2])?;
        last_ost(&vm, &operation, 2, &[[1, 0]])?;
        vm.agree(&[0, 1, 2, 3])?;
        runs_tasks(&vm, 2)?;
        ensure!(thread(&vm, 2)?.id == before, "vCPU 2 has another thread");
        let now = generation(&vm, 2)?;
        ensure!(
            now == first + round,
            "generation {now} after {first} and {round} plugs"
        );
    }
    has_said(&vm, &[("3", "0x84", 3), ("3", "0", 3), ("1", "0", 3)])?;
    end(&vm)
}

fn unplug_offline(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    vm.sh_ok("echo 0 >/sys/devices/system/cpu/cpu1/online")?;
    expect_cpus(&vm, "0-1", "0")?;
    let operation = vm.api().resize(1, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0])?;
    let operation = vm.api().resize(2, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0, 1])?;
    has_said(&vm, &[("3", "0x84", 1), ("3", "0", 1), ("1", "0", 1)])?;
    end(&vm)
}

fn unplug_never_onlined(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start_without_udev(context, kernel, 1, 2)?;
    let operation = vm.api().timeout(SHORT).resize(2, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    expect_cpus(&vm, "0-1", "0")?;
    let operation = vm.api().resize(1, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0])?;
    end(&vm)
}

/// A task that may run on no other CPU does not keep it: Linux moves it, and it lives on.
fn unplug_under_a_task(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    vm.sh_ok("taskset 2 sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $! >/run/busy")?;
    let operation = vm.api().resize(1, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0])?;
    vm.sh_ok("kill $(cat /run/busy)")?;
    end(&vm)
}

/// The guest gives a CPU back that nobody asked for. It is taken, and can be had again.
fn guest_ejects(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    vm.sh_ok("echo 1 >/sys/devices/system/cpu/cpu1/firmware_node/eject")?;
    vm.wait_until("the eject", || is_away(&vm, &vm.api().vcpus()?))?;
    expect_cpus(&vm, "0", "0")?;
    let operation = vm.api().vcpu_target(1, Target::Online, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0, 1])?;
    has_said(&vm, &[("3", "0x84", 1), ("0x103", "0", 1), ("1", "0", 1)])?;
    end(&vm)
}

/// The policy is that the guest does not give CPUs back by itself: the vCPU stays, although the guest is done with
/// it. An older kernel has lost it then, a newer one keeps it offline; either gives it back when asked to, and
/// takes it again.
fn guest_ejects_in_vain(context: &Context, kernel: Kernel) -> Result<()> {
    let builder = context.vm(kernel).cpus(2, 2);
    let vm = builder.arg("--guest-eject").arg("ignore").start()?;
    vm.wait_for_init(1)?;
    let before = generation(&vm, 1)?;
    vm.sh_ok("echo 1 >/sys/devices/system/cpu/cpu1/firmware_node/eject")?;
    vm.wait_until("the guest to notice that its eject did nothing", || {
        Ok(vm.sh_ok("dmesg | grep -c 'Eject incomplete' || true")? == "1")
    })?;
    vm.stderr()
        .wait_for("nobody asked for it", 0, Instant::now() + SOON)
        .map_err(|why| vm.evidence(why))?;
    let vcpus = vm.api().vcpus()?;
    ensure!(
        vcpus.plugged == 2 && generation(&vm, 1)? == before && thread(&vm, 1)?.is_in_guest(),
        "{vcpus:?}"
    );
    let present = match kernel {
        Kernel::V6_1Cloud | Kernel::V6_1Rt => "0",
        Kernel::V6_12Cloud => "0-1",
    };
    expect_cpus(&vm, present, "0")?;
    let operation = vm.api().vcpu_target(1, Target::Offline, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0])?;
    comes_back(&vm, &[1], &[0, 1])?;
    end(&vm)
}

/// vCPU 1 is not in the guest any more, as API, guest and host say.
fn is_away(vm: &Vm, vcpus: &Vcpus) -> Result<bool> {
    let present = vm.sh_ok("cat /sys/devices/system/cpu/present")?;
    Ok(vcpus.plugged == 1 && present == "0" && !thread(vm, 1)?.is_in_guest())
}

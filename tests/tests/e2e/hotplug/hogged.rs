//! A task of the guest's that never sleeps has a CPU for itself, so that the kernel's own tasks do not run there
//! that take CPUs away. The request waits, or runs out of time; what the guest does later counts all the same.

use std::time::Duration;

use anyhow::{Result, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::Vm;
use hotvisor_tests::vm::api::{State, Target};

use super::{
    SHORT, WAIT, comes_back, end, expect, expect_cpus, explains, last_ost, start, succeeded, vcpu,
    with,
};

pub(super) fn tests() -> Vec<Test> {
    let (cloud, rt, newer) = (Kernel::V6_1Cloud, Kernel::V6_1Rt, Kernel::V6_12Cloud);
    [
        with(&[cloud, rt], "hogged_victim", hogged_victim),
        with(&[newer], "hogged_victim_with_a_share", victim_with_a_share),
        with(&[cloud], "hogged_boot_cpu", hogged_boot_cpu),
        with(
            &[newer],
            "hogged_boot_cpu_with_a_share",
            boot_cpu_with_a_share,
        ),
        with(&[newer], "hogged_boot_cpu_is_interrupted", interrupted),
        with(&[cloud], "second_waits_behind_a_hogged_one", second_waits),
        with(&[rt], "preempted_on_the_victim", preempted),
    ]
    .concat()
}

/// What the guest says when it begins to take a CPU down (ACPI 6.3, section 6.3.5).
const BEGUN: [u32; 2] = [3, 0x84];

/// Keeps what takes commands off a CPU: a task that is there when the hog comes, and holds a lock that binds it to
/// its CPU, is stuck until the hog goes.
///
/// That is the shell, of which all commands inherit where they may run; the kernel's unbound workers, which hand it
/// what the serial port got; and the port's interrupt, which the real-time kernel handles in a task. That one moves
/// when it comes for the next time, which is at the end of this command.
fn keep_commands_off(vm: &Vm, cpu: u32) -> Result<()> {
    let other = if cpu == 0 { 2 } else { 1 };
    vm.sh_ok(&format!(
        "read -r _ _ _ shell _ </proc/self/stat; taskset -p {other} $shell; \
         echo {other} >/sys/devices/virtual/workqueue/cpumask; \
         for irq in /proc/irq/*/ttyS0; do echo {other} >${{irq%/*}}/smp_affinity; done"
    ))?;
    Ok(())
}

/// Gives a CPU to a task that never sleeps and comes before everything else there, the kernel's tasks included.
fn hog(vm: &Vm, cpu: u32) -> Result<()> {
    keep_commands_off(vm, cpu)?;
    vm.sh_ok(&format!(
        "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; \
         taskset {:x} sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $! >/run/hog; \
         schedule fifo $(cat /run/hog)",
        1_u64 << cpu
    ))?;
    Ok(())
}

fn kill_hog(vm: &Vm) -> Result<()> {
    vm.sh_ok("kill $(cat /run/hog)")?;
    Ok(())
}

/// Nobody waits for the vCPU's unplug any longer, and it runs on as if nothing had been asked.
fn is_overdue(vm: &Vm, id: u32) -> Result<()> {
    let found = vcpu(vm, id)?;
    let runs = vm
        .vcpu_thread(id)?
        .is_some_and(|thread| thread.is_in_guest());
    if found.phase == "overdue" && found.target == Target::Online && runs {
        return Ok(());
    }
    Err(vm.evidence(format!("expected vCPU {id} to be overdue: {found:?}")))
}

/// The guest has ejected the vCPU after all, later than anybody waited: an operation of its own.
fn went_late(vm: &Vm, id: u32, earlier: u64) -> Result<()> {
    vm.wait_until("the late eject", || Ok(vcpu(vm, id)?.phase == "dormant"))?;
    let last = vcpu(vm, id)?.last_operation;
    let last = vm.api().operation(last.unwrap_or(earlier), WAIT)?;
    if last.id != earlier && last.kind == "guest_eject" && last.state == State::Succeeded {
        return Ok(());
    }
    Err(vm.evidence(format!("expected an eject of the guest's own: {last:#?}")))
}

/// The CPU that is to go is hogged: the guest begins, and does not get on.
fn hogged_victim(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    hog(&vm, 1)?;
    let operation = vm
        .api()
        .timeout(SHORT)
        .vcpu_target(1, Target::Offline, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    explains(&vm, &operation, 1, "has begun and is stuck")?;
    last_ost(&vm, &operation, 1, &[BEGUN])?;
    is_overdue(&vm, 1)?;
    expect_cpus(&vm, "0-1", "0-1")?;
    kill_hog(&vm)?;
    went_late(&vm, 1, operation.id)?;
    vm.agree(&[0])?;
    comes_back(&vm, &[1], &[0, 1])?;
    end(&vm)
}

/// Linux 6.12 keeps a share of each CPU for ordinary tasks, whatever real-time ones are allowed to: it gets on
/// slowly.
fn victim_with_a_share(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    hog(&vm, 1)?;
    let operation = vm.api().vcpu_target(1, Target::Offline, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0])?;
    kill_hog(&vm)?;
    comes_back(&vm, &[1], &[0, 1])?;
    end(&vm)
}

/// Three CPUs, the boot CPU hogged; another one gets the interrupt of requests.
fn boot_cpu_is_hogged(context: &Context, kernel: Kernel) -> Result<Vm> {
    let vm = start(context, kernel, 2, 3)?;
    // It moves, and its thread with it, when it comes for the next time.
    vm.sh_ok("for irq in /proc/irq/*/ACPI:Ged; do echo 2 >${irq%/*}/smp_affinity; done")?;
    comes_back(&vm, &[2], &[0, 1, 2])?;
    hog(&vm, 0)?;
    Ok(vm)
}

/// The guest reads the request on another CPU. Linux 6.1 has such work done by the boot CPU, whoever found it.
fn hogged_boot_cpu(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = boot_cpu_is_hogged(context, kernel)?;
    let api = vm.api().timeout(SHORT);
    let operation = api.vcpu_target(2, Target::Offline, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    explains(&vm, &operation, 2, "read the request and did not answer")?;
    is_overdue(&vm, 2)?;
    expect_cpus(&vm, "0-2", "0-2")?;
    kill_hog(&vm)?;
    went_late(&vm, 2, operation.id)?;
    vm.agree(&[0, 1])?;
    comes_back(&vm, &[2], &[0, 1, 2])?;
    end(&vm)
}

/// Linux 6.12 has any CPU do it.
fn boot_cpu_with_a_share(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = boot_cpu_is_hogged(context, kernel)?;
    let operation = vm.api().vcpu_target(2, Target::Offline, WAIT)?;
    succeeded(&vm, &operation, &[2])?;
    vm.agree(&[0, 1])?;
    kill_hog(&vm)?;
    comes_back(&vm, &[2], &[0, 1, 2])?;
    end(&vm)
}

/// The boot CPU is hogged and gets the interrupt of the request, which a thread of its handles: the guest never
/// reads it, so that it can be taken back.
fn interrupted(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    hog(&vm, 0)?;
    let operation = vm
        .api()
        .timeout(SHORT)
        .vcpu_target(1, Target::Offline, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    explains(&vm, &operation, 1, "never read the request")?;
    expect_cpus(&vm, "0-1", "0-1")?;
    ensure!(vcpu(&vm, 1)?.phase == "online", "{:?}", vcpu(&vm, 1)?);
    kill_hog(&vm)?;
    let operation = vm.api().vcpu_target(1, Target::Offline, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0])?;
    end(&vm)
}

/// Linux takes CPUs down one after the other: one that is stuck holds the next one up.
fn second_waits(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 3, 3)?;
    hog(&vm, 2)?;
    let operation = vm.api().timeout(SHORT).resize(1, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    explains(&vm, &operation, 2, "has begun and is stuck")?;
    last_ost(&vm, &operation, 2, &[BEGUN])?;
    explains(&vm, &operation, 1, "stuck behind an earlier one")?;
    is_overdue(&vm, 1)?;
    is_overdue(&vm, 2)?;
    expect_cpus(&vm, "0-2", "0-2")?;
    kill_hog(&vm)?;
    went_late(&vm, 1, operation.id)?;
    went_late(&vm, 2, operation.id)?;
    vm.agree(&[0])?;
    comes_back(&vm, &[1, 2], &[0, 1, 2])?;
    end(&vm)
}

/// A task that may be anywhere in the kernel, holding a lock that binds it to its CPU, is kept from running for a
/// while. The real-time kernel waits until it can leave.
fn preempted(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    keep_commands_off(&vm, 1)?;
    vm.sh_ok(
        "taskset 2 sh -c 'while :; do : >/run/tmp/file; rm /run/tmp/file; done' >/dev/null 2>&1 & \
         echo $! >/run/busy",
    )?;
    // The clock is the guest's, so that the time does not depend on how fast it runs.
    vm.sh_ok(
        "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; \
         taskset 2 sh -c 'schedule fifo $$; : >/run/hogs; read -r now _ </proc/uptime; \
         end=$((${now%.*} + 5)); \
         while [ ${now%.*} -lt $end ]; do read -r now _ </proc/uptime; done; : >/run/over' \
         >/dev/null 2>&1 & \
         until [ -e /run/hogs ]; do :; done",
    )?;
    let api = vm.api().timeout(WAIT);
    let operation = api.vcpu_target(1, Target::Offline, Duration::ZERO)?;
    let over = vm.sh("[ -e /run/over ]", WAIT)?.status == 0;
    ensure!(!over, "the hog was over before the request came");
    let operation = vm.api().operation(operation.id, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.sh_ok("[ -e /run/over ]")?;
    vm.agree(&[0])?;
    // The task lives on, elsewhere.
    vm.sh_ok("kill $(cat /run/busy)")?;
    comes_back(&vm, &[1], &[0, 1])?;
    end(&vm)
}

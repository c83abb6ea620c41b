//! Why a vCPU's users are kept out only after the notifiers: the deadlock that made Linux order its own CPU
//! hotplug so, with a real guest.
//!
//! Each guest is a real-time one with a task of real-time priority bound to the CPU that is to go. Its VMM is
//! this executable (see [`vmm`]): Hotvisor, and in it a user of the vCPU that a notifier waits for.

mod vmm;

use std::time::Instant;

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{State, Target};
use hotvisor_tests::vm::{SOON, Vm};

pub(crate) use vmm::run_if_vmm;
use vmm::{BLOCK_FIRST, DONE, NOTIFY_FIRST, ORDER, SAMPLER, VICTIM};

use super::{SHORT, WAIT, end, expect, expect_cpus, succeeded};

pub(crate) fn tests() -> Vec<Test> {
    let rt = Image::Vmlinux(Kernel::V6_1Rt);
    vec![
        Test::with_image("hotplug::order::notify_then_block", rt, notify_then_block),
        Test::with_image(
            "hotplug::order::block_then_notify_deadlocks",
            rt,
            block_then_notify_deadlocks,
        ),
    ]
}

/// A guest at its init whose VMM has this order of steps, with the task bound to the CPU.
fn start(context: &Context, kernel: Kernel, order: &str) -> Result<Vm> {
    let vm = Vm::hotvisor(std::env::current_exe()?)
        .env(ORDER, order)
        .kernel(context.artifacts.vmlinux(kernel))
        .initramfs(context.artifacts.initramfs(kernel))
        .cpus(2, 2)
        .start()?;
    vm.wait_for_init(1)?;
    vm.sh_ok(
        "sh -c 'while :; do usleep 2000; done' >/dev/null 2>&1 & echo $! >/run/task; \
         schedule fifo $!",
    )?;
    bind(&vm)?;
    Ok(vm)
}

/// Binds the task to the CPU, wherever Linux has put it, and sees it there.
fn bind(vm: &Vm) -> Result<()> {
    vm.sh_ok(&format!("taskset -p {:x} $(cat /run/task)", 1 << VICTIM))?;
    let place = vm.sh_ok("cut -d ' ' -f 39,41 /proc/$(cat /run/task)/stat")?;
    // Its CPU, and its policy: 1 is SCHED_FIFO.
    ensure!(place == format!("{VICTIM} 1"), "the task is at {place:?}");
    Ok(())
}

/// The user is still let in while the notifier waits for it, and gets done; then the guest is asked.
fn notify_then_block(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, NOTIFY_FIRST)?;
    for round in 1..=3 {
        let operation = vm.api().vcpu_target(VICTIM, Target::Offline, WAIT)?;
        succeeded(&vm, &operation, &[VICTIM])?;
        let done = vm.stderr().text(0).matches(DONE).count();
        ensure!(done == round, "the user got done {done} times");
        vm.agree(&[0])?;
        vm.sh_ok("kill -0 $(cat /run/task)")?;
        let operation = vm.api().vcpu_target(VICTIM, Target::Online, WAIT)?;
        succeeded(&vm, &operation, &[VICTIM])?;
        expect_cpus(&vm, "0-1", "0-1")?;
        bind(&vm)?;
    }
    end(&vm)
}

/// The user waits at a gate that is shut, and the notifier for the user: neither would ever get on, were it not
/// for the operation's deadline. The guest is never asked.
fn block_then_notify_deadlocks(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, BLOCK_FIRST)?;
    for _ in 0..2 {
        let from = vm.stderr().length();
        let api = vm.api().timeout(SHORT);
        let operation = api.vcpu_target(VICTIM, Target::Offline, WAIT)?;
        expect(&vm, &operation, State::TimedOut)?;
        let outcome = operation.part(VICTIM).and_then(|part| part.outcome.clone());
        let said = outcome.map(|outcome| (outcome.detail, outcome.ost));
        let expected = (format!("{SAMPLER} did not let go in time; undone"), None);
        ensure!(said == Some(expected), "the outcome is {said:?}");
        // Only the undoing lets the user in; what it then says comes too late for anybody.
        vm.stderr()
            .wait_for(DONE, from, Instant::now() + SOON)
            .map_err(|why| vm.evidence(why))?;
        expect_cpus(&vm, "0-1", "0-1")?;
        bind(&vm)?;
    }
    end(&vm)
}

//! Guests that do not answer, or not in time, or in an odd way.

use anyhow::{Result, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::SOON;
use hotvisor_tests::vm::api::{State, Target};

use super::{SHORT, WAIT, end, everywhere, expect, expect_cpus, explains, start, succeeded};

/// Counts what a guest should have no reason to say.
const ODD: &str = "dmesg | grep -ciE 'tsc.*(warp|unstable)|BUG|WARNING|no irq handler' || true";

pub(super) fn tests() -> Vec<Test> {
    [
        everywhere("one_failed_step_is_tried_again", one_failed_step),
        everywhere("clock_and_interrupts_survive", clock_and_interrupts),
        everywhere("panicked", panicked),
        everywhere("cpus_that_the_guest_may_not_use", limited),
    ]
    .concat()
}

/// A step of Linux's teardown that fails once: Linux tries again by itself, and the request succeeds.
fn one_failed_step(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    let number = "sed -n 's/^ *\\([0-9]*\\): *STATE$/\\1/p' /sys/devices/system/cpu/hotplug/states";
    let state = |name: &str| vm.sh_ok(&number.replace("STATE", name));
    let (fails, before) = (state("workqueue:online")?, state("sched:active")?);
    ensure!(
        !fails.trim().is_empty() && !before.trim().is_empty(),
        "this kernel has no such steps"
    );
    vm.sh_ok(&format!(
        "echo {fails} >/sys/devices/system/cpu/cpu1/hotplug/fail; \
         echo 1 >/sys/kernel/tracing/events/cpuhp/cpuhp_enter/enable"
    ))?;
    let operation = vm.api().resize(1, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0])?;
    // What comes before it was done, undone and done again.
    let times = vm.sh_ok(&format!(
        "grep -c 'cpu: 0001 .*step: *{before} ' /sys/kernel/tracing/trace"
    ))?;
    ensure!(
        times.trim() == "3",
        "the first steps were gone through {times} times"
    );
    end(&vm)
}

/// The interrupt of a device goes to the CPU that leaves, and the clock stays what it was.
fn clock_and_interrupts(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    let clock = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
    let (before, odd) = (vm.sh_ok(clock)?, vm.sh_ok(ODD)?);
    for _ in 0..3 {
        // COM1, through which this command comes.
        vm.sh_ok(
            "echo 2 >/proc/irq/$(sed -n 's/^ *\\([0-9]*\\):.*ttyS0.*/\\1/p' /proc/interrupts)/smp_affinity",
        )?;
        let operation = vm.api().resize(1, WAIT)?;
        succeeded(&vm, &operation, &[1])?;
        vm.agree(&[0])?;
        let operation = vm.api().resize(2, WAIT)?;
        succeeded(&vm, &operation, &[1])?;
        vm.agree(&[0, 1])?;
    }
    let after = vm.sh_ok(clock)?;
    ensure!(
        after == before,
        "the clock source was {before}, and is {after}"
    );
    // It has said such things when it booted, for which its emulated CPU is good.
    let after = vm.sh_ok(ODD)?;
    ensure!(after == odd, "odd messages: {odd} before, {after} after");
    end(&vm)
}

/// A guest that is dead does not take the API with it.
fn panicked(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(2, 3).arg("-v").start()?;
    vm.wait_for_init(1)?;
    vm.sh_last("echo c >/proc/sysrq-trigger")?;
    vm.wait_until("the guest's panic", || {
        Ok(vm.console().text(0).contains("Kernel panic"))
    })?;
    for target in [(1, Target::Offline), (2, Target::Online)] {
        let operation = vm
            .api()
            .timeout(SHORT)
            .vcpu_target(target.0, target.1, WAIT)?;
        expect(&vm, &operation, State::TimedOut)?;
    }
    vm.press_power_button()?;
    vm.stderr()
        .wait_for("power button", 0, std::time::Instant::now() + SOON)
        .map_err(|why| vm.evidence(why))?;
    vm.press_power_button()?;
    let status = vm.wait_exit(SOON)?;
    ensure!(status.code() == Some(6), "it ended with {status}");
    Ok(())
}

/// A guest that was told to use two CPUs at most takes a third one and never starts it: no success.
fn limited(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context
        .vm(kernel)
        .cpus(2, 3)
        .cmdline("console=ttyS0 quiet nr_cpus=2")
        .start()?;
    vm.wait_for_init(1)?;
    let operation = vm.api().timeout(SHORT).resize(3, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    explains(&vm, &operation, 2, "nr_cpus=")?;
    expect_cpus(&vm, "0-1", "0-1")?;
    let vcpus = vm.api().vcpus()?;
    ensure!(vcpus.plugged == 3 && vcpus.online == 2, "{vcpus:?}");
    end(&vm)
}

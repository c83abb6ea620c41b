//! Guests that do not answer, or not in time, or in an odd way.

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{Operation, State, Target};
use hotvisor_tests::vm::{SOON, Vm};

use super::{SHORT, WAIT, end, everywhere, expect, expect_cpus, last_ost, start, succeeded};

/// A task that hogs the CPU of the mask for as long as it is left alive. Linux would take 5 % of the CPU away
/// from it, if it were let.
const HOG: &str = "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; \
                   taskset MASK sh -c 'while :; do :; done' >/dev/null 2>&1 & \
                   echo $! >/run/hog; deadline fifo $(cat /run/hog)";

/// Counts what a guest should have no reason to say.
const ODD: &str = "dmesg | grep -ciE 'tsc.*(warp|unstable)|BUG|WARNING|no irq handler' || true";

pub(super) fn tests() -> Vec<Test> {
    let mut tests = [
        everywhere("one_failed_step_is_tried_again", one_failed_step),
        everywhere("clock_and_interrupts_survive", clock_and_interrupts),
        everywhere("panicked", panicked),
        everywhere("cpus_that_the_guest_may_not_use", limited),
    ]
    .concat();
    // Linux 6.12 takes time from hogs for the others by itself, and under a hog the whole of the real-time kernel
    // with two CPUs comes to a stand.
    let image = || Image::BzImage(Kernel::V6_1Cloud);
    tests.push(Test::with_image(
        "hotplug::hogged_victim",
        image(),
        hogged_victim,
    ));
    tests.push(Test::with_image(
        "hotplug::queue_behind_a_hog",
        image(),
        queue,
    ));
    tests
}

fn detail(operation: &Operation, id: u32) -> String {
    let outcome = operation.part(id).and_then(|part| part.outcome.as_ref());
    outcome
        .map(|outcome| outcome.detail.clone())
        .unwrap_or_default()
}

fn hog(vm: &Vm, mask: u32) -> Result<()> {
    vm.sh_ok(&HOG.replace("MASK", &mask.to_string())).map(drop)
}

fn wait_phase(vm: &Vm, id: u32, phase: &str) -> Result<()> {
    vm.wait_until(&format!("vCPU {id} to be {phase}"), || {
        let vcpus = vm.api().vcpus()?.vcpus;
        Ok(vcpus
            .iter()
            .any(|vcpu| vcpu.id == id && vcpu.phase == phase))
    })
}

/// The guest has begun, and the thread that takes the CPU down does not get to run: it is said so, nothing is
/// taken by force, and the eject that comes when the hog is gone is honoured.
fn hogged_victim(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    hog(&vm, 2)?;
    let operation = vm.api().timeout(SHORT).resize(1, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    last_ost(&vm, &operation, 1, &[[3, 0x84]])?;
    ensure!(detail(&operation, 1).contains("stuck"), "{operation:?}");
    wait_phase(&vm, 1, "overdue")?;
    // Nobody is told that it stays.
    let online = vm
        .api()
        .timeout(SHORT)
        .vcpu_target(1, Target::Online, WAIT)?;
    expect(&vm, &online, State::TimedOut)?;
    vm.sh_ok("kill $(cat /run/hog)")?;
    wait_phase(&vm, 1, "dormant")?;
    expect_cpus(&vm, "0", "0")?;
    let operation = vm.api().resize(2, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0, 1])?;
    end(&vm)
}

/// Linux ejects one after the other: behind one that is stuck the next one waits, and both are reported.
fn queue(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 3, 3)?;
    hog(&vm, 2)?;
    let operation = vm.api().timeout(SHORT).resize(1, WAIT)?;
    expect(&vm, &operation, State::TimedOut)?;
    // The hog may keep Linux even from beginning.
    for id in [1, 2] {
        let said = detail(&operation, id);
        let names_it = said.contains("is stuck taking") || said.contains("did not answer");
        ensure!(names_it, "{operation:?}");
    }
    vm.sh_ok("kill $(cat /run/hog)")?;
    wait_phase(&vm, 1, "dormant")?;
    wait_phase(&vm, 2, "dormant")?;
    vm.agree(&[0])?;
    end(&vm)
}

/// A step of Linux's teardown that fails once: Linux tries again by itself, and the request succeeds.
fn one_failed_step(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    vm.sh_ok(
        "cd /sys/devices/system/cpu; \
         sed -n 's/^ *\\([0-9]*\\): *workqueue:online/\\1/p' hotplug/states >cpu1/hotplug/fail",
    )?;
    let operation = vm.api().resize(1, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0])?;
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
    expect_cpus(&vm, "0-1", "0-1")?;
    let vcpus = vm.api().vcpus()?;
    ensure!(vcpus.plugged == 3 && vcpus.online == 2, "{vcpus:?}");
    end(&vm)
}

//! A guest with work to do is paused, and goes on without having noticed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{Operation, State, Target};
use hotvisor_tests::vm::{SOON, Thread, Vm};

/// How long a pause lasts that the guest would notice if its clock went on.
const LONG: Duration = Duration::from_secs(8);
/// For how long the guest is paused for short moments, one after the other.
const SHORT_ONES: Duration = Duration::from_secs(4);
/// Longest wait for the end of an operation.
const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn tests() -> Vec<Test> {
    Kernel::ALL
        .iter()
        .map(|&kernel| Test::with_image("pause::under_load", Image::quick(kernel), under_load))
        .collect()
}

fn under_load(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(2, 2).start()?;
    vm.wait_for_init(1)?;
    let (source, odd) = (clock_source(&vm)?, complaints(&vm)?);
    for cpu in [1, 2] {
        let busy = format!("taskset {cpu} sh -c 'while :; do :; done' >/dev/null 2>&1 &");
        vm.sh_ok(&busy)?;
    }
    let (begin, before) = (Instant::now(), uptime(&vm)?);
    vm.api().pause()?;
    vm.wait_until("both vCPUs to hold", || {
        let threads = vm.threads()?;
        let mut vcpus = threads.iter().filter(|t| t.name.starts_with("vcpu-"));
        Ok(!vcpus.any(Thread::is_in_guest))
    })?;
    let said = vm.console().length();
    let answer = vm.sh("echo it-is-$((6 * 7))-now", LONG);
    ensure!(
        answer.is_err() && vm.console().length() == said,
        "a paused guest answers: {answer:?}"
    );
    vm.api().resume()?;
    vm.wait_for("it-is-42-now", said, SOON)?;
    let (after, passed) = (uptime(&vm)?, begin.elapsed());
    if source == "kvm-clock" {
        let counted = after.saturating_sub(before);
        ensure!(
            counted + LONG / 2 < passed,
            "the guest counted {counted:?} of {passed:?}"
        );
    }
    // As many as it takes for the guest to look at its TSC, which it does every half second.
    let begin = Instant::now();
    while begin.elapsed() < SHORT_ONES {
        vm.api().pause()?;
        vm.api().resume()?;
    }
    in_the_midst(&vm, Target::Offline)?;
    vm.agree(&[0])?;
    in_the_midst(&vm, Target::Online)?;
    vm.agree(&[0, 1])?;
    ensure!(
        clock_source(&vm)? == source,
        "the clock source is {} and was {source}",
        clock_source(&vm)?
    );
    let now = complaints(&vm)?;
    ensure!(
        now == odd,
        "the guest complained of {odd:?}, and now of {now:?}"
    );
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

/// A change with pauses while the guest is at it.
fn in_the_midst(vm: &Vm, target: Target) -> Result<()> {
    let mut operation: Operation = vm.api().vcpu_target(1, target, Duration::ZERO)?;
    for _ in 0..20 {
        vm.api().pause()?;
        vm.api().resume()?;
    }
    operation = vm.api().operation(operation.id, WAIT)?;
    ensure!(operation.state == State::Succeeded, "{operation:#?}");
    Ok(())
}

fn clock_source(vm: &Vm) -> Result<String> {
    vm.sh_ok("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
}

/// What the guest's kernel says when it takes a pause for a hang, or when one of its clocks went on that it watches by
/// another.
fn complaints(vm: &Vm) -> Result<String> {
    vm.sh_ok("dmesg | grep -iE 'lockup|stall|hung|unstable' || true")
}

/// How long the guest believes to have run.
fn uptime(vm: &Vm) -> Result<Duration> {
    let text = vm.sh_ok("cat /proc/uptime")?;
    let seconds = text.split(' ').next().unwrap_or_default();
    let seconds = seconds.parse().with_context(|| text.clone())?;
    Ok(Duration::from_secs_f64(seconds))
}

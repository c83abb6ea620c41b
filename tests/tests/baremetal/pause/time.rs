//! Time stands still in a pause: that of operations, and that of the guest.

use std::time::{Duration, Instant};

use anyhow::Result;
use hotvisor_tests::harness::{Context, Test};
use serde_json::{Value, json};

use super::Pause;
use crate::guest::{Guest, number, test};
use crate::hotplug::guest::{BEGUN, Hotplug, machine};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test(
            "pause::an_operation_outlives_one_longer_than_its_time",
            outlives,
        ),
        test(
            "pause::an_operation_has_the_rest_of_its_time_after_it",
            rest,
        ),
        test("pause::kvm_clock_stands_still_and_says_so", clock),
    ]
}

/// Waits for the end of an operation that must not come within this time.
fn outlast(guest: &Guest, operation: &Value, time: Duration) -> Result<()> {
    let begin = Instant::now();
    let path = format!(
        "/api/v1/operations/{}?wait={}",
        operation["id"],
        time.as_secs_f32()
    );
    let answer = guest.vm().api().get(&path)?;
    guest.ensure(
        answer.status == 202 && answer.body["state"] == "running" && begin.elapsed() >= time,
        || format!("it has ended: {}", answer.body),
    )
}

fn outlives(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 3)?.boot()?;
    guest.start_cpu(1, 1)?;
    let unplug = guest.put("/api/v1/vcpus/1?timeout=4", &json!({ "target": "offline" }))?;
    guest.scan()?;
    guest.ost(1, BEGUN)?;
    let plug = guest.put("/api/v1/vcpus/2?timeout=4", &json!({ "target": "online" }))?;
    guest.expect_phase(2, "announced")?;
    guest.pause()?;
    outlast(&guest, &unplug, Duration::from_secs(5))?;
    guest.resume()?;
    guest.eject(1)?;
    guest.obey_plug(2, 1)?;
    guest.expect_state(&unplug, "succeeded")?;
    guest.expect_state(&plug, "succeeded")?;
    // How long it took is told without the pause.
    let timeline = guest.vcpu(1)?["timeline"]["unplug"].clone();
    let total = timeline["total_us"].as_u64();
    guest.ensure(total.is_some_and(|us| us < 5_000_000), || {
        format!("it took {timeline}")
    })?;
    guest.power_off()
}

fn rest(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let body = json!({ "target": "offline" });
    let unplug = guest.put("/api/v1/vcpus/1?timeout=2", &body)?;
    guest.pause()?;
    outlast(&guest, &unplug, Duration::from_secs(3))?;
    guest.resume()?;
    guest.expect_state(&unplug, "timed_out")?;
    guest.expect_phase(1, "online")?;
    guest.power_off()
}

/// Where the guest has KVM put its clock (`struct pvclock_vcpu_time_info`), and the register that says so.
const CLOCK: u64 = 0x20_0000;
const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// Bit of the clock's flags: the guest was stopped.
const STOPPED: u64 = 1 << 1;

/// What the clock says now, in nanoseconds, and its flags.
fn read_clock(guest: &Guest) -> Result<(u128, u64)> {
    let word = |offset| number(&guest.ok(&format!("rd32 {:#x}", CLOCK + offset))?);
    let long = |offset| Ok::<_, anyhow::Error>(word(offset)? | word(offset + 4)? << 32);
    let (stamp, system_time, factor) = (long(8)?, long(16)?, word(24)?);
    let rest = word(28)?;
    let (shift, flags) = (rest.to_le_bytes()[0].cast_signed(), rest >> 8 & 0xff);
    let tsc = number(&guest.ok("rdmsr 0x10")?)?;
    let ticks = u128::from(tsc - stamp);
    let ticks = match shift {
        0.. => ticks << shift,
        _ => ticks >> -shift,
    };
    let passed = (ticks * u128::from(factor)) >> 32;
    Ok((u128::from(system_time) + passed, flags))
}

/// Linux's kvm-clock, played by hand: the guest gives KVM a page, and reads what it says there.
fn clock(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    if guest.ask(&format!("wrmsr {MSR_SYSTEM_TIME:#x} 0 {:#x}", CLOCK | 1))? != "ok" {
        // This KVM has no such clock, and the pause works all the same.
        guest.pause()?;
        guest.resume()?;
        return guest.power_off();
    }
    let operation = guest.request(1, "offline")?;
    guest.pause()?;
    guest.resume()?;
    let (before, flags) = read_clock(&guest)?;
    guest.ensure(flags & STOPPED != 0, || format!("flags are {flags:#x}"))?;
    let begin = Instant::now();
    guest.pause()?;
    outlast(&guest, &operation, Duration::from_secs(3))?;
    guest.resume()?;
    let (after, _) = read_clock(&guest)?;
    let passed = begin.elapsed();
    let told = Duration::from_nanos(u64::try_from(after.saturating_sub(before))?);
    guest.ensure(told + Duration::from_secs(2) < passed, || {
        format!("the clock went on by {told:?} in {passed:?}")
    })?;
    guest.power_off()
}

//! CPU hotplug: registers, threads and the API, with a guest that does exactly what the test says.

mod ends;
pub(crate) mod guest;
mod hostile;
mod requests;

use anyhow::{Context as _, Result};
use hotvisor_tests::environment;
use hotvisor_tests::harness::{Context, Test};
use serde_json::json;

use crate::guest::{MEMORY, test};
use guest::{BEGUN, ENABLED, Hotplug, INSERT, REMOVE, machine};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("hotplug::a_plugged_cpu_starts", plug),
        test("hotplug::an_ejected_cpu_is_dormant", unplug),
        test("hotplug::a_middle_cpu_goes_and_the_others_stay", middle),
        test("hotplug::a_dormant_cpu_comes_back_on_its_thread", replug),
        test(
            "hotplug::an_idle_dormant_thread_ends_and_the_cpu_comes_back",
            ended_thread,
        ),
        test("hotplug::a_spinning_cpu_is_ejected", spinning),
        test("hotplug::a_cpu_ejects_itself", self_eject),
        test("hotplug::a_notification_while_masked_is_not_lost", masked),
        test("hotplug::a_scan_leads_to_the_last_of_many_at_once", far),
        test("hotplug::a_restart_keeps_what_is_plugged", restart),
        test(
            "hotplug::a_restart_ends_what_is_under_way",
            restart_under_way,
        ),
        test("hotplug::a_thousand_cycles_leave_nothing_behind", cycles),
    ];
    tests.extend(requests::tests());
    tests.extend(hostile::tests());
    tests.extend(ends::tests());
    tests
}

fn plug(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 4)?.boot()?;
    let operation = guest.request(2, "online")?;
    guest.ensure(guest.flags(2)? & ENABLED != 0, || "not enabled".into())?;
    let events = guest.scan()?;
    guest.ensure(events == [(2, INSERT)], || format!("found {events:?}"))?;
    guest.ensure(guest.scan()?.is_empty(), || "an event came twice".into())?;
    guest.ost(2, (1, 0))?;
    guest.expect_phase(2, "plugged")?;
    guest.start_cpu(2, 1)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.expect_phase(2, "online")?;
    guest.power_off()
}

fn unplug(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let operation = guest.request(1, "offline")?;
    guest.obey_unplug(1)?;
    guest.expect_state(&operation, "succeeded")?;
    let vcpu = guest.vcpu(1)?;
    guest.ensure(
        vcpu["phase"] == "dormant" && vcpu["thread"]["running"] == false,
        || format!("it is {vcpu}"),
    )?;
    // Nobody starts it any more, now or when it comes back.
    guest.ok("patience 28")?;
    guest.expect_err("sipi 1", "timeout")?;
    guest.ok("patience 33")?;
    let operation = guest.request(1, "online")?;
    guest.scan()?;
    guest.ost(1, (1, 0))?;
    guest.expect_phase(1, "plugged")?;
    guest.start_cpu(1, 2)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

fn middle(context: &Context) -> Result<()> {
    let guest = machine(context, 4, 4)?.boot()?;
    for cpu in 1..4 {
        guest.start_cpu(cpu, 1)?;
    }
    let operation = guest.put("/api/v1/vcpus", &json!({ "online": [0, 1, 3] }))?;
    guest.obey_unplug(2)?;
    guest.expect_state(&operation, "succeeded")?;
    for cpu in [1, 3] {
        guest.expect(&format!("on {cpu} in8 0x1234"), "0xff")?;
    }
    guest.power_off()
}

fn replug(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let thread = guest.tid(1)?;
    for starts in 2..5 {
        let operation = guest.request(1, "offline")?;
        guest.obey_unplug(1)?;
        guest.expect_state(&operation, "succeeded")?;
        let operation = guest.request(1, "online")?;
        guest.obey_plug(1, starts)?;
        guest.expect_state(&operation, "succeeded")?;
        let now = guest.tid(1)?;
        guest.ensure(now == thread, || {
            format!("it had thread {thread:?} and has {now:?}")
        })?;
    }
    guest.power_off()
}

fn ended_thread(context: &Context) -> Result<()> {
    let machine = machine(context, 2, 2)?.with(|vm| vm.arg("--dormant-timeout").arg("0"));
    let guest = machine.boot()?;
    guest.start_cpu(1, 1)?;
    for starts in 2..5 {
        let operation = guest.request(1, "offline")?;
        guest.obey_unplug(1)?;
        guest.expect_state(&operation, "succeeded")?;
        guest
            .vm()
            .wait_until("the thread to end", || Ok(guest.tid(1)?.is_none()))?;
        let operation = guest.request(1, "online")?;
        guest.obey_plug(1, starts)?;
        guest.expect_state(&operation, "succeeded")?;
    }
    guest.power_off()
}

/// A guest may eject a CPU that still runs: it loses it, and that is all.
fn spinning(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    for starts in 2..5 {
        guest.expect("ap 1 spin", "")?;
        let operation = guest.request(1, "offline")?;
        guest.scan()?;
        guest.eject(1)?;
        guest.expect_state(&operation, "succeeded")?;
        let operation = guest.request(1, "online")?;
        guest.obey_plug(1, starts)?;
        guest.expect_state(&operation, "succeeded")?;
    }
    guest.power_off()
}

fn self_eject(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    for starts in 2..5 {
        let operation = guest.request(1, "offline")?;
        guest.scan()?;
        guest.flags(1)?;
        guest.ok("patience 28")?;
        // It may or may not come to say that it has done it.
        guest.ask("on 1 wr8 0xfeb01004 8")?;
        guest.expect_state(&operation, "succeeded")?;
        guest.expect_phase(1, "dormant")?;
        guest.looks_gone(1)?;
        guest.ok("patience 33")?;
        let operation = guest.request(1, "online")?;
        guest.obey_plug(1, starts)?;
        guest.expect_state(&operation, "succeeded")?;
    }
    guest.power_off()
}

/// The GED's pin is masked when the request comes, as before its driver is bound.
fn masked(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    guest.request(1, "online")?;
    let armed = guest.ask("irq 16")?;
    guest.ensure(armed == "waiting", || format!("`irq 16` gave {armed:?}"))?;
    let answer = guest.line()?;
    guest.ensure(answer.starts_with("ok pin=16"), || {
        format!("gave {answer:?}")
    })?;
    guest.expect("rd32 0xfeb00000", "0x1")?;
    guest.obey_plug(1, 1)?;
    guest.power_off()
}

/// A scan that asks for the next event comes to the last of 512 possible CPUs as it comes to that of 8, with no
/// other in between.
fn far(context: &Context) -> Result<()> {
    for max in [8, 512] {
        let guest = machine(context, 1, max)?.boot()?;
        let last = max - 1;
        guest.request(last, "online")?;
        let events = guest.scan()?;
        guest.ensure(events == [(last, INSERT)], || format!("found {events:?}"))?;
        guest.ost(last, (1, 0))?;
        guest.expect_phase(last, "plugged")?;
        guest.power_off()?;
    }
    Ok(())
}

fn restart(context: &Context) -> Result<()> {
    let guest = machine(context, 3, 4)?.boot()?;
    for cpu in [1, 2] {
        guest.start_cpu(cpu, 1)?;
    }
    let operation = guest.put("/api/v1/vcpus", &json!({ "online": [0, 2, 3] }))?;
    guest.expect_phase(3, "announced")?;
    let events = guest.scan()?;
    guest.ensure(events == [(1, REMOVE), (3, INSERT)], || {
        format!("found {events:?}")
    })?;
    guest.ost(3, (1, 0))?;
    guest.start_cpu(3, 1)?;
    guest.expect("ap 1 dead", "")?;
    guest.eject(1)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.tell("reset")?;
    guest.wait_ready()?;
    guest.expect(
        "cpus",
        "0-0:enabled:0 1-1:capable:0 2-3:enabled:0 total=4 uid-differs=0",
    )?;
    for cpu in [2, 3] {
        guest.start_cpu(cpu, 1)?;
    }
    // One that was dormant before is as new.
    let operation = guest.request(1, "online")?;
    guest.obey_plug(1, 1)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

fn restart_under_way(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 3)?.boot()?;
    guest.start_cpu(1, 1)?;
    let unplug = guest.request(1, "offline")?;
    guest.scan()?;
    guest.ost(1, BEGUN)?;
    let plug = guest.request(2, "online")?;
    guest.tell("reset")?;
    guest.wait_ready()?;
    guest.expect_state(&unplug, "succeeded")?;
    let flags = (guest.flags(1)?, guest.flags(2)?);
    guest.ensure(flags == (0, ENABLED), || format!("flags are {flags:?}"))?;
    guest.start_cpu(2, 1)?;
    guest.expect_state(&plug, "succeeded")?;
    guest.power_off()
}

/// Cycles of plug and unplug; threads, descriptors and memory at the end are those of the beginning.
fn cycles(context: &Context) -> Result<()> {
    /// By then the lists of ended operations and of events are as long as they get: there are 13 of these in a cycle.
    const WARM: u32 = 4096 / 13 + 100;
    /// KiB that the heap may vary by, however many cycles there are.
    const SLACK: u64 = 64;
    let cycles: u32 = environment::number("HOTVISOR_CYCLES")?.unwrap_or(1000);
    let guest = machine(context, 2, 2)?.boot()?;
    let vm = guest.vm();
    guest.start_cpu(1, 1)?;
    let mut before = None;
    for cycle in 1..=cycles {
        let operation = guest.request(1, "offline")?;
        guest.obey_unplug(1)?;
        guest.expect_state(&operation, "succeeded")?;
        let operation = guest.request(1, "online")?;
        guest.obey_plug(1, cycle + 1)?;
        guest.expect_state(&operation, "succeeded")?;
        if cycle == WARM {
            before = Some((vm.footprint()?, vm.own_memory(MEMORY)?));
        }
    }
    let (footprint, memory) = before.context("too few cycles")?;
    // The connection of the last request may still be closing.
    vm.wait_until(&format!("{footprint:?} again"), || {
        Ok(vm.footprint()? == footprint)
    })?;
    let now = vm.own_memory(MEMORY)?;
    guest.ensure(now <= memory + SLACK, || {
        format!("it had {memory} KiB of its own after {WARM} cycles, and has {now} after {cycles}")
    })?;
    guest.power_off()
}

//! A pause in each phase of an unplug and of a plug, after which both go on to their end.

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};
use serde_json::json;

use super::Pause;
use crate::guest::{Guest, test};
use crate::hotplug::guest::{BEGUN, Hotplug, INSERT, REMOVE, machine};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test("pause::in_every_phase_of_an_unplug", unplug),
        test("pause::in_every_phase_of_a_plug", plug),
        test("pause::at_the_moment_of_an_eject", eject),
        test("pause::at_the_start_of_a_thread", thread_start),
        test("pause::a_refusal_after_it", refusal),
        test("pause::while_many_come_and_go", many),
    ]
}

/// A step by its name, the phase that it leads to, and how it is done.
type Step = (&'static str, &'static str, fn(&Guest) -> Result<()>);

/// One phase after the other, each entered by its step.
fn in_each(guest: &Guest, steps: &[Step]) -> Result<()> {
    for (name, phase, step) in steps {
        step(guest).context(*name)?;
        guest.expect_phase(1, phase).context(*name)?;
        guest.pause().context(*name)?;
        guest.expect_phase(1, phase).context(*name)?;
        guest.resume().context(*name)?;
    }
    Ok(())
}

const UNPLUG: &[Step] = &[
    ("asked", "notifying", |_| Ok(())),
    ("read", "notifying", |guest| {
        let events = guest.scan()?;
        guest.ensure(events == [(1, REMOVE)], || format!("found {events:?}"))
    }),
    ("begun", "notifying", |guest| guest.ost(1, BEGUN)),
    ("dead", "notifying", |guest| guest.expect("ap 1 dead", "")),
    ("ejected", "dormant", |guest| guest.eject(1)),
    ("said so", "dormant", |guest| guest.ost(1, (3, 0))),
];

fn unplug(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let operation = guest.request(1, "offline")?;
    in_each(&guest, UNPLUG)?;
    guest.expect_state(&operation, "succeeded")?;
    let operation = guest.request(1, "online")?;
    guest.obey_plug(1, 2)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

const PLUG: &[Step] = &[
    ("announced", "announced", |_| Ok(())),
    ("read", "announced", |guest| {
        let events = guest.scan()?;
        guest.ensure(events == [(1, INSERT)], || format!("found {events:?}"))
    }),
    ("plugged", "plugged", |guest| guest.ost(1, (1, 0))),
    ("online", "online", |guest| guest.start_cpu(1, 1)),
];

/// Once with a vCPU that KVM is yet to make, and once with a dormant one.
fn plug(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    let operation = guest.request(1, "online")?;
    in_each(&guest, PLUG)?;
    guest.expect_state(&operation, "succeeded")?;
    let operation = guest.request(1, "offline")?;
    guest.obey_unplug(1)?;
    guest.expect_state(&operation, "succeeded")?;
    let operation = guest.request(1, "online")?;
    in_each(&guest, &PLUG[..3])?;
    guest.start_cpu(1, 2)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

/// The eject and the pause race. Once the guest has ejected, the rest needs no guest: it is done in the pause.
fn eject(context: &Context) -> Result<()> {
    for timeout in ["600", "0"] {
        let machine = machine(context, 2, 2)?.with(|vm| vm.arg("--dormant-timeout").arg(timeout));
        let guest = machine.boot()?;
        guest.start_cpu(1, 1)?;
        for starts in 2..30 {
            guest.expect("ap 1 spin", "")?;
            let operation = guest.request(1, "offline")?;
            guest.scan()?;
            guest.ok("wr32 0xfeb01000 1")?;
            guest.tell("wr8 0xfeb01004 8")?;
            guest.pause()?;
            if guest.vcpu(1)?["phase"] != "notifying" {
                guest.expect_state(&operation, "succeeded")?;
                guest.expect_phase(1, "dormant")?;
            }
            guest.resume()?;
            let answer = guest.line()?;
            guest.ensure(answer == "ok", || format!("gave {answer:?}"))?;
            guest.looks_gone(1)?;
            guest.expect_state(&operation, "succeeded")?;
            let operation = guest.request(1, "online")?;
            guest.obey_plug(1, starts)?;
            guest.expect_state(&operation, "succeeded")?;
        }
        guest.power_off()?;
    }
    Ok(())
}

/// The thread of a plug comes up in the pause, and does not enter the guest; the guest hears of it later.
fn thread_start(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    for starts in 1..30 {
        let body = json!({ "target": "online" });
        let operation = guest.put("/api/v1/vcpus/1", &body)?;
        guest.pause()?;
        guest.expect_phase(1, "announced")?;
        guest
            .vm()
            .wait_until("every vCPU to hold", || guest.is_out_of_guest())?;
        guest.resume()?;
        guest.obey_plug(1, starts)?;
        guest.expect_state(&operation, "succeeded")?;
        let operation = guest.request(1, "offline")?;
        guest.obey_unplug(1)?;
        guest.expect_state(&operation, "succeeded")?;
    }
    guest.power_off()
}

fn refusal(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let operation = guest.request(1, "offline")?;
    guest.scan()?;
    guest.ost(1, BEGUN)?;
    guest.pause()?;
    guest.resume()?;
    guest.ost(1, (3, 0x82))?;
    guest.expect_state(&operation, "refused")?;
    guest.expect("on 1 in8 0x1234", "0xff")?;
    guest.expect_phase(1, "online")?;
    guest.power_off()
}

fn many(context: &Context) -> Result<()> {
    let guest = machine(context, 4, 8)?.boot()?;
    for cpu in 1..4 {
        guest.start_cpu(cpu, 1)?;
    }
    let pause = || guest.pause().and_then(|()| guest.resume());
    let body = json!({ "online": [0, 4, 5, 6, 7] });
    let operation = guest.put("/api/v1/vcpus", &body)?;
    pause()?;
    guest.expect_phase(7, "announced")?;
    let wanted: Vec<_> = (1..8)
        .map(|cpu| (cpu, if cpu < 4 { REMOVE } else { INSERT }))
        .collect();
    let events = guest.scan()?;
    guest.ensure(events == wanted, || format!("found {events:?}"))?;
    for (cpu, event) in wanted {
        pause()?;
        if event == REMOVE {
            guest.eject(cpu)?;
        } else {
            guest.ost(cpu, (1, 0))?;
            pause()?;
            guest.start_cpu(cpu, 1)?;
        }
    }
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

//! Machines that end, or start again, in the middle of a plug or an unplug. Nothing hangs.

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};
use nix::sys::signal::Signal;

use super::guest::{BEGUN, ENABLED, Hotplug, machine};
use crate::end::{ENDED_EARLY, TRIPLE_FAULT};
use crate::guest::{Guest, test};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test("hotplug::power_off_in_every_phase", |context| {
            in_every_phase(context, Guest::power_off)
        }),
        test("hotplug::reset_in_every_phase", |context| {
            in_every_phase(context, reset)
        }),
        test("hotplug::sigterm_in_every_phase", |context| {
            in_every_phase(context, sigterm)
        }),
        test("hotplug::a_dead_guest_in_every_phase", |context| {
            in_every_phase(context, |guest| {
                guest.tell("triple")?;
                guest.wait_code(TRIPLE_FAULT, &["vcpu-0: triple fault"])
            })
        }),
    ]
}

/// Brings vCPU 1 of two into each phase that lasts, and has the machine end there, or start again.
fn in_every_phase(context: &Context, end: fn(&Guest) -> Result<()>) -> Result<()> {
    type Step = fn(&Guest) -> Result<()>;
    let unplug: Step = |guest| guest.request(1, "offline").map(drop);
    let read: Step = |guest| guest.scan().map(drop);
    let begin: Step = |guest| guest.ost(1, BEGUN);
    let eject: Step = |guest| {
        guest.eject(1)?;
        guest.expect_phase(1, "dormant")
    };
    let plug: Step = |guest| {
        guest.request(1, "online")?;
        guest.expect_phase(1, "announced")
    };
    let acknowledge: Step = |guest| {
        guest.ost(1, (1, 0))?;
        guest.expect_phase(1, "plugged")
    };
    let overdue: Step = |guest| {
        let path = "/api/v1/vcpus/1?timeout=1";
        guest.put(path, &serde_json::json!({ "target": "offline" }))?;
        guest.scan()?;
        guest.expect_phase(1, "overdue")
    };
    let phases: [(&str, &[Step]); 8] = [
        ("asked", &[unplug]),
        ("read", &[unplug, read]),
        ("begun", &[unplug, read, begin]),
        ("overdue", &[overdue]),
        ("ejected", &[unplug, read, eject]),
        ("announced", &[unplug, read, eject, plug]),
        ("insertion read", &[unplug, read, eject, plug, read]),
        ("plugged", &[unplug, read, eject, plug, read, acknowledge]),
    ];
    for (name, steps) in phases {
        let guest = machine(context, 2, 2)?.boot()?;
        guest.start_cpu(1, 1)?;
        steps
            .iter()
            .try_for_each(|step| step(&guest))
            .and_then(|()| end(&guest))
            .context(name)?;
    }
    Ok(())
}

/// The machine that comes next has the vCPU if it is to be online, and it can be taken away and given back.
fn reset(guest: &Guest) -> Result<()> {
    let wanted = guest.vcpu(1)?["target"] == "online";
    guest.tell("reset")?;
    guest.wait_ready()?;
    let flags = guest.flags(1)?;
    guest.ensure((flags == ENABLED) == wanted, || {
        format!("wanted online: {wanted}, and its flags are {flags:#x}")
    })?;
    if wanted {
        guest.start_cpu(1, 1)?;
        let operation = guest.request(1, "offline")?;
        guest.obey_unplug(1)?;
        guest.expect_state(&operation, "succeeded")?;
    }
    let operation = guest.request(1, "online")?;
    guest.obey_plug(1, if wanted { 2 } else { 1 })?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

/// The first one presses a button that this guest ignores.
fn sigterm(guest: &Guest) -> Result<()> {
    guest.press_power_button()?;
    guest.expect("ping", "pong")?;
    guest.vm().signal(Signal::SIGTERM)?;
    guest.wait_code(ENDED_EARLY, &[])
}

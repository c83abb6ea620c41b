//! Ejections that nobody asked for, of what is not there, too late, or of oneself.

use anyhow::Result;
use hotvisor_tests::harness::{Context, Test};
use serde_json::json;

use super::guest::{BEGUN, EJECT, ENABLED, Hotplug, machine};
use crate::guest::test;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test("hotplug::the_boot_cpu_cannot_be_ejected", boot_cpu),
        test(
            "hotplug::an_eject_of_the_guests_own_is_an_operation",
            unsolicited,
        ),
        test(
            "hotplug::an_eject_of_the_guests_own_can_be_ignored",
            ignored,
        ),
        test("hotplug::a_stale_eject_does_not_kill_the_new_cpu", stale),
        test("hotplug::an_eject_of_an_empty_slot_does_nothing", empty),
        test("hotplug::odd_accesses_read_as_zero", odd),
    ]
}

fn boot_cpu(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    guest.write_flags(0, EJECT)?;
    guest.ensure(guest.flags(0)? == ENABLED, || "CPU 0 is gone".into())?;
    guest.wait_said("the boot CPU stays")?;
    guest.power_off()
}

fn unsolicited(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.ost(1, BEGUN)?;
    guest.expect("ap 1 dead", "")?;
    guest.eject(1)?;
    guest.ost(1, (0x103, 0))?;
    guest.expect_phase(1, "dormant")?;
    let operation = json!({ "id": guest.vcpu(1)?["last_operation"] });
    let ended = guest.ended(&operation)?;
    guest.ensure(
        ended["kind"] == "guest_eject" && ended["state"] == "succeeded",
        || format!("it is {ended}"),
    )?;
    let operation = guest.request(1, "online")?;
    guest.obey_plug(1, 2)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

fn ignored(context: &Context) -> Result<()> {
    let machine = machine(context, 2, 2)?.with(|vm| vm.arg("--guest-eject").arg("ignore"));
    let guest = machine.boot()?;
    guest.start_cpu(1, 1)?;
    guest.write_flags(1, EJECT)?;
    guest.ensure(guest.flags(1)? == ENABLED, || "it is gone".into())?;
    guest.wait_said("nobody asked for it")?;
    guest.expect("on 1 in8 0x1234", "0xff")?;
    // One that was asked for is honoured all the same.
    let operation = guest.request(1, "offline")?;
    guest.obey_unplug(1)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

/// The guest still has a notification of the CPU before this one in its queue.
fn stale(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let operation = guest.request(1, "offline")?;
    guest.obey_unplug(1)?;
    guest.expect_state(&operation, "succeeded")?;
    let operation = guest.request(1, "online")?;
    guest.ost(1, BEGUN)?;
    guest.write_flags(1, EJECT)?;
    guest.ost(1, (3, 0))?;
    guest.ensure(guest.flags(1)? & ENABLED != 0, || {
        "the new CPU is gone".into()
    })?;
    guest.wait_said("means the one before")?;
    guest.obey_plug(1, 2)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.expect("on 1 in8 0x1234", "0xff")?;
    guest.power_off()
}

fn empty(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    for cpu in [1, 2, 1000, u32::MAX] {
        guest.write_flags(cpu, EJECT)?;
        guest.ensure(guest.flags(cpu)? == 0, || format!("CPU {cpu} has flags"))?;
    }
    guest.expect_phase(1, "absent")?;
    guest.power_off()
}

fn odd(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 4)?.boot()?;
    for access in [
        "rd16 0xfeb01004",
        "rd32 0xfeb01004",
        "rd8 0xfeb01008",
        "rd16 0xfeb01008",
    ] {
        guest.expect(access, "0x0")?;
    }
    for access in [
        "wr32 0xfeb01004 8",
        "wr16 0xfeb01000 1",
        "wr8 0xfeb01005 9",
        "wr8 0xfeb01007 8",
    ] {
        guest.expect(access, "")?;
    }
    guest.ensure(guest.flags(1)? == ENABLED, || {
        "something was changed".into()
    })?;
    guest.power_off()
}

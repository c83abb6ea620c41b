//! Requests: refused, late, taken back, contradicted.

use anyhow::Result;
use hotvisor_tests::harness::{Context, Test};
use serde_json::json;

use super::guest::{BEGUN, Hotplug, INSERT, REMOVE, machine};
use crate::guest::test;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test(
            "hotplug::a_refusal_has_its_code_and_the_cpu_runs_on",
            refusal,
        ),
        test("hotplug::a_silent_guest_is_a_deadline_and_undone", silent),
        test("hotplug::a_late_eject_is_honoured", late),
        test("hotplug::a_no_to_the_first_of_two_requests", twice),
        test("hotplug::cancel_before_the_guest_has_read", cancel),
        test(
            "hotplug::cancel_after_the_guest_has_read_is_a_no",
            cancel_late,
        ),
        test("hotplug::the_latest_desired_count_wins", latest),
        test("hotplug::plug_and_unplug_before_the_guest_reads", unread),
        test("hotplug::many_at_once_are_one_operation", many),
        test("hotplug::a_failed_insertion_is_undone", insertion_fails),
        test("hotplug::impossible_requests_change_nothing", impossible),
    ]
}

fn refusal(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    for (status, words) in [
        (0x82, "could not offline"),
        (0x80, "does not support"),
        (1, "failed"),
    ] {
        let operation = guest.request(1, "offline")?;
        guest.scan()?;
        guest.ost(1, BEGUN)?;
        guest.ost(1, (3, status))?;
        let outcome = guest.expect_state(&operation, "refused")?;
        let said = outcome["detail"].as_str().unwrap_or_default();
        guest.ensure(
            outcome["ost"] == json!([3, status]) && said.contains(words),
            || format!("the outcome is {outcome}"),
        )?;
        guest.expect("on 1 in8 0x1234", "0xff")?;
        guest.expect_phase(1, "online")?;
    }
    let operation = guest.request(1, "offline")?;
    guest.obey_unplug(1)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

fn silent(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 3)?.boot()?;
    guest.start_cpu(1, 1)?;
    let body = json!({ "target": "offline" });
    let operation = guest.put("/api/v1/vcpus/1?timeout=0.2&wait=20", &body)?;
    let outcome = guest.expect_state(&operation, "timed_out")?;
    let said = outcome["detail"].as_str().unwrap_or_default();
    guest.ensure(said.contains("never read"), || format!("said {outcome}"))?;
    guest.ensure(guest.scan()?.is_empty(), || {
        "the request is still there".into()
    })?;
    guest.expect("on 1 in8 0x1234", "0xff")?;
    let operation = guest.put(
        "/api/v1/vcpus/2?timeout=0.2&wait=20",
        &json!({ "target": "online" }),
    )?;
    guest.expect_state(&operation, "timed_out")?;
    guest.expect_phase(2, "dormant")?;
    guest.ensure(guest.scan()?.is_empty(), || {
        "the insertion is still there".into()
    })?;
    // Nothing stands in the way of the next.
    let operation = guest.request(2, "online")?;
    guest.obey_plug(2, 1)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

fn late(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let body = json!({ "target": "offline" });
    let operation = guest.put("/api/v1/vcpus/1?timeout=1", &body)?;
    guest.scan()?;
    guest.ost(1, BEGUN)?;
    let outcome = guest.expect_state(&operation, "timed_out")?;
    let said = outcome["detail"].as_str().unwrap_or_default();
    guest.ensure(
        said.contains("stuck") && outcome["ost"] == json!([3, 0x84]),
        || format!("said {outcome}"),
    )?;
    guest.expect_phase(1, "overdue")?;
    guest.eject(1)?;
    guest.expect_phase(1, "dormant")?;
    let vcpu = guest.vcpu(1)?;
    let operation = json!({ "id": vcpu["last_operation"] });
    let ended = guest.ended(&operation)?;
    guest.ensure(
        ended["kind"] == "guest_eject" && ended["state"] == "succeeded",
        || format!("the late eject is {ended}"),
    )?;
    guest.power_off()
}

/// Who ran out of time asks again, and the guest has the request twice: its no to the first is not one to the second.
fn twice(context: &Context) -> Result<()> {
    let machine = machine(context, 2, 2)?.with(|vm| vm.arg("--guest-eject").arg("ignore"));
    let guest = machine.boot()?;
    guest.start_cpu(1, 1)?;
    let body = json!({ "target": "offline" });
    let first = guest.put("/api/v1/vcpus/1?timeout=1", &body)?;
    guest.scan()?;
    guest.expect_state(&first, "timed_out")?;
    let second = guest.request(1, "offline")?;
    guest.scan()?;
    guest.ost(1, BEGUN)?;
    guest.ost(1, (3, 0x82))?;
    guest.expect_phase(1, "notifying")?;
    guest.ost(1, BEGUN)?;
    guest.eject(1)?;
    guest.expect_state(&second, "succeeded")?;
    guest.expect_phase(1, "dormant")?;
    guest.power_off()
}

fn cancel(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let operation = guest.request(1, "offline")?;
    let path = format!("/api/v1/operations/{}", operation["id"]);
    let answer = guest.vm().api().delete(&path)?;
    guest.ensure(answer.status < 300, || {
        format!("gave {} {}", answer.status, answer.body)
    })?;
    guest.expect_state(&operation, "cancelled")?;
    guest.ensure(guest.scan()?.is_empty(), || {
        "the request is still there".into()
    })?;
    guest.expect("on 1 in8 0x1234", "0xff")?;
    guest.power_off()
}

fn cancel_late(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let operation = guest.request(1, "offline")?;
    guest.scan()?;
    let path = format!("/api/v1/operations/{}", operation["id"]);
    let answer = guest.vm().api().delete(&path)?;
    guest.ensure(answer.status == 409, || {
        format!("gave {} {}", answer.status, answer.body)
    })?;
    guest.eject(1)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

fn latest(context: &Context) -> Result<()> {
    let guest = machine(context, 3, 3)?.boot()?;
    for cpu in [1, 2] {
        guest.start_cpu(cpu, 1)?;
    }
    let down = guest.put("/api/v1/vcpus", &json!({ "desired": 1 }))?;
    guest.scan()?;
    let up = guest.put("/api/v1/vcpus", &json!({ "desired": 3 }))?;
    guest.expect_state(&down, "superseded")?;
    // The guest says no to one, and lets go of the other, which comes back.
    guest.ost(1, (3, 0x82))?;
    guest.eject(2)?;
    guest.expect_phase(2, "announced")?;
    guest.obey_plug(2, 2)?;
    guest.expect_state(&up, "succeeded")?;
    guest.power_off()
}

fn unread(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    let plug = guest.request(1, "online")?;
    let unplug = guest.request(1, "offline")?;
    guest.expect_state(&plug, "superseded")?;
    guest.expect_state(&unplug, "succeeded")?;
    guest.ensure(guest.scan()?.is_empty() && guest.flags(1)? == 0, || {
        "something is left in the registers".into()
    })?;
    guest.power_off()
}

fn many(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 8)?.boot()?;
    let plug = guest.put("/api/v1/vcpus", &json!({ "desired": 8 }))?;
    guest.expect_phase(7, "announced")?;
    let events = guest.scan()?;
    let wanted: Vec<_> = (1..8).map(|cpu| (cpu, INSERT)).collect();
    guest.ensure(events == wanted, || format!("found {events:?}"))?;
    for cpu in 1..8 {
        guest.ost(cpu, (1, 0))?;
        guest.start_cpu(cpu, 1)?;
    }
    guest.expect_state(&plug, "succeeded")?;
    let unplug = guest.put("/api/v1/vcpus", &json!({ "online": [0, 3] }))?;
    let events = guest.scan()?;
    let wanted: Vec<_> = [1, 2, 4, 5, 6, 7].map(|cpu| (cpu, REMOVE)).into();
    guest.ensure(events == wanted, || format!("found {events:?}"))?;
    for (cpu, _) in wanted {
        guest.eject(cpu)?;
    }
    guest.expect_state(&unplug, "succeeded")?;
    guest.power_off()
}

fn insertion_fails(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    let plug = guest.request(1, "online")?;
    guest.scan()?;
    guest.ost(1, (1, 1))?;
    let outcome = guest.expect_state(&plug, "refused")?;
    guest.ensure(outcome["ost"] == json!([1, 1]), || format!("is {outcome}"))?;
    guest.expect_phase(1, "dormant")?;
    guest.ensure(guest.flags(1)? == 0, || "still enabled".into())?;
    let plug = guest.request(1, "online")?;
    guest.obey_plug(1, 1)?;
    guest.expect_state(&plug, "succeeded")?;
    guest.power_off()
}

fn impossible(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    for (path, body, status) in [
        ("/api/v1/vcpus", json!({ "desired": 0 }), 409),
        ("/api/v1/vcpus", json!({ "desired": 3 }), 409),
        ("/api/v1/vcpus", json!({ "online": [1] }), 409),
        ("/api/v1/vcpus", json!({ "online": [0, 9] }), 409),
        ("/api/v1/vcpus/0", json!({ "target": "offline" }), 409),
        ("/api/v1/vcpus/2", json!({ "target": "online" }), 404),
    ] {
        let answer = guest.vm().api().put(path, &body)?;
        guest.ensure(answer.status == status, || {
            format!("{path} {body} gave {} {}", answer.status, answer.body)
        })?;
    }
    let operations = guest.vm().api().get("/api/v1/operations")?.body;
    guest.ensure(!operations.to_string().contains("created_at"), || {
        format!("a refused request left {operations}")
    })?;
    guest.expect("on 1 in8 0x1234", "0xff")?;
    guest.power_off()
}

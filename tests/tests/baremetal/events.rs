//! The stream of events, beside what the API shows at the same time.

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::events::Event;
use serde_json::{Value, json};

use crate::guest::{Guest, Machine, test};
use crate::hotplug::guest::Hotplug;
use crate::served;

/// How many events the VMM keeps.
const KEPT: u64 = 4096;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("events::phases_come_in_order_and_add_up", in_order),
        test("events::who_comes_back_loses_nothing", resume),
        test("events::who_stalls_gets_a_gap_and_then_the_present", stall),
        test("events::pauses_are_told", pauses),
        test("events::a_restart_is_told", restart),
        test("events::the_stream_ends_with_the_guest", end),
    ]
}

/// Whether it is the end of this operation.
fn ends(operation: &Value) -> impl Fn(&Event) -> bool {
    let id = operation["id"].clone();
    move |event| {
        let about = &event.data["operation"];
        event.kind == "operation" && about["id"] == id && about["state"] != "running"
    }
}

/// The phases of one vCPU that events tell of: from where to where, and how long it was there before.
fn phases(events: &[Event], vcpu: u32) -> Vec<(String, String, Option<u64>)> {
    let of = events.iter().filter(|event| event.kind == "phase");
    of.filter(|event| event.data["vcpu"] == vcpu)
        .map(|event| {
            let text = |name: &str| event.data[name].as_str().unwrap_or_default().to_owned();
            (text("from"), text("phase"), event.data["us"].as_u64())
        })
        .collect()
}

/// The phases are those of the timeline, and so are their times: it has stages where a phase has some, and each of
/// its times is cut to whole microseconds.
fn add_up(guest: &Guest, events: &[Event], what: &str, way: &[&str]) -> Result<()> {
    let phases = phases(events, 1);
    let steps = phases.windows(2).all(|pair| pair[0].1 == pair[1].0);
    let gone: Vec<&str> = phases.iter().map(|(_, phase, _)| phase.as_str()).collect();
    guest.ensure(steps && gone == way, || format!("{what}: {phases:#?}"))?;
    let timeline = guest.vcpu(1)?["timeline"][what].clone();
    let stages = timeline["phases"]
        .as_array()
        .context("no timeline")?
        .clone();
    for (from, _, us) in &phases {
        let of = stages.iter().filter(|stage| {
            let stage = stage["phase"].as_str().unwrap_or_default();
            stage.split('.').next() == Some(from.as_str())
        });
        let times: Vec<u64> = of.filter_map(|stage| stage["us"].as_u64()).collect();
        let (sum, cut) = (times.iter().sum::<u64>(), times.len() as u64);
        let same = match us {
            Some(us) => !times.is_empty() && (sum..=sum + cut).contains(us),
            None => times.is_empty(),
        };
        guest.ensure(same, || {
            format!("{from} took {us:?} in the events, and not {times:?}: {timeline}")
        })?;
    }
    Ok(())
}

fn in_order(context: &Context) -> Result<()> {
    let guest = served::boot(Machine::new(context, 2, 2)?, 2)?;
    let mut stream = guest.vm().api().events(None)?;
    let unplugged = ["draining", "notifying", "syncing", "stopping", "dormant"];
    let plugged = ["starting", "announced", "plugged", "online"];
    for (target, what, way) in [
        ("offline", "unplug", &unplugged[..]),
        ("online", "plug", &plugged[..]),
    ] {
        let path = "/api/v1/vcpus/1?wait=20";
        let operation = guest.put(path, &json!({ "target": target }))?;
        let events = stream.until(ends(&operation))?;
        add_up(&guest, &events, what, way)?;
        // It begins before anything is done for it, and ends as it is shown.
        let first = &events[0];
        guest.ensure(
            first.kind == "operation" && first.data["operation"]["state"] == "running",
            || format!("{first:?} came first"),
        )?;
        let last = events.last().context("no event")?;
        guest.ensure(last.data["operation"] == operation, || {
            format!("{last:?} is not {operation}")
        })?;
        let of_it = events.iter().filter(|event| event.kind == "phase");
        for event in of_it {
            let right =
                event.data["operation"] == operation["id"] && event.data["target"] == target;
            guest.ensure(right, || format!("{event:?} is not of {operation}"))?;
        }
    }
    served::end(&guest)?;
    guest.power_off()
}

fn resume(context: &Context) -> Result<()> {
    let guest = served::boot(Machine::new(context, 2, 2)?, 2)?;
    let api = guest.vm().api();
    let mut stream = api.events(None)?;
    let cycle = || -> Result<Value> {
        guest.put("/api/v1/vcpus?wait=20", &json!({ "desired": 1 }))?;
        guest.put("/api/v1/vcpus?wait=20", &json!({ "desired": 2 }))
    };
    let operation = cycle()?;
    let whole = stream.until(ends(&operation))?;
    // Once more from each of them, as if the connection had been lost there: ids are looked at by the stream itself.
    let begin = whole[0].id - 1;
    for seen in (0..).take(whole.len()) {
        let mut again = api.events(Some(begin + seen as u64))?;
        let rest = again.until(ends(&operation))?;
        guest.ensure(rest == whole[seen..], || {
            format!("after {seen} came {rest:#?}, and not the rest of {whole:#?}")
        })?;
    }
    // And from where it was lost to what comes then.
    let last = stream.last();
    drop(stream);
    let operation = cycle()?;
    let rest = api.events(Some(last))?.until(ends(&operation))?;
    guest.ensure(rest[0].id == last + 1 && rest.len() == whole.len(), || {
        format!("after {last} came {rest:#?}")
    })?;
    let ahead = rest[rest.len() - 1].id + 1;
    let answer = api.get(&format!("/api/v1/events?last_event_id={ahead}"))?;
    guest.ensure(answer.status == 400, || format!("{ahead} gave {answer:?}"))?;
    served::end(&guest)?;
    guest.power_off()
}

fn stall(context: &Context) -> Result<()> {
    let guest = served::boot(Machine::new(context, 4, 4)?, 4)?;
    let connection = guest.vm().api().connect()?;
    let api = guest.vm().api().over(&connection);
    let mut stalled = api.events(None)?;
    let mut reader = api.events(None)?;
    let begin = stalled.last();
    // As much as is kept, and what the socket takes, which it cannot be told to take less of.
    let mut last = begin;
    while last < begin + 2 * KEPT {
        let mut operation = Value::Null;
        for count in [1, 4] {
            let body = json!({ "desired": count });
            operation = api.put("/api/v1/vcpus?wait=20", &body)?.body;
            guest.ensure(operation["state"] == "succeeded", || operation.to_string())?;
        }
        // Who reads has no gap.
        let events = reader.until(ends(&operation))?;
        guest.ensure(events.iter().all(|event| event.kind != "gap"), || {
            format!("{events:#?}")
        })?;
        last = reader.last();
    }
    // Ids are looked at by the stream itself.
    let all = stalled.until(|event| event.id == last)?;
    let gaps = all.iter().filter(|event| event.kind == "gap").count();
    let came = (all.len() - gaps) as u64;
    guest.ensure(gaps == 1 && came >= KEPT / 2, || {
        format!("{gaps} gaps among {} events", all.len())
    })?;
    // It is in the present now.
    let operation = guest.put("/api/v1/vcpus?wait=20", &json!({ "desired": 3 }))?;
    let events = stalled.until(ends(&operation))?;
    guest.ensure(events[0].id == last + 1, || format!("{events:#?}"))?;
    served::end(&guest)?;
    guest.power_off()
}

fn states(events: &[Event]) -> Vec<&str> {
    let machine = events.iter().filter(|event| event.kind == "machine");
    machine
        .filter_map(|event| event.data["state"].as_str())
        .collect()
}

fn pauses(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 1)?.boot()?;
    let api = guest.vm().api();
    let mut stream = api.events(None)?;
    api.pause()?;
    api.resume()?;
    let running = |event: &Event| event.data["state"] == "running";
    let events = stream.until(running)?;
    guest.ensure(states(&events).ends_with(&["paused", "running"]), || {
        format!("{events:#?}")
    })?;
    guest.power_off()
}

/// What the guest had started starts again: it is plugged, and not online.
fn restart(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.expect_phase(1, "online")?;
    let mut stream = guest.vm().api().events(None)?;
    guest.tell("reset")?;
    guest.wait_ready()?;
    guest.start_cpu(1, 1)?;
    let online = |event: &Event| event.data["vcpu"] == 1 && event.data["phase"] == "online";
    let events = stream.until(online)?;
    let phases: Vec<String> = phases(&events, 1)
        .into_iter()
        .map(|(_, to, _)| to)
        .collect();
    guest.ensure(phases == ["plugged", "online"], || format!("{events:#?}"))?;
    guest.power_off()
}

fn end(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 1)?.boot()?;
    let mut stream = guest.vm().api().events(None)?;
    guest.power_off()?;
    while stream.read()?.is_some() {}
    Ok(())
}

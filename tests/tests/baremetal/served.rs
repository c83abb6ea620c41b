//! A guest that takes CPUs in and gives them back by itself, as an operating system does.

use anyhow::Result;
use hotvisor_tests::harness::{Context, Test};
use serde_json::json;

use crate::guest::{Guest, Machine, field, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![test("served::comes_and_goes", comes_and_goes)]
}

/// Boots a machine with `boot` of `max` CPUs, all of them started, whose guest serves hotplug from then on.
pub(crate) fn boot(machine: Machine, boot: u32) -> Result<Guest> {
    let guest = machine.boot()?;
    for id in 1..boot {
        guest.start_cpu(id, 1)?;
    }
    let answer = guest.ask("serve")?;
    guest.ensure(answer == "serving", || format!("`serve` gave {answer:?}"))?;
    Ok(guest)
}

/// Ends the service; returns how many requests the guest had.
pub(crate) fn end(guest: &Guest) -> Result<u64> {
    guest.tell("")?;
    let answer = guest.line()?;
    let events = answer
        .strip_prefix("ok ")
        .and_then(|answer| field(answer, "events"));
    guest.ensure(events.is_some(), || {
        format!("`serve` ended with {answer:?}")
    })?;
    Ok(events.map_or(0, |events| events.parse().unwrap_or(0)))
}

fn comes_and_goes(context: &Context) -> Result<()> {
    const ROUNDS: u64 = 20;
    let guest = boot(Machine::new(context, 2, 4)?, 2)?;
    for round in 0..ROUNDS {
        for count in [4, 1, 2] {
            let body = json!({ "desired": count });
            let answer = guest.vm().api().put("/api/v1/vcpus?wait=20", &body)?;
            guest.ensure(answer.body["state"] == "succeeded", || {
                format!("round {round}, {count}: {}", answer.body)
            })?;
        }
    }
    let events = end(&guest)?;
    guest.ensure(events == ROUNDS * 6, || format!("it had {events} requests"))?;
    guest.power_off()
}

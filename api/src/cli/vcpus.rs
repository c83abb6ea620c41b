//! `hotvisor vcpus`.

use super::connection::{Connection, Exit, READS, print, print_bytes};
use super::follow::OPERATIONS;
use super::text;
use crate::client::{Client, Failure};
use crate::wire::operations::{Operation, State};
use crate::wire::vcpus::{Vcpu, Vcpus};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Where the vCPUs are.
pub(super) const VCPUS: &str = "/api/v1/vcpus";

/// Show the vCPUs of a running VM
///
/// Desired is how many were asked for last, plugged how many are there as the guest's firmware tables say, and
/// online how many of those the guest has started.
#[derive(Debug, clap::Args)]
#[command(after_help = READS)]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Answer in JSON, as `GET /api/v1/vcpus` does
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> ExitCode {
        let json = self.json;
        self.connection.run(json, async move |mut client| {
            if json {
                print_bytes(&client.get(VCPUS).await?.body);
            } else {
                print(&Table::default().read(&mut client).await?);
            }
            Ok(Exit::Done)
        })
    }
}

/// The table, and what it knows of operations that have ended and so do not change.
#[derive(Debug, Default)]
pub(super) struct Table {
    ended: BTreeMap<u64, State>,
}

impl Table {
    /// Asks for everything that is in it.
    pub(super) async fn read(&mut self, client: &mut Client) -> Result<String, Failure> {
        let vcpus: Vcpus = client.get(VCPUS).await?.read()?;
        let mut states = BTreeMap::new();
        for id in vcpus.vcpus.iter().filter_map(|vcpu| vcpu.last_operation) {
            if states.contains_key(&id) {
                continue;
            }
            let state = match self.ended.get(&id) {
                Some(state) => Some(*state),
                None => state(client, id).await?,
            };
            states.extend(state.map(|state| (id, state)));
        }
        let ended = states.iter().filter(|(_, state)| **state != State::Running);
        self.ended = ended.map(|(id, state)| (*id, *state)).collect();
        Ok(render(&vcpus, &states))
    }
}

/// The operation's state; none if it ended so long ago that it was dropped.
async fn state(client: &mut Client, id: u64) -> Result<Option<State>, Failure> {
    match client.get(&format!("{OPERATIONS}/{id}")).await {
        Ok(answer) => Ok(Some(answer.read::<Operation>()?.state)),
        Err(Failure::Said(said)) if said.problem.status == 404 => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether two neighbours differ in nothing but their ids: neither was ever there.
fn alike(a: &Vcpu, b: &Vcpu) -> bool {
    let never = |vcpu: &Vcpu| {
        vcpu.generation == 0 && vcpu.thread.is_none() && vcpu.last_operation.is_none()
    };
    never(a) && never(b) && (&a.phase, a.target) == (&b.phase, b.target)
}

fn render(vcpus: &Vcpus, states: &BTreeMap<u64, State>) -> String {
    let Vcpus {
        desired,
        plugged,
        online,
        max,
        ..
    } = vcpus;
    let heads = [
        "VCPU",
        "PHASE",
        "TARGET",
        "GENERATION",
        "THREAD",
        "LAST OPERATION",
    ];
    let rows: Vec<_> = vcpus
        .vcpus
        .chunk_by(alike)
        .filter_map(|run| Some((run.first()?, run.last()?)))
        .map(|(first, last)| row(first, last, states))
        .collect();
    let table = text::table(heads, &rows);
    format!("desired {desired}, plugged {plugged}, online {online}, of at most {max}\n\n{table}")
}

fn row(vcpu: &Vcpu, last: &Vcpu, states: &BTreeMap<u64, State>) -> [String; 6] {
    let none = || "-".to_owned();
    let id = if vcpu.id == last.id {
        vcpu.id.to_string()
    } else {
        format!("{}-{}", vcpu.id, last.id)
    };
    let thread = |thread: &crate::wire::vcpus::Thread| match (thread.tid, thread.running) {
        (Some(tid), true) => format!("{} {tid}", thread.name),
        (Some(tid), false) => format!("{} {tid}, parked", thread.name),
        (None, _) => format!("{}, not yet", thread.name),
    };
    let operation = |id: u64| match states.get(&id) {
        Some(state) => format!("{id} {}", text::state(*state)),
        None => id.to_string(),
    };
    [
        if vcpu.boot { id + " (boot)" } else { id },
        vcpu.phase.to_string(),
        text::target(vcpu.target).to_owned(),
        vcpu.generation.to_string(),
        vcpu.thread.as_ref().map_or_else(none, thread),
        vcpu.last_operation.map_or_else(none, operation),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vcpu(id: u32, phase: &str, generation: u64, operation: Option<u64>) -> serde_json::Value {
        let there = phase != "absent";
        json!({
            "id": id, "apic_id": id, "phase": phase,
            "target": if phase == "online" { "online" } else { "offline" },
            "generation": generation, "boot": id == 0,
            "thread": there.then(|| json!({
                "name": format!("vcpu-{id}"), "tid": 1000 + id, "running": phase != "dormant",
            })),
            "last_operation": operation,
        })
    }

    #[test]
    fn a_table_of_vcpus() {
        let vcpus = serde_json::from_value(json!({
            "desired": 2, "plugged": 3, "online": 2, "max": 9,
            "vcpus": [
                vcpu(0, "online", 1, None), vcpu(1, "online", 3, Some(12)), vcpu(2, "notifying", 1, Some(13)),
                vcpu(3, "dormant", 1, Some(2)), vcpu(4, "absent", 0, None), vcpu(5, "absent", 0, None),
                vcpu(6, "absent", 0, None), vcpu(7, "absent", 2, None), vcpu(8, "absent", 0, None),
            ],
        }));
        let states = BTreeMap::from([(12, State::TimedOut), (13, State::Running)]);
        assert_eq!(
            render(&vcpus.unwrap(), &states),
            "\
desired 2, plugged 3, online 2, of at most 9

VCPU      PHASE      TARGET   GENERATION  THREAD               LAST OPERATION
0 (boot)  online     online   1           vcpu-0 1000          -
1         online     online   3           vcpu-1 1001          12 timed out
2         notifying  offline  1           vcpu-2 1002          13 running
3         dormant    offline  1           vcpu-3 1003, parked  2
4-6       absent     offline  0           -                    -
7         absent     offline  2           -                    -
8         absent     offline  0           -                    -
"
        );
    }
}

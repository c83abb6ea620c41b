//! Several vCPUs plugged at once, and unplugged at once.

use anyhow::Result;

use super::Bench;
use super::cycle::first;
use super::machine::{Machine, drift};
use super::results::{Absent, Change, Guest, Key, Peer, Results, Time, What};
use crate::progress::Step;

/// How many change at once.
pub(super) const NUMBERS: [u32; 3] = [1, 7, 31];
/// The most that are tried where the clock counts instructions: there all are on one emulated CPU, busily wait for each
/// other, and seven of them take a quarter of a second to come already.
const MOST_BY_INSTRUCTIONS: u32 = 7;
/// How many guests each VMM boots for each number.
const BOOTS: u32 = 2;
/// How often they come and go in each.
const ROUNDS: u32 = 3;

/// In L1: measures. A peer that does not get there is left out, and it is said why; Hotvisor has to.
pub(super) fn measure(bench: &Bench<'_>, results: &mut Results) -> Result<()> {
    for number in NUMBERS {
        for &peer in &bench.peers {
            if bench.time == Time::Instructions && number > MOST_BY_INSTRUCTIONS {
                let why = "31 at once are measured by the wall clock only";
                results.absent.push(absent(bench, peer, number, why));
                continue;
            }
            for boot in 1..=BOOTS {
                let _step = Step::begin(&format!(
                    "{peer}: {number} at once, guest {boot} of {BOOTS}"
                ));
                match one(bench, peer, number, boot, results) {
                    Err(error) if !peer.is_ours() => {
                        eprintln!("{error:#}");
                        let why = format!("{peer} with {number} at once: {}", first(&error));
                        results.absent.push(absent(bench, peer, number, &why));
                    }
                    done => done?,
                }
            }
        }
    }
    Ok(())
}

fn absent(bench: &Bench<'_>, peer: Peer, number: u32, why: &str) -> Absent {
    Absent {
        peer,
        time: bench.time,
        max: number + 1,
        vcpus: number,
        why: format!("n/a: {why}"),
    }
}

fn one(bench: &Bench<'_>, peer: Peer, number: u32, boot: u32, results: &mut Results) -> Result<()> {
    let guest = Guest::Expedited;
    let mut machine = Machine::boot(&bench.plan(peer, guest, 1, number + 1))?;
    let vcpus: Vec<u32> = (1..=number).collect();
    let key = |change| Key {
        time: bench.time,
        what: What::Change(change),
        guest,
        max: number + 1,
        vcpus: number,
        peer,
    };
    let mut changes = Vec::new();
    for round in 0..ROUNDS {
        let plug = match round {
            0 => Change::Plug,
            _ => Change::Replug,
        };
        let at = 2 * (boot * ROUNDS + round);
        drift(at);
        changes.push((plug, machine.plug(&vcpus)?));
        machine.settle()?;
        drift(at + 1);
        changes.push((Change::Unplug, machine.unplug(&vcpus)?));
        machine.settle()?;
    }
    machine.end()?;
    for (change, ms) in changes {
        results.add(key(change), ms);
    }
    Ok(())
}

//! How the cost of one vCPU grows with how many there could be.

use anyhow::Result;

use super::results::{Absent, Guest, Results};
use super::{Bench, cycle};
use crate::progress::Step;

/// How many vCPUs there can be.
pub(super) const MOST: [u32; 4] = [8, 64, 255, 512];
/// Cycles at each, of new vCPUs and of one again.
const CYCLES: u32 = 4;

/// In L1: half as many guests under each VMM for each size as `cycles` boots. They have expedited grace periods: what
/// ticks add does not depend on the size.
pub(super) fn measure(bench: &Bench<'_>, results: &mut Results) -> Result<()> {
    let turns = bench.turns.div_ceil(2);
    for (turn, max) in (0..turns).flat_map(|turn| MOST.map(|max| (turn, max))) {
        for &peer in &bench.peers {
            if let Some(why) = peer.refuses(max) {
                if turn == 0 {
                    results.absent.push(Absent {
                        peer,
                        time: bench.time,
                        max,
                        vcpus: 0,
                        why: why.to_owned(),
                    });
                }
                continue;
            }
            let _step = Step::begin(&format!(
                "{peer}: {max} possible vCPUs, {} of {turns}",
                turn + 1
            ));
            let plan = bench.plan(peer, Guest::Expedited, 1, max);
            cycle::whole(bench, &plan, turn, CYCLES, true, results)?;
        }
    }
    Ok(())
}

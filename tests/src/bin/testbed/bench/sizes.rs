//! What a VMM needs of the host for itself. Does not depend on the clock, and is taken where several vCPUs boot.

use anyhow::Result;
use hotvisor_tests::vm::Vm;

use super::results::{Guest, Key, Peer, Results, What};
use super::{Bench, MEMORY};
use crate::progress::Step;

/// Numbers of vCPUs to measure with; what one more takes is the difference between the two.
pub(super) const FEW: u32 = 1;
pub(super) const SEVERAL: u32 = 4;
/// What varies from run to run is added to what every run needs, so the least of these counts.
const RUNS: u32 = 3;

/// In L1: boots one VMM after the other, in turns.
pub(super) fn measure(bench: &Bench<'_>, results: &mut Results) -> Result<()> {
    for run in 1..=RUNS {
        for &peer in &bench.peers {
            for vcpus in [FEW, SEVERAL] {
                let _step = Step::begin(&format!("{peer}, {vcpus} vCPUs: sizes, {run} of {RUNS}"));
                take(bench, peer, vcpus, true, results)?;
            }
        }
        let _step = Step::begin(&format!("Hotvisor without its API: sizes, {run} of {RUNS}"));
        take(bench, Peer::Hotvisor, SEVERAL, false, results)?;
    }
    Ok(())
}

fn take(bench: &Bench<'_>, peer: Peer, vcpus: u32, api: bool, results: &mut Results) -> Result<()> {
    let guest = Guest::Plain;
    let builder = bench.plan(peer, guest, vcpus, bench.max).builder();
    let vm: Vm = match api {
        true => builder.start()?,
        false => builder.without_api().start()?,
    };
    vm.wait_for_init(1)?;
    let key = |what| Key {
        time: bench.time,
        what,
        guest,
        max: bench.max,
        vcpus,
        peer,
    };
    results.add(key(What::Memory { api }), vm.own_memory(MEMORY)? as f64);
    results.add(key(What::Threads { api }), vm.threads()?.len() as f64);
    vm.sh_last("poweroff -f")?;
    vm.wait_success(hotvisor_tests::vm::BOOT)
}

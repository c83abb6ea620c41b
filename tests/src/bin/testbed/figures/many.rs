//! All vCPUs but the boot CPU unplugged in one operation, and one by one, under Hotvisor.

use std::time::Instant;

use anyhow::{Context, Result};
use hotvisor_tests::artifacts::Artifacts;
use hotvisor_tests::vm::api::Target;
use hotvisor_tests::vm::{BOOT, SOON, Vm};
use serde::{Deserialize, Serialize};

use super::cycles::{self, REPORT, milliseconds, succeeded};
use super::{guest, median, spread};
use crate::progress::Step;

const ROUNDS: u32 = 5;

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Samples {
    vcpus: u32,
    /// Milliseconds in which all went at once, for each round.
    together: Vec<f64>,
    /// Milliseconds in which they went one after the other, added up, for each round.
    apart: Vec<f64>,
}

/// In L1: measures.
pub(super) fn measure(artifacts: &Artifacts, vcpus: u32) -> Result<Samples> {
    let vm = {
        let _step = Step::begin(&format!("Hotvisor: a guest with {vcpus} vCPUs"));
        let vm = guest(Vm::hotvisor(artifacts.hotvisor()), artifacts, REPORT);
        let vm = vm.cpus(1, vcpus).start()?;
        vm.wait_for_init(1)?;
        plug_all(&vm, vcpus)?;
        vm
    };
    let mut samples = Samples {
        vcpus,
        together: Vec::new(),
        apart: Vec::new(),
    };
    for round in 1..=ROUNDS {
        let _step = Step::begin(&format!("round {round} of {ROUNDS}"));
        let start = Instant::now();
        let operation = vm.api().resize(1, BOOT)?;
        samples.together.push(milliseconds(start, Instant::now()));
        succeeded(&operation)?;
        plug_all(&vm, vcpus)?;
        let mut sum = 0.0;
        for vcpu in 1..vcpus {
            let start = Instant::now();
            let operation = vm.api().vcpu_target(vcpu, Target::Offline, SOON)?;
            sum += milliseconds(start, Instant::now());
            succeeded(&operation)?;
            cycles::settle(&vm)?;
        }
        samples.apart.push(sum);
        plug_all(&vm, vcpus)?;
    }
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)?;
    Ok(samples)
}

/// Plugs them all, and waits until the guest says that each is online.
fn plug_all(vm: &Vm, vcpus: u32) -> Result<()> {
    cycles::settle(vm)?;
    let from = vm.console().length();
    succeeded(&vm.api().resize(vcpus, BOOT)?)?;
    for cpu in 1..vcpus {
        vm.wait_for(&cycles::up(cpu), from, BOOT)?;
    }
    cycles::settle(vm)
}

/// The table.
pub(super) fn table(samples: &Samples) -> Result<String> {
    let (together, apart) = (&samples.together, &samples.apart);
    let number = samples.vcpus - 1;
    let pairs = together.iter().zip(apart);
    let ratio =
        median(pairs.map(|(together, apart)| together / apart)).context("no round was measured")?;
    Ok(format!(
        "| unplug of {number} vCPUs, median of {} (least to most) | in one operation | one by one, added up | ratio |\n\
         |---|---:|---:|---:|\n\
         | all but the boot CPU | {} | {} | {ratio:.2} |\n",
        together.len(),
        spread(together.iter().copied(), 0)?,
        spread(apart.iter().copied(), 0)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_pairs() {
        let samples = Samples {
            vcpus: 8,
            together: vec![1.0, 4.0, 3.0],
            apart: vec![10.0, 8.0, 10.0],
        };
        let table = table(&samples).unwrap();
        assert!(
            table.contains("| 3 ms (1 to 4) | 10 ms (8 to 10) | 0.30 |"),
            "{table}"
        );
        assert!(table.starts_with("| unplug of 7 vCPUs"), "{table}");
    }
}

//! From the start to the guest's init, and what a VMM needs for itself.
//!
//! Times come from a bed whose clock counts instructions, with one vCPU in the guest: there they are
//! the same whatever else the host does. With more vCPUs, guests under Hotvisor hang in that kind of bed;
//! why, and whether others do, is not known. Memory and threads do not depend on the clock and are taken
//! in the ordinary bed.

use anyhow::{Context, Result};
use hotvisor_tests::artifacts::Artifacts;
use hotvisor_tests::nested::Clock;
use hotvisor_tests::vm::{Builder, SOON, Vm};
use serde::{Deserialize, Serialize};

use super::{Args, Bed, MEMORY, guest, median, spread};
use crate::progress::Step;

/// Numbers of vCPUs to measure with; memory per vCPU is the difference between the two.
const ONE: u32 = 1;
const FOUR: u32 = 4;

/// What one boot showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    hotvisor: bool,
    vcpus: u32,
    init_ms: f64,
    memory_kib: u64,
    threads: usize,
}

/// Measures in two beds, and makes a table of it.
pub(super) fn table(artifacts: &Artifacts, runs: u32) -> Result<String> {
    let samples = |clock, vcpus: &[u32]| {
        let mut options = vec!["boot".to_owned(), format!("--runs={runs}")];
        options.extend(vcpus.iter().map(|number| format!("--vcpus={number}")));
        let bed = Bed {
            artifacts,
            clock,
            options,
        };
        bed.samples()
    };
    let times: Vec<Sample> = samples(Clock::Instructions, &[ONE])?;
    let sizes: Vec<Sample> = samples(Clock::Wall, &[ONE, FOUR])?;
    draw(runs, &times, &sizes)
}

/// In L1: boots one VMM after the other, in turns.
pub(super) fn measure(artifacts: &Artifacts, args: &Args) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for run in 1..=args.runs {
        for &vcpus in &args.vcpus {
            for hotvisor in [true, false] {
                let (name, vm) = if hotvisor {
                    ("Hotvisor", Vm::hotvisor(artifacts.hotvisor()))
                } else {
                    ("QEMU", Vm::peer_qemu())
                };
                let what = format!("run {run} of {}: {name}, {vcpus} vCPUs", args.runs);
                let _step = Step::begin(&what);
                samples.push(sample(vm, hotvisor, artifacts, vcpus)?);
            }
        }
    }
    Ok(samples)
}

fn sample(vm: Builder, hotvisor: bool, artifacts: &Artifacts, vcpus: u32) -> Result<Sample> {
    let vm = guest(vm.without_api(), artifacts, "");
    let vm = vm.cpus(vcpus, FOUR).start()?;
    let (init, _) = vm.wait_for_init(1)?;
    let sample = Sample {
        hotvisor,
        vcpus,
        init_ms: init.duration_since(vm.started()).as_secs_f64() * 1000.0,
        memory_kib: vm.own_memory(MEMORY)?,
        threads: vm.threads()?.len(),
    };
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)?;
    Ok(sample)
}

/// The samples of one VMM: the first half for the time, the other for the rest.
struct Series {
    times: Vec<Sample>,
    sizes: Vec<Sample>,
}

/// A row of the table: its name, and how it comes from the samples.
type Row = (&'static str, fn(&Series) -> Result<String>);

const ROWS: &[Row] = &[
    ("start to the guest's init, 1 vCPU", |series| {
        spread(series.times.iter().map(|sample| sample.init_ms), 0)
    }),
    ("own memory, 4 vCPUs, no API", |series| {
        Ok(format!("{} KiB", series.memory(FOUR)?))
    }),
    ("own memory for each further vCPU", |series| {
        // What varies from run to run is added to what every run needs.
        let least = |vcpus| series.with(vcpus).map(|sample| sample.memory_kib).min();
        let missing = "nothing was measured";
        let (one, four) = (least(ONE).context(missing)?, least(FOUR).context(missing)?);
        let growth = i64::try_from(four)? - i64::try_from(one)?;
        Ok(format!("{} KiB", growth / i64::from(FOUR - ONE)))
    }),
    ("threads, 4 vCPUs, no API", |series| {
        Ok(median(series.with(FOUR).map(|sample| sample.threads))?.to_string())
    }),
];

impl Series {
    fn of(hotvisor: bool, times: &[Sample], sizes: &[Sample]) -> Self {
        let pick = |samples: &[Sample]| {
            samples
                .iter()
                .filter(|sample| sample.hotvisor == hotvisor)
                .cloned()
                .collect()
        };
        Self {
            times: pick(times),
            sizes: pick(sizes),
        }
    }

    fn with(&self, vcpus: u32) -> impl Iterator<Item = &Sample> {
        self.sizes
            .iter()
            .filter(move |sample| sample.vcpus == vcpus)
    }

    fn memory(&self, vcpus: u32) -> Result<u64> {
        median(self.with(vcpus).map(|sample| sample.memory_kib))
    }
}

fn draw(runs: u32, times: &[Sample], sizes: &[Sample]) -> Result<String> {
    let hotvisor = Series::of(true, times, sizes);
    let qemu = Series::of(false, times, sizes);
    let mut table = format!(
        "| Linux 6.1 with {MEMORY} MiB, median of {runs} (least to most) | Hotvisor | QEMU |\n\
         |---|---:|---:|\n"
    );
    for (name, value) in ROWS {
        table += &format!("| {name} | {} | {} |\n", value(&hotvisor)?, value(&qemu)?);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_per_vcpu() {
        let sample = |hotvisor, vcpus, memory_kib| Sample {
            hotvisor,
            vcpus,
            init_ms: 1000.0,
            memory_kib,
            threads: 6,
        };
        let sizes = [
            sample(true, 1, 100),
            sample(true, 4, 130),
            sample(false, 1, 9),
            sample(false, 4, 9),
        ];
        let table = draw(1, &[sizes[0].clone(), sizes[2].clone()], &sizes).unwrap();
        assert!(table.contains("further vCPU | 10 KiB | 0 KiB |"), "{table}");
        assert!(
            table.contains("init, 1 vCPU | 1000 ms (1000 to 1000) | 1000 ms"),
            "{table}"
        );
    }
}

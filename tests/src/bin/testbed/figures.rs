//! `cargo testbed figures`.
//!
//! Times come from a bed whose clock counts instructions, with one vCPU in the guest: there they are
//! the same whatever else the host does. With more vCPUs, guests under Hotvisor hang in that kind of bed;
//! why, and whether others do, is not known. Memory and threads do not depend on the clock and are taken
//! in the ordinary bed.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use hotvisor_tests::artifacts::{Artifacts, Image};
use hotvisor_tests::host;
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::nested::{Clock, Input, Job, peer_qemu_files};
use hotvisor_tests::vm::{Builder, SOON, Vm};
use serde::{Deserialize, Serialize};

use crate::inner::{self, Need};
use crate::progress::Step;

/// The guest's memory in MiB.
const MEMORY: u32 = 512;
const KERNEL: Kernel = Kernel::V6_1Cloud;
/// Numbers of vCPUs to measure with; memory per vCPU is the difference between the two.
const ONE: u32 = 1;
const FOUR: u32 = 4;
/// Where the samples lie in L1.
const SAMPLES: &str = "/tmp/samples.json";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each VMM boots its guest.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// In L1: how many vCPUs to measure with.
    #[arg(long, hide = true)]
    vcpus: Vec<u32>,
}

/// What one boot showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sample {
    hotvisor: bool,
    vcpus: u32,
    init_ms: f64,
    memory_kib: u64,
    threads: usize,
}

/// Always in L1: only there time does not depend on what else the machine does.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if Job::is_running() {
        return measure(args);
    }
    host::ensure(host::BED)?;
    let artifacts = {
        let _step = Step::begin("building Hotvisor, fetching a Debian kernel");
        Artifacts::prepare(&[Image::BzImage(KERNEL)])?
    };
    let times = samples(&artifacts, args.runs, Clock::Instructions, &[ONE])?;
    let sizes = samples(&artifacts, args.runs, Clock::Wall, &[ONE, FOUR])?;
    print!("{}", table(args.runs, &times, &sizes)?);
    Ok(ExitCode::SUCCESS)
}

/// Boots L1 and measures there.
fn samples(artifacts: &Artifacts, runs: u32, clock: Clock, vcpus: &[u32]) -> Result<Vec<Sample>> {
    let mut args = vec!["figures".to_owned(), format!("--runs={runs}")];
    args.extend(vcpus.iter().map(|number| format!("--vcpus={number}")));
    let mut job = inner::this_program(args)?;
    job.collect.push(SAMPLES.to_owned());
    let need = Need {
        artifacts,
        images: &[Image::BzImage(KERNEL)],
        files: peer_qemu_files()?,
        clock,
        input: Input::Nothing,
    };
    let outcome = inner::run(job, need)?;
    ensure!(
        outcome.status == 0,
        "measuring ended with code {}",
        outcome.status
    );
    let (_, bytes) = outcome.files.first().context("no samples came back")?;
    Ok(serde_json::from_slice(bytes)?)
}

/// In L1: boots one VMM after the other, in turns.
fn measure(args: &Args) -> Result<ExitCode> {
    let artifacts = Artifacts::open()?;
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
                samples.push(sample(vm, hotvisor, &artifacts, vcpus)?);
            }
        }
    }
    fs::write(SAMPLES, serde_json::to_vec(&samples)?)?;
    Ok(ExitCode::SUCCESS)
}

fn sample(vm: Builder, hotvisor: bool, artifacts: &Artifacts, vcpus: u32) -> Result<Sample> {
    let vm = vm
        .kernel(artifacts.bzimage(KERNEL))
        .initramfs(artifacts.initramfs(KERNEL))
        .cmdline("console=ttyS0 quiet")
        .cpus(vcpus, FOUR)
        .memory(MEMORY)
        .start()?;
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
        let times = || series.times.iter().map(|sample| sample.init_ms);
        let (least, most) = (
            times().fold(f64::INFINITY, f64::min),
            times().fold(0.0, f64::max),
        );
        Ok(format!(
            "{:.0} ms ({least:.0} to {most:.0})",
            median(times())?
        ))
    }),
    ("own memory, 4 vCPUs", |series| {
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
    ("threads, 4 vCPUs", |series| {
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

fn table(runs: u32, times: &[Sample], sizes: &[Sample]) -> Result<String> {
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

fn median<T: PartialOrd>(values: impl Iterator<Item = T>) -> Result<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let middle = values.len() / 2;
    match values.into_iter().nth(middle) {
        Some(value) => Ok(value),
        None => bail!("nothing was measured"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3, 1, 2].into_iter()).unwrap(), 2);
        assert!(median(std::iter::empty::<u32>()).is_err());
    }

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
        let table = table(1, &[sizes[0].clone(), sizes[2].clone()], &sizes).unwrap();
        assert!(table.contains("further vCPU | 10 KiB | 0 KiB |"), "{table}");
        assert!(
            table.contains("init, 1 vCPU | 1000 ms (1000 to 1000) | 1000 ms"),
            "{table}"
        );
    }
}

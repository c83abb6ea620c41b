//! `cargo testbed figures`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use hotvisor_tests::artifacts::{Artifacts, Image};
use hotvisor_tests::host;
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::nested::{Clock, Job, peer_qemu_files};
use hotvisor_tests::vm::{Builder, SOON, Vm};

use crate::inner;
use crate::progress::Step;

/// The guest's memory in MiB.
const MEMORY: u32 = 512;
const KERNEL: Kernel = Kernel::V6_1Cloud;
/// Numbers of vCPUs to measure with; memory per vCPU is the difference between the two.
const ONE: u32 = 1;
const FOUR: u32 = 4;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each VMM boots its guest.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// Always in L1: only there time does not depend on what else the machine does.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if Job::is_running() {
        return measure(&Artifacts::open()?, args.runs);
    }
    host::ensure(host::BED)?;
    let artifacts = {
        let _step = Step::begin("building Hotvisor, fetching a Debian kernel");
        Artifacts::prepare(&[Image::BzImage(KERNEL)])?
    };
    inner::again_in_l1(
        &artifacts,
        &[Image::BzImage(KERNEL)],
        peer_qemu_files()?,
        Clock::Instructions,
    )
}

/// What one boot showed.
struct Sample {
    init_ms: f64,
    memory_kib: u64,
    threads: usize,
}

/// All samples of one VMM.
#[derive(Default)]
struct Series {
    one: Vec<Sample>,
    four: Vec<Sample>,
}

fn measure(artifacts: &Artifacts, runs: u32) -> Result<ExitCode> {
    let (mut hotvisor, mut qemu) = (Series::default(), Series::default());
    for run in 1..=runs {
        for cpus in [ONE, FOUR] {
            eprintln!("… run {run} of {runs}, {cpus} vCPUs");
            hotvisor.add(
                cpus,
                sample(Vm::hotvisor(artifacts.hotvisor()), artifacts, cpus)?,
            );
            qemu.add(cpus, sample(Vm::peer_qemu(), artifacts, cpus)?);
        }
    }
    println!("| median of {runs} runs, Linux 6.1, {MEMORY} MiB | Hotvisor | QEMU |");
    println!("|---|---:|---:|");
    for (name, value) in Series::ROWS {
        println!("| {name} | {} | {} |", value(&hotvisor)?, value(&qemu)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn sample(vm: Builder, artifacts: &Artifacts, cpus: u32) -> Result<Sample> {
    let vm = vm
        .kernel(artifacts.bzimage(KERNEL))
        .initramfs(artifacts.initramfs(KERNEL))
        .cmdline("console=ttyS0 quiet")
        .cpus(cpus, FOUR)
        .memory(MEMORY)
        .start()?;
    let (init, _) = vm.wait_for_init(1)?;
    let sample = Sample {
        init_ms: init.duration_since(vm.started()).as_secs_f64() * 1000.0,
        memory_kib: vm.own_memory(MEMORY)?,
        threads: vm.threads()?.len(),
    };
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)?;
    Ok(sample)
}

/// A row of the table: its name, and how it comes from the samples.
type Row = (&'static str, fn(&Series) -> Result<String>);

impl Series {
    const ROWS: &[Row] = &[
        ("start to the guest's init, 1 vCPU", |series| {
            Series::init(&series.one)
        }),
        ("start to the guest's init, 4 vCPUs", |series| {
            Series::init(&series.four)
        }),
        ("own memory, 4 vCPUs", |series| {
            Ok(format!("{} KiB", Series::memory(&series.four)?))
        }),
        ("own memory for each further vCPU", |series| {
            let (one, four) = (Series::memory(&series.one)?, Series::memory(&series.four)?);
            let (one, four) = (i64::try_from(one)?, i64::try_from(four)?);
            Ok(format!("{} KiB", (four - one) / i64::from(FOUR - ONE)))
        }),
        ("threads, 4 vCPUs", |series| {
            Ok(median(series.four.iter().map(|sample| sample.threads))?.to_string())
        }),
    ];

    fn add(&mut self, cpus: u32, sample: Sample) {
        if cpus == ONE {
            self.one.push(sample)
        } else {
            self.four.push(sample)
        }
    }

    fn init(samples: &[Sample]) -> Result<String> {
        let of = || samples.iter().map(|sample| sample.init_ms);
        let (least, most) = (of().fold(f64::INFINITY, f64::min), of().fold(0.0, f64::max));
        Ok(format!("{:.0} ms ({least:.0} to {most:.0})", median(of())?))
    }

    fn memory(samples: &[Sample]) -> Result<u64> {
        median(samples.iter().map(|sample| sample.memory_kib))
    }
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
}

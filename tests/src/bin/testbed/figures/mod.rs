//! `cargo testbed figures`: the tables of the README, measured in L1, where there are no other tenants;
//! but for the API's, which are of this machine.

mod api;
mod boot;
mod cycles;
mod endurance;
mod hotplug;
mod many;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use hotvisor_tests::artifacts::{Artifacts, Image};
use hotvisor_tests::host;
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::nested::{Clock, Input, Job, peer_qemu_files};
use hotvisor_tests::vm::Builder;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::inner::{self, Need};
use crate::progress::Step;

/// The guest's memory in MiB.
const MEMORY: u32 = 512;
const KERNEL: Kernel = Kernel::V6_1Cloud;
/// Where the samples lie in L1.
const SAMPLES: &str = "/tmp/samples.json";

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Table {
    /// From the start to the guest's init, and what a VMM needs for itself.
    Boot,
    /// One vCPU unplugged and plugged, Hotvisor and QEMU in turn.
    Hotplug,
    /// All vCPUs but one unplugged in one operation, and one by one.
    Many,
    /// Many cycles on one guest: nothing may grow.
    Endurance,
    /// What the API costs, on this machine's own KVM.
    Api,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure; without any, boot and hotplug. The others take five to fifteen minutes each.
    #[arg(value_enum)]
    tables: Vec<Table>,
    /// How often each VMM boots its guest.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How often a vCPU is unplugged and plugged; 20, or 1000 for the endurance.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    cycles: Option<u32>,
    /// With how many vCPUs many are unplugged at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    many: u32,
    /// Measures vCPUs that come and go where the emulated machine's clock runs with the wall's: what the host
    /// does beside it shows in the figures.
    #[arg(long)]
    wall: bool,
    /// Of the API: has its threads and its clients run ahead of whatever else this machine does, where the clients
    /// take their time. Only root may.
    #[arg(long)]
    ahead: bool,
    /// In L1: how many vCPUs to boot with.
    #[arg(long, hide = true)]
    vcpus: Vec<u32>,
}

impl Args {
    fn cycles(&self, otherwise: u32) -> u32 {
        self.cycles.unwrap_or(otherwise)
    }
}

/// All but the API in L1, so that figures from different machines are of the same kind.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let tables = match args.tables.as_slice() {
        [] => &[Table::Boot, Table::Hotplug],
        some => some,
    };
    if Job::is_running() {
        let artifacts = Artifacts::open()?;
        for table in tables {
            match table {
                Table::Boot => save(&boot::measure(&artifacts, args)?)?,
                Table::Hotplug => save(&hotplug::measure(&artifacts, args.cycles(20))?)?,
                Table::Many => save(&many::measure(&artifacts, args.many)?)?,
                Table::Api => bail!("the API is measured outside"),
                Table::Endurance => save(&endurance::measure(&artifacts, args.cycles(1000))?)?,
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let [Table::Api] = tables {
        // Needs no L1, and no kernel for it.
        println!("{}", api::table(args.cycles(500), args.ahead)?);
        return Ok(ExitCode::SUCCESS);
    }
    host::ensure(host::BED)?;
    let artifacts = {
        let _step = Step::begin("building Hotvisor, fetching a Debian kernel");
        Artifacts::prepare(&[Image::BzImage(KERNEL)])?
    };
    // Guests that boot with several vCPUs hang in that kind of bed; so they get them later.
    let clock = match args.wall {
        true => Clock::Wall,
        false => Clock::Instructions,
    };
    let bed = |table: &str, clock: Clock, option: String| {
        let options = vec![table.to_owned(), option];
        Bed {
            artifacts: &artifacts,
            clock,
            options,
        }
    };
    for table in tables {
        let text = match table {
            Table::Boot => boot::table(&artifacts, args.runs)?,
            Table::Hotplug => {
                let cycles = args.cycles(20);
                hotplug::table(&bed("hotplug", clock, format!("--cycles={cycles}")).samples()?)?
            }
            Table::Many => {
                many::table(&bed("many", clock, format!("--many={}", args.many)).samples()?)?
            }
            Table::Api => api::table(args.cycles(500), args.ahead)?,
            Table::Endurance => {
                // Nothing in it is a time, and this bed is the faster one.
                let cycles = args.cycles(1000);
                endurance::table(
                    &bed("endurance", Clock::Wall, format!("--cycles={cycles}")).samples()?,
                )?
            }
        };
        println!("{text}");
    }
    Ok(ExitCode::SUCCESS)
}

/// This program in L1, with these options to `figures`.
struct Bed<'a> {
    artifacts: &'a Artifacts,
    clock: Clock,
    options: Vec<String>,
}

impl Bed<'_> {
    /// Boots L1 and measures there.
    fn samples<T: DeserializeOwned>(self) -> Result<T> {
        let mut args = vec!["figures".to_owned()];
        args.extend(self.options);
        let mut job = inner::this_program(args)?;
        job.collect.push(SAMPLES.to_owned());
        let need = Need {
            artifacts: self.artifacts,
            images: &[Image::BzImage(KERNEL)],
            files: peer_qemu_files()?,
            clock: self.clock,
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
}

/// In L1: leaves the samples where they are looked for.
fn save(samples: &impl Serialize) -> Result<()> {
    Ok(fs::write(SAMPLES, serde_json::to_vec(samples)?)?)
}

/// The guest that all figures are of, with more to say to its kernel.
fn guest(vm: Builder, artifacts: &Artifacts, parameters: &str) -> Builder {
    vm.kernel(artifacts.bzimage(KERNEL))
        .initramfs(artifacts.initramfs(KERNEL))
        .cmdline(&format!("console=ttyS0 quiet {parameters}"))
        .memory(MEMORY)
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

/// Median, least and most, as a table has them.
fn spread(values: impl Iterator<Item = f64> + Clone, digits: usize) -> Result<String> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.clone().fold(0.0, f64::max);
    let median = median(values)?;
    Ok(format!(
        "{median:.digits$} ms ({least:.digits$} to {most:.digits$})"
    ))
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
    fn the_spread_has_the_median_first() {
        let text = spread([3.0, 1.0, 2.26].into_iter(), 1).unwrap();
        assert_eq!(text, "2.3 ms (1.0 to 3.0)");
    }
}

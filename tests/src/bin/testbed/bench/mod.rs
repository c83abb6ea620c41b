//! `cargo testbed bench`: Hotvisor beside its peers, and the tables and the picture of the README.

mod api;
mod check;
mod cycle;
mod endurance;
mod machine;
mod many;
mod results;
mod sizes;
mod stats;
mod svg;
mod sweep;
mod table;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use hotvisor_tests::artifacts::{Artifacts, Image};
use hotvisor_tests::host;
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::nested::{Clock, Input, Job, peer_files};
use hotvisor_tests::vm::Vm;

use crate::inner::{self, Need};
use crate::measured;
use crate::picture;
use crate::progress::Step;
use machine::Plan;
use results::{Guest, Peer, Results, Time};

/// The guest's memory in MiB.
const MEMORY: u32 = 512;
const KERNEL: Kernel = Kernel::V6_1Cloud;
/// How often a vCPU comes and goes, if nothing is said.
const CYCLES: u32 = 10;
/// What a cycle takes at the most, by any clock.
const A_CYCLE: Duration = Duration::from_secs(5);
/// Where the samples lie in L1.
const SAMPLES: &str = "/tmp/samples.json";

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Boots, and one vCPU plugged, unplugged and plugged again, of 8: times, the guest kernel's own part, exits.
    Cycles,
    /// The same where there can be 8, 64, 255 and 512 vCPUs.
    Max,
    /// 1, 7 and 31 vCPUs at once.
    Many,
    /// Memory and threads of the VMM.
    Sizes,
    /// What Hotvisor's API costs, on this machine's own KVM.
    Api,
    /// The cycles of Hotvisor beside itself without filters of system calls.
    Filters,
    /// Many cycles on one guest under Hotvisor: nothing may grow.
    Endurance,
}

impl Part {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

/// Measures Hotvisor beside Debian's QEMU, and `cloud-hypervisor` where that is on PATH: the same kernel, initramfs
/// and command line, in turn, in the emulated machine of the test bed.
///
/// With the clock `instructions` that machine counts one nanosecond for each instruction, has one CPU, and gets
/// nothing from outside, so that a run of the same executables repeats to the nanosecond, whatever else the host does;
/// another `--seed` has other random numbers in it, and shows how much the figures depend on how things fall. With `wall` time passes as it does, exits cost
/// what emulating them costs, and the host's load shows.
///
/// Prints tables: of each time the typical value (the mean of the middle half of the samples), the percentiles 50,
/// 90 and 99, the ratio of Hotvisor to each peer, and what the guest's kernel needed of the same operations,
/// noted by probes on cpu_device_up and cpu_device_down, below which no VMM can come.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure; without any: cycles, max, many and sizes.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// How time passes; without it both, one after the other.
    #[arg(long, value_enum)]
    clock: Option<Time>,
    /// How many guests each VMM boots for the cycles of each kind of guest.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// How often a vCPU comes and goes in each of these; 10, or 1000 for the endurance, 500 for the API.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    cycles: Option<u32>,
    /// What the random numbers in the emulated machine begin with.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes all samples to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws the times to this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Measures nothing, and shows what `--json` wrote: tables, and with `--svg` the picture.
    /// Of several files, all that is in them.
    #[arg(long, conflicts_with_all = ["clock", "parts"])]
    from: Vec<PathBuf>,
    /// Compares with what `--json` wrote earlier: says which typical values differ by more than 2 %, and ends with 1
    /// if one of the instruction clock does. With `--from` two files are compared.
    #[arg(long)]
    check: Option<PathBuf>,
    /// Of the API: has its threads and its clients run ahead of whatever else this machine does, where the clients
    /// take their time. Only root may.
    #[arg(long)]
    ahead: bool,
    /// In L1: the VMMs that are there.
    #[arg(long, value_enum, hide = true)]
    peer: Vec<Peer>,
}

/// What the parts have in common, in L1.
#[derive(Clone)]
struct Bench<'a> {
    artifacts: &'a Artifacts,
    peers: Vec<Peer>,
    time: Time,
    turns: u32,
    cycles: u32,
    max: u32,
}

impl<'a> Bench<'a> {
    fn plan(&self, peer: Peer, guest: Guest, boot: u32, max: u32) -> Plan<'a> {
        Plan {
            peer,
            artifacts: self.artifacts,
            guest,
            boot,
            max,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if Job::is_running() {
        inside(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before anything is measured: a mistake would cost all of it.
    let earlier = args
        .check
        .as_deref()
        .map(measured::read::<Results>)
        .transpose()?;
    let measured = match args.from.split_first() {
        Some((first, others)) => {
            let mut results = measured::read::<Results>(first)?;
            for path in others {
                results.join(measured::read(path)?)?;
            }
            if let Some(path) = &args.json {
                results.write(path)?;
            }
            Some(results)
        }
        None => outside(args)?,
    };
    let Some(results) = measured else {
        return Ok(ExitCode::SUCCESS);
    };
    println!("{}", table::of(&results));
    if let Some(path) = &args.svg {
        std::fs::write(path, svg::of(&results)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let Some(earlier) = earlier else {
        return Ok(ExitCode::SUCCESS);
    };
    let found = check::compare(&earlier, &results);
    print!("{found}");
    Ok(match found.agrees() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// In L1: measures, and leaves the results where they are looked for.
fn inside(args: &Args) -> Result<()> {
    let artifacts = &Artifacts::open()?;
    let bench = Bench {
        artifacts,
        peers: args.peer.clone(),
        time: args.clock.context("no clock was named")?,
        turns: args.turns,
        cycles: args.cycles.unwrap_or(CYCLES),
        max: 8,
    };
    let mut results = Results::new(args.seed);
    for &peer in &bench.peers {
        results.versions.insert(peer, peer.version(artifacts)?);
        results.builds.insert(peer, peer.build(artifacts)?);
    }
    for part in &args.parts {
        match part {
            Part::Cycles => cycle::measure(&bench, &mut results)?,
            Part::Max => sweep::measure(&bench, &mut results)?,
            Part::Many => many::measure(&bench, &mut results)?,
            Part::Sizes => sizes::measure(&bench, &mut results)?,
            Part::Endurance => {
                let samples = endurance::measure(&bench, args.cycles.unwrap_or(1000))?;
                println!("{}", endurance::table(&samples)?);
            }
            Part::Filters => {
                let peers = vec![Peer::Hotvisor, Peer::Unfiltered];
                cycle::measure(
                    &Bench {
                        peers,
                        ..bench.clone()
                    },
                    &mut results,
                )?;
            }
            Part::Api => bail!("the API is measured outside"),
        }
    }
    results.write(SAMPLES.as_ref())
}

/// Measures what the options name; nothing comes back where only tables were printed.
fn outside(args: &Args) -> Result<Option<Results>> {
    let parts = match args.parts.as_slice() {
        [] => &[Part::Cycles, Part::Max, Part::Many, Part::Sizes],
        some => some,
    };
    ensure!(
        !(parts.contains(&Part::Cycles) && parts.contains(&Part::Filters)),
        "`cycles` and `filters` measure the same of Hotvisor: measure one of them"
    );
    let only_tables = parts
        .iter()
        .all(|part| matches!(part, Part::Api | Part::Endurance));
    if only_tables && (args.json.is_some() || args.svg.is_some() || args.check.is_some()) {
        bail!(
            "of the API and of the endurance there are tables only: --json, --svg and --check want cycles, max, many or sizes beside them"
        );
    }
    if parts.contains(&Part::Api) {
        // Needs no L1, and no kernel for it.
        println!("{}", api::table(args.cycles.unwrap_or(500), args.ahead)?);
    }
    let on = |time: Time| {
        let here = |part: &Part| match part {
            Part::Api => false,
            // No times, and this bed is the faster one.
            Part::Sizes | Part::Endurance => time == Time::Wall,
            _ => args.clock.is_none_or(|clock| clock == time),
        };
        parts.iter().copied().filter(here).collect::<Vec<Part>>()
    };
    let runs = [Time::Instructions, Time::Wall].map(|time| (time, on(time)));
    if runs.iter().all(|(_, parts)| parts.is_empty()) {
        return Ok(None);
    }
    host::ensure(host::BED)?;
    let artifacts = {
        let _step = Step::begin("building Hotvisor, fetching a Debian kernel");
        Artifacts::prepare(&[Image::BzImage(KERNEL)])?
    };
    let mut results = Results::new(args.seed);
    KERNEL.fetch()?.release().clone_into(&mut results.kernel);
    for (time, part) in runs
        .iter()
        .flat_map(|(time, parts)| parts.iter().map(move |&part| (*time, part)))
    {
        // Of the same builds; and two parts may measure the same, which then counts for both.
        results.merge(in_bed(args, &artifacts, time, part)?);
        if let Some(path) = &args.json {
            // Not at the end alone: a part takes long, and what failed may be the last one.
            results.write(path)?;
        }
    }
    Ok((!results.series.is_empty()).then_some(results))
}

/// Boots L1 and measures one part there: what is found does not depend on which others are measured too.
fn in_bed(args: &Args, artifacts: &Artifacts, time: Time, part: Part) -> Result<Results> {
    let mut peers = vec![Peer::Hotvisor, Peer::Qemu];
    let mut programs = vec![Peer::Qemu.program()];
    if on_path(Peer::CloudHypervisor.program()).is_some() {
        peers.push(Peer::CloudHypervisor);
        programs.push(Peer::CloudHypervisor.program());
    }
    let mut options = vec!["bench".to_owned(), "--clock".to_owned()];
    options.push(match time {
        Time::Instructions => "instructions".to_owned(),
        Time::Wall => "wall".to_owned(),
    });
    options.push(format!("--turns={}", args.turns));
    options.push(format!("--seed={}", args.seed));
    options.extend(args.cycles.map(|cycles| format!("--cycles={cycles}")));
    for peer in peers {
        let name = peer.to_possible_value().context("a VMM without a name")?;
        options.push(format!("--peer={}", name.get_name()));
    }
    options.push(part.name());
    let mut job = inner::this_program(options)?;
    job.collect.push(SAMPLES.to_owned());
    let need = Need {
        artifacts,
        images: &[Image::BzImage(KERNEL)],
        files: peer_files(&programs)?,
        clock: match time {
            Time::Instructions => Clock::Instructions { seed: args.seed },
            Time::Wall => Clock::Wall,
        },
        alone: time == Time::Wall,
        input: Input::Nothing,
    };
    let patience = patience(args.turns, args.cycles.unwrap_or(CYCLES));
    let outcome = inner::run_within(patience, job, need)?;
    ensure!(
        outcome.status == 0,
        "measuring ended with code {}",
        outcome.status
    );
    let (_, bytes) = outcome.files.first().context("no samples came back")?;
    Ok(serde_json::from_slice(bytes)?)
}

/// When L1 is given up: late, because each step in it has a deadline of its own.
fn patience(turns: u32, cycles: u32) -> Duration {
    let guests = turns * 2;
    Duration::from_secs(3600) + (Duration::from_secs(60) + A_CYCLE * cycles) * guests
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
}

/// What the README shows of what `--json` wrote: tables by their names, and the picture.
///
/// # Errors
/// It cannot be read, or there are no times in it.
pub(crate) fn figures(json: &Path) -> Result<(Vec<(String, String)>, String)> {
    let results: Results = measured::read(json)?;
    Ok((table::all(&results), svg::of(&results)?))
}

/// What the README shows of what `bench filters --clock instructions --json` wrote.
///
/// # Errors
/// It cannot be read.
pub(crate) fn filters_figure(json: &Path) -> Result<String> {
    Ok(table::filters(&measured::read(json)?))
}

/// The phases of a vCPU's last change under Hotvisor, with their milliseconds.
fn phases(vm: &Vm, vcpu: u32, unplug: bool) -> Result<Vec<(String, f64)>> {
    let vcpu = vm.api().get(&format!("/api/v1/vcpus/{vcpu}"))?.body;
    let of = if unplug { "unplug" } else { "plug" };
    let phases = picture::phases(&vcpu["timeline"][of])?.into_iter();
    Ok(phases
        .map(|(name, us)| (name.to_owned(), us as f64 / 1000.0))
        .collect())
}

//! `cargo testbed stress`: the scenarios with all kernels, for as long as it is told to.

mod cell;
mod control;
mod pool;
mod record;
mod resume;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hotvisor_tests::artifacts::{Artifacts, Image};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::lines::Lines;
use hotvisor_tests::nested::{Clock, Input, Job};
use hotvisor_tests::stress::{ALL, Scenario};
use hotvisor_tests::{host, paths};

use crate::inner::{self, Need};
use crate::measured;
use crate::progress::Step;
use cell::{Cell, FOLDER, VERDICT_FILE, Verdict, Wanted};
use record::Record;
use resume::Run;

/// Operations that each scenario has with all its kernels together, at least, if all of them run.
const AT_LEAST: u64 = 1000;
/// For how long a single scenario runs with each kernel, if nothing else is said.
const A_MINUTE: Duration = Duration::from_secs(60);

/// Runs `hotvisor stress` against guests that are at work, each in a machine of its own, and prints a table. There are
/// as many of the machines at once as there is room for.
///
/// Without a scenario it is an idle guest with one kernel, for a minute. A scenario that is named runs with all
/// kernels, for a minute each. Reports, numbers and what else tells something are in target/bed/stress.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the guest is to be at.
    #[arg(value_parser = scenarios())]
    scenarios: Vec<String>,
    /// Run every scenario with every kernel: each for its share of the minutes, or until the scenario has had a thousand
    /// operations, whichever is later.
    #[arg(long, conflicts_with = "scenarios")]
    all: bool,
    /// How many minutes of stress there are in all, each guest's counted by itself and without its boot.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: Option<u64>,
    /// Only with this kernel.
    #[arg(long, value_parser = names())]
    kernel: Vec<String>,
    /// What the steps follow from; the same for each guest.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End each after so many steps, however long they take.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cycles: Option<u64>,
    /// The steps and their weights, in place of the scenarios' own; see `hotvisor stress --help`.
    #[arg(long)]
    mix: Option<String>,
    /// Run a guest with this scenario's load alone, and have it take its CPUs offline and bring them back itself: what
    /// its kernel complains of then is not Hotvisor's doing.
    #[arg(long, value_name = "SCENARIO", value_parser = scenarios(), conflicts_with_all = ["scenarios", "all"])]
    control: Option<String>,
    /// How many seconds each takes, in place of its share of the minutes.
    #[arg(long, value_name = "N", conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Go on with the last run, which was broken off: what has ended in it is not run again. All else is to be given as it
    /// was, but for the seed, which is known.
    #[arg(long, conflicts_with = "control")]
    resume: bool,
    /// Writes what came of it to this file.
    #[arg(long, value_name = "FILE", conflicts_with = "control")]
    json: Option<PathBuf>,
    /// In L1: how many operations there are to be at least.
    #[arg(long, hide = true, default_value_t = 0)]
    operations: u64,
}

/// A scenario's name, with what it is.
fn scenarios() -> clap::builder::PossibleValuesParser {
    let values = ALL.iter();
    values
        .map(|scenario| clap::builder::PossibleValue::new(scenario.name).help(scenario.about))
        .collect::<Vec<_>>()
        .into()
}

/// The kernels' names.
fn names() -> clap::builder::PossibleValuesParser {
    let names = Kernel::ALL.iter().map(|kernel| kernel.name());
    names.collect::<Vec<_>>().into()
}

fn named(name: &str) -> Result<&'static Scenario> {
    Scenario::named(name).with_context(|| format!("there is no scenario {name}"))
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if Job::is_running() {
        return in_l1(args);
    }
    let cells = cells(args)?;
    let folder = paths::bed("stress")?;
    let seed = match args.seed {
        Some(seed) => seed,
        None if args.resume => resume::seed(&folder)?,
        None => random()?,
    };
    let artifacts = prepare(&cells)?;
    let here = inner::is_here(&artifacts);
    let mut bed = Bed {
        args,
        artifacts: &artifacts,
        here,
        share: share(args, cells.len()),
        kernels: kernels(args).len().max(1) as u64,
        seed,
        so_far: BTreeMap::new(),
    };
    if args.control.is_some() {
        return control::run(&bed, &cells);
    }
    let run = Run::new(&bed, &cells)?;
    if args.resume {
        bed.so_far = run.so_far(&folder)?;
    } else {
        run.begin(&folder)?;
    }
    println!("seed {seed}\n{}", table::HEAD);
    let done = pool::run(&bed, &cells)?;
    let markdown = table::all(seed, &done);
    fs::write(folder.join("table.md"), &markdown)?;
    if let Some(path) = &args.json {
        Record::new(seed, &done).write(path)?;
    }
    print!("\n{markdown}");
    let good = done.iter().all(|(_, verdict)| verdict.failure.is_none());
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The README's table of a run that `--json` wrote.
///
/// # Errors
/// It cannot be read.
pub(crate) fn figure(json: &Path) -> Result<String> {
    Ok(measured::read::<Record>(json)?.table())
}

/// What is to run, in order.
fn cells(args: &Args) -> Result<Vec<Cell>> {
    let kernels = kernels(args);
    let scenarios: Vec<&Scenario> = if args.all {
        ALL.iter().collect()
    } else if is_quick(args) {
        vec![&ALL[0]]
    } else {
        let names = args.scenarios.iter().chain(&args.control);
        names.map(|name| named(name)).collect::<Result<_>>()?
    };
    let mut cells = Vec::new();
    for scenario in scenarios {
        if scenario.bare {
            cells.push(Cell {
                scenario,
                kernel: None,
            });
            continue;
        }
        cells.extend(kernels.iter().map(|&kernel| Cell {
            scenario,
            kernel: Some(kernel),
        }));
    }
    Ok(cells)
}

/// Whether nothing was said of what is to run.
const fn is_quick(args: &Args) -> bool {
    !args.all && args.scenarios.is_empty() && args.control.is_none()
}

/// The kernels that each scenario runs with.
fn kernels(args: &Args) -> Vec<Kernel> {
    let is_given = |kernel: &&Kernel| args.kernel.iter().any(|name| name == kernel.name());
    let given: Vec<Kernel> = Kernel::ALL.iter().filter(is_given).copied().collect();
    match (given.is_empty(), is_quick(args)) {
        (false, _) => given,
        (true, true) => vec![Kernel::V6_1Cloud],
        (true, false) => Kernel::ALL.to_vec(),
    }
}

fn share(args: &Args, cells: usize) -> Duration {
    match (args.seconds, args.minutes) {
        (Some(seconds), _) => Duration::from_secs(seconds),
        (None, Some(minutes)) => {
            Duration::from_secs(minutes * 60) / u32::try_from(cells).unwrap_or(u32::MAX)
        }
        (None, None) => A_MINUTE,
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 4];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    // Short enough to be typed.
    Ok(u32::from_le_bytes(bytes).into())
}

fn prepare(cells: &[Cell]) -> Result<Artifacts> {
    host::ensure(host::BED)?;
    let mut images: Vec<Image> = cells.iter().filter_map(Cell::image).collect();
    images.sort();
    images.dedup();
    let _step = Step::begin("building Hotvisor, fetching Debian's kernels, making guest images");
    Artifacts::prepare(&images)
}

/// What all cells have in common.
struct Bed<'a> {
    args: &'a Args,
    artifacts: &'a Artifacts,
    /// Whether the host's KVM is enough.
    here: bool,
    share: Duration,
    /// How many kernels each scenario runs with.
    kernels: u64,
    seed: u64,
    /// What cells came to before the run was broken off.
    so_far: BTreeMap<String, Verdict>,
}

impl Bed<'_> {
    /// Fails only where there is no room for what comes of it.
    fn run(&self, cell: &Cell) -> Result<Verdict> {
        if let Some(verdict) = self.so_far.get(&cell.name()) {
            return Ok(verdict.clone());
        }
        let folder = paths::bed("stress")?.join(cell.name());
        // What an earlier run left would be taken for this one's.
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
            }
            _ => fs::create_dir_all(&folder)?,
        }
        let wanted = self.wanted(cell);
        let verdict = if self.here || cell.scenario.bare {
            cell.run(self.artifacts, &wanted, &folder)
        } else {
            let run = self.in_l1(cell, &wanted, &folder);
            run.unwrap_or_else(|error| {
                eprintln!("{}: {error:#}", cell.name());
                let mut verdict = Verdict::default();
                verdict.fail(&error, &folder);
                verdict
            })
        };
        fs::write(folder.join(VERDICT_FILE), serde_json::to_vec(&verdict)?)?;
        Ok(verdict)
    }

    fn wanted(&self, cell: &Cell) -> Wanted {
        Wanted {
            seed: self.seed,
            time: self.share,
            steps: self.args.cycles,
            operations: match (self.args.all, cell.scenario.bare) {
                (false, _) => 0,
                (true, false) => AT_LEAST.div_ceil(self.kernels),
                (true, true) => 10 * AT_LEAST,
            },
            mix: self.args.mix.clone(),
        }
    }

    fn in_l1(&self, cell: &Cell, wanted: &Wanted, folder: &Path) -> Result<Verdict> {
        let outcome = self.boot(cell, wanted.arguments(cell), wanted.patience(), folder)?;
        let mut verdict = None;
        for (path, bytes) in &outcome {
            let name = Path::new(path).file_name().context("a file has no name")?;
            if name == VERDICT_FILE {
                verdict = Some(serde_json::from_slice(bytes)?);
                continue;
            }
            fs::write(folder.join(name), bytes)?;
        }
        verdict.context("no result came back")
    }

    /// Runs this program in L1; returns the files that it left. What it says is kept in the folder, so that it is
    /// there even where the machine dies.
    fn boot(
        &self,
        cell: &Cell,
        arguments: Vec<String>,
        patience: Duration,
        folder: &Path,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let mut job = inner::this_program(arguments)?;
        job.collect.push(FOLDER.to_owned());
        let images: Vec<Image> = cell.image().into_iter().collect();
        let need = Need {
            artifacts: self.artifacts,
            images: &images,
            files: Vec::new(),
            clock: Clock::Wall,
            alone: false,
            input: Input::Nothing,
        };
        let mut said = fs::File::create(folder.join("output.txt"))?;
        let mut lines = Lines::default();
        let name = cell.name();
        let outcome = inner::run_for(patience, job, need, &mut |bytes| {
            // Shown it was all the same.
            let _ = std::io::Write::write_all(&mut said, bytes);
            lines.push(bytes, |line| println!("{name}: {line}"));
        });
        lines.end(|line| println!("{name}: {line}"));
        let outcome = outcome?;
        ensure!(outcome.status == 0, "it ended with code {}", outcome.status);
        Ok(outcome.files)
    }
}

/// Runs the one scenario that was named, and leaves everything in a folder that is sent back.
fn in_l1(args: &Args) -> Result<ExitCode> {
    let cells = cells(args)?;
    let [cell] = cells.as_slice() else {
        bail!("one scenario and one kernel at a time in here");
    };
    let artifacts = Artifacts::open()?;
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder)?;
    let time = Duration::from_secs(args.seconds.context("how long?")?);
    if args.control.is_some() {
        return control::in_l1(cell, &artifacts, time);
    }
    ensure!(args.seed.is_some(), "which seed?");
    let wanted = Wanted {
        seed: args.seed.unwrap_or_default(),
        time,
        steps: args.cycles,
        operations: args.operations,
        mix: args.mix.clone(),
    };
    let verdict = cell.run(&artifacts, &wanted, folder);
    fs::write(folder.join(VERDICT_FILE), serde_json::to_vec(&verdict)?)?;
    Ok(ExitCode::SUCCESS)
}

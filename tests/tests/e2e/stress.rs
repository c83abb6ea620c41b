//! Short forms of the scenarios of `cargo testbed stress`, each with the same steps every time. They share one guest for
//! each kernel, because a boot takes longer than most of them; one that fails leaves it to nobody.

use std::fs;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::stress::{ALL, Guest, Limits, Scenario, Summary};

/// The guest that the next test may have.
static SHARED: Mutex<Option<(Kernel, Guest)>> = Mutex::new(None);

/// What the steps follow from: one with which each of the first few has something to change, in all the scenarios' mixes, and
/// which has most kinds of steps among them.
const SEED: u64 = 348;

/// How many lines of what was said are shown of a run that failed.
const SHOWN: usize = 60;

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for &kernel in Kernel::ALL {
        for scenario in short(kernel) {
            let name = format!("stress::{}", scenario.name);
            let run = move |context: &Context, kernel: Kernel| stressed(context, kernel, scenario);
            tests.push(Test::with_image(&name, Image::Loaded(kernel), run));
        }
    }
    tests
}

/// Requests in the midst of a boot take longest, and are for one kernel; `hotvisor stress` and `hotplug::during_boot` have some
/// for each. For 6.12, whose notifications may overtake each other.
fn short(kernel: Kernel) -> impl Iterator<Item = &'static Scenario> {
    let long = move |scenario: &Scenario| scenario.name == "boot" && kernel != Kernel::V6_12Cloud;
    ALL.iter()
        .filter(move |scenario| !scenario.bare && !long(scenario))
}

/// Ends the guest that nobody wants any more, if some tests were left out.
pub(crate) fn close() {
    drop(take());
}

fn take() -> Option<(Kernel, Guest)> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// There was something of what the scenario is about.
fn came_to_it(scenario: &Scenario, summary: &Summary, killed: u64) -> Result<()> {
    summary.did_something(true)?;
    let Summary { changes, steps, .. } = summary;
    ensure!(changes * 2 >= *steps, "little came of it: {summary:?}");
    ensure!(
        !scenario.refuses || !summary.refusals.is_empty(),
        "nothing was refused: {summary:?}"
    );
    ensure!(killed > 0 || !scenario.clients, "no program was killed");
    Ok(())
}

fn stressed(context: &Context, kernel: Kernel, scenario: &'static Scenario) -> Result<()> {
    let guest = match take() {
        Some((its, guest)) if its == kernel => guest,
        // Not with this scenario's load: the next one has another.
        _ => Guest::boot(&context.artifacts, kernel, &Scenario::PLAIN)?,
    };
    guest.load(scenario)?;
    let limits = Limits {
        seed: SEED,
        steps: Some(scenario.steps),
        quiet: true,
        ..Limits::default()
    };
    let folder = tempfile::tempdir()?;
    let run = guest.stress(scenario, &limits, folder.path(), 1)?;
    run.good()
        .and_then(|summary| came_to_it(scenario, summary, run.killed))
        .with_context(|| {
            let said = fs::read_to_string(folder.path().join("1-said.txt")).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            guest
                .vm()
                .evidence(lines[lines.len().saturating_sub(SHOWN)..].join("\n"))
        })?;
    guest.at_work(scenario)?;
    guest.load(&Scenario::PLAIN)?;
    let last = short(kernel).last();
    if last == Some(scenario) {
        return guest.end();
    }
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    *shared = Some((kernel, guest));
    Ok(())
}

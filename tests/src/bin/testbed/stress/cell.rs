//! One scenario with one kernel: a cell of the table.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::{Artifacts, Image};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::stress::{Guest, Limits, Scenario, Summary};
use serde::{Deserialize, Serialize};

/// Where L1 has what is sent back.
pub(super) const FOLDER: &str = "/tmp/stress";
/// The file with the [`Verdict`] in it.
pub(super) const VERDICT_FILE: &str = "verdict.json";

/// A guest that refuses now and then has done so in that many operations.
const OFTEN: u64 = 100;
/// How many runs make up for one that had too few operations, at most.
const RUNS: u32 = 4;

/// A scenario with a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) scenario: &'static Scenario,
    /// None where the guest is no Linux.
    pub(super) kernel: Option<Kernel>,
}

/// What is wanted of a cell.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) seed: u64,
    pub(super) time: Duration,
    /// Exactly so many steps, in place of the time and the operations.
    pub(super) steps: Option<u64>,
    /// So many operations at least that have something to change.
    pub(super) operations: u64,
    pub(super) mix: Option<String>,
}

/// What a cell came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) summary: Summary,
    /// How many programs were killed meanwhile.
    pub(super) killed: u64,
    /// What was wrong.
    pub(super) failure: Option<String>,
}

impl Verdict {
    /// Takes down what was wrong: what the first line says; the rest is evidence, and is kept in the folder.
    pub(super) fn fail(&mut self, error: &anyhow::Error, folder: &Path) {
        let failure = format!("{error:#}");
        // Shown it was all the same.
        let _ = fs::write(folder.join("failure.txt"), &failure);
        self.failure = failure.lines().next().map(str::to_owned);
    }
}

impl Cell {
    /// What its files are called after.
    pub(super) fn name(&self) -> String {
        match self.kernel {
            Some(kernel) => format!("{}-{}", self.scenario.name, kernel.name()),
            None => self.scenario.name.to_owned(),
        }
    }

    pub(super) fn image(&self) -> Option<Image> {
        self.kernel.map(Image::Loaded)
    }

    /// Runs it here.
    pub(super) fn run(&self, artifacts: &Artifacts, wanted: &Wanted, folder: &Path) -> Verdict {
        let mut verdict = Verdict::default();
        if let Err(error) = self.try_run(artifacts, wanted, folder, &mut verdict) {
            eprintln!("{}: {error:#}", self.name());
            verdict.fail(&error, folder);
        }
        verdict
    }

    fn try_run(
        &self,
        artifacts: &Artifacts,
        wanted: &Wanted,
        folder: &Path,
        verdict: &mut Verdict,
    ) -> Result<()> {
        let guest = match self.kernel {
            Some(kernel) => Guest::boot(artifacts, kernel, self.scenario)?,
            None => Guest::bare(artifacts, self.scenario)?,
        };
        for number in 1..=RUNS {
            let limits = wanted.limits(number, &verdict.summary);
            let run = guest.stress(self.scenario, &limits, folder, number)?;
            verdict.killed += run.killed;
            if let Some(summary) = run.summary.clone() {
                if number == 1 {
                    verdict.summary = summary;
                } else {
                    verdict.summary.add(summary);
                }
            }
            run.good()?;
            guest.at_work(self.scenario)?;
            if wanted.steps.is_some() || verdict.summary.at_work() >= wanted.operations {
                break;
            }
        }
        guest.end()?;
        self.came_to_it(wanted, verdict)
    }

    /// That there was enough of what the scenario is about.
    fn came_to_it(&self, wanted: &Wanted, verdict: &Verdict) -> Result<()> {
        let summary = &verdict.summary;
        summary.did_something(self.kernel.is_some())?;
        let operations = summary.at_work();
        ensure!(
            wanted.steps.is_some() || operations >= wanted.operations,
            "{operations} operations after {RUNS} runs, and {} were wanted",
            wanted.operations
        );
        if self.scenario.refuses && operations >= OFTEN {
            summary.was_refused_by_the_kernel()?;
        }
        ensure!(
            verdict.killed > 0 || !self.scenario.clients,
            "no program was killed"
        );
        Ok(())
    }
}

impl Wanted {
    /// How the next run goes on, after some that came to this.
    fn limits(&self, number: u32, so_far: &Summary) -> Limits {
        let missing = self.operations.saturating_sub(so_far.at_work());
        let steps = match number {
            1 => self.steps,
            // As many operations to a step as before, and a tenth more, because chance has it otherwise.
            _ => Some((missing * so_far.steps.max(1)) / so_far.at_work().max(1) * 11 / 10 + 1),
        };
        Limits {
            seed: self.seed + u64::from(number - 1),
            steps,
            time: self.time,
            mix: self.mix.clone(),
            quiet: false,
        }
    }

    /// How L1 is told.
    pub(super) fn arguments(&self, cell: &Cell) -> Vec<String> {
        let mut arguments = vec!["stress".to_owned(), cell.scenario.name.to_owned()];
        arguments.extend(
            cell.kernel
                .map(|kernel| format!("--kernel={}", kernel.name())),
        );
        arguments.push(format!("--seed={}", self.seed));
        arguments.push(format!("--seconds={}", self.time.as_secs()));
        arguments.push(format!("--operations={}", self.operations));
        arguments.extend(self.steps.map(|steps| format!("--cycles={steps}")));
        arguments.extend(self.mix.as_ref().map(|mix| format!("--mix={mix}")));
        arguments
    }

    /// When L1 is given up: late, because each step in it has a deadline of its own.
    pub(super) fn patience(&self) -> Duration {
        let steps = self.steps.unwrap_or(0).max(self.operations);
        let each = Duration::from_secs(30);
        self.time + Duration::from_secs(1800) + each * u32::try_from(steps).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_had_too_few_operations_is_made_up_for() {
        let wanted = Wanted {
            seed: 7,
            time: Duration::from_secs(60),
            steps: None,
            operations: 1000,
            mix: None,
        };
        let first = wanted.limits(1, &Summary::default());
        assert_eq!((first.seed, first.steps), (7, None));
        let so_far = Summary {
            steps: 400,
            operations: 900,
            idle: 100,
            ..Summary::default()
        };
        let second = wanted.limits(2, &so_far);
        assert_eq!((second.seed, second.steps), (8, Some(111)));
    }
}

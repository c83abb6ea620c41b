//! What `hotvisor stress --json` prints.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// A run in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What the steps follow from.
    pub seed: u64,
    /// What was done, with its weights.
    pub mix: String,
    /// How many steps there were.
    pub steps: u64,
    /// How many operations of the API.
    pub operations: u64,
    /// How many of their parts changed something.
    pub changes: u64,
    /// How long it took.
    pub seconds: f64,
    /// How often each outcome was.
    pub outcomes: BTreeMap<String, u64>,
    /// How often the guest said no with each `_OST`.
    pub refusals: BTreeMap<String, u64>,
    /// How long a change took that succeeded, by its name.
    pub latency: BTreeMap<String, Latency>,
    /// What the guest's kernel complained of.
    pub kernel_warnings: u64,
    /// What did not agree.
    pub contradiction: Option<Contradiction>,
}

/// How long changes took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
}

/// What did not agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contradiction {
    /// After which step.
    pub step: u64,
    /// In words.
    pub what: Vec<String>,
}

impl Summary {
    /// Fails unless something was done. A run that only makes up for another's few operations need not change anything.
    ///
    /// # Errors
    /// No vCPU was changed by any operation.
    pub fn did_something(&self) -> Result<()> {
        ensure!(
            self.operations > 0 && self.changes > 0,
            "it did nothing: {self:?}"
        );
        Ok(())
    }

    /// Adds a run on the same guest. Times stay those of the one with more changes: percentiles cannot be added.
    pub fn add(&mut self, other: Self) {
        if self.changes < other.changes {
            self.latency = other.latency;
        }
        self.steps += other.steps;
        self.operations += other.operations;
        self.changes += other.changes;
        self.seconds += other.seconds;
        for (sum, more) in [
            (&mut self.outcomes, other.outcomes),
            (&mut self.refusals, other.refusals),
        ] {
            for (name, number) in more {
                *sum.entry(name).or_default() += number;
            }
        }
        self.kernel_warnings += other.kernel_warnings;
        self.contradiction = self.contradiction.take().or(other.contradiction);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_did_nothing_is_told_from_one_that_did() {
        let mut run = Summary {
            operations: 2,
            ..Summary::default()
        };
        assert!(run.did_something().is_err());
        run.changes = 1;
        assert!(run.did_something().is_ok());
    }

    #[test]
    fn numbers_are_added_and_times_are_of_the_longer_run() {
        let run = |changes, p50_us| Summary {
            operations: 3,
            changes,
            outcomes: BTreeMap::from([("succeeded".to_owned(), changes)]),
            latency: BTreeMap::from([(
                "plug".to_owned(),
                Latency {
                    p50_us,
                    ..Latency::default()
                },
            )]),
            ..Summary::default()
        };
        let mut sum = run(2, 10);
        sum.add(run(5, 20));
        sum.add(run(1, 30));
        assert_eq!((sum.operations, sum.changes), (9, 8));
        assert_eq!(sum.outcomes["succeeded"], 8);
        assert_eq!(sum.latency["plug"].p50_us, 20);
    }
}

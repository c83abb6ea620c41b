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
    /// How many of those had nothing to change.
    pub idle: u64,
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
    /// What else it complained of that was to be passed over, and how often.
    pub tolerated: BTreeMap<String, u64>,
    /// Whether the messages of the guest's kernel were read.
    pub kernel_log: bool,
    /// Whether the threads of the VM were compared.
    pub host: bool,
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
    /// Operations that had something to change.
    #[must_use]
    pub fn at_work(&self) -> u64 {
        self.operations.saturating_sub(self.idle)
    }

    /// Fails unless something was done, and looked at. A run that only makes up for another's few operations need not change
    /// anything.
    ///
    /// # Errors
    /// No vCPU was changed by any operation, or something could not be seen.
    pub fn did_something(&self, linux: bool) -> Result<()> {
        ensure!(
            self.at_work() > 0 && self.changes > 0,
            "it did nothing: {self:?}"
        );
        ensure!(
            self.host && (self.kernel_log || !linux),
            "it could not look at everything: {self:?}"
        );
        Ok(())
    }

    /// Fails unless the guest has refused as a scheduler does that has promised the CPU's time.
    ///
    /// # Errors
    /// It has not.
    pub fn was_refused_by_the_kernel(&self) -> Result<()> {
        let count = self.refusals.get("3,0x82").copied().unwrap_or_default();
        ensure!(
            count > 0,
            "the guest's kernel has refused nothing of what was asked {} times: {:?}",
            self.operations,
            self.refusals
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
        self.idle += other.idle;
        self.kernel_log &= other.kernel_log;
        self.host &= other.host;
        self.changes += other.changes;
        self.seconds += other.seconds;
        for (sum, more) in [
            (&mut self.outcomes, other.outcomes),
            (&mut self.refusals, other.refusals),
            (&mut self.tolerated, other.tolerated),
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
            idle: 1,
            host: true,
            ..Summary::default()
        };
        assert!(run.did_something(false).is_err());
        run.changes = 1;
        assert!(run.did_something(false).is_ok());
        assert!(run.did_something(true).is_err(), "its log was not read");
        run.idle = 2;
        assert!(run.did_something(false).is_err());
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

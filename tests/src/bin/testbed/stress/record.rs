//! What a run came to, as a file, and the README's table of it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::stress::Summary;
use serde::{Deserialize, Serialize};

use super::cell::{Cell, Verdict};
use crate::measured::Measured;

/// A run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// What the steps followed from.
    seed: u64,
    guests: Vec<Entry>,
}

/// One guest.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// What it was at.
    about: String,
    /// None where it is no Linux.
    kernel: Option<String>,
    #[serde(flatten)]
    verdict: Verdict,
}

impl Measured for Record {
    const FORMAT: u32 = 1;
    const BY: &str = "cargo testbed stress --json";
}

impl Record {
    pub(super) fn new(seed: u64, done: &[(Cell, Verdict)]) -> Self {
        let entry = |(cell, verdict): &(Cell, Verdict)| Entry {
            about: cell.scenario.about.to_owned(),
            kernel: cell.kernel.map(|kernel| kernel.name().to_owned()),
            verdict: verdict.clone(),
        };
        Self {
            format: Self::FORMAT,
            seed,
            guests: done.iter().map(entry).collect(),
        }
    }

    /// A line for each guest.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self)?.replace("{\"about\":", "\n{\"about\":");
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// A row for each scenario, with its kernels' operations side by side, and what went wrong.
    pub(super) fn table(&self) -> String {
        let kernels = Kernel::ALL.iter().map(|kernel| kernel.name());
        let took_part = |kernel: &&str| {
            self.guests
                .iter()
                .any(|guest| guest.kernel.as_deref() == Some(*kernel))
        };
        let kernels: Vec<&str> = kernels.filter(took_part).collect();
        let mut text = format!(
            "| the guest | operations with {} | changes of vCPUs | refused | failures | complaints of its kernel |\n\
             |---|---:|---:|---:|---:|---|\n",
            kernels.join(", ")
        );
        let mut abouts: Vec<&str> = self.guests.iter().map(|guest| &*guest.about).collect();
        abouts.dedup();
        for about in abouts {
            let guests = self.guests.iter().filter(|guest| guest.about == about);
            text += &row(about, &guests.collect::<Vec<_>>());
        }
        let sum = |number: fn(&Verdict) -> u64| {
            self.guests.iter().map(|g| number(&g.verdict)).sum::<u64>()
        };
        let _ = writeln!(
            text,
            "\nAll of them: guests {}, operations {}, of which {} had nothing to change, changes of vCPUs {}, clients \
             killed {}; seed {}.",
            self.guests.len(),
            sum(|verdict| verdict.summary.operations),
            sum(|verdict| verdict.summary.idle),
            sum(|verdict| verdict.summary.changes),
            sum(|verdict| verdict.killed),
            self.seed
        );
        for guest in &self.guests {
            let kernel = guest.kernel.as_deref().unwrap_or("no kernel");
            if let Some(failure) = &guest.verdict.failure {
                let _ = writeln!(text, "\nFailed ({}, {kernel}): {failure}", guest.about);
            }
        }
        text
    }
}

fn row(about: &str, guests: &[&Entry]) -> String {
    let sum = |number: fn(&Summary) -> u64| -> u64 {
        guests
            .iter()
            .map(|guest| number(&guest.verdict.summary))
            .sum()
    };
    let operations = guests.iter().map(|guest| guest.verdict.summary.operations);
    let operations: Vec<String> = operations.map(|number| number.to_string()).collect();
    let failures = guests
        .iter()
        .filter(|guest| guest.verdict.failure.is_some());
    let mut complaints = sum(|summary| summary.kernel_warnings).to_string();
    for guest in guests {
        for (text, number) in &guest.verdict.summary.tolerated {
            let kernel = guest.kernel.as_deref().unwrap_or_default();
            let _ = write!(complaints, "; {kernel}: {number} of `{text}`, see below");
        }
    }
    format!(
        "| {about} | {} | {} | {} | {} | {complaints} |\n",
        operations.join(", "),
        sum(|summary| summary.changes),
        sum(|summary| summary.outcomes.get("refused").copied().unwrap_or(0)),
        failures.count(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hotvisor_tests::stress::ALL;

    use super::*;
    use crate::measured;

    fn cell(kernel: Option<Kernel>) -> Cell {
        Cell {
            scenario: &ALL[0],
            kernel,
        }
    }

    #[test]
    fn kernels_stand_side_by_side_and_failures_are_told() -> Result<()> {
        let verdict = |operations, failure: Option<&str>| Verdict {
            summary: Summary {
                operations,
                changes: 2,
                tolerated: BTreeMap::from([("what_it_does".to_owned(), 3)]),
                ..Summary::default()
            },
            killed: 1,
            failure: failure.map(str::to_owned),
        };
        let done = [
            (cell(Some(Kernel::V6_1Cloud)), verdict(5, None)),
            (cell(Some(Kernel::V6_1Rt)), verdict(7, Some("it died"))),
        ];
        let file = tempfile::NamedTempFile::new()?;
        Record::new(9, &done).write(file.path())?;
        let text = measured::read::<Record>(file.path())?.table();
        for part in [
            "| nothing to do | 5, 7 | 4 | 0 | 1 | 0; ",
            "6.1-rt: 3 of `what_it_does`",
            "guests 2, operations 12, of which 0 had nothing to change, changes of vCPUs 4, clients killed 2; seed 9",
            "Failed (nothing to do, 6.1-rt): it died",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        Ok(())
    }
}

//! What came of it, as a table in Markdown.

use std::fmt::Write;

use hotvisor_tests::stress::Summary;

use super::cell::{Cell, Verdict};

pub(super) const HEAD: &str = "| guest | kernel | operations | of them idle | changes | succeeded | refused | other ends | plug p50/p99 | unplug p50/p99 | warnings | contradictions |\n\
                               |---|---|---:|---:|---:|---:|---|---|---:|---:|---|---|";

pub(super) fn row(cell: &Cell, verdict: &Verdict) -> String {
    let summary = &verdict.summary;
    let kernel = cell.kernel.map_or("none", |kernel| kernel.name());
    let count = |outcome: &str| summary.outcomes.get(outcome).copied().unwrap_or(0);
    format!(
        "| {} | {kernel} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        cell.scenario.about,
        summary.operations,
        summary.idle,
        summary.changes,
        count("succeeded"),
        refusals(summary),
        others(summary),
        times(summary, "plug"),
        times(summary, "unplug"),
        complaints(summary),
        verdict
            .failure
            .as_deref()
            .map_or("none".to_owned(), |failure| failure.replace('|', "\\|")),
    )
}

/// What the guest's kernel complained of: how often, and what of it was passed over.
fn complaints(summary: &Summary) -> String {
    let tolerated = summary.tolerated.iter();
    let tolerated = tolerated.map(|(text, number)| format!(", passed over {text}: {number}"));
    summary.kernel_warnings.to_string() + &tolerated.collect::<String>()
}

/// The guest's refusals by what it said.
fn refusals(summary: &Summary) -> String {
    let total = summary.outcomes.get("refused").copied().unwrap_or(0);
    let codes = summary.refusals.iter();
    let codes: Vec<String> = codes
        .map(|(code, number)| format!("({code}): {number}"))
        .collect();
    match (total, codes.is_empty()) {
        (0, true) => "0".to_owned(),
        (_, true) => total.to_string(),
        (_, false) => codes.join(", "),
    }
}

fn others(summary: &Summary) -> String {
    let known = ["succeeded", "refused"];
    let others = summary.outcomes.iter();
    let others: Vec<String> = others
        .filter(|(name, number)| !known.contains(&name.as_str()) && **number > 0)
        .map(|(name, number)| format!("{}: {number}", name.replace('_', " ")))
        .collect();
    if others.is_empty() {
        return "0".to_owned();
    }
    others.join(", ")
}

fn times(summary: &Summary, change: &str) -> String {
    let milliseconds = |microseconds: u64| {
        let milliseconds = microseconds as f64 / 1000.0;
        let digits = match milliseconds {
            ..1.0 => 2,
            ..10.0 => 1,
            _ => 0,
        };
        format!("{milliseconds:.digits$}")
    };
    match summary.latency.get(change) {
        Some(times) if times.count > 0 => format!(
            "{} / {} ms",
            milliseconds(times.p50_us),
            milliseconds(times.p99_us)
        ),
        _ => "-".to_owned(),
    }
}

/// The whole table, and the sum of it in words.
pub(super) fn all(seed: u64, done: &[(Cell, Verdict)]) -> String {
    let mut text = format!("{HEAD}\n");
    for (cell, verdict) in done {
        let _ = writeln!(text, "{}", row(cell, verdict));
    }
    let sum =
        |number: fn(&Verdict) -> u64| done.iter().map(|(_, verdict)| number(verdict)).sum::<u64>();
    let failed = done.iter().filter(|(_, verdict)| verdict.failure.is_some());
    let _ = writeln!(
        text,
        "\nguests: {}, operations: {}, changes: {}, programs killed: {}, warnings of guests' kernels: {}, failures: {}; seed {seed}",
        done.len(),
        sum(|verdict| verdict.summary.operations),
        sum(|verdict| verdict.summary.changes),
        sum(|verdict| verdict.killed),
        sum(|verdict| verdict.summary.kernel_warnings),
        failed.count(),
    );
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hotvisor_tests::kernels::Kernel;
    use hotvisor_tests::stress::{ALL, Latency};

    use super::*;

    fn cell() -> Cell {
        Cell {
            scenario: &ALL[0],
            kernel: Some(Kernel::V6_1Rt),
        }
    }

    #[test]
    fn a_row_has_as_many_columns_as_the_head() {
        let outcomes = [("succeeded", 7), ("refused", 2), ("timed_out", 1)];
        let outcomes = outcomes.map(|(name, number)| (name.to_owned(), number));
        let latency = Latency {
            count: 7,
            p50_us: 1234,
            p99_us: 56_789,
        };
        let verdict = Verdict {
            summary: Summary {
                operations: 10,
                outcomes: BTreeMap::from(outcomes),
                refusals: BTreeMap::from([("3,0x82".to_owned(), 2)]),
                latency: BTreeMap::from([("plug".to_owned(), latency)]),
                ..Summary::default()
            },
            killed: 0,
            failure: Some("a|b".to_owned()),
        };
        let row = row(&cell(), &verdict);
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        assert_eq!(columns(&row), columns(HEAD.lines().next().unwrap()));
        for part in [
            "(3,0x82): 2",
            "timed out: 1",
            "1.2 / 57 ms",
            "| - |",
            "6.1-rt",
        ] {
            assert!(row.contains(part), "{part} is not in {row}");
        }
    }

    #[test]
    fn failures_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut failed = Verdict::default();
        failed.fail(&anyhow::anyhow!("it died\nlike this"), folder.path());
        let text = all(1, &[(cell(), Verdict::default()), (cell(), failed)]);
        assert!(
            text.contains("guests: 2") && text.contains("failures: 1"),
            "{text}"
        );
    }
}

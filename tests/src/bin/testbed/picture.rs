//! A plug or an unplug as a picture for the terminal: a line for each phase, as long as it took.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

/// Columns of the longest bar.
const WIDTH: usize = 40;

/// What happens in a phase of the API's timeline, and in whose time.
const PHASES: &[(&str, &str)] = &[
    ("starting", "host: its thread gets ready to run it"),
    (
        "announced",
        "guest: reads of it, makes a CPU of it, acknowledges",
    ),
    (
        "plugged",
        "guest: brings it online; ends with INIT and SIPI",
    ),
    ("draining", "host: new users are sent elsewhere"),
    ("notifying.host", "host: notifiers"),
    ("notifying.asked", "guest: has not read the request"),
    (
        "notifying.read",
        "guest: until its _OST says that it begins",
    ),
    (
        "notifying.begun",
        "guest: takes the CPU down; ends with _EJ0",
    ),
    ("syncing", "host: waits for users of the vCPU"),
    ("stopping", "host: its thread leaves the guest and parks"),
];

/// What happens in a phase, and in whose time.
pub(crate) fn meaning(name: &str) -> &'static str {
    let known = PHASES.iter().find(|(phase, _)| *phase == name);
    known.map_or("", |(_, meaning)| meaning)
}

/// The phases of a timeline as `GET /api/v1/vcpus/{id}` has it, under `plug` or `unplug`, with their
/// microseconds.
pub(crate) fn phases(timeline: &Value) -> Result<Vec<(&str, u64)>> {
    let phases = timeline["phases"]
        .as_array()
        .context("a timeline has no phases")?;
    phases
        .iter()
        .map(|phase| Some((phase["phase"].as_str()?, phase["us"].as_u64()?)))
        .collect::<Option<_>>()
        .context("a phase has no name or no time")
}

/// The picture of such a timeline.
pub(crate) fn of(timeline: &Value) -> Result<String> {
    Ok(draw(&phases(timeline)?))
}

fn draw(phases: &[(&str, u64)]) -> String {
    let longest = phases.iter().map(|(_, us)| *us).max().unwrap_or(0).max(1);
    let mut picture = String::new();
    let total: u64 = phases.iter().map(|(_, us)| us).sum();
    for (name, us) in phases {
        let meaning = meaning(name);
        let columns = |us: u64| usize::try_from(us * WIDTH as u64 / longest).unwrap_or(WIDTH);
        // Where there is time there is something to see.
        let bar = match columns(*us) {
            0 => "▏".to_owned(),
            columns => "█".repeat(columns),
        };
        let ms = |us: u64| us as f64 / 1000.0;
        let _ = writeln!(
            picture,
            "    {name:<16}{:>9.2} ms  {bar:<WIDTH$}  {meaning}",
            ms(*us),
        );
    }
    let _ = writeln!(
        picture,
        "    {:<16}{:>9.2} ms",
        "in all",
        total as f64 / 1000.0
    );
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_phases() {
        let picture = draw(&[
            ("draining", 1),
            ("notifying.begun", 4000),
            ("stopping", 1000),
        ]);
        let bars: Vec<usize> = picture
            .lines()
            .map(|line| line.chars().filter(|c| "█▏".contains(*c)).count())
            .collect();
        assert_eq!(bars, [1, 40, 10, 0]);
        assert!(picture.contains("5.00 ms"), "{picture}");
    }

    #[test]
    fn a_timeline_without_times_is_an_error() {
        assert!(of(&serde_json::json!({ "phases": [{ "phase": "x" }] })).is_err());
        assert!(of(&Value::Null).is_err());
    }
}

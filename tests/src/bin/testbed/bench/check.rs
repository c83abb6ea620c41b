//! Whether two runs agree.

use std::fmt;

use super::results::{Key, Results, Time};
use super::stats::Stats;
use super::table;

/// By how much of the earlier one two typical values may differ.
const TOLERANCE: f64 = 0.02;
/// Differences of so little are none, whatever they are a part of: microseconds in a time of milliseconds.
const SMALLEST: f64 = 0.005;

/// What differs between two runs.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    compared: usize,
    /// What the earlier run has of the same clock and kind, and the later one has not; or the other way round.
    missing: Vec<Key>,
    /// Series, with the typical values of both.
    apart: Vec<(Key, f64, f64)>,
}

/// Compares what both have, and says what only one of them has of what both measured.
pub(super) fn compare(earlier: &Results, later: &Results) -> Comparison {
    let mut comparison = Comparison {
        missing: only_in(earlier, later)
            .chain(only_in(later, earlier))
            .collect(),
        ..Comparison::default()
    };
    for series in &later.series {
        let stats = (earlier.get(&series.key).and_then(Stats::of)).zip(Stats::of(&series.values));
        let Some((old, new)) = stats else { continue };
        let (old, new) = (old.typical(), new.typical());
        comparison.compared += 1;
        if (new - old).abs() > SMALLEST.max(old.abs() * TOLERANCE) {
            comparison.apart.push((series.key.clone(), old, new));
        }
    }
    comparison
}

/// Series of `one` that `other` has not, although it has some of the same machines by the same clock.
fn only_in(one: &Results, other: &Results) -> impl Iterator<Item = Key> {
    let machine = |key: &Key| (key.time, key.guest, key.max, key.vcpus);
    let measured = |key: &Key| (other.series.iter()).any(|s| machine(&s.key) == machine(key));
    let keys = one.series.iter().map(|series| &series.key);
    keys.filter(move |key| other.get(key).is_none() && measured(key))
        .cloned()
        .collect::<Vec<_>>()
        .into_iter()
}

impl Comparison {
    /// Whether what the clock that repeats gave is the same, and there is some of it; values of the wall clock are
    /// only shown, and agree with anything where there are no others.
    pub(super) fn agrees(&self) -> bool {
        let repeats = |key: &Key| key.time == Time::Instructions;
        let apart = self.apart.iter().map(|(key, ..)| key);
        self.compared > 0 && !apart.chain(&self.missing).any(repeats)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (apart, compared) = (self.apart.len(), self.compared);
        writeln!(
            f,
            "{apart} of {compared} typical values differ by more than {} %",
            TOLERANCE * 100.0
        )?;
        for key in &self.missing {
            writeln!(f, "  {}: only one of the two has it", table::name(key))?;
        }
        for (key, old, new) in &self.apart {
            let by = (new / old - 1.0) * 100.0;
            writeln!(
                f,
                "  {}: {old:.3}, now {new:.3} ({by:+.1} %)",
                table::name(key)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::key;
    use super::super::results::{Change, Peer, What};
    use super::*;

    fn results(time: Time, value: f64) -> Results {
        let mut results = Results::new(1);
        let key = Key {
            time,
            ..key(Peer::Qemu, What::Change(Change::Unplug))
        };
        results.add(key, value);
        results
    }

    #[test]
    fn two_hundredths_are_allowed_and_not_more() {
        let old = results(Time::Instructions, 10.0);
        assert!(compare(&old, &results(Time::Instructions, 10.19)).agrees());
        let apart = compare(&old, &results(Time::Instructions, 9.7));
        assert!(!apart.agrees());
        let text = apart.to_string();
        assert!(
            text.contains("1 of 1") && text.contains("(-3.0 %)"),
            "{text}"
        );
    }

    #[test]
    fn the_wall_clock_is_shown_and_not_held_to_it() {
        let old = results(Time::Wall, 10.0);
        let apart = compare(&old, &results(Time::Wall, 20.0));
        assert!(apart.agrees() && apart.apart.len() == 1);
    }

    #[test]
    fn what_has_vanished_is_no_agreement() {
        let mut old = results(Time::Instructions, 10.0);
        old.add(key(Peer::Qemu, What::Change(Change::Plug)), 1.0);
        let later = results(Time::Instructions, 10.0);
        for found in [compare(&old, &later), compare(&later, &old)] {
            assert!(!found.agrees());
            assert!(found.to_string().contains("only one of the two"), "{found}");
        }
        // Another part was not asked for.
        let other = Key {
            max: 512,
            ..key(Peer::Qemu, What::Change(Change::Plug))
        };
        old = results(Time::Instructions, 10.0);
        old.add(other, 1.0);
        assert!(compare(&old, &later).agrees());
    }

    #[test]
    fn nothing_in_common_is_no_agreement() {
        let found = compare(&results(Time::Wall, 1.0), &results(Time::Instructions, 1.0));
        assert!(!found.agrees());
    }
}

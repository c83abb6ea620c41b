//! A run's changes, put together so that a picture of them has a size that does not depend on how many there were.

use super::super::record::Took;
use super::super::summary::{Times, us};
use std::time::Duration;

/// Most points of a line.
const POINTS: u32 = 120;
/// Changes that a point stands for at least, if there are as many: a percentile of three is none.
const EACH: usize = 8;
/// Bars of a histogram for each power of ten.
const BARS: i32 = 12;

/// What is seen of a stretch of the run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    /// Its middle, in seconds since the start.
    pub(super) at: f64,
    /// Microseconds.
    pub(super) times: Times,
    /// Mean of each phase, in microseconds.
    pub(super) phases: Vec<f64>,
}

/// Stretches of the run in which something ended, each equally long. `phases` are those that are wanted, in order.
pub(super) fn over_time<'a>(
    changes: impl Iterator<Item = (Duration, &'a Took)> + Clone,
    elapsed: Duration,
    phases: &[&str],
) -> Vec<Point> {
    let count = changes.clone().count();
    let points = u32::try_from(count / EACH)
        .unwrap_or(POINTS)
        .clamp(1, POINTS);
    let each = elapsed.as_secs_f64() / f64::from(points);
    let mut stretches: Vec<Vec<&Took>> = (0..points).map(|_| Vec::new()).collect();
    let last = stretches.len() - 1;
    for (at, took) in changes {
        let at = whole(at.as_secs_f64() / each).min(last);
        stretches[at].push(took);
    }
    let middles = (0..points).map(|point| (f64::from(point) + 0.5) * each);
    let point = |(at, changes): (f64, &Vec<&Took>)| Point {
        at,
        times: Times::of(changes.iter().map(|took| took.total)),
        phases: phases.iter().map(|phase| mean(changes, phase)).collect(),
    };
    let seen = middles
        .zip(&stretches)
        .filter(|(_, changes)| !changes.is_empty());
    seen.map(point).collect()
}

/// Microseconds that a phase takes; those that do not have it count as none.
fn mean(changes: &[&Took], phase: &str) -> f64 {
    let all = changes.iter().flat_map(|took| &took.phases);
    let of_phase = all.filter(|(name, _)| name == phase);
    let sum: f64 = of_phase.map(|(_, time)| micros(*time)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a place on a picture")]
    let count = changes.len().max(1) as f64;
    sum / count
}

pub(super) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "of a number that is neither negative nor large, and otherwise the nearest"
)]
fn whole(number: f64) -> usize {
    number as usize
}

/// A bar of a histogram: from, to, both in microseconds, and how many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) count: u32,
}

/// How many took how long, in bars that are equally wide on a logarithmic scale.
pub(super) fn histogram<'a>(changes: impl Iterator<Item = &'a Took>) -> Vec<Bar> {
    let edge = |bar: i32| 10_f64.powf(f64::from(bar) / f64::from(BARS));
    let mut bars: std::collections::BTreeMap<i32, u32> = Default::default();
    for took in changes {
        // A time of none stands with the shortest that there is.
        let time = us(took.total).max(1);
        #[expect(clippy::cast_precision_loss, reason = "a place on a picture")]
        let bar = (time as f64).log10() * f64::from(BARS);
        #[expect(clippy::cast_possible_truncation, reason = "a logarithm")]
        let mut bar = bar.floor() as i32;
        // A logarithm is not exact, and an edge belongs to the bar that it begins.
        #[expect(clippy::cast_precision_loss, reason = "a place on a picture")]
        if edge(bar + 1) <= time as f64 {
            bar += 1;
        }
        *bars.entry(bar).or_default() += 1;
    }
    let bar = |(bar, count)| Bar {
        from: edge(bar),
        to: edge(bar + 1),
        count,
    };
    bars.into_iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::record::ChangeDone;
    use super::super::super::summary::tests::{change, record};
    use super::*;
    use crate::wire::operations::Code;
    use crate::wire::vcpus::Target;

    fn timed(changes: &[ChangeDone]) -> impl Iterator<Item = (Duration, &Took)> + Clone {
        changes
            .iter()
            .filter_map(|change| Some((change.at, change.took.as_ref()?)))
    }

    #[test]
    fn every_change_is_in_one_stretch() {
        let record = record();
        let plugs = record.timed(Target::Online);
        let points = over_time(plugs, record.elapsed, &["starting", "announced", "plugged"]);
        assert_eq!(points.len(), 11, "some with nothing in them are left out");
        let count: u64 = points.iter().map(|point| point.times.count).sum();
        assert_eq!(count, 100);
        assert!(points.windows(2).all(|pair| pair[0].at < pair[1].at));
        // Plugs take longer and longer there.
        assert!(
            points
                .windows(2)
                .all(|pair| pair[0].times.p50 < pair[1].times.p50)
        );
        let sum: f64 = points[0].phases.iter().sum();
        let mean = Times::of(
            record
                .timed(Target::Online)
                .take(9)
                .map(|(_, took)| took.total),
        )
        .p50;
        assert!((sum - mean as f64).abs() < 1000.0, "{sum} {mean}");
    }

    #[test]
    fn nothing_and_no_time_are_no_trouble() {
        assert_eq!(over_time([].into_iter(), Duration::ZERO, &["a"]), []);
        let one = [change(5000, Target::Online, Code::Succeeded, 3)];
        let points = over_time(timed(&one), Duration::ZERO, &[]);
        assert_eq!(points.len(), 1);
        assert!(points[0].at.is_finite());
        assert_eq!(histogram([].into_iter()), []);
    }

    #[test]
    fn a_histogram_has_all_of_them() {
        let times = [0, 1, 10, 10, 100, 1000, 30_000];
        let changes = times.map(|ms| change(0, Target::Online, Code::Succeeded, ms));
        let bars = histogram(timed(&changes).map(|(_, took)| took));
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u32>(), 7);
        for time in [1e3, 1e4, 1e5, 1e6] {
            let bar = bars
                .iter()
                .find(|bar| bar.from <= time * 1.000_001 && time < bar.to);
            assert!(bar.is_some(), "{time}: {bars:?}");
        }
    }
}

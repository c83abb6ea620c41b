//! What is wanted of Hotvisor beside its peers, and whether the figures have it.

use std::fmt::Write;

use super::super::results::{Change, Guest, Peer, Results, Time, What};
use super::super::sizes::{FEW, SEVERAL};
use super::super::sweep::MOST;
use super::view::{Row, View, ratio};

/// Most of QEMU's time that a change is to take.
const UNPLUG: f64 = 0.6;
const PLUG: f64 = 0.75;
/// How much of a change's time without filters of system calls these may add to it.
const FILTERS: f64 = 0.01;
/// How many times an unplug may take what the guest's kernel needs of it.
const OF_THE_FLOOR: f64 = 2.0;

/// A line of the table.
struct Goal {
    what: String,
    figure: String,
    /// What of the figure is the guest kernel's own part, under whichever VMM that is shorter.
    kernel_alone: Option<f64>,
    met: bool,
}

impl Goal {
    /// `figure` is to be at most this.
    fn at_most(what: String, figure: f64, most: f64) -> Self {
        Self {
            what,
            figure: ratio(figure),
            kernel_alone: None,
            met: figure <= most,
        }
    }

    fn of_which(self, kernel_alone: Option<f64>) -> Self {
        Self {
            kernel_alone,
            ..self
        }
    }
}

/// The goals of which something was measured, and what came of each: by the clock that repeats, if it was looked at.
pub(super) fn table(results: &Results) -> Option<String> {
    let by = |time| results.series.iter().any(|series| series.key.time == time);
    let time = match by(Time::Instructions) {
        true => Time::Instructions,
        false => Time::Wall,
    };
    let view = &View { results, time };
    // No time, and always taken in the ordinary bed.
    let wall = &View {
        results,
        time: Time::Wall,
    };
    let goals: Vec<Goal> = Guest::ALL
        .into_iter()
        .flat_map(|guest| times(view, guest))
        .chain(exits(view))
        .chain(boot(view))
        .chain(memory(wall))
        .chain(filters(view))
        .collect();
    (!goals.is_empty()).then(|| lines(&goals, time))
}

/// Of the filters alone.
pub(super) fn of_filters(view: &View<'_>) -> Option<String> {
    let goals = filters(view);
    (!goals.is_empty()).then(|| lines(&goals, view.time))
}

fn lines(goals: &[Goal], time: Time) -> String {
    let mut text = format!(
        "| goal; {time} | figure | the guest kernel's part alone | met |\n|---|---:|---:|---|\n"
    );
    for goal in goals {
        let Goal { what, figure, .. } = goal;
        let alone = goal.kernel_alone.map(ratio).unwrap_or_default();
        let met = if goal.met { "yes" } else { "no" };
        let _ = writeln!(text, "| {what} | {figure} | {alone} | {met} |");
    }
    text
}

/// Hotvisor beside itself. What the guest's kernel needs is the same, and varies by more than the filters are worth.
fn filters(view: &View<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for guest in Guest::ALL {
        for change in Change::ALL {
            let typical = |what, peer| view.typical(&Row::new(what, guest), peer);
            let rest = |peer| typical(What::Rest(change), peer);
            let (with, without) = (rest(Peer::Hotvisor), rest(Peer::Unfiltered));
            let all = typical(What::Change(change), Peer::Unfiltered);
            let added = with.zip(without).zip(all);
            let added = added.map(|((with, without), all)| (with - without) / all);
            goals.extend(added.map(|added| Goal {
                what: format!(
                    "{}, {guest}: filters of system calls add at most {:.0} % of the time without",
                    change.name(),
                    100.0 * FILTERS
                ),
                figure: format!("{:.1} %", 100.0 * added),
                kernel_alone: None,
                met: added <= FILTERS,
            }));
        }
    }
    goals
}

fn times(view: &View<'_>, guest: Guest) -> Vec<Goal> {
    let typical = |what, peer| view.typical(&Row::new(what, guest), peer);
    let mut goals = Vec::new();
    for (change, most) in [
        (Change::Unplug, UNPLUG),
        (Change::Plug, PLUG),
        (Change::Replug, PLUG),
    ] {
        let Some(ours) = typical(What::Change(change), Peer::Hotvisor) else {
            continue;
        };
        let name = change.name();
        let kernel = |peer| typical(What::Kernel(change), peer);
        let floor = kernel(Peer::Hotvisor);
        if let Some(theirs) = typical(What::Change(change), Peer::Qemu) {
            let what = format!("{name}, {guest}: at most {most} of QEMU's time");
            let least = floor.zip(kernel(Peer::Qemu)).map(|(a, b)| a.min(b));
            let kernel_alone = least.map(|least| least / theirs);
            goals.push(Goal::at_most(what, ours / theirs, most).of_which(kernel_alone));
        }
        if let (Change::Unplug, Some(floor)) = (change, floor) {
            let what = format!("{name}, {guest}: at most {OF_THE_FLOOR} of the guest kernel's own");
            goals.push(Goal::at_most(what, ours / floor, OF_THE_FLOOR));
        }
    }
    goals
}

/// As many, however many vCPUs there could be.
fn exits(view: &View<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for change in [Change::Replug, Change::Unplug] {
        let number = |max| {
            let row = Row {
                max,
                ..Row::new(What::Registers(change), Guest::Expedited)
            };
            view.typical(&row, Peer::Hotvisor)
        };
        let numbers: Vec<f64> = MOST.into_iter().filter_map(number).collect();
        let (Some(&first), true) = (numbers.first(), numbers.len() > 1) else {
            continue;
        };
        let shown: Vec<String> = numbers
            .iter()
            .map(|number| format!("{number:.0}"))
            .collect();
        goals.push(Goal {
            what: format!(
                "{}: as many exits for registers, however many vCPUs there could be",
                change.name()
            ),
            figure: shown.join(", "),
            kernel_alone: None,
            met: numbers.iter().all(|number| (number - first).abs() < 0.5),
        });
    }
    goals
}

fn boot(view: &View<'_>) -> Vec<Goal> {
    below(view, "boot to the guest's init", |peer| {
        view.typical(&Row::new(What::Init, Guest::Plain), peer)
    })
}

fn memory(view: &View<'_>) -> Vec<Goal> {
    let least = |vcpus, peer| {
        let row = Row {
            vcpus,
            ..Row::new(What::Memory { api: true }, Guest::Plain)
        };
        Some(view.stats(&row, peer)?.least())
    };
    [FEW, SEVERAL]
        .into_iter()
        .flat_map(|vcpus| {
            let what = format!("own memory, vCPUs: {vcpus}");
            below(view, &what, |peer| least(vcpus, peer))
        })
        .collect()
}

/// Below each peer.
fn below(view: &View<'_>, what: &str, of: impl Fn(Peer) -> Option<f64>) -> Vec<Goal> {
    let Some(ours) = of(Peer::Hotvisor) else {
        return Vec::new();
    };
    let others = view.results.peers().into_iter();
    others
        .filter(|peer| !peer.is_ours())
        .filter_map(|peer| {
            let ratio = ours / of(peer)?;
            Some(Goal {
                met: ratio < 1.0,
                ..Goal::at_most(format!("{what}: below {peer}'s"), ratio, 1.0)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::results::Key;
    use super::super::super::results::tests::key;
    use super::*;

    #[test]
    fn a_goal_that_is_missed_is_told_from_one_that_is_met() {
        let mut results = Results::new(1);
        let unplug = || What::Change(Change::Unplug);
        results.add(key(Peer::Hotvisor, unplug()), 6.0);
        results.add(key(Peer::Hotvisor, What::Kernel(Change::Unplug)), 2.9);
        results.add(key(Peer::Qemu, unplug()), 10.0);
        results.add(key(Peer::Qemu, What::Kernel(Change::Unplug)), 2.5);
        for (max, exits) in [(8, 20.0), (64, 21.0)] {
            let key = key(Peer::Hotvisor, What::Registers(Change::Unplug));
            let guest = Guest::Expedited;
            results.add(Key { max, guest, ..key }, exits);
        }
        for (peer, ms) in [(Peer::Hotvisor, 9.0), (Peer::Qemu, 9.0)] {
            results.add(key(peer, What::Init), ms);
        }
        let text = table(&results).unwrap();
        for line in [
            "| unplug, as Debian boots it: at most 0.6 of QEMU's time | 0.60 | 0.25 | yes |",
            "| unplug, as Debian boots it: at most 2 of the guest kernel's own | 2.07 |  | no |",
            "| unplug: as many exits for registers, however many vCPUs there could be | 20, 21 |  | no |",
            "| boot to the guest's init: below QEMU's | 1.00 |  | no |",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("memory") && !text.contains("plug, expedited"));
        assert!(!text.contains("filters"), "{text}");
    }

    #[test]
    fn filters_are_measured_without_the_guest() {
        for (with, line) in [(1.09, "| 0.9 % |  | yes |"), (1.11, "| 1.1 % |  | no |")] {
            let mut results = Results::new(1);
            let plug = |what: fn(Change) -> What, peer| key(peer, what(Change::Plug));
            results.add(plug(What::Change, Peer::Hotvisor), 8.0);
            results.add(plug(What::Change, Peer::Unfiltered), 10.0);
            results.add(plug(What::Rest, Peer::Hotvisor), with);
            results.add(plug(What::Rest, Peer::Unfiltered), 1.0);
            let time = Time::Instructions;
            let view = View {
                results: &results,
                time,
            };
            let text = of_filters(&view).unwrap();
            assert!(text.contains(line), "{text}");
            assert_eq!(table(&results).unwrap(), text);
        }
    }
}

//! A timeline in a terminal: a line for each phase, each bar beginning where the one above it ends.

use super::super::text;
use super::{Chart, Who};

/// Bars are never shorter, however narrow the terminal is.
const NARROWEST: usize = 10;
/// A character's parts, from one eighth to seven.
const PARTS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

pub(super) fn render(chart: &Chart, columns: usize) -> String {
    let total = chart.total();
    let steps = &chart.timeline.phases;
    let label = steps.iter().map(|step| step.phase.chars().count()).max();
    let label = label.unwrap_or_default().max("total".len());
    // Label, who, time, and what stands between them.
    let room = columns.saturating_sub(label + 2 + 5 + 2 + 8 + 2);
    let room = room.max(NARROWEST);
    let mut lines = format!("{}, {}\n\n", chart.title, chart.operation);
    for (step, begin, end) in chart.spans() {
        let bar = bar(begin, end, total, room);
        let (time, who) = (text::time(step.us), Who::of(&step.phase).name());
        let line = format!("{:<label$}  {who:<5}  {time:>8}  {bar}", step.phase);
        lines += line.trim_end();
        lines.push('\n');
    }
    lines += &format!("{:<label$}  {:<5}  {:>8}\n", "total", "", text::time(total));
    lines
}

/// A bar from `begin` to `end` where `total` takes up `room` characters. However short it is, it can be seen.
fn bar(begin: u64, end: u64, total: u64, room: usize) -> String {
    let scale = |at: u64, units: usize| {
        let units = units as u128;
        let at = u128::from(at) * units / u128::from(total.max(1));
        usize::try_from(at.min(units)).unwrap_or_default()
    };
    let first = scale(begin, room).min(room - 1);
    // A bar begins with a whole character, so that a long one has to reach back a little; a short one would look
    // longer than it is.
    let eighths = match scale(end - begin, room * 8) {
        short @ ..8 => short.max(1),
        _ => scale(end, room * 8) - first * 8,
    };
    let mut bar = " ".repeat(first) + &"█".repeat(eighths / 8);
    bar.extend((eighths % 8).checked_sub(1).map(|part| PARTS[part]));
    bar
}

#[cfg(test)]
mod tests {
    use super::super::tests::{UNPLUG, chart};
    use super::*;

    #[test]
    fn an_unplug_in_eighty_columns() {
        assert_eq!(
            render(&chart(UNPLUG), 80),
            "\
vCPU 3: last unplug, operation 7

draining         host       3 µs  ▏
notifying.asked  guest    1.2 ms  ███
notifying.read   guest    220 µs     ▌
notifying.begun  guest   16.8 ms     ██████████████████████████████████████████▉
syncing          host       0 µs                                               ▏
stopping         host      31 µs                                               ▏
total                    18.3 ms
"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for columns in [50, 80, 81, 200] {
            let widest = render(&chart(UNPLUG), columns);
            let widest = widest.lines().map(|line| line.chars().count()).max();
            assert!(
                widest <= Some(columns) && widest > Some(columns - 2),
                "{columns}: {widest:?}"
            );
        }
    }

    #[test]
    fn every_bar_can_be_seen() {
        for steps in [&[("a", 0)][..], &[("a", u64::MAX), ("b", u64::MAX)], &[]] {
            for line in render(&chart(steps), 0).lines().skip(2).take(steps.len()) {
                assert!(line.ends_with(|c| c == '█' || PARTS.contains(&c)), "{line}");
            }
        }
    }
}

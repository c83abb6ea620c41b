//! Pieces of what people read: times, tables, names.

use crate::wire::operations::{Kind, Operation, State};
use crate::wire::vcpus::Target;

/// A time that is easy to read: three digits and a unit.
pub(crate) fn time(us: u64) -> String {
    // Tenths of a unit are plenty, and only below a hundred of them.
    let short = |value: u64, unit: u64, name: &str| match value / unit {
        100.. => format!("{} {name}", value.saturating_add(unit / 2) / unit),
        _ => {
            let tenths = (value + unit / 20) / (unit / 10);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
    };
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => short(us, 1000, "ms"),
        _ => short(us, 1_000_000, "s"),
    }
}

/// Rows under their heads, each column as wide as its longest cell. Lines have no spaces at their ends.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths = heads.map(width);
    for row in rows {
        for (most, cell) in widths.iter_mut().zip(row) {
            *most = width(cell).max(*most);
        }
    }
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths);
        let padded = padded.map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let rows = rows
        .iter()
        .map(|row| line(std::array::from_fn(|n| &*row[n])));
    std::iter::once(line(heads)).chain(rows).collect()
}

pub(super) fn target(target: Target) -> &'static str {
    match target {
        Target::Online => "online",
        Target::Offline => "offline",
    }
}

pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Refused => "refused",
        State::TimedOut => "timed out",
        State::Cancelled => "cancelled",
        State::Superseded => "superseded",
        State::Failed => "failed",
    }
}

/// What an operation was made for.
pub(super) fn purpose(operation: &Operation) -> String {
    let desired = operation.desired.map(|desired| desired.to_string());
    let desired = desired.as_deref().unwrap_or("?");
    match (operation.kind, &*operation.vcpus) {
        (Kind::Resize, _) => format!("resize to {desired}"),
        (Kind::Set, _) => format!("a set of {desired}"),
        (Kind::Vcpu, [part, ..]) => format!("vCPU {} {}", part.id, target(part.to)),
        (Kind::Vcpu, []) => "a vCPU as it was".to_owned(),
        (Kind::GuestEject, _) => "ejected by the guest".to_owned(),
    }
}

/// Ids in the manner of the kernel's lists: `1-3,7`. They must ascend.
pub(super) fn ids(ids: &[u32]) -> String {
    let runs = ids.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let run = |run: &[u32]| match run {
        [] => String::new(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}

/// The time of day in a moment of the API's (RFC 3339, in UTC).
pub(super) fn clock(moment: &str) -> &str {
    let time = moment.split_once('T').map_or(moment, |(_, time)| time);
    time.trim_end_matches('Z')
}

/// Microseconds from one moment of the API's to another, if that can be told.
pub(super) fn between(from: &str, to: &str) -> Option<u64> {
    let read = |moment: &str| humantime::parse_rfc3339_weak(moment).ok();
    let time = read(to)?.duration_since(read(from)?).ok()?;
    u64::try_from(time.as_micros()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        for (us, expected) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1000, "1.0 ms"),
            (17_349, "17.3 ms"),
            (17_350, "17.4 ms"),
            (99_949, "99.9 ms"),
            (123_456, "123 ms"),
            (999_499, "999 ms"),
            (1_000_000, "1.0 s"),
            (30_000_000, "30.0 s"),
            (3_600_000_000, "3600 s"),
        ] {
            assert_eq!(time(us), expected);
        }
        assert!(time(u64::MAX).ends_with(" s"));
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["1", "long cell", ""], ["1000", "µ", "x"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["ID", "B", "C"], &rows),
            "ID    B          C\n1     long cell\n1000  µ          x\n"
        );
    }

    #[test]
    fn ids_that_follow_each_other_are_drawn_together() {
        assert_eq!(ids(&[]), "");
        assert_eq!(ids(&[4]), "4");
        assert_eq!(ids(&[1, 2, 3, 7, 9, 10, u32::MAX]), "1-3,7,9-10,4294967295");
    }

    #[test]
    fn moments_are_read() {
        let (from, to) = ("2026-11-25T11:00:00.000007Z", "2026-11-25T11:00:01.5Z");
        assert_eq!(clock(from), "11:00:00.000007");
        assert_eq!(between(from, to), Some(1_499_993));
        assert_eq!(between(to, from), None);
        assert_eq!(between("soon", to), None);
        assert_eq!(clock("soon"), "soon");
    }
}

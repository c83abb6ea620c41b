//! The tables of the README.

mod goals;
mod view;

use std::fmt::Write;

use super::MEMORY;
use super::many::NUMBERS;
use super::results::{Change, Guest, Key, Peer, Results, Time, What};
use super::sizes::{FEW, SEVERAL};
use crate::picture;
use view::{MAX, NOTHING, Row, View, milliseconds};

/// Makes one, if something was measured for it.
type Table = fn(&View<'_>) -> Option<String>;

/// Those of each clock, by what they are called in the README.
const TABLES: [(&str, Table); 6] = [
    ("cycles", |view| view.cycles()),
    ("max", |view| view.sweep()),
    ("many", |view| view.many()),
    ("exits", |view| view.exits()),
    ("phases", |view| view.phases()),
    ("sizes", |view| view.sizes()),
];

/// What there is to be shown, by name; of the wall clock the name says so.
pub(super) fn all(results: &Results) -> Vec<(String, String)> {
    let mut all = Vec::new();
    all.extend(goals::table(results).map(|table| ("goals".to_owned(), table)));
    for time in [Time::Instructions, Time::Wall] {
        let view = View { results, time };
        for (name, table) in TABLES {
            let name = match time {
                Time::Instructions => name.to_owned(),
                Time::Wall => format!("{name}-wall"),
            };
            all.extend(table(&view).map(|table| (name, table)));
        }
    }
    let mut reasons: Vec<&str> = results.absent.iter().map(|absent| &*absent.why).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let versions: Vec<&str> = results.versions.values().map(String::as_str).collect();
    let mut notes: String = reasons.iter().map(|why| format!("{why}.\n")).collect();
    if !versions.is_empty() {
        let _ = writeln!(notes, "{}; seed {}.", versions.join("; "), results.seed);
    }
    all.push(("notes".to_owned(), notes));
    all
}

/// What filters of system calls cost: the times with and without, and the goals.
pub(super) fn filters(results: &Results) -> String {
    let time = Time::Instructions;
    let view = View { results, time };
    let tables = [view.cycles(), goals::of_filters(&view)];
    let tables: Vec<String> = tables.into_iter().flatten().collect();
    tables.join("\n")
}

/// All of it.
pub(super) fn of(results: &Results) -> String {
    let texts: Vec<String> = all(results).into_iter().map(|(_, text)| text).collect();
    texts.join("\n")
}

/// A series in words.
pub(super) fn name(key: &Key) -> String {
    let what = match &key.what {
        What::Init => "start to the guest's init".to_owned(),
        What::Change(change) => change.name().to_owned(),
        What::Kernel(change) => format!("{}, the guest kernel's part", change.name()),
        What::Rest(change) => format!("{}, all but the guest kernel's part", change.name()),
        What::Phase(change, phase) => format!("{}, {phase}", change.name()),
        What::Own(change) => format!("{}, CPU time of the VMM", change.name()),
        What::Registers(change) => format!("{}, exits for registers", change.name()),
        What::Exits(change) => format!("{}, all exits", change.name()),
        What::Memory { api: true } => "memory".to_owned(),
        What::Memory { api: false } => "memory without an API".to_owned(),
        What::Threads { api: true } => "threads".to_owned(),
        What::Threads { api: false } => "threads without an API".to_owned(),
    };
    let Key {
        peer,
        guest,
        max,
        vcpus,
        time,
        ..
    } = key;
    format!("{peer}, {what} ({guest}, {vcpus} of {max}, {time})")
}

impl View<'_> {
    fn cycles(&self) -> Option<String> {
        let init = Row::new(What::Init, Guest::Plain);
        let mut rows = vec![("start to the guest's init".to_owned(), init.clone())];
        for guest in Guest::ALL {
            for change in Change::ALL {
                let name = match guest {
                    Guest::Plain => change.span().to_owned(),
                    Guest::Expedited => format!("{guest}, {}", change.span()),
                };
                rows.push((name, Row::new(What::Change(change), guest)));
            }
        }
        // Else the table of sizes has the others.
        let plain = |(_, row): &&(String, Row)| row.guest == Guest::Plain;
        if !self.any(&rows.iter().filter(plain).cloned().collect::<Vec<_>>()) {
            return None;
        }
        let title = format!(
            "Linux {}, {MEMORY} MiB, 1 vCPU of {MAX}; {}",
            self.results.kernel, self.time
        );
        self.times(&title, &rows)
    }

    fn sweep(&self) -> Option<String> {
        let mut rows = vec![("start to the guest's init".to_owned(), What::Init)];
        for change in Change::ALL {
            rows.push((change.span().to_owned(), What::Change(change)));
            rows.push((
                "– all but the guest's `cpu_device_*`".to_owned(),
                What::Rest(change),
            ));
        }
        self.across("expedited grace periods", &rows)
    }

    /// What an operation takes beside time.
    fn exits(&self) -> Option<String> {
        type Of = fn(Change) -> What;
        let kinds: [(&str, Of); 3] = [
            (
                "exits to the VMM for registers, but the serial port's",
                What::Registers,
            ),
            ("all exits to KVM, until it is done", What::Exits),
            ("CPU time of the VMM's own threads", What::Own),
        ];
        let rows: Vec<(String, What)> = kinds
            .into_iter()
            .flat_map(|(name, what)| {
                [Change::Replug, Change::Unplug]
                    .map(|change| (format!("{}: {name}", change.name()), what(change)))
            })
            .collect();
        self.across("one operation", &rows)
    }

    fn many(&self) -> Option<String> {
        let mut rows = Vec::new();
        for change in Change::ALL {
            for vcpus in NUMBERS {
                let row = Row::new(What::Change(change), Guest::Expedited);
                let max = vcpus + 1;
                rows.push((
                    format!("{vcpus} at once: {}", change.name()),
                    Row { max, vcpus, ..row },
                ));
            }
        }
        let title = format!("many (expedited grace periods); {}", self.time);
        self.times(&title, &rows)
    }

    fn sizes(&self) -> Option<String> {
        let row = |what, vcpus| Row {
            vcpus,
            ..Row::new(what, Guest::Plain)
        };
        let memory = |api, vcpus| row(What::Memory { api }, vcpus);
        let rows = [
            (format!("own memory, {FEW} vCPU"), memory(true, FEW)),
            (
                format!("own memory, {SEVERAL} vCPUs"),
                memory(true, SEVERAL),
            ),
            (
                format!("own memory, {SEVERAL} vCPUs, no API"),
                memory(false, SEVERAL),
            ),
            (
                format!("threads, {SEVERAL} vCPUs"),
                row(What::Threads { api: true }, SEVERAL),
            ),
            (
                format!("threads, {SEVERAL} vCPUs, no API"),
                row(What::Threads { api: false }, SEVERAL),
            ),
        ];
        let mut table = self.plain("resident, all but the guest's", &rows)?;
        table += "| own memory for each further vCPU |";
        for peer in self.results.peers() {
            let least = |vcpus| {
                self.stats(&memory(true, vcpus), peer)
                    .map(|stats| stats.least())
            };
            let growth = least(SEVERAL).zip(least(FEW)).map(|(several, few)| {
                let each = (several - few) / f64::from(SEVERAL - FEW);
                format!("{each:.0} KiB")
            });
            let _ = write!(table, " {} |", growth.unwrap_or_else(|| NOTHING.to_owned()));
        }
        table.push('\n');
        Some(table)
    }

    /// What Hotvisor's times are made of.
    fn phases(&self) -> Option<String> {
        let mut rows: Vec<(Change, &str)> = Vec::new();
        for series in &self.results.series {
            if let What::Phase(change, name) = &series.key.what
                && !rows.contains(&(*change, name))
            {
                rows.push((*change, name));
            }
        }
        rows.sort_by_key(|(change, _)| *change);
        let mut table = format!(
            "| phase; {} | as Debian boots it | expedited | |\n|---|---:|---:|---|\n",
            self.time
        );
        let mut any = false;
        for (change, phase) in rows {
            let cell = |guest| {
                let what = What::Phase(change, phase.to_owned());
                self.typical(&Row::new(what, guest), Peer::Hotvisor)
            };
            let cells = Guest::ALL.map(cell);
            if cells == [None, None] {
                continue;
            }
            any = true;
            let cells = cells.map(|cell| cell.map_or_else(|| NOTHING.to_owned(), milliseconds));
            let meaning = picture::meaning(phase);
            let _ = writeln!(
                table,
                "| {}: `{phase}` | {} | {meaning} |",
                change.name(),
                cells.join(" | ")
            );
        }
        any.then_some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::Absent;
    use super::super::results::tests::key;
    use super::*;

    fn sample() -> Results {
        let mut results = Results::new(1);
        let what = || What::Change(Change::Unplug);
        for (peer, ms) in [(Peer::Hotvisor, 20.0), (Peer::Qemu, 40.0)] {
            results.add(key(peer, what()), ms);
            results.add(key(peer, What::Kernel(Change::Unplug)), ms / 4.0);
            for max in [8, 64] {
                let key = key(peer, what());
                let guest = Guest::Expedited;
                results.add(Key { guest, max, ..key }, f64::from(max));
            }
        }
        results
    }

    #[test]
    fn ratios_are_of_typical_values() {
        let text = of(&sample());
        for row in [
            "| unplug: request to the vCPU gone | 20 ms (20, 20, 20; 1) | 40 ms (40, 40, 40; 1) | 0.50 | 4.00 |",
            "| – in the guest's `cpu_device_down` | 5 ms (5, 5, 5; 1) | 10 ms (10, 10, 10; 1) | 0.50 |  |",
        ] {
            assert!(text.contains(row), "{text}");
        }
        let row = "| unplug: request to the vCPU gone | 8, 64 ms | 8, 64 ms | 1.00, 1.00 |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn what_cannot_be_is_not_taken_for_what_was_not_measured() {
        let mut results = sample();
        let unplug = key(Peer::Hotvisor, What::Change(Change::Unplug));
        let (guest, max) = (Guest::Expedited, 512);
        results.add(
            Key {
                guest,
                max,
                ..unplug
            },
            3.0,
        );
        assert!(of(&results).contains("| 8, 64, 3 ms | 8, 64, – ms | 1.00, 1.00, – |"));
        results.absent.push(Absent {
            peer: Peer::Qemu,
            time: Time::Instructions,
            max: 512,
            vcpus: 0,
            why: "n/a: too many".to_owned(),
        });
        let text = of(&results);
        assert!(text.contains("| 8, 64, 3 ms | 8, 64, n/a ms |"), "{text}");
        assert!(text.ends_with("n/a: too many.\n"), "{text}");
    }

    #[test]
    fn growth_is_per_vcpu() {
        let mut results = Results::new(1);
        for (vcpus, kib) in [(FEW, 100.0), (SEVERAL, 130.0), (SEVERAL, 150.0)] {
            let key = key(Peer::Hotvisor, What::Memory { api: true });
            results.add(Key { vcpus, ..key }, kib);
        }
        assert!(of(&results).contains("further vCPU | 10 KiB |"));
    }
}

//! The tables of the README.

use std::fmt::Write;

use super::MEMORY;
use super::many::NUMBERS;
use super::results::{Change, Guest, Key, Peer, Results, Time, What};
use super::sizes::{FEW, SEVERAL};
use super::stats::Stats;
use super::sweep::MOST;
use crate::picture;

/// Where nothing was measured.
const NOTHING: &str = "–";
/// How many vCPUs there can be where only one comes and goes.
const MAX: u32 = 8;

/// All tables for which something was measured.
pub(super) fn of(results: &Results) -> String {
    let mut text = String::new();
    for time in [Time::Instructions, Time::Wall] {
        let view = View { results, time };
        let tables = [
            view.cycles(),
            view.sweep(),
            view.many(),
            view.exits(),
            view.phases(),
            view.sizes(),
        ];
        for table in tables.into_iter().flatten() {
            text += &table;
            text.push('\n');
        }
    }
    let mut reasons: Vec<&str> = results.absent.iter().map(|absent| &*absent.why).collect();
    reasons.sort_unstable();
    reasons.dedup();
    for why in reasons {
        let _ = writeln!(text, "{why}.");
    }
    text
}

/// A series in words.
pub(super) fn name(key: &Key) -> String {
    let what = match &key.what {
        What::Init => "start to the guest's init".to_owned(),
        What::Change(change) => change.name().to_owned(),
        What::Kernel(change) => format!("{}, the guest kernel's part", change.name()),
        What::Phase(change, phase) => format!("{}, {phase}", change.name()),
        What::Own(change) => format!("{}, CPU time of the VMM", change.name()),
        What::Registers(change) => format!("{}, exits for registers", change.name()),
        What::Exits(change) => format!("{}, all exits", change.name()),
        What::Memory { api: true } => "memory".to_owned(),
        What::Memory { api: false } => "memory without an API".to_owned(),
        What::Threads => "threads".to_owned(),
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

/// What was measured with one clock.
struct View<'a> {
    results: &'a Results,
    time: Time,
}

/// What a row is of, but for the VMM.
#[derive(Clone)]
struct Row {
    what: What,
    guest: Guest,
    max: u32,
    vcpus: u32,
}

impl Row {
    fn new(what: What, guest: Guest) -> Self {
        Self {
            what,
            guest,
            max: MAX,
            vcpus: 1,
        }
    }

    fn key(&self, time: Time, peer: Peer) -> Key {
        let Self {
            what,
            guest,
            max,
            vcpus,
        } = self.clone();
        Key {
            time,
            what,
            guest,
            max,
            vcpus,
            peer,
        }
    }
}

impl View<'_> {
    fn stats(&self, row: &Row, peer: Peer) -> Option<Stats> {
        let values = self.results.get(&row.key(self.time, peer))?;
        Stats::of(values)
    }

    fn typical(&self, row: &Row, peer: Peer) -> Option<f64> {
        self.stats(row, peer).map(|stats| stats.typical())
    }

    /// Whether anybody has something in one of these rows.
    fn any(&self, rows: &[(String, Row)]) -> bool {
        let peers = self.results.peers();
        let has = |row: &Row| peers.iter().any(|peer| self.stats(row, *peer).is_some());
        rows.iter().any(|(_, row)| has(row))
    }

    /// What stands where a VMM has nothing in a row.
    fn nothing(&self, row: &Row, peer: Peer) -> &'static str {
        let absent = self.results.absent.iter().any(|absent| {
            let all = absent.vcpus == 0 || absent.vcpus == row.vcpus;
            absent.peer == peer && absent.time == self.time && absent.max == row.max && all
        });
        if absent { "n/a" } else { NOTHING }
    }

    /// Typical value and percentiles, the kernel's part, ratios, how often the kernel's part.
    fn times(&self, title: &str, rows: &[(String, Row)]) -> Option<String> {
        if !self.any(rows) {
            return None;
        }
        let peers = self.results.peers();
        let mut head = format!("| {title} |");
        let mut line = "|---|".to_owned();
        for peer in &peers {
            let _ = write!(head, " {peer} (p50, p90, p99) | its guest's kernel |");
            line += "---:|---:|";
        }
        for peer in peers.iter().filter(|peer| **peer != Peer::Hotvisor) {
            let _ = write!(head, " of {peer}'s |");
            line += "---:|";
        }
        let mut table = format!("{head} of the kernel's |\n{line}---:|\n");
        for (name, row) in rows {
            if !self.any(&[(name.clone(), row.clone())]) {
                continue;
            }
            let _ = write!(table, "| {name} |");
            for &peer in &peers {
                let kernel = self.kernel(row, peer);
                let kernel = kernel.map_or_else(|| NOTHING.to_owned(), milliseconds);
                let _ = write!(table, " {} | {kernel} |", self.spread(row, peer));
            }
            table += &self.ratios(row);
            let times = self
                .typical(row, Peer::Hotvisor)
                .zip(self.kernel(row, Peer::Hotvisor));
            let times = times.map_or_else(|| NOTHING.to_owned(), |(all, own)| ratio(all / own));
            let _ = writeln!(table, " {times} |");
        }
        Some(table)
    }

    fn spread(&self, row: &Row, peer: Peer) -> String {
        let Some(stats) = self.stats(row, peer) else {
            return self.nothing(row, peer).to_owned();
        };
        let [p50, p90, p99] = [50, 90, 99].map(|hundredths| digits(stats.percentile(hundredths)));
        format!("{} ({p50}, {p90}, {p99})", milliseconds(stats.typical()))
    }

    fn kernel(&self, row: &Row, peer: Peer) -> Option<f64> {
        let What::Change(change) = row.what else {
            return None;
        };
        let row = Row {
            what: What::Kernel(change),
            ..row.clone()
        };
        self.typical(&row, peer)
    }

    /// Of Hotvisor to each of the others, a cell each.
    fn ratios(&self, row: &Row) -> String {
        let ours = self.typical(row, Peer::Hotvisor);
        let peers = self.results.peers().into_iter();
        let others = peers.filter(|peer| *peer != Peer::Hotvisor);
        let cell = |peer| {
            let both = ours.zip(self.typical(row, peer));
            both.map_or_else(|| NOTHING.to_owned(), |(ours, theirs)| ratio(ours / theirs))
        };
        others.map(|peer| format!(" {} |", cell(peer))).collect()
    }

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
        let samples = |what| {
            let stats = self.stats(&Row::new(what, Guest::Plain), Peer::Hotvisor);
            stats.map_or(0, |stats| stats.count())
        };
        let (boots, plugs) = (samples(What::Init), samples(What::Change(Change::Replug)));
        let title = format!(
            "Linux {}, {MEMORY} MiB, 1 vCPU of {MAX}; {boots} boots, {plugs} re-plugs; {}",
            self.results.kernel, self.time
        );
        self.times(&title, &rows)
    }

    fn sweep(&self) -> Option<String> {
        let mut rows = Vec::new();
        let most = MOST.iter().copied();
        for max in most.clone() {
            let init = Row::new(What::Init, Guest::Expedited);
            rows.push((
                format!("{max} possible: start to init"),
                Row { max, ..init },
            ));
        }
        for change in Change::ALL {
            for max in most.clone() {
                let row = Row::new(What::Change(change), Guest::Expedited);
                rows.push((
                    format!("{max} possible: {}", change.name()),
                    Row { max, ..row },
                ));
            }
        }
        let several = |(_, row): &&(String, Row)| row.max != MAX;
        let more: Vec<_> = rows.iter().filter(several).cloned().collect();
        if !self.any(&more) {
            return None;
        }
        let title = format!("how it grows (expedited grace periods); {}", self.time);
        self.times(&title, &rows)
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

    /// Typical values side by side.
    fn plain(&self, title: &str, rows: &[(String, Row)]) -> Option<String> {
        if !self.any(rows) {
            return None;
        }
        let peers = self.results.peers();
        let names: Vec<String> = peers.iter().map(|peer| format!(" {peer} |")).collect();
        let lines = "---:|".repeat(peers.len());
        let mut table = format!("| {title} |{}\n|---|{lines}\n", names.concat());
        for (name, row) in rows {
            if !self.any(&[(name.clone(), row.clone())]) {
                continue;
            }
            let _ = write!(table, "| {name} |");
            for &peer in &peers {
                let cell = match self.typical(row, peer) {
                    Some(value) => format!("{} {}", digits(value), row.what.unit()),
                    None => self.nothing(row, peer).to_owned(),
                };
                let _ = write!(table, " {} |", cell.trim());
            }
            table.push('\n');
        }
        Some(table)
    }

    fn exits(&self) -> Option<String> {
        let mut rows = Vec::new();
        type Of = fn(Change) -> What;
        let kinds: [(&str, Of); 3] = [
            (
                "exits to the VMM for registers, without the serial port's",
                What::Registers,
            ),
            ("all exits to KVM until it is done", What::Exits),
            ("CPU time of the VMM's own threads", What::Own),
        ];
        for (name, what) in kinds {
            for change in [Change::Replug, Change::Unplug] {
                for max in MOST {
                    let row = Row::new(what(change), Guest::Expedited);
                    let name = format!("{}, {max} possible: {name}", change.name());
                    rows.push((name, Row { max, ..row }));
                }
            }
        }
        self.plain(&format!("one operation; {}", self.time), &rows)
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
                row(What::Threads, SEVERAL),
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

/// As many digits as say something.
fn digits(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 || value >= 1000.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn milliseconds(value: f64) -> String {
    format!("{} ms", digits(value))
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
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
        let row = "| unplug: request to the vCPU gone | 20 ms (20, 20, 20) | 5 ms | 40 ms (40, 40, 40) | 10 ms | 0.50 | 4.00 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| 64 possible: unplug | 64 ms"), "{text}");
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
        assert!(
            of(&results).contains("| 512 possible: unplug | 3 ms (3, 3, 3) | – | – | – | – | – |")
        );
        results.absent.push(Absent {
            peer: Peer::Qemu,
            time: Time::Instructions,
            max: 512,
            vcpus: 0,
            why: "n/a: too many".to_owned(),
        });
        let text = of(&results);
        assert!(
            text.contains("| 512 possible: unplug | 3 ms (3, 3, 3) | – | n/a | – | – | – |"),
            "{text}"
        );
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

//! What tables are made of: rows, cells, numbers.

use std::fmt::Write;

use super::super::results::{Change, Guest, Key, Peer, Results, Time, What};
use super::super::stats::Stats;
use super::super::sweep::MOST;

/// Where nothing was measured.
pub(super) const NOTHING: &str = "–";
/// How many vCPUs there can be where only one comes and goes.
pub(super) const MAX: u32 = 8;

/// What was measured with one clock.
pub(super) struct View<'a> {
    pub(super) results: &'a Results,
    pub(super) time: Time,
}

/// What a row is of, but for the VMM.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) what: What,
    pub(super) guest: Guest,
    pub(super) max: u32,
    pub(super) vcpus: u32,
}

impl Row {
    pub(super) fn new(what: What, guest: Guest) -> Self {
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
    pub(super) fn stats(&self, row: &Row, peer: Peer) -> Option<Stats> {
        let values = self.results.get(&row.key(self.time, peer))?;
        Stats::of(values)
    }

    pub(super) fn typical(&self, row: &Row, peer: Peer) -> Option<f64> {
        self.stats(row, peer).map(|stats| stats.typical())
    }

    /// Whether anybody has something in one of these rows.
    pub(super) fn any(&self, rows: &[(String, Row)]) -> bool {
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

    /// Typical values and percentiles of each VMM, ratios to the others.
    pub(super) fn times(&self, title: &str, rows: &[(String, Row)]) -> Option<String> {
        if !self.any(rows) {
            return None;
        }
        let peers = self.results.peers();
        let mut head = format!("| {title} |");
        let mut line = "|---|".to_owned();
        for peer in &peers {
            let _ = write!(head, " {peer} (p50, p90, p99; samples) |");
            line += "---:|";
        }
        for peer in peers.iter().filter(|peer| **peer != Peer::Hotvisor) {
            let _ = write!(head, " of {peer}'s |");
            line += "---:|";
        }
        let mut table = format!("{head} of the kernel's |\n{line}---:|\n");
        for (name, row) in rows.iter().flat_map(|(name, row)| with_parts(name, row)) {
            if !self.any(&[(name.clone(), row.clone())]) {
                continue;
            }
            let _ = write!(table, "| {name} |");
            for &peer in &peers {
                let _ = write!(table, " {} |", self.spread(&row, peer));
            }
            for &peer in peers.iter().filter(|peer| **peer != Peer::Hotvisor) {
                let _ = write!(table, " {} |", self.ratio(&row, peer));
            }
            let times = self
                .typical(&row, Peer::Hotvisor)
                .zip(self.kernel(&row, Peer::Hotvisor));
            let times = times.map_or_else(String::new, |(all, own)| ratio(all / own));
            let _ = writeln!(table, " {times} |");
        }
        Some(table)
    }

    fn spread(&self, row: &Row, peer: Peer) -> String {
        let Some(stats) = self.stats(row, peer) else {
            return self.nothing(row, peer).to_owned();
        };
        let [p50, p90, p99] = [50, 90, 99].map(|hundredths| digits(stats.percentile(hundredths)));
        let samples = stats.count();
        format!(
            "{} ({p50}, {p90}, {p99}; {samples})",
            milliseconds(stats.typical())
        )
    }

    /// What the guest's kernel needed of it.
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

    /// Of Hotvisor's to another's.
    fn ratio(&self, row: &Row, peer: Peer) -> String {
        let ours = self.typical(row, Peer::Hotvisor);
        let both = ours.zip(self.typical(row, peer));
        both.map_or_else(|| NOTHING.to_owned(), |(ours, theirs)| ratio(ours / theirs))
    }

    /// The least values side by side: what varies from run to run is added to what every run needs.
    pub(super) fn plain(&self, title: &str, rows: &[(String, Row)]) -> Option<String> {
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
                let cell = match self.stats(row, peer) {
                    Some(stats) => format!("{} {}", digits(stats.least()), row.what.unit()),
                    None => self.nothing(row, peer).to_owned(),
                };
                let _ = write!(table, " {} |", cell.trim());
            }
            table.push('\n');
        }
        Some(table)
    }

    /// Typical values for each number of possible vCPUs, in one cell.
    pub(super) fn across(&self, title: &str, rows: &[(String, What)]) -> Option<String> {
        let row = |what: &What, max| Row {
            max,
            ..Row::new(what.clone(), Guest::Expedited)
        };
        let peers = self.results.peers();
        let measured = |what: &What, max| {
            let row = row(what, max);
            peers.iter().any(|peer| self.stats(&row, *peer).is_some())
        };
        let most: Vec<u32> = MOST
            .into_iter()
            .filter(|max| rows.iter().any(|(_, what)| measured(what, *max)))
            .collect();
        if most.is_empty() {
            return None;
        }
        let possible: Vec<String> = most.iter().map(u32::to_string).collect();
        let possible = possible.join(", ");
        let mut table = format!("| {title}; of {possible} possible vCPUs; {} |", self.time);
        let others = peers.iter().filter(|peer| **peer != Peer::Hotvisor);
        for peer in &peers {
            let _ = write!(table, " {peer} |");
        }
        for peer in others.clone() {
            let _ = write!(table, " of {peer}'s |");
        }
        table += "\n|---|";
        table += &"---:|".repeat(peers.len() + others.clone().count());
        table.push('\n');
        for (name, what) in rows {
            if !most.iter().any(|max| measured(what, *max)) {
                continue;
            }
            let _ = write!(table, "| {name} |");
            for &peer in &peers {
                let cells: Vec<String> = most
                    .iter()
                    .map(|max| row(what, *max))
                    .map(|row| match self.typical(&row, peer) {
                        Some(value) => digits(value),
                        None => self.nothing(&row, peer).to_owned(),
                    })
                    .collect();
                let cell = format!("{} {}", cells.join(", "), what.unit());
                let _ = write!(table, " {} |", cell.trim());
            }
            for &peer in others.clone() {
                let cells: Vec<String> = most
                    .iter()
                    .map(|max| self.ratio(&row(what, *max), peer))
                    .collect();
                let _ = write!(table, " {} |", cells.join(", "));
            }
            table.push('\n');
        }
        Some(table)
    }
}

/// A row, and behind a row of a change what it is made of.
fn with_parts(name: &str, row: &Row) -> Vec<(String, Row)> {
    let mut rows = vec![(name.to_owned(), row.clone())];
    if let What::Change(change) = row.what {
        let kernel = match change {
            Change::Unplug => "– in the guest's `cpu_device_down`",
            Change::Plug | Change::Replug => "– in the guest's `cpu_device_up`",
        };
        for (name, what) in [
            (kernel, What::Kernel(change)),
            ("– all else", What::Rest(change)),
        ] {
            rows.push((
                name.to_owned(),
                Row {
                    what,
                    ..row.clone()
                },
            ));
        }
    }
    rows
}

/// As many digits as say something.
pub(super) fn digits(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 || value >= 1000.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub(super) fn milliseconds(value: f64) -> String {
    format!("{} ms", digits(value))
}

pub(super) fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

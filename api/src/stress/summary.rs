//! What a run came to, in a few lines, as JSON, and in one line while it goes on.

use super::record::{ChangeDone, Finding, Record, Took};
use crate::cli::text;
use crate::wire::operations::Code;
use crate::wire::vcpus::Target;
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long something took, in microseconds. Each is a time that was measured, not one between two of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Times {
    pub(super) count: u64,
    #[serde(rename = "p50_us")]
    pub(super) p50: u64,
    #[serde(rename = "p90_us")]
    pub(super) p90: u64,
    #[serde(rename = "p99_us")]
    pub(super) p99: u64,
    #[serde(rename = "max_us")]
    pub(super) max: u64,
}

impl Times {
    pub(super) fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<u64> = times.into_iter().map(us).collect();
        times.sort_unstable();
        // The smallest that at least so many hundredths of all do not exceed.
        let nth = |hundredths: usize| {
            let rank = (times.len() * hundredths).div_ceil(100).max(1);
            times.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            count: times.len() as u64,
            p50: nth(50),
            p90: nth(90),
            p99: nth(99),
            max: nth(100),
        }
    }

    /// The four of them, to be read.
    pub(super) fn cells(&self) -> [String; 4] {
        match self.count {
            0 => std::array::from_fn(|_| "-".to_owned()),
            _ => [self.p50, self.p90, self.p99, self.max].map(text::time),
        }
    }
}

pub(super) fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Both directions, with what each is called.
pub(super) const DIRECTIONS: [(Target, &str); 2] =
    [(Target::Online, "plug"), (Target::Offline, "unplug")];

/// As the API spells it.
pub(super) const fn code(code: Code) -> &'static str {
    match code {
        Code::Succeeded => "succeeded",
        Code::Refused => "refused",
        Code::TimedOut => "timed_out",
        Code::Cancelled => "cancelled",
        Code::Superseded => "superseded",
        Code::Failed => "failed",
    }
}

impl Record {
    /// Changes that were made, in one direction.
    pub(super) fn made(&self, to: Target) -> impl Iterator<Item = &ChangeDone> + Clone {
        let made = move |change: &&ChangeDone| change.code == Code::Succeeded && change.to == to;
        self.changes.iter().filter(made)
    }

    /// How many changes were made.
    pub(super) fn changed(&self) -> usize {
        DIRECTIONS
            .iter()
            .map(|(to, _)| self.made(*to).count())
            .sum()
    }

    /// Changes that were made, in one direction, and have a time of their own: when each ended, and how long it took.
    pub(super) fn timed(&self, to: Target) -> impl Iterator<Item = (Duration, &Took)> + Clone {
        self.made(to)
            .filter_map(|change| Some((change.at, change.took.as_ref()?)))
    }

    pub(super) fn latency(&self, to: Target) -> Times {
        Times::of(self.timed(to).map(|(_, took)| took.total))
    }

    /// How long each phase took, in the order in which they come.
    pub(super) fn phases(&self, to: Target) -> Vec<(&str, Times)> {
        let mut order: Vec<&str> = Vec::new();
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for (_, took) in self.timed(to) {
            let mut before = 0;
            for (phase, time) in &took.phases {
                match order.iter().position(|known| *known == phase) {
                    Some(at) => before = at + 1,
                    // One that not all have stands where the first that has it has it.
                    None => {
                        order.insert(before, phase);
                        before += 1;
                    }
                }
                times.entry(phase).or_default().push(*time);
            }
        }
        let of = |phase: &str| Times::of(times.remove(phase).unwrap_or_default());
        order
            .iter()
            .copied()
            .zip(order.iter().copied().map(of))
            .collect()
    }

    /// How often each thing became of a change.
    pub(super) fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        count(self.changes.iter().map(|change| code(change.code)))
    }

    /// What the guest, or a notifier, said no with.
    pub(super) fn refusals(&self) -> BTreeMap<Cow<'static, str>, u64> {
        let refused = |change: &&ChangeDone| change.code == Code::Refused;
        let reason = |change: &ChangeDone| match change.ost {
            Some([event, status]) => format!("{event},{status:#x}").into(),
            None => "without a code".into(),
        };
        count(self.changes.iter().filter(refused).map(reason))
    }

    /// Steps by kind.
    pub(super) fn steps_by_kind(&self) -> Vec<(&'static str, Times)> {
        let mut kinds: BTreeMap<_, Vec<Duration>> = BTreeMap::new();
        for step in &self.steps {
            kinds.entry(step.kind).or_default().push(step.took);
        }
        let times = |(kind, times): (super::mix::Kind, Vec<_>)| (kind.name(), Times::of(times));
        kinds.into_iter().map(times).collect()
    }

    /// So many a second.
    pub(super) fn rate(&self, count: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate to be read")]
        let count = count as f64;
        match self.elapsed.as_secs_f64() {
            0.0 => 0.0,
            seconds => count / seconds,
        }
    }
}

fn count<K: Ord>(what: impl Iterator<Item = K>) -> BTreeMap<K, u64> {
    let mut counts = BTreeMap::new();
    what.for_each(|key| *counts.entry(key).or_default() += 1);
    counts
}

/// `1234567` as `1,234,567`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How long a run took.
pub(super) fn span(time: Duration) -> String {
    match time.as_secs() {
        0..100 => text::time(us(time)),
        seconds => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
    }
}

/// A few of something: `1 step`, `2 steps`.
pub(super) fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {what}{plural}", number(count))
}

/// The summary as one JSON document.
pub(crate) fn json(record: &Record) -> Value {
    let latency: BTreeMap<&str, Times> = DIRECTIONS
        .iter()
        .map(|(to, name)| (*name, record.latency(*to)))
        .collect();
    let phases: BTreeMap<&str, BTreeMap<&str, Times>> = DIRECTIONS
        .iter()
        .map(|(to, name)| (*name, record.phases(*to).into_iter().collect()))
        .collect();
    let finding = |found: &Finding| json!({"step": found.step, "what": found.what});
    json!({
        "seed": record.seed,
        "version": env!("CARGO_PKG_VERSION"),
        "mix": record.mix,
        "steps": record.steps.len(),
        "with": record.with,
        "operations": record.operations,
        "idle": record.idle,
        "changes": record.changed(),
        "seconds": record.elapsed.as_secs_f64(),
        "outcomes": record.outcomes(),
        "refusals": record.refusals(),
        "answers": record.answers,
        "latency": latency,
        "phases": phases,
        "guest": record.seen.guest,
        "kernel_log": record.seen.log,
        "host": record.seen.host,
        "kernel_warnings": record.warnings.len(),
        "tolerated": record.tolerated,
        "contradiction": record.contradiction.as_ref().map(finding),
        "lost": record.lost.as_ref().map(finding),
    })
}

/// The summary in lines.
pub(crate) fn text(record: &Record) -> String {
    let Record {
        seed, mix, with, ..
    } = record;
    let mut summary = format!(
        "seed {seed}, mix {mix}, {with}\n{} in {}: {} ({:.1}/s), {} of vCPUs ({:.1}/s)\n",
        counted(record.steps.len() as u64, "step"),
        span(record.elapsed),
        counted(record.operations, "operation"),
        record.rate(record.operations),
        counted(record.changed() as u64, "change"),
        record.rate(record.changed() as u64),
    );
    if record.idle > 0 {
        summary += &format!(
            "{} had nothing to change\n",
            counted(record.idle, "operation")
        );
    }
    summary.push('\n');
    summary += &text::table(
        ["", "count", "p50", "p90", "p99", "max"],
        &latencies(record),
    );
    summary.push('\n');
    let counts = [
        ("outcomes", list(&record.outcomes())),
        ("refusals", list(&record.refusals())),
        ("answers", list(&record.answers)),
    ];
    for (name, list) in counts.iter().filter(|(_, list)| !list.is_empty()) {
        summary += &format!("{name}: {list}\n");
    }
    summary += &complaints(record);
    if !record.seen.host {
        summary += "the threads of the VM were not compared\n";
    }
    match record.finding() {
        None => summary + "no contradiction\n",
        Some((name, found)) => {
            let (name, what) = (name.to_uppercase(), found.what.join("\n  "));
            let Finding { step, asked, .. } = found;
            summary + &format!("{name} in step {step} ({asked}):\n  {what}\n")
        }
    }
}

/// What the guest's kernel complained of, where that could be seen.
fn complaints(record: &Record) -> String {
    let mut said = match (record.seen.log, record.warnings.len() as u64) {
        (false, 0) if !record.seen.guest => "the guest was not asked\n".to_owned(),
        (false, 0) => "the messages of the guest's kernel were not read\n".to_owned(),
        (_, 0) => "no kernel message to complain of\n".to_owned(),
        (_, warnings) => format!("{} of the guest's kernel\n", counted(warnings, "complaint")),
    };
    if !record.tolerated.is_empty() {
        said += &format!("passed over: {}\n", list(&record.tolerated));
    }
    said
}

/// A row for each direction, with its phases below it.
fn latencies(record: &Record) -> Vec<[String; 6]> {
    let row = |name: String, times: Times| {
        let [p50, p90, p99, max] = times.cells();
        [name, number(times.count), p50, p90, p99, max]
    };
    let direction = |(to, name): &(Target, &str)| {
        let phases = record.phases(*to).into_iter();
        let phases = phases.map(|(phase, times)| row(format!("  {phase}"), times));
        let head = row((*name).to_owned(), record.latency(*to));
        std::iter::once(head).chain(phases).collect::<Vec<_>>()
    };
    DIRECTIONS.iter().flat_map(direction).collect()
}

/// `name 3, other 1`.
fn list<K: std::fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let item = |(name, count): (&K, &u64)| format!("{name} {}", number(*count));
    counts.iter().map(item).collect::<Vec<_>>().join(", ")
}

/// How far it is, in one line.
pub(crate) fn progress(record: &Record) -> String {
    let refusals: u64 = record.refusals().values().sum();
    let times = |(to, name): &(Target, &str)| {
        let times = record.latency(*to);
        let [p50, _, p99, _] = times.cells();
        format!("{name} {p50} / {p99}")
    };
    let [plug, unplug] = DIRECTIONS.each_ref().map(times);
    format!(
        "{}, {:.1} operations/s, {plug}, {unplug} (p50 / p99), {}",
        counted(record.steps.len() as u64, "step"),
        record.rate(record.operations),
        counted(refusals, "refusal"),
    )
}

#[cfg(test)]
pub(super) mod tests;

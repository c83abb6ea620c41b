//! What a guest's kernel complains of, found in what it writes.
//!
//! A complaint has a head, which one of [`PATTERNS`] knows, and lines that follow it: registers, a stack, the lists of a
//! stall. All of them together are one incident, up to the next head that is none of [`FOLLOWING`]. The same incident is
//! often seen twice, on the console and in the kernel's log; the head with its time tells that it is one.

use regex_lite::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Most lines of an incident that are kept; a stall on many CPUs writes thousands.
const LINES: usize = 80;
/// Seconds of the guest's after which a line has nothing to do with the one before.
const APART: f64 = 0.5;

/// Heads of complaints, as what stands behind a line's time.
const PATTERNS: &[&str] = &[
    r"^(watchdog: )?BUG: ",
    r"^kernel BUG at ",
    r"^WARNING: ",
    r"^Oops: ",
    r"general protection fault",
    r"^unable to handle ",
    r"^(rcu: )?INFO: rcu\S* .*\bstalls?\b",
    r"^rcu: \S+ kthread (starved|timer wakeup did)",
    r"\bhard LOCKUP\b",
    r"^INFO: task .* blocked for more than ",
    r"\bCPU ?#?\d+ didn't die",
    r"\bfailed to report (alive|dead) state",
    r"\bdo_boot_cpu failed",
    r"^Kernel panic - not syncing",
    r"^(<TASK>|Call Trace:)",
    r"\bTSC warp between CPUs",
    r"\bMarking (TSC|clocksource .*) (as )?unstable",
    r"\bEject (incomplete|failed)",
    r"^list_(add|del) corruption",
    r"^unchecked MSR access error",
    r"^bad: scheduling from the idle thread",
];

/// What a line must be to be a complaint where the kernel gives no times, so that a program may have written it.
const BARE: &[&str] = &[
    r"^(watchdog: )?BUG: (soft lockup|unable to handle|kernel NULL|workqueue lockup|scheduling while atomic)",
    r"^kernel BUG at \S+:\d+!",
    r"^WARNING: CPU: \d+ PID: \d+ at ",
    r"^Oops: [0-9a-f]{4} \[#\d+\]",
    r"^general protection fault, probably ",
    r"^rcu: INFO: rcu\S* .*\bstalls?\b",
    r"^(NMI )?[Ww]atchdog: Watchdog detected hard LOCKUP",
    r"^INFO: task .* blocked for more than \d+ seconds",
    r"^smpboot: CPU \d+ didn't die",
    r"^CPU ?\d+ failed to report (alive|dead) state",
    r"^Kernel panic - not syncing",
    r"TSC warp between CPUs, turning off TSC clock",
    r"^clocksource: timekeeping watchdog .*: Marking clocksource '\w+' as unstable",
];

/// Heads that belong to the complaint right before them, if there is one.
const FOLLOWING: &str = r"^(<TASK>|Call Trace:|Oops: |general protection fault|rcu: \S+ kthread |WARNING: kernel stack )";

/// The same as [`PATTERNS`] for the guest's own `grep -E`, roughly. The brackets keep the echo of a command line from being
/// taken for a complaint.
pub(super) const ROUGHLY: &str = "BU[G]|WARNIN[G]: |Oop[s]: |protection faul[t]|stal[l]|starve[d]|LOCKU[P]|\
    for more tha[n]|n.t di[e]|(alive|dead) stat[e]|boot_cpu faile[d]|pani[c] - |Call Trac[e]|TSC war[p]|unstabl[e]|\
    Ejec[t] (inc|fai)|corruptio[n]|MSR acces[s]|idle threa[d]";

static HEADS: LazyLock<Vec<Regex>> = LazyLock::new(|| compile(PATTERNS));
static FOLLOWS: LazyLock<Vec<Regex>> = LazyLock::new(|| compile(&[FOLLOWING]));
static BARE_HEADS: LazyLock<Vec<Regex>> = LazyLock::new(|| compile(BARE));
/// A line's time, and who wrote it where the kernel says so (`CONFIG_PRINTK_CALLER`).
static STAMP: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^(?:<\d+>)?\[ *(\d+\.\d{6})\](?:\[ *[TC]\d+\])? ?").ok());

/// A pattern that cannot be read is left out; a test sees to it that there is none.
fn compile(patterns: &[&str]) -> Vec<Regex> {
    let read = |pattern: &&str| Regex::new(pattern).ok();
    patterns.iter().filter_map(read).collect()
}

/// A line's time in seconds, if it has one, and its text.
fn parts(line: &str) -> (Option<f64>, &str) {
    let stamp = STAMP.as_ref().and_then(|stamp| stamp.captures(line));
    let Some(stamp) = stamp else {
        return (None, line);
    };
    let time = stamp.get(1).and_then(|time| time.as_str().parse().ok());
    let end = stamp.get(0).map_or(0, |all| all.end());
    (time, line.get(end..).unwrap_or_default().trim_start())
}

/// When a line was written, in seconds of the kernel's.
pub(super) fn time(line: &str) -> Option<f64> {
    parts(line).0
}

fn complains(time: Option<f64>, text: &str) -> bool {
    let heads = if time.is_some() { &HEADS } else { &BARE_HEADS };
    heads.iter().any(|head| head.is_match(text))
}

/// What makes two incidents of different boots the same: the text without the numbers in it.
fn likeness(incident: &str) -> String {
    let (_, text) = parts(incident.lines().next().unwrap_or_default());
    text.split(|c: char| c.is_ascii_digit()).collect()
}

/// Finds the incidents in one stream of lines.
#[derive(Debug, Default)]
pub(super) struct Finder {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    lines: Vec<String>,
    /// The last line's time.
    time: Option<f64>,
    /// Lines that belong to it but are not kept.
    more: usize,
    /// It was told of as it was; what still comes of it is no other one.
    told: bool,
}

impl Open {
    fn text(&self) -> String {
        let lines = self.lines.join("\n");
        match self.more {
            0 => lines,
            more => format!("{lines}\n… and {more} more lines"),
        }
    }
}

impl Finder {
    /// Takes the next line; answers an incident that is over, if one is.
    pub(super) fn line(&mut self, line: &str) -> Option<String> {
        let line = line.trim_end().trim_start_matches('\r');
        let (time, text) = parts(line);
        let head = complains(time, text);
        let Some(open) = &mut self.open else {
            self.begin(head, line, time);
            return None;
        };
        let apart = match (open.time, time) {
            (Some(before), Some(now)) => now < before || now - before > APART,
            // What programs write in between is not the kernel's.
            (Some(_), None) => return None,
            (None, Some(_)) => true,
            (None, None) => text.is_empty(),
        };
        let another = head && !FOLLOWS.iter().any(|follows| follows.is_match(text));
        if apart || another {
            let over = self.close();
            self.open = None;
            self.begin(head, line, time);
            return over;
        }
        open.time = time;
        match open.lines.len() < LINES {
            true => open.lines.push(line.to_owned()),
            false => open.more += 1,
        }
        if !text.starts_with("---[ end ") {
            return None;
        }
        let over = self.close();
        self.open = None;
        over
    }

    fn begin(&mut self, head: bool, line: &str, time: Option<f64>) {
        self.open = head.then(|| Open {
            lines: vec![line.to_owned()],
            time,
            more: 0,
            told: false,
        });
    }

    /// Whether an incident may have lines that are still to come.
    pub(super) fn is_open(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.told)
    }

    /// The incident that is not known to be over, as it is so far.
    pub(super) fn close(&mut self) -> Option<String> {
        let open = self.open.as_mut().filter(|open| !open.told)?;
        open.told = true;
        Some(open.text())
    }
}

/// The incidents of all streams, each once.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    /// Heads with their times.
    seen: BTreeSet<String>,
    new: Vec<String>,
    /// Likenesses of what there was before anybody stressed anything.
    usual: BTreeSet<String>,
}

impl Incidents {
    pub(super) fn add(&mut self, incident: String) {
        let head = incident.lines().next().unwrap_or_default();
        // Without a time the same words may be another incident.
        let (time, _) = parts(head);
        if time.is_none() || self.seen.insert(head.to_owned()) {
            self.new.push(incident);
        }
    }

    /// All so far is from before.
    pub(super) fn forget(&mut self) {
        self.usual
            .extend(self.new.drain(..).map(|old| likeness(&old)));
    }

    /// Whether it is one of those that there were before anybody stressed anything, or as one of them.
    pub(super) fn is_usual(&self, incident: &str) -> bool {
        self.usual.contains(&likeness(incident))
    }

    /// A guest that has just booted says what it says at each boot.
    pub(super) fn forget_the_usual(&mut self) {
        let usual = &self.usual;
        self.new.retain(|new| !usual.contains(&likeness(new)));
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.new)
    }
}

#[cfg(test)]
mod tests;

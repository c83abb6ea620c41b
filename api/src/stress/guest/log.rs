//! The guest kernel's log: what was read of it, and when it is to be read again.

use super::kernel::ROUGHLY;
use std::time::Duration;
use tokio::time::Instant;

/// How many lines of the kernel's log are fetched as they are, from a complaint on. Of what follows only the heads of
/// complaints are: a serial port is slow.
pub(super) const FETCHED: u32 = 40;
/// How long the log is left alone at least where the kernel's taint stays what it was. Looking through it takes a guest longer
/// than all else that it is asked.
const ALONE: Duration = Duration::from_secs(5);
/// And how many times as long as the last look took, within reason: a slow guest has other things to do.
const TIMES: u32 = 20;
/// How long it is left alone at most.
const LONGEST: Duration = Duration::from_secs(60);

/// How far a kernel's log was read.
#[derive(Debug)]
pub(super) struct Log {
    /// How many lines of it look like complaints.
    pub(super) complaints: u64,
    /// When the last line was written that was read of it, in seconds of the kernel's.
    pub(super) read_until: f64,
    taint: Option<u64>,
    /// When it is due, whatever the taint is.
    due: Option<Instant>,
}

impl Log {
    /// A log of which nothing was read.
    pub(super) const fn new() -> Self {
        Self {
            complaints: 0,
            read_until: f64::NEG_INFINITY,
            taint: None,
            due: None,
        }
    }

    /// Whether there may be something new in it that cannot wait, the kernel's taint being this.
    pub(super) fn is_due(&self, taint: Option<u64>, now: Instant) -> bool {
        taint != self.taint || self.due.is_none_or(|due| due <= now)
    }

    /// Has it be due, whatever the taint is.
    pub(super) fn make_due(&mut self) {
        self.due = None;
    }

    /// It was looked through, from `begun` until now.
    pub(super) fn looked(&mut self, taint: Option<u64>, begun: Instant, now: Instant) {
        self.taint = taint;
        self.due = Some(now + ALONE.max((now - begun) * TIMES).min(LONGEST));
    }
}

/// A command that says how many complaints the kernel's log has.
pub(super) fn count() -> String {
    format!("dmesg | grep -cE '{ROUGHLY}'")
}

/// A command that says how many complaints the kernel's log has, and gives their heads.
pub(super) fn heads() -> String {
    format!("{}; dmesg | sed -nE '/{ROUGHLY}/{{s/^\\[/</;p}}'", count())
}

/// A line as the kernel has it. A line that begins as the kernel's would be taken for one that the kernel writes now, so that
/// the commands give it another beginning.
pub(super) fn as_written(line: &str) -> String {
    match line.strip_prefix('<') {
        Some(rest) => format!("[{rest}"),
        None => line.to_owned(),
    }
}

/// A command that says how many complaints the kernel's log has, and what it has from the one behind the first `known`
/// on. Only what is new: a part of an old incident, cut off at another place, would be another one.
pub(super) fn from(known: u64) -> String {
    let next = known + 1;
    let rest = FETCHED + 1;
    let count = count();
    format!(
        "{count}; \
         from=$(dmesg | grep -nE '{ROUGHLY}' | sed -n '{next}p' | cut -d: -f1); \
         [ -z \"$from\" ] || dmesg | tail -n +\"$from\" | \
         sed -nE -e 's/^\\[/</' -e '1,{FETCHED}p' -e '{rest},${{/{ROUGHLY}/p}}'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_once_where_the_taint_changes_and_otherwise_after_a_while() {
        let now = Instant::now();
        let mut log = Log::new();
        assert!(log.is_due(None, now));
        log.looked(Some(0), now, now);
        assert!(!log.is_due(Some(0), now));
        assert!(log.is_due(Some(512), now));
        assert!(log.is_due(Some(0), now + ALONE));
        let brief = ALONE / 10;
        log.looked(Some(0), now, now + brief);
        assert!(!log.is_due(Some(0), now + TIMES * brief));
        assert!(log.is_due(Some(0), now + (TIMES + 1) * brief));
        log.looked(Some(0), now - LONGEST, now);
        assert!(log.is_due(Some(0), now + LONGEST));
        log.make_due();
        assert!(log.is_due(Some(0), now));
    }
}

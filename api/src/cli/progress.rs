//! Where the vCPUs are that somebody waits for: on a terminal a line for each that changes in place, otherwise
//! a line for each change.

use super::event::{self, Event};
use super::text;
use crate::wire::operations::Operation;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::Instant;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Hidden,
    Lines,
    Live,
}

impl Mode {
    /// The one that suits standard error.
    pub(super) fn suitable() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Live
        } else {
            Self::Lines
        }
    }
}

/// A vCPU that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Track {
    vcpu: u32,
    phase: String,
    since: Instant,
    /// Phases that are behind it, in microseconds.
    passed: Vec<(String, u64)>,
}

impl Track {
    fn line(&self, now: Instant) -> String {
        let passed = self.passed.iter().map(|(phase, us)| (phase, *us));
        let mut steps: Vec<_> = passed
            .map(|(phase, us)| format!("{phase} {}", text::time(us)))
            .collect();
        steps.push(match &*self.phase {
            // Nothing is under way there.
            "absent" | "dormant" | "online" => self.phase.clone(),
            phase => {
                let us = now.saturating_duration_since(self.since).as_micros();
                let us = u64::try_from(us).unwrap_or(u64::MAX);
                format!("{phase} {}", text::time(us))
            }
        });
        steps.join(" > ")
    }
}

/// The vCPUs of the operations that are waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tracks {
    tracks: Vec<Track>,
    /// The operations whose end no event has told yet.
    open: BTreeSet<u64>,
}

impl Tracks {
    fn new(operations: &[Operation], now: Instant) -> Self {
        let mut seen = BTreeSet::new();
        let parts = operations.iter().flat_map(|operation| &operation.vcpus);
        let tracks = parts.filter(|part| seen.insert(part.id)).map(|part| Track {
            vcpu: part.id,
            phase: part.phase.to_string(),
            since: now,
            passed: Vec::new(),
        });
        let open = operations.iter().filter(|o| o.ended_at.is_none());
        Self {
            tracks: tracks.collect(),
            open: open.map(|operation| operation.id).collect(),
        }
    }

    /// Takes an event in. Returns what is to be said of it, and of which track.
    fn take(&mut self, event: &Event, now: Instant) -> Option<(usize, String)> {
        match event {
            Event::Phase(phase) => {
                let mut tracks = self.tracks.iter_mut().enumerate();
                let (at, track) = tracks.find(|(_, track)| track.vcpu == phase.vcpu)?;
                let passed = phase.us.map(|us| (phase.from.to_string(), us));
                track.passed.extend(passed);
                track.phase = phase.phase.to_string();
                track.since = now;
                Some((at, event::changed(phase)))
            }
            Event::Operation(change) => {
                if change.operation.ended_at.is_some() {
                    self.open.remove(&change.operation.id);
                }
                None
            }
            Event::Gap(_) => {
                // The end may be among what was lost.
                self.open.clear();
                None
            }
            Event::Machine(_) | Event::Other => None,
        }
    }
}

/// Shows them.
#[derive(Debug)]
pub(super) struct Progress {
    tracks: Tracks,
    mode: Mode,
    bars: Vec<ProgressBar>,
    all: MultiProgress,
}

/// A spinner's frames; the last is for the end.
const FRAMES: &str = "-\\|/ ";

impl Progress {
    pub(super) fn new(mode: Mode, operations: &[Operation]) -> Self {
        let tracks = Tracks::new(operations, Instant::now());
        let all = MultiProgress::with_draw_target(match mode {
            Mode::Live => ProgressDrawTarget::stderr(),
            Mode::Lines | Mode::Hidden => ProgressDrawTarget::hidden(),
        });
        let style = ProgressStyle::with_template("{spinner} {prefix:.bold}  {msg}");
        let style = style.map(|style| style.tick_chars(FRAMES));
        let bar = |track: &Track| {
            let bar = all.add(ProgressBar::new_spinner());
            if let Ok(style) = &style {
                bar.set_style(style.clone());
            }
            bar.set_prefix(format!("vCPU {}", track.vcpu));
            bar
        };
        Self {
            bars: tracks.tracks.iter().map(bar).collect(),
            tracks,
            mode,
            all,
        }
    }

    /// Whether there is anything that time alone changes.
    pub(super) fn moves(&self) -> bool {
        self.mode == Mode::Live
    }

    /// Whether events have told the end of everything.
    pub(super) fn is_over(&self) -> bool {
        self.tracks.open.is_empty()
    }

    /// Takes an event in.
    pub(super) fn take(&mut self, event: &Event) {
        let now = Instant::now();
        let Some((at, line)) = self.tracks.take(event, now) else {
            return;
        };
        match self.mode {
            Mode::Hidden => {}
            Mode::Lines => {
                // Whoever does not read it does without.
                let _ = writeln!(std::io::stderr(), "{line}");
            }
            Mode::Live => self.bars[at].set_message(self.tracks.tracks[at].line(now)),
        }
    }

    /// Lets the time be seen that passes.
    pub(super) fn tick(&self) {
        let now = Instant::now();
        for (bar, track) in self.bars.iter().zip(&self.tracks.tracks) {
            bar.set_message(track.line(now));
            bar.tick();
        }
    }

    /// Leaves the lines as they were drawn last: the terminal has written `^C` behind them, so that they cannot be
    /// found again.
    pub(super) fn abandon(self) {
        if self.mode == Mode::Live {
            self.all.set_draw_target(ProgressDrawTarget::hidden());
            let _ = writeln!(std::io::stderr());
        }
    }

    /// Draws the lines for the last time.
    pub(super) fn end(self) {
        let now = Instant::now();
        for (bar, track) in self.bars.iter().zip(&self.tracks.tracks) {
            bar.finish_with_message(track.line(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::tests as events;
    use super::*;
    use std::time::Duration;

    fn tracks(now: Instant) -> Tracks {
        let operation = serde_json::from_value(events::operation("running")).unwrap();
        Tracks::new(&[operation], now)
    }

    #[test]
    fn a_line_grows_phase_by_phase() {
        let begin = Instant::now();
        let mut tracks = tracks(begin);
        let line = |tracks: &Tracks, ms| tracks.tracks[0].line(begin + Duration::from_millis(ms));
        assert_eq!(line(&tracks, 5), "online");
        let at = |ms| begin + Duration::from_millis(ms);
        let steps = [
            ("online", "draining", None, 10),
            ("draining", "notifying", Some(12), 10),
        ];
        for (from, to, us, ms) in steps {
            let event = Event::of(&events::phase(from, to, us));
            assert!(tracks.take(&event, at(ms)).is_some());
        }
        assert_eq!(line(&tracks, 15), "draining 12 µs > notifying 5.0 ms");
        let event = Event::of(&events::phase("notifying", "online", Some(1500)));
        let said = tracks.take(&event, at(20)).unwrap();
        assert_eq!(
            said,
            (
                0,
                "vCPU 3: notifying -> online after 1.5 ms (operation 7)".into()
            )
        );
        assert_eq!(
            line(&tracks, 99),
            "draining 12 µs > notifying 1.5 ms > online"
        );
    }

    #[test]
    fn it_is_over_when_the_last_end_was_told_or_may_have_been() {
        let now = Instant::now();
        let mut told = tracks(now);
        for (state, over) in [("running", false), ("refused", true)] {
            told.take(&Event::of(&events::operation_frame(state)), now);
            assert_eq!(told.open.is_empty(), over, "{state}");
        }
        let mut lost = tracks(now);
        let gap = serde_json::json!({"at": "", "first": 1, "last": 2});
        lost.take(&Event::of(&events::frame(2, "gap", &gap)), now);
        assert!(lost.open.is_empty());
    }

    #[test]
    fn other_vcpus_are_passed_over() {
        let now = Instant::now();
        let mut tracks = tracks(now);
        tracks.tracks[0].vcpu = 2;
        let before = tracks.clone();
        let event = Event::of(&events::phase("online", "draining", None));
        assert_eq!(tracks.take(&event, now), None);
        assert_eq!(tracks, before);
    }
}

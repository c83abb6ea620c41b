//! What the coordinator knows of one vCPU beside its phase.

use super::guest::{About, Word};
use super::phase::Phase;
use super::view::{Code, OperationId, Outcome, Target, Timeline};
use crate::events::PhaseChange;
use crate::tally::Tally;
use std::time::{Duration, Instant};

/// A vCPU.
pub(super) struct Slot {
    /// Its phase.
    pub(super) phase: Phase,
    /// What it is to become.
    pub(super) target: Target,
    /// Counts how often its thread was made to run it; reports of an earlier run are stale.
    pub(super) run: u64,
    /// The controller's number of its present insertion; notices of an earlier one are stale.
    pub(super) plug: u32,
    /// The controller's number of the last request to eject it: that the guest has read an earlier one is stale, and so is a no
    /// after which it has another to answer.
    pub(super) ask: u32,
    /// What is under way.
    pub(super) attempt: Option<Attempt>,
    /// Counts the attempts; answers to an earlier one are stale.
    pub(super) attempts: u64,
    /// When the guest is to be told again, the thread kicked again or ended, and the pause after that.
    pub(super) again: Option<(Instant, Duration)>,
    /// When it came into its phase, or, where that has several, into its stage; or what is under way began.
    since: Instant,
    /// As `since`, of the whole phase.
    phase_since: Instant,
    /// The last operation that it was part of.
    pub(super) last_operation: Option<OperationId>,
    /// How its last plug and its last unplug went.
    pub(super) last_plug: Option<Timeline>,
    /// See there.
    pub(super) last_unplug: Option<Timeline>,
}

/// A plug or an unplug under way.
pub(super) struct Attempt {
    /// What the vCPU becomes if it succeeds.
    pub(super) target: Target,
    /// The guest's last word.
    pub(super) word: Option<(u32, u32)>,
    timeline: Timeline,
}

fn whereabouts(phase: Phase) -> Target {
    if phase.is_plugged() {
        Target::Online
    } else {
        Target::Offline
    }
}

impl Slot {
    pub(super) fn new(phase: Phase, now: Instant) -> Self {
        Self {
            phase,
            target: whereabouts(phase),
            run: 0,
            plug: 0,
            ask: 0,
            attempt: None,
            attempts: 0,
            again: None,
            since: now,
            phase_since: now,
            last_operation: None,
            last_plug: None,
            last_unplug: None,
        }
    }

    /// Whether it has come to where its target is.
    pub(super) fn is_settled(&self) -> bool {
        match self.target {
            Target::Online => self.phase == Phase::Online,
            Target::Offline => matches!(self.phase, Phase::Absent | Phase::Dormant),
        }
    }

    /// The target at which it is, or to which nothing can keep it from going.
    pub(super) fn whereabouts(&self) -> Target {
        whereabouts(self.phase)
    }

    /// Whether what is to be done again is done by the host's time, also while the machine is paused: its thread
    /// is leaving the guest.
    pub(super) fn is_timed_by_the_host(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. })
    }

    /// Time stood still for so long.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.since += by;
        self.phase_since += by;
        let by_the_host = self.is_timed_by_the_host();
        if let Some((at, _)) = self.again.as_mut().filter(|_| !by_the_host) {
            *at += by;
        }
    }

    /// It came into its phase so much earlier.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        self.since -= by;
        self.phase_since -= by;
    }

    /// Begins an attempt in behalf of `operation`.
    pub(super) fn begin(&mut self, operation: OperationId, now: Instant) {
        self.since = now;
        self.phase_since = now;
        self.attempts += 1;
        self.attempt = Some(Attempt {
            target: self.target,
            word: None,
            timeline: Timeline {
                operation,
                phases: Vec::new(),
            },
        });
    }

    /// The guest has said something: its last word, if it is about what is under way.
    pub(super) fn heard(&mut self, word: Word) {
        let about = match word.about {
            // What it has not read, it does not answer: it speaks of an earlier request.
            About::Ejection if self.phase.is_unread() => return,
            About::Ejection => Target::Offline,
            // Which has had its effect.
            About::OwnEjection if !self.phase.is_plugged() => Target::Offline,
            About::Insertion => Target::Online,
            About::OwnEjection | About::Other => return,
        };
        if let Some(attempt) = self.attempt.as_mut().filter(|a| a.target == about) {
            attempt.word = Some(word.numbers);
        }
    }

    /// Goes into `phase`; the time spent in the one before is put down. Returns what others may want to know of
    /// it, `id` being this vCPU's, where the phase is another one by its name.
    #[must_use]
    pub(super) fn enter(
        &mut self,
        id: u32,
        phase: Phase,
        now: Instant,
        tally: &Tally,
    ) -> Option<PhaseChange> {
        let before = std::mem::replace(&mut self.phase, phase);
        if phase.stage() == before.stage() {
            return None;
        }
        let rest = self.rests_in(before);
        let spent = now.saturating_duration_since(self.since);
        self.since = now;
        if let Some(attempt) = self.attempt.as_mut().filter(|_| !rest) {
            attempt.timeline.phases.push((before.stage(), spent));
            tally.stage(attempt.target, before.stage(), spent);
        }
        if phase.name() == before.name() {
            return None;
        }
        let spent = now.saturating_duration_since(self.phase_since);
        self.phase_since = now;
        Some(PhaseChange {
            vcpu: id,
            generation: self.run,
            target: self.target,
            from: before.name(),
            phase: phase.name(),
            spent: (!rest).then_some(spent),
            operation: self.attempt.as_ref().map(|a| a.timeline.operation),
        })
    }

    /// Whether time that it spends in `phase` is no part of what is under way. Waiting to be started is a part of
    /// a plug.
    fn rests_in(&self, phase: Phase) -> bool {
        match phase {
            Phase::Absent | Phase::Dormant | Phase::Online => true,
            Phase::Plugged => {
                let attempt = self.attempt.as_ref();
                attempt.is_none_or(|attempt| attempt.target == Target::Offline)
            }
            _ => false,
        }
    }

    /// Another request takes over from the attempt where it is.
    pub(super) fn supersede_attempt(&mut self, now: Instant, tally: &Tally) {
        self.count_attempt(Code::Superseded, now, tally);
        self.attempt = None;
    }

    /// The attempt is over: it took what its phases took, and so far the one in which it ends.
    fn count_attempt(&self, code: Code, now: Instant, tally: &Tally) {
        let Some(attempt) = &self.attempt else { return };
        let mut spent: Duration = attempt.timeline.phases.iter().map(|(_, time)| *time).sum();
        if !self.rests_in(self.phase) {
            spent += now.saturating_duration_since(self.since);
        }
        tally.attempt(attempt.target, code, spent);
    }

    /// Ends the attempt; returns what it was for, and its outcome with the guest's last word in it.
    pub(super) fn end_attempt(
        &mut self,
        mut outcome: Outcome,
        now: Instant,
        tally: &Tally,
    ) -> Option<(Target, Outcome)> {
        self.count_attempt(outcome.code, now, tally);
        let attempt = self.attempt.take()?;
        outcome.word = outcome.word.or(attempt.word);
        let last = match attempt.target {
            Target::Online => &mut self.last_plug,
            Target::Offline => &mut self.last_unplug,
        };
        *last = Some(attempt.timeline);
        Some((attempt.target, outcome))
    }
}

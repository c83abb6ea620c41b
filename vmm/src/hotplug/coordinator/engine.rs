//! Transitions: one after the other, each with what it asks for.

use super::{Coordinator, REKICK, REMIND, outcome};
use crate::hotplug::guest::{Asked, Withdrawn};
use crate::hotplug::machinery::{Machinery, Message};
use crate::hotplug::notifier::Done;
use crate::hotplug::phase::{Action, At, Event, Phase};
use crate::hotplug::view::{Code, Outcome, Target};
use std::collections::VecDeque;
use std::time::Instant;
use tracing::debug;

impl Coordinator {
    /// Does the next thing that brings a vCPU to its target.
    pub(super) fn pursue(&mut self, id: u32, machine: &mut dyn Machinery) {
        let slot = &self.slots[id as usize];
        let under_way = slot.attempt.as_ref().map(|attempt| attempt.target);
        match under_way {
            None if slot.is_settled() => {
                let detail = format!("it was {} already", slot.phase.name());
                self.settled(id, &outcome(Code::Succeeded, detail));
            }
            None if self.can_begin(id) => self.begin(id, machine),
            // It comes to rest first.
            None => {}
            Some(target) if target == slot.target => {}
            Some(Target::Online) => {
                // An unplug takes over wherever the plug is.
                let now = self.now();
                self.slots[id as usize].supersede_attempt(now, &self.tally);
                self.begin(id, machine);
            }
            Some(Target::Offline) => {
                let retracted = self.retract(id, machine);
                self.apply(id, Event::Recall { retracted }, machine);
            }
        }
    }

    fn begin(&mut self, id: u32, machine: &mut dyn Machinery) {
        let target = self.slots[id as usize].target;
        let first = self
            .operations
            .open_for(id)
            .find(|(_, to, _)| *to == target);
        let Some((operation, ..)) = first else { return };
        let now = self.now();
        self.slots[id as usize].begin(operation, now);
        let event = match target {
            Target::Online => Event::Plug,
            Target::Offline => Event::Unplug {
                retracted: self.retract(id, machine) == Withdrawn::All,
            },
        };
        self.apply(id, event, machine);
    }

    /// Takes the last request to the guest back, if there is one that it has not noticed.
    pub(super) fn retract(&self, id: u32, machine: &mut dyn Machinery) -> Withdrawn {
        use Asked::{Eject, Insert};
        match self.slots[id as usize].phase.retractable() {
            Some(Insert) if machine.withdraw_insert(id) => Withdrawn::All,
            Some(Eject) => machine.withdraw_eject(id),
            Some(Insert) | None => Withdrawn::Nothing,
        }
    }

    /// One transition of one vCPU, and those that follow from it at once. Returns the reason of the first.
    pub(super) fn apply(
        &mut self,
        id: u32,
        event: Event,
        machine: &mut dyn Machinery,
    ) -> &'static str {
        let mut reason = None;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.now();
            let before = self.slots[id as usize].phase;
            let change = before.next(event.clone(), &self.names);
            debug!(id, ?event, ?before, after = ?change.phase, "{}", change.reason);
            reason.get_or_insert(change.reason);
            self.changed |= change.phase != before || change.outcome.is_some();
            self.enter(id, change.phase, now);
            for action in change.actions {
                events.extend(self.act(id, action, machine));
            }
            self.set_again(id, before, now);
            if let Some(outcome) = change.outcome {
                self.attempt_ended(id, outcome);
            }
        }
        if self.slots[id as usize].attempt.is_none() {
            self.go_on(id, machine);
        }
        reason.unwrap_or_default()
    }

    /// Goes into `phase`, and has others hear of it.
    pub(super) fn enter(&mut self, id: u32, phase: Phase, now: Instant) {
        let slot = &mut self.slots[id as usize];
        if let Some(change) = slot.enter(id, phase, now, &self.tally) {
            self.operations.moved(change);
        }
    }

    /// No attempt is under way: whoever has what was wanted is told, whoever has not gets a new attempt, and
    /// where nobody wants anything the target is where the vCPU is.
    fn go_on(&mut self, id: u32, machine: &mut dyn Machinery) {
        let slot = &self.slots[id as usize];
        if slot.is_settled() {
            self.settled(id, &outcome(Code::Succeeded, "it is as it shall be"));
        } else if self.can_begin(id) {
            self.begin(id, machine);
        }
        self.forget_target(id);
    }

    /// Where nobody wants a vCPU at its target, that is where it is going, or else where it is. An attempt that
    /// does nothing but wait ends with who waited.
    pub(super) fn forget_target(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        let target = slot.target;
        if self.operations.open_for(id).any(|(_, to, _)| to == target) {
            return;
        }
        let waits = matches!(slot.phase, Phase::Overdue { .. } | Phase::Plugged);
        if waits {
            slot.attempt
                .take_if(|attempt| attempt.target == Target::Online);
        }
        let under_way = slot.attempt.as_ref().map(|attempt| attempt.target);
        slot.target = under_way.unwrap_or_else(|| slot.whereabouts());
    }

    /// Whether a vCPU is at rest, and an open operation wants it elsewhere.
    fn can_begin(&self, id: u32) -> bool {
        let slot = &self.slots[id as usize];
        let rest = matches!(
            slot.phase,
            Phase::Absent
                | Phase::Dormant
                | Phase::Announced { .. }
                | Phase::Plugged
                | Phase::Online
                | Phase::Overdue { .. }
        );
        rest && self
            .operations
            .open_for(id)
            .any(|(_, to, _)| to == slot.target)
    }

    fn set_again(&mut self, id: u32, before: Phase, now: Instant) {
        let slot = &mut self.slots[id as usize];
        if slot.phase.stage() == before.stage() {
            return;
        }
        let (from, pause) = match slot.phase {
            Phase::Announced { .. } | Phase::Notifying { at: At::Asked, .. } => (now, Some(REMIND)),
            // Threads leave the guest in a pause, too.
            Phase::Stopping { .. } => (Instant::now(), Some(REKICK)),
            Phase::Dormant => (now, self.limits.dormant),
            _ => (now, None),
        };
        slot.again = pause.map(|pause| (from + pause, pause));
    }

    /// Carries out one action; returns what is known of its effect at once.
    fn act(&mut self, id: u32, action: Action, machine: &mut dyn Machinery) -> Option<Event> {
        let vcpu = self.vcpu(id);
        let gate = &self.gates[id as usize];
        let slot = &mut self.slots[id as usize];
        match action {
            Action::Start => {
                slot.run += 1;
                for notifier in &mut self.notifiers {
                    notifier.comes(vcpu);
                }
                let started = machine.start(id, slot.run);
                return started.err().map(Event::StartFailed);
            }
            Action::OpenGate => gate.open(),
            Action::Insert => slot.plug = machine.insert(id),
            Action::DrainGate => {
                gate.drain();
                return Some(Event::Drained);
            }
            Action::Prepare(n) => {
                let (post, attempt) = (self.post.clone(), slot.attempts);
                let done = Done::new(move |answer| post(Message::Notifier(id, attempt, n, answer)));
                self.notifiers[n].prepare(vcpu, done);
            }
            Action::Undo(n) => self.notifiers[n].undo(vcpu),
            Action::AskEject => slot.ask = machine.request_eject(id),
            Action::Remind => machine.remind(),
            Action::Acknowledge => machine.acknowledge(id),
            Action::CloseGate => return gate.close().then_some(Event::GateEmpty),
            Action::Park => machine.park(id),
            Action::SetOffline => gate.set_offline(),
            Action::AfterDeath => self.bury(id),
        }
        None
    }

    /// The attempt is over.
    pub(super) fn attempt_ended(&mut self, id: u32, outcome: Outcome) {
        let now = self.now();
        let slot = &mut self.slots[id as usize];
        let Some((target, outcome)) = slot.end_attempt(outcome, now, &self.tally) else {
            return;
        };
        let phase = slot.phase.name();
        if target == Target::Online {
            let vcpu = self.vcpu(id);
            for notifier in &mut self.notifiers {
                notifier.came(vcpu);
            }
        }
        self.operations.conclude_all(id, target, phase, &outcome);
    }

    pub(super) fn settled(&mut self, id: u32, outcome: &Outcome) {
        let slot = &self.slots[id as usize];
        let phase = slot.phase.name();
        self.operations
            .conclude_all(id, slot.target, phase, outcome);
    }
}

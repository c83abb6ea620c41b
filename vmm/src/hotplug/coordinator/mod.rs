//! The coordinator: carries out what is wanted of the vCPUs, one transition at a time.
//!
//! It belongs to the control thread, which is the only one to change a phase. Each vCPU has a *target*; the
//! latest request wins. What is under way and contradicts it is taken back where the guest has not read it
//! yet, and otherwise brought to its end first.

mod engine;
mod request;
mod show;
mod time;

use super::gate::{self, Gate};
use super::guest::{Asked, Notice, What};
use super::machinery::{Machinery, Message};
use super::notifier::{Answer, Notifier};
use super::operation::Operations;
use super::phase::{Action, Event, Phase};
use super::slot::Slot;
use super::step;
use super::view::{Code, OperationKind, Outcome, Target, VcpuRef, VcpuView};
use crate::events::News;
use crate::tally::Tally;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tracing::{debug, info};

/// The pause before the guest is told again of a new vCPU, or of one that it is to eject, doubled each time up to the
/// longest. Nothing gets lost on our side but an interrupt that the host does not deliver; and a kernel that is replaced
/// by another one while it boots (kexec) forgets.
const REMIND: Duration = Duration::from_secs(1);
const REMIND_MAX: Duration = Duration::from_secs(16);
/// The pause before a thread that is to leave the guest is kicked again.
const REKICK: Duration = Duration::from_millis(50);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// An operation whose request names no other time.
    pub operation: Duration,
    /// How long a dormant thread is kept; `None` for ever.
    pub dormant: Option<Duration>,
}

/// Posts a message to the control thread, from any thread.
pub type PostMessage = Arc<dyn Fn(Message) + Send + Sync>;

/// See the module.
pub struct Coordinator {
    pub(super) slots: Vec<Slot>,
    operations: Operations,
    notifiers: Vec<Box<dyn Notifier>>,
    names: Vec<&'static str>,
    gates: Vec<Gate>,
    desired: u32,
    limits: Limits,
    post: PostMessage,
    machine: u64,
    /// How many attempts there were at the most on a vCPU of an earlier machine: answers to those stay stale.
    attempts: u64,
    /// The machine is to stand still, and the time of everything that is under way with it, since then.
    paused: Option<Instant>,
    changed: bool,
    /// The vCPUs as the last view shows them.
    shown: Vec<Arc<VcpuView>>,
    tally: Arc<Tally>,
}

impl Coordinator {
    /// A coordinator of no vCPU, until [`Coordinator::describe`].
    #[must_use]
    pub fn new(limits: Limits, post: PostMessage, tally: Arc<Tally>) -> Self {
        Self {
            slots: Vec::new(),
            operations: Operations::new(tally.clone()),
            notifiers: Vec::new(),
            names: Vec::new(),
            gates: Vec::new(),
            desired: 0,
            limits,
            post,
            machine: 0,
            attempts: 0,
            paused: None,
            changed: true,
            shown: Vec::new(),
            tally,
        }
    }

    /// From now on it is about a machine of `max` possible vCPUs, of which `boot` are wanted. It comes with
    /// [`Coordinator::restarted`]; whoever starts it puts the vCPUs of [`Coordinator::wanted`] into it. What has
    /// become of the operations of an earlier machine can still be seen.
    pub fn describe(&mut self, boot: u32, max: u32) {
        let now = self.now();
        // Kept here: between two machines there may be none, and no vCPU.
        let attempts = self.slots.iter().map(|slot| slot.attempts);
        self.attempts = attempts.fold(self.attempts, u64::max);
        let slot = |id| {
            let mut slot = Slot::new(Phase::Absent, now);
            slot.attempts = self.attempts;
            if id < boot {
                slot.target = Target::Online;
            }
            slot
        };
        self.slots = (0..max).map(slot).collect();
        let gate = |id| {
            let post = self.post.clone();
            let on_empty = move |closing| post(Message::GateEmpty(id, closing));
            let gate = Gate::counted(on_empty, self.tally.gate_tally());
            gate.set_offline();
            gate
        };
        self.gates = (0..max).map(gate).collect();
        // Their gates are others'.
        self.shown.clear();
        self.desired = boot;
        self.changed = true;
    }

    /// Registers a notifier, behind the others.
    pub fn register(&mut self, notifier: Box<dyn Notifier>) {
        self.names.push(notifier.name());
        self.notifiers.push(notifier);
    }

    /// The vCPUs that a machine is to start with, each with the number of its run.
    #[must_use]
    pub fn wanted(&self) -> BTreeMap<u32, u64> {
        let wanted = (0u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.target == Target::Online);
        wanted.map(|(id, slot)| (id, slot.run + 1)).collect()
    }

    /// The machine is about to go, with all of its vCPUs and whatever is under way: nobody is asked, and whoever comes is told
    /// that there is no vCPU any more. Returns those that somebody is inside of; of each, [`Coordinator::is_left`] knows the
    /// message that says so when nobody is any more. Until then it must stay, in the hands of whoever is inside, and out of the
    /// guest's; [`Coordinator::restarted`] or [`Coordinator::stopped`] is next.
    pub fn retire(&mut self) -> BTreeSet<u32> {
        let gates = (0u32..).zip(&self.gates);
        // Of a vCPU that is not there everybody is told so already, and nobody is inside.
        let there = gates.filter(|(_, gate)| !gate.is_offline());
        let inside = there.filter(|(_, gate)| !gate.retire());
        inside.map(|(id, _)| id).collect()
    }

    /// The vCPU that nobody is inside of any more, if the message says so.
    #[must_use]
    pub fn is_left(&self, message: &Message) -> Option<u32> {
        let Message::GateEmpty(id, closing) = message else {
            return None;
        };
        let gate = self.gates.get(*id as usize)?;
        (gate.closing() == Some(*closing)).then_some(*id)
    }

    /// Who is still inside of vCPUs that go, for people.
    #[must_use]
    pub fn inside(&self) -> String {
        let gates = (0..).zip(&self.gates);
        let closed = gates.filter(|(_, gate)| gate.closing().is_some());
        let inside = closed.map(|(id, gate)| (self.vcpu(id), gate.users()));
        let inside = inside.filter(|(_, users)| !users.is_empty());
        let inside = inside.map(|(vcpu, users)| format!("{vcpu}: {}", gate::list(&users)));
        inside.collect::<Vec<String>>().join("; ")
    }

    /// A new machine, with the vCPUs that [`Coordinator::wanted`] named. What was being plugged goes on in
    /// it; what was being unplugged is not in it, and done.
    pub fn restarted(&mut self, machine: u64) {
        let now = self.now();
        for id in self.ids() {
            self.tell_notifiers_of_restart(id);
            let slot = &mut self.slots[id as usize];
            (slot.plug, slot.ask) = (0, 0);
            slot.again = None;
            if slot.target == Target::Online {
                slot.run += 1;
                let first = if id == 0 {
                    Phase::Online
                } else {
                    Phase::Plugged
                };
                self.enter(id, first, now);
                self.slots[id as usize]
                    .attempt
                    .take_if(|attempt| attempt.target == Target::Offline);
                self.gates[id as usize].open();
            } else {
                self.enter(id, Phase::Absent, now);
                self.gates[id as usize].set_offline();
                let gone = outcome(Code::Succeeded, "the guest starts again without it");
                self.attempt_ended(id, gone.clone());
                // Somebody may wait for what nobody was at work on any more.
                self.settled(id, &gone);
            }
        }
        self.machine = machine;
        self.changed = true;
    }

    /// The machine is gone, and with it what was under way. What is wanted of its vCPUs stays, for the next one.
    pub fn stopped(&mut self) {
        self.fail_all("the machine was stopped");
        let now = self.now();
        for id in self.ids() {
            let phase = self.slots[id as usize].phase;
            let leaving = matches!(
                phase,
                Phase::Syncing { undo: false } | Phase::Stopping { undo: false }
            );
            if phase.is_plugged() || leaving {
                self.bury(id);
            }
            let slot = &mut self.slots[id as usize];
            (slot.plug, slot.ask) = (0, 0);
            slot.again = None;
            slot.attempt = None;
            self.enter(id, Phase::Absent, now);
            self.gates[id as usize].set_offline();
        }
        // What it boots with next: a wish that came to nothing was taken back.
        self.desired = self.count(|slot| slot.target == Target::Online);
        self.resume(now);
        self.changed = true;
    }

    /// A vCPU that the guest had is gone now, or one that was on its way out stays after all.
    fn tell_notifiers_of_restart(&mut self, id: u32) {
        let vcpu = self.vcpu(id);
        let slot = &self.slots[id as usize];
        let stays = slot.target == Target::Online;
        match slot.phase {
            Phase::Notifying { at, .. } if stays => {
                for action in step::walk_back(at, self.names.len()) {
                    if let Action::Undo(n) = action {
                        self.notifiers[n].undo(vcpu);
                    }
                }
            }
            // The guest has let go of it, whether it comes back or not.
            Phase::Syncing { undo: false } | Phase::Stopping { undo: false } => self.bury(id),
            Phase::Plugged
            | Phase::Online
            | Phase::Draining { .. }
            | Phase::Notifying { .. }
            | Phase::Overdue { .. }
                if !stays =>
            {
                self.bury(id);
            }
            // It stays, or the guest never had it.
            _ => {}
        }
    }

    /// Tells every notifier that a vCPU is gone.
    pub(super) fn bury(&mut self, id: u32) {
        let vcpu = self.vcpu(id);
        for notifier in &mut self.notifiers {
            notifier.after_death(vcpu);
        }
    }

    fn ids(&self) -> std::ops::Range<u32> {
        0..self.slots.len().try_into().unwrap_or(u32::MAX)
    }

    pub(super) fn vcpu(&self, id: u32) -> VcpuRef {
        VcpuRef {
            id,
            generation: self.machine,
        }
    }

    /// The machine has come to its end: nothing that runs will ever be done.
    pub fn ended(&mut self) {
        self.fail_all("the machine has ended");
    }

    fn fail_all(&mut self, why: &str) {
        let outcome = outcome(Code::Failed, why);
        for id in self.ids() {
            let phase = self.slots[id as usize].phase.name();
            for target in [Target::Online, Target::Offline] {
                self.operations.conclude_all(id, target, phase, &outcome);
            }
        }
        self.changed = true;
    }

    /// What a thread or the guest did.
    pub fn message(&mut self, message: Message, machine: &mut dyn Machinery) {
        let (id, run, event) = match message {
            Message::Notice(notice) => return self.notice(notice, machine),
            Message::Ready(id, run) => {
                // Its thread can be named from now on.
                self.changed = true;
                (id, run, Event::Ready)
            }
            Message::NotReady(id, run, why) => (id, run, Event::StartFailed(why)),
            Message::Started(id, run) => (id, run, Event::Started),
            Message::Parked(id, run) => (id, run, Event::Parked),
            Message::Notifier(id, attempt, n, answer) => {
                let Some(slot) = self.slots.get(id as usize) else {
                    return;
                };
                if slot.attempts != attempt {
                    return debug!(id, attempt, n, ?answer, "stale");
                }
                let event = match answer {
                    Answer::Ready => Event::NotifierReady(n),
                    Answer::Refused(why) => Event::NotifierRefused(n, why),
                };
                (id, slot.run, event)
            }
            Message::GateEmpty(id, closing) => {
                let Some(gate) = self.gates.get(id as usize) else {
                    return;
                };
                if gate.closing() != Some(closing) {
                    return debug!(id, closing, "stale");
                }
                (id, self.slots[id as usize].run, Event::GateEmpty)
            }
        };
        if self
            .slots
            .get(id as usize)
            .is_none_or(|slot| slot.run != run)
        {
            return debug!(id, run, ?event, "stale");
        }
        self.apply(id, event, machine);
    }

    fn notice(&mut self, notice: Notice, machine: &mut dyn Machinery) {
        let Notice {
            vcpu: id,
            plug,
            what,
        } = notice;
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return;
        };
        if slot.plug != plug {
            return debug!(?notice, "stale");
        }
        let event = match what {
            What::InsertRead => Event::RequestRead(Asked::Insert),
            What::EjectRead(ask) if ask == slot.ask => Event::RequestRead(Asked::Eject),
            // Of an earlier request: it has yet to read the last one.
            What::EjectRead(ask) => return debug!(vcpu = id, ask, "stale"),
            What::Said { word, kept } => {
                self.tally.word(word.numbers);
                slot.heard(word);
                debug!(vcpu = id, ?word, "the guest says");
                let waits = slot.phase.waits_for_insertion();
                if word.is_no_to_insertion() && waits && machine.discard(id) {
                    Event::NotTaken(word)
                } else if kept == Some(slot.ask) {
                    Event::Kept(word)
                } else {
                    Event::Said(word)
                }
            }
            What::Ejected { requested } => {
                self.ejected_unasked(id, requested);
                Event::Ejected
            }
            What::SeenEmpty => return machine.remind(),
        };
        self.apply(id, event, machine);
    }

    /// An ejection that nobody waits for is an operation of its own.
    fn ejected_unasked(&mut self, id: u32, requested: bool) {
        let now = self.now();
        let slot = &mut self.slots[id as usize];
        let under_way = slot.attempt.as_ref().map(|attempt| attempt.target);
        if under_way == Some(Target::Offline) || !slot.phase.is_plugged() {
            return;
        }
        if requested && under_way == Some(Target::Online) {
            // What an earlier request asked for. Who wants it online waits, and gets it back.
            slot.attempt = None;
            return;
        }
        if requested {
            info!(
                vcpu = id,
                "ejected after all, when nobody waited any longer"
            );
        } else {
            info!(vcpu = id, "ejected by the guest on its own account");
        }
        let deadline = now + self.limits.operation;
        let operation = self.operations.begin(OperationKind::GuestEject, deadline);
        slot.target = Target::Offline;
        slot.last_operation = Some(operation);
        let from = slot.phase.name();
        self.operations.add(operation, id, from, Target::Offline);
        self.operations.show(operation);
        let gone = outcome(Code::Refused, "the guest has ejected it instead");
        self.operations
            .conclude_all(id, Target::Online, from, &gone);
        slot.begin(operation, now);
    }

    fn count(&self, which: impl Fn(&Slot) -> bool) -> u32 {
        let count = self.slots.iter().filter(|slot| which(slot)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The machine is in this state from now on, as others are to hear in its turn.
    pub fn machine_is(&mut self, state: &'static str) {
        self.changed = true;
        self.operations.tell(News::Machine(state));
    }

    /// What has happened since the last time, in order. The view that is taken before shows it.
    pub fn take_news(&mut self) -> Vec<(SystemTime, News)> {
        self.operations.take_news()
    }
}

/// What it is at with each vCPU, without times: two that look the same go on in the same way.
impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = |slot: &Slot| {
            let attempt = slot.attempt.as_ref();
            let attempt = attempt.map(|attempt| (attempt.target, attempt.word));
            format!(
                "{:?} to {:?}, run {}, plug {}, ask {}, attempt {} {attempt:?}, again {}",
                slot.phase,
                slot.target,
                slot.run,
                slot.plug,
                slot.ask,
                slot.attempts,
                slot.again.is_some()
            )
        };
        f.debug_list().entries(self.slots.iter().map(slot)).finish()
    }
}

fn other(target: Target) -> Target {
    match target {
        Target::Online => Target::Offline,
        Target::Offline => Target::Online,
    }
}

fn outcome(code: Code, detail: impl Into<String>) -> Outcome {
    Outcome {
        code,
        word: None,
        detail: detail.into(),
    }
}

#[cfg(test)]
mod tests;

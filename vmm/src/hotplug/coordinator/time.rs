//! Deadlines, and what is said or done again until it has an effect.
//!
//! While the machine is paused, time stands still for all of it: no operation runs out of its time because the
//! guest could not get on. Only a thread that is to leave the guest is kicked again meanwhile, by the host's time.

use super::{Coordinator, REMIND_MAX, outcome};
use crate::hotplug::gate::Visitor;
use crate::hotplug::machinery::Machinery;
use crate::hotplug::phase::{At, Event, Phase, Rest};
use crate::hotplug::view::{Code, OperationId};
use std::time::Instant;
use tracing::debug;

impl Coordinator {
    /// Does what time asks for, `now` being the time: [`Coordinator::expire`], and then [`Coordinator::repeat`].
    pub fn tick(&mut self, now: Instant, machine: &mut dyn Machinery) {
        self.expire(now, machine);
        self.repeat(now, machine);
    }

    /// Ends the operations that have no time left.
    pub fn expire(&mut self, now: Instant, machine: &mut dyn Machinery) {
        let overdue = match self.paused {
            None => self.operations.overdue(now),
            Some(_) => Vec::new(),
        };
        for operation in overdue {
            for id in self.operations.open_parts(operation) {
                self.part_overdue(operation, id, now, machine);
            }
            self.operations.end_if_done(operation);
        }
    }

    /// Says or does again what has had no effect so far, and ends threads that were dormant for long enough.
    pub fn repeat(&mut self, now: Instant, machine: &mut dyn Machinery) {
        for id in self.ids() {
            self.again(id, now, machine);
        }
    }

    fn part_overdue(
        &mut self,
        operation: OperationId,
        id: u32,
        now: Instant,
        machine: &mut dyn Machinery,
    ) {
        let wanted = self.operations.wanted(operation, id);
        let patient = self
            .operations
            .open_for(id)
            .any(|(_, to, deadline)| Some(to) == wanted && deadline > now);
        // Also where the opposite is under way, and nobody waits for that any longer: if it can be undone, that may
        // be all that was wanted. Otherwise the second one finds whoever waits, and what for.
        for _ in 0..2 {
            if !patient && self.operations.open_parts(operation).contains(&id) {
                self.give_up(id, machine);
            }
        }
        if self.operations.open_parts(operation).contains(&id) {
            let phase = self.slots[id as usize].phase.name();
            let detail = format!("it was {phase} when the time was over, and goes on");
            let late = outcome(Code::TimedOut, detail);
            self.operations.conclude(operation, id, phase, late);
            self.forget_target(id);
        }
    }

    /// Nobody waits any longer for what is under way: what can be undone of it is undone.
    pub(super) fn give_up(&mut self, id: u32, machine: &mut dyn Machinery) {
        let retracted = self.retract(id, machine);
        let users = self.gates[id as usize].users();
        let inside = users.iter().map(Visitor::to_string).collect();
        let untold = machine.untold();
        let deadline = Event::Deadline {
            retracted,
            inside,
            untold,
        };
        self.apply(id, deadline, machine);
    }

    /// Tells the guest, or kicks the thread, again.
    fn again(&mut self, id: u32, now: Instant, machine: &mut dyn Machinery) {
        let paused = self.paused.is_some();
        let slot = &mut self.slots[id as usize];
        let phase = slot.phase;
        if paused && !slot.is_timed_by_the_host() {
            return;
        }
        let Some(again) = &mut slot.again else { return };
        if again.0 > now {
            return;
        }
        match phase {
            Phase::Announced { .. }
            // Its ejection is not shown before it is acknowledged.
            | Phase::Notifying {
                was: Rest::Announced,
                at: At::Asked,
            } => {
                debug!(id, "telling the guest again");
                machine.announce(id);
                again.1 = (again.1 * 2).min(REMIND_MAX);
            }
            Phase::Notifying { at: At::Asked, .. } => {
                debug!(id, "reminding the guest");
                machine.remind();
                again.1 = (again.1 * 2).min(REMIND_MAX);
            }
            Phase::Stopping { .. } => machine.park(id),
            Phase::Dormant => {
                machine.end_thread(id);
                slot.again = None;
                self.changed = true;
                return;
            }
            _ => {
                slot.again = None;
                return;
            }
        }
        again.0 = now + again.1;
    }

    /// When [`Coordinator::tick`] is due.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        let paused = self.paused.is_some();
        let again = self
            .slots
            .iter()
            .filter(|slot| !paused || slot.is_timed_by_the_host())
            .filter_map(|slot| slot.again.map(|(at, _)| at));
        let deadline = self.operations.next_deadline().filter(|_| !paused);
        again.chain(deadline).min()
    }

    /// The machine stands still from now on; twice is as once.
    pub fn pause(&mut self, now: Instant) {
        self.paused.get_or_insert(now);
    }

    /// It goes on. Every deadline moves by as much time as it stood still.
    pub fn resume(&mut self, now: Instant) {
        if let Some(since) = self.paused.take() {
            let stood = now.saturating_duration_since(since);
            self.operations.postpone(stood);
            self.slots.iter_mut().for_each(|slot| slot.postpone(stood));
        }
    }

    /// The time as it is for what is under way.
    pub(super) fn now(&self) -> Instant {
        self.paused.unwrap_or_else(Instant::now)
    }
}

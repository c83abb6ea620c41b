//! Deadlines, and what is said or done again until it has an effect.

use super::{Coordinator, REMIND_MAX, outcome};
use crate::hotplug::machinery::Machinery;
use crate::hotplug::phase::{Event, Phase};
use crate::hotplug::view::{Code, OperationId};
use std::time::Instant;
use tracing::debug;

impl Coordinator {
    /// Does what time asks for.
    pub fn tick(&mut self, machine: &mut dyn Machinery) {
        let now = Instant::now();
        for operation in self.operations.overdue(now) {
            for id in self.operations.open_parts(operation) {
                self.part_overdue(operation, id, machine);
            }
            self.operations.end_if_done(operation);
        }
        for id in self.ids() {
            self.again(id, now, machine);
        }
    }

    fn part_overdue(&mut self, operation: OperationId, id: u32, machine: &mut dyn Machinery) {
        let now = Instant::now();
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
        let inside = self.gates[id as usize].users();
        self.apply(id, Event::Deadline { retracted, inside }, machine);
    }

    /// Tells the guest, or kicks the thread, again.
    fn again(&mut self, id: u32, now: Instant, machine: &mut dyn Machinery) {
        let slot = &mut self.slots[id as usize];
        let phase = slot.phase;
        let Some(again) = &mut slot.again else { return };
        if again.0 > now {
            return;
        }
        match phase {
            Phase::Announced { .. } => {
                debug!(id, "telling the guest again");
                machine.announce(id);
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
        let again = self
            .slots
            .iter()
            .filter_map(|slot| slot.again.map(|(at, _)| at));
        again.chain(self.operations.next_deadline()).min()
    }
}

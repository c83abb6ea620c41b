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
        machine.ring();
    }

    fn part_overdue(&mut self, operation: OperationId, id: u32, machine: &mut dyn Machinery) {
        let now = Instant::now();
        let wanted = self.operations.wanted(operation, id);
        let under_way = self.slots[id as usize]
            .attempt
            .as_ref()
            .map(|attempt| attempt.target);
        let patient = self
            .operations
            .open_for(id)
            .any(|(_, to, deadline)| Some(to) == wanted && deadline > now);
        let phase = self.slots[id as usize].phase;
        if under_way != wanted || patient {
            let detail = format!(
                "it was {} when the time was over, and goes on",
                phase.name()
            );
            let late = outcome(Code::TimedOut, detail);
            self.operations.conclude(operation, id, phase.name(), late);
            if !patient {
                let slot = &mut self.slots[id as usize];
                slot.target = under_way.unwrap_or_else(|| slot.whereabouts());
            }
            return;
        }
        let retracted = self.retract(id, machine);
        let inside = self.gates[id as usize].users();
        self.apply(id, Event::Deadline { retracted, inside }, machine);
        // A phase without a limit of its own; nobody waits for it any longer.
        let late = outcome(Code::TimedOut, "the time was over");
        let phase = self.slots[id as usize].phase.name();
        if self.operations.open_parts(operation).contains(&id) {
            self.operations.conclude(operation, id, phase, late);
        }
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

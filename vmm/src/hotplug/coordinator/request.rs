//! Requests: what they change, and what they take back.

use super::{Coordinator, other, outcome};
use crate::error::Problem;
use crate::hotplug::client::{Refused, Request};
use crate::hotplug::machinery::Machinery;
use crate::hotplug::phase::Event;
use crate::hotplug::target::{self, Plan};
use crate::hotplug::view::{Code, OperationId, Target};
use std::time::Instant;
use tracing::info;

impl Coordinator {
    /// Begins what a request wants.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub fn change(
        &mut self,
        request: &Request,
        machine: &mut dyn Machinery,
    ) -> Result<OperationId, Refused> {
        let standings: Vec<_> = self
            .slots
            .iter()
            .map(|slot| (slot.phase, slot.target))
            .collect();
        let Plan { kind, targets } = target::plan(&request.want, &standings)?;
        let deadline = Instant::now() + request.timeout.unwrap_or(self.limits.operation);
        let operation = self.operations.begin(kind, deadline);
        let mut parts = Vec::new();
        for (id, target) in targets {
            let slot = &mut self.slots[id as usize];
            slot.target = target;
            if slot.is_settled() && slot.attempt.is_none() {
                continue;
            }
            slot.last_operation = Some(operation);
            self.operations
                .add(operation, id, slot.phase.name(), target);
            let superseded = outcome(Code::Superseded, format!("{operation} wants it {target}"));
            let phase = slot.phase.name();
            self.operations
                .conclude_all(id, other(target), phase, &superseded);
            parts.push(id);
        }
        self.desired = self.count(|slot| slot.target == Target::Online);
        info!(operation, ?kind, ?parts, "asked for");
        for id in parts {
            self.pursue(id, machine);
        }
        self.operations.end_if_done(operation);
        machine.ring();
        self.changed = true;
        Ok(operation)
    }

    /// Takes an operation back as far as that can be done: parts that the guest has read go on.
    ///
    /// # Errors
    /// [`Refused`] where it has ended, never was, or all of it is too late.
    pub fn cancel(
        &mut self,
        operation: OperationId,
        machine: &mut dyn Machinery,
    ) -> Result<(), Refused> {
        let asked = format!("cancel operation {operation}");
        let problem = |found: &str, remedy: &str| Problem {
            asked,
            found: found.to_owned(),
            remedy: remedy.to_owned(),
        };
        if !self.operations.is_running(operation) {
            return Err(if self.operations.is_known(operation) {
                Refused::Conflict(problem("it has ended", "look at its outcome"))
            } else {
                Refused::Unknown(problem("there is none", "see the list of operations"))
            });
        }
        let open = self.operations.open_parts(operation);
        for &id in &open {
            self.cancel_part(operation, id, machine);
        }
        machine.ring();
        self.changed = true;
        if self.operations.open_parts(operation).len() == open.len() {
            let found = "the guest has read the request, and only the guest can say no now";
            let remedy = "wait for its end, and then ask for the opposite";
            return Err(Refused::Conflict(problem(found, remedy)));
        }
        Ok(())
    }

    fn cancel_part(&mut self, operation: OperationId, id: u32, machine: &mut dyn Machinery) {
        let wanted = self.operations.wanted(operation, id);
        let shared = self
            .operations
            .open_for(id)
            .any(|(other, to, _)| other != operation && Some(to) == wanted);
        if shared {
            let alone = outcome(
                Code::Cancelled,
                "taken back; another operation goes on with it",
            );
            let phase = self.slots[id as usize].phase.name();
            self.operations.conclude(operation, id, phase, alone);
        } else {
            let retracted = self.retract(id, machine);
            self.apply(id, Event::Recall { retracted }, machine);
        }
    }
}

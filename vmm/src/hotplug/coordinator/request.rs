//! Requests: what they change, and what they take back.

use super::{Coordinator, other, outcome};
use crate::error::Problem;
use crate::hotplug::client::{Refused, Request, Want};
use crate::hotplug::machinery::Machinery;
use crate::hotplug::phase::{Event, Phase};
use crate::hotplug::target::{self, Plan, Standing};
use crate::hotplug::view::{Code, OperationId, Target};
use tracing::info;

fn cancelling(operation: OperationId, found: &str, remedy: &str) -> Problem {
    Problem::new(format_args!("cancel operation {operation}"), found, remedy)
}

impl Coordinator {
    /// Begins what a request wants.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed. While the machine is paused, that is the answer to all of them: the
    /// guest would see nothing of it, and its time would stand still.
    pub fn change(
        &mut self,
        request: &Request,
        machine: &mut dyn Machinery,
    ) -> Result<OperationId, Refused> {
        if self.paused.is_some() {
            return Err(Refused::paused("a change of vCPUs"));
        }
        let Plan { kind, targets } = target::plan(&request.want, &self.standings())?;
        if self.operations.is_full() {
            return Err(Refused::Busy(Problem::new(
                "a change of vCPUs",
                "too many operations run already, and the guest does not get on with them",
                "wait for one of them to end, or cancel some",
            )));
        }
        let deadline = self.now() + request.timeout.unwrap_or(self.limits.operation);
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
            let superseded = outcome(
                Code::Superseded,
                format!("operation {operation} wants it {target}"),
            );
            let phase = slot.phase.name();
            self.operations
                .conclude_all(id, other(target), phase, &superseded);
            parts.push(id);
        }
        self.desired = self.count(|slot| slot.target == Target::Online);
        self.operations.show(operation);
        info!(operation, ?kind, ?parts, "asked for");
        for id in parts {
            self.pursue(id, machine);
        }
        self.operations.end_if_done(operation);
        self.changed = true;
        Ok(operation)
    }

    /// Has a machine that does not run start with another count of vCPUs.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub fn preset(&mut self, count: u32) -> Result<(), Refused> {
        let Plan { targets, .. } = target::plan(&Want::Count(count), &self.standings())?;
        for (id, target) in targets {
            self.slots[id as usize].target = target;
        }
        self.desired = count;
        self.changed = true;
        Ok(())
    }

    fn standings(&self) -> Vec<Standing> {
        let slots = self.slots.iter();
        slots.map(|slot| (slot.phase, slot.target)).collect()
    }

    /// Why an operation cannot be taken back, if it has ended or never was.
    ///
    /// # Errors
    /// [`Refused`] if so.
    pub fn check_running(&self, operation: OperationId) -> Result<(), Refused> {
        if self.operations.is_running(operation) {
            return Ok(());
        }
        Err(if self.operations.is_known(operation) {
            let found = "it has ended";
            Refused::Conflict(cancelling(operation, found, "look at its outcome"))
        } else {
            let remedy = "see the list of operations";
            Refused::Unknown(cancelling(operation, "there is none", remedy))
        })
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
        self.check_running(operation)?;
        let open = self.operations.open_parts(operation);
        let mut reasons = Vec::new();
        for &id in &open {
            let reason = self.cancel_part(operation, id, machine);
            reasons.push(format!("vCPU {id}: {reason}"));
        }
        self.changed = true;
        if self.operations.open_parts(operation).len() == open.len() {
            let found = format!("nothing of it can be taken back ({})", reasons.join("; "));
            let remedy =
                "wait for its end, or ask for what you want instead: the latest request wins";
            return Err(Refused::Conflict(cancelling(operation, &found, remedy)));
        }
        Ok(())
    }

    /// Takes one part back if that can be done; returns why, or why not.
    fn cancel_part(
        &mut self,
        operation: OperationId,
        id: u32,
        machine: &mut dyn Machinery,
    ) -> &'static str {
        let wanted = self.operations.wanted(operation, id);
        let shared = self
            .operations
            .open_for(id)
            .any(|(other, to, _)| other != operation && Some(to) == wanted);
        let slot = &self.slots[id as usize];
        let under_way = slot.attempt.as_ref().map(|attempt| attempt.target);
        let waits = under_way != wanted || matches!(slot.phase, Phase::Overdue { .. });
        if shared || waits {
            let detail = if shared {
                "taken back; another operation goes on with it"
            } else {
                "taken back before anything was begun for it"
            };
            let phase = slot.phase.name();
            let cancelled = outcome(Code::Cancelled, detail);
            self.operations.conclude(operation, id, phase, cancelled);
            // It may have been the last one, and have superseded whoever waited for what is under way. What the
            // guest has let go of ends by itself.
            let ends = matches!(
                self.slots[id as usize].phase,
                Phase::Syncing { .. } | Phase::Stopping { .. }
            );
            if !ends && self.operations.open_for(id).next().is_none() {
                self.give_up(id, machine);
            }
            self.forget_target(id);
            return detail;
        }
        let retracted = self.retract(id, machine);
        self.apply(id, Event::Recall { retracted }, machine)
    }
}

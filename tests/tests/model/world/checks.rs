//! What must never be, and what must be where nothing is due any more.

use hotvisor_devices::cpu_hotplug::Request as Asks;
use hotvisor_vmm::hotplug::view::{Code, OperationId, Target, View};

use super::World;
use super::guest::Work;
use crate::people::User;

/// What there was when a request came and nothing was under way.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) operation: OperationId,
    pub(super) vcpus: Vec<Seen>,
}

/// A vCPU, as everybody sees it.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    phase: &'static str,
    target: Target,
    gate: String,
    present: bool,
    runs: bool,
    guest_runs: bool,
    let_go: bool,
}

impl World {
    pub(super) fn seen(&self) -> Vec<Seen> {
        let vcpus = self.view.vcpus.iter();
        let seen = vcpus.map(|vcpu| Seen {
            phase: match vcpu.phase {
                "dormant" => "absent",
                phase => phase,
            },
            target: vcpu.target,
            gate: format!("{:?}", vcpu.gate),
            present: self.machine.present[vcpu.id as usize],
            runs: self.machine.threads[vcpu.id as usize].running.is_some(),
            guest_runs: self.guest.runs.contains(&vcpu.id),
            let_go: self.waits.lock().gone.contains(&vcpu.id),
        });
        seen.collect()
    }

    /// Whose part of the last request came to nothing is as before.
    fn undone(&self) -> Option<String> {
        let before = self.before.as_ref()?;
        let operation = self.view.operations.get(&before.operation)?;
        let now = self.seen();
        for part in &operation.parts {
            let id = part.vcpu as usize;
            let Some(code) = part.outcome.as_ref().map(|outcome| outcome.code) else {
                continue;
            };
            let nothing = matches!(
                code,
                Code::Refused | Code::Cancelled | Code::TimedOut | Code::Failed
            );
            let (was, is) = (&before.vcpus[id], &now[id]);
            // Who was told of and is there is the guest's, as is who may still be ejected, or might have been before; and
            // who was ejected already when the time was over goes.
            let late = code == Code::TimedOut;
            let open = match part.to {
                Target::Online => was.present || late && is.present,
                Target::Offline => {
                    was.phase == "overdue" || late && (is.phase == "overdue" || !is.present)
                }
            };
            if nothing && !open && was != is {
                return Some(format!(
                    "{code:?} for vCPU {id}: it was {was:?}, and is {is:?}"
                ));
            }
        }
        None
    }

    /// After each act: what must never be, is not.
    pub(super) fn look(&mut self) {
        if let Some(view) = self.coordinator.take_view(Some(&self.machine)) {
            let before = std::mem::replace(&mut self.view, view);
            self.look_at_outcomes(&before);
        }
        for id in std::mem::take(&mut self.machine.parked) {
            if self.guest.runs.contains(&id) {
                self.is_wrong(format!("vCPU {id} was torn down while the guest runs it"));
            }
            let mut inside = self.users.iter().filter_map(|user| user.inside.as_ref());
            if inside.any(|(vcpu, _)| *vcpu == id) {
                self.is_wrong(format!("vCPU {id} was torn down with a user inside"));
            }
        }
        if let Some(wrong) = self.machine.wrong.first().cloned() {
            self.is_wrong(wrong);
        }
        for vcpu in self.view.vcpus.iter().filter(|vcpu| vcpu.id != 0) {
            let started = self.guest.started.get(&vcpu.id) == Some(&vcpu.generation);
            if vcpu.phase == "online" && !started {
                self.wrong.get_or_insert(format!(
                    "vCPU {} is said to be online, and the guest has not started it",
                    vcpu.id
                ));
            }
        }
        self.look_for_late_ejections();
        for id in 0..self.machine.present.len() {
            if self.machine.present[id] && self.machine.threads[id].running.is_none() {
                self.is_wrong(format!("the guest has vCPU {id}, and nothing runs it"));
            }
        }
    }

    /// A CPU that the guest may still eject, because it was asked to and has not answered, is not said to be at rest.
    fn look_for_late_ejections(&mut self) {
        let honest = self.shape.budget.is_honest();
        if !honest || !self.queue.is_empty() || self.guest.is_dead {
            return;
        }
        for vcpu in &self.view.vcpus {
            let rests = matches!(vcpu.phase, "announced" | "plugged" | "online");
            if rests && self.may_eject(vcpu.id) {
                self.wrong.get_or_insert(format!(
                    "vCPU {} is said to be at rest, and the guest was asked to eject it and has not answered",
                    vcpu.id
                ));
            }
        }
    }

    /// Whether the guest has read that it is to eject a CPU which is there, and has not answered.
    fn may_eject(&self, id: u32) -> bool {
        let plug = self.machine.plugs[id as usize];
        let asked = |work: &Work| work.asks == Asks::Eject && (work.cpu, work.plug) == (id, plug);
        let asked = self.guest.work.iter().any(asked);
        self.machine.present[id as usize] && (asked || self.guest.ignored.contains(&(id, plug)))
    }

    /// Who is told that the guest keeps a vCPU, or has it, is told the truth.
    pub(super) fn look_at_outcomes(&mut self, before: &View) {
        // Whoever lies may do so about that, and whoever ejects at any time may do it meanwhile.
        if !self.shape.budget.is_honest() || self.guest.is_dead {
            return;
        }
        let known = |id: OperationId, vcpu| {
            let parts = &before.operations.get(&id)?.parts;
            let part = parts.iter().find(|part| part.vcpu == vcpu)?;
            part.outcome.as_ref()
        };
        let mut wrong = None;
        for operation in self.view.operations.values() {
            for part in &operation.parts {
                let Some(outcome) = &part.outcome else {
                    continue;
                };
                let id = part.vcpu as usize;
                let present = self.machine.present[id];
                let runs = self.machine.threads[id].running.is_some();
                let run = self.view.vcpus[id].generation;
                let started = id == 0 || self.guest.started.get(&part.vcpu) == Some(&run);
                let holds = match (part.to, outcome.code) {
                    (Target::Offline, Code::Refused) if outcome.word.is_some() => present,
                    (Target::Offline, Code::Succeeded) => !present && !runs,
                    (Target::Online, Code::Succeeded) => present && started,
                    (_, Code::TimedOut) => !self.patient.contains(&operation.id),
                    _ => true,
                };
                if known(operation.id, part.vcpu).is_none() && !holds {
                    wrong = Some(format!(
                        "operation {} says of vCPU {}, which the guest has, {present}, has started, {started}, and a \
                         thread runs, {runs}: {outcome:?}",
                        operation.id, part.vcpu
                    ));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.is_wrong(wrong);
        }
    }

    /// Where nothing is due any more: what is said is what there is, and nobody waits.
    pub(crate) fn unrest(&self) -> Option<String> {
        if let Some(operation) = self.open_operations().next() {
            return Some(format!("operation {operation} never ends"));
        }
        if let Some(user) = self.users.iter().position(User::has_begun) {
            return Some(format!("user {user} waits for ever"));
        }
        if self.stopping.is_some() {
            return Some("the machine never starts again".to_owned());
        }
        if self.guest.is_dead {
            return None;
        }
        if let Some(wrong) = self.undone() {
            return Some(wrong);
        }
        for vcpu in &self.view.vcpus {
            let id = vcpu.id as usize;
            let present = self.machine.present[id];
            let runs = self.machine.threads[id].running.is_some();
            let wanted = vcpu.target == Target::Online;
            if present != runs || present != wanted {
                return Some(format!(
                    "vCPU {id}: wanted {wanted}, the guest has it {present}, a thread runs it {runs}"
                ));
            }
            let honest = self.shape.budget.is_honest();
            if honest && vcpu.phase == "overdue" && !self.may_eject(vcpu.id) {
                return Some(format!(
                    "vCPU {id} is overdue for ever: the guest has answered"
                ));
            }
            let state = format!("{:?}", vcpu.gate);
            let whole = match present {
                true => "Entrance(Open)",
                false => "Entrance(Offline)",
            };
            if state != whole {
                return Some(format!("vCPU {id} is at rest, and its gate is {state}"));
            }
            if present && self.waits.lock().gone.contains(&vcpu.id) {
                return Some(format!("vCPU {id} stays, and the notifier was not told"));
            }
        }
        let plugged = self.machine.present.iter().filter(|present| **present);
        let plugged = plugged.count() == self.view.plugged as usize;
        let runs = self.guest.runs.len() + 1 == self.view.online as usize;
        let mut there = (0..).zip(&self.machine.present);
        let sees = there.all(|(id, present)| self.machine.sta(id) == *present);
        let desired = !self.all_is_as_asked() || self.view.desired == self.view.plugged;
        let agree = desired && plugged && (runs && sees || !self.shape.budget.is_honest());
        (!agree).then(|| {
            format!(
                "the counts differ: desired {desired}, plugged {plugged}, online {runs}, seen by the guest {sees}"
            )
        })
    }

    /// Whether nobody was refused anything, and the guest has done nothing that nobody asked for. How many are desired is
    /// what was asked for last: it says so also where that was refused.
    fn all_is_as_asked(&self) -> bool {
        let ended = self
            .view
            .operations
            .values()
            .map(|operation| operation.ended);
        let mut codes = ended.map(|ended| ended.map(|ended| ended.code));
        let served = codes.all(|code| matches!(code, Some(Code::Succeeded | Code::Superseded)));
        served && !self.has_ejected
    }
}

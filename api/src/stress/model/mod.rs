//! What must be so: from what was asked for and how it ended, which vCPUs there are, in which phase, how often plugged.
//!
//! All of it is about moments at which nothing is under way. What happens in between is a matter of the events
//! (`check/events.rs`).

mod accept;
mod end;
#[cfg(test)]
pub(super) mod tests;

use super::plan::Ask;
use crate::wire::operations::{Code, Operation};
use crate::wire::vcpus::{Target, Vcpus};
use std::collections::{BTreeMap, BTreeSet};

/// A request that became an operation.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) ask: Ask,
    /// As it was accepted.
    pub(crate) accepted: Operation,
    /// As it ended.
    pub(crate) ended: Operation,
    /// It was taken back, and the answer was not a no.
    pub(crate) cancelled: bool,
}

/// What came between, in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct With {
    /// The guest was told to refuse every unplug.
    pub(crate) refusing: bool,
    /// The guest was at this vCPU by itself, and may refuse because of that.
    pub(crate) busy: Option<u32>,
    /// The guest has ejected this vCPU by itself.
    pub(crate) ejected: Option<u32>,
    /// The machine has started again, with the vCPUs that were wanted.
    pub(crate) reboot: bool,
}

/// Outcomes that are no contradiction, whatever happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) refused: bool,
    pub(crate) timed_out: bool,
    pub(crate) failed: bool,
}

/// A vCPU at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vcpu {
    rest: Rest,
    generation: u64,
}

/// A phase in which nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Absent,
    Dormant,
    /// There, and the guest has not started it.
    Plugged,
    Online,
}

impl Rest {
    fn of(phase: &str) -> Option<Self> {
        match phase {
            "absent" => Some(Self::Absent),
            "dormant" => Some(Self::Dormant),
            "plugged" => Some(Self::Plugged),
            "online" => Some(Self::Online),
            _ => None,
        }
    }

    /// Whether it may be so later although nothing was asked: the guest may start what it has when it will.
    fn may_become(self, later: Self) -> bool {
        self == later || (self, later) == (Self::Plugged, Self::Online)
    }

    const fn target(self) -> Target {
        match self {
            Self::Absent | Self::Dormant => Target::Offline,
            Self::Plugged | Self::Online => Target::Online,
        }
    }
}

/// vCPUs in whose phase something is under way.
pub(crate) fn moving(vcpus: &Vcpus) -> Vec<u32> {
    let moves = vcpus.vcpus.iter().filter(|v| Rest::of(&v.phase).is_none());
    moves.map(|vcpu| vcpu.id).collect()
}

/// The model.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    vcpus: Vec<Vcpu>,
    /// How many were asked for last, whatever came of it.
    desired: u32,
    /// The highest id of an operation so far.
    last: u64,
    allowed: Allowed,
}

impl Model {
    /// From the machine as it is; `last` is its last operation.
    pub(crate) fn new(vcpus: &Vcpus, last: u64, allowed: Allowed) -> Self {
        let mut model = Self {
            vcpus: Vec::new(),
            desired: vcpus.desired,
            last,
            allowed,
        };
        model.adopt(vcpus);
        model
    }

    /// Takes what is so for what must be so.
    pub(crate) fn adopt(&mut self, vcpus: &Vcpus) {
        let vcpu = |vcpu: &crate::wire::vcpus::Vcpu| Vcpu {
            rest: Rest::of(&vcpu.phase).unwrap_or(Rest::Dormant),
            generation: vcpu.generation,
        };
        self.vcpus = vcpus.vcpus.iter().map(vcpu).collect();
        self.desired = vcpus.desired;
    }

    /// The vCPUs that must be there.
    pub(crate) fn plugged(&self) -> BTreeSet<u32> {
        let there = |(_, vcpu): &(u32, &Vcpu)| vcpu.rest.target() == Target::Online;
        let all = (0u32..).zip(&self.vcpus);
        all.filter(there).map(|(id, _)| id).collect()
    }

    /// Compares what became of a step with what must have become of it; `vcpus` are at rest, and `starts` is how often
    /// each was started meanwhile, as the events say. Goes on from what is so.
    pub(crate) fn judge(
        &mut self,
        mut told: Vec<Told>,
        with: With,
        vcpus: &Vcpus,
        starts: &BTreeMap<u32, u64>,
    ) -> Vec<String> {
        let mut found = Vec::new();
        // The order in which they were accepted, which on several connections is not that of the questions.
        told.sort_by_key(|told| told.accepted.id);
        for told in &told {
            if told.accepted.id <= self.last {
                found.push(format!(
                    "`{}` became operation {}, but there was an operation {} before",
                    told.ask, told.accepted.id, self.last
                ));
            }
            self.last = self.last.max(told.accepted.id);
        }
        let wishes = self.accept(&told, with, &mut found);
        self.check_ends(&told, &wishes, with, &mut found);
        self.check_rest(&told, with, vcpus, starts, &mut found);
        self.adopt(vcpus);
        found
    }

    /// An operation of the guest's own: it has ejected something by itself.
    pub(crate) fn hear_of(&mut self, operation: u64) {
        self.last = self.last.max(operation);
    }

    /// Where a vCPU must be: what of it is known, and why.
    fn must(&self, id: u32, told: &[Told], with: With) -> Must {
        if with.ejected == Some(id) {
            return Must::Be(Target::Offline);
        }
        let parts = told.iter().filter_map(|told| {
            let part = told.ended.vcpus.iter().find(|part| part.id == id)?;
            Some((part.to, part.outcome.as_ref()?.code))
        });
        let parts: Vec<_> = parts.collect();
        match parts[..] {
            [] => Must::Stay,
            [.., (to, Code::Succeeded)] => Must::Be(to),
            // Undone, so that it is where it was.
            [(_, Code::Cancelled | Code::Refused | Code::Failed)] => Must::Return,
            _ => Must::Rest,
        }
    }

    fn check_rest(
        &self,
        told: &[Told],
        with: With,
        vcpus: &Vcpus,
        starts: &BTreeMap<u32, u64>,
        found: &mut Vec<String>,
    ) {
        if vcpus.vcpus.len() != self.vcpus.len() {
            let (now, before) = (vcpus.vcpus.len(), self.vcpus.len());
            found.push(format!(
                "there are {now} possible vCPUs, and there were {before}"
            ));
            return;
        }
        for (now, before) in vcpus.vcpus.iter().zip(&self.vcpus) {
            let id = now.id;
            let Some(rest) = Rest::of(&now.phase) else {
                if !self.allowed.timed_out {
                    found.push(format!(
                        "vCPU {id} is {}, and nothing is under way",
                        now.phase
                    ));
                }
                continue;
            };
            let must = self.must(id, told, with);
            let as_must = match must {
                // A machine that has started again has what is wanted, and its guest starts that when it will.
                Must::Be(to) if with.reboot => rest.target() == to,
                Must::Be(Target::Online) => rest == Rest::Online,
                Must::Be(Target::Offline) => rest.target() == Target::Offline,
                Must::Stay if !with.reboot => before.rest.may_become(rest),
                Must::Stay | Must::Return => rest.target() == before.rest.target(),
                Must::Rest => true,
            };
            if !as_must {
                let was = before.rest;
                found.push(format!(
                    "vCPU {id} is {}, and was {was:?}; {must}",
                    now.phase
                ));
            }
            if now.target != rest.target() {
                found.push(format!(
                    "vCPU {id} is {}, and its target {:?}",
                    now.phase, now.target
                ));
            }
            let plugged = starts.get(&id).copied().unwrap_or(0);
            if !with.reboot && now.generation != before.generation + plugged {
                found.push(format!(
                    "vCPU {id} is of generation {}, was of {}, and was plugged {plugged} times",
                    now.generation, before.generation
                ));
            }
        }
        check_counts(vcpus, found);
        if let Some(desired) = self.desired(told, vcpus)
            && vcpus.desired != desired
        {
            let says = vcpus.desired;
            found.push(format!(
                "desired is {says}, and {desired} were asked for last"
            ));
        }
    }

    /// How many were asked for last, where that is known: it stays so also where it was not to be had, where the guest gives
    /// one away by itself, and where it starts again.
    fn desired(&self, told: &[Told], vcpus: &Vcpus) -> Option<u32> {
        let made = |told: &Told| {
            let parts = &mut told.ended.vcpus.iter();
            parts.all(|part| {
                let code = part.outcome.as_ref().map(|outcome| outcome.code);
                matches!(code, Some(Code::Succeeded | Code::Superseded))
            })
        };
        let wanted = vcpus.vcpus.iter().filter(|v| v.target == Target::Online);
        let wanted = u32::try_from(wanted.count()).ok();
        match told.last().map(|told| &told.ask) {
            None => Some(self.desired),
            Some(Ask::Count(count)) => Some(*count),
            Some(Ask::Set(set)) => u32::try_from(set.len()).ok(),
            Some(Ask::One(..)) if told.iter().all(made) => wanted,
            Some(Ask::One(..)) => None,
        }
    }
}

/// Plugged and online, against the vCPUs one by one.
fn check_counts(vcpus: &Vcpus, found: &mut Vec<String>) {
    let count = |is: &dyn Fn(&crate::wire::vcpus::Vcpu) -> bool| {
        vcpus.vcpus.iter().filter(|vcpu| is(vcpu)).count()
    };
    let there = |vcpu: &crate::wire::vcpus::Vcpu| {
        matches!(
            &*vcpu.phase,
            "plugged" | "online" | "announced" | "draining" | "notifying" | "overdue"
        )
    };
    let unsettled = !moving(vcpus).is_empty();
    for (what, says, is) in [
        ("plugged", vcpus.plugged, count(&there)),
        (
            "online",
            vcpus.online,
            count(&|vcpu| vcpu.phase == "online"),
        ),
    ] {
        // An overdue vCPU counts as online where it was.
        if says as usize != is && !(unsettled && what == "online") {
            found.push(format!("{what} is {says}, and {is} vCPUs are"));
        }
    }
    if vcpus
        .vcpus
        .first()
        .is_none_or(|boot| boot.phase != "online")
    {
        found.push("vCPU 0 is not online".to_owned());
    }
}

/// What of a vCPU must be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    /// Its last operation succeeded.
    Be(Target),
    /// What was begun for it was undone.
    Return,
    /// Nothing was asked of it.
    Stay,
    /// Anything at rest.
    Rest,
}

impl std::fmt::Display for Must {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Be(Target::Online) => "it must be online, as its last operation says",
            Self::Be(Target::Offline) => "it must be gone, as its last operation says",
            Self::Return => "what was begun for it was undone, so that it must be where it was",
            Self::Stay => "nothing was asked of it",
            Self::Rest => "it must be at rest",
        })
    }
}

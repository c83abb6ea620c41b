//! How a request may end.

use super::accept::Wishes;
use super::{Model, Told, With};
use crate::stress::summary::code;
use crate::wire::operations::{Code, Operation, Outcome, Part, State};
use crate::wire::vcpus::Target;

impl Model {
    /// Every operation has ended, in a way that something accounts for.
    pub(super) fn check_ends(
        &self,
        told: &[Told],
        wishes: &[Wishes],
        with: With,
        found: &mut Vec<String>,
    ) {
        for (at, one) in told.iter().enumerate() {
            let Told {
                accepted, ended, ..
            } = one;
            let ids = |operation: &Operation| -> Vec<u32> {
                operation.vcpus.iter().map(|part| part.id).collect()
            };
            if ended.id != accepted.id || ids(ended) != ids(accepted) {
                found.push(format!(
                    "operation {} ended as another: {ended:?}",
                    accepted.id
                ));
            }
            let mut worst = None;
            for part in &ended.vcpus {
                let Some(outcome) = &part.outcome else {
                    found.push(format!(
                        "operation {} ended, but not for vCPU {}",
                        ended.id, part.id
                    ));
                    continue;
                };
                worst = worst.max(Some(severity(outcome.code)));
                let later = &wishes[at + 1..];
                if let Some(why) = self.objection(one, part, outcome, later, with) {
                    let (code, detail) = (code(outcome.code), &outcome.detail);
                    found.push(format!(
                        "operation {} (`{}`): vCPU {} {code}, {why} ({detail})",
                        ended.id, one.ask, part.id
                    ));
                }
            }
            // A yes is that at least one part was taken back there and then.
            let taken_back = |part: &Part| {
                let code = part.outcome.as_ref().map(|outcome| outcome.code);
                code == Some(Code::Cancelled)
            };
            if one.cancelled && !ended.vcpus.iter().any(taken_back) {
                found.push(format!(
                    "operation {} (`{}`) was taken back by its answer, and no vCPU of it was",
                    ended.id, one.ask
                ));
            }
            let worst = worst.unwrap_or(0);
            if ended.ended_at.is_none() || worst != state_severity(ended.state) {
                found.push(format!(
                    "operation {} ended as {:?}, and the worst of its parts did not",
                    ended.id, ended.state
                ));
            }
        }
    }

    /// Why this outcome cannot be.
    fn objection(
        &self,
        told: &Told,
        part: &Part,
        outcome: &Outcome,
        later: &[Wishes],
        with: With,
    ) -> Option<&'static str> {
        let unplug = part.to == Target::Offline;
        let fine = match outcome.code {
            Code::Succeeded if with.refusing && unplug => {
                return Some("though the guest was told to refuse");
            }
            Code::Succeeded => true,
            Code::Superseded => {
                let against =
                    |wishes: &Wishes| wishes.get(&part.id).is_some_and(|to| *to != part.to);
                return (!later.iter().any(against) && with.ejected != Some(part.id))
                    .then_some("and nothing later wants anything else");
            }
            Code::Cancelled => {
                return (!told.cancelled).then_some("and nobody took it back");
            }
            Code::Refused if with.refusing && unplug => {
                return (outcome.ost != Some([3, 0x80])).then_some(
                    "but not with (3, 0x80), as a guest does whose ACPI profile is off",
                );
            }
            Code::Refused => self.allowed.refused || with.busy == Some(part.id),
            Code::TimedOut => self.allowed.timed_out || with.busy == Some(part.id),
            Code::Failed => self.allowed.failed,
        };
        (!fine).then_some("and nothing accounts for that")
    }
}

/// As `hotvisor_vmm::hotplug::view::Code` orders them.
const fn severity(code: Code) -> u8 {
    match code {
        Code::Succeeded => 0,
        Code::Superseded => 1,
        Code::Cancelled => 2,
        Code::Refused => 3,
        Code::TimedOut => 4,
        Code::Failed => 5,
    }
}

fn state_severity(state: State) -> u8 {
    let all = [
        Code::Succeeded,
        Code::Refused,
        Code::TimedOut,
        Code::Cancelled,
        Code::Superseded,
        Code::Failed,
    ];
    let same = all.into_iter().find(|code| State::from(*code) == state);
    same.map_or(u8::MAX, severity)
}

//! What a request must have become when it was accepted.

use super::{Allowed, Model, Rest, Told, With};
use crate::stress::plan::Ask;
use crate::wire::operations::{Kind, Part};
use crate::wire::vcpus::Target;
use std::collections::BTreeMap;

/// What each vCPU is to become.
pub(super) type Wishes = BTreeMap<u32, Target>;

impl Model {
    /// What each request wanted of which vCPUs, in the order of `told`.
    pub(super) fn accept(&self, told: &[Told], with: With, found: &mut Vec<String>) -> Vec<Wishes> {
        let mut now: Wishes = (0u32..)
            .zip(self.vcpus.iter().map(|vcpu| vcpu.rest.target()))
            .collect();
        let mut all = Vec::new();
        // What was asked for while nothing was under way, and nobody else was at it, leaves no choice.
        let mut certain = with == With::default();
        // Where an outcome changes what is wanted, as a no does, later requests find something else.
        let open = with == With::default() && told.iter().all(|told| !told.cancelled);
        let open = open && self.allowed == Allowed::default();
        for told in told {
            let wishes = match &told.ask {
                Ask::One(id, to) => Wishes::from([(*id, *to)]),
                Ask::Set(set) => {
                    let to = |id| match set.contains(&id) {
                        true => Target::Online,
                        false => Target::Offline,
                    };
                    now.keys().map(|id| (*id, to(*id))).collect()
                }
                Ask::Count(count) if certain => self.count(*count as usize),
                Ask::Count(count) => by_parts(told, &now, *count as usize, open, found),
            };
            check_answer(told, found);
            for part in &told.accepted.vcpus {
                check_part(told, part, &wishes, found);
            }
            if certain {
                self.check_parts(told, &wishes, found);
            }
            now.extend(wishes.iter().map(|(id, to)| (*id, *to)));
            all.push(wishes);
            certain = false;
        }
        all
    }

    /// Which vCPUs a count means, while nothing is under way: `vmm/src/hotplug/target.rs` has the rule.
    fn count(&self, count: usize) -> Wishes {
        let all = || (0u32..).zip(&self.vcpus);
        let mut wishes: Wishes = all().map(|(id, vcpu)| (id, vcpu.rest.target())).collect();
        let there = wishes.values().filter(|to| **to == Target::Online).count();
        let is = |to| move |(_, vcpu): &(u32, &super::Vcpu)| vcpu.rest.target() == to;
        if count >= there {
            // Those first that KVM has already, then the lowest.
            let mut free: Vec<_> = all().filter(is(Target::Offline)).collect();
            free.sort_by_key(|(id, vcpu)| (vcpu.rest == Rest::Absent, *id));
            let chosen = free.iter().take(count - there);
            wishes.extend(chosen.map(|(id, _)| (*id, Target::Online)));
            return wishes;
        }
        // Those first that the guest has not started, then the highest.
        let mut used: Vec<_> = all()
            .filter(is(Target::Online))
            .filter(|(id, _)| *id != 0)
            .collect();
        used.sort_by_key(|(id, vcpu)| (vcpu.rest == Rest::Online, u32::MAX - *id));
        let chosen = used.iter().take(there - count);
        wishes.extend(chosen.map(|(id, _)| (*id, Target::Offline)));
        wishes.retain(|_, to| *to == Target::Offline);
        wishes
    }

    /// The parts are exactly the vCPUs that are not where they are wanted.
    fn check_parts(&self, told: &Told, wishes: &Wishes, found: &mut Vec<String>) {
        let settled = |id: &u32, to: &Target| {
            let rest = self.vcpus.get(*id as usize).map(|vcpu| vcpu.rest);
            match to {
                Target::Online => rest == Some(Rest::Online),
                Target::Offline => matches!(rest, Some(Rest::Absent | Rest::Dormant)),
            }
        };
        let must: Vec<u32> = wishes
            .iter()
            .filter(|(id, to)| !settled(id, to))
            .map(|(id, _)| *id)
            .collect();
        let has: Vec<u32> = told.accepted.vcpus.iter().map(|part| part.id).collect();
        if has != must {
            let (ask, id) = (&told.ask, told.accepted.id);
            found.push(format!(
                "`{ask}`, operation {id}, is about the vCPUs {has:?}, and must be about {must:?}"
            ));
        }
    }
}

/// What a count means while something is under way: the parts say which vCPUs were chosen, and they must be so many.
fn by_parts(
    told: &Told,
    now: &Wishes,
    count: usize,
    open: bool,
    found: &mut Vec<String>,
) -> Wishes {
    let there = now.values().filter(|to| **to == Target::Online).count();
    let parts = told.accepted.vcpus.iter();
    let wishes: Wishes = parts.map(|part| (part.id, part.to)).collect();
    let changed = |to: Target| {
        let turned = wishes
            .iter()
            .filter(|(id, wish)| **wish == to && now.get(id) != Some(wish));
        turned.count()
    };
    let (more, fewer) = (changed(Target::Online), changed(Target::Offline));
    if open && (more, fewer) != (count.saturating_sub(there), there.saturating_sub(count)) {
        found.push(format!(
            "`{}`, operation {}, wants {more} more and {fewer} fewer vCPUs where {there} were wanted",
            told.ask, told.accepted.id
        ));
    }
    wishes
}

fn check_answer(told: &Told, found: &mut Vec<String>) {
    let Told { ask, accepted, .. } = told;
    let must = match ask {
        Ask::One(..) => (Kind::Vcpu, None),
        Ask::Count(count) => (Kind::Resize, Some(*count)),
        Ask::Set(set) => (Kind::Set, u32::try_from(set.len()).ok()),
    };
    if (accepted.kind, accepted.desired) != must {
        found.push(format!(
            "`{ask}` became operation {}, which is a {:?} of {:?}",
            accepted.id, accepted.kind, accepted.desired
        ));
    }
}

fn check_part(told: &Told, part: &Part, wishes: &Wishes, found: &mut Vec<String>) {
    let (ask, id) = (&told.ask, told.accepted.id);
    if part.id == 0 {
        found.push(format!("`{ask}`, operation {id}, touches vCPU 0"));
    }
    if wishes.get(&part.id) != Some(&part.to) {
        found.push(format!(
            "`{ask}`, operation {id}, wants vCPU {} {:?}",
            part.id, part.to
        ));
    }
}

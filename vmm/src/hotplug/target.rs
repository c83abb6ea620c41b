//! Which vCPUs a request means.

use super::client::{Refused, Want};
use super::phase::Phase;
use super::view::{OperationKind, Target};
use crate::error::Problem;
use std::collections::BTreeMap;

/// What is to be of each vCPU that a request is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) kind: OperationKind,
    pub(super) targets: BTreeMap<u32, Target>,
}

/// Where a vCPU is, and what it was to become until now.
pub(super) type Standing = (Phase, Target);

/// The vCPUs that `want` is about, and what each is to become. Every vCPU has a target already, which stays
/// unless it has to change.
pub(super) fn plan(want: &Want, vcpus: &[Standing]) -> Result<Plan, Refused> {
    let max = u32::try_from(vcpus.len()).unwrap_or(u32::MAX);
    let possible = format!("this machine has {max} possible vCPUs, 0 to {}", max - 1);
    match want {
        Want::Count(count) => {
            if !(1..=max).contains(count) {
                let asked = format!("{count} vCPUs");
                let remedy = format!("ask for 1 to {max}; `max` of cpus sets the limit at start");
                return Err(Refused::Conflict(Problem::new(asked, possible, remedy)));
            }
            Ok(Plan {
                kind: OperationKind::Count(*count),
                targets: of_count(*count as usize, vcpus),
            })
        }
        Want::Set(set) => {
            if let Some(id) = set.iter().find(|id| **id >= max) {
                let asked = format!("vCPU {id} online");
                return Err(Refused::Conflict(Problem::new(
                    asked,
                    possible,
                    "leave it out",
                )));
            }
            if !set.contains(&0) {
                return Err(Refused::Conflict(boot_cpu("a set without vCPU 0")));
            }
            let target = |id| {
                if set.contains(&id) {
                    Target::Online
                } else {
                    Target::Offline
                }
            };
            Ok(Plan {
                kind: OperationKind::Set(u32::try_from(set.len()).unwrap_or(max)),
                targets: (0..max).map(|id| (id, target(id))).collect(),
            })
        }
        Want::One(id, target) => {
            if *id >= max {
                let asked = format!("vCPU {id} {target}");
                return Err(Refused::Unknown(Problem::new(
                    asked,
                    possible,
                    "name one of those",
                )));
            }
            if *id == 0 && *target == Target::Offline {
                return Err(Refused::Conflict(boot_cpu("vCPU 0 offline")));
            }
            Ok(Plan {
                kind: OperationKind::One(*target),
                targets: [(*id, *target)].into(),
            })
        }
    }
}

fn boot_cpu(asked: &str) -> Problem {
    Problem::new(
        asked.to_owned(),
        "vCPU 0 is the boot CPU, which no guest can do without".to_owned(),
        "leave vCPU 0 online",
    )
}

/// Ids to plug, the most convenient ones first: those that are not gone yet, then those that were there before.
fn plug_order((phase, _): Standing) -> u8 {
    match phase {
        Phase::Dormant => 1,
        Phase::Absent => 2,
        // Somebody keeps it from going, and nobody can say for how long.
        Phase::Syncing { .. } | Phase::Stopping { .. } => 3,
        _ => 0,
    }
}

fn of_count(count: usize, vcpus: &[Standing]) -> BTreeMap<u32, Target> {
    let ids = |wanted: Target| {
        (0u32..)
            .zip(vcpus)
            .filter(move |(_, (_, target))| *target == wanted)
    };
    let mut targets: BTreeMap<u32, Target> = (0u32..).zip(vcpus).map(|(id, v)| (id, v.1)).collect();
    let now = ids(Target::Online).count();
    if count >= now {
        let mut candidates: Vec<_> = ids(Target::Offline).collect();
        candidates.sort_by_key(|(id, standing)| (plug_order(**standing), *id));
        for (id, _) in candidates.into_iter().take(count - now) {
            targets.insert(id, Target::Online);
        }
    } else {
        // Those first that the guest does not use yet, then the highest.
        let mut candidates: Vec<_> = ids(Target::Online).filter(|(id, _)| *id != 0).collect();
        candidates.sort_by_key(|(id, (phase, _))| (phase.is_online(), u32::MAX - *id));
        for (id, _) in candidates.into_iter().take(now - count) {
            targets.insert(id, Target::Offline);
        }
        // Who only asks for fewer does not wait for others to come online.
        targets.retain(|_, target| *target == Target::Offline);
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::super::phase::Rest;
    use super::Target::{Offline, Online};
    use super::*;

    fn changed(want: Want, vcpus: &[Standing]) -> Vec<(u32, Target)> {
        let plan = plan(&want, vcpus).unwrap();
        let differs = |(id, target): &(u32, Target)| vcpus[*id as usize].1 != *target;
        plan.targets.into_iter().filter(differs).collect()
    }

    #[test]
    fn fewer_takes_unused_ones_and_then_the_highest() {
        let vcpus = [
            (Phase::Online, Online),
            (Phase::Plugged, Online),
            (Phase::Online, Online),
            (Phase::Online, Online),
            (Phase::Absent, Offline),
        ];
        assert_eq!(changed(Want::Count(3), &vcpus), [(1, Offline)]);
        assert_eq!(
            changed(Want::Count(1), &vcpus),
            [(1, Offline), (2, Offline), (3, Offline)]
        );
    }

    #[test]
    fn more_recalls_first_and_then_takes_dormant_ones() {
        let vcpus = [
            (Phase::Online, Online),
            (Phase::Absent, Offline),
            (Phase::Dormant, Offline),
            (Phase::Overdue { was: Rest::Online }, Offline),
        ];
        assert_eq!(changed(Want::Count(2), &vcpus), [(3, Online)]);
        assert_eq!(changed(Want::Count(3), &vcpus), [(2, Online), (3, Online)]);
        assert_eq!(changed(Want::Count(1), &vcpus), []);
    }

    #[test]
    fn the_boot_cpu_and_what_there_is_not_are_refused() {
        let vcpus = [(Phase::Online, Online), (Phase::Absent, Offline)];
        let refused = |want| plan(&want, &vcpus).unwrap_err();
        for want in [
            Want::Count(0),
            Want::Count(3),
            Want::Set([1].into()),
            Want::One(0, Offline),
        ] {
            assert!(matches!(refused(want), Refused::Conflict(_)));
        }
        assert!(matches!(
            refused(Want::Set([0, 2].into())),
            Refused::Conflict(_)
        ));
        assert!(matches!(refused(Want::One(2, Online)), Refused::Unknown(_)));
    }
}

//! Each thing that can be wrong is noticed.

use super::*;
use crate::wire::operations::{Kind, Outcome, Part, State};
use crate::wire::vcpus::{Thread, Vcpu};

/// vCPUs at rest.
pub(crate) fn vcpus(phases: &[&'static str]) -> Vcpus {
    let count = |is: fn(&str) -> bool| {
        u32::try_from(phases.iter().filter(|phase| is(phase)).count()).unwrap()
    };
    let plugged = count(|phase| matches!(phase, "plugged" | "online"));
    let vcpu = |(id, phase): (u32, &&'static str)| {
        let there = matches!(*phase, "plugged" | "online");
        Vcpu {
            id,
            apic_id: id,
            phase: (*phase).into(),
            target: if there {
                Target::Online
            } else {
                Target::Offline
            },
            generation: 1,
            boot: id == 0,
            thread: (*phase != "absent").then(|| Thread {
                name: format!("vcpu-{id}"),
                tid: Some(7),
                running: there,
            }),
            last_operation: None,
        }
    };
    Vcpus {
        desired: plugged,
        plugged,
        online: count(|phase| phase == "online"),
        max: u32::try_from(phases.len()).unwrap(),
        vcpus: (0u32..).zip(phases).map(vcpu).collect(),
    }
}

const BEFORE: [&str; 5] = ["online", "online", "dormant", "absent", "online"];

fn told(id: u64, ask: Ask, parts: &[(u32, Target, Code)]) -> Told {
    let (kind, desired) = match &ask {
        Ask::One(..) => (Kind::Vcpu, None),
        Ask::Count(count) => (Kind::Resize, Some(*count)),
        Ask::Set(set) => (Kind::Set, u32::try_from(set.len()).ok()),
    };
    let part = |(id, to, code): &(u32, Target, Code)| Part {
        id: *id,
        from: "x".into(),
        to: *to,
        phase: "x".into(),
        outcome: Some(Outcome {
            code: *code,
            ost: None,
            detail: "because".to_owned(),
        }),
    };
    let code = parts.first().map_or(Code::Succeeded, |(_, _, code)| *code);
    let ended = Operation {
        id,
        kind,
        desired,
        state: State::from(code),
        vcpus: parts.iter().map(part).collect(),
        created_at: "x".to_owned(),
        ended_at: Some("y".to_owned()),
    };
    Told {
        ask,
        accepted: ended.clone(),
        ended,
        cancelled: false,
    }
}

/// A step whose end is as it must be; and then one thing of it is not.
struct Case {
    told: Vec<Told>,
    with: With,
    allowed: Allowed,
    now: Vcpus,
    starts: BTreeMap<u32, u64>,
}

impl Case {
    fn new(told: Vec<Told>, now: &[&'static str]) -> Self {
        Self {
            told,
            with: With::default(),
            allowed: Allowed::default(),
            now: vcpus(now),
            starts: BTreeMap::new(),
        }
    }

    /// vCPU 4 is taken away.
    fn unplug() -> Self {
        let told = told(
            8,
            Ask::One(4, Target::Offline),
            &[(4, Target::Offline, Code::Succeeded)],
        );
        Self::new(
            vec![told],
            &["online", "online", "dormant", "absent", "dormant"],
        )
    }

    /// vCPU 4 is asked for, and that ends like this.
    fn kept(code: Code) -> Self {
        let told = told(
            8,
            Ask::One(4, Target::Offline),
            &[(4, Target::Offline, code)],
        );
        Self::new(vec![told], &BEFORE)
    }

    /// There are to be four, of which vCPU 2 is the one that KVM has already.
    fn resize() -> Self {
        let told = told(8, Ask::Count(4), &[(2, Target::Online, Code::Succeeded)]);
        let mut case = Self::new(
            vec![told],
            &["online", "online", "online", "absent", "online"],
        );
        case.start(2);
        case
    }

    fn start(&mut self, id: u32) {
        self.starts.insert(id, 1);
        self.now.vcpus[id as usize].generation = 2;
    }

    fn found(&self) -> String {
        let mut model = Model::new(&vcpus(&BEFORE), 7, self.allowed);
        let told = self.told.clone();
        model
            .judge(told, self.with, &self.now, &self.starts)
            .join("; ")
    }

    fn change(mut self, change: impl FnOnce(&mut Self)) -> String {
        change(&mut self);
        self.found()
    }

    fn part(&mut self) -> &mut Part {
        &mut self.told[0].ended.vcpus[0]
    }
}

#[track_caller]
fn says(found: &str, words: &str) {
    assert!(found.contains(words), "{words:?} is not in: {found}");
}

#[test]
fn what_must_be_is_no_contradiction() {
    assert_eq!(Case::unplug().found(), "");
    assert_eq!(Case::resize().found(), "");
    assert_eq!(Case::new(Vec::new(), &BEFORE).found(), "");
    let fewer = told(8, Ask::Count(2), &[(4, Target::Offline, Code::Succeeded)]);
    let after = ["online", "online", "dormant", "absent", "dormant"];
    assert_eq!(Case::new(vec![fewer], &after).found(), "");
}

#[test]
fn a_wrong_state_at_rest_is_noticed() {
    says(
        &Case::unplug().change(|case| case.now = vcpus(&BEFORE)),
        "vCPU 4 is online",
    );
    says(
        &Case::unplug().change(|case| case.now.desired = 3),
        "desired is 3, and 2 were asked for last",
    );
    says(
        &Case::unplug().change(|case| case.now.plugged = 3),
        "plugged is 3",
    );
    says(
        &Case::unplug().change(|case| case.now.online = 1),
        "online is 1",
    );
    says(
        &Case::unplug().change(|case| case.now.vcpus[4].target = Target::Online),
        "vCPU 4 is dormant, and its target Online",
    );
    says(
        &Case::unplug().change(|case| case.now.vcpus[1].phase = "syncing".into()),
        "vCPU 1 is syncing, and nothing is under way",
    );
    says(
        &Case::new(
            Vec::new(),
            &["online", "dormant", "dormant", "absent", "online"],
        )
        .found(),
        "vCPU 1 is dormant, and was Online; nothing was asked of it",
    );
    says(
        &Case::new(
            Vec::new(),
            &["dormant", "online", "dormant", "absent", "online"],
        )
        .found(),
        "vCPU 0 is not online",
    );
    says(
        &Case::unplug().change(|case| drop(case.now.vcpus.pop())),
        "4 possible vCPUs",
    );
}

#[test]
fn generations_follow_the_starts() {
    says(
        &Case::resize().change(|case| case.now.vcpus[2].generation = 3),
        "vCPU 2 is of generation 3, was of 1, and was plugged 1 times",
    );
    says(
        &Case::resize().change(|case| case.starts.clear()),
        "was plugged 0 times",
    );
    says(
        &Case::unplug().change(|case| case.now.vcpus[4].generation = 2),
        "vCPU 4 is of generation 2",
    );
}

impl Case {
    /// An answer that is about something else.
    fn accepted(mut self, change: impl FnOnce(&mut Operation)) -> String {
        let told = &mut self.told[0];
        change(&mut told.accepted);
        told.ended.vcpus.clone_from(&told.accepted.vcpus);
        told.ended.id = told.accepted.id;
        self.found()
    }
}

#[test]
fn an_answer_to_something_else_is_noticed() {
    let other = told(8, Ask::Count(4), &[(3, Target::Online, Code::Succeeded)]);
    let mut case = Case::new(
        vec![other],
        &["online", "online", "dormant", "online", "online"],
    );
    case.start(3);
    says(
        &case.found(),
        "is about the vCPUs [3], and must be about [2]",
    );
    says(
        &Case::resize().accepted(|o| o.desired = Some(3)),
        "which is a Resize of Some(3)",
    );
    says(
        &Case::resize().accepted(|o| o.kind = Kind::Set),
        "which is a Set",
    );
    says(
        &Case::unplug().accepted(|o| o.vcpus[0].to = Target::Online),
        "wants vCPU 4 Online",
    );
    says(
        &Case::unplug().accepted(|o| o.vcpus[0].id = 0),
        "touches vCPU 0",
    );
    says(
        &Case::unplug().accepted(|o| o.vcpus.clear()),
        "is about the vCPUs [], and must be about [4]",
    );
    says(
        &Case::unplug().accepted(|o| o.id = 7),
        "there was an operation 7 before",
    );
    says(
        &Case::unplug().change(|case| case.told[0].ended.id = 9),
        "ended as another",
    );
}

#[test]
fn an_outcome_needs_what_accounts_for_it() {
    for (code, words) in [
        (
            Code::Refused,
            "vCPU 4 refused, and nothing accounts for that (because)",
        ),
        (
            Code::TimedOut,
            "vCPU 4 timed_out, and nothing accounts for that",
        ),
        (Code::Failed, "vCPU 4 failed, and nothing accounts for that"),
        (Code::Cancelled, "vCPU 4 cancelled, and nobody took it back"),
        (
            Code::Superseded,
            "vCPU 4 superseded, and nothing later wants anything else",
        ),
    ] {
        says(&Case::kept(code).found(), words);
    }
    let allowed = |code, allowed| Case::kept(code).change(|case| case.allowed = allowed);
    let refused = Allowed {
        refused: true,
        ..Allowed::default()
    };
    let timed_out = Allowed {
        timed_out: true,
        ..Allowed::default()
    };
    let failed = Allowed {
        failed: true,
        ..Allowed::default()
    };
    assert_eq!(allowed(Code::Refused, refused), "");
    assert_eq!(allowed(Code::TimedOut, timed_out), "");
    assert_eq!(allowed(Code::Failed, failed), "");
    says(&allowed(Code::TimedOut, refused), "timed_out");
    assert_eq!(
        Case::kept(Code::Cancelled).change(|case| case.told[0].cancelled = true),
        ""
    );
    // Taken back, it is where it was.
    says(
        &Case::kept(Code::Cancelled).change(|case| {
            case.told[0].cancelled = true;
            case.now = Case::unplug().now;
        }),
        "it must be where it was",
    );
    says(
        &Case::unplug().change(|case| case.part().outcome = None),
        "ended, but not for vCPU 4",
    );
    says(
        &Case::unplug().change(|case| case.told[0].ended.state = State::Refused),
        "ended as Refused, and the worst of its parts did not",
    );
    says(
        &Case::unplug().change(|case| case.told[0].ended.ended_at = None),
        "the worst of its parts did not",
    );
}

#[test]
fn a_guest_that_was_told_to_refuse_must_do_so() {
    let refusing = With {
        refusing: true,
        ..With::default()
    };
    says(
        &Case::unplug().change(|case| case.with = refusing),
        "though the guest was told to refuse",
    );
    let with = |ost| {
        Case::kept(Code::Refused).change(|case| {
            case.with = refusing;
            if let Some(outcome) = &mut case.part().outcome {
                outcome.ost = ost;
            }
        })
    };
    assert_eq!(with(Some([3, 0x80])), "");
    says(&with(Some([3, 0x82])), "but not with (3, 0x80)");
}

#[test]
fn the_latest_request_wins() {
    let off = |code| {
        told(
            8,
            Ask::One(4, Target::Offline),
            &[(4, Target::Offline, code)],
        )
    };
    let on = told(
        9,
        Ask::One(4, Target::Online),
        &[(4, Target::Online, Code::Succeeded)],
    );
    let both = vec![on.clone(), off(Code::Superseded)];
    assert_eq!(Case::new(both.clone(), &BEFORE).found(), "");
    let gone = Case::unplug().now;
    says(
        &Case::new(both, &BEFORE).change(|case| case.now = gone),
        "it must be online",
    );
    // Asked for once more, and chosen twice.
    let more = told(9, Ask::Count(5), &[(3, Target::Online, Code::Succeeded)]);
    let asks = vec![off(Code::Succeeded), more];
    let mut case = Case::new(asks, &["online", "online", "dormant", "online", "dormant"]);
    case.start(3);
    says(
        &case.found(),
        "wants 1 more and 0 fewer vCPUs where 2 were wanted",
    );
}

#[test]
fn what_the_guest_ejects_is_gone() {
    let with = With {
        ejected: Some(4),
        ..With::default()
    };
    let mut case = Case::new(
        Vec::new(),
        &["online", "online", "dormant", "absent", "dormant"],
    );
    // It was not asked for.
    case.now.desired = 3;
    says(&case.found(), "vCPU 4 is dormant");
    case.with = with;
    assert_eq!(case.found(), "");
    says(
        &case.change(|case| case.now.desired = 2),
        "desired is 2, and 3 were asked for last",
    );
}

#[test]
fn a_cancelled_operation_has_a_part_that_was_cancelled() {
    let found = Case::unplug().change(|case| case.told[0].cancelled = true);
    says(
        &found,
        "was taken back by its answer, and no vCPU of it was",
    );
}

/// A machine that has started again has what was wanted of it, whatever its guest has started of that so far.
#[test]
fn a_reboot_loses_no_vcpu() {
    let reboot = |now: &[&'static str]| {
        let mut case = Case::new(Vec::new(), now);
        case.with.reboot = true;
        case.found()
    };
    let later = ["online", "plugged", "absent", "absent", "online"];
    assert_eq!(reboot(&later), "");
    let fewer = reboot(&["online", "absent", "absent", "absent", "online"]);
    says(&fewer, "vCPU 1 is absent, and was Online");
    let more = reboot(&["online", "online", "absent", "online", "online"]);
    says(&more, "vCPU 3 is online, and was Absent");
}

#[test]
fn a_guest_may_start_later_what_it_has() {
    let mut model = Model::new(&vcpus(&["online", "plugged"]), 7, Allowed::default());
    let judge = |model: &mut Model, now: &[&'static str]| {
        let (none, with) = (BTreeMap::new(), With::default());
        model.judge(Vec::new(), with, &vcpus(now), &none).join("; ")
    };
    assert_eq!(judge(&mut model, &["online", "online"]), "");
    says(
        &judge(&mut model, &["online", "plugged"]),
        "vCPU 1 is plugged, and was Online",
    );
}

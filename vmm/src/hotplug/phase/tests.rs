//! The transition function, tried on everything.

use super::super::step::walk_back;
use super::*;
use crate::acpi::ost::word;
use crate::hotplug::guest::{About, Says};
use std::collections::{HashMap, HashSet, VecDeque};

const NOTIFIERS: &[&str] = &["first", "second"];
/// The turn of the second one, where the guest has answered whatever it was asked.
const HOST: At = At::Host {
    n: 1,
    earlier: false,
};

/// Every event, with every kind of data that makes a difference.
fn events() -> Vec<Event> {
    let mut events = vec![
        Event::Plug,
        Event::Drained,
        Event::Ejected,
        Event::GateEmpty,
        Event::Ready,
        Event::Started,
        Event::Parked,
        Event::StartFailed("no room".into()),
        Event::RequestRead(Asked::Insert),
        Event::RequestRead(Asked::Eject),
    ];
    for retracted in [false, true] {
        events.push(Event::Unplug { retracted });
    }
    for retracted in [Withdrawn::Nothing, Withdrawn::Last, Withdrawn::All] {
        events.push(Event::Recall { retracted });
        let inside = vec!["a user".to_owned()];
        events.push(Event::Deadline {
            retracted,
            inside,
            untold: None,
        });
    }
    for n in 0..NOTIFIERS.len() {
        events.push(Event::NotifierReady(n));
        events.push(Event::NotifierRefused(n, "busy".into()));
    }
    for source in [1, 3, 0x103, 0x200] {
        for status in [0, 1, 0x80, 0x82, 0x84, 0xffff] {
            let word = word(source, status);
            events.push(Event::Said(word));
            if word.is_no_to_insertion() {
                events.push(Event::NotTaken(word));
            }
            if word.about == About::Ejection && word.says != Says::Begun {
                events.push(Event::Kept(word));
            }
        }
    }
    events
}

/// Every phase that can be reached from nothing, with a way to it.
fn reachable() -> HashMap<Phase, Vec<Event>> {
    let mut ways = HashMap::from([(Phase::Absent, Vec::new())]);
    let mut queue = VecDeque::from([Phase::Absent]);
    while let Some(phase) = queue.pop_front() {
        for event in events() {
            let next = phase.next(event.clone(), NOTIFIERS).phase;
            if !ways.contains_key(&next) {
                let mut way = ways[&phase].clone();
                way.push(event);
                ways.insert(next, way);
                queue.push_back(next);
            }
        }
    }
    ways
}

#[test]
fn every_phase_can_be_reached_and_answers_every_event_with_a_reason() {
    let ways = reachable();
    let names: HashSet<_> = ways.keys().map(|phase| phase.name()).collect();
    assert_eq!(names.len(), 11, "{names:?}");
    let stages: HashSet<_> = ways.keys().map(|phase| phase.stage()).collect();
    assert_eq!(stages, HashSet::from(Phase::STAGES));
    for phase in ways.keys() {
        for event in events() {
            let change = phase.next(event.clone(), NOTIFIERS);
            assert!(!change.reason.is_empty(), "{phase:?} {event:?}");
        }
    }
}

/// Each way through the steps does them in their order, and never stops the thread of a vCPU that the guest
/// has not ejected, save where the guest never knew of it.
#[test]
fn a_thread_is_stopped_only_after_the_eject_and_the_sync() {
    for phase in reachable().keys() {
        for event in events() {
            let change = phase.next(event.clone(), NOTIFIERS);
            let parks = change.actions.contains(&Action::Park);
            let from_sync = matches!(phase, Phase::Syncing { .. }) && event == Event::GateEmpty;
            let unnoticed = *phase == Phase::Starting;
            assert!(!parks || from_sync || unnoticed, "{phase:?} {event:?}");
            let closes = change.actions.contains(&Action::CloseGate);
            let enters = matches!(change.phase, Phase::Syncing { .. });
            let was_in = matches!(phase, Phase::Syncing { .. });
            assert_eq!(closes, enters && !was_in);
            if let (true, Phase::Syncing { undo }) = (closes, change.phase) {
                // Kept out only after the guest was done, or said or cannot know that it has it.
                let not_taken = matches!(event, Event::NotTaken(_));
                assert!(
                    undo || not_taken || event == Event::Ejected,
                    "{phase:?} {event:?}"
                );
            }
        }
    }
}

/// Whatever ends an unplug without an eject undoes exactly what was begun, in reverse order.
#[test]
fn an_unplug_that_fails_is_undone_in_reverse() {
    for phase in reachable().keys().copied() {
        let Phase::Notifying { was, at } = phase else {
            continue;
        };
        for event in events() {
            let change = phase.next(event.clone(), NOTIFIERS);
            if change.phase != was.into() && change.phase != (Phase::Overdue { was }) {
                continue;
            }
            assert_eq!(
                change.actions,
                walk_back(at, NOTIFIERS.len()),
                "{phase:?} {event:?}"
            );
            let code = change.outcome.unwrap().code;
            assert_ne!(code, Code::Succeeded, "{phase:?} {event:?}");
        }
    }
}

/// What the guest was asked for earlier is not forgotten before it has said no, or has ejected the CPU, or is asked anew.
#[test]
fn an_earlier_request_is_with_the_guest_until_it_answers() {
    let late = |phase: &Phase| {
        matches!(
            phase,
            Phase::Overdue { .. }
                | Phase::Draining { earlier: true, .. }
                | Phase::Notifying {
                    at: At::Host { earlier: true, .. },
                    ..
                }
        )
    };
    for phase in reachable().into_keys().filter(late) {
        for event in events() {
            let change = phase.next(event.clone(), NOTIFIERS);
            let asked = matches!(change.phase, Phase::Notifying { at: At::Asked, .. });
            let answers = matches!(event, Event::Kept(_) | Event::NotTaken(_) | Event::Ejected);
            assert!(
                late(&change.phase) || asked || answers,
                "{phase:?} {event:?}"
            );
            // Whoever waited for an attempt that has come to nothing is told so.
            let over = phase.name() != "overdue" && change.phase.name() == "overdue";
            let told = change
                .outcome
                .is_some_and(|o| o.detail.contains("still honoured"));
            assert!(!over || told, "{phase:?} {event:?}");
        }
    }
}

/// "Succeeded" comes with a proof, and with nothing else.
#[test]
fn success_is_said_only_with_physical_proof() {
    for phase in reachable().keys().copied() {
        for event in events() {
            let change = phase.next(event.clone(), NOTIFIERS);
            if change
                .outcome
                .is_some_and(|outcome| outcome.code == Code::Succeeded)
            {
                let proof = matches!(
                    (phase, &event),
                    (Phase::Announced { .. } | Phase::Plugged, Event::Started)
                        | (Phase::Stopping { .. }, Event::Parked)
                        | (Phase::Overdue { was: Rest::Online }, Event::Kept(_))
                        | (Phase::Absent | Phase::Dormant, Event::Unplug { .. })
                        | (Phase::Online, Event::Plug)
                );
                assert!(proof, "{phase:?} {event:?}");
            }
        }
    }
}

/// From the moment of the eject there is only one way.
#[test]
fn an_ejected_vcpu_ends_dormant_whatever_else_happens() {
    for event in events() {
        let syncing = Phase::Syncing { undo: false }
            .next(event.clone(), NOTIFIERS)
            .phase;
        assert!(matches!(
            syncing,
            Phase::Syncing { undo: false } | Phase::Stopping { undo: false }
        ));
        let stopping = Phase::Stopping { undo: false }.next(event, NOTIFIERS).phase;
        assert!(matches!(
            stopping,
            Phase::Stopping { undo: false } | Phase::Dormant
        ));
    }
}

#[test]
fn a_deadline_says_who_did_not_answer() {
    let untold = None;
    let said = |at, retracted| {
        let phase = Phase::Notifying {
            was: Rest::Online,
            at,
        };
        let deadline = Event::Deadline {
            retracted,
            inside: Vec::new(),
            untold: Some("no such CPU".to_owned()),
        };
        let change = phase.next(deadline, NOTIFIERS);
        change.outcome.unwrap().detail
    };
    assert!(said(HOST, Withdrawn::Nothing).contains("second did not let go"));
    let asked = Phase::Notifying {
        was: Rest::Announced,
        at: At::Asked,
    };
    let deadline = Event::Deadline {
        retracted: Withdrawn::All,
        inside: Vec::new(),
        untold: None,
    };
    let change = asked.next(deadline, NOTIFIERS);
    assert!(change.outcome.unwrap().detail.contains("was not asked"));
    let unread = said(At::Asked, Withdrawn::All);
    assert!(unread.contains("never read") && unread.contains("no such CPU"));
    assert!(said(At::Read, Withdrawn::Nothing).contains("did not answer"));
    assert!(said(At::Begun, Withdrawn::Nothing).contains("stuck taking the CPU down"));
    let inside = vec!["statistics".to_owned()];
    let change = Phase::Syncing { undo: false }.next(
        Event::Deadline {
            retracted: Withdrawn::Nothing,
            inside,
            untold,
        },
        NOTIFIERS,
    );
    assert!(change.outcome.unwrap().detail.contains("statistics"));
}

#[test]
fn a_refusal_carries_the_guest_s_code_and_its_words() {
    let phase = Phase::Notifying {
        was: Rest::Online,
        at: At::Begun,
    };
    let change = phase.next(Event::Kept(word(3, 0x82)), NOTIFIERS);
    let outcome = change.outcome.unwrap();
    assert_eq!(
        (outcome.code, outcome.word),
        (Code::Refused, Some((3, 0x82)))
    );
    assert!(outcome.detail.contains("could not offline"));
}

/// It is not shown an ejection before.
#[test]
fn a_guest_that_acknowledges_what_it_was_asked_for_meanwhile_is_notified_again() {
    let known = [
        Event::Started,
        Event::Said(word(1, 0)),
        Event::Said(word(1, 0x80)),
        Event::Said(word(1, 1)),
    ];
    for event in known {
        let reminds = |was, at| {
            let change = Phase::Notifying { was, at }.next(event.clone(), NOTIFIERS);
            change.actions.contains(&Action::Remind)
        };
        assert!(reminds(Rest::Announced, At::Asked), "{event:?}");
        assert!(!reminds(Rest::Announced, HOST), "{event:?}");
        let earlier = At::Host {
            n: 1,
            earlier: true,
        };
        assert!(reminds(Rest::Announced, earlier), "{event:?}");
        assert!(!reminds(Rest::Plugged, At::Asked), "{event:?}");
    }
}

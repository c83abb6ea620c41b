//! Answers that come late, or twice, or from somebody who was not asked; and who waits for them.

use super::super::*;
use super::bench::{Bench, Silent};
use crate::hotplug::client::{Refused, Request, Want};
use crate::hotplug::gate::Binding;
use crate::hotplug::view::{MachineState, OperationId, View};
use std::sync::Mutex;

#[test]
fn a_deadline_that_another_operation_outlives_is_published() {
    let mut bench = Bench::new(2);
    let brief = bench.ask_within(Want::Count(1), Duration::ZERO);
    let patient = bench.ask(Want::Count(1));
    assert_eq!(bench.code(brief), None);
    bench.tick();
    assert_eq!(bench.code(brief), Some(Code::TimedOut));
    bench.guest_ejects(1);
    assert_eq!(bench.code(patient), Some(Code::Succeeded));
}

/// It may have lost the interrupt, and not the request.
#[test]
fn a_guest_that_has_not_read_an_ejection_is_reminded_of_it() {
    let mut bench = Bench::new(2);
    bench.ask(Want::Count(1));
    let reminded = |bench: &mut Bench| {
        if let Some(again) = &mut bench.coordinator.slots[1].again {
            again.0 = Instant::now();
        }
        bench.tick();
        let calls = bench.machine.calls.iter();
        calls.filter(|(what, _)| *what == "remind").count()
    };
    assert_eq!(reminded(&mut bench), 1);
    assert_eq!(reminded(&mut bench), 2);
    let pause = bench.coordinator.slots[1].again.unwrap().1;
    assert_eq!(pause, 4 * REMIND);
    bench.reads_eject(1);
    assert_eq!(reminded(&mut bench), 2);
    bench.guest_ejects(1);
}

#[test]
fn a_guest_that_could_not_be_told_is_not_to_blame() {
    for (boot, want) in [(1, 2), (2, 1)] {
        let mut bench = Bench::new(boot);
        bench.machine.untold = Some("no such CPU");
        let operation = bench.ask_within(Want::Count(want), Duration::ZERO);
        if want == 2 {
            bench.tell(1, Message::Ready);
        }
        bench.tick();
        let outcome = bench.outcome(operation, 1);
        assert_eq!(outcome.code, Code::TimedOut);
        assert!(outcome.detail.contains("no such CPU"), "{outcome:?}");
    }
}

/// A guest that hangs, and a client that does not stop asking.
#[test]
fn there_is_an_end_to_what_waits_for_a_guest() {
    let mut bench = Bench::new(2);
    let last = (0..1024).map(|_| bench.ask(Want::Count(1))).last();
    let request = Request {
        want: Want::Count(1),
        timeout: None,
    };
    let refused = bench.coordinator.change(&request, &mut bench.machine);
    assert!(matches!(refused, Err(Refused::Busy(_))), "{refused:?}");
    assert_eq!(bench.view().operations.len(), 1024);
    // As soon as the guest gets on there is room again.
    bench.guest_ejects(1);
    assert_eq!(bench.code(last.unwrap()), Some(Code::Succeeded));
    bench.ask(Want::Count(2));
}

/// The guest has begun, and nobody can say that the vCPU stays before the guest has.
#[test]
fn online_is_not_said_of_a_vcpu_that_the_guest_is_taking_down() {
    for supersede in [false, true] {
        let mut bench = Bench::new(2);
        let unplug = bench.ask_within(Want::Count(1), Duration::ZERO);
        bench.reads_eject(1);
        bench.ost(1, 3, 0x84);
        bench.machine.noticed = true;
        if !supersede {
            bench.tick();
            assert_eq!(bench.code(unplug), Some(Code::TimedOut));
        }
        let brief = bench.ask_within(Want::Count(2), Duration::ZERO);
        bench.tick();
        assert_eq!(bench.code(brief), Some(Code::TimedOut));
        assert!(
            bench
                .outcome(brief, 1)
                .detail
                .contains("still taking it down")
        );
        let patient = bench.ask(Want::Count(2));
        assert_eq!(bench.code(patient), None);
        bench.notice(1, What::Ejected { requested: true });
        bench.tell(1, Message::Parked);
        bench.guest_starts(1);
        assert_eq!(bench.code(patient), Some(Code::Succeeded));
    }
}

#[test]
fn a_late_no_settles_who_waits_for_online() {
    let mut bench = Bench::new(2);
    bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.reads_eject(1);
    bench.machine.noticed = true;
    bench.tick();
    let online = bench.ask(Want::Count(2));
    assert_eq!(bench.code(online), None);
    bench.ost(1, 3, 0x82);
    assert_eq!(bench.code(online), Some(Code::Succeeded));
    assert_eq!(bench.phase(1), "online");
}

#[test]
fn a_part_that_only_waits_can_be_cancelled() {
    let mut bench = Bench::new(2);
    bench.ask(Want::Count(1));
    bench.reads_eject(1);
    bench.machine.noticed = true;
    let back = bench.ask(Want::Count(2));
    bench.coordinator.cancel(back, &mut bench.machine).unwrap();
    assert_eq!(bench.code(back), Some(Code::Cancelled));
    bench.guest_ejects(1);
    assert_eq!(bench.phase(1), "dormant");
}

#[test]
fn only_the_end_of_an_operation_is_awaited() {
    let mut bench = Bench::new(2);
    let mut earlier = bench.view();
    bench.ask(Want::Count(1));
    let mut is_awaited = |bench: &mut Bench| {
        let view = bench.view();
        let awaited = view.is_awaited_after(&earlier);
        earlier = view;
        awaited
    };
    assert!(!is_awaited(&mut bench));
    bench.reads_eject(1);
    assert!(!is_awaited(&mut bench));
    bench.notice(1, What::Ejected { requested: true });
    assert!(!is_awaited(&mut bench));
    bench.tell(1, Message::Parked);
    assert!(is_awaited(&mut bench));
    // One that begins and ends in the same turn.
    bench.ask(Want::Count(1));
    assert!(is_awaited(&mut bench));
    assert!(
        View {
            state: MachineState::None,
            ..View::default()
        }
        .is_awaited_after(&View::default())
    );
}

/// Nothing of it can be undone, and its record is whole.
#[test]
fn an_unplug_that_only_the_host_has_to_end_ends_without_anybody_who_waits() {
    let mut bench = Bench::new(2);
    bench.ask(Want::Count(1));
    bench.reads_eject(1);
    bench.notice(1, What::Ejected { requested: true });
    let back = bench.ask(Want::Count(2));
    bench.coordinator.cancel(back, &mut bench.machine).unwrap();
    bench.tell(1, Message::Parked);
    assert_eq!(bench.phase(1), "dormant");
    let timeline = bench.view().vcpus[1].last_unplug.clone().unwrap();
    let last = timeline.phases.last().map(|(name, _)| *name);
    assert_eq!(last, Some("stopping"));
}

/// Whoever wanted it away was superseded by what is cancelled now: nobody's deadline is left to undo the rest.
#[test]
fn an_unplug_that_nobody_waits_for_any_longer_is_undone() {
    for (read, phase) in [(false, "online"), (true, "overdue")] {
        let mut bench = Bench::new(2);
        bench.ask(Want::Count(1));
        if read {
            bench.reads_eject(1);
            bench.machine.noticed = true;
            let back = bench.ask(Want::Count(2));
            bench.coordinator.cancel(back, &mut bench.machine).unwrap();
        } else {
            bench.ask(Want::Count(2));
        }
        assert_eq!(bench.phase(1), phase);
        assert_eq!(bench.coordinator.next_tick(), None);
        let inside =
            bench.coordinator.gates[1]
                .entrance()
                .enter(Binding::Movable, "a user", Duration::ZERO);
        assert!(inside.is_ok());
    }
}

#[test]
fn a_thread_that_cannot_be_had_after_all_leaves_the_vcpu_dormant() {
    let mut bench = Bench::new(1);
    let operation = bench.ask(Want::Count(2));
    let run = bench.run(1);
    let failed = Message::NotReady(1, run, "no room".into());
    bench.coordinator.message(failed, &mut bench.machine);
    bench.tell(1, Message::Parked);
    assert_eq!(
        (bench.code(operation), bench.phase(1)),
        (Some(Code::Failed), "dormant")
    );
}

#[test]
fn a_user_inside_holds_a_vcpu_whose_plug_is_undone() {
    let mut bench = Bench::new(1);
    let plug = bench.ask(Want::Count(2));
    bench.tell(1, Message::Ready);
    let inside =
        bench.coordinator.gates[1]
            .entrance()
            .enter(Binding::Pinned, "a user", Duration::ZERO);
    bench.coordinator.cancel(plug, &mut bench.machine).unwrap();
    assert_eq!(bench.phase(1), "syncing");
    assert!(!bench.machine.calls.contains(&("park", 1)));
    drop(inside);
    let message = bench.posted.lock().unwrap().pop().unwrap();
    bench.coordinator.message(message, &mut bench.machine);
    assert_eq!(bench.phase(1), "stopping");
}

#[test]
fn only_what_is_about_the_insertion_answers_it() {
    let mut bench = Bench::new(1);
    let plug = bench.ask(Want::Count(2));
    bench.tell(1, Message::Ready);
    for (source, status) in [(1, 0x80), (0x200, 0), (3, 0)] {
        bench.ost(1, source, status);
        assert_eq!((bench.phase(1), bench.code(plug)), ("announced", None));
    }
    bench.ost(1, 1, 0);
    assert_eq!(bench.phase(1), "plugged");
}

#[test]
fn a_notifier_s_answer_to_an_earlier_attempt_is_stale() {
    let mut bench = Bench::new(2);
    let dones = Arc::new(Mutex::new(Vec::new()));
    bench.coordinator.register(Box::new(Silent(dones.clone())));
    let first = bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.tick();
    assert!(
        bench
            .outcome(first, 1)
            .detail
            .contains("silent did not let go")
    );
    let second = bench.ask(Want::Count(1));
    let take = |index: usize| dones.lock().unwrap().remove(index);
    take(0).ready();
    let stale = bench.posted.lock().unwrap().pop().unwrap();
    bench.coordinator.message(stale, &mut bench.machine);
    assert!(!bench.machine.calls.contains(&("request eject", 1)));
    // One that gives no answer at all has refused.
    drop(take(0));
    let dropped = bench.posted.lock().unwrap().pop().unwrap();
    bench.coordinator.message(dropped, &mut bench.machine);
    assert_eq!(
        bench.outcome(second, 1).detail,
        "silent refused: it gave no answer"
    );
}

#[test]
fn the_operation_that_ended_last_is_kept_longest() {
    let mut bench = Bench::new(3);
    let long = bench.ask(Want::One(1, Target::Offline));
    for _ in 0..300 {
        bench.ask(Want::One(0, Target::Online));
    }
    bench.guest_ejects(1);
    assert_eq!(bench.code(long), Some(Code::Succeeded));
}

/// There may be no vCPU at all between two machines, and nothing that remembers the one before but the coordinator.
#[test]
fn a_notifier_s_answer_about_a_forgotten_machine_is_stale() {
    let mut bench = Bench::new(2);
    let dones = Arc::new(Mutex::new(Vec::new()));
    bench.coordinator.register(Box::new(Silent(dones.clone())));
    bench.ask(Want::Count(1));
    bench.coordinator.stopped();
    bench.coordinator.describe(0, 0);
    bench.coordinator.describe(2, 4);
    bench.coordinator.restarted(2);
    bench.tell(1, Message::Started);
    bench.ask(Want::Count(1));
    for asked in [false, true] {
        dones.lock().unwrap().remove(0).ready();
        let answer = bench.posted.lock().unwrap().pop().unwrap();
        bench.coordinator.message(answer, &mut bench.machine);
        let calls = &bench.machine.calls;
        assert_eq!(calls.contains(&("request eject", 1)), asked);
    }
}

/// The guest has read of vCPU 1, and not said whether it takes it.
fn not_answered() -> Bench {
    let mut bench = Bench::new(1);
    bench.ask(Want::Count(2));
    bench.tell(1, Message::Ready);
    bench.machine.noticed = true;
    bench.notice(1, What::InsertRead);
    bench
}

/// The guest's last word is that it does not take vCPU 1, as who asked for it is told.
fn does_not_take(bench: &mut Bench, operation: OperationId) {
    bench.machine.told_again = false;
    bench.ost(1, 1, 1);
    let outcome = bench.outcome(operation, 1);
    assert_eq!((outcome.code, outcome.word), (Code::Refused, Some((1, 1))));
    bench.tell(1, Message::Parked);
    assert_eq!(bench.phase(1), "dormant");
}

/// A no may cross a reminder; the answer to that one counts.
#[test]
fn a_no_that_crosses_a_reminder_is_not_the_last_word() {
    let mut bench = Bench::new(1);
    let operation = bench.ask(Want::Count(2));
    bench.tell(1, Message::Ready);
    bench.notice(1, What::InsertRead);
    bench.machine.told_again = true;
    bench.ost(1, 1, 1);
    assert_eq!((bench.phase(1), bench.code(operation)), ("announced", None));
    does_not_take(&mut bench, operation);
}

/// The same where it is to go again before the guest has said whether it takes it: what it does not take is gone.
#[test]
fn a_no_to_what_is_to_go_again_is_as_good_as_its_ejection() {
    let mut bench = not_answered();
    let operation = bench.ask(Want::Count(1));
    assert_eq!(bench.phase(1), "notifying");
    bench.machine.told_again = true;
    bench.ost(1, 1, 1);
    assert_eq!((bench.phase(1), bench.code(operation)), ("notifying", None));
    bench.machine.told_again = false;
    bench.ost(1, 1, 1);
    bench.tell(1, Message::Parked);
    assert_eq!(bench.phase(1), "dormant");
    assert_eq!(bench.code(operation), Some(Code::Succeeded));
}

/// It has acknowledged the CPU just when the time was over, and with that has seen that it is asked for; but it looks for what
/// it is asked only when it is told to.
#[test]
fn a_guest_that_has_just_acknowledged_what_is_asked_for_is_told_to_look() {
    for starts in [false, true] {
        let mut bench = not_answered();
        let operation = bench.ask_within(Want::Count(1), Duration::ZERO);
        bench.tick();
        assert_eq!(bench.code(operation), Some(Code::TimedOut));
        assert_eq!(bench.phase(1), "overdue");
        bench.machine.calls.clear();
        match starts {
            true => bench.tell(1, Message::Started),
            false => bench.ost(1, 1, 0),
        }
        let reminded = |bench: &Bench| {
            let calls = bench.machine.calls.iter();
            calls.filter(|(what, _)| *what == "remind").count()
        };
        assert_eq!(reminded(&bench), 1);
        // Once: it has looked, and what it does now is its own affair.
        bench.tell(1, Message::Started);
        assert_eq!((reminded(&bench), bench.phase(1)), (1, "overdue"));
        bench.guest_ejects(1);
        assert_eq!(bench.phase(1), "dormant");
    }
}

/// The same where it says no to the insertion: what it does not take is gone, unless it was told of it again.
#[test]
fn a_guest_that_does_not_take_what_nobody_waits_for_any_more_has_it_no_longer() {
    let mut bench = not_answered();
    bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.tick();
    assert_eq!(bench.phase(1), "overdue");
    bench.machine.calls.clear();
    bench.machine.told_again = true;
    bench.ost(1, 1, 1);
    assert_eq!(bench.phase(1), "overdue");
    assert!(bench.machine.calls.contains(&("remind", 0)));
    // Who asks for it now is told that the guest does not take it, and not that all is well.
    let operation = bench.ask(Want::Count(2));
    does_not_take(&mut bench, operation);
}

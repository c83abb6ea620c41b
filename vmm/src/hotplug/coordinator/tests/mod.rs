//! The coordinator, with a machine made of plain data and a guest played by the test.

mod bench;
mod board;
mod comes;
mod counts;
mod late;
mod news;
mod pause;
mod random;
mod twice;

use super::*;
use crate::hotplug::client::{Refused, Want};
use crate::hotplug::gate::{Binding, Denied};
use crate::hotplug::notifier::{Answer, Done};
use bench::Bench;
use std::sync::Mutex;

#[test]
fn an_unplug_goes_through_every_step_and_ends_with_proof() {
    let mut bench = Bench::new(3);
    let operation = bench.ask(Want::One(1, Target::Offline));
    assert_eq!((bench.phase(1), bench.code(operation)), ("notifying", None));
    bench.reads_eject(1);
    bench.ost(1, 3, 0x84);
    bench.notice(1, What::Ejected { requested: true });
    assert_eq!((bench.phase(1), bench.code(operation)), ("stopping", None));
    bench.tell(1, Message::Parked);
    assert_eq!(bench.code(operation), Some(Code::Succeeded));
    let calls: Vec<_> = bench
        .machine
        .calls
        .iter()
        .filter(|(what, _)| *what != "acknowledge")
        .collect();
    assert_eq!(calls, [&("request eject", 1), &("park", 1)]);
    let view = bench.view();
    assert_eq!((view.desired, view.plugged, view.online), (2, 2, 2));
    let timeline = view.vcpus[1].last_unplug.clone().unwrap();
    let phases: Vec<_> = timeline.phases.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        phases,
        [
            "draining",
            "notifying.asked",
            "notifying.read",
            "notifying.begun",
            "syncing",
            "stopping"
        ]
    );
}

#[test]
fn a_plug_is_done_when_the_guest_has_started_it() {
    let mut bench = Bench::new(1);
    let operation = bench.ask(Want::Count(2));
    assert_eq!(bench.machine.calls, [("start", 1)]);
    bench.tell(1, Message::Ready);
    bench.notice(1, What::InsertRead);
    bench.ost(1, 1, 0);
    assert_eq!((bench.phase(1), bench.code(operation)), ("plugged", None));
    assert_eq!((bench.view().plugged, bench.view().online), (2, 1));
    bench.tell(1, Message::Started);
    assert_eq!(bench.code(operation), Some(Code::Succeeded));
    // And again, after an unplug: the same vCPU, another run.
    let before = bench.run(1);
    bench.ask(Want::Count(1));
    bench.guest_ejects(1);
    assert_eq!(bench.phase(1), "dormant");
    let again = bench.ask(Want::Count(2));
    bench.guest_starts(1);
    assert_eq!(bench.code(again), Some(Code::Succeeded));
    assert_eq!(bench.run(1), before + 1);
}

#[test]
fn a_refusal_leaves_everything_as_it_was_and_a_later_request_may_succeed() {
    let mut bench = Bench::new(2);
    let operation = bench.ask(Want::Count(1));
    bench.reads_eject(1);
    bench.ost(1, 3, 0x84);
    bench.ost(1, 3, 0x82);
    assert_eq!(bench.code(operation), Some(Code::Refused));
    assert_eq!(bench.outcome(operation, 1).word, Some((3, 0x82)));
    assert_eq!(bench.phase(1), "online");
    let view = bench.view();
    assert_eq!((view.desired, view.plugged, view.online), (1, 2, 2));
    let again = bench.ask(Want::Count(1));
    bench.guest_ejects(1);
    assert_eq!(bench.code(again), Some(Code::Succeeded));
}

#[test]
fn many_vcpus_are_one_operation() {
    let mut bench = Bench::new(4);
    let operation = bench.ask(Want::Set([0, 2].into()));
    bench.guest_ejects(1);
    assert_eq!(bench.code(operation), None);
    bench.reads_eject(3);
    bench.ost(3, 3, 0x80);
    assert_eq!(bench.code(operation), Some(Code::Refused));
    assert_eq!(bench.outcome(operation, 1).code, Code::Succeeded);
    assert_eq!(bench.plugged(), [0, 2, 3]);
}

#[test]
fn the_latest_request_wins_while_the_guest_has_not_read_the_one_before() {
    let mut bench = Bench::new(2);
    let first = bench.ask(Want::Count(1));
    let second = bench.ask(Want::Count(2));
    assert_eq!(bench.code(first), Some(Code::Superseded));
    assert_eq!(bench.code(second), Some(Code::Succeeded));
    assert_eq!(bench.phase(1), "online");
}

#[test]
fn the_latest_request_wins_also_when_the_guest_is_at_work_already() {
    let mut bench = Bench::new(2);
    let first = bench.ask(Want::Count(1));
    bench.reads_eject(1);
    bench.machine.noticed = true;
    let second = bench.ask(Want::Count(2));
    assert_eq!(bench.code(first), Some(Code::Superseded));
    assert_eq!(bench.code(second), None);
    bench.guest_ejects(1);
    // It is gone, and comes back at once.
    assert_eq!(bench.phase(1), "starting");
    bench.guest_starts(1);
    assert_eq!(bench.code(second), Some(Code::Succeeded));
}

#[test]
fn a_refusal_is_good_news_for_who_wants_it_back() {
    let mut bench = Bench::new(2);
    bench.ask(Want::Count(1));
    bench.reads_eject(1);
    bench.machine.noticed = true;
    let second = bench.ask(Want::Count(2));
    bench.ost(1, 3, 0x82);
    assert_eq!(bench.code(second), Some(Code::Succeeded));
}

#[test]
fn an_unplug_takes_over_from_a_plug_at_every_stage() {
    for stage in 0..4 {
        let mut bench = Bench::new(1);
        let plug = bench.ask(Want::Count(2));
        if stage > 0 {
            bench.tell(1, Message::Ready);
        }
        if stage > 1 {
            bench.notice(1, What::InsertRead);
            bench.machine.noticed = true;
        }
        if stage > 2 {
            bench.ost(1, 1, 0);
        }
        let unplug = bench.ask(Want::Count(1));
        assert_eq!(bench.code(plug), Some(Code::Superseded), "stage {stage}");
        if stage < 2 {
            bench.tell(1, Message::Parked);
        } else {
            bench.guest_ejects(1);
        }
        assert_eq!(bench.code(unplug), Some(Code::Succeeded), "stage {stage}");
        assert_eq!(bench.phase(1), "dormant");
    }
}

#[test]
fn the_same_request_twice_is_carried_out_once() {
    let mut bench = Bench::new(2);
    let operations = [
        bench.ask(Want::Count(1)),
        bench.ask(Want::One(1, Target::Offline)),
    ];
    bench.guest_ejects(1);
    for operation in operations {
        assert_eq!(bench.code(operation), Some(Code::Succeeded));
    }
    let asked = bench
        .machine
        .calls
        .iter()
        .filter(|(what, _)| *what == "request eject");
    assert_eq!(asked.count(), 1);
}

#[test]
fn a_deadline_undoes_what_the_guest_never_read() {
    let mut bench = Bench::new(2);
    let operation = bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.tick();
    assert_eq!(bench.code(operation), Some(Code::TimedOut));
    assert!(bench.outcome(operation, 1).detail.contains("never read"));
    assert_eq!(bench.phase(1), "online");
}

#[test]
fn an_eject_after_the_deadline_is_honoured_and_reported() {
    let mut bench = Bench::new(2);
    let operation = bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.reads_eject(1);
    bench.ost(1, 3, 0x84);
    bench.machine.noticed = true;
    bench.tick();
    assert_eq!(bench.code(operation), Some(Code::TimedOut));
    assert_eq!(bench.outcome(operation, 1).word, Some((3, 0x84)));
    assert_eq!(bench.phase(1), "overdue");
    bench.notice(1, What::Ejected { requested: true });
    bench.tell(1, Message::Parked);
    assert_eq!(bench.phase(1), "dormant");
    let late = operation + 1;
    assert_eq!(bench.code(late), Some(Code::Succeeded));
    assert_eq!(
        bench.view().operations[&late].kind,
        OperationKind::GuestEject
    );
}

#[test]
fn a_user_inside_the_gate_holds_the_vcpu_and_is_named() {
    let mut bench = Bench::new(2);
    let inside =
        bench.coordinator.gates[1]
            .entrance()
            .enter(Binding::Pinned, "statistics", Duration::ZERO);
    let operation = bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.reads_eject(1);
    bench.notice(1, What::Ejected { requested: true });
    assert_eq!(bench.phase(1), "syncing");
    bench.tick();
    assert_eq!(bench.code(operation), Some(Code::TimedOut));
    assert!(bench.outcome(operation, 1).detail.contains("statistics"));
    drop(inside);
    let message = bench.posted.lock().unwrap().pop().unwrap();
    bench.coordinator.message(message, &mut bench.machine);
    assert_eq!(bench.phase(1), "stopping");
    bench.tell(1, Message::Parked);
    assert_eq!(bench.phase(1), "dormant");
}

#[test]
fn a_request_while_an_old_eject_is_not_done_waits_for_it() {
    let mut bench = Bench::new(2);
    let inside =
        bench.coordinator.gates[1]
            .entrance()
            .enter(Binding::Pinned, "a user", Duration::ZERO);
    bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.notice(1, What::Ejected { requested: true });
    bench.tick();
    let back = bench.ask(Want::One(1, Target::Online));
    drop(inside);
    let message = bench.posted.lock().unwrap().pop().unwrap();
    bench.coordinator.message(message, &mut bench.machine);
    bench.tell(1, Message::Parked);
    bench.guest_starts(1);
    assert_eq!(bench.code(back), Some(Code::Succeeded));
}

#[test]
fn cancel_is_carried_out_or_clearly_refused() {
    let mut bench = Bench::new(2);
    let operation = bench.ask(Want::Count(1));
    bench
        .coordinator
        .cancel(operation, &mut bench.machine)
        .unwrap();
    assert_eq!(
        (bench.code(operation), bench.phase(1)),
        (Some(Code::Cancelled), "online")
    );
    let cancel = |bench: &mut Bench, id| bench.coordinator.cancel(id, &mut bench.machine);
    assert!(matches!(
        cancel(&mut bench, operation),
        Err(Refused::Conflict(_))
    ));
    assert!(matches!(cancel(&mut bench, 99), Err(Refused::Unknown(_))));
    let operation = bench.ask(Want::Count(1));
    bench.reads_eject(1);
    bench.machine.noticed = true;
    assert!(matches!(
        cancel(&mut bench, operation),
        Err(Refused::Conflict(_))
    ));
    assert_eq!(bench.code(operation), None);
}

#[test]
fn a_host_without_room_fails_the_operation_and_nothing_else() {
    let mut bench = Bench::new(1);
    bench.machine.full = true;
    let operation = bench.ask(Want::Count(2));
    assert_eq!(bench.code(operation), Some(Code::Failed));
    assert!(bench.outcome(operation, 1).detail.contains("no room"));
    bench.tell(1, Message::Parked);
    bench.machine.full = false;
    let operation = bench.ask(Want::Count(2));
    bench.guest_starts(1);
    assert_eq!(bench.code(operation), Some(Code::Succeeded));
}

#[test]
fn late_messages_of_an_earlier_run_or_plug_are_dropped() {
    let mut bench = Bench::new(2);
    bench.ask(Want::Count(1));
    bench.guest_ejects(1);
    bench.ask(Want::Count(2));
    let (run, plug) = (bench.run(1), bench.coordinator.slots[1].plug);
    bench.tell(1, Message::Ready);
    bench
        .coordinator
        .message(Message::Started(1, run - 1), &mut bench.machine);
    let what = What::Ejected { requested: true };
    let stale = Notice {
        vcpu: 1,
        plug,
        what,
    };
    bench
        .coordinator
        .message(Message::Notice(stale), &mut bench.machine);
    assert_eq!(bench.phase(1), "announced");
}

#[test]
fn an_eject_of_the_guest_s_own_is_an_operation() {
    let mut bench = Bench::new(2);
    bench.ost(1, 3, 0x84);
    bench.notice(1, What::Ejected { requested: false });
    bench.tell(1, Message::Parked);
    assert_eq!(bench.phase(1), "dormant");
    let view = bench.view();
    let operation = view.operations.values().next().unwrap();
    assert_eq!(operation.kind, OperationKind::GuestEject);
    assert_eq!(operation.ended.unwrap().code, Code::Succeeded);
    assert_eq!((view.desired, view.plugged), (2, 1));
}

#[test]
fn a_restart_finishes_unplugs_and_carries_plugs_on() {
    let mut bench = Bench::new(3);
    let unplug = bench.ask(Want::One(1, Target::Offline));
    bench.reads_eject(1);
    let plug = bench.ask(Want::One(3, Target::Online));
    let wanted = bench.coordinator.wanted();
    assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [0, 2, 3]);
    bench.coordinator.restarted(2);
    assert_eq!(wanted[&2], bench.run(2));
    assert_eq!(bench.code(unplug), Some(Code::Succeeded));
    assert_eq!((bench.code(plug), bench.phase(3)), (None, "plugged"));
    for id in [2, 3] {
        bench.tell(id, Message::Started);
    }
    assert_eq!(bench.code(plug), Some(Code::Succeeded));
}

/// A machine that is to go waits for whoever is inside of its vCPUs, also of one that was on its way out.
#[test]
fn a_machine_that_goes_keeps_everybody_out_and_waits_for_those_inside() {
    let mut bench = Bench::new(3);
    let gates: Vec<_> = bench
        .view()
        .vcpus
        .iter()
        .map(|vcpu| vcpu.gate.clone())
        .collect();
    let enter = |id: usize| gates[id].enter(Binding::Pinned, "a test", Duration::ZERO);
    let inside = [enter(1).unwrap(), enter(2).unwrap()];
    bench.ask(Want::One(2, Target::Offline));
    bench.reads_eject(2);
    bench.notice(2, What::Ejected { requested: true });
    assert_eq!(bench.phase(2), "syncing");
    assert_eq!(bench.coordinator.retire(), [1, 2].into());
    for id in 0..4 {
        assert!(matches!(enter(id), Err(Denied::Offline)));
    }
    let said = bench.coordinator.inside();
    assert!(
        said.starts_with("vcpu-1: a test (") && said.contains("; vcpu-2: a test ("),
        "{said}"
    );
    for (id, inside) in (1..).zip(inside) {
        assert!(bench.posted.lock().unwrap().is_empty());
        drop(inside);
        let message = bench.posted.lock().unwrap().pop().unwrap();
        assert_eq!(bench.coordinator.is_left(&message), Some(id));
    }
    assert_eq!(bench.coordinator.inside(), "");
    bench.coordinator.restarted(2);
    assert!(enter(1).is_ok());
    assert!(matches!(enter(2), Err(Denied::Offline)));
}

/// A notifier that remembers what it was told.
struct Recorder {
    name: &'static str,
    said: Arc<Mutex<Vec<String>>>,
    answer: Answer,
}

impl Notifier for Recorder {
    fn name(&self) -> &'static str {
        self.name
    }
    fn prepare(&mut self, vcpu: VcpuRef, done: Done) {
        self.said
            .lock()
            .unwrap()
            .push(format!("{} prepare {}", self.name, vcpu.id));
        match self.answer.clone() {
            Answer::Ready => done.ready(),
            Answer::Refused(why) => done.refuse(why),
        }
    }
    fn undo(&mut self, vcpu: VcpuRef) {
        self.said
            .lock()
            .unwrap()
            .push(format!("{} undo {}", self.name, vcpu.id));
    }
    fn after_death(&mut self, vcpu: VcpuRef) {
        self.said
            .lock()
            .unwrap()
            .push(format!("{} after {}", self.name, vcpu.id));
    }
}

#[test]
fn notifiers_run_in_order_before_the_guest_and_are_undone_in_reverse() {
    use Answer::{Ready, Refused};
    for second in [Ready, Refused("busy".into())] {
        let mut bench = Bench::new(2);
        let said = Arc::new(Mutex::new(Vec::new()));
        for (name, answer) in [("a", Ready), ("b", second.clone())] {
            bench.coordinator.register(Box::new(Recorder {
                name,
                said: said.clone(),
                answer,
            }));
        }
        let operation = bench.ask(Want::Count(1));
        loop {
            let message = bench.posted.lock().unwrap().pop();
            let Some(message) = message else { break };
            bench.coordinator.message(message, &mut bench.machine);
        }
        let asked = bench.machine.calls.contains(&("request eject", 1));
        if second == Ready {
            assert!(asked);
            bench.guest_ejects(1);
            assert_eq!(
                *said.lock().unwrap(),
                ["a prepare 1", "b prepare 1", "a after 1", "b after 1"]
            );
        } else {
            assert!(!asked);
            assert_eq!(
                *said.lock().unwrap(),
                ["a prepare 1", "b prepare 1", "b undo 1", "a undo 1"]
            );
            assert_eq!(bench.outcome(operation, 1).detail, "b refused: busy");
            assert_eq!(bench.phase(1), "online");
        }
    }
}

#[test]
fn a_new_vcpu_is_announced_again_until_it_is_acknowledged() {
    let mut bench = Bench::new(1);
    bench.ask(Want::Count(2));
    bench.tell(1, Message::Ready);
    let due = |bench: &mut Bench| {
        let slot = &mut bench.coordinator.slots[1];
        if let Some(again) = &mut slot.again {
            again.0 = Instant::now();
        }
        bench.tick();
        bench
            .machine
            .calls
            .iter()
            .filter(|(what, _)| *what == "announce")
            .count()
    };
    assert_eq!(due(&mut bench), 1);
    assert_eq!(due(&mut bench), 2);
    bench.ost(1, 1, 0);
    assert_eq!(due(&mut bench), 2);
}

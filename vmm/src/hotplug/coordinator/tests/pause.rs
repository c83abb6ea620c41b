//! A machine that stands still, and the time of what is under way with it.

use super::super::*;
use super::bench::{Bench, FOREVER};
use crate::hotplug::client::{Refused, Request, Want};

const MINUTE: Duration = Duration::from_secs(60);

impl Bench {
    /// A pause that is over at once, and stood for so long.
    fn pause_for(&mut self, time: Duration) {
        let begin = Instant::now();
        self.coordinator.pause(begin);
        self.coordinator.resume(begin + time);
    }

    /// Begins a pause that has stood for so long already when it ends at once.
    fn pause_since(&mut self, time: Duration) -> Instant {
        let begin = Instant::now().checked_sub(time).unwrap();
        self.coordinator.pause(begin);
        begin
    }
}

#[test]
fn a_deadline_moves_by_the_time_that_the_machine_stood_still() {
    for (stood, late) in [(MINUTE, false), (Duration::ZERO, true)] {
        let mut bench = Bench::new(2);
        let operation = bench.ask_within(Want::Count(1), Duration::ZERO);
        bench.pause_for(stood);
        bench.tick();
        let code = bench.code(operation);
        assert_eq!(code, late.then_some(Code::TimedOut));
        bench.guest_ejects(1);
        assert_eq!(bench.phase(1), "dormant");
    }
}

#[test]
fn nothing_is_overdue_in_a_pause_and_a_second_one_is_as_one() {
    let mut bench = Bench::new(2);
    let operation = bench.ask_within(Want::Count(1), Duration::ZERO);
    let begin = bench.pause_since(MINUTE);
    bench.coordinator.pause(Instant::now());
    assert_eq!(bench.coordinator.next_tick(), None);
    bench.tick();
    assert_eq!(bench.code(operation), None);
    let due = begin + MINUTE + MINUTE;
    bench.coordinator.resume(due);
    let next = bench.coordinator.next_tick().unwrap();
    assert!(next >= due, "it stood for two minutes from its begin");
    // It goes on once only.
    bench.coordinator.resume(due + MINUTE);
    assert_eq!(bench.coordinator.next_tick(), Some(next));
}

#[test]
fn a_change_is_refused_and_a_cancel_is_not() {
    let mut bench = Bench::new(2);
    let operation = bench.ask(Want::Count(1));
    bench.coordinator.pause(Instant::now());
    for want in [
        Want::Count(2),
        Want::Set([0].into()),
        Want::One(1, Target::Offline),
    ] {
        let request = Request {
            want,
            timeout: None,
        };
        let refused = bench.coordinator.change(&request, &mut bench.machine);
        let Err(Refused::Paused(problem)) = refused else {
            panic!("{refused:?}")
        };
        assert!(problem.to_string().contains("resume it first"));
    }
    assert_eq!(bench.view().operations.len(), 1);
    let cancelled = bench.coordinator.cancel(operation, &mut bench.machine);
    assert_eq!(cancelled, Ok(()));
    assert_eq!(bench.code(operation), Some(Code::Cancelled));
    assert_eq!(bench.phase(1), "online");
    bench.coordinator.resume(Instant::now());
    let operation = bench.ask(Want::Count(1));
    bench.guest_ejects(1);
    assert_eq!(bench.code(operation), Some(Code::Succeeded));
}

/// The guest has ejected it just before: what is left is done by the host, and needs no guest.
#[test]
fn a_thread_that_is_to_leave_the_guest_is_kicked_in_a_pause() {
    let mut bench = Bench::new(2);
    let operation = bench.ask(Want::Count(1));
    bench.reads_eject(1);
    bench.pause_since(MINUTE);
    bench.notice(1, What::Ejected { requested: true });
    assert_eq!(bench.phase(1), "stopping");
    let next = bench.coordinator.next_tick().unwrap();
    assert!(next > Instant::now(), "by the host's time");
    bench.coordinator.slots[1].again = Some((Instant::now(), REKICK));
    bench.machine.calls.clear();
    bench.tick();
    assert_eq!(bench.machine.calls, [("park", 1)]);
    bench.tell(1, Message::Parked);
    assert_eq!(bench.code(operation), Some(Code::Succeeded));
    assert_eq!(bench.coordinator.next_tick(), None);
}

/// Its thread comes up in the pause; the guest hears of it after that, and has all of its time for it.
#[test]
fn a_plug_that_is_announced_in_a_pause_has_its_reminder_after_it() {
    let mut bench = Bench::new(1);
    let operation = bench.ask(Want::Count(2));
    let begin = bench.pause_since(MINUTE);
    bench.tell(1, Message::Ready);
    assert_eq!(bench.phase(1), "announced");
    assert_eq!(bench.coordinator.next_tick(), None);
    bench.machine.calls.clear();
    bench.tick();
    assert!(bench.machine.calls.is_empty());
    bench.coordinator.resume(begin + MINUTE);
    let next = bench.coordinator.next_tick();
    assert_eq!(next, Some(begin + MINUTE + REMIND));
    bench.notice(1, What::InsertRead);
    bench.ost(1, 1, 0);
    bench.tell(1, Message::Started);
    assert_eq!(bench.code(operation), Some(Code::Succeeded));
}

#[test]
fn a_pause_is_no_part_of_how_long_a_phase_took() {
    let mut bench = Bench::new(2);
    bench.ask_within(Want::Count(1), FOREVER);
    bench.coordinator.slots[1].age(MINUTE);
    let begin = bench.pause_since(MINUTE);
    bench.coordinator.resume(begin + MINUTE);
    bench.guest_ejects(1);
    let timeline = bench.view().vcpus[1].last_unplug.clone().unwrap();
    let total: Duration = timeline.phases.iter().map(|(_, time)| *time).sum();
    assert!(total < MINUTE / 2, "{timeline:?}");
}

#[test]
fn a_restart_in_a_pause_begins_in_it() {
    let mut bench = Bench::new(2);
    let unplug = bench.ask(Want::Count(1));
    bench.coordinator.pause(Instant::now());
    bench.coordinator.restarted(2);
    assert_eq!(bench.code(unplug), Some(Code::Succeeded));
    let request = Request {
        want: Want::Count(2),
        timeout: None,
    };
    let refused = bench.coordinator.change(&request, &mut bench.machine);
    assert!(matches!(refused, Err(Refused::Paused(_))));
}

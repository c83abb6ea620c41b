//! A vCPU that the guest is asked to eject again, before it has answered the first time.

use super::super::*;
use super::bench::{Bench, FOREVER, Silent};
use crate::hotplug::client::Want;
use std::sync::Mutex;

/// Who ran out of time asks again, and the guest has two requests: the answer to the second counts.
#[test]
fn a_no_to_an_earlier_request_is_not_the_last_word() {
    let mut bench = Bench::new(2);
    bench.machine.noticed = true;
    bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.reads_eject(1);
    bench.tick();
    assert_eq!(bench.phase(1), "overdue");
    let second = bench.ask(Want::Count(1));
    bench.reads_eject(1);
    bench.ost(1, 3, 0x84);
    bench.machine.asked_again = true;
    bench.ost(1, 3, 0x82);
    assert_eq!((bench.phase(1), bench.code(second)), ("notifying", None));
    bench.machine.asked_again = false;
    bench.ost(1, 3, 0x84);
    bench.ost(1, 3, 0x82);
    let outcome = bench.outcome(second, 1);
    assert_eq!(
        (outcome.code, outcome.word),
        (Code::Refused, Some((3, 0x82)))
    );
    assert_eq!(bench.phase(1), "online");
    // Nor is it where nobody waits any longer.
    bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.reads_eject(1);
    bench.tick();
    bench.machine.asked_again = true;
    bench.ost(1, 3, 0x82);
    assert_eq!(bench.phase(1), "overdue");
    bench.guest_ejects(1);
    assert_eq!(bench.phase(1), "dormant");
}

/// Who ran out of time asks again: that the guest has read the first request says nothing of the second.
#[test]
fn what_the_guest_has_read_of_an_earlier_request_is_stale() {
    let mut bench = Bench::new(2);
    bench.machine.noticed = true;
    bench.ask_within(Want::Count(1), Duration::ZERO);
    bench.tick();
    assert_eq!(bench.phase(1), "overdue");
    bench.ask(Want::Count(1));
    bench.notice(1, What::EjectRead(1));
    let stage = |bench: &Bench| bench.coordinator.slots[1].phase.stage();
    assert_eq!(stage(&bench), "notifying.asked");
    assert!(bench.coordinator.slots[1].again.is_some());
    bench.notice(1, What::EjectRead(2));
    assert_eq!(stage(&bench), "notifying.read");
}

/// A new attempt that comes to nothing before the guest's turn does not make the earlier request forgotten.
#[test]
fn an_earlier_request_is_with_the_guest_whatever_a_notifier_says_to_the_next() {
    #[derive(Clone, Copy, PartialEq)]
    enum Ends {
        Refused,
        TakenBack,
        Late,
        NoAtLast,
    }
    for (ends, code, phase) in [
        (Ends::Refused, Code::Refused, "overdue"),
        (Ends::TakenBack, Code::Cancelled, "overdue"),
        (Ends::Late, Code::TimedOut, "overdue"),
        (Ends::NoAtLast, Code::Refused, "online"),
    ] {
        let mut bench = Bench::new(2);
        bench.ask_within(Want::Count(1), Duration::ZERO);
        bench.reads_eject(1);
        bench.machine.noticed = true;
        bench.tick();
        let dones = Arc::new(Mutex::new(Vec::new()));
        bench.coordinator.register(Box::new(Silent(dones.clone())));
        let time = match ends {
            Ends::Late => Duration::ZERO,
            _ => FOREVER,
        };
        let second = bench.ask_within(Want::Count(1), time);
        match ends {
            Ends::Refused => drop(dones.lock().unwrap().pop()),
            Ends::TakenBack => {
                let cancelled = bench.coordinator.cancel(second, &mut bench.machine);
                cancelled.unwrap();
            }
            Ends::Late => bench.tick(),
            Ends::NoAtLast => {
                bench.ost(1, 3, 0x82);
                assert_eq!((bench.phase(1), bench.code(second)), ("notifying", None));
                drop(dones.lock().unwrap().pop());
            }
        }
        let posted = std::mem::take(&mut *bench.posted.lock().unwrap());
        for message in posted {
            bench.coordinator.message(message, &mut bench.machine);
        }
        assert_eq!((bench.phase(1), bench.code(second)), (phase, Some(code)));
        let earlier = bench.outcome(second, 1).detail.contains("earlier request");
        assert_eq!(earlier, phase == "overdue");
        let calls = bench.machine.calls.iter();
        let requests = calls.filter(|call| **call == ("request eject", 1)).count();
        assert_eq!(requests, 1, "the guest was asked for a notifier's no");
    }
}

/// The second of two requests is taken back where the guest has not read it, and the first one stays with it.
#[test]
fn a_request_is_taken_back_behind_one_that_the_guest_has_read() {
    for (cancel, code) in [(true, Code::Cancelled), (false, Code::Superseded)] {
        let mut bench = Bench::new(2);
        bench.ask_within(Want::Count(1), Duration::ZERO);
        bench.reads_eject(1);
        bench.machine.noticed = true;
        bench.tick();
        (bench.machine.noticed, bench.machine.earlier) = (false, true);
        let second = bench.ask(Want::Count(1));
        let mut online = None;
        if cancel {
            let cancelled = bench.coordinator.cancel(second, &mut bench.machine);
            cancelled.unwrap();
        } else {
            online = Some(bench.ask(Want::Count(2)));
        }
        assert_eq!(
            (bench.phase(1), bench.code(second)),
            ("overdue", Some(code))
        );
        // The guest's no is to the first, and the number is that of the last.
        bench.ost(1, 3, 0x82);
        assert_eq!(bench.phase(1), "online");
        if let Some(online) = online {
            assert_eq!(bench.code(online), Some(Code::Succeeded));
        }
    }
}

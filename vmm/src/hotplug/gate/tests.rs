//! What the gate does, one thing after the other; what it does when things happen at once is for `interleaved`.

use super::Binding::{Movable, Pinned};
use super::*;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

fn gate() -> (Gate, Receiver<()>) {
    let (tx, rx) = channel();
    let gate = Gate::new(move |_| tx.send(()).unwrap());
    gate.open();
    (gate, rx)
}

const SOON: Duration = Duration::from_secs(10);

fn enter(gate: &Gate, binding: Binding) -> Result<Inside, Denied> {
    gate.entrance().enter(binding, "a test", SOON)
}

fn names(visitors: &[Visitor]) -> Vec<&'static str> {
    visitors.iter().map(|visitor| visitor.who).collect()
}

#[test]
fn every_state_answers_both_kinds() {
    let (gate, _empty) = gate();
    assert!(enter(&gate, Movable).is_ok() && enter(&gate, Pinned).is_ok());
    gate.drain();
    assert_eq!(enter(&gate, Movable).unwrap_err(), Denied::Migrate);
    assert!(enter(&gate, Pinned).is_ok());
    gate.set_offline();
    for binding in [Movable, Pinned] {
        assert_eq!(enter(&gate, binding).unwrap_err(), Denied::Offline);
    }
    assert!(gate.close());
    let inside = gate.entrance().enter(Pinned, "late", Duration::ZERO);
    assert_eq!(inside.unwrap_err(), Denied::Deadline(vec![]));
}

#[test]
fn the_last_user_of_a_closed_gate_says_so_once() {
    let (gate, empty) = gate();
    let first = enter(&gate, Movable).unwrap();
    let second = gate.entrance().enter(Pinned, "statistics", SOON).unwrap();
    gate.drain();
    assert!(!gate.close());
    drop(first);
    assert_eq!(names(&gate.users()), ["statistics"]);
    assert!(empty.try_recv().is_err());
    drop(second);
    assert!(empty.try_recv().is_ok());
    assert!(empty.try_recv().is_err());
}

#[test]
fn leaving_an_open_or_draining_gate_says_nothing() {
    let (gate, empty) = gate();
    drop(enter(&gate, Pinned).unwrap());
    let inside = enter(&gate, Pinned).unwrap();
    gate.drain();
    drop(inside);
    assert!(empty.try_recv().is_err());
}

/// A user that waits at the closed gate enters after a rollback, and is told where there is none.
#[test]
fn who_waits_at_the_gate_learns_what_became_of_it() {
    for (decide, entered) in [
        (Gate::open as fn(&Gate), Ok(())),
        (Gate::set_offline, Err(Denied::Offline)),
    ] {
        let (gate, _empty) = gate();
        let inside = enter(&gate, Pinned).unwrap();
        assert!(!gate.close());
        let waiter = {
            let entrance = gate.entrance();
            thread::spawn(move || entrance.enter(Pinned, "a waiter", SOON).map(drop))
        };
        decide(&gate);
        assert_eq!(waiter.join().unwrap(), entered);
        drop(inside);
    }
}

#[test]
fn waits_are_counted_on_both_sides() {
    let tally = Arc::<GateTally>::default();
    let counts = || (tally.closing.read().count(), tally.users.read().count());
    let gate = Gate::counted(|_| {}, tally.clone());
    gate.open();
    drop(enter(&gate, Pinned));
    assert!(gate.close());
    assert_eq!(counts(), (1, 0));
    assert_eq!(tally.closing.read().sum, Duration::ZERO);
    gate.open();
    let inside = enter(&gate, Pinned).unwrap();
    assert!(!gate.close());
    let brief = Duration::from_millis(2);
    let denied = gate.entrance().enter(Pinned, "a waiter", brief);
    let Denied::Deadline(waited_for) = denied.unwrap_err() else {
        panic!("it was let in, or sent away");
    };
    assert_eq!(names(&waited_for), ["a test"]);
    assert_eq!(counts(), (1, 1));
    drop(inside);
    assert_eq!(counts(), (2, 1));
    let waits = [&tally.closing, &tally.users].map(|waits| waits.read().sum);
    assert!(
        waits.iter().all(|wait| *wait >= Duration::from_millis(2)),
        "{waits:?}"
    );
    // One that is opened again has not closed.
    gate.open();
    let inside = enter(&gate, Pinned).unwrap();
    assert!(!gate.close());
    gate.open();
    drop(inside);
    assert_eq!(counts(), (2, 1));
}

/// What the order of steps is about: a notifier waits for a thread that needs the gate. With the gate
/// only draining meanwhile, that thread gets through; with the gate closed first, nobody gets on.
#[test]
fn closing_before_the_notifiers_deadlocks_and_after_them_does_not() {
    let notifier_is_done = |close_first: bool| {
        let (gate, _empty) = gate();
        let (done, is_done) = channel();
        let (go_on, goes_on) = channel();
        let user = gate.entrance();
        let brief = Duration::from_millis(200);
        let thread = thread::spawn(move || {
            let held = user.enter(Pinned, "a worker", brief).unwrap();
            let _ = done.send(true);
            goes_on.recv().unwrap();
            // Whom the notifier waits for: it needs the vCPU once more before it is through.
            let result = user.enter(Pinned, "a worker", brief).map(drop);
            drop(held);
            let _ = done.send(result.is_ok());
        });
        assert!(is_done.recv().unwrap());
        if close_first {
            assert!(!gate.close());
        } else {
            gate.drain();
        }
        go_on.send(()).unwrap();
        let through = is_done.recv().unwrap();
        thread.join().unwrap();
        through
    };
    assert!(notifier_is_done(false));
    assert!(!notifier_is_done(true));
}

#[test]
fn a_user_goes_in_and_out_as_often_as_it_likes() {
    let (gate, empty) = gate();
    let mut user = gate.entrance().user("statistics");
    for _ in 0..3 {
        let stay = user.enter(Movable, SOON).unwrap();
        assert_eq!(names(&gate.users()), ["statistics"]);
        drop(stay);
        assert_eq!(gate.users(), []);
    }
    assert!(gate.close());
    assert!(user.enter(Pinned, Duration::ZERO).is_err());
    gate.open();
    let stay = user.enter(Movable, SOON).unwrap();
    assert!(!gate.close());
    drop(stay);
    assert!(empty.try_recv().is_ok() && empty.try_recv().is_err());
}

#[test]
fn a_user_that_is_gone_is_not_waited_for() {
    let (gate, _empty) = gate();
    let user = gate.entrance().user("statistics");
    drop(enter(&gate, Pinned).unwrap());
    drop(user);
    assert!(gate.close());
    assert!(gate.0.lock().users.is_empty());
}

/// Forgetting a stay keeps the vCPU, until the user goes in once more and out, or is gone.
#[test]
fn a_stay_that_was_forgotten_goes_on() {
    let (gate, empty) = gate();
    let mut user = gate.entrance().user("statistics");
    std::mem::forget(user.enter(Movable, SOON).unwrap());
    assert!(!gate.close());
    gate.open();
    drop(user.enter(Movable, SOON).unwrap());
    assert!(gate.close());
    gate.open();
    std::mem::forget(user.enter(Movable, SOON).unwrap());
    assert!(!gate.close());
    assert!(empty.try_recv().is_err());
    drop(user);
    assert!(empty.try_recv().is_ok());
}

#[test]
fn each_visitor_is_named_with_its_thread_and_its_time() {
    let (gate, _empty) = gate();
    let named = thread::Builder::new().name("reader".to_owned());
    let entrance = gate.entrance();
    let (came, comes) = channel();
    let (over, is_over) = channel::<()>();
    let early = named.spawn(move || {
        let mut user = entrance.user("early");
        let _stay = user.enter(Movable, SOON).unwrap();
        came.send(()).unwrap();
        // Until this test is.
        let _ = is_over.recv();
    });
    comes.recv().unwrap();
    let open = gate.users();
    assert_eq!(open[0].since, Since::AtLeast(Duration::ZERO));
    gate.drain();
    let _late = gate.entrance().enter(Pinned, "late", SOON).unwrap();
    assert!(!gate.close());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2) {
        thread::yield_now();
    }
    let [first, second] = gate.users().try_into().unwrap();
    assert!(first.thread.starts_with("reader, "), "{first}");
    assert!(
        matches!(first.since, Since::AtLeast(time) if time >= Duration::from_millis(2)),
        "{first}"
    );
    assert!(
        matches!(second.since, Since::Exactly(time) if time >= Duration::from_millis(2)),
        "{second}"
    );
    assert!(first.to_string().contains(", for more than "), "{first}");
    assert!(!second.to_string().contains("more than"), "{second}");
    drop(over);
    early.unwrap().join().unwrap();
}

/// One who comes once has looked at a clock, also where the gate was open.
#[test]
fn who_comes_once_is_named_with_its_exact_time() {
    let (gate, _empty) = gate();
    let _inside = enter(&gate, Pinned).unwrap();
    assert!(matches!(gate.users()[0].since, Since::Exactly(_)));
    assert!(!gate.close());
    assert!(matches!(gate.users()[0].since, Since::Exactly(_)));
}

#[test]
fn every_closing_has_its_own_number() {
    let (tx, rx) = channel();
    let gate = Gate::new(move |closing| tx.send(closing).unwrap());
    gate.open();
    assert_eq!(gate.closing(), None);
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let inside = enter(&gate, Pinned).unwrap();
        assert!(!gate.close());
        numbers.extend(gate.closing());
        drop(inside);
        gate.open();
    }
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), numbers);
    assert_ne!(numbers[0], numbers[1]);
}

/// The real fences, under as much contention as there are threads: whoever is inside keeps what the gate is for.
#[test]
fn nobody_is_ever_inside_a_gate_that_has_closed() {
    const ROUNDS: usize = 2_000;
    let (gate, empty) = gate();
    let there = AtomicBool::new(true);
    let over = AtomicBool::new(false);
    let through = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut user = gate.entrance().user("a test");
                while !over.load(Ordering::Relaxed) {
                    if let Ok(_stay) = user.enter(Pinned, SOON) {
                        assert!(there.load(Ordering::Relaxed), "taken from under a user");
                    }
                }
            });
        }
        let through = (0..ROUNDS).take_while(|_| {
            let all_out = gate.close() || empty.recv_timeout(SOON).is_ok();
            there.store(!all_out, Ordering::Relaxed);
            gate.set_offline();
            there.store(true, Ordering::Relaxed);
            gate.open();
            all_out
        });
        let through = through.count();
        over.store(true, Ordering::Relaxed);
        through
    });
    assert_eq!(through, ROUNDS, "the last one has left and not said so");
    // Debian's kernels have membarrier(2), and so does whatever we test on.
    assert!(fence::is_asymmetric());
}

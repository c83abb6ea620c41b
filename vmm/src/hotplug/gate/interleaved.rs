//! The gate in the interleavings of its threads, with memory as the model of C11 has it but for loads that come before what
//! they depend on (loom): in all of them where it is about the fences, otherwise in all with a few switches where none is
//! forced. No time passes, so that whoever waits waits for ever. How the fences are modelled stands in `fence`.
//!
//!     cargo test -p hotvisor-vmm --features loom --lib interleaved

use super::Binding::{Movable, Pinned};
use super::*;
use crate::sync::{check, complaint};
use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::thread::LocalKey;

/// Longer than any model takes; in a model no time passes, so that nobody gives up.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The closings of which a gate has said that everybody has left.
#[derive(Default)]
struct Told {
    closings: Mutex<Vec<u64>>,
    more: Condvar,
}

/// A gate, and the thing that it guards.
struct World {
    gate: Gate,
    there: AtomicBool,
    /// How often it was used: written by users inside alone, and not by two at once.
    uses: AtomicUsize,
    told: Arc<Told>,
}

impl World {
    fn new() -> Arc<Self> {
        let told = Arc::<Told>::default();
        let teller = told.clone();
        let gate = Gate::new(move |closing| {
            teller.closings.lock().unwrap().push(closing);
            teller.more.notify_all();
        });
        gate.open();
        Arc::new(Self {
            gate,
            there: AtomicBool::new(true),
            uses: AtomicUsize::new(0),
            told,
        })
    }

    /// Closes the gate, waits for those inside, and takes away what it guards. Returns how often it was used: whatever
    /// users did inside is seen by who has taken it away.
    fn take_away(&self) -> usize {
        let empty = self.gate.close();
        let uses = self.take(empty);
        let said = self.told.closings.lock().unwrap().len();
        assert_eq!(said, usize::from(!empty));
        uses
    }

    /// The same with the whole machine, whatever the gate is.
    fn retire(&self) {
        let empty = self.gate.retire();
        self.take(empty);
    }

    fn take(&self, empty: bool) -> usize {
        let closing = self.gate.closing().unwrap();
        if !empty {
            let mut closings = self.told.closings.lock().unwrap();
            while !closings.contains(&closing) {
                closings = self.told.more.wait(closings).unwrap();
            }
        }
        self.there.store(false, Ordering::Relaxed);
        let uses = self.uses.load(Ordering::Relaxed);
        self.gate.set_offline();
        uses
    }

    fn user(self: &Arc<Self>, work: impl FnOnce(&Self, &mut User) + 'static) -> JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || {
            let mut user = world.gate.entrance().user("a test");
            work(&world, &mut user);
        })
    }

    fn use_once(&self, user: &mut User, binding: Binding) -> Result<(), Denied> {
        let _stay = user.enter(binding, PATIENCE)?;
        self.is_there();
        let uses = self.uses.load(Ordering::Relaxed);
        self.uses.store(uses + 1, Ordering::Relaxed);
        Ok(())
    }

    fn is_there(&self) {
        let there = self.there.load(Ordering::Relaxed);
        assert!(there, "taken from under a user");
    }
}

/// What the checker says of a model if one side has no fence.
fn without(side: &'static LocalKey<Cell<bool>>, run: impl Fn() + Send + Sync + 'static) -> String {
    side.set(false);
    let said = complaint(None, run);
    side.set(true);
    said
}

#[test]
fn nothing_is_taken_from_under_a_user() {
    check(Some(4), || {
        let world = World::new();
        let user = world.user(|world, user| {
            let first = world.use_once(user, Movable);
            let again = world.use_once(user, Pinned);
            assert!(again.is_err() || first.is_ok(), "it came back by itself");
        });
        let seen = world.take_away();
        user.join().unwrap();
        assert_eq!(seen, world.uses.load(Ordering::Relaxed));
    });
}

/// Goes in, and stays.
fn way_in() {
    let world = World::new();
    let user = world.user(|world, user| {
        if let Ok(stay) = user.enter(Pinned, PATIENCE) {
            world.is_there();
            std::mem::forget(stay);
        }
    });
    if world.gate.close() {
        world.there.store(false, Ordering::Relaxed);
    } else {
        world.gate.open();
    }
    world.gate.set_offline();
    user.join().unwrap();
}

/// Goes in, leaves, and stays a user: to be none any more takes the lock, where nothing is missed.
fn way_out() {
    let world = World::new();
    let mut user = ManuallyDrop::new(world.gate.entrance().user("a test"));
    let thread = thread::spawn(move || drop(user.enter(Pinned, PATIENCE)));
    world.take_away();
    thread.join().unwrap();
}

#[test]
fn neither_side_misses_the_other() {
    check(None, way_in);
    check(None, way_out);
}

/// With the whole machine it goes as by itself; whoever comes then, or waits, does not wait.
#[test]
fn a_gate_that_retires_waits_for_those_inside_and_for_nobody_else() {
    for is_closed in [false, true] {
        check(Some(3), move || {
            let world = World::new();
            let users = [Pinned, Movable].map(|binding| {
                world.user(move |world, user| match user.enter(binding, PATIENCE) {
                    Ok(_stay) => world.is_there(),
                    Err(denied) => assert_eq!(denied, Denied::Offline),
                })
            });
            if is_closed {
                let _ = world.gate.close();
            }
            world.retire();
            for user in users {
                user.join().unwrap();
            }
        });
    }
}

/// The checker sees what the fences are for: on the way in, a vCPU is taken from under its user; on the way out, the last
/// one does not see that somebody waits for it.
#[test]
fn without_a_fence_one_misses_the_other() {
    for side in [&fence::LIGHT, &fence::HEAVY] {
        let said = without(side, way_in);
        assert!(said.contains("taken from under a user"), "{said}");
        let said = without(side, way_out);
        assert!(said.contains("deadlock"), "{said}");
    }
}

#[test]
fn the_last_of_two_users_says_so_once() {
    check(Some(3), || {
        let world = World::new();
        let users = [Pinned, Movable].map(|binding| {
            world.user(move |world, user| {
                // Not the use, which is not for two at once.
                match user.enter(binding, PATIENCE) {
                    Ok(_stay) => world.is_there(),
                    Err(denied) => assert_eq!(denied, Denied::Offline),
                }
            })
        });
        world.take_away();
        for user in users {
            user.join().unwrap();
        }
    });
}

/// Who waits at the gate is let in after a rollback, and never sleeps through it.
#[test]
fn who_waits_is_woken_when_it_opens_again() {
    check(Some(4), || {
        let world = World::new();
        let user = world.user(|world, user| assert_eq!(world.use_once(user, Pinned), Ok(())));
        let _ = world.gate.close();
        world.gate.open();
        user.join().unwrap();
        // Whether it was inside then or not: that closing is over, and a later one has its own end.
        assert!(world.gate.close());
    });
}

/// Who does not wait is inside, or is told that it is not, and nobody waits for it.
#[test]
fn who_does_not_wait_is_not_waited_for() {
    check(Some(4), || {
        let world = World::new();
        let user = {
            let world = world.clone();
            thread::spawn(move || {
                let entrance = world.gate.entrance();
                if let Ok(_inside) = entrance.enter(Pinned, "a test", Duration::ZERO) {
                    world.is_there();
                }
            })
        };
        world.take_away();
        user.join().unwrap();
    });
}

/// A gate that drains lets pinned users in, and sends the others away at once.
#[test]
fn draining_keeps_no_pinned_user_out() {
    check(Some(4), || {
        let world = World::new();
        let user = world.user(|world, user| {
            let movable = world.use_once(user, Movable);
            assert!(
                matches!(movable, Ok(()) | Err(Denied::Migrate)),
                "{movable:?}"
            );
            assert_eq!(world.use_once(user, Pinned), Ok(()));
        });
        world.gate.drain();
        user.join().unwrap();
        world.take_away();
    });
}

/// What was made ready before the gate opened is seen by whoever comes in.
#[test]
fn who_comes_in_sees_what_was_made_ready() {
    check(Some(4), || {
        let world = World::new();
        world.take_away();
        let user = world.user(|world, user| {
            // Offline until it is there.
            let _ = world.use_once(user, Pinned);
        });
        world.there.store(true, Ordering::Relaxed);
        world.gate.open();
        user.join().unwrap();
    });
}

/// A user that is gone although its stay was forgotten is not waited for.
#[test]
fn a_user_that_goes_for_good_leaves() {
    check(Some(4), || {
        let world = World::new();
        let user = world.user(|_, user| {
            let stay = user.enter(Pinned, PATIENCE);
            std::mem::forget(stay);
        });
        world.take_away();
        user.join().unwrap();
    });
}

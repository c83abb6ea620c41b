//! The protocol of hotplug, checked in every order in which its participants can do what they do (stateright).
//!
//! Nothing of the product is modelled: the coordinator with its transition function and its table of steps, the gates and
//! the controller are the real ones. What is made up are those around them: a guest that obeys, refuses, delays, ejects
//! late or unasked, lies, reboots and dies; users who are bound to a vCPU or not, hold and want each other's lock, or are
//! waited for by a notifier; clients who ask, take back, run out of time, or have the machine stand still.
//!
//! A state is what everybody has done so far, played again from the beginning; two are the same if all that they depend
//! on looks the same. What each of them *may* do, there is so much of. What it must do sooner or later is *due*; and where
//! nothing is due any more, or where what is due goes round for ever, every request must have been answered.
//!
//! The checker must also find what is wrong with six ways in which others have done it, or might.

mod explore;
mod host;
mod late;
mod machine;
mod many;
mod people;
mod shape;
mod trace;
mod variants;
mod world;

use hotvisor_devices::cpu_hotplug::GuestEject;
use hotvisor_vmm::hotplug::client::Want;
use hotvisor_vmm::hotplug::view::Target;

use explore::check;
use people::{Do, Life};
use shape::{ALWAYS, Act, Budget, Shape, Variant};
use world::World;

fn holds(shape: Shape) {
    let begun = std::time::Instant::now();
    let (found, states) = check(shape);
    println!("{states} states in {:?}", begun.elapsed());
    assert!(found.is_none(), "{}", found.unwrap_or_default());
    assert!(states > 100, "{states} states are no model");
}

const PINNED: Life = Life {
    steps: &[Do::Enter(1, true), Do::Leave],
    is_waited_for: false,
    gives_up: false,
};

const MOVABLE: Life = Life {
    steps: &[Do::Enter(1, false), Do::Leave],
    ..PINNED
};

const OF_ANOTHER: Life = Life {
    steps: &[Do::Enter(2, true), Do::Leave],
    ..PINNED
};

/// Whom the notifier waits for: it goes through the gate once more before it is done.
const SAMPLER: Life = Life {
    steps: &[
        Do::Take,
        Do::EnterLock,
        Do::Enter(1, true),
        Do::Leave,
        Do::LeaveLock,
        Do::Release,
    ],
    is_waited_for: true,
    gives_up: false,
};

/// Two that take the same two things in opposite order. It is a mistake of theirs, and their patience ends it.
const LOCK_FIRST: Life = Life {
    steps: &[Do::Take, Do::Enter(1, true), Do::Leave, Do::Release],
    is_waited_for: false,
    gives_up: true,
};
const GATE_FIRST: Life = Life {
    steps: &[Do::Enter(1, true), Do::Take, Do::Release, Do::Leave],
    ..LOCK_FIRST
};

/// One vCPU beside the first, a user bound to it, and one request after the other.
const PLAIN: Shape = Shape {
    variant: Variant::Product,
    vcpus: 2,
    boot: 2,
    users: &[PINNED],
    notifier: false,
    guest_eject: GuestEject::Honour,
    budget: Budget {
        requests: 2,
        deadlines: 0,
        cancels: 0,
        pauses: 0,
        refusals: 0,
        overtakes: 0,
        slow: 0,
        finds: 0,
        lies: 0,
        ejects: 0,
        reboots: 0,
        deaths: 0,
        vetoes: 0,
        patient: 0,
        failures: 0,
        reminders: 0,
    },
};

#[test]
fn users_of_every_kind() {
    holds(Shape {
        users: &[PINNED, MOVABLE],
        ..PLAIN
    });
}

#[test]
fn users_that_hold_and_want_the_same_lock() {
    holds(Shape {
        users: &[LOCK_FIRST, GATE_FIRST],
        budget: Budget {
            requests: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

#[test]
fn a_notifier_that_waits_for_a_user() {
    holds(Shape {
        users: &[SAMPLER],
        notifier: true,
        budget: Budget {
            requests: 2,
            vetoes: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

#[test]
fn a_guest_that_refuses_and_delays() {
    holds(Shape {
        budget: Budget {
            requests: 2,
            cancels: 1,
            refusals: 1,
            ..PLAIN.budget
        },
        users: &[],
        ..PLAIN
    });
}

/// The host's threads and users go on, the guest and its time do not.
#[test]
fn a_machine_that_is_paused_in_the_midst_of_it() {
    for boot in [1, 2] {
        holds(Shape {
            boot,
            users: &[],
            budget: Budget {
                requests: 2,
                deadlines: 1,
                pauses: 1,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

/// The guest may be asked to give back what it has only just been told of, or found, and hears of that first.
#[test]
fn notifications_that_overtake_each_other() {
    for (boot, requests, finds) in [(1, 2, 1), (2, 3, 0)] {
        holds(Shape {
            boot,
            users: &[],
            budget: Budget {
                requests,
                overtakes: 1,
                finds,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

#[test]
fn a_guest_that_lies() {
    holds(Shape {
        users: &[],
        budget: Budget {
            requests: 1,
            deadlines: ALWAYS,
            lies: 1,
            ejects: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

#[test]
fn a_guest_that_reboots_or_dies() {
    holds(Shape {
        notifier: true,
        budget: Budget {
            requests: 2,
            reboots: 1,
            deaths: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

#[test]
fn the_checker_does_what_a_guest_does() {
    let mut world = World::new(PLAIN);
    world.act(&Act::Ask(Want::One(1, Target::Offline)));
    while let Some(act) = world.due().first().cloned() {
        world.act(&act);
    }
    assert_eq!(world.unrest(), None);
    assert!(format!("{world:?}").contains("Dormant"));
}

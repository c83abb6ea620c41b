//! The protocol of hotplug, checked in every order in which its participants can do what they do (stateright).
//!
//! Nothing of the product is modelled: the coordinator with its transition function and its table of steps, the gates and
//! the controller are the real ones. What is made up are those around them: a guest that obeys, refuses, delays, ejects
//! late or unasked, lies, reboots and dies; users who are bound to a vCPU or not, hold and want each other's lock, or are
//! waited for by a notifier; clients who ask, take back, run out of time, or have the machine stand still.
//!
//! A state is what everybody has done so far, played again from the beginning; two are the same if all that they depend
//! on looks the same.
//!
//! The checker must also find what is wrong with four ways in which others have done it.

mod late;
mod machine;
mod many;
mod people;
mod shape;
mod variants;
mod world;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hotvisor_devices::cpu_hotplug::GuestEject;
use hotvisor_vmm::hotplug::client::Want;
use hotvisor_vmm::hotplug::view::Target;
use stateright::{Checker, Model, Property};

use people::{Do, Life};
use shape::{ALWAYS, Act, Budget, Shape, Variant};
use world::World;

/// What was done, and what became of it.
#[derive(Clone)]
struct State {
    done: Option<Arc<Done>>,
    looks: String,
    acts: Vec<Act>,
    wrong: Option<String>,
}

/// The last thing that was done, and those before.
struct Done {
    act: Act,
    before: Option<Arc<Self>>,
}

impl State {
    fn of(world: &World, done: Option<Arc<Done>>) -> Self {
        let due = world.due();
        let rests = due.is_empty();
        let looks = format!("{world:?}");
        // Looks at what the guest sees, which leaves traces.
        let unrest = if rests { world.unrest() } else { None };
        Self {
            done,
            looks,
            acts: due.into_iter().chain(world.possible()).collect(),
            wrong: world.wrong.clone().or(unrest),
        }
    }

    fn world(&self, shape: Shape) -> World {
        let mut acts = Vec::new();
        let mut done = self.done.as_ref();
        while let Some(last) = done {
            acts.push(&last.act);
            done = last.before.as_ref();
        }
        let mut world = World::new(shape);
        acts.into_iter().rev().for_each(|act| world.act(act));
        world
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.looks == other.looks
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.looks.hash(state);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.looks)
    }
}

impl Model for Shape {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        vec![State::of(&World::new(*self), None)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Act>) {
        // Behind what is wrong there is nothing to be learnt.
        if state.wrong.is_none() {
            actions.extend(state.acts.iter().cloned());
        }
    }

    fn next_state(&self, last: &State, act: Act) -> Option<State> {
        let mut world = last.world(*self);
        world.act(&act);
        let before = last.done.clone();
        Some(State::of(&world, Some(Arc::new(Done { act, before }))))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing is wrong", |_, state: &State| {
            state.wrong.is_none()
        })]
    }
}

/// What the checker has found wrong, with the way there, and how many states there are.
fn check(shape: Shape) -> (Option<String>, usize) {
    let checker = shape.checker().spawn_bfs().join();
    let states = checker.unique_state_count();
    let found = checker.discovery("nothing is wrong").map(|path| {
        let steps = path.into_vec();
        let wrong = steps.last().and_then(|(state, _)| state.wrong.clone());
        let acts = steps.iter().filter_map(|(_, act)| act.as_ref());
        let acts: Vec<String> = acts.map(|act| format!("  {act:?}\n")).collect();
        format!("{}:\n{}", wrong.unwrap_or_default(), acts.concat())
    });
    (found, states)
}

fn holds(shape: Shape) {
    let begun = std::time::Instant::now();
    let (found, states) = check(shape);
    println!("{states} states in {:?}", begun.elapsed());
    assert!(found.is_none(), "{}", found.unwrap_or_default());
    assert!(states > 100, "{states} states are no model");
}

fn fails(shape: Shape, with: &str) {
    let (found, _) = check(shape);
    let found = found.expect("the checker has found nothing");
    println!("{found}");
    assert!(found.contains(with), "{found}");
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
        finds: 0,
        lies: 0,
        ejects: 0,
        reboots: 0,
        deaths: 0,
        vetoes: 0,
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

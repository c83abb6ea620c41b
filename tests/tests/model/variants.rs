//! What others have done, or might do, and the checker finds: the order of 2012, and five more.

use hotvisor_vmm::hotplug::client::Want;
use hotvisor_vmm::hotplug::view::Target;

use crate::explore::check;
use crate::shape::{ALWAYS, Act, Budget, Shape, Variant};
use crate::world::World;
use crate::{PLAIN, SAMPLER, holds};

fn fails(shape: Shape, with: &str) {
    let (found, _) = check(shape);
    let found = found.expect("the checker has found nothing");
    println!("{found}");
    assert!(found.contains(with), "{found}");
}

/// The order of 2012: whoever needs the lock is shut out, and the notifier waits for one of them.
#[test]
fn to_block_first_and_notify_then_is_a_deadlock() {
    let shape = Shape {
        variant: Variant::BlockFirst,
        users: &[SAMPLER],
        notifier: true,
        budget: Budget {
            requests: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    };
    fails(shape, "never ends");
    holds(Shape {
        variant: Variant::Product,
        ..shape
    });
}

#[test]
fn to_join_the_thread_in_its_eject_is_a_deadlock() {
    let variant = Variant::JoinInHandler;
    fails(Shape { variant, ..PLAIN }, "never ends");
}

#[test]
fn an_acknowledgement_that_takes_the_right_to_eject_loses_every_eject() {
    let variant = Variant::AckRevokes;
    fails(Shape { variant, ..PLAIN }, "as it was asked to, in vain");
}

/// What the guest did with the CPU before is taken for a word about the one that has come since.
#[test]
fn late_words_that_are_not_told_apart_take_a_cpu_that_runs() {
    let variant = Variant::NoGenerations;
    let shape = Shape {
        variant,
        users: &[],
        budget: Budget {
            requests: 2,
            reboots: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    };
    fails(shape, "torn down while the guest");
    holds(Shape {
        variant: Variant::Product,
        ..shape
    });
}

/// A guest that has forgotten what it was asked for does nothing any more but look for it. One that has not gets on with it.
#[test]
fn to_remind_at_once_until_there_is_an_answer_goes_round_for_ever() {
    let variant = Variant::RemindsUntilAnswered;
    let obeyed = Shape {
        variant,
        users: &[],
        ..PLAIN
    };
    holds(obeyed);
    let budget = Budget {
        requests: 1,
        deadlines: ALWAYS,
        refusals: 1,
        ..PLAIN.budget
    };
    fails(Shape { budget, ..obeyed }, "can go round for ever");
}

#[test]
fn to_ask_again_at_once_for_what_is_always_refused_has_no_end() {
    let budget = Budget {
        requests: 1,
        ..PLAIN.budget
    };
    let shape = Shape {
        variant: Variant::Insists,
        users: &[],
        budget,
        ..PLAIN
    };
    fails(shape, "no rest after");
}

/// Something that an unplug has changed, and that is not put back when it comes to nothing, is found.
#[test]
fn what_is_not_undone_is_found() {
    let shape = Shape {
        users: &[],
        notifier: true,
        budget: Budget {
            cancels: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    };
    for forgotten in [false, true] {
        let mut world = World::new(shape);
        world.act(&Act::Ask(Want::One(1, Target::Offline)));
        world.act(&Act::Cancel(1));
        while let Some(act) = world.due().first().cloned() {
            world.act(&act);
        }
        if forgotten {
            world.let_go(1);
        }
        let unrest = world.unrest().unwrap_or_default();
        assert_eq!(
            unrest.contains("Cancelled for vCPU 1: it was"),
            forgotten,
            "{unrest}"
        );
    }
}

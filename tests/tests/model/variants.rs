//! What others have done, and the checker finds: the order of 2012, and three more.

use crate::shape::{Budget, Shape, Variant};
use crate::{PLAIN, SAMPLER, fails, holds};

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

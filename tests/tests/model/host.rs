//! A host that has no room, and time that goes by.

use crate::shape::{ALWAYS, Budget, Shape};
use crate::{PLAIN, holds};

#[test]
fn threads_that_cannot_be_had() {
    for (boot, cancels, deadlines) in [(1, 1, 0), (2, 0, ALWAYS)] {
        holds(Shape {
            boot,
            users: &[],
            notifier: true,
            budget: Budget {
                requests: 2,
                failures: 2,
                cancels,
                deadlines,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

#[test]
fn threads_that_cannot_be_had_in_a_guest_that_reboots() {
    holds(Shape {
        boot: 1,
        budget: Budget {
            requests: 2,
            failures: 1,
            reboots: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

/// The guest is told again of what it has read, or has not; and a thread is kicked again.
#[test]
fn a_guest_that_is_told_again() {
    for (boot, reminders, refusals, cancels, deadlines) in [
        (1, 2, 1, 0, 0),
        (2, 2, 1, 0, 0),
        (1, 2, 0, 1, 0),
        (1, 2, 0, 0, 1),
        (2, 1, 1, 0, 1),
        (1, 1, 2, 0, 1),
    ] {
        holds(Shape {
            boot,
            users: &[],
            budget: Budget {
                requests: 2,
                reminders,
                refusals,
                cancels,
                deadlines,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

//! More than one vCPU beside the first, and more than one of everybody else.

use crate::shape::{ALWAYS, Budget, Shape};
use crate::{GATE_FIRST, LOCK_FIRST, MOVABLE, OF_ANOTHER, PINNED, PLAIN, SAMPLER, holds};

#[test]
fn three_vcpus() {
    for boot in [1, 3] {
        holds(Shape {
            vcpus: 3,
            boot,
            users: &[],
            budget: Budget {
                requests: 1,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

/// Everybody at once: users of two of three vCPUs, bound to them or not, with a lock or without, and time that runs out.
#[test]
fn three_vcpus_and_three_users() {
    for (users, deadlines) in [
        (&[PINNED, MOVABLE, OF_ANOTHER][..], 1),
        (&[PINNED, LOCK_FIRST, GATE_FIRST], 0),
    ] {
        holds(Shape {
            vcpus: 3,
            boot: 3,
            users,
            budget: Budget {
                requests: 1,
                deadlines,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

#[test]
fn three_vcpus_and_two_requests() {
    for boot in [2, 3] {
        holds(Shape {
            vcpus: 3,
            boot,
            users: &[],
            ..PLAIN
        });
    }
}

#[test]
fn three_vcpus_and_a_reboot() {
    holds(Shape {
        vcpus: 3,
        boot: 3,
        budget: Budget {
            requests: 1,
            reboots: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

#[test]
fn three_vcpus_and_what_is_taken_back() {
    holds(Shape {
        vcpus: 3,
        boot: 2,
        users: &[],
        budget: Budget {
            requests: 1,
            cancels: 1,
            refusals: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

/// Whom the notifier waits for, with several vCPUs, or with others whom it does not wait for.
#[test]
fn a_notifier_and_several_of_the_others() {
    for (vcpus, users) in [(3, &[SAMPLER][..]), (2, &[SAMPLER, PINNED, MOVABLE])] {
        holds(Shape {
            vcpus,
            boot: vcpus,
            users,
            notifier: true,
            budget: Budget {
                requests: 1,
                vetoes: 1,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

#[test]
fn two_users_of_a_guest_that_reboots_or_ejects_as_it_likes() {
    for (reboots, ejects) in [(1, 0), (0, 1)] {
        holds(Shape {
            users: &[PINNED, MOVABLE],
            budget: Budget {
                requests: 1,
                reboots,
                ejects,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

/// Whoever is inside, whatever the guest does or leaves undone.
#[test]
fn two_users_of_a_guest_that_refuses_lies_or_is_late() {
    for (lies, refusals, deadlines, failures) in
        [(1, 0, ALWAYS, 0), (0, 1, ALWAYS, 0), (0, 0, 1, 1)]
    {
        holds(Shape {
            users: &[PINNED, MOVABLE],
            budget: Budget {
                requests: 1,
                lies,
                refusals,
                deadlines,
                failures,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

#[test]
fn three_vcpus_and_a_guest_that_refuses_and_is_late() {
    for users in [&[PINNED, OF_ANOTHER][..], &[PINNED, MOVABLE, OF_ANOTHER]] {
        holds(Shape {
            vcpus: 3,
            boot: 3,
            users,
            budget: Budget {
                requests: 1,
                refusals: 1,
                deadlines: 1,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

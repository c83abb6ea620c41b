//! Time that runs out, and a guest that answers later, twice, or never.

use hotvisor_devices::cpu_hotplug::GuestEject;

use crate::shape::{ALWAYS, Budget, Shape};
use crate::{GATE_FIRST, LOCK_FIRST, PLAIN, SAMPLER, holds};

/// Also of two requests that the guest has both, and says no to the first of.
#[test]
fn operations_that_run_out_of_time() {
    holds(Shape {
        budget: Budget {
            requests: 2,
            deadlines: ALWAYS,
            refusals: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

/// Who runs out of time asks again, and the guest has the request twice: the second one is for a CPU that is not there, or is
/// taken back when the latest wish is another one.
#[test]
fn an_ejection_that_is_asked_for_twice() {
    holds(Shape {
        users: &[],
        budget: Budget {
            requests: 3,
            deadlines: 1,
            refusals: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

/// A request that is taken back in time or too late, also where the guest has another one.
#[test]
fn requests_that_are_taken_back_and_run_out_of_time() {
    holds(Shape {
        users: &[],
        budget: Budget {
            requests: 2,
            cancels: 2,
            deadlines: ALWAYS,
            refusals: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

/// The guest has not answered an earlier request when a notifier is asked anew, which refuses, or is in vain.
#[test]
fn a_notifier_that_refuses_when_the_guest_is_late() {
    holds(Shape {
        users: &[],
        notifier: true,
        budget: Budget {
            requests: 2,
            deadlines: ALWAYS,
            cancels: 1,
            refusals: 1,
            vetoes: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

/// Its own ejections have no effect; those that it was asked for have, however late.
#[test]
fn a_guest_that_may_not_eject_by_itself() {
    for (refusals, ejects) in [(1, 0), (0, 1)] {
        holds(Shape {
            users: &[],
            guest_eject: GuestEject::Ignore,
            budget: Budget {
                requests: 2,
                deadlines: ALWAYS,
                refusals,
                ejects,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

/// Of two requests that it has, it may say no to both.
#[test]
fn a_guest_that_refuses_twice() {
    holds(Shape {
        users: &[],
        budget: Budget {
            requests: 2,
            deadlines: ALWAYS,
            refusals: 2,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

/// One whose time is over beside one who waits for the same, or for the opposite.
#[test]
fn clients_with_and_without_patience() {
    for boot in [1, 2] {
        holds(Shape {
            boot,
            users: &[],
            budget: Budget {
                requests: 3,
                patient: 1,
                deadlines: 2,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

/// In the midst of the guest's scan the host takes back what that has found, puts something there, or takes a CPU out.
#[test]
fn scans_that_take_their_time() {
    for (boot, cancels, refusals, deadlines) in
        [(1, 1, 1, 0), (2, 1, 1, 0), (1, 0, 1, 1), (2, 0, 0, 2)]
    {
        holds(Shape {
            boot,
            users: &[],
            budget: Budget {
                requests: 2,
                cancels,
                refusals,
                deadlines,
                slow: 2,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

/// What nobody waits for any more is wanted again, and the guest does not take it.
#[test]
fn a_plug_of_what_the_guest_has_not_answered_for() {
    holds(Shape {
        boot: 1,
        users: &[],
        budget: Budget {
            requests: 3,
            refusals: 1,
            deadlines: 1,
            ..PLAIN.budget
        },
        ..PLAIN
    });
}

/// The notifier waits for a user who goes through the gate once more, while the client takes its request back, runs out of
/// time, or the guest says no.
#[test]
fn a_notifier_that_waits_when_the_client_does_not() {
    for (cancels, refusals, reboots, deadlines) in
        [(1, 0, 0, ALWAYS), (0, 1, 0, ALWAYS), (0, 0, 1, 1)]
    {
        holds(Shape {
            users: &[SAMPLER],
            notifier: true,
            budget: Budget {
                requests: 2,
                deadlines,
                cancels,
                refusals,
                reboots,
                ..PLAIN.budget
            },
            ..PLAIN
        });
    }
}

/// Whom it waits for needs a lock that somebody has who is inside, or wants one that somebody has who wants to be.
#[test]
fn a_notifier_that_waits_for_who_waits_for_others() {
    for users in [&[SAMPLER, GATE_FIRST], &[SAMPLER, LOCK_FIRST]] {
        for (cancels, deadlines) in [(1, 0), (0, 1)] {
            holds(Shape {
                users,
                notifier: true,
                budget: Budget {
                    requests: 1,
                    cancels,
                    deadlines,
                    refusals: 1,
                    ..PLAIN.budget
                },
                ..PLAIN
            });
        }
    }
}

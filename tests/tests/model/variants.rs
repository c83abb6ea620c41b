//! What others have done, or might do, and the checker finds: the order of 2012, and five more; and that what is wrong is found
//! at all.

use hotvisor_vmm::hotplug::client::Want;
use hotvisor_vmm::hotplug::view::Target;

use crate::explore::check;
use crate::shape::{ALWAYS, Act, Budget, Shape, Variant};
use crate::world::{Spoilt, World};
use crate::{PLAIN, SAMPLER, holds};

/// The checker finds something, which says all of this; returns how many acts lead to it.
fn fails(shape: Shape, with: &[&str]) -> usize {
    let (found, _) = check(shape);
    let found = found.expect("the checker has found nothing");
    println!("{found}");
    for with in with {
        assert!(found.contains(with), "no {with:?} in {found}");
    }
    let acts = found.lines().filter_map(|line| line.split_once(". "));
    acts.filter(|(number, _)| number.trim().parse::<usize>().is_ok())
        .count()
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
    let acts = fails(
        shape,
        &[
            "never ends",
            "user 0 waits for the lock of old to open",
            "the notifier, of vCPU 1, waits for user 0",
        ],
    );
    // As ARCHITECTURE.md draws it.
    assert_eq!(acts, 3, "the shortest way to it");
    holds(Shape {
        variant: Variant::Product,
        ..shape
    });
}

#[test]
fn to_join_the_thread_in_its_eject_is_a_deadlock() {
    let variant = Variant::JoinInHandler;
    let shape = Shape { variant, ..PLAIN };
    fails(shape, &["never ends", "the write that ejects vCPU 1 waits"]);
}

#[test]
fn an_acknowledgement_that_takes_the_right_to_eject_loses_every_eject() {
    let variant = Variant::AckRevokes;
    let shape = Shape { variant, ..PLAIN };
    fails(shape, &["as it was asked to, in vain"]);
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
    fails(
        shape,
        &[
            "torn down while the guest",
            "hears that the guest has ejected vCPU 1 ",
        ],
    );
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
    fails(Shape { budget, ..obeyed }, &["can go round for ever"]);
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
    fails(shape, &["no rest after"]);
}

/// The world of a request that was taken back at once and is over.
fn taken_back() -> World {
    let budget = Budget {
        cancels: 1,
        ..PLAIN.budget
    };
    let mut world = World::new(Shape {
        notifier: true,
        budget,
        ..PLAIN
    });
    world.act(&Act::Ask(Want::One(1, Target::Offline)));
    world.act(&Act::Cancel(1));
    rest(world)
}

/// Has everybody do what is due.
fn rest(mut world: World) -> World {
    while let Some(act) = world.due().first().cloned() {
        world.act(&act);
    }
    assert_eq!(world.unrest(), None);
    world
}

/// The world of a user inside, and of a guest that may reset.
fn used() -> World {
    let budget = Budget {
        reboots: 1,
        ..PLAIN.budget
    };
    let mut world = World::new(Shape { budget, ..PLAIN });
    world.act(&Act::User(0));
    world
}

/// Whatever is wrong is found, of a world in which nothing else is.
#[test]
fn what_must_never_be_is_found() {
    let plain = || World::new(PLAIN);
    let unplugged = || {
        let mut world = plain();
        world.act(&Act::Ask(Want::One(1, Target::Offline)));
        rest(world)
    };
    let table: &[(Spoilt, &dyn Fn() -> World, &str)] = &[
        (Spoilt::Parked, &plain, "torn down while the guest"),
        (
            Spoilt::ParkedUnderAUser,
            &used,
            "torn down with a user inside",
        ),
        (
            Spoilt::ParkedUnderTheGuest,
            &plain,
            "while the guest runs it",
        ),
        (Spoilt::BootCpuParked, &plain, "the boot CPU was taken away"),
        (Spoilt::StartedTwice, &plain, "vCPU 1 was started twice"),
        (Spoilt::EndedWhileItRuns, &plain, "ended while it runs"),
        (
            Spoilt::ShownWithoutAThread,
            &unplugged,
            "shown to the guest, and nothing runs it",
        ),
        (
            Spoilt::ThreadIsGone,
            &plain,
            "the guest has vCPU 1, and nothing runs it",
        ),
        (Spoilt::NeverStarted, &plain, "the guest has not started it"),
        (Spoilt::StillAsked, &plain, "said to be at rest"),
        (Spoilt::Overdue, &plain, "overdue for ever"),
        (Spoilt::GateShut, &plain, "its gate is Entrance(Offline)"),
        (Spoilt::LetGo, &plain, "the notifier was not told"),
        (Spoilt::LetGo, &taken_back, "Cancelled for vCPU 1: it was"),
        (Spoilt::NotRun, &plain, "online false"),
        (Spoilt::NotDesired, &plain, "desired false"),
        (
            Spoilt::NotUnplugged,
            &unplugged,
            "operation 1 says of vCPU 1",
        ),
        (
            Spoilt::GoneUnderAUser,
            &used,
            "the machine was torn down with a user inside",
        ),
        (Spoilt::NeverLeft, &used, "the machine never starts again"),
    ];
    for (how, world, with) in table {
        let found = world().spoilt(*how);
        assert!(found.contains(with), "{how:?}: {found:?}");
    }
}

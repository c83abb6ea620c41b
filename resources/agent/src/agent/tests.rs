use super::*;
use crate::picture::Picture;
use hotvisor_protocol::{Blocker, Outcome, Ping, Pinned};

const EXPEDITED: &str = "sys/kernel/rcu_expedited";
const IRQ: &str = "proc/irq/9/smp_affinity_list";
const MS: u64 = 1_000_000;

fn guest() -> Picture {
    let picture = Picture::of_cpus(4);
    picture.file(EXPEDITED, "0\n");
    picture.file(IRQ, "0-3\n");
    picture.file("proc/irq/9/disk/x", "");
    picture.task(5, 5, "wide", 0, 0, 0, "0-3");
    picture
}

fn welcomed(picture: &Picture, pressure_ms: u32) -> Agent {
    let mut agent = Agent::start(picture.root(), 0).unwrap();
    agent.connected();
    let said = agent.take_said();
    assert!(matches!(said.as_slice(), [FromGuest::Hello(_)]), "{said:?}");
    let welcome = Welcome {
        version: VERSION,
        pressure_ms,
        expedite: true,
    };
    assert!(agent.host(welcome.into(), 0));
    assert!(matches!(
        agent.take_said().as_slice(),
        [FromGuest::Online(_)]
    ));
    agent
}

fn apic(number: u32) -> ApicId {
    ApicId::try_from(number + 10).unwrap()
}

fn unplug(number: u32, pinned: Pinned) -> Begin {
    Begin {
        operation: 7,
        kind: Kind::Unplug,
        cpus: List::new([apic(number)]),
        drain: true,
        pinned,
        expedite: true,
        deadline_ms: 1000,
    }
}

fn end(outcome: Outcome) -> FromHost {
    End {
        operation: 7,
        outcome,
    }
    .into()
}

fn online(picture: &Picture, set: &str) {
    picture.file("sys/devices/system/cpu/online", set);
}

#[test]
fn an_unplug_is_drained_and_undone() {
    let picture = guest();
    let mut agent = welcomed(&picture, 0);
    assert!(agent.host(unplug(2, Pinned::Break).into(), 0));
    let said = agent.take_said();
    let [FromGuest::Drained(drained)] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!(
        (drained.cpu, drained.moved.tasks, drained.moved.irqs),
        (apic(2), 1, 1)
    );
    assert_eq!(picture.read(EXPEDITED), "1");
    assert_eq!(picture.affinity(5, 5), "0-1,3");
    assert!(agent.host(end(Outcome::Undone), 1));
    assert_eq!(
        agent.take_said(),
        [Restored {
            operation: 7,
            restored: 2,
            kept: 0
        }
        .into()]
    );
    assert_eq!(picture.read(EXPEDITED), "0");
    assert_eq!(picture.affinity(5, 5), "0-3");
}

#[test]
fn what_was_moved_comes_back_with_the_cpu() {
    let picture = guest();
    let mut agent = welcomed(&picture, 0);
    assert!(agent.host(unplug(2, Pinned::Break).into(), 0));
    agent.take_said();
    online(&picture, "0-1,3\n");
    picture.file("sys/devices/system/cpu/present", "0-1,3\n");
    picture.remove("sys/devices/system/cpu/cpu2");
    agent.uevent(
        Uevent {
            cpu: 2,
            happened: Happened::Offline,
        },
        1,
    );
    agent.uevent(
        Uevent {
            cpu: 2,
            happened: Happened::Removed,
        },
        1,
    );
    let said = agent.take_said();
    let [FromGuest::Online(list)] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!(&*list.cpus, [apic(0), apic(1), apic(3)]);
    assert!(agent.host(end(Outcome::Done), 2));
    assert_eq!(agent.take_said(), []);
    assert_eq!(picture.affinity(5, 5), "0-1,3");
    // It is plugged again, and the agent brings it up.
    picture.file("sys/devices/system/cpu/present", "0-3\n");
    picture.file("sys/devices/system/cpu/cpu2/online", "0\n");
    agent.uevent(
        Uevent {
            cpu: 2,
            happened: Happened::Added,
        },
        3,
    );
    let said = agent.take_said();
    let [FromGuest::Restored(back), FromGuest::Online(list)] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!((back.operation, back.restored), (7, 2));
    assert_eq!(&*list.by_agent, [apic(2)]);
    assert_eq!(picture.affinity(5, 5), "0-3");
    assert_eq!(picture.read(EXPEDITED), "0");
}

#[test]
fn what_is_bound_refuses_or_is_waited_for() {
    let picture = guest();
    picture.task(6, 6, "pinned", 0, 1, 9, "2");
    let mut agent = welcomed(&picture, 0);
    assert!(agent.host(unplug(2, Pinned::Refuse).into(), 0));
    let said = agent.take_said();
    let [FromGuest::Refused(refused)] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert!(
        matches!(&refused.blockers.known[..], [Blocker::BlockedTask(task)] if &*task.comm == "pinned")
    );
    assert_eq!(picture.affinity(5, 5), "0-3");
    assert!(agent.host(end(Outcome::Undone), 0));
    agent.take_said();

    assert!(agent.host(unplug(2, Pinned::Wait { ms: 120 }).into(), 0));
    for at in [0, 50 * MS, 100 * MS] {
        agent.tick(at);
        assert_eq!(agent.take_said(), []);
    }
    assert_eq!(agent.wakes_at(), Some(120 * MS));
    agent.tick(120 * MS);
    assert!(matches!(
        agent.take_said().as_slice(),
        [FromGuest::Refused(_)]
    ));
    assert!(agent.host(end(Outcome::Undone), 0));
    agent.take_said();

    assert!(agent.host(unplug(2, Pinned::Wait { ms: 120 }).into(), 0));
    picture.remove("proc/6");
    agent.tick(50 * MS);
    assert!(matches!(
        agent.take_said().as_slice(),
        [FromGuest::Drained(_)]
    ));
}

#[test]
fn a_host_that_goes_away_leaves_nothing_behind() {
    let picture = guest();
    let mut agent = welcomed(&picture, 0);
    assert!(agent.host(unplug(2, Pinned::Break).into(), 0));
    agent.lost();
    assert_eq!(picture.read(EXPEDITED), "0");
    assert_eq!(picture.affinity(5, 5), "0-1,3");
    assert_eq!(agent.wakes_at(), Some(1000 * MS));
    agent.tick(1000 * MS);
    assert_eq!(picture.affinity(5, 5), "0-3");
    assert_eq!(agent.wakes_at(), None);
}

#[test]
fn an_agent_that_ends_or_is_killed_leaves_nothing_behind() {
    let picture = guest();
    let mut agent = welcomed(&picture, 0);
    assert!(agent.host(unplug(2, Pinned::Break).into(), 0));
    agent.end().unwrap();
    assert_eq!(picture.affinity(5, 5), "0-3");
    assert_eq!(picture.read(EXPEDITED), "0");

    let mut agent = welcomed(&picture, 0);
    assert!(agent.host(unplug(3, Pinned::Break).into(), 0));
    assert_eq!(picture.read(IRQ), "0-2");
    drop(agent);
    welcomed(&picture, 0);
    assert_eq!(picture.read(IRQ), "0-3");
    assert_eq!(picture.read(EXPEDITED), "0");
}

#[test]
fn only_what_was_added_is_brought_up() {
    let picture = guest();
    picture.file("sys/devices/system/cpu/cpu3/online", "0\n");
    online(&picture, "0-2\n");
    let mut agent = welcomed(&picture, 0);
    agent.uevent(
        Uevent {
            cpu: 3,
            happened: Happened::Offline,
        },
        0,
    );
    agent.uevent(
        Uevent {
            cpu: 0,
            happened: Happened::Missed,
        },
        0,
    );
    assert_eq!(picture.read("sys/devices/system/cpu/cpu3/online"), "0");
    picture.file("sys/devices/system/cpu/present", "0-4\n");
    picture.file("sys/devices/system/cpu/cpu4/online", "0\n");
    agent.uevent(
        Uevent {
            cpu: 0,
            happened: Happened::Missed,
        },
        0,
    );
    assert_eq!(picture.read("sys/devices/system/cpu/cpu4/online"), "1");
    assert_eq!(picture.read("sys/devices/system/cpu/cpu3/online"), "0");
}

#[test]
fn questions_are_answered_and_pressure_is_told() {
    let picture = guest();
    let mut agent = welcomed(&picture, 200);
    assert!(agent.host(Ping { id: 3 }.into(), 0));
    assert!(
        agent.host(
            Ask {
                id: 4,
                cpu: apic(2)
            }
            .into(),
            0
        )
    );
    assert!(
        agent.host(
            Ask {
                id: 5,
                cpu: apic(9)
            }
            .into(),
            0
        )
    );
    let said = agent.take_said();
    let [
        FromGuest::Pong(pong),
        FromGuest::Answer(answer),
        FromGuest::Answer(none),
    ] = said.as_slice()
    else {
        panic!("{said:?}")
    };
    assert_eq!((pong.id, answer.id, none.id), (3, 4, 5));
    assert!(answer.blockers.is_empty() && answer.problem.is_none());
    assert!(none.problem.as_ref().unwrap().contains("APIC id 19"));
    agent.tick(199 * MS);
    assert_eq!(agent.take_said(), []);
    agent.tick(650 * MS);
    assert!(matches!(
        agent.take_said().as_slice(),
        [FromGuest::Pressure(_)]
    ));
    assert_eq!(agent.wakes_at(), Some(800 * MS));
}

#[test]
fn hosts_of_other_ages_are_left() {
    let picture = guest();
    let mut agent = Agent::start(picture.root(), 0).unwrap();
    agent.connected();
    assert!(
        agent.host(unplug(2, Pinned::Break).into(), 0),
        "heard before welcome"
    );
    assert_eq!(picture.read(EXPEDITED), "0");
    let welcome = Welcome {
        version: VERSION + 1,
        pressure_ms: 0,
        expedite: false,
    };
    assert!(!agent.host(welcome.into(), 0));
}

#[test]
fn operations_have_a_most() {
    let picture = guest();
    let mut agent = welcomed(&picture, 0);
    for operation in 0..2 * MOST_OPERATIONS as u64 {
        let begin = Begin {
            operation,
            kind: Kind::Plug,
            ..unplug(9, Pinned::Break)
        };
        assert!(agent.host(begin.into(), 0));
    }
    assert_eq!(agent.operations.len(), MOST_OPERATIONS);
    agent.tick(1000 * MS);
    assert_eq!(picture.read(EXPEDITED), "0");
}

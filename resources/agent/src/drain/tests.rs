use super::*;
use crate::picture::Picture;

const IRQ: &str = "proc/irq/9/smp_affinity_list";
const RPS: &str = "sys/class/net/eth0/queues/rx-0/rps_cpus";
const WORK: &str = "sys/devices/virtual/workqueue/cpumask";
const SET: &str = "sys/fs/cgroup/work/cpuset.cpus";

/// Four CPUs and a bit of everything.
fn guest() -> (Picture, Store) {
    let picture = Picture::of_cpus(4);
    picture.file(IRQ, "0-3\n");
    picture.file("proc/irq/9/disk/x", "");
    picture.file("proc/irq/10/smp_affinity_list", "2\n");
    picture.file("proc/irq/default_smp_affinity", "f\n");
    picture.file(RPS, "00000000,0000000e\n");
    picture.file(WORK, "f\n");
    picture.file(SET, "1-2\n");
    picture.task(5, 5, "wide", 0, 0, 0, "0-3");
    picture.task(5, 6, "pinned", 0, 0, 0, "2");
    picture.task(7, 7, "elsewhere", 0, 0, 0, "0-1");
    picture.task(8, 8, "ksoftirqd/2", 0x0420_8040, 0, 0, "0-3");
    let store = Store::new(picture.root());
    (picture, store)
}

#[test]
fn what_can_move_moves_and_comes_back_as_it_was() {
    let (picture, mut store) = guest();
    let moved = drain(&mut store, 2).unwrap();
    let expected = Moved {
        tasks: 1,
        irqs: 2,
        workqueues: 1,
        queues: 1,
        cpusets: 1,
        failed: 0,
        left: 0,
    };
    assert_eq!(moved, expected);
    assert_eq!(picture.read(IRQ), "0-1,3");
    assert_eq!(picture.read("proc/irq/10/smp_affinity_list"), "2");
    assert_eq!(picture.read(RPS), "0000000a");
    assert_eq!(picture.read(SET), "1");
    assert_eq!(picture.affinity(5, 5), "0-1,3");
    assert_eq!(picture.affinity(5, 6), "2");
    assert_eq!(picture.affinity(8, 8), "0-3");
    let back = restore(&mut store, 2).unwrap();
    assert_eq!(
        back,
        Back {
            restored: 6,
            kept: 0,
            failed: 0
        }
    );
    assert_eq!(picture.read(IRQ), "0-3");
    assert_eq!(picture.read(RPS), "00000000,0000000e");
    assert_eq!(picture.read(SET), "1-2");
    assert_eq!(picture.affinity(5, 5), "0-3");
    assert_eq!(store.state.ledger, Ledger::default());
}

#[test]
fn what_others_change_meanwhile_is_kept() {
    let (picture, mut store) = guest();
    drain(&mut store, 2).unwrap();
    picture.file(IRQ, "0\n");
    picture.task(5, 5, "wide", 0, 0, 0, "1");
    picture.remove("sys/class/net/eth0");
    let back = restore(&mut store, 2).unwrap();
    assert_eq!(
        back,
        Back {
            restored: 3,
            kept: 2,
            failed: 0
        }
    );
    assert_eq!(picture.read(IRQ), "0");
    assert_eq!(picture.affinity(5, 5), "1");
    assert_eq!(store.state.ledger, Ledger::default());
}

#[test]
fn cpus_come_back_in_any_order() {
    for order in [[2, 3], [3, 2]] {
        let (picture, mut store) = guest();
        drain(&mut store, 2).unwrap();
        drain(&mut store, 3).unwrap();
        assert_eq!(picture.read(IRQ), "0-1");
        assert_eq!(picture.affinity(5, 5), "0-1");
        assert_eq!(store.state.ledger.cpus().list(), "2-3");
        restore(&mut store, order[0]).unwrap();
        assert_eq!(picture.read(IRQ), Mask::of([0, 1, order[0]]).list());
        restore(&mut store, order[1]).unwrap();
        assert_eq!(picture.read(IRQ), "0-3");
        assert_eq!(picture.read("proc/irq/default_smp_affinity"), "f");
        assert_eq!(picture.affinity(5, 5), "0-3");
        assert_eq!(store.state.ledger, Ledger::default());
    }
}

#[test]
fn who_is_started_by_a_narrowed_task_is_widened_too() {
    let (picture, mut store) = guest();
    drain(&mut store, 2).unwrap();
    // Started at 6000 ticks; the drain was at 5000.
    picture.task(600, 600, "child", 0, 0, 0, "0-1,3");
    picture.task(400, 400, "older", 0, 0, 0, "0-1,3");
    restore(&mut store, 2).unwrap();
    assert_eq!(picture.affinity(600, 600), "0-3");
    assert_eq!(picture.affinity(400, 400), "0-1,3");
}

#[test]
fn an_id_that_is_used_again_is_somebody_else() {
    let (picture, mut store) = guest();
    drain(&mut store, 2).unwrap();
    picture.task(5, 5, "other", 0, 0, 0, "1");
    let stat = picture.read("proc/5/task/5/stat").replace(" 50 ", " 51 ");
    picture.file("proc/5/task/5/stat", &stat);
    assert_eq!(restore(&mut store, 2).unwrap().kept, 0);
    assert_eq!(picture.affinity(5, 5), "1");
}

#[test]
fn nothing_is_left_without_a_cpu_that_is_online() {
    let (picture, mut store) = guest();
    picture.file("sys/devices/system/cpu/online", "0,2-3\n");
    drain(&mut store, 2).unwrap();
    assert_eq!(picture.read(SET), "1-2");
}

#[test]
fn a_file_that_does_not_take_it_is_as_before_in_the_ledger() {
    let (_picture, mut store) = guest();
    drain(&mut store, 2).unwrap();
    let ledger = &mut store.state.ledger;
    let at = ledger
        .files
        .iter()
        .position(|file| file.knob.path == IRQ)
        .unwrap();
    let first = ledger.files[at].clone();
    let second = Narrowed {
        set: first.set.without(3),
        ..first.clone()
    };
    ledger.files[at] = second.clone();
    undo_plan(ledger, &first.set.list(), &second);
    assert!(ledger.files.contains(&first) && !ledger.files.contains(&second));
    undo_plan(ledger, "0-3", &first);
    assert!(ledger.files.iter().all(|file| file.knob.path != IRQ));
}

#[test]
fn a_successor_puts_back_what_was_moved_off_cpus_that_run() {
    let (picture, mut store) = guest();
    drain(&mut store, 2).unwrap();
    drain(&mut store, 3).unwrap();
    picture.file("sys/devices/system/cpu/online", "0-2\n");
    let mut left = Mask::default();
    Store::take_over(picture.root(), |store| {
        restore_all(store).unwrap();
        left = store.state.ledger.cpus();
    })
    .unwrap();
    assert_eq!(left.list(), "3");
    assert_eq!(picture.affinity(5, 5), "0-2");
}

#[test]
fn who_may_use_cpus_that_are_offline_is_left_alone() {
    let (picture, mut store) = guest();
    picture.task(9, 9, "anywhere", 0, 0, 0, "0-7");
    let moved = drain(&mut store, 2).unwrap();
    assert_eq!((moved.tasks, moved.left), (1, 1));
    assert_eq!(picture.affinity(9, 9), "0-7");
}

#[test]
fn what_went_offline_meanwhile_is_given_back_later() {
    let (picture, mut store) = guest();
    drain(&mut store, 2).unwrap();
    picture.file("sys/devices/system/cpu/online", "0,2-3\n");
    restore(&mut store, 2).unwrap();
    assert_eq!(picture.affinity(5, 5), "0,2-3");
    picture.file("sys/devices/system/cpu/online", "0-3\n");
    restore(&mut store, 1).unwrap();
    assert_eq!(picture.affinity(5, 5), "0-3");
    assert_eq!(store.state.ledger, Ledger::default());
}

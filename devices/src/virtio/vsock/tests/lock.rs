//! What is done under the link's lock, and what is not any more: the rings, a reset, a pause, a machine's end.

use super::driver::{Driver, SIZE};
use super::*;
use crate::virtio::link::{Found, Worked};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

#[test]
fn whoever_wants_the_lock_is_before_the_worker() {
    let driver = Driver::new();
    let link = &driver.link;
    std::thread::scope(|scope| {
        let work = link.work(|_, _| {
            scope.spawn(|| assert_eq!(link.present_use(), Some(1)));
            while link.waiting() == 0 {
                std::hint::spin_loop();
            }
            // It does not even try.
            let again = link.work(|_, _| Ok(Worked::default()));
            assert!(matches!(again, Ok(Found::Later)));
            Ok(Worked::default())
        });
        assert!(matches!(work, Ok(Found::Work(false))));
    });
    assert_eq!(link.waiting(), 0);
}

#[test]
fn a_reset_lets_go_of_the_queues_and_of_all_connections() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    far.0.borrow_mut().sends.extend(b"too late");
    driver.ready(key, true, false, false);
    driver.write(0x070, 0);
    assert_eq!(driver.read(0x070), 0);
    let before = driver
        .ram
        .0
        .read_obj::<u64>(GuestAddress(Driver::buffer(0, 0)))
        .unwrap();
    driver.run();
    let after = driver
        .ram
        .0
        .read_obj::<u64>(GuestAddress(Driver::buffer(0, 0)))
        .unwrap();
    assert_eq!(before, after);
    assert!(far.0.borrow().dropped);
    let refused = driver.client(5000).err();
    assert_eq!(refused, Some(NoConnection::NoDriver));
    driver.set_up();
    driver.offer_all();
    open(&mut driver);
}

#[test]
fn one_that_is_taken_into_use_anew_knows_no_connection_of_before() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    // The worker does not get to see what is between.
    driver.write(0x070, 0);
    driver.set_up();
    driver.offer_all();
    driver.send(packet(key, Op::Data, 1), b"!");
    assert!(far.0.borrow().dropped);
    assert_eq!(ops(&driver.receive()), [Op::Reset]);
}

#[test]
fn a_machine_that_stands_still_is_not_touched() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    driver.interrupts.take();
    driver.link.hold(true);
    driver.send(packet(key, Op::Data, 2), b"hi");
    assert_eq!(far.0.borrow().got, b"");
    assert!(driver.used(1).len() < 2, "what was sent before is used");
    driver.link.hold(false);
    driver.run();
    assert_eq!(far.0.borrow().got, b"hi");
    driver.link.unplug();
    let all = (
        Arc::strong_count(&driver.ram.0),
        Arc::strong_count(&driver.interrupts),
    );
    assert_eq!(
        all,
        (2, 1),
        "but for the registers, nobody has the machine any more"
    );
    driver.send(packet(key, Op::Data, 2), b"hi");
    assert!(far.0.borrow().dropped);
    driver.set_up();
    assert_eq!(driver.link.present_use(), None);
}

#[test]
fn rings_that_make_no_sense_need_a_reset() {
    let spoil: [fn(&mut Driver); 2] = [
        |driver| {
            let index = GuestAddress(Driver::rings(1)[1] + 2);
            driver.ram.0.write_obj(1000u16, index).unwrap();
        },
        |driver| driver.set_up_at(0xffff_f000),
    ];
    for (n, spoil) in spoil.into_iter().enumerate() {
        let mut driver = Driver::new();
        let (far, key) = open(&mut driver);
        driver.write(0x064, u32::MAX);
        driver.interrupts.take();
        spoil(&mut driver);
        driver.run();
        assert_eq!(driver.read(0x070) & 64, 64, "{n}");
        assert!(driver.interrupts.take() > 0, "{n}");
        assert_eq!(driver.read(0x060), 2, "{n}");
        driver.send(packet(key, Op::Data, 2), b"hi");
        assert!(far.0.borrow().dropped, "{n}");
        driver.write(0x070, 0);
        assert_eq!(driver.read(0x060), 0, "{n}");
        driver.set_up();
        driver.offer_all();
        open(&mut driver);
    }
}

#[test]
fn chains_that_make_no_sense_are_given_back() {
    let mut driver = Driver::unset();
    driver.set_up();
    // Too small for a header, not for writing, nowhere, and a good one.
    driver.chain(0, 0, &[(Driver::buffer(0, 0), 43, true)]);
    driver.chain(0, 1, &[(Driver::buffer(0, 1), 4096, false)]);
    driver.chain(0, 2, &[(1 << 40, 4096, true)]);
    driver.chain(0, 3, &[(Driver::buffer(0, 3), 4096, true)]);
    driver.client(5000).unwrap();
    driver.run();
    assert_eq!(driver.used(0), [(0, 0), (1, 0), (2, 0), (3, 44)]);
    // A chain that bites its own tail.
    let mut bytes = vec![0; 8 * usize::from(SIZE)];
    bytes[0] = 1;
    driver.chain(
        1,
        0,
        &[
            (Driver::buffer(1, 0), 8, false),
            (Driver::buffer(1, 1), 8, false),
        ],
    );
    let second = GuestAddress(Driver::rings(1)[0] + 16 + 12);
    driver.ram.0.write_obj(1u16, second).unwrap();
    driver
        .ram
        .0
        .write_obj(0u16, GuestAddress(second.0 + 2))
        .unwrap();
    driver.run();
    assert_eq!(driver.used(1), [(0, 0)]);
}

//! The device as a guest's driver and the host's programs see it.

mod driver;
mod lock;
mod random;
mod registers;

use super::header::{Header, Kind, LEN, NO_RECEIVE, NO_SEND, Op};
use super::{HOST_CID, Half, Key, MOST_CONNECTIONS, NoConnection};
use driver::{Driver, Far, GUEST};
use std::time::Duration;

/// A packet of the guest's from `key.guest` to `key.host`.
fn packet(key: Key, op: Op, len: usize) -> Header {
    Header {
        src_cid: GUEST.into(),
        dst_cid: HOST_CID,
        src_port: key.guest,
        dst_port: key.host,
        len: u32::try_from(len).unwrap(),
        kind: Kind::Stream,
        op: Ok(op),
        flags: 0,
        buf_alloc: 1 << 20,
        fwd_cnt: 0,
    }
}

fn ops(packets: &[(Header, Vec<u8>)]) -> Vec<Op> {
    packets
        .iter()
        .map(|(header, _)| header.op.unwrap())
        .collect()
}

/// A connection that a client of the host's has opened.
fn open(driver: &mut Driver) -> (Far, Key) {
    let (far, key) = driver.client(5000).unwrap();
    let request = driver.receive();
    assert_eq!(ops(&request), [Op::Request]);
    assert_eq!(request[0].0.src_port, key.host);
    assert_eq!(request[0].0.dst_port, 5000);
    assert_eq!(far.0.borrow().got, b"", "nobody has answered");
    driver.send(packet(key, Op::Response, 0), b"");
    let line = format!("OK {}\n", key.host);
    assert_eq!(far.0.borrow_mut().got.split_off(0), line.as_bytes());
    (far, key)
}

#[test]
fn the_host_opens_a_connection_and_both_send() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    driver.send(packet(key, Op::Data, 5), b"hello");
    assert_eq!(far.0.borrow().got, b"hello");
    far.0.borrow_mut().sends.extend(b"and back");
    driver.ready(key, true, false, false);
    let packets = driver.receive();
    assert_eq!(ops(&packets), [Op::Data]);
    assert_eq!(packets[0].1, b"and back");
    assert_eq!(packets[0].0.fwd_cnt, 5, "it was told what was passed on");
    assert!(driver.interrupts.take() > 0);
    assert_eq!(driver.read(0x060), 1);
    driver.write(0x064, 1);
    assert_eq!(driver.read(0x060), 0);
}

#[test]
fn the_guest_opens_a_connection_where_somebody_listens() {
    let mut driver = Driver::new();
    let far = Far::new();
    driver.listeners.0.borrow_mut().insert(80, far.clone());
    let (there, nobody) = (Key { host: 80, guest: 1 }, Key { host: 81, guest: 2 });
    driver.send(packet(there, Op::Request, 0), b"");
    driver.send(packet(nobody, Op::Request, 0), b"");
    let packets = driver.receive();
    assert_eq!(ops(&packets), [Op::Response, Op::Reset]);
    assert_eq!(packets[1].0.dst_port, 2);
    driver.send(packet(there, Op::Data, 2), b"hi");
    assert_eq!(far.0.borrow().got, b"hi");
}

#[test]
fn packets_may_be_cut_anywhere() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    let mut bytes = packet(key, Op::Data, 6).write();
    bytes.extend(b"pieces");
    for cuts in [&[][..], &[1, 7, 43, 46], &[20], &[LEN, LEN + 1, LEN + 2]] {
        driver.send_bytes(&bytes, cuts);
        assert_eq!(far.0.borrow_mut().got.split_off(0), b"pieces", "{cuts:?}");
    }
}

#[test]
fn a_guest_that_does_not_answer_is_given_up() {
    let mut driver = Driver::new();
    let (far, _) = driver.client(5000).unwrap();
    assert_eq!(ops(&driver.receive()), [Op::Request]);
    let due = driver.worker.deadline().unwrap();
    driver.worker.tick(due - Duration::from_millis(1));
    assert!(!far.0.borrow().dropped);
    // Time that the machine stands still is none.
    driver.link.hold(true);
    assert_eq!(driver.worker.deadline(), None);
    driver.now += Duration::from_secs(3600);
    driver.worker.tick(driver.now);
    driver.link.hold(false);
    driver.worker.tick(driver.now);
    assert!(!far.0.borrow().dropped);
    driver.worker.tick(driver.worker.deadline().unwrap());
    assert!(far.0.borrow().dropped);
    assert_eq!(ops(&driver.receive()), [Op::Reset]);
    assert_eq!(driver.worker.deadline(), None);
}

#[test]
fn a_guest_that_was_not_even_asked_hears_nothing() {
    let mut driver = Driver::unset();
    driver.set_up();
    for _ in 0..3 * MOST_CONNECTIONS {
        let (far, _) = driver.client(5000).unwrap();
        driver.run();
        driver.worker.tick(driver.worker.deadline().unwrap());
        assert!(far.0.borrow().dropped);
    }
    driver.offer_all();
    assert_eq!(driver.receive(), []);
}

#[test]
fn what_one_side_ends_the_other_hears_of() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    // The host sends no more, and still takes something.
    far.0.borrow_mut().sends.extend(b"last");
    far.0.borrow_mut().ended = true;
    driver.ready(key, true, false, false);
    let packets = driver.receive();
    assert_eq!(ops(&packets), [Op::Data, Op::Shutdown]);
    assert_eq!(packets[1].0.flags, NO_SEND);
    driver.send(packet(key, Op::Data, 6), b"answer");
    assert_eq!(far.0.borrow().got, b"answer");
    // The guest does not either, and then lets go.
    let mut end = packet(key, Op::Shutdown, 0);
    end.flags = NO_SEND;
    driver.send(end, b"");
    assert_eq!(far.0.borrow().told, [Half::ToHost]);
    end.flags = NO_RECEIVE;
    driver.send(end, b"");
    assert_eq!(ops(&driver.receive()), [Op::Reset]);
    assert!(far.0.borrow().dropped);
}

#[test]
fn a_client_that_is_gone_ends_both_directions() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    far.0.borrow_mut().sends.extend(b"last");
    far.0.borrow_mut().gone = true;
    driver.ready(key, true, true, true);
    let packets = driver.receive();
    assert_eq!(ops(&packets), [Op::Data, Op::Shutdown]);
    assert_eq!(packets[1].0.flags, NO_SEND | NO_RECEIVE);
    // It may have sent something before it heard.
    driver.send(packet(key, Op::Data, 3), b"lost");
    driver.send(packet(key, Op::Reset, 0), b"");
    assert!(far.0.borrow().dropped);
    assert_eq!(driver.receive(), []);
}

#[test]
fn one_that_the_guest_does_not_close_is_closed() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    far.0.borrow_mut().gone = true;
    driver.ready(key, true, true, true);
    assert_eq!(ops(&driver.receive()), [Op::Shutdown]);
    driver.worker.tick(driver.worker.deadline().unwrap());
    assert_eq!(ops(&driver.receive()), [Op::Reset]);
    assert!(far.0.borrow().dropped);
}

#[test]
fn who_sends_more_than_fits_is_reset() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    far.0.borrow_mut().takes = 0;
    let data = vec![7; 32 << 10];
    driver.send(packet(key, Op::Data, data.len()), &data);
    driver.send(packet(key, Op::Data, data.len()), &data);
    assert_eq!(driver.receive(), []);
    far.0.borrow_mut().takes = 1 << 10;
    driver.ready(key, false, true, false);
    driver.send(packet(key, Op::Data, 1 << 10), &data[..1 << 10]);
    assert_eq!(driver.receive(), []);
    driver.send(packet(key, Op::Data, 1), b"!");
    assert_eq!(ops(&driver.receive()), [Op::Reset]);
}

#[test]
fn the_guest_hears_of_room_without_asking_and_when_it_asks() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    let data = vec![7; 16 << 10];
    driver.send(packet(key, Op::Data, data.len()), &data);
    let packets = driver.receive();
    assert_eq!(ops(&packets), [Op::CreditUpdate]);
    assert_eq!(packets[0].0.fwd_cnt, 16 << 10);
    driver.send(packet(key, Op::Data, 1), b"!");
    assert_eq!(driver.receive(), []);
    driver.send(packet(key, Op::CreditRequest, 0), b"");
    let packets = driver.receive();
    assert_eq!(ops(&packets), [Op::CreditUpdate]);
    assert_eq!(packets[0].0.fwd_cnt, (16 << 10) + 1);
    assert_eq!(far.0.borrow().got.len(), (16 << 10) + 1);
}

#[test]
fn the_guest_is_sent_no_more_than_it_has_room_for() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    let update = |room, passed| Header {
        buf_alloc: room,
        fwd_cnt: passed,
        ..packet(key, Op::CreditUpdate, 0)
    };
    driver.send(update(10, 0), b"");
    far.0.borrow_mut().sends.extend(b"0123456789abcdef");
    driver.ready(key, true, false, false);
    let packets = driver.receive();
    assert_eq!(ops(&packets), [Op::Data, Op::CreditRequest]);
    assert_eq!(packets[0].1, b"0123456789");
    assert_eq!(driver.receive(), [], "it begs once");
    driver.send(update(10, 4), b"");
    assert_eq!(driver.receive()[0].1, b"abcd");
    // It has no room, and says so: nobody asks again before there is some.
    for _ in 0..3 {
        driver.send(update(10, 4), b"");
        assert_eq!(driver.receive(), []);
    }
    // It claims to have taken what it was never sent: that is no room.
    driver.send(update(10, 1000), b"");
    assert_eq!(driver.receive(), []);
    driver.send(update(100, 14), b"");
    assert_eq!(driver.receive()[0].1, b"ef");
}

#[test]
fn what_makes_no_sense_is_dropped_or_answered_with_a_reset() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    let good = packet(key, Op::Data, 2);
    let dropped = [
        Header { src_cid: 3, ..good },
        Header {
            src_cid: HOST_CID,
            ..good
        },
        Header { dst_cid: 1, ..good },
        Header { len: 3, ..good },
        Header {
            len: u32::MAX,
            ..good
        },
    ];
    for header in dropped {
        driver.send(header, b"xx");
        assert_eq!(driver.receive(), [], "{header:?}");
    }
    driver.send_bytes(&good.write()[..LEN - 1], &[]);
    assert_eq!(driver.receive(), []);
    assert_eq!(far.0.borrow().got, b"");
    let other = Key { host: 1, guest: 2 };
    let reset = [
        packet(other, Op::Data, 0),
        packet(other, Op::Response, 0),
        packet(other, Op::Shutdown, 0),
        Header {
            kind: Kind::Other(2),
            ..good
        },
        Header {
            op: Err(99),
            ..packet(other, Op::Data, 0)
        },
    ];
    for header in reset {
        driver.send(header, b"xx");
        let packets = driver.receive();
        assert_eq!(ops(&packets), [Op::Reset], "{header:?}");
        assert_eq!(packets[0].0.kind, header.kind);
    }
    driver.send(packet(other, Op::Reset, 0), b"");
    assert_eq!(driver.receive(), [], "a reset is not answered");
    driver.send(good, b"xx");
    assert_eq!(far.0.borrow().got, b"xx", "the connection has not noticed");
    for op in [Op::Request, Op::Response] {
        let (_, key) = open(&mut driver);
        driver.send(packet(key, op, 0), b"");
        assert_eq!(
            ops(&driver.receive()),
            [Op::Reset],
            "{op:?} of one that is open"
        );
    }
}

#[test]
fn connections_and_answers_without_end_have_one() {
    let mut driver = Driver::unset();
    driver.set_up();
    driver.listeners.0.borrow_mut().insert(80, Far::new());
    // No buffers for answers: at some point nothing is taken any more.
    let mut sent: u32 = 0;
    loop {
        driver.send(
            packet(
                Key {
                    host: 81,
                    guest: sent,
                },
                Op::Request,
                0,
            ),
            b"",
        );
        if driver.used(1).is_empty() {
            break;
        }
        sent += 1;
        assert!(sent < 1000);
    }
    // Then they come, all of them, and what was not taken before is.
    driver.offer_all();
    assert_eq!(driver.receive().len(), sent as usize + 1);
    assert_eq!(driver.used(1).len(), 1);
    for guest in 0..300 {
        driver.send(packet(Key { host: 80, guest }, Op::Request, 0), b"");
    }
    let answers = ops(&driver.receive());
    let open = answers.iter().filter(|&&op| op == Op::Response).count();
    assert_eq!((open, answers.len()), (MOST_CONNECTIONS, 300));
}

/// Linux resets a connection that it has closed when the host has not taken all within 8 s.
#[test]
fn what_the_guest_has_sent_before_it_closed_is_not_lost() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    far.0.borrow_mut().takes = 0;
    driver.send(packet(key, Op::Data, 4), b"last");
    let mut end = packet(key, Op::Shutdown, 0);
    end.flags = NO_SEND | NO_RECEIVE;
    driver.send(end, b"");
    driver.send(packet(key, Op::Reset, 0), b"");
    assert_eq!(driver.receive(), []);
    assert!(!far.0.borrow().dropped);
    // Its ports are free for another meanwhile.
    driver.listeners.0.borrow_mut().insert(key.host, Far::new());
    driver.send(packet(key, Op::Request, 0), b"");
    assert_eq!(ops(&driver.receive()), [Op::Response]);
    far.0.borrow_mut().takes = 3;
    driver.ready(key, false, true, false);
    assert!(!far.0.borrow().dropped);
    far.0.borrow_mut().takes = 3;
    driver.ready(key, false, true, false);
    assert_eq!(far.0.borrow().got, b"last");
    assert!(far.0.borrow().dropped);
    // One that takes nothing is not waited for without end.
    let (far, key) = open(&mut driver);
    far.0.borrow_mut().takes = 0;
    driver.send(packet(key, Op::Data, 4), b"last");
    driver.send(
        Header {
            flags: end.flags,
            ..packet(key, Op::Shutdown, 0)
        },
        b"",
    );
    driver.send(packet(key, Op::Reset, 0), b"");
    driver.now = driver.worker.deadline().unwrap();
    driver.worker.tick(driver.now);
    assert!(far.0.borrow().dropped);
}

#[test]
fn a_client_that_goes_when_the_guest_does_not_listen_is_noticed() {
    let mut driver = Driver::new();
    let (far, key) = open(&mut driver);
    let mut end = packet(key, Op::Shutdown, 0);
    end.flags = NO_RECEIVE;
    driver.send(end, b"");
    far.0.borrow_mut().gone = true;
    driver.ready(key, true, true, true);
    let packets = driver.receive();
    assert_eq!(ops(&packets), [Op::Shutdown]);
    assert_eq!(packets[0].0.flags, NO_SEND | NO_RECEIVE);
}

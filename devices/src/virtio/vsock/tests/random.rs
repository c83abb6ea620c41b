//! Whatever a guest writes anywhere, and whatever clients do, in random order.

use super::driver::{Driver, Far};
use super::*;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

#[derive(Clone, Debug)]
enum Act {
    /// A packet about the connection with this number, or one that does not exist.
    Send(u8, u16, u8, u16, u32, u32),
    /// Any bytes as a packet.
    Bytes(Vec<u8>),
    /// Any register.
    Register(u64, u32),
    /// Any word of the rings.
    Scribble(u16, u16),
    /// Buffers are offered.
    Offer(u8),
    Client,
    Ready(u8, bool, bool, bool),
    Peer(u8, Vec<u8>, u16, bool),
    Late,
    SetUp,
}

fn act() -> impl Strategy<Value = Act> {
    let byte = any::<u8>;
    let send = (
        byte(),
        0..10u16,
        byte(),
        any::<u16>(),
        any::<u32>(),
        any::<u32>(),
    );
    prop_oneof![
        8 => send.prop_map(|(n, op, flags, len, room, passed)| Act::Send(n, op, flags, len, room, passed)),
        1 => prop::collection::vec(byte(), 0..100).prop_map(Act::Bytes),
        1 => (0..0x140u64, any::<u32>()).prop_map(|(at, value)| Act::Register(at & !3, value)),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(at, value)| Act::Scribble(at, value)),
        4 => (0..16u8).prop_map(Act::Offer),
        3 => Just(Act::Client),
        3 => (byte(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(n, r, w, h)| Act::Ready(n, r, w, h)),
        3 => (byte(), prop::collection::vec(byte(), 0..300), any::<u16>(), any::<bool>())
            .prop_map(|(n, sends, takes, ends)| Act::Peer(n, sends, takes, ends)),
        1 => Just(Act::Late),
        1 => Just(Act::SetUp),
    ]
}

fn apply(driver: &mut Driver, clients: &mut Vec<(Far, Key)>, act: Act) {
    let of =
        |n: u8, clients: &[(Far, Key)]| clients.get(usize::from(n) % clients.len().max(1)).cloned();
    match act {
        Act::Send(n, op, flags, len, room, passed) => {
            let nobody = (Far::new(), Key { host: 80, guest: 1 });
            let (_, key) = of(n, clients).unwrap_or(nobody);
            let data = vec![n; usize::from(len)];
            let mut bytes = Header {
                flags: flags.into(),
                buf_alloc: room,
                fwd_cnt: passed,
                ..packet(key, Op::Data, data.len())
            }
            .write();
            bytes[30..32].copy_from_slice(&op.to_le_bytes());
            bytes.extend(data);
            driver.send_bytes(&bytes, &[LEN]);
        }
        Act::Bytes(bytes) => driver.send_bytes(&bytes, &[]),
        Act::Register(at, value) => driver.write(at, value),
        Act::Scribble(at, value) => {
            let at = Driver::rings(u64::from(at % 3))[usize::from(at / 3 % 3)] + u64::from(at % 64);
            driver.ram.0.write_obj(value, GuestAddress(at)).unwrap();
        }
        Act::Offer(n) => driver.offer(n.into()),
        Act::Client if clients.len() < 20 => clients.extend(driver.client(5000)),
        Act::Client => {}
        Act::Ready(n, readable, writable, hung) => {
            if let Some((_, key)) = of(n, clients) {
                driver.ready(key, readable, writable, hung);
            }
        }
        Act::Peer(n, sends, takes, ends) => {
            if let Some((far, key)) = of(n, clients) {
                let mut peer = far.0.borrow_mut();
                peer.sends.extend(sends);
                peer.takes = takes.into();
                peer.ended |= ends;
                drop(peer);
                driver.ready(key, true, true, false);
            }
        }
        Act::Late => {
            if let Some(due) = driver.worker.deadline() {
                driver.now = driver.now.max(due);
                driver.worker.tick(driver.now);
            }
        }
        Act::SetUp => driver.set_up(),
    }
    driver.run();
}

proptest! {
    #[test]
    fn whatever_happens_the_worker_comes_to_an_end(acts in prop::collection::vec(act(), 1..60)) {
        let mut driver = Driver::new();
        let mut clients = Vec::new();
        for act in acts {
            apply(&mut driver, &mut clients, act);
        }
        // Whatever it was, a reset mends it.
        driver.set_up();
        driver.offer_all();
        driver.receive();
        open(&mut driver);
    }

    #[test]
    fn no_byte_is_lost_or_comes_twice(
        sizes in prop::collection::vec((1..3000usize, 1..3000usize, 0..5000usize), 1..40),
        room in 1..5000u32,
    ) {
        let mut driver = Driver::new();
        let (far, key) = open(&mut driver);
        let (mut to_host, mut to_guest) = (Vec::new(), Vec::new());
        let (mut heard, mut passed, mut host_passed) = (Vec::new(), 0u32, 0u32);
        for (n, (up, down, takes)) in sizes.into_iter().enumerate() {
            let byte = u8::try_from(n).unwrap();
            far.0.borrow_mut().sends.extend(vec![byte; down]);
            to_guest.extend(vec![byte; down]);
            far.0.borrow_mut().takes = takes;
            // A guest that minds what the host has room for.
            let free = (64 << 10) - (to_host.len() - host_passed as usize);
            let up = up.min(free);
            let header = Header { buf_alloc: room, fwd_cnt: passed, ..packet(key, Op::Data, up) };
            to_host.extend(vec![byte; up]);
            driver.send(header, &vec![byte; up]);
            driver.ready(key, true, true, false);
            for (header, data) in driver.receive() {
                prop_assert!(data.len() <= room as usize);
                prop_assert!(header.op != Ok(Op::Reset));
                host_passed = header.fwd_cnt;
                passed += u32::try_from(data.len()).unwrap();
                heard.extend(data);
            }
        }
        far.0.borrow_mut().takes = usize::MAX;
        for _ in 0..to_guest.len() {
            if heard.len() == to_guest.len() {
                break;
            }
            let header = Header { buf_alloc: room, fwd_cnt: passed, ..packet(key, Op::CreditUpdate, 0) };
            driver.send(header, b"");
            driver.ready(key, true, true, false);
            for (_, data) in driver.receive() {
                passed += u32::try_from(data.len()).unwrap();
                heard.extend(data);
            }
        }
        driver.ready(key, false, true, false);
        prop_assert!(heard == to_guest);
        prop_assert!(far.0.borrow().got == to_host);
    }
}

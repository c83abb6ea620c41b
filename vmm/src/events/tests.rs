//! The ring, with readers that keep up and readers that do not.

use super::*;
use crate::hotplug::view::{Ended, OperationKind, PartView};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

fn write(writer: &mut Writer, states: &[&'static str]) {
    let now = SystemTime::now();
    writer.write(states.iter().map(|state| (now, News::Machine(state))));
}

/// What is there: ids of events, and the ends of gaps.
fn ids(cursor: &mut Cursor) -> Vec<(EventId, EventId)> {
    std::iter::from_fn(|| cursor.take())
        .map(|read| match read {
            Read::Event(event) => (event.id, event.id),
            Read::Gap { first, last } => (first, last),
        })
        .collect()
}

/// Counts how often it is woken.
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_reader_reads_on_from_where_it_was() {
    let mut writer = Writer::new(4, 100);
    let events = writer.events();
    let mut from_the_start = events.after(0);
    assert_eq!((events.newest(), ids(&mut from_the_start)), (0, vec![]));
    write(&mut writer, &["a", "b", "c"]);
    assert_eq!(ids(&mut from_the_start), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!(ids(&mut events.after(2)), [(3, 3)]);
    let mut from_now = events.after(events.newest());
    assert_eq!(ids(&mut from_now), []);
    write(&mut writer, &["d"]);
    assert_eq!(ids(&mut from_now), [(4, 4)]);
}

#[test]
fn who_is_overtaken_learns_what_is_lost() {
    let mut writer = Writer::new(4, 100);
    let mut slow = writer.events().after(0);
    write(&mut writer, &["a", "b", "c", "d"]);
    assert_eq!(ids(&mut writer.events().after(0)).len(), 4);
    write(&mut writer, &["e", "f"]);
    assert_eq!(ids(&mut slow), [(1, 2), (3, 3), (4, 4), (5, 5), (6, 6)]);
    (0..10).for_each(|_| write(&mut writer, &["g"]));
    assert_eq!(
        slow.take().map(|read| format!("{read:?}")),
        Some("Gap { first: 7, last: 12 }".into())
    );
}

/// An operation of so many vCPUs.
fn operation(parts: u32) -> News {
    let part = |vcpu| {
        Arc::new(PartView {
            vcpu,
            from: "online",
            to: Target::Offline,
            phase: "online",
            outcome: None,
        })
    };
    News::Operation(Arc::new(OperationView {
        id: 1,
        kind: OperationKind::Count(1),
        ended: None::<Ended>,
        parts: (0..parts).map(part).collect(),
        created_at: SystemTime::now(),
    }))
}

#[test]
fn heavy_events_leave_room_for_fewer() {
    let mut writer = Writer::new(100, 100);
    let mut put = |what| writer.write([(SystemTime::now(), what)]);
    // 1 + 312 / 8 each: two fit.
    (0..4).for_each(|_| put(operation(312)));
    (0..20).for_each(|_| put(News::Machine("running")));
    let kept: Vec<_> = ids(&mut writer.events().after(0));
    assert_eq!(kept.len(), 1 + 2 + 20);
    assert_eq!((kept[0], kept[1]), ((1, 2), (3, 3)));
    // What does not fit at all is there all the same, alone.
    writer.write([(SystemTime::now(), operation(1024))]);
    assert_eq!(ids(&mut writer.events().after(0)), [(1, 24), (25, 25)]);
    write(&mut writer, &["running"]);
    assert_eq!(ids(&mut writer.events().after(24)), [(25, 25), (26, 26)]);
}

#[test]
fn what_was_dropped_is_freed() {
    let mut writer = Writer::new(8, 1000);
    let held = operation(1);
    let News::Operation(view) = &held else {
        unreachable!()
    };
    (0..100).for_each(|_| writer.write([(SystemTime::now(), held.clone())]));
    assert_eq!(Arc::strong_count(view), 1 + 8);
    // A reader keeps what it holds, and nothing else.
    let mut reader = writer.events().after(99);
    let read = reader.take();
    (0..8).for_each(|_| write(&mut writer, &["running"]));
    assert_eq!(Arc::strong_count(view), 1 + 1);
    drop(read);
    assert_eq!(Arc::strong_count(view), 1);
}

#[test]
fn a_turn_wakes_who_waits_once_and_nobody_else() {
    let mut writer = Writer::default();
    let (count, events) = (Arc::new(Count(AtomicUsize::new(0))), writer.events());
    let waker = Waker::from(count.clone());
    let context = &mut Context::from_waker(&waker);
    let mut cursor = events.after(0);
    let woken = || count.0.load(Ordering::SeqCst);
    {
        let mut next = pin!(cursor.next());
        assert!(next.as_mut().poll(context).is_pending());
        writer.write([]);
        assert_eq!(woken(), 0);
        write(&mut writer, &["a", "b", "c"]);
        assert_eq!(woken(), 1);
        // Not again before it has come.
        write(&mut writer, &["d"]);
        assert_eq!(woken(), 1);
        let Poll::Ready(Some(Read::Event(event))) = next.as_mut().poll(context) else {
            unreachable!("it was woken for nothing");
        };
        assert_eq!(event.id, 1);
    }
    // It does not wait now, however much there is to read.
    write(&mut writer, &["e"]);
    assert_eq!(woken(), 1);
    assert_eq!(ids(&mut cursor).len(), 4);
}

#[test]
fn the_end_comes_after_the_last_event() {
    let mut writer = Writer::default();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let context = &mut Context::from_waker(&waker);
    let mut cursor = writer.events().after(0);
    assert!(pin!(cursor.next()).poll(context).is_pending());
    write(&mut writer, &["a"]);
    let mut waiting = writer.events().after(1);
    let mut waiting = pin!(waiting.next());
    assert!(waiting.as_mut().poll(context).is_pending());
    drop(writer);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert!(matches!(waiting.poll(context), Poll::Ready(None)));
    let next = pin!(cursor.next()).poll(context);
    assert!(matches!(next, Poll::Ready(Some(Read::Event(_)))));
    assert!(matches!(
        pin!(cursor.next()).poll(context),
        Poll::Ready(None)
    ));
}

/// Waits for a future on this thread, which is woken through a channel.
fn block_on<T>(future: impl Future<Output = T>, parked: &Receiver<()>, waker: &Waker) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(waker)) {
            return value;
        }
        parked
            .recv_timeout(Duration::from_secs(30))
            .expect("a waiting reader was not woken");
    }
}

struct Unpark(std::sync::mpsc::Sender<()>);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

/// Reads to the end; returns how many events came, how many were lost, and in how many gaps. Each event is the
/// next one, or the gap before it says which are missing.
fn follow(mut cursor: Cursor, stall: impl FnOnce()) -> (u64, u64, u64) {
    let (unpark, parked) = channel();
    let waker = Waker::from(Arc::new(Unpark(unpark)));
    let mut stall = Some(stall);
    let (mut seen, mut came, mut lost, mut gaps) = (0, 0, 0, 0);
    while let Some(read) = block_on(cursor.next(), &parked, &waker) {
        match read {
            Read::Event(event) => {
                assert_eq!(event.id, seen + 1);
                let News::Phase(change) = &event.news else {
                    unreachable!()
                };
                // Whole, and the one that belongs to the number.
                assert_eq!(
                    (change.generation, u64::from(change.vcpu)),
                    (event.id, event.id % 7)
                );
                seen = event.id;
                came += 1;
                if let Some(stall) = stall.take() {
                    stall();
                }
            }
            Read::Gap { first, last } => {
                assert!(
                    first == seen + 1 && last >= first,
                    "{first} to {last} after {seen}"
                );
                seen = last;
                lost += last + 1 - first;
                gaps += 1;
            }
        }
    }
    (came, lost, gaps)
}

/// A writer that never waits, readers that read as fast as they can, and one that stalls: each sees every event
/// or is told that it is lost, to the last one.
#[test]
fn many_readers_at_once_lose_nothing_untold() {
    const EVENTS: u64 = 200_000;
    let mut writer = Writer::new(64, 64);
    let readers: Vec<_> = (0..4).map(|_| writer.events().after(0)).collect();
    let stalling = writer.events().after(0);
    let change = |id: u64| PhaseChange {
        vcpu: u32::try_from(id % 7).unwrap_or_default(),
        generation: id,
        target: Target::Online,
        from: "dormant",
        phase: "starting",
        spent: None,
        operation: None,
    };
    let (go_on, stalled) = channel::<()>();
    thread::scope(|scope| {
        let slow =
            scope.spawn(move || follow(stalling, || stalled.recv().expect("the writer is gone")));
        let fast: Vec<_> = readers
            .into_iter()
            .map(|cursor| scope.spawn(|| follow(cursor, || ())))
            .collect();
        let mut id = 0;
        while id < EVENTS {
            // Turns of one event to many.
            let turn = (id + 1)..=(id + 1 + id % 13).min(EVENTS);
            id = *turn.end();
            writer.write(turn.map(|id| (SystemTime::UNIX_EPOCH, News::Phase(change(id)))));
        }
        go_on.send(()).expect("the slow reader is gone");
        drop(writer);
        for reader in fast {
            let (came, lost, _) = reader.join().expect("a reader failed");
            assert_eq!(came + lost, EVENTS);
        }
        // It got one before it stalled, and the last ones after.
        let (came, lost, gaps) = slow.join().expect("the slow reader failed");
        assert_eq!(came + lost, EVENTS);
        assert!(came >= 64 && gaps >= 1, "{came} came, with {gaps} gaps");
    });
}

//! The ring with its writer and a reader in all their interleavings, with memory as C11's model has it (loom): that a reader
//! is told of each event once and in order, or that it is lost, and of none before it is there.
//!
//!     cargo test -p hotvisor-vmm --features loom --lib interleaved

use super::*;
use loom::thread;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// How many events are written.
const WRITTEN: EventId = 3;

/// What a reader has found so far: every event up to `seen` is one of those that it has, or in a gap.
struct Found {
    cursor: Cursor,
    seen: EventId,
    lost: EventId,
}

impl Found {
    fn new(events: &Events) -> Self {
        Self {
            cursor: events.after(0),
            seen: 0,
            lost: 0,
        }
    }

    /// Takes what is there.
    fn take(&mut self) {
        while let Some(read) = self.cursor.take() {
            match read {
                Read::Event(event) => {
                    assert_eq!(event.id, self.seen + 1);
                    self.seen = event.id;
                }
                Read::Gap { first, last } => {
                    assert_eq!(first, self.seen + 1);
                    assert!(last >= first && last <= WRITTEN, "{first} to {last}");
                    self.lost += last + 1 - first;
                    self.seen = last;
                }
            }
        }
    }
}

fn write(writer: &mut Writer) {
    writer.write([(SystemTime::UNIX_EPOCH, News::Machine("running"))]);
}

/// A ring of so many places for events that weigh so much together. A reader loses none of the last `kept`, and what it may lose it
/// loses in one order of things and not in another.
fn read_and_write(places: usize, limit: usize, kept: EventId) {
    let losses = Arc::<Mutex<BTreeSet<EventId>>>::default();
    let seen = losses.clone();
    loom::model(move || {
        let losses = losses.clone();
        let mut writer = Writer::new(places, limit);
        let events = writer.events();
        let reader = thread::spawn(move || {
            let mut found = Found::new(&events);
            found.take();
            // Whoever has seen that it is there finds it, or that it is lost.
            let newest = events.newest();
            found.take();
            assert!(found.seen >= newest, "{} of {newest}", found.seen);
            found
        });
        (0..WRITTEN).for_each(|_| write(&mut writer));
        let mut found = reader.join().unwrap();
        found.take();
        assert_eq!(found.seen, WRITTEN);
        losses.lock().unwrap().insert(found.lost);
    });
    let all = BTreeSet::from_iter(0..=WRITTEN - kept);
    assert_eq!(*seen.lock().unwrap(), all);
}

#[test]
fn a_reader_that_is_not_overtaken_reads_all() {
    read_and_write(3, 100, WRITTEN);
}

#[test]
fn a_reader_that_is_overtaken_knows_what_it_has_lost() {
    read_and_write(2, 100, 2);
}

#[test]
fn what_is_dropped_for_its_weight_is_lost_as_well() {
    // Each weighs one.
    read_and_write(4, 2, 2);
}

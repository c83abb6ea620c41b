//! The ring of the last events: one writer, which nobody can hold up, and any number of readers.
//!
//! Each place is an atomic pointer to an event, so that a reader takes what is there without a lock, sees by the
//! event's number whether it is the one that it wants, and keeps it alive by itself. The writer puts the next
//! event into its place and then says so; it never looks whether somebody reads.

use super::{Event, EventId, News};
use crate::sync::{ArcSwapOption, AtomicBool, AtomicU64};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use tokio::sync::Notify;

/// How many events are kept at most.
const PLACES: usize = 4096;
/// How much those that are kept may weigh together: so many plain ones. Only where operations of hundreds of vCPUs
/// follow each other are fewer kept than there are places.
const WEIGHT: usize = 4 * PLACES;

struct Ring {
    places: Box<[ArcSwapOption<Event>]>,
    /// The number of the last event that is in its place; written by the writer alone.
    newest: AtomicU64,
    /// The number of the first event that is kept; written by the writer alone, before it drops the one before.
    oldest: AtomicU64,
    /// The writer is gone.
    closed: AtomicBool,
    /// Told of new events. Costs one load where nobody waits.
    more: Notify,
}

/// The writing end: the control thread's. Dropping it ends every reader that has read all.
pub struct Writer {
    ring: Arc<Ring>,
    next: EventId,
    /// What each event that is kept weighs.
    weights: VecDeque<usize>,
    weight: usize,
    limit: usize,
}

/// The reading end. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<Ring>);

/// A reader, and how far it has read.
pub struct Cursor {
    ring: Arc<Ring>,
    seen: EventId,
}

/// What a reader finds.
#[derive(Clone, Debug)]
pub enum Read {
    /// The next event.
    Event(Arc<Event>),
    /// The next ones were dropped before they were read; what comes next follows `last`.
    Gap {
        /// The first that is lost.
        first: EventId,
        /// The last that is lost.
        last: EventId,
    },
}

impl Default for Writer {
    fn default() -> Self {
        Self::new(PLACES, WEIGHT)
    }
}

impl Writer {
    /// A ring of so many places for events that weigh so much together.
    pub(crate) fn new(places: usize, limit: usize) -> Self {
        let ring = Ring {
            places: (0..places).map(|_| ArcSwapOption::empty()).collect(),
            newest: AtomicU64::new(0),
            oldest: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            more: Notify::new(),
        };
        Self {
            ring: Arc::new(ring),
            next: 1,
            weights: VecDeque::new(),
            weight: 0,
            limit,
        }
    }

    /// The reading end.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.ring.clone())
    }

    /// Writes what has happened, in order, and wakes whoever waits, once. Never waits itself.
    pub fn write(&mut self, happened: impl IntoIterator<Item = (SystemTime, News)>) {
        let before = self.next;
        for (at, news) in happened {
            let id = self.next;
            self.next += 1;
            self.make_room(news.weight());
            let event = Arc::new(Event { id, at, news });
            self.ring.place(id).store(Some(event));
            self.ring.newest.store(id, Ordering::Release);
        }
        if self.next != before {
            self.ring.more.notify_waiters();
        }
    }

    /// Drops the oldest events until there is room for one of this weight.
    fn make_room(&mut self, weight: usize) {
        while self.weights.len() == self.ring.places.len() || self.weight + weight > self.limit {
            let Some(dropped) = self.weights.pop_front() else {
                // It is alone, however much it weighs.
                break;
            };
            self.weight -= dropped;
            let oldest = self.next - 1 - self.weights.len() as EventId;
            self.ring.oldest.store(oldest, Ordering::Release);
            self.ring.place(oldest - 1).store(None);
        }
        self.weights.push_back(weight);
        self.weight += weight;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ring.closed.store(true, Ordering::Release);
        self.ring.more.notify_waiters();
    }
}

impl Ring {
    fn place(&self, id: EventId) -> &ArcSwapOption<Event> {
        // The remainder is below the number of places.
        #[allow(clippy::cast_possible_truncation, reason = "64-bit hosts only")]
        &self.places[id as usize % self.places.len()]
    }
}

impl Events {
    /// The number of the last event; 0 before the first.
    #[must_use]
    pub fn newest(&self) -> EventId {
        self.0.newest.load(Ordering::Acquire)
    }

    /// A reader that has read everything up to `seen`, which may be long ago. One that is to read from now on
    /// has seen [`Events::newest`].
    #[must_use]
    pub fn after(&self, seen: EventId) -> Cursor {
        Cursor {
            ring: self.0.clone(),
            seen,
        }
    }
}

impl Cursor {
    /// What comes next, if it is there already.
    pub fn take(&mut self) -> Option<Read> {
        let wanted = self.seen + 1;
        if wanted > self.ring.newest.load(Ordering::Acquire) {
            return None;
        }
        let found = self.ring.place(wanted).load_full();
        if let Some(event) = found.filter(|event| event.id == wanted) {
            self.seen = wanted;
            return Some(Read::Event(event));
        }
        // It was in its place before `newest` said so, and `oldest` said that it would go before it went.
        self.seen = self.ring.oldest.load(Ordering::Acquire).max(wanted + 1) - 1;
        Some(Read::Gap {
            first: wanted,
            last: self.seen,
        })
    }

    /// What comes next, as soon as it is there; `None` when everything was read and nothing will follow.
    ///
    /// May be dropped while it waits; nothing is lost.
    pub async fn next(&mut self) -> Option<Read> {
        let ring = self.ring.clone();
        loop {
            // Before looking, so that what is written after the look wakes it.
            let more = ring.more.notified();
            // Before looking, too: nothing is written after it is true.
            let closed = ring.closed.load(Ordering::Acquire);
            if let Some(read) = self.take() {
                return Some(read);
            }
            if closed {
                return None;
            }
            more.await;
        }
    }
}

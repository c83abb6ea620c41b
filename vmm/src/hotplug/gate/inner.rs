//! What a gate consists of, and what is done under its lock.

use super::{Since, Visitor};
use crate::sync::{AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard};
use crate::tally::GateTally;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64 as Counter, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// Every closing has a number of its own, over all gates, so that what is said of one that is over can be told apart.
static CLOSINGS: Counter = Counter::new(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Open,
    Draining,
    Closed,
    Offline,
}

/// Where a user notes whether it is inside: how often it went in or out, and so it is inside if the number is odd. It alone
/// writes here, and has the cache line for itself (two, because they are fetched in pairs).
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Mark(pub(super) AtomicU64);

impl Mark {
    pub(super) fn passages(&self) -> u64 {
        // With what the user did inside, if it has left.
        self.0.load(Ordering::Acquire)
    }

    /// Notes that its user is inside; one whose stay was forgotten is already. Returns what the mark says.
    #[inline]
    pub(super) fn come(&self) -> u64 {
        let passages = self.0.load(Ordering::Relaxed) | 1;
        self.0.store(passages, Ordering::Relaxed);
        passages
    }

    /// Notes that its user is outside, after all that it did inside. Twice is as once.
    pub(super) fn go(&self) {
        let passages = self.0.load(Ordering::Relaxed);
        self.0.store((passages + 1) & !1, Ordering::Release);
    }
}

/// What is known of a user.
pub(super) struct Registered {
    pub(super) mark: Arc<Mark>,
    who: &'static str,
    thread: String,
    /// Its last way in at which somebody looked at a clock: its number of passages then, and the time.
    pub(super) timed: Option<(u64, Instant)>,
    /// Its number of passages when the gate closed, if it was inside then.
    held: Option<u64>,
}

/// A gate is closed, or retired.
pub(super) struct Closing {
    pub(super) number: u64,
    pub(super) since: Instant,
    /// Whether it has been said that nobody is inside.
    pub(super) told: bool,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) users: Vec<Registered>,
    /// Of a closed gate, and of a retired one.
    pub(super) closing: Option<Closing>,
    /// When it was open last.
    pub(super) left_open: Option<Instant>,
}

/// A [`State`], which every user reads on its way in, in cache lines of its own: the lock beside it is taken by whoever comes
/// once.
#[repr(align(128))]
pub(super) struct Sign(AtomicU8);

impl Deref for Sign {
    type Target = AtomicU8;

    fn deref(&self) -> &AtomicU8 {
        &self.0
    }
}

pub(super) struct Shared {
    /// Written under the lock.
    pub(super) state: Sign,
    pub(super) inner: Mutex<Inner>,
    pub(super) moved: Condvar,
    /// Called, without the lock, when the last user has left a closed gate.
    pub(super) on_empty: Box<dyn Fn(u64) + Send + Sync>,
    pub(super) tally: Arc<GateTally>,
}

impl Shared {
    pub(super) fn new(on_empty: Box<dyn Fn(u64) + Send + Sync>, tally: Arc<GateTally>) -> Self {
        Self {
            state: Sign(AtomicU8::new(State::Offline as u8)),
            inner: Mutex::new(Inner::default()),
            moved: Condvar::new(),
            on_empty,
            tally,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state. With the lock it stays so.
    pub(super) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Open,
            1 => State::Draining,
            2 => State::Closed,
            _ => State::Offline,
        }
    }

    /// Somebody has left, or was never let in: if that was the last one that a closed gate waited for, it is said.
    pub(super) fn tell_if_empty(&self, mut inner: MutexGuard<'_, Inner>) {
        let waited_for = inner.users.iter().any(Registered::is_held);
        let Some(closing) = &mut inner.closing else {
            return;
        };
        if waited_for || std::mem::replace(&mut closing.told, true) {
            return;
        }
        let number = closing.number;
        self.tally.closing.observe(closing.since.elapsed());
        drop(inner);
        (self.on_empty)(number);
    }
}

impl Registered {
    pub(super) fn new(mark: Arc<Mark>, who: &'static str, thread: String) -> Self {
        Self {
            mark,
            who,
            thread,
            timed: None,
            held: None,
        }
    }

    /// Whether a closed gate waits for it. What it may have noted since to look whether it may come in does not count.
    fn is_held(&self) -> bool {
        self.held.is_some_and(|held| self.mark.passages() == held)
    }

    fn visitor(&self, left_open: Option<Instant>, now: Instant) -> Visitor {
        let timed = self.timed.filter(|(at, _)| *at == self.mark.passages());
        let since = match (timed, left_open) {
            (Some((_, since)), _) => Since::Exactly(now.saturating_duration_since(since)),
            (None, Some(open)) => Since::AtLeast(now.saturating_duration_since(open)),
            (None, None) => Since::AtLeast(std::time::Duration::ZERO),
        };
        Visitor {
            who: self.who,
            thread: self.thread.clone(),
            since,
        }
    }
}

impl Inner {
    /// Notes who is inside; returns whether nobody is. The state says closed already, and a fence lies between.
    pub(super) fn close(&mut self, now: Instant) -> bool {
        for user in &mut self.users {
            let passages = user.mark.passages();
            user.held = (passages % 2 == 1).then_some(passages);
        }
        let empty = self.users.iter().all(|user| user.held.is_none());
        self.closing = Some(Closing {
            number: CLOSINGS.fetch_add(1, Ordering::Relaxed) + 1,
            since: now,
            told: empty,
        });
        empty
    }

    /// The state changes to another one.
    pub(super) fn leaves(&mut self, state: State) {
        if state == State::Open {
            self.left_open = Some(Instant::now());
        }
    }

    pub(super) fn visitors(&self, state: State, now: Instant) -> Vec<Visitor> {
        let inside = self.users.iter().filter(|user| match self.closing {
            Some(_) => user.is_held(),
            None => user.mark.passages() % 2 == 1,
        });
        // While it is open, that it has been open before says nothing.
        let left_open = self.left_open.filter(|_| state != State::Open);
        inside.map(|user| user.visitor(left_open, now)).collect()
    }

    /// The place of a user, which is there as long as the user is.
    pub(super) fn registered(&mut self, mark: &Arc<Mark>) -> Option<&mut Registered> {
        self.users
            .iter_mut()
            .find(|user| Arc::ptr_eq(&user.mark, mark))
    }
}

//! The gate of one vCPU: who may use a vCPU from outside, while it is being taken away.
//!
//! Everything in this process that touches a vCPU which must not disappear meanwhile does so inside the gate.
//! It is the reader side of hotplug, and it closes in two steps, so that nothing that a notifier waits for is
//! ever kept out:
//!
//! | state | a movable user | a pinned user | when |
//! |---|---|---|---|
//! | open | enters | enters | the vCPU is there |
//! | draining | is sent to another vCPU | enters | from the request until the guest has ejected the vCPU |
//! | closed | waits | waits | after the notifiers, until the last user has left |
//! | offline | is told so | is told so | the vCPU is gone |
//!
//! Closing first and notifying then is the order that deadlocks: a notifier that waits for somebody who waits
//! at the gate waits for ever.

use crate::tally::GateTally;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How a user is bound to the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Another vCPU would do as well.
    Movable,
    /// It must be this one.
    Pinned,
}

/// Why a user was not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The vCPU is about to go: use another one.
    #[error("the vCPU is being taken away: use another one")]
    Migrate,
    /// The vCPU is not there.
    #[error("the vCPU is offline")]
    Offline,
    /// The gate stayed closed until the user's deadline, because of these users inside.
    #[error("the gate was closed until the deadline; inside: {}", .0.join(", "))]
    Deadline(Vec<&'static str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Draining,
    Closed,
    Offline,
}

struct Inner {
    state: State,
    /// The users inside, by ticket.
    users: BTreeMap<u64, &'static str>,
    tickets: u64,
    /// When it was closed with users inside.
    closed_at: Option<Instant>,
}

struct Shared {
    inner: Mutex<Inner>,
    moved: Condvar,
    /// Called, without the lock, when the last user leaves a closed gate.
    on_empty: Box<dyn Fn() + Send + Sync>,
    tally: Arc<GateTally>,
}

/// The gate of one vCPU, for whoever opens and closes it.
pub struct Gate(Arc<Shared>);

/// The gate of one vCPU, for its users. Clones lead to the same gate.
#[derive(Clone)]
pub struct Entrance(Arc<Shared>);

/// A user's stay inside. Dropping it leaves.
#[must_use]
pub struct Inside {
    gate: Arc<Shared>,
    ticket: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// A gate that says offline. `on_empty` is called when the last user leaves it while it is closed; it
    /// posts and returns.
    pub fn new(on_empty: impl Fn() + Send + Sync + 'static) -> Self {
        Self::counted(on_empty, Arc::default())
    }

    /// The same, with a place where waits are counted.
    pub fn counted(on_empty: impl Fn() + Send + Sync + 'static, tally: Arc<GateTally>) -> Self {
        let inner = Inner {
            state: State::Offline,
            users: BTreeMap::new(),
            tickets: 0,
            closed_at: None,
        };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            moved: Condvar::new(),
            on_empty: Box::new(on_empty),
            tally,
        }))
    }

    /// The way in.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance(self.0.clone())
    }

    /// The users inside.
    #[must_use]
    pub fn users(&self) -> Vec<&'static str> {
        self.0.lock().users.values().copied().collect()
    }

    /// Lets everybody in.
    pub fn open(&self) {
        self.set(State::Open);
    }

    /// Sends movable users elsewhere from now on.
    pub fn drain(&self) {
        self.set(State::Draining);
    }

    /// Keeps everybody out from now on; returns whether nobody is inside. If somebody is, the last one to
    /// leave makes the gate say so.
    #[must_use]
    pub fn close(&self) -> bool {
        let mut inner = self.0.lock();
        inner.state = State::Closed;
        let empty = inner.users.is_empty();
        if empty {
            self.0.tally.closing.observe(Duration::ZERO);
        } else {
            inner.closed_at.get_or_insert_with(Instant::now);
        }
        empty
    }

    /// The vCPU is gone: everybody who waits is told.
    pub fn set_offline(&self) {
        self.set(State::Offline);
    }

    fn set(&self, state: State) {
        let mut inner = self.0.lock();
        inner.state = state;
        inner.closed_at = None;
        drop(inner);
        self.0.moved.notify_all();
    }
}

impl Entrance {
    /// Enters, or waits at a closed gate until `deadline`. `who` is what a person is told of a user that does
    /// not leave.
    ///
    /// # Errors
    /// [`Denied`] says where to go instead.
    pub fn enter(
        &self,
        binding: Binding,
        who: &'static str,
        deadline: Instant,
    ) -> Result<Inside, Denied> {
        let mut inner = self.0.lock();
        let mut waits = None;
        let answer = loop {
            match (inner.state, binding) {
                (State::Open, _) | (State::Draining, Binding::Pinned) => break Ok(()),
                (State::Draining, Binding::Movable) => break Err(Denied::Migrate),
                (State::Offline, _) => break Err(Denied::Offline),
                (State::Closed, _) => {}
            }
            let now = Instant::now();
            waits.get_or_insert(now);
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                break Err(Denied::Deadline(inner.users.values().copied().collect()));
            }
            let waited = self.0.moved.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        if let Some(since) = waits {
            self.0.tally.users.observe(since.elapsed());
        }
        answer?;
        inner.tickets += 1;
        let ticket = inner.tickets;
        inner.users.insert(ticket, who);
        Ok(Inside {
            gate: self.0.clone(),
            ticket,
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let last = {
            let mut inner = self.gate.lock();
            inner.users.remove(&self.ticket);
            let last = inner.state == State::Closed && inner.users.is_empty();
            if last && let Some(closed_at) = inner.closed_at.take() {
                self.gate.tally.closing.observe(closed_at.elapsed());
            }
            last
        };
        if last {
            (self.gate.on_empty)();
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.0.lock();
        write!(f, "Gate({:?}, {:?})", inner.state, inner.users)
    }
}

impl fmt::Debug for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entrance({:?})", self.0.lock().users)
    }
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inside({})", self.ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::Binding::{Movable, Pinned};
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;
    use std::time::Duration;

    fn gate() -> (Gate, Receiver<()>) {
        let (tx, rx) = channel();
        let gate = Gate::new(move || tx.send(()).unwrap());
        gate.open();
        (gate, rx)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn enter(gate: &Gate, binding: Binding) -> Result<Inside, Denied> {
        gate.entrance().enter(binding, "a test", soon())
    }

    #[test]
    fn every_state_answers_both_kinds() {
        let (gate, _empty) = gate();
        assert!(enter(&gate, Movable).is_ok() && enter(&gate, Pinned).is_ok());
        gate.drain();
        assert_eq!(enter(&gate, Movable).unwrap_err(), Denied::Migrate);
        assert!(enter(&gate, Pinned).is_ok());
        gate.set_offline();
        for binding in [Movable, Pinned] {
            assert_eq!(enter(&gate, binding).unwrap_err(), Denied::Offline);
        }
        assert!(gate.close());
        let inside = gate.entrance().enter(Pinned, "late", Instant::now());
        assert_eq!(inside.unwrap_err(), Denied::Deadline(vec![]));
    }

    #[test]
    fn the_last_user_of_a_closed_gate_says_so_once() {
        let (gate, empty) = gate();
        let first = enter(&gate, Movable).unwrap();
        let second = gate.entrance().enter(Pinned, "statistics", soon()).unwrap();
        gate.drain();
        assert!(!gate.close());
        drop(first);
        assert_eq!(gate.users(), ["statistics"]);
        assert!(empty.try_recv().is_err());
        drop(second);
        assert!(empty.try_recv().is_ok());
        assert!(empty.try_recv().is_err());
    }

    #[test]
    fn leaving_an_open_or_draining_gate_says_nothing() {
        let (gate, empty) = gate();
        drop(enter(&gate, Pinned).unwrap());
        let inside = enter(&gate, Pinned).unwrap();
        gate.drain();
        drop(inside);
        assert!(empty.try_recv().is_err());
    }

    /// A user that waits at the closed gate enters after a rollback, and is told where there is none.
    #[test]
    fn who_waits_at_the_gate_learns_what_became_of_it() {
        for (decide, entered) in [
            (Gate::open as fn(&Gate), Ok(())),
            (Gate::set_offline, Err(Denied::Offline)),
        ] {
            let (gate, _empty) = gate();
            let inside = enter(&gate, Pinned).unwrap();
            assert!(!gate.close());
            let waiter = {
                let entrance = gate.entrance();
                thread::spawn(move || entrance.enter(Pinned, "a waiter", soon()).map(drop))
            };
            decide(&gate);
            assert_eq!(waiter.join().unwrap(), entered);
            drop(inside);
        }
    }

    #[test]
    fn waits_are_counted_on_both_sides() {
        let tally = Arc::<GateTally>::default();
        let counts = || (tally.closing.read().count(), tally.users.read().count());
        let gate = Gate::counted(|| {}, tally.clone());
        gate.open();
        drop(enter(&gate, Pinned));
        assert!(gate.close());
        assert_eq!(counts(), (1, 0));
        assert_eq!(tally.closing.read().sum, Duration::ZERO);
        gate.open();
        let inside = enter(&gate, Pinned).unwrap();
        assert!(!gate.close());
        let brief = Instant::now() + Duration::from_millis(2);
        let denied = gate.entrance().enter(Pinned, "a waiter", brief);
        assert_eq!(denied.unwrap_err(), Denied::Deadline(vec!["a test"]));
        assert_eq!(counts(), (1, 1));
        drop(inside);
        assert_eq!(counts(), (2, 1));
        let waits = [&tally.closing, &tally.users].map(|waits| waits.read().sum);
        assert!(
            waits.iter().all(|wait| *wait >= Duration::from_millis(2)),
            "{waits:?}"
        );
        // One that is opened again has not closed.
        gate.open();
        let inside = enter(&gate, Pinned).unwrap();
        assert!(!gate.close());
        gate.open();
        drop(inside);
        assert_eq!(counts(), (2, 1));
    }

    /// What the order of steps is about: a notifier waits for a thread that needs the gate. With the gate
    /// only draining meanwhile, that thread gets through; with the gate closed first, nobody gets on.
    #[test]
    fn closing_before_the_notifiers_deadlocks_and_after_them_does_not() {
        let notifier_is_done = |close_first: bool| {
            let (gate, _empty) = gate();
            let held = enter(&gate, Pinned).unwrap();
            if close_first {
                assert!(!gate.close());
            } else {
                gate.drain();
            }
            let (done, is_done) = channel();
            let user = gate.entrance();
            let brief = Instant::now() + Duration::from_millis(200);
            let thread = thread::spawn(move || {
                // Whom the notifier waits for: it needs the vCPU once more before it is through.
                let result = user.enter(Pinned, "a worker", brief).map(drop);
                drop(held);
                let _ = done.send(result.is_ok());
            });
            let through = is_done.recv().unwrap();
            thread.join().unwrap();
            through
        };
        assert!(notifier_is_done(false));
        assert!(!notifier_is_done(true));
    }
}

//! The users' side of a gate.

use super::fence::{self, Light};
use super::inner::{Inner, Mark, Registered, Shared, State};
use super::{Binding, Denied};
use crate::sync::AtomicU64;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Nobody is named who has gone to another thread since.
type InOneThread = PhantomData<*const ()>;

/// Somebody who goes in and out of a gate, from the thread that [`Entrance::user`](super::Entrance::user) was called by, and
/// is inside once at a time:
///
/// ```compile_fail,E0277
/// # use hotvisor_vmm::hotplug::gate::Gate;
/// let user = Gate::new(|_| {}).entrance().user("statistics");
/// std::thread::spawn(move || drop(user));
/// ```
pub struct User {
    gate: Arc<Shared>,
    mark: Arc<Mark>,
    thread: InOneThread,
}

/// A user's stay inside. Dropping it leaves. It holds what leaving needs, so that this is not looked up again.
#[must_use]
pub struct Stay<'a> {
    gate: &'a Shared,
    mark: &'a Mark,
    /// What the mark says.
    passages: u64,
    fence: Light,
    thread: InOneThread,
}

/// The stay of somebody who came in once. Dropping it leaves.
#[must_use]
pub struct Inside(User);

impl User {
    pub(super) fn register(gate: Arc<Shared>, who: &'static str) -> Self {
        let mark = Arc::new(Mark(AtomicU64::new(0)));
        let registered = Registered::new(mark.clone(), who, thread());
        gate.lock().users.push(registered);
        Self {
            gate,
            mark,
            thread: PhantomData,
        }
    }

    /// Enters, or waits at a closed gate, for `patience` at the most.
    ///
    /// # Errors
    /// [`Denied`] says where to go instead.
    #[inline]
    pub fn enter(&mut self, binding: Binding, patience: Duration) -> Result<Stay<'_>, Denied> {
        let mut passages = self.mark.come();
        let fence = fence::light();
        fence.pass();
        if self.gate.state.load(Ordering::Acquire) != State::Open as u8 {
            passages = self.ask(binding, patience)?;
        }
        Ok(self.stay(passages, fence))
    }

    #[inline]
    fn stay(&self, passages: u64, fence: Light) -> Stay<'_> {
        Stay {
            gate: &self.gate,
            mark: &self.mark,
            passages,
            fence,
            thread: PhantomData,
        }
    }

    pub(super) fn into_inside(
        mut self,
        binding: Binding,
        patience: Duration,
    ) -> Result<Inside, Denied> {
        // Inside from now on, whatever holds it.
        std::mem::forget(self.enter(binding, patience)?);
        // One who comes once takes the lock anyway, to be a user at all, and can look at a clock as well.
        self.note_time(&mut self.gate.lock(), self.mark.passages());
        Ok(Inside(self))
    }

    /// It has noted that it is inside, and the gate was not open: goes by what the gate says under its lock. Returns
    /// its passages; with an error it is outside.
    #[cold]
    fn ask(&self, binding: Binding, patience: Duration) -> Result<u64, Denied> {
        let gate = &*self.gate;
        let mut inner = gate.lock();
        let mut begun = None;
        let answer = loop {
            match (gate.state(), binding) {
                (State::Open, _) | (State::Draining, Binding::Pinned) => break Ok(()),
                (State::Draining, Binding::Movable) => break Err(Denied::Migrate),
                (State::Offline, _) => break Err(Denied::Offline),
                (State::Closed, _) => {}
            }
            let now = Instant::now();
            let since = *begun.get_or_insert_with(|| {
                // Nobody is to wait for one who waits outside.
                self.mark.go();
                now
            });
            if inner.closing.as_ref().is_some_and(|closing| !closing.told) {
                gate.tell_if_empty(inner);
                inner = gate.lock();
                // It may have been opened in between, and the wait would miss that.
                if gate.state() != State::Closed {
                    continue;
                }
            }
            let left = patience.saturating_sub(now.saturating_duration_since(since));
            if left.is_zero() {
                break Err(Denied::Deadline(inner.visitors(State::Closed, now)));
            }
            let waited = gate.moved.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        if let Some(since) = begun {
            gate.tally.users.observe(since.elapsed());
        }
        if let Err(denied) = answer {
            self.mark.go();
            // Somebody may have taken the mark for a user inside.
            gate.tell_if_empty(inner);
            return Err(denied);
        }
        // Under the lock, without which nobody closes the gate: no fence is needed.
        let passages = self.mark.come();
        self.note_time(&mut inner, passages);
        Ok(passages)
    }

    /// It has been inside, for the time that the mark says so, since now.
    fn note_time(&self, inner: &mut Inner, passages: u64) {
        if let Some(registered) = inner.registered(&self.mark) {
            registered.timed = Some((passages, Instant::now()));
        }
    }
}

#[cold]
fn left_a_closed_gate(gate: &Shared) {
    gate.tell_if_empty(gate.lock());
}

/// The calling thread, for people.
fn thread() -> String {
    let current = std::thread::current();
    let id = nix::unistd::gettid();
    match current.name() {
        Some(name) => format!("{name}, {id}"),
        None => id.to_string(),
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        inner
            .users
            .retain(|user| !Arc::ptr_eq(&user.mark, &self.mark));
        // If a stay of its was forgotten, it may be the one that is waited for.
        self.gate.tell_if_empty(inner);
    }
}

impl Drop for Stay<'_> {
    #[inline]
    fn drop(&mut self) {
        self.mark.0.store(self.passages + 1, Ordering::Release);
        self.fence.pass();
        if self.gate.state.load(Ordering::Acquire) >= State::Closed as u8 {
            left_a_closed_gate(self.gate);
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // It was kept from ending; now it ends.
        drop(self.0.stay(self.0.mark.passages(), fence::light()));
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({})", self.mark.passages())
    }
}

impl fmt::Debug for Stay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stay({})", self.passages)
    }
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inside({:?})", self.0)
    }
}

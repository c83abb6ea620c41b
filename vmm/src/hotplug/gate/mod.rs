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
//! | offline | is told so | is told so | the vCPU is gone, or goes with the whole machine, which waits until the last user has left |
//!
//! Closing first and notifying then is the order that deadlocks: a notifier that waits for somebody who waits
//! at the gate waits for ever.
//!
//! For whoever goes in and out often, that costs next to nothing while it is open, as with the kernel's
//! `percpu_rw_semaphore`: each [`User`] has a mark of its own, in a cache line of its own, which nobody else writes to;
//! the state is in a line that all read and that changes only with hotplug; there is no locked instruction, and the fence
//! between the two is paid for by who closes the gate (`gate/fence.rs`). Everything else is done under a lock: to become a
//! user, and so to go in once with [`Entrance::enter`], too.
//!
//! ```
//! use hotvisor_vmm::hotplug::gate::{Binding, Denied, Gate};
//! use std::time::Duration;
//!
//! let gate = Gate::new(|closing| println!("everybody has left (closing {closing})"));
//! gate.open();
//! let mut statistics = gate.entrance().user("statistics");
//! let inside = statistics.enter(Binding::Pinned, Duration::ZERO)?;
//! // The vCPU is there, and stays, until `inside` is dropped.
//! drop(inside);
//! assert!(gate.close(), "nobody is inside");
//! gate.set_offline();
//! let denied = statistics.enter(Binding::Pinned, Duration::ZERO).unwrap_err();
//! assert_eq!(denied, Denied::Offline);
//! # Ok::<(), Denied>(())
//! ```

mod fence;
mod inner;
mod user;

use crate::tally::GateTally;
use inner::{Shared, State};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub use user::{Inside, Stay, User};

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
    /// The gate stayed closed for as long as the user would wait, because of these users inside.
    #[error("the gate was closed all the time; inside: {}", list(.0))]
    Deadline(Vec<Visitor>),
}

/// Somebody inside a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// What for.
    pub who: &'static str,
    /// The thread that it is inside from: its name, if it has one, and its id on the host.
    pub thread: String,
    /// For how long; or, of a [`User`] that has come in while the gate was open, who looks at no clock, for how long at least:
    /// since the gate was open last.
    pub since: Since,
}

/// How long somebody has been inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long.
    Exactly(Duration),
    /// So long and longer.
    AtLeast(Duration),
}

/// Visitors in one line, for people.
#[must_use]
pub fn list(visitors: &[Visitor]) -> String {
    let visitors: Vec<String> = visitors.iter().map(Visitor::to_string).collect();
    visitors.join(", ")
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (more, time) = match self.since {
            Since::Exactly(time) => ("", time),
            Since::AtLeast(time) => ("more than ", time),
        };
        // As exact as a person can use it.
        let time = Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        write!(
            f,
            "{} (thread {}, for {more}{time:?})",
            self.who, self.thread
        )
    }
}

/// The gate of one vCPU, for whoever opens and closes it.
pub struct Gate(Arc<Shared>);

/// The gate of one vCPU, for its users. Clones lead to the same gate.
#[derive(Clone)]
pub struct Entrance(Arc<Shared>);

impl Gate {
    /// Has the kernel make ready for what closing a gate needs. The first gate does so, too; before the process has other
    /// threads it takes no time.
    pub fn prepare() {
        fence::prepare();
    }

    /// A gate that says offline. `on_empty` is called when the last user leaves it while it is closed, with the number
    /// of the [closing](Gate::closing) that this is about; it posts and returns.
    pub fn new(on_empty: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self::counted(on_empty, Arc::default())
    }

    /// The same, with a place where waits are counted.
    pub fn counted(on_empty: impl Fn(u64) + Send + Sync + 'static, tally: Arc<GateTally>) -> Self {
        fence::prepare();
        Self(Arc::new(Shared::new(Box::new(on_empty), tally)))
    }

    /// The way in.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance(self.0.clone())
    }

    /// The users inside. One that comes or goes meanwhile may be among them or not; those that a closed gate waits for
    /// all are, and for a moment one that found it closed when it came.
    #[must_use]
    pub fn users(&self) -> Vec<Visitor> {
        self.0.lock().visitors(self.0.state(), Instant::now())
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
        self.keep_out(State::Closed)
    }

    fn keep_out(&self, state: State) -> bool {
        let mut inner = self.0.lock();
        inner.leaves(self.0.state());
        self.0.state.store(state as u8, Ordering::Release);
        // Whoever does not see the state after this is seen by us.
        fence::heavy();
        let empty = inner.close(Instant::now());
        if empty {
            self.0.tally.closing.observe(Duration::ZERO);
        }
        empty
    }

    /// The number of the closing that is in force, if the gate is closed or retired: no two of this process have the same.
    #[must_use]
    pub fn closing(&self) -> Option<u64> {
        self.0.lock().closing.as_ref().map(|closing| closing.number)
    }

    /// The vCPU goes whatever anybody does, with the whole machine: whoever comes or waits is told that it is offline, as
    /// nobody may be kept waiting by whom nobody has asked. Those inside are waited for as by [`Gate::close`]. The state
    /// that comes next is set as after that.
    #[must_use]
    pub fn retire(&self) -> bool {
        let empty = self.keep_out(State::Offline);
        self.0.moved.notify_all();
        empty
    }

    /// Whether whoever comes now is told that the vCPU is offline.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.0.state() == State::Offline
    }

    /// The vCPU is gone: everybody who waits is told.
    pub fn set_offline(&self) {
        self.set(State::Offline);
    }

    fn set(&self, state: State) {
        let mut inner = self.0.lock();
        inner.leaves(self.0.state());
        self.0.state.store(state as u8, Ordering::Release);
        inner.closing = None;
        drop(inner);
        self.0.moved.notify_all();
    }
}

impl Entrance {
    /// Somebody who will go in and out often. `who` is what a person is told of one that does not leave, beside the
    /// calling thread.
    #[must_use]
    pub fn user(&self, who: &'static str) -> User {
        User::register(self.0.clone(), who)
    }

    /// Enters once, or waits at a closed gate, for `patience` at the most. Whoever does so often is better off as a
    /// [`User`].
    ///
    /// # Errors
    /// [`Denied`] says where to go instead.
    pub fn enter(
        &self,
        binding: Binding,
        who: &'static str,
        patience: Duration,
    ) -> Result<Inside, Denied> {
        self.user(who).into_inside(binding, patience)
    }
}

impl Entrance {
    /// Whether whoever comes now has to wait.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.state() == State::Closed
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Gate({:?}, inside: {})",
            self.0.state(),
            list(&self.users())
        )
    }
}

impl fmt::Debug for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entrance({:?})", self.0.state())
    }
}

#[cfg(test)]
#[cfg(feature = "loom")]
mod interleaved;
#[cfg(test)]
#[cfg(not(feature = "loom"))]
mod tests;

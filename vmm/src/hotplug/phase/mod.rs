//! What becomes of one vCPU: a pure, total transition function.
//!
//! ```text
//!            Plug            ready         acknowledged        started
//!  Absent ─────────► Starting ─────► Announced ─────► Plugged ─────────► Online
//!  Dormant ────────►                                     │                 │
//!     ▲                                                  └──── Unplug ─────┘
//!     │ parked         no user inside        ejected              ▼
//!  Stopping ◄───────────── Syncing ◄──────── Notifying ◄────── Draining
//!                                             │ refused, timed out, recalled: undone step by step
//!                                             └────► Plugged or Online, as before; Overdue, where the
//!                                                    guest may still eject it
//! ```
//!
//! Every event has an answer in every phase. An event that changes nothing says why.

mod plug;
mod unplug;

use super::guest::{Asked, Withdrawn, Word};
use super::step::{DRAIN, SYNC};
use super::view::{Code, Outcome};

/// A phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// There is no such vCPU.
    Absent,
    /// Ejected; what there is of it on the host is kept, its thread parked or ended.
    Dormant,
    /// Its thread is made ready to run it.
    Starting,
    /// The guest was told of it.
    Announced {
        /// It has read that.
        read: bool,
    },
    /// The guest knows of it, and has not started it.
    Plugged,
    /// The guest has started it.
    Online,
    /// To be taken away: new users are sent elsewhere.
    Draining {
        /// Where it goes back to.
        was: Rest,
        /// The guest has not answered an earlier request, which nobody waits for, and may still eject it.
        earlier: bool,
    },
    /// Notifiers are called; the guest is the last of them.
    Notifying {
        /// Where it goes back to.
        was: Rest,
        /// Which notifier has its turn.
        at: At,
    },
    /// Nobody waits for its unplug any longer and everything on the host is undone, but the guest has read a
    /// request, and may still be taking it down.
    Overdue {
        /// Where it goes back to if the guest says no after all.
        was: Rest,
    },
    /// Users leave; nobody comes in.
    Syncing {
        /// A plug is being undone; otherwise the guest has ejected it.
        undo: bool,
    },
    /// Its thread leaves the guest for good.
    Stopping {
        /// A plug is being undone; otherwise the guest has ejected it.
        undo: bool,
    },
}

/// A phase that a vCPU goes back to if the guest keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rest {
    /// See [`Phase::Announced`]; the guest has noticed it.
    Announced,
    /// See [`Phase::Plugged`].
    Plugged,
    /// See [`Phase::Online`].
    Online,
}

/// Whose turn it is among the notifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// A host-side notifier.
    Host {
        /// Its number.
        n: usize,
        /// See [`Phase::Draining`].
        earlier: bool,
    },
    /// The guest was asked, and has not read it.
    Asked,
    /// The guest has read it.
    Read,
    /// The guest says that it has begun.
    Begun,
}

/// What happens to a vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is to be plugged.
    Plug,
    /// It is to be unplugged. `retracted`: the guest had not noticed its insertion, and now never will.
    Unplug {
        /// See there.
        retracted: bool,
    },
    /// Its gate sends movable users elsewhere.
    Drained,
    /// A host-side notifier has let go.
    NotifierReady(usize),
    /// A host-side notifier does not let go.
    NotifierRefused(usize, String),
    /// The guest has read a request.
    RequestRead(Asked),
    /// The guest said something.
    Said(Word),
    /// The guest does not take it, and was not told of it again since it said so: it is no longer enabled.
    NotTaken(Word),
    /// The guest keeps it: it has answered every request to eject that it has read, and may not eject it any more.
    Kept(Word),
    /// The guest ejected it: it is no longer enabled.
    Ejected,
    /// Nobody is inside its closed gate.
    GateEmpty,
    /// Its thread is about to run it.
    Ready,
    /// The guest has started it.
    Started,
    /// Its thread has left the guest for good.
    Parked,
    /// Its thread could not be made to run it.
    StartFailed(String),
    /// Nobody waits any longer. `retracted`: what came of taking back what the guest was asked for last.
    Deadline {
        /// See there.
        retracted: Withdrawn,
        /// Who is inside the gate.
        inside: Vec<String>,
        /// Why the guest was not notified, if it was not.
        untold: Option<String>,
    },
    /// Whoever asked takes it back; `retracted` as above.
    Recall {
        /// See there.
        retracted: Withdrawn,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the thread run the vCPU, waiting for the guest to start it: answered by [`Event::Ready`].
    Start,
    /// Let users in.
    OpenGate,
    /// Enable the vCPU in the guest's tables and tell the guest.
    Insert,
    /// Send movable users elsewhere: answered by [`Event::Drained`].
    DrainGate,
    /// Have a notifier let go: answered by [`Event::NotifierReady`].
    Prepare(usize),
    /// Have a notifier take that back.
    Undo(usize),
    /// Ask the guest for the vCPU.
    AskEject,
    /// Notify the guest again: it is shown only now what it was asked for before.
    Remind,
    /// Keep users out: answered by [`Event::GateEmpty`].
    CloseGate,
    /// Have the thread leave the guest: answered by [`Event::Parked`].
    Park,
    /// Tell whoever waits at the gate that the vCPU is gone.
    SetOffline,
    /// Tell every notifier that the vCPU is gone.
    AfterDeath,
    /// What the guest does with the vCPU from now on is meant for this insertion of it.
    Acknowledge,
}

/// The answer to an event.
#[derive(Debug)]
#[must_use]
pub struct Change {
    /// The phase from now on.
    pub phase: Phase,
    /// What is to be done, in this order.
    pub actions: Vec<Action>,
    /// How the present attempt ends, if it does.
    pub outcome: Option<Outcome>,
    /// Why.
    pub reason: &'static str,
}

impl From<Rest> for Phase {
    fn from(rest: Rest) -> Self {
        match rest {
            Rest::Announced => Self::Announced { read: true },
            Rest::Plugged => Self::Plugged,
            Rest::Online => Self::Online,
        }
    }
}

fn to(phase: Phase, actions: impl Into<Vec<Action>>, reason: &'static str) -> Change {
    Change {
        phase,
        actions: actions.into(),
        outcome: None,
        reason,
    }
}

impl Change {
    fn ends(mut self, code: Code, detail: impl Into<String>) -> Self {
        self.outcome = Some(Outcome {
            code,
            word: None,
            detail: detail.into(),
        });
        self
    }

    fn with(mut self, word: Word) -> Self {
        if let Some(outcome) = &mut self.outcome {
            outcome.word = Some(word.numbers);
        }
        self
    }
}

impl Phase {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Dormant => "dormant",
            Self::Starting => "starting",
            Self::Announced { .. } => "announced",
            Self::Plugged => "plugged",
            Self::Online => "online",
            Self::Draining { .. } => "draining",
            Self::Notifying { .. } => "notifying",
            Self::Overdue { .. } => "overdue",
            Self::Syncing { .. } => "syncing",
            Self::Stopping { .. } => "stopping",
        }
    }

    /// Every name that [`Phase::stage`] gives.
    pub const STAGES: [&str; 14] = [
        "absent",
        "dormant",
        "starting",
        "announced",
        "plugged",
        "online",
        "draining",
        "notifying.host",
        "notifying.asked",
        "notifying.read",
        "notifying.begun",
        "overdue",
        "syncing",
        "stopping",
    ];

    /// Its name in a timeline: the phase, and where whose turn it is makes a difference, that too.
    #[must_use]
    pub const fn stage(self) -> &'static str {
        match self {
            Self::Notifying { at, .. } => match at {
                At::Host { .. } => "notifying.host",
                At::Asked => "notifying.asked",
                At::Read => "notifying.read",
                At::Begun => "notifying.begun",
            },
            other => other.name(),
        }
    }

    /// Whether the guest's tables say that it is there.
    #[must_use]
    pub const fn is_plugged(self) -> bool {
        matches!(
            self,
            Self::Announced { .. }
                | Self::Plugged
                | Self::Online
                | Self::Draining { .. }
                | Self::Notifying { .. }
                | Self::Overdue { .. }
        )
    }

    /// Whether the guest has started it and not given it back.
    #[must_use]
    pub const fn is_online(self) -> bool {
        matches!(
            self,
            Self::Online
                | Self::Draining {
                    was: Rest::Online,
                    ..
                }
                | Self::Notifying {
                    was: Rest::Online,
                    ..
                }
                | Self::Overdue { was: Rest::Online }
        )
    }

    /// Whether the guest has yet to say whether it takes it.
    #[must_use]
    pub const fn waits_for_insertion(self) -> bool {
        matches!(
            self,
            Self::Announced { .. }
                | Self::Notifying {
                    was: Rest::Announced,
                    ..
                }
                | Self::Overdue {
                    was: Rest::Announced
                }
        )
    }

    /// Whether it is to be unplugged, and the guest was not asked for it, or has not read that.
    #[must_use]
    pub const fn is_unread(self) -> bool {
        match self {
            Self::Draining { .. } => true,
            Self::Notifying { at, .. } => matches!(at, At::Host { .. } | At::Asked),
            _ => false,
        }
    }

    /// The request to the guest that might still be taken back.
    #[must_use]
    pub const fn retractable(self) -> Option<Asked> {
        match self {
            Self::Announced { .. } => Some(Asked::Insert),
            Self::Notifying { at: At::Asked, .. } => Some(Asked::Eject),
            _ => None,
        }
    }

    /// The phase after `event`, what is to be done, and why. `notifiers` names the host-side ones.
    pub fn next(self, event: Event, notifiers: &[&'static str]) -> Change {
        match self {
            Self::Absent | Self::Dormant => plug::gone(self, event),
            Self::Starting => plug::starting(event),
            Self::Announced { read } => plug::announced(read, event),
            Self::Plugged | Self::Online => plug::plugged(self, event),
            Self::Draining { was, earlier } => unplug::draining(was, earlier, event, notifiers),
            Self::Notifying { was, at } => unplug::notifying(was, at, event, notifiers),
            Self::Overdue { was } => unplug::overdue(was, event),
            Self::Syncing { undo } => unplug::syncing(undo, event),
            Self::Stopping { undo } => unplug::stopping(undo, event),
        }
    }
}

fn drain(was: Rest, earlier: bool) -> Change {
    let drain = (DRAIN.up)(0);
    let phase = Phase::Draining { was, earlier };
    to(phase, [drain], "it is to be taken away")
}

fn ejected() -> Change {
    let_go("the guest has ejected it")
}

/// The guest does not have it any more.
fn let_go(reason: &'static str) -> Change {
    to(Phase::Syncing { undo: false }, [(SYNC.up)(0)], reason)
}

#[cfg(test)]
mod tests;

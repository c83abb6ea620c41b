//! What becomes of a machine: a pure, total transition function over what happens to it.
//!
//! ```text
//!          create           boot            off, reset, fault, shutdown, 2nd signal, deadline
//!  Vacant ───────► Created ──────► Running ────────────────────────────────► Stopping ──► Restart (a new Running)
//!    ▲   delete       ▲ │                                                        │
//!    └────────────────┼─┘                                                        ├──────► Created or Vacant
//!                     └──────────────────────────────────────────────────────────┤
//!                                                                                └──────► Ended
//!
//!  Running is one of:
//!         pause             all hold
//!  Free ─────────► Holding ──────────► Held
//!   │ ▲ resume, deadline │               │ resume
//!   │ └──────────────────┴───────────────┘ (Free)
//!   │                    │ signal        │ signal
//!   └─────► PoweringOff ◄┴───────────────┘
//!   signal: power button
//! ```
//!
//! A machine that starts again while a pause is wanted is held before its first instruction.

mod rest;
mod stop;

use super::wish::Wish;
use crate::config::OnReset;
use crate::end::End;
use crate::error::Error;
use crate::hotplug::view::MachineState;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long vCPU threads may take to end.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long vCPU threads may take to hold.
pub(super) const HOLD_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before threads that are to hold or to end are kicked again.
const REKICK: Duration = Duration::from_millis(50);

/// The phase of a machine.
#[derive(Debug)]
pub(super) enum Phase {
    /// None is described.
    Vacant,
    /// One is described, and does not run.
    Created,
    /// It has not come to its end.
    Running(Course),
    /// Its vCPU threads were told to end, and everybody is kept out of its vCPUs.
    Stopping {
        /// What comes when they have, and nobody is inside any more.
        then: Then,
        /// Those that have not yet, and who is inside.
        left: Left,
        /// They have until then.
        by: Instant,
        /// Then they are kicked again.
        again: Instant,
    },
    /// It is over.
    Ended,
}

/// What a machine that is being stopped still has, by vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Left {
    /// Threads, also those that stay as long as there are users inside.
    threads: BTreeSet<u32>,
    /// Users inside, or it has not been said that there are none.
    users: BTreeSet<u32>,
}

/// What a machine that has not come to its end is at.
#[derive(Debug)]
pub(super) enum Course {
    /// Its vCPUs run the guest.
    Free,
    /// Its vCPU threads were told to hold.
    Holding {
        /// Those that do not yet.
        left: BTreeSet<u32>,
        /// They have until then.
        by: Instant,
        /// Then they are kicked again.
        again: Instant,
    },
    /// No vCPU thread is in the guest, and none enters it.
    Held,
    /// Its vCPUs run the guest, whose power button was pressed.
    PoweringOff {
        /// The guest has until then.
        by: Instant,
    },
}

/// What follows a stop.
#[derive(Debug)]
pub(super) enum Then {
    /// The guest starts again.
    Restart(Start),
    /// It does not run until somebody boots it.
    Rest(Rest),
    /// The process ends.
    End(End),
}

/// What is left of a machine that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// What it is to be.
    Created,
    /// Nothing.
    Vacant,
}

/// How a guest starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// It runs.
    Free,
    /// It is held before its first instruction.
    Held,
}

/// What threads that are to end have.
#[derive(Clone, Copy)]
struct Limits {
    /// The time until which they have to.
    by: Instant,
    /// When they are kicked again.
    again: Instant,
}

/// What happens to a machine.
#[derive(Debug)]
pub(super) enum Event {
    /// The guest asks to be powered off.
    Off,
    /// The guest asks for a reset.
    Reset,
    /// A signal with this name asks for the end.
    Terminate(&'static str),
    /// A vCPU's thread has ended, and how, if not as ordered.
    VcpuEnded(u32, Option<End>),
    /// Somebody asks for something.
    Asked(Wish),
    /// A vCPU's thread is out of the guest and does not enter it in the present pause, or is gone as ordered.
    Holds(u32),
    /// Nobody is inside a vCPU that everybody is kept out of.
    Left(u32),
    /// What [`Action::Create`] or [`Action::Boot`] asked for could not be done.
    NotDone,
    /// Time has passed.
    Tick,
}

/// What is to be done now.
#[derive(Debug)]
pub(super) enum Action {
    /// Nothing.
    Nothing,
    /// Press the guest's power button.
    PressPowerButton,
    /// Have every vCPU thread hold; who asked is answered when they do.
    Hold,
    /// Kick these vCPU threads again.
    KickAgain(BTreeSet<u32>),
    /// It is paused: stop its clock, and say so to who asked.
    Paused,
    /// Let the vCPU threads go, and its clock.
    Release(Release),
    /// Who asked is answered when what is under way has come to its end.
    Wait,
    /// Describe a machine, and answer who asked.
    Create,
    /// Make it and let it run, and answer who asked.
    Boot,
    /// It has stopped. Let go of it and keep its description, or not that either.
    Stopped(Rest),
    /// There is nothing to do: say yes to who asked.
    Agree,
    /// Say no to who asked.
    Refuse(No),
    /// Keep everybody out of every vCPU, and tell its thread to end, or, with somebody inside, to leave the guest.
    StopVcpus,
    /// Make the machine anew.
    Restart(Start),
    /// End the process.
    Finish(End),
}

/// Why vCPU threads are let go.
#[derive(Debug)]
pub(super) enum Release {
    /// Somebody asked for it.
    Asked,
    /// A signal with this name: press the guest's power button, to which it could not react otherwise.
    PowerButton(&'static str),
    /// These vCPUs did not hold in time.
    Late(BTreeSet<u32>),
}

/// Why somebody's wish is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum No {
    /// It is paused, or about to be.
    Paused,
    /// It runs.
    Runs,
    /// It was asked to power off, with a deadline that a pause would take from the guest.
    PoweringOff,
    /// It is coming to its end.
    Ending,
    /// There is none.
    Vacant,
    /// There is one already.
    Created,
    /// It runs already.
    Booted,
    /// It does not run.
    Stopped,
    /// It is being stopped.
    Stopping,
    /// It is being stopped, and forgotten then.
    Deleting,
}

/// What there is to know about a machine.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// Its vCPUs that have threads.
    pub(super) vcpus: BTreeSet<u32>,
    /// Who is inside of those that everybody is kept out of, for people.
    pub(super) inside: String,
    /// What a reset does.
    pub(super) on_reset: OnReset,
    /// How long a guest may take to power off.
    pub(super) shutdown_timeout: Duration,
}

impl Phase {
    /// A machine that has just been started.
    pub(super) fn started() -> Self {
        Self::Running(Course::Free)
    }

    /// What everybody is told of it.
    pub(super) fn state(&self) -> MachineState {
        match self {
            Self::Vacant => MachineState::None,
            Self::Created => MachineState::Created,
            Self::Running(Course::Held) => MachineState::Paused,
            Self::Running(_) => MachineState::Running,
            Self::Stopping {
                then: Then::Restart(_),
                ..
            } => MachineState::Restarting,
            Self::Stopping { .. } | Self::Ended => MachineState::Stopping,
        }
    }

    /// Whether it has not come to its end; it may be paused.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// When [`Event::Tick`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            // Nobody is to be kicked.
            Self::Stopping { left, by, .. } if left.late().is_empty() => Some(*by),
            Self::Running(Course::Holding { by, again, .. }) | Self::Stopping { by, again, .. } => {
                Some(*again.min(by))
            }
            Self::Running(Course::PoweringOff { by }) => Some(*by),
            Self::Running(Course::Free | Course::Held)
            | Self::Vacant
            | Self::Created
            | Self::Ended => None,
        }
    }

    /// The phase after `event`, and what is to be done.
    #[must_use]
    pub(super) fn next(self, event: Event, now: Instant, policy: &Policy) -> (Self, Action) {
        match self {
            Self::Vacant => rest::vacant(&event),
            Self::Created => rest::created(&event),
            Self::Running(course) => running(course, event, now, policy),
            Self::Stopping {
                then,
                left,
                by,
                again,
            } => stop::stopping(then, left, Limits { by, again }, event, now, policy),
            Self::Ended if event.is_wish() => (Self::Ended, Action::Refuse(No::Ending)),
            Self::Ended => (Self::Ended, Action::Nothing),
        }
    }
}

impl Event {
    /// Whether somebody asks for it, and waits for an answer.
    fn is_wish(&self) -> bool {
        matches!(self, Self::Asked(_))
    }
}

/// Every vCPU's thread is told to end, but for one that has.
fn stop(then: Then, ended: Option<u32>, now: Instant, policy: &Policy) -> (Phase, Action) {
    let mut left = Left {
        threads: policy.vcpus.clone(),
        users: policy.vcpus.clone(),
    };
    left.threads.retain(|id| Some(*id) != ended);
    let stopping = Phase::Stopping {
        then,
        left,
        by: now + STOP_TIMEOUT,
        again: now + REKICK,
    };
    (stopping, Action::StopVcpus)
}

fn running(course: Course, event: Event, now: Instant, policy: &Policy) -> (Phase, Action) {
    let stop = |then, ended| stop(then, ended, now, policy);
    match event {
        Event::Off => stop(Then::End(End::PoweredOff), None),
        Event::Reset => stop(after_reset(&course, policy), None),
        Event::VcpuEnded(id, Some(end)) => stop(Then::End(end), Some(id)),
        // Nobody told it to: our own mistake, and not one to hide.
        Event::VcpuEnded(id, None) => {
            let found = "it ended without an order";
            let error = Error::bug(format!("vcpu-{id}"), found);
            stop(Then::End(End::Failed(error)), Some(id))
        }
        Event::Terminate(signal) => {
            let by = now + policy.shutdown_timeout;
            let action = match course {
                Course::Free => Action::PressPowerButton,
                Course::Holding { .. } | Course::Held => {
                    Action::Release(Release::PowerButton(signal))
                }
                Course::PoweringOff { .. } => {
                    let why = format!("a second {signal}");
                    return stop(Then::End(End::Abandoned(why)), None);
                }
            };
            (Phase::Running(Course::PoweringOff { by }), action)
        }
        Event::Tick => match course {
            Course::PoweringOff { by } if now >= by => {
                let limit = policy.shutdown_timeout.as_secs_f32();
                let why = format!("it did not react to its power button within {limit} s");
                stop(Then::End(End::Abandoned(why)), None)
            }
            course => wait_for_hold(course, now),
        },
        Event::Asked(Wish::Pause) => pause(course, now, policy),
        Event::Asked(Wish::Resume) => resume(course),
        Event::Holds(id) => holds(course, id),
        Event::Asked(Wish::Create) => (Phase::Running(course), Action::Refuse(No::Created)),
        Event::Asked(Wish::Boot) => (Phase::Running(course), Action::Refuse(No::Booted)),
        // Of a plug or an unplug: the coordinator's matter.
        Event::Left(_) => (Phase::Running(course), Action::Nothing),
        Event::NotDone => (Phase::Created, Action::Nothing),
        // Also while it is paused: the guest finds it pressed when it goes on.
        Event::Asked(Wish::PressPowerButton) => (Phase::Running(course), Action::PressPowerButton),
        // A signal asks for the end of all of it, and has the last word.
        Event::Asked(Wish::Reboot | Wish::Shutdown | Wish::Delete)
            if matches!(course, Course::PoweringOff { .. }) =>
        {
            let no = No::PoweringOff;
            (Phase::Running(course), Action::Refuse(no))
        }
        Event::Asked(Wish::Reboot) => stop(Then::Restart(Start::Free), None),
        Event::Asked(Wish::Shutdown) => stop(Then::Rest(Rest::Created), None),
        Event::Asked(Wish::Delete) => stop(Then::Rest(Rest::Vacant), None),
        Event::Asked(Wish::Quit) => stop(Then::End(End::Asked("the API")), None),
    }
}

fn after_reset(course: &Course, policy: &Policy) -> Then {
    match course {
        _ if policy.on_reset != OnReset::Restart => Then::End(End::Reset),
        // A guest whose button was pressed and that resets instead would start all over again.
        Course::PoweringOff { .. } => Then::End(End::Reset),
        Course::Free => Then::Restart(Start::Free),
        // Who asked for a pause wants a guest that stands still, whichever.
        Course::Holding { .. } | Course::Held => Then::Restart(Start::Held),
    }
}

fn pause(course: Course, now: Instant, policy: &Policy) -> (Phase, Action) {
    let no = match course {
        Course::Free => {
            let holding = Course::Holding {
                left: policy.vcpus.clone(),
                by: now + HOLD_TIMEOUT,
                again: now + REKICK,
            };
            return (Phase::Running(holding), Action::Hold);
        }
        Course::Holding { .. } | Course::Held => No::Paused,
        Course::PoweringOff { .. } => No::PoweringOff,
    };
    (Phase::Running(course), Action::Refuse(no))
}

fn resume(course: Course) -> (Phase, Action) {
    match course {
        Course::Holding { .. } | Course::Held => (
            Phase::Running(Course::Free),
            Action::Release(Release::Asked),
        ),
        Course::Free | Course::PoweringOff { .. } => {
            (Phase::Running(course), Action::Refuse(No::Runs))
        }
    }
}

/// A vCPU's thread holds.
fn holds(course: Course, id: u32) -> (Phase, Action) {
    match course {
        Course::Holding {
            mut left,
            by,
            again,
        } => {
            left.remove(&id);
            if left.is_empty() {
                return (Phase::Running(Course::Held), Action::Paused);
            }
            let holding = Course::Holding { left, by, again };
            (Phase::Running(holding), Action::Nothing)
        }
        // One that was started meanwhile, or one of a pause that is over.
        course => (Phase::Running(course), Action::Nothing),
    }
}

/// Time has passed for those that are to hold.
fn wait_for_hold(course: Course, now: Instant) -> (Phase, Action) {
    match course {
        Course::Holding { left, by, .. } if now >= by => (
            Phase::Running(Course::Free),
            Action::Release(Release::Late(left)),
        ),
        Course::Holding { left, by, again } if now >= again => {
            let action = Action::KickAgain(left.clone());
            let again = now + REKICK;
            (Phase::Running(Course::Holding { left, by, again }), action)
        }
        course => (Phase::Running(course), Action::Nothing),
    }
}

#[cfg(test)]
mod tests;

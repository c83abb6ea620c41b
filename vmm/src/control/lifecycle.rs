//! What becomes of a machine: a pure, total transition function over what happens to it.
//!
//! ```text
//!            off, reset, fault, 2nd signal, deadline
//!  Running ───────────────────────────────────────► Stopping ──► Restart (a new Running)
//!     │ signal: power button, deadline                  │
//!     └─◄──┘                                            └──────► Ended
//! ```

use crate::config::OnReset;
use crate::end::End;
use crate::error::Error;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long vCPU threads may take to end.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The phase of a machine.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its vCPUs run.
    Running {
        /// The power button was pressed, and the guest has until then.
        power_off_by: Option<Instant>,
    },
    /// Its vCPU threads were told to end.
    Stopping {
        /// What comes when they have.
        then: Then,
        /// Those that have not yet.
        left: BTreeSet<u32>,
        /// They have until then.
        by: Instant,
    },
    /// It is over.
    Ended,
}

/// What follows a stop.
#[derive(Debug)]
pub(super) enum Then {
    /// The guest starts again.
    Restart,
    /// The process ends.
    End(End),
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
    /// Tell every vCPU thread to end.
    StopVcpus,
    /// Make the machine anew.
    Restart,
    /// End the process.
    Finish(End),
}

/// What does not change over a machine's life.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// Its vCPUs that have threads.
    pub(super) vcpus: BTreeSet<u32>,
    /// What a reset does.
    pub(super) on_reset: OnReset,
    /// How long a guest may take to power off.
    pub(super) shutdown_timeout: Duration,
}

impl Phase {
    /// A machine that has just been started.
    pub(super) fn started() -> Self {
        Self::Running { power_off_by: None }
    }

    /// Whether its vCPUs run.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// When [`Event::Tick`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Running { power_off_by } => *power_off_by,
            Self::Stopping { by, .. } => Some(*by),
            Self::Ended => None,
        }
    }

    /// The phase after `event`, and what is to be done.
    #[must_use]
    pub(super) fn next(self, event: Event, now: Instant, policy: &Policy) -> (Self, Action) {
        match self {
            Self::Running { power_off_by } => running(power_off_by, event, now, policy),
            Self::Stopping { then, left, by } => stopping(then, left, by, event, now),
            Self::Ended => (Self::Ended, Action::Nothing),
        }
    }
}

fn running(
    power_off_by: Option<Instant>,
    event: Event,
    now: Instant,
    policy: &Policy,
) -> (Phase, Action) {
    let stop = |then, ended: Option<u32>| {
        let mut left = policy.vcpus.clone();
        left.retain(|id| Some(*id) != ended);
        if left.is_empty() {
            return finish(then);
        }
        (
            Phase::Stopping {
                then,
                left,
                by: now + STOP_TIMEOUT,
            },
            Action::StopVcpus,
        )
    };
    let stay = || (Phase::Running { power_off_by }, Action::Nothing);
    match (event, power_off_by) {
        (Event::Off, _) => stop(Then::End(End::PoweredOff), None),
        // A guest whose button was pressed and that resets instead would start all over again.
        (Event::Reset, None) if policy.on_reset == OnReset::Restart => stop(Then::Restart, None),
        (Event::Reset, _) => stop(Then::End(End::Reset), None),
        (Event::VcpuEnded(id, Some(end)), _) => stop(Then::End(end), Some(id)),
        // Nobody told it to: our own mistake, and not one to hide.
        (Event::VcpuEnded(id, None), _) => {
            let found = "it ended without an order";
            let error = Error::bug(format!("vcpu-{id}"), found);
            stop(Then::End(End::Failed(error)), Some(id))
        }
        (Event::Terminate(_), None) => {
            let by = now + policy.shutdown_timeout;
            (
                Phase::Running {
                    power_off_by: Some(by),
                },
                Action::PressPowerButton,
            )
        }
        (Event::Terminate(signal), Some(_)) => stop(
            Then::End(End::Abandoned(format!("a second {signal}"))),
            None,
        ),
        (Event::Tick, Some(by)) if now >= by => {
            let limit = policy.shutdown_timeout.as_secs_f32();
            let why = format!("it did not react to its power button within {limit} s");
            stop(Then::End(End::Abandoned(why)), None)
        }
        (Event::Tick, _) => stay(),
    }
}

fn stopping(
    then: Then,
    mut left: BTreeSet<u32>,
    by: Instant,
    event: Event,
    now: Instant,
) -> (Phase, Action) {
    match event {
        Event::VcpuEnded(id, end) => {
            left.remove(&id);
            // What made the machine stop is the reason; a fault only counts against a restart.
            let then = match (then, end) {
                (Then::Restart, Some(end)) => Then::End(end),
                (then, _) => then,
            };
            if left.is_empty() {
                return finish(then);
            }
            (Phase::Stopping { then, left, by }, Action::Nothing)
        }
        Event::Tick if now >= by => {
            let names: Vec<String> = left.iter().map(|id| format!("vcpu-{id}")).collect();
            let limit = STOP_TIMEOUT.as_secs();
            let found = format!("{} did not end within {limit} s", names.join(", "));
            let error = Error::host("stopping the machine", found, "see the host's kernel log");
            finish(Then::End(End::Failed(error)))
        }
        // The guest has come to rest by its own reset: there is nobody left to press a button for.
        Event::Terminate(_) if matches!(then, Then::Restart) => (
            Phase::Stopping {
                then: Then::End(End::Reset),
                left,
                by,
            },
            Action::Nothing,
        ),
        Event::Off | Event::Reset | Event::Terminate(_) | Event::Tick => {
            (Phase::Stopping { then, left, by }, Action::Nothing)
        }
    }
}

fn finish(then: Then) -> (Phase, Action) {
    match then {
        Then::Restart => (Phase::started(), Action::Restart),
        Then::End(end) => (Phase::Ended, Action::Finish(end)),
    }
}

#[cfg(test)]
mod tests;

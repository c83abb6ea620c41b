//! The steps of taking a vCPU away, in their order, each with what undoes it.
//!
//! ```text
//!  drain ──► notify (host, one by one) ──► notify (guest) ──► sync ──► stop ──► after death
//!  └───────────────── can be undone ──────────────────────┘   └── the CPU is gone: only forward ──┘
//! ```
//!
//! The order is the point. Users are kept out (sync) only after everybody was notified, so that whoever a
//! notifier waits for can still use the vCPU and get done.

use super::phase::{Action, At};

/// A step.
pub(super) struct Step {
    /// What begins it.
    pub(super) up: fn(usize) -> Action,
    /// What undoes it. `None`: the guest has let go of the CPU, and there is no way back.
    pub(super) down: Option<fn(usize) -> Action>,
}

/// New users go elsewhere.
pub(super) const DRAIN: Step = Step {
    up: |_| Action::DrainGate,
    down: Some(|_| Action::OpenGate),
};
/// One host-side notifier.
pub(super) const NOTIFY_HOST: Step = Step {
    up: Action::Prepare,
    down: Some(Action::Undo),
};
/// The guest takes the CPU down. What it has begun, only it can take back.
pub(super) const NOTIFY_GUEST: Step = Step {
    up: |_| Action::AskEject,
    down: None,
};
/// New users wait, and those inside leave.
pub(super) const SYNC: Step = Step {
    up: |_| Action::CloseGate,
    down: None,
};
/// The thread leaves the guest for good.
pub(super) const STOP: Step = Step {
    up: |_| Action::Park,
    down: None,
};

/// What undoes the steps that were begun, the last one first.
pub(super) fn walk_back(at: At, notifiers: usize) -> Vec<Action> {
    let begun = match at {
        At::Host { n, .. } => n + 1,
        At::Asked | At::Read | At::Begun => notifiers,
    };
    let hosts = (0..begun.min(notifiers)).rev().map(|n| (&NOTIFY_HOST, n));
    hosts
        .chain([(&DRAIN, 0)])
        .filter_map(|(step, n)| step.down.map(|down| down(n)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_undone_in_reverse_and_only_those_that_were_begun() {
        use Action::{OpenGate, Undo};
        let host = At::Host {
            n: 1,
            earlier: false,
        };
        assert_eq!(walk_back(host, 3), [Undo(1), Undo(0), OpenGate]);
        assert_eq!(walk_back(At::Read, 2), [Undo(1), Undo(0), OpenGate]);
        assert_eq!(walk_back(At::Asked, 0), [OpenGate]);
    }
}

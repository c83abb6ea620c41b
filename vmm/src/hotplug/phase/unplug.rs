//! The way out: from the request to dormant, or back.

use super::{Action, At, Change, Event, Phase, Rest, ejected, to};
use crate::hotplug::refusal;
use crate::hotplug::step::{NOTIFY_GUEST, NOTIFY_HOST, STOP, walk_back};
use crate::hotplug::view::Code;
use hotvisor_devices::cpu_hotplug::Request;

pub(super) fn draining(was: Rest, event: Event, notifiers: &[&'static str]) -> Change {
    let here = Phase::Draining { was };
    let back = |reason| to(was.into(), [Action::OpenGate], reason);
    match event {
        Event::Drained => next_notifier(was, 0, notifiers),
        Event::Started => to(
            Phase::Draining { was: Rest::Online },
            [],
            "the guest has started it meanwhile",
        ),
        Event::Recall { .. } => {
            back("taken back").ends(Code::Cancelled, "taken back before anybody was asked")
        }
        Event::Deadline { .. } => {
            back("no time left").ends(Code::TimedOut, "no time was left to ask anybody")
        }
        Event::Ejected => ejected(),
        _ => to(here, [], "nobody was asked yet"),
    }
}

/// The turn of the host-side notifier `n`, or of the guest after the last one.
fn next_notifier(was: Rest, n: usize, notifiers: &[&'static str]) -> Change {
    let (at, step) = if n < notifiers.len() {
        (At::Host(n), NOTIFY_HOST)
    } else {
        (At::Asked, NOTIFY_GUEST)
    };
    to(
        Phase::Notifying { was, at },
        [(step.up)(n)],
        "the next notifier's turn",
    )
}

pub(super) fn notifying(was: Rest, at: At, event: Event, notifiers: &[&'static str]) -> Change {
    let here = |at| Phase::Notifying { was, at };
    let back = |reason| to(was.into(), walk_back(at, notifiers.len()), reason);
    match (event, at) {
        (Event::Ejected, _) => ejected(),
        (Event::Started, _) => to(
            Phase::Notifying {
                was: Rest::Online,
                at,
            },
            [],
            "the guest has started it meanwhile",
        ),
        (Event::NotifierReady(n), At::Host(m)) if n == m => next_notifier(was, n + 1, notifiers),
        (Event::NotifierRefused(n, why), At::Host(m)) if n == m => {
            let who = notifiers.get(n).copied().unwrap_or("a notifier");
            back("a notifier refused").ends(Code::Refused, format!("{who} refused: {why}"))
        }
        (Event::RequestRead(Request::Eject), At::Asked) => {
            to(here(At::Read), [], "the guest has read the request")
        }
        (Event::Status { source, status }, At::Asked | At::Read | At::Begun)
            if refusal::is_ejection(source) =>
        {
            guest_answer(was, source, status, back)
        }
        (Event::Recall { .. }, At::Host(_)) | (Event::Recall { retracted: true }, At::Asked) => {
            back("taken back").ends(Code::Cancelled, "taken back before the guest had read it")
        }
        (Event::Recall { .. }, _) => to(
            here(at),
            [],
            "the guest has read it: only it can say no now",
        ),
        (Event::Deadline { retracted, .. }, at) => {
            let detail = missed(at, retracted, notifiers);
            back("nobody waits any longer").ends(Code::TimedOut, detail)
        }
        (_, at) => to(here(at), [], "not what its unplug waits for"),
    }
}

/// The guest's `_OST` about the ejection that it was asked for.
fn guest_answer(
    was: Rest,
    source: u32,
    status: u32,
    back: impl Fn(&'static str) -> Change,
) -> Change {
    match status {
        refusal::EJECT_IN_PROGRESS => to(
            Phase::Notifying { was, at: At::Begun },
            [],
            "the guest has begun",
        ),
        refusal::SUCCESS => back("the guest says that it is done, and did not eject").ends(
            Code::Refused,
            "the guest says that it has let go of the CPU, and has not ejected it; undone",
        ),
        _ => {
            let mut change =
                back("the guest says no").ends(Code::Refused, refusal::ejection(status));
            change.actions.insert(0, Action::RevokeEject);
            change
        }
    }
    .with_ost(source, status)
}

fn missed(at: At, retracted: bool, notifiers: &[&'static str]) -> String {
    match at {
        At::Host(n) => {
            let who = notifiers.get(n).copied().unwrap_or("a notifier");
            format!("{who} did not let go in time; undone")
        }
        At::Asked if retracted => "the guest never read the request: it may not have booted far enough, or \
                                   hang; undone"
            .into(),
        At::Asked | At::Read => "the guest read the request and did not answer: its hotplug work may be stuck \
                                 behind an earlier one; an ejection that comes later is still honoured"
            .into(),
        At::Begun => "the guest has begun and is stuck taking the CPU down: a task that hogs it may keep its \
                      hotplug thread from running; an ejection that comes later is still honoured"
            .into(),
    }
}

pub(super) fn syncing(event: Event) -> Change {
    match event {
        Event::GateEmpty => to(
            Phase::Stopping { undo: false },
            [(STOP.up)(0)],
            "nobody is inside",
        ),
        Event::Deadline { inside, .. } => to(Phase::Syncing, [], "users are still inside").ends(
            Code::TimedOut,
            format!(
                "the guest has ejected it; still inside its gate: {}; it goes when they have left",
                inside.join(", ")
            ),
        ),
        Event::Recall { .. } => to(Phase::Syncing, [], "the guest has ejected it: too late"),
        _ => to(Phase::Syncing, [], "the guest has ejected it already"),
    }
}

pub(super) fn stopping(undo: bool, event: Event) -> Change {
    let here = Phase::Stopping { undo };
    match event {
        Event::Parked if undo => to(Phase::Dormant, [Action::SetOffline], "the plug is undone")
            .ends(Code::Succeeded, "gone before the guest had noticed it"),
        Event::Parked => to(
            Phase::Dormant,
            [Action::SetOffline, Action::AfterDeath],
            "its thread is parked",
        )
        .ends(Code::Succeeded, "ejected by the guest, and its thread is parked"),
        Event::Deadline { .. } => to(here, [], "its thread is still in the guest").ends(
            Code::TimedOut,
            "its thread has not left the guest in time; it goes when it has; see whether the host is \
             overloaded or the thread stopped",
        ),
        _ => to(here, [], "its thread is on its way out"),
    }
}

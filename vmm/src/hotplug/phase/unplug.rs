//! The way out: from the request to dormant, or back.

use super::plug::{TOLD_AGAIN, not_taken, unread};
use super::{Action, At, Change, Event, Phase, Rest, drain, ejected, let_go, to};
use crate::hotplug::guest::{About, Asked, Says, Withdrawn, Word};
use crate::hotplug::step::{NOTIFY_GUEST, NOTIFY_HOST, STOP, walk_back};
use crate::hotplug::view::Code;

/// Where it goes back to, by whether the guest may still eject it.
fn back_to(was: Rest, may_eject: bool) -> Phase {
    match may_eject {
        true => Phase::Overdue { was },
        false => was.into(),
    }
}

/// An outcome's detail, which hides nothing: `earlier`, if the guest has not answered an earlier request.
fn detail(said: impl Into<String>, earlier: bool) -> String {
    let mut said = said.into();
    if earlier {
        said += "; the guest has not answered an earlier request, whose ejection is still honoured";
    }
    said
}

pub(super) fn draining(
    was: Rest,
    earlier: bool,
    event: Event,
    notifiers: &[&'static str],
) -> Change {
    let here = |was, earlier| Phase::Draining { was, earlier };
    let back = |reason, code, said| {
        let change = to(back_to(was, earlier), [Action::OpenGate], reason);
        change.ends(code, detail(said, earlier))
    };
    match event {
        Event::Drained => next_notifier(was, 0, earlier, notifiers),
        Event::Started => to(
            here(Rest::Online, earlier),
            [Action::Acknowledge],
            "the guest has started it meanwhile",
        ),
        Event::Kept(_) => to(here(was, false), [], NO_TO_AN_EARLIER),
        Event::Recall { .. } => {
            let said = "taken back before anybody was asked";
            back("taken back", Code::Cancelled, said)
        }
        Event::Deadline { .. } => {
            let said = "no time was left to ask anybody";
            back("no time left", Code::TimedOut, said)
        }
        Event::Ejected => ejected(),
        _ => to(here(was, earlier), [], "nobody was asked yet"),
    }
}

/// The turn of the host-side notifier `n`, or of the guest after the last one.
fn next_notifier(was: Rest, n: usize, earlier: bool, notifiers: &[&'static str]) -> Change {
    let (at, step) = if n < notifiers.len() {
        (At::Host { n, earlier }, NOTIFY_HOST)
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
    let here = |was, at| Phase::Notifying { was, at };
    let back = |phase, reason| to(phase, walk_back(at, notifiers.len()), reason);
    match (event, at) {
        (Event::Ejected, _) => ejected(),
        (Event::Started, _) => {
            let mut actions = vec![Action::Acknowledge];
            actions.extend(shown_now(was, is_asked(at)));
            to(
                here(Rest::Online, at),
                actions,
                "the guest has started it meanwhile",
            )
        }
        (Event::NotifierReady(m), At::Host { n, earlier }) if n == m => {
            next_notifier(was, n + 1, earlier, notifiers)
        }
        (Event::NotifierRefused(m, why), At::Host { n, earlier }) if n == m => {
            let who = notifiers.get(n).copied().unwrap_or("a notifier");
            let refused = detail(format!("{who} refused: {why}"), earlier);
            back(back_to(was, earlier), "a notifier refused").ends(Code::Refused, refused)
        }
        (Event::Kept(_), At::Host { n, .. }) => to(
            here(was, At::Host { n, earlier: false }),
            [],
            NO_TO_AN_EARLIER,
        ),
        (Event::RequestRead(Asked::Eject), At::Asked) => {
            to(here(was, At::Read), [], "the guest has read the request")
        }
        (Event::Said(word), At::Read | At::Begun) if word.about == About::Ejection => {
            match word.says {
                Says::Begun => to(here(was, At::Begun), [], "the guest has begun"),
                Says::Done | Says::No(_) => to(here(was, At::Read), [], ASKED_AGAIN),
            }
        }
        (Event::Kept(word), At::Read | At::Begun) => {
            guest_keeps_it(word, |reason| back(was.into(), reason))
        }
        (Event::Said(word), _) if word.about == About::Insertion => {
            insertion_answer(was, at, word.says)
        }
        // What it does not take, it cannot be asked to give back. That it goes is what was wanted.
        (Event::NotTaken(_), _) => let_go("the guest does not take it"),
        (Event::Recall { retracted }, at) if is_recallable(at, retracted) => {
            let may_eject = may_eject(at, retracted);
            let said = detail("taken back before the guest had read it", may_eject);
            back(back_to(was, may_eject), "taken back").ends(Code::Cancelled, said)
        }
        (Event::Recall { .. }, _) => to(
            here(was, at),
            [],
            "the guest has read it: only it can say no now",
        ),
        (
            Event::Deadline {
                retracted, untold, ..
            },
            at,
        ) => {
            let phase = back_to(was, may_eject(at, retracted));
            let detail = missed(was, at, retracted, untold, notifiers);
            back(phase, "nobody waits any longer").ends(Code::TimedOut, detail)
        }
        (_, at) => to(here(was, at), [], "not what its unplug waits for"),
    }
}

/// Whether the guest has not read the request, and now never will.
fn is_recallable(at: At, retracted: Withdrawn) -> bool {
    match at {
        At::Host { .. } => true,
        At::Asked => retracted != Withdrawn::Nothing,
        At::Read | At::Begun => false,
    }
}

/// Whether the guest may still eject it, for this request or an earlier one.
fn may_eject(at: At, retracted: Withdrawn) -> bool {
    match at {
        At::Host { earlier, .. } => earlier,
        At::Asked | At::Read | At::Begun => retracted != Withdrawn::All,
    }
}

const NO_TO_AN_EARLIER: &str = "the guest says no to an earlier request";
/// Why a no to an ejection is not the end of it.
const ASKED_AGAIN: &str = "the guest says no, and was asked again since: the answer to that counts";

/// The guest's last word on the ejection that it was asked for.
fn guest_keeps_it(word: Word, back: impl Fn(&'static str) -> Change) -> Change {
    let change = match word.says {
        Says::No(why) => back("the guest says no").ends(Code::Refused, why),
        Says::Done | Says::Begun => back("the guest says that it is done, and did not eject").ends(
            Code::Refused,
            "the guest says that it has let go of the CPU, and has not ejected it; undone",
        ),
    };
    change.with(word)
}

/// The guest's word about the insertion, which it had not acknowledged when the unplug began.
fn insertion_answer(was: Rest, at: At, says: Says) -> Change {
    let (rest, reason) = match (was, says) {
        (Rest::Announced, Says::Done) => (Rest::Plugged, "the guest has acknowledged it"),
        (Rest::Announced, Says::Begun) => (was, "the guest has begun"),
        (Rest::Announced, Says::No(_)) => (was, TOLD_AGAIN),
        _ => (was, "it was acknowledged already"),
    };
    to(
        Phase::Notifying { was: rest, at },
        Vec::from_iter(shown_now(was, is_asked(at))),
        reason,
    )
}

/// Whether the guest was asked for it, by this request or an earlier one, and may not have looked yet.
fn is_asked(at: At) -> bool {
    match at {
        At::Host { earlier, .. } => earlier,
        At::Asked => true,
        At::Read | At::Begun => false,
    }
}

/// The guest has acknowledged the CPU: if it was asked for it before (`asked`), it is shown that only now.
fn shown_now(was: Rest, asked: bool) -> Option<Action> {
    (asked && was == Rest::Announced).then_some(Action::Remind)
}

/// Nobody waits for its unplug any longer; the guest may still be at it.
pub(super) fn overdue(was: Rest, event: Event) -> Change {
    let here = |was| Phase::Overdue { was };
    match event {
        Event::Ejected => ejected(),
        Event::Kept(_) => {
            let change = to(was.into(), [], "the guest says no, late");
            match was {
                Rest::Online => change.ends(Code::Succeeded, "the guest keeps it"),
                Rest::Plugged | Rest::Announced => change,
            }
        }
        Event::Started => {
            let mut actions = vec![Action::Acknowledge];
            actions.extend(shown_now(was, true));
            to(
                here(Rest::Online),
                actions,
                "the guest has started it meanwhile",
            )
        }
        // With its word on the insertion it is shown that it is asked for; and nobody else tells it to look.
        Event::Said(word) if was == Rest::Announced && word.about == About::Insertion => {
            let (rest, reason) = match word.says {
                Says::Done => (Rest::Plugged, "the guest has acknowledged it"),
                Says::Begun => (was, "the guest has begun to take it"),
                Says::No(_) => (was, TOLD_AGAIN),
            };
            to(here(rest), [Action::Remind], reason)
        }
        // Who wants it online meanwhile is told so.
        Event::NotTaken(word) => not_taken(let_go("the guest does not take it"), word),
        Event::Unplug { .. } => drain(was, true),
        Event::Deadline { .. } => to(here(was), [], "the guest is still at it").ends(
            Code::TimedOut,
            "the guest is still taking it down for an earlier request, whose ejection may still come",
        ),
        _ => to(here(was), [], "the guest may still eject it"),
    }
}

fn missed(
    was: Rest,
    at: At,
    retracted: Withdrawn,
    untold: Option<String>,
    notifiers: &[&'static str],
) -> String {
    match at {
        At::Host { n, earlier } => {
            let who = notifiers.get(n).copied().unwrap_or("a notifier");
            detail(format!("{who} did not let go in time; undone"), earlier)
        }
        At::Asked
            if retracted == Withdrawn::All && was == Rest::Announced && untold.is_none() =>
        {
            "the guest has not said whether it takes the CPU, so that it was not asked to give it back: its hotplug work \
             may be stuck behind an earlier one; undone"
                .into()
        }
        At::Asked if retracted == Withdrawn::All => unread(untold),
        At::Asked if retracted == Withdrawn::Last => "the guest has not answered an earlier request, and so not read this \
                                                     one: its hotplug work may be stuck; an ejection that comes later \
                                                     is still honoured"
            .into(),
        At::Asked | At::Read => "the guest read the request and did not answer: its hotplug work may be stuck \
                                 behind an earlier one; an ejection that comes later is still honoured"
            .into(),
        At::Begun => "the guest has begun and is stuck taking the CPU down: a task that hogs it may keep its \
                      hotplug thread from running; an ejection that comes later is still honoured"
            .into(),
    }
}

pub(super) fn syncing(undo: bool, event: Event) -> Change {
    let here = Phase::Syncing { undo };
    match event {
        Event::GateEmpty => to(
            Phase::Stopping { undo },
            [(STOP.up)(0)],
            "nobody is inside",
        ),
        Event::Deadline { inside, .. } => to(here, [], "users are still inside").ends(
            Code::TimedOut,
            format!(
                "the guest does not have it any more; still inside its gate: {}; it goes when they have left",
                inside.join(", ")
            ),
        ),
        Event::Recall { .. } => to(here, [], "it is on its way out: too late"),
        _ => to(here, [], "the guest does not have it any more"),
    }
}

pub(super) fn stopping(undo: bool, event: Event) -> Change {
    let here = Phase::Stopping { undo };
    match event {
        Event::Parked if undo => to(Phase::Dormant, [Action::SetOffline], "the plug is undone")
            .ends(Code::Succeeded, "gone; the guest never had it"),
        Event::Parked => to(
            Phase::Dormant,
            [Action::SetOffline, Action::AfterDeath],
            "its thread is parked",
        )
        .ends(Code::Succeeded, "the guest let go of it, and its thread is parked"),
        Event::Deadline { .. } => to(here, [], "its thread is still in the guest").ends(
            Code::TimedOut,
            "its thread has not left the guest in time; it goes when it has; see whether the host is \
             overloaded or the thread stopped",
        ),
        Event::Recall { .. } => to(here, [], "it is on its way out: too late"),
        _ => to(here, [], "its thread is on its way out"),
    }
}

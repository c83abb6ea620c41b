//! The way in: from nothing to online.

use super::{Action, Change, Event, Phase, Rest, drain, ejected, to};
use crate::hotplug::guest::{About, Asked, Says, Withdrawn, Word};
use crate::hotplug::step::SYNC;
use crate::hotplug::view::Code;

pub(super) fn gone(phase: Phase, event: Event) -> Change {
    match event {
        Event::Plug => to(Phase::Starting, [Action::Start], "it is to be plugged"),
        Event::Unplug { .. } => {
            to(phase, [], "it is gone already").ends(Code::Succeeded, "it was gone already")
        }
        _ => to(phase, [], "it is not there: too late"),
    }
}

pub(super) fn starting(event: Event) -> Change {
    let back = |reason| to(Phase::Stopping { undo: true }, [Action::Park], reason);
    match event {
        Event::Ready => to(
            Phase::Announced { read: false },
            [Action::OpenGate, Action::Insert],
            "its thread runs it: the guest can be told",
        ),
        Event::StartFailed(why) => back("the host cannot run it").ends(Code::Failed, why),
        Event::Unplug { .. } => back("it is to go before the guest was told of it"),
        Event::Recall { .. } => back("taken back before the guest was told").ends(
            Code::Cancelled,
            "taken back before the guest was told of it",
        ),
        Event::Deadline { .. } => back("its thread did not come up in time").ends(
            Code::TimedOut,
            "its thread did not come up in time; see whether the host is overloaded",
        ),
        _ => to(Phase::Starting, [], "the guest does not know of it yet"),
    }
}

/// The guest had not read a request when the time was over.
pub(super) fn unread(untold: Option<String>) -> String {
    match untold {
        None => {
            "the guest never read the request: it may not have booted far enough, or hang; undone"
                .to_owned()
        }
        Some(why) => format!(
            "the guest never read the request: the interrupt that tells it of that was not delivered ({why}); undone"
        ),
    }
}

const UNANSWERED_INSERT: &str =
    "the guest has noticed the CPU and not acknowledged it; it stays plugged";
/// Why a no to an insertion is not the end of it.
pub(super) const TOLD_AGAIN: &str =
    "the guest says no, and was told of it again since: the answer to that counts";
const NOT_ONLINE: &str = "the guest has acknowledged the CPU and not brought it online: nobody in it does (it needs a udev \
                          rule or an agent, or `echo 1 > /sys/devices/system/cpu/cpuN/online`), or its kernel has no \
                          room for it (nr_cpus=, maxcpus= or possible_cpus=; see its kernel log); it stays plugged";

pub(super) fn announced(read: bool, event: Event) -> Change {
    let here = Phase::Announced { read };
    match event {
        Event::Started => online(),
        Event::RequestRead(Asked::Insert) => to(
            Phase::Announced { read: true },
            [],
            "the guest has read the request",
        ),
        Event::Said(word) if word.about == About::Insertion => match word.says {
            Says::Done => to(Phase::Plugged, [], "the guest has acknowledged it"),
            Says::Begun => to(here, [], "the guest has begun"),
            Says::No(_) => to(here, [], TOLD_AGAIN),
        },
        Event::NotTaken(word) => {
            let undone = undone("the guest does not take it");
            not_taken(undone, word)
        }
        Event::Unplug { retracted: true } => undone("the guest had not noticed it"),
        Event::Unplug { retracted: false } => drain(Rest::Announced, false),
        Event::Recall {
            retracted: Withdrawn::All,
        } => {
            let why = "taken back before the guest had noticed it";
            undone(why).ends(Code::Cancelled, why)
        }
        Event::Deadline {
            retracted: Withdrawn::All,
            untold,
            ..
        } => undone("the guest never read it").ends(Code::TimedOut, unread(untold)),
        Event::Deadline { .. } => {
            to(here, [], "the guest is silent").ends(Code::TimedOut, UNANSWERED_INSERT)
        }
        Event::Recall { .. } => to(here, [], "the guest has noticed it: unplug it instead"),
        Event::Ejected => ejected(),
        _ => to(here, [], "the guest has not acknowledged it yet"),
    }
}

/// The guest never knew of it, so that nobody but its users has to be told.
fn undone(reason: &'static str) -> Change {
    let close = (SYNC.up)(0);
    to(Phase::Syncing { undo: true }, [close], reason)
}

/// The guest says that it does not take it.
pub(super) fn not_taken(change: Change, word: Word) -> Change {
    let why = match word.says {
        Says::No(why) => why,
        Says::Begun | Says::Done => "the guest does not take it",
    };
    change
        .ends(Code::Refused, format!("{why}; undone"))
        .with(word)
}

fn online() -> Change {
    // A guest that says nothing acknowledges it so.
    let known = [Action::Acknowledge];
    to(Phase::Online, known, "the guest has started it")
        .ends(Code::Succeeded, "the guest has started it")
}

pub(super) fn plugged(here: Phase, event: Event) -> Change {
    let was = if here == Phase::Online {
        Rest::Online
    } else {
        Rest::Plugged
    };
    match event {
        Event::Started if here == Phase::Plugged => online(),
        Event::Plug if here == Phase::Online => {
            to(here, [], "it is online already").ends(Code::Succeeded, "it was online already")
        }
        Event::Unplug { .. } => drain(was, false),
        Event::Deadline { .. } if here == Phase::Plugged => {
            to(here, [], "the guest does not start it").ends(Code::TimedOut, NOT_ONLINE)
        }
        Event::Recall { .. } => to(here, [], "the guest has it: unplug it instead"),
        // By itself, or long after we stopped to wait for it.
        Event::Ejected => ejected(),
        _ => to(here, [], "nothing was asked of it"),
    }
}

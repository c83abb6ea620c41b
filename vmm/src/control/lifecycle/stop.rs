//! A machine that is being stopped, and what follows.

use super::*;

impl Left {
    fn is_nothing(&self) -> bool {
        self.threads.is_empty() && self.users.is_empty()
    }

    /// The threads that were told to end. With users inside of its vCPU, one is parked and stays, until they have left.
    pub(super) fn late(&self) -> BTreeSet<u32> {
        &self.threads - &self.users
    }

    /// What keeps it from its end. With users inside, these are named.
    fn complaint(&self, inside: &str) -> String {
        let threads = self.late().into_iter().map(|id| format!("vcpu-{id}"));
        let threads: Vec<String> = threads.collect();
        let limit = STOP_TIMEOUT.as_secs();
        let ended = (!threads.is_empty())
            .then(|| format!("{} did not end within {limit} s", threads.join(", ")));
        let left = (!self.users.is_empty()).then(|| format!("inside after {limit} s: {inside}"));
        let both: Vec<String> = ended.into_iter().chain(left).collect();
        both.join("; ")
    }
}

pub(super) fn stopping(
    then: Then,
    mut left: Left,
    Limits { by, again }: Limits,
    event: Event,
    now: Instant,
    policy: &Policy,
) -> (Phase, Action) {
    let stay = |then, left, again, action| {
        let phase = Phase::Stopping {
            then,
            left,
            by,
            again,
        };
        (phase, action)
    };
    match event {
        Event::VcpuEnded(id, end) => {
            left.threads.remove(&id);
            // What made the machine stop is the reason; a fault only counts against a restart.
            let then = match (then, end) {
                (Then::Restart(_), Some(end)) => Then::End(end),
                (then, _) => then,
            };
            if left.is_nothing() {
                return finish(then);
            }
            stay(then, left, again, Action::Nothing)
        }
        Event::Left(id) => {
            left.users.remove(&id);
            if left.is_nothing() {
                return finish(then);
            }
            stay(then, left, again, Action::Nothing)
        }
        Event::Tick if now >= by => finish(late(then, &left, policy)),
        Event::Tick if now >= again => {
            let late = Action::KickAgain(left.late());
            stay(then, left, now + REKICK, late)
        }
        // A thread that held ends all the same.
        Event::Off | Event::Reset | Event::Holds(_) | Event::NotDone | Event::Tick => {
            stay(then, left, again, Action::Nothing)
        }
        Event::Terminate(signal) => stay(terminate(then, signal), left, again, Action::Nothing),
        Event::Asked(Wish::Pause | Wish::Resume) => {
            let (then, action) = pause_of_the_next(then, &event);
            stay(then, left, again, action)
        }
        Event::Asked(
            Wish::Create
            | Wish::Boot
            | Wish::PressPowerButton
            | Wish::Reboot
            | Wish::Shutdown
            | Wish::Delete
            | Wish::Quit,
        ) => {
            let (then, action) = wish(then, &event);
            stay(then, left, again, action)
        }
    }
}

/// What follows when the time is over.
fn late(then: Then, left: &Left, policy: &Policy) -> Then {
    match then {
        // Who is still inside goes with the process, and so does what they use.
        Then::End(end) if left.late().is_empty() => Then::End(end),
        _ => {
            let found = left.complaint(&policy.inside);
            let error = Error::host("stopping the machine", found, "see the host's kernel log");
            Then::End(End::Failed(error))
        }
    }
}

impl No {
    /// What is wrong with a wish for a machine that is being stopped.
    fn on_its_way_to(rest: Rest) -> Self {
        match rest {
            Rest::Created => Self::Stopping,
            Rest::Vacant => Self::Deleting,
        }
    }
}

/// A signal asks for the end of a process whose guest has come to rest: there is nobody left to press a button for.
fn terminate(then: Then, signal: &'static str) -> Then {
    match then {
        Then::Restart(_) => Then::End(End::Reset),
        Then::Rest(_) => Then::End(End::Asked(signal)),
        Then::End(end) => Then::End(end),
    }
}

/// A pause or its end is asked for while there is no guest: it is about the one that comes, if one does.
fn pause_of_the_next(then: Then, event: &Event) -> (Then, Action) {
    match (then, event) {
        (Then::End(end), _) => (Then::End(end), Action::Refuse(No::Ending)),
        (Then::Rest(rest), _) => (Then::Rest(rest), Action::Refuse(No::on_its_way_to(rest))),
        (Then::Restart(Start::Free), Event::Asked(Wish::Pause)) => {
            (Then::Restart(Start::Held), Action::Wait)
        }
        (Then::Restart(Start::Held), Event::Asked(Wish::Pause)) => {
            (Then::Restart(Start::Held), Action::Refuse(No::Paused))
        }
        (Then::Restart(Start::Held), _) => {
            (Then::Restart(Start::Free), Action::Release(Release::Asked))
        }
        (Then::Restart(Start::Free), _) => (Then::Restart(Start::Free), Action::Refuse(No::Runs)),
    }
}

/// Somebody wants something else to follow. What leaves less of the machine wins.
fn wish(then: Then, event: &Event) -> (Then, Action) {
    match (then, event) {
        (Then::End(end), Event::Asked(Wish::Quit)) => (Then::End(end), Action::Wait),
        (Then::End(end), _) => (Then::End(end), Action::Refuse(No::Ending)),
        (_, Event::Asked(Wish::Quit)) => (Then::End(End::Asked("the API")), Action::Wait),
        (_, Event::Asked(Wish::Delete)) => (Then::Rest(Rest::Vacant), Action::Wait),
        (Then::Restart(_), Event::Asked(Wish::Shutdown)) => {
            (Then::Rest(Rest::Created), Action::Wait)
        }
        (then @ Then::Restart(_), Event::Asked(Wish::Reboot)) => (then, Action::Wait),
        (then @ Then::Restart(_), Event::Asked(Wish::Create)) => {
            (then, Action::Refuse(No::Created))
        }
        (then @ Then::Restart(_), Event::Asked(Wish::Boot)) => (then, Action::Refuse(No::Booted)),
        (then @ Then::Rest(_), Event::Asked(Wish::Shutdown)) => (then, Action::Wait),
        (then @ Then::Rest(Rest::Created), Event::Asked(Wish::Create)) => {
            (then, Action::Refuse(No::Created))
        }
        (Then::Rest(rest), _) => (Then::Rest(rest), Action::Refuse(No::on_its_way_to(rest))),
        (then, _) => (then, Action::Refuse(No::Stopping)),
    }
}

/// What follows when the last vCPU thread has ended, and the last user has left.
pub(super) fn finish(then: Then) -> (Phase, Action) {
    match then {
        Then::Restart(start) => {
            let course = match start {
                Start::Free => Course::Free,
                Start::Held => Course::Held,
            };
            (Phase::Running(course), Action::Restart(start))
        }
        Then::Rest(rest) => {
            let phase = match rest {
                Rest::Created => Phase::Created,
                Rest::Vacant => Phase::Vacant,
            };
            (phase, Action::Stopped(rest))
        }
        Then::End(end) => (Phase::Ended, Action::Finish(end)),
    }
}

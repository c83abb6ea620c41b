//! Who asks for something about the machine, and what is answered.

use super::lifecycle::{HOLD_TIMEOUT, No, Release, Rest, Start};
use super::wish::Wish;
use crate::error::{Error, Problem};
use crate::hotplug::client::Refused;
use tokio::sync::oneshot;

/// Where an answer goes. Nobody may be there any more to hear it.
pub(super) type Reply = oneshot::Sender<Result<(), Refused>>;

/// Who waits for what, and the number of the present pause.
#[derive(Default)]
pub(super) struct Wishes {
    /// Counts the pauses; a thread's report about an earlier one is stale.
    pause: u64,
    /// Who has just asked: answered, or made to wait, by the transition that the question is.
    asking: Option<(Wish, Reply)>,
    /// Who is answered when what is under way has come to its end.
    waiting: Vec<(Wish, Reply)>,
    /// Answers that are given once the view shows what they are about.
    answers: Vec<(Reply, Result<(), Refused>)>,
}

impl Wishes {
    /// Takes a question.
    pub(super) fn ask(&mut self, wish: Wish, reply: Reply) {
        self.asking = Some((wish, reply));
    }

    /// A new pause begins, and whoever asked for it waits; returns its number.
    pub(super) fn begin_pause(&mut self) -> u64 {
        self.wait();
        self.pause += 1;
        self.pause
    }

    /// Whether a report is about the present pause.
    pub(super) fn is_present(&self, pause: u64) -> bool {
        self.pause == pause
    }

    /// Who asked is answered later.
    pub(super) fn wait(&mut self) {
        self.waiting.extend(self.asking.take());
    }

    /// What was asked has been done, or not.
    pub(super) fn done(&mut self, done: Result<(), Error>) {
        if let Some((_, reply)) = self.asking.take() {
            self.answers.push((reply, done.map_err(refused)));
        }
    }

    /// Says no to who asked.
    pub(super) fn refuse(&mut self, no: No) {
        if let Some((wish, reply)) = self.asking.take() {
            self.answers.push((reply, Err(refusal(wish.asked(), no))));
        }
    }

    /// Answers everybody who waits, and whose time has come.
    fn settle(&mut self, answer: impl Fn(Wish) -> Option<Result<(), Refused>>) {
        for (wish, reply) in std::mem::take(&mut self.waiting) {
            match answer(wish) {
                Some(answer) => self.answers.push((reply, answer)),
                None => self.waiting.push((wish, reply)),
            }
        }
    }

    /// The machine is paused.
    pub(super) fn paused(&mut self) {
        self.settle(|wish| (wish == Wish::Pause).then_some(Ok(())));
    }

    /// The machine goes on.
    pub(super) fn released(&mut self, why: &Release) {
        self.settle(|wish| (wish == Wish::Pause).then(|| Err(not_paused(why))));
        self.done(Ok(()));
    }

    /// The guest has started again.
    pub(super) fn restarted(&mut self, start: Start) {
        let again = "the guest was started again meanwhile";
        self.settle(|wish| match wish {
            Wish::Reboot => Some(Ok(())),
            Wish::Pause if start == Start::Free => Some(Err(overtaken(wish, again))),
            _ => None,
        });
    }

    /// The machine has stopped, and this is left of it.
    pub(super) fn stopped(&mut self, rest: Rest) {
        self.settle(|wish| {
            Some(match (wish, rest) {
                (Wish::Shutdown, _) | (Wish::Delete, Rest::Vacant) => Ok(()),
                _ => Err(overtaken(wish, "it was stopped meanwhile")),
            })
        });
        self.done(Ok(()));
    }

    /// Gives the answers: the view is out.
    pub(super) fn answer(&mut self) {
        for (reply, answer) in self.answers.drain(..) {
            drop(reply.send(answer));
        }
    }

    /// The process comes to its end. Who waits for something else is told by the end of the channel.
    pub(super) fn ended(&mut self) {
        self.wait();
        self.settle(|wish| (wish == Wish::Quit).then_some(Ok(())));
        self.waiting.clear();
    }
}

/// Somebody else's wish came first.
fn overtaken(wish: Wish, found: &str) -> Refused {
    let remedy = "agree on who commands it";
    Refused::Conflict(Problem::new(wish.asked(), found, remedy))
}

/// Why a pause that had begun came to nothing.
fn not_paused(why: &Release) -> Refused {
    let asked = "pause";
    match why {
        Release::Asked => Refused::Conflict(Problem::new(
            asked,
            "it was resumed before every vCPU had left the guest",
            "agree on who pauses it",
        )),
        Release::PowerButton(signal) => Refused::Conflict(Problem::new(
            asked,
            format!("{signal} came, and the guest was asked to power off"),
            "leave it to its end",
        )),
        Release::Late(left) => {
            let names: Vec<String> = left.iter().map(|id| format!("vcpu-{id}")).collect();
            let limit = HOLD_TIMEOUT.as_secs();
            let found = format!(
                "{} did not leave the guest within {limit} s, and the machine runs on",
                names.join(", ")
            );
            let remedy = "see the host's load and its kernel log, and ask again";
            Refused::Failed(Problem::new(asked, found, remedy))
        }
    }
}

fn refusal(asked: &str, no: No) -> Refused {
    match no {
        No::Paused => Refused::paused(asked),
        No::Runs => Refused::Running(Problem::new(asked, "the machine runs", "pause it first")),
        No::PoweringOff => Refused::Conflict(Problem::new(
            asked,
            "the guest was asked by a signal to power off, and the process ends with it",
            "leave it to its end",
        )),
        No::Ending => Refused::Gone,
        No::Vacant => Refused::Absent(Problem::new(
            asked,
            "there is no machine",
            "create one first",
        )),
        No::Created => {
            let remedy = "delete it first, or use it as it is";
            Refused::Conflict(Problem::new(asked, "there is a machine already", remedy))
        }
        No::Booted => {
            let remedy = "reboot it, or shut it down first";
            Refused::Running(Problem::new(asked, "the machine runs already", remedy))
        }
        No::Stopped => Refused::Stopped(Problem::new(
            asked,
            "the machine does not run",
            "boot it first",
        )),
        No::Stopping => Refused::Stopped(Problem::new(
            asked,
            "the machine is being stopped",
            "wait until it has stopped, and boot it",
        )),
        No::Deleting => Refused::Stopped(Problem::new(
            asked,
            "the machine is being deleted",
            "wait until it is gone, and create one",
        )),
    }
}

/// A wish could not be granted.
fn refused(error: Error) -> Refused {
    match error {
        Error::Input(problem) => Refused::Invalid(problem),
        Error::Host(problem) => Refused::Failed(problem),
    }
}

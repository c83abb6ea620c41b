//! Who asks for a pause, and what is answered.

use super::lifecycle::{HOLD_TIMEOUT, No, Release};
use crate::error::Problem;
use crate::hotplug::client::Refused;
use tokio::sync::oneshot;

/// Where an answer goes. Nobody may be there any more to hear it.
pub(super) type Reply = oneshot::Sender<Result<(), Refused>>;

/// The number of the present pause, and who waits for an answer.
#[derive(Default)]
pub(super) struct Pauses {
    /// Counts the pauses; a thread's report about an earlier one is stale.
    number: u64,
    /// Who has just asked: answered, or made to wait, by the transition that the question is.
    asking: Option<(&'static str, Reply)>,
    /// Who is answered when the machine is paused. A second one is refused.
    waiting: Option<Reply>,
    /// Answers that are given once the view shows what they are about.
    answers: Vec<(Reply, Result<(), Refused>)>,
}

impl Pauses {
    /// Takes a question.
    pub(super) fn ask(&mut self, what: &'static str, reply: Reply) {
        self.asking = Some((what, reply));
    }

    /// A new pause begins; returns its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.wait();
        self.number += 1;
        self.number
    }

    /// Whether a report is about the present pause.
    pub(super) fn is_present(&self, number: u64) -> bool {
        self.number == number
    }

    /// Who asked is answered later.
    pub(super) fn wait(&mut self) {
        if let Some((_, reply)) = self.asking.take() {
            self.waiting = Some(reply);
        }
    }

    /// The machine is paused.
    pub(super) fn done(&mut self) {
        self.answers
            .extend(self.waiting.take().map(|reply| (reply, Ok(()))));
    }

    /// The machine goes on.
    pub(super) fn released(&mut self, why: &Release) {
        let waiting = self.waiting.take();
        self.answers
            .extend(waiting.map(|reply| (reply, Err(not_paused(why)))));
        self.answers
            .extend(self.asking.take().map(|(_, reply)| (reply, Ok(()))));
    }

    /// Says no to who asked.
    pub(super) fn refuse(&mut self, no: No) {
        if let Some((what, reply)) = self.asking.take() {
            self.answers.push((reply, Err(refusal(what, no))));
        }
    }

    /// Gives the answers: the view is out.
    pub(super) fn answer(&mut self) {
        for (reply, answer) in self.answers.drain(..) {
            drop(reply.send(answer));
        }
    }

    /// The machine has come to its end. Who waits is told by the end of the channel.
    pub(super) fn ended(&mut self) {
        self.asking = None;
        self.waiting = None;
    }
}

fn problem(asked: &str, found: impl Into<String>, remedy: &str) -> Problem {
    Problem {
        asked: asked.to_owned(),
        found: found.into(),
        remedy: remedy.to_owned(),
    }
}

/// Why a pause that had begun came to nothing.
fn not_paused(why: &Release) -> Refused {
    let asked = "pause";
    match why {
        Release::Asked => Refused::Conflict(problem(
            asked,
            "it was resumed before every vCPU had left the guest",
            "agree on who pauses it",
        )),
        Release::PowerButton(signal) => Refused::Conflict(problem(
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
            Refused::Failed(problem(asked, found, remedy))
        }
    }
}

fn refusal(asked: &str, no: No) -> Refused {
    match no {
        No::Paused => Refused::paused(asked),
        No::Runs => Refused::Running(problem(asked, "the machine runs", "pause it first")),
        No::PoweringOff => Refused::Conflict(problem(
            asked,
            "the guest was asked to power off, which it cannot while it is paused",
            "leave it to its end",
        )),
        No::Ending => Refused::Gone,
    }
}

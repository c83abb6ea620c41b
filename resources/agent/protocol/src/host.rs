//! What the host says.

use serde::{Deserialize, Serialize};

use crate::MAX_CPUS;
use crate::bounded::{ApicId, List};
use crate::line::named;

/// The answer to [`crate::Hello`]. Before it the agent says nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both speak from here on.
    pub version: u16,
    /// How often [`crate::Pressure`] is wanted, in milliseconds ([`crate::PRESSURE_PERIODS_MS`]); 0 for never.
    #[serde(default)]
    pub pressure_ms: u32,
    /// Whether the agent may have the guest hurry RCU's grace periods when it brings up a CPU by itself, which no operation
    /// speaks of.
    #[serde(default)]
    pub expedite: bool,
}

/// What an operation does with its CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// They are given to the guest.
    Plug,
    /// They are taken away from it.
    Unplug,
}

/// What to do about what is bound to a CPU that is to be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pinned {
    /// Nothing: Linux breaks the affinity when the CPU goes.
    Break,
    /// Refuse, and put back what was moved.
    Refuse,
    /// Wait for it to go by itself, and then refuse.
    Wait {
        /// How long, in milliseconds.
        ms: u32,
    },
}

/// An operation begins. What the agent can do for it, it does now, and answers [`crate::Drained`] or [`crate::Refused`] for
/// each CPU that is to be taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The operation's id, by which later messages name it.
    pub operation: u64,
    /// What it does.
    pub kind: Kind,
    /// With which CPUs.
    pub cpus: List<ApicId, { MAX_CPUS as usize }>,
    /// Whether to move what can run elsewhere off the CPUs; for an unplug.
    #[serde(default)]
    pub drain: bool,
    /// What about what cannot.
    #[serde(default = "breaks")]
    pub pinned: Pinned,
    /// Whether to have the guest hurry RCU's grace periods until the operation's end.
    #[serde(default)]
    pub expedite: bool,
    /// How long the operation may take, in milliseconds. If the host is not heard of any more, the agent takes it for undone then.
    pub deadline_ms: u32,
}

fn breaks() -> Pinned {
    Pinned::Break
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it was to: what was moved off a CPU stays away until the CPU comes back.
    Done,
    /// Not: what was moved is put back now.
    Undone,
}

/// An operation has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Which.
    pub operation: u64,
    /// How.
    pub outcome: Outcome,
}

/// What is in the way of taking this CPU away? The answer is [`crate::Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Comes back in the answer.
    pub id: u64,
    /// The CPU.
    pub cpu: ApicId,
}

/// Answered at once with [`crate::Pong`]: the guest's clock at that moment lies between what the host's own clock showed before
/// and after, which bounds the offset of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Comes back in the answer.
    pub id: u64,
}

named! {
    /// What the host says.
    FromHost {
        /// The answer to hello.
        Welcome = "welcome",
        /// An operation begins.
        Begin = "begin",
        /// An operation has ended.
        End = "end",
        /// What is in the way?
        Ask = "ask",
        /// What time is it?
        Ping = "ping",
    }
}

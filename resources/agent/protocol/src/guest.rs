//! What the agent in the guest says.

use serde::{Deserialize, Serialize};

use crate::MAX_CPUS;
use crate::blocker::Blockers;
use crate::bounded::{ApicId, CpuNumber, List, Text};
use crate::line::named;

/// The first message of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version that the agent speaks.
    pub version: u16,
    /// The agent and its version.
    pub agent: Text<64>,
    /// The release of the guest's kernel (`uname -r`).
    #[serde(default)]
    pub kernel: Text<128>,
    /// What the agent can do in this guest: `online`, `expedite`, `drain`, `blockers`, `phases`, `pressure`.
    #[serde(default)]
    pub features: List<Text<32>, 32>,
    /// Which boot of the guest this is (`/proc/sys/kernel/random/boot_id`).
    #[serde(default)]
    pub boot_id: Text<40>,
}

/// How many things were moved off a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Moved {
    /// Threads.
    pub tasks: u32,
    /// Interrupts, and the default of new ones.
    pub irqs: u32,
    /// Masks of unbound work queues.
    pub workqueues: u32,
    /// Queues of network devices.
    pub queues: u32,
    /// Sets of CPUs.
    pub cpusets: u32,
    /// What could be moved and would not.
    pub failed: u32,
    /// Threads that are left to Linux, because they may also use CPUs that are offline now.
    pub left: u32,
}

/// What can run elsewhere does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// For which operation.
    pub operation: u64,
    /// Off which CPU.
    pub cpu: ApicId,
    /// How much of what.
    #[serde(default)]
    pub moved: Moved,
    /// What is left.
    #[serde(default)]
    pub blockers: Blockers,
}

/// Something is bound to a CPU, and the host did not want that broken. What was moved is back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// For which operation.
    pub operation: u64,
    /// Which CPU.
    pub cpu: ApicId,
    /// What is in the way.
    #[serde(default)]
    pub blockers: Blockers,
}

/// The answer to [`crate::Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// That of the question.
    pub id: u64,
    /// Which CPU.
    pub cpu: ApicId,
    /// What is in the way.
    #[serde(default)]
    pub blockers: Blockers,
    /// Why there is no answer, or not all of it.
    #[serde(default)]
    pub problem: Option<Text<256>>,
}

/// What happened with a step of Linux's CPU hotplug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It begins.
    Enter,
    /// It has ended.
    Exit,
    /// It begins, in order to undo the operation.
    Rollback,
}

/// A step of Linux's CPU hotplug, as its tracepoints (`cpuhp:*`) say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Of which CPU.
    pub cpu: ApicId,
    /// When it happened, in nanoseconds of `CLOCK_MONOTONIC`; the trace has microseconds.
    pub event_ns: u64,
    /// The step's number; it differs from kernel to kernel.
    pub step: u16,
    /// The function that is called; empty for [`Event::Exit`], where the trace does not say.
    #[serde(default)]
    pub name: Text<64>,
    /// What happened.
    pub event: Event,
    /// What the function returned: 0, or an error below it. 0 unless this is [`Event::Exit`].
    #[serde(default)]
    pub ret: i32,
}

/// What an operation changed is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The operation.
    pub operation: u64,
    /// How many things were put back.
    #[serde(default)]
    pub restored: u32,
    /// How many were left alone, because somebody else had changed them since.
    #[serde(default)]
    pub kept: u32,
}

/// A CPU that the agent could not bring up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotOnline {
    /// Linux's number of it.
    pub number: CpuNumber,
    /// Its APIC id, where the guest says it of a CPU that is offline.
    #[serde(default)]
    pub cpu: Option<ApicId>,
    /// What the kernel said.
    pub text: Text<256>,
}

/// Which CPUs the guest runs on; sent after hello, and after each change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Online {
    /// Those that are online.
    pub cpus: List<ApicId, { MAX_CPUS as usize }>,
    /// Those that the agent brought up since the last such message.
    pub by_agent: List<ApicId, { MAX_CPUS as usize }>,
    /// Those that it could not bring up.
    pub failed: List<NotOnline, 32>,
}

/// How busy one CPU was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// Which.
    pub cpu: ApicId,
    /// In thousandths of the period.
    pub permille: u16,
}

/// How busy the guest is, at the period that [`crate::Welcome`] asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// Tasks that run or want to (`/proc/loadavg`), the agent not counted.
    pub running: u32,
    /// The share of the last ten seconds in which some task waited for a CPU, in hundredths of a percent
    /// (`some avg10` of `/proc/pressure/cpu`); `None` where the kernel does not say.
    pub some_avg10: Option<u16>,
    /// How long some task has waited for a CPU since the guest was booted, in microseconds (`some total`).
    pub some_total_us: Option<u64>,
    /// The share of the period that the host ran something else in, in thousandths (`steal` of `/proc/stat`).
    pub steal_permille: u16,
    /// Each CPU that was online through the period.
    pub busy: List<Busy, { MAX_CPUS as usize }>,
}

/// The answer to [`crate::Ping`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// That of the ping.
    pub id: u64,
}

/// Something did not work, for the host's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What was tried, what was found, what to do.
    pub text: Text<512>,
}

named! {
    /// What the agent in the guest says.
    FromGuest {
        /// The first message.
        Hello = "hello",
        /// What can run elsewhere does.
        Drained = "drained",
        /// Something must not be broken.
        Refused = "refused",
        /// What is in the way.
        Answer = "answer",
        /// A step of Linux's CPU hotplug.
        Phase = "phase",
        /// All is as before.
        Restored = "restored",
        /// Which CPUs the guest runs on.
        Online = "online",
        /// How busy the guest is.
        Pressure = "pressure",
        /// The answer to a ping.
        Pong = "pong",
        /// Something did not work.
        Problem = "problem",
    }
}

/// A message of the guest, and when it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// The guest's `CLOCK_MONOTONIC`, in nanoseconds.
    pub at_ns: u64,
    /// The message.
    pub message: FromGuest,
}

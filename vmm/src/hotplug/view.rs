//! What is published of the vCPUs and the operations: a consistent picture that anybody may hold and read,
//! without asking the control thread and without keeping it from anything.

use super::gate::{Binding, Denied, Entrance};
use crate::config::VmConfig;
use crate::tally::run_time_of;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Number of an operation, from 1, never used again in this process.
pub type OperationId = u64;

/// What a machine is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MachineState {
    /// It is not known yet: the process has just begun.
    #[default]
    Starting,
    /// There is none.
    None,
    /// One is described, and does not run.
    Created,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// Its guest starts again.
    Restarting,
    /// It is being stopped.
    Stopping,
}

impl MachineState {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::None => "none",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
        }
    }
}

/// Everything, at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What the machine is at.
    pub state: MachineState,
    /// What it is to be, unless there is none.
    pub config: Option<Arc<VmConfig>>,
    /// How many vCPUs were asked for last.
    pub desired: u32,
    /// How many are there, as the guest's firmware tables say.
    pub plugged: u32,
    /// How many of those the guest has started.
    pub online: u32,
    /// How many the guest can ever have.
    pub max: u32,
    /// Every possible vCPU, by id.
    pub vcpus: Vec<Arc<VcpuView>>,
    /// The running operations and the last ended ones.
    pub operations: BTreeMap<OperationId, Arc<OperationView>>,
    /// How many operations have ended, those that are not kept any more included.
    pub ended: u64,
}

impl View {
    /// Whether somebody who waits may have waited for this view, now that it takes the place of `earlier`: an
    /// operation has ended, or it is the first one. Phases come and go in every turn of the control thread, and
    /// whoever woke for each of them would only keep the guest from its host's CPUs.
    #[must_use]
    pub fn is_awaited_after(&self, earlier: &Self) -> bool {
        let starting = |view: &Self| view.state == MachineState::Starting;
        self.ended != earlier.ended || (starting(earlier) && !starting(self))
    }
}

/// A vCPU of one machine: late messages about a vCPU of an earlier one can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuRef {
    /// Its id.
    pub id: u32,
    /// Counts the machines of this process, from 1.
    pub generation: u64,
}

impl fmt::Display for VcpuRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vcpu-{}", self.id)
    }
}

/// A vCPU.
#[derive(Clone, Debug)]
pub struct VcpuView {
    /// Its id.
    pub id: u32,
    /// Name of its phase, in the words of the architecture's table.
    pub phase: &'static str,
    /// What it is to become.
    pub target: Target,
    /// Counts how often it was plugged.
    pub generation: u64,
    /// Its thread, if it has one now.
    pub thread: Option<ThreadView>,
    /// The last operation that it was part of.
    pub last_operation: Option<OperationId>,
    /// How its last plug went.
    pub last_plug: Option<Timeline>,
    /// How its last unplug went.
    pub last_unplug: Option<Timeline>,
    /// The way to it for whoever uses it from outside.
    pub gate: Entrance,
}

impl VcpuView {
    /// How long its thread has run so far, in the guest and out of it, in this incarnation of the thread.
    ///
    /// A pinned user of the vCPU, which does not wait: `None` without a thread to ask.
    ///
    /// # Errors
    /// [`Denied`] where the vCPU is on its way out or gone.
    pub fn run_time(&self) -> Result<Option<Duration>, Denied> {
        let _inside = self
            .gate
            .enter(Binding::Pinned, "run time", Duration::ZERO)?;
        let tid = self.thread.as_ref().and_then(|thread| thread.tid);
        Ok(tid.and_then(run_time_of))
    }
}

/// A vCPU's thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadView {
    /// Its name.
    pub name: String,
    /// Its id on the host; `None` in the moment before it runs.
    pub tid: Option<i32>,
    /// Whether it runs the guest; otherwise it is parked.
    pub running: bool,
}

/// What a vCPU is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Plugged, and started by the guest.
    Online,
    /// Ejected by the guest, with its thread parked.
    Offline,
}

/// The phases that a plug or an unplug went through, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// For which operation.
    pub operation: OperationId,
    /// Name of each phase, or of its part, and how long it took.
    pub phases: Vec<(&'static str, Duration)>,
}

/// An operation: a change that was asked for, and what became of it.
#[derive(Clone, Debug)]
pub struct OperationView {
    /// Its number.
    pub id: OperationId,
    /// What was asked for.
    pub kind: OperationKind,
    /// `None` while it runs.
    pub ended: Option<Ended>,
    /// One part for each vCPU that it changes.
    pub parts: Vec<Arc<PartView>>,
    /// When it was accepted.
    pub created_at: SystemTime,
}

/// What an operation was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// This many vCPUs, whichever.
    Count(u32),
    /// Exactly these vCPUs; how many.
    Set(u32),
    /// One vCPU.
    One(Target),
    /// The guest ejected a vCPU by itself.
    GuestEject,
}

/// The end of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its result: the worst of its parts'.
    pub code: Code,
    /// When.
    pub at: SystemTime,
}

/// One vCPU's part of an operation.
#[derive(Clone, Debug)]
pub struct PartView {
    /// Which vCPU.
    pub vcpu: u32,
    /// Name of the phase in which it was.
    pub from: &'static str,
    /// What it is to become.
    pub to: Target,
    /// Name of the phase in which it is, or was when this part ended.
    pub phase: &'static str,
    /// `None` while it runs.
    pub outcome: Option<Outcome>,
}

/// What became of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In a word.
    pub code: Code,
    /// The guest's last word about it, in the numbers of its firmware interface: what it speaks of, and its status.
    pub word: Option<(u32, u32)>,
    /// In a sentence: who said no or did not answer, and what to do about it.
    pub detail: String,
}

/// A result, the better ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// It is so, by physical proof.
    Succeeded,
    /// A later request wants something else.
    Superseded,
    /// Somebody took the request back.
    Cancelled,
    /// The guest or a policy said no.
    Refused,
    /// Somebody did not answer in time.
    TimedOut,
    /// Our own machinery or the host failed.
    Failed,
}

impl Code {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [
        Self::Succeeded,
        Self::Superseded,
        Self::Cancelled,
        Self::Refused,
        Self::TimedOut,
        Self::Failed,
    ];

    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
        }
    }
}

impl OperationKind {
    /// The names of all kinds in the API, by [`OperationKind::index`].
    pub const NAMES: [&str; 4] = ["resize", "set", "vcpu", "guest_eject"];

    /// Its place among the names.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Count(_) => 0,
            Self::Set(_) => 1,
            Self::One(_) => 2,
            Self::GuestEject => 3,
        }
    }
}

impl Target {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

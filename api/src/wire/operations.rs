//! Operations: what was asked for, and what became of it.

use super::vcpus::Target;
use hotvisor_vmm::hotplug::view::{self, OperationKind, OperationView, PartView};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// The running operations and the last ended ones, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Operations {
    pub(crate) operations: Vec<Operation>,
}

/// A change that was asked for, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Operation {
    /// Its number, from 1, never used again while the process lives.
    #[schema(minimum = 1)]
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    /// How many vCPUs were asked for, where it was about all of them.
    #[schema(required)]
    pub(crate) desired: Option<u32>,
    pub(crate) state: State,
    /// One part for each vCPU that it changes.
    pub(crate) vcpus: Vec<Part>,
    /// When it was accepted: RFC 3339, in UTC, with microseconds.
    #[schema(format = DateTime)]
    pub(crate) created_at: String,
    /// When it ended; null while it runs.
    #[schema(format = DateTime, required)]
    pub(crate) ended_at: Option<String>,
}

/// What an operation was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// So many vCPUs, whichever.
    Resize,
    /// Exactly these vCPUs.
    Set,
    /// One vCPU.
    Vcpu,
    /// The guest ejected a vCPU by itself.
    GuestEject,
}

/// Whether an operation runs, or how it ended: as the worst of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It has not ended.
    Running,
    /// It is so, by physical proof.
    Succeeded,
    /// The guest or a policy said no.
    Refused,
    /// Somebody did not answer in time.
    TimedOut,
    /// Somebody took it back.
    Cancelled,
    /// A later request wants something else.
    Superseded,
    /// Hotvisor or the host failed.
    Failed,
}

/// One vCPU's part of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = OperationPart)]
pub(crate) struct Part {
    /// Which vCPU.
    pub(crate) id: u32,
    /// Name of the phase in which it was.
    #[schema(value_type = String)]
    pub(crate) from: Cow<'static, str>,
    /// What it is to become.
    pub(crate) to: Target,
    /// Name of the phase in which it is, or was when this part ended.
    #[schema(value_type = String)]
    pub(crate) phase: Cow<'static, str>,
    /// Null while it runs.
    #[schema(required)]
    pub(crate) outcome: Option<Outcome>,
}

/// What became of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Outcome {
    pub(crate) code: Code,
    /// The guest's last word about it: source event and status of `_OST` (ACPI 6.3, section 6.3.5).
    #[schema(required, value_type = Option<[i64; 2]>, minimum = 0, min_items = 2, max_items = 2)]
    pub(crate) ost: Option<[u32; 2]>,
    /// In a sentence: who said no or did not answer, and what to do about it.
    pub(crate) detail: String,
}

/// How a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OutcomeCode)]
pub(crate) enum Code {
    /// It is so, by physical proof.
    Succeeded,
    /// The guest or a policy said no.
    Refused,
    /// Somebody did not answer in time.
    TimedOut,
    /// Somebody took it back.
    Cancelled,
    /// A later request wants something else.
    Superseded,
    /// Hotvisor or the host failed.
    Failed,
}

impl From<view::Code> for Code {
    fn from(code: view::Code) -> Self {
        match code {
            view::Code::Succeeded => Self::Succeeded,
            view::Code::Refused => Self::Refused,
            view::Code::TimedOut => Self::TimedOut,
            view::Code::Cancelled => Self::Cancelled,
            view::Code::Superseded => Self::Superseded,
            view::Code::Failed => Self::Failed,
        }
    }
}

impl From<Code> for State {
    fn from(code: Code) -> Self {
        match code {
            Code::Succeeded => Self::Succeeded,
            Code::Refused => Self::Refused,
            Code::TimedOut => Self::TimedOut,
            Code::Cancelled => Self::Cancelled,
            Code::Superseded => Self::Superseded,
            Code::Failed => Self::Failed,
        }
    }
}

impl From<&OperationView> for Operation {
    fn from(view: &OperationView) -> Self {
        let (kind, desired) = match view.kind {
            OperationKind::Count(count) => (Kind::Resize, Some(count)),
            OperationKind::Set(count) => (Kind::Set, Some(count)),
            OperationKind::One(_) => (Kind::Vcpu, None),
            OperationKind::GuestEject => (Kind::GuestEject, None),
        };
        let state = |ended: view::Ended| Code::from(ended.code).into();
        Self {
            id: view.id,
            kind,
            desired,
            state: view.ended.map_or(State::Running, state),
            vcpus: view.parts.iter().map(|part| Part::from(&**part)).collect(),
            created_at: moment(view.created_at),
            ended_at: view.ended.map(|ended| moment(ended.at)),
        }
    }
}

impl From<&PartView> for Part {
    fn from(view: &PartView) -> Self {
        Self {
            id: view.vcpu,
            from: view.from.into(),
            to: view.to.into(),
            phase: view.phase.into(),
            outcome: view.outcome.as_ref().map(|outcome| Outcome {
                code: outcome.code.into(),
                ost: outcome.word.map(<[u32; 2]>::from),
                detail: outcome.detail.clone(),
            }),
        }
    }
}

/// RFC 3339, in UTC, with microseconds.
pub(crate) fn moment(time: SystemTime) -> String {
    // The formatter panics at a clock that was never set and stands before 1970.
    humantime::format_rfc3339_micros(time.max(UNIX_EPOCH)).to_string()
}

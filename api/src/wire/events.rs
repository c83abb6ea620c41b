//! Events: what has happened, as `GET /api/v1/events` streams it. Each has a kind, which is its name in the stream,
//! and data, which is one line of JSON.

use super::operations::{Operation, moment};
use super::vcpus::{Target, us};
use hotvisor_vmm::events::{self, EventId, News, PhaseChange};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::SystemTime;
use utoipa::ToSchema;

/// The data of one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Event)]
pub(crate) enum Event {
    /// Its event is called `phase`.
    Phase(PhaseEvent),
    /// Its event is called `operation`.
    Operation(OperationEvent),
    /// Its event is called `gap`.
    Gap(GapEvent),
    /// Its event is called `machine`.
    Machine(MachineEvent),
}

/// A vCPU went from one phase into another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct PhaseEvent {
    /// When: RFC 3339, in UTC, with microseconds.
    #[schema(format = DateTime)]
    pub(crate) at: String,
    pub(crate) vcpu: u32,
    /// How often it was plugged.
    pub(crate) generation: u64,
    /// What it is to become.
    pub(crate) target: Target,
    /// Name of the phase in which it was.
    #[schema(value_type = String)]
    pub(crate) from: Cow<'static, str>,
    /// Name of the phase in which it is.
    #[schema(value_type = String)]
    pub(crate) phase: Cow<'static, str>,
    /// How long it was in the phase before, in microseconds; null where that was a rest.
    #[schema(required)]
    pub(crate) us: Option<u64>,
    /// The operation that it went on for.
    #[schema(required)]
    pub(crate) operation: Option<u64>,
}

/// An operation began, one of its parts has its outcome, or it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct OperationEvent {
    /// When: RFC 3339, in UTC, with microseconds.
    #[schema(format = DateTime)]
    pub(crate) at: String,
    /// As it was then.
    pub(crate) operation: Operation,
}

/// The machine is in another state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct MachineEvent {
    /// When: RFC 3339, in UTC, with microseconds.
    #[schema(format = DateTime)]
    pub(crate) at: String,
    /// The state, from now on.
    #[schema(value_type = String)]
    pub(crate) state: Cow<'static, str>,
}

/// Events were dropped before this reader came to read them. Its own id is the last one's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct GapEvent {
    /// When that was found: RFC 3339, in UTC, with microseconds.
    #[schema(format = DateTime)]
    pub(crate) at: String,
    /// Id of the first event that is lost.
    #[schema(minimum = 1)]
    pub(crate) first: u64,
    /// Id of the last event that is lost.
    #[schema(minimum = 1)]
    pub(crate) last: u64,
}

impl Event {
    /// Its name in the stream.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Phase(_) => "phase",
            Self::Operation(_) => "operation",
            Self::Machine(_) => "machine",
            Self::Gap(_) => "gap",
        }
    }

    /// Events that this reader will never get.
    pub(crate) fn gap(first: EventId, last: EventId) -> Self {
        Self::Gap(GapEvent {
            at: moment(SystemTime::now()),
            first,
            last,
        })
    }
}

impl From<&events::Event> for Event {
    fn from(event: &events::Event) -> Self {
        let at = moment(event.at);
        match &event.news {
            News::Phase(change) => Self::Phase(PhaseEvent::new(at, change)),
            News::Operation(operation) => Self::Operation(OperationEvent {
                at,
                operation: Operation::from(&**operation),
            }),
            News::Machine(state) => Self::Machine(MachineEvent {
                at,
                state: (*state).into(),
            }),
        }
    }
}

impl PhaseEvent {
    fn new(at: String, change: &PhaseChange) -> Self {
        Self {
            at,
            vcpu: change.vcpu,
            generation: change.generation,
            target: change.target.into(),
            from: change.from.into(),
            phase: change.phase.into(),
            us: change.spent.map(us),
            operation: change.operation,
        }
    }
}

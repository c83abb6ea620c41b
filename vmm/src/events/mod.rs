//! What happens, one event after the other, for whoever wants to follow it.
//!
//! The control thread writes, and nobody else. Any number of readers follow at their own pace, each with a
//! [`Cursor`]. A reader costs the writer nothing while it does not wait, and one wake-up a turn of the control
//! thread while it does. The last events are kept, so that a reader can come back to where it was; one that was
//! overtaken is told which events it has lost.
//!
//! An event is written after the view that shows what it is about: who sees the event finds it there.

#[cfg(test)]
#[cfg(feature = "loom")]
mod interleaved;
mod ring;
#[cfg(test)]
#[cfg(not(feature = "loom"))]
mod tests;

pub use ring::{Cursor, Events, Read, Writer};

use crate::hotplug::view::{OperationId, OperationView, Target};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Number of an event, from 1, without holes, never used again in this process.
pub type EventId = u64;

/// Something that has happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number.
    pub id: EventId,
    /// When it happened.
    pub at: SystemTime,
    /// What happened.
    pub news: News,
}

/// What can happen.
#[derive(Clone, Debug)]
pub enum News {
    /// A vCPU went from one phase into another.
    Phase(PhaseChange),
    /// An operation began, one of its parts has its outcome, or it has ended: as it was then.
    Operation(Arc<OperationView>),
    /// The machine is in this state from now on.
    Machine(&'static str),
}

/// A vCPU went from one phase into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseChange {
    /// Which vCPU.
    pub vcpu: u32,
    /// How often it was plugged.
    pub generation: u64,
    /// What it is to become.
    pub target: Target,
    /// Name of the phase in which it was.
    pub from: &'static str,
    /// Name of the phase in which it is.
    pub phase: &'static str,
    /// How long it was in the phase before, as in its timeline; `None` where that was a rest.
    pub spent: Option<Duration>,
    /// The operation that it went on for.
    pub operation: Option<OperationId>,
}

impl News {
    /// What it takes of the ring's room, one being what most take.
    fn weight(&self) -> usize {
        /// So many parts, which are shared with the view, take as much room as an event.
        const PARTS: usize = 8;
        match self {
            Self::Operation(operation) => 1 + operation.parts.len() / PARTS,
            Self::Phase(_) | Self::Machine(_) => 1,
        }
    }
}

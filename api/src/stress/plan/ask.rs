//! A request for a change of vCPUs.

use crate::wire::change::Change;
use crate::wire::vcpus::{ChangeOne, Target};
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;

/// A request. It serializes as its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One vCPU.
    One(u32, Target),
    /// So many.
    Count(u32),
    /// Exactly these.
    Set(BTreeSet<u32>),
}

impl Ask {
    /// Where it is asked for, with the time that it has.
    pub(crate) fn path(&self, timeout: &str) -> String {
        match self {
            Self::One(id, _) => format!("/api/v1/vcpus/{id}?timeout={timeout}"),
            _ => format!("/api/v1/vcpus?timeout={timeout}"),
        }
    }
}

impl Serialize for Ask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(_, target) => ChangeOne { target: *target }.serialize(serializer),
            Self::Count(count) => Change::Desired(*count).serialize(serializer),
            Self::Set(set) => Change::Online(set.clone()).serialize(serializer),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(id, Target::Online) => write!(f, "plug {id}"),
            Self::One(id, Target::Offline) => write!(f, "unplug {id}"),
            Self::Count(count) => write!(f, "resize {count}"),
            // Not Debug's: it has to be JSON, to be sent by hand.
            Self::Set(set) => {
                let ids: Vec<_> = set.iter().map(u32::to_string).collect();
                write!(f, "PUT /api/v1/vcpus {{\"online\":[{}]}}", ids.join(","))
            }
        }
    }
}

//! Why a request got no answer of its own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A problem in the form of RFC 9457: nothing was changed by a request that is answered with one. Its type is the
/// default, `about:blank`, so that `title` is the status code's own phrase; programs look at `code`, people at the
/// rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Problem {
    /// The status code's phrase.
    pub(crate) title: String,
    /// The status code.
    #[schema(minimum = 400, maximum = 599)]
    pub(crate) status: u16,
    /// The reason, by a name that never changes.
    pub(crate) code: Reason,
    /// What was asked, and what was found.
    pub(crate) detail: String,
    /// What to do next.
    pub(crate) remedy: String,
}

/// A reason, by a name that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// It cannot be read.
    Malformed,
    /// It can be read, and cannot be met as it stands.
    Invalid,
    /// Its `Idempotency-Key` was used for something else.
    KeyReused,
    /// What it names is not there.
    Unknown,
    /// What it names cannot be used in this way.
    Method,
    /// It comes too late, or at the wrong moment.
    Conflict,
    /// The machine is paused, which is asked for or in the way.
    Paused,
    /// The machine runs, and it would have to be paused.
    Running,
    /// There is no machine.
    NoMachine,
    /// The machine does not run.
    NotRunning,
    /// It was tried, and Hotvisor or the host failed.
    Failed,
    /// It did not arrive in time.
    Slow,
    /// It is longer than anything that could be asked.
    Large,
    /// Too many others are being answered.
    Busy,
    /// The machine has ended.
    Gone,
}

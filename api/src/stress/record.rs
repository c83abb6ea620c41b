//! What a run did, as the summary and the report show it.

use super::mix::Kind;
use crate::wire::operations::Code;
use crate::wire::vcpus::Target;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// A run, so far or whole.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) seed: u64,
    /// As it could be given to `--mix`.
    pub(crate) mix: String,
    pub(crate) started_at: SystemTime,
    pub(crate) elapsed: Duration,
    /// vCPUs that the machine can have.
    pub(crate) max: u32,
    /// Whether the guest could be asked.
    pub(crate) guest: bool,
    pub(crate) steps: Vec<StepDone>,
    pub(crate) changes: Vec<ChangeDone>,
    /// Operations of the API that this run began.
    pub(crate) operations: u64,
    /// Answers of the API that were a no: `409 paused`.
    pub(crate) answers: BTreeMap<String, u64>,
    /// What the guest's kernel complained of.
    pub(crate) warnings: Vec<String>,
    pub(crate) contradiction: Option<Finding>,
    /// Where the VM did not answer any more, or was gone.
    pub(crate) lost: Option<Finding>,
}

impl Record {
    /// What ended the run before its time, and what that is called.
    pub(crate) fn finding(&self) -> Option<(&'static str, &Finding)> {
        let contradiction = self.contradiction.as_ref();
        let contradiction = contradiction.map(|found| ("contradiction", found));
        contradiction.or_else(|| self.lost.as_ref().map(|found| ("the VM was lost", found)))
    }
}

impl Finding {
    /// Of which nothing is known yet but what was found.
    pub(crate) fn new(step: u64, asked: String, what: Vec<String>) -> Self {
        Self {
            step,
            asked,
            what,
            events: Vec::new(),
            timelines: Vec::new(),
            views: String::new(),
            guest_console: None,
            vmm_log: None,
        }
    }
}

/// A step of the mix.
#[derive(Clone, Debug)]
pub(crate) struct StepDone {
    pub(crate) kind: Kind,
    pub(crate) took: Duration,
}

/// A part of an operation that has ended.
#[derive(Clone, Debug)]
pub(crate) struct ChangeDone {
    /// When it ended, since the start.
    pub(crate) at: Duration,
    pub(crate) to: Target,
    pub(crate) code: Code,
    pub(crate) ost: Option<[u32; 2]>,
    pub(crate) total: Duration,
    /// The phases of its timeline, in order; none where nothing was changed.
    pub(crate) phases: Vec<(Cow<'static, str>, Duration)>,
}

/// A step that was the last one, and what there was to see then.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) step: u64,
    /// What was asked for in that step.
    pub(crate) asked: String,
    pub(crate) what: Vec<String>,
    /// The last events of the VM.
    pub(crate) events: Vec<String>,
    pub(crate) timelines: Vec<String>,
    /// API, guest and host threads as text.
    pub(crate) views: String,
    pub(crate) guest_console: Option<String>,
    pub(crate) vmm_log: Option<String>,
}

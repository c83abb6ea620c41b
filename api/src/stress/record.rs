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
    /// What could be looked at.
    pub(crate) seen: Seen,
    /// What has the same steps come again, but for the seed and the mix: options, and what was plugged.
    pub(crate) with: String,
    pub(crate) steps: Vec<StepDone>,
    pub(crate) changes: Vec<ChangeDone>,
    /// Operations of the API that this run began.
    pub(crate) operations: u64,
    /// Those of them for which there was nothing to change.
    pub(crate) idle: u64,
    /// Answers of the API that were a no: `409 paused`.
    pub(crate) answers: BTreeMap<String, u64>,
    /// What the guest's kernel complained of.
    pub(crate) warnings: Vec<String>,
    /// What else it complained of, and how often: what was to be passed over.
    pub(crate) tolerated: BTreeMap<String, u64>,
    pub(crate) contradiction: Option<Finding>,
    /// Where the VM did not answer any more, or was gone.
    pub(crate) lost: Option<Finding>,
}

/// What could be looked at beside the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The guest answers.
    pub(crate) guest: bool,
    /// Its kernel's messages may be read.
    pub(crate) log: bool,
    /// The threads of the VM's process may be seen.
    pub(crate) host: bool,
}

impl Record {
    /// Of a run that begins now.
    pub(crate) fn begin(seed: u64, mix: String, max: u32, with: String, seen: Seen) -> Self {
        Self {
            seed,
            mix,
            started_at: SystemTime::now(),
            elapsed: Duration::ZERO,
            max,
            seen,
            with,
            steps: Vec::new(),
            changes: Vec::new(),
            operations: 0,
            idle: 0,
            answers: BTreeMap::new(),
            warnings: Vec::new(),
            tolerated: BTreeMap::new(),
            contradiction: None,
            lost: None,
        }
    }

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
    /// Its timeline; none where nothing was changed, or a later change has taken its place.
    pub(crate) took: Option<Took>,
}

/// How long a change took.
#[derive(Clone, Debug)]
pub(crate) struct Took {
    pub(crate) total: Duration,
    /// Its phases, in order.
    pub(crate) phases: Box<[(Phase, Duration)]>,
}

/// The name of a phase.
pub(crate) type Phase = Cow<'static, str>;

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

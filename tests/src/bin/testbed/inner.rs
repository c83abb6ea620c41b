//! Runs a subcommand where there is a KVM for it: here, or again inside L1.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use hotvisor_tests::artifacts::{Artifacts, Image};
use hotvisor_tests::host::Requirement;
use hotvisor_tests::nested::{Bed, Clock, Input, Job, Outcome};

use crate::progress::Step;

/// Longest time for a subcommand in L1.
const DEADLINE: Duration = Duration::from_secs(3600);

/// Whether the work is to be done in this process.
pub(crate) fn is_here(artifacts: &Artifacts) -> bool {
    Job::is_running() || Requirement::LongMode.met_here(&artifacts.hotvisor())
}

/// A job that runs this program with these arguments.
pub(crate) fn this_program(args: impl IntoIterator<Item = String>) -> Result<Job> {
    let mut job = Job::new("/init", args)?;
    job.env.push(Artifacts::variable());
    if !std::io::stdout().is_terminal() {
        // In L1 every program writes to a terminal, so it has to be told what is at the other end.
        job.env.push(("TERM".to_owned(), "dumb".to_owned()));
    }
    Ok(job)
}

/// What L1 needs for a job.
pub(crate) struct Need<'a> {
    pub(crate) artifacts: &'a Artifacts,
    pub(crate) images: &'a [Image],
    /// Files beside the artifacts, each with its place in L1.
    pub(crate) files: Vec<(PathBuf, String)>,
    pub(crate) clock: Clock,
    /// Whether no other bed may run beside it.
    pub(crate) alone: bool,
    pub(crate) input: Input,
}

/// Boots L1, runs a job there, and shows its output.
pub(crate) fn run(job: Job, need: Need<'_>) -> Result<Outcome> {
    run_within(DEADLINE, job, need)
}

/// As [`run`], with another deadline.
pub(crate) fn run_within(deadline: Duration, job: Job, need: Need<'_>) -> Result<Outcome> {
    let mut boot = Some(Step::begin("booting an emulated machine"));
    run_for(deadline, job, need, &mut |bytes| {
        boot = None;
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    })
}

/// As [`run_within`], for somebody else who gets the output.
pub(crate) fn run_for(
    deadline: Duration,
    job: Job,
    need: Need<'_>,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<Outcome> {
    let mut files = need.artifacts.for_l1(need.images)?;
    files.extend(need.files);
    let bed = Bed {
        files,
        clock: need.clock,
        alone: need.alone,
        input: need.input,
        deadline,
        ..Bed::new(job)
    };
    bed.run(sink)
}

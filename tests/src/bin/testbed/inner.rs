//! Runs a subcommand where there is a KVM for it: here, or again inside L1.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use hotvisor_tests::artifacts::{Artifacts, Image};
use hotvisor_tests::host::Requirement;
use hotvisor_tests::nested::{self, Bed, Clock, Input, Job};

use crate::progress::Step;

/// Longest time for a subcommand in L1.
const DEADLINE: Duration = Duration::from_secs(2 * 3600);

/// Whether the work is to be done in this process.
pub(crate) fn is_here(artifacts: &Artifacts) -> bool {
    Job::is_running() || Requirement::LongMode.met_here(&artifacts.hotvisor())
}

/// Boots L1 with these kernels and files, and runs this program there with the same arguments.
pub(crate) fn again_in_l1(
    artifacts: &Artifacts,
    images: &[Image],
    more: Vec<(PathBuf, String)>,
    clock: Clock,
) -> Result<ExitCode> {
    let mut job = Job::new("/init", std::env::args().skip(1))?;
    job.env.push(Artifacts::variable());
    if !std::io::stdout().is_terminal() {
        // In L1 every program writes to a terminal, so it has to be told what is at the other end.
        job.env.push(("TERM".to_owned(), "dumb".to_owned()));
    }
    run(job, artifacts, images, more, clock, Input::Nothing)
}

/// Boots L1 with these kernels and files, and runs a job there.
pub(crate) fn run(
    job: Job,
    artifacts: &Artifacts,
    images: &[Image],
    more: Vec<(PathBuf, String)>,
    clock: Clock,
    input: Input,
) -> Result<ExitCode> {
    let mut files = artifacts.for_l1(images);
    files.extend(more);
    let bed = Bed {
        files,
        clock,
        input,
        deadline: DEADLINE,
        ..Bed::new(job)
    };
    let mut boot = Some(Step::begin("booting an emulated machine"));
    let outcome = bed.run(&mut |bytes| {
        boot = None;
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    })?;
    Ok(nested::exit_code(outcome.status))
}

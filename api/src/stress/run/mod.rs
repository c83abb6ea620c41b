//! A run: step by step, each followed by a look at all that can be seen. It ends with the first contradiction.

mod account;
mod act;
mod evidence;
mod look;
mod open;

pub(crate) use open::Options;

use super::check::events::Stream;
use super::check::host::Host;
use super::guest::Guest;
use super::model::Model;
use super::plan::{Plan, Step};
use super::record::{Record, StepDone};
use crate::client::{Client, Failure};
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// What the VM and the guest have to come to agree, after all has ended: a CPU has started before the guest's kernel has
/// entered it everywhere.
const SOON: Duration = Duration::from_secs(20);
/// What an operation may take beyond its own time, on a host with much else to do.
const SLACK: Duration = Duration::from_secs(15);
/// For how long a guest may think about a question.
const GUEST: Duration = Duration::from_secs(60);
/// For how long a guest may boot.
const BOOT: Duration = Duration::from_secs(180);
/// For how long things are put back after Ctrl-C.
const BACK: Duration = Duration::from_secs(60);

/// How a run came to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// As it was to.
    Over,
    /// Something is not as it must be; the record says what.
    Contradiction,
    /// Ctrl-C.
    Interrupted,
    /// The VM is no longer there, or does not answer; and what was being done.
    Lost(Failure, String),
}

/// Why a step does not come to its end.
#[derive(Debug)]
enum Stop {
    Contradiction(Vec<String>),
    Lost(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Lost(failure)
    }
}

impl Stop {
    fn because(what: impl Into<String>) -> Self {
        Self::Contradiction(vec![what.into()])
    }
}

/// A run under way.
pub(crate) struct Run {
    options: Options,
    /// For questions, and the first of those that ask for changes.
    client: Client,
    /// The others.
    more: Vec<Client>,
    stream: Stream,
    guest: Guest,
    /// None where its threads may not be seen.
    host: Option<Host>,
    model: Model,
    plan: Option<Plan>,
    record: Record,
    started: Instant,
    /// What was there at the beginning.
    first: BTreeSet<u32>,
    /// Operations that had ended by the metrics when the stream began.
    before: u64,
    paused: bool,
    refusing: bool,
    /// No other run has it.
    key: u64,
}

impl Run {
    /// Does it; `show` is called after each step.
    pub(crate) async fn run(mut self, mut show: impl FnMut(&Record)) -> (Record, End) {
        let mut interrupted = signal(SignalKind::interrupt()).ok();
        let mut plan = self.plan.take().into_iter().flatten();
        self.started = Instant::now();
        let end = loop {
            if self.is_over() {
                break End::Over;
            }
            let Some(step) = plan.next() else {
                break End::Over;
            };
            let at = self.started.elapsed();
            let mut stopping = false;
            let done = self.attend(&step, &mut interrupted, &mut stopping).await;
            self.record.elapsed = self.started.elapsed();
            match done {
                // Not waited for to its end.
                None => break End::Interrupted,
                Some(Ok(())) => {}
                Some(Err(Stop::Lost(failure))) => break End::Lost(failure, step.to_string()),
                Some(Err(Stop::Contradiction(what))) => {
                    let found = self.evidence(&step, what).await;
                    self.record.contradiction = Some(found);
                    break End::Contradiction;
                }
            }
            self.record.steps.push(StepDone {
                kind: step.kind,
                took: self.record.elapsed.saturating_sub(at),
            });
            show(&self.record);
            if stopping {
                break End::Interrupted;
            }
        };
        let end = self.put_back(end).await;
        (self.record, end)
    }

    fn is_over(&self) -> bool {
        let steps = self.record.steps.len() as u64;
        let enough = self.options.cycles.is_some_and(|cycles| steps >= cycles);
        let late = self
            .options
            .duration
            .is_some_and(|time| self.started.elapsed() >= time);
        enough || late
    }

    /// Does a step to its end, also where Ctrl-C comes meanwhile; none after a second one.
    async fn attend(
        &mut self,
        step: &Step,
        interrupted: &mut Option<Signal>,
        stopping: &mut bool,
    ) -> Option<Result<(), Stop>> {
        let arrival = async |interrupted: &mut Option<Signal>| match interrupted {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        };
        let mut doing = pin!(self.step(step));
        loop {
            tokio::select! {
                done = &mut doing => return Some(done),
                _ = arrival(interrupted) => {
                    if std::mem::replace(stopping, true) {
                        return None;
                    }
                    crate::cli::say(&"Ctrl-C: it ends after this step; again, and it does not wait for that");
                }
            }
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), Stop> {
        let (begun, with) = self.act(step).await?;
        self.look(begun, with).await
    }

    /// Leaves the machine as it was found: running, and at an orderly end with the vCPUs that it had.
    async fn put_back(&mut self, end: End) -> End {
        let orderly = matches!(end, End::Over | End::Interrupted);
        if matches!(end, End::Lost(..)) {
            return end;
        }
        if self.paused {
            // Where the VM does not answer, there is nothing left to do.
            let _ = self.client.order("/api/v1/vm.resume").await;
        }
        if self.refusing {
            let _ = self.guest.set_profile(true, GUEST).await;
        }
        if !orderly {
            return end;
        }
        match timeout(BACK, self.restore()).await {
            Ok(Ok(())) => end,
            Ok(Err(Stop::Lost(failure))) => End::Lost(failure, "put the vCPUs back".to_owned()),
            Ok(Err(Stop::Contradiction(what))) => {
                crate::cli::say(&format_args!(
                    "the vCPUs were not put back: {}",
                    what.join("; ")
                ));
                end
            }
            Err(_) => {
                crate::cli::say(&"the vCPUs were not put back in time");
                end
            }
        }
    }
}

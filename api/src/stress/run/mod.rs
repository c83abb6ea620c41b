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
use super::record::{Finding, Record, StepDone};
use crate::client::{Client, Failure};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the VM and the guest have to come to agree, after all has ended: a CPU has started before the guest's kernel has
/// entered it everywhere.
const SOON: Duration = Duration::from_secs(20);
/// What an operation may take beyond its own time, on a host with much else to do.
const SLACK: Duration = Duration::from_secs(15);
/// For how long a guest may think about a question.
const GUEST: Duration = Duration::from_secs(60);
/// Status of an answer that comes at the end of the VM: 503 Service Unavailable.
const GONE: u16 = 503;
/// For how long a guest may boot.
const BOOT: Duration = Duration::from_secs(180);

/// How a run came to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// As it was to.
    Over,
    /// Something is not as it must be; the record says what.
    Contradiction,
    /// Ctrl-C.
    Interrupted,
    /// The VM is no longer there, or does not answer; the record says what was being done.
    Lost(Failure),
}

/// Why a step does not come to its end.
#[derive(Debug)]
enum Stop {
    Contradiction(Vec<String>),
    Lost(Failure),
}

impl From<Failure> for Stop {
    /// Nothing is asked that could be answered with a no but by a mistake, or at the VM's end.
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::Said(said) if said.problem.status != GONE => Self::because(format!(
                "the API's answer is {}: {failure}",
                said.problem.status
            )),
            _ => Self::Lost(failure),
        }
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
    /// The vCPU that the guest was told to take offline by itself, and has yet to bring back.
    offline: Option<u32>,
    /// No other run has it.
    key: u64,
}

/// Who asks a run to end, from outside.
struct Interrupts(Vec<Signal>);

impl Interrupts {
    fn listen() -> Self {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
        Self(
            kinds
                .into_iter()
                .filter_map(|kind| signal(kind).ok())
                .collect(),
        )
    }

    async fn arrival(&mut self) {
        poll_fn(|context| {
            let come = |signal: &mut Signal| signal.poll_recv(context).is_ready();
            match self.0.iter_mut().any(come) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

impl Run {
    /// Does it; `show` is called after each step.
    pub(crate) async fn run(mut self, mut show: impl FnMut(&Record)) -> (Record, End) {
        let mut interrupts = Interrupts::listen();
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
            let done = self.attend(&step, &mut interrupts, &mut stopping).await;
            self.record.elapsed = self.started.elapsed();
            match done {
                // Not waited for to its end.
                None => break End::Interrupted,
                Some(Ok(())) => {}
                Some(Err(stop)) => {
                    let asked = step.to_string();
                    break self
                        .stopped(step.number, asked, stop, &mut interrupts)
                        .await;
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
        let end = self.put_back(end, &mut interrupts).await;
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
        interrupts: &mut Interrupts,
        stopping: &mut bool,
    ) -> Option<Result<(), Stop>> {
        let say = self.options.say;
        let mut doing = pin!(self.step(step));
        loop {
            tokio::select! {
                done = &mut doing => return Some(done),
                () = interrupts.arrival() => {
                    if std::mem::replace(stopping, true) {
                        return None;
                    }
                    say(&"Ctrl-C: it ends after this step; again, and it does not wait for that");
                }
            }
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), Stop> {
        let (begun, with) = self.act(step).await?;
        self.look(begun, with).await
    }

    /// A step did not come to its end: all that there is to see is put down. Ctrl-C is heard meanwhile.
    async fn stopped(
        &mut self,
        number: u64,
        asked: String,
        stop: Stop,
        interrupts: &mut Interrupts,
    ) -> End {
        let (what, lost) = match stop {
            Stop::Contradiction(what) => (what, None),
            Stop::Lost(failure) => (vec![failure.to_string()], Some(failure)),
        };
        let mut found = Finding::new(number, asked, what);
        {
            let looking = pin!(self.evidence(&mut found));
            tokio::select! {
                () = looking => {}
                () = interrupts.arrival() => {}
            }
        }
        match lost {
            None => {
                self.record.contradiction = Some(found);
                End::Contradiction
            }
            Some(failure) => {
                self.record.lost = Some(found);
                End::Lost(failure)
            }
        }
    }

    /// Leaves the machine as it was found: running, and at an orderly end with the vCPUs that it had. That is the last
    /// step, and looked at as the others.
    async fn put_back(&mut self, end: End, interrupts: &mut Interrupts) -> End {
        let say = self.options.say;
        let number = self.record.steps.len() as u64 + 1;
        let undone = {
            let undoing = pin!(self.undo());
            tokio::select! {
                () = undoing => true,
                () = interrupts.arrival() => false,
            }
        };
        if !undone || !matches!(end, End::Over | End::Interrupted) {
            return end;
        }
        let restored = {
            let restoring = pin!(async {
                let restored = self.restore().await?;
                self.guest.tidy_up().await?;
                Ok(restored)
            });
            tokio::select! {
                restored = restoring => Some(restored),
                () = interrupts.arrival() => None,
            }
        };
        match restored {
            Some(Ok(None)) => end,
            Some(Ok(Some(why))) => {
                say(&format_args!("the vCPUs were not put back: {why}"));
                end
            }
            Some(Err(stop)) => {
                let asked = "put the vCPUs back".to_owned();
                self.stopped(number, asked, stop, interrupts).await
            }
            None => {
                say(&"the vCPUs were not put back");
                End::Interrupted
            }
        }
    }

    /// What a step that was broken off has left behind. Where the VM or the guest does not answer, there is nothing left
    /// to do.
    async fn undo(&mut self) {
        if self.paused {
            let _ = self.client.order("/api/v1/vm.resume").await;
        }
        if self.refusing {
            let _ = self.guest.set_profile(true, GUEST).await;
        }
        if let Some(vcpu) = self.offline {
            let _ = self.guest.set_online(vcpu, true, GUEST).await;
        }
    }
}

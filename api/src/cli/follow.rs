//! Waits for operations, shows how they get on, and says what became of them.

use super::connection::{Exit, print, print_bytes};
use super::event::Event;
use super::progress::{Mode, Progress};
use super::{say, sentence};
use crate::client::{Client, Events, Failure};
use crate::wire::operations::{Operation, Operations, Part};
use crate::wire::vcpus::{Target, Timeline, VcpuDetail};
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Where the operations are.
pub(super) const OPERATIONS: &str = "/api/v1/operations";
/// How long one request waits for an operation's end; then it asks again.
const WAIT: Duration = Duration::from_secs(600);
/// How long events may lag behind the end that they tell.
const LAG: Duration = Duration::from_secs(1);
/// How often a line that shows passing time is drawn.
const TICK: Duration = Duration::from_millis(100);

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Sentences, and progress in between.
    People,
    /// One operation in JSON.
    One,
    /// A list of operations in JSON.
    List,
}

impl Form {
    pub(super) fn is_json(self) -> bool {
        self != Self::People
    }

    /// The stream of events, if it is of any use.
    pub(super) async fn events(self, client: &Client) -> Result<Option<Events>, Failure> {
        match self {
            Self::People => client.events(None).await.map(Some),
            Self::One | Self::List => Ok(None),
        }
    }

    fn mode(self) -> Mode {
        match self {
            Self::People => Mode::suitable(),
            Self::One | Self::List => Mode::Hidden,
        }
    }

    /// Prints operations as a program wants them.
    pub(super) fn print(self, operations: Vec<Operation>) {
        let json = match (self, operations.first()) {
            (Self::One, Some(first)) => serde_json::to_vec(first),
            _ => serde_json::to_vec(&Operations { operations }),
        };
        // Fails only for what no JSON can say, which none of our types is.
        print_bytes(&[json.unwrap_or_default(), b"\n".to_vec()].concat());
    }
}

/// Waits for the end of `operations`. They are as they were when they began, and come back as they ended, or as
/// they are after Ctrl-C. `events` are those since before they began.
pub(super) async fn follow(
    client: &mut Client,
    mut events: Option<Events>,
    operations: &[Operation],
    form: Form,
) -> Result<Vec<Operation>, Failure> {
    let mut progress = Progress::new(form.mode(), operations);
    let ids: Vec<u64> = operations.iter().map(|operation| operation.id).collect();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupted = signal(SignalKind::interrupt()).ok();
    let ended = {
        let mut ends = pin!(ends(client, &ids));
        loop {
            tokio::select! {
                ended = &mut ends => break Some(ended?),
                event = next(&mut events), if events.is_some() => match event {
                    Some(event) => progress.take(&event),
                    None => events = None,
                },
                _ = ticks.tick(), if progress.moves() => progress.tick(),
                Some(()) = arrival(&mut interrupted) => break None,
            }
        }
    };
    let Some(ended) = ended else {
        progress.abandon();
        return now(client, &ids).await;
    };
    let rest = async {
        while !progress.is_over()
            && let Some(event) = next(&mut events).await
        {
            progress.take(&event);
        }
    };
    // Without them, the lines are a little behind; the sentences are not.
    let _ = timeout(LAG, rest).await;
    progress.end();
    Ok(ended)
}

/// The next event; none if there are no more, and then it ends at once.
async fn next(events: &mut Option<Events>) -> Option<Event> {
    match events {
        // What is wrong, the wait for the end will find out, too.
        Some(events) => events
            .next()
            .await
            .ok()
            .flatten()
            .map(|frame| Event::of(&frame)),
        None => None,
    }
}

/// The next of a signal; none where it cannot be waited for.
pub(super) async fn arrival(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}

/// The operations when all of them have ended.
async fn ends(client: &mut Client, ids: &[u64]) -> Result<Vec<Operation>, Failure> {
    let mut ended = Vec::new();
    for id in ids {
        let target = format!("{OPERATIONS}/{id}");
        loop {
            let operation: Operation = client.wait(&target, WAIT).await?.read()?;
            if operation.ended_at.is_some() {
                ended.push(operation);
                break;
            }
        }
    }
    Ok(ended)
}

/// The operations as they are.
async fn now(client: &mut Client, ids: &[u64]) -> Result<Vec<Operation>, Failure> {
    let mut all = Vec::new();
    for id in ids {
        all.push(client.get(&format!("{OPERATIONS}/{id}")).await?.read()?);
    }
    Ok(all)
}

/// Says what became of operations, good news on standard output and other news on standard error. `asked` is which
/// vCPU each was asked for.
pub(super) async fn report(
    client: &mut Client,
    operations: Vec<Operation>,
    asked: &[Option<(u32, Target)>],
    form: Form,
) -> Result<Exit, Failure> {
    let exits = operations
        .iter()
        .map(|operation| Exit::from(operation.state));
    let exit = exits.max().unwrap_or(Exit::Done);
    if form.is_json() {
        form.print(operations);
        return Ok(exit);
    }
    let asked = asked.iter().copied().chain(std::iter::repeat(None));
    for (operation, asked) in operations.iter().zip(asked) {
        if operation.vcpus.is_empty() {
            print(&format!("{}\n", sentence::unchanged(operation, asked)));
        }
        for part in &operation.vcpus {
            let Some(outcome) = &part.outcome else {
                continue;
            };
            let exit = Exit::from(outcome.code);
            let us = match exit {
                // That it is so is known; how long it took is an extra.
                Exit::Done => took(client, operation.id, part).await.unwrap_or(None),
                _ => None,
            };
            let said = sentence::part(part, outcome, us);
            match exit {
                Exit::Done => {
                    print(&format!("{said}\n"));
                }
                _ => say(&said),
            }
        }
        if operation.ended_at.is_none() {
            say(&sentence::goes_on(operation));
        }
    }
    Ok(exit)
}

/// How long this part of an operation took, if its vCPU still knows.
async fn took(client: &mut Client, operation: u64, part: &Part) -> Result<Option<u64>, Failure> {
    let target = format!("{}/{}", super::vcpus::VCPUS, part.id);
    let vcpu: VcpuDetail = client.get(&target).await?.read()?;
    let timeline = match part.to {
        Target::Online => vcpu.timeline.plug,
        Target::Offline => vcpu.timeline.unplug,
    };
    let same = |timeline: &Timeline| timeline.operation == operation;
    Ok(timeline.filter(same).map(|timeline| timeline.total_us))
}

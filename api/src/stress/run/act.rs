//! Does what a step says, until all that it asked for has ended.

use super::{BOOT, GUEST, Run, SLACK, Stop};
use crate::client::{Client, Failure};
use crate::stress::guest::{Did, GuestError};
use crate::stress::model::{Told, With};
use crate::stress::plan::{Ask, Doing, Step};
use crate::wire::operations::{Operation, State};
use crate::wire::problem::Reason;
use std::cell::Cell;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio::try_join;

/// How often something is asked for while a guest boots.
const STEADILY: Duration = Duration::from_millis(50);

/// For how long the VM is asked to wait for an operation before it is asked anew.
const LOOK: Duration = Duration::from_secs(60);
/// Statuses of answers that a request has while a machine starts: it is not running, or busy.
const TOO_EARLY: [&str; 2] = ["409", "503"];

/// An operation that was begun.
#[derive(Debug)]
pub(super) struct Begun {
    ask: Ask,
    accepted: Operation,
    cancelled: bool,
}

type Done<T> = Result<T, Stop>;

impl From<GuestError> for Stop {
    fn from(error: GuestError) -> Self {
        Self::because(error.to_string())
    }
}

/// The API's no, as it is counted.
fn answer(failure: &Failure) -> Option<String> {
    let Failure::Said(said) = failure else {
        return None;
    };
    let code = serde_json::to_value(said.problem.code).ok()?;
    Some(format!("{} {}", said.problem.status, code.as_str()?))
}

impl Run {
    /// Does it, and waits for all ends.
    pub(super) async fn act(&mut self, step: &Step) -> Done<(Vec<Told>, With)> {
        let mut with = With::default();
        let begun = match &step.doing {
            Doing::Ask(asks) => self.ask_all(asks).await?,
            Doing::Contradict(asks) => self.ask_at_once(asks).await?,
            Doing::Cancel(ask, after) => {
                let mut begun = self.ask(ask).await?;
                self.moment(&begun, *after).await?;
                begun.cancelled = self.cancel(begun.accepted.id).await?;
                vec![begun]
            }
            Doing::Pause(ask, after, more) => vec![self.pause(ask, *after, more).await?],
            Doing::Abandon(ask, after) => vec![self.abandon(ask, *after, step.number).await?],
            Doing::Half(ask) => {
                self.half(ask).await?;
                Vec::new()
            }
            Doing::Offline(vcpu, ask) => {
                with.busy = Some(*vcpu);
                return Ok((self.offline(*vcpu, ask).await?, with));
            }
            Doing::Refuse(ask) => {
                with.refusing = true;
                return Ok((self.refuse(ask).await?, with));
            }
            Doing::Eject(vcpu) => {
                with.ejected = self.eject(*vcpu).await?.then_some(*vcpu);
                Vec::new()
            }
            Doing::Reboot => {
                with.reboot = true;
                self.reboot().await?;
                self.guest.await_up(BOOT).await?;
                Vec::new()
            }
            Doing::Boot(asks) => {
                with.reboot = true;
                self.boot(asks).await?
            }
        };
        Ok((self.ends(begun).await?, with))
    }

    /// Has the machine start again. What the guest's kernel has complained of so far is lost with it, and so read before.
    async fn reboot(&mut self) -> Done<()> {
        if self.guest.answers() {
            self.guest.expect_complaints();
            self.guest.look().await?;
        }
        self.order("vm.reboot").await
    }

    /// What an operation is given, as the API reads it.
    fn time(&self) -> String {
        self.options.timeout.as_secs_f64().to_string()
    }

    /// Has the machine do something; a no is a contradiction, because it could.
    async fn order(&mut self, what: &str) -> Done<()> {
        match self.client.order(&format!("/api/v1/{what}")).await {
            Ok(_) => Ok(()),
            Err(e) => Err(self.no(what, e)),
        }
    }

    /// What a no means where there should be none.
    fn no(&mut self, asked: &str, failure: Failure) -> Stop {
        let Some(answer) = answer(&failure) else {
            return failure.into();
        };
        // The end of the VM is no answer to this.
        if answer.starts_with("503") {
            return failure.into();
        }
        let said = format!("`{asked}` was answered {answer}: {failure}");
        self.count(answer);
        Stop::because(said)
    }

    /// Puts a no of the API's down.
    fn count(&mut self, answer: String) {
        *self.record.answers.entry(answer).or_default() += 1;
    }

    fn begun(&mut self, ask: &Ask, accepted: Operation) -> Begun {
        self.record.operations += 1;
        Begun {
            ask: ask.clone(),
            accepted,
            cancelled: false,
        }
    }

    async fn ask(&mut self, ask: &Ask) -> Done<Begun> {
        let path = ask.path(&self.time());
        match self.client.put(&path, ask).await {
            Ok(answer) => {
                let accepted = answer.read()?;
                Ok(self.begun(ask, accepted))
            }
            Err(failure) => Err(self.no(&ask.to_string(), failure)),
        }
    }

    async fn ask_all(&mut self, asks: &[Ask]) -> Done<Vec<Begun>> {
        let mut all = Vec::new();
        for ask in asks {
            all.push(self.ask(ask).await?);
        }
        Ok(all)
    }

    /// On as many connections as there are, each of which asks for its share as fast as it is answered.
    async fn ask_at_once(&mut self, asks: &[Ask]) -> Done<Vec<Begun>> {
        let time = self.time();
        let mut clients = std::mem::take(&mut self.more);
        clients.push(self.client.another().await?);
        let lanes = clients.len();
        let mut tasks = JoinSet::new();
        for (lane, mut client) in clients.into_iter().enumerate() {
            let share: Vec<Ask> = asks.iter().skip(lane).step_by(lanes).cloned().collect();
            let time = time.clone();
            tasks.spawn(async move {
                let mut answers = Vec::new();
                for ask in share {
                    let answer = client.put(&ask.path(&time), &ask).await;
                    answers.push((ask, answer));
                }
                (client, answers)
            });
        }
        let mut all = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            let (client, answers) =
                joined.map_err(|e| Stop::because(format!("a task of the run's own: {e}")))?;
            if self.more.len() + 1 < lanes {
                self.more.push(client);
            }
            for (ask, answer) in answers {
                let accepted = match answer {
                    Ok(answer) => answer.read()?,
                    Err(failure) => return Err(self.no(&ask.to_string(), failure)),
                };
                all.push(self.begun(&ask, accepted));
            }
        }
        Ok(all)
    }

    /// So much later, or as soon as it has ended, by a client that waits and is gone then.
    async fn moment(&mut self, begun: &Begun, after: Duration) -> Done<()> {
        let mut other = self.client.another().await?;
        let path = format!("/api/v1/operations/{}", begun.accepted.id);
        match timeout(after, other.wait(&path, self.options.timeout)).await {
            Ok(Err(failure)) => Err(failure.into()),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// Whether it could be taken back.
    async fn cancel(&mut self, operation: u64) -> Done<bool> {
        let path = format!("/api/v1/operations/{operation}");
        match self.client.delete(&path).await {
            Ok(_) => Ok(true),
            Err(failure) => match answer(&failure) {
                Some(answer) if answer == "409 conflict" => {
                    self.count(answer);
                    Ok(false)
                }
                _ => Err(self.no(&format!("cancel {operation}"), failure)),
            },
        }
    }

    async fn pause(&mut self, ask: &Ask, after: Duration, more: &Ask) -> Done<Begun> {
        let begun = self.ask(ask).await?;
        self.moment(&begun, after).await?;
        // An answer may be lost on its way.
        self.paused = true;
        self.order("vm.pause").await?;
        let path = more.path(&self.time());
        let failure = match self.client.put(&path, more).await {
            Err(failure) => failure,
            Ok(answer) => {
                let operation: Operation = answer.read()?;
                let id = operation.id;
                return Err(Stop::because(format!(
                    "`{more}` became operation {id} while the machine was paused"
                )));
            }
        };
        match answer(&failure) {
            Some(answer) if answer == "409 paused" => {
                self.count(answer);
            }
            _ => return Err(self.no(&more.to_string(), failure)),
        }
        self.order("vm.resume").await?;
        self.paused = false;
        Ok(begun)
    }

    /// By a client that is gone, and then by another, with the same key: it must be one operation.
    async fn abandon(&mut self, ask: &Ask, after: Duration, step: u64) -> Done<Begun> {
        let path = ask.path(&self.time());
        let key = format!("stress-{:016x}-{step}", self.key);
        let mut other = self.client.another().await?;
        let waiting = format!("{path}&wait=60");
        // Its answer is of no interest, and mostly there is none.
        let _ = timeout(after, other.put_once(&waiting, ask, &key)).await;
        drop(other);
        match self.client.put_once(&path, ask, &key).await {
            Ok(answer) => {
                let accepted = answer.read()?;
                Ok(self.begun(ask, accepted))
            }
            Err(failure) => Err(self.no(&ask.to_string(), failure)),
        }
    }

    /// Nothing must come of half a request.
    async fn half(&mut self, ask: &Ask) -> Done<()> {
        let body = serde_json::to_vec(ask).unwrap_or_default();
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: hotvisor\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            ask.path(&self.time()),
            body.len()
        );
        let half = &body[..body.len() / 2];
        // Whoever does not take it has no more of it than half either.
        if let Ok(mut stream) = UnixStream::connect(self.client.path()).await {
            let _ = stream.write_all(&[head.as_bytes(), half].concat()).await;
        }
        Ok(())
    }

    async fn offline(&mut self, vcpu: u32, ask: &Ask) -> Done<Vec<Told>> {
        let path = ask.path(&self.time());
        self.offline = Some(vcpu);
        let (did, answer) = tokio::join!(
            self.guest.set_online(vcpu, false, GUEST),
            self.client.put(&path, ask)
        );
        let accepted = match answer {
            Ok(answer) => answer.read()?,
            Err(failure) => return Err(self.no(&ask.to_string(), failure)),
        };
        let begun = self.begun(ask, accepted);
        let told = self.ends(vec![begun]).await?;
        if did? != Did::NoCpu {
            // Where it is gone meanwhile, or online already, there is nothing to do, and the look at it shows the rest.
            self.guest.set_online(vcpu, true, GUEST).await?;
        }
        self.offline = None;
        Ok(told)
    }

    async fn refuse(&mut self, ask: &Ask) -> Done<Vec<Told>> {
        self.refusing = true;
        let did = self.guest.set_profile(false, GUEST).await?;
        if did != Did::It {
            return Err(Stop::because(format!(
                "the guest's ACPI profile stays on: {did:?}"
            )));
        }
        let begun = self.ask(ask).await?;
        let told = self.ends(vec![begun]).await?;
        let did = self.guest.set_profile(true, GUEST).await?;
        if did != Did::It {
            return Err(Stop::because(format!(
                "the guest's ACPI profile stays off: {did:?}"
            )));
        }
        self.refusing = false;
        Ok(told)
    }

    /// Whether the guest has ejected it.
    async fn eject(&mut self, vcpu: u32) -> Done<bool> {
        if self.guest.eject(vcpu, GUEST).await? != Did::It {
            return Ok(false);
        }
        // The guest has only begun; it may find that it cannot.
        let limit = self.options.timeout + SLACK;
        let until = Instant::now() + limit;
        while !self.stream.story().was_ejected(vcpu) {
            if !self.stream.next(until).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Asks for this and that until the guest is up again. That the machine is not as far yet, or has too much to do, is no
    /// contradiction.
    async fn boot(&mut self, asks: &[Ask]) -> Done<Vec<Begun>> {
        let time = self.time();
        self.reboot().await?;
        let mut all = Vec::new();
        let mut answers = Vec::new();
        let client: &mut Client = &mut self.client;
        let is_up = Cell::new(false);
        let up = async {
            self.guest.await_up(BOOT).await?;
            is_up.set(true);
            Ok::<_, Stop>(())
        };
        let steadily = async {
            let mut ticks = interval(STEADILY);
            // Not many at once after an answer that took long.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for ask in asks.iter().cycle() {
                ticks.tick().await;
                // Only here: who is asked has an answer that must be heard.
                if is_up.get() {
                    break;
                }
                match client.put(&ask.path(&time), ask).await {
                    Ok(answer) => all.push((ask.clone(), answer.read::<Operation>()?)),
                    Err(failure) => match answer(&failure) {
                        Some(answer) if TOO_EARLY.iter().any(|no| answer.starts_with(no)) => {
                            answers.push(answer);
                        }
                        _ => return Err(Stop::from(failure)),
                    },
                }
            }
            Ok(())
        };
        try_join!(up, steadily)?;
        for answer in answers {
            self.count(answer);
        }
        let mut begun = Vec::new();
        for (ask, accepted) in all {
            begun.push(self.begun(&ask, accepted));
        }
        Ok(begun)
    }

    /// All of them as they ended, within their time.
    async fn ends(&mut self, begun: Vec<Begun>) -> Done<Vec<Told>> {
        let limit = self.options.timeout + SLACK;
        let until = Instant::now() + limit;
        let mut told = Vec::new();
        for Begun {
            ask,
            accepted,
            cancelled,
        } in begun
        {
            let Some(ended) = self.end(accepted.id, until).await? else {
                return Err(Stop::because(format!(
                    "operation {} (`{ask}`) has not ended after {limit:?}, and its time was {:?}",
                    accepted.id, self.options.timeout
                )));
            };
            told.push(Told {
                ask,
                accepted,
                ended,
                cancelled,
            });
        }
        Ok(told)
    }

    /// An operation as it ended; none where it does not until then.
    async fn end(&mut self, id: u64, until: Instant) -> Done<Option<Operation>> {
        let path = format!("/api/v1/operations/{id}");
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.client.wait(&path, left.min(LOOK)).await {
                Ok(answer) => {
                    let operation: Operation = answer.read()?;
                    if operation.ended_at.is_some() {
                        return Ok(Some(operation));
                    }
                }
                // The VM keeps some hundred that have ended, and a boot has time for more. There was an event of it.
                Err(Failure::Said(said)) if said.problem.code == Reason::Unknown => {
                    self.stream.catch_up();
                    if let Some(operation) = self.stream.story().ended(id) {
                        return Ok(Some(operation));
                    }
                    self.stream.next(until).await?;
                }
                Err(failure) => return Err(failure.into()),
            }
            if Instant::now() + Duration::from_secs(1) >= until {
                return Ok(None);
            }
        }
    }

    /// Has what was there at the beginning be there again; says why it is not, where the guest may refuse.
    pub(super) async fn restore(&mut self) -> Done<Option<String>> {
        let begun = self.ask(&Ask::Set(self.first.clone())).await?;
        let told = self.ends(vec![begun]).await?;
        let mut why = told
            .iter()
            .filter(|told| told.ended.state != State::Succeeded)
            .flat_map(|told| told.ended.vcpus.iter())
            .filter_map(|part| {
                Some(format!(
                    "vCPU {}: {}",
                    part.id,
                    part.outcome.as_ref()?.detail
                ))
            });
        let why = why.next();
        self.guest.expect_complaints();
        self.look(told, With::default()).await?;
        Ok(why)
    }
}

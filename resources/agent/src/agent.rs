//! What the agent does about what it hears, and when. It does nothing with sockets: what it has to say it collects, and
//! `run` carries it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use hotvisor_protocol::{
    Answer, ApicId, Ask, Begin, Blockers, CpuNumber, End, FromGuest, FromHost, Hello, Kind, List,
    NotOnline, OLDEST_VERSION, Online, Phase, Pong, Problem, Restored, Text, VERSION, Welcome,
};

use crate::blockers;
use crate::cpus::{self, Names};
use crate::drain;
use crate::expedite::{Expedite, Holder};
use crate::guard;
use crate::mask::Mask;
use crate::online::{self, Brought, Retry};
use crate::operation::{self, Operation};
use crate::phases::{self, Tracer, What};
use crate::pressure::{self, Sampler};
use crate::root::Root;
use crate::state::Store;
use crate::trouble::{Result, Trouble};
use crate::uevent::{Happened, Uevent};

/// Most operations at a time; a host has one for each CPU at most, and rarely more than one.
const MOST_OPERATIONS: usize = 64;

/// The agent.
#[derive(Debug)]
pub struct Agent {
    root: Root,
    store: Store,
    names: Names,
    expedite: Expedite,
    tracer: Option<Tracer>,
    sampler: Sampler,
    welcome: Option<Welcome>,
    operations: BTreeMap<u64, Operation>,
    /// For which operation something was moved off a CPU, by Linux's number.
    drained_for: BTreeMap<u32, u64>,
    retries: BTreeMap<u32, Retry>,
    /// What the host was told last, and has not been told yet.
    told_online: Option<Mask>,
    by_agent: Vec<ApicId>,
    failed: Vec<NotOnline>,
    pressure_at: Option<u64>,
    said: Vec<FromGuest>,
}

impl Agent {
    /// Takes over from the agent before, whose changes it puts back, and brings up what was added meanwhile. Times are
    /// nanoseconds of `CLOCK_MONOTONIC`, here and below.
    ///
    /// # Errors
    /// Where another agent runs, or nothing can be written down.
    pub fn start(root: &Root, now_ns: u64) -> Result<Self> {
        let mut problem = None;
        let store = Store::take_over(root, |store| problem = guard::restore(store))?;
        let mut agent = Self {
            root: root.clone(),
            store,
            names: Names::default(),
            expedite: Expedite::default(),
            tracer: None,
            sampler: Sampler::default(),
            welcome: None,
            operations: BTreeMap::new(),
            drained_for: BTreeMap::new(),
            retries: BTreeMap::new(),
            told_online: None,
            by_agent: Vec::new(),
            failed: Vec::new(),
            pressure_at: None,
            said: Vec::new(),
        };
        problem
            .into_iter()
            .for_each(|problem| agent.complain(&problem));
        let before = agent.store.state.present;
        let new = online::at_start(root, before);
        agent.note_present();
        agent.bring_up(new.iter(), now_ns);
        Ok(agent)
    }

    /// What is to be said, in order. As long as the host has not answered hello, that is little.
    pub fn take_said(&mut self) -> Vec<FromGuest> {
        let mut said = std::mem::take(&mut self.said);
        if self.welcome.is_none() {
            let first = |message: &FromGuest| {
                matches!(
                    message,
                    FromGuest::Hello(_) | FromGuest::Pong(_) | FromGuest::Problem(_)
                )
            };
            said.retain(first);
        }
        said
    }

    /// The host can be heard: says hello.
    pub fn connected(&mut self) {
        self.said.clear();
        self.names.refresh(&self.root);
        let read = |path| self.root.read(path).unwrap_or_default();
        let features = operation::features(&self.root);
        let hello = Hello {
            version: VERSION,
            agent: Text::new(concat!("hotvisor-agent ", env!("CARGO_PKG_VERSION"))),
            kernel: Text::new(&read("proc/sys/kernel/osrelease")),
            features: List::new(features.into_iter().map(Text::from)),
            boot_id: Text::new(&read("proc/sys/kernel/random/boot_id")),
        };
        self.said.push(hello.into());
    }

    /// The host is not heard any more. Grace periods are as before at once; what was moved stays until the deadline of its operation,
    /// because that may go on.
    pub fn lost(&mut self) {
        self.welcome = None;
        self.pressure_at = None;
        self.told_online = None;
        let released = self.expedite.release_all(&mut self.store);
        self.check(released);
        self.said.clear();
    }

    /// The agent is to end: all that can be is put back.
    ///
    /// # Errors
    /// What could not be.
    pub fn end(mut self) -> Result<()> {
        let problem = guard::restore(&mut self.store);
        self.tracer = None;
        // Its guard finds nothing to do then.
        self.store.state.owner = None;
        self.store.save()?;
        problem.map_or(Ok(()), Err)
    }

    /// Takes a message of the host's. `false` where the two have no version in common, and there is nothing to talk about.
    #[must_use]
    pub fn host(&mut self, message: FromHost, now_ns: u64) -> bool {
        match message {
            FromHost::Welcome(welcome) => return self.welcomed(welcome, now_ns),
            FromHost::Ping(ping) => self.said.push(Pong { id: ping.id }.into()),
            // Nothing is agreed on yet.
            _ if self.welcome.is_none() => {}
            FromHost::Begin(begin) => self.begin(&begin, now_ns),
            FromHost::End(end) => self.finish(&end),
            FromHost::Ask(ask) => self.answer(&ask),
        }
        true
    }

    /// Puts back what was moved off a CPU that is online, unless it is about to go.
    fn put_back(&mut self, number: u32) {
        if self
            .operations
            .values()
            .any(|operation| operation.takes_away(number))
        {
            return;
        }
        let back = drain::restore(&mut self.store, number);
        let back = self.check(back).unwrap_or_default();
        if let Some(operation) = self.drained_for.remove(&number) {
            let drain::Back { restored, kept, .. } = back;
            self.said.push(
                Restored {
                    operation,
                    restored,
                    kept,
                }
                .into(),
            );
        }
        if back.failed > 0 {
            let tried = format!("putting back {} things on CPU {number}", back.failed);
            self.complain(&Trouble::new(
                tried,
                "the kernel refused",
                "see which tasks, interrupts and sets lack that CPU",
            ));
        }
    }

    /// Something has happened to a CPU.
    pub fn uevent(&mut self, event: Uevent, now_ns: u64) {
        match event.happened {
            Happened::Added => self.bring_up([event.cpu], now_ns),
            Happened::Online => {
                self.names.refresh(&self.root);
                self.put_back(event.cpu);
            }
            Happened::Offline => {}
            Happened::Removed => {
                self.retries.remove(&event.cpu);
            }
            Happened::Missed => {
                let before = self.store.state.present.unwrap_or_default();
                let new = cpus::set(&self.root, "present").minus(&before);
                self.bring_up(new.iter(), now_ns);
                let online = cpus::set(&self.root, "online");
                let back = self.store.state.ledger.cpus().and(&online);
                back.iter().for_each(|number| self.put_back(number));
            }
        }
        self.note_present();
        self.tell_online();
    }

    /// Writes down which CPUs there are, for an agent that is started after this one.
    fn note_present(&mut self) {
        let present = Some(cpus::set(&self.root, "present"));
        if self.store.state.present != present {
            self.store.state.present = present;
            let saved = self.store.save();
            self.check(saved);
        }
    }

    fn bring_up(&mut self, numbers: impl IntoIterator<Item = u32>, now_ns: u64) {
        let mut numbers = numbers.into_iter().peekable();
        if numbers.peek().is_none() {
            return;
        }
        if self
            .welcome
            .as_ref()
            .is_some_and(|welcome| welcome.expedite)
        {
            let held = self.expedite.hold(Holder::Online, &mut self.store);
            self.check(held);
        }
        for number in numbers {
            self.bring_one_up(number, now_ns);
        }
        let released = self.expedite.release(Holder::Online, &mut self.store);
        self.check(released);
        self.tell_online();
    }

    fn bring_one_up(&mut self, number: u32, now_ns: u64) {
        let brought = online::bring_up(&self.root, number);
        self.names.refresh(&self.root);
        let not_up = match brought {
            Ok(brought) => {
                self.retries.remove(&number);
                if brought == Brought::Up {
                    self.by_agent.extend(self.names.apic_id(number));
                }
                if brought != Brought::Gone {
                    self.put_back(number);
                }
                return;
            }
            Err(not_up) => not_up,
        };
        let retry = match self.retries.remove(&number) {
            Some(retry) => retry.next(now_ns),
            None => Some(Retry::first(now_ns)),
        };
        if let Some(retry) = retry.filter(|_| not_up.is_busy) {
            self.retries.insert(number, retry);
            return;
        }
        let cpu = self.names.apic_id(number);
        let text = Text::new(&not_up.error.to_string());
        eprintln!("hotvisor-agent: cpu{number} does not come up: {text}");
        if let Ok(number) = CpuNumber::try_from(number) {
            self.failed.push(NotOnline { number, cpu, text });
        }
    }

    /// Says which CPUs are online, if that or anything about it is new.
    fn tell_online(&mut self) {
        if self.welcome.is_none() {
            return;
        }
        let online = cpus::set(&self.root, "online");
        if self.told_online == Some(online) && self.by_agent.is_empty() && self.failed.is_empty() {
            return;
        }
        self.told_online = Some(online);
        let cpus = online
            .iter()
            .filter_map(|number| self.names.apic_id(number));
        let message = Online {
            cpus: List::new(cpus),
            by_agent: List::new(std::mem::take(&mut self.by_agent)),
            failed: List::new(std::mem::take(&mut self.failed)),
        };
        self.said.push(message.into());
    }

    /// What can be read when steps of hotplug were traced.
    #[must_use]
    pub fn trace(&self) -> Option<BorrowedFd<'_>> {
        self.tracer.as_ref().map(AsFd::as_fd)
    }

    /// Reads the steps that were traced.
    pub fn trace_ready(&mut self) {
        let Some(tracer) = &mut self.tracer else {
            return;
        };
        let steps = tracer.read();
        if steps.is_empty() || self.operations.is_empty() {
            return;
        }
        self.names.refresh(&self.root);
        for step in steps {
            let Some(cpu) = self.names.apic_id(step.cpu) else {
                continue;
            };
            let taken = self
                .operations
                .values()
                .any(|operation| operation.takes_away(step.cpu));
            let event = step.event(if taken { Kind::Unplug } else { Kind::Plug });
            let ret = match step.what {
                What::Exit { ret } => ret,
                What::Enter { .. } => 0,
            };
            let (event_ns, name) = (step.at_ns, Text::new(&step.name));
            self.said.push(
                Phase {
                    cpu,
                    event_ns,
                    step: step.step,
                    name,
                    event,
                    ret,
                }
                .into(),
            );
        }
    }

    /// When the agent has something to do next, if nothing happens before.
    #[must_use]
    pub fn wakes_at(&self) -> Option<u64> {
        let operations = self.operations.values().map(Operation::wakes_at);
        let retries = self.retries.values().map(|retry| retry.at_ns);
        operations.chain(retries).chain(self.pressure_at).min()
    }

    /// Does what its time has come for.
    pub fn tick(&mut self, now_ns: u64) {
        let over = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.deadline_ns <= now_ns);
        let over: Vec<u64> = over.map(|(id, _)| *id).collect();
        for operation in over {
            let tried = format!("operation {operation}");
            self.complain(&Trouble::new(
                tried,
                "its deadline is over",
                "say that it has ended",
            ));
            let outcome = hotvisor_protocol::Outcome::Undone;
            self.finish(&End { operation, outcome });
        }
        let mut operations = std::mem::take(&mut self.operations);
        for operation in operations.values_mut() {
            let said = operation.tick(&mut self.store, now_ns);
            let said = self.check(said).unwrap_or_default();
            self.said.extend(said);
        }
        self.operations = operations;
        let due = self
            .retries
            .iter()
            .filter(|(_, retry)| retry.at_ns <= now_ns);
        let due: Vec<u32> = due.map(|(number, _)| *number).collect();
        self.bring_up(due, now_ns);
        self.measure(now_ns);
    }

    fn measure(&mut self, now_ns: u64) {
        let Some(at) = self.pressure_at.filter(|at| *at <= now_ns) else {
            return;
        };
        let period = self
            .welcome
            .as_ref()
            .and_then(|welcome| pressure::period_ns(welcome.pressure_ms));
        // Measurements that were missed are not made up for.
        self.pressure_at = period.map(|period| at + period * (1 + (now_ns - at) / period));
        let message = self.sampler.sample(&self.root, &self.names);
        self.said.push(message.into());
    }

    fn check<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|trouble| self.complain(&trouble)).ok()
    }

    fn complain(&mut self, trouble: &Trouble) {
        eprintln!("hotvisor-agent: {trouble}");
        self.said.push(
            Problem {
                text: Text::new(&trouble.to_string()),
            }
            .into(),
        );
    }
}

mod host;
#[cfg(test)]
mod tests;

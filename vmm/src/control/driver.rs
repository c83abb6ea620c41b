//! The control thread's loop: events in, one transition at a time, actions out.

use super::console::{self, Console};
use super::hotplug::{Hotplug, Published};
use super::lifecycle::{self, Action, Phase, Policy, Release, Start};
use super::pause::Pauses;
use super::queue::{Event, Posted, Queue};
use super::signals::Signals;
use crate::boot::BootFiles;
use crate::config::VmConfig;
use crate::end::End;
use crate::error::{Error, Result};
use crate::hotplug::client::{Call, Client};
use crate::hotplug::machinery::Message;
use crate::hotplug::notifier::Notifier;
use crate::kvm::{self, probe};
use crate::machine::{Machine, Posts};
use crate::vcpu::{Exit, VcpuRef};
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use hotvisor_devices::power::PowerRequest;
use hotvisor_devices::serial::{Output, SerialSink};
use kvm_ioctls::Kvm;
use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, error, info, warn};

const TOKEN_QUEUE: u32 = 0;
const TOKEN_SIGNALS: u32 = 1;
/// How long a slow reader has for the end of the serial output.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The control thread to be, and a way to reach it.
pub struct Control {
    queue: Queue,
    published: Published,
    notifiers: Vec<Box<dyn Notifier>>,
}

impl Control {
    /// A control thread to be.
    ///
    /// # Errors
    /// [`Error::Host`] where the host has no descriptor for it.
    pub fn new() -> Result<Self> {
        Ok(Self {
            queue: Queue::new()?,
            published: Published::default(),
            notifiers: Vec::new(),
        })
    }

    /// Registers a part of this process that has to let go of a vCPU before it is taken away, behind those that
    /// are registered already. It is called on the control thread.
    pub fn register(&mut self, notifier: Box<dyn Notifier>) {
        self.notifiers.push(notifier);
    }

    /// A client; its calls are answered while the control thread runs.
    #[must_use]
    pub fn client(&self) -> Client {
        let Published { view, events } = &self.published;
        let calls = Arc::new(self.queue.post(0));
        Client::new(calls, view.subscribe(), events.events())
    }

    /// Runs a machine from its making to its end, on the calling thread.
    #[must_use]
    pub fn run(self, config: &VmConfig, signals: Signals) -> End {
        match Driver::new(config, signals, self) {
            Ok(driver) => driver.run_to_end(),
            Err(error) => End::Failed(error),
        }
    }
}

struct Driver<'a> {
    config: &'a VmConfig,
    kvm: Kvm,
    files: BootFiles,
    queue: Queue,
    signals: Signals,
    output: Arc<Output>,
    console: Console,
    machine: Option<Machine>,
    generation: u64,
    policy: Policy,
    phase: Phase,
    hotplug: Hotplug,
    pauses: Pauses,
    end: Option<End>,
}

impl<'a> Driver<'a> {
    /// Checks everything that can be checked, then makes what leaves traces.
    fn new(config: &'a VmConfig, signals: Signals, control: Control) -> Result<Self> {
        config.validate()?;
        let files = BootFiles::open(config)?;
        let kvm = kvm::open()?;
        if files.needs_long_mode() {
            probe::require_long_mode(&kvm)?;
        }
        let Control {
            queue,
            published,
            notifiers,
        } = control;
        let output = Arc::new(Output::new(Arc::new(queue.post(0))));
        let policy = Policy {
            vcpus: BTreeSet::new(),
            on_reset: config.on_reset,
            shutdown_timeout: config.shutdown_timeout,
        };
        let hotplug = Hotplug::new(config, notifiers, queue.post(0), published);
        let mut driver = Self {
            config,
            kvm,
            files,
            queue,
            signals,
            output,
            console: Console::nowhere(),
            machine: None,
            generation: 0,
            policy,
            phase: Phase::started(),
            hotplug,
            pauses: Pauses::default(),
            end: None,
        };
        driver.make_machine()?;
        driver.console = Console::open(&config.serial)?;
        Ok(driver)
    }

    fn make_machine(&mut self) -> Result<()> {
        // The old one first: its memory makes room for the new one's.
        self.machine = None;
        self.generation += 1;
        let posts = Posts {
            post: self.queue.post(self.generation),
            output: self.output.clone(),
        };
        let first = (self.generation, self.hotplug.wanted());
        let machine = Machine::new(&self.kvm, self.config, &self.files, first, posts)?;
        self.machine = Some(machine);
        self.hotplug.restarted(self.generation);
        Ok(())
    }

    fn run_machine(&mut self) -> Result<()> {
        let machine = self.machine.as_mut();
        machine.map_or(Ok(()), Machine::run)?;
        self.hotplug.take_waiting(self.machine.as_mut());
        Ok(())
    }

    fn run_to_end(self) -> End {
        let ended = EventManager::new()
            .map_err(|e| event_failed(&e))
            .and_then(|mut manager| {
                let id = manager.add_subscriber(self);
                loop {
                    let driver = manager.subscriber_mut(id).map_err(|e| event_failed(&e))?;
                    driver.hotplug.publish(driver.machine.as_mut());
                    driver.pauses.answer();
                    if let Some(end) = driver.end.take() {
                        driver.console.finish(&driver.output, LAST_WORDS);
                        return Ok(end);
                    }
                    let limit = driver.until_tick();
                    manager
                        .run_with_timeout(limit)
                        .map_err(|e| event_failed(&e))?;
                    let driver = manager.subscriber_mut(id).map_err(|e| event_failed(&e))?;
                    if driver
                        .phase
                        .deadline()
                        .is_some_and(|at| at <= Instant::now())
                    {
                        driver.step(lifecycle::Event::Tick);
                    }
                    if driver.phase.is_running() {
                        driver.hotplug.tick(driver.machine.as_mut());
                    }
                }
            });
        ended.unwrap_or_else(End::Failed)
    }

    /// Milliseconds until the next deadline, rounded up; -1 for none.
    fn until_tick(&self) -> i32 {
        let hotplug = self.hotplug.next_tick();
        let hotplug = hotplug.filter(|_| self.phase.is_running());
        let deadline = self.phase.deadline().into_iter().chain(hotplug).min();
        deadline.map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now());
            i32::try_from(left.as_millis()).map_or(i32::MAX, |ms| ms.saturating_add(1))
        })
    }

    /// One transition, and what it asks for.
    fn step(&mut self, event: lifecycle::Event) {
        if let Some(machine) = &self.machine {
            self.policy.vcpus = machine.with_threads().collect();
        }
        let phase = mem::replace(&mut self.phase, Phase::Ended);
        let (phase, action) = phase.next(event, Instant::now(), &self.policy);
        self.phase = phase;
        match action {
            Action::Nothing => {}
            Action::PressPowerButton => self.press_power_button(),
            Action::Hold => self.hold(),
            Action::HoldAgain(vcpus) => self.machine.iter().for_each(|m| m.kick(&vcpus)),
            Action::Paused => self.paused(),
            Action::Release(why) => self.release(&why),
            Action::Wait => self.pauses.wait(),
            Action::Refuse(no) => self.pauses.refuse(no),
            Action::StopVcpus => self.machine.iter().for_each(Machine::stop),
            Action::Restart(start) => self.restart(start),
            Action::Finish(end) => self.finish(end),
        }
    }

    fn restart(&mut self, start: Start) {
        info!("the guest starts again");
        let run = |driver: &mut Self| -> Result<()> {
            driver.make_machine()?;
            if start == Start::Held {
                // Before its threads are told to run: none of them ever enters the guest.
                driver.hold();
            }
            driver.run_machine()
        };
        match run(self) {
            Ok(()) => {
                match start {
                    Start::Held => self.paused(),
                    Start::Free => self.hotplug.machine_is("running"),
                }
                // What the guest before had not read is for this one.
                self.queue.post(self.generation).input_wanted();
            }
            // It was good when we started: this is not the user's mistake.
            Err(error) => self.finish(End::Failed(error.into_host())),
        }
    }

    /// Has the machine stand still, and the time of what is under way.
    fn hold(&mut self) {
        self.hotplug.pause();
        let pause = self.pauses.begin();
        self.machine.iter_mut().for_each(|m| m.hold(pause));
    }

    /// No vCPU thread is in the guest, and none enters it.
    fn paused(&mut self) {
        info!("the guest is paused");
        self.machine.iter_mut().for_each(Machine::stop_clock);
        self.hotplug.machine_is("paused");
        self.pauses.done();
    }

    /// Lets the machine go on.
    fn release(&mut self, why: &Release) {
        match why {
            Release::Late(left) => warn!(?left, "not paused: these vCPUs did not leave the guest"),
            Release::Asked | Release::PowerButton(_) => info!(?why, "the guest goes on"),
        }
        if let Release::PowerButton(_) = why {
            self.press_power_button();
        }
        self.machine.iter_mut().for_each(Machine::release);
        self.hotplug.resume();
        self.hotplug.machine_is("running");
        self.pauses.released(why);
    }

    fn press_power_button(&self) {
        info!("pressing the guest's power button");
        self.machine.iter().for_each(Machine::press_power_button);
    }

    fn finish(&mut self, end: End) {
        self.phase = Phase::Ended;
        self.hotplug.ended();
        self.pauses.ended();
        self.end = Some(end);
    }

    fn posted(&mut self, posted: Posted, ops: &mut EventOps) {
        let Posted { generation, event } = posted;
        match event {
            Event::OutputReady => self.console.pump_output(&self.output, ops),
            Event::Call(call) => self.called(call),
            // It carries what tells a stale one apart itself.
            Event::Coordinator(message) => self.hotplug_message(message),
            // Everything else is about one machine; of an earlier one it is stale.
            event if generation != self.generation => debug!(?event, generation, "stale event"),
            Event::InputWanted => {
                let port = self.machine.as_ref().and_then(Machine::serial);
                self.console.pump_input(port, ops);
            }
            Event::Power(PowerRequest::Off) => self.step(lifecycle::Event::Off),
            Event::Power(PowerRequest::Reset) => self.step(lifecycle::Event::Reset),
            Event::VcpuEnded(vcpu, exit) => self.vcpu_ended(vcpu, exit),
            Event::Held(vcpu, pause) if self.pauses.is_present(pause) => {
                self.step(lifecycle::Event::Holds(vcpu.id));
            }
            Event::Held(vcpu, pause) => debug!(%vcpu, pause, "stale"),
            Event::Hotplug(message) => self.hotplug_message(message),
        }
    }

    fn called(&mut self, call: Call) {
        match call {
            Call::Vcpus(call) => {
                let machine = self.machine.as_mut().filter(|_| self.phase.is_running());
                self.hotplug.call(call, machine);
            }
            Call::Pause(reply) => {
                self.pauses.ask("pause", reply);
                self.step(lifecycle::Event::Pause);
            }
            Call::Resume(reply) => {
                self.pauses.ask("resume", reply);
                self.step(lifecycle::Event::Resume);
            }
        }
    }

    fn hotplug_message(&mut self, message: Message) {
        // What becomes of a machine that is to end, its end says.
        if let (true, Some(machine)) = (self.phase.is_running(), &mut self.machine) {
            self.hotplug.message(message, machine);
        }
    }

    fn vcpu_ended(&mut self, vcpu: VcpuRef, exit: Exit) {
        let end = match exit {
            Exit::Ordered if self.phase.is_running() && self.thread_ended(vcpu.id) => {
                return self.step(lifecycle::Event::Holds(vcpu.id));
            }
            Exit::Ordered => None,
            Exit::Fault(fault) => Some(End::Fault(vcpu, fault)),
        };
        self.step(lifecycle::Event::VcpuEnded(vcpu.id, end));
    }
}

impl Driver<'_> {
    /// Whether a thread that has ended was told to, while the machine goes on.
    fn thread_ended(&mut self, id: u32) -> bool {
        self.machine
            .as_mut()
            .is_some_and(|machine| machine.thread_ended(id))
    }
}

fn event_failed(error: &event_manager::Error) -> Error {
    Error::bug("events", format!("{error:?}"))
}

impl MutEventSubscriber for Driver<'_> {
    fn init(&mut self, ops: &mut EventOps) {
        let queue = Events::with_data(self.queue.wake(), TOKEN_QUEUE, EventSet::IN);
        let signals = Events::with_data(self.signals.fd(), TOKEN_SIGNALS, EventSet::IN);
        for events in [queue, signals] {
            if let Err(error) = ops.add(events) {
                return self.finish(End::Failed(event_failed(&error)));
            }
        }
        let port = self.machine.as_ref().and_then(Machine::serial);
        self.console.start(port, ops);
        if let Err(error) = self.run_machine() {
            return self.finish(End::Failed(error));
        }
        self.hotplug.machine_is("running");
        let cpus = self.config.cpus;
        info!("the guest runs on {} of {} vCPUs", cpus.boot, cpus.max);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            TOKEN_QUEUE => {
                for posted in self.queue.take() {
                    self.posted(posted, ops);
                }
            }
            TOKEN_SIGNALS => {
                for signal in self.signals.read() {
                    self.step(lifecycle::Event::Terminate(signal));
                }
            }
            console::TOKEN_IN | console::TOKEN_OUT | console::TOKEN_LISTEN => {
                let port = self.machine.as_ref().and_then(Machine::serial);
                self.console.ready(events, port, &self.output, ops);
            }
            token => error!(token, "an event of nobody"),
        }
    }
}

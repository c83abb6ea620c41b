//! The control thread's loop: events in, one transition at a time, actions out.

mod events;

use super::Control;
use super::console::{self, Console};
use super::hotplug::{Hotplug, Place};
use super::lifecycle::{self, Action, Phase, Policy, Release, Rest, Start};
use super::prepared::Prepared;
use super::queue::{Event, Posted, Queue};
use super::signals::Signals;
use super::vm::Vm;
use super::wish::Wish;
use super::wishes::Wishes;
use crate::config::{Rules, VmConfig};
use crate::end::End;
use crate::error::{Error, Result};
use crate::heap;
use crate::hotplug::client::{Call, MachineCall, VcpuCall};
use crate::hotplug::coordinator::Limits;
use crate::hotplug::machinery::Message;
use crate::hotplug::view::VcpuRef;
use crate::machine::Machine;
use crate::vcpu::Exit;
use crate::vsock;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use hotvisor_devices::power::PowerRequest;
use hotvisor_devices::serial::{Output, Serial, SerialSink};
use std::collections::BTreeSet;
use std::mem;
use std::time::Instant;
use tracing::{debug, error, info, warn};

const TOKEN_QUEUE: u32 = 0;
const TOKEN_SIGNALS: u32 = 1;

/// See the module.
pub(super) struct Driver {
    rules: Rules,
    queue: Queue,
    signals: Signals,
    vm: Option<Vm>,
    /// Counts the machines.
    generation: u64,
    phase: Phase,
    hotplug: Hotplug,
    wishes: Wishes,
    /// What somebody asks to be created.
    wanted: Option<Box<VmConfig>>,
    /// By whom the guest's sockets are served.
    sockets: Option<vsock::Client>,
    end: Option<End>,
}

/// The machine, if there is one.
fn machine(vm: &mut Option<Vm>) -> Option<&mut Machine> {
    vm.as_mut().and_then(|vm| vm.machine.as_mut())
}

impl Driver {
    /// Makes the machine that is prepared, if one is wanted at once.
    pub(super) fn new(
        rules: Rules,
        prepared: Option<Prepared>,
        signals: Signals,
        control: Control,
    ) -> Result<Self> {
        let Control {
            queue,
            published,
            notifiers,
            sockets,
        } = control;
        let limits = Limits {
            operation: rules.operation_timeout,
            dormant: rules.dormant_timeout,
        };
        let hotplug = Hotplug::new(limits, notifiers, queue.post(0), published);
        let mut driver = Self {
            rules,
            queue,
            signals,
            vm: None,
            generation: 0,
            phase: Phase::Vacant,
            hotplug,
            wishes: Wishes::default(),
            wanted: None,
            sockets,
            end: None,
        };
        if let Some(prepared) = prepared {
            driver.create(prepared)?;
            driver.make(Vm::boot)?;
            driver.phase = Phase::started();
        }
        Ok(driver)
    }

    fn create(&mut self, prepared: Prepared) -> Result<()> {
        if let Some(limit) = &self.rules.memory_limit {
            limit.warn_if_less_than(prepared.config.memory);
        }
        let vm = Vm::describe(
            prepared,
            self.rules.guest_eject,
            &self.queue,
            self.sockets.clone(),
        )?;
        self.hotplug.describe(Some(vm.config().clone()));
        self.vm = Some(vm);
        Ok(())
    }

    /// Makes a machine, in this way.
    fn make(
        &mut self,
        way: impl FnOnce(&mut Vm, &Queue, u64, &mut Hotplug) -> Result<()>,
    ) -> Result<()> {
        self.generation += 1;
        let Some(vm) = &mut self.vm else {
            return Err(Error::bug("making the machine", "it is not described"));
        };
        way(vm, &self.queue, self.generation, &mut self.hotplug)
    }

    /// Lets the machine run, which is there, and begins what was wanted of its vCPUs meanwhile.
    fn run_machine(&mut self) -> Result<()> {
        machine(&mut self.vm).map_or(Ok(()), Machine::run)?;
        // Not before: nobody is to be inside of a machine that comes to nothing.
        self.hotplug.restarted(self.generation);
        self.take_waiting();
        Ok(())
    }

    fn take_waiting(&mut self) {
        for call in self.hotplug.waiting() {
            self.vcpu_call(call);
        }
    }

    pub(super) fn run_to_end(self) -> End {
        let ended = EventManager::new()
            .map_err(|e| event_failed(&e))
            .and_then(|mut manager| {
                let id = manager.add_subscriber(self);
                loop {
                    let driver = manager.subscriber_mut(id).map_err(|e| event_failed(&e))?;
                    driver.hotplug.set_state(driver.phase.state());
                    driver.hotplug.publish(machine(&mut driver.vm));
                    driver.wishes.answer();
                    if let Some(end) = driver.end.take() {
                        driver.leave();
                        return Ok(end);
                    }
                    let limit = driver.until_tick();
                    manager
                        .run_with_timeout(limit)
                        .map_err(|e| event_failed(&e))?;
                    let driver = manager.subscriber_mut(id).map_err(|e| event_failed(&e))?;
                    let overdue = driver.phase.deadline();
                    if overdue.is_some_and(|at| at <= Instant::now()) {
                        driver.queue.post(0).tick();
                    }
                    if driver.output_look().is_some_and(|at| at <= Instant::now()) {
                        driver.queue.post(0).output_ready();
                    }
                    if driver.phase.is_running() {
                        driver.hotplug.tick(machine(&mut driver.vm));
                    }
                }
            });
        ended.unwrap_or_else(End::Failed)
    }

    /// Milliseconds until the next deadline, rounded up; -1 for none.
    fn until_tick(&self) -> i32 {
        let hotplug = self.hotplug.next_tick();
        let hotplug = hotplug.filter(|_| self.phase.is_running());
        let ours = self.phase.deadline().into_iter().chain(self.output_look());
        let deadline = ours.chain(hotplug).min();
        deadline.map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now());
            i32::try_from(left.as_millis()).map_or(i32::MAX, |ms| ms.saturating_add(1))
        })
    }

    /// When to look whether the guest has sent more.
    fn output_look(&self) -> Option<Instant> {
        self.vm.as_ref().and_then(Vm::output_look)
    }

    /// One transition, and what it asks for.
    fn step(&mut self, event: lifecycle::Event, ops: &mut EventOps) {
        let policy = Policy {
            vcpus: machine(&mut self.vm).map_or_else(BTreeSet::new, |m| m.with_threads().collect()),
            // Nobody is named before the time is over, and every vCPU has a lock to look behind.
            inside: match (&self.phase, &event) {
                (Phase::Stopping { .. }, lifecycle::Event::Tick) => self.hotplug.inside(),
                _ => String::new(),
            },
            on_reset: self.rules.on_reset,
            shutdown_timeout: self.rules.shutdown_timeout,
        };
        let phase = mem::replace(&mut self.phase, Phase::Ended);
        let (phase, action) = phase.next(event, Instant::now(), &policy);
        self.phase = phase;
        match action {
            Action::Nothing => {}
            Action::PressPowerButton => self.press_power_button(),
            Action::Hold => self.hold(),
            Action::KickAgain(vcpus) => self.machine().iter().for_each(|m| m.kick(&vcpus)),
            Action::Paused => self.paused(),
            Action::Release(why) => self.release(&why),
            Action::Wait => self.wishes.wait(),
            Action::Agree => self.wishes.done(Ok(())),
            Action::Refuse(no) => self.wishes.refuse(no),
            Action::Create => {
                let wanted = self.wanted.take();
                let created = wanted.map_or(Ok(()), |config| {
                    self.create(Prepared::without_serial(*config)?)
                });
                self.done(created, ops);
            }
            Action::Boot => {
                let booted = self.boot(ops);
                self.done(booted, ops);
            }
            Action::StopVcpus => {
                self.wishes.wait();
                let inside = self.hotplug.retire();
                let threads: Vec<u32> = self
                    .machine()
                    .iter()
                    .flat_map(|m| m.with_threads())
                    .collect();
                self.machine().into_iter().for_each(|m| m.stop(&inside));
                for id in threads.into_iter().filter(|id| !inside.contains(id)) {
                    self.step(lifecycle::Event::Left(id), ops);
                }
            }
            Action::Restart(start) => self.restart(start),
            Action::Stopped(rest) => self.stopped(rest, ops),
            Action::Finish(end) => self.finish(end),
        }
    }

    /// What was asked for has been done, or there is no trace of it.
    fn done(&mut self, done: Result<()>, ops: &mut EventOps) {
        if done.is_err() {
            self.step(lifecycle::Event::NotDone, ops);
        }
        self.wishes.done(done);
    }

    fn machine(&mut self) -> Option<&mut Machine> {
        machine(&mut self.vm)
    }

    fn boot(&mut self, ops: &mut EventOps) -> Result<()> {
        let booted = self.make(Vm::boot).and_then(|()| {
            self.vm.iter_mut().for_each(|vm| vm.start_console(ops));
            self.run_machine()
        });
        match &booted {
            Ok(()) => self.say_running(),
            Err(error) => {
                debug!("not booted: {error}");
                self.vm.iter_mut().for_each(|vm| vm.stop(ops));
                self.hotplug.stopped();
            }
        }
        booted
    }

    fn say_running(&self) {
        if let Some(vm) = &self.vm {
            let boot = self.hotplug.wanted().len();
            info!("the guest runs on {boot} of {} vCPUs", vm.config().cpus.max);
        }
    }

    fn restart(&mut self, start: Start) {
        info!("the guest starts again");
        let run = |driver: &mut Self| -> Result<()> {
            // Of the machine before, if it was paused.
            driver.hotplug.resume();
            driver.make(Vm::make)?;
            if start == Start::Held {
                // Before its threads are told to run: none of them ever enters the guest.
                driver.hold();
            }
            driver.run_machine()
        };
        match run(self) {
            Ok(()) => {
                self.wishes.restarted(start);
                if start == Start::Held {
                    self.paused();
                }
                // What the guest before had not read is for this one.
                self.queue.post(self.generation).input_wanted();
            }
            // It was good when we started: this is not the user's mistake.
            Err(error) => self.finish(End::Failed(error.into_host())),
        }
    }

    /// The machine's threads have ended.
    fn stopped(&mut self, rest: Rest, ops: &mut EventOps) {
        self.vm.iter_mut().for_each(|vm| vm.stop(ops));
        self.hotplug.stopped();
        if rest == Rest::Vacant {
            self.vm = None;
            self.hotplug.describe(None);
        }
        info!(
            "the machine was {}",
            if rest == Rest::Vacant {
                "deleted"
            } else {
                "stopped"
            }
        );
        self.wishes.stopped(rest);
        self.take_waiting();
    }

    /// Has the machine stand still, and the time of what is under way.
    fn hold(&mut self) {
        self.hotplug.pause();
        let pause = self.wishes.begin_pause();
        self.machine().into_iter().for_each(|m| m.hold(pause));
    }

    /// No vCPU thread is in the guest, and none enters it.
    fn paused(&mut self) {
        info!("the guest is paused");
        self.machine().into_iter().for_each(Machine::stop_clock);
        self.wishes.paused();
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
        self.machine().into_iter().for_each(Machine::release);
        self.hotplug.resume();
        self.wishes.released(why);
    }

    fn press_power_button(&mut self) {
        info!("pressing the guest's power button");
        self.machine()
            .into_iter()
            .for_each(|m| m.press_power_button());
        self.wishes.done(Ok(()));
    }

    /// Has everything come to its end that does not go with the process by itself.
    fn leave(&mut self) {
        let inside = self.hotplug.inside();
        if !inside.is_empty() {
            warn!("its vCPUs stay until the process is gone, for who is inside: {inside}");
            self.vm.iter_mut().for_each(Vm::leave_machine);
        }
        self.vm.iter_mut().for_each(Vm::finish_console);
    }

    fn finish(&mut self, end: End) {
        self.phase = Phase::Ended;
        self.hotplug.ended();
        self.wishes.ended();
        self.end = Some(end);
    }

    fn posted(&mut self, posted: Posted, ops: &mut EventOps) {
        let Posted { generation, event } = posted;
        match event {
            Event::OutputReady => {
                self.console(|console, _, output| console.pump_output(output, ops))
            }
            Event::Call(call) => self.called(call, ops),
            Event::Tick => self.step(lifecycle::Event::Tick, ops),
            // It carries what tells a stale one apart itself.
            Event::Coordinator(message) => self.hotplug_message(message, ops),
            // Everything else is about one machine; of an earlier one it is stale.
            event if generation != self.generation => debug!(?event, generation, "stale event"),
            Event::InputWanted => self.console(|console, port, _| console.pump_input(port, ops)),
            Event::Power(PowerRequest::Off) => self.step(lifecycle::Event::Off, ops),
            Event::Power(PowerRequest::Reset) => self.step(lifecycle::Event::Reset, ops),
            Event::VcpuEnded(vcpu, exit) => self.vcpu_ended(vcpu, exit, ops),
            Event::Held(vcpu, pause) if self.wishes.is_present(pause) => {
                self.step(lifecycle::Event::Holds(vcpu.id), ops);
            }
            Event::Held(vcpu, pause) => debug!(%vcpu, pause, "stale"),
            Event::Hotplug(message) => self.hotplug_message(message, ops),
        }
    }

    /// Does something with the host's side of the serial port, if there is one.
    fn console(&mut self, act: impl FnOnce(&mut Console, Option<&Serial>, &Output)) {
        if let Some(vm) = &mut self.vm {
            let (console, port, output) = vm.serial();
            act(console, port, output);
        }
    }

    fn called(&mut self, call: Call, ops: &mut EventOps) {
        match call {
            Call::Vcpus(call) => self.vcpu_call(call),
            Call::Machine(call, reply) => {
                let wish = Wish::from(&call);
                if let MachineCall::Create(config) = call {
                    self.wanted = Some(config);
                }
                self.wishes.ask(wish, reply);
                self.step(lifecycle::Event::Asked(wish), ops);
                self.wanted = None;
            }
        }
    }

    fn vcpu_call(&mut self, call: VcpuCall) {
        let place = match (&self.phase, machine(&mut self.vm)) {
            (Phase::Running(_), Some(machine)) => Place::Runs(machine),
            (Phase::Created, _) => Place::Created,
            (Phase::Vacant, _) => Place::Vacant,
            (Phase::Running(_) | Phase::Stopping { .. } | Phase::Ended, _) => Place::Comes,
        };
        self.hotplug.call(call, place);
    }

    fn hotplug_message(&mut self, message: Message, ops: &mut EventOps) {
        if let (true, Some(machine)) = (self.phase.is_running(), machine(&mut self.vm)) {
            self.hotplug.message(message, machine);
        } else if let Some(id) = self.hotplug.is_left(&message) {
            // Else, what becomes of a machine that is to end, its end says.
            self.machine().into_iter().for_each(|m| m.stop_one(id));
            self.step(lifecycle::Event::Left(id), ops);
        }
    }

    fn vcpu_ended(&mut self, vcpu: VcpuRef, exit: Exit, ops: &mut EventOps) {
        let end = match exit {
            Exit::Ordered if self.phase.is_running() && self.thread_ended(vcpu.id) => {
                return self.step(lifecycle::Event::Holds(vcpu.id), ops);
            }
            Exit::Ordered => None,
            Exit::Fault(fault) => Some(End::Fault(vcpu, fault)),
        };
        self.step(lifecycle::Event::VcpuEnded(vcpu.id, end), ops);
    }

    /// Whether a thread that has ended was told to, while the machine goes on.
    fn thread_ended(&mut self, id: u32) -> bool {
        self.machine()
            .is_some_and(|machine| machine.thread_ended(id))
    }
}

fn event_failed(error: &event_manager::Error) -> Error {
    Error::bug("events", format!("{error:?}"))
}

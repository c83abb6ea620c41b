//! The control thread's side of hotplug: calls in, views and answers out.

use super::queue::Post;
use crate::config::VmConfig;
use crate::events;
use crate::hotplug::client::{Refused, VcpuCall};
use crate::hotplug::coordinator::{Coordinator, Limits};
use crate::hotplug::machinery::Message;
use crate::hotplug::notifier::Notifier;
use crate::hotplug::view::{OperationId, View};
use crate::machine::Machine;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{oneshot, watch};

/// An answer that is given once the view shows what it is about.
enum Answer {
    Changed(
        oneshot::Sender<Result<OperationId, Refused>>,
        Result<OperationId, Refused>,
    ),
    Cancelled(oneshot::Sender<Result<(), Refused>>, Result<(), Refused>),
}

/// What everybody may read.
#[derive(Default)]
pub(super) struct Published {
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) events: events::Writer,
}

/// The coordinator, and whom it answers.
pub(super) struct Hotplug {
    coordinator: Coordinator,
    published: Published,
    answers: Vec<Answer>,
    /// Calls that came while one machine was gone and the next one not there.
    waiting: Vec<VcpuCall>,
}

impl Hotplug {
    pub(super) fn new(
        config: &VmConfig,
        notifiers: Vec<Box<dyn Notifier>>,
        post: Post,
        published: Published,
    ) -> Self {
        let limits = Limits {
            operation: config.hotplug.operation_timeout,
            dormant: config.hotplug.dormant_timeout,
        };
        let cpus = config.cpus;
        let post = Arc::new(move |message| post.coordinator(message));
        let mut coordinator = Coordinator::new(cpus.boot, cpus.max, limits, post);
        for notifier in notifiers {
            coordinator.register(notifier);
        }
        Self {
            coordinator,
            published,
            answers: Vec::new(),
            waiting: Vec::new(),
        }
    }

    pub(super) fn wanted(&self) -> BTreeMap<u32, u64> {
        self.coordinator.wanted()
    }

    pub(super) fn restarted(&mut self, generation: u64) {
        self.coordinator.restarted(generation);
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.coordinator.next_tick()
    }

    /// Does what time asks for.
    pub(super) fn tick(&mut self, machine: Option<&mut Machine>) {
        if let Some(machine) = machine
            && self.next_tick().is_some_and(|at| at <= Instant::now())
        {
            self.coordinator.tick(machine);
        }
    }

    pub(super) fn message(&mut self, message: Message, machine: &mut Machine) {
        self.coordinator.message(message, machine);
    }

    /// The machine is in this state from now on, as who follows the events is to hear.
    pub(super) fn machine_is(&mut self, state: &'static str) {
        self.coordinator.machine_is(state);
    }

    /// The machine is to stand still.
    pub(super) fn pause(&mut self) {
        self.coordinator.pause(Instant::now());
    }

    /// The machine goes on.
    pub(super) fn resume(&mut self) {
        self.coordinator.resume(Instant::now());
    }

    /// Takes a call, or keeps it until there is a machine.
    pub(super) fn call(&mut self, call: VcpuCall, machine: Option<&mut Machine>) {
        let Some(machine) = machine else {
            return self.waiting.push(call);
        };
        self.answers.push(match call {
            VcpuCall::Change(request, reply) => {
                Answer::Changed(reply, self.coordinator.change(&request, machine))
            }
            VcpuCall::Cancel(operation, reply) => {
                Answer::Cancelled(reply, self.coordinator.cancel(operation, machine))
            }
        });
    }

    /// Takes the calls that waited for a machine.
    pub(super) fn take_waiting(&mut self, machine: Option<&mut Machine>) {
        if let Some(machine) = machine {
            for call in std::mem::take(&mut self.waiting) {
                self.call(call, Some(machine));
            }
        }
    }

    /// The machine has come to its end. Who waits is told by the end of the channel.
    pub(super) fn ended(&mut self) {
        self.coordinator.ended();
        self.waiting.clear();
    }

    /// Tells the guest and everybody else what has changed, once for a whole turn of the loop, and then gives
    /// the answers.
    pub(super) fn publish(&mut self, mut machine: Option<&mut Machine>) {
        if let Some(machine) = &mut machine {
            machine.ring();
        }
        if let Some(machine) = machine
            && let Some(view) = self.coordinator.take_view(machine)
        {
            self.published.view.send_if_modified(|published| {
                let awaited = view.is_awaited_after(published);
                *published = Arc::new(view);
                awaited
            });
        }
        // After the view, which shows what they are about.
        self.published.events.write(self.coordinator.take_news());
        for answer in self.answers.drain(..) {
            // Nobody may be there any more to hear it.
            match answer {
                Answer::Changed(reply, result) => drop(reply.send(result)),
                Answer::Cancelled(reply, result) => drop(reply.send(result)),
            }
        }
    }
}

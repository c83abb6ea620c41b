//! The control thread's side of hotplug: calls in, views and answers out.

use super::published::Published;
use super::queue::Post;
use crate::config::VmConfig;
use crate::error::Problem;
use crate::hotplug::client::{Refused, Request, VcpuCall, Want};
use crate::hotplug::coordinator::{Coordinator, Limits};
use crate::hotplug::machinery::{Machinery, Message};
use crate::hotplug::notifier::Notifier;
use crate::hotplug::view::{MachineState, OperationId};
use crate::machine::Machine;
use crate::tally::Tally;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// An answer that is given once the view shows what it is about.
enum Answer {
    Changed(
        oneshot::Sender<Result<OperationId, Refused>>,
        Result<OperationId, Refused>,
    ),
    Done(oneshot::Sender<Result<(), Refused>>, Result<(), Refused>),
}

fn no_change(found: &str, remedy: &str) -> Problem {
    Problem::new("a change of vCPUs", found, remedy)
}

fn stopped() -> Refused {
    Refused::Stopped(no_change("the machine does not run", "boot it first"))
}

fn absent() -> Refused {
    Refused::Absent(no_change("there is no machine", "create one and boot it"))
}

/// Where the machine is that a call is about.
pub(super) enum Place<'a> {
    /// It runs.
    Runs(&'a mut Machine),
    /// One has gone, and the next one is not there.
    Comes,
    /// It is described, and does not run.
    Created,
    /// There is none.
    Vacant,
}

/// The coordinator, and whom it answers.
pub(super) struct Hotplug {
    coordinator: Coordinator,
    state: MachineState,
    config: Option<Arc<VmConfig>>,
    published: Published,
    answers: Vec<Answer>,
    /// Calls that came while one machine was gone and the next one not there.
    waiting: Vec<VcpuCall>,
}

impl Hotplug {
    pub(super) fn new(
        limits: Limits,
        notifiers: Vec<Box<dyn Notifier>>,
        post: Post,
        published: Published,
    ) -> Self {
        let post = Arc::new(move |message| post.coordinator(message));
        let mut coordinator = Coordinator::new(limits, post, published.tally.clone());
        for notifier in notifiers {
            coordinator.register(notifier);
        }
        Self {
            coordinator,
            state: MachineState::Starting,
            config: None,
            published,
            answers: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// What the machine is to be that comes next; none where there is nothing to come.
    pub(super) fn describe(&mut self, config: Option<Arc<VmConfig>>) {
        let (boot, max) = config
            .as_ref()
            .map_or((0, 0), |config| (config.cpus.boot, config.cpus.max));
        self.coordinator.describe(boot, max);
        self.config = config;
    }

    /// The machine is at this from now on, as the view and whoever follows the events are to say.
    pub(super) fn set_state(&mut self, state: MachineState) {
        if self.state != state {
            self.state = state;
            self.coordinator.machine_is(state.name());
        }
    }

    /// The machine is about to go: keeps everybody out of its vCPUs, and returns those that somebody is inside of.
    pub(super) fn retire(&mut self) -> BTreeSet<u32> {
        self.coordinator.retire()
    }

    /// The vCPU that nobody is inside of any more, if the message says so.
    pub(super) fn is_left(&self, message: &Message) -> Option<u32> {
        self.coordinator.is_left(message)
    }

    /// Who is still inside of vCPUs that go, for people.
    pub(super) fn inside(&self) -> String {
        self.coordinator.inside()
    }

    /// The machine is gone; what it is to be is kept.
    pub(super) fn stopped(&mut self) {
        self.coordinator.stopped();
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

    /// Where things are counted.
    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.published.tally
    }

    /// Does what time asks for.
    pub(super) fn tick(&mut self, machine: Option<&mut Machine>) {
        let now = Instant::now();
        if let Some(machine) = machine
            && self.next_tick().is_some_and(|at| at <= now)
        {
            self.coordinator.tick(now, machine);
        }
    }

    pub(super) fn message(&mut self, message: Message, machine: &mut Machine) {
        self.coordinator.message(message, machine);
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
    pub(super) fn call(&mut self, call: VcpuCall, place: Place<'_>) {
        let coordinator = &mut self.coordinator;
        self.answers.push(match (call, place) {
            (call, Place::Comes) => return self.waiting.push(call),
            (VcpuCall::Change(request, reply), Place::Runs(machine)) => {
                Answer::Changed(reply, coordinator.change(&request, machine))
            }
            (VcpuCall::Change(_, reply), Place::Created) => Answer::Changed(reply, Err(stopped())),
            (VcpuCall::Change(_, reply), Place::Vacant) => Answer::Changed(reply, Err(absent())),
            (VcpuCall::Cancel(operation, reply), Place::Runs(machine)) => {
                Answer::Done(reply, coordinator.cancel(operation, machine))
            }
            // None runs any more.
            (VcpuCall::Cancel(operation, reply), Place::Created | Place::Vacant) => {
                Answer::Done(reply, coordinator.check_running(operation))
            }
            (VcpuCall::Preset(count, reply), Place::Runs(machine)) => {
                let request = Request {
                    want: Want::Count(count),
                    timeout: None,
                };
                Answer::Done(reply, coordinator.change(&request, machine).map(drop))
            }
            (VcpuCall::Preset(count, reply), Place::Created) => {
                Answer::Done(reply, coordinator.preset(count))
            }
            (VcpuCall::Preset(_, reply), Place::Vacant) => Answer::Done(reply, Err(absent())),
        });
    }

    /// Calls that waited for a machine, which is there now, or will not come.
    pub(super) fn waiting(&mut self) -> Vec<VcpuCall> {
        std::mem::take(&mut self.waiting)
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
        let machine = machine.map(|machine| &*machine as &dyn Machinery);
        let mut view = self.coordinator.take_view(machine);
        if let Some(view) = &mut view {
            view.state = self.state;
            view.config.clone_from(&self.config);
        }
        self.published.publish(view, self.coordinator.take_news());
        for answer in self.answers.drain(..) {
            // Nobody may be there any more to hear it.
            match answer {
                Answer::Changed(reply, result) => drop(reply.send(result)),
                Answer::Done(reply, result) => drop(reply.send(result)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::queue::Queue;
    use crate::hotplug::view::View;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Wake, Waker};
    use tokio::sync::watch;

    /// What the view shows at the moment at which a reader of the events is woken.
    struct Look {
        view: watch::Receiver<Arc<View>>,
        seen: Mutex<Vec<MachineState>>,
    }

    impl Wake for Look {
        fn wake(self: Arc<Self>) {
            self.seen.lock().unwrap().push(self.view.borrow().state);
        }
    }

    #[test]
    fn an_event_comes_when_the_view_shows_what_it_is_about() {
        let queue = Queue::new().unwrap();
        let published = <Published>::default();
        let look = Arc::new(Look {
            view: published.view.subscribe(),
            seen: Mutex::default(),
        });
        let waker = Waker::from(look.clone());
        let context = &mut Context::from_waker(&waker);
        let mut cursor = published.events.events().after(0);
        let limits = Limits {
            operation: std::time::Duration::from_secs(1),
            dormant: None,
        };
        let mut hotplug = Hotplug::new(limits, Vec::new(), queue.post(0), published);
        let states = [MachineState::None, MachineState::Created];
        for (n, state) in states.into_iter().enumerate() {
            {
                let mut next = pin!(cursor.next());
                assert!(next.as_mut().poll(context).is_pending());
                hotplug.set_state(state);
                // It is kept back until the view is out.
                assert!(next.as_mut().poll(context).is_pending());
                assert_eq!(look.seen.lock().unwrap()[..], states[..n]);
                hotplug.publish(None);
                assert!(matches!(next.poll(context), Poll::Ready(Some(_))));
            }
            assert_eq!(look.seen.lock().unwrap()[..], states[..=n]);
        }
    }
}

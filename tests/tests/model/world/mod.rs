//! Everybody together: the real coordinator, its real gates and the real controller, and around them a guest, users, a
//! notifier and clients that do, one at a time, whatever they may.

mod checks;
mod guest;
mod spoilt;
mod waiting;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotvisor_vmm::hotplug::client::{Request, Want};
use hotvisor_vmm::hotplug::coordinator::{Coordinator, Limits};
use hotvisor_vmm::hotplug::gate::{Entrance, Gate};
use hotvisor_vmm::hotplug::machinery::Message;
use hotvisor_vmm::hotplug::view::{Code, OperationId, Target, View};

use crate::machine::{Machine, Queue};
use crate::people::{Do, LOCK, Lock, User, WAITS, Waits};
use crate::shape::{ALWAYS, Act, Budget, Shape, Variant};
use crate::trace;
use checks::Before;
use guest::Guest;
pub(crate) use spoilt::Spoilt;

/// Longer than any model takes, all of its reminders included.
const FOREVER: Duration = Duration::from_secs(1 << 32);
/// How much time goes by until something is done again; more than the longest pause before that.
const AGAIN: Duration = Duration::from_secs(1000);
/// How long a dormant thread is kept.
const DORMANT: Duration = Duration::from_secs(100);

pub(crate) struct World {
    shape: Shape,
    coordinator: Coordinator,
    machine: Machine,
    queue: Queue,
    guest: Guest,
    users: Vec<User>,
    waits: Waits,
    lock: Option<Entrance>,
    budget: Budget,
    generation: u64,
    is_paused: bool,
    view: View,
    /// How often time has gone on.
    reminded: u32,
    /// What is asked for again if it is refused.
    insists: Option<(Want, OperationId)>,
    /// The operations of clients who wait for ever.
    patient: BTreeSet<OperationId>,
    /// What there was when the last request came, if nothing was under way then.
    before: Option<Before>,
    /// The guest has ejected something unasked, or said what is not so.
    has_ejected: bool,
    /// The machine is about to go, and users are inside these vCPUs.
    stopping: Option<BTreeSet<u32>>,
    /// A register write that has not returned, with the lock held that everything needs.
    held: Option<u32>,
    pub(crate) wrong: Option<String>,
}

/// All that what comes next depends on.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operations = self.view.operations.values().map(|operation| {
            let parts = operation.parts.iter();
            let parts =
                parts.map(|part| (part.vcpu, part.to, part.outcome.as_ref().map(|o| o.code)));
            (operation.id, parts.collect::<Vec<_>>())
        });
        let operations: Vec<_> = operations.collect();
        let gates: Vec<Entrance> = self.gates();
        write!(
            f,
            "{:?}\n{gates:?} {:?}\n{:?}\n{:?}\n{:?}\n{:?} {:?}\n{operations:?}\n{:?} {:?} {:?}",
            self.coordinator,
            self.lock,
            self.machine,
            self.queue,
            self.guest,
            self.users,
            self.waits,
            self.budget,
            (
                self.held,
                &self.stopping,
                self.is_paused,
                &self.insists,
                &self.patient,
                &self.before,
                self.has_ejected
            ),
            self.wrong
        )
    }
}

impl World {
    pub(crate) fn new(shape: Shape) -> Self {
        let queue = Queue::default();
        let sink = queue.clone();
        let limits = Limits {
            operation: FOREVER,
            dormant: (shape.budget.reminders > 0).then_some(DORMANT),
        };
        let post = Arc::new(move |message| sink.post(message));
        let mut coordinator = Coordinator::new(limits, post, Arc::default());
        let lock = (shape.variant == Variant::BlockFirst).then(|| {
            let gate = Arc::new(Gate::new(|_| {}));
            gate.open();
            coordinator.register(Box::new(Lock(gate.clone())));
            gate.entrance()
        });
        let waits = Waits::default();
        if shape.notifier {
            coordinator.register(Box::new(waits.clone()));
        }
        coordinator.describe(shape.boot, shape.vcpus);
        let present: Vec<(u32, u64)> = coordinator.wanted().into_iter().collect();
        let machine = Machine::new(&queue, shape.vcpus, &present, shape.guest_eject);
        coordinator.restarted(1);
        let mut world = Self {
            coordinator,
            machine,
            queue,
            guest: Guest::default(),
            users: shape.users.iter().map(|life| User::new(*life)).collect(),
            waits,
            lock,
            budget: shape.budget,
            generation: 1,
            is_paused: false,
            reminded: 0,
            insists: None,
            patient: BTreeSet::new(),
            before: None,
            has_ejected: false,
            view: View::default(),
            stopping: None,
            held: None,
            wrong: None,
            shape,
        };
        for (id, run) in present.into_iter().filter(|(id, _)| *id != 0) {
            world.guest.knows.insert(id);
            world.guest.runs.insert(id);
            world.guest.started.insert(id, run);
            let started = Message::Started(id, run);
            world.coordinator.message(started, &mut world.machine);
        }
        world.look();
        world
    }

    fn gates(&self) -> Vec<Entrance> {
        self.view
            .vcpus
            .iter()
            .map(|vcpu| vcpu.gate.clone())
            .collect()
    }

    fn open_operations(&self) -> impl Iterator<Item = OperationId> {
        let operations = self.view.operations.values();
        operations
            .filter(|operation| operation.ended.is_none())
            .map(|operation| operation.id)
    }

    /// What the control thread takes next, in words.
    pub(crate) fn next_message(&self) -> Option<String> {
        let lock = self.lock.iter().map(|_| LOCK);
        let notifiers: Vec<&str> = lock.chain([WAITS]).collect();
        self.queue.peek(|message| trace::said(message, &notifiers))
    }

    /// What a user does next.
    pub(crate) fn next_of(&self, user: usize) -> Option<Do> {
        self.users[user].next()
    }

    /// The phase of each vCPU.
    pub(crate) fn phases(&self) -> Vec<&'static str> {
        self.view.vcpus.iter().map(|vcpu| vcpu.phase).collect()
    }

    fn is_refused(&self, operation: OperationId) -> bool {
        let operation = self.view.operations.get(&operation);
        let ended = operation.and_then(|operation| operation.ended);
        ended.is_some_and(|ended| ended.code == Code::Refused)
    }

    /// What must happen sooner or later: it is never left for ever.
    pub(crate) fn due(&self) -> Vec<Act> {
        let mut due = Vec::new();
        if !self.queue.is_empty() && self.held.is_none() {
            due.push(Act::Control);
        }
        let threads = (0u32..).zip(&self.machine.threads);
        let busy = threads.filter(|(_, thread)| !thread.todo.is_empty());
        due.extend(busy.map(|(id, _)| Act::Thread(id)));
        if self.guest_runs() {
            due.extend(self.due_of_guest());
        }
        for (number, user) in self.users.iter().enumerate() {
            if !user.has_begun() {
                continue;
            }
            if self.can_go(user) {
                due.push(Act::User(number));
            } else if user.life.gives_up {
                due.push(Act::GiveUp(number));
            }
        }
        if self.nobody_is_waited_for() {
            due.extend(self.waits.lock().pending.keys().map(|id| Act::Answer(*id)));
        }
        if self
            .insists
            .as_ref()
            .is_some_and(|(_, id)| self.is_refused(*id))
        {
            due.push(Act::Insist);
        }
        if self.is_paused {
            due.push(Act::Resume);
        } else if self.stopping.is_none()
            && self.budget.deadlines > 0
            && self.held.is_none()
            && self.open_operations().next().is_some()
        {
            due.push(Act::Deadline);
        }
        due
    }

    fn guest_runs(&self) -> bool {
        !self.guest.is_dead && !self.is_paused && self.stopping.is_none()
    }

    fn can_go(&self, user: &User) -> bool {
        match user.next() {
            Some(Do::Enter(vcpu, _)) => !self.view.vcpus[vcpu as usize].gate.is_closed(),
            Some(Do::EnterLock) => self.lock.as_ref().is_none_or(|lock| !lock.is_closed()),
            Some(Do::Take) => !self.users.iter().any(User::has_lock),
            _ => true,
        }
    }

    /// Whom the notifier waits for has not begun, or is done.
    fn nobody_is_waited_for(&self) -> bool {
        let mut users = self.users.iter();
        !users.any(|user| user.life.is_waited_for && user.has_begun())
    }

    /// What may happen, and need not.
    pub(crate) fn possible(&self) -> Vec<Act> {
        let mut possible = Vec::new();
        let Budget {
            requests,
            cancels,
            pauses,
            reboots,
            deaths,
            vetoes,
            failures,
            reminders,
            ..
        } = self.budget;
        let free = self.held.is_none() && self.guest_runs();
        if requests > 0 && free {
            for id in 1..self.shape.vcpus {
                for target in [Target::Online, Target::Offline] {
                    possible.push(Act::Ask(Want::One(id, target)));
                }
            }
            if self.budget.patient > 0 {
                possible.push(Act::AskPatiently(Want::One(1, Target::Online)));
                possible.push(Act::AskPatiently(Want::One(1, Target::Offline)));
            }
            // Never the boot CPU.
            possible.push(Act::Ask(Want::One(0, Target::Offline)));
            possible.push(Act::Ask(Want::Count(0)));
            if self.shape.vcpus > 2 {
                possible.push(Act::Ask(Want::Count(1)));
                possible.push(Act::Ask(Want::Count(self.shape.vcpus)));
            }
        }
        if pauses > 0 && free {
            possible.push(Act::Pause);
        }
        if cancels > 0 && self.held.is_none() && !self.guest.is_dead && self.stopping.is_none() {
            possible.extend(self.open_operations().map(Act::Cancel));
        }
        if self.guest_runs() {
            possible.extend(self.possible_of_guest());
        }
        if reboots > 0 && free {
            possible.push(Act::Reboot);
        }
        if deaths > 0 && free {
            possible.push(Act::Die);
        }
        let fresh = self.users.iter().enumerate();
        let fresh = fresh.filter(|(_, user)| !user.has_begun() && user.next().is_some());
        possible.extend(
            fresh
                .filter(|(_, user)| self.can_go(user))
                .map(|(number, _)| Act::User(number)),
        );
        if failures > 0 && free {
            possible.extend(self.machine.possible_failures());
        }
        if reminders > 0 && self.held.is_none() && self.stopping.is_none() {
            let next = self.coordinator.next_tick();
            let again = self.now() + AGAIN;
            possible.extend(next.filter(|next| *next <= again).map(|_| Act::Remind));
        }
        if vetoes > 0 {
            possible.extend(self.waits.lock().pending.keys().map(|id| Act::Veto(*id)));
        }
        possible
    }

    /// The time, as far as it has gone on.
    fn now(&self) -> Instant {
        Instant::now() + AGAIN * self.reminded
    }

    fn ask(&mut self, want: &Want, patient: bool) {
        let allowed = !matches!(want, Want::One(0, Target::Offline) | Want::Count(0));
        let timeout = match self.shape.budget.deadlines {
            0 => FOREVER,
            _ if patient => FOREVER,
            _ => Duration::ZERO,
        };
        let request = Request {
            want: want.clone(),
            timeout: Some(timeout),
        };
        let rests = self.due().is_empty();
        let seen = rests.then(|| self.seen());
        let answer = self.coordinator.change(&request, &mut self.machine);
        if answer.is_ok() != allowed {
            self.is_wrong(format!(
                "{want:?} is allowed, {allowed}, and was answered {answer:?}"
            ));
        }
        if let Ok(operation) = answer {
            self.before = seen.map(|vcpus| Before { operation, vcpus });
            if patient {
                self.patient.insert(operation);
            }
            if self.shape.variant == Variant::Insists {
                self.insists = Some((want.clone(), operation));
            }
        }
    }

    /// Does what was found due or possible.
    pub(crate) fn act(&mut self, act: &Act) {
        match act {
            Act::Ask(want) => {
                let allowed = !matches!(want, Want::One(0, Target::Offline) | Want::Count(0));
                self.budget.requests -= u8::from(allowed);
                self.ask(want, false);
            }
            Act::AskPatiently(want) => {
                self.budget.requests -= 1;
                self.budget.patient -= 1;
                self.ask(want, true);
            }
            Act::Insist => {
                if let Some((want, _)) = self.insists.take() {
                    self.ask(&want, false);
                }
            }
            Act::Cancel(operation) => {
                self.budget.cancels -= 1;
                let _ = self.coordinator.cancel(*operation, &mut self.machine);
            }
            Act::Deadline => {
                if self.budget.deadlines != ALWAYS {
                    self.budget.deadlines -= 1;
                }
                self.coordinator.expire(self.now(), &mut self.machine);
            }
            Act::Remind => {
                self.budget.reminders -= 1;
                self.reminded += 1;
                self.coordinator.repeat(self.now(), &mut self.machine);
            }
            Act::Fill | Act::CannotRun(_) => {
                self.budget.failures -= 1;
                self.machine.fail(act);
            }
            Act::Pause => {
                self.budget.pauses -= 1;
                self.is_paused = true;
                self.coordinator.pause(Instant::now());
            }
            Act::Resume => {
                self.is_paused = false;
                self.coordinator.resume(Instant::now());
            }
            Act::Control => self.control(),
            Act::Thread(id) => {
                if let Some(message) = self.machine.threads[*id as usize].todo.pop_front() {
                    self.queue.post(message);
                }
            }
            Act::User(number) => {
                let gates = self.gates();
                self.users[*number].go(&gates, self.lock.as_ref());
            }
            Act::GiveUp(number) => self.users[*number].end(),
            Act::Answer(id) | Act::Veto(id) => self.answer(*id, act),
            _ => self.guest(act),
        }
        self.let_go_of_the_lock();
        self.look();
    }

    fn answer(&mut self, id: u32, act: &Act) {
        let pending = self.waits.lock().pending.remove(&id);
        match (pending, act) {
            (Some(done), Act::Answer(_)) => done.ready(),
            (Some(done), _) => {
                self.budget.vetoes -= 1;
                done.refuse("not now");
            }
            (None, _) => {}
        }
    }

    /// Whoever joins a thread goes on when that has left the guest.
    fn let_go_of_the_lock(&mut self) {
        let left = |cpu: &u32| {
            let thread = &self.machine.threads[*cpu as usize];
            thread.running.is_none() && thread.todo.is_empty()
        };
        self.held = self.held.filter(|cpu| !left(cpu));
    }

    fn control(&mut self) {
        let Some(mut message) = self.queue.pop() else {
            return;
        };
        if self.shape.variant == Variant::NoGenerations {
            let run = |id: &u32| self.view.vcpus[*id as usize].generation;
            match &mut message {
                Message::Notice(notice) => notice.plug = self.machine.plugs[notice.vcpu as usize],
                Message::Ready(id, of)
                | Message::Started(id, of)
                | Message::Parked(id, of)
                | Message::NotReady(id, of, _) => *of = run(id),
                Message::GateEmpty(..) | Message::Notifier(..) => {}
            }
        }
        match self.stopping {
            Some(_) => self.hears_while_stopping(&message),
            None => self.coordinator.message(message, &mut self.machine),
        }
    }

    fn is_wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }
}

//! Everybody together: the real coordinator, its real gates and the real controller, and around them a guest, users, a
//! notifier and clients that do, one at a time, whatever they may.

mod guest;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotvisor_devices::cpu_hotplug::Request as Asks;
use hotvisor_vmm::hotplug::client::{Request, Want};
use hotvisor_vmm::hotplug::coordinator::{Coordinator, Limits};
use hotvisor_vmm::hotplug::gate::{Entrance, Gate};
use hotvisor_vmm::hotplug::machinery::Message;
use hotvisor_vmm::hotplug::view::{Code, OperationId, Target, View};

use crate::machine::{Machine, Queue};
use crate::people::{Do, Lock, User, Waits};
use crate::shape::{ALWAYS, Act, Budget, Shape, Variant};
use guest::{Guest, Work};

/// Longer than any model takes.
const FOREVER: Duration = Duration::from_secs(3600);

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
            (self.held, self.is_paused),
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
            dormant: None,
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
            view: View::default(),
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
            match self.guest.last_word {
                Some(last) if last.looked => due.push(Act::LastWord),
                Some(_) => due.push(Act::Look),
                None if !self.guest.work.is_empty() => due.push(Act::Obey),
                None => {}
            }
            if self.machine.interrupt {
                due.push(Act::Scan);
            }
            due.extend(self.guest.starting.iter().map(|id| Act::Start(*id)));
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
        if self.waits.lock().pending.is_some() && self.nobody_is_waited_for() {
            due.push(Act::Answer);
        }
        if self.is_paused {
            due.push(Act::Resume);
        } else if self.budget.deadlines > 0
            && self.held.is_none()
            && self.open_operations().next().is_some()
        {
            due.push(Act::Deadline);
        }
        due
    }

    fn guest_runs(&self) -> bool {
        !self.guest.is_dead && !self.is_paused
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
            ..
        } = self.budget;
        let free = self.held.is_none() && self.guest_runs();
        if requests > 0 && free {
            for id in 1..self.shape.vcpus {
                for target in [Target::Online, Target::Offline] {
                    possible.push(Act::Ask(Want::One(id, target)));
                }
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
        if cancels > 0 && self.held.is_none() && !self.guest.is_dead {
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
        if vetoes > 0 && self.waits.lock().pending.is_some() {
            possible.push(Act::Veto);
        }
        possible
    }

    /// Does what was found due or possible.
    pub(crate) fn act(&mut self, act: &Act) {
        match act {
            Act::Ask(want) => {
                let allowed = !matches!(want, Want::One(0, Target::Offline) | Want::Count(0));
                self.budget.requests -= u8::from(allowed);
                let timeout = match self.shape.budget.deadlines {
                    0 => FOREVER,
                    _ => Duration::ZERO,
                };
                let request = Request {
                    want: want.clone(),
                    timeout: Some(timeout),
                };
                let answer = self.coordinator.change(&request, &mut self.machine);
                if answer.is_ok() != allowed {
                    self.is_wrong(format!(
                        "{want:?} is allowed, {allowed}, and was answered {answer:?}"
                    ));
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
                self.coordinator.tick(&mut self.machine);
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
            Act::Answer | Act::Veto => {
                let pending = self.waits.lock().pending.take();
                match (pending, act) {
                    (Some((_, done)), Act::Answer) => done.ready(),
                    (Some((_, done)), _) => {
                        self.budget.vetoes -= 1;
                        done.refuse("not now");
                    }
                    (None, _) => {}
                }
            }
            _ => self.guest(act),
        }
        self.let_go_of_the_lock();
        self.look();
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
                Message::Notice(notice) => notice.plug = self.machine.plugs[notice.cpu as usize],
                Message::Ready(id, of)
                | Message::Started(id, of)
                | Message::Parked(id, of)
                | Message::NotReady(id, of, _) => *of = run(id),
                Message::GateEmpty(..) | Message::Notifier(..) => {}
            }
        }
        self.coordinator.message(message, &mut self.machine);
    }

    fn is_wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// After each act: what must never be, is not.
    fn look(&mut self) {
        if let Some(view) = self.coordinator.take_view(Some(&self.machine)) {
            let before = std::mem::replace(&mut self.view, view);
            self.look_at_outcomes(&before);
        }
        for id in std::mem::take(&mut self.machine.parked) {
            if self.guest.runs.contains(&id) {
                self.is_wrong(format!("vCPU {id} was torn down while the guest runs it"));
            }
            let mut inside = self.users.iter().filter_map(|user| user.inside.as_ref());
            if inside.any(|(vcpu, _)| *vcpu == id) {
                self.is_wrong(format!("vCPU {id} was torn down with a user inside"));
            }
        }
        if let Some(wrong) = self.machine.wrong.first().cloned() {
            self.is_wrong(wrong);
        }
        for vcpu in self.view.vcpus.iter().filter(|vcpu| vcpu.id != 0) {
            let started = self.guest.started.get(&vcpu.id) == Some(&vcpu.generation);
            if vcpu.phase == "online" && !started {
                self.wrong.get_or_insert(format!(
                    "vCPU {} is said to be online, and the guest has not started it",
                    vcpu.id
                ));
            }
        }
        self.look_for_late_ejections();
        for id in 0..self.machine.present.len() {
            if self.machine.present[id] && self.machine.threads[id].running.is_none() {
                self.is_wrong(format!("the guest has vCPU {id}, and nothing runs it"));
            }
        }
    }

    /// A CPU that the guest may still eject, because it was asked to and has not answered, is not said to be at rest.
    fn look_for_late_ejections(&mut self) {
        let honest = self.shape.budget.is_honest();
        if !honest || !self.queue.is_empty() || self.guest.is_dead {
            return;
        }
        for vcpu in &self.view.vcpus {
            let rests = matches!(vcpu.phase, "announced" | "plugged" | "online");
            if rests && self.may_eject(vcpu.id) {
                self.wrong.get_or_insert(format!(
                    "vCPU {} is said to be at rest, and the guest was asked to eject it and has not answered",
                    vcpu.id
                ));
            }
        }
    }

    /// Whether the guest has read that it is to eject a CPU which is there, and has not answered.
    fn may_eject(&self, id: u32) -> bool {
        let plug = self.machine.plugs[id as usize];
        let asked = |work: &Work| work.asks == Asks::Eject && (work.cpu, work.plug) == (id, plug);
        let asked = self.guest.work.iter().any(asked);
        self.machine.present[id as usize] && (asked || self.guest.ignored.contains(&(id, plug)))
    }

    /// Who is told that the guest keeps a vCPU, or has it, is told the truth.
    fn look_at_outcomes(&mut self, before: &View) {
        // Whoever lies may do so about that, and whoever ejects at any time may do it meanwhile.
        if !self.shape.budget.is_honest() || self.guest.is_dead {
            return;
        }
        let known = |id: OperationId, vcpu| {
            let parts = &before.operations.get(&id)?.parts;
            let part = parts.iter().find(|part| part.vcpu == vcpu)?;
            part.outcome.as_ref()
        };
        let mut wrong = None;
        for operation in self.view.operations.values() {
            for part in &operation.parts {
                let Some(outcome) = &part.outcome else {
                    continue;
                };
                let stays = match (part.to, outcome.code) {
                    (Target::Offline, Code::Refused) => outcome.ost.is_some(),
                    (Target::Online, Code::Succeeded) => true,
                    _ => false,
                };
                let new = known(operation.id, part.vcpu).is_none();
                if stays && new && !self.machine.present[part.vcpu as usize] {
                    wrong = Some(format!(
                        "operation {} says of vCPU {}, which the guest has ejected: {outcome:?}",
                        operation.id, part.vcpu
                    ));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.is_wrong(wrong);
        }
    }

    /// Where nothing is due any more: what is said is what there is, and nobody waits.
    pub(crate) fn unrest(&self) -> Option<String> {
        if let Some(operation) = self.open_operations().next() {
            return Some(format!("operation {operation} never ends"));
        }
        if let Some(user) = self.users.iter().position(User::has_begun) {
            return Some(format!("user {user} waits for ever"));
        }
        if self.guest.is_dead {
            return None;
        }
        for vcpu in &self.view.vcpus {
            let id = vcpu.id as usize;
            let present = self.machine.present[id];
            let runs = self.machine.threads[id].running.is_some();
            let wanted = vcpu.target == Target::Online;
            if present != runs || present != wanted {
                return Some(format!(
                    "vCPU {id}: wanted {wanted}, the guest has it {present}, a thread runs it {runs}"
                ));
            }
            let honest = self.shape.budget.is_honest();
            if honest && vcpu.phase == "overdue" && !self.may_eject(vcpu.id) {
                return Some(format!(
                    "vCPU {id} is overdue for ever: the guest has answered"
                ));
            }
            let state = format!("{:?}", vcpu.gate);
            let whole = match present {
                true => "Entrance(Open)",
                false => "Entrance(Offline)",
            };
            if state != whole {
                return Some(format!("vCPU {id} is at rest, and its gate is {state}"));
            }
            if present && self.waits.lock().gone.contains(&vcpu.id) {
                return Some(format!("vCPU {id} stays, and the notifier was not told"));
            }
        }
        let plugged = self.machine.present.iter().filter(|present| **present);
        let plugged = plugged.count() == self.view.plugged as usize;
        let runs = self.guest.runs.len() + 1 == self.view.online as usize;
        let sees = (0..).zip(&self.machine.present);
        let sees = { sees }.all(|(id, present)| self.machine.sta(id) == *present);
        let agree = plugged && (runs && sees || !self.shape.budget.is_honest());
        (!agree).then(|| {
            format!("the counts differ: plugged {plugged}, online {runs}, seen by the guest {sees}")
        })
    }
}

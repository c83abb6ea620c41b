//! The coordinator and the gates without KVM, without firmware and without a guest: what another VMM would put into their
//! place, at its smallest.
//!
//!     cargo run -p hotvisor-vmm --example fake_backend
//!
//! Each vCPU is a thread that counts. The guest is a few lines that take what they are given and give back what they are
//! asked for. Somebody who reads a counter does so inside the vCPU's gate, and an unplug waits until they have left. Somebody
//! else has a job bound to a vCPU, and does not let it go.
//!
//! Three things make a backend:
//!
//! 1. [`Machinery`]: what the coordinator has done to the machine. No method waits; what takes time is answered later.
//! 2. [`Message`]s, posted from any thread to the one that owns the coordinator, which takes one after the other.
//! 3. A clock: [`Coordinator::tick`] when [`Coordinator::next_tick`] is due.

use hotvisor_vmm::hotplug::client::{Request, Want};
use hotvisor_vmm::hotplug::coordinator::{Coordinator, Limits};
use hotvisor_vmm::hotplug::gate::Binding;
use hotvisor_vmm::hotplug::guest::{About, Notice, Says, What, Withdrawn, Word};
use hotvisor_vmm::hotplug::machinery::{Machinery, Message};
use hotvisor_vmm::hotplug::notifier::{Done, Notifier};
use hotvisor_vmm::hotplug::view::{OperationId, Outcome, Target, ThreadView, VcpuRef, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(10);

/// What a thread that counts is told.
enum Order {
    Run(u64),
    Park(u64),
}

struct Worker {
    orders: Sender<Order>,
    counter: Arc<AtomicU64>,
    run: u64,
    running: bool,
    /// The number of its last insertion.
    plug: u32,
}

struct Backend {
    post: Sender<Message>,
    workers: BTreeMap<u32, Worker>,
    /// How often a vCPU was put into the guest's tables.
    plugs: u32,
}

impl Backend {
    /// A vCPU's thread: counts while it is told to run, and says what it has come to.
    fn worker(&self, vcpu: u32) -> Worker {
        let (orders, told) = channel();
        let counter = Arc::new(AtomicU64::new(0));
        let (post, count) = (self.post.clone(), counter.clone());
        thread::spawn(move || {
            let mut runs = false;
            loop {
                let order = match runs {
                    true => told.try_recv(),
                    false => told.recv().map_err(|_| TryRecvError::Disconnected),
                };
                let said = match order {
                    Ok(Order::Run(run)) => {
                        runs = true;
                        post.send(Message::Ready(vcpu, run))
                    }
                    Ok(Order::Park(run)) => {
                        runs = false;
                        post.send(Message::Parked(vcpu, run))
                    }
                    Err(TryRecvError::Disconnected) => return,
                    Err(TryRecvError::Empty) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    }
                };
                if said.is_err() {
                    return;
                }
            }
        });
        Worker {
            orders,
            counter,
            run: 0,
            running: false,
            plug: 0,
        }
    }

    /// The guest does something about the last insertion of a vCPU.
    fn guest(&self, vcpu: u32, what: What) {
        let plug = self.workers.get(&vcpu).map_or(0, |worker| worker.plug);
        let notice = Notice { vcpu, plug, what };
        // Nobody reads any more only at the end.
        let _ = self.post.send(Message::Notice(notice));
    }

    /// It says how it gets on, and never no.
    fn says(&self, vcpu: u32, about: About, says: Says) {
        let word = Word {
            about,
            says,
            numbers: (0, 0),
        };
        self.guest(vcpu, What::Said { word, kept: None });
    }
}

impl Machinery for Backend {
    fn start(&mut self, vcpu: u32, run: u64) -> Result<(), String> {
        if !self.workers.contains_key(&vcpu) {
            // Dormant threads are used again, so there is one for each vCPU at the most.
            let worker = self.worker(vcpu);
            self.workers.insert(vcpu, worker);
        }
        let Some(worker) = self.workers.get_mut(&vcpu) else {
            return Err("there is no worker".to_owned());
        };
        (worker.run, worker.running) = (run, true);
        let _ = worker.orders.send(Order::Run(run));
        Ok(())
    }

    fn park(&mut self, vcpu: u32) {
        if let Some(worker) = self.workers.get_mut(&vcpu) {
            worker.running = false;
            let _ = worker.orders.send(Order::Park(worker.run));
        }
    }

    fn end_thread(&mut self, vcpu: u32) {
        self.workers.remove(&vcpu);
    }

    fn thread(&self, vcpu: u32) -> Option<ThreadView> {
        let worker = self.workers.get(&vcpu)?;
        Some(ThreadView {
            name: format!("worker-{vcpu}"),
            tid: None,
            running: worker.running,
        })
    }

    fn insert(&mut self, vcpu: u32) -> u32 {
        self.plugs += 1;
        let Some(worker) = self.workers.get_mut(&vcpu) else {
            return self.plugs;
        };
        worker.plug = self.plugs;
        let run = worker.run;
        // A guest that obeys at once: reads of it, takes it, starts it.
        self.guest(vcpu, What::InsertRead);
        self.says(vcpu, About::Insertion, Says::Done);
        let _ = self.post.send(Message::Started(vcpu, run));
        self.plugs
    }

    fn announce(&mut self, _vcpu: u32) {}

    fn remind(&mut self) {}

    fn untold(&self) -> Option<String> {
        None
    }

    fn withdraw_insert(&mut self, _vcpu: u32) -> bool {
        // It has noticed already.
        false
    }

    fn discard(&mut self, _vcpu: u32) -> bool {
        // It never says no.
        false
    }

    fn request_eject(&mut self, vcpu: u32) -> u32 {
        // It is never asked twice.
        let ask = 1;
        self.guest(vcpu, What::EjectRead(ask));
        self.says(vcpu, About::Ejection, Says::Begun);
        self.guest(vcpu, What::Ejected { requested: true });
        ask
    }

    fn withdraw_eject(&mut self, _vcpu: u32) -> Withdrawn {
        // It has read it already.
        Withdrawn::Nothing
    }

    fn acknowledge(&mut self, _vcpu: u32) {}
}

/// Jobs that are bound to a vCPU: it is not to be taken away from under them.
struct Jobs(BTreeSet<u32>);

impl Notifier for Jobs {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn prepare(&mut self, vcpu: VcpuRef, done: Done) {
        // It could answer later, from any thread: whoever moves the job says so when that is done.
        match self.0.contains(&vcpu.id) {
            true => done.refuse("a job is bound to it"),
            false => done.ready(),
        }
    }

    fn undo(&mut self, _: VcpuRef) {}

    fn after_death(&mut self, _: VcpuRef) {}
}

/// The thread that owns the coordinator, and what others see of it.
struct Control {
    coordinator: Coordinator,
    backend: Backend,
    messages: Receiver<Message>,
    view: View,
}

impl Control {
    /// One vCPU runs, of three.
    fn new() -> Result<Self, String> {
        let (post, messages) = channel();
        let limits = Limits {
            operation: SOON,
            dormant: None,
        };
        let sink = post.clone();
        let posted = Arc::new(move |message| {
            let _ = sink.send(message);
        });
        let mut control = Self {
            coordinator: Coordinator::new(limits, posted, Arc::default()),
            backend: Backend {
                post,
                workers: BTreeMap::new(),
                plugs: 0,
            },
            messages,
            view: View::default(),
        };
        control.coordinator.register(Box::new(Jobs([1].into())));
        control.coordinator.describe(1, 3);
        for (vcpu, run) in control.coordinator.wanted() {
            control.backend.start(vcpu, run)?;
        }
        control.coordinator.restarted(1);
        Ok(control)
    }

    fn ask(&mut self, want: Want) -> Option<OperationId> {
        let request = Request {
            want,
            timeout: None,
        };
        self.coordinator.change(&request, &mut self.backend).ok()
    }

    /// Goes on, one message after the other, until what is to be seen satisfies somebody.
    fn until(&mut self, mut is_so: impl FnMut(&View) -> bool) -> bool {
        let end = Instant::now() + SOON;
        loop {
            if let Some(view) = self.coordinator.take_view(Some(&self.backend)) {
                self.view = view;
            }
            if is_so(&self.view) {
                return true;
            }
            let due = self.coordinator.next_tick().map_or(end, |at| at.min(end));
            let left = due.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(message) => self.coordinator.message(message, &mut self.backend),
                Err(_) if Instant::now() >= end => return false,
                Err(_) => self.coordinator.tick(Instant::now(), &mut self.backend),
            }
        }
    }

    fn phases(&self) -> Vec<&'static str> {
        self.view.vcpus.iter().map(|vcpu| vcpu.phase).collect()
    }
}

/// The phases of the three vCPUs: after a plug of two, while one of them is held at its gate, and after that; and what is
/// said of an unplug of the one with the job.
fn story() -> Option<([Vec<&'static str>; 3], Outcome)> {
    let mut control = Control::new().ok()?;
    control.ask(Want::Count(3))?;
    control.until(|view| view.online == 3).then_some(())?;
    let plugged = control.phases();

    let worker = control.backend.workers.get(&2)?.counter.clone();
    let gate = control.view.vcpus[2].gate.clone();
    let inside = gate
        .enter(Binding::Pinned, "reader of counters", SOON)
        .ok()?;
    println!("vCPU 2 has counted to {}", worker.load(Ordering::Relaxed));
    let unplug = control.ask(Want::One(2, Target::Offline))?;
    // The guest has let go of it, and the one inside has not: it is not taken from under them.
    control
        .until(|view| view.vcpus[2].phase == "syncing")
        .then_some(())?;
    let held = control.phases();

    drop(inside);
    let ended = |view: &View| {
        view.operations
            .get(&unplug)
            .and_then(|operation| operation.ended)
    };
    control.until(|view| ended(view).is_some()).then_some(())?;
    println!("its unplug has {}", ended(&control.view)?.code);
    let gone = control.phases();

    let unplug = control.ask(Want::One(1, Target::Offline))?;
    let outcome = |view: &View| view.operations.get(&unplug)?.parts[0].outcome.clone();
    control
        .until(|view| outcome(view).is_some())
        .then_some(())?;
    Some(([plugged, held, gone], outcome(&control.view)?))
}

fn main() {
    match story() {
        Some((steps, outcome)) => {
            for step in steps {
                println!("{}", step.join(", "));
            }
            println!("vCPU 1 stays: {}", outcome.detail);
        }
        None => eprintln!("something has not come about within {SOON:?}"),
    }
}

#[test]
fn a_vcpu_goes_when_its_last_user_has_left() {
    let ([plugged, held, gone], outcome) = story().unwrap();
    assert_eq!(plugged, ["online", "online", "online"]);
    assert_eq!(held, ["online", "online", "syncing"]);
    assert_eq!(gone, ["online", "online", "dormant"]);
    assert_eq!(outcome.code.to_string(), "refused");
    assert!(
        outcome.detail.contains("a job is bound to it"),
        "{outcome:?}"
    );
}

//! A control thread that is none: it answers calls as a test wants, and publishes what the test says.

use hotvisor_vmm::config::VmConfig;
use hotvisor_vmm::events::{News, Writer};
use hotvisor_vmm::hotplug::client::{Call, Calls, Client, Refused, Request, VcpuCall, Want};
use hotvisor_vmm::hotplug::gate::Gate;
use hotvisor_vmm::hotplug::view::{
    Code, Ended, MachineState, OperationId, OperationKind, OperationView, Outcome, PartView,
    Target, ThreadView, Timeline, VcpuView, View,
};
use hotvisor_vmm::tally::Tally;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// See [`Fake::new`].
pub(crate) struct Fake {
    published: Mutex<Option<(watch::Sender<Arc<View>>, Writer)>>,
    asked: Mutex<Vec<Request>>,
    /// Notified after each of them.
    heard: Condvar,
    refuse: Mutex<Option<Refused>>,
    /// Calls that are kept until they may be answered; `None` where they are answered at once.
    kept: Mutex<Option<Vec<Call>>>,
    /// What it was told about the machine.
    commands: Mutex<Vec<String>>,
    /// What is counted.
    pub(crate) tally: Arc<Tally>,
}

/// A moment that is easy to recognise.
pub(crate) fn moment() -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(1_000_000_000_000_007)
}

fn vcpu(id: u32, online: bool) -> Arc<VcpuView> {
    let thread = ThreadView {
        tid: None,
        name: format!("vcpu-{id}"),
        running: true,
    };
    Arc::new(VcpuView {
        id,
        gate: Gate::new(|_| {}).entrance(),
        phase: if online { "online" } else { "dormant" },
        target: if online {
            Target::Online
        } else {
            Target::Offline
        },
        generation: 1,
        thread: online.then_some(thread),
        last_operation: None,
        last_plug: None,
        last_unplug: (id == 1).then(|| Timeline {
            operation: 4,
            phases: vec![
                ("notifying", Duration::from_micros(1500)),
                ("stopping", Duration::from_nanos(2999)),
            ],
        }),
    })
}

impl Fake {
    /// A machine of two vCPUs of four. Each change becomes a running operation.
    pub(crate) fn new() -> (Arc<Self>, Client) {
        let view = View {
            state: MachineState::Running,
            desired: 2,
            plugged: 2,
            online: 2,
            max: 4,
            vcpus: (0..4).map(|id| vcpu(id, id < 2)).collect(),
            ..View::default()
        };
        let (views, watched) = watch::channel(Arc::new(view));
        let writer = Writer::default();
        let events = writer.events();
        let fake = Arc::new(Self {
            published: Mutex::new(Some((views, writer))),
            asked: Mutex::default(),
            heard: Condvar::new(),
            refuse: Mutex::default(),
            kept: Mutex::default(),
            commands: Mutex::default(),
            tally: Arc::default(),
        });
        let tally = fake.tally.clone();
        (fake.clone(), Client::new(fake, watched, events, tally))
    }

    /// What it was asked for, in order.
    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until it was asked so often.
    pub(crate) fn heard(&self, times: usize) {
        let asked = self.asked.lock().unwrap();
        let fewer = |asked: &mut Vec<Request>| asked.len() < times;
        let patience = Duration::from_secs(20);
        let (asked, over) = self
            .heard
            .wait_timeout_while(asked, patience, fewer)
            .unwrap();
        assert!(
            !over.timed_out(),
            "asked {} times, not {times}",
            asked.len()
        );
    }

    /// Something happens.
    pub(crate) fn happens(&self, news: impl IntoIterator<Item = News>) {
        let news = news.into_iter().map(|news| (moment(), news));
        if let Some((_, events)) = &mut *self.published.lock().unwrap() {
            events.write(news);
        }
    }

    /// How many receivers its view has.
    pub(crate) fn watchers(&self) -> usize {
        let published = self.published.lock().unwrap();
        published
            .as_ref()
            .map_or(0, |(views, _)| views.receiver_count())
    }

    /// From now on every call is refused.
    pub(crate) fn refuse(&self, refused: Refused) {
        *self.refuse.lock().unwrap() = Some(refused);
    }

    /// From now on no call is refused.
    pub(crate) fn accept(&self) {
        self.refuse.lock().unwrap().take();
    }

    /// From now on no call is answered.
    pub(crate) fn hold(&self) {
        self.kept.lock().unwrap().get_or_insert_default();
    }

    /// Answers all calls, those that were not answered first.
    pub(crate) fn let_go(&self) {
        let kept = self.kept.lock().unwrap().take();
        kept.into_iter()
            .flatten()
            .for_each(|call| self.answer(call));
    }

    /// The operation ended so long ago that it is dropped.
    pub(crate) fn forget(&self, id: OperationId) {
        self.publish(|view| {
            view.operations.remove(&id);
        });
    }

    /// The machine ends.
    pub(crate) fn end(&self) {
        self.published.lock().unwrap().take();
    }

    /// The operation ends.
    pub(crate) fn finish(&self, id: OperationId, code: Code) {
        self.publish(|view| {
            let operation = Arc::make_mut(view.operations.get_mut(&id).unwrap());
            operation.ended = Some(Ended { code, at: moment() });
            view.ended += 1;
            Arc::make_mut(&mut operation.parts[0]).outcome = Some(Outcome {
                code,
                word: Some((3, 130)),
                detail: "the guest is busy".into(),
            });
        });
    }

    fn publish(&self, change: impl FnOnce(&mut View)) {
        let published = self.published.lock().unwrap();
        if let Some((views, _)) = &*published {
            // Wakes as rarely as the control thread does.
            views.send_if_modified(|view| {
                let earlier = view.clone();
                change(Arc::make_mut(view));
                view.is_awaited_after(&earlier)
            });
        }
    }

    fn change(&self, request: Request) -> Result<OperationId, Refused> {
        if let Some(refused) = self.refuse.lock().unwrap().clone() {
            return Err(refused);
        }
        let (kind, id, to) = match &request.want {
            Want::Count(count) => (OperationKind::Count(*count), 3, Target::Online),
            Want::Set(set) => (
                OperationKind::Set(set.iter().map(|_| 1).sum()),
                3,
                Target::Online,
            ),
            Want::One(id, to) => (OperationKind::One(*to), *id, *to),
        };
        let mut asked = self.asked.lock().unwrap();
        asked.push(request);
        let operation = OperationView {
            id: asked.len() as OperationId,
            kind,
            ended: None,
            parts: vec![Arc::new(PartView {
                vcpu: id,
                from: "dormant",
                to,
                phase: "plugging",
                outcome: None,
            })],
            created_at: moment(),
        };
        let id = operation.id;
        self.publish(|view| {
            view.operations.insert(id, Arc::new(operation));
        });
        self.heard.notify_all();
        Ok(id)
    }

    /// Takes note of a command.
    fn told(&self, command: String) -> Result<(), Refused> {
        if let Some(refused) = self.refuse.lock().unwrap().clone() {
            return Err(refused);
        }
        self.commands.lock().unwrap().push(command);
        Ok(())
    }

    /// The commands that it was given since this was last asked.
    pub(crate) fn commands(&self) -> Vec<String> {
        std::mem::take(&mut *self.commands.lock().unwrap())
    }

    /// The machine is at this, and is to be that.
    pub(crate) fn becomes(&self, state: MachineState, config: Option<VmConfig>) {
        self.publish(|view| {
            view.state = state;
            view.config = config.map(Arc::new);
        });
    }

    fn cancel(&self, id: OperationId) -> Result<(), Refused> {
        if let Some(refused) = self.refuse.lock().unwrap().clone() {
            return Err(refused);
        }
        self.finish(id, Code::Cancelled);
        Ok(())
    }
}

impl Calls for Fake {
    fn call(&self, call: Call) {
        match &mut *self.kept.lock().unwrap() {
            Some(kept) => kept.push(call),
            None => self.answer(call),
        }
    }
}

impl Fake {
    fn answer(&self, call: Call) {
        // Whoever asked may have left.
        match call {
            Call::Vcpus(VcpuCall::Change(request, reply)) => {
                drop(reply.send(self.change(request)));
            }
            Call::Vcpus(VcpuCall::Cancel(id, reply)) => drop(reply.send(self.cancel(id))),
            Call::Vcpus(VcpuCall::Preset(count, reply)) => {
                let preset = self.told(format!("preset {count}"));
                drop(reply.send(preset));
            }
            Call::Machine(call, reply) => {
                drop(reply.send(self.told(format!("{call:?}"))));
            }
        }
    }
}

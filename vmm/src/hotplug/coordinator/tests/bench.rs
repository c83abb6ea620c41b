//! A coordinator with a machine made of plain data.

use super::super::*;
use crate::acpi::ost::word;
use crate::hotplug::client::{Request, Want};
use crate::hotplug::guest::{Says, Withdrawn};
use crate::hotplug::notifier::Done;
use crate::hotplug::view::View;
use crate::hotplug::view::{OperationId, Outcome, ThreadView};
use std::sync::Mutex;

/// What was asked of the machine, in order, and what it would answer.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) calls: Vec<(&'static str, u32)>,
    pub(super) plugs: u32,
    pub(super) asks: u32,
    /// Whether the guest has noticed the last request.
    pub(super) noticed: bool,
    /// Whether it has an earlier request to eject, and has not answered.
    pub(super) earlier: bool,
    /// Whether it was told of the last insertion again since it last said no.
    pub(super) told_again: bool,
    /// Whether it was asked for an ejection again since it last said no.
    pub(super) asked_again: bool,
    pub(super) full: bool,
    /// Why the guest hears of nothing.
    pub(super) untold: Option<&'static str>,
}

impl Machinery for Fake {
    fn start(&mut self, vcpu: u32, _run: u64) -> Result<(), String> {
        self.calls.push(("start", vcpu));
        if self.full {
            return Err("no room".to_owned());
        }
        Ok(())
    }
    fn park(&mut self, vcpu: u32) {
        self.calls.push(("park", vcpu));
    }
    fn end_thread(&mut self, vcpu: u32) {
        self.calls.push(("end thread", vcpu));
    }
    fn thread(&self, _vcpu: u32) -> Option<ThreadView> {
        None
    }
    fn insert(&mut self, vcpu: u32) -> u32 {
        self.calls.push(("insert", vcpu));
        self.plugs += 1;
        self.plugs
    }
    fn announce(&mut self, vcpu: u32) {
        self.calls.push(("announce", vcpu));
    }
    fn remind(&mut self) {
        self.calls.push(("remind", 0));
    }
    fn untold(&self) -> Option<String> {
        self.untold.map(str::to_owned)
    }
    fn withdraw_insert(&mut self, vcpu: u32) -> bool {
        self.calls.push(("withdraw insert", vcpu));
        !self.noticed
    }
    fn discard(&mut self, vcpu: u32) -> bool {
        self.calls.push(("discard", vcpu));
        !self.told_again
    }
    fn request_eject(&mut self, vcpu: u32) -> u32 {
        self.calls.push(("request eject", vcpu));
        self.asks += 1;
        self.asks
    }
    fn withdraw_eject(&mut self, vcpu: u32) -> Withdrawn {
        self.calls.push(("withdraw eject", vcpu));
        match (self.noticed, self.earlier) {
            (true, _) => Withdrawn::Nothing,
            (false, true) => Withdrawn::Last,
            (false, false) => Withdrawn::All,
        }
    }
    fn acknowledge(&mut self, vcpu: u32) {
        self.calls.push(("acknowledge", vcpu));
    }
}

/// A coordinator, its machine, and what was posted to it.
pub(super) struct Bench {
    pub(super) coordinator: Coordinator,
    pub(super) machine: Fake,
    pub(super) posted: Arc<Mutex<Vec<Message>>>,
    published: View,
}

pub(super) const FOREVER: Duration = Duration::from_secs(3600);

impl Bench {
    /// `boot` of 4 vCPUs, all of them online.
    pub(super) fn new(boot: u32) -> Self {
        let posted = Arc::new(Mutex::new(Vec::new()));
        let sink = posted.clone();
        let limits = Limits {
            operation: FOREVER,
            dormant: None,
        };
        let post: PostMessage = Arc::new(move |message| sink.lock().unwrap().push(message));
        let mut coordinator = Coordinator::new(limits, post, Arc::default());
        coordinator.describe(boot, 4);
        coordinator.restarted(1);
        let mut bench = Self {
            coordinator,
            machine: Fake::default(),
            posted,
            published: View::default(),
        };
        for id in 1..boot {
            bench.tell(id, Message::Started);
        }
        bench
    }

    pub(super) fn run(&self, id: u32) -> u64 {
        self.coordinator.slots[id as usize].run
    }

    pub(super) fn tell(&mut self, id: u32, message: fn(u32, u64) -> Message) {
        let message = message(id, self.run(id));
        self.coordinator.message(message, &mut self.machine);
    }

    pub(super) fn notice(&mut self, vcpu: u32, what: What) {
        let plug = self.coordinator.slots[vcpu as usize].plug;
        let notice = Notice { vcpu, plug, what };
        self.coordinator
            .message(Message::Notice(notice), &mut self.machine);
    }

    /// The guest reads that it was asked for a vCPU.
    pub(super) fn reads_eject(&mut self, cpu: u32) {
        let ask = self.coordinator.slots[cpu as usize].ask;
        self.notice(cpu, What::EjectRead(ask));
    }

    pub(super) fn ost(&mut self, cpu: u32, source: u32, status: u32) {
        let word = word(source, status);
        let answer = source == 3 && word.says != Says::Begun;
        let no = answer && !self.machine.asked_again;
        let kept = no.then_some(self.coordinator.slots[cpu as usize].ask);
        self.notice(cpu, What::Said { word, kept });
    }

    /// What is due by now is done.
    pub(super) fn tick(&mut self) {
        self.coordinator.tick(Instant::now(), &mut self.machine);
    }

    pub(super) fn ask(&mut self, want: Want) -> OperationId {
        self.ask_within(want, FOREVER)
    }

    pub(super) fn ask_within(&mut self, want: Want, timeout: Duration) -> OperationId {
        let timeout = Some(timeout);
        let request = Request { want, timeout };
        self.coordinator
            .change(&request, &mut self.machine)
            .unwrap()
    }

    /// The vCPUs that the guest's tables hold.
    pub(super) fn plugged(&self) -> Vec<usize> {
        let slots = self.coordinator.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.phase.is_plugged())
            .map(|(id, _)| id)
            .collect()
    }

    pub(super) fn phase(&self, id: u32) -> &'static str {
        self.coordinator.slots[id as usize].phase.name()
    }

    pub(super) fn code(&mut self, operation: OperationId) -> Option<Code> {
        self.view().operations[&operation]
            .ended
            .map(|ended| ended.code)
    }

    pub(super) fn outcome(&mut self, operation: OperationId, id: u32) -> Outcome {
        let operation = self.view().operations[&operation].clone();
        let part = operation.parts.iter().find(|part| part.vcpu == id).unwrap();
        part.outcome.clone().unwrap()
    }

    /// What everybody sees: the last view that was published.
    pub(super) fn view(&mut self) -> View {
        if let Some(view) = self.coordinator.take_view(Some(&self.machine)) {
            self.published = view;
        }
        self.published.clone()
    }

    /// The guest ejects a vCPU as it was asked to, and its thread parks.
    pub(super) fn guest_ejects(&mut self, id: u32) {
        self.reads_eject(id);
        self.ost(id, 3, 0x84);
        self.notice(id, What::Ejected { requested: true });
        self.tell(id, Message::Parked);
        self.ost(id, 3, 0);
    }

    /// The guest takes a vCPU that was plugged, and starts it.
    pub(super) fn guest_starts(&mut self, id: u32) {
        self.tell(id, Message::Ready);
        self.notice(id, What::InsertRead);
        self.ost(id, 1, 0);
        self.tell(id, Message::Started);
    }
}

/// A notifier that never answers by itself.
pub(super) struct Silent(pub(super) Arc<Mutex<Vec<Done>>>);

impl Notifier for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }
    fn prepare(&mut self, _vcpu: VcpuRef, done: Done) {
        self.0.lock().unwrap().push(done);
    }
    fn undo(&mut self, _vcpu: VcpuRef) {}
    fn after_death(&mut self, _vcpu: VcpuRef) {}
}

//! A machine of plain data around the real controller: threads that get on when they are let, and the controller's
//! registers as a guest uses them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hotvisor_devices::cpu_hotplug::{self, CpuHotplug, GuestEject, HotplugSink, Request, regs};
use hotvisor_vmm::acpi::ost;
use hotvisor_vmm::hotplug::guest::{Notice, What, Withdrawn};
use hotvisor_vmm::hotplug::machinery::{Machinery, Message};
use hotvisor_vmm::hotplug::view::ThreadView;
use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;

use crate::shape::Act;

/// The control thread's queue.
#[derive(Clone, Default)]
pub(crate) struct Queue {
    messages: Arc<Mutex<VecDeque<Message>>>,
    /// The closings that were said to be over, in order: their numbers go on from one world to the next.
    closings: Arc<Mutex<Vec<u64>>>,
}

impl Queue {
    pub(crate) fn post(&self, message: Message) {
        if let Message::GateEmpty(_, closing) = message {
            lock(&self.closings).push(closing);
        }
        self.lock().push_back(message);
    }

    pub(crate) fn pop(&self) -> Option<Message> {
        self.lock().pop_front()
    }

    /// What is said of the next one.
    pub(crate) fn peek<T>(&self, say: impl Fn(&Message) -> T) -> Option<T> {
        self.lock().front().map(say)
    }

    /// Where an eject that was honoured is the last that was said: whether it counts as asked for.
    fn ends_with_eject(&self) -> Option<bool> {
        match self.lock().back()? {
            Message::Notice(Notice {
                what: What::Ejected { requested },
                ..
            }) => Some(*requested),
            _ => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Drops what a machine and its threads have posted.
    pub(crate) fn forget_machine(&self) {
        self.lock()
            .retain(|message| matches!(message, Message::GateEmpty(..) | Message::Notifier(..)));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Message>> {
        lock(&self.messages)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HotplugSink for Queue {
    fn notice(&self, notice: cpu_hotplug::Notice) {
        if let Some(notice) = ost::notice(notice) {
            self.post(Message::Notice(notice));
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closings = lock(&self.closings);
        let said = |message: &Message| match message {
            Message::GateEmpty(vcpu, closing) => {
                let number = closings.iter().position(|known| known == closing);
                format!("GateEmpty({vcpu}, {number:?})")
            }
            other => format!("{other:?}"),
        };
        f.debug_list()
            .entries(self.lock().iter().map(said))
            .finish()
    }
}

/// A vCPU's thread: what it was told, and what it has yet to do about that.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    pub(crate) running: Option<u64>,
    last: u64,
    pub(crate) todo: VecDeque<Message>,
    /// It was to run, and does not, or there is none: asked to leave the guest, it has left already.
    is_idle: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    registers: CpuHotplug,
    pub(crate) threads: Vec<Thread>,
    /// Which slots have a CPU in them, as the host has it, and the number of each one's last insertion.
    pub(crate) present: Vec<bool>,
    pub(crate) plugs: Vec<u32>,
    /// The guest was told to look.
    pub(crate) interrupt: bool,
    /// The threads that were told to leave the guest, since somebody asked.
    pub(crate) parked: Vec<u32>,
    /// There is no room for the next thread.
    is_full: bool,
    /// What must never be.
    pub(crate) wrong: Vec<String>,
}

impl Machine {
    /// A machine of `max` vCPUs, with these in it, each with the number of its run.
    pub(crate) fn new(
        queue: &Queue,
        max: u32,
        present: &[(u32, u64)],
        guest_eject: GuestEject,
    ) -> Self {
        let sink = Arc::new(queue.clone());
        let ids = present.iter().map(|(id, _)| *id);
        let there: Vec<bool> = (0..max)
            .map(|id| present.iter().any(|(present, _)| *present == id))
            .collect();
        let mut threads: Vec<Thread> = there.iter().map(|_| Thread::default()).collect();
        for (id, run) in present {
            let thread = &mut threads[*id as usize];
            (thread.last, thread.running) = (*run, Some(*run));
        }
        Self {
            registers: CpuHotplug::new(max, ids, guest_eject, sink),
            threads,
            plugs: vec![0; there.len()],
            present: there,
            interrupt: false,
            is_full: false,
            parked: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// What the host might not do.
    pub(crate) fn possible_failures(&self) -> impl Iterator<Item = Act> {
        let about_to_run =
            |thread: &Thread| matches!(thread.todo.front(), Some(Message::Ready(..)));
        let threads = (0u32..).zip(&self.threads);
        let about = threads.filter(move |(_, thread)| about_to_run(thread));
        let cannot = about.map(|(id, _)| Act::CannotRun(id));
        cannot.chain((!self.is_full).then_some(Act::Fill))
    }

    /// It does not do it.
    pub(crate) fn fail(&mut self, act: &Act) {
        match act {
            Act::CannotRun(id) => {
                let thread = &mut self.threads[*id as usize];
                thread.running = None;
                thread.is_idle = true;
                if let Some(ready) = thread.todo.front_mut() {
                    *ready = Message::NotReady(*id, thread.last, "it cannot run".to_owned());
                }
            }
            _ => self.is_full = true,
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.registers.mmio_write(MmioAddress(0), offset, data);
    }

    fn select(&self, cpu: u32) {
        self.write(regs::SELECTOR, &cpu.to_le_bytes());
    }

    fn read_flags(&self) -> u8 {
        let mut data = [0];
        self.registers
            .mmio_read(MmioAddress(0), regs::FLAGS, &mut data);
        data[0]
    }

    /// `_STA`: whether the guest sees it.
    pub(crate) fn sta(&self, cpu: u32) -> bool {
        self.select(cpu);
        self.read_flags() & regs::ENABLED != 0
    }

    pub(crate) fn ost(&self, cpu: u32, source: u32, status: u32) {
        self.select(cpu);
        for (command, value) in [(1, source), (2, status)] {
            self.write(regs::COMMAND, &[command]);
            self.write(regs::DATA, &value.to_le_bytes());
        }
    }

    /// `_EJ0`. If it was honoured, as is said in the queue: whether it counts as asked for.
    pub(crate) fn eject(&mut self, cpu: u32, queue: &Queue) -> Option<bool> {
        self.select(cpu);
        self.write(regs::FLAGS, &[regs::EJECT]);
        let honoured = queue.ends_with_eject();
        self.present[cpu as usize] &= honoured.is_none();
        honoured
    }

    /// The guest's scan begins.
    pub(crate) fn begin_scan(&mut self) {
        self.interrupt = false;
        self.select(0);
    }

    /// The next event that the scan finds, which it clears afterwards.
    pub(crate) fn find(&self) -> Option<(u32, Request)> {
        self.write(regs::COMMAND, &[0]);
        let flags = self.read_flags();
        let mut data = [0; 4];
        self.registers
            .mmio_read(MmioAddress(0), regs::DATA, &mut data);
        let request = match flags {
            flags if flags & regs::INSERT != 0 => Request::Insert,
            flags if flags & regs::REMOVE != 0 => Request::Eject,
            _ => return None,
        };
        Some((u32::from_le_bytes(data), request))
    }

    /// It clears what it has found.
    pub(crate) fn clear(&self, request: Request) {
        let event = match request {
            Request::Insert => regs::INSERT,
            Request::Eject => regs::REMOVE,
        };
        self.write(regs::FLAGS, &[event]);
    }
}

impl Machinery for Machine {
    fn start(&mut self, vcpu: u32, run: u64) -> Result<(), String> {
        let thread = &mut self.threads[vcpu as usize];
        if thread.running.is_some() {
            self.wrong.push(format!("vCPU {vcpu} was started twice"));
        }
        thread.last = run;
        if std::mem::take(&mut self.is_full) {
            thread.is_idle = true;
            return Err("no room for a thread".to_owned());
        }
        (thread.running, thread.is_idle) = (Some(run), false);
        thread.todo.push_back(Message::Ready(vcpu, run));
        Ok(())
    }

    fn park(&mut self, vcpu: u32) {
        if vcpu == 0 {
            self.wrong.push("the boot CPU was taken away".to_owned());
        }
        if self.present[vcpu as usize] {
            let wrong = format!("vCPU {vcpu} was torn down while the guest has it");
            self.wrong.push(wrong);
        }
        let thread = &mut self.threads[vcpu as usize];
        // Asked again, it is kicked again, and parks once.
        if thread.running.take().is_some() || thread.is_idle {
            let last = thread.last;
            thread.todo.push_back(Message::Parked(vcpu, last));
        }
        self.parked.push(vcpu);
    }

    fn end_thread(&mut self, vcpu: u32) {
        if self.threads[vcpu as usize].running.is_some() {
            let wrong = format!("vCPU {vcpu}'s thread was ended while it runs");
            self.wrong.push(wrong);
        }
    }

    fn thread(&self, _vcpu: u32) -> Option<ThreadView> {
        None
    }

    fn insert(&mut self, vcpu: u32) -> u32 {
        if self.threads[vcpu as usize].running.is_none() {
            let wrong = format!("vCPU {vcpu} was shown to the guest, and nothing runs it");
            self.wrong.push(wrong);
        }
        self.present[vcpu as usize] = true;
        self.interrupt = true;
        self.plugs[vcpu as usize] = self.registers.insert(vcpu);
        self.plugs[vcpu as usize]
    }

    fn announce(&mut self, vcpu: u32) {
        self.interrupt = true;
        self.registers.announce(vcpu);
    }

    fn remind(&mut self) {
        self.interrupt = true;
    }

    fn untold(&self) -> Option<String> {
        None
    }

    fn withdraw_insert(&mut self, vcpu: u32) -> bool {
        let withdrawn = self.registers.withdraw_insert(vcpu);
        self.present[vcpu as usize] &= !withdrawn;
        withdrawn
    }

    fn discard(&mut self, vcpu: u32) -> bool {
        let discarded = self.registers.discard(vcpu);
        self.present[vcpu as usize] &= !discarded;
        discarded
    }

    fn request_eject(&mut self, vcpu: u32) -> u32 {
        self.interrupt = true;
        self.registers.request_eject(vcpu)
    }

    fn withdraw_eject(&mut self, vcpu: u32) -> Withdrawn {
        self.registers.withdraw_eject(vcpu).into()
    }

    fn acknowledge(&mut self, vcpu: u32) {
        self.registers.acknowledge(vcpu);
    }
}

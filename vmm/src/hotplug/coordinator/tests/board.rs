//! A machine of plain data around the real controller.

use super::super::*;
use crate::acpi::ost;
use crate::hotplug::guest::Withdrawn;
use crate::hotplug::view::ThreadView;
use hotvisor_devices::cpu_hotplug::{
    self, CpuHotplug, GuestEject, HotplugSink, Request as Ask, regs,
};
use std::collections::VecDeque;
use std::sync::Mutex;
use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;

/// How many CPUs there can be.
pub(super) const CPUS: u32 = 4;

/// The control thread's queue.
#[derive(Clone, Default)]
pub(super) struct Queue(pub(super) Arc<Mutex<VecDeque<Message>>>);

impl HotplugSink for Queue {
    fn notice(&self, notice: cpu_hotplug::Notice) {
        if let Some(notice) = ost::notice(notice) {
            self.post(Message::Notice(notice));
        }
    }
}

impl Queue {
    pub(super) fn post(&self, message: Message) {
        self.0.lock().unwrap().push_back(message);
    }

    pub(super) fn pop(&self) -> Option<Message> {
        self.0.lock().unwrap().pop_front()
    }
}

/// A vCPU's thread, as far as it matters: what it was told, and what it has yet to do about that.
#[derive(Default)]
pub(super) struct Thread {
    pub(super) running: Option<u64>,
    last: u64,
    /// The next start fails, at once or later.
    pub(super) fails: Option<bool>,
    pub(super) todo: VecDeque<Message>,
}

/// A machine of plain data around the real controller.
pub(super) struct Board {
    registers: CpuHotplug,
    pub(super) threads: Vec<Thread>,
    /// Which slots have a CPU in them, as far as the host goes: the guest is not shown each at once.
    present: Vec<bool>,
    queue: Queue,
    /// The guest was notified, and has not looked.
    pub(super) interrupt: bool,
}

impl Board {
    pub(super) fn new(queue: &Queue, present: impl Iterator<Item = (u32, u64)>) -> Self {
        let present: Vec<_> = present.collect();
        let ids = present.iter().map(|(id, _)| *id);
        let sink = Arc::new(queue.clone());
        let mut threads: Vec<_> = (0..CPUS).map(|_| Thread::default()).collect();
        for (id, run) in &present {
            threads[*id as usize].running = Some(*run);
        }
        let mut there = vec![false; CPUS as usize];
        for id in ids.clone().chain([0]) {
            there[id as usize] = true;
        }
        Self {
            registers: CpuHotplug::new(CPUS, ids, GuestEject::Honour, sink),
            threads,
            present: there,
            queue: queue.clone(),
            interrupt: false,
        }
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        self.registers.mmio_write(MmioAddress(0), offset, data);
    }

    pub(super) fn read(&self, offset: u64, width: usize) -> u32 {
        let mut data = [0; 4];
        self.registers
            .mmio_read(MmioAddress(0), offset, &mut data[..width]);
        u32::from_le_bytes(data)
    }

    pub(super) fn flags(&self, cpu: u32) -> u8 {
        self.write(0, &cpu.to_le_bytes());
        u8::try_from(self.read(4, 1)).unwrap()
    }

    pub(super) fn is_enabled(&self, cpu: u32) -> bool {
        self.flags(cpu) & regs::ENABLED != 0
    }

    pub(super) fn ost(&self, cpu: u32, source: u32, status: u32) {
        self.write(0, &cpu.to_le_bytes());
        for (command, value) in [(1, source), (2, status)] {
            self.write(5, &[command]);
            self.write(8, &value.to_le_bytes());
        }
    }

    /// Whether it was honoured.
    pub(super) fn eject(&mut self, cpu: u32) -> bool {
        self.write(0, &cpu.to_le_bytes());
        self.write(4, &[regs::EJECT]);
        let queue = self.queue.0.lock().unwrap();
        let ejected = matches!(
            queue.back(),
            Some(Message::Notice(Notice { vcpu: n, what: What::Ejected { .. }, .. })) if *n == cpu
        );
        if ejected && self.present[cpu as usize] {
            self.present[cpu as usize] = false;
            return true;
        }
        false
    }

    /// What one pass of the guest's scan finds and clears.
    pub(super) fn scan(&self) -> Vec<(u32, Ask)> {
        let mut found = Vec::new();
        self.write(0, &0u32.to_le_bytes());
        loop {
            self.write(5, &[0]);
            let flags = u8::try_from(self.read(4, 1)).unwrap();
            let cpu = self.read(8, 4);
            let (event, ask) = if flags & regs::INSERT != 0 {
                (regs::INSERT, Ask::Insert)
            } else if flags & regs::REMOVE != 0 {
                (regs::REMOVE, Ask::Eject)
            } else {
                return found;
            };
            self.write(4, &[event]);
            found.push((cpu, ask));
        }
    }
}

impl Machinery for Board {
    fn start(&mut self, vcpu: u32, run: u64) -> Result<(), String> {
        let thread = &mut self.threads[vcpu as usize];
        assert_eq!(thread.running, None, "started twice");
        thread.last = run;
        match thread.fails.take() {
            None => {
                thread.running = Some(run);
                thread.todo.push_back(Message::Ready(vcpu, run));
            }
            Some(true) => return Err("no room".to_owned()),
            Some(false) => {
                let why = "no room".to_owned();
                thread.todo.push_back(Message::NotReady(vcpu, run, why));
            }
        }
        Ok(())
    }
    fn park(&mut self, vcpu: u32) {
        assert_ne!(vcpu, 0, "the boot CPU was parked");
        assert!(
            !self.present[vcpu as usize],
            "parked while the guest has it"
        );
        let thread = &mut self.threads[vcpu as usize];
        if let Some(run) = thread.running.take() {
            thread.last = run;
        }
        thread.todo.push_back(Message::Parked(vcpu, thread.last));
    }
    fn end_thread(&mut self, _vcpu: u32) {}
    fn thread(&self, _vcpu: u32) -> Option<ThreadView> {
        None
    }
    fn insert(&mut self, vcpu: u32) -> u32 {
        assert!(self.threads[vcpu as usize].running.is_some(), "no thread");
        self.present[vcpu as usize] = true;
        self.interrupt = true;
        self.registers.insert(vcpu)
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

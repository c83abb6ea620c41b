//! The CPU hotplug controller, between a guest and a host that do anything in any order.

use super::{Access, steps};
use arbitrary::Arbitrary;
use hotvisor_devices::cpu_hotplug::regs::{
    COMMAND, Command, DATA, EJECT, ENABLED, FLAGS, INSERT, LEN, REMOVE, SELECTOR,
};
use hotvisor_devices::cpu_hotplug::{CpuHotplug, GuestEject, HotplugSink, Notice, What, Withdrawn};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;

/// How many CPUs there can be.
const MAX: u32 = 5;
/// How many are there at first.
const PRESENT: u32 = 2;

/// A CPU that there can be, most of the time.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Cpu(u8);

impl Cpu {
    fn id(self) -> u32 {
        match self.0 {
            u8::MAX => u32::MAX,
            n => u32::from(n) % (MAX + 1),
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    Read(Access),
    Write(Access),
    Select(Cpu),
    Flags(u8),
    LookAtFlags,
    /// A command, and what it answers.
    Command(u8),
    Data(u32),
    Insert(Cpu),
    Announce(Cpu),
    Acknowledge(Cpu),
    RequestEject(Cpu),
    WithdrawEject(Cpu),
    WithdrawInsert(Cpu),
    Discard(Cpu),
}

#[derive(Default)]
struct Posted(Mutex<Vec<Notice>>);

impl HotplugSink for Posted {
    fn notice(&self, notice: Notice) {
        let mut posted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        posted.push(notice);
    }
}

impl Posted {
    fn take(&self) -> Vec<Notice> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The controller, and what must be true of it.
struct Bed {
    controller: CpuHotplug,
    posted: Arc<Posted>,
    policy: GuestEject,
    /// Whether there is a CPU, by all that was said of it.
    there: [bool; MAX as usize],
    /// Whether an eject of it was asked for, and neither taken back nor refused.
    asked: [bool; MAX as usize],
}

impl Bed {
    fn new(policy: GuestEject) -> Self {
        let posted = Arc::new(Posted::default());
        let mut there = [false; MAX as usize];
        there[..PRESENT as usize].fill(true);
        Self {
            controller: CpuHotplug::new(MAX, 0..PRESENT, policy, posted.clone()),
            posted,
            policy,
            there,
            asked: [false; MAX as usize],
        }
    }

    fn read(&self, offset: u64, width: usize) -> u64 {
        let mut data = [0xaa; 8];
        self.controller
            .mmio_read(MmioAddress(0), offset, &mut data[..width]);
        data[width..].fill(0);
        u64::from_le_bytes(data)
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.controller.mmio_write(MmioAddress(0), offset, data);
    }

    fn is_register(offset: u64, width: usize) -> bool {
        matches!((offset, width), (SELECTOR | DATA, 4) | (FLAGS | COMMAND, 1))
    }

    /// Does it, and notes what the host has done.
    fn take(&mut self, step: &Step) {
        let host = &self.controller;
        match *step {
            Step::Read(access) => {
                let (offset, width) = (access.offset(LEN), access.width());
                let value = self.read(offset, width);
                assert!(
                    value == 0 || Self::is_register(offset, width),
                    "{access:?}: {value:#x}"
                );
            }
            Step::Write(access) => self.write(access.offset(LEN), &access.data()),
            Step::Select(cpu) => self.write(SELECTOR, &cpu.id().to_le_bytes()),
            Step::Flags(value) => self.write(FLAGS, &[value]),
            Step::LookAtFlags => {
                let flags = self.read(FLAGS, 1);
                let known = u64::from(ENABLED | INSERT | REMOVE);
                assert!(flags & !known == 0, "{flags:#x}");
                assert!(
                    flags == 0 || flags & u64::from(ENABLED) != 0,
                    "an event of an empty slot"
                );
            }
            Step::Command(number) => {
                self.write(COMMAND, &[number]);
                self.read(DATA, 4);
            }
            Step::Data(value) => self.write(DATA, &value.to_le_bytes()),
            Step::Insert(cpu) => {
                host.insert(cpu.id());
                self.note(cpu, |there, asked| {
                    *asked &= *there;
                    *there = true;
                });
            }
            Step::Announce(cpu) => host.announce(cpu.id()),
            Step::Acknowledge(cpu) => host.acknowledge(cpu.id()),
            Step::RequestEject(cpu) => {
                host.request_eject(cpu.id());
                self.note(cpu, |there, asked| *asked |= *there && cpu.id() > 0);
            }
            Step::WithdrawEject(cpu) => {
                // Behind one that the guest has read it is asked for all the same.
                let gone = host.withdraw_eject(cpu.id()) == Withdrawn::All;
                self.note(cpu, |_, asked| *asked &= !gone);
            }
            Step::WithdrawInsert(cpu) => {
                let gone = host.withdraw_insert(cpu.id());
                assert!(!gone || cpu.id() > 0, "the boot CPU was taken");
                self.note(cpu, |there, asked| {
                    assert!(!gone || *there, "nobody was there");
                    *there &= !gone;
                    *asked &= !gone;
                });
            }
            Step::Discard(cpu) => {
                let gone = host.discard(cpu.id());
                assert!(!gone || cpu.id() > 0, "the boot CPU was taken");
                self.note(cpu, |there, asked| {
                    assert!(!gone || *there, "nobody was there");
                    *there &= !gone;
                    *asked &= !gone;
                });
            }
        }
    }

    fn note(&mut self, cpu: Cpu, change: impl FnOnce(&mut bool, &mut bool)) {
        let id = cpu.id() as usize;
        if let (Some(there), Some(asked)) = (self.there.get_mut(id), self.asked.get_mut(id)) {
            change(there, asked);
        }
    }

    /// Holds what was posted against what was asked for.
    fn check(&mut self, step: &Step) {
        let posted = self.posted.take();
        assert!(posted.len() <= 2, "{step:?} posts {posted:?}");
        for Notice { cpu, what, .. } in posted {
            let id = cpu as usize;
            assert!(cpu < MAX, "{step:?}: there is no CPU {cpu}");
            if let What::Status { kept: Some(_), .. } = what {
                self.asked[id] = false;
            }
            if let What::Ejected { requested } = what {
                assert!(cpu != 0, "{step:?} ejects the boot CPU");
                assert!(self.there[id], "{step:?} ejects nobody");
                assert_eq!(requested, self.asked[id], "{step:?}");
                assert!(requested || self.policy == GuestEject::Honour, "{step:?}");
                (self.there[id], self.asked[id]) = (false, false);
            }
        }
    }

    /// A whole scan ends, and leaves no event behind.
    fn scan(&self) {
        self.write(SELECTOR, &0_u32.to_le_bytes());
        for found in 0.. {
            assert!(found <= MAX, "a scan without an end");
            self.write(COMMAND, &[0]);
            let cpu = self.read(DATA, 4);
            let flags = self.read(FLAGS, 1);
            let events = flags & u64::from(INSERT | REMOVE);
            if events == 0 {
                return;
            }
            assert!(cpu < u64::from(MAX), "event of CPU {cpu}");
            self.write(FLAGS, &[INSERT]);
            self.write(FLAGS, &[REMOVE]);
        }
    }

    /// Whatever was done before, an ordinary guest can take a CPU and give it back; a second eject is ignored.
    fn come_and_go(&self, cpu: u32) {
        let ost = |status: u32| {
            for (command, value) in [(Command::OstSource, 1), (Command::OstStatus, status)] {
                self.write(COMMAND, &[command.number()]);
                self.write(DATA, &value.to_le_bytes());
            }
        };
        // It may have one to look for that it has ejected.
        self.write(SELECTOR, &cpu.to_le_bytes());
        self.read(FLAGS, 1);
        let plug = self.controller.insert(cpu);
        let told = self.read(FLAGS, 1);
        assert!(
            told & u64::from(ENABLED | INSERT) == u64::from(ENABLED | INSERT),
            "CPU {cpu} is not announced: {told:#x}"
        );
        self.write(FLAGS, &[INSERT]);
        ost(0);
        self.controller.request_eject(cpu);
        let told = self.read(FLAGS, 1);
        assert!(
            told & u64::from(REMOVE) != 0,
            "CPU {cpu} is not asked for: {told:#x}"
        );
        self.write(FLAGS, &[REMOVE]);
        self.posted.take();
        let ejected = Notice {
            cpu,
            plug,
            what: What::Ejected { requested: true },
        };
        self.write(FLAGS, &[EJECT]);
        assert_eq!(self.posted.take(), [ejected]);
        assert_eq!(self.read(FLAGS, 1), 0, "CPU {cpu} is shown");
        self.write(FLAGS, &[EJECT]);
        let again = self.posted.take();
        let ignored = |notice: &Notice| matches!(notice.what, What::EjectIgnored(_));
        assert!(again.len() == 1 && again.iter().all(ignored), "{again:?}");
    }
}

pub(crate) fn run(bytes: &[u8]) {
    let (policy, bytes) = match bytes.split_first() {
        Some((first, rest)) if first % 2 == 1 => (GuestEject::Ignore, rest),
        Some((_, rest)) => (GuestEject::Honour, rest),
        None => return,
    };
    let mut bed = Bed::new(policy);
    steps(bytes, |step| {
        bed.take(&step);
        bed.check(&step);
    });
    bed.scan();
    // What the guest can see is there, by all that was said.
    for cpu in 0..MAX {
        bed.write(SELECTOR, &cpu.to_le_bytes());
        let flags = bed.read(FLAGS, 1);
        let shown = flags & u64::from(ENABLED) != 0;
        assert!(
            !shown || bed.there[cpu as usize],
            "CPU {cpu} is shown, and not there"
        );
        assert!(shown || cpu > 0, "the boot CPU is gone");
    }
    for cpu in 1..MAX {
        bed.come_and_go(cpu);
    }
}

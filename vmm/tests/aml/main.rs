//! The DSDT's methods, run by ACPICA's interpreter against the device models, without KVM and a guest.

#![cfg(all(test, target_arch = "x86_64"))]
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

mod acpiexec;
mod insn;

use acpiexec::{Acpiexec, Bus, Run, Step};
use hotvisor_devices::IrqLine;
use hotvisor_devices::cpu_hotplug::regs::{COMMAND, DATA, EJECT, ENABLED, FLAGS, INSERT, REMOVE};
use hotvisor_devices::cpu_hotplug::{
    self, CpuHotplug, GuestEject, HotplugSink, Ignored, Notice, What,
};
use hotvisor_devices::ged::{self, Event, Ged};
use hotvisor_vmm::acpi::{Machine, Tables};
use hotvisor_vmm::arch::layout::{CPU_HOTPLUG, GED};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;

const SCAN: &str = r"\_SB.CPUS.CSCN";
/// The GED's handler, with its interrupt.
const EVENT: &str = r"\_SB.GED._EVT 0x10";

#[derive(Default)]
struct Posted(Mutex<Vec<Notice>>);

impl HotplugSink for Posted {
    fn notice(&self, notice: Notice) {
        self.0.lock().unwrap().push(notice);
    }
}

struct NoLine;

impl IrqLine for NoLine {
    fn pulse(&self) {}
}

/// Something that the host does.
type Change<'a> = &'a dyn Fn(&CpuHotplug);

/// A machine of tables and device models.
struct Bed<'a> {
    acpiexec: Acpiexec,
    cpus: CpuHotplug,
    ged: Ged,
    posted: Arc<Posted>,
    /// What the host does right before the n-th access.
    meanwhile: (usize, Change<'a>),
    accesses: Cell<usize>,
}

impl<'a> Bed<'a> {
    /// A machine with `max` possible CPUs, of which these and CPU 0 are there.
    fn new(max: u32, present: &[u32]) -> Self {
        let present: Vec<u32> = present.iter().copied().chain([0]).collect();
        let machine = Machine {
            max,
            present: present.iter().copied().collect(),
            serial: true,
            vsock: true,
        };
        let posted = Arc::new(Posted::default());
        Self {
            acpiexec: Acpiexec::new(&Tables::build(&machine).dsdt),
            cpus: CpuHotplug::new(max, present, GuestEject::Ignore, posted.clone()),
            ged: Ged::new(Arc::new(NoLine)),
            posted,
            meanwhile: (usize::MAX, &|_| {}),
            accesses: Cell::new(0),
        }
    }

    fn run(&self, calls: &[&str]) -> Run {
        self.accesses.set(0);
        self.acpiexec.run(calls, self)
    }

    fn posted(&self) -> Vec<(u32, What)> {
        let notices = std::mem::take(&mut *self.posted.0.lock().unwrap());
        notices.iter().map(|n| (n.cpu, n.what)).collect()
    }

    fn device(&self, address: u64) -> Option<(&dyn DeviceMmio, u64)> {
        let n = self.accesses.replace(self.accesses.get() + 1);
        if n == self.meanwhile.0 {
            (self.meanwhile.1)(&self.cpus);
        }
        if (GED..GED + ged::LEN).contains(&address) {
            Some((&self.ged, address - GED))
        } else if (CPU_HOTPLUG..CPU_HOTPLUG + cpu_hotplug::LEN).contains(&address) {
            Some((&self.cpus, address - CPU_HOTPLUG))
        } else {
            None
        }
    }
}

impl Bus for Bed<'_> {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let device = self.device(address);
        device
            .map(|(device, offset)| device.mmio_read(MmioAddress(address - offset), offset, data))
            .is_some()
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        let device = self.device(address);
        device
            .map(|(device, offset)| device.mmio_write(MmioAddress(address - offset), offset, data))
            .is_some()
    }
}

fn notice(device: &str, value: u8) -> (String, u8) {
    (device.to_owned(), value)
}

fn status(source: u32, status: u32) -> What {
    What::Status {
        source,
        status,
        kept: None,
    }
}

#[test]
fn an_insertion_reaches_the_device_and_is_acknowledged_in_seven_accesses() {
    let bed = Bed::new(8, &[]);
    assert_eq!(bed.cpus.insert(5), 1);
    bed.ged.raise(Event::CpuHotplug);
    let run = bed.run(&[EVENT]);
    assert_eq!(run.notified(), [notice("C005", 1)]);
    assert_eq!(bed.posted(), [(5, What::InsertRead)]);
    let read = |offset: u64, data: &[u8]| Step::Read(CPU_HOTPLUG + offset, data.to_vec());
    let write = |offset: u64, value: u8| Step::Write(CPU_HOTPLUG + offset, vec![value]);
    let expected = [
        Step::Read(GED, vec![1, 0, 0, 0]),
        write(COMMAND, 0),
        read(FLAGS, &[ENABLED | INSERT]),
        read(DATA, &[5, 0, 0, 0]),
        write(FLAGS, INSERT),
        Step::Notify,
        write(COMMAND, 0),
        read(FLAGS, &[ENABLED]),
    ];
    assert_eq!(run.steps, expected);
    assert_eq!(bed.run(&[EVENT, SCAN]).notified(), []);
}

#[test]
fn sta_is_all_or_nothing() {
    let bed = Bed::new(300, &[2, 299]);
    let calls = ["C000", "C001", "C002", "C12B"].map(|cpu| format!(r"\_SB.CPUS.{cpu}._STA"));
    let run = bed.run(&calls.each_ref().map(String::as_str));
    assert_eq!(run.returned(), [0xf, 0, 0xf, 0xf]);
    assert_eq!(run.steps.len(), 2 * calls.len());
}

#[test]
fn an_eject_goes_from_request_to_empty_slot() {
    let bed = Bed::new(4, &[1]);
    bed.cpus.request_eject(1);
    bed.ged.raise(Event::CpuHotplug);
    let run = bed.run(&[
        EVENT,
        r"\_SB.CPUS.C001._OST 3 0x84 (00)",
        r"\_SB.CPUS.C001._EJ0 1",
        r"\_SB.CPUS.C001._STA",
        r"\_SB.CPUS.C001._OST 3 0 (00)",
    ]);
    assert_eq!(run.notified(), [notice("C001", 3)]);
    assert_eq!(run.returned().last(), Some(&0));
    let expected = [
        What::EjectRead(1),
        status(3, 0x84),
        What::Ejected { requested: true },
        status(3, 0),
    ];
    assert_eq!(bed.posted(), expected.map(|what| (1, what)));
    // Once more, as when two requests were queued; and one that nobody asked for.
    bed.run(&[r"\_SB.CPUS.C001._EJ0 1", r"\_SB.CPUS.C001._STA"]);
    let empty = What::EjectIgnored(Ignored::Empty);
    assert_eq!(bed.posted(), [(1, empty)]);
    bed.cpus.insert(1);
    bed.run(&[SCAN, r"\_SB.CPUS.C001._EJ0 1"]);
    let stale = What::EjectIgnored(Ignored::NotYetKnown);
    assert_eq!(bed.posted().last(), Some(&(1, stale)));
}

#[test]
fn the_boot_cpu_has_no_eject() {
    let bed = Bed::new(2, &[1]);
    let dsdt = Tables::build(&Machine {
        max: 1,
        present: [0].into(),
        serial: false,
        vsock: false,
    })
    .dsdt;
    assert!(!dsdt.windows(4).any(|name| name == b"_EJ0"));
    bed.run(&[r"\_SB.CPUS.CEJ0 0"]);
    assert_eq!(
        bed.posted(),
        [(0, What::EjectIgnored(Ignored::BootCpu))],
        "the controller does not rely on that"
    );
}

#[test]
fn ost_passes_its_numbers_whole() {
    let bed = Bed::new(300, &[299]);
    let run = bed.run(&[
        r"\_SB.CPUS.C12B._OST 0x103 0x12345678 (00)",
        r"\_SB.CPUS.C12B._OST 1 0 (00)",
    ]);
    assert_eq!(run.steps.len(), 2 * 5);
    let expected = [status(0x103, 0x1234_5678), status(1, 0)];
    assert_eq!(bed.posted(), expected.map(|what| (299, what)));
}

#[test]
fn a_cpu_that_is_not_there_is_neither_enabled_nor_ejected() {
    let bed = Bed::new(4, &[1, 2, 3]);
    let run = bed.run(&[
        r"\_SB.CPUS.CSTA 4",
        r"\_SB.CPUS.CSTA 0xFFFFFFFF",
        r"\_SB.CPUS.CEJ0 4",
        r"\_SB.CPUS.COST 4 3 0",
    ]);
    assert_eq!((run.returned(), bed.posted()), (vec![0, 0], vec![]));
}

#[test]
fn a_scan_finds_all_events_from_wherever_other_methods_left_off() {
    let bed = Bed::new(16, &[1, 9]);
    bed.cpus.request_eject(1);
    bed.cpus.insert(12);
    bed.cpus.insert(3);
    // A CPU that comes and is to go at once: it comes first, and goes when the guest has said that it has it.
    bed.cpus.insert(4);
    bed.cpus.request_eject(4);
    let run = bed.run(&[
        r"\_SB.CPUS.C009._OST 1 0 (00)",
        SCAN,
        r"\_SB.CPUS.C00C._STA",
        r"\_SB.CPUS.C004._OST 1 0 (00)",
        SCAN,
    ]);
    let expected = [
        ("C00C", 1),
        ("C001", 3),
        ("C003", 1),
        ("C004", 1),
        ("C004", 3),
    ];
    assert_eq!(
        run.notified(),
        expected.map(|(cpu, value)| notice(cpu, value))
    );
    assert_eq!(run.returned(), [0xf]);
    let acknowledged = bed.posted().len() - 2;
    assert_eq!(acknowledged, expected.len());
}

/// A guest with many possible CPUs pays no more for an event than one with few.
#[test]
fn the_number_of_accesses_does_not_depend_on_the_machines_size() {
    let accesses = |max: u32, events: u32| {
        let bed = Bed::new(max, &[]);
        for cpu in 0..events {
            bed.cpus.insert(max - 1 - cpu);
        }
        let run = bed.run(&[SCAN]);
        assert_eq!(run.notified().len(), events as usize);
        run.accesses().len()
    };
    for (events, expected) in [(0, 2), (1, 6), (3, 14)] {
        assert_eq!(accesses(8, events), expected, "{events} events");
        assert_eq!(accesses(512, events), expected, "{events} events");
    }
}

#[test]
fn every_cpu_is_notified_by_its_own_name() {
    for max in [1, 3, 16, 300] {
        let bed = Bed::new(max, &[]);
        let cpus: Vec<u32> = (0..max).filter(|cpu| max <= 16 || cpu % 13 < 2).collect();
        let calls: Vec<_> = cpus
            .iter()
            .map(|cpu| format!(r"\_SB.CPUS.CTFY {cpu:#x} {:#x}", cpu % 200))
            .collect();
        let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
        let expected: Vec<_> = cpus
            .iter()
            .map(|cpu| notice(&format!("C{cpu:03X}"), u8::try_from(cpu % 200).unwrap()))
            .collect();
        assert_eq!(bed.run(&calls).notified(), expected, "max={max}");
    }
}

#[test]
fn mat_is_the_structure_of_a_cpu_that_is_enabled() {
    let dump = |max, path| {
        let bed = Bed::new(max, &[]);
        bed.run(&[path]).output().to_owned()
    };
    let narrow = dump(8, r"\_SB.CPUS.C005._MAT");
    assert!(narrow.contains("00 08 05 05 01 00 00 00"), "{narrow}");
    let wide = dump(300, r"\_SB.CPUS.C005._MAT");
    let expected = "09 10 00 00 05 00 00 00 01 00 00 00 05 00 00 00";
    assert!(wide.contains(expected), "{wide}");
}

/// Whenever the host sets an event, before or between any two accesses of a scan, the guest is notified
/// afterwards, or the event is there for the next scan, for which the host interrupts again.
#[test]
fn no_moment_of_a_scan_loses_an_event() {
    let changes: [(u32, u8, Change<'_>); 4] = [
        (3, INSERT, &|cpus| cpus.announce(3)),
        (2, REMOVE, &|cpus| {
            cpus.request_eject(2);
        }),
        (1, INSERT, &|cpus| {
            cpus.insert(1);
        }),
        (6, INSERT, &|cpus| {
            cpus.insert(6);
        }),
    ];
    for (cpu, event, change) in changes {
        for moment in 0..7 {
            let mut bed = Bed::new(8, &[2]);
            bed.cpus.insert(3);
            bed.meanwhile = (moment, change);
            let run = bed.run(&[SCAN]);
            if bed.accesses.get() <= moment {
                continue;
            }
            let at = access_index(&run, moment);
            let later = run.steps[at..].iter().filter(|step| **step == Step::Notify);
            let value = if event == INSERT { 1 } else { 3 };
            let notified = run.notified();
            let (_, afterwards) = notified.split_at(notified.len() - later.count());
            let told = afterwards.contains(&notice(&format!("C{cpu:03X}"), value));
            bed.meanwhile.0 = usize::MAX;
            let again = bed.run(&[SCAN]).notified();
            let left = again.contains(&notice(&format!("C{cpu:03X}"), value));
            assert!(
                told || left,
                "{event:#x} of CPU {cpu} before access {moment}"
            );
        }
    }
}

/// The host may take back what it likes during a scan: the scan still tells of everything else.
#[test]
fn a_withdrawal_during_a_scan_hides_no_other_event() {
    for moment in 0..11 {
        let mut bed = Bed::new(8, &[2]);
        bed.cpus.request_eject(2);
        bed.cpus.insert(5);
        bed.meanwhile = (moment, &|cpus| {
            let _ = cpus.withdraw_eject(2);
        });
        let run = bed.run(&[SCAN]);
        assert!(run.notified().contains(&notice("C005", 1)), "{moment}");
    }
}

/// Where the n-th access is among the steps.
fn access_index(run: &Run, n: usize) -> usize {
    let accesses = run.steps.iter().enumerate();
    let mut accesses = accesses.filter(|(_, step)| **step != Step::Notify);
    accesses.nth(n).map_or(run.steps.len(), |(at, _)| at)
}

#[test]
fn the_registers_are_the_ones_that_eject_and_answer() {
    let bed = Bed::new(4, &[1]);
    let run = bed.run(&[r"\_SB.CPUS.C001._EJ0 1"]);
    let expected = [
        Step::Write(CPU_HOTPLUG, vec![1, 0, 0, 0]),
        Step::Write(CPU_HOTPLUG + FLAGS, vec![EJECT]),
    ];
    assert_eq!(run.steps, expected, "nothing is read back and rewritten");
}

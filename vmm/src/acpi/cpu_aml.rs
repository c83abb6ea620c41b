//! The part of the DSDT that drives the CPU hotplug controller (`hotvisor_devices::cpu_hotplug`).
//!
//! ```text
//! Device (\_SB.CPUS)              ACPI0010, the container of the processors
//!     CREG, CSEL, CDAT, CFLG, CCMD   the controller's registers
//!     CPLK                        lock: all that uses selector and command holds it
//!     CSTA (cpu)                  _STA of a CPU
//!     CEJ0 (cpu)                  _EJ0
//!     COST (cpu, source, status)  _OST
//!     CTFY (cpu, request)         notifies a CPU's device
//!     CSCN ()                     looks for events; the GED calls it
//!     Device (C000) …             ACPI0007, one for each possible CPU, id in hexadecimal
//! ```
//!
//! An access is an exit of the virtual CPU, so there are few: a scan makes two that find out that there is
//! nothing (more) to do, and four for each event, however many CPUs the machine can have.

use super::madt::{self, Status};
use super::{Raw, bytes};
use crate::arch::layout;
use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, And, Arg, BufferData, Device, EISAName, Else, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, If, LessThan, Local, Method, MethodCall, Mutex, Name, Notify,
    OpRegion, OpRegionSpace, Path, Release, Return, Store, While, ZERO,
};
use hotvisor_devices::cpu_hotplug::regs::{self, Command};
use std::ops::Range;

/// The method that looks for events.
pub(super) const SCAN: &str = "\\_SB_.CPUS.CSCN";

const LOCK: &str = "CPLK";
const SELECTOR: &str = "CSEL";
const DATA: &str = "CDAT";
const FLAGS: &str = "CFLG";
const COMMAND: &str = "CCMD";

/// Waits for a mutex without end: who holds this one only makes accesses that never wait.
const FOREVER: u16 = 0xffff;
/// Notifications (ACPI 6.3, section 5.6.6, table 5-184).
const DEVICE_CHECK: u8 = 1;
/// See [`DEVICE_CHECK`].
const EJECT_REQUEST: u8 = 3;
/// `_STA` of a device that is there, enabled, shown and working (ACPI 6.3, section 6.3.7). One that is not
/// has no bit set: versions of Linux differ about which of them makes a CPU.
const STA_ALL: u8 = 0xf;

/// `\_SB.CPUS`, for a machine that can have `max` CPUs.
pub(super) fn container(max: u32) -> Vec<u8> {
    let mut parts = vec![
        name("_HID", &"ACPI0010"),
        name("_CID", &EISAName::new("PNP0A05")),
        registers(),
        bytes(&Mutex::new(LOCK.into(), 0)),
        status(),
        eject(),
        ost(),
        notify(max),
        scan(),
    ];
    parts.extend((0..max).map(|id| cpu(max, id)));
    device("CPUS", &parts)
}

/// The registers, each one field in its own width: for a field of single bits the interpreter would make
/// an access for each bit that it looks at.
fn registers() -> Vec<u8> {
    let (base, len) = (layout::CPU_HOTPLUG, regs::LEN);
    let region = OpRegion::new("CREG".into(), OpRegionSpace::SystemMemory, &base, &len);
    let field = |access, entries: &[(&str, u64, usize)]| {
        let mut at = 0;
        let mut fields = Vec::new();
        for &(name, offset, width) in entries {
            if offset > at {
                fields.push(FieldEntry::Reserved(bits(offset - at)));
            }
            let mut field_name = *b"____";
            field_name.copy_from_slice(name.as_bytes());
            fields.push(FieldEntry::Named(field_name, 8 * width));
            at = offset + width as u64;
        }
        let (lock, update) = (FieldLockRule::NoLock, FieldUpdateRule::WriteAsZeroes);
        bytes(&Field::new("CREG".into(), access, lock, update, fields))
    };
    [
        bytes(&region),
        field(
            FieldAccessType::DWord,
            &[(SELECTOR, regs::SELECTOR, 4), (DATA, regs::DATA, 4)],
        ),
        field(
            FieldAccessType::Byte,
            &[(FLAGS, regs::FLAGS, 1), (COMMAND, regs::COMMAND, 1)],
        ),
    ]
    .concat()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "an offset within the register block"
)]
const fn bits(bytes: u64) -> usize {
    8 * bytes as usize
}

/// `CSTA (cpu)`.
fn status() -> Vec<u8> {
    let enabled = bytes(&And::new(&Local(0), &Path::new(FLAGS), &regs::ENABLED));
    let there = bytes(&If::new(&Local(0), vec![&Return::new(&STA_ALL)]));
    method(
        "CSTA",
        1,
        &[
            locked(&[set(SELECTOR, &Arg(0)), enabled]),
            there,
            bytes(&Return::new(&ZERO)),
        ],
    )
}

/// `CEJ0 (cpu)`.
fn eject() -> Vec<u8> {
    let steps = [set(SELECTOR, &Arg(0)), set(FLAGS, &regs::EJECT)];
    method("CEJ0", 1, &[locked(&steps)])
}

/// `COST (cpu, source, status)`.
fn ost() -> Vec<u8> {
    let steps = [
        set(SELECTOR, &Arg(0)),
        set(COMMAND, &Command::OstSource.number()),
        set(DATA, &Arg(1)),
        set(COMMAND, &Command::OstStatus.number()),
        set(DATA, &Arg(2)),
    ];
    method("COST", 3, &[locked(&steps)])
}

/// `CTFY (cpu, request)`. AML has no way to name an object by a number, so it decides its way down a
/// balanced tree; the controller selects no CPU that is not in it.
fn notify(max: u32) -> Vec<u8> {
    method("CTFY", 2, &[notify_one_of(0..max)])
}

fn notify_one_of(cpus: Range<u32>) -> Vec<u8> {
    let Range { start, end } = cpus;
    if end - start <= 1 {
        let device = Path::new(&device_name(start));
        return bytes(&Notify::new(&device, &Arg(1)));
    }
    let middle = start.midpoint(end);
    let (low, high) = (notify_one_of(start..middle), notify_one_of(middle..end));
    let is_low = LessThan::new(&Arg(0), &middle);
    let low = bytes(&If::new(&is_low, vec![&Raw(&low)]));
    let high = bytes(&Else::new(vec![&Raw(&high)]));
    [low, high].concat()
}

/// `CSCN ()`: takes one event after the other until command 0 finds none.
///
/// It starts wherever the selector is: command 0 goes around. Every selector that these methods leave
/// behind is one of a CPU that the machine can have.
///
/// An event is cleared *before* its notification. The host may set it again at any moment: before the
/// clearing, and the notification that follows speaks for both; after it, and the loop finds it. The other
/// way round, one that is set again between notification and clearing would be lost. The lock is held, so
/// that nobody else's selection comes between; a notification only queues work, which will wait for the
/// lock in `_STA`.
fn scan() -> Vec<u8> {
    let look = || {
        let events = regs::INSERT | regs::REMOVE;
        let next = set(COMMAND, &Command::NextWithEvent.number());
        let which = bytes(&And::new(&Local(0), &Path::new(FLAGS), &events));
        [next, which].concat()
    };
    let take = |event: u8, request: u8| {
        let cleared = set(FLAGS, &event);
        let notified = bytes(&MethodCall::new("CTFY".into(), vec![&Local(1), &request]));
        let is_set = And::new(&ZERO, &Local(0), &event);
        bytes(&If::new(&is_set, vec![&Raw(&cleared), &Raw(&notified)]))
    };
    let body = [
        bytes(&Store::new(&Local(1), &Path::new(DATA))),
        // With both there, the guest must hear of the CPU before it is asked to give it back.
        take(regs::INSERT, DEVICE_CHECK),
        take(regs::REMOVE, EJECT_REQUEST),
        look(),
    ]
    .concat();
    let loops = bytes(&While::new(&Local(0), vec![&Raw(&body)]));
    method("CSCN", 0, &[locked(&[look(), loops])])
}

/// A CPU's device. `_UID` is what the MADT says; `_MAT` (ACPI 6.3, section 6.2.10) is the MADT's structure
/// as it is with the CPU there, since nobody reads it otherwise and Linux refuses one that is not enabled.
fn cpu(max: u32, id: u32) -> Vec<u8> {
    let mat = madt::cpu(max, id, Status::Enabled);
    let call = |method: &str, args: &[&dyn Aml]| {
        let args = [&[&id as &dyn Aml], args].concat();
        bytes(&MethodCall::new(method.into(), args))
    };
    let sta = call("CSTA", &[]);
    let mut parts = vec![
        name("_HID", &"ACPI0007"),
        name("_UID", &id),
        name("_MAT", &BufferData::new(mat)),
        // A machine with NUMA nodes has the CPU's `_PXM` (ACPI 6.3, section 6.2.14) here.
        method("_STA", 0, &[bytes(&Return::new(&Raw(&sta)))]),
        method("_OST", 3, &[call("COST", &[&Arg(0), &Arg(1)])]),
    ];
    if id != 0 {
        parts.push(method("_EJ0", 1, &[call("CEJ0", &[])]));
    }
    device(&device_name(id), &parts)
}

fn device_name(id: u32) -> String {
    format!("C{id:03X}")
}

fn name(path: &str, value: &dyn Aml) -> Vec<u8> {
    bytes(&Name::new(path.into(), value))
}

fn set(register: &str, value: &dyn Aml) -> Vec<u8> {
    bytes(&Store::new(&Path::new(register), value))
}

fn device(path: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    bytes(&Device::new(path.into(), vec![&Raw(&parts.concat())]))
}

/// Serialized, as a second call would only come in to wait for the lock.
fn method(path: &str, args: u8, steps: &[Vec<u8>]) -> Vec<u8> {
    let steps = steps.concat();
    bytes(&Method::new(path.into(), args, true, vec![&Raw(&steps)]))
}

fn locked(steps: &[Vec<u8>]) -> Vec<u8> {
    let acquire = bytes(&Acquire::new(LOCK.into(), FOREVER));
    let release = bytes(&Release::new(LOCK.into()));
    [acquire, steps.concat(), release].concat()
}

//! The CPU hotplug controller: through it the machine's AML learns which CPUs come and are to go, and says
//! what became of that.
//!
//! QEMU, `docs/specs/acpi_cpu_hotplug.rst`, the *modern* interface; the registers are in [`regs`]. The
//! methods that drive it are ACPI 6.3's `_STA` (6.3.7), `_EJ0` (6.3.3) and `_OST` (6.3.5).
//!
//! The controller answers from its own bits and posts what happened to a [`HotplugSink`]. It interrupts
//! nobody: whoever changes a slot raises [`Event::CpuHotplug`](crate::ged::Event::CpuHotplug) afterwards.
//!
//! | a hostile guest may | and then |
//! |---|---|
//! | access at another width or offset than a register's own | reads zero, writes are ignored; logged |
//! | select a CPU that the machine does not have | reads zero, and all but another selection is ignored; logged |
//! | write a command that does not exist, or data that the command does not take | it is ignored; logged |
//! | eject the boot CPU | it is ignored, posted and logged |
//! | eject an empty slot, or the same CPU twice | so is this; what is inserted then is shown when it has looked |
//! | eject a CPU whose insertion it has not acknowledged: an eject meant for the CPU before | so is this |
//! | not look after an eject whether the CPU is gone | it learns of the next one when it was announced three times |
//! | eject a CPU that nobody asked for | policy says: it loses the CPU, or so is this |
//! | eject the CPU that it does this on | like any other: the write returns, and the machine stops the CPU later |
//! | eject at any time after a request that was not taken back, its event cleared or not | it is honoured |
//! | clear events and do nothing, or never read them | they are gone, or stay; the machine's own deadlines apply |
//! | hand an eject to a firmware (flag bit 4) | there is none: it is ignored; logged |
//! | send any `_OST` at any time for any CPU | it is posted; source 0 or 1 acknowledges the insertion, source 3 answers to a request to eject, the last of which ends its right to |
//! | do all this at full speed from every CPU | one lock, held for a step of bounded length; few lines of log |

mod notice;
pub mod regs;
mod slot;

pub use notice::{HotplugSink, Ignored, Notice, What};
pub use regs::LEN;

use crate::lock;
use crate::ratelimit::RateLimit;
use regs::{Command, Register};
use slot::{Eject, Slot};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use tracing::warn;
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

/// The CPU that is never ejected.
const BOOT_CPU: u32 = 0;
/// Source events of `_OST` that answer to an insertion: the notifications *bus check* and *device check*
/// (ACPI 6.3, section 6.3.5, table 6-203, and 5.6.6, table 5-184).
const INSERTION_SOURCES: [u32; 2] = [0, 1];
/// Source event of `_OST` that answers to the notification *eject request*.
pub const EJECT_REQUEST: u32 = 3;
/// Status of an ejection: it goes on (ACPI 6.3, section 6.3.5, table 6-204).
pub const EJECT_IN_PROGRESS: u32 = 0x84;
/// Status of an insertion: it goes on (ACPI 6.3, section 6.3.5, table 6-205).
pub const INSERT_IN_PROGRESS: u32 = 0x80;
/// Status of an insertion: done.
const TAKEN: u32 = 0;

/// What the guest is asked to do with a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// To take a new one into use.
    Insert,
    /// To give one back.
    Eject,
}

/// What came of taking back a request to eject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Withdrawn {
    /// Nothing is changed: the guest may have read it, has answered it, or has just ejected the CPU.
    Nothing,
    /// The guest has not read it and never will. It has an earlier one that it has not answered, and an eject that comes is
    /// still a requested one.
    Last,
    /// The guest has not read it and never will, and has no other: event and right to eject are gone.
    All,
}

/// The policy for an eject that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEject {
    /// The guest may give back its CPUs.
    Honour,
    /// It may not.
    Ignore,
}

/// The controller.
///
/// CPUs that the machine cannot have (`max` and above) are a mistake of the caller's; the host's functions
/// then do nothing.
pub struct CpuHotplug {
    state: Mutex<State>,
}

/// Of all resets together: a guest may scribble, reset, and scribble again.
static IGNORED: RateLimit = RateLimit::new(8);

struct State {
    slots: Vec<Slot>,
    /// The slots whose flags show an event: the scan asks for the next one, and must not have to look.
    events: BTreeSet<u32>,
    selector: u32,
    command: Command,
    led: Led,
    guest_eject: GuestEject,
    sink: Arc<dyn HotplugSink>,
}

/// How the selector came to where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Led {
    /// The guest has selected the CPU.
    ByGuest,
    /// Command 0 has led the guest's scan there.
    ByScan,
    /// Command 0 has found no event, and left it where it was: what is read then is not about this CPU.
    Nowhere,
}

/// A guest's access without an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum NoEffect {
    #[error("{0}")]
    Misuse(#[from] regs::Misuse),
    #[error("there is no CPU {0}")]
    NoCpu(u32),
    #[error("no such command")]
    NoCommand,
    #[error("the command takes no data")]
    NoArgument,
    #[error("no flag that does anything")]
    NoAction,
    #[error("eject of CPU {0}: {1}")]
    Eject(u32, Ignored),
}

impl CpuHotplug {
    /// A controller for `max` CPUs, with those of `present`, and always CPU 0, in their slots.
    #[must_use]
    pub fn new(
        max: u32,
        present: impl IntoIterator<Item = u32>,
        guest_eject: GuestEject,
        sink: Arc<dyn HotplugSink>,
    ) -> Self {
        let mut slots = vec![Slot::default(); max.max(1) as usize];
        for cpu in present.into_iter().chain([BOOT_CPU]) {
            if let Some(slot) = slots.get_mut(cpu as usize) {
                *slot = Slot::present();
            }
        }
        Self {
            state: Mutex::new(State {
                slots,
                events: BTreeSet::new(),
                selector: 0,
                command: Command::NextWithEvent,
                led: Led::Nowhere,
                guest_eject,
                sink,
            }),
        }
    }

    /// Puts a CPU into its slot, enabled, with the insert event set, and not known to the guest yet.
    /// Returns the number of this insertion. Where there is a CPU already, its event is set again.
    ///
    /// A guest that is about to look whether the CPU that it has just ejected is gone does not see this one
    /// before it has: [`What::SeenEmpty`] is posted then, and the guest to be notified anew.
    pub fn insert(&self, cpu: u32) -> u32 {
        self.change(cpu, Slot::insert).unwrap_or(0)
    }

    /// Sets the insert event of a CPU again, for a guest that has not answered. One that has not looked whether the CPU that it
    /// has ejected is gone is shown this one at the third announcement.
    pub fn announce(&self, cpu: u32) {
        self.change(cpu, Slot::announce);
    }

    /// Sets the remove event of a CPU, and authorises its eject. The boot CPU's is never asked for.
    ///
    /// The guest sees it once it has acknowledged the CPU, by `_OST` or as of [`CpuHotplug::acknowledge`], and is to be
    /// notified then. Returns the number of the request, of those for this CPU; one that follows another before that was read is
    /// the same.
    pub fn request_eject(&self, cpu: u32) -> u32 {
        match cpu {
            BOOT_CPU => 0,
            cpu => self.change(cpu, Slot::request_eject).unwrap_or(0),
        }
    }

    /// Takes the last request to eject back, if the guest has not read it.
    #[must_use]
    pub fn withdraw_eject(&self, cpu: u32) -> Withdrawn {
        self.change(cpu, Slot::withdraw_eject)
            .unwrap_or(Withdrawn::Nothing)
    }

    /// Takes an insertion back. `true`: the guest has neither read the event nor that the slot is enabled,
    /// and the slot is empty again. `false`: it may know of the CPU, and nothing is changed; or it has just
    /// ejected it.
    #[must_use]
    pub fn withdraw_insert(&self, cpu: u32) -> bool {
        self.change(cpu, Slot::withdraw_insert).unwrap_or(false)
    }

    /// The guest has shown by other means than `_OST` that it knows of this insertion: it has started the CPU.
    pub fn acknowledge(&self, cpu: u32) {
        self.change(cpu, Slot::started);
    }

    /// Empties a slot whose CPU the guest has said no to. `true`: its no was the answer to the last announcement, and the
    /// slot is empty. `false`: it was told of the CPU again since, and may take it or has; or its scan is at this slot, for
    /// an ejection that it was asked for meanwhile. Nothing is changed then.
    #[must_use]
    pub fn discard(&self, cpu: u32) -> bool {
        if cpu == BOOT_CPU {
            return false;
        }
        let mut state = lock(&self.state);
        let scanned = state.led == Led::ByScan && state.selector == cpu;
        state
            .change(cpu, |slot| slot.discard(scanned))
            .unwrap_or(false)
    }

    fn change<T>(&self, cpu: u32, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        lock(&self.state).change(cpu, change)
    }

    fn without_effect(&self, why: NoEffect, offset: u64, data: &[u8]) {
        if let Some(n) = IGNORED.pass() {
            warn!(
                offset,
                ?data,
                n,
                "CPU hotplug registers: guest's access ignored: {why}"
            );
        }
    }
}

impl fmt::Debug for CpuHotplug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State {
            slots,
            selector,
            command,
            led,
            ..
        } = &*lock(&self.state);
        write!(f, "CpuHotplug({selector}, {command:?}, {led:?}, {slots:?})")
    }
}

impl State {
    /// Changes a slot, if there is such a one, and keeps the events in step with it.
    fn change<T>(&mut self, cpu: u32, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let slot = self.slots.get_mut(cpu as usize)?;
        let answer = change(slot);
        if slot.has_event() {
            self.events.insert(cpu);
        } else {
            self.events.remove(&cpu);
        }
        Some(answer)
    }

    /// Changes the selected slot.
    fn selected<T>(&mut self, change: impl FnOnce(&mut Slot) -> T) -> Result<T, NoEffect> {
        let cpu = self.selector;
        self.change(cpu, change).ok_or(NoEffect::NoCpu(cpu))
    }

    /// Posts what the guest did with the selected CPU.
    fn post(&mut self, what: What) -> Result<(), NoEffect> {
        let speaks_of_ejection = matches!(
            what,
            What::Status { source, .. } if !INSERTION_SOURCES.contains(&source)
        );
        let plug = self.selected(|slot| slot.meant(speaks_of_ejection))?;
        self.sink.notice(Notice {
            cpu: self.selector,
            plug,
            what,
        });
        Ok(())
    }

    fn read(&mut self, register: Register) -> Result<u32, NoEffect> {
        let flags = self.selected(|slot| slot.flags())?;
        Ok(match (register, self.command) {
            (Register::Flags, _) => {
                self.selected(Slot::shown)?;
                if self.led == Led::ByGuest {
                    self.vacated()?;
                }
                u32::from(flags)
            }
            // CPU n has local APIC id n, as the MADT says.
            (Register::Data, Command::NextWithEvent | Command::ArchId) => self.selector,
            (Register::Data, Command::OstSource | Command::OstStatus) => 0,
            // The high half of every answer is zero.
            (Register::Selector | Register::Command, _) => 0,
        })
    }

    /// The guest has seen, or shows that it knows, that the CPU that it ejected from the selected slot is gone.
    fn vacated(&mut self) -> Result<(), NoEffect> {
        if self.selected(Slot::vacated)? {
            self.post(What::SeenEmpty)?;
        }
        Ok(())
    }

    fn write_flags(&mut self, value: u8) -> Result<(), NoEffect> {
        self.selected(|_| ())?;
        // One action a write, in this order, as in QEMU.
        if value & regs::INSERT != 0 {
            self.acknowledge(Request::Insert)
        } else if value & regs::REMOVE != 0 {
            self.acknowledge(Request::Eject)
        } else if value & regs::EJECT != 0 {
            self.eject()
        } else {
            Err(NoEffect::NoAction)
        }
    }

    fn acknowledge(&mut self, request: Request) -> Result<(), NoEffect> {
        if let Some(read) = self.selected(|slot| slot.acknowledge(request))? {
            self.post(read)?;
        }
        Ok(())
    }

    fn eject(&mut self) -> Result<(), NoEffect> {
        let (cpu, policy) = (self.selector, self.guest_eject);
        let ejected = if cpu == BOOT_CPU {
            Err(Ignored::BootCpu)
        } else {
            self.selected(|slot| slot.eject(policy))?
        };
        match ejected {
            Ok(Eject { requested }) => self.post(What::Ejected { requested }),
            Err(why) => {
                self.post(What::EjectIgnored(why))?;
                Err(NoEffect::Eject(cpu, why))
            }
        }
    }

    fn write_command(&mut self, number: u8) -> Result<(), NoEffect> {
        self.selected(|_| ())?;
        self.command = Command::from_number(number).ok_or(NoEffect::NoCommand)?;
        if self.command == Command::NextWithEvent {
            let from_here_on = self.events.range(self.selector..);
            let found = from_here_on.chain(&self.events).next().copied();
            self.led = found.map_or(Led::Nowhere, |_| Led::ByScan);
            if let Some(cpu) = found {
                self.selector = cpu;
                self.selected(Slot::shown)?;
            }
        }
        Ok(())
    }

    fn write_data(&mut self, value: u32) -> Result<(), NoEffect> {
        match self.command {
            Command::OstSource => self.selected(|slot| slot.ost_source = value),
            Command::OstStatus => {
                let source = self.selected(|slot| slot.ost_source)?;
                let status = value;
                let insertion = INSERTION_SOURCES.contains(&source);
                let kept = self.selected(|slot| slot.answer(insertion, source, status))?;
                self.post(What::Status {
                    source,
                    status,
                    kept,
                })?;
                if insertion { Ok(()) } else { self.vacated() }
            }
            Command::NextWithEvent | Command::ArchId => Err(NoEffect::NoArgument),
        }
    }

    fn select(&mut self, cpu: u32) -> Result<(), NoEffect> {
        self.selector = cpu;
        self.led = Led::ByGuest;
        self.selected(|_| ())
    }
}

/// The value of a register's bytes, of which there are at most four.
fn value(data: &[u8]) -> u32 {
    let bytes = data.iter().take(4).rev();
    bytes.fold(0, |value, byte| value << 8 | u32::from(*byte))
}

impl DeviceMmio for CpuHotplug {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        let value = regs::decode(offset, data.len())
            .map_err(NoEffect::from)
            .and_then(|register| lock(&self.state).read(register))
            .unwrap_or_else(|why| {
                self.without_effect(why, offset, &[]);
                0
            });
        data.fill(0);
        data.iter_mut()
            .zip(value.to_le_bytes())
            .for_each(|(to, from)| *to = from);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        let write = |register| {
            let mut state = lock(&self.state);
            let value = value(data);
            let [byte, ..] = value.to_le_bytes();
            match register {
                Register::Selector => state.select(value),
                Register::Flags => state.write_flags(byte),
                Register::Command => state.write_command(byte),
                Register::Data => state.write_data(value),
            }
        };
        let result = regs::decode(offset, data.len())
            .map_err(NoEffect::from)
            .and_then(write);
        if let Err(why) = result {
            self.without_effect(why, offset, data);
        }
    }
}

#[cfg(test)]
mod tests;

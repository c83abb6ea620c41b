//! The I/O APIC.

use super::{Access, steps};
use arbitrary::Arbitrary;
use hotvisor_devices::ioapic::{IoApic, LEN, Message, MessageSink, PINS};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;

#[derive(Arbitrary, Debug)]
enum Step {
    Edge(u8),
    /// Whether local APICs take messages from now on.
    Taken(bool),
    /// The register, and its value.
    Select(u8),
    Window(u32),
    Read(Access),
    Write(Access),
    /// A pin's entry, and whether it is masked.
    Entry(u8, bool),
}

/// The mask in the lower half of an entry.
const MASKED: u32 = 1 << 16;
/// The vector and the delivery mode in it.
const WHAT: u32 = 0x7ff;
/// The register of the first entry's lower half.
const ENTRIES: u8 = 0x10;

/// What a guest has written of the pins' entries, and which edges no local APIC has taken.
struct Pins {
    selected: u8,
    /// Lower halves.
    entries: [u32; PINS],
    pending: [bool; PINS],
}

impl Pins {
    /// The pin whose edge is due for delivery by this write, if there is one.
    fn write(&mut self, offset: u64, data: &[u8]) -> Option<usize> {
        let word = <[u8; 4]>::try_from(data).ok()?;
        if offset == 0 {
            self.selected = word[0];
            return None;
        }
        let half = usize::from(self.selected.checked_sub(ENTRIES)?);
        let (pin, lower) = (half / 2, half.is_multiple_of(2));
        if offset != 0x10 || !lower {
            return None;
        }
        *self.entries.get_mut(pin)? = u32::from_le_bytes(word);
        self.due(pin)
    }

    fn edge(&mut self, pin: usize) -> Option<usize> {
        *self.pending.get_mut(pin)? = true;
        self.due(pin)
    }

    fn due(&self, pin: usize) -> Option<usize> {
        (self.pending[pin] && self.entries[pin] & MASKED == 0).then_some(pin)
    }
}

/// Takes messages, or not, and keeps them.
#[derive(Clone, Default)]
struct Sink {
    refuses: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Message>>>,
}

impl MessageSink for Sink {
    fn send(&self, message: Message) -> bool {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(message);
        !self.refuses.load(Ordering::Relaxed)
    }
}

pub(crate) fn run(bytes: &[u8]) {
    let sink = Sink::default();
    let ioapic = IoApic::new(sink.clone());
    let mut pins = Pins {
        selected: 0,
        entries: [MASKED; PINS],
        pending: [false; PINS],
    };
    steps(bytes, |step| {
        let mut write = |offset, data: &[u8]| {
            ioapic.mmio_write(MmioAddress(0), offset, data);
            pins.write(offset, data)
        };
        let due = match step {
            Step::Edge(pin) => {
                let pin = usize::from(pin) % (PINS + 2);
                ioapic.edge(pin);
                pins.edge(pin)
            }
            Step::Taken(taken) => {
                sink.refuses.store(!taken, Ordering::Relaxed);
                None
            }
            Step::Select(register) => write(0, &u32::from(register).to_le_bytes()),
            Step::Window(value) => write(0x10, &value.to_le_bytes()),
            Step::Read(access) => {
                let mut data = vec![0xaa; access.width()];
                ioapic.mmio_read(MmioAddress(0), access.offset(LEN), &mut data);
                assert!(
                    data.len() == 4 || data.iter().all(|byte| *byte == 0),
                    "{access:?}"
                );
                None
            }
            Step::Write(access) => write(access.offset(LEN), &access.data()),
            Step::Entry(pin, masked) => {
                let register = ENTRIES + 2 * (pin % 24);
                let entry = u32::from(pin) | if masked { MASKED } else { 0 };
                let selected = write(0, &u32::from(register).to_le_bytes());
                assert!(selected.is_none(), "{selected:?}");
                write(0x10, &entry.to_le_bytes())
            }
        };
        let sent = mem::take(&mut *sink.sent.lock().unwrap_or_else(PoisonError::into_inner));
        let told: Vec<_> = sent
            .iter()
            .map(|message| (message.pin, message.data))
            .collect();
        let wanted = due.map(|pin| (pin, pins.entries[pin] & WHAT));
        assert_eq!(told, Vec::from_iter(wanted), "{step:?}");
        assert!(
            sent.iter().all(|message| message.destination < 1 << 15),
            "{sent:?}"
        );
        if let (Some(pin), false) = (due, sink.refuses.load(Ordering::Relaxed)) {
            pins.pending[pin] = false;
        }
    });
    for pin in 0..PINS + 2 {
        let stuck = pin < PINS && pins.due(pin).is_some();
        assert_eq!(ioapic.is_stuck(pin), stuck, "pin {pin}");
    }
}

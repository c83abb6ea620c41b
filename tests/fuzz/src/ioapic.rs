//! The I/O APIC.

use super::{Access, steps};
use arbitrary::Arbitrary;
use hotvisor_devices::ioapic::{IoApic, LEN, Message, MessageSink, PINS};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
/// The register of the first entry's lower half.
const ENTRIES: u8 = 0x10;

/// What a guest has written, as far as it masks pins.
struct Masks {
    selected: u8,
    masked: [bool; PINS],
}

impl Masks {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(word) = <[u8; 4]>::try_from(data) else {
            return;
        };
        match offset {
            0 => self.selected = word[0],
            0x10 => {
                let half = usize::from(self.selected.wrapping_sub(ENTRIES));
                if let (0, Some(masked)) = (half % 2, self.masked.get_mut(half / 2)) {
                    *masked = u32::from_le_bytes(word) & MASKED != 0;
                }
            }
            _ => {}
        }
    }
}

/// Takes messages, or not, and looks at them.
#[derive(Default)]
struct Sink {
    refuses: AtomicBool,
    sent: AtomicUsize,
    wrong: Mutex<Option<Message>>,
}

#[derive(Clone)]
struct Shared(Arc<Sink>);

impl MessageSink for Shared {
    fn send(&self, message: Message) -> bool {
        self.0.sent.fetch_add(1, Ordering::Relaxed);
        let fits = message.pin < PINS && message.destination < 1 << 15 && message.data < 1 << 11;
        if !fits {
            let mut wrong = self.0.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            *wrong = Some(message);
        }
        !self.0.refuses.load(Ordering::Relaxed)
    }
}

pub(crate) fn run(bytes: &[u8]) {
    let sink = Shared(Arc::new(Sink::default()));
    let ioapic = IoApic::new(sink.clone());
    let mut masks = Masks {
        selected: 0,
        masked: [true; PINS],
    };
    steps(bytes, |step| {
        let before = sink.0.sent.load(Ordering::Relaxed);
        let mut write = |offset, data: &[u8]| {
            masks.write(offset, data);
            ioapic.mmio_write(MmioAddress(0), offset, data);
        };
        match step {
            Step::Edge(pin) => {
                let pin = usize::from(pin) % (PINS + 2);
                ioapic.edge(pin);
                let open = masks.masked.get(pin) == Some(&false);
                let sent = sink.0.sent.load(Ordering::Relaxed) - before;
                assert_eq!(sent, usize::from(open), "an edge on pin {pin}");
            }
            Step::Taken(taken) => sink.0.refuses.store(!taken, Ordering::Relaxed),
            Step::Select(register) => write(0, &u32::from(register).to_le_bytes()),
            Step::Window(value) => write(0x10, &value.to_le_bytes()),
            Step::Read(access) => {
                let mut data = vec![0xaa; access.width()];
                ioapic.mmio_read(MmioAddress(0), access.offset(LEN), &mut data);
                assert!(
                    data.len() == 4 || data.iter().all(|byte| *byte == 0),
                    "{access:?}"
                );
            }
            Step::Write(access) => write(access.offset(LEN), &access.data()),
            Step::Entry(pin, masked) => {
                let register = ENTRIES + 2 * (pin % 24);
                write(0, &u32::from(register).to_le_bytes());
                let vector = u32::from(pin);
                write(
                    0x10,
                    &(vector | if masked { MASKED } else { 0 }).to_le_bytes(),
                );
            }
        }
        let sent = sink.0.sent.load(Ordering::Relaxed) - before;
        assert!(sent <= 1, "{sent} messages of one step");
        let wrong = sink.0.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(wrong.is_none(), "{wrong:?}");
    });
    for pin in 0..PINS + 2 {
        assert!(
            pin < PINS || !ioapic.is_stuck(pin),
            "pin {pin} does not exist"
        );
    }
}

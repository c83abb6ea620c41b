//! The I/O APIC, with one property that real ones lack: an edge that finds its pin masked is kept.
//!
//! Intel 82093AA data sheet, section 3. The local APICs are the host kernel's; this one is ours because
//! the host kernel's drops an edge that is raised while its pin is masked, and a guest masks the GED's pin
//! until its driver is bound and again whenever a threaded handler runs. Here such an edge stays pending
//! (it shows as *delivery status*, bit 12, as on a busy interrupt bus) and is delivered by the unmasking.
//! Every line of the machine is edge-triggered, as MADT and DSDT say; a pin that a guest sets to *level*
//! keeps the bit and is delivered edge by edge all the same.
//!
//! Destinations are physical or logical as the guest sets them. Bits 49 to 55 of a redirection entry are
//! bits 8 to 14 of the destination, the *extended destination id* that KVM's CPUID leaf announces, so that
//! CPUs above 255 can be reached.
//!
//! | a hostile guest may | and then |
//! |---|---|
//! | access at another width or offset than the registers' own | reads zero, writes are ignored |
//! | select a register that does not exist | reads zero, writes are ignored |
//! | unmask pins with garbage in vector, mode, destination | the message goes out as it says; where no local APIC takes it, the edge stays pending |

use crate::{IrqLine, lock};
use std::sync::{Arc, Mutex};
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

/// Number of pins.
pub const PINS: usize = 24;
/// Where the machine maps it, and how many bytes.
pub const BASE: u64 = 0xfec0_0000;
/// Bytes of the register window.
pub const LEN: u64 = 0x20;

/// Window offset of `IOREGSEL`.
const IOREGSEL: u64 = 0x00;
/// Window offset of `IOWIN`.
const IOWIN: u64 = 0x10;

const REG_ID: u8 = 0x00;
const REG_VERSION: u8 = 0x01;
const REG_ARBITRATION: u8 = 0x02;
const REG_REDIRECTION: u8 = 0x10;
const REG_LAST: u8 = REG_REDIRECTION + 2 * PINS_U8 - 1;
const PINS_U8: u8 = 24;
const _: () = assert!(PINS == PINS_U8 as usize);

/// Version 0x11 (no EOI register), and the number of the highest pin.
const VERSION: u32 = 0x11 | ((PINS_U8 as u32 - 1) << 16);

const RTE_VECTOR: u64 = 0xff;
const RTE_DELIVERY_MODE: u64 = 0x7 << 8;
const RTE_LOGICAL: u64 = 1 << 11;
const RTE_PENDING: u64 = 1 << 12;
const RTE_REMOTE_IRR: u64 = 1 << 14;
const RTE_MASKED: u64 = 1 << 16;
const RTE_READ_ONLY: u64 = RTE_PENDING | RTE_REMOTE_IRR;

/// An interrupt message, as a local APIC takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The pin that it comes from.
    pub pin: usize,
    /// APIC id, or logical destination; 15 bits.
    pub destination: u32,
    /// Whether `destination` is logical.
    pub logical: bool,
    /// Vector (bits 0–7) and delivery mode (bits 8–10), as in the message's data.
    pub data: u32,
}

/// Takes the interrupt messages to the local APICs. Called with the I/O APIC locked: it must not wait.
pub trait MessageSink: Send {
    /// Delivers one message; returns whether a local APIC has taken it. One that none takes stays pending until the next
    /// edge, or until the guest writes the lower half of its pin's entry.
    #[must_use]
    fn send(&self, message: Message) -> bool;
}

/// Registers and pending edges.
struct State<S> {
    select: u8,
    id: u32,
    entries: [u64; PINS],
    sink: S,
}

/// The I/O APIC.
pub struct IoApic<S>(Mutex<State<S>>);

impl<S: MessageSink> IoApic<S> {
    /// An I/O APIC after reset, all pins masked, whose messages go to `sink`.
    pub fn new(sink: S) -> Self {
        Self(Mutex::new(State {
            select: 0,
            id: 0,
            entries: [RTE_MASKED; PINS],
            sink,
        }))
    }

    /// Raises an edge on `pin`; pins that do not exist have no effect.
    pub fn edge(&self, pin: usize) {
        let mut state = lock(&self.0);
        if let Some(entry) = state.entries.get_mut(pin) {
            *entry |= RTE_PENDING;
            state.deliver(pin);
        }
    }

    /// Whether an edge on `pin` waits although the guest has not masked it: no local APIC has taken its message.
    pub fn is_stuck(&self, pin: usize) -> bool {
        let entry = lock(&self.0).entries.get(pin).copied();
        entry.is_some_and(|entry| entry & (RTE_PENDING | RTE_MASKED) == RTE_PENDING)
    }
}

impl<S: MessageSink> State<S> {
    /// Sends what is pending on an unmasked pin.
    fn deliver(&mut self, pin: usize) {
        let entry = &mut self.entries[pin];
        if *entry & (RTE_PENDING | RTE_MASKED) != RTE_PENDING {
            return;
        }
        // The masks leave 8, 7 and 11 bits.
        let sent = self.sink.send(Message {
            pin,
            destination: (*entry >> 56) as u32 | ((*entry >> 49 & 0x7f) as u32) << 8,
            logical: *entry & RTE_LOGICAL != 0,
            data: (*entry & (RTE_VECTOR | RTE_DELIVERY_MODE)) as u32,
        });
        if sent {
            *entry &= !RTE_PENDING;
        }
    }

    fn read_register(&self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => self.id,
            REG_VERSION => VERSION,
            REG_REDIRECTION..=REG_LAST => {
                let (pin, shift) = entry_half(self.select);
                (self.entries[pin] >> shift & 0xffff_ffff)
                    .try_into()
                    .unwrap_or(0)
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, value: u32) {
        match self.select {
            REG_ID => self.id = value & 0x0f00_0000,
            REG_REDIRECTION..=REG_LAST => {
                let (pin, shift) = entry_half(self.select);
                let half = 0xffff_ffff << shift;
                let kept = self.entries[pin] & (!half | RTE_READ_ONLY);
                self.entries[pin] = kept | (u64::from(value) << shift & !RTE_READ_ONLY);
                // The vector and the mask are in the lower half, which guests write last: not to where one half is of
                // the entry before.
                if shift == 0 {
                    self.deliver(pin);
                }
            }
            _ => {}
        }
    }
}

/// The pin of a redirection register, and the shift of its half.
fn entry_half(select: u8) -> (usize, u32) {
    let index = select - REG_REDIRECTION;
    (usize::from(index / 2), u32::from(index % 2) * 32)
}

impl<S: MessageSink> DeviceMmio for IoApic<S> {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        let state = lock(&self.0);
        let value = match offset {
            IOREGSEL => u32::from(state.select),
            IOWIN => state.read_register(),
            _ => 0,
        };
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) => *word = value.to_le_bytes(),
            Err(_) => data.fill(0),
        }
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        let Ok(word) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let mut state = lock(&self.0);
        match offset {
            IOREGSEL => state.select = word[0],
            IOWIN => state.write_register(u32::from_le_bytes(word)),
            _ => {}
        }
    }
}

/// One pin of an [`IoApic`], as a device holds it.
pub struct Pin<S> {
    ioapic: Arc<IoApic<S>>,
    pin: usize,
}

impl<S: MessageSink> Pin<S> {
    /// The line into `pin`.
    #[must_use]
    pub fn new(ioapic: Arc<IoApic<S>>, pin: usize) -> Self {
        Self { ioapic, pin }
    }
}

impl<S: MessageSink> IrqLine for Pin<S> {
    fn pulse(&self) {
        self.ioapic.edge(self.pin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    struct Post(Sender<Message>);
    impl MessageSink for Post {
        fn send(&self, message: Message) -> bool {
            self.0.send(message).unwrap();
            message.data != NOBODYS
        }
    }

    /// What no local APIC takes.
    const NOBODYS: u32 = 0x01;

    fn ioapic() -> (IoApic<Post>, Receiver<Message>) {
        let (tx, rx) = channel();
        (IoApic::new(Post(tx)), rx)
    }

    fn write(ioapic: &IoApic<Post>, register: u8, value: u32) {
        ioapic.mmio_write(
            MmioAddress(BASE),
            IOREGSEL,
            &u32::from(register).to_le_bytes(),
        );
        ioapic.mmio_write(MmioAddress(BASE), IOWIN, &value.to_le_bytes());
    }

    fn read(ioapic: &IoApic<Post>, register: u8) -> u32 {
        let mut word = [0; 4];
        ioapic.mmio_write(
            MmioAddress(BASE),
            IOREGSEL,
            &u32::from(register).to_le_bytes(),
        );
        ioapic.mmio_read(MmioAddress(BASE), IOWIN, &mut word);
        u32::from_le_bytes(word)
    }

    #[test]
    fn an_edge_raised_while_masked_is_delivered_by_the_unmasking() {
        let (ioapic, messages) = ioapic();
        write(&ioapic, 0x10 + 2 * 16, 1 << 16 | 0x31);
        ioapic.edge(16);
        ioapic.edge(16);
        assert!(messages.try_recv().is_err());
        assert_eq!(read(&ioapic, 0x10 + 2 * 16), 1 << 16 | 1 << 12 | 0x31);
        write(&ioapic, 0x10 + 2 * 16, 0x31);
        assert_eq!(
            messages.try_iter().collect::<Vec<_>>(),
            [Message {
                pin: 16,
                destination: 0,
                logical: false,
                data: 0x31
            }]
        );
        assert_eq!(read(&ioapic, 0x10 + 2 * 16), 0x31);
    }

    #[test]
    fn an_edge_whose_message_nobody_takes_stays_pending() {
        let (ioapic, messages) = ioapic();
        write(&ioapic, 0x10, NOBODYS);
        ioapic.edge(0);
        assert_eq!(messages.try_iter().count(), 1);
        assert_eq!(read(&ioapic, 0x10), 1 << 12 | NOBODYS);
        assert!(ioapic.is_stuck(0) && !ioapic.is_stuck(1) && !ioapic.is_stuck(PINS));
        // With the next edge, and when the guest has said where to.
        ioapic.edge(0);
        assert_eq!(messages.try_iter().count(), 1);
        write(&ioapic, 0x11, 7 << 24);
        assert_eq!(messages.try_iter().count(), 0);
        write(&ioapic, 0x10, 0x31);
        assert_eq!(
            messages.try_iter().map(|m| m.data).collect::<Vec<_>>(),
            [0x31]
        );
        assert_eq!(read(&ioapic, 0x10), 0x31);
        assert!(!ioapic.is_stuck(0));
    }

    #[test]
    fn destinations_above_255_use_the_extended_bits() {
        let (ioapic, messages) = ioapic();
        let id: u32 = 0x2a5;
        write(&ioapic, 0x11, (id & 0xff) << 24 | (id >> 8) << 17);
        write(&ioapic, 0x10, 0x100 | 1 << 11 | 0x42);
        ioapic.edge(0);
        assert_eq!(
            messages.try_recv(),
            Ok(Message {
                pin: 0,
                destination: id,
                logical: true,
                data: 0x142
            })
        );
    }

    #[test]
    fn identification_registers() {
        let (ioapic, _messages) = ioapic();
        assert_eq!(read(&ioapic, 1), 0x0017_0011);
        write(&ioapic, 0, 0xffff_ffff);
        assert_eq!(read(&ioapic, 0), 0x0f00_0000);
        assert_eq!(read(&ioapic, 0x40), 0);
    }

    proptest! {
        /// Whatever is written wherever, every edge on a pin leaves either a message or a pending bit
        /// behind, and unmasking turns the one into the other.
        #[test]
        fn no_edge_is_lost(
            ops in prop::collection::vec((0u64..0x20, prop::collection::vec(any::<u8>(), 1..9)), 0..60),
            pin in 0usize..PINS,
        ) {
            let (ioapic, messages) = ioapic();
            for (offset, data) in &ops {
                ioapic.mmio_write(MmioAddress(BASE), *offset, data);
                let mut back = data.clone();
                ioapic.mmio_read(MmioAddress(BASE), *offset, &mut back);
            }
            let _ = messages.try_iter().count();
            ioapic.edge(pin);
            let register = 0x10 + 2 * u8::try_from(pin).unwrap();
            let pending = read(&ioapic, register) & 1 << 12 != 0;
            let sent = messages.try_iter().filter(|message| message.data != NOBODYS).count();
            prop_assert_eq!(usize::from(pending) + sent, 1);
            write(&ioapic, register, 0x55);
            prop_assert_eq!(messages.try_iter().count(), usize::from(pending));
        }
    }
}

//! The Generic Event Device: how the machine tells the guest that something happened.
//!
//! ACPI 6.3, section 5.6.9. One interrupt and one register of 32 bits, each bit an event; the guest's
//! `_EVT` method reads the register, which clears it, and notifies the objects whose bits were set.
//!
//! No notification is lost, whenever it comes. [`Ged::raise`] first sets the bit and then raises an edge;
//! an edge that finds the interrupt masked (before the driver is bound, or while its threaded handler
//! runs) is kept by the interrupt controller ([`crate::ioapic`]), and a handler that reads the register
//! between the two steps merely finds nothing at its second run.
//!
//! | a hostile guest may | and then |
//! |---|---|
//! | read the register at any width and offset | a read of the whole register clears it; any other reads as zero and clears nothing |
//! | write | it is ignored |
//! | never read it | bits stay set; the machine's own deadlines apply |

use crate::IrqLine;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

/// Bytes of the register block.
pub const LEN: u64 = 4;

/// An event of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// The CPU hotplug controller has an event for the guest's scan ([`crate::cpu_hotplug`]).
    CpuHotplug = 1 << 0,
    /// The power button was pressed.
    PowerButton = 1 << 1,
}

impl Event {
    /// The event's bit in the register.
    #[must_use]
    pub const fn bit(self) -> u32 {
        self as u32
    }
}

/// The device.
pub struct Ged {
    pending: AtomicU32,
    irq: Arc<dyn IrqLine>,
}

impl Ged {
    /// A device that interrupts through `irq`.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>) -> Self {
        Self {
            pending: AtomicU32::new(0),
            irq,
        }
    }

    /// Tells the guest of `event`.
    pub fn raise(&self, event: Event) {
        self.pending.fetch_or(event.bit(), Ordering::AcqRel);
        self.irq.pulse();
    }
}

impl DeviceMmio for Ged {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        match (offset, <&mut [u8; 4]>::try_from(&mut *data)) {
            (0, Ok(word)) => *word = self.pending.swap(0, Ordering::AcqRel).to_le_bytes(),
            _ => data.fill(0),
        }
    }

    fn mmio_write(&self, _base: MmioAddress, _offset: MmioAddressOffset, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Edges(AtomicU32);
    impl IrqLine for Edges {
        fn pulse(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(ged: &Ged, offset: u64, width: usize) -> Vec<u8> {
        let mut data = vec![0xaa; width];
        ged.mmio_read(MmioAddress(0), offset, &mut data);
        data
    }

    #[test]
    fn an_event_is_an_edge_and_a_bit_that_reading_clears() {
        let edges = Arc::new(Edges::default());
        let ged = Ged::new(edges.clone());
        ged.raise(Event::PowerButton);
        ged.raise(Event::PowerButton);
        assert_eq!(edges.0.load(Ordering::Relaxed), 2);
        assert_eq!(read(&ged, 0, 4), [2, 0, 0, 0]);
        assert_eq!(read(&ged, 0, 4), [0; 4]);
    }

    #[test]
    fn a_partial_or_odd_read_clears_nothing() {
        let ged = Ged::new(Arc::new(Edges::default()));
        ged.raise(Event::PowerButton);
        for (offset, width) in [(0, 1), (0, 2), (0, 8), (1, 1), (2, 2), (3, 1)] {
            assert_eq!(read(&ged, offset, width), vec![0; width]);
        }
        ged.mmio_write(MmioAddress(0), 0, &[0xff; 4]);
        assert_eq!(read(&ged, 0, 4), [2, 0, 0, 0]);
    }
}

//! The ACPI power registers of a hardware-reduced platform: sleep control, sleep status and reset.
//!
//! ACPI 6.3, section 4.8.3.7 (sleep control and status registers) and 4.8.3.6 (reset register). The block
//! takes three I/O ports; the FADT is generated from the constants below.
//!
//! | a hostile guest may | and then |
//! |---|---|
//! | write any value of any width to any offset | one-byte writes count, all else is ignored and logged |
//! | ask for a sleep state that `\_S5` does not name | it is ignored and logged |
//! | ask for power-off or reset again and again, from every vCPU | each is posted; the machine ends once |

use crate::ratelimit::RateLimit;
use tracing::warn;
use vm_device::MutDevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

/// First port of the block.
pub const BASE: u16 = 0x600;
/// Ports in the block.
pub const LEN: u16 = 3;
/// Offset of the sleep control register (one byte, write; reads as zero).
pub const SLEEP_CONTROL: u16 = 0;
/// Offset of the sleep status register (one byte; reads as zero, as the machine never wakes from a sleep).
pub const SLEEP_STATUS: u16 = 1;
/// Offset of the reset register (one byte, write).
pub const RESET: u16 = 2;
/// What the guest writes to [`RESET`].
pub const RESET_VALUE: u8 = 1;
/// The sleep type that `\_S5` names.
pub const S5: u8 = 5;

/// `SLP_EN` of the sleep control register.
const SLEEP_ENABLE: u8 = 1 << 5;
/// `SLP_TYPx` of the sleep control register.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;

const _: () = assert!(RESET + 1 == LEN, "the registers cover the block");

/// What a guest asks of its power supply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Soft off (S5).
    Off,
    /// Reset of the whole machine.
    Reset,
}

/// Takes a guest's power requests. Called with the device locked: it posts and returns.
pub trait PowerSink: Send {
    /// Posts one request.
    fn request(&self, request: PowerRequest);
}

/// The register block.
pub struct PowerRegisters<S> {
    sink: S,
}

/// Of all resets together: a guest may scribble, reset, and scribble again.
static IGNORED: RateLimit = RateLimit::new(8);

impl<S: PowerSink> PowerRegisters<S> {
    /// A block whose requests go to `sink`.
    pub fn new(sink: S) -> Self {
        Self { sink }
    }

    fn ignored(&self, offset: u16, data: &[u8], why: &str) {
        if let Some(n) = IGNORED.pass() {
            warn!(
                offset,
                ?data,
                n,
                "power registers: guest's write ignored: {why}"
            );
        }
    }
}

impl<S: PowerSink> MutDevicePio for PowerRegisters<S> {
    fn pio_read(&mut self, _base: PioAddress, _offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn pio_write(&mut self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let &[value] = data else {
            return self.ignored(offset, data, "the registers are one byte wide");
        };
        match offset {
            SLEEP_CONTROL if value & SLEEP_ENABLE == 0 => {}
            // Linux clears the wake status before it goes to sleep; it is clear already.
            SLEEP_STATUS => {}
            SLEEP_CONTROL if (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK == S5 => {
                self.sink.request(PowerRequest::Off);
            }
            SLEEP_CONTROL => self.ignored(offset, data, "only S5 exists"),
            RESET if value == RESET_VALUE => self.sink.request(PowerRequest::Reset),
            RESET => self.ignored(offset, data, "not the reset value"),
            _ => self.ignored(offset, data, "no such register"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    struct Post(Sender<PowerRequest>);
    impl PowerSink for Post {
        fn request(&self, request: PowerRequest) {
            self.0.send(request).unwrap();
        }
    }

    /// What `(offset, bytes)` posts.
    fn posted(offset: u16, data: &[u8]) -> Vec<PowerRequest> {
        let (tx, rx) = channel();
        let mut device = PowerRegisters::new(Post(tx));
        device.pio_write(PioAddress(BASE), offset, data);
        drop(device);
        rx.iter().collect()
    }

    #[test]
    fn s5_powers_off_and_the_reset_value_resets() {
        assert_eq!(
            posted(SLEEP_CONTROL, &[S5 << 2 | 1 << 5]),
            [PowerRequest::Off]
        );
        assert_eq!(posted(RESET, &[RESET_VALUE]), [PowerRequest::Reset]);
    }

    #[test]
    fn every_other_byte_is_ignored() {
        for value in 0..=255u8 {
            let wakes = (value >> 2) & 7 == S5 && value & 1 << 5 != 0;
            assert_eq!(
                posted(SLEEP_CONTROL, &[value]).len(),
                usize::from(wakes),
                "{value:#x}"
            );
            assert_eq!(
                posted(RESET, &[value]).len(),
                usize::from(value == 1),
                "{value:#x}"
            );
            assert_eq!(posted(SLEEP_STATUS, &[value]), []);
        }
        assert_eq!(posted(SLEEP_CONTROL, &[S5 << 2 | 1 << 5, 0]), []);
        assert_eq!(posted(RESET, &[1, 0, 0, 0]), []);
    }

    #[test]
    fn reads_are_zero_at_every_width() {
        let (tx, _rx) = channel();
        let mut device = PowerRegisters::new(Post(tx));
        for width in [1, 2, 4] {
            let mut data = vec![0xff; width];
            device.pio_read(PioAddress(BASE), SLEEP_CONTROL, &mut data);
            assert_eq!(data, vec![0; width]);
        }
    }
}

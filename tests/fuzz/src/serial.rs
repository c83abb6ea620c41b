//! The serial port, and the buffer behind it.

use super::{Access, steps};
use arbitrary::Arbitrary;
use hotvisor_devices::IrqLine;
use hotvisor_devices::serial::{COM1, LEN, Output, Serial, SerialSink};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vm_device::DevicePio;
use vm_device::bus::PioAddress;

#[derive(Arbitrary, Debug)]
enum Step {
    Read(Access),
    Write(Access),
    /// The guest sends that byte so often.
    Send(u8, u8),
    Receive(Vec<u8>),
    /// The host takes so many bytes at a time, or none.
    Drain(u16),
    Leave,
}

#[derive(Default)]
struct Counts {
    edges: AtomicUsize,
    ready: AtomicUsize,
}

impl IrqLine for Counts {
    fn pulse(&self) {
        self.edges.fetch_add(1, Ordering::Relaxed);
    }
}

impl SerialSink for Counts {
    fn output_ready(&self) {
        self.ready.fetch_add(1, Ordering::Relaxed);
    }
    fn input_wanted(&self) {}
}

pub(crate) fn run(bytes: &[u8]) {
    let counts = Arc::new(Counts::default());
    let output = Arc::new(Output::new(counts.clone()));
    let serial = Serial::new(counts.clone(), counts.clone(), output.clone());
    let (mut written, mut drained) = (0_u64, 0_u64);
    let (mut attended, mut heard) = (false, 0);
    // What comes out, and what was sent, as long as nothing else may have been meant by it.
    let (mut said, mut sent, mut plain) = (Vec::new(), Vec::new(), true);
    steps(bytes, |step| {
        match step {
            Step::Read(access) => {
                let mut data = vec![0; access.width()];
                let offset = port(access);
                serial.pio_read(PioAddress(COM1), offset, &mut data);
                assert!(data.len() == 1 || data.iter().all(|byte| *byte == 0xff));
            }
            Step::Write(access) => {
                serial.pio_write(PioAddress(COM1), port(access), &access.data());
                written += 1;
                plain = false;
            }
            Step::Send(byte, times) => {
                if plain {
                    sent.resize(sent.len() + usize::from(times), byte);
                }
                for _ in 0..times {
                    serial.pio_write(PioAddress(COM1), 0, &[byte]);
                }
                written += u64::from(times);
            }
            Step::Receive(bytes) => assert!(serial.receive(&bytes) <= bytes.len()),
            Step::Drain(limit) => {
                let taken = output.drain(|chunk| match chunk.len().min(limit.into()) {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    n => {
                        drained += n as u64;
                        if plain {
                            said.extend_from_slice(&chunk[..n]);
                        }
                        Ok(n)
                    }
                });
                assert!(taken.is_ok() || limit == 0);
                attended = true;
            }
            Step::Leave => attended = !output.leave(),
        }
        let posts = counts.ready.load(Ordering::Relaxed);
        assert!(
            attended || output.is_empty() || posts > heard,
            "output that nobody was told of"
        );
        if posts > heard {
            (heard, attended) = (posts, true);
        }
        // Loop-back and the divisor's latch send nothing.
        assert!(drained + output.dropped() <= written);
    });
    if plain {
        all_came(&output, said, &sent);
    }
}

/// All that was sent has come out, in order, or was dropped and counted.
fn all_came(output: &Output, mut said: Vec<u8>, sent: &[u8]) {
    let rest = output.drain(|chunk| {
        said.extend_from_slice(chunk);
        Ok(chunk.len())
    });
    let all = said.len() as u64 + output.dropped();
    assert!(
        rest.is_ok() && all == sent.len() as u64,
        "{all} of {sent:?}"
    );
    // Those that are dropped leave gaps.
    assert!(output.dropped() > 0 || said == sent, "{said:?} of {sent:?}");
}

fn port(access: Access) -> u16 {
    u16::from(access.offset) % (LEN + 4)
}

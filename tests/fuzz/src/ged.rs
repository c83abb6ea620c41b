//! The Generic Event Device.

use super::{Access, steps};
use arbitrary::Arbitrary;
use hotvisor_devices::IrqLine;
use hotvisor_devices::ged::{Event, Ged, LEN};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;

#[derive(Arbitrary, Debug)]
enum Step {
    Raise(bool),
    Read(Access),
    Write(Access),
}

#[derive(Default)]
struct Edges(AtomicU32);

impl IrqLine for Edges {
    fn pulse(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn run(bytes: &[u8]) {
    let edges = Arc::new(Edges::default());
    let ged = Ged::new(edges.clone());
    let (mut raised, mut pending) = (0, 0);
    steps(bytes, |step| match step {
        Step::Raise(button) => {
            let event = if button {
                Event::PowerButton
            } else {
                Event::CpuHotplug
            };
            ged.raise(event);
            raised += 1;
            pending |= event.bit();
        }
        Step::Read(access) => {
            let mut data = vec![0xaa; access.width()];
            let offset = access.offset(LEN);
            ged.mmio_read(MmioAddress(0), offset, &mut data);
            let whole = offset == 0 && data.len() == 4;
            let expected = if whole {
                std::mem::take(&mut pending)
            } else {
                0_u32
            };
            let mut word = data.clone();
            word.resize(8, 0);
            assert_eq!(word[..4], expected.to_le_bytes(), "{access:?}");
            assert_eq!(word[4..], [0; 4], "{access:?}");
        }
        Step::Write(access) => {
            ged.mmio_write(MmioAddress(0), access.offset(LEN), &access.data());
        }
    });
    assert_eq!(
        edges.0.load(Ordering::Relaxed),
        raised,
        "each event is an edge"
    );
}

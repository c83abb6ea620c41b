//! A virtio device behind registers in memory (section 4.2, version 2 of the interface).
//!
//! Little-endian, 32 bits each but for the device's own configuration, which is read at any width:
//!
//! | offset | read | write |
//! |---|---|---|
//! | 0x000 | `MagicValue`, `virt` | |
//! | 0x004 | `Version`, 2 | |
//! | 0x008 | `DeviceID` | |
//! | 0x00c | `VendorID` | |
//! | 0x010 | `DeviceFeatures`, the selected half | |
//! | 0x014 | | `DeviceFeaturesSel` |
//! | 0x020 | | `DriverFeatures`, the selected half |
//! | 0x024 | | `DriverFeaturesSel` |
//! | 0x030 | | `QueueSel` |
//! | 0x034 | `QueueSizeMax`; 0 without such a queue | |
//! | 0x038 | | `QueueSize` |
//! | 0x044 | `QueueReady` | `QueueReady` |
//! | 0x050 | | `QueueNotify` |
//! | 0x060 | `InterruptStatus` | |
//! | 0x064 | | `InterruptACK` |
//! | 0x070 | `Status` | `Status`; 0 resets the device |
//! | 0x080, 0x084 | | `QueueDesc`, low and high |
//! | 0x090, 0x094 | | `QueueDriver`, low and high |
//! | 0x0a0, 0x0a4 | | `QueueDevice`, low and high |
//! | 0x0ac | | `SHMSel` |
//! | 0x0b0 – 0x0bc | `SHMLen`, `SHMBase`: all ones, there is none | |
//! | 0x0fc | `ConfigGeneration`, 0: it does not change | |
//! | 0x100 – | the device's configuration | |

use super::link::Link;
use super::{Device, Memory, Wake};
use crate::lock;
use crate::ratelimit::RateLimit;
use std::sync::{Arc, Mutex};
use tracing::warn;
use virtio_queue::{Queue, QueueT};
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};

/// Bytes of the register window.
pub const LEN: u64 = 0x1000;
/// Where the device's configuration begins.
const CONFIG: u64 = 0x100;

/// `virt`.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"hotv");

/// Feature bit: the driver may write addresses of further tables into descriptors (section 6).
const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: each side says from which entry of a ring on it wants to be told (section 6).
const F_EVENT_IDX: u64 = 1 << 29;
/// Feature bit: it is a device of version 1 (section 6).
const F_VERSION_1: u64 = 1 << 32;
const TRANSPORT_FEATURES: u64 = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;

/// Bits of the device's status (section 2.1).
mod status {
    /// The driver has agreed to a set of features, and the device to it.
    pub(super) const FEATURES_OK: u32 = 8;
    /// The driver uses the device.
    pub(super) const DRIVER_OK: u32 = 4;
    /// The device cannot go on.
    pub(super) const NEEDS_RESET: u32 = 64;
    /// Those that a driver sets: `ACKNOWLEDGE`, `DRIVER`, the two above, `FAILED`.
    pub(super) const DRIVERS: u32 = 1 | 2 | DRIVER_OK | FEATURES_OK | 128;
}

/// A guest's access without an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum NoEffect {
    #[error("no register of this width is there")]
    NoRegister,
    #[error("it is not for writing")]
    ReadOnly,
    #[error("there is no such queue")]
    NoQueue,
    #[error("a queue is set up between FEATURES_OK and DRIVER_OK")]
    NotNow,
    #[error("features are accepted before FEATURES_OK")]
    FeaturesFixed,
}

/// Of all devices and all resets together.
static IGNORED: RateLimit = RateLimit::new(8);

/// The registers.
pub struct Transport<D, M> {
    device: D,
    memory: M,
    link: Arc<Link<M>>,
    worker: Arc<dyn Wake>,
    state: Mutex<State>,
}

struct State {
    status: u32,
    device_half: u32,
    driver_half: u32,
    accepted: u64,
    selected: u32,
    queues: Vec<Queue>,
}

fn unused_queues<D: Device>() -> Vec<Queue> {
    // The sizes are constants, which the tests of each device check.
    let queues = D::QUEUES.iter().map(|&size| Queue::new(size));
    queues.filter_map(Result::ok).collect()
}

impl State {
    fn new<D: Device>() -> Self {
        Self {
            status: 0,
            device_half: 0,
            driver_half: 0,
            accepted: 0,
            selected: 0,
            queues: unused_queues::<D>(),
        }
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.selected).ok()?)
    }

    /// The selected queue, to be set up.
    fn unset_queue(&mut self) -> Result<&mut Queue, NoEffect> {
        let now = self.status & (status::FEATURES_OK | status::DRIVER_OK) == status::FEATURES_OK;
        let at = usize::try_from(self.selected).map_err(|_| NoEffect::NoQueue)?;
        let queue = self.queues.get_mut(at).ok_or(NoEffect::NoQueue)?;
        // What it is already: drivers that let go of a device say so after its reset.
        now.then_some(queue).ok_or(NoEffect::NotNow)
    }
}

/// Half of a feature word.
fn half(word: u64, which: u32) -> u32 {
    let [low, high] = [word & 0xffff_ffff, word >> 32];
    let half = match which {
        0 => low,
        1 => high,
        _ => 0,
    };
    u32::try_from(half).unwrap_or_default()
}

impl<D: Device, M: Memory> Transport<D, M> {
    /// The registers of `device`, whose worker is woken by `worker`, and has the other end of `link`.
    pub fn new(device: D, memory: M, link: Arc<Link<M>>, worker: Arc<dyn Wake>) -> Self {
        Self {
            device,
            memory,
            link,
            worker,
            state: Mutex::new(State::new::<D>()),
        }
    }

    fn offered(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES
    }

    fn read(&self, offset: u64) -> Result<u32, NoEffect> {
        let state = lock(&self.state);
        Ok(match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => D::ID,
            0x00c => VENDOR,
            0x010 => half(self.offered(), state.device_half),
            0x034 => state.queue().map_or(0, |queue| queue.max_size().into()),
            0x044 => state.queue().is_some_and(QueueT::ready).into(),
            0x060 => self.link.interrupts(),
            0x070 if self.link.is_broken() => state.status | status::NEEDS_RESET,
            0x070 => state.status,
            0x0b0..=0x0bc => u32::MAX,
            0x0fc => 0,
            _ => return Err(NoEffect::NoRegister),
        })
    }

    fn write(&self, offset: u64, value: u32) -> Result<(), NoEffect> {
        let mut state = lock(&self.state);
        match offset {
            0x014 => state.device_half = value,
            0x020 if state.status & status::FEATURES_OK != 0 => {
                return Err(NoEffect::FeaturesFixed);
            }
            0x020 => match state.driver_half {
                0 => state.accepted = state.accepted & !0xffff_ffff | u64::from(value),
                1 => state.accepted = state.accepted & 0xffff_ffff | u64::from(value) << 32,
                _ => {}
            },
            0x024 => state.driver_half = value,
            0x030 => state.selected = value,
            0x038 => {
                let size = u16::try_from(value).unwrap_or_default();
                state.unset_queue()?.set_size(size);
            }
            0x044 if value & 1 == 0 && state.queue().is_none_or(|queue| !queue.ready()) => {}
            0x044 => state.unset_queue()?.set_ready(value & 1 != 0),
            0x050 => self.worker.wake(),
            0x064 => self.link.acknowledge(value),
            0x070 => self.set_status(&mut state, value),
            0x080 => state
                .unset_queue()?
                .set_desc_table_address(Some(value), None),
            0x084 => state
                .unset_queue()?
                .set_desc_table_address(None, Some(value)),
            0x090 => state
                .unset_queue()?
                .set_avail_ring_address(Some(value), None),
            0x094 => state
                .unset_queue()?
                .set_avail_ring_address(None, Some(value)),
            0x0a0 => state
                .unset_queue()?
                .set_used_ring_address(Some(value), None),
            0x0a4 => state
                .unset_queue()?
                .set_used_ring_address(None, Some(value)),
            0x0ac => {}
            0x000..=0x010 | 0x034 | 0x060 | 0x0b0..=0x0bc | 0x0fc => {
                return Err(NoEffect::ReadOnly);
            }
            CONFIG.. => return Err(NoEffect::ReadOnly),
            _ => return Err(NoEffect::NoRegister),
        }
        Ok(())
    }

    fn set_status(&self, state: &mut State, value: u32) {
        if value == 0 {
            *state = State::new::<D>();
            self.link.reset();
            return self.worker.wake();
        }
        // None is taken back but by a reset.
        let mut set = state.status | value & status::DRIVERS;
        let good = state.accepted & !self.offered() == 0 && state.accepted & F_VERSION_1 != 0;
        if !good {
            set &= !status::FEATURES_OK;
        }
        if set & status::FEATURES_OK == 0 {
            set &= !status::DRIVER_OK;
        }
        let starts = set & !state.status & status::DRIVER_OK != 0;
        state.status = set;
        if starts {
            self.link.activate(&self.memory, self.in_use(state));
            self.worker.wake();
        }
    }

    /// The queues as the driver has set them up, for the worker.
    fn in_use(&self, state: &State) -> Vec<Queue> {
        let queues = state.queues.iter().map(|queue| {
            let mut queue = Queue::try_from(queue.state())?;
            queue.set_event_idx(state.accepted & F_EVENT_IDX != 0);
            Ok::<_, virtio_queue::Error>(queue)
        });
        // A state that a queue has had is one that it can have.
        queues.filter_map(Result::ok).collect()
    }
}

impl<D: Device, M: Memory> Transport<D, M> {
    fn report(&self, what: &str, offset: u64, error: NoEffect) {
        if let Some(n) = IGNORED.pass() {
            let device = D::ID;
            warn!(device, offset, n, "the guest {what} of virtio's: {error}");
        }
    }
}

impl<D: Device, M: Memory> DeviceMmio for Transport<D, M> {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            return self.device.read_config(offset, data);
        }
        let read = match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) => self.read(offset).map(|value| *word = value.to_le_bytes()),
            Err(_) => Err(NoEffect::NoRegister),
        };
        if let Err(error) = read {
            self.report("reads a register", offset, error);
        }
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        let written = match <[u8; 4]>::try_from(data) {
            Ok(word) => self.write(offset, u32::from_le_bytes(word)),
            Err(_) => Err(NoEffect::NoRegister),
        };
        if let Err(error) = written {
            self.report("writes a register", offset, error);
        }
    }
}

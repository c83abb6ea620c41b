//! What a device's registers and its worker share: the queues in use, and the interrupt.

use super::Memory;
use crate::{IrqLine, lock};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use virtio_queue::{Queue, QueueT};

/// Bit of `InterruptStatus`: a buffer was used (section 4.2.2).
pub(super) const USED_BUFFER: u32 = 1 << 0;
/// Bit of `InterruptStatus`: the configuration has changed, the device's status included.
pub(super) const CONFIG_CHANGE: u32 = 1 << 1;

/// The device as its driver uses it.
pub struct Active<M> {
    /// Where its rings are.
    pub memory: M,
    /// Its queues, in the order of the device; one that the driver has not made ready is not.
    pub queues: Vec<Queue>,
}

/// A ring of the driver's makes no sense: the device cannot go on (section 2.1.1, `DEVICE_NEEDS_RESET`).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(#[from] virtio_queue::Error);

/// What the worker finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// The driver does not use the device, or the machine stands still, or is gone.
    Nothing,
    /// What the work has come to, for the use of the device with this number.
    Done(u64, T),
}

/// See the module.
pub struct Link<M> {
    state: Mutex<State<M>>,
    /// `InterruptStatus`.
    interrupts: AtomicU32,
    irq: Arc<dyn IrqLine>,
}

struct State<M> {
    active: Option<Active<M>>,
    /// Counts how often the driver has taken the device into use.
    uses: u64,
    held: bool,
    broken: bool,
    gone: bool,
}

impl<M: Memory> Link<M> {
    /// A device that nobody uses, and that interrupts through `irq`.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>) -> Self {
        Self {
            state: Mutex::new(State {
                active: None,
                uses: 0,
                held: false,
                broken: false,
                gone: false,
            }),
            interrupts: AtomicU32::new(0),
            irq,
        }
    }

    /// Has `work` done on the device in use, under the lock: a bounded piece of it. A device whose rings make no sense is
    /// not used again before it was reset, and its driver is told.
    pub fn work<T>(
        &self,
        work: impl FnOnce(u64, &mut Active<M>) -> Result<T, Broken>,
    ) -> Result<Found<T>, Broken> {
        let mut state = lock(&self.state);
        let State {
            active: Some(active),
            uses,
            held: false,
            broken: false,
            ..
        } = &mut *state
        else {
            return Ok(Found::Nothing);
        };
        let uses = *uses;
        match work(uses, active) {
            Ok(done) => Ok(Found::Done(uses, done)),
            Err(broken) => {
                state.broken = true;
                self.interrupt(CONFIG_CHANGE);
                Err(broken)
            }
        }
    }

    /// The number of the use that the driver makes of the device, if it makes one; it may stand still.
    pub fn present_use(&self) -> Option<u64> {
        let state = lock(&self.state);
        (state.active.is_some() && !state.broken).then_some(state.uses)
    }

    /// The machine stands still: the worker finds nothing until it goes on.
    pub fn hold(&self, held: bool) {
        lock(&self.state).held = held;
    }

    /// The machine is gone, and its memory is to be. The driver, if there still is one, cannot take the device into use
    /// any more.
    pub fn unplug(&self) {
        let mut state = lock(&self.state);
        state.active = None;
        state.gone = true;
    }

    /// Buffers were used: interrupts the driver.
    pub fn used_buffers(&self) {
        self.interrupt(USED_BUFFER);
    }

    fn interrupt(&self, why: u32) {
        self.interrupts.fetch_or(why, Ordering::AcqRel);
        self.irq.pulse();
    }

    pub(super) fn interrupts(&self) -> u32 {
        self.interrupts.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, seen: u32) {
        self.interrupts.fetch_and(!seen, Ordering::AcqRel);
    }

    pub(super) fn is_broken(&self) -> bool {
        lock(&self.state).broken
    }

    /// The driver takes the device into use, with these queues.
    pub(super) fn activate(&self, memory: &M, queues: Vec<Queue>) {
        let mut state = lock(&self.state);
        if state.gone {
            return;
        }
        let ready = |queue: &Queue| !queue.ready() || queue.is_valid(memory.memory());
        state.broken = !queues.iter().all(ready);
        if state.broken {
            self.interrupt(CONFIG_CHANGE);
        }
        state.uses += 1;
        state.active = Some(Active {
            memory: memory.clone(),
            queues,
        });
    }

    /// The driver resets the device.
    pub(super) fn reset(&self) {
        let mut state = lock(&self.state);
        state.active = None;
        state.broken = false;
        self.interrupts.store(0, Ordering::Release);
    }
}

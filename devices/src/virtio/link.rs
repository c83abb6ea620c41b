//! What a device's registers and its worker share: the queues in use, and the interrupt.

use super::Memory;
use crate::{IrqLine, lock};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
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

/// What a piece of work has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worked {
    /// Buffers were used, and the driver wants to be told.
    pub used: bool,
    /// There may be more to do.
    pub more: bool,
}

/// What the worker finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The driver does not use the device, or the machine stands still, or is gone.
    Nothing,
    /// Somebody waits for the lock, and is first.
    Later,
    /// It has worked; there may be more to do.
    Work(bool),
}

/// How a machine's time goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// The machine stands still.
    pub stands: bool,
    /// How often it has gone on.
    pub resumes: u64,
}

/// See the module.
pub struct Link<M> {
    state: Mutex<State<M>>,
    /// How many wait for that who are not the worker.
    first: AtomicU32,
    /// `InterruptStatus`.
    interrupts: AtomicU32,
}

struct State<M> {
    active: Option<Active<M>>,
    /// None where the machine is gone. It leads to all of the machine.
    irq: Option<Arc<dyn IrqLine>>,
    /// Counts how often the driver has taken the device into use.
    uses: u64,
    time: Time,
    broken: bool,
}

impl<M: Memory> Link<M> {
    /// A device that nobody uses, and that interrupts through `irq`.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>) -> Self {
        Self {
            state: Mutex::new(State {
                active: None,
                irq: Some(irq),
                uses: 0,
                time: Time::default(),
                broken: false,
            }),
            first: AtomicU32::new(0),
            interrupts: AtomicU32::new(0),
        }
    }

    /// How many wait for the lock who are first.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> u32 {
        self.first.load(Ordering::Relaxed)
    }

    /// The lock, before the worker gets it once more.
    fn first(&self) -> MutexGuard<'_, State<M>> {
        self.first.fetch_add(1, Ordering::Relaxed);
        let state = lock(&self.state);
        self.first.fetch_sub(1, Ordering::Relaxed);
        state
    }

    /// Has `work` done on the device in use, under the lock: a bounded piece of it. A device whose rings make no sense is
    /// not used again before it was reset, and its driver is told.
    ///
    /// # Errors
    /// [`Broken`], as `work` has found it.
    pub fn work(
        &self,
        work: impl FnOnce(u64, &mut Active<M>) -> Result<Worked, Broken>,
    ) -> Result<Found, Broken> {
        // The lock goes to whoever is quickest, and whoever has just let go of it is.
        if self.first.load(Ordering::Relaxed) > 0 {
            return Ok(Found::Later);
        }
        let mut state = lock(&self.state);
        let State {
            active: Some(active),
            uses,
            time: Time { stands: false, .. },
            broken: false,
            ..
        } = &mut *state
        else {
            return Ok(Found::Nothing);
        };
        match work(*uses, active) {
            Ok(Worked { used, more }) => {
                if used {
                    self.interrupt(&state, USED_BUFFER);
                }
                Ok(Found::Work(more))
            }
            Err(broken) => {
                state.broken = true;
                self.interrupt(&state, CONFIG_CHANGE);
                Err(broken)
            }
        }
    }

    /// The number of the use that the driver makes of the device, if it makes one; it may stand still.
    pub fn present_use(&self) -> Option<u64> {
        let state = self.first();
        (state.active.is_some() && !state.broken).then_some(state.uses)
    }

    /// How the machine's time goes.
    pub fn time(&self) -> Time {
        self.first().time
    }

    /// The machine stands still, and the worker finds nothing, or it goes on, and the worker is to be woken.
    pub fn hold(&self, stands: bool) {
        let time = &mut self.first().time;
        time.resumes += u64::from(time.stands && !stands);
        time.stands = stands;
    }

    /// The machine is gone, and its memory is to be. The driver, if there still is one, cannot take the device into use
    /// any more.
    pub fn unplug(&self) {
        let mut state = self.first();
        state.active = None;
        state.irq = None;
    }

    /// Under the lock: whoever has had it is not interrupted any more if he did not want to be.
    fn interrupt(&self, state: &State<M>, why: u32) {
        self.interrupts.fetch_or(why, Ordering::AcqRel);
        if let Some(irq) = &state.irq {
            irq.pulse();
        }
    }

    pub(super) fn interrupts(&self) -> u32 {
        self.interrupts.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, seen: u32) {
        self.interrupts.fetch_and(!seen, Ordering::AcqRel);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.first().broken
    }

    /// The driver takes the device into use, with these queues.
    pub(super) fn activate(&self, memory: &M, queues: Vec<Queue>) {
        let mut state = self.first();
        if state.irq.is_none() {
            return;
        }
        let ready = |queue: &Queue| !queue.ready() || queue.is_valid(memory.memory());
        state.broken = !queues.iter().all(ready);
        if state.broken {
            self.interrupt(&state, CONFIG_CHANGE);
        }
        state.uses += 1;
        state.active = Some(Active {
            memory: memory.clone(),
            queues,
        });
    }

    /// The driver resets the device.
    pub(super) fn reset(&self) {
        let mut state = self.first();
        state.active = None;
        state.broken = false;
        self.interrupts.store(0, Ordering::Release);
    }
}

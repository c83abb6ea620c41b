//! Hotvisor's device models: what the guest sees behind a register, and nothing of the host.
//!
//! A device answers a register access from its own state and *posts* what follows from it through one of
//! the traits below; it never waits. The crate names neither KVM nor a thread and forbids `unsafe`, so
//! that each model can be tested as the plain state machine that it is.

#![forbid(unsafe_code)]

pub mod cpu_hotplug;
pub mod ged;
pub mod ioapic;
pub mod power;
pub mod ratelimit;
pub mod serial;
pub mod virtio;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// An edge-triggered interrupt line of one device.
pub trait IrqLine: Send + Sync {
    /// Raises one edge. Returns at once; the edge is delivered or kept, never lost.
    fn pulse(&self);
}

/// Locks a device, also after a panic elsewhere: device state is plain data that every access leaves
/// consistent, and a guest must not be able to turn one bug into a second one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

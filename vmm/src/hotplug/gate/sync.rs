//! What the gate is built from, and in its place what the checker of interleavings sees through.

#[cfg(not(all(test, feature = "loom")))]
pub(super) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU8, AtomicU64},
};

#[cfg(all(test, feature = "loom"))]
pub(super) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU8, AtomicU64},
};

//! What threads meet by, and in its place what the checker of interleavings sees through (loom).

use std::time::Duration;

#[cfg(not(all(test, feature = "loom")))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU64},
};

#[cfg(not(all(test, feature = "loom")))]
pub(crate) use arc_swap::ArcSwapOption;

#[cfg(all(test, feature = "loom"))]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU64},
};

/// `arc-swap`'s, which promises that who loads what was stored sees all that came before the store, and nothing of other
/// places.
#[cfg(all(test, feature = "loom"))]
pub(crate) struct ArcSwapOption<T> {
    number: AtomicU64,
    all: std::sync::Mutex<Vec<Option<std::sync::Arc<T>>>>,
}

#[cfg(all(test, feature = "loom"))]
impl<T> ArcSwapOption<T> {
    pub(crate) fn empty() -> Self {
        Self {
            number: AtomicU64::new(0),
            all: std::sync::Mutex::new(vec![None]),
        }
    }

    /// Of one writer.
    pub(crate) fn store(&self, value: Option<std::sync::Arc<T>>) {
        let mut all = self
            .all
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        all.push(value);
        let number = all.len() as u64 - 1;
        drop(all);
        self.number
            .store(number, std::sync::atomic::Ordering::Release);
    }

    pub(crate) fn load_full(&self) -> Option<std::sync::Arc<T>> {
        let number = self.number.load(std::sync::atomic::Ordering::Acquire);
        let all = self
            .all
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        usize::try_from(number)
            .ok()
            .and_then(|n| all.get(n).cloned().flatten())
    }
}

/// Waits as long as `holds`, at most `limit`. In a model no time passes, and each limit is over at once: whatever comes of
/// that may come of a limit.
pub(crate) fn wait_while<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Option<Duration>,
    holds: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    real_or_model::wait_while(changed, guard, limit, holds)
}

#[cfg(not(all(test, feature = "loom")))]
mod real_or_model {
    use super::{Condvar, Duration, MutexGuard};
    use std::sync::PoisonError;

    pub(super) fn wait_while<'a, T>(
        changed: &Condvar,
        guard: MutexGuard<'a, T>,
        limit: Option<Duration>,
        holds: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        match limit {
            None => changed
                .wait_while(guard, holds)
                .unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                let waited = changed.wait_timeout_while(guard, limit, holds);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

#[cfg(all(test, feature = "loom"))]
mod real_or_model {
    use super::{Condvar, Duration, MutexGuard};
    use std::sync::PoisonError;

    pub(super) fn wait_while<'a, T>(
        changed: &Condvar,
        mut guard: MutexGuard<'a, T>,
        limit: Option<Duration>,
        mut holds: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while limit.is_none() && holds(&mut guard) {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        guard
    }
}

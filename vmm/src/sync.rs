//! What threads meet by, and in its place what the checker of interleavings sees through (loom).

#[cfg(not(all(test, feature = "loom")))]
pub(crate) use real::*;

#[cfg(all(test, feature = "loom"))]
pub(crate) use model::*;

#[cfg(not(all(test, feature = "loom")))]
mod real {
    pub(crate) use arc_swap::ArcSwapOption;
    use std::sync::PoisonError;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    use std::time::Duration;

    /// Waits as long as `holds`, at most `limit`.
    pub(crate) fn wait_while<'a, T>(
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

#[cfg(test)]
#[cfg(feature = "loom")]
mod model {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, PoisonError};
    use std::time::Duration;

    /// Waits as long as `holds`. No time passes, and each limit is over at once: whatever comes of that may come of a limit.
    pub(crate) fn wait_while<'a, T>(
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

    /// `arc-swap`'s, which promises that who loads what was stored sees all that came before the store, and nothing of other
    /// places.
    pub(crate) struct ArcSwapOption<T> {
        number: AtomicU64,
        all: std::sync::Mutex<Vec<Option<Arc<T>>>>,
    }

    impl<T> ArcSwapOption<T> {
        pub(crate) fn empty() -> Self {
            Self {
                number: AtomicU64::new(0),
                all: std::sync::Mutex::new(vec![None]),
            }
        }

        /// Of one writer.
        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            let number = {
                let mut all = self.all.lock().unwrap();
                all.push(value);
                all.len() as u64 - 1
            };
            self.number.store(number, Ordering::Release);
        }

        pub(crate) fn load_full(&self) -> Option<Arc<T>> {
            let number = self.number.load(Ordering::Acquire);
            self.all.lock().unwrap()[usize::try_from(number).unwrap()].clone()
        }
    }

    /// Checks a model in all its interleavings, or in those with so many switches where none is forced.
    pub(crate) fn check(switches: Option<usize>, run: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = switches;
        builder.check(run);
    }

    /// What the checker says of a model that something is wrong with.
    pub(crate) fn complaint(
        switches: Option<usize>,
        run: impl Fn() + Send + Sync + 'static,
    ) -> String {
        let found = catch_unwind(AssertUnwindSafe(|| check(switches, run)));
        let said = found.expect_err("the checker has found nothing");
        let owned = said.downcast_ref::<String>().cloned();
        let said = owned.or_else(|| said.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        said.unwrap_or_default()
    }
}

//! Two fences that work in pairs, one of which costs next to nothing.
//!
//! A user notes that it is inside and then looks at the gate; who closes the gate writes that down and then looks for
//! users inside. Neither may look before its own note can be seen, or both miss each other. That takes a full fence on
//! both sides, and on x86 such a fence costs more than all the rest of a user's way in.
//!
//! `membarrier(2)` with `MEMBARRIER_CMD_PRIVATE_EXPEDITED` lets one side pay for both: before it returns, every thread of
//! this process that runs has executed a full fence, at some point between the call's begin and its end; one that does
//! not run has passed one when it was switched out. So for each user there is a point in its program order where that
//! fence was. Notes before that point are seen by whoever called, and looks behind it see what the caller had written
//! before. On the user's side it is left to keep the *compiler* from moving the look before the note.
//!
//! What the pair guarantees is what a sequentially consistent fence on each side would: at least one of the two sees the
//! other's note. That is the model under which the tests check the gate (see `interleaved`), with such a fence in both
//! places. Between two *users* the model's fences order more than a compiler's does. The gate needs nothing of that: users
//! learn of each other under the gate's lock alone.
//!
//! Where the kernel does not have the call, or it is forbidden, both sides have a real fence (`tests/gate_without_membarrier.rs`).
#![allow(unsafe_code, reason = "a system call that no crate of ours wraps")]

#[cfg(not(all(test, feature = "loom")))]
pub(super) use real::{Light, heavy, light, prepare};

#[cfg(all(test, feature = "loom"))]
pub(super) use model::{Light, heavy, light, prepare};

#[cfg(not(all(test, feature = "loom")))]
mod real {
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};

    /// Whether the heavy fence is one for all threads. It becomes so once, before the first gate is there.
    static ASYMMETRIC: AtomicBool = AtomicBool::new(false);

    /// Says to the kernel that this process will want it. To be called before any of the fences is used.
    pub(in super::super) fn prepare() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let registered = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
            // A try, so that a filter of system calls that lets only the registration through is noticed now.
            let works = registered && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
            ASYMMETRIC.store(works, Ordering::Relaxed);
        });
    }

    /// The user's side: which of the two kinds it is.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Light {
        asymmetric: bool,
    }

    #[inline]
    pub(in super::super) fn light() -> Light {
        Light {
            asymmetric: ASYMMETRIC.load(Ordering::Relaxed),
        }
    }

    impl Light {
        #[inline]
        pub(in super::super) fn pass(self) {
            if self.asymmetric {
                compiler_fence(Ordering::SeqCst);
            } else {
                fence(Ordering::SeqCst);
            }
        }
    }

    /// The side of who closes: an interrupt to every CPU that runs this process, and for each of them that it has taken it.
    /// It waits for no thread of ours, but while the host takes CPUs of its own up or down, for that.
    pub(in super::super) fn heavy() {
        fence(Ordering::SeqCst);
        if ASYMMETRIC.load(Ordering::Relaxed) {
            let done = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
            // Once it has been registered it fails for want of a few bytes alone, which the kernel waits for rather than
            // refuse them; and to go on without it would be to take a vCPU from under a user.
            assert!(
                done,
                "membarrier(2) has worked at the start and does not now"
            );
        }
    }

    fn membarrier(command: libc::c_int) -> bool {
        // Miri does not know this system call; so it checks what is done where the kernel lacks it.
        if cfg!(miri) {
            return false;
        }
        // SAFETY: it takes three numbers, and touches no memory of this process.
        let answer = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
        answer == 0
    }

    #[cfg(test)]
    pub(in super::super) fn is_asymmetric() -> bool {
        ASYMMETRIC.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(feature = "loom")))]
pub(super) use real::is_asymmetric;

/// The fences as the checker of interleavings has them.
#[cfg(all(test, feature = "loom"))]
mod model {
    use loom::sync::atomic::{Ordering, fence};
    use std::cell::Cell;

    thread_local! {
        /// Whether users have their fence; without it the checker must find how they are missed. All threads of a model
        /// are run by one thread of the system.
        pub(in super::super) static LIGHT: Cell<bool> = const { Cell::new(true) };
        /// The same of who closes.
        pub(in super::super) static HEAVY: Cell<bool> = const { Cell::new(true) };
    }

    pub(in super::super) fn prepare() {}

    #[derive(Clone, Copy)]
    pub(in super::super) struct Light;

    pub(in super::super) fn light() -> Light {
        Light
    }

    impl Light {
        pub(in super::super) fn pass(self) {
            if LIGHT.get() {
                fence(Ordering::SeqCst);
            }
        }
    }

    pub(in super::super) fn heavy() {
        if HEAVY.get() {
            fence(Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, feature = "loom"))]
pub(super) use model::{HEAVY, LIGHT};

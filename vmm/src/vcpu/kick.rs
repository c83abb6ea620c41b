//! Kicks: making another thread leave `KVM_RUN`, without a window in which that could be missed.
//!
//! The signal's handler sets `immediate_exit` in the thread's own `kvm_run` page. A signal that comes while
//! the thread is in `KVM_RUN` ends it; one that comes at any other time makes the next `KVM_RUN` return at
//! once, after it has completed an access that is under way (`Documentation/virt/kvm/api.rst`, 5).
#![allow(
    unsafe_code,
    reason = "a signal handler that writes to a page shared with the kernel"
)]

use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{addr_of_mut, null_mut};
use std::sync::atomic::{Ordering, compiler_fence};
use std::thread::JoinHandle;
use vmm_sys_util::signal::{Killable, register_signal_handler, unblock_signal};

/// A classic signal: pending once, however often it was sent. Real-time ones queue, and a thread that takes none, because it
/// is stopped or stuck in the kernel, would fill the queue of all processes of this user (`RLIMIT_SIGPENDING`), after
/// which no vCPU of theirs could be kicked. A classic one is pending also where nothing is left to queue it with.
const KICK: libc::c_int = libc::SIGUSR1;

thread_local! {
    /// The thread's `kvm_run` page while it is armed. A constant initialiser and no destructor: the signal
    /// handler may read it at any time.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: `run` is this thread's own page: `arm` put it there, and `Known`, which goes before what
        // keeps it mapped can go, takes it away.
        let immediate_exit = unsafe { addr_of_mut!((*run).immediate_exit) };
        // SAFETY: a byte inside that page. The kernel reads it; a one-byte volatile write cannot tear.
        unsafe { immediate_exit.write_volatile(1) };
    }
}

/// Sets up the handler, which it may be already, and has threads that the calling one makes take the signal: whoever started
/// this process may have blocked it.
///
/// # Errors
/// [`Error::Host`] where the kernel does not take it.
pub fn install() -> Result<()> {
    let asked = "handler of the kick signal";
    failpoint!(InstallHandler, register_signal_handler(KICK, on_kick))
        .map_err(|e| Error::bug(asked, std::io::Error::from(e)))?;
    unblock_signal(KICK).map_err(|e| Error::bug(asked, format!("{e:?}")))
}

/// A vCPU that kicks of the calling thread reach.
///
/// It owns the descriptor, so that the page that the signal handler writes to stays mapped as long as the
/// handler knows of it; and it stays on its thread.
pub struct Armed {
    // Dropped first: then the handler no longer knows of the page.
    known: Known,
    vcpu: VcpuFd,
}

/// The handler knows of a page of the calling thread's.
struct Known {
    _on_this_thread: PhantomData<*mut ()>,
}

/// Lets kicks of the calling thread reach `vcpu`.
#[must_use]
pub fn arm(mut vcpu: VcpuFd) -> Armed {
    RUN.set(vcpu.get_kvm_run());
    let known = Known {
        _on_this_thread: PhantomData,
    };
    Armed { known, vcpu }
}

impl Armed {
    /// Makes the next `KVM_RUN` run again, after a kick. What the kick was about must be looked at after this:
    /// a kick that comes in between makes that `KVM_RUN` return at once.
    pub fn acknowledge(&mut self) {
        self.vcpu.set_kvm_immediate_exit(0);
        // The handler runs on this thread, so it is the compiler alone that could move the store.
        compiler_fence(Ordering::SeqCst);
    }

    /// Gives the vCPU back; kicks of this thread do nothing from now on.
    #[must_use]
    pub fn disarm(self) -> VcpuFd {
        let Self { known, vcpu } = self;
        drop(known);
        vcpu
    }
}

impl Deref for Armed {
    type Target = VcpuFd;

    fn deref(&self) -> &VcpuFd {
        &self.vcpu
    }
}

impl DerefMut for Armed {
    fn deref_mut(&mut self) -> &mut VcpuFd {
        &mut self.vcpu
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        RUN.set(null_mut());
    }
}

/// Kicks a thread. One that has ended already is not bothered.
pub fn kick<T>(thread: &JoinHandle<T>) {
    // The number is valid, and a thread that was not joined can be signalled.
    let _ = failpoint!(Kick, thread.kill(KICK));
}

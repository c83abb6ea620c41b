//! What a system call comes to that its thread may not make: the process ends, and says which thread it was and which
//! call.
#![allow(
    unsafe_code,
    reason = "a signal handler that reads what the kernel tells it of a system call"
)]

use crate::error::{Error, Result};
use libc::{c_int, c_void, siginfo_t};
use nix::sys::signal::{SigSet, Signal};
use std::ffi::CStr;
use std::io::{Cursor, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use syscalls::Sysno;
use vmm_sys_util::signal::register_signal_handler;

/// The exit code of a process that a forbidden system call has ended.
pub const EXIT_CODE: i32 = 7;

/// The exit code where somebody else has sent the signal, as shells have it.
const BY_SIGNAL: i32 = 128 + libc::SIGSYS;

/// `si_code` of a SIGSYS that a filter has sent (`asm-generic/siginfo.h`).
const SYS_SECCOMP: c_int = 1;

/// What the kernel says with SIGSYS (`sigaction(2)`, `si_call_addr` and on).
#[repr(C)]
struct Sigsys {
    signo: c_int,
    errno: c_int,
    code: c_int,
    address: *const c_void,
    call: c_int,
}

/// The log file's descriptor, or -1.
static LOG: AtomicI32 = AtomicI32::new(-1);

/// Where the message goes beside standard error, as long as the process lives.
pub fn tell_also(log: c_int) {
    LOG.store(log, Ordering::Relaxed);
}

/// What is put back as it was before the message.
static PUT_BACK: OnceLock<fn()> = OnceLock::new();

/// Has the end of the process begin with this: once, and such as a signal handler may do.
pub(crate) fn begin_the_end_with(put_back: fn()) {
    // Whoever was first says the same.
    let _ = PUT_BACK.set(put_back);
}

/// Sets up the handler, in the process's first thread: whoever started it may have blocked the signal.
pub(super) fn install() -> Result<()> {
    let asked = "handler of forbidden system calls";
    register_signal_handler(libc::SIGSYS, on_forbidden)
        .map_err(|e| Error::bug(asked, std::io::Error::from_raw_os_error(e.errno())))?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGSYS);
    signals
        .thread_unblock()
        .map_err(|e| Error::bug(asked, e.desc()))
}

/// Allocates nothing and waits for nothing: the thread may be anywhere.
extern "C" fn on_forbidden(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives a handler that is registered with SA_SIGINFO what it knows of the signal; of a SIGSYS
    // that is at least this much, and the fields that another sender leaves alone are zero.
    let told = unsafe { &*info.cast::<Sigsys>() };
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes 16 bytes, its end included (prctl(2)).
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    let name = name.to_str().unwrap_or("?");
    let mut text = [0_u8; 320];
    let mut cursor = Cursor::new(&mut text[..]);
    let forbidden = told.code == SYS_SECCOMP;
    // What does not fit is left out.
    let _ = if forbidden {
        let known = usize::try_from(told.call).ok().and_then(Sysno::new);
        writeln!(
            cursor,
            "hotvisor: thread {name}: forbidden system call {} ({}) at {:p}; this is an attack, or a bug in \
             Hotvisor: please report it (with --seccomp log the kernel logs such calls, and they are made)",
            known.map_or("unknown", |call| call.name()),
            told.call,
            told.address,
        )
    } else {
        writeln!(cursor, "hotvisor: thread {name}: ended by SIGSYS")
    };
    let length = usize::try_from(cursor.position()).unwrap_or(0);
    if let Some(put_back) = PUT_BACK.get() {
        put_back();
    }
    for fd in [LOG.load(Ordering::Relaxed), libc::STDERR_FILENO] {
        let mut ready = libc::pollfd {
            fd,
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: `ready` is one such structure. A reader that has stalled must not keep the process alive.
        if unsafe { libc::poll(&raw mut ready, 1, 0) } == 1 {
            // SAFETY: it reads that many bytes of `text`; a descriptor that is not there is an error and nothing else.
            unsafe { libc::write(fd, text.as_ptr().cast(), length) };
        }
    }
    let code = if forbidden { EXIT_CODE } else { BY_SIGNAL };
    // SAFETY: it ends the process, without anything that a thread elsewhere could be in the midst of.
    unsafe { libc::_exit(code) }
}

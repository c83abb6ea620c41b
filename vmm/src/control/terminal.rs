//! The terminal in raw mode, and back when the process ends by itself or panics.

use crate::isolation::begin_the_end_with;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use std::io::stdin;
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

/// The terminal's state to go back to, while it is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// A terminal in raw mode. Dropping it restores the terminal; so does a panic of any thread.
#[derive(Debug)]
pub(super) struct RawMode(());

/// Whether the terminal of standard input is ours: not one whose foreground is somebody else's.
pub(super) fn is_ours() -> bool {
    // A terminal that does not control us has no foreground for us.
    tcgetpgrp(stdin()).map_or(true, |group| group == getpgrp())
}

/// Puts the terminal of standard input into raw mode, so that the guest gets every key.
pub(super) fn raw_mode() -> nix::Result<RawMode> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
        begin_the_end_with(restore_unless_locked);
    });
    let now = tcgetattr(stdin())?;
    let mut raw = now.clone();
    cfmakeraw(&mut raw);
    // Our own log lines go to the same terminal.
    raw.output_flags = now.output_flags;
    *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    if let Err(errno) = tcsetattr(stdin(), SetArg::TCSANOW, &raw) {
        restore();
        return Err(errno);
    }
    Ok(RawMode(()))
}

fn restore() {
    if let Some(saved) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that has gone away needs no restoring.
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &saved);
    }
}

/// The same for a signal handler: whoever holds the lock is restoring it, or about to change it and not any more.
fn restore_unless_locked() {
    if let Ok(saved) = SAVED.try_lock()
        && let Some(saved) = saved.as_ref()
    {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, saved);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

//! Signals that end the process: as events, or not at all.

use crate::error::{Error, FILES, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGTERM, SIGINT and SIGHUP, taken from their default effect; not those that whoever started us has us ignore,
/// as `nohup` does.
pub struct Signals(SignalFd);

/// The signals that this process ignores, as a mask whose lowest bit is signal 1. The kernel would queue a
/// blocked signal all the same.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

impl Signals {
    /// Blocks the signals in the calling thread, which must be the process's only one, and so in every
    /// thread started later. With them, for good, the one that comes with a file that may not grow further (setrlimit(2),
    /// `RLIMIT_FSIZE`): the write fails all the same, and what the guest has written is no reason to end its machine.
    ///
    /// # Errors
    /// [`Error::Host`] where the kernel does not do it.
    pub fn take() -> Result<Self> {
        let failed = |e| Error::host("signals", e, FILES);
        let mut set = SigSet::empty();
        let ignored = ignored();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            if ignored >> (signal as i32 - 1) & 1 == 0 {
                set.add(signal);
            }
        }
        set.thread_block().map_err(failed)?;
        let too_large = SigSet::from(Signal::SIGXFSZ);
        too_large.thread_block().map_err(failed)?;
        SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map(Self)
            .map_err(failed)
    }

    /// Names of the signals that came.
    pub(super) fn read(&self) -> Vec<&'static str> {
        std::iter::from_fn(|| self.0.read_signal().ok().flatten())
            .map(|info| {
                i32::try_from(info.ssi_signo)
                    .ok()
                    .and_then(|signal| Signal::try_from(signal).ok())
                    .map_or("signal", Signal::as_str)
            })
            .collect()
    }

    /// Readable while there is a signal to read.
    pub(super) fn fd(&self) -> &SignalFd {
        &self.0
    }
}

//! One bed at a time on a machine: two would starve each other, and then every deadline is missed.

use std::fs::{File, OpenOptions, TryLockError};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};

/// Longest turn that a bed may take before the next one gives up.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

/// Waits for its turn, which ends when the file is closed. The file is the same for all source
/// trees of a user.
pub(super) fn take() -> Result<File> {
    let path = std::env::temp_dir().join(format!("hotvisor-bed-{}.lock", nix::unistd::getuid()));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    eprintln!("bed: waiting for another bed on this machine to end");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(file.lock().map(|()| file)));
    let file = receiver
        .recv_timeout(PATIENCE)
        .with_context(|| format!("another bed has held {} for {PATIENCE:?}", path.display()))??;
    Ok(file)
}

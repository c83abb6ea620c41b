//! As many beds at once on a machine as it has CPUs for: more would starve each other, and then every deadline is
//! missed. One that measures is alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};

/// Longest time that the beds before it may take until one gives up.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

/// More than these need more memory than many a machine has.
const AT_MOST: usize = 4;

/// How many beds this machine has room for at once.
#[must_use]
pub fn places() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus / super::qemu::cpus()).clamp(1, AT_MOST)
}

/// Where a bed may run, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// Which of the places it has; of several the first.
    pub(super) number: usize,
    /// They hold the locks.
    _files: Vec<File>,
}

/// Waits for a place, or for all of them.
pub(super) fn take(alone: bool) -> Result<Place> {
    if alone {
        // Always in the same order, so that two of them cannot wait for each other.
        let files = (0..places()).map(|number| Ok(first_of(&[number])?.1));
        return Ok(Place {
            number: 0,
            _files: files.collect::<Result<_>>()?,
        });
    }
    let all: Vec<usize> = (0..places()).collect();
    let (number, file) = first_of(&all)?;
    Ok(Place {
        number,
        _files: vec![file],
    })
}

/// The first of these places that is free.
fn first_of(numbers: &[usize]) -> Result<(usize, File)> {
    let mut taken = Vec::new();
    for &number in numbers {
        let file = open(number)?;
        match file.try_lock() {
            Ok(()) => return Ok((number, file)),
            Err(TryLockError::WouldBlock) => taken.push((number, file)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    eprintln!("bed: waiting for another bed on this machine to end");
    let (sender, receiver) = mpsc::channel();
    for (number, file) in taken {
        let sender = sender.clone();
        // Whoever comes too late gives the place back at once, because nobody takes the file.
        std::thread::spawn(move || sender.send(file.lock().map(|()| (number, file))));
    }
    let first = receiver.recv_timeout(PATIENCE).with_context(|| {
        format!(
            "other beds have held {} for {PATIENCE:?}",
            path(0).display()
        )
    })?;
    Ok(first?)
}

/// The file is the same for all source trees of a user.
fn open(number: usize) -> Result<File> {
    let path = path(number);
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn path(number: usize) -> PathBuf {
    let user = nix::unistd::getuid();
    std::env::temp_dir().join(format!("hotvisor-bed-{user}-{number}.lock"))
}

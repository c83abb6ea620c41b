//! What a VMM has of the host that could leak, and waiting for what only asking again can tell.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{SOON, Vm};

/// What a VMM has of the host that could leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Threads.
    pub threads: usize,
    /// Open descriptors.
    pub files: usize,
}

impl Vm {
    /// What the VMM has of the host.
    ///
    /// # Errors
    /// It has ended.
    pub fn footprint(&self) -> Result<Footprint> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count();
        Ok(Footprint {
            threads: self.threads()?.len(),
            files,
        })
    }

    /// Waits until something holds that only asking again can tell.
    ///
    /// # Errors
    /// It does not hold within [`SOON`], or asking failed.
    pub fn wait_until(&self, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + SOON;
        while !holds()? {
            ensure!(
                Instant::now() < end,
                self.evidence(format!("waited {SOON:?} for {what}"))
            );
        }
        Ok(())
    }
}

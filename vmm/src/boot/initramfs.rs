//! The initial RAM file system.

use super::file::Opened;
use crate::arch::layout::PAGE;
use crate::error::{Error, Result};
use std::io::{Seek, SeekFrom};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// An initramfs.
pub(super) struct Initramfs(Opened);

impl Initramfs {
    /// Any file that has something in it: what, is the guest's business.
    pub(super) fn new(opened: Opened) -> Result<Self> {
        if opened.len == 0 {
            let remedy = "name a cpio archive";
            return Err(Error::input(opened.asked, "an empty file", remedy));
        }
        Ok(Self(opened))
    }

    /// The highest page from which it fits between `from` and `to`.
    pub(super) fn place(&self, from: u64, to: u64, memory: u64) -> Result<u64> {
        match to.checked_sub(self.0.len).map(|at| at / PAGE * PAGE) {
            Some(at) if at >= from => Ok(at),
            _ => Err(Error::input(
                &self.0.asked,
                format!(
                    "its {} MiB do not fit beside the kernel into {} MiB",
                    self.0.len.div_ceil(1 << 20),
                    memory >> 20
                ),
                "give the guest more memory, or use a smaller initramfs",
            )),
        }
    }

    /// Reads it to `at`; returns where it lies and how long it is.
    pub(super) fn load<M: GuestMemoryBackend>(&self, memory: &M, at: u64) -> Result<(u64, u64)> {
        let mut file = &self.0.file;
        file.seek(SeekFrom::Start(0))
            .map_err(|e| self.unreadable(&e))?;
        let len = usize::try_from(self.0.len).map_err(|e| self.unreadable(&e))?;
        memory
            .read_exact_volatile_from(GuestAddress(at), &mut &self.0.file, len)
            .map_err(|e| self.unreadable(&e))?;
        Ok((at, self.0.len))
    }

    fn unreadable(&self, error: &dyn std::fmt::Display) -> Error {
        Error::input(
            &self.0.asked,
            error,
            "see whether the file changed or its disk fails",
        )
    }
}

//! The initial RAM file system.

use crate::arch::layout::PAGE;
use crate::error::{Error, Result};
use crate::stream::open_unblocking;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::path::Path;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// An opened initramfs.
pub(super) struct Initramfs {
    file: File,
    len: u64,
    asked: String,
}

impl Initramfs {
    /// Opens the file and takes its size.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let asked = format!("initramfs {}", path.display());
        let (file, len) = open_file(path, &asked, "name a file that exists and may be read")?;
        if len == 0 {
            return Err(Error::input(asked, "an empty file", "name a cpio archive"));
        }
        Ok(Self { file, len, asked })
    }

    /// The highest page from which it fits between `from` and `to`.
    pub(super) fn place(&self, from: u64, to: u64, memory: u64) -> Result<u64> {
        match to.checked_sub(self.len).map(|at| at / PAGE * PAGE) {
            Some(at) if at >= from => Ok(at),
            _ => Err(Error::input(
                &self.asked,
                format!(
                    "its {} MiB do not fit beside the kernel into {} MiB",
                    self.len.div_ceil(1 << 20),
                    memory >> 20
                ),
                "give the guest more memory, or use a smaller initramfs",
            )),
        }
    }

    /// Reads it to `at`; returns where it lies and how long it is.
    pub(super) fn load<M: GuestMemoryBackend>(&self, memory: &M, at: u64) -> Result<(u64, u64)> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .map_err(|e| self.unreadable(&e))?;
        let len = usize::try_from(self.len).map_err(|e| self.unreadable(&e))?;
        memory
            .read_exact_volatile_from(GuestAddress(at), &mut &self.file, len)
            .map_err(|e| self.unreadable(&e))?;
        Ok((at, self.len))
    }

    fn unreadable(&self, error: &dyn std::fmt::Display) -> Error {
        Error::input(
            &self.asked,
            error,
            "see whether the file changed or its disk fails",
        )
    }
}

/// Opens a regular file for reading and tells its size.
pub(super) fn open_file(path: &Path, asked: &str, remedy: &str) -> Result<(File, u64)> {
    let refuse = |found: &dyn std::fmt::Display| Error::input(asked, found, remedy);
    let opened = open_unblocking(OpenOptions::new().read(true), path);
    let file = opened.map_err(|e| refuse(&e))?;
    let metadata = file.metadata().map_err(|e| refuse(&e))?;
    if !metadata.is_file() {
        return Err(refuse(&"not a regular file"));
    }
    Ok((file, metadata.len()))
}

//! The files of a guest, opened and not looked into: by whoever may, before anybody trusts what is in them.

use crate::config::VmConfig;
use crate::error::{Error, Result};
use crate::isolation::confinement;
use crate::stream::open_unblocking;
use std::fs::{File, OpenOptions};
use std::path::Path;

/// A regular file that is open for reading.
pub(super) struct Opened {
    pub(super) file: File,
    /// How long it was when it was opened.
    pub(super) len: u64,
    /// How it was asked for.
    pub(super) asked: String,
}

/// The files of a guest.
pub struct Files {
    pub(super) kernel: Opened,
    pub(super) initramfs: Option<Opened>,
}

impl Files {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is missing, may not be read or is none.
    pub fn open(config: &VmConfig) -> Result<Self> {
        let initramfs = config.initramfs.as_deref();
        Ok(Self {
            kernel: open("kernel", &config.kernel, "name a bzImage or an ELF vmlinux")?,
            initramfs: initramfs
                .map(|path| open("initramfs", path, "name a file that exists and may be read"))
                .transpose()?,
        })
    }
}

fn open(what: &str, path: &Path, remedy: &str) -> Result<Opened> {
    let asked = format!("{what} {}", path.display());
    let opened = open_unblocking(OpenOptions::new().read(true), path);
    let file = opened.map_err(|e| Error::input(&asked, &e, confinement::remedy(&e, remedy)))?;
    let metadata = file.metadata();
    let metadata = metadata.map_err(|e| Error::input(&asked, e, remedy))?;
    if !metadata.is_file() {
        return Err(Error::input(asked, "not a regular file", remedy));
    }
    Ok(Opened {
        file,
        len: metadata.len(),
        asked,
    })
}

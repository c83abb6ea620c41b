//! Programs of others that the bed installs into a folder of its own, once for each version.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

/// The folder of `program`, into which `install` has put it as `wanted` says, now or earlier. It comes `from` somewhere that
/// a person knows.
///
/// # Errors
/// It cannot be installed.
pub fn folder(
    program: &str,
    from: &str,
    wanted: &str,
    install: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let folder = paths::bed(program)?;
    let stamp = folder.join("installed");
    let lock = File::create(folder.join("lock"))?;
    lock.lock()
        .with_context(|| format!("cannot lock the folder of {program}"))?;
    if fs::read_to_string(&stamp).ok().as_deref() != Some(wanted) {
        eprintln!("bed: installing {program} from {from}");
        install(&folder).with_context(|| {
            format!("cannot install {program}; it comes from {from}, once, and needs the network for that")
        })?;
        // Written last: what it names is whole.
        fs::write(&stamp, wanted)?;
    }
    Ok(folder)
}

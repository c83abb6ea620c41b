//! Where the bed keeps what it makes: a folder `bed` inside cargo's target directory.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Root of the source tree this executable was built from.
#[must_use]
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target directory: the outermost one that this executable lies in, because cargo marks
/// each with a `CACHEDIR.TAG`; otherwise what the environment or cargo's default says.
#[must_use]
pub fn target() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.ancestors()
        .filter(|dir| dir.join("CACHEDIR.TAG").exists())
        .last()
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from))
        .unwrap_or_else(|| workspace().join("target"))
}

/// A folder of the bed, made if it does not exist.
///
/// # Errors
/// The folder cannot be made.
pub fn bed(folder: &str) -> Result<PathBuf> {
    let dir = target().join("bed").join(folder);
    fs::create_dir_all(&dir)
        .with_context(|| format!("cannot make the folder {}", dir.display()))?;
    Ok(dir)
}

/// What tells a file apart from others, by what is in it.
///
/// # Errors
/// The file cannot be read.
pub fn fingerprint(path: &Path) -> Result<u64> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Ok(hasher.finish())
}

/// Writes a file so that nobody ever sees half of it. Everybody may read it, whoever else runs a guest.
///
/// # Errors
/// The file cannot be written next to where it shall be, or not be renamed.
pub fn replace(path: &Path, fill: impl FnOnce(&mut fs::File) -> Result<()>) -> Result<()> {
    let dir = path.parent().context("a file name without a folder")?;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .with_context(|| format!("cannot write into {}", dir.display()))?;
    fill(file.as_file_mut())?;
    file.persist(path)
        .with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(())
}

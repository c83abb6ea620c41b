//! Debian's QEMU, to be run in L1 as the VMM to compare with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";

/// What it loads to boot a Linux kernel, wherever the packages put it.
const FIRMWARE: &[&str] = &[
    "bios-256k.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "pvh.bin",
];
const FIRMWARE_FOLDERS: &[&str] = &["/usr/share/qemu", "/usr/share/seabios"];

/// QEMU with its libraries and firmware, each with its place in L1, which is the same.
///
/// # Errors
/// A part of it is missing on the host.
pub fn peer_qemu_files() -> Result<Vec<(PathBuf, String)>> {
    let mut files = shared_libraries(PROGRAM)?;
    files.push(in_place(PROGRAM.into()));
    for name in FIRMWARE {
        let path = FIRMWARE_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(name))
            .find(|path| path.exists())
            .with_context(|| {
                format!("QEMU's {name} is in none of {FIRMWARE_FOLDERS:?}; is seabios installed?")
            })?;
        files.push(in_place(path));
    }
    Ok(files)
}

/// The libraries that a dynamically linked program needs.
fn shared_libraries(program: &str) -> Result<Vec<(PathBuf, String)>> {
    let list = crate::process::text(Command::new("ldd").arg(program))?;
    if list.contains("not found") {
        bail!("{program} lacks a library:\n{list}");
    }
    let paths = list.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(|path| in_place(path.into())).collect())
}

fn in_place(path: PathBuf) -> (PathBuf, String) {
    let place = path.display().to_string();
    (path, place)
}

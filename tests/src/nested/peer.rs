//! Debian's QEMU, and other VMMs of the host's, to be run in L1 and compared with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const QEMU: &str = "qemu-system-x86_64";

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
    peer_files(&[QEMU])
}

/// The same for several VMMs, each by its name on PATH; in L1 they are in `/usr/bin`, as QEMU is.
///
/// # Errors
/// A part of one of them is missing on the host.
pub fn peer_files(programs: &[&str]) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for &name in programs {
        let program = on_path(name).with_context(|| format!("there is no {name} on PATH"))?;
        files.extend(shared_libraries(&program)?);
        files.push((program, format!("/usr/bin/{name}")));
        if name == QEMU {
            files.extend(firmware()?);
        }
    }
    Ok(files)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn firmware() -> Result<Vec<(PathBuf, String)>> {
    let find = |name: &&str| {
        let path = FIRMWARE_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(name))
            .find(|path| path.exists())
            .with_context(|| {
                format!("QEMU's {name} is in none of {FIRMWARE_FOLDERS:?}; is seabios installed?")
            })?;
        Ok(in_place(path))
    };
    FIRMWARE.iter().map(find).collect()
}

/// The libraries that a program needs: none if it is linked statically, or is a script.
pub(crate) fn shared_libraries(program: &Path) -> Result<Vec<(PathBuf, String)>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    let list = String::from_utf8_lossy(&output.stdout);
    if list.contains("not found") {
        bail!("{} lacks a library:\n{list}", program.display());
    }
    let paths = list.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(|path| in_place(path.into())).collect())
}

fn in_place(path: PathBuf) -> (PathBuf, String) {
    let place = path.display().to_string();
    (path, place)
}

//! The image that guests under test boot: busybox, an init script, a program that changes how
//! processes are scheduled, and the modules for the power button.

use std::path::Path;

use anyhow::{Context, Result};

use super::Archive;
use crate::{kernels::Unpacked, paths};

const INIT: &[u8] = include_bytes!("../../../resources/guest/init");

/// Reserves CPU time, or gives a CPU to one process; busybox's `chrt` cannot do the one, where there is a
/// `chrt` at all.
const SCHEDULE: &[u8] = include_bytes!(env!("HOTVISOR_GUEST_SCHEDULE"));

/// `button` makes an input device of ACPI's power button, `evdev` lets the init script read it.
const MODULES: &[&str] = &["button", "evdev"];

/// Writes the guest's initial RAM file system for one kernel.
///
/// # Errors
/// The kernel lacks a module, busybox is missing, or the file cannot be written.
pub fn guest(kernel: &Unpacked, path: &Path) -> Result<()> {
    let mut archive = Archive::new();
    archive.bytes("init", 0o755, INIT);
    archive.busybox()?;
    archive.bytes("bin/schedule", 0o755, SCHEDULE);
    for folder in ["etc", "proc", "sys", "run", "tmp"] {
        archive.directory(folder);
    }
    for (number, module) in kernel.modules(MODULES)?.into_iter().enumerate() {
        let file = format!("lib/modules/{number:02}-{}.ko", module.name);
        archive.bytes(&file, 0o644, module.object);
    }
    paths::replace(path, |file| archive.write(file))
        .with_context(|| format!("cannot make the guest image for {}", kernel.release()))
}

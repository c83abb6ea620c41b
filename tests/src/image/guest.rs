//! The image that guests under test boot: busybox, an init script, a program that changes how
//! processes are scheduled, and the modules for the power button; and a larger one with what keeps a guest at work.

use std::path::Path;

use anyhow::{Context, Result};

use super::Archive;
use crate::kernels::{self, Unpacked};
use crate::{nested, paths};

const INIT: &[u8] = include_bytes!("../../../resources/guest/init");

/// Reserves CPU time, or gives a CPU to one process; busybox's `chrt` cannot do the one, where there is a
/// `chrt` at all.
const SCHEDULE: &[u8] = include_bytes!(env!("HOTVISOR_GUEST_SCHEDULE"));

/// Connects through the socket device; busybox cannot.
const VSOCK: &[u8] = include_bytes!(env!("HOTVISOR_GUEST_VSOCK"));

/// `button` makes an input device of ACPI's power button, `evdev` lets the init script read it.
const MODULES: &[&str] = &["button", "evdev"];

/// What finds a virtio device by the ACPI tables, and the driver of the socket device.
const SOCKET_MODULES: &[&str] = &["virtio_mmio", "vmw_vsock_virtio_transport"];

/// Keeps a guest at work, by the name of a load.
const LOAD: &[u8] = include_bytes!("../../../resources/guest/load");

/// What the loads need: a swap device, whose way to compress is not always built in.
const LOAD_MODULES: &[&str] = &["zram", "lzo-rle"];

/// The host's programs that loads consist of, and where they lie in the guest.
const PROGRAMS: &[(&str, &str)] = &[
    ("/usr/bin/stress-ng", "bin/stress-ng"),
    ("/bin/bash", "bin/bash"),
];

/// Writes the guest's initial RAM file system for one kernel.
///
/// # Errors
/// The kernel lacks a module, busybox is missing, or the file cannot be written.
pub fn guest(kernel: &Unpacked, path: &Path) -> Result<()> {
    write(&small(kernel, &[])?, kernel, path)
}

/// As [`guest`], with what uses a socket device, and the agent.
///
/// # Errors
/// As [`guest`].
pub fn connected(kernel: &Unpacked, agent: &Path, path: &Path) -> Result<()> {
    let mut archive = small(kernel, SOCKET_MODULES)?;
    archive.bytes("bin/vsock", 0o755, VSOCK);
    archive.host_file("bin/hotvisor-agent", 0o755, agent);
    write(&archive, kernel, path)
}

/// As [`guest`], with all that the loads need, which is fifteen times as much.
///
/// # Errors
/// As [`guest`], or a program or the kernel's own test is missing.
pub fn loaded(kernel: &Unpacked, path: &Path) -> Result<()> {
    let mut archive = small(kernel, LOAD_MODULES)?;
    archive.bytes("bin/load", 0o755, LOAD);
    for &(program, place) in PROGRAMS {
        archive.host_file(place, 0o755, program);
        for (library, place) in nested::shared_libraries(Path::new(program))? {
            archive.host_file(&place, 0o755, library);
        }
    }
    let test = "usr/lib/selftests/cpu-on-off-test.sh";
    archive.host_file(test, 0o755, kernels::cpu_on_off()?);
    write(&archive, kernel, path)
}

fn small(kernel: &Unpacked, more: &[&str]) -> Result<Archive> {
    let mut archive = Archive::new();
    archive.bytes("init", 0o755, INIT);
    archive.busybox()?;
    archive.bytes("bin/schedule", 0o755, SCHEDULE);
    for folder in ["etc", "proc", "sys", "run", "tmp"] {
        archive.directory(folder);
    }
    let modules = kernel.modules(&[MODULES, more].concat())?;
    for (number, module) in modules.into_iter().enumerate() {
        let file = format!("lib/modules/{number:02}-{}.ko", module.name);
        archive.bytes(&file, 0o644, module.object);
    }
    Ok(archive)
}

fn write(archive: &Archive, kernel: &Unpacked, path: &Path) -> Result<()> {
    paths::replace(path, |file| archive.write(file))
        .with_context(|| format!("cannot make the guest image for {}", kernel.release()))
}

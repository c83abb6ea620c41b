//! Builds what runs in guests with the host's C compiler: the bare-metal test guest, and programs for the
//! image of the Linux guests. Their paths reach the tests as variables, at compile time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &[&str] = &[
    "entry.S",
    "main.c",
    "serial.c",
    "acpi.c",
    "cpu.c",
    "hotplug.c",
    "hostile.c",
];
/// Programs for the image of the Linux guests.
const PROGRAMS: &[&str] = &["schedule", "vsock"];
const OTHERS: &[&str] = &["guest.ld", "guest.h", "layout.h"];

/// No C library, no headers but the compiler's own, no registers but the general ones: nothing sets up the
/// others, and a KVM that interprets its guests knows few instructions beside the plain ones.
const COMPILE: &[&str] = &[
    "-m32",
    "-fno-pic",
    "-fno-strict-aliasing",
    "-fno-tree-loop-distribute-patterns",
    "-fcf-protection=none",
    "-mgeneral-regs-only",
    "-c",
];

/// What every program here is compiled with.
const FREESTANDING: &[&str] = &[
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-pie",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
];

/// What every program here is linked with.
const ALONE: &[&str] = &[
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
];

const LINK: &[&str] = &[
    "-m32",
    // All of the guest is one segment: it has no page tables that could tell code from data.
    "-Wl,--no-warn-rwx-segments",
];

fn main() -> Result<(), String> {
    let manifest = variable("CARGO_MANIFEST_DIR")?;
    let sources = manifest
        .parent()
        .unwrap_or(&manifest)
        .join("resources/baremetal");
    for file in SOURCES.iter().chain(OTHERS) {
        println!("cargo::rerun-if-changed={}", sources.join(file).display());
    }
    let out = variable("OUT_DIR")?;
    let guest = build(&sources, &out)?;
    println!(
        "cargo::rustc-env=HOTVISOR_BAREMETAL_GUEST={}",
        guest.display()
    );
    let sources = sources.with_file_name("guest");
    let shared = sources.join("alone.h");
    println!("cargo::rerun-if-changed={}", shared.display());
    PROGRAMS
        .iter()
        .try_for_each(|name| program(&sources, name, &out))
}

/// A program for the image of the Linux guests.
fn program(sources: &Path, name: &str, out: &Path) -> Result<(), String> {
    let source = sources.join(name).with_extension("c");
    println!("cargo::rerun-if-changed={}", source.display());
    let program = out.join(name);
    run(Command::new("gcc")
        .args(FREESTANDING)
        .args(ALONE)
        .arg("-s")
        .arg(&source)
        .arg("-o")
        .arg(&program))?;
    let variable = format!("HOTVISOR_GUEST_{}", name.to_uppercase());
    println!("cargo::rustc-env={variable}={}", program.display());
    Ok(())
}

fn variable(name: &str) -> Result<PathBuf, String> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("cargo has not set {name}"))
}

fn build(sources: &Path, out: &Path) -> Result<PathBuf, String> {
    let mut objects = Vec::new();
    for source in SOURCES {
        let object = out.join(source).with_extension("o");
        run(Command::new("gcc")
            .args(FREESTANDING)
            .args(COMPILE)
            .arg(sources.join(source))
            .arg("-o")
            .arg(&object))?;
        objects.push(object);
    }
    let linked = out.join("guest-elf32");
    run(Command::new("gcc")
        .args(ALONE)
        .args(LINK)
        .arg("-T")
        .arg(sources.join("guest.ld"))
        .args(&objects)
        .arg("-o")
        .arg(&linked))?;
    let guest = out.join("guest.elf");
    run(Command::new("objcopy")
        .args(["-O", "elf64-x86-64"])
        .arg(&linked)
        .arg(&guest))?;
    mark_as_32_bit(&guest).map_err(|error| format!("{}: {error}", guest.display()))?;
    Ok(guest)
}

/// Loaders want ELF64, as a Linux kernel is; that the code in it stays in 32-bit mode is told by the
/// machine in its header, so that nobody looks for a KVM that can do more.
fn mark_as_32_bit(guest: &Path) -> io::Result<()> {
    const E_MACHINE: u64 = 18;
    const EM_386: u16 = 3;
    let file = File::options().write(true).open(guest)?;
    file.write_all_at(&EM_386.to_le_bytes(), E_MACHINE)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| {
        format!(
            "cannot start {:?}, which the bare-metal test guest is built with: {error}\n\
             Install it with:\n  sudo apt-get install --no-install-recommends gcc binutils",
            command.get_program()
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} ended with {}:\n{said}", output.status))
}

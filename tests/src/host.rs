//! Debian packages that the host must have, and whether its own KVM is enough.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// What the nested bed and the guest image are made from.
pub const BED: &[&str] = &[
    "qemu-system-x86",
    "busybox-static",
    "xz-utils",
    "lz4",
    "zstd",
    "acpica-tools",
];

/// What the guests' image with loads has in it, beside the kernel's own test.
pub const LOADS: &[&str] = &["stress-ng", "bash"];

/// What the bare-metal test guest is built with.
pub const BAREMETAL: &[&str] = &["gcc", "binutils"];

/// Installs the packages that are missing. As root this happens with apt-get, and says so;
/// otherwise the error is the line to type.
///
/// # Errors
/// A package is missing and cannot be installed.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "these Debian packages are missing: {names}\nInstall them with:\n  \
             sudo apt-get update && sudo apt-get install --no-install-recommends {names}"
        );
    }
    update_package_lists()?;
    eprintln!("bed: installing {names}");
    process::output(
        Command::new("apt-get")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .with_context(|| format!("cannot install {names}"))?;
    Ok(())
}

fn installed(package: &str) -> bool {
    process::text(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// Fetches apt's package lists if there are none, as on a fresh container image.
///
/// # Errors
/// There are none, and fetching them fails or needs root.
pub fn ensure_package_lists() -> Result<()> {
    let any = fs::read_dir("/var/lib/apt/lists")
        .context("this is no Debian: it has no /var/lib/apt/lists, and the bed takes its kernels from Debian")?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
    if any {
        return Ok(());
    }
    update_package_lists()
}

/// Fetches apt's package lists anew.
///
/// # Errors
/// Fetching them fails, or needs root.
pub fn update_package_lists() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("apt's package lists are missing or old. Fetch them with:\n  sudo apt-get update");
    }
    eprintln!("bed: fetching apt's package lists");
    process::output(Command::new("apt-get").args(["update", "--quiet"]))?;
    Ok(())
}

/// What a set of tests needs of `/dev/kvm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A KVM that runs an unmodified 64-bit Linux kernel.
    LongMode,
    /// A KVM that runs 32-bit protected mode without paging, which every KVM does.
    Protected32,
}

impl Requirement {
    /// Whether this machine's own KVM is enough, found out by trying. The variable
    /// `HOTVISOR_NESTED=always` says no, to use the nested bed where it is not needed.
    #[must_use]
    pub fn met_here(self, hotvisor: &Path) -> bool {
        if std::env::var_os("HOTVISOR_NESTED").is_some_and(|value| value == "always") {
            return false;
        }
        let opens = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        match self {
            Self::Protected32 => opens,
            Self::LongMode => opens && runs_long_mode(hotvisor),
        }
    }
}

/// Asks `hotvisor check`, which boots a few instructions of 64-bit code to know.
fn runs_long_mode(hotvisor: &Path) -> bool {
    process::output(Command::new(hotvisor).args(["check", "--json"])).is_ok()
}

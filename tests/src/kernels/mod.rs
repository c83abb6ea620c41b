//! Debian's kernels: unmodified, fetched once, cached under the name of the package file.

mod modules;
mod selftest;
mod vmlinux;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub use modules::Module;
pub use selftest::cpu_on_off;

use crate::{host, paths, process};

/// A kernel that tests boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kernel {
    /// Debian 12's own 6.1 for cloud machines. L1 runs it too: it carries KVM.
    V6_1Cloud,
    /// The same with PREEMPT_RT.
    V6_1Rt,
    /// The newest 6.12 for Debian 12, for cloud machines.
    V6_12Cloud,
}

impl Kernel {
    /// All of them.
    pub const ALL: &[Self] = &[Self::V6_1Cloud, Self::V6_1Rt, Self::V6_12Cloud];

    /// Short name, used in names of tests and of files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1Cloud => "6.1-cloud",
            Self::V6_1Rt => "6.1-rt",
            Self::V6_12Cloud => "6.12-cloud",
        }
    }

    /// Finds the kernel in the cache, or fetches it. Without a network, the one fetched last does.
    ///
    /// # Errors
    /// It is not cached, and apt cannot fetch it.
    pub fn fetch(self) -> Result<Unpacked> {
        let cache = paths::bed("kernels")?;
        let latest = cache.join(self.name());
        let get = || self.resolve().and_then(|package| unpack(&package, &cache));
        // Lists of some days ago name packages that Debian has replaced since.
        let renewed = |error| {
            host::update_package_lists()
                .map_err(|_| error)
                .and_then(|()| get())
        };
        let dir = match get().or_else(renewed) {
            Ok(dir) => dir,
            Err(error) if latest.exists() => {
                let dir = fs::canonicalize(&latest)?;
                eprintln!("bed: using {}, fetched earlier: {error:#}", dir.display());
                return Unpacked::open(&dir);
            }
            Err(error) => {
                let what = "if apt's package lists are old, renew them with `sudo apt-get update`";
                return Err(error.context(format!("cannot get the kernel {}; {what}", self.name())));
            }
        };
        let link = tempfile::Builder::new()
            .prefix(".link-")
            .make_in(&cache, |path| std::os::unix::fs::symlink(&dir, path))?;
        link.persist(&latest)?;
        Unpacked::open(&dir)
    }

    /// The package that holds this kernel today.
    fn resolve(self) -> Result<String> {
        host::ensure_package_lists()?;
        match self {
            Self::V6_1Cloud => dependency("linux-image-cloud-amd64"),
            Self::V6_1Rt => dependency("linux-image-rt-amd64"),
            Self::V6_12Cloud => newest("linux-image-6.12.", "+deb12-cloud-amd64"),
        }
    }
}

/// The kernel image that a meta package depends on.
fn dependency(meta: &str) -> Result<String> {
    let depends = process::text(Command::new("apt-cache").args(["depends", "--important", meta]))?;
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| format!("apt's package {meta} depends on no kernel image:\n{depends}"))
}

/// The package with the highest version between a prefix and a suffix.
fn newest(prefix: &str, suffix: &str) -> Result<String> {
    let pattern = format!("^{}.*{}$", regex_escape(prefix), regex_escape(suffix));
    let found =
        process::text(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    found
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter_map(|package| {
            let middle = package.strip_prefix(prefix)?.strip_suffix(suffix)?;
            Some((middle.parse::<u32>().ok()?, package.to_owned()))
        })
        .max()
        .map(|(_, package)| package)
        .with_context(|| format!("apt knows no package {prefix}*{suffix}; try `apt-get update`"))
}

fn regex_escape(text: &str) -> String {
    text.replace('.', "\\.").replace('+', "\\+")
}

/// Downloads a package and unpacks it into the cache. A folder that has its final name is whole.
///
/// # Errors
/// apt cannot fetch it.
pub(crate) fn unpack(package: &str, cache: &Path) -> Result<PathBuf> {
    cached(package, "", cache, |archive, tree| {
        process::output(Command::new("dpkg-deb").arg("-x").args([archive, tree]))?;
        Ok(())
    })
}

/// The folder of the cache that is filled from a package, whose name it has, and one of its own behind. It is filled
/// if it is not there.
fn cached(
    package: &str,
    suffix: &str,
    cache: &Path,
    fill: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let uris = process::text(Command::new("apt-get").args([
        "download",
        "--print-uris",
        "--quiet",
        "--quiet",
        package,
    ]))?;
    let file = uris
        .split_whitespace()
        .nth(1)
        .with_context(|| format!("apt-get names no file for {package}: {uris:?}"))?;
    let dir = cache.join(format!("{}{suffix}", file.trim_end_matches(".deb")));
    if dir.exists() {
        return Ok(dir);
    }
    eprintln!("bed: fetching {package}");
    let temporary = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(cache)?;
    process::output(
        Command::new("apt-get")
            .args([
                "download",
                "--quiet",
                "-o",
                "APT::Sandbox::User=root",
                package,
            ])
            .current_dir(temporary.path()),
    )?;
    let archive = fs::read_dir(temporary.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get downloaded no package file for {package}"))?;
    let tree = temporary.path().join("tree");
    fill(&archive, &tree)?;
    match fs::rename(&tree, &dir) {
        Ok(()) => Ok(dir),
        // Another bed was faster; what it made is as good.
        Err(_) if dir.exists() => Ok(dir),
        Err(error) => Err(error).with_context(|| format!("cannot rename what {package} gave")),
    }
}

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Unpacked {
    dir: PathBuf,
    release: String,
}

impl Unpacked {
    fn open(dir: &Path) -> Result<Self> {
        let modules = dir.join("lib/modules");
        let entry = fs::read_dir(&modules)
            .with_context(|| format!("no kernel modules in {}", dir.display()))?
            .flatten()
            .next();
        let Some(entry) = entry else {
            bail!(
                "{} is empty; remove {} and try again",
                modules.display(),
                dir.display()
            );
        };
        Ok(Self {
            dir: dir.to_path_buf(),
            release: entry.file_name().to_string_lossy().into_owned(),
        })
    }

    /// What `uname -r` says in this kernel.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The bzImage.
    #[must_use]
    pub fn bzimage(&self) -> PathBuf {
        self.dir.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The ELF file `vmlinux`, whose PVH note allows to enter it without the 16-bit set-up code.
    /// It is what the bzImage holds compressed; unpacked once, next to it.
    ///
    /// # Errors
    /// The bzImage is none, or its compression has no tool here.
    pub fn vmlinux(&self) -> Result<PathBuf> {
        let path = self.dir.join(format!("boot/vmlinux-{}", self.release));
        if !path.exists() {
            let elf = vmlinux::extract(&self.bzimage())?;
            paths::replace(&path, |file| Ok(std::io::Write::write_all(file, &elf)?))?;
        }
        Ok(path)
    }

    /// The named modules and all that they need, in the order in which to insert them. What is
    /// built into the kernel is left out.
    ///
    /// # Errors
    /// The kernel has no such module.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        modules::in_order(&self.dir.join("lib/modules").join(&self.release), names)
    }
}

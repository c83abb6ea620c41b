//! One directory with all that a test needs. The host makes it; L1 gets a copy of it, so that a
//! test finds its things by the same names wherever it runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::kernels::Kernel;
use crate::{host, image, paths, process, systemd};

/// Names the directory, inside L1.
const VARIABLE: &str = "HOTVISOR_ARTIFACTS";

/// Where the directory is in L1.
pub const IN_L1: &str = "/artifacts";

/// A kernel in one of its two forms, and the guest image that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Image {
    /// The bzImage that Debian ships.
    BzImage(Kernel),
    /// The ELF file in it, which is entered through PVH.
    Vmlinux(Kernel),
    /// The kernel in the form that boots sooner, and the guest image that has loads in it, which is large.
    Loaded(Kernel),
    /// The kernel in the form that boots sooner, and the VMM with calls in it that a test can have fail.
    Failing(Kernel),
    /// The kernel in the form that boots sooner, and the host's systemd, to run the VMM in L1.
    Supervised(Kernel),
    /// The kernel in the form that boots sooner, and the guest image that uses a socket device.
    Connected(Kernel),
}

impl Image {
    /// The kernel.
    #[must_use]
    pub fn kernel(self) -> Kernel {
        match self {
            Self::BzImage(kernel)
            | Self::Vmlinux(kernel)
            | Self::Loaded(kernel)
            | Self::Failing(kernel)
            | Self::Supervised(kernel)
            | Self::Connected(kernel) => kernel,
        }
    }

    /// The kernel in the form that boots sooner. One that is packed with xz has an emulated machine unpack it for as long as
    /// all the rest of its boot takes.
    #[must_use]
    pub fn quick(kernel: Kernel) -> Self {
        match kernel {
            Kernel::V6_1Rt => Self::Vmlinux(kernel),
            Kernel::V6_1Cloud | Kernel::V6_12Cloud => Self::BzImage(kernel),
        }
    }

    /// Whether it has the kernel as an ELF file.
    fn is_elf(self) -> bool {
        match self {
            Self::BzImage(_) => false,
            Self::Vmlinux(_) => true,
            Self::Loaded(kernel)
            | Self::Failing(kernel)
            | Self::Supervised(kernel)
            | Self::Connected(kernel) => Self::quick(kernel).is_elf(),
        }
    }

    /// All kernels as Debian ships them.
    #[must_use]
    pub fn all_bzimages() -> Vec<Self> {
        Kernel::ALL.iter().copied().map(Self::BzImage).collect()
    }
}

/// The directory of artifacts.
#[derive(Clone, Debug)]
pub struct Artifacts {
    dir: PathBuf,
}

impl Artifacts {
    /// Makes the directory on the host: the VMM as a release build, the kernels, and the guest
    /// image for each of them.
    ///
    /// # Errors
    /// Something cannot be built or fetched.
    pub fn prepare(images: &[Image]) -> Result<Self> {
        let artifacts = Self {
            dir: paths::bed("artifacts")?,
        };
        artifacts.prepare_hotvisor()?;
        for &image in images {
            artifacts.prepare_image(image)?;
        }
        Ok(artifacts)
    }

    /// The VMM alone, enough to ask it what the host can do.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn prepare_hotvisor(&self) -> Result<()> {
        copy(&build_hotvisor()?, &self.hotvisor())
    }

    /// The VMM with calls in it that a test can have fail, for this machine only. It has its own name, as it is no release.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn failing_hotvisor(&self) -> Result<PathBuf> {
        // Once, whoever of the tests comes first.
        static BUILT: Mutex<bool> = Mutex::new(false);
        let failing = self.failing();
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if !*built {
            copy(
                &cargo_build("hotvisor", &["--features", "failpoints"])?,
                &failing,
            )?;
            *built = true;
        }
        Ok(failing)
    }

    fn prepare_image(&self, image: Image) -> Result<()> {
        let kernel = image.kernel();
        let unpacked = kernel.fetch()?;
        fs::create_dir_all(self.dir.join(kernel.name()))?;
        let form = match image.is_elf() {
            true => unpacked.vmlinux()?,
            false => unpacked.bzimage(),
        };
        copy(&form, &self.kernel(image))?;
        if let Image::Failing(_) = image {
            self.failing_hotvisor()?;
        }
        if let Image::Supervised(_) = image {
            host::ensure(&["systemd"])?;
        }
        if let Image::Loaded(_) = image {
            host::ensure(host::LOADS)?;
            return image::loaded(&unpacked, &self.loaded(kernel));
        }
        if let Image::Connected(_) = image {
            let agent = build_agent()?;
            return image::connected(&unpacked, &agent, &self.connected(kernel));
        }
        image::guest(&unpacked, &self.initramfs(kernel))
    }

    /// The directory that is there already: the one in L1, or what [`Artifacts::prepare`] made.
    ///
    /// # Errors
    /// There is none yet, and it cannot be made.
    pub fn open() -> Result<Self> {
        match std::env::var_os(VARIABLE) {
            Some(dir) => Ok(Self { dir: dir.into() }),
            None => Ok(Self {
                dir: paths::bed("artifacts")?,
            }),
        }
    }

    /// The variable by which a program in L1 finds the directory.
    #[must_use]
    pub fn variable() -> (String, String) {
        (VARIABLE.to_owned(), IN_L1.to_owned())
    }

    /// The VMM's executable.
    #[must_use]
    pub fn hotvisor(&self) -> PathBuf {
        self.dir.join("hotvisor")
    }

    /// The VMM's executable with calls in it that can fail, where it was made.
    fn failing(&self) -> PathBuf {
        self.dir.join("hotvisor-failpoints")
    }

    /// The VMM's executable that an image is for.
    #[must_use]
    pub fn vmm(&self, image: Image) -> PathBuf {
        match image {
            Image::Failing(_) => self.failing(),
            _ => self.hotvisor(),
        }
    }

    /// The kernel of an image, in its form.
    #[must_use]
    pub fn kernel(&self, image: Image) -> PathBuf {
        match image.is_elf() {
            true => self.vmlinux(image.kernel()),
            false => self.bzimage(image.kernel()),
        }
    }

    /// A kernel as Debian ships it.
    #[must_use]
    pub fn bzimage(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("vmlinuz")
    }

    /// A kernel as an ELF file, to be entered through PVH.
    #[must_use]
    pub fn vmlinux(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("vmlinux")
    }

    /// The guest image for a kernel.
    #[must_use]
    pub fn initramfs(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("initramfs")
    }

    /// The guest image for a kernel that has loads in it.
    #[must_use]
    pub fn loaded(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("loaded")
    }

    /// The guest image for a kernel that uses a socket device.
    #[must_use]
    pub fn connected(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(kernel.name()).join("connected")
    }

    /// The VMM and the files for these kernels, each with its place in L1.
    ///
    /// # Errors
    /// A program of the host's that goes with a kernel is not whole.
    pub fn for_l1(&self, images: &[Image]) -> Result<Vec<(PathBuf, String)>> {
        let mut files = vec![self.hotvisor()];
        for &image in images {
            if self.vmm(image) != self.hotvisor() {
                files.push(self.vmm(image));
            }
            files.push(self.kernel(image));
            files.push(match image {
                Image::Loaded(kernel) => self.loaded(kernel),
                Image::Connected(kernel) => self.connected(kernel),
                other => self.initramfs(other.kernel()),
            });
        }
        let ours = files.into_iter().map(|file| {
            let inside = file.strip_prefix(&self.dir).unwrap_or(&file);
            let inside = format!("{IN_L1}/{}", inside.display());
            (file, inside)
        });
        let mut files: Vec<_> = ours.collect();
        if images
            .iter()
            .any(|image| matches!(image, Image::Supervised(_)))
        {
            files.extend(systemd::files()?);
        }
        Ok(files)
    }
}

/// A copy that is never half there; skipped when it is up to date.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let source = fs::metadata(from).with_context(|| format!("there is no {}", from.display()))?;
    let current = fs::metadata(to).is_ok_and(|target| {
        target.len() == source.len()
            && matches!((source.modified(), target.modified()), (Ok(old), Ok(new)) if old == new)
    });
    if current {
        return Ok(());
    }
    paths::replace(to, |file| {
        io::copy(&mut fs::File::open(from)?, file)?;
        file.set_permissions(source.permissions())?;
        file.set_modified(source.modified()?)?;
        Ok(())
    })
}

/// The release build of the VMM, or what `HOTVISOR_BIN` names instead.
fn build_hotvisor() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HOTVISOR_BIN") {
        return Ok(path.into());
    }
    cargo_build("hotvisor", &["--release"])
}

/// Builds the agent as guests get it; returns its executable.
fn build_agent() -> Result<PathBuf> {
    cargo_build("hotvisor-agent", &["--profile", "agent"])
}

/// Builds a package; returns its executable.
fn cargo_build(package: &str, options: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let messages = process::text(
        Command::new(cargo)
            .args(["build", "--package", package, "--message-format=json"])
            .args(options)
            .arg("--target-dir")
            .arg(paths::target())
            .current_dir(paths::workspace()),
    )
    .with_context(|| format!("{package} does not build"))?;
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let is_it = message["target"]["name"] == package;
        if let (true, Some(executable)) = (is_it, message["executable"].as_str()) {
            return Ok(executable.into());
        }
    }
    bail!("cargo built no executable `{package}`");
}

//! From files to a guest that is ready to run: kernel, initramfs, command line and what they are told.

mod file;
mod initramfs;
mod kernel;
mod params;

pub use file::Files;

use crate::acpi;
use crate::arch::layout;
use crate::arch::regs::{self, Entry};
use crate::config::VmConfig;
use crate::error::{Error, Result};
use hotvisor_devices::power;
use initramfs::Initramfs;
use kernel::Kernel;
use vm_memory::{Bytes, GuestMemoryBackend};

/// The files of a guest, opened once: a restart boots the same ones, whatever became of their names.
pub struct BootFiles {
    kernel: Kernel,
    initramfs: Option<Initramfs>,
}

impl BootFiles {
    /// Checks the files that `config` names.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is unreadable, not what it should be, or too large, and for a command line
    /// that the kernel cannot take.
    pub fn new(files: Files, config: &VmConfig) -> Result<Self> {
        let kernel = Kernel::recognise(files.kernel)?;
        let limit = kernel.cmdline_max();
        if config.cmdline.len() > limit {
            return Err(Error::input(
                "cmdline",
                format!(
                    "{} bytes, and this kernel takes {limit}",
                    config.cmdline.len()
                ),
                "shorten it",
            ));
        }
        let initramfs = files.initramfs.map(Initramfs::new).transpose()?;
        let files = Self { kernel, initramfs };
        // The tables' size depends on the machine alone, so what does not fit can be said now.
        let tables = acpi::Tables::build(&acpi::Machine::of(config)).place(config.memory);
        files.placement(config.memory, tables.start())?;
        Ok(files)
    }

    /// Whether the kernel needs a CPU that runs 64-bit code.
    #[must_use]
    pub fn needs_long_mode(&self) -> bool {
        self.kernel.needs_long_mode()
    }

    /// Where the initramfs goes, below the tables; and whether kernel and initramfs fit at all.
    fn placement(&self, memory: u64, tables: u64) -> Result<Option<u64>> {
        let needed = self.kernel.end();
        if needed > tables {
            return Err(Error::input(
                format!("memory size={}M", memory >> 20),
                format!(
                    "the kernel needs memory up to {} MiB",
                    needed.div_ceil(1 << 20)
                ),
                "give the guest more memory",
            ));
        }
        self.initramfs
            .as_ref()
            .map(|initramfs| {
                initramfs.place(needed, tables.min(self.kernel.initramfs_max()), memory)
            })
            .transpose()
    }

    /// Loads everything into `memory` and tells how to enter the kernel. `machine` is what the guest finds:
    /// `config` with the CPUs that are there now.
    ///
    /// # Errors
    /// [`Error::Input`] where a file changed under us, [`Error::Host`] where reading it failed.
    pub fn load<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        config: &VmConfig,
        machine: &acpi::Machine,
    ) -> Result<Entry> {
        let tables = acpi::Tables::build(machine).place(config.memory);
        tables.write(memory)?;
        let initramfs_at = self.placement(config.memory, tables.start())?;
        let loaded = self.kernel.load(memory)?;
        let initramfs = match (&self.initramfs, initramfs_at) {
            (Some(initramfs), Some(at)) => Some(initramfs.load(memory, at)?),
            _ => None,
        };
        let mut cmdline = config.cmdline.clone().into_bytes();
        cmdline.push(0);
        memory.write_slice(&cmdline, layout::CMDLINE).map_err(bug)?;
        let map = layout::memory_map(config.memory, tables.start());
        memory
            .write_slice(&reset_vector(), layout::RESET_VECTOR)
            .map_err(bug)?;
        let told = params::Told {
            map,
            initramfs,
            cmdline_len: config.cmdline.len(),
        };
        params::write(memory, &loaded, &told)?;
        regs::write_tables(memory, loaded.entry)?;
        Ok(loaded.entry)
    }
}

/// What stands at the reset vector: `mov dx, RESET; mov al, RESET_VALUE; out dx, al; cli; hlt; jmp $-1`.
///
/// Linux takes a hardware-reduced platform for one with EFI runtime services, and where there are none it
/// resets by jumping there, without a look at the FADT's reset register.
fn reset_vector() -> [u8; 10] {
    let [low, high] = (power::BASE + power::RESET).to_le_bytes();
    [
        0xba,
        low,
        high,
        0xb0,
        power::RESET_VALUE,
        0xee,
        0xfa,
        0xf4,
        0xeb,
        0xfd,
    ]
}

/// A write into guest memory that the memory map says cannot fail.
fn bug(error: impl std::fmt::Display) -> Error {
    Error::bug("boot data", error)
}

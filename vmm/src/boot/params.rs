//! What a kernel is told at its entry: Linux's `boot_params`, or PVH's start info.

use super::bug;
use super::kernel::Loaded;
use crate::arch::layout::{self, Kind};
use crate::arch::regs::Entry;
use crate::error::Result;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::GuestMemoryBackend;

/// The machine, as the kernel is told of it.
pub(super) struct Told {
    /// (start, bytes, kind).
    pub(super) map: Vec<(u64, u64, Kind)>,
    /// (start, bytes).
    pub(super) initramfs: Option<(u64, u64)>,
    /// Bytes of the command line, without its NUL.
    pub(super) cmdline_len: usize,
}

/// `type_of_loader` of a loader that has no number of its own.
const LOADER_OTHER: u8 = 0xff;
/// Magic and version of PVH's start info.
const PVH_MAGIC: u32 = 0x336e_c578;
const PVH_VERSION: u32 = 1;

/// The number of a kind in an e820 map, which PVH's map shares.
fn e820(kind: Kind) -> u32 {
    match kind {
        Kind::Ram => 1,
        Kind::Reserved => 2,
        Kind::AcpiTables => 3,
    }
}

/// Writes what the entry's protocol wants.
pub(super) fn write<M: GuestMemoryBackend>(memory: &M, loaded: &Loaded, told: &Told) -> Result<()> {
    match loaded.entry {
        Entry::Linux64 { .. } => zero_page(memory, loaded, told),
        Entry::Pvh { .. } => start_info(memory, told),
    }
}

fn zero_page<M: GuestMemoryBackend>(memory: &M, loaded: &Loaded, told: &Told) -> Result<()> {
    let narrow = |value: u64| u32::try_from(value).map_err(bug);
    let mut page = boot_params {
        acpi_rsdp_addr: layout::RSDP.0,
        ..boot_params::default()
    };
    page.hdr = loaded.setup_header.unwrap_or_default();
    page.hdr.type_of_loader = LOADER_OTHER;
    page.hdr.cmd_line_ptr = narrow(layout::CMDLINE.0)?;
    page.hdr.cmdline_size = narrow(told.cmdline_len as u64)?;
    // Whatever the image has there of its own.
    let (at, len) = told.initramfs.unwrap_or_default();
    page.hdr.ramdisk_image = narrow(at)?;
    page.hdr.ramdisk_size = narrow(len)?;
    page.e820_entries = u8::try_from(told.map.len()).map_err(bug)?;
    for (entry, &(addr, size, kind)) in page.e820_table.iter_mut().zip(&told.map) {
        *entry = boot_e820_entry {
            addr,
            size,
            r#type: e820(kind),
        };
    }
    let params = BootParams::new(&page, layout::ZERO_PAGE);
    LinuxBootConfigurator::write_bootparams(&params, memory).map_err(bug)
}

fn start_info<M: GuestMemoryBackend>(memory: &M, told: &Told) -> Result<()> {
    let modules: Vec<hvm_modlist_entry> = told
        .initramfs
        .map(|(paddr, size)| hvm_modlist_entry {
            paddr,
            size,
            ..hvm_modlist_entry::default()
        })
        .into_iter()
        .collect();
    let map: Vec<hvm_memmap_table_entry> = told
        .map
        .iter()
        .map(|&(addr, size, kind)| hvm_memmap_table_entry {
            addr,
            size,
            type_: e820(kind),
            reserved: 0,
        })
        .collect();
    let info = hvm_start_info {
        magic: PVH_MAGIC,
        version: PVH_VERSION,
        nr_modules: u32::try_from(modules.len()).map_err(bug)?,
        modlist_paddr: if modules.is_empty() {
            0
        } else {
            layout::PVH_MODULES.0
        },
        cmdline_paddr: layout::CMDLINE.0,
        rsdp_paddr: layout::RSDP.0,
        memmap_paddr: layout::PVH_MEMMAP.0,
        memmap_entries: u32::try_from(map.len()).map_err(bug)?,
        ..hvm_start_info::default()
    };
    let mut params = BootParams::new(&info, layout::PVH_START_INFO);
    params.set_sections(&map, layout::PVH_MEMMAP);
    if !modules.is_empty() {
        params.set_modules(&modules, layout::PVH_MODULES);
    }
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(bug)
}

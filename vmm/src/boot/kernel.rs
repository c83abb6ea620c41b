//! Kernel images: bzImage and ELF, told apart by what is in them.

use super::file::Opened;
use crate::arch::layout;
use crate::arch::regs::Entry;
use crate::error::{Error, FILES, Result};
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader, PvhBootCapability};
use std::fs::File;
use std::os::unix::fs::FileExt;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// The parts of a bzImage's setup header that are looked at before it is loaded
/// (`Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header"), by their offset in the file.
mod header {
    pub(super) const LEN: usize = 0x270;
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const SYSSIZE: usize = 0x1f4;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const CODE32_START: usize = 0x214;
    pub(super) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(super) const XLOADFLAGS: usize = 0x236;
    pub(super) const CMDLINE_SIZE: usize = 0x238;
    pub(super) const PREF_ADDRESS: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
    /// Version 2.12 brought `xloadflags`.
    pub(super) const OLDEST: u16 = 0x20c;
    pub(super) const XLF_KERNEL_64: u16 = 1;
}

const ELF_MAGIC: &[u8] = b"\x7fELF";
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const BZIMAGE_MAGIC: &[u8] = b"HdrS";
/// Offset of a bzImage's 64-bit entry point from where its protected-mode code is loaded.
const ENTRY_64: u64 = 0x200;

/// A kernel image.
pub(super) struct Kernel {
    file: File,
    asked: String,
    format: Format,
}

enum Format {
    Elf {
        end: u64,
        long_mode: bool,
    },
    BzImage {
        end: u64,
        cmdline_max: usize,
        initrd_addr_max: u64,
    },
}

/// A kernel in guest memory.
pub(super) struct Loaded {
    /// How to enter it.
    pub(super) entry: Entry,
    /// A bzImage's setup header, to be handed back to it.
    pub(super) setup_header: Option<setup_header>,
}

impl Kernel {
    /// Recognises the image.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is unreadable, truncated or no kernel that we can boot.
    pub(super) fn recognise(opened: Opened) -> Result<Self> {
        let Opened { file, len, asked } = opened;
        let mut head = Vec::with_capacity(header::LEN);
        std::io::Read::read_to_end(
            &mut std::io::Read::take(&file, header::LEN as u64),
            &mut head,
        )
        .map_err(|e| Error::input(&asked, e, "see whether its disk fails"))?;
        let magic = head.get(header::MAGIC..header::MAGIC + 4);
        let format = if head.starts_with(ELF_MAGIC) {
            elf(&file, len, &asked)?
        } else if magic == Some(BZIMAGE_MAGIC) && head.len() == header::LEN {
            bzimage(&head, len, &asked)?
        } else {
            return Err(Error::input(
                asked,
                "neither a bzImage nor an ELF image",
                "name a bzImage (Debian's /boot/vmlinuz-*) or an ELF vmlinux",
            ));
        };
        Ok(Self {
            file,
            asked,
            format,
        })
    }

    /// Whether it runs 64-bit code.
    pub(super) fn needs_long_mode(&self) -> bool {
        match self.format {
            Format::Elf { long_mode, .. } => long_mode,
            Format::BzImage { .. } => true,
        }
    }

    /// End of the guest memory that it needs.
    pub(super) fn end(&self) -> u64 {
        match self.format {
            Format::Elf { end, .. } | Format::BzImage { end, .. } => end,
        }
    }

    /// Most bytes of a command line, without the terminating NUL.
    pub(super) fn cmdline_max(&self) -> usize {
        let ours = layout::CMDLINE_MAX - 1;
        match self.format {
            Format::Elf { .. } => ours,
            Format::BzImage { cmdline_max, .. } => cmdline_max.min(ours),
        }
    }

    /// The initramfs must end here at the latest.
    pub(super) fn initramfs_max(&self) -> u64 {
        match self.format {
            Format::Elf { .. } => layout::LOW_RAM_END,
            Format::BzImage {
                initrd_addr_max, ..
            } => initrd_addr_max + 1,
        }
    }

    /// Loads it.
    pub(super) fn load<M: GuestMemoryBackend>(&self, memory: &M) -> Result<Loaded> {
        let mut file = &self.file;
        let himem = Some(GuestAddress(layout::HIMEM));
        let mut file = file_of(&mut file, &self.asked)?;
        let result = match self.format {
            Format::Elf { .. } => Elf::load(memory, None, &mut file, himem),
            Format::BzImage { .. } => BzImage::load(memory, None, &mut file, himem),
        };
        let result = result.map_err(|e| {
            Error::input(
                &self.asked,
                e,
                "see whether the file is whole and made for x86-64",
            )
        })?;
        let entry = match (&self.format, result.pvh_boot_cap) {
            (Format::BzImage { .. }, _) => Entry::Linux64 {
                at: GuestAddress(result.kernel_load.0 + ENTRY_64),
            },
            (Format::Elf { .. }, PvhBootCapability::PvhEntryPresent(at)) => Entry::Pvh { at },
            (Format::Elf { .. }, _) => return Err(no_pvh(&self.asked)),
        };
        Ok(Loaded {
            entry,
            setup_header: result.setup_header,
        })
    }
}

/// A second handle on the file: the loaders want one that they may seek.
fn file_of(file: &mut &File, asked: &str) -> Result<File> {
    file.try_clone().map_err(|e| Error::host(asked, e, FILES))
}

fn no_pvh(asked: &str) -> Error {
    Error::input(
        asked,
        "an ELF image without a PVH entry point",
        "build the kernel with CONFIG_PVH=y, or use its bzImage",
    )
}

/// Looks at the program headers of an ELF image: all of them must be in the file, and one must be a note
/// (the loader reads it).
fn elf(file: &File, len: u64, asked: &str) -> Result<Format> {
    let refuse = |found: String| {
        Error::input(
            asked,
            found,
            "see whether the file is whole and made for x86-64",
        )
    };
    let mut head = [0u8; 64];
    file.read_exact_at(&mut head, 0)
        .map_err(|_| refuse("a truncated ELF image".into()))?;
    if head[4..6] != [ELFCLASS64, ELFDATA2LSB] {
        return Err(refuse("not a little-endian ELF64 image".into()));
    }
    let long_mode = match u16_at(&head, 18) {
        EM_X86_64 => true,
        // PVH enters in 32-bit mode, and a guest may stay there.
        EM_386 => false,
        machine => {
            return Err(refuse(format!(
                "an ELF image for another machine ({machine})"
            )));
        }
    };
    let (offset, size, count) = (u64_at(&head, 32), u16_at(&head, 54), u16_at(&head, 56));
    if size != 56 || count == 0 {
        return Err(refuse("an ELF image without program headers".into()));
    }
    let (mut end, mut has_note, mut has_part) = (0, false, false);
    for n in 0..u64::from(count) {
        let mut program = [0u8; 56];
        let at = offset
            .checked_add(n * 56)
            .ok_or_else(|| refuse("a broken ELF header".into()))?;
        file.read_exact_at(&mut program, at)
            .map_err(|_| refuse("a truncated ELF image".into()))?;
        let (kind, at, filesz) = (
            u32_at(&program, 0),
            u64_at(&program, 8),
            u64_at(&program, 32),
        );
        let (paddr, memsz) = (u64_at(&program, 24), u64_at(&program, 40));
        if at.checked_add(filesz).is_none_or(|end| end > len) {
            return Err(refuse(format!(
                "a truncated ELF image (program header {n})"
            )));
        }
        match kind {
            PT_LOAD if filesz > memsz => return Err(refuse("a broken ELF header".into())),
            PT_LOAD if paddr < layout::HIMEM && filesz > 0 => {
                let found = format!("an ELF image with a part at {paddr:#x}, below 1 MiB");
                return Err(Error::input(asked, found, "link it to 1 MiB or above"));
            }
            PT_LOAD => {
                let top = paddr.checked_add(memsz);
                end = end.max(top.ok_or_else(|| refuse("a broken ELF header".into()))?);
                has_part |= filesz > 0;
            }
            PT_NOTE => has_note = true,
            _ => {}
        }
    }
    match (has_note, has_part) {
        (false, _) => Err(no_pvh(asked)),
        // Nor does it end above 1 MiB, beneath which is what else a guest is given.
        (true, false) => Err(refuse("an ELF image with nothing to load".into())),
        (true, true) => Ok(Format::Elf { end, long_mode }),
    }
}

fn bzimage(head: &[u8], len: u64, asked: &str) -> Result<Format> {
    let version = u16_at(head, header::VERSION);
    if version < header::OLDEST || u16_at(head, header::XLOADFLAGS) & header::XLF_KERNEL_64 == 0 {
        return Err(Error::input(
            asked,
            "a bzImage without a 64-bit entry point",
            "use an x86-64 kernel of version 3.8 or later",
        ));
    }
    let setup_sectors = match head[header::SETUP_SECTS] {
        0 => 4,
        n => u64::from(n),
    };
    let whole = (setup_sectors + 1) * 512 + u64::from(u32_at(head, header::SYSSIZE)) * 16;
    if len < whole {
        return Err(Error::input(
            asked,
            format!("a truncated bzImage: {len} bytes of {whole}"),
            "copy the file again",
        ));
    }
    let init_size = u64::from(u32_at(head, header::INIT_SIZE));
    let load = u64::from(u32_at(head, header::CODE32_START));
    let image_end = load + (len - (setup_sectors + 1) * 512);
    let end = u64_at(head, header::PREF_ADDRESS)
        .checked_add(init_size)
        .ok_or_else(|| {
            Error::input(
                asked,
                "a bzImage with a broken header",
                "copy the file again",
            )
        })?;
    Ok(Format::BzImage {
        end: end.max(image_end),
        cmdline_max: u32_at(head, header::CMDLINE_SIZE) as usize,
        initrd_addr_max: u64::from(u32_at(head, header::INITRD_ADDR_MAX)),
    })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

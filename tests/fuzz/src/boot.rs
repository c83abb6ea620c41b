//! What a guest boots from: any image, initramfs and command line, in any machine.

use super::image::{Image, Number};
use arbitrary::{Arbitrary, Unstructured};
use hotvisor_vmm::acpi::{Machine, Placed, Tables};
use hotvisor_vmm::arch::layout;
use hotvisor_vmm::arch::regs::Entry;
use hotvisor_vmm::boot::{BootFiles, Files};
use hotvisor_vmm::config::{Cpus, Serial, VmConfig};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The most memory beyond the least, in pages: most of the time goes into it, and much of it makes what does not fit rare.
const MOST_PAGES: u64 = 0x1000;

/// Each has its objects in the tables, which take most of the time.
const MOST_CPUS: u32 = 16;

/// How an initramfs begins.
const HEAD: &[u8] = b"070701 is what a cpio archive begins with";

/// Offsets in `boot_params` (Linux, Documentation/arch/x86/boot.rst).
const RAMDISK_IMAGE: u64 = 0x218;
const RAMDISK_SIZE: u64 = 0x21c;
/// Offsets in `hvm_start_info` (Xen, public/arch-x86/hvm/start_info.h).
const NR_MODULES: u64 = 0xc;
const MODLIST_PADDR: u64 = 0x10;

/// By which way a guest could be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Linux's 64-bit boot protocol: a bzImage.
    Linux64,
    /// PVH: an ELF kernel.
    Pvh,
}

#[derive(Arbitrary, Debug)]
struct Case {
    /// Beyond the least that a machine has, in pages.
    pages: u16,
    max: u8,
    serial: bool,
    image: Image,
    /// Its size; the first of its bytes are [`HEAD`].
    initramfs: Option<Number>,
    cmdline: Vec<u8>,
}

/// A file without a name, and a name for it all the same.
fn file(bytes: &[u8], len: u64) -> Option<(File, PathBuf)> {
    let mut file = File::from(memfd_create(c"image", MFdFlags::MFD_CLOEXEC).ok()?);
    file.write_all(bytes).ok()?;
    file.set_len(len).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Some((file, path.into()))
}

/// Where nothing more than this is to be written: images larger than the machine are refused by their size alone.
fn memory(config: &VmConfig) -> Option<GuestMemoryMmap> {
    let ranges: Vec<(GuestAddress, usize)> = layout::ram_ranges(config.memory)
        .into_iter()
        .map(|(at, len)| Some((GuestAddress(at), usize::try_from(len).ok()?)))
        .collect::<Option<_>>()?;
    GuestMemoryMmap::from_ranges(&ranges).ok()
}

/// Tries what the bytes say; returns how a guest could be entered, if it could.
#[must_use]
pub fn boot(bytes: &[u8]) -> Option<Way> {
    let case = Case::arbitrary_take_rest(Unstructured::new(bytes)).ok()?;
    case.boots()
}

pub(crate) fn run(bytes: &[u8]) {
    let _ = boot(bytes);
}

impl Case {
    fn config(&self, kernel: PathBuf, initramfs: Option<PathBuf>) -> VmConfig {
        let pages = u64::from(self.pages) % MOST_PAGES;
        VmConfig {
            kernel,
            initramfs,
            cmdline: String::from_utf8_lossy(&self.cmdline).into_owned(),
            cpus: Cpus {
                boot: 1,
                max: u32::from(self.max) % MOST_CPUS + 1,
            },
            memory: layout::MIN_MEMORY + pages * layout::PAGE,
            serial: match self.serial {
                true => Serial::Null,
                false => Serial::Off,
            },
            vsock: None,
        }
    }

    fn boots(&self) -> Option<Way> {
        let image = self.image.bytes();
        let (_kernel, kernel) = file(&image, image.len() as u64)?;
        let initramfs = self
            .initramfs
            .and_then(|len| file(HEAD, len.value() % (1 << 32)));
        let config = self.config(kernel, initramfs.as_ref().map(|(_, path)| path.clone()));
        config.validate().ok()?;
        let files = Files::open(&config).and_then(|files| BootFiles::new(files, &config));
        let (files, memory) = (files.ok()?, memory(&config)?);
        let machine = Machine::of(&config);
        let tables = Tables::build(&machine).place(config.memory);
        let mut way = None;
        // A reset does the same again.
        for _ in 0..2 {
            let Ok(entry) = files.load(&memory, &config, &machine) else {
                continue;
            };
            way = Some(match entry {
                Entry::Linux64 { .. } => Way::Linux64,
                Entry::Pvh { .. } => Way::Pvh,
            });
            check(&memory, &config, &tables);
            let told = told_initramfs(&memory, entry);
            assert_eq!(told.is_some(), config.initramfs.is_some(), "{told:?}");
            if let Some((at, len)) = told {
                check_initramfs(&memory, &config, &tables, at, len);
            }
        }
        way
    }
}

/// Where the guest is told that its initramfs is, and how many bytes it has.
fn told_initramfs(memory: &GuestMemoryMmap, entry: Entry) -> Option<(u64, u64)> {
    let half = |at: GuestAddress, offset| {
        let value: u32 = memory.read_obj(GuestAddress(at.0 + offset)).ok()?;
        Some(u64::from(value))
    };
    let whole = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).ok();
    let found = match entry {
        Entry::Linux64 { .. } => (
            half(layout::ZERO_PAGE, RAMDISK_IMAGE)?,
            half(layout::ZERO_PAGE, RAMDISK_SIZE)?,
        ),
        Entry::Pvh { .. } if half(layout::PVH_START_INFO, NR_MODULES)? == 0 => return None,
        Entry::Pvh { .. } => {
            let list = whole(layout::PVH_START_INFO.0 + MODLIST_PADDR)?;
            (whole(list)?, whole(list + 8)?)
        }
    };
    (found.1 > 0).then_some(found)
}

/// It has its size and its beginning, and is neither below 1 MiB nor among the tables.
fn check_initramfs(
    memory: &GuestMemoryMmap,
    config: &VmConfig,
    tables: &Placed,
    at: u64,
    len: u64,
) {
    let path = config.initramfs.as_ref();
    let size = path
        .and_then(|path| path.metadata().ok())
        .map(|it| it.len());
    assert_eq!(Some(len), size, "its size");
    let beneath = at.checked_add(len).is_some_and(|end| end <= tables.start());
    assert!(
        at >= layout::HIMEM && beneath,
        "the initramfs is at {at:#x}, {len:#x} bytes, and the tables from {:#x} on",
        tables.start()
    );
    let head = &HEAD[..HEAD.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
    let mut found = vec![0; head.len()];
    let read = memory.read_slice(&mut found, GuestAddress(at));
    assert!(
        read.is_ok() && found == head,
        "the initramfs is not at {at:#x}"
    );
}

/// Whatever the image is, the guest finds in memory what it is told of.
fn check(memory: &GuestMemoryMmap, config: &VmConfig, tables: &Placed) {
    for (at, bytes) in tables.tables() {
        let mut found = vec![0; bytes.len()];
        let read = memory.read_slice(&mut found, GuestAddress(*at));
        assert!(
            read.is_ok() && found == *bytes,
            "the ACPI table at {at:#x} is not there"
        );
    }
    let mut found = vec![0xff; config.cmdline.len() + 1];
    let read = memory.read_slice(&mut found, layout::CMDLINE);
    let (text, end) = found.split_at(config.cmdline.len());
    assert!(
        read.is_ok() && text == config.cmdline.as_bytes() && end == [0],
        "the command line is not there"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment says that the kernel needs nothing above 1 MiB, and the initramfs leaves room for nothing else: it was
    /// placed over the command line and the page tables.
    #[test]
    fn an_initramfs_that_only_fits_below_1_mib_is_not_loaded() {
        let mut case = Case {
            pages: 0,
            max: 0,
            serial: true,
            image: Image::without_a_part(),
            initramfs: None,
            cmdline: b"console=ttyS0".to_vec(),
        };
        let config = case.config(PathBuf::new(), None);
        let tables = Tables::build(&Machine::of(&config)).place(config.memory);
        for at in (0..=layout::HIMEM).step_by(0x1_0000) {
            case.initramfs = Some(Number::Any(tables.start() - at));
            assert_eq!(case.boots(), None, "from {at:#x} on");
        }
    }
}

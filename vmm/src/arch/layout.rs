//! The guest-physical memory map.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | 640 KiB | RAM: boot structures at the bottom, free for the guest's own use once it runs |
//! | 640 KiB | 1 MiB | reserved: RSDP, reset vector |
//! | 1 MiB | 3 GiB or the end of RAM | RAM: kernel; initramfs and ACPI tables at the top |
//! | 3 GiB | 4 GiB | devices |
//! | 4 GiB | | the rest of RAM |

use hotvisor_devices::ioapic;
use vm_memory::GuestAddress;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Smallest and greatest guest memory in bytes; the host's physical addresses may allow less.
pub const MIN_MEMORY: u64 = 16 << 20;
/// See [`MIN_MEMORY`].
pub const MAX_MEMORY: u64 = 512 << 30;

/// End of the RAM below the hole.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Start of the RAM above the hole.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// PVH start info (Xen's `hvm_start_info`), and the structures it points to.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// PVH module list.
pub const PVH_MODULES: GuestAddress = GuestAddress(0x6040);
/// PVH memory map.
pub const PVH_MEMMAP: GuestAddress = GuestAddress(0x6100);
/// Linux's `boot_params`, the zero page.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Initial GDT.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// Initial page tables: one page of level 4, one of level 3, four of level 2.
pub const PML4: GuestAddress = GuestAddress(0x9000);
/// See [`PML4`].
pub const PDPT: GuestAddress = GuestAddress(0xa000);
/// See [`PML4`].
pub const PD: GuestAddress = GuestAddress(0xb000);
/// Initial stack.
pub const BOOT_STACK: u64 = 0x8ff0;
/// The kernel's command line; the longest that any boot protocol takes has 64 KiB.
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Most bytes of a command line, its terminating NUL included (`COMMAND_LINE_SIZE` of x86 Linux).
pub const CMDLINE_MAX: usize = 2048;

/// End of the RAM below 1 MiB that the guest may use.
pub const EBDA: u64 = 0xa_0000;
/// Where the RSDP stands, in the area that ACPI 6.3 (section 5.2.5.1) has an OS search.
pub const RSDP: GuestAddress = GuestAddress(0xe_0000);
/// The reset vector below 1 MiB, to which an OS jumps in real mode when it knows no better way to reset.
pub const RESET_VECTOR: GuestAddress = GuestAddress(0xf_fff0);
/// Start of the RAM above the first MiB.
pub const HIMEM: u64 = 0x10_0000;

/// The GED's register.
pub const GED: u64 = 0xfeb0_0000;
/// The CPU hotplug controller's registers.
pub const CPU_HOTPLUG: u64 = 0xfeb0_1000;
/// Local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel for real mode, and one for an identity map.
pub const KVM_TSS: usize = 0xfffb_d000;
/// See [`KVM_TSS`].
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// Virtio devices' registers, a page for each.
pub const VIRTIO: u64 = 0xfeb0_2000;
/// The socket device's place among them.
pub const VSOCK: u8 = 0;

/// How many there are at most: the I/O APIC has a pin for each.
#[expect(clippy::cast_possible_truncation, reason = "an I/O APIC has 24 pins")]
pub const VIRTIO_PLACES: u8 = ioapic::PINS as u8 - GSI_VIRTIO;

/// Where the registers of the virtio device at this place are.
#[must_use]
pub const fn virtio_window(place: u8) -> u64 {
    VIRTIO + place as u64 * PAGE
}

/// Global system interrupt of the virtio device at this place.
#[must_use]
pub const fn virtio_gsi(place: u8) -> u8 {
    GSI_VIRTIO + place
}

/// Global system interrupt of COM1.
pub const GSI_SERIAL: u8 = 4;
/// Global system interrupt of the GED.
pub const GSI_GED: u8 = 16;
/// The first global system interrupt of virtio devices.
pub const GSI_VIRTIO: u8 = 17;

/// The RAM ranges of a machine, as (start, bytes): below the hole, and above it if there is more.
#[must_use]
pub fn ram_ranges(memory: u64) -> Vec<(u64, u64)> {
    let low = memory.min(LOW_RAM_END);
    let mut ranges = vec![(0, low)];
    if memory > low {
        ranges.push((HIGH_RAM_START, memory - low));
    }
    ranges
}

/// What lies where, for the guest's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Free for the guest.
    Ram,
    /// Not to be used.
    Reserved,
    /// ACPI tables, free once they were read.
    AcpiTables,
}

/// The guest's memory map as (start, bytes, kind): `tables` is where the ACPI tables start, which reach to
/// the end of the RAM below the hole.
#[must_use]
pub fn memory_map(memory: u64, tables: u64) -> Vec<(u64, u64, Kind)> {
    let mut map = vec![
        (0, EBDA, Kind::Ram),
        (EBDA, HIMEM - EBDA, Kind::Reserved),
        (HIMEM, tables - HIMEM, Kind::Ram),
        (tables, memory.min(LOW_RAM_END) - tables, Kind::AcpiTables),
    ];
    map.extend(
        ram_ranges(memory)
            .into_iter()
            .skip(1)
            .map(|(at, len)| (at, len, Kind::Ram)),
    );
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotvisor_devices::{cpu_hotplug, ged};

    #[test]
    fn no_device_lies_upon_another_or_in_memory() {
        let mut taken = vec![
            (GED, ged::LEN),
            (CPU_HOTPLUG, cpu_hotplug::LEN),
            (ioapic::BASE, ioapic::LEN),
            (u64::from(LOCAL_APIC), PAGE),
            (KVM_IDENTITY_MAP, PAGE),
            (KVM_TSS as u64, 3 * PAGE),
        ];
        taken.extend((0..VIRTIO_PLACES).map(|place| (virtio_window(place), PAGE)));
        let map = memory_map(MAX_MEMORY, LOW_RAM_END - 0x1_0000);
        taken.extend(map.into_iter().map(|(at, len, _)| (at, len)));
        taken.sort_unstable();
        for pair in taken.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
    }

    #[test]
    fn each_virtio_device_has_a_pin_of_its_own() {
        let pins: Vec<_> = (0..VIRTIO_PLACES).map(virtio_gsi).collect();
        assert!(pins.contains(&virtio_gsi(VSOCK)));
        assert!(pins.iter().all(|pin| usize::from(*pin) < ioapic::PINS));
        assert!(!pins.contains(&GSI_GED) && !pins.contains(&GSI_SERIAL));
    }

    #[test]
    fn the_map_covers_all_memory_once() {
        for memory in [
            MIN_MEMORY,
            1 << 30,
            LOW_RAM_END,
            LOW_RAM_END + PAGE,
            8 << 30,
        ] {
            let map = memory_map(memory, memory.min(LOW_RAM_END) - 0x1_0000);
            assert_eq!(map.iter().map(|(_, len, _)| len).sum::<u64>(), memory);
            for pair in map.windows(2) {
                let gap = pair[1].0 - (pair[0].0 + pair[0].1);
                assert!(gap == 0 || pair[1].0 == HIGH_RAM_START, "{pair:x?}");
            }
        }
    }
}

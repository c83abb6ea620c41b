//! Guest memory: anonymous mappings that huge pages fit, named so that tools can tell them apart.
#![allow(
    unsafe_code,
    reason = "mmap and KVM's memory slots have no safe interface"
)]

use crate::arch::layout;
use crate::error::{Error, Result};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::ptr::{NonNull, null_mut};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// Guest-physical and host-virtual addresses agree modulo this, so that KVM can map huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// A reservation of address space, unmapped when dropped.
struct Mapping {
    base: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the pointer is only the name of a mapping; what it maps is accessed through `vm-memory`, whose
// volatile accesses are made for memory that a guest writes at the same time.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, and as many more as alignment may take.
    fn new(len: usize) -> Result<Self> {
        let len = len + HUGE_PAGE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing of ours.
        let base = unsafe {
            libc::mmap(
                null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        match NonNull::new(base) {
            Some(base) if base.as_ptr() != libc::MAP_FAILED => Ok(Self { base, len }),
            _ => Err(Error::input(
                format!("memory: {} MiB of address space", len >> 20),
                std::io::Error::last_os_error(),
                "ask for less memory, or raise the limit (`ulimit -v`)",
            )),
        }
    }

    /// The first address in it that huge pages fit.
    fn aligned(&self) -> *mut u8 {
        let base = self.base.as_ptr().cast::<u8>();
        // At most HUGE_PAGE - 1, by which the mapping is longer than asked.
        base.wrapping_add(base.align_offset(HUGE_PAGE))
    }

    /// Asks for huge pages and gives the mapping a name. Both are wishes: a kernel that cannot do either
    /// serves the guest all the same.
    fn advise(&self, len: usize) {
        const NAME: &std::ffi::CStr = c"guest-ram";
        let start = self.aligned();
        // SAFETY: the range lies inside this mapping, and neither call changes what it holds.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
        // SAFETY: as above; NAME is NUL-terminated and lives for ever.
        unsafe {
            libc::prctl(
                libc::PR_SET_VMA,
                libc::PR_SET_VMA_ANON_NAME,
                start,
                len,
                NAME.as_ptr(),
            )
        };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and by `Ram`'s contract nobody uses it any more.
        unsafe { libc::munmap(self.base.as_ptr(), self.len) };
    }
}

/// The guest's memory.
pub struct Ram {
    // Before the mappings: dropped first.
    memory: GuestMemoryMmap<()>,
    _mappings: Vec<Mapping>,
}

impl Ram {
    /// `bytes` of zeroed memory, around the hole below 4 GiB.
    ///
    /// # Errors
    /// [`Error::Input`] where the host has no room for it.
    pub fn new(bytes: u64) -> Result<Self> {
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        for (start, len) in layout::ram_ranges(bytes) {
            let asked = || format!("memory size={bytes}");
            let len = usize::try_from(len)
                .map_err(|e| Error::input(asked(), e, "ask for less memory"))?;
            let mapping = Mapping::new(len)?;
            mapping.advise(len);
            // SAFETY: `len` bytes from `aligned` lie inside the mapping, which `Ram` keeps as long as the
            // regions made from it.
            let builder =
                unsafe { MmapRegionBuilder::new(len).with_raw_mmap_pointer(mapping.aligned()) };
            let region = builder
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
                .build()
                .map_err(|e| Error::bug(asked(), e))?;
            regions.extend(GuestRegionMmap::new(region, GuestAddress(start)));
            mappings.push(mapping);
        }
        let memory = GuestMemoryMmap::from_regions(regions)
            .map_err(|e| Error::bug(format!("memory size={bytes}"), e))?;
        Ok(Self {
            memory,
            _mappings: mappings,
        })
    }

    /// The memory, by guest-physical address.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap<()> {
        &self.memory
    }

    /// Makes it the memory of `vm`.
    pub(super) fn map_into(&self, vm: &VmFd) -> Result<()> {
        for (slot, region) in (0..).zip(self.memory.iter()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is mapped memory of this size, and `Vm` and every vCPU of it keep this
            // `Ram` alive as long as KVM can reach the slot.
            unsafe { vm.set_user_memory_region(slot) }
                .map_err(|e| Error::kvm("set memory region", e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn memory_is_zeroed_aligned_and_split_by_the_hole() {
        let ram = Ram::new(layout::LOW_RAM_END + (8 << 20)).unwrap();
        let ram = ram.memory();
        assert_eq!(ram.num_regions(), 2);
        for region in ram.iter() {
            assert_eq!(region.as_ptr() as usize % HUGE_PAGE, 0);
        }
        assert_eq!(
            ram.read_obj::<u64>(GuestAddress(layout::HIGH_RAM_START))
                .unwrap(),
            0
        );
        assert!(
            ram.read_obj::<u64>(GuestAddress(layout::LOW_RAM_END))
                .is_err()
        );
        ram.write_obj(7u8, GuestAddress(layout::HIGH_RAM_START + (8 << 20) - 1))
            .unwrap();
    }
}

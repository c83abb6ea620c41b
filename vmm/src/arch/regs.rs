//! The state in which the boot CPU starts, by boot protocol; every other CPU waits for INIT and SIPI.

use super::layout;
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use kvm_bindings::{
    KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING, Msrs, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The 64-bit boot protocol of x86 Linux (`Documentation/arch/x86/boot.rst`): long mode, the first
    /// 4 GiB mapped one to one, RSI at the zero page.
    Linux64 {
        /// Address of the entry point.
        at: GuestAddress,
    },
    /// PVH (`xen/docs/misc/pvh.pandoc`): 32-bit protected mode, no paging, EBX at the start info.
    Pvh {
        /// Address of the entry point.
        at: GuestAddress,
    },
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_FIXED: u64 = 1 << 1;
/// `IA32_APIC_BASE`: x2APIC mode.
const APIC_BASE_EXTD: u64 = 1 << 10;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_PAT: u32 = 0x277;
/// Its value after power-on (Intel SDM volume 3A, table 11-12).
const PAT_POWER_ON: u64 = 0x0007_0406_0007_0406;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, everything write-back.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Access rights of a descriptor, as in bits 8 to 15 and 20 to 23 of its second half.
const CODE64: u16 = 0xa09b;
const CODE32: u16 = 0xc09b;
const DATA: u16 = 0xc093;
const TSS: u16 = 0x008b;

/// Segment of a flat descriptor in slot `index` of the GDT.
fn segment(index: u16, rights: u16) -> kvm_segment {
    let flag = |bit: u16| u8::from(rights >> bit & 1 == 1);
    kvm_segment {
        base: 0,
        limit: if flag(15) == 1 { 0xffff_ffff } else { 0x67 },
        selector: index * 8,
        type_: (rights & 0xf) as u8,
        s: flag(4),
        dpl: 0,
        present: flag(7),
        avl: 0,
        l: flag(13),
        db: flag(14),
        g: flag(15),
        ..kvm_segment::default()
    }
}

/// The same as a descriptor in memory.
fn descriptor(rights: u16) -> u64 {
    let limit: u64 = if rights >> 15 == 1 { 0xf_ffff } else { 0x67 };
    limit & 0xffff | u64::from(rights) << 40 | (limit >> 16) << 48
}

/// Writes GDT and page tables for `entry` into guest memory.
///
/// # Errors
/// [`Error::Host`] where the memory is not there, which the memory map rules out.
pub fn write_tables<M: GuestMemoryBackend>(memory: &M, entry: Entry) -> Result<()> {
    let code = match entry {
        Entry::Linux64 { .. } => CODE64,
        Entry::Pvh { .. } => CODE32,
    };
    // Linux wants its boot code and data segments in slots 2 and 3.
    let gdt = [0, 0, descriptor(code), descriptor(DATA), descriptor(TSS)];
    let mut writes: Vec<(GuestAddress, u64)> = (0u64..)
        .zip(gdt)
        .map(|(slot, value)| (GuestAddress(layout::GDT.0 + slot * 8), value))
        .collect();
    if let Entry::Linux64 { .. } = entry {
        const PRESENT_WRITABLE: u64 = 0b11;
        const HUGE: u64 = 1 << 7;
        writes.push((layout::PML4, layout::PDPT.0 | PRESENT_WRITABLE));
        for gib in 0..4 {
            let directory = layout::PD.0 + gib * layout::PAGE;
            writes.push((
                GuestAddress(layout::PDPT.0 + gib * 8),
                directory | PRESENT_WRITABLE,
            ));
        }
        writes.extend((0..4 * 512).map(|n| {
            (
                GuestAddress(layout::PD.0 + n * 8),
                n << 21 | PRESENT_WRITABLE | HUGE,
            )
        }));
    }
    for (at, value) in writes {
        memory
            .write_obj(value, at)
            .map_err(|e| Error::bug("boot tables", e))?;
    }
    Ok(())
}

/// Puts the boot CPU where `entry` says.
///
/// `x2apic` starts it with its local APIC in x2APIC mode, without which an OS ignores APIC ids above 254.
///
/// # Errors
/// [`Error::Host`] with KVM's answer.
pub fn enter(vcpu: &VcpuFd, entry: Entry, x2apic: bool) -> Result<()> {
    let mut sregs = vcpu
        .get_sregs()
        .map_err(|e| Error::kvm("get special registers", e))?;
    segments(&mut sregs, entry);
    if x2apic {
        sregs.apic_base |= APIC_BASE_EXTD;
    }
    vcpu.set_sregs(&sregs)
        .map_err(|e| Error::kvm("set special registers", e))?;
    let regs = match entry {
        Entry::Linux64 { at } => kvm_regs {
            rip: at.0,
            rsi: layout::ZERO_PAGE.0,
            rsp: layout::BOOT_STACK,
            rbp: layout::BOOT_STACK,
            rflags: RFLAGS_FIXED,
            ..kvm_regs::default()
        },
        Entry::Pvh { at } => kvm_regs {
            rip: at.0,
            rbx: layout::PVH_START_INFO.0,
            rflags: RFLAGS_FIXED,
            ..kvm_regs::default()
        },
    };
    vcpu.set_regs(&regs)
        .map_err(|e| Error::kvm("set registers", e))
}

fn segments(sregs: &mut kvm_sregs, entry: Entry) {
    let code = match entry {
        Entry::Linux64 { .. } => {
            sregs.cr3 = layout::PML4.0;
            sregs.cr4 |= CR4_PAE;
            // Caches on: reset leaves them off.
            sregs.cr0 = CR0_ET | CR0_PG;
            sregs.efer |= EFER_LME | EFER_LMA;
            CODE64
        }
        Entry::Pvh { .. } => {
            sregs.cr0 = CR0_ET;
            sregs.cr4 = 0;
            CODE32
        }
    };
    sregs.cr0 |= CR0_PE;
    sregs.cs = segment(2, code);
    for data in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *data = segment(3, DATA);
    }
    sregs.tr = segment(4, TSS);
    sregs.gdt.base = layout::GDT.0;
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
}

/// Has a vCPU that the guest has had before, and let go, wait for INIT like one that was just plugged in. Of what
/// INIT leaves as it is, the page attributes, memory types and pending events are as after power-on; the TSC and
/// its adjustment stay, as all CPUs of a machine agree on them.
///
/// # Errors
/// [`Error::Host`] with KVM's answer.
pub fn make_new(vcpu: &VcpuFd) -> Result<()> {
    // INIT and SIPI that were sent to it while it was gone would start it, at an address of long ago. KVM keeps
    // them until it is asked for the state, which takes them up.
    failpoint!(GetMpState, vcpu.get_mp_state())
        .map_err(|e| Error::kvm("get the state of waiting for INIT", e))?;
    // What else was pending when it was let go is nobody's any more.
    let mut events = failpoint!(GetEvents, vcpu.get_vcpu_events())
        .map_err(|e| Error::kvm("get vCPU events", e))?;
    events.exception.injected = 0;
    events.exception.pending = 0;
    events.interrupt.injected = 0;
    events.nmi.injected = 0;
    events.nmi.pending = 0;
    events.nmi.masked = 0;
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
    failpoint!(SetEvents, vcpu.set_vcpu_events(&events))
        .map_err(|e| Error::kvm("set vCPU events", e))?;
    let pat = Msrs::from_entries(&[kvm_msr_entry {
        index: MSR_PAT,
        data: PAT_POWER_ON,
        ..kvm_msr_entry::default()
    }]);
    let pat = pat.map_err(|e| Error::bug("MSR list", format!("{e:?}")))?;
    let count = failpoint!(SetPat, vcpu.set_msrs(&pat))
        .map_err(|e| Error::kvm("set page attributes", e))?;
    all_taken(&pat, count)?;
    set_msrs(vcpu)?;
    let waits = kvm_mp_state {
        mp_state: KVM_MP_STATE_UNINITIALIZED,
    };
    failpoint!(SetMpState, vcpu.set_mp_state(waits))
        .map_err(|e| Error::kvm("set the state of waiting for INIT", e))
}

/// The MSRs that firmware would set on every CPU.
///
/// # Errors
/// [`Error::Host`] with KVM's answer.
pub fn set_msrs(vcpu: &VcpuFd) -> Result<()> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    };
    let failed = |e| Error::bug("MSR list", format!("{e:?}"));
    // KVM has bits of its own in this one.
    let mut present = Msrs::from_entries(&[entry(MSR_MISC_ENABLE, 0)]).map_err(failed)?;
    let count =
        failpoint!(GetMsrs, vcpu.get_msrs(&mut present)).map_err(|e| Error::kvm("get MSRs", e))?;
    all_taken(&present, count)?;
    let misc_enable = present.as_slice()[0].data | MISC_ENABLE_FAST_STRING;
    let wanted = [
        entry(MSR_MISC_ENABLE, misc_enable),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&wanted).map_err(failed)?;
    let count = failpoint!(SetMsrs, vcpu.set_msrs(&msrs)).map_err(|e| Error::kvm("set MSRs", e))?;
    all_taken(&msrs, count)
}

/// KVM stops at the first MSR that it does not take, and says how many it took.
fn all_taken(msrs: &Msrs, count: usize) -> Result<()> {
    match msrs.as_slice().get(count) {
        None => Ok(()),
        Some(refused) => Err(Error::host(
            format!("MSR {:#x}", refused.index),
            "KVM does not take it",
            "see what this host's KVM can do with `hotvisor check`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_linux_s_boot_segments() {
        // __BOOT_CS and __BOOT_DS of arch/x86/include/asm/segment.h, and a 32-bit busy TSS.
        assert_eq!(descriptor(CODE64), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(CODE32), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(DATA), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(TSS), 0x0000_8b00_0000_0067);
        let code = segment(2, CODE64);
        assert_eq!(
            (code.l, code.db, code.g, code.selector, code.type_),
            (1, 0, 1, 0x10, 0xb)
        );
    }
}

//! CPUID as the guest sees it: what KVM supports, with the machine's topology in it.
//!
//! The topology is one package of as many cores as the machine can ever have, one thread each; APIC ids
//! are vCPU ids. It is laid out for the *possible* CPUs, so that one that is plugged later finds the place
//! that the others already know of, and every vCPU has the same leaves but for its own id.
//!
//! Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; KVM's leaves: `Documentation/virt/kvm/x86/cpuid.rst`.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1 ECX: MONITOR/MWAIT. Never exposed: an offline CPU would wait in MWAIT, and its vCPU would not
/// show as halted.
const L1_ECX_MWAIT: u32 = 1 << 3;
const L1_ECX_X2APIC: u32 = 1 << 21;
const L1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const L1_ECX_HYPERVISOR: u32 = 1 << 31;
const L1_EDX_HTT: u32 = 1 << 28;
/// Leaf 0x4000_0001 EAX: the guest may put 15 bits of APIC id into an MSI (and an I/O APIC entry).
const KVM_FEATURE_MSI_EXT_DEST_ID: u32 = 1 << 15;
const KVM_SIGNATURE_LEAF: u32 = 0x4000_0000;
const KVM_FEATURES_LEAF: u32 = 0x4000_0001;
/// Leaf 0x8000_0001 ECX: the package has more than one core and no hyper-threads.
const E1_ECX_CMP_LEGACY: u32 = 1 << 1;

/// What the leaves are generated from.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Possible CPUs.
    pub max: u32,
    /// Whether KVM emulates the local APIC's TSC deadline mode.
    pub tsc_deadline: bool,
}

impl Topology {
    /// Bits of an APIC id.
    #[must_use]
    pub fn id_bits(self) -> u32 {
        self.max.max(1).next_power_of_two().trailing_zeros()
    }
}

/// Bits of a physical address: 36 where the leaf is not there (AMD APM volume 3, E.4.7).
#[must_use]
pub fn physical_address_bits(supported: &CpuId) -> u32 {
    let leaf = supported
        .as_slice()
        .iter()
        .find(|e| e.function == 0x8000_0008);
    leaf.map_or(36, |e| (e.eax & 0xff).clamp(36, 52))
}

/// Whether the CPU is of AMD's family, by the vendor in leaf 0.
fn is_amd(supported: &CpuId) -> bool {
    let vendor = supported.as_slice().iter().find(|e| e.function == 0);
    // "Auth" of AuthenticAMD, "Hygo" of HygonGenuine.
    vendor.is_some_and(|e| [*b"Auth", *b"Hygo"].contains(&e.ebx.to_le_bytes()))
}

/// The leaves of the vCPU with this APIC id.
#[must_use]
pub fn for_vcpu(supported: &CpuId, apic_id: u32, topology: Topology) -> CpuId {
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        // Replaced as a whole below; a host's hybrid or multi-die topology must not shine through.
        .filter(|e| !matches!(e.function, 0xb | 0x1f | 0x8000_0026))
        .copied()
        .collect();
    let amd = is_amd(supported);
    for entry in &mut entries {
        patch(entry, apic_id, topology, amd);
    }
    entries.extend(topology_leaf(0xb, apic_id, topology));
    // The list only ever shrinks by leaves that were in it, but for 0xb's two.
    CpuId::from_entries(&entries).unwrap_or_else(|_| supported.clone())
}

fn patch(entry: &mut kvm_cpuid_entry2, apic_id: u32, topology: Topology, amd: bool) {
    let cores = topology.max;
    match entry.function {
        // Leaf 0x1f and others above 0xb are optional, 0xb is not.
        0x0 => entry.eax = entry.eax.max(0xb),
        0x1 => {
            let count = cores.next_power_of_two().min(255);
            entry.ebx = entry.ebx & 0xffff | count << 16 | (apic_id & 0xff) << 24;
            entry.ecx &= !(L1_ECX_MWAIT | L1_ECX_TSC_DEADLINE);
            entry.ecx |= L1_ECX_HYPERVISOR | L1_ECX_X2APIC;
            if topology.tsc_deadline {
                entry.ecx |= L1_ECX_TSC_DEADLINE;
            }
            entry.edx &= !L1_EDX_HTT;
            if cores > 1 {
                entry.edx |= L1_EDX_HTT;
            }
        }
        0x4 if entry.eax & 0x1f != 0 => {
            let shared = if entry.eax >> 5 & 0x7 >= 3 { cores } else { 1 };
            entry.eax = entry.eax & 0x3fff
                | shared.next_power_of_two().wrapping_sub(1).min(0xfff) << 14
                | (cores.next_power_of_two() - 1).min(0x3f) << 26;
        }
        // MONITOR/MWAIT parameters.
        0x5 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        KVM_SIGNATURE_LEAF => entry.eax = entry.eax.max(KVM_FEATURES_LEAF),
        KVM_FEATURES_LEAF => entry.eax |= KVM_FEATURE_MSI_EXT_DEST_ID,
        0x8000_0001 => {
            entry.ecx &= !E1_ECX_CMP_LEGACY;
            if cores > 1 && amd {
                entry.ecx |= E1_ECX_CMP_LEGACY;
            }
        }
        0x8000_0008 if amd => {
            entry.ecx = entry.ecx & !0xf0ff | (cores - 1).min(0xff) | topology.id_bits() << 12;
        }
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let shared = if entry.eax >> 5 & 0x7 >= 3 { cores } else { 1 };
            entry.eax = entry.eax & 0x3fff | (shared - 1).min(0xfff) << 14;
        }
        0x8000_001e => {
            entry.eax = apic_id;
            entry.ebx = apic_id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// The extended topology leaf: a level of threads, a level of cores, and the end.
fn topology_leaf(function: u32, apic_id: u32, topology: Topology) -> [kvm_cpuid_entry2; 3] {
    const SIGNIFICANT_INDEX: u32 = 1;
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: SIGNIFICANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: apic_id,
        ..kvm_cpuid_entry2::default()
    };
    [
        level(0, 0, 1, 1),
        level(1, topology.id_bits(), topology.max, 2),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let entry = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..kvm_cpuid_entry2::default()
        };
        CpuId::from_entries(&[
            entry(0, 0xd, u32::from_le_bytes(*b"Auth"), 0, 0),
            entry(1, 0, 0xff01_0800, L1_ECX_MWAIT, 0),
            entry(5, 64, 64, 3, 1),
            entry(0xb, 9, 9, 9, 9),
            entry(0x1f, 9, 9, 9, 9),
            entry(KVM_FEATURES_LEAF, 0x100, 0, 0, 0),
            entry(0x8000_0008, 0x3030, 0, 0, 0),
            entry(0x8000_001e, 7, 7, 7, 7),
        ])
        .unwrap()
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found: Vec<_> = cpuid
            .as_slice()
            .iter()
            .filter(|e| e.function == function && e.index == index)
            .collect();
        assert_eq!(found.len(), 1, "leaf {function:#x}.{index}");
        *found[0]
    }

    #[test]
    fn ids_agree_in_every_leaf_that_tells_one() {
        let topology = Topology {
            max: 600,
            tsc_deadline: true,
        };
        for id in [0, 1, 255, 256, 599] {
            let cpuid = for_vcpu(&supported(), id, topology);
            assert_eq!(leaf(&cpuid, 1, 0).ebx >> 24, id & 0xff);
            assert_eq!(leaf(&cpuid, 0x8000_001e, 0).eax, id);
            for index in 0..3 {
                assert_eq!(leaf(&cpuid, 0xb, index).edx, id);
            }
            assert_eq!(leaf(&cpuid, 0xb, 1).eax, 10);
            assert_eq!(leaf(&cpuid, 0xb, 1).ebx, 600);
            assert_eq!(leaf(&cpuid, 0x8000_0008, 0).ecx, 255 | 10 << 12);
        }
    }

    #[test]
    fn only_the_ids_differ_between_vcpus() {
        let topology = Topology {
            max: 4,
            tsc_deadline: false,
        };
        let blank = |cpuid: &CpuId| -> Vec<_> {
            cpuid
                .as_slice()
                .iter()
                .map(|e| match e.function {
                    1 => (e.function, e.eax, e.ebx & 0xff_ffff, e.ecx, e.edx),
                    0xb => (e.function, e.eax, e.ebx, e.ecx, 0),
                    0x8000_001e => (e.function, 0, 0, e.ecx, e.edx),
                    _ => (e.function, e.eax, e.ebx, e.ecx, e.edx),
                })
                .collect()
        };
        let (zero, three) = (
            for_vcpu(&supported(), 0, topology),
            for_vcpu(&supported(), 3, topology),
        );
        assert_eq!(blank(&zero), blank(&three));
    }

    #[test]
    fn mwait_is_hidden_and_kvm_shows() {
        for tsc_deadline in [false, true] {
            let cpuid = for_vcpu(
                &supported(),
                0,
                Topology {
                    max: 1,
                    tsc_deadline,
                },
            );
            let features = leaf(&cpuid, 1, 0);
            assert_eq!(features.ecx & L1_ECX_MWAIT, 0);
            assert_eq!(features.ecx & L1_ECX_TSC_DEADLINE != 0, tsc_deadline);
            assert_ne!(features.ecx & L1_ECX_HYPERVISOR, 0);
            assert_eq!(features.edx & L1_EDX_HTT, 0);
            assert_eq!(leaf(&cpuid, 5, 0).eax, 0);
            assert_eq!(leaf(&cpuid, KVM_FEATURES_LEAF, 0).eax, 0x100 | 1 << 15);
            assert!(cpuid.as_slice().iter().all(|e| e.function != 0x1f));
        }
    }
}

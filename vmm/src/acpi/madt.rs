//! MADT: the interrupt controllers, and every CPU that the machine can ever have (ACPI 6.3, 5.2.12).

use super::{Machine, OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes};
use crate::arch::layout;
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;
use hotvisor_devices::ioapic;

/// Revision of the MADT in ACPI 6.3.
const REVISION: u8 = 5;
/// Header, local APIC address, flags.
const FIXED: u32 = 44;
/// APIC ids from here on (255 means *all* in the narrow structure) need x2APIC structures. Linux 6.12
/// ignores an x2APIC structure with a smaller id beside narrow ones, so a machine has only one kind.
const FIRST_X2APIC_ONLY: u32 = 255;

const X2APIC_TYPE: u8 = 9;
const X2APIC_LEN: u8 = 16;
const FLAG_ENABLED: u32 = 1;
const FLAG_ONLINE_CAPABLE: u32 = 1 << 1;

/// Whether a machine of `max` possible CPUs has APIC ids that only x2APIC structures can name.
#[must_use]
pub(crate) fn needs_x2apic(max: u32) -> bool {
    max > FIRST_X2APIC_ONLY
}

/// What a structure says of its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It is there.
    Enabled,
    /// It may come.
    OnlineCapable,
}

/// The table: CPU n has APIC id n and processor UID n.
pub(super) fn build(machine: &Machine) -> Vec<u8> {
    let mut madt = Sdt::new(
        *b"APIC",
        FIXED,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    madt.write_u32(36, layout::LOCAL_APIC);
    madt.append_slice(&bytes(&IoApic::new(0, IOAPIC_BASE, 0)));
    for id in 0..machine.max {
        let status = if machine.present.contains(&id) {
            Status::Enabled
        } else {
            Status::OnlineCapable
        };
        madt.append_slice(&cpu(machine.max, id, status));
    }
    madt.as_slice().to_vec()
}

/// The structure of one CPU of a machine that can have `max`.
pub(super) fn cpu(max: u32, id: u32, status: Status) -> Vec<u8> {
    match u8::try_from(id) {
        Ok(narrow) if !needs_x2apic(max) => {
            let status = match status {
                Status::Enabled => EnabledStatus::Enabled,
                Status::OnlineCapable => EnabledStatus::DisabledOnlineCapable,
            };
            bytes(&ProcessorLocalApic::new(narrow, narrow, status))
        }
        _ => local_x2apic(id, status),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the I/O APIC lies below 4 GiB"
)]
const IOAPIC_BASE: u32 = ioapic::BASE as u32;

/// Processor local x2APIC structure (ACPI 6.3, 5.2.12.12).
fn local_x2apic(id: u32, status: Status) -> Vec<u8> {
    let flags = match status {
        Status::Enabled => FLAG_ENABLED,
        Status::OnlineCapable => FLAG_ONLINE_CAPABLE,
    };
    let mut structure = vec![X2APIC_TYPE, X2APIC_LEN, 0, 0];
    for field in [id, flags, id] {
        structure.extend(field.to_le_bytes());
    }
    structure
}

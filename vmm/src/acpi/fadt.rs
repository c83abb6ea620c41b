//! FADT: a hardware-reduced platform (ACPI 6.3, sections 4.1 and 5.2.9).

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use hotvisor_devices::power;

/// `IAPC_BOOT_ARCH`: there is no VGA, and no CMOS clock (the guest's clock is KVM's).
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_RTC: u16 = 1 << 5;
/// Linux takes *online capable* in the MADT for hot-pluggable only from 6.3 on.
const MINOR_VERSION: u8 = 3;

/// The table, for a DSDT at `dsdt`.
pub(super) fn build(dsdt: u64) -> Vec<u8> {
    let port = |offset: u16| {
        let address = u64::from(power::BASE + offset);
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            address,
        )
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        // No fixed buttons: the power button is a device of the DSDT.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    fadt.fadt_minor_version = MINOR_VERSION;
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    fadt.reset_reg = port(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = port(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(power::SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"HOTVISOR").into();
    bytes(&fadt.finalize())
}

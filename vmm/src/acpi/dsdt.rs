//! DSDT: the devices that the guest cannot find by itself.

use super::{HEADER, Machine, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Raw, bytes, cpu_aml};
use crate::arch::layout;
use acpi_tables::aml::{
    And, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO,
    If, Interrupt, Local, Memory32Fixed, Method, MethodCall, Name, Notify, ONE, OpRegion,
    OpRegionSpace, Package, Path, ResourceTemplate, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use hotvisor_devices::virtio::mmio;
use hotvisor_devices::{ged, power, serial};

/// Revision 2: integers are 64 bits wide.
const REVISION: u8 = 2;
/// Notification of a button: it was pressed (ACPI 6.3, section 5.6.6, table 5-188).
const BUTTON_PRESSED: u8 = 0x80;

/// The table.
pub(super) fn build(machine: &Machine) -> Vec<u8> {
    let mut aml = Vec::new();
    aml.extend(sleep_states());
    aml.extend(system_bus(machine));
    #[expect(clippy::cast_possible_truncation, reason = "a constant")]
    let mut dsdt = Sdt::new(
        *b"DSDT",
        HEADER as u32,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    dsdt.append_slice(&aml);
    dsdt.as_slice().to_vec()
}

/// `\_S5`: soft off, the only sleep state.
fn sleep_states() -> Vec<u8> {
    let package = Package::new(vec![&power::S5, &ZERO, &ZERO, &ZERO]);
    bytes(&Name::new("_S5_".into(), &package))
}

fn system_bus(machine: &Machine) -> Vec<u8> {
    let hid = |name| Name::new("_HID".into(), name);
    let uid = Name::new("_UID".into(), &ZERO);

    let button_id = EISAName::new("PNP0C0C");
    let button_hid = hid(&button_id);
    let button = Device::new("PWRB".into(), vec![&button_hid, &uid]);

    let com1_id = EISAName::new("PNP0501");
    let com1_hid = hid(&com1_id);
    let com1_irq = Interrupt::new(true, true, false, false, u32::from(layout::GSI_SERIAL));
    #[expect(clippy::cast_possible_truncation, reason = "a UART has eight ports")]
    let com1_ports = IO::new(serial::COM1, serial::COM1, 1, serial::LEN as u8);
    let com1_resources = ResourceTemplate::new(vec![&com1_ports, &com1_irq]);
    let com1_crs = Name::new("_CRS".into(), &com1_resources);
    let com1 = Device::new("COM1".into(), vec![&com1_hid, &uid, &com1_crs]);

    let ged = generic_event_device();
    let ged = Raw(&ged);
    let cpus = cpu_aml::container(machine.max);
    let cpus = Raw(&cpus);
    let mut devices: Vec<&dyn acpi_tables::Aml> = vec![&button, &cpus, &ged];
    if machine.serial {
        devices.push(&com1);
    }
    let vsock = virtio(layout::VSOCK);
    let vsock = Raw(&vsock);
    if machine.vsock {
        devices.push(&vsock);
    }
    bytes(&Scope::new("_SB_".into(), devices))
}

/// A virtio device by the identity under which Linux looks for one behind registers in memory
/// (`drivers/virtio/virtio_mmio.c`); the ACPI specification has none for it.
fn virtio(place: u8) -> Vec<u8> {
    let name = format!("VIO{place:X}");
    let hid = Name::new("_HID".into(), &"LNRO0005");
    let uid = Name::new("_UID".into(), &place);
    // Its accesses to memory are as a CPU's (ACPI 6.3, section 6.2.17).
    let coherent = Name::new("_CCA".into(), &ONE);
    #[expect(clippy::cast_possible_truncation, reason = "below 4 GiB")]
    let registers = Memory32Fixed::new(true, layout::virtio_window(place) as u32, mmio::LEN as u32);
    let interrupt = Interrupt::new(true, true, false, false, layout::virtio_gsi(place).into());
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    let crs = Name::new("_CRS".into(), &resources);
    let name = Path::new(&name);
    bytes(&Device::new(name, vec![&hid, &uid, &coherent, &crs]))
}

/// The GED (ACPI 6.3, section 5.6.9): its `_EVT` reads the register, which clears it, and notifies.
fn generic_event_device() -> Vec<u8> {
    let hid = Name::new("_HID".into(), &"ACPI0013");
    let uid = Name::new("_UID".into(), &ZERO);
    let interrupt = Interrupt::new(true, true, false, false, u32::from(layout::GSI_GED));
    let resources = ResourceTemplate::new(vec![&interrupt]);
    let crs = Name::new("_CRS".into(), &resources);

    let (base, len) = (layout::GED, ged::LEN);
    let region = OpRegion::new("EREG".into(), OpRegionSpace::SystemMemory, &base, &len);
    let field = Field::new(
        "EREG".into(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"EVTS", 32)],
    );

    let events = Path::new("EVTS");
    let read = Store::new(&Local(0), &events);
    let cpu_bit = ged::Event::CpuHotplug.bit();
    let cpus_changed = And::new(&ZERO, &Local(0), &cpu_bit);
    let scan = MethodCall::new(cpu_aml::SCAN.into(), vec![]);
    let on_cpus = If::new(&cpus_changed, vec![&scan]);
    let power_bit = ged::Event::PowerButton.bit();
    let pressed = And::new(&ZERO, &Local(0), &power_bit);
    let button = Path::new("\\_SB_.PWRB");
    let notify = Notify::new(&button, &BUTTON_PRESSED);
    let on_power = If::new(&pressed, vec![&notify]);
    let handler = Method::new("_EVT".into(), 1, true, vec![&read, &on_cpus, &on_power]);

    bytes(&Device::new(
        "GED_".into(),
        vec![&hid, &uid, &crs, &region, &field, &handler],
    ))
}

//! What the guest's `_OST` says, in words (ACPI 6.3, section 6.3.5; `include/linux/acpi.h`).

/// Source event: the OS acts on a bus check notification.
pub const BUS_CHECK: u32 = 0;
/// Source event: the OS acts on a device check notification.
pub const DEVICE_CHECK: u32 = 1;
/// Source event: the OS ejects on its own account, as by the `eject` file in sysfs.
pub const OSPM_EJECT: u32 = 0x103;

/// Status: done.
pub const SUCCESS: u32 = 0;
pub use hotvisor_devices::cpu_hotplug::{EJECT_IN_PROGRESS, EJECT_REQUEST, INSERT_IN_PROGRESS};

/// Whether a source is about an ejection that the host has asked for. An answer to the guest's own says nothing of that: both
/// may be under way at once.
#[must_use]
pub fn answers_the_host(source: u32) -> bool {
    source == EJECT_REQUEST
}

/// Whether a source is about an insertion.
#[must_use]
pub fn is_insertion(source: u32) -> bool {
    matches!(source, BUS_CHECK | DEVICE_CHECK)
}

/// Whether the guest says that it does not take a CPU.
#[must_use]
pub fn is_no_to_insertion(source: u32, status: u32) -> bool {
    is_insertion(source) && !matches!(status, SUCCESS | INSERT_IN_PROGRESS)
}

/// What an ejection's status means, and what to do about it.
#[must_use]
pub fn ejection(status: u32) -> &'static str {
    match status {
        0 => "the guest says that it is done",
        1 => "the guest failed without saying why; see its kernel log",
        2 => {
            "the guest does not know this notification; it may lack CPU hotplug (CONFIG_HOTPLUG_CPU)"
        }
        0x80 => {
            "the guest does not support it; see /sys/firmware/acpi/hotplug/processor/enabled in the guest"
        }
        0x81 => "the guest says that the CPU is in use",
        0x82 => {
            "the guest could not offline the CPU; its kernel log says which step refused: a real-time \
             bandwidth reservation, the last housekeeping CPU, interrupts that fit nowhere else, or hotplug \
             disabled for suspend or reboot"
        }
        0x83 => "the guest says that something that depends on the CPU is busy",
        0x84 => "the guest has begun",
        _ => "the guest gave a status that ACPI does not define for an ejection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_linux_sends_has_its_own_words() {
        let said: std::collections::BTreeSet<_> = [0, 1, 2, 0x80, 0x81, 0x82, 0x83, 0x84, 0x99]
            .map(ejection)
            .into();
        assert_eq!(said.len(), 9);
        assert!(answers_the_host(3) && !answers_the_host(OSPM_EJECT) && !answers_the_host(1));
    }
}

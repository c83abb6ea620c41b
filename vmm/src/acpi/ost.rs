//! What the guest says by `_OST` (ACPI 6.3, section 6.3.5; `include/linux/acpi.h`), and what the controller posts, in the words
//! of hotplug.

use crate::hotplug::guest::{About, Notice, Says, What, Withdrawn, Word};
use hotvisor_devices::cpu_hotplug::{self, EJECT_IN_PROGRESS, EJECT_REQUEST, INSERT_IN_PROGRESS};

/// Source event: the OS acts on a bus check notification.
const BUS_CHECK: u32 = 0;
/// Source event: the OS acts on a device check notification.
const DEVICE_CHECK: u32 = 1;
/// Source event: the OS ejects on its own account, as by the `eject` file in sysfs.
const OSPM_EJECT: u32 = 0x103;
/// Status: done.
const SUCCESS: u32 = 0;

/// What an evaluation of `_OST` with this source event and this status says.
#[must_use]
pub fn word(source: u32, status: u32) -> Word {
    let about = match source {
        BUS_CHECK | DEVICE_CHECK => About::Insertion,
        EJECT_REQUEST => About::Ejection,
        OSPM_EJECT => About::OwnEjection,
        _ => About::Other,
    };
    let says = match (about, status) {
        (_, SUCCESS) => Says::Done,
        (About::Insertion, INSERT_IN_PROGRESS) => Says::Begun,
        (About::Insertion, _) => {
            Says::No("the guest could not add the CPU; its kernel log says why")
        }
        (_, EJECT_IN_PROGRESS) => Says::Begun,
        (_, status) => Says::No(no_to_ejection(status)),
    };
    Word {
        about,
        says,
        numbers: (source, status),
    }
}

/// What the controller has posted; `None` for what nobody is to do anything about: it has logged that.
#[must_use]
pub fn notice(notice: cpu_hotplug::Notice) -> Option<Notice> {
    use cpu_hotplug::What as Posted;
    let what = match notice.what {
        Posted::InsertRead => What::InsertRead,
        Posted::EjectRead(ask) => What::EjectRead(ask),
        Posted::Status {
            source,
            status,
            kept,
        } => What::Said {
            word: word(source, status),
            kept,
        },
        Posted::Ejected { requested } => What::Ejected { requested },
        Posted::SeenEmpty => What::SeenEmpty,
        Posted::EjectIgnored(_) => return None,
    };
    Some(Notice {
        vcpu: notice.cpu,
        plug: notice.plug,
        what,
    })
}

impl From<cpu_hotplug::Withdrawn> for Withdrawn {
    fn from(withdrawn: cpu_hotplug::Withdrawn) -> Self {
        match withdrawn {
            cpu_hotplug::Withdrawn::Nothing => Self::Nothing,
            cpu_hotplug::Withdrawn::Last => Self::Last,
            cpu_hotplug::Withdrawn::All => Self::All,
        }
    }
}

/// What the status of an ejection that does not come means, and what to do about it.
fn no_to_ejection(status: u32) -> &'static str {
    match status {
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
        _ => "the guest gave a status that ACPI does not define for an ejection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_no_that_acpi_defines_has_its_own_words() {
        let said = [1, 2, 0x80, 0x81, 0x82, 0x83, 0x99].map(|code| match word(3, code).says {
            Says::No(why) => why,
            other => panic!("{code:#x} says {other:?}"),
        });
        assert_eq!(std::collections::BTreeSet::from(said).len(), said.len());
    }

    /// An answer to the guest's own ejection says nothing of the one that the host has asked for.
    #[test]
    fn each_source_is_about_one_thing_and_says_one() {
        let said = |source, status| {
            let word = word(source, status);
            assert_eq!(word.numbers, (source, status));
            let says = match word.says {
                Says::No(why) => {
                    assert!(!why.is_empty());
                    "no"
                }
                Says::Begun => "begun",
                Says::Done => "done",
            };
            (word.about, says)
        };
        for source in [0, 1] {
            assert_eq!(said(source, 0), (About::Insertion, "done"));
            assert_eq!(said(source, 0x80), (About::Insertion, "begun"));
            for no in [1, 2, 0x81, 0x84, u32::MAX] {
                assert_eq!(said(source, no), (About::Insertion, "no"));
            }
        }
        for (source, about) in [(3, About::Ejection), (0x103, About::OwnEjection)] {
            assert_eq!(said(source, 0), (about, "done"));
            assert_eq!(said(source, 0x84), (about, "begun"));
            for no in [1, 2, 0x80, 0x81, 0x82, 0x83, u32::MAX] {
                assert_eq!(said(source, no), (about, "no"));
            }
        }
        for source in [2, 4, 0x100, 0x200, u32::MAX] {
            assert_eq!(said(source, 0x84).0, About::Other);
        }
    }
}

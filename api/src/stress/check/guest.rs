//! What the guest says of its CPUs, against what must be so.

use crate::stress::guest::GuestCpus;
use std::collections::BTreeSet;

/// What does not fit; `ours` is whether nobody in the guest takes CPUs offline by itself.
pub(crate) fn contradictions(
    guest: &GuestCpus,
    plugged: &BTreeSet<u32>,
    ours: bool,
) -> Vec<String> {
    let mut found = Vec::new();
    if guest.present.len() != plugged.len() {
        let present = &guest.present;
        found.push(format!(
            "the guest has the CPUs {present:?} present, and must have {}",
            plugged.len()
        ));
    }
    if ours && (guest.online.len() != plugged.len() || guest.apic_ids != *plugged) {
        let GuestCpus {
            online, apic_ids, ..
        } = guest;
        found.push(format!(
            "the guest has the CPUs {online:?} online, with the APIC ids {apic_ids:?}, and must have {plugged:?}"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_and_online_can_each_contradict() {
        let plugged = BTreeSet::from([0, 5]);
        let guest = GuestCpus {
            present: [0, 1].into(),
            online: [0, 1].into(),
            apic_ids: [0, 5].into(),
        };
        let said = |guest: &GuestCpus, ours| contradictions(guest, &plugged, ours).len();
        assert_eq!(said(&guest, true), 0);
        let offline = GuestCpus {
            online: [0].into(),
            apic_ids: [0].into(),
            ..guest.clone()
        };
        assert_eq!(said(&offline, true), 1);
        assert_eq!(said(&offline, false), 0);
        let other = GuestCpus {
            apic_ids: [0, 3].into(),
            ..guest.clone()
        };
        assert_eq!(said(&other, true), 1);
        let gone = GuestCpus {
            present: [0].into(),
            ..guest
        };
        assert_eq!(said(&gone, false), 1);
    }
}

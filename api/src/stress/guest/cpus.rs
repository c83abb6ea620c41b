//! What a guest says of its CPUs.

use std::collections::BTreeSet;

/// CPUs as the guest has them at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestCpus {
    /// Linux's numbers of those that are there.
    pub(crate) present: BTreeSet<u32>,
    /// Linux's numbers of those that it schedules on.
    pub(crate) online: BTreeSet<u32>,
    /// The same by the ids of their local APICs, which are vCPU ids. Linux's numbers depend on which vCPUs it was booted with.
    pub(crate) apic_ids: BTreeSet<u32>,
}

/// Prints three lines, whose order [`GuestCpus::parse`] knows.
pub(super) const LOOK: &str = "cat /sys/devices/system/cpu/present /sys/devices/system/cpu/online; \
    sed -n 's/^apicid.*: //p' /proc/cpuinfo | xargs";

impl GuestCpus {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut ids = |separator| parse_ids(lines.next()?, separator);
        Some(Self {
            present: ids(',')?,
            online: ids(',')?,
            apic_ids: ids(' ')?,
        })
    }
}

/// `0-2,5` or `0 1 2`.
fn parse_ids(text: &str, separator: char) -> Option<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for word in text.trim().split(separator).filter(|word| !word.is_empty()) {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        ids.extend(first..=last.min(first.saturating_add(1 << 16)));
    }
    (!ids.is_empty()).then_some(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_prints_is_read() {
        let cpus = GuestCpus::parse("0-2,5\n0,2\n0 300").unwrap();
        assert_eq!(Vec::from_iter(cpus.present), [0, 1, 2, 5]);
        assert_eq!(Vec::from_iter(cpus.online), [0, 2]);
        assert_eq!(Vec::from_iter(cpus.apic_ids), [0, 300]);
        for wrong in ["", "0\n0", "0\nx\n0", "cat: no such file\n0\n0", "0\n0\n"] {
            assert_eq!(GuestCpus::parse(wrong), None, "{wrong:?}");
        }
        assert!(GuestCpus::parse("0-4294967295\n0\n0").is_some());
    }
}

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

/// What a guest says when it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) cpus: GuestCpus,
    /// The kernel's taint, which grows with some of its complaints, if it says it.
    pub(super) taint: Option<u64>,
}

/// Prints what [`Looked::parse`] reads. As much as possible is the shell's own doing: in an emulated machine, each program
/// that it starts costs more than a CPU's way out of the guest. The taint is not, because a shell that reads byte by byte gets
/// no more than the first of it.
pub(super) const LOOK: &str = "d=/sys/devices/system/cpu; \
    for f in $d/present $d/online; do l=; read -r l <$f; echo \"=$l\"; done 2>/dev/null; \
    exec sed -n '1s/^[0-9]*$/=&/p; s/^apicid.*: //p' /proc/sys/kernel/tainted /proc/cpuinfo 2>/dev/null";

impl Looked {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (mut lists, mut apic_ids) = (Vec::new(), BTreeSet::new());
        for line in text.lines() {
            match line.strip_prefix('=') {
                Some(list) => lists.push(list),
                None => apic_ids.extend(parse_ids(line, ' ')?),
            }
        }
        let (present, online, taint) = match *lists {
            [present, online] => (present, online, None),
            [present, online, taint] => (present, online, taint.trim().parse().ok()),
            _ => return None,
        };
        if apic_ids.is_empty() {
            return None;
        }
        let cpus = GuestCpus {
            present: parse_ids(present, ',')?,
            online: parse_ids(online, ',')?,
            apic_ids,
        };
        Some(Self { cpus, taint })
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
        let Looked { cpus, taint } = Looked::parse("=0-2,5\n=0,2\n=512\n0\n300").unwrap();
        assert_eq!(Vec::from_iter(cpus.present), [0, 1, 2, 5]);
        assert_eq!(Vec::from_iter(cpus.online), [0, 2]);
        assert_eq!(Vec::from_iter(cpus.apic_ids), [0, 300]);
        assert_eq!(taint, Some(512));
        assert_eq!(Looked::parse("=0\n=0\n0").unwrap().taint, None);
        for wrong in [
            "",
            "=0\n=0\n=0",
            "=0\n=x\n=0\n0",
            "=0\n=\n=0\n0",
            "=0\n0",
            "=0\n=0\n=0\n0\nsed: not found",
        ] {
            assert_eq!(Looked::parse(wrong), None, "{wrong:?}");
        }
        assert!(Looked::parse("=0-4294967295\n=0\n=0\n0").is_some());
    }
}

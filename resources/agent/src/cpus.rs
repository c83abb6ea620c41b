//! Which CPUs there are, and by which names host and guest know them.

use std::collections::BTreeMap;

use hotvisor_protocol::{ApicId, CpuNumber};

use crate::mask::{Form, Mask};
use crate::root::Root;

/// The folder of CPUs.
pub const CPUS: &str = "sys/devices/system/cpu";

/// A set of CPUs that sysfs names: `present`, `online`, `possible`, `isolated`, `nohz_full`; none where it does not.
#[must_use]
pub fn set(root: &Root, name: &str) -> Mask {
    let text = root.read(&format!("{CPUS}/{name}")).unwrap_or_default();
    Form::List.parse(&text).unwrap_or_default()
}

/// Whether a CPU is online; `None` where there is no such CPU. One without a file `online` cannot be taken offline.
#[must_use]
pub fn is_online(root: &Root, cpu: u32) -> Option<bool> {
    let folder = format!("{CPUS}/cpu{cpu}");
    match root.read(&format!("{folder}/online")) {
        Ok(text) => Some(text == "1"),
        Err(_) => root.has(&folder).then(|| set(root, "online").has(cpu)),
    }
}

/// Linux's numbers of CPUs and their APIC ids.
///
/// They need not be the same, and Linux keeps a number for an APIC id for good once it has given it. `/proc/cpuinfo` has both, and
/// only of CPUs that are online, so what was once seen there is remembered. Of one that never was, there is the `_UID` of its ACPI
/// device, which in Hotvisor's tables is the APIC id.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<u32, u32>);

impl Names {
    /// Learns what the guest says now.
    pub fn refresh(&mut self, root: &Root) {
        let mut number = None;
        for line in root.lines("proc/cpuinfo").into_iter().flatten() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            match (key.trim(), value.trim().parse::<u32>()) {
                ("processor", found) => number = found.ok(),
                ("apicid", Ok(id)) => {
                    if let Some(number) = number {
                        self.0.insert(number, id);
                    }
                }
                _ => {}
            }
        }
        for cpu in set(root, "present").iter() {
            let uid = || root.read(&format!("{CPUS}/cpu{cpu}/firmware_node/uid"));
            if !self.0.contains_key(&cpu)
                && let Some(uid) = uid().ok().and_then(|uid| uid.parse().ok())
            {
                self.0.insert(cpu, uid);
            }
        }
    }

    /// The number of the CPU with this APIC id, if it is known.
    #[must_use]
    pub fn number(&self, cpu: ApicId) -> Option<CpuNumber> {
        let mut known = self.0.iter();
        let (number, _) = known.find(|(_, id)| **id == u32::from(cpu))?;
        CpuNumber::try_from(*number).ok()
    }

    /// The APIC id of the CPU with this number, if it is known.
    #[must_use]
    pub fn apic_id(&self, number: u32) -> Option<ApicId> {
        ApicId::try_from(*self.0.get(&number)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;

    #[test]
    fn numbers_and_apic_ids_differ_and_are_remembered() {
        let picture = Picture::new();
        let cpuinfo =
            "processor\t: 0\napicid\t\t: 0\ninitial apicid\t: 9\n\nprocessor\t: 1\napicid\t\t: 4\n";
        picture.file("proc/cpuinfo", cpuinfo);
        picture.file("sys/devices/system/cpu/present", "0-2\n");
        picture.file("sys/devices/system/cpu/cpu2/firmware_node/uid", "5\n");
        let mut names = Names::default();
        names.refresh(picture.root());
        let four = ApicId::try_from(4).unwrap();
        assert_eq!(names.number(four).map(u32::from), Some(1));
        assert_eq!(names.apic_id(2).map(u32::from), Some(5));
        picture.file("proc/cpuinfo", "processor\t: 0\napicid\t\t: 0\n");
        names.refresh(picture.root());
        assert_eq!(names.number(four).map(u32::from), Some(1));
        assert_eq!(names.apic_id(7), None);
    }

    #[test]
    fn the_boot_cpu_has_no_switch() {
        let picture = Picture::of_cpus(2);
        assert_eq!(is_online(picture.root(), 0), Some(true));
        picture.file("sys/devices/system/cpu/cpu1/online", "0\n");
        assert_eq!(is_online(picture.root(), 1), Some(false));
        assert_eq!(is_online(picture.root(), 2), None);
    }
}

//! What was measured, as the JSON file has it: one series of samples for each thing, VMM, clock and kind of guest.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::measured::Measured;

/// A VMM that takes part.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Peer {
    Hotvisor,
    Qemu,
    CloudHypervisor,
    /// Hotvisor without filters of system calls, beside itself.
    Unfiltered,
}

impl Peer {
    /// Whether it is Hotvisor, in whichever way.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Hotvisor | Self::Unfiltered)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hotvisor => "Hotvisor",
            Self::Qemu => "QEMU",
            Self::CloudHypervisor => "Cloud Hypervisor",
            Self::Unfiltered => "Hotvisor with `--seccomp false`",
        })
    }
}

/// How time passes where something is measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub(super) enum Time {
    /// One nanosecond for each instruction of an emulated machine.
    Instructions,
    /// As it does.
    Wall,
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Instructions => "instructions",
            Self::Wall => "wall clock",
        })
    }
}

/// How a guest waits for RCU grace periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Guest {
    /// As Debian boots it: for ticks to pass.
    Plain,
    /// By asking its CPUs.
    Expedited,
}

impl Guest {
    pub(super) const ALL: [Self; 2] = [Self::Plain, Self::Expedited];

    /// What is added to its kernel's parameters.
    pub(super) fn parameters(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Expedited => "rcupdate.rcu_expedited=1",
        }
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "as Debian boots it",
            Self::Expedited => "expedited grace periods",
        })
    }
}

/// A change of vCPUs, or what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    /// For the first time in this machine.
    Plug,
    Unplug,
    /// Again, after an unplug.
    Replug,
}

impl Change {
    pub(super) const ALL: [Self; 3] = [Self::Plug, Self::Unplug, Self::Replug];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plug => "plug",
            Self::Unplug => "unplug",
            Self::Replug => "re-plug",
        }
    }

    /// From when to when.
    pub(super) fn span(self) -> &'static str {
        match self {
            Self::Plug => "plug: request to online in the guest",
            Self::Unplug => "unplug: request to the vCPU gone",
            Self::Replug => "re-plug: request to online in the guest",
        }
    }
}

/// What a series is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// Milliseconds from the start of the VMM to the guest's init.
    Init,
    /// Milliseconds of a change.
    Change(Change),
    /// Milliseconds of it in which the guest's kernel was in `cpu_device_up` or `cpu_device_down`.
    Kernel(Change),
    /// Milliseconds of it in all else: the VMM, and the guest's ACPI and udev.
    Rest(Change),
    /// Milliseconds of it that Hotvisor's phase of this name took.
    Phase(Change, String),
    /// Milliseconds of CPU time that the VMM's threads took for it, but for those that run the guest.
    Own(Change),
    /// Exits to the VMM for registers, but for those of the serial port.
    Registers(Change),
    /// All exits of the guest to KVM.
    Exits(Change),
    /// KiB that are resident, but for the guest's memory.
    Memory {
        api: bool,
    },
    Threads {
        api: bool,
    },
}

impl What {
    /// What its values are.
    pub(super) fn unit(&self) -> &'static str {
        match self {
            Self::Registers(_) | Self::Exits(_) | Self::Threads { .. } => "",
            Self::Memory { .. } => "KiB",
            _ => "ms",
        }
    }
}

/// Which series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) time: Time,
    pub(super) what: What,
    pub(super) guest: Guest,
    /// How many vCPUs the machine could have.
    pub(super) max: u32,
    /// How many vCPUs it is about: those that change at once, or those at boot.
    pub(super) vcpus: u32,
    pub(super) peer: Peer,
}

/// The samples of one series, in the order in which they were taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Series {
    #[serde(flatten)]
    pub(super) key: Key,
    pub(super) values: Vec<f64>,
}

/// What could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Absent {
    pub(super) peer: Peer,
    pub(super) time: Time,
    pub(super) max: u32,
    /// How many at once; 0 where it is about all of that machine.
    pub(super) vcpus: u32,
    pub(super) why: String,
}

/// All that a run measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) format: u32,
    /// Of each VMM, as it says itself.
    pub(super) versions: BTreeMap<Peer, String>,
    /// What tells the program of each apart from another build's.
    pub(super) builds: BTreeMap<Peer, String>,
    pub(super) kernel: String,
    pub(super) seed: u64,
    pub(super) series: Vec<Series>,
    pub(super) absent: Vec<Absent>,
}

impl Measured for Results {
    const FORMAT: u32 = 2;
    const BY: &str = "cargo testbed bench --json";
}

impl Results {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            format: Self::FORMAT,
            versions: BTreeMap::new(),
            builds: BTreeMap::new(),
            kernel: String::new(),
            seed,
            series: Vec::new(),
            absent: Vec::new(),
        }
    }

    /// A sample; of times, nanoseconds are enough.
    pub(super) fn add(&mut self, key: Key, value: f64) {
        let value = (value * 1e6).round() / 1e6;
        match self.series.iter_mut().find(|series| series.key == key) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series {
                key,
                values: vec![value],
            }),
        }
    }

    /// The samples of a series, if there are any.
    pub(super) fn get(&self, key: &Key) -> Option<&[f64]> {
        let series = self.series.iter().find(|series| series.key == *key)?;
        Some(&series.values)
    }

    /// Takes in what another run measured.
    ///
    /// # Errors
    /// It was measured of other programs, with another kernel or another seed, or is of the same: nothing changes.
    pub(super) fn join(&mut self, other: Self) -> Result<()> {
        for (peer, build) in &other.builds {
            let known = self.builds.get(peer);
            ensure!(
                known.is_none_or(|known| known == build),
                "one part is of {peer} {known:?}, the other of {build:?}: measure both anew"
            );
        }
        let kernels = [&self.kernel, &other.kernel];
        ensure!(
            kernels.iter().any(|kernel| kernel.is_empty()) || kernels[0] == kernels[1],
            "the parts are of different kernels: {kernels:?}"
        );
        ensure!(
            self.seed == other.seed,
            "the parts have different seeds: {} and {}",
            self.seed,
            other.seed
        );
        let both = other
            .series
            .iter()
            .find(|series| self.get(&series.key).is_some());
        ensure!(
            both.is_none(),
            "both parts have {}: give one of them",
            both.map(|series| super::table::name(&series.key))
                .unwrap_or_default()
        );
        self.merge(other);
        Ok(())
    }

    /// Takes in what another machine of the same run showed.
    pub(super) fn merge(&mut self, other: Self) {
        self.versions.extend(other.versions);
        self.builds.extend(other.builds);
        if self.kernel.is_empty() {
            self.kernel = other.kernel;
        }
        self.absent.extend(other.absent);
        for Series { key, values } in other.series {
            for value in values {
                self.add(key.clone(), value);
            }
        }
    }

    /// The VMMs that something was measured of, ours first.
    pub(super) fn peers(&self) -> Vec<Peer> {
        let mut peers: Vec<Peer> = self.series.iter().map(|series| series.key.peer).collect();
        peers.sort();
        peers.dedup();
        peers
    }

    /// A line for each series, so that two files can be compared by the usual means, too.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self)?
            .replace("{\"time\":", "\n{\"time\":")
            .replace("],\"absent\":", "\n],\"absent\":");
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::measured;

    /// A key with the most usual values.
    pub(in super::super) fn key(peer: Peer, what: What) -> Key {
        Key {
            time: Time::Instructions,
            what,
            guest: Guest::Plain,
            max: 8,
            vcpus: 1,
            peer,
        }
    }

    #[test]
    fn results_survive_the_file() {
        let mut results = Results::new(1);
        let phase = What::Phase(Change::Unplug, "draining".to_owned());
        results.add(key(Peer::Hotvisor, phase.clone()), 1.5);
        results.add(key(Peer::Hotvisor, phase.clone()), 2.5);
        results.add(key(Peer::Qemu, What::Memory { api: true }), 7.0);
        let file = tempfile::NamedTempFile::new().unwrap();
        results.write(file.path()).unwrap();
        let read = measured::read::<Results>(file.path()).unwrap();
        assert_eq!(read, results);
        assert_eq!(read.get(&key(Peer::Hotvisor, phase)).unwrap(), [1.5, 2.5]);
        assert_eq!(read.peers(), [Peer::Hotvisor, Peer::Qemu]);
    }

    #[test]
    fn samples_of_two_parts_come_together() {
        let (mut one, mut two) = (Results::new(1), Results::new(1));
        let init = || key(Peer::Qemu, What::Init);
        one.add(init(), 1.0);
        two.add(init(), 2.0);
        two.add(key(Peer::Hotvisor, What::Init), 3.0);
        one.merge(two);
        assert_eq!(one.get(&init()).unwrap(), [1.0, 2.0]);
        assert_eq!(one.series.len(), 2);
    }

    #[test]
    fn parts_of_different_things_do_not_come_together() {
        let part = |build: &str, kernel: &str, seed| {
            let mut part = Results::new(seed);
            part.builds.insert(Peer::Hotvisor, build.to_owned());
            kernel.clone_into(&mut part.kernel);
            part
        };
        let first = part("a", "6.1", 1);
        for (other, word) in [
            (part("b", "6.1", 1), "the other of \"b\""),
            (part("a", "6.12", 1), "different kernels"),
            (part("a", "6.1", 2), "different seeds"),
        ] {
            let mut both = first.clone();
            let error = both.join(other).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert_eq!(both, first);
        }
        let mut other = part("a", "", 1);
        other.add(key(Peer::Qemu, What::Init), 1.0);
        let mut both = first.clone();
        both.join(other.clone()).unwrap();
        let error = both.join(other).unwrap_err().to_string();
        assert!(error.contains("give one of them"), "{error}");
    }

    #[test]
    fn another_format_is_refused() {
        let mut results = Results::new(1);
        results.format = Results::FORMAT + 1;
        let file = tempfile::NamedTempFile::new().unwrap();
        results.write(file.path()).unwrap();
        let error = measured::read::<Results>(file.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("measure anew"), "{error}");
    }
}

//! What is bound to one CPU, and what Linux would refuse to take it away for.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::MAX_BLOCKERS;
use crate::bounded::{List, Text};
use crate::line::{named, read_part, write_part};

/// A task that may run on this CPU only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedTask {
    /// The thread's id.
    pub tid: u32,
    /// The id of its process.
    pub pid: u32,
    /// Its name (`/proc/TID/comm`).
    pub comm: Text<64>,
    /// Its scheduling policy: `other`, `fifo`, `rr`, `batch`, `idle`, `deadline`, or a number.
    pub policy: Text<16>,
    /// Its real-time priority, 1 to 99; 0 where its policy has none.
    #[serde(default)]
    pub priority: u8,
    /// The CPUs that it may run on, as Linux numbers them: `2`, or `2-3,8`.
    pub cpus: Text<64>,
}

/// An interrupt that may go to this CPU only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedIrq {
    /// Its number in `/proc/irq`.
    pub irq: u32,
    /// Whose it is (`/proc/interrupts` says the same).
    pub name: Text<64>,
}

/// A set of CPUs that this is the only one of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedCpuset {
    /// Its path below the mount point of control groups.
    pub path: Text<192>,
}

/// The CPU is among those that were isolated when the guest was booted (`isolcpus=`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolated {
    /// Whether each of the other CPUs that are online is, too: Linux needs one that is not, and refuses.
    #[serde(default)]
    pub others_too: bool,
}

/// The CPU is among those without a tick (`nohz_full=`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NohzFull {
    /// Whether each of the other CPUs that are online is, too: Linux needs one that is not, and refuses.
    #[serde(default)]
    pub others_too: bool,
}

/// There are tasks that CPU time was promised to (`SCHED_DEADLINE`), wherever they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadlineBandwidth {
    /// How many tasks.
    pub tasks: u32,
    /// What they were promised, in millionths of one CPU.
    pub promised_ppm: u64,
    /// What the CPUs without this one may promise, in millionths of one CPU.
    pub room_ppm: u64,
}

named! {
    /// One thing that is in the way of taking a CPU away, or that suffers from it.
    Blocker {
        /// A task that may run nowhere else.
        BlockedTask = "task",
        /// An interrupt that may go nowhere else.
        BlockedIrq = "irq",
        /// A set of CPUs that is empty without it.
        BlockedCpuset = "cpuset",
        /// An isolated CPU.
        Isolated = "isolated",
        /// A CPU without a tick.
        NohzFull = "nohz_full",
        /// Promised CPU time.
        DeadlineBandwidth = "deadline",
    }
}

impl Blocker {
    /// Whether Linux refuses to take the CPU offline for this. For everything else it does not: it breaks the affinity.
    #[must_use]
    pub fn refuses(&self) -> bool {
        match self {
            Self::BlockedTask(_) | Self::BlockedIrq(_) | Self::BlockedCpuset(_) => false,
            Self::Isolated(Isolated { others_too }) | Self::NohzFull(NohzFull { others_too }) => {
                *others_too
            }
            Self::DeadlineBandwidth(bandwidth) => bandwidth.promised_ppm > bandwidth.room_ppm,
        }
    }
}

/// A [`Blocker`], or one of a kind that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known(Option<Blocker>);

impl<'de> Deserialize<'de> for Known {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_part(deserializer).map(Self)
    }
}

/// What is in the way of taking one CPU away; of kinds that this version does not know, only how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blockers {
    /// Those of known kinds.
    pub known: Vec<Blocker>,
    /// How many more there are: of other kinds when received, and cut off when made.
    pub others: u32,
}

impl Blockers {
    /// Takes the first [`MAX_BLOCKERS`], and counts the others.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = Blocker>) -> Self {
        let mut all = all.into_iter();
        let known = all.by_ref().take(MAX_BLOCKERS).collect();
        let others = u32::try_from(all.count()).unwrap_or(u32::MAX);
        Self { known, others }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.others == 0
    }
}

/// How [`Blockers`] are sent.
#[derive(Serialize, Deserialize)]
struct Sent<B> {
    list: B,
    #[serde(default)]
    others: u32,
}

struct Part<'a>(&'a Blocker);

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write_part(self.0, serializer)
    }
}

impl Serialize for Blockers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sent = Sent {
            list: self
                .known
                .iter()
                .take(MAX_BLOCKERS)
                .map(Part)
                .collect::<Vec<_>>(),
            others: self.others,
        };
        sent.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Blockers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sent = Sent::<List<Known, MAX_BLOCKERS>>::deserialize(deserializer)?;
        let known: Vec<Blocker> = sent
            .list
            .iter()
            .filter_map(|known| known.0.clone())
            .collect();
        let unknown = u32::try_from(sent.list.len() - known.len()).unwrap_or(u32::MAX);
        Ok(Self {
            known,
            others: sent.others.saturating_add(unknown),
        })
    }
}

//! What is counted in this process, for whoever watches it from outside.
//!
//! Whoever knows of a thing counts it where it happens, with atomics that nobody else writes at the same time: the
//! control thread what becomes of vCPUs and operations, a vCPU's thread its own exits. Readers read, and keep nobody
//! from anything. Nothing is ever counted down or begins anew, whatever becomes of the machine.

mod histogram;
mod vcpu;

pub use histogram::{BOUNDS, BUCKETS, Durations, Histogram};
pub(crate) use vcpu::run_time_of;
pub use vcpu::{ExitKind, VcpuTally};

use crate::config::MAX_CPUS;
use crate::hotplug::phase::Phase;
use crate::hotplug::view::{Code, OperationKind, Target};
use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const TARGETS: [Target; 2] = [Target::Online, Target::Offline];
const CODES: usize = Code::ALL.len();
const KINDS: usize = OperationKind::NAMES.len();
const STAGES: usize = Phase::STAGES.len();

/// Sources of `_OST` that are counted by their number; all others together.
const SOURCES: [u32; 4] = [0, 1, 3, 0x103];
/// Statuses of `_OST` that are counted by their number; all others together.
const STATUSES: [u32; 8] = [0, 1, 2, 0x80, 0x81, 0x82, 0x83, 0x84];

/// What is counted.
#[derive(Debug)]
pub struct Tally {
    stages: [[Histogram; STAGES]; TARGETS.len()],
    attempts: [[Histogram; CODES]; TARGETS.len()],
    parts: [[AtomicU64; CODES]; TARGETS.len()],
    operations: [[AtomicU64; CODES]; KINDS],
    statuses: [[AtomicU64; STATUSES.len() + 1]; SOURCES.len() + 1],
    gates: Arc<GateTally>,
    /// Only of those that there ever were.
    vcpus: Box<[OnceLock<Arc<VcpuTally>>]>,
}

/// How long somebody waits at gates.
#[derive(Debug, Default)]
pub struct GateTally {
    /// How long each closed gate waited for the users inside to leave.
    pub closing: Histogram,
    /// How long each user that found a gate closed waited there, whatever it was told in the end.
    pub users: Histogram,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            stages: grid(),
            attempts: grid(),
            parts: grid(),
            operations: grid(),
            statuses: grid(),
            gates: Arc::default(),
            vcpus: (0..MAX_CPUS).map(|_| OnceLock::new()).collect(),
        }
    }
}

fn grid<T: Default, const N: usize, const M: usize>() -> [[T; N]; M] {
    array::from_fn(|_| array::from_fn(|_| T::default()))
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// For the control thread.
impl Tally {
    /// A vCPU on its way to `target` has left a stage after so long.
    pub fn stage(&self, target: Target, stage: &str, spent: Duration) {
        if let Some(at) = Phase::STAGES.iter().position(|name| *name == stage) {
            self.stages[target as usize][at].observe(spent);
        }
    }

    /// A plug or an unplug has ended after so long.
    pub fn attempt(&self, target: Target, code: Code, spent: Duration) {
        self.attempts[target as usize][code as usize].observe(spent);
    }

    /// An operation's part has ended.
    pub fn part(&self, target: Target, code: Code) {
        add(&self.parts[target as usize][code as usize]);
    }

    /// An operation has ended.
    pub fn operation(&self, kind: OperationKind, code: Code) {
        add(&self.operations[kind.index()][code as usize]);
    }

    /// The guest has said something of a vCPU: source event and status of its `_OST`.
    pub fn word(&self, (source, status): (u32, u32)) {
        let place = |known: &[u32], number: u32| {
            let found = known.iter().position(|known| *known == number);
            found.unwrap_or(known.len())
        };
        add(&self.statuses[place(&SOURCES, source)][place(&STATUSES, status)]);
    }

    /// Where gates count.
    #[must_use]
    pub fn gate_tally(&self) -> Arc<GateTally> {
        self.gates.clone()
    }

    /// Where a vCPU's thread counts.
    #[must_use]
    pub fn vcpu_tally(&self, id: u32) -> Arc<VcpuTally> {
        // There are no others (`Cpus::validate`), and it would not be worth a panic.
        let place = self.vcpus.get(id as usize);
        place.map_or_else(Arc::default, |place| {
            place.get_or_init(Arc::default).clone()
        })
    }
}

/// For readers.
impl Tally {
    /// How long vCPUs were in each stage of their phases, by where they were going.
    pub fn stages(&self) -> impl Iterator<Item = (Target, &'static str, Durations)> {
        TARGETS.into_iter().flat_map(move |target| {
            let stages = Phase::STAGES.iter().zip(&self.stages[target as usize]);
            stages.map(move |(stage, times)| (target, *stage, times.read()))
        })
    }

    /// How long whole plugs and unplugs took, by how they ended. A plug that a request for the opposite took over
    /// has ended as superseded.
    pub fn attempts(&self) -> impl Iterator<Item = (Target, Code, Durations)> {
        TARGETS.into_iter().flat_map(move |target| {
            let codes = Code::ALL.into_iter();
            codes.map(move |code| {
                (
                    target,
                    code,
                    self.attempts[target as usize][code as usize].read(),
                )
            })
        })
    }

    /// How many parts of operations have ended, by what they were for and how.
    pub fn parts(&self) -> impl Iterator<Item = (Target, Code, u64)> {
        TARGETS.into_iter().flat_map(move |target| {
            let codes = Code::ALL.into_iter();
            codes.map(move |code| {
                (
                    target,
                    code,
                    get(&self.parts[target as usize][code as usize]),
                )
            })
        })
    }

    /// How many operations have ended, by their kind's name and how.
    pub fn operations(&self) -> impl Iterator<Item = (&'static str, Code, u64)> {
        let kinds = OperationKind::NAMES.into_iter().zip(&self.operations);
        kinds.flat_map(|(kind, counters)| {
            let codes = Code::ALL.into_iter();
            codes.map(move |code| (kind, code, get(&counters[code as usize])))
        })
    }

    /// How often the guest has evaluated `_OST`, by source event and status; `None` for numbers that ACPI does not
    /// define for a CPU.
    pub fn statuses(&self) -> impl Iterator<Item = (Option<u32>, Option<u32>, u64)> {
        let sources = SOURCES.into_iter().map(Some).chain([None]);
        sources.zip(&self.statuses).flat_map(|(source, counters)| {
            let statuses = STATUSES.into_iter().map(Some).chain([None]);
            statuses
                .zip(counters)
                .map(move |(status, counter)| (source, status, get(counter)))
        })
    }

    /// How long somebody waited at gates.
    #[must_use]
    pub fn gates(&self) -> &GateTally {
        &self.gates
    }

    /// What is counted of a vCPU; `None` as long as there never was one of that id.
    #[must_use]
    pub fn vcpu(&self, id: u32) -> Option<&VcpuTally> {
        self.vcpus.get(id as usize)?.get().map(|tally| &**tally)
    }

    /// All vCPUs that there ever were, by id.
    pub fn vcpus(&self) -> impl Iterator<Item = (u32, &VcpuTally)> {
        let all = (0u32..).zip(&self.vcpus);
        all.filter_map(|(id, place)| Some((id, &**place.get()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_counted_in_its_place() {
        let tally = Tally::default();
        tally.part(Target::Offline, Code::Refused);
        tally.operation(OperationKind::One(Target::Offline), Code::Refused);
        tally.operation(OperationKind::GuestEject, Code::Succeeded);
        tally.stage(Target::Offline, "notifying.begun", Duration::from_millis(3));
        tally.attempt(Target::Online, Code::TimedOut, Duration::from_secs(30));
        for (source, status) in [(3, 0x82), (3, 0x82), (0x103, 7), (u32::MAX, 0)] {
            tally.word((source, status));
        }
        let parts: Vec<_> = tally.parts().filter(|(.., n)| *n > 0).collect();
        assert_eq!(parts, [(Target::Offline, Code::Refused, 1)]);
        let operations: Vec<_> = tally.operations().filter(|(.., n)| *n > 0).collect();
        assert_eq!(
            operations,
            [
                ("vcpu", Code::Refused, 1),
                ("guest_eject", Code::Succeeded, 1)
            ]
        );
        let stages: Vec<_> = tally.stages().filter(|(.., t)| t.count() > 0).collect();
        assert_eq!(
            (stages.len(), stages[0].0, stages[0].1),
            (1, Target::Offline, "notifying.begun")
        );
        assert_eq!(stages[0].2.sum, Duration::from_millis(3));
        let attempts: Vec<_> = tally.attempts().filter(|(.., t)| t.count() > 0).collect();
        assert_eq!(
            (attempts.len(), attempts[0].0, attempts[0].1),
            (1, Target::Online, Code::TimedOut)
        );
        let statuses: Vec<_> = tally.statuses().filter(|(.., n)| *n > 0).collect();
        assert_eq!(
            statuses,
            [
                (Some(3), Some(0x82), 2),
                (Some(0x103), None, 1),
                (None, Some(0), 1)
            ]
        );
    }

    #[test]
    fn a_vcpu_keeps_its_count_and_those_that_never_were_have_none() {
        let tally = Tally::default();
        assert!(tally.vcpu(1023).is_none() && tally.vcpu(1024).is_none());
        tally.vcpu_tally(1023).exit(ExitKind::IoOut);
        tally.vcpu_tally(1023).exit(ExitKind::IoOut);
        let exits = tally.vcpu(1023).map(VcpuTally::exits).unwrap();
        assert_eq!(exits[1], (ExitKind::IoOut, 2));
        assert_eq!(tally.vcpus().map(|(id, _)| id).collect::<Vec<_>>(), [1023]);
    }
}

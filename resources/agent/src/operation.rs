//! What the host is doing, as far as the agent takes part in it.

use std::collections::BTreeMap;

use hotvisor_protocol::{
    ApicId, Begin, Blockers, Drained, FromGuest, Kind, Moved, Pinned, Refused,
};

use crate::blockers::{self, Found};
use crate::drain;
use crate::root::Root;
use crate::state::Store;
use crate::trouble::Result;

/// How long until it is looked again whether what is bound to a CPU is gone.
const LOOK_NS: u64 = 50_000_000;

/// Most time of an operation, in milliseconds: a host that asks for more gets this.
const LONGEST_MS: u32 = 3_600_000;

/// A CPU that waits for what is bound to it.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    cpu: ApicId,
    moved: Moved,
    until_ns: u64,
    look_ns: u64,
}

/// An operation that has begun and not ended.
#[derive(Debug)]
pub struct Operation {
    id: u64,
    /// What it does.
    pub kind: Kind,
    /// When the agent takes it for undone.
    pub deadline_ns: u64,
    drain: bool,
    pinned: Pinned,
    /// The CPUs that are taken away, by Linux's number.
    pub cpus: BTreeMap<u32, ApicId>,
    waiting: BTreeMap<u32, Waiting>,
}

impl Operation {
    /// One that begins now, with those of its CPUs that the guest knows a number of.
    #[must_use]
    pub fn new(begin: &Begin, cpus: BTreeMap<u32, ApicId>, now_ns: u64) -> Self {
        let deadline_ms = begin.deadline_ms.min(LONGEST_MS);
        Self {
            id: begin.operation,
            kind: begin.kind,
            deadline_ns: now_ns + u64::from(deadline_ms) * 1_000_000,
            drain: begin.drain,
            pinned: begin.pinned,
            cpus,
            waiting: BTreeMap::new(),
        }
    }

    /// Moves what can be moved off its CPUs, and says what came of it, unless what is bound there is waited for.
    ///
    /// # Errors
    /// Where what is moved cannot be written down.
    pub fn start(&mut self, store: &mut Store, now_ns: u64) -> Result<Vec<FromGuest>> {
        let mut said = Vec::new();
        if self.kind == Kind::Plug {
            return Ok(said);
        }
        for (number, cpu) in self.cpus.clone() {
            let moved = if self.drain {
                drain::drain(store, number)?
            } else {
                Moved::default()
            };
            let wait_ns = match self.pinned {
                Pinned::Wait { ms } => u64::from(ms.min(LONGEST_MS)) * 1_000_000,
                Pinned::Break | Pinned::Refuse => 0,
            };
            let until_ns = now_ns + wait_ns;
            let waiting = Waiting {
                cpu,
                moved,
                until_ns,
                look_ns: now_ns,
            };
            said.extend(self.look(store, number, waiting, now_ns)?);
        }
        Ok(said)
    }

    /// Looks what is bound to a CPU, and says so, or goes on waiting.
    fn look(
        &mut self,
        store: &mut Store,
        number: u32,
        mut waiting: Waiting,
        now_ns: u64,
    ) -> Result<Option<FromGuest>> {
        let found = blockers::find(store.root(), number);
        let is_free = self.pinned == Pinned::Break || !found.is_in_the_way();
        if !is_free && now_ns < waiting.until_ns {
            waiting.look_ns = (now_ns + LOOK_NS).min(waiting.until_ns);
            self.waiting.insert(number, waiting);
            return Ok(None);
        }
        let Waiting { cpu, moved, .. } = waiting;
        let Found { blockers, .. } = found;
        let (operation, blockers) = (self.id, Blockers::new(blockers));
        if is_free {
            return Ok(Some(
                Drained {
                    operation,
                    cpu,
                    moved,
                    blockers,
                }
                .into(),
            ));
        }
        drain::restore(store, number)?;
        Ok(Some(
            Refused {
                operation,
                cpu,
                blockers,
            }
            .into(),
        ))
    }

    /// Looks again at CPUs whose time has come.
    ///
    /// # Errors
    /// Where what is moved cannot be written down.
    pub fn tick(&mut self, store: &mut Store, now_ns: u64) -> Result<Vec<FromGuest>> {
        let due = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.look_ns <= now_ns);
        let due: Vec<(u32, Waiting)> = due.map(|(number, waiting)| (*number, *waiting)).collect();
        let mut said = Vec::new();
        for (number, waiting) in due {
            self.waiting.remove(&number);
            said.extend(self.look(store, number, waiting, now_ns)?);
        }
        Ok(said)
    }

    /// When something is to be done next.
    #[must_use]
    pub fn wakes_at(&self) -> u64 {
        let looks = self.waiting.values().map(|waiting| waiting.look_ns);
        looks
            .chain([self.deadline_ns])
            .min()
            .unwrap_or(self.deadline_ns)
    }

    /// Whether it takes this CPU away, by Linux's number.
    #[must_use]
    pub fn takes_away(&self, number: u32) -> bool {
        self.kind == Kind::Unplug && self.cpus.contains_key(&number)
    }
}

/// What the agent can do in this guest, as it says in hello.
#[must_use]
pub fn features(root: &Root) -> Vec<&'static str> {
    let all = [
        ("online", root.has(crate::cpus::CPUS)),
        ("expedite", crate::expedite::is_possible(root)),
        ("drain", drain::is_possible(root)),
        ("blockers", root.has("proc")),
        ("phases", crate::phases::is_possible(root)),
        ("pressure", root.has("proc/stat")),
    ];
    all.into_iter()
        .filter(|(_, can)| *can)
        .map(|(name, _)| name)
        .collect()
}

//! Choices, from the seed.

use super::Ask;
use crate::wire::vcpus::Target;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::time::Duration;

/// Most requests in one step.
const MANY: u64 = 4;
/// Requests in a boot.
const STEADY: u64 = 40;

/// Chooses vCPUs and moments. What it takes to be plugged is what would be so if every request were met; of which that is
/// not sure, it chooses last, so that few requests change nothing.
#[derive(Debug)]
pub(super) struct Chooser {
    /// Its sequence is part of the crate's promise.
    rng: ChaCha8Rng,
    max: u32,
    most: u32,
    planned: BTreeSet<u32>,
    /// Those of which it is not sure whether they are plugged.
    doubtful: BTreeSet<u32>,
    /// Those that KVM may have: of the others they are taken first.
    known: BTreeSet<u32>,
    /// As many as there may be, whatever became of the requests.
    upper: u32,
    /// What is chosen now may come to nothing, or in another order.
    pub(super) unsure: bool,
}

fn count(set: &BTreeSet<u32>) -> u32 {
    u32::try_from(set.len()).unwrap_or(u32::MAX)
}

impl Chooser {
    pub(super) fn new(seed: u64, max: u32, most: u32, plugged: BTreeSet<u32>) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            max,
            most: most.clamp(1, max),
            upper: count(&plugged),
            unsure: false,
            doubtful: BTreeSet::new(),
            known: plugged.clone(),
            planned: plugged,
        }
    }

    /// A number from 0 on that is less than `end`, or 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.rng.next_u64()) * u128::from(end);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn below_u32(&mut self, end: u32) -> u32 {
        u32::try_from(self.below(end.into())).unwrap_or(0)
    }

    /// Short ones are as likely as long ones: 20 µs to 320 ms.
    pub(super) fn moment(&mut self) -> Duration {
        let scale = 20u64 << self.below(14);
        Duration::from_micros(scale + self.below(scale))
    }

    /// vCPUs but the boot CPU that are there, or that are not; those of which it is not sure where there is no other.
    fn candidates(&self, there: bool) -> Vec<u32> {
        let sure = |id: &u32| !self.doubtful.contains(id) && self.planned.contains(id) == there;
        let sure: Vec<u32> = (1..self.max).filter(sure).collect();
        match sure.is_empty() {
            true => self.doubtful.iter().copied().collect(),
            false => sure,
        }
    }

    /// Whether there is any vCPU that might be plugged, or unplugged.
    pub(super) fn can(&self, to: Target) -> bool {
        !self.candidates(to == Target::Offline).is_empty()
    }

    /// One of these, if there is any.
    fn of(&mut self, from: &[u32]) -> Option<u32> {
        let at = usize::try_from(self.below(from.len() as u64)).ok()?;
        from.get(at).copied()
    }

    /// A vCPU that is there and not the boot CPU, or else one that is not there.
    pub(super) fn present(&mut self) -> u32 {
        match self.of(&self.candidates(true)) {
            Some(id) => id,
            None => self.absent(),
        }
    }

    fn absent(&mut self) -> u32 {
        match self.of(&self.candidates(false)) {
            Some(id) => id,
            // A machine of one vCPU has none but 0.
            None => (1 + self.below_u32(self.max.saturating_sub(1))).min(self.max - 1),
        }
    }

    /// One is asked for.
    fn becomes(&mut self, id: u32, to: Target) {
        match to {
            Target::Online => {
                self.known.insert(id);
                self.planned.insert(id)
            }
            Target::Offline => self.planned.remove(&id),
        };
        match self.unsure {
            true => self.doubtful.insert(id),
            false => self.doubtful.remove(&id),
        };
    }

    /// These are asked for: exactly, or as it guesses which.
    fn become_these(&mut self, set: BTreeSet<u32>, exactly: bool) {
        if exactly && !self.unsure {
            self.doubtful.clear();
        } else if self.unsure || !self.doubtful.is_empty() {
            let changed = self.planned.symmetric_difference(&set);
            self.doubtful.extend(changed.copied());
        }
        self.known.extend(&set);
        self.planned = set;
    }

    /// Whether a request for one more might be for one too many.
    fn is_full(&self) -> bool {
        self.most < self.max && self.upper >= self.most
    }

    fn unplug_one(&mut self) -> Ask {
        // Now and then one that is gone already.
        let id = if self.one_in(12) {
            self.absent()
        } else {
            self.present()
        };
        if id == 0 {
            return self.idle();
        }
        self.becomes(id, Target::Offline);
        Ask::One(id, Target::Offline)
    }

    fn plug_one(&mut self) -> Ask {
        let id = if self.one_in(12) {
            self.present()
        } else {
            self.absent()
        };
        if self.is_full() {
            // By what is there exactly, so that there are not more than may be.
            let mut set: BTreeSet<u32> = [0, id].into();
            let others = self
                .planned
                .iter()
                .filter(|other| **other != id && **other != 0);
            let room = usize::try_from(self.most)
                .unwrap_or(usize::MAX)
                .saturating_sub(2);
            set.extend(others.take(room));
            if self.most < 2 {
                set.remove(&id);
            }
            return self.exactly(set);
        }
        self.becomes(id, Target::Online);
        self.upper += 1;
        Ask::One(id, Target::Online)
    }

    /// So many are asked for.
    fn there_are(&mut self, wanted: u32) {
        self.upper = match self.unsure {
            true => self.upper.max(wanted),
            false => wanted,
        };
    }

    fn exactly(&mut self, mut set: BTreeSet<u32>) -> Ask {
        set.insert(0);
        self.there_are(count(&set));
        self.become_these(set.clone(), true);
        Ask::Set(set)
    }

    /// Once, or a few times where there is something to do so often.
    fn times(&mut self, to: Target, mut choose: impl FnMut(&mut Self) -> Ask) -> Vec<Ask> {
        let room = self.candidates(to == Target::Offline).len() as u64;
        let times = if self.one_in(3) {
            2 + self.below(MANY - 1)
        } else {
            1
        };
        (0..times.min(room.max(1))).map(|_| choose(self)).collect()
    }

    pub(super) fn plugs(&mut self) -> Vec<Ask> {
        self.times(Target::Online, Self::plug_one)
    }

    pub(super) fn unplugs(&mut self) -> Vec<Ask> {
        self.times(Target::Offline, Self::unplug_one)
    }

    pub(super) fn resize(&mut self) -> Ask {
        let now = count(&self.planned);
        let mut wanted = 1 + self.below_u32(self.most);
        if wanted == now && self.most > 1 {
            wanted = 1 + wanted % self.most;
        }
        // Which ones is the VMM's choice; this is a guess.
        let mut guess = self.planned.clone();
        while count(&guess) > wanted
            && let Some(last) = guess.pop_last()
        {
            if last == 0 {
                guess.insert(0);
                break;
            }
        }
        let missing = wanted.saturating_sub(count(&guess));
        let mut free: Vec<_> = (1..self.max).filter(|id| !guess.contains(id)).collect();
        free.sort_by_key(|id| (!self.known.contains(id), *id));
        guess.extend(free.iter().take(usize::try_from(missing).unwrap_or(0)));
        self.become_these(guess, false);
        self.there_are(wanted);
        Ask::Count(wanted)
    }

    pub(super) fn set(&mut self) -> Ask {
        let others = self.below_u32(self.most);
        let mut set = BTreeSet::from([0]);
        for _ in 0..others {
            set.insert(self.below_u32(self.max));
        }
        if set == self.planned && self.doubtful.is_empty() {
            // Another one instead, or one fewer.
            let id = self.absent();
            if count(&set) > 1 {
                set.pop_last();
            }
            if count(&set) < self.most && !self.planned.contains(&id) {
                set.insert(id);
            }
        }
        self.exactly(set)
    }

    /// The machine starts again: KVM has what it starts with.
    pub(super) fn restart(&mut self) {
        self.known.clone_from(&self.planned);
    }

    /// Any one request.
    pub(super) fn any(&mut self) -> Ask {
        match self.below(6) {
            0 | 1 if self.can(Target::Online) => self.plug_one(),
            0..=3 if self.can(Target::Offline) => self.unplug_one(),
            0..=3 => self.plug_one(),
            4 => self.resize(),
            _ => self.set(),
        }
    }

    /// A request that takes something away, and is not met.
    pub(super) fn fewer(&mut self) -> Ask {
        match self.present() {
            0 => self.idle(),
            id if self.planned.contains(&id) || self.one_in(2) => Ask::One(id, Target::Offline),
            _ => Ask::Count(1),
        }
    }

    /// A request that does not count, or is not met.
    pub(super) fn idle(&mut self) -> Ask {
        Ask::Count(count(&self.planned).clamp(1, self.most))
    }

    /// A vCPU that the guest gives away.
    pub(super) fn eject(&mut self) -> u32 {
        let id = self.present();
        self.becomes(id, Target::Offline);
        id
    }

    /// Requests for as long as a guest boots; where that takes longer, they come again.
    pub(super) fn steady(&mut self) -> Vec<Ask> {
        (0..STEADY).map(|_| self.any()).collect()
    }

    /// Requests that are for and against the same vCPU, and some others.
    pub(super) fn contradictions(&mut self) -> Vec<Ask> {
        let id = if self.one_in(2) {
            self.present()
        } else {
            self.absent()
        };
        let mut to = if self.planned.contains(&id) {
            Target::Offline
        } else {
            Target::Online
        };
        let mut asks = Vec::new();
        for _ in 0..2 + self.below(MANY - 1) {
            if id == 0 || self.one_in(4) {
                asks.push(self.any());
                continue;
            }
            asks.push(match to {
                Target::Online if self.is_full() => self.resize(),
                _ => {
                    let more = to == Target::Online && !self.planned.contains(&id);
                    self.upper += u32::from(more);
                    self.becomes(id, to);
                    Ask::One(id, to)
                }
            });
            to = match to {
                Target::Online => Target::Offline,
                Target::Offline => Target::Online,
            };
        }
        asks
    }
}

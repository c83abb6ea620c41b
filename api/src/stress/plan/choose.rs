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

/// Chooses vCPUs and moments. What it takes to be plugged is what would be so if every request were met; where one is not,
/// a choice is now and then one that changes nothing.
#[derive(Debug)]
pub(super) struct Chooser {
    /// Its sequence is part of the crate's promise.
    rng: ChaCha8Rng,
    max: u32,
    most: u32,
    planned: BTreeSet<u32>,
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

    /// One of these, if there is any.
    fn of(&mut self, from: impl Iterator<Item = u32> + Clone) -> Option<u32> {
        let length = from.clone().count() as u64;
        let at = usize::try_from(self.below(length)).unwrap_or(0);
        from.clone().nth(at)
    }

    /// A vCPU that is there and not the boot CPU, or else one that is not there.
    pub(super) fn present(&mut self) -> u32 {
        let planned = self.planned.clone();
        match self.of(planned.iter().copied().filter(|id| *id != 0)) {
            Some(id) => id,
            None => self.absent(),
        }
    }

    fn absent(&mut self) -> u32 {
        let planned = self.planned.clone();
        let free = (1..self.max).filter(|id| !planned.contains(id));
        match self.of(free) {
            Some(id) => id,
            // A machine of one vCPU has none but 0.
            None => (1 + self.below_u32(self.max.saturating_sub(1))).min(self.max - 1),
        }
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
        self.planned.remove(&id);
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
        self.planned.insert(id);
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
        self.planned.clone_from(&set);
        Ask::Set(set)
    }

    fn times(&mut self, mut choose: impl FnMut(&mut Self) -> Ask) -> Vec<Ask> {
        let times = if self.one_in(3) {
            2 + self.below(MANY - 1)
        } else {
            1
        };
        (0..times).map(|_| choose(self)).collect()
    }

    pub(super) fn plugs(&mut self) -> Vec<Ask> {
        self.times(Self::plug_one)
    }

    pub(super) fn unplugs(&mut self) -> Vec<Ask> {
        self.times(Self::unplug_one)
    }

    pub(super) fn resize(&mut self) -> Ask {
        let now = count(&self.planned);
        let mut wanted = 1 + self.below_u32(self.most);
        if wanted == now && self.most > 1 {
            wanted = 1 + wanted % self.most;
        }
        // Which ones is the VMM's choice; this is a guess.
        while count(&self.planned) > wanted
            && let Some(last) = self.planned.pop_last()
        {
            if last == 0 {
                self.planned.insert(0);
                break;
            }
        }
        let free: Vec<_> = (1..self.max)
            .filter(|id| !self.planned.contains(id))
            .collect();
        let missing = wanted.saturating_sub(count(&self.planned));
        self.planned
            .extend(free.iter().take(usize::try_from(missing).unwrap_or(0)));
        self.there_are(wanted);
        Ask::Count(wanted)
    }

    pub(super) fn set(&mut self) -> Ask {
        let others = self.below_u32(self.most);
        let mut set = BTreeSet::from([0]);
        for _ in 0..others {
            set.insert(self.below_u32(self.max));
        }
        self.exactly(set)
    }

    /// Any one request.
    pub(super) fn any(&mut self) -> Ask {
        match self.below(6) {
            0 | 1 => self.plug_one(),
            2 | 3 => self.unplug_one(),
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
        self.planned.remove(&id);
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
                Target::Online => {
                    self.upper += u32::from(self.planned.insert(id));
                    Ask::One(id, to)
                }
                Target::Offline => {
                    self.planned.remove(&id);
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

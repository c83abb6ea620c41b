//! A limit on what a guest can make us log.

use std::sync::atomic::{AtomicU32, Ordering};

/// Lets the first `burst` messages through and then every power-of-two-th one, so that a guest which
/// scribbles on a register for ever costs a few dozen lines and their count still tells how often.
#[derive(Debug)]
pub struct RateLimit {
    seen: AtomicU32,
    /// The machine that it has counted for.
    of: AtomicU32,
    burst: u32,
}

/// Counts the machines that were asked for, from 1.
static MACHINES: AtomicU32 = AtomicU32::new(0);

/// Another machine is asked for, whose messages are no further ones of the one before. A guest's reset is not that: it
/// would make room for itself.
pub fn another_machine() {
    MACHINES.fetch_add(1, Ordering::Relaxed);
}

impl RateLimit {
    /// A limit that passes `burst` messages before it thins them out.
    #[must_use]
    pub const fn new(burst: u32) -> Self {
        Self {
            seen: AtomicU32::new(0),
            of: AtomicU32::new(0),
            burst,
        }
    }

    /// `Some(n)` where the n-th occurrence (from 1) is to be logged, `None` where it is not.
    pub fn pass(&self) -> Option<u32> {
        let now = MACHINES.load(Ordering::Relaxed);
        if self.of.swap(now, Ordering::Relaxed) != now {
            self.seen.store(0, Ordering::Relaxed);
        }
        // Wrapping after 2^32 occurrences merely lets one more burst through.
        let n = self.seen.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        (n <= self.burst || n.is_power_of_two()).then_some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::{RateLimit, another_machine};

    #[test]
    fn thins_out_after_the_burst() {
        let limit = RateLimit::new(3);
        let passed: Vec<u32> = (0..100).filter_map(|_| limit.pass()).collect();
        assert_eq!(passed, [1, 2, 3, 4, 8, 16, 32, 64]);
        another_machine();
        let passed: Vec<u32> = (0..6).filter_map(|_| limit.pass()).collect();
        assert_eq!(passed, [1, 2, 3, 4]);
    }
}

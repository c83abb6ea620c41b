//! How often something took how long.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the buckets hold at most: from what a step on the host takes to what a guest takes that is stuck.
pub const BOUNDS: [Duration; 21] = [
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// How many buckets there are: one for each bound, and one for what is longer than all.
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// Counts durations. Whoever counts never waits, and neither does who reads.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

/// What a histogram held when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durations {
    /// How many fell into each bucket, and not into one before.
    pub buckets: [u64; BUCKETS],
    /// How long all of them took together. One that was counted at the very moment may be in the one and not yet
    /// in the other.
    pub sum: Duration,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, time: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < time);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What it holds.
    #[must_use]
    pub fn read(&self) -> Durations {
        Durations {
            buckets: array::from_fn(|n| self.buckets[n].load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

impl Durations {
    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_the_bucket_of_the_first_bound_that_holds_it() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
        let histogram = Histogram::default();
        for bound in BOUNDS {
            histogram.observe(bound);
        }
        histogram.observe(Duration::ZERO);
        histogram.observe(Duration::from_nanos(10_001));
        histogram.observe(Duration::from_secs(61));
        let read = histogram.read();
        let mut wanted = [1; BUCKETS];
        wanted[0] = 2;
        wanted[1] = 2;
        assert_eq!((read.buckets, read.count()), (wanted, 24));
        let bounds: Duration = BOUNDS.iter().sum();
        assert_eq!(read.sum, bounds + Duration::from_nanos(61_000_010_001));
    }
}

//! What many samples come to.

/// Sorted samples.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    sorted: Vec<f64>,
}

impl Stats {
    /// Of at least one sample.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then_some(Self { sorted })
    }

    pub(super) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The least sample that so many hundredths of all do not exceed.
    pub(super) fn percentile(&self, hundredths: usize) -> f64 {
        let rank = (self.sorted.len() * hundredths).div_ceil(100);
        self.sorted[rank.clamp(1, self.sorted.len()) - 1]
    }

    pub(super) fn least(&self) -> f64 {
        self.percentile(0)
    }

    /// The mean of the middle half. Times that end with one tick or another lie in lumps, and a median leaps from one
    /// lump to the next when a single sample moves; this does not, and of four samples or more no outlier moves it either.
    pub(super) fn typical(&self) -> f64 {
        let cut = self.sorted.len() / 4;
        let middle = &self.sorted[cut..self.sorted.len() - cut];
        let sum: f64 = middle.iter().sum();
        sum / middle.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let stats = Stats::of(&values).unwrap();
        let found = [0, 50, 90, 99, 100].map(|hundredths| stats.percentile(hundredths));
        assert_eq!(found, [1.0, 50.0, 90.0, 99.0, 100.0]);
        assert!(Stats::of(&[]).is_none());
    }

    #[test]
    fn the_typical_value_is_of_the_middle_half() {
        let of = |values: &[f64]| Stats::of(values).unwrap().typical();
        assert_eq!(of(&[3.0]), 3.0);
        assert_eq!(of(&[1.0, 2.0, 4.0, 1000.0]), 3.0);
        // One sample of ten in the other lump moves it a little, and not by the distance of the lumps.
        let lumps = |upper: usize| {
            let values: Vec<f64> = (0..10)
                .map(|n| if n < upper { 20.0 } else { 16.0 })
                .collect();
            of(&values)
        };
        assert!(lumps(6) - lumps(5) < 1.0, "{} {}", lumps(5), lumps(6));
    }
}

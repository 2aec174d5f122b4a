//! Durations in buckets of at most 1/32 (3 %) width, so that a percentile costs no list of samples.

use std::time::Duration;

const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;

/// Counts of microseconds; values of 0-31 are exact, larger ones fall at most 3.2 % low.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_us: u64,
}

impl Histogram {
    /// Counts one duration. O(1); grows only when a larger bucket than ever is touched.
    pub fn record(&mut self, duration: Duration) {
        let us = duration.as_micros() as u64;
        let index = bucket(us);
        if index >= self.counts.len() {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
        self.total += 1;
        self.max_us = self.max_us.max(us);
    }

    /// The value below which `share` (0.0-1.0) of the samples lie, in microseconds; 0 when empty.
    pub fn quantile_us(&self, share: f64) -> u64 {
        let wanted = (share * self.total as f64).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                return lowest(index);
            }
        }
        0
    }

    /// The largest sample in microseconds, exact.
    pub fn max_us(&self) -> u64 {
        self.max_us
    }
}

/// Index of a value: the first 32 are exact, then 32 buckets per power of two.
fn bucket(us: u64) -> usize {
    if us < SUB {
        return us as usize;
    }
    let shift = us.ilog2() - SUB_BITS;
    (u64::from(shift + 1) * SUB + ((us >> shift) - SUB)) as usize
}

fn lowest(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    (SUB + index % SUB) << (index / SUB - 1)
}

#[cfg(test)]
mod tests {
    use super::{bucket, lowest, Histogram};
    use std::time::Duration;

    #[test]
    fn buckets_are_contiguous_and_within_a_thirty_second() {
        for us in (0..5000).chain([1 << 20, (1 << 20) + 12345, u64::from(u32::MAX)]) {
            let low = lowest(bucket(us));
            assert!(low <= us && (us - low) * 32 <= us, "{us} fell to {low}");
        }
        let indexes: Vec<usize> = (0..5000).map(bucket).collect();
        assert!(indexes.windows(2).all(|w| w[1] == w[0] || w[1] == w[0] + 1));
    }

    #[test]
    fn quantiles_of_a_known_series() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(0.5), 0);
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        let p50 = histogram.quantile_us(0.5);
        let p99 = histogram.quantile_us(0.99);
        assert!((484..=500).contains(&p50), "{p50}");
        assert!((960..=990).contains(&p99), "{p99}");
        assert_eq!(histogram.max_us(), 1000);
    }
}

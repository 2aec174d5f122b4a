//! Notices a path that eats our resets.
//!
//! There the server keeps the old connection, and it answers the SYN of a reused tuple (measured: connect() takes 10 ms
//! without, over 8 s with such a path). A SYN that is merely lost is not the sign: that is any path in a bad minute. One
//! reset lost by chance is not it either, so it takes a few.

/// Watched in windows of this length.
const WINDOW_MS: u64 = 10_000;
/// This many in one window, so that one lost reset on a quiet path means nothing ...
const LEAST: u32 = 3;
/// ... and at least one in this many: a path that loses 1 % of all packets has other worries.
const ONE_IN: u32 = 100;
/// The short rest returns after this long without the sign.
pub(super) const QUIET_MS: u64 = 300_000;

/// One worker's view of one destination.
#[derive(Default)]
pub(super) struct ResetWatch {
    window_ends_ms: u64,
    reused: u32,
    repeated: u32,
}

impl ResetWatch {
    /// Takes one connection on a reused tuple; true: resets are lost.
    pub fn note(&mut self, repeated: bool, now_ms: u64) -> bool {
        if now_ms >= self.window_ends_ms {
            self.window_ends_ms = now_ms + WINDOW_MS;
            (self.reused, self.repeated) = (0, 0);
        }
        self.reused += 1;
        self.repeated += u32::from(repeated);
        repeated && self.repeated >= LEAST && self.repeated >= self.reused / ONE_IN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_repeated_in_a_window_mean_lost_resets() {
        let mut watch = ResetWatch::default();
        assert_eq!([0, 5, 9].map(|t| watch.note(true, t)), [false, false, true]);
    }

    #[test]
    fn rare_loss_means_nothing() {
        let mut watch = ResetWatch::default();
        for round in 0..50 {
            for now in 0..10 {
                assert!(!watch.note(now < 2, round * WINDOW_MS + now));
            }
        }
        let mut busy = ResetWatch::default();
        for now in 0..5_000 {
            assert!(!busy.note(now % 200 == 199, now));
        }
    }
}

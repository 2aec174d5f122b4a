//! How many failed logins an address may have: a bucket per address, refilled by time.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::relay::Ms;

/// Failures at once: a person who mistypes, a deployment with an old password on a few processes.
const FREE: u32 = 20;
/// One more is forgiven each second: 86,400 guesses a day.
const FORGIVEN_MS: Ms = 1_000;
/// Addresses remembered; with more, those that are forgiven soonest go first.
const ADDRESSES: usize = 10_000;

/// Failed logins by address.
#[derive(Debug, Default)]
pub struct FailedLogins {
    /// When all failures of an address are forgiven.
    forgiven_at: HashMap<IpAddr, Ms>,
}

impl FailedLogins {
    /// Whether logins from this address are refused unseen now.
    pub fn is_limited(&self, address: IpAddr, now: Ms) -> bool {
        self.forgiven_at
            .get(&address)
            .is_some_and(|at| *at > now + Ms::from(FREE - 1) * FORGIVEN_MS)
    }

    /// Notes a failure. O(1), but for a sweep when 10,000 addresses are known.
    pub fn failed(&mut self, address: IpAddr, now: Ms) {
        // Refused unseen, it was no guess; counting it would keep a busy client out for ever.
        if self.is_limited(address, now) {
            return;
        }
        if self.forgiven_at.len() >= ADDRESSES {
            self.forgiven_at.retain(|_, at| *at > now);
            let soonest = self.forgiven_at.iter().min_by_key(|(_, at)| **at);
            if let (true, Some((&address, _))) = (self.forgiven_at.len() >= ADDRESSES, soonest) {
                self.forgiven_at.remove(&address);
            }
        }
        let at = self.forgiven_at.entry(address).or_insert(now);
        *at = (*at).max(now) + FORGIVEN_MS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_failures_are_free_and_one_more_each_second() {
        let (mut guard, a) = (FailedLogins::default(), IpAddr::from([10, 0, 0, 1]));
        for _ in 0..FREE {
            assert!(!guard.is_limited(a, 1_000));
            guard.failed(a, 1_000);
        }
        assert!(guard.is_limited(a, 1_000));
        assert!(!guard.is_limited(IpAddr::from([10, 0, 0, 2]), 1_000));
        assert!(!guard.is_limited(a, 2_000));
        guard.failed(a, 2_000);
        assert!(guard.is_limited(a, 2_000));
        assert!(!guard.is_limited(a, 60_000));
    }

    #[test]
    fn memory_is_bounded() {
        let mut guard = FailedLogins::default();
        for n in 0..ADDRESSES as u32 + 100 {
            guard.failed(IpAddr::from(n.to_be_bytes()), 5);
        }
        assert_eq!(guard.forgiven_at.len(), ADDRESSES);
    }
}

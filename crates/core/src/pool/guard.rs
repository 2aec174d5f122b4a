//! How many failed logins an address may have: a bucket per name, and one for all names together.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::relay::Ms;

/// Failures with one name at once: a person who mistypes, a deployment with an old password on a few processes.
const FREE: u32 = 20;
/// One more is forgiven each second: 86,400 guesses a day. Whoever shares a host with one that goes on trying an old
/// password must still get in, so the bucket is the name's.
const FORGIVEN_MS: Ms = 1_000;
/// Failures with all names together; a name that is refused unseen adds nothing.
const FREE_OF_ALL: u32 = 400;
/// Of these ten are forgiven each second.
const FORGIVEN_OF_ALL_MS: Ms = 100;
/// Buckets remembered; with more, those that are forgiven soonest go first.
const BUCKETS: usize = 10_000;

/// Of a name (its hash), or of an address as a whole.
type Key = (IpAddr, Option<u64>);

/// Failed logins by address and name.
#[derive(Debug, Default)]
pub struct FailedLogins {
    /// When all failures of a bucket are forgiven.
    forgiven_at: HashMap<Key, Ms>,
}

impl FailedLogins {
    /// Whether logins with this name from this address are refused unseen now.
    pub fn is_limited(&self, address: IpAddr, name: &[u8], now: Ms) -> bool {
        self.is_full((address, Some(hash(name))), FREE, FORGIVEN_MS, now)
            || self.is_full((address, None), FREE_OF_ALL, FORGIVEN_OF_ALL_MS, now)
    }

    fn is_full(&self, key: Key, free: u32, each: Ms, now: Ms) -> bool {
        let at = self.forgiven_at.get(&key);
        at.is_some_and(|at| *at > now + Ms::from(free - 1) * each)
    }

    /// Notes a failure. O(1), but for a sweep when 10,000 buckets are known.
    pub fn failed(&mut self, address: IpAddr, name: &[u8], now: Ms) {
        // Refused unseen, it was no guess; counting it would keep a busy client out for ever.
        if self.is_limited(address, name, now) {
            return;
        }
        self.add((address, Some(hash(name))), FORGIVEN_MS, now);
        self.add((address, None), FORGIVEN_OF_ALL_MS, now);
    }

    fn add(&mut self, key: Key, each: Ms, now: Ms) {
        if self.forgiven_at.len() >= BUCKETS && !self.forgiven_at.contains_key(&key) {
            self.forgiven_at.retain(|_, at| *at > now);
            let soonest = self.forgiven_at.iter().min_by_key(|(_, at)| **at);
            if let (true, Some((&key, _))) = (self.forgiven_at.len() >= BUCKETS, soonest) {
                self.forgiven_at.remove(&key);
            }
        }
        let at = self.forgiven_at.entry(key).or_insert(now);
        *at = (*at).max(now) + each;
    }
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_failures_are_free_and_one_more_each_second() {
        let (mut guard, a) = (FailedLogins::default(), IpAddr::from([10, 0, 0, 1]));
        for _ in 0..FREE {
            assert!(!guard.is_limited(a, b"app", 1_000));
            guard.failed(a, b"app", 1_000);
        }
        assert!(guard.is_limited(a, b"app", 1_000));
        assert!(!guard.is_limited(IpAddr::from([10, 0, 0, 2]), b"app", 1_000));
        assert!(!guard.is_limited(a, b"app", 2_000));
        guard.failed(a, b"app", 2_000);
        assert!(guard.is_limited(a, b"app", 2_000));
        assert!(!guard.is_limited(a, b"app", 60_000));
    }

    #[test]
    fn an_old_password_of_one_account_keeps_no_other_out() {
        let (mut guard, a) = (FailedLogins::default(), IpAddr::from([10, 0, 0, 1]));
        for _ in 0..100_000 {
            guard.failed(a, b"cron", 1_000);
        }
        assert!(guard.is_limited(a, b"cron", 1_000) && !guard.is_limited(a, b"shop", 1_000));
    }

    #[test]
    fn whoever_tries_name_after_name_is_kept_out_too() {
        let (mut guard, a) = (FailedLogins::default(), IpAddr::from([10, 0, 0, 1]));
        for n in 0..FREE_OF_ALL {
            assert!(!guard.is_limited(a, b"shop", 1_000));
            guard.failed(a, &n.to_le_bytes(), 1_000);
        }
        assert!(guard.is_limited(a, b"shop", 1_000) && !guard.is_limited(a, b"shop", 1_100));
    }

    #[test]
    fn memory_is_bounded() {
        let mut guard = FailedLogins::default();
        for n in 0..BUCKETS as u32 + 100 {
            guard.failed(IpAddr::from(n.to_be_bytes()), b"app", 5);
        }
        assert_eq!(guard.forgiven_at.len(), BUCKETS);
    }
}

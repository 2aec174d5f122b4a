//! Counts per source, for `portside show ports`.

use super::lists::{Counts, Lists};
use super::sources::lock;
use super::Ledger;
use std::net::IpAddr;
use std::sync::MutexGuard;

/// One row of `portside show ports`: every tuple of a source at a destination, counted once.
///
/// `in_use + resting + blocked + time_wait + free + reserved == size`. A tuple that is due counts where it
/// lies until somebody leases it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceStats {
    /// Our address.
    pub source: IpAddr,
    /// Tuples in the range, without excluded ports.
    pub size: u32,
    /// Leased.
    pub in_use: u32,
    /// Closed well, in their pause; without those of the reserve.
    pub resting: u32,
    /// Another program has the port, or the address is suspended or barred.
    pub blocked: u32,
    /// Our FIN was first, 60 s.
    pub time_wait: u32,
    /// Never used, or back from a suspended address.
    pub free: u32,
    /// Kept for checks: what of the reserve is free or rests.
    pub reserved: u32,
    /// Tries that the kernel refused, since the start.
    pub wasted_probes: u64,
}

impl Ledger {
    /// One row per source, in the order of the configuration; an exact picture of one moment. Takes every
    /// worker's lock for the time of copying a few counters.
    pub fn stats(&self) -> Vec<SourceStats> {
        let lists: Vec<MutexGuard<'_, Lists>> =
            self.shards.iter().map(|s| lock(&s.lists)).collect();
        let depot = lock(&self.depot);
        let Some((checks, _)) = lists.split_last() else {
            return Vec::new();
        };
        let rows = checks
            .space
            .sources
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let mut sum = Counts::default();
                for counts in lists.iter().map(|l| l.counts[index]) {
                    sum.free += counts.free;
                    sum.resting += counts.resting;
                    sum.time_wait += counts.time_wait;
                    sum.blocked += counts.blocked;
                    sum.wasted += counts.wasted;
                }
                let idle =
                    sum.free + depot.fresh[index] + sum.resting + sum.time_wait + sum.blocked;
                let kept = checks.counts[index];
                let reserved = kept.free + kept.resting;
                SourceStats {
                    source: entry.source.address,
                    size: entry.size,
                    in_use: entry.size - idle,
                    resting: sum.resting - kept.resting,
                    blocked: sum.blocked,
                    time_wait: sum.time_wait,
                    free: sum.free + depot.fresh[index] - kept.free,
                    reserved,
                    wasted_probes: sum.wasted,
                }
            });
        rows.collect()
    }

    /// Bytes of the nodes made so far.
    pub fn bytes(&self) -> u64 {
        lock(&self.checks().lists).space.bytes()
    }
}

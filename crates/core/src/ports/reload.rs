//! What happens to a ledger from outside: a reload, a seed after a restart, a dead worker, an address that
//! the server refuses. None of it is on the hot path; all of it may run beside leases.

use super::depot::{link_reserve, Depot};
use super::lists::{tick, Lists, Taken};
use super::sources::lock;
use super::space::{Space, Spec, SpecError};
use super::{Kind, Ledger, Port, TIME_WAIT_MS};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

/// A tuple on its way from the old ranges to the new ones.
struct Move {
    shard: usize,
    taken: Taken,
}

impl Ledger {
    /// Takes new addresses or ports; what is known of tuples that stay is kept, leases stay valid.
    ///
    /// Stops every lease of this destination for the time of walking the tuples used so far (about 30 ns
    /// each). Errors: the old ranges stay.
    pub fn set_ranges(&self, spec: &Spec) -> Result<(), SpecError> {
        let mut lists: Vec<MutexGuard<'_, Lists>> =
            self.shards.iter().map(|s| lock(&s.lists)).collect();
        let mut depot = lock(&self.depot);
        let old = Arc::clone(&lists[0].space);
        if old.spec == *spec {
            return Ok(());
        }
        let new = Arc::new(Space::new(spec, self.registry(), old.generation + 1)?);
        keep_barred(&old, &new);
        let checks = lists.len() - 1;
        let moves = moves(&mut lists, &old, &new);
        let strays = move_leased(&old, &new, std::mem::take(&mut depot.strays));
        for from in &mut lists {
            let wasted = from
                .counts
                .iter()
                .zip(&old.sources)
                .map(|(c, s)| (s.source.address, c.wasted));
            let wasted: Vec<_> = wasted.collect();
            **from = Lists::new(&new);
            for (address, count) in wasted {
                let kept = new.sources.iter().position(|s| s.source.address == address);
                if let Some(index) = kept {
                    from.counts[index].wasted = count;
                }
            }
        }
        for Move { shard, taken } in moves {
            let (source, _) = new.tuple(taken.position);
            match taken.kind {
                Kind::Blocked => lists[shard].file_blocked(source, taken.position, taken.since),
                kind => lists[shard].file(kind, source, taken.position, taken.since),
            }
        }
        link_reserve(&mut lists[checks]);
        *depot = Depot::new(&new, self.rotation, strays);
        self.depot_left.store(depot.left, Ordering::Relaxed);
        for (shard, lists) in lists.iter().enumerate() {
            self.publish(shard, lists);
        }
        Ok(())
    }

    /// Puts tuples that the kernel holds in `TIME_WAIT` (one `sock_diag` dump after a restart) where they
    /// belong: (address, port, what is left of the 60 s). Tuples already used here are left alone. Returns how
    /// many were taken.
    pub fn seed(&self, time_wait: &[(IpAddr, Port, u64)], now_ms: u64) -> usize {
        let mut lists: Vec<MutexGuard<'_, Lists>> =
            self.shards.iter().map(|s| lock(&s.lists)).collect();
        let mut depot = lock(&self.depot);
        let space = Arc::clone(&lists[0].space);
        let mut sorted: Vec<_> = time_wait.iter().collect();
        sorted.sort_by_key(|(_, _, left_ms)| *left_ms);
        let mut count = 0;
        for &&(address, port, left_ms) in &sorted {
            let Some(position) = space.find(address, port) else {
                continue;
            };
            // The reserve is linked, so not fresh: a check finds out by trying.
            if !space.is_fresh(position) {
                continue;
            }
            let begun_ms_ago = TIME_WAIT_MS.saturating_sub(left_ms);
            let since = tick(now_ms)
                .saturating_sub((begun_ms_ago >> 6) as u32)
                .max(1);
            let (source, _) = space.tuple(position);
            depot.fresh[source] -= 1;
            // Spread, so that no worker has to fetch them from another one.
            let shard = count % (lists.len() - 1);
            lists[shard].file(Kind::TimeWait, source, position, since);
            count += 1;
        }
        for (shard, lists) in lists.iter().enumerate() {
            self.publish(shard, lists);
        }
        count
    }

    /// Takes back what a dead worker had leased, as `TIME_WAIT`: nobody knows how its sockets ended. Call it
    /// when none of its sessions lives any more. Returns how many. O(tuples used).
    pub fn reclaim(&self, worker: usize, now_ms: u64) -> usize {
        let mut lists: Vec<MutexGuard<'_, Lists>> =
            self.shards.iter().map(|s| lock(&s.lists)).collect();
        let space = Arc::clone(&lists[worker].space);
        let mut count = 0;
        for position in space
            .touched()
            .filter(|&p| space.leased_from(p) == Some(worker))
        {
            let (source, _) = space.tuple(position);
            let home = if space.is_reserved(position) {
                lists.len() - 1
            } else {
                worker
            };
            lists[home].file(Kind::TimeWait, source, position, tick(now_ms));
            count += 1;
        }
        for (shard, lists) in lists.iter().enumerate() {
            self.publish(shard, lists);
        }
        count
    }

    /// The server refuses this address (ERR 1129, 1130): no worker leases it at this destination until
    /// `barred` is false again; checks go on with their reserve. True when that is news.
    pub fn set_barred(&self, address: IpAddr, barred: bool) -> bool {
        let space = Arc::clone(&lock(&self.checks().lists).space);
        let Some(entry) = space.sources.iter().find(|s| s.source.address == address) else {
            return false;
        };
        let news = entry.barred.swap(barred, Ordering::Relaxed) != barred;
        if news && !barred {
            self.registry().note_return();
        }
        news
    }
}

type Strays = std::collections::HashSet<(IpAddr, Port)>;

fn keep_barred(old: &Space, new: &Space) {
    for entry in &old.sources {
        let address = entry.source.address;
        if let Some(kept) = new.sources.iter().find(|s| s.source.address == address) {
            kept.barred
                .store(entry.barred.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Empties the lists: where the tuples that stay go, those used longest ago first. The last list is the checks'.
fn moves(lists: &mut [MutexGuard<'_, Lists>], old: &Space, new: &Space) -> Vec<Move> {
    let checks = lists.len() - 1;
    let mut moves = Vec::new();
    for (shard, from) in lists.iter_mut().enumerate() {
        for taken in from.drain() {
            // A reserve that nobody has used begins anew with the new ranges.
            let unused = taken.kind == Kind::Free && taken.since == 0;
            if let (Some(position), false) = (translate(old, new, taken.position), unused) {
                let home = match new.is_reserved(position) {
                    true => checks,
                    false if shard == checks => 0,
                    false => shard,
                };
                moves.push(Move {
                    shard: home,
                    taken: Taken { position, ..taken },
                });
            }
        }
    }
    // Tuples of two lists may meet in one: back into order.
    moves.sort_by_key(|m| m.taken.since);
    moves
}

fn translate(old: &Space, new: &Space, position: u32) -> Option<u32> {
    let (source, port) = old.tuple(position);
    new.find(old.sources[source].source.address, port)
}

/// Marks tuples in use in the new space; returns those outside it.
fn move_leased(old: &Space, new: &Space, mut strays: Strays) -> Strays {
    for position in old.touched() {
        if let Some(shard) = old.leased_from(position) {
            let (source, port) = old.tuple(position);
            let source = old.sources[source].source.address;
            match new.find(source, port) {
                Some(position) => new.mark_leased(position, shard),
                None => {
                    strays.insert((source, port));
                }
            }
        }
    }
    // A range that comes back finds its old leases still out.
    strays.retain(|&(source, port)| match new.find(source, port) {
        Some(position) => {
            new.mark_leased(position, 0);
            false
        }
        None => true,
    });
    strays
}

//! Lease and give back, the depot, and what moves between workers.
//!
//! Locks: each worker's lists have one, which only that worker takes until another one is starved; so on the hot path
//! it is never contended. Order: lists by number, then the depot.

use super::depot::{link_reserve, Depot};
use super::lists::{pause, tick, tick_ms, Lists, Taken, NEVER};
use super::resets::QUIET_MS;
use super::sources::{lock, Sources};
use super::space::{Space, Spec, SpecError};
use super::{Attempt, Closed, Kind, Lease, Who, CANARIES, MAX_TRIES, REST_MS, TIME_WAIT_MS};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The lease is of another ledger, or its tuple is not in use; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is not of this ledger")]
pub struct ForeignLease;

/// What others may know of a worker's lists without their lock; a stale value costs one look.
#[derive(Default)]
struct Hints {
    next_due: AtomicU32,
    rested: AtomicU32,
    resting: AtomicU32,
    /// `Lists::returns_seen` while something is parked, else [`NEVER`].
    parked_since: AtomicU32,
}

/// Own cache lines: two workers never share one on the hot path.
#[repr(align(128))]
pub(super) struct Shard {
    pub lists: Mutex<Lists>,
    hints: Hints,
}

/// The tuples towards one destination, for the whole process.
pub struct Ledger {
    id: u64,
    registry: Arc<Sources>,
    /// One per worker, the last for checks.
    pub(super) shards: Box<[Shard]>,
    pub(super) depot: Mutex<Depot>,
    /// `Depot::left`, to be read without its lock.
    pub(super) depot_left: AtomicU32,
    /// Resets are lost on this path until then.
    resets_lost_until_ms: AtomicU64,
    /// Tuples yet to be reused at once, see [`CANARIES`].
    pub(super) canaries: AtomicU32,
    pub(super) rotation: u64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Ledger {
    /// A ledger with every tuple never used. No node is made before its tuple is leased.
    ///
    /// `rotation` is where in the range it begins; a hash of the destination spreads several destinations over
    /// the ports (the kernel's bind takes 12 ns per owner of the same port).
    pub fn new(
        spec: &Spec,
        workers: usize,
        registry: &Arc<Sources>,
        rotation: u64,
    ) -> Result<Self, SpecError> {
        let space = Arc::new(Space::new(spec, registry, 0)?);
        let shards = (0..=workers).map(|_| Shard {
            lists: Mutex::new(Lists::new(&space)),
            hints: Hints::default(),
        });
        let depot = Depot::new(&space, rotation, HashSet::new());
        let ledger = Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            registry: Arc::clone(registry),
            shards: shards.collect(),
            depot_left: AtomicU32::new(depot.left),
            depot: Mutex::new(depot),
            resets_lost_until_ms: AtomicU64::new(0),
            canaries: AtomicU32::new(CANARIES),
            rotation,
        };
        link_reserve(&mut lock(&ledger.checks().lists));
        for (number, shard) in ledger.shards.iter().enumerate() {
            ledger.publish(number, &lock(&shard.lists));
        }
        Ok(ledger)
    }

    /// The next tuple to try, `None` when this attempt has to wait. No allocation; one uncontended lock.
    pub fn lease(&self, who: Who, attempt: &mut Attempt, now_ms: u64) -> Option<Lease> {
        if attempt.tries >= MAX_TRIES {
            return None;
        }
        let found = match who {
            Who::Worker(worker) => self.lease_from(worker, attempt, now_ms),
            Who::Checks => self
                .lease_reserved(now_ms)
                .or_else(|| self.lease_from(0, attempt, now_ms)),
        };
        attempt.tries += u8::from(found.is_some());
        found
    }

    fn lease_from(&self, own: usize, attempt: &mut Attempt, now_ms: u64) -> Option<Lease> {
        let (now, rest, lost) = (tick(now_ms), self.rest(now_ms), self.resets_lost(now_ms));
        let mut lists = lock(&self.shards[own].lists);
        self.look_for_returned(&mut lists);
        // Each round takes a tuple out or brings some in; a second one is needed when it turns out blocked.
        loop {
            let mut taken = if lost {
                lists.pop(Kind::Free)
            } else {
                lists.pop_due(now, rest)
            };
            if taken.is_none() && self.borrow_chunk(&mut lists) {
                continue;
            }
            if lost && taken.is_none() {
                taken = lists.pop_due(now, rest);
            }
            if taken.is_none() {
                if self.is_due_elsewhere(own, now) {
                    self.publish(own, &lists);
                    drop(lists);
                    if !self.borrow_due(own, now_ms) {
                        break;
                    }
                    lists = lock(&self.shards[own].lists);
                    continue;
                }
                taken = lists.pop(Kind::Rested);
            }
            let Some(taken) = taken else {
                self.publish(own, &lists);
                drop(lists);
                break;
            };
            if let Some(lease) = self.check_out(own, taken, &mut lists, now_ms) {
                self.publish(own, &lists);
                return Some(lease);
            }
        }
        self.early(own, Kind::Rested, now_ms)
            .or_else(|| self.probe(own, attempt, now_ms))
    }

    /// One per attempt.
    fn probe(&self, own: usize, attempt: &mut Attempt, now_ms: u64) -> Option<Lease> {
        if attempt.probed {
            return None;
        }
        let lease = self.early(own, Kind::Resting, now_ms)?;
        attempt.probed = true;
        Some(lease)
    }

    /// Checks are few: of the reserve, one that is due, else any that rests.
    fn lease_reserved(&self, now_ms: u64) -> Option<Lease> {
        let shard = self.shards.len() - 1;
        let mut lists = lock(&self.checks().lists);
        self.look_for_returned(&mut lists);
        loop {
            let taken = lists
                .pop_due(tick(now_ms), self.rest(now_ms))
                .or_else(|| lists.pop(Kind::Rested))
                .or_else(|| lists.pop(Kind::Resting))?;
            if let Some(lease) = self.check_out(shard, taken, &mut lists, now_ms) {
                return Some(lease);
            }
        }
    }

    fn look_for_returned(&self, lists: &mut Lists) {
        let returns = self.registry.returns();
        if lists.returns_seen != returns {
            lists.unpark(returns);
        }
    }

    /// Nothing is due in the whole process: the head of the own list, else of somebody else's.
    fn early(&self, own: usize, kind: Kind, now_ms: u64) -> Option<Lease> {
        for shard in self.beginning_with(own) {
            let hint = match kind {
                Kind::Rested => &self.shards[shard].hints.rested,
                _ => &self.shards[shard].hints.resting,
            };
            if hint.load(Ordering::Relaxed) > 0 {
                let mut lists = lock(&self.shards[shard].lists);
                let mut found = None;
                while let Some(taken) = lists.pop(kind) {
                    found = self.check_out(own, taken, &mut lists, now_ms);
                    if found.is_some() {
                        break;
                    }
                }
                self.publish(shard, &lists);
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// Makes a lease of a tuple just popped, or puts it aside.
    // 64 bytes are made here; built in place lease + give back takes 45 ns, handed through a call 55.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn check_out(&self, own: usize, taken: Taken, lists: &mut Lists, now_ms: u64) -> Option<Lease> {
        let Taken {
            position,
            since,
            kind,
        } = taken;
        let (index, port) = lists.space.tuple(position);
        lists.uncount(kind, index);
        let entry = &lists.space.sources[index];
        let address = entry.source.address;
        // A check may come from an address that the server refuses: that is how its return is noticed.
        let is_barred = entry.barred.load(Ordering::Relaxed) && own + 1 != self.shards.len();
        if is_barred || entry.source.is_suspended() {
            lists.file(Kind::Blocked, index, position, since);
            return None;
        }
        let mut was_blocked = false;
        if entry.source.is_noted(port) {
            let due = entry.source.blocked_until_ms(port).map(blocked_due);
            match due {
                Some(due) if due > tick(now_ms) => {
                    lists.file_blocked(index, position, due);
                    return None;
                }
                known => was_blocked = known.is_some(),
            }
        }
        lists.space.mark_leased(position, own);
        Some(Lease {
            ledger: self.id,
            generation: lists.space.generation,
            position,
            since,
            source: address,
            source_index: index as u16,
            port,
            from: kind,
            was_blocked,
            old_connection_answered: false,
        })
    }

    /// Whether another worker's hints tell of a due tuple, or of one put aside whose address may be back.
    fn is_due_elsewhere(&self, own: usize, now: u32) -> bool {
        let shards = self.workers().iter().enumerate();
        shards
            .filter(|(worker, _)| *worker != own)
            .any(|(_, shard)| self.may_have_due(shard, now))
    }

    fn may_have_due(&self, shard: &Shard, now: u32) -> bool {
        let parked_since = shard.hints.parked_since.load(Ordering::Relaxed);
        shard.hints.next_due.load(Ordering::Relaxed) <= now
            || parked_since != NEVER && parked_since != self.registry.returns()
    }

    /// Up to a chunk of due tuples from another worker. True: look again.
    fn borrow_due(&self, own: usize, now_ms: u64) -> bool {
        let (now, rest, returns) = (tick(now_ms), self.rest(now_ms), self.registry.returns());
        for victim in self.beginning_with(own).skip(1) {
            if !self.may_have_due(&self.shards[victim], now) {
                continue;
            }
            let (first, second) = (own.min(victim), own.max(victim));
            let mut low = lock(&self.shards[first].lists);
            let mut high = lock(&self.shards[second].lists);
            let (mine, theirs) = if own < victim {
                (&mut *low, &mut *high)
            } else {
                (&mut *high, &mut *low)
            };
            if theirs.returns_seen != returns {
                theirs.unpark(returns);
            }
            let found = mine.next_due(rest) <= now || theirs.give_due(mine, now, rest) > 0;
            self.publish(first, &low);
            self.publish(second, &high);
            if found {
                return true;
            }
        }
        false
    }

    /// Takes a tuple back. No allocation (blocked ports aside); one uncontended lock.
    ///
    /// A tuple that a reload took out of the range meanwhile is forgotten. Errors: [`ForeignLease`].
    // By value: who has given a lease back must not have it any more.
    #[allow(clippy::needless_pass_by_value)]
    pub fn give_back(
        &self,
        lease: Lease,
        who: Who,
        how: Closed,
        now_ms: u64,
    ) -> Result<(), ForeignLease> {
        if lease.ledger != self.id {
            return Err(ForeignLease);
        }
        let checks = self.shards.len() - 1;
        let mut shard = match who {
            Who::Worker(worker) => worker,
            Who::Checks => checks,
        };
        let (mut lists, position) = loop {
            let lists = lock(&self.shards[shard].lists);
            let known = lists.space.generation == lease.generation;
            let position = if known {
                Some(lease.position)
            } else {
                lists.space.find(lease.source, lease.port)
            };
            let Some(position) = position else {
                let stray = lock(&self.depot).strays.remove(&(lease.source, lease.port));
                return if stray { Ok(()) } else { Err(ForeignLease) };
            };
            let home = match lists.space.is_reserved(position) {
                true => checks,
                false if shard == checks => 0,
                false => shard,
            };
            if home == shard {
                break (lists, position);
            }
            shard = home;
        };
        if lists.space.leased_from(position).is_none() {
            return Err(ForeignLease);
        }
        let found_lost = self.take_back(&mut lists, position, &lease, how, now_ms);
        self.publish(shard, &lists);
        drop(lists);
        if found_lost {
            self.lose_resets(now_ms);
        }
        Ok(())
    }

    /// True: this one shows that the path loses resets.
    #[inline]
    fn take_back(
        &self,
        lists: &mut Lists,
        position: u32,
        lease: &Lease,
        how: Closed,
        now_ms: u64,
    ) -> bool {
        let since = tick(now_ms);
        let (index, port) = if lists.space.generation == lease.generation {
            (usize::from(lease.source_index), lease.port)
        } else {
            lists.space.tuple(position)
        };
        let found_lost = note_close(lists, index, lease, how, now_ms);
        let is_reserved = lists.space.is_reserved(position);
        let bound = !matches!(how, Closed::PortInUse | Closed::SourceGone | Closed::Unused);
        if lease.was_blocked && bound {
            lists.space.sources[index].source.unblock(port);
        }
        match how {
            Closed::ServerFirst | Closed::Reset if found_lost || self.resets_lost(now_ms) => {
                lists.file(Kind::TimeWait, index, position, since);
            }
            Closed::ServerFirst if !is_reserved && self.is_canary() => {
                lists.file_first(index, position, since);
            }
            Closed::ServerFirst | Closed::ServerFirstFin => {
                lists.file(Kind::Rested, index, position, since);
            }
            Closed::Reset
            | Closed::NotConnected
            | Closed::WeFirst {
                peer_timestamps: true,
            } => {
                lists.file(Kind::Resting, index, position, since);
            }
            Closed::WeFirst {
                peer_timestamps: false,
            }
            | Closed::TupleInUse
            | Closed::OpenAtServer => {
                lists.file(Kind::TimeWait, index, position, since);
            }
            Closed::PortInUse => {
                let until_ms = lists.space.sources[index].source.block(port, now_ms);
                lists.file_blocked(index, position, blocked_due(until_ms));
            }
            Closed::SourceGone => {
                self.registry.suspend(lease.source);
                lists.file(Kind::Blocked, index, position, since);
            }
            Closed::Unused => {
                lists.unpop(
                    Taken {
                        position,
                        since: lease.since,
                        kind: lease.from,
                    },
                    index,
                );
            }
        }
        found_lost
    }

    /// Whether this close is one to be tried out at once.
    fn is_canary(&self) -> bool {
        // One load on the hot path, once they are used up.
        self.canaries.load(Ordering::Relaxed) > 0
            && self
                .canaries
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
    }

    /// From now on, and for tuples reset in the last minute: the server still has them open.
    fn lose_resets(&self, now_ms: u64) {
        let until_ms = now_ms + QUIET_MS;
        let before_ms = self.resets_lost_until_ms.swap(until_ms, Ordering::Relaxed);
        if now_ms < before_ms {
            return;
        }
        self.canaries.store(CANARIES, Ordering::Relaxed);
        for (number, shard) in self.shards.iter().enumerate() {
            let mut lists = lock(&shard.lists);
            lists.rested_were_reset();
            self.publish(number, &lists);
        }
    }

    /// When it makes sense to ask again after `None`, milliseconds; `None` when everything is in use. A time that has
    /// passed: the attempt had spent its tries. A tuple given back, or an address that returns, may come earlier.
    /// Reads one word per worker.
    pub fn next_due_ms(&self) -> Option<u64> {
        if self.depot_left.load(Ordering::Relaxed) > 0 {
            return Some(0);
        }
        let due = self
            .workers()
            .iter()
            .map(|s| s.hints.next_due.load(Ordering::Relaxed))
            .min();
        due.filter(|&due| due != NEVER).map(tick_ms)
    }

    /// Whether the path loses resets: the rest is 60 s, never-used tuples go first, and a tuple that was reset is not
    /// used before; so close with FIN ([`Closed::ServerFirstFin`]). Ends by itself after five minutes without a sign.
    pub fn resets_lost(&self, now_ms: u64) -> bool {
        now_ms < self.resets_lost_until_ms.load(Ordering::Relaxed)
    }

    pub(super) fn registry(&self) -> &Arc<Sources> {
        &self.registry
    }

    pub(super) fn checks(&self) -> &Shard {
        &self.shards[self.shards.len() - 1]
    }

    fn workers(&self) -> &[Shard] {
        &self.shards[..self.shards.len() - 1]
    }

    /// Every worker once, this one first.
    fn beginning_with(&self, own: usize) -> impl Iterator<Item = usize> {
        let workers = self.shards.len() - 1;
        (own..workers).chain(0..own)
    }

    fn rest(&self, now_ms: u64) -> u32 {
        pause(if self.resets_lost(now_ms) {
            TIME_WAIT_MS
        } else {
            REST_MS
        })
    }

    /// With the short rest even while the long one holds: a hint may send somebody to look in vain, but
    /// must never hide a tuple.
    pub(super) fn publish(&self, shard: usize, lists: &Lists) {
        let hints = &self.shards[shard].hints;
        // A store that changes nothing would only lengthen the wait of the unlock behind it.
        let set = |hint: &AtomicU32, value: u32| {
            if hint.load(Ordering::Relaxed) != value {
                hint.store(value, Ordering::Relaxed);
            }
        };
        set(&hints.next_due, lists.next_due(pause(REST_MS)));
        set(&hints.rested, u32::from(lists.rested.len > 0));
        set(&hints.resting, u32::from(lists.resting.len > 0));
        let parked_since = if lists.parked.len > 0 {
            lists.returns_seen
        } else {
            NEVER
        };
        set(&hints.parked_since, parked_since);
    }
}

/// Rounded up: a pause never ends early.
fn blocked_due(until_ms: u64) -> u32 {
    tick(until_ms) + 1
}

/// Counts a tuple that was refused, or watches one used again. True: it shows that the path loses resets.
fn note_close(lists: &mut Lists, index: usize, lease: &Lease, how: Closed, now_ms: u64) -> bool {
    let refused = matches!(
        how,
        Closed::PortInUse | Closed::TupleInUse | Closed::SourceGone
    );
    if refused {
        lists.counts[index].wasted += 1;
        return false;
    }
    if !lease.is_reused() || how == Closed::Unused {
        return false;
    }
    let repeated = lease.old_connection_answered || how == Closed::OpenAtServer;
    lists.watch.note(repeated, now_ms)
}

//! One worker's lists for one destination.
//!
//! Four FIFO lists linked through the nodes (free, rested, resting, `TIME_WAIT`): a fixed pause per list makes
//! the order of arrival the order of due times. Blocked tuples have pauses of different length, and are few: a heap.

use super::resets::ResetWatch;
use super::space::{Space, NIL};
use super::{Kind, CHUNK, TIME_WAIT_MS};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Never, as a due time.
pub(super) const NEVER: u32 = u32::MAX;
const TICK_BITS: u32 = 6;
/// Room below time zero, so that a seeded `TIME_WAIT` may have begun before we did.
const EPOCH: u32 = 2_048;

/// Time in units of 64 ms, which lasts eight years in 32 bits; 0 means never used.
pub(super) fn tick(now_ms: u64) -> u32 {
    (now_ms >> TICK_BITS) as u32 + EPOCH
}

/// The first millisecond of a tick.
pub(super) fn tick_ms(tick: u32) -> u64 {
    u64::from(tick.saturating_sub(EPOCH)) << TICK_BITS
}

/// A pause in ticks; one more, since the moment it began was rounded down.
pub(super) fn pause(ms: u64) -> u32 {
    ms.div_ceil(1 << TICK_BITS) as u32 + 1
}

/// A FIFO of tuples.
pub(super) struct List {
    head: u32,
    tail: u32,
    head_since: u32,
    tail_since: u32,
    pub len: u32,
}

impl List {
    const fn new() -> Self {
        Self {
            head: NIL,
            tail: NIL,
            head_since: 0,
            tail_since: 0,
            len: 0,
        }
    }

    /// When the head is due.
    fn due(&self, pause: u32) -> u32 {
        if self.len == 0 {
            NEVER
        } else {
            self.head_since.saturating_add(pause)
        }
    }

    #[inline]
    pub fn push_back(&mut self, space: &Space, position: u32, since: u32) {
        space.set(position, NIL, since);
        if self.len == 0 {
            (self.head, self.head_since) = (position, since);
        } else {
            space.set(self.tail, position, self.tail_since);
        }
        (self.tail, self.tail_since) = (position, since);
        self.len += 1;
    }

    /// Puts a tuple where its age belongs; meant for the oldest, else it walks.
    fn insert(&mut self, space: &Space, position: u32, since: u32) {
        if self.len == 0 || self.head_since >= since {
            space.set(position, self.head, since);
            (self.head, self.head_since) = (position, since);
            if self.len == 0 {
                (self.tail, self.tail_since) = (position, since);
            }
            self.len += 1;
            return;
        }
        let mut before = self.head;
        let mut node = space.get(before);
        while node.next != NIL && space.get(node.next).since < since {
            before = node.next;
            node = space.get(before);
        }
        if node.next == NIL {
            self.push_back(space, position, since);
            return;
        }
        space.set(position, node.next, since);
        space.set(before, position, node.since);
        self.len += 1;
    }

    #[inline]
    pub fn pop_front(&mut self, space: &Space) -> Option<(u32, u32)> {
        if self.len == 0 {
            return None;
        }
        let popped = (self.head, self.head_since);
        self.head = space.get(self.head).next;
        self.len -= 1;
        if self.head == NIL {
            self.tail = NIL;
        } else {
            self.head_since = space.get(self.head).since;
        }
        Some(popped)
    }

    /// Moves `other` in by age; walks both.
    fn merge(&mut self, space: &Space, other: &mut Self) {
        let mut merged = Self::new();
        while self.len > 0 || other.len > 0 {
            let from = if other.len == 0 || self.len > 0 && self.head_since <= other.head_since {
                &mut *self
            } else {
                &mut *other
            };
            if let Some((position, since)) = from.pop_front(space) {
                merged.push_back(space, position, since);
            }
        }
        *self = merged;
    }

    /// Puts the whole of `other` behind this list.
    fn append(&mut self, space: &Space, other: &mut Self) {
        if other.len > 0 && self.len > 0 {
            space.set(self.tail, other.head, self.tail_since);
            (self.tail, self.tail_since) = (other.tail, other.tail_since);
            self.len += other.len;
            *other = Self::new();
        } else if other.len > 0 {
            *self = std::mem::replace(other, Self::new());
        }
    }
}

/// Idle tuples of one source in these lists.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub free: u32,
    pub resting: u32,
    pub time_wait: u32,
    pub blocked: u32,
    pub wasted: u64,
}

impl Counts {
    fn of(&mut self, kind: Kind) -> &mut u32 {
        match kind {
            Kind::Free => &mut self.free,
            Kind::Rested | Kind::Resting => &mut self.resting,
            Kind::TimeWait => &mut self.time_wait,
            Kind::Blocked => &mut self.blocked,
        }
    }
}

/// A tuple taken out of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub position: u32,
    pub since: u32,
    pub kind: Kind,
}

/// The lists of one worker, or of the checks.
pub(super) struct Lists {
    pub space: Arc<Space>,
    pub free: List,
    pub rested: List,
    pub resting: List,
    pub time_wait: List,
    /// (due, position).
    pub blocked: BinaryHeap<Reverse<(u32, u32)>>,
    /// Tuples of suspended or barred addresses, until one of these comes back.
    pub parked: List,
    /// `Sources::returns` when `parked` was last looked at.
    pub returns_seen: u32,
    pub counts: Box<[Counts]>,
    pub watch: ResetWatch,
}

impl Lists {
    pub fn new(space: &Arc<Space>) -> Self {
        Self {
            free: List::new(),
            rested: List::new(),
            resting: List::new(),
            time_wait: List::new(),
            blocked: BinaryHeap::new(),
            parked: List::new(),
            returns_seen: 0,
            counts: vec![Counts::default(); space.sources.len()].into(),
            watch: ResetWatch::default(),
            space: Arc::clone(space),
        }
    }

    /// When the first tuple here is due.
    #[inline]
    pub fn next_due(&self, rest: u32) -> u32 {
        if self.free.len > 0 {
            return 0;
        }
        let blocked = self.blocked.peek().map_or(NEVER, |Reverse((due, _))| *due);
        let resting = self.rested.due(rest).min(self.resting.due(rest));
        resting
            .min(self.time_wait.due(pause(TIME_WAIT_MS)))
            .min(blocked)
    }

    /// Takes out the due tuple that has been left alone for longest, never-used ones first. Not yet uncounted.
    #[inline]
    pub fn pop_due(&mut self, now: u32, rest: u32) -> Option<Taken> {
        if let Some((position, since)) = self.free.pop_front(&self.space) {
            return Some(Taken {
                position,
                since,
                kind: Kind::Free,
            });
        }
        let mut best = None;
        let mut oldest = NEVER;
        for (kind, list, pause) in [
            (Kind::Rested, &self.rested, rest),
            (Kind::Resting, &self.resting, rest),
            (Kind::TimeWait, &self.time_wait, pause(TIME_WAIT_MS)),
        ] {
            if list.len > 0 && list.head_since < oldest && list.due(pause) <= now {
                (best, oldest) = (Some(kind), list.head_since);
            }
        }
        if let Some(kind) = best {
            return self.pop(kind);
        }
        // Last: the port was taken when we looked, it may well be still.
        let Reverse((due, _)) = self.blocked.peek()?;
        if *due > now {
            return None;
        }
        let Reverse((since, position)) = self.blocked.pop()?;
        Some(Taken {
            position,
            since,
            kind: Kind::Blocked,
        })
    }

    /// A tuple taken out leaves its counter.
    pub fn uncount(&mut self, kind: Kind, source: usize) {
        *self.counts[source].of(kind) -= 1;
    }

    fn list(&mut self, kind: Kind) -> (&mut List, &Space) {
        let list = match kind {
            Kind::Free => &mut self.free,
            Kind::Rested => &mut self.rested,
            Kind::Resting => &mut self.resting,
            Kind::TimeWait => &mut self.time_wait,
            Kind::Blocked => &mut self.parked,
        };
        (list, &self.space)
    }

    /// Takes out the head of a list, due or not (`Blocked`: of the parked). Not yet uncounted.
    pub fn pop(&mut self, kind: Kind) -> Option<Taken> {
        let (list, space) = self.list(kind);
        let (position, since) = list.pop_front(space)?;
        Some(Taken {
            position,
            since,
            kind,
        })
    }

    /// Puts a tuple at the end of its list.
    #[inline]
    pub fn file(&mut self, kind: Kind, source: usize, position: u32, since: u32) {
        *self.counts[source].of(kind) += 1;
        let (list, space) = self.list(kind);
        // A seed, or a clock read a moment earlier, must not stand behind a later one: it waits for that.
        let sorted = !matches!(kind, Kind::Free | Kind::Blocked);
        let since = if sorted && list.len > 0 {
            since.max(list.tail_since)
        } else {
            since
        };
        list.push_back(space, position, since);
    }

    /// The next lease here is this one.
    pub fn file_first(&mut self, source: usize, position: u32, since: u32) {
        self.counts[source].free += 1;
        let mut first = List::new();
        first.push_back(&self.space, position, since);
        first.append(&self.space, &mut self.free);
        self.free = first;
    }

    /// Resets were lost: what rested after one waits as in `TIME_WAIT`. O(rested).
    pub fn rested_were_reset(&mut self) {
        let mut rested = std::mem::replace(&mut self.rested, List::new());
        let mut next = rested.head;
        while next != NIL {
            let (source, _) = self.space.tuple(next);
            self.uncount(Kind::Rested, source);
            *self.counts[source].of(Kind::TimeWait) += 1;
            next = self.space.get(next).next;
        }
        self.time_wait.merge(&self.space, &mut rested);
    }

    /// Puts a tuple back where it was taken from.
    pub fn unpop(&mut self, taken: Taken, source: usize) {
        let Taken {
            position,
            since,
            kind,
        } = taken;
        if kind == Kind::Blocked {
            self.file_blocked(source, position, since);
            return;
        }
        *self.counts[source].of(kind) += 1;
        let (list, space) = self.list(kind);
        list.insert(space, position, since);
    }

    /// A tuple whose port is blocked until `due`.
    pub fn file_blocked(&mut self, source: usize, position: u32, due: u32) {
        self.counts[source].blocked += 1;
        self.space.set(position, NIL, due);
        self.blocked.push(Reverse((due, position)));
    }

    /// An address came back: what was put aside is free.
    pub fn unpark(&mut self, returns: u32) {
        self.returns_seen = returns;
        while let Some(taken) = self.pop(Kind::Blocked) {
            let (source, _) = self.space.tuple(taken.position);
            self.uncount(Kind::Blocked, source);
            self.file(Kind::Free, source, taken.position, taken.since);
        }
    }

    /// Moves up to a chunk of due tuples into `to`, which must have none due itself: then what moves is older
    /// than anything there, and goes in front.
    pub fn give_due(&mut self, to: &mut Self, now: u32, rest: u32) -> usize {
        let mut batch = Vec::with_capacity(CHUNK);
        while batch.len() < CHUNK {
            let Some(taken) = self.pop_due(now, rest) else {
                break;
            };
            let (source, _) = self.space.tuple(taken.position);
            self.uncount(taken.kind, source);
            batch.push((taken, source));
        }
        for (taken, source) in batch.iter().rev() {
            to.unpop(*taken, *source);
        }
        batch.len()
    }

    /// Everything out, in order, for a rebuild: kind, since or due, position; parked ones are `Free`.
    pub fn drain(&mut self) -> Vec<Taken> {
        let mut all = Vec::new();
        let mut parked = std::mem::replace(&mut self.parked, List::new());
        self.free.append(&self.space, &mut parked);
        for kind in [Kind::Free, Kind::Rested, Kind::Resting, Kind::TimeWait] {
            all.extend(std::iter::from_fn(|| self.pop(kind)));
        }
        let blocked = std::mem::take(&mut self.blocked).into_sorted_vec();
        let blocked = blocked
            .into_iter()
            .rev()
            .map(|Reverse((since, position))| Taken {
                position,
                since,
                kind: Kind::Blocked,
            });
        all.extend(blocked);
        all
    }
}

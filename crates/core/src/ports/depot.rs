//! Tuples that nobody has used yet: a walk through the range in chunks, from a starting point per destination.

use super::lists::Lists;
use super::sources::lock;
use super::space::Space;
use super::{Kind, Ledger, Port, CHUNK};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Never-used tuples, and tuples in use that a reload took out of the range.
pub(super) struct Depot {
    next: u32,
    pub left: u32,
    pub fresh: Box<[u32]>,
    pub strays: HashSet<(IpAddr, Port)>,
}

impl Depot {
    pub fn new(space: &Space, rotation: u64, strays: HashSet<(IpAddr, Port)>) -> Self {
        let chunk = CHUNK as u64;
        let begin = rotation % u64::from(space.general.max(1)) / chunk * chunk;
        let mut fresh: Box<[u32]> = space.sources.iter().map(|s| s.size - s.reserved).collect();
        // After a reload some are in lists or in use.
        for position in space.touched().filter(|&p| p < space.general) {
            if !space.is_fresh(position) {
                fresh[space.tuple(position).0] -= 1;
            }
        }
        Self {
            next: begin as u32,
            left: space.general,
            fresh,
            strays,
        }
    }
}

impl Ledger {
    /// A chunk of never-used tuples from the depot. False: there is none.
    pub(super) fn borrow_chunk(&self, lists: &mut Lists) -> bool {
        while self.depot_left.load(Ordering::Relaxed) > 0 {
            let mut depot = lock(&self.depot);
            let space = Arc::clone(&lists.space);
            let begin = depot.next;
            let count = depot.left.min(CHUNK as u32).min(space.general - begin);
            if count == 0 || !space.make(begin) {
                return false;
            }
            let end = begin + count;
            for position in (begin..end).filter(|&p| space.is_new(p)) {
                let (source, _) = space.tuple(position);
                depot.fresh[source] -= 1;
                lists.file(Kind::Free, source, position, 0);
            }
            depot.next = if end == space.general { 0 } else { end };
            depot.left -= count;
            self.depot_left.store(depot.left, Ordering::Relaxed);
            if lists.free.len > 0 {
                return true;
            }
        }
        false
    }
}

/// Links the reserve into the checks' lists, at once: checks run at every destination anyway.
pub(super) fn link_reserve(checks: &mut Lists) {
    let space = Arc::clone(&checks.space);
    for position in (space.general..space.total).filter(|&p| space.is_new(p)) {
        let (source, _) = space.tuple(position);
        checks.file(Kind::Free, source, position, 0);
    }
}

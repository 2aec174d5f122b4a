//! Tuples as numbers: position = (port - lo) * sources + source, one 8-byte node each.
//!
//! Port-major, so that neighbours differ in their source address and a chunk spreads over all of them. Nodes
//! are shared by all workers and touched with relaxed loads and stores: a node belongs to the list it is in, and who
//! holds that list's lock orders the accesses. They are made in segments when first touched.

use super::sources::{Source, Sources};
use super::{Port, PortRange, CHUNK};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// End of a list.
pub(super) const NIL: u32 = u32::MAX;
/// `next` of a tuple that nobody has touched.
const FRESH: u32 = u32::MAX - 1;
/// `next` of a leased tuple is this plus the number of the lists it was leased from.
const LEASED: u32 = u32::MAX - 0x1_0000;
/// More tuples than this per destination are refused: 256 addresses with every port are 2^24.
const MAX_TUPLES: u32 = 1 << 28;

const SEGMENT_BITS: u32 = 12;
const SEGMENT: u32 = 1 << SEGMENT_BITS;
/// Chunks never straddle segments.
const _: () = assert!(SEGMENT as usize % CHUNK == 0);

/// Which tuples a destination may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Our addresses, of the destination's family; each once.
    pub sources: Vec<IpAddr>,
    /// The ports on each of them.
    pub ports: PortRange,
    /// Tuples per address kept for checks; at most half of the range is.
    pub reserve: u16,
    /// Ports left out, on one address or on all (`None`): listeners inside the range.
    pub excluded: Vec<(Option<IpAddr>, Port)>,
}

/// Why a [`Spec`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A range needs addresses to bind to.
    #[error("no source address")]
    NoSource,
    /// The same address twice would make every tuple of it twice.
    #[error("source address {0} is listed twice")]
    SourceTwice(IpAddr),
    /// Above 2^28.
    #[error("{0} tuples for one destination are more than 268435456")]
    TooMany(u64),
}

impl Spec {
    fn tuples(&self) -> u64 {
        self.sources.len() as u64 * u64::from(self.ports.width())
    }

    fn validate(&self) -> Result<(), SpecError> {
        if self.sources.is_empty() {
            return Err(SpecError::NoSource);
        }
        for (index, source) in self.sources.iter().enumerate() {
            if self.sources.iter().take(index).any(|s| s == source) {
                return Err(SpecError::SourceTwice(*source));
            }
        }
        if self.tuples() > u64::from(MAX_TUPLES) {
            return Err(SpecError::TooMany(self.tuples()));
        }
        Ok(())
    }
}

/// Bytes that one destination takes once every tuple has been used; for `check`.
pub fn ledger_bytes(sources: usize, ports: PortRange, workers: usize) -> u64 {
    let tuples = sources as u64 * u64::from(ports.width());
    let segments = tuples.div_ceil(u64::from(SEGMENT));
    tuples * 8 + segments * 24 + (workers as u64 + 1) * (512 + sources as u64 * 24)
}

/// A node as read.
#[derive(Clone, Copy)]
pub(super) struct Node {
    pub next: u32,
    pub since: u32,
}

pub(super) struct SpaceSource {
    pub source: Arc<Source>,
    /// Not at this destination: the server refuses this address.
    pub barred: AtomicBool,
    /// Tuples of this address, without excluded ones.
    pub size: u32,
    /// Of these, kept for checks.
    pub reserved: u32,
}

/// The tuples of one destination in one generation of its configuration.
pub(super) struct Space {
    pub generation: u32,
    pub spec: Spec,
    pub sources: Box<[SpaceSource]>,
    index_of: HashMap<IpAddr, u16>,
    /// Sorted positions.
    excluded: Box<[u32]>,
    /// Positions from here on are the reserve.
    pub general: u32,
    pub total: u32,
    segments: Box<[OnceLock<Box<[AtomicU64]>>]>,
    registry: Arc<Sources>,
    taken_bytes: AtomicU64,
}

impl Drop for Space {
    fn drop(&mut self) {
        self.registry.return_memory(*self.taken_bytes.get_mut());
    }
}

impl Space {
    pub fn new(spec: &Spec, registry: &Arc<Sources>, generation: u32) -> Result<Self, SpecError> {
        spec.validate()?;
        let count = spec.sources.len() as u32;
        let total = count * spec.ports.width();
        let mut index_of = HashMap::new();
        for (index, source) in spec.sources.iter().enumerate() {
            index_of.insert(*source, index as u16);
        }
        let mut excluded = Vec::new();
        for &(address, port) in spec
            .excluded
            .iter()
            .filter(|(_, p)| spec.ports.contains(*p))
        {
            let row = u32::from(port.get() - spec.ports.lo().get()) * count;
            match address {
                None => excluded.extend(row..row + count),
                Some(a) => excluded.extend(index_of.get(&a).map(|&i| row + u32::from(i))),
            }
        }
        excluded.sort_unstable();
        excluded.dedup();
        let general = reserve_begins(spec, &excluded) * count;
        let sources = spec.sources.iter().enumerate().map(|(index, &address)| {
            let gone = |from: u32| {
                let of = |p: &&u32| **p % count == index as u32 && **p >= from;
                excluded.iter().filter(of).count() as u32
            };
            SpaceSource {
                source: registry.intern(address),
                barred: AtomicBool::new(false),
                size: spec.ports.width() - gone(0),
                reserved: (total - general) / count - gone(general),
            }
        });
        Ok(Self {
            generation,
            sources: sources.collect(),
            spec: spec.clone(),
            index_of,
            general,
            total,
            segments: (0..total.div_ceil(SEGMENT))
                .map(|_| OnceLock::new())
                .collect(),
            excluded: excluded.into(),
            registry: Arc::clone(registry),
            taken_bytes: AtomicU64::new(0),
        })
    }

    /// Index of the source, and the port.
    pub fn tuple(&self, position: u32) -> (usize, Port) {
        let count = self.sources.len() as u32;
        let port = u32::from(self.spec.ports.lo().get()) + position / count;
        let port = Port::new(port as u16).unwrap_or(self.spec.ports.lo());
        ((position % count) as usize, port)
    }

    /// The position of a tuple; `None` when it is not of this space.
    pub fn find(&self, source: IpAddr, port: Port) -> Option<u32> {
        let index = u32::from(*self.index_of.get(&source)?);
        if !self.spec.ports.contains(port) {
            return None;
        }
        let row = u32::from(port.get() - self.spec.ports.lo().get());
        let position = row * self.sources.len() as u32 + index;
        (!self.is_excluded(position)).then_some(position)
    }

    pub fn is_excluded(&self, position: u32) -> bool {
        !self.excluded.is_empty() && self.excluded.binary_search(&position).is_ok()
    }

    pub fn is_reserved(&self, position: u32) -> bool {
        position >= self.general
    }

    /// The node. One that was never touched reads as fresh.
    pub fn get(&self, position: u32) -> Node {
        let word = self
            .segments
            .get((position >> SEGMENT_BITS) as usize)
            .and_then(OnceLock::get)
            .and_then(|s| s.get((position & (SEGMENT - 1)) as usize))
            .map_or(u64::from(FRESH), |n| n.load(Ordering::Relaxed));
        Node {
            next: word as u32,
            since: (word >> 32) as u32,
        }
    }

    pub fn set(&self, position: u32, next: u32, since: u32) {
        let word = u64::from(since) << 32 | u64::from(next);
        self.segment(position)[(position & (SEGMENT - 1)) as usize].store(word, Ordering::Relaxed);
    }

    /// Makes the segment of this position, within the budget. False: the budget is spent.
    pub fn make(&self, position: u32) -> bool {
        let segment = (position >> SEGMENT_BITS) as usize;
        if self.segments[segment].get().is_none() {
            if !self.registry.take_memory(u64::from(SEGMENT) * 8) {
                return false;
            }
            self.taken_bytes
                .fetch_add(u64::from(SEGMENT) * 8, Ordering::Relaxed);
            self.segment(position);
        }
        true
    }

    fn segment(&self, position: u32) -> &[AtomicU64] {
        self.segments[(position >> SEGMENT_BITS) as usize].get_or_init(|| {
            let begin = position & !(SEGMENT - 1);
            let length = SEGMENT.min(self.total - begin);
            (0..length)
                .map(|_| AtomicU64::new(u64::from(FRESH)))
                .collect()
        })
    }

    /// A tuple to be handed out for the first time.
    pub fn is_new(&self, position: u32) -> bool {
        self.is_fresh(position) && !self.is_excluded(position)
    }

    pub fn is_fresh(&self, position: u32) -> bool {
        self.get(position).next == FRESH
    }

    pub fn mark_leased(&self, position: u32, shard: usize) {
        self.set(position, LEASED + shard as u32, 0);
    }

    /// The lists that the tuple was leased from; `None` when it is not leased.
    pub fn leased_from(&self, position: u32) -> Option<usize> {
        let next = self.get(position).next;
        (LEASED..FRESH)
            .contains(&next)
            .then(|| (next - LEASED) as usize)
    }

    /// Positions of segments that exist: every tuple that is not fresh is among them.
    pub fn touched(&self) -> impl Iterator<Item = u32> + '_ {
        let made = self
            .segments
            .iter()
            .enumerate()
            .filter(|(_, s)| s.get().is_some());
        made.flat_map(|(index, _)| {
            let begin = index as u32 * SEGMENT;
            begin..(begin + SEGMENT).min(self.total)
        })
    }

    /// Bytes of the nodes made so far.
    pub fn bytes(&self) -> u64 {
        self.segments
            .iter()
            .filter_map(OnceLock::get)
            .map(|s| s.len() as u64 * 8)
            .sum()
    }
}

/// The row (port - lo) at which the reserve begins: the highest ports, since users read ranges from below.
fn reserve_begins(spec: &Spec, excluded: &[u32]) -> u32 {
    let (width, count) = (spec.ports.width(), spec.sources.len() as u32);
    let mut wanted = u32::from(spec.reserve).min(width / 2);
    let mut row = width;
    while wanted > 0 && row > width / 2 {
        row -= 1;
        let from = excluded.partition_point(|&p| p < row * count);
        let whole = excluded.get(from).is_none_or(|&p| p >= (row + 1) * count);
        wanted -= u32::from(whole);
    }
    row
}

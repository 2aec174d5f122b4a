//! What is true of a source address or of one of its ports, whatever the destination.

use super::{Port, BLOCKED_MS};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A panic while the lock was held leaves plain numbers behind; going on is right, poisoning every worker is not.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The source addresses of the process.
pub struct Sources {
    known: Mutex<BTreeMap<IpAddr, Arc<Source>>>,
    /// Grows whenever an address comes back: lists look again at the tuples they put aside.
    returns: AtomicU32,
    /// Bytes that ledgers may still take for nodes.
    memory: AtomicU64,
}

/// One address.
pub(super) struct Source {
    pub address: IpAddr,
    suspended: AtomicBool,
    /// Ports in `blocked`; the hot path looks no further while it is 0.
    blocked_count: AtomicU32,
    /// One bit per port in `blocked`, read without the lock.
    blocked_bits: Box<[AtomicU64]>,
    blocked: Mutex<HashMap<Port, Block>>,
}

#[derive(Clone, Copy)]
struct Block {
    pause_ms: u64,
    until_ms: u64,
}

impl Sources {
    /// No address known yet. All ledgers together take at most `memory_bytes` for tuples in use since
    /// the start; beyond that they recycle what they have. `u64::MAX`: no limit.
    pub fn new(memory_bytes: u64) -> Self {
        Self {
            known: Mutex::default(),
            returns: AtomicU32::new(0),
            memory: AtomicU64::new(memory_bytes),
        }
    }

    pub(super) fn take_memory(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        self.memory
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    pub(super) fn return_memory(&self, bytes: u64) {
        let add = |left: u64| Some(left.saturating_add(bytes));
        let _ = self
            .memory
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    pub(super) fn intern(&self, address: IpAddr) -> Arc<Source> {
        let mut known = lock(&self.known);
        Arc::clone(
            known
                .entry(address)
                .or_insert_with(|| Arc::new(Source::new(address))),
        )
    }

    pub(super) fn returns(&self) -> u32 {
        self.returns.load(Ordering::Relaxed)
    }

    pub(super) fn note_return(&self) {
        self.returns.fetch_add(1, Ordering::Relaxed);
    }

    /// The address is gone from this host: none of its ports is leased until [`Sources::resume`]. True when
    /// that is news.
    pub fn suspend(&self, address: IpAddr) -> bool {
        !self.intern(address).suspended.swap(true, Ordering::Relaxed)
    }

    /// The address is back (netlink, or a bind to its port 0 succeeded). True when that is news.
    pub fn resume(&self, address: IpAddr) -> bool {
        let was = self
            .intern(address)
            .suspended
            .swap(false, Ordering::Relaxed);
        if was {
            self.note_return();
        }
        was
    }

    /// The addresses to try again, once a second.
    pub fn suspended(&self) -> Vec<IpAddr> {
        let known = lock(&self.known);
        known
            .values()
            .filter(|s| s.is_suspended())
            .map(|s| s.address)
            .collect()
    }
}

impl Source {
    fn new(address: IpAddr) -> Self {
        Self {
            address,
            suspended: AtomicBool::new(false),
            blocked_count: AtomicU32::new(0),
            blocked_bits: (0..=u16::MAX / 64).map(|_| AtomicU64::new(0)).collect(),
            blocked: Mutex::default(),
        }
    }

    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Relaxed)
    }

    /// Whether somebody found the port taken, now or not long ago.
    pub fn is_noted(&self, port: Port) -> bool {
        if self.blocked_count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let word = self.blocked_bits[usize::from(port.get() / 64)].load(Ordering::Relaxed);
        word >> (port.get() % 64) & 1 == 1
    }

    /// When the port may be tried again; `None` when nobody knows it as blocked.
    pub fn blocked_until_ms(&self, port: Port) -> Option<u64> {
        lock(&self.blocked).get(&port).map(|b| b.until_ms)
    }

    /// Notes that another program has the port; returns when to try again. The pause doubles from one
    /// finding to the next, but not when two workers find the same thing at the same time.
    pub fn block(&self, port: Port, now_ms: u64) -> u64 {
        let mut blocked = lock(&self.blocked);
        let (first_ms, longest_ms) = BLOCKED_MS;
        let pause_ms = match blocked.get(&port) {
            Some(block) if block.until_ms > now_ms => return block.until_ms,
            Some(block) => (block.pause_ms * 2).min(longest_ms),
            None => first_ms,
        };
        let until_ms = now_ms + pause_ms;
        if blocked.insert(port, Block { pause_ms, until_ms }).is_none() {
            self.blocked_count.fetch_add(1, Ordering::Relaxed);
        }
        let bit = 1 << (port.get() % 64);
        self.blocked_bits[usize::from(port.get() / 64)].fetch_or(bit, Ordering::Relaxed);
        until_ms
    }

    /// A bind succeeded: the next finding starts from the shortest pause.
    pub fn unblock(&self, port: Port) {
        let mut blocked = lock(&self.blocked);
        if blocked.remove(&port).is_some() {
            self.blocked_count.fetch_sub(1, Ordering::Relaxed);
            let bit = 1 << (port.get() % 64);
            self.blocked_bits[usize::from(port.get() / 64)].fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

//! The ways to one server: which of our addresses to which of its, which is tried next, and which must not be.
//!
//! Shared by all workers. An address can be *suspended* (it is gone from this host: bind said
//! EADDRNOTAVAIL) or *blocked* at a destination (the server answered ERR 1129 or 1130 to it). Both are
//! forgotten after a while so that one session tries again; both are told as events by the worker. A destination
//! can be *dead* (connects to it fail) while another one of the same server serves: then it is left out, and one session
//! at a time looks whether it is back. With every destination dead it is the server that is, and the breaker's matter.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::plan::Destination;
use crate::snapshot::SourceSpec;

/// How long a blocked address is left alone: FLUSH HOSTS or a GRANT is noticed within this time.
const BLOCKED_MS: u64 = 5_000;
/// How long a vanished address is left alone (a VIP that moved comes back at any time).
const SUSPENDED_MS: u64 = 1_000;

/// First and longest pause before one session tries a dead destination again. A refused try costs nothing; one that hangs
/// costs its session the connect timeout.
const DEAD_MS: (u64, u64) = (1_000, 30_000);

/// A destination that cannot be reached.
#[derive(Debug)]
struct Dead {
    destination: Box<str>,
    since_ms: u64,
    pause_ms: u64,
    until_ms: u64,
}

/// One (our address, their address) that is not to be used for a while.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Our address; none = the route's.
    pub source: Option<IpAddr>,
    /// Their address; "" = every one (suspended).
    pub destination: String,
    /// Since when (ms).
    pub since_ms: u64,
    until_ms: u64,
    /// The server's own ERR to it; none = the address is gone from this host.
    pub refusal: Option<(u16, Box<str>)>,
}

/// What a session may use for one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Index of the destination.
    pub destination: usize,
    /// Our address; none = the route's.
    pub source: Option<IpAddr>,
}

/// The addresses of one `[source]`, with what is known against them.
#[derive(Debug)]
pub struct SourceBook {
    spec: SourceSpec,
    turn: AtomicUsize,
    bars: Mutex<Vec<Bar>>,
    bar_count: AtomicU32,
    dead: Mutex<Vec<Dead>>,
    dead_count: AtomicU32,
}

impl SourceBook {
    /// A book with nothing against anybody.
    pub fn new(spec: SourceSpec) -> Self {
        Self {
            spec,
            turn: AtomicUsize::new(0),
            bars: Mutex::new(Vec::new()),
            bar_count: AtomicU32::new(0),
            dead: Mutex::new(Vec::new()),
            dead_count: AtomicU32::new(0),
        }
    }

    /// Whether a new snapshot says the same, so that the book is kept.
    pub fn is_for(&self, spec: &SourceSpec) -> bool {
        self.spec == *spec
    }

    /// The next pair in turn that nothing is known against. O(pairs); no lock while nothing is barred or dead.
    pub fn choose(&self, destinations: &[Destination], now_ms: u64) -> Option<Choice> {
        let sources = self.spec.addresses.len().max(1);
        let pairs = sources * destinations.len();
        let start = self.turn.fetch_add(1, Relaxed);
        let mut fallback = None;
        for step in 0..pairs {
            let pair = (start + step) % pairs;
            let choice = Choice {
                destination: pair % destinations.len(),
                source: self.spec.addresses.get(pair / destinations.len()).copied(),
            };
            let Some(to) = destinations.get(choice.destination) else {
                continue;
            };
            if !fits(choice.source, to) || self.is_barred(choice.source, to, now_ms) {
                continue;
            }
            if !self.is_dead(to, now_ms) {
                return Some(choice);
            }
            fallback.get_or_insert(choice);
        }
        fallback
    }

    /// Whether this destination is to be left out. Where its time has come it is not, for one caller.
    fn is_dead(&self, to: &Destination, now_ms: u64) -> bool {
        if self.dead_count.load(Relaxed) == 0 {
            return false;
        }
        let mut dead = lock(&self.dead);
        let Some(one) = dead.iter_mut().find(|d| *d.destination == *to.text) else {
            return false;
        };
        if now_ms < one.until_ms {
            return true;
        }
        one.until_ms = now_ms + one.pause_ms;
        false
    }

    /// A connect that began at `begun_ms` failed there, or its greeting did. True while another destination of the server
    /// is not known to be dead.
    pub fn failed(
        &self,
        destinations: &[Destination],
        failed: usize,
        begun_ms: u64,
        now_ms: u64,
    ) -> bool {
        let (Some(to), true) = (destinations.get(failed), destinations.len() > 1) else {
            return false;
        };
        let mut dead = lock(&self.dead);
        let known = dead.iter_mut().find(|d| *d.destination == *to.text);
        let pause_ms = known.as_ref().map_or(DEAD_MS.0, |one| one.pause_ms * 2);
        let fresh = Dead {
            destination: to.text.as_str().into(),
            since_ms: now_ms,
            pause_ms: pause_ms.min(DEAD_MS.1),
            until_ms: now_ms + pause_ms.min(DEAD_MS.1),
        };
        match known {
            // Begun before it was known: nothing new.
            Some(one) if begun_ms < one.since_ms => {}
            Some(one) => *one = fresh,
            None => dead.push(fresh),
        }
        self.dead_count.store(dead.len() as u32, Relaxed);
        let is_dead = |to: &Destination| dead.iter().any(|d| *d.destination == *to.text);
        !destinations.iter().all(is_dead)
    }

    /// A greeting came from there.
    pub fn reached(&self, to: &Destination) {
        if self.dead_count.load(Relaxed) > 0 {
            let mut dead = lock(&self.dead);
            dead.retain(|d| *d.destination != *to.text);
            self.dead_count.store(dead.len() as u32, Relaxed);
        }
    }

    fn is_barred(&self, source: Option<IpAddr>, destination: &Destination, now_ms: u64) -> bool {
        if self.bar_count.load(Relaxed) == 0 {
            return false;
        }
        lock(&self.bars).iter().any(|bar| {
            bar.source == source
                && now_ms < bar.until_ms
                && (bar.destination.is_empty() || bar.destination == destination.text)
        })
    }

    /// The server refuses this address (1129, 1130). True if that is news.
    pub fn block(
        &self,
        source: Option<IpAddr>,
        destination: &Destination,
        refusal: (u16, &str),
        now_ms: u64,
    ) -> bool {
        let refusal = Some((refusal.0, refusal.1.into()));
        self.bar(source, &destination.text, refusal, now_ms)
    }

    /// This address is not on this host. True if that is news.
    pub fn suspend(&self, source: Option<IpAddr>, now_ms: u64) -> bool {
        self.bar(source, "", None, now_ms)
    }

    fn bar(
        &self,
        source: Option<IpAddr>,
        destination: &str,
        refusal: Option<(u16, Box<str>)>,
        now_ms: u64,
    ) -> bool {
        let for_ms = if refusal.is_some() {
            BLOCKED_MS
        } else {
            SUSPENDED_MS
        };
        let mut bars = lock(&self.bars);
        if let Some(bar) = bars
            .iter_mut()
            .find(|bar| bar.source == source && bar.destination == destination)
        {
            bar.until_ms = now_ms + for_ms;
            return false;
        }
        bars.push(Bar {
            source,
            destination: destination.to_owned(),
            since_ms: now_ms,
            until_ms: now_ms + for_ms,
            refusal,
        });
        self.bar_count.store(bars.len() as u32, Relaxed);
        true
    }

    /// A greeting came over this pair: nothing is held against it any more. Returns what is lifted.
    pub fn served(&self, source: Option<IpAddr>, destination: &Destination) -> Vec<Bar> {
        if self.bar_count.load(Relaxed) == 0 {
            return Vec::new();
        }
        let mut bars = lock(&self.bars);
        let lifted = |bar: &Bar| {
            bar.source == source
                && (bar.destination.is_empty() || bar.destination == destination.text)
        };
        let gone = bars.iter().filter(|bar| lifted(bar)).cloned().collect();
        bars.retain(|bar| !lifted(bar));
        self.bar_count.store(bars.len() as u32, Relaxed);
        gone
    }

    /// Bars whose time is over. They stay known, so that the next one of the same kind is no news.
    pub fn expired(&self, now_ms: u64) -> Vec<Bar> {
        if self.bar_count.load(Relaxed) == 0 {
            return Vec::new();
        }
        let bars = lock(&self.bars);
        bars.iter()
            .filter(|bar| now_ms >= bar.until_ms)
            .cloned()
            .collect()
    }

    /// What a server says to one of our addresses, if it refuses any.
    pub fn refusal(&self) -> Option<(u16, Box<str>)> {
        lock(&self.bars).iter().find_map(|bar| bar.refusal.clone())
    }

    /// Pairs that servers refuse now, for `show`.
    pub fn blocked(&self) -> Vec<Bar> {
        lock(&self.bars)
            .iter()
            .filter(|bar| !bar.destination.is_empty())
            .cloned()
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fits(source: Option<IpAddr>, destination: &Destination) -> bool {
    match source {
        None => true,
        Some(IpAddr::V4(_)) => destination.family != libc::AF_INET6,
        Some(IpAddr::V6(_)) => destination.family != libc::AF_INET,
    }
}

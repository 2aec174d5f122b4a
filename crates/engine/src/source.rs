//! Our side of the connections to one server: which address is tried next, and which must not be.
//!
//! Shared by all workers. An address can be *suspended* (it is gone from this host: bind said
//! EADDRNOTAVAIL) or *blocked* at a destination (the server answered ERR 1129 or 1130 to it). Both are
//! forgotten after a while so that one session tries again; both are told as events by the worker.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::plan::Destination;
use crate::snapshot::SourceSpec;

/// How long a blocked address is left alone: FLUSH HOSTS or a GRANT is noticed within this time.
const BLOCKED_MS: u64 = 5_000;
/// How long a vanished address is left alone (a VIP that moved comes back at any time).
const SUSPENDED_MS: u64 = 1_000;

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
    refusal: Option<(u16, Box<str>)>,
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
}

impl SourceBook {
    /// A book with nothing against anybody.
    pub fn new(spec: SourceSpec) -> Self {
        Self {
            spec,
            turn: AtomicUsize::new(0),
            bars: Mutex::new(Vec::new()),
            bar_count: AtomicU32::new(0),
        }
    }

    /// Whether a new snapshot says the same, so that the book is kept.
    pub fn is_for(&self, spec: &SourceSpec) -> bool {
        self.spec == *spec
    }

    /// The next pair in turn that nothing is known against. O(pairs); no lock while nothing is barred.
    pub fn choose(&self, destinations: &[Destination], now_ms: u64) -> Option<Choice> {
        let sources = self.spec.addresses.len().max(1);
        let pairs = sources * destinations.len();
        let start = self.turn.fetch_add(1, Relaxed);
        (0..pairs)
            .map(|step| (start + step) % pairs)
            .map(|pair| Choice {
                destination: pair % destinations.len(),
                source: self.spec.addresses.get(pair / destinations.len()).copied(),
            })
            .find(|choice| {
                destinations.get(choice.destination).is_some_and(|d| {
                    fits(choice.source, d) && !self.is_barred(choice.source, d, now_ms)
                })
            })
    }

    fn is_barred(&self, source: Option<IpAddr>, destination: &Destination, now_ms: u64) -> bool {
        if self.bar_count.load(Relaxed) == 0 {
            return false;
        }
        self.lock().iter().any(|bar| {
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
        let mut bars = self.lock();
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
        let mut bars = self.lock();
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
        let bars = self.lock();
        bars.iter()
            .filter(|bar| now_ms >= bar.until_ms)
            .cloned()
            .collect()
    }

    /// What a server says to one of our addresses, if it refuses any.
    pub fn refusal(&self) -> Option<(u16, Box<str>)> {
        self.lock().iter().find_map(|bar| bar.refusal.clone())
    }

    /// Pairs that servers refuse now, for `show`.
    pub fn blocked(&self) -> Vec<Bar> {
        self.lock()
            .iter()
            .filter(|bar| !bar.destination.is_empty())
            .cloned()
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Bar>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fits(source: Option<IpAddr>, destination: &Destination) -> bool {
    match source {
        None => true,
        Some(IpAddr::V4(_)) => destination.family != libc::AF_INET6,
        Some(IpAddr::V6(_)) => destination.family != libc::AF_INET,
    }
}

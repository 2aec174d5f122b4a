//! Source ports of our own: the ledger of one destination with what the engine adds to it.
//!
//! The ledger decides (`portside_core::ports`); here are only the route's address, the counters, and the
//! rule that exhaustion is told at most once a second.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering::Relaxed};
use std::sync::Arc;

use arc_swap::ArcSwap;
use portside_core::ports::{Closed, Lease, Ledger, Port, PortRange, Sources, Spec, Who};
use portside_core::reason::ServerClose;

use crate::error::EngineError;
use crate::snapshot::{Snapshot, SourceSpec};

/// Ledgers together may take this much memory: 64 million tuples, more than any host opens.
pub const MEMORY_BYTES: u64 = 512 * 1024 * 1024;

/// Asking a connection for its TCP options costs a system call, and they change with a server's restart at most.
const ASK_PEER_EVERY: u64 = 1_024;

/// What became of the tuples of one source at one destination.
#[derive(Debug)]
pub struct SourceCounts {
    /// Leases that reached connect().
    opened: AtomicU64,
    /// By outcome, indexed by [`ServerClose`]; of sessions, not of checks.
    closes: Vec<AtomicU64>,
}

impl Default for SourceCounts {
    fn default() -> Self {
        Self {
            opened: AtomicU64::new(0),
            closes: ServerClose::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl SourceCounts {
    /// Leases that reached connect().
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Closes by outcome, those that never happened left out.
    pub fn closes(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let all = ServerClose::ALL.iter().zip(&self.closes);
        all.map(|(how, count)| (how.word(), count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
    }
}

/// The tuples towards one destination.
pub struct Ports {
    /// Who decides.
    pub ledger: Ledger,
    /// By our address; an address that a reload takes away keeps its counts.
    counts: ArcSwap<HashMap<IpAddr, Arc<SourceCounts>>>,
    /// Timestamps of the peer: 0 not known yet, 1 no, 2 yes.
    timestamps: AtomicU8,
    told_at: AtomicU64,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports")
            .field("timestamps", &self.timestamps)
            .finish_non_exhaustive()
    }
}

impl Ports {
    /// A fresh ledger for a destination.
    pub fn new(
        spec: &Spec,
        workers: usize,
        registry: &Arc<Sources>,
        destination: SocketAddr,
        server: &str,
    ) -> Result<Self, EngineError> {
        // Spreads several destinations over the range: bind() takes 12 ns per owner of the same port. Two servers at one
        // destination begin at different places, so that they seldom want the same tuple.
        let rotation = match destination.ip() {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip) as u64,
        };
        let rotation =
            (rotation ^ u64::from(destination.port())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let rotation = server.bytes().fold(rotation, |rotation, byte| {
            (rotation ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Ledger::new(spec, workers, registry, rotation)
            .map(|ledger| Self {
                ledger,
                counts: ArcSwap::default(),
                timestamps: AtomicU8::new(0),
                told_at: AtomicU64::new(0),
            })
            .map_err(|e| EngineError::snapshot(format!("source of {destination}: {e}")))
    }

    /// The counts of one of our addresses. One hash per call; a new address allocates once.
    pub fn counts(&self, source: IpAddr) -> Arc<SourceCounts> {
        if let Some(found) = self.counts.load().get(&source) {
            return Arc::clone(found);
        }
        let fresh = Arc::new(SourceCounts::default());
        let old = self.counts.rcu(|old| {
            let mut new = HashMap::clone(old);
            new.entry(source).or_insert_with(|| Arc::clone(&fresh));
            new
        });
        old.get(&source).map_or(fresh, Arc::clone)
    }

    /// A tuple reached connect().
    pub fn count_opened(&self, source: IpAddr) {
        self.counts(source).opened.fetch_add(1, Relaxed);
    }

    /// Whether the peer uses timestamps; none before the first close.
    pub fn peer_timestamps(&self) -> Option<bool> {
        match self.timestamps.load(Relaxed) {
            0 => None,
            known => Some(known == 2),
        }
    }

    /// True at most once a second: exhaustion is one event, not one per session.
    pub fn may_tell(&self, now: u64) -> bool {
        let told = self.told_at.load(Relaxed);
        now >= told + 1_000
            && self
                .told_at
                .compare_exchange(told, now, Relaxed, Relaxed)
                .is_ok()
    }

    /// `in use of all`, for texts. A check that has its tuple back counts as the reserve it is of.
    pub fn fill(&self) -> (u64, u64) {
        self.ledger
            .stats()
            .iter()
            .fold((0, 0), |(busy, size), row| {
                (
                    busy + u64::from(row.size - row.free - row.reserved),
                    size + u64::from(row.size - row.reserved),
                )
            })
    }

    /// The sentence about a ledger that has nothing left.
    pub fn none_left(&self, server: &str, destination: &str) -> String {
        let (busy, size) = self.fill();
        format!("server {server}: no source port towards {destination} ({busy} of {size} busy)")
    }

    /// Whether each of its addresses is among those that are gone from this host.
    pub fn has_no_source(&self, gone: &[IpAddr]) -> bool {
        let rows = self.ledger.stats();
        rows.iter().all(|row| gone.contains(&row.source))
    }

    /// No tuple is left for sessions, now.
    pub fn is_exhausted(&self) -> bool {
        let rows = self.ledger.stats();
        rows.iter().all(|row| row.free + row.resting == 0)
    }
}

/// Which tuples a destination may use; none when ports are the kernel's to choose.
pub fn spec(
    source: &SourceSpec,
    destination: SocketAddr,
    excluded: &[(Option<IpAddr>, Port)],
) -> Option<Spec> {
    let ports = source.ports.and_then(|(lo, hi)| PortRange::new(lo, hi))?;
    let mut sources: Vec<IpAddr> = source
        .addresses
        .iter()
        .copied()
        .filter(|ip| ip.is_ipv4() == destination.is_ipv4())
        .collect();
    if sources.is_empty() && source.addresses.is_empty() {
        sources.extend(route_address(destination));
    }
    (!sources.is_empty()).then(|| Spec {
        sources,
        ports,
        reserve: source.reserve.min(u32::from(u16::MAX)) as u16,
        excluded: excluded.to_vec(),
    })
}

/// The address that the route to a destination uses: a connected UDP socket sends nothing and knows.
fn route_address(destination: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if destination.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(destination).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip())
}

/// Our own TCP listeners: their ports are left out of the rings.
pub fn listening_ports(snapshot: &Snapshot) -> Vec<(Option<IpAddr>, Port)> {
    snapshot
        .services
        .iter()
        .flat_map(|service| &service.listen)
        .filter_map(|listen| listen.address.parse::<SocketAddr>().ok())
        .filter_map(|addr| {
            let ip = (!addr.ip().is_unspecified()).then_some(addr.ip());
            Port::new(addr.port()).map(|port| (ip, port))
        })
        .collect()
}

/// A tuple in use by a session or a check, with the way back. Dropped without a word (a panic closed the socket with our
/// FIN) it goes back as a TIME_WAIT.
#[derive(Debug)]
pub struct Held {
    ports: Arc<Ports>,
    lease: Option<Lease>,
    who: Who,
    source: SocketAddr,
    leased_at: u64,
}

impl Held {
    /// A lease and where it came from.
    pub fn new(ports: &Arc<Ports>, lease: Lease, who: Who, now: u64) -> Self {
        Self {
            ports: Arc::clone(ports),
            who,
            source: SocketAddr::new(lease.source(), lease.port().get()),
            leased_at: now,
            lease: Some(lease),
        }
    }

    /// Our side.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Counts how the connection is closed; `has_timestamps` is asked now and then, on the connection still open.
    pub fn closing(&self, how: ServerClose, has_timestamps: impl FnOnce() -> bool) {
        if how == ServerClose::None {
            return;
        }
        let counts = self.ports.counts(self.source.ip());
        let before = counts.closes[how as usize].fetch_add(1, Relaxed);
        // What was never connected has no options.
        if how != ServerClose::Lost && before % ASK_PEER_EVERY == 0 {
            let known = 1 + u8::from(has_timestamps());
            self.ports.timestamps.store(known, Relaxed);
        }
    }

    /// Whether the tuple was used before, so that its former connection may still be open at the server.
    pub fn is_reused(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::is_reused)
    }

    /// Whether a reset on this path is not to be relied on.
    pub fn resets_are_lost(&self, now: u64) -> bool {
        self.ports.ledger.resets_lost(now)
    }

    /// connect() succeeded, but only after the tuple's former connection had answered it: our reset to that was lost.
    pub fn old_connection_answered(&mut self) {
        if let Some(lease) = self.lease.as_mut().filter(|l| l.is_reused()) {
            lease.mark_old_connection_answered();
        }
    }

    /// Back to the ledger, with how it ended.
    pub fn give_back(mut self, how: Closed, now: u64) {
        self.end(how, now);
    }

    fn end(&mut self, how: Closed, now: u64) {
        if let Some(lease) = self.lease.take() {
            let back = self.ports.ledger.give_back(lease, self.who, how, now);
            debug_assert!(back.is_ok(), "a lease went to a ledger it is not of");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let how = Closed::WeFirst {
            peer_timestamps: false,
        };
        self.end(how, self.leased_at);
    }
}

/// What a close means for the tuple's next use.
pub fn after(how: ServerClose, peer_timestamps: bool) -> Closed {
    match how {
        ServerClose::EofReset | ServerClose::Lost => Closed::ServerFirst,
        ServerClose::EofFin => Closed::ServerFirstFin,
        // With linger2 the kernel forgets the connection once its FIN is acknowledged, unless the server's FIN crosses it:
        // then it keeps a TIME_WAIT all the same.
        ServerClose::Fin | ServerClose::Linger2 | ServerClose::LateLinger2 => {
            Closed::WeFirst { peer_timestamps }
        }
        ServerClose::ResetNow
        | ServerClose::LateReset
        | ServerClose::Abandoned
        | ServerClose::Cut
        | ServerClose::None => Closed::Reset,
    }
}

//! The port ledger: which (source address, source port) the next connection to a destination uses.
//!
//! Pure: time is an argument, sockets are somebody else's. The engine leases a tuple, binds and connects
//! with it, and gives it back saying how that ended. One [`Ledger`] per destination, shared by all
//! workers; one [`Sources`] per process for what is true of an address or a port whatever the destination.
//! docs/internals/ports.md has the reasoning.
//!
//! What the caller does:
//!
//! ```text
//! attempt = Attempt::new()
//! loop: lease(who, &mut attempt, now)    None -> queue the session until next_due_ms() or a give_back
//!       bind + connect                   a local refusal -> give_back(PortInUse | TupleInUse | ..), again
//!       ... the session ...
//!       give_back(lease, how it closed, now)
//! ```
//!
//! Rules (facts measured on Linux 6.18, see docs/internals/ports.md):
//! - A tuple that is due comes first, the one unused for longest; then one that still rests after a
//!   server-first close, at once; then one probe per attempt of another resting one. A blocked tuple and
//!   one in `TIME_WAIT` never before it is due.
//! - While the path eats resets, a tuple that we reset rests as one in `TIME_WAIT` does; see [`Ledger::resets_lost`].
//! - A worker's lists are its own. It borrows never-used tuples from the depot in chunks of [`CHUNK`], and
//!   when the depot is empty takes up to a chunk of due ones from another worker: no lease fails while a
//!   usable tuple exists anywhere in the process.
//! - Memory: 8 bytes per tuple touched, in the whole process.

use std::net::IpAddr;
use std::num::NonZeroU16;

mod depot;
mod ledger;
mod lists;
mod reload;
mod resets;
mod sources;
mod space;
mod stats;
#[cfg(test)]
mod tests;

pub use ledger::{ForeignLease, Ledger};
pub use sources::Sources;
pub use space::{ledger_bytes, Spec, SpecError};
pub use stats::SourceStats;

/// Tuples that move between depot and workers at once: one lock in 64 leases.
pub const CHUNK: usize = 64;
/// Local refusals inside one attempt before the session queues: 64 x 4 us is still no delay a client sees.
pub const MAX_TRIES: u8 = 64;
/// Rest after a close, preferred, not required: above any RTT, so that the peer's last packets are gone.
pub const REST_MS: u64 = 1_000;
/// `TCP_TIMEWAIT_LEN`, include/net/tcp.h, not tunable. Also the rest on a path that loses resets.
pub const TIME_WAIT_MS: u64 = 60_000;
/// So many tuples are reused at once after their first good close, at the start and when lost resets are forgiven: a path
/// that eats resets shows within a second, not when the whole range has been used on it. More than `resets::LEAST`.
pub const CANARIES: u32 = 4;
/// First and longest pause of a port that another program holds.
pub const BLOCKED_MS: (u64, u64) = (2_000, 60_000);

/// A TCP port in host byte order, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// `None` for 0, which is not a port but a request for any.
    pub const fn new(port: u16) -> Option<Self> {
        match NonZeroU16::new(port) {
            Some(port) => Some(Self(port)),
            None => None,
        }
    }

    /// Host byte order.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// Ports from `lo` to `hi`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    lo: Port,
    hi: Port,
}

impl PortRange {
    /// `None` when `lo` is 0 or above `hi`.
    pub const fn new(lo: u16, hi: u16) -> Option<Self> {
        match (Port::new(lo), Port::new(hi)) {
            (Some(lo), Some(hi)) if lo.get() <= hi.get() => Some(Self { lo, hi }),
            _ => None,
        }
    }

    /// The first port.
    pub const fn lo(self) -> Port {
        self.lo
    }

    /// The last port.
    pub const fn hi(self) -> Port {
        self.hi
    }

    /// Ports in the range, 1 to 65535.
    pub const fn width(self) -> u32 {
        self.hi.get() as u32 - self.lo.get() as u32 + 1
    }

    /// Whether the port lies inside.
    pub const fn contains(self, port: Port) -> bool {
        self.lo.get() <= port.get() && port.get() <= self.hi.get()
    }
}

/// Whose lists are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The worker with this number, below the number given to [`Ledger::new`].
    Worker(usize),
    /// Health checks: the reserve first, then what is left for everybody.
    Checks,
}

/// How a leased tuple ended, from the view of its next use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The server's FIN came first (or its RST) and we reset: nothing is left on our side.
    ServerFirst,
    /// The server's FIN came first and ours answered it: nothing is left here, whatever the path does to resets.
    ServerFirstFin,
    /// We reset, or closed with `TCP_LINGER2`, without having seen the server's FIN.
    Reset,
    /// Our FIN was first: a `TIME_WAIT` here. With timestamps at both ends the kernel reuses it at once.
    WeFirst {
        /// `TCP_INFO` says that the peer uses timestamps.
        peer_timestamps: bool,
    },
    /// `connect()` was refused or timed out: the server's matter, the tuple rests.
    NotConnected,
    /// bind: `EADDRINUSE`. Another program has (source, port): blocked for every destination.
    PortInUse,
    /// connect: `EADDRNOTAVAIL`. This tuple is taken or in `TIME_WAIT`.
    TupleInUse,
    /// connect was answered, but not to our SYN: the server still has the tuple's former connection open, since our
    /// reset never arrived. It forgets it within a minute (FIN-WAIT-2, `tcp_fin_timeout`).
    OpenAtServer,
    /// bind: `EADDRNOTAVAIL`. The source address is not on this host: suspended for every destination.
    SourceGone,
    /// Never given to the kernel (the client left, no descriptor): back to where it was.
    Unused,
}

/// The tries of one session at one destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempt {
    tries: u8,
    probed: bool,
}

impl Attempt {
    /// No try yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leases taken so far.
    pub fn tries(self) -> u8 {
        self.tries
    }
}

/// Which list a tuple is or was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Free,
    /// Resting after a server-first close: may be used at once when nothing is due.
    Rested,
    /// Resting after another close.
    Resting,
    TimeWait,
    Blocked,
}

/// A tuple in use. Give it back; one that is dropped stays in use until [`Ledger::reclaim`].
#[must_use = "a lease that is dropped stays in use"]
#[derive(Debug)]
pub struct Lease {
    ledger: u64,
    generation: u32,
    position: u32,
    since: u32,
    source: IpAddr,
    source_index: u16,
    port: Port,
    from: Kind,
    was_blocked: bool,
    old_connection_answered: bool,
}

impl Lease {
    /// Our address.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Our port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Whether this ledger has leased the tuple before.
    pub fn is_reused(&self) -> bool {
        self.since != 0
    }

    /// Say so when connect() on a reused tuple was answered by its former connection first: our reset to that was lost.
    pub fn mark_old_connection_answered(&mut self) {
        self.old_connection_answered = true;
    }
}

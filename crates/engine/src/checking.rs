//! Source ports for the connections that Python makes (health checks): the same ledger, from its reserve.
//!
//! Also the seed: what the kernel still holds in `TIME_WAIT` of an earlier process.

use std::net::IpAddr;
use std::sync::Arc;

use portside_core::ports::{Attempt, Closed, Port, Who};
use serde::Deserialize;

use crate::attempt::{lift_bars, suspend};
use crate::error::EngineError;
use crate::plan::{Plan, Server};
use crate::ports::{Held, Ports};
use crate::shared::Shared;

/// A tuple lent to a check. Dropped, it goes back as one that was reset.
pub struct CheckLease {
    held: Option<Held>,
    server: Arc<Server>,
    shared: Arc<Shared>,
}

impl CheckLease {
    /// Our address.
    pub fn source(&self) -> Option<IpAddr> {
        self.held.as_ref().map(|held| held.source().ip())
    }

    /// Our port.
    pub fn port(&self) -> Option<u16> {
        self.held.as_ref().map(|held| held.source().port())
    }

    /// Whether a reset on this path is not to be relied on: close with FIN behind the server's.
    pub fn resets_are_lost(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| held.resets_are_lost(self.shared.now_ms()))
    }

    /// Gives it back; the words are those of [`how`]. A second time does nothing.
    pub fn give_back(&mut self, word: &str) -> Result<(), EngineError> {
        let closed = how(word)
            .ok_or_else(|| EngineError::snapshot(format!("{word} is no end of a lease")))?;
        self.end(closed);
        Ok(())
    }

    fn end(&mut self, closed: Closed) {
        let Some(held) = self.held.take() else {
            return;
        };
        let (source, now) = (held.source().ip(), self.shared.now_ms());
        if closed == Closed::SourceGone {
            suspend(&self.shared, &self.server, Some(source), now);
        }
        held.give_back(closed, now);
        // Without a reserve it may be the port that a session waits for.
        self.shared.slot_freed(&self.shared.plan.load());
    }
}

impl Drop for CheckLease {
    fn drop(&mut self) {
        self.end(Closed::Reset);
    }
}

/// How a check's connection ended, in the words of `_core.pyi`.
fn how(word: &str) -> Option<Closed> {
    Some(match word {
        "server-first" => Closed::ServerFirst,
        "server-first-fin" => Closed::ServerFirstFin,
        "open-at-server" => Closed::OpenAtServer,
        "we-first" => Closed::WeFirst {
            peer_timestamps: true,
        },
        "we-first-no-timestamps" => Closed::WeFirst {
            peer_timestamps: false,
        },
        "reset" => Closed::Reset,
        "not-connected" => Closed::NotConnected,
        "port-in-use" => Closed::PortInUse,
        "tuple-in-use" => Closed::TupleInUse,
        "source-gone" => Closed::SourceGone,
        "unused" => Closed::Unused,
        _ => return None,
    })
}

/// Lends a tuple whose source is none of `avoid`. `Ok(None)`: the kernel chooses the ports there.
///
/// An error: every address is gone (`EADDRNOTAVAIL`), or nothing is left, not even of the reserve (`EADDRINUSE`).
pub fn lease(
    shared: &Arc<Shared>,
    plan: &Plan,
    server: &str,
    destination: &str,
    avoid: &[IpAddr],
) -> Result<Option<CheckLease>, EngineError> {
    let now = shared.now_ms();
    // A source that another server found gone: nobody else may come by and look whether it is back.
    for server in &plan.servers {
        lift_bars(shared, server, now);
    }
    let Some(server) = plan.server(server) else {
        return Ok(None);
    };
    let to = server.destinations.iter().find(|d| d.text == destination);
    let Some(ports) = to.and_then(|to| to.ports.as_ref()) else {
        return Ok(None);
    };
    let mut attempt = Attempt::new();
    let mut passed_over = Vec::new();
    let found = loop {
        let lease = ports.ledger.lease(Who::Checks, &mut attempt, now);
        match lease.map(|lease| Held::new(ports, lease, Who::Checks, now)) {
            Some(held) if avoid.contains(&held.source().ip()) => passed_over.push(held),
            other => break other,
        }
    };
    // In reverse, so that the one unused for longest is first again.
    for held in passed_over.into_iter().rev() {
        held.give_back(Closed::Unused, now);
    }
    let Some(held) = found else {
        return Err(nothing_left(shared, ports, destination));
    };
    ports.count_opened(held.source().ip());
    Ok(Some(CheckLease {
        held: Some(held),
        server: Arc::clone(server),
        shared: Arc::clone(shared),
    }))
}

/// Why a check gets no tuple; the error number tells an address that is gone from a mere shortage.
fn nothing_left(shared: &Shared, ports: &Ports, destination: &str) -> EngineError {
    let (errno, message) = if ports.has_no_source(&shared.sources.suspended()) {
        let text = format!("no source address towards {destination} is on this host");
        (libc::EADDRNOTAVAIL, text)
    } else {
        let (busy, size) = ports.fill();
        let text = format!(
            "no source port towards {destination} ({busy} of {size} busy, the reserve for checks too)"
        );
        (libc::EADDRINUSE, text)
    };
    EngineError {
        message,
        errno,
        address: String::new(),
    }
}

/// One tuple of a `sock_diag` dump.
#[derive(Deserialize)]
struct TimeWait {
    source: IpAddr,
    port: u16,
    destination: String,
    left_ms: u64,
}

/// Takes tuples that the kernel holds in `TIME_WAIT`; returns how many are in a ledger of ours.
pub fn seed(shared: &Shared, plan: &Plan, json: &str) -> Result<usize, EngineError> {
    let tuples: Vec<TimeWait> = serde_json::from_str(json)
        .map_err(|e| EngineError::snapshot(format!("TIME_WAIT list: {e}")))?;
    let now = shared.now_ms();
    let mut count = 0;
    for to in plan.servers.iter().flat_map(|server| &server.destinations) {
        let Some(ports) = to.ports.as_ref() else {
            continue;
        };
        let ours: Vec<_> = tuples
            .iter()
            .filter(|tuple| tuple.destination == to.text)
            .filter_map(|tuple| Some((tuple.source, Port::new(tuple.port)?, tuple.left_ms)))
            .collect();
        count += ports.ledger.seed(&ours, now);
    }
    Ok(count)
}

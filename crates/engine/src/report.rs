//! What the engine tells Python: statistics, sessions, codes. The one definition of their shapes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use portside_core::reason::{Cause, ClientClose, Phase, Pin, ServerClose, TlsFailure};
use serde::Serialize;

use crate::plan::{Plan, Server, Service};
use crate::shared::{Peer, Shared};

/// `Engine.sessions()`: one session.
#[derive(Debug, Clone, Serialize)]
pub struct SessionReport {
    /// For `kill`.
    pub id: u64,
    /// `ip:port` or `unix`.
    pub client: String,
    /// Name.
    pub service: String,
    /// Name, "" until chosen; pool mode: "" while it has no connection.
    pub server: String,
    /// Our `ip:port`, "" until known; pool mode as `server`.
    pub source: String,
    /// Their address, "" until chosen; pool mode as `server`.
    pub destination: String,
    /// Phase, or `closing`.
    pub state: &'static str,
    /// Since accept.
    pub age_s: f64,
    /// Since anything moved.
    pub idle_s: f64,
    /// Relayed.
    pub to_server_bytes: u64,
    /// Relayed.
    pub to_client_bytes: u64,
    /// Pool mode: its account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Pool mode: what its client calls itself (the connection attribute `program_name`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Pool mode: the id that its greeting gave: CONNECTION_ID(), and what KILL takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<u32>,
    /// Pool mode: the id on the server of the connection that it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_connection_id: Option<u32>,
    /// Pool mode: why it keeps its server connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<&'static str>,
    /// Pool mode: version of the client's TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'static str>,
    /// Its cipher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cipher: Option<&'static str>,
}

/// One row of `explain_codes()`.
#[derive(Debug, Serialize)]
#[allow(clippy::struct_field_names)] // the keys of the contract
pub struct Code {
    code: &'static str,
    kind: &'static str,
    text: &'static str,
}

/// Every code that can stand in a log line or a metric.
pub fn codes() -> Vec<Code> {
    let mut codes = Vec::new();
    let mut add = |code, kind, text| codes.push(Code { code, kind, text });
    for cause in Cause::ALL {
        add(cause.word(), "cause", cause.text());
    }
    for phase in Phase::ALL {
        add(phase.word(), "phase", phase.text());
    }
    for pin in Pin::ALL {
        add(pin.word(), "pin", pin.text());
    }
    for failure in TlsFailure::ALL {
        add(failure.word(), "TLS failure", failure.text());
    }
    for close in ServerClose::ALL {
        add(close.word(), "server close", close.text());
    }
    for close in ClientClose::ALL {
        add(close.word(), "client close", close.text());
    }
    codes
}

#[derive(Serialize)]
struct WorkerStats {
    id: usize,
    alive: bool,
    sessions: u32,
    accepted_total: u64,
    loops_total: u64,
}

#[derive(Serialize)]
struct MemberStats<'a> {
    server: &'a str,
    sessions: u32,
    sessions_total: u64,
}

#[derive(Serialize)]
struct ServiceStats<'a> {
    name: &'a str,
    sessions: u32,
    queued: u32,
    accepted_total: u64,
    refused_total: u64,
    commands_refused_total: u64,
    logins_failed_total: u64,
    to_server_bytes_total: u64,
    to_client_bytes_total: u64,
    members: Vec<MemberStats<'a>>,
}

#[derive(Serialize)]
struct Blocked {
    source: String,
    destination: String,
    /// The server's number and text.
    error: Option<(u16, String)>,
    since_s: f64,
}

#[derive(Serialize)]
struct ServerStats<'a> {
    name: &'a str,
    sessions: u32,
    sessions_total: u64,
    connect_failures_total: u64,
    left_before_login_total: u64,
    close_deadlines_total: u64,
    breaker: &'static str,
    connect_error: Option<String>,
    pool_connections: u32,
    pool_busy: u32,
    pool_opened_total: u64,
    pool_reprepares_total: u64,
    pool_logins_failed_total: u64,
    pool_login_error: Option<String>,
    pool_full_error: Option<String>,
    read_only_errors_total: u64,
    destinations: Vec<&'a str>,
    hosts_blocked: Vec<Blocked>,
}

#[derive(Serialize)]
struct Closes {
    server: BTreeMap<&'static str, u64>,
    client: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct TlsStats {
    client: TlsPeer,
    server: TlsPeer,
}

#[derive(Serialize)]
struct TlsPeer {
    handshakes_total: u64,
    failures: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct LogStats {
    written_total: u64,
    dropped_total: u64,
}

#[derive(Serialize)]
struct Stats<'a> {
    generation: u64,
    uptime_s: f64,
    accepting: bool,
    workers: Vec<WorkerStats>,
    services: Vec<ServiceStats<'a>>,
    servers: Vec<ServerStats<'a>>,
    closes: Closes,
    terminations: BTreeMap<String, u64>,
    pins: BTreeMap<&'static str, u64>,
    tls: TlsStats,
    log: LogStats,
    events_dropped_total: u64,
}

/// `Engine.ports()`: one (source, destination). `in_use` to `reserved` add up to `size`.
#[derive(Serialize)]
struct PortStats<'a> {
    server: &'a str,
    source: String,
    destination: &'a str,
    size: u32,
    in_use: u32,
    resting: u32,
    blocked: u32,
    time_wait: u32,
    free: u32,
    reserved: u32,
    wasted_probes: u64,
    opened_total: u64,
    /// By outcome since the start; outcomes that never happened are left out.
    closes: BTreeMap<&'static str, u64>,
    /// Of the peer; null before the first close.
    peer_timestamps: Option<bool>,
    resets_lost: bool,
}

/// The whole of `Engine.ports()` as JSON: only destinations whose ports are ours to choose.
pub fn ports(shared: &Shared, plan: &Plan) -> String {
    let now_ms = shared.now_ms();
    let mut rows = Vec::new();
    for server in &plan.servers {
        for to in &server.destinations {
            let Some(ports) = to.ports.as_ref() else {
                continue;
            };
            rows.extend(ports.ledger.stats().into_iter().map(|row| {
                let counts = ports.counts(row.source);
                PortStats {
                    server: &server.name,
                    source: row.source.to_string(),
                    destination: &to.text,
                    size: row.size,
                    in_use: row.in_use,
                    resting: row.resting,
                    blocked: row.blocked,
                    time_wait: row.time_wait,
                    free: row.free,
                    reserved: row.reserved,
                    wasted_probes: row.wasted_probes,
                    opened_total: counts.opened(),
                    closes: counts.closes().collect(),
                    peer_timestamps: ports.peer_timestamps(),
                    resets_lost: ports.ledger.resets_lost(now_ms),
                }
            }));
        }
    }
    serde_json::to_string(&rows).unwrap_or_else(|_| "[]".into())
}

/// The whole of `Engine.stats()` as JSON.
pub fn stats(shared: &Shared, plan: &Plan) -> String {
    let now_ms = shared.now_ms();
    let stats = Stats {
        generation: plan.generation,
        uptime_s: shared.epoch.elapsed().as_secs_f64(),
        accepting: plan.accepting,
        workers: shared
            .workers
            .iter()
            .enumerate()
            .map(|(id, w)| WorkerStats {
                id,
                alive: w.alive.load(Relaxed),
                sessions: w.sessions.load(Relaxed),
                accepted_total: w.accepted.load(Relaxed),
                loops_total: w.loops.load(Relaxed),
            })
            .collect(),
        services: plan.services.iter().map(|s| service_stats(s)).collect(),
        servers: plan
            .servers
            .iter()
            .map(|s| server_stats(s, now_ms))
            .collect(),
        closes: Closes {
            server: shared.outcomes.server().collect(),
            client: shared.outcomes.client().collect(),
        },
        terminations: shared.outcomes.terminations().collect(),
        pins: shared.outcomes.pins().collect(),
        tls: TlsStats {
            client: tls_peer(shared, Peer::Client),
            server: tls_peer(shared, Peer::Server),
        },
        log: LogStats {
            written_total: shared.log.written(),
            dropped_total: shared.log.lost(),
        },
        events_dropped_total: shared.events.dropped.load(Relaxed),
    };
    serde_json::to_string(&stats).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
}

fn tls_peer(shared: &Shared, peer: Peer) -> TlsPeer {
    TlsPeer {
        handshakes_total: shared.outcomes.tls_good(peer),
        failures: shared.outcomes.tls_failed(peer).collect(),
    }
}

fn service_stats(service: &Service) -> ServiceStats<'_> {
    let state = &service.state;
    ServiceStats {
        name: &service.name,
        sessions: state.active.load(Relaxed),
        queued: state.queued.load(Relaxed),
        accepted_total: state.accepted.load(Relaxed),
        refused_total: state.refused.load(Relaxed),
        commands_refused_total: state.commands_refused.load(Relaxed),
        logins_failed_total: state.logins_failed.load(Relaxed),
        to_server_bytes_total: state.to_server_bytes.load(Relaxed),
        to_client_bytes_total: state.to_client_bytes.load(Relaxed),
        members: service
            .members
            .iter()
            .map(|m| MemberStats {
                server: &m.server.name,
                sessions: m.state.active.load(Relaxed),
                sessions_total: m.state.total.load(Relaxed),
            })
            .collect(),
    }
}

fn server_stats(server: &Server, now_ms: u64) -> ServerStats<'_> {
    let state = &server.state;
    ServerStats {
        name: &server.name,
        sessions: state.active.load(Relaxed),
        sessions_total: state.total.load(Relaxed),
        connect_failures_total: state.failures.load(Relaxed),
        left_before_login_total: state.left_before_login.load(Relaxed),
        close_deadlines_total: state.close_deadlines.load(Relaxed),
        breaker: state.breaker.state().phase().name(),
        connect_error: state.connect_error(now_ms),
        pool_connections: state.pool.open.load(Relaxed),
        pool_busy: state.pool.busy.load(Relaxed),
        pool_opened_total: state.pool.opened.load(Relaxed),
        pool_reprepares_total: state.pool.reprepared.load(Relaxed),
        pool_logins_failed_total: state.pool.logins_failed.load(Relaxed),
        pool_login_error: state.pool.login_error(now_ms),
        pool_full_error: state.pool.full_error(now_ms),
        read_only_errors_total: state.pool.read_only_errors.load(Relaxed),
        destinations: server
            .destinations
            .iter()
            .map(|d| d.text.as_str())
            .collect(),
        hosts_blocked: server
            .sources
            .blocked()
            .into_iter()
            .map(|bar| Blocked {
                source: bar.source.map_or_else(String::new, |ip| ip.to_string()),
                error: bar.refusal.map(|(number, text)| (number, text.into())),
                since_s: (now_ms.saturating_sub(bar.since_ms)) as f64 / 1000.0,
                destination: bar.destination,
            })
            .collect(),
    }
}

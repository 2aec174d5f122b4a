//! A snapshot made ready for the workers: addresses parsed, names resolved to shared objects.
//!
//! A [`Plan`] is immutable and replaced whole (ArcSwap). What lives longer than a snapshot, counters,
//! slots and breakers, hangs on it as `Arc`s found again by name, so a reload keeps them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use portside_core::balance::{self, Algorithm};
use portside_core::breaker::{Breaker, Phase};
use portside_core::ports::{Port, Sources};
use portside_core::relay::{Rules, ToClient, ToServer};
use socket2::SockAddr;

use crate::error::EngineError;
use crate::listen::{Listener, Listeners};
use crate::news::{Told, Trouble};
use crate::pool::{Accounts, ServerPool};
use crate::ports::{self, Ports};
use crate::snapshot::{CloseSpec, MemberSpec, PoolSpec, ServerSpec, ServiceSpec, Snapshot};
use crate::source::SourceBook;
use crate::tls::{Behind, Front};

/// Where a connection goes: one address of one server.
#[derive(Debug)]
pub struct Destination {
    /// As in the configuration; for logs.
    pub text: String,
    /// For connect().
    pub addr: SockAddr,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: libc::c_int,
    /// Source ports of our own; none: the kernel chooses.
    pub ports: Option<Arc<Ports>>,
}

impl Destination {
    fn parse(text: &str) -> Result<Self, EngineError> {
        let addr = parse_address(text)?;
        Ok(Self {
            text: text.to_owned(),
            family: libc::c_int::from(addr.family()),
            addr,
            ports: None,
        })
    }

    /// Unix sockets have no ports.
    pub fn is_tcp(&self) -> bool {
        self.family != libc::AF_UNIX
    }
}

/// Parses `ip:port`, `[ip6]:port` or `unix:PATH`.
pub fn parse_address(text: &str) -> Result<SockAddr, EngineError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return SockAddr::unix(path)
            .map_err(|e| EngineError::snapshot(format!("unix socket path {path}: {e}")));
    }
    text.parse::<SocketAddr>().map(SockAddr::from).map_err(|_| {
        EngineError::snapshot(format!("{text} is not ip:port, [ip6]:port or unix:PATH"))
    })
}

/// What a server keeps over reloads.
#[derive(Debug, Default)]
pub struct ServerState {
    /// Sessions now: the slots of `max_connections` and the load of leastconn.
    pub active: AtomicU32,
    /// Sessions ever.
    pub total: AtomicU64,
    /// Connects and greetings that failed.
    pub failures: AtomicU64,
    /// Clients that left between greeting and login.
    pub left_before_login: AtomicU64,
    /// Closes that waited for the server's FIN until the deadline.
    pub close_deadlines: AtomicU64,
    /// Three failures in a row.
    pub breaker: Breaker,
    /// The last of them.
    pub trouble: Trouble,
    /// When the last `connect_failed` event went out (ms).
    pub told_at: AtomicU64,
    /// Pool mode.
    pub pool: ServerPool,
}

/// One server of the present plan.
#[derive(Debug)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// All addresses of the one instance.
    pub destinations: Vec<Destination>,
    /// Slots.
    pub max: u32,
    /// Send a PROXY v2 header.
    pub send_proxy: bool,
    /// For connect().
    pub connect_ms: u64,
    /// For the greeting and for the login.
    pub login_ms: u64,
    /// Keepalive idle time in seconds.
    pub keepalive_s: Option<i32>,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout_ms: Option<u32>,
    /// TLS of pooled connections to it.
    pub tls: Option<Arc<Behind>>,
    /// Our addresses and ports towards it.
    pub sources: Arc<SourceBook>,
    /// Pool mode: the limits of all services that share its connections; none: it has no such service.
    pub pool: Option<PoolSpec>,
    /// Lives longer.
    pub state: Arc<ServerState>,
}

impl ServerState {
    /// Why the breaker is not closed, while that is news: with no client left to try it, nobody knows whether it
    /// still is so, and who asks `/healthz` must not keep them away for ever.
    pub fn connect_error(&self, now_ms: u64) -> Option<String> {
        let is_closed = self.breaker.state().phase() == Phase::Closed;
        let last = || self.trouble.last(now_ms, TROUBLE_MS);
        (!is_closed).then(last).flatten()
    }
}

/// Longer than any sensible `timeouts.connect`, whose failures come one after the other.
const TROUBLE_MS: u64 = 30_000;

/// A counter that is also a limit: takes a slot only while fewer than `max` are taken. Exact over threads.
pub fn take_slot(active: &AtomicU32, max: u32) -> bool {
    active
        .fetch_update(SeqCst, Relaxed, |n| (n < max).then_some(n + 1))
        .is_ok()
}

/// Counters of one member of one service.
#[derive(Debug, Default)]
pub struct MemberState {
    /// Pool mode: connections lent to its sessions or being opened for them, where the service has a lower
    /// limit than the server.
    pub lent: AtomicU32,
    /// Sessions now.
    pub active: AtomicU32,
    /// Sessions ever.
    pub total: AtomicU64,
}

/// A server as a member of a service.
#[derive(Debug)]
pub struct Member {
    /// The server.
    pub server: Arc<Server>,
    /// Why not, in words.
    pub why: String,
    /// Timeouts and closes for this pair.
    pub rules: Rules,
    /// Pool mode: how many connections the service's sessions may use at a time, if fewer than the server has.
    pub own_max: Option<u32>,
    /// Lives longer.
    pub state: Arc<MemberState>,
}

/// What a service keeps over reloads.
#[derive(Debug, Default)]
pub struct ServiceState {
    /// Sessions that hold a slot of the service.
    pub active: AtomicU32,
    /// Sessions waiting, in all workers.
    pub queued: AtomicU32,
    /// Of these, per worker.
    pub waiting: Vec<AtomicU32>,
    /// Accepted ever.
    pub accepted: AtomicU64,
    /// Answered with an ERR or denied.
    pub refused: AtomicU64,
    /// Pool mode: commands answered with an ERR of ours.
    pub commands_refused: AtomicU64,
    /// Pool mode: the event that there was no connection for some of them.
    pub exhausted_told: Told,
    /// Pool mode: clients that could not log in.
    pub logins_failed: AtomicU64,
    /// Bytes relayed.
    pub to_server_bytes: AtomicU64,
    /// Bytes relayed.
    pub to_client_bytes: AtomicU64,
    /// Sessions per client address; only kept where a limit is set.
    pub clients: Mutex<HashMap<IpAddr, u32>>,
}

/// One service of the present plan.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Peers that must send a PROXY header.
    pub accept_proxy: Vec<IpNet>,
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    probes: Vec<IpNet>,
    /// How it spreads.
    pub algorithm: Algorithm,
    /// For the balancer, same order as `members`.
    pub balance: Vec<balance::Member>,
    /// Its servers.
    pub members: Vec<Member>,
    /// Slots.
    pub max: u32,
    /// Sessions that may wait.
    pub queue: u32,
    /// Sessions per client address.
    pub max_per_client: Option<u32>,
    /// Longest wait.
    pub queue_ms: Option<u64>,
    /// Further tries.
    pub retries: u32,
    /// Rules while no server is chosen.
    pub rules: Rules,
    /// Clients wait.
    pub paused: bool,
    /// Pool mode; none: relay mode.
    pub pool: Option<PoolSpec>,
    /// Pool mode: its certificate.
    pub tls: Option<Arc<Front>>,
    /// Pool mode: who may log in, by name.
    pub users: Accounts,
    /// Pool mode: the version that clients are told; none: that of the servers.
    pub server_version: Option<String>,
    /// Lives longer.
    pub state: Arc<ServiceState>,
}

fn contains(nets: &[IpNet], ip: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&ip))
}

impl Service {
    /// Whether a member takes sessions.
    pub fn uses(&self, member: usize) -> bool {
        self.balance
            .get(member)
            .is_some_and(|m| m.eligible && m.weight() > 0)
    }

    /// Whether a client may come at all.
    pub fn admits(&self, ip: IpAddr) -> bool {
        !contains(&self.deny, ip) && (self.allow.is_empty() || contains(&self.allow, ip))
    }

    /// Whether this is another balancer's probe.
    pub fn is_probe(&self, ip: IpAddr) -> bool {
        contains(&self.probes, ip)
    }

    /// Whether this peer must begin with a PROXY header.
    pub fn speaks_proxy(&self, ip: Option<IpAddr>) -> bool {
        !self.accept_proxy.is_empty() && ip.is_some_and(|ip| contains(&self.accept_proxy, ip))
    }
}

/// Everything the workers look at.
#[derive(Debug)]
pub struct Plan {
    /// Of the snapshot.
    pub generation: u64,
    /// False while draining.
    pub accepting: bool,
    /// Sessions the process may hold.
    pub max_sessions: u32,
    /// In the file's order.
    pub servers: Vec<Arc<Server>>,
    /// In the file's order.
    pub services: Vec<Arc<Service>>,
    /// Sockets with the position of their service; empty while draining. Not in `Service`: sessions hold
    /// that, and a listener must close while they run on.
    pub listeners: Vec<(Arc<Listener>, usize)>,
}

fn rules(close: &CloseSpec, service: &ServiceSpec) -> Result<Rules, EngineError> {
    let to_server = match close.to_server.as_str() {
        "eof-reset" => ToServer::EofReset,
        "eof" => ToServer::Eof,
        "linger2" => ToServer::Linger2,
        "reset-now" => ToServer::ResetNow,
        "fin" => ToServer::Fin,
        other => return Err(EngineError::snapshot(format!("close.to_server {other}"))),
    };
    let to_client = match service.to_client.as_str() {
        "fin-reset" => ToClient::FinReset,
        "fin" => ToClient::Fin,
        other => return Err(EngineError::snapshot(format!("close.to_client {other}"))),
    };
    Ok(Rules {
        to_server,
        to_client,
        deadline_ms: close.deadline_ms,
        abandon_bytes: close.abandon_bytes,
        abandon_ms: close.abandon_ms,
        tls_hold_ms: close.tls_hold_ms,
        connect_ms: 0,
        login_ms: 0,
        idle_ms: service.idle_ms,
    })
}

/// Rules of a session that has no server: only the client side of them is used.
fn no_server_rules(service: &ServiceSpec) -> Result<Rules, EngineError> {
    let close = CloseSpec {
        to_server: "eof-reset".into(),
        deadline_ms: 0,
        abandon_bytes: 0,
        abandon_ms: 0,
        tls_hold_ms: 0,
    };
    rules(&close, service)
}

impl Plan {
    /// Compiles a snapshot; listeners are bound here, so nothing has changed when this fails.
    pub fn build(
        snapshot: &Snapshot,
        old: Option<&Plan>,
        listeners: &mut Listeners,
        registry: &Arc<Sources>,
    ) -> Result<Self, EngineError> {
        // Listeners first: they can be refused by the system, and ledgers must not change if they are.
        let mut lent = Vec::new();
        for (index, spec) in snapshot
            .services
            .iter()
            .enumerate()
            .filter(|_| snapshot.accepting)
        {
            for listen in &spec.listen {
                lent.push((listeners.lend(listen, snapshot.workers)?, index));
            }
        }
        let excluded = ports::listening_ports(snapshot);
        let mut servers: Vec<Arc<Server>> = Vec::with_capacity(snapshot.servers.len());
        for spec in &snapshot.servers {
            let mut server = build_server(spec, snapshot, old)?;
            for destination in &mut server.destinations {
                let heir =
                    old.and_then(|old| old.ledger_for(&spec.name, &destination.text, snapshot));
                let kept = heir.filter(|ledger| !servers.iter().any(|s| uses(s, ledger)));
                destination.ports = build_ports(
                    spec,
                    destination,
                    &excluded,
                    snapshot.workers,
                    registry,
                    kept,
                )?;
            }
            servers.push(Arc::new(server));
        }
        let mut services = Vec::with_capacity(snapshot.services.len());
        for spec in &snapshot.services {
            let service = build_service(spec, snapshot, &servers, old)?;
            services.push(Arc::new(service));
        }
        Ok(Self {
            generation: snapshot.generation,
            accepting: snapshot.accepting,
            max_sessions: u32::try_from(snapshot.max_sessions).unwrap_or(u32::MAX),
            servers,
            services,
            listeners: lent,
        })
    }

    /// The ledger that a server goes on with in a new snapshot: its own, or that of a server which is gone from the
    /// snapshot (renamed). Never one that another server uses: its addresses may be others.
    fn ledger_for(&self, server: &str, to: &str, new: &Snapshot) -> Option<&Arc<Ports>> {
        let is_gone = |name: &str| new.servers.iter().all(|s| s.name != name);
        let of = |s: &'_ Arc<Server>| s.destinations.iter().position(|d| d.text == to);
        let mut heirs = self
            .server(server)
            .into_iter()
            .chain(self.servers.iter().filter(|s| is_gone(&s.name)));
        let (owner, at) = heirs.find_map(|s| of(s).map(|at| (s, at)))?;
        owner.destinations.get(at)?.ports.as_ref()
    }

    /// A server by name.
    pub fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.servers.iter().find(|s| s.name == name)
    }

    /// A service by name.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.iter().find(|s| s.name == name)
    }
}

fn uses(server: &Server, ledger: &Arc<Ports>) -> bool {
    let mut ledgers = server
        .destinations
        .iter()
        .filter_map(|to| to.ports.as_ref());
    ledgers.any(|one| Arc::ptr_eq(one, ledger))
}

fn build_server(
    spec: &ServerSpec,
    snapshot: &Snapshot,
    old: Option<&Plan>,
) -> Result<Server, EngineError> {
    let has = |service: &&ServiceSpec| service.members.iter().any(|m| m.server == spec.name);
    let pools = (snapshot.services.iter().filter(has)).filter_map(|service| service.pool);
    let before = old.and_then(|plan| plan.server(&spec.name));
    let destinations = spec
        .destinations
        .iter()
        .map(|text| Destination::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Server {
        name: spec.name.clone(),
        destinations,
        max: spec.max_connections.unwrap_or(u32::MAX),
        send_proxy: spec.send_proxy,
        connect_ms: spec.connect_ms,
        login_ms: spec.login_ms,
        keepalive_s: spec
            .keepalive_ms
            .map(|ms| (ms / 1000).clamp(1, 32_767) as i32),
        user_timeout_ms: spec
            .user_timeout_ms
            .map(|ms| ms.min(u64::from(u32::MAX)) as u32),
        tls: match spec.tls.as_ref() {
            Some(tls) => Some(
                Behind::build(tls, before.and_then(|b| b.tls.as_ref())).map_err(|text| {
                    EngineError::snapshot(format!("server {}: tls: {text}", spec.name))
                })?,
            ),
            None => None,
        },
        sources: match before {
            Some(b) if b.sources.is_for(&spec.source) => Arc::clone(&b.sources),
            _ => Arc::new(SourceBook::new(spec.source.clone())),
        },
        pool: pools.reduce(PoolSpec::and),
        state: before.map_or_else(Arc::default, |b| Arc::clone(&b.state)),
    })
}

/// The ledger of a server's destination: the one in use with the new ranges, or a new one.
///
/// Two servers at one destination have a ledger each, since their addresses may differ. Where they share some, one may meet
/// a tuple of the other's: the kernel says so in 4 us, and the next is tried.
fn build_ports(
    server: &ServerSpec,
    destination: &Destination,
    excluded: &[(Option<IpAddr>, Port)],
    workers: usize,
    registry: &Arc<Sources>,
    kept: Option<&Arc<Ports>>,
) -> Result<Option<Arc<Ports>>, EngineError> {
    let Some(to) = destination.addr.as_socket() else {
        return Ok(None);
    };
    let Some(spec) = ports::spec(&server.source, to, excluded) else {
        return Ok(None);
    };
    if let Some(kept) = kept {
        kept.ledger
            .set_ranges(&spec)
            .map_err(|e| EngineError::snapshot(format!("source of {to}: {e}")))?;
        return Ok(Some(Arc::clone(kept)));
    }
    Ports::new(&spec, workers, registry, to, &server.name).map(|ports| Some(Arc::new(ports)))
}

fn build_service(
    spec: &ServiceSpec,
    snapshot: &Snapshot,
    servers: &[Arc<Server>],
    old: Option<&Plan>,
) -> Result<Service, EngineError> {
    let before = old.and_then(|plan| plan.service(&spec.name));
    let new_state = || ServiceState {
        waiting: (0..snapshot.workers).map(|_| AtomicU32::new(0)).collect(),
        ..ServiceState::default()
    };
    let mut members = Vec::with_capacity(spec.members.len());
    let mut weights = Vec::with_capacity(spec.members.len());
    for member in &spec.members {
        members.push(build_member(member, spec, servers, before)?);
        weights.push(balance::Member::new(
            &member.server,
            member.weight,
            member.backup,
            member.eligible,
        ));
    }
    let front = |tls| Front::build(tls, before.and_then(|b| b.tls.as_ref()));
    let tls = spec
        .tls
        .as_ref()
        .map(front)
        .transpose()
        .map_err(|text| EngineError::snapshot(format!("service {}: tls: {text}", spec.name)))?;
    Ok(Service {
        name: spec.name.clone(),
        accept_proxy: spec.accept_proxy.clone(),
        allow: spec.allow.clone(),
        deny: spec.deny.clone(),
        probes: spec.probe_networks.clone(),
        algorithm: Algorithm::from_name(&spec.balance)
            .ok_or_else(|| EngineError::snapshot(format!("balance {}", spec.balance)))?,
        balance: weights,
        members,
        max: spec.max_connections.unwrap_or(u32::MAX),
        queue: spec.queue,
        max_per_client: spec.max_connections_per_client,
        queue_ms: spec.queue_ms,
        retries: spec.retries,
        rules: no_server_rules(spec)?,
        paused: spec.paused,
        pool: spec.pool,
        tls,
        users: match spec.pool {
            Some(_) => {
                let pem = spec.rsa_key.as_ref().map(|key| key.0.as_str());
                let old = before.map(|service| &service.users);
                Accounts::new(&spec.name, &snapshot.users, pem, old)?
            }
            None => Accounts::default(),
        },
        server_version: spec.server_version.clone(),
        state: before.map_or_else(|| Arc::new(new_state()), |b| Arc::clone(&b.state)),
    })
}

fn build_member(
    spec: &MemberSpec,
    service: &ServiceSpec,
    servers: &[Arc<Server>],
    before: Option<&Arc<Service>>,
) -> Result<Member, EngineError> {
    let server = servers
        .iter()
        .find(|s| s.name == spec.server)
        .ok_or_else(|| {
            EngineError::snapshot(format!(
                "service {} names unknown server {}",
                service.name, spec.server
            ))
        })?;
    let rules = Rules {
        connect_ms: server.connect_ms,
        login_ms: server.login_ms,
        ..rules(&spec.close, service)?
    };
    let state = before
        .and_then(|b| b.members.iter().find(|m| m.server.name == spec.server))
        .map_or_else(Arc::default, |m| Arc::clone(&m.state));
    let own_max = service.pool.map(|pool| pool.max);
    Ok(Member {
        own_max: own_max.filter(|max| server.pool.is_some_and(|pool| *max < pool.max)),
        server: Arc::clone(server),
        why: spec.why.clone(),
        rules,
        state,
    })
}

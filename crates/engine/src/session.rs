//! What a worker holds for one session: two descriptors, the relay's state, unwritten tails, and what the log line needs.
//!
//! Data only; `worker.rs` and its siblings act on it. Kept small: an idle relayed client should cost less
//! than 2 KiB, so nothing here owns a buffer while nothing is stuck.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use portside_core::breaker::Event as Breaker;
use portside_core::ports::Closed;
use portside_core::reason::{Cause, Phase};
use portside_core::relay::{Relay, Rules, Unsent};

use crate::plan::{Member, MemberState, Server, Service, ServiceState};
use crate::pool::Pooled;
use crate::ports::Held;
use crate::report::SessionReport;
use crate::socket::Socket;
use crate::sys;

/// Who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Over TCP, or as its PROXY header says.
    Tcp(SocketAddr),
    /// Over a unix socket.
    Unix,
}

impl Client {
    /// The address, where there is one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(addr) => Some(addr.ip()),
            Self::Unix => None,
        }
    }
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The server that was chosen, and with what. Holds a slot of the server: dropped, it is free again,
/// also when a session is lost to a panic.
#[derive(Debug)]
pub struct Assigned {
    /// The server.
    pub server: Arc<Server>,
    /// Its counters in this service.
    pub member: Arc<MemberState>,
    /// Position in the service's member list.
    pub index: usize,
    /// Which of its addresses.
    pub destination: usize,
    /// Our address, as chosen; none = the route's.
    pub source_ip: Option<IpAddr>,
    /// Our side of the connection, once known.
    pub source: Option<SocketAddr>,
    /// This session is the breaker's half-open try.
    pub is_probe: bool,
    /// The tuple, where ports are ours to choose.
    pub held: Option<Held>,
}

impl Assigned {
    /// For a member whose server's slot has been taken by the caller.
    pub fn new(member: &Member, index: usize) -> Self {
        member.state.active.fetch_add(1, Relaxed);
        Self {
            server: Arc::clone(&member.server),
            member: Arc::clone(&member.state),
            index,
            destination: 0,
            source_ip: None,
            source: None,
            is_probe: false,
            held: None,
        }
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        self.member.active.fetch_sub(1, Relaxed);
        // Pairs with the load in `Shared::slot_freed`: who queues after this sees the free slot.
        self.server.state.active.fetch_sub(1, SeqCst);
    }
}

/// A slot of a service; dropped, it is free again.
#[derive(Debug)]
pub struct ServiceSlot(pub Arc<ServiceState>);

impl Drop for ServiceSlot {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, SeqCst);
    }
}

/// What the log line says about the last server, after its slot has been given back.
#[derive(Debug)]
pub struct Last {
    /// The server.
    pub server: Arc<Server>,
    /// Which of its addresses.
    pub destination: usize,
    /// Our side.
    pub source: Option<SocketAddr>,
}

/// Times on the worker's clock (ms), for the log line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// accept()
    pub accepted: u64,
    /// The server was chosen.
    pub assigned: u64,
    /// The greeting was complete.
    pub greeted: u64,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Unique in the process: worker number and serial.
    pub id: u64,
    /// Tells a reused slab slot from the session an old event meant.
    pub generation: u32,
    /// The state machine.
    pub relay: Relay,
    /// Rules of this service and server.
    pub rules: Rules,
    /// The service it came to.
    pub service: Arc<Service>,
    /// Who.
    pub client: Client,
    /// The client's connection.
    pub client_socket: Option<Socket>,
    /// The server's connection.
    pub server_socket: Option<Socket>,
    /// The server.
    pub assigned: Option<Assigned>,
    /// The greeting is not complete: `client_socket.tail` is held.
    pub holds_greeting: bool,
    /// Keepalive and user timeout are set on the server's connection.
    pub keeps_alive: bool,
    /// A PROXY header is awaited; what has come of it.
    pub proxy_header: Option<Vec<u8>>,
    /// What a balancer's check sent right behind its header, for when the greeting has gone out.
    pub early: Option<Box<[u8]>>,
    /// The last server, once its slot is free again.
    pub last: Option<Last>,
    /// A slot of the service.
    pub slot: Option<ServiceSlot>,
    /// Counted against its client address.
    pub counted_client: Option<IpAddr>,
    /// Where it waits.
    pub queued_in: Option<Arc<ServiceState>>,
    /// Failed attempts, and rounds in which nobody could be asked.
    pub failures: u32,
    /// Connects begun.
    pub attempts: u32,
    /// Members tried in this round, by position (the first 64; others may be tried twice).
    pub tried: u64,
    /// When a new round begins after every member failed.
    pub retry_at: Option<u64>,
    /// What the last failed attempt came to.
    pub last_failure: Cause,
    /// What went wrong last, for the client's ERR and the log.
    pub error: Option<Box<str>>,
    /// Every tuple towards this server was busy: what the client hears if none comes free.
    pub no_port: Option<Arc<Server>>,
    /// They were not: the last attempt only had its tries.
    pub tries_spent: bool,
    /// The last server's own ERR in place of a greeting, to be passed on if nobody else takes the session.
    pub refusal: Option<(u16, Box<str>)>,
    /// Timer in the heap.
    pub armed: Option<u64>,
    /// For the log.
    pub times: Times,
    /// Last time anything moved (ms).
    pub moved_at: u64,
    /// Bytes relayed.
    pub to_server_bytes: u64,
    /// Bytes relayed.
    pub to_client_bytes: u64,
    /// Pool mode: everything that a relayed session does not have.
    pub pooled: Option<Box<Pooled>>,
}

impl Session {
    /// A session of an accepted client.
    pub fn new(
        id: u64,
        generation: u32,
        service: Arc<Service>,
        socket: Socket,
        client: Client,
        now: u64,
    ) -> Self {
        Self {
            id,
            generation,
            relay: Relay::new(now),
            rules: service.rules,
            service,
            client,
            client_socket: Some(socket),
            server_socket: None,
            assigned: None,
            holds_greeting: false,
            keeps_alive: false,
            proxy_header: None,
            early: None,
            last: None,
            slot: None,
            counted_client: None,
            queued_in: None,
            failures: 0,
            attempts: 0,
            tried: 0,
            retry_at: None,
            last_failure: Cause::ConnectFailed,
            error: None,
            no_port: None,
            tries_spent: false,
            refusal: None,
            armed: None,
            times: Times {
                accepted: now,
                ..Times::default()
            },
            moved_at: now,
            to_server_bytes: 0,
            to_client_bytes: 0,
            pooled: None,
        }
    }

    /// What the relay's decisions need to know of the buffers.
    pub fn unsent(&self) -> Unsent {
        let stuck = |socket: &Option<Socket>| socket.as_ref().is_some_and(|s| !s.tail.is_empty());
        Unsent {
            to_server: stuck(&self.server_socket),
            to_client: stuck(&self.client_socket),
        }
    }

    /// The connect is done (epoll said writable).
    pub fn server_writable(&mut self) {
        if let Some(socket) = self.server_socket.as_mut() {
            socket.connected = true;
        }
    }

    /// epoll said EPOLLERR; what it means is found out by `connect_progress` or by the next read.
    pub fn socket_error(&mut self, is_server: bool) {
        let socket = if is_server {
            self.server_socket.as_mut()
        } else {
            self.client_socket.as_mut()
        };
        if let Some(socket) = socket {
            socket.failed = true;
            socket.readable = true;
        }
    }

    /// Sets keepalive and TCP_USER_TIMEOUT once a session has lived for a second: a PHP-like one never pays
    /// these five system calls. The timer of the connect limit comes by even if nothing else happens.
    pub fn keep_alive(&mut self, now: u64) {
        if self.keeps_alive || now < self.times.accepted + 1_000 {
            return;
        }
        let (Some(socket), Some(assigned)) = (self.server_socket.as_ref(), self.assigned.as_ref())
        else {
            return;
        };
        self.keeps_alive = true;
        // A socket that refuses an option still relays; the peer's death is then noticed later.
        if let Some(idle_s) = assigned.server.keepalive_s.filter(|_| socket.is_tcp) {
            let _ = sys::keepalive(socket.fd(), idle_s);
        }
        if let Some(ms) = assigned.server.user_timeout_ms.filter(|_| socket.is_tcp) {
            let _ = sys::user_timeout(socket.fd(), ms);
        }
    }

    /// Names the server and its address in front of what went wrong.
    pub fn name_error(&mut self, what: &str) {
        if let Some(a) = self.assigned.as_ref() {
            let destination = &a.server.destinations[a.destination].text;
            self.error = Some(format!("server {}: {destination}: {what}", a.server.name).into());
        }
    }

    /// The server's slot is free again; what it was stays known for the log.
    pub fn give_back_server(&mut self, how: Closed, now: u64) {
        if let Some(mut assigned) = self.assigned.take() {
            if let Some(held) = assigned.held.take() {
                held.give_back(how, now);
            }
            if assigned.is_probe {
                assigned.server.state.breaker.on(Breaker::Withdrawn, now);
            }
            self.last = Some(Last {
                server: Arc::clone(&assigned.server),
                destination: assigned.destination,
                source: assigned.source,
            });
        }
    }

    /// The attempt is over: back to choosing, with nothing of it left.
    pub fn leave_server(&mut self, now: u64) {
        if let Some(socket) = self.server_socket.take() {
            // Nothing was said on it: no FIN of ours may leave a TIME_WAIT.
            let _ = sys::linger_reset(socket.fd());
        }
        self.keeps_alive = false;
        self.give_back_server(Closed::NotConnected, now);
        self.holds_greeting = false;
        if let Some(client) = self.client_socket.as_mut() {
            client.tail = Vec::new();
        }
        self.relay.attempt_over(now);
    }

    /// When a waiting session is refused.
    pub fn queue_limit(&self) -> Option<u64> {
        self.service.queue_ms.map(|wait| self.times.accepted + wait)
    }

    /// This member is not asked again in this round.
    pub fn mark_tried(&mut self, member: usize) {
        self.tried |= 1_u64.checked_shl(member as u32).unwrap_or(0);
    }

    /// Whether this member was asked in this round.
    pub fn has_tried(&self, member: usize) -> bool {
        member < 64 && self.tried & (1 << member) != 0
    }

    /// For `show sessions`.
    pub fn report(&self, now: u64) -> SessionReport {
        // Between two commands a pool's session is nowhere; the log has where it was last.
        let holds = self.pooled.as_ref().is_none_or(|p| p.has_connection());
        let last = self
            .assigned
            .as_ref()
            .map(|a| (&a.server, a.destination, a.source))
            .or_else(|| {
                (self.last.as_ref().filter(|_| holds)).map(|l| (&l.server, l.destination, l.source))
            });
        SessionReport {
            id: self.id,
            client: self.client.to_string(),
            service: self.service.name.clone(),
            server: last.map_or_else(String::new, |(s, ..)| s.name.clone()),
            source: last
                .and_then(|(.., source)| source)
                .map_or_else(String::new, |s| s.to_string()),
            destination: last.map_or_else(String::new, |(s, d, _)| s.destinations[d].text.clone()),
            state: self.state_word(),
            age_s: now.saturating_sub(self.times.accepted) as f64 / 1000.0,
            idle_s: now.saturating_sub(self.moved_at) as f64 / 1000.0,
            to_server_bytes: self.to_server_bytes,
            to_client_bytes: self.to_client_bytes,
            user: self.pooled.as_ref().map(|p| p.user_name().into_owned()),
            program: (self.pooled.as_ref())
                .and_then(|p| p.program())
                .map(str::to_owned),
            connection_id: self.pooled.as_ref().and_then(|p| p.connection_id()),
            server_connection_id: (self.pooled.as_ref()).and_then(|p| p.server_connection_id()),
            pinned: (self.pooled.as_ref().filter(|_| holds)).and_then(|p| p.pin_word()),
            tls: self.pooled.as_ref().and_then(|p| p.tls).map(|tls| tls.0),
            tls_cipher: self.pooled.as_ref().and_then(|p| p.tls).map(|tls| tls.1),
        }
    }

    fn state_word(&self) -> &'static str {
        if let Some(pooled) = self.pooled.as_ref().filter(|p| !p.is_over) {
            return pooled.state_word();
        }
        match self.relay.phase() {
            _ if self.relay.is_closing() => "closing",
            Phase::Accept | Phase::Queue => "queued",
            Phase::Connect | Phase::Greeting => "connecting",
            Phase::Login => "login",
            Phase::Command => "command",
            Phase::Query | Phase::Tls => "query",
        }
    }
}

//! A client from accept to login: its slot, the greeting, its account.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use portside_core::pool::{Channel, Context, Session as Front, Step};
use portside_core::reason::{Cause, Phase};
use portside_proto::err::errno;

use super::accounts::UserSlot;
use super::client::Next;
use super::{Known, Living, Pooled};
use crate::plan::{take_slot, Member, Service};
use crate::refusal::no_server_text;
use crate::session::{Client, ServiceSlot, Session};
use crate::worker::Worker;

/// Ids of our sessions begin here, and servers hardly count so far: one that a client has learnt from a server (from
/// CONNECTION_ID() inside an expression) is nobody's here, and kills no stranger. Below 2^31: MariaDB's library for
/// Java takes them for signed.
const OURS: u32 = 1 << 30;
/// How long a client that came before any server was known waits before it looks again.
const LOOK_AGAIN_MS: u64 = 20;

impl Worker {
    /// Takes an admitted client in: its slot of the service, then the greeting.
    pub(crate) fn begin_pooled(&mut self, _index: usize, session: &mut Session) {
        let service = Arc::clone(&session.service);
        if session.slot.is_none() {
            if !take_slot(&service.state.active, service.max) {
                let text = format!(
                    "all of its {} sessions are in use (max_connections)",
                    service.max
                );
                self.refuse(
                    session,
                    Cause::QueueFull,
                    errno::TOO_MANY_CONNECTIONS,
                    &text,
                );
                return;
            }
            session.slot = Some(ServiceSlot(Arc::clone(&service.state)));
        }
        session.pooled = Some(Box::default());
        session.relay.follow(Phase::Greeting);
    }

    /// Greets with what is known about the servers, or waits until something is.
    pub(super) fn greet(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
    ) -> Next {
        let service = match self.plan.service(&session.service.name) {
            Some(service) => Arc::clone(service),
            None => Arc::clone(&session.service),
        };
        let known = self.known_servers(&service, session);
        let channel = Channel {
            // Not a client that a PROXY header calls local.
            is_secure: session.client == Client::Unix
                && session.client_socket.as_ref().is_some_and(|c| !c.is_tcp),
            tls: service.offers(),
            local_infile: service.pool.is_some_and(|pool| pool.local_infile),
        };
        let version = service.server_version.as_deref();
        let id = self.shared.pool.next_id.fetch_add(1, Relaxed) % OURS + OURS;
        let Some((front, greeting)) = Front::new(id, nonce(), &known, channel, version) else {
            self.pool.tick_at = Some(self.now);
            let served = service.balance.iter().any(|m| m.eligible && m.weight() > 0);
            if served && self.now < wait_limit(&service, session) {
                self.arm(index, session, self.now + LOOK_AGAIN_MS);
                return Next::Wait;
            }
            let text = if served {
                unknown_text(&service)
            } else {
                no_server_text(&service, self.now)
            };
            self.refuse(session, Cause::NoServer, errno::NO_SERVER, &text);
            pooled.is_over = true;
            return Next::Over(Cause::NoServer);
        };
        let living = Living {
            worker: self.id,
            user: None,
        };
        self.shared.pool.sessions().insert(id, living);
        session.times.assigned = self.now;
        session.times.greeted = self.now;
        pooled.front = Some(front);
        self.say(index, session, &greeting)
    }

    /// What is known about the servers of a service, in its order; nothing while some have not been asked yet, so that
    /// a greeting does not depend on who has answered first. Servers that are down for now count: they come back.
    fn known_servers(&self, service: &Service, session: &Session) -> Vec<Arc<Known>> {
        let mut members = service.members.iter().zip(&service.balance);
        let is_asked = |member: &Member| {
            let pool = &member.server.state.pool;
            pool.was_asked.load(Relaxed) || pool.known.load().is_some()
        };
        let all_asked = members.all(|(member, balance)| !balance.eligible || is_asked(member));
        let is_served = service.balance.iter().any(|balance| balance.eligible);
        if !is_served || (!all_asked && self.now < wait_limit(service, session)) {
            return Vec::new();
        }
        let members = service.members.iter();
        members
            .filter_map(|member| member.server.state.pool.known.load_full())
            .collect()
    }

    /// A slow hash is to be made for this client, in its turn.
    pub(super) fn take_turn(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
    ) -> Next {
        let Some(at) = pooled.turn_at.or_else(|| self.pool.turns.take(self.now)) else {
            let bytes = pooled.front.as_ref().map(Front::too_busy);
            return self.last_words(session, &bytes.unwrap_or_default(), Cause::LoginDenied);
        };
        pooled.turn_at = Some(at);
        if self.now >= at {
            return Next::Took(0);
        }
        self.arm(index, session, at);
        Next::Wait
    }

    pub(super) fn login_failed(&self, session: &Session, name: &[u8]) {
        session.service.state.logins_failed.fetch_add(1, Relaxed);
        if let Some(ip) = session.client.ip() {
            let shared = &self.shared.pool;
            let mut failed = shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.failed(ip, name, self.now);
            shared.has_failed.store(true, Relaxed);
        }
    }

    /// The password is right: has the user a session left?
    pub(super) fn admit_user(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
    ) -> Next {
        let Some(front) = pooled.front.as_mut() else {
            return Next::Wait;
        };
        let name = front.account().map(Arc::clone);
        let account = name.and_then(|u| session.service.users.get(u.name.as_bytes()).cloned());
        if let Some((account, max)) = account.and_then(|a| a.max.map(|max| (a, max))) {
            // Of a change of user the old one's place is free first.
            pooled.user_slot = None;
            if !take_slot(&account.sessions, max) {
                let text = format!(
                    "portside: user {} has {max} sessions already (max_connections)",
                    account.user.name
                );
                let bytes = front.turned_away(errno::TOO_MANY_FROM_CLIENT, &text);
                session.error = Some(text.into());
                return self.last_words(session, &bytes, Cause::LoginDenied);
            }
            pooled.user_slot = Some(UserSlot(Arc::clone(&account.sessions)));
        } else {
            pooled.user_slot = None;
        }
        if let Some(living) = self.shared.pool.sessions().get_mut(&front.thread_id()) {
            living.user = front.account().map(Arc::clone);
        }
        let bytes = front.admitted();
        self.say(index, session, &bytes)
    }

    pub(super) fn ask_front(
        &self,
        session: &Session,
        pooled: &mut Pooled,
        input: &[u8],
    ) -> (usize, Step) {
        let Some(front) = pooled.front.as_mut() else {
            return (0, Step::Await);
        };
        let ip = session.client.ip();
        let shared = &self.shared.pool;
        let users = &session.service.users;
        let is_limited = |name: &[u8]| {
            shared.has_failed.load(Relaxed)
                && ip.is_some_and(|ip| {
                    let failed = shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.is_limited(ip, name, self.now)
                })
        };
        let turn_at = pooled.turn_at;
        let context = Context {
            client: &Address(ip),
            find: &|name| users.find(name, ip),
            is_limited: &is_limited,
            nonce: &nonce,
            public_key: users.public_key(),
            open: &|sealed, salt| users.open(sealed, salt),
            may_hash: &|| turn_at.is_some_and(|at| self.now >= at),
        };
        let step = front.step(input, pooled.back.as_mut().map(|b| &mut b.conn), &context);
        if step.1 != Step::Later {
            pooled.turn_at = None;
        }
        step
    }
}

/// A client's address as in "user@host".
struct Address(Option<IpAddr>);

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(ip) => ip.fmt(f),
            None => f.write_str("localhost"),
        }
    }
}

/// No server has greeted yet, and why not. A stranger reads it: what failed before a greeting names no account.
fn unknown_text(service: &Service) -> String {
    let members = service.members.iter();
    let mut reasons = members.filter_map(|m| m.server.state.pool.scout_error.load_full());
    let why = reasons.next();
    format!(
        "no server could be logged in to yet, so its version is not known{}{}. On the proxy: portside show events",
        if why.is_some() { ": " } else { "" },
        why.as_deref().map_or("", String::as_str)
    )
}

/// How long a client waits for the first greetings of its service's servers.
fn wait_limit(service: &Service, session: &Session) -> u64 {
    session.times.accepted + service.rules.connect_ms.max(3_000)
}

/// A scramble: printable, so that clients may read it as a text.
pub(super) fn nonce() -> [u8; 32] {
    let mut bytes = random();
    for byte in &mut bytes {
        // 64 values that are neither NUL nor '$': 120 bits of the 20 bytes that most methods take.
        *byte = b'0' + (*byte & 63);
    }
    bytes
}

thread_local! {
    /// The kernel's random bytes are asked for 640 at once: one system call per 20 logins.
    static RANDOM: RefCell<(usize, [u8; 640])> = const { RefCell::new((640, [0; 640])) };
}

/// Random bytes from the kernel, at most 640.
pub(super) fn random<const N: usize>() -> [u8; N] {
    RANDOM.with_borrow_mut(|(at, bytes)| {
        if *at + N > bytes.len() {
            // Without randomness no login is safe; getrandom(2) fails only before the system's first seed.
            assert!(getrandom::fill(bytes).is_ok(), "getrandom(2) failed");
            *at = 0;
        }
        let mut out = [0; N];
        out.copy_from_slice(&bytes[*at..*at + N]);
        bytes[*at..*at + N].fill(0);
        *at += N;
        out
    })
}

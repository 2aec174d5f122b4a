//! Beginning a server connection: the places, the budget and the breaker that allow it, and the connect itself,
//! through the same sources and ledgers as relayed sessions.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use portside_core::breaker::{Decision, Event as Breaker};
use portside_core::pool::{Class, Conn, Transport, User};
use portside_core::relay::Rules;
use portside_proto::proxy_header;

use super::welcome::random;
use super::{pool_token, Back, Place, PoolSlot, Share, State, Victim};
use crate::attempt::{lift_bars, no_source_text, Failed, Opened};
use crate::error::said;
use crate::plan::{Server, Service};
use crate::ports::Held;
use crate::worker::Worker;

/// What a connection is opened for.
pub(super) enum Purpose {
    /// This session's command.
    Client(Token, Share),
    /// To learn what the server is.
    Scout,
    /// To lie ready. True: before anybody was known who would use it.
    Warm(bool),
    /// To kill a query.
    Kill(Victim),
}

/// Connections that lie ready are opened from the first half of a second's budget, so that clients find the other.
const WARM_BURST_MS: u64 = 500;

/// How a connection shall be made.
pub(super) struct Order<'a> {
    pub user: &'a Arc<User>,
    pub class: Class,
    /// The client and its listener, where the server gets a PROXY header.
    pub client: Option<(SocketAddr, SocketAddr)>,
    pub purpose: Purpose,
}

/// Why no connection was begun.
pub(super) enum NotNow {
    /// No place in the pool or on the server, or no budget: wait.
    Full,
    /// The attempt failed; the text says how. With another address of the server to try it is not the server that failed.
    Failed {
        why: Failed,
        text: String,
        has_other: bool,
    },
}

/// The places of a connection to be made. `is_probe`: it is the breaker's try.
struct Places {
    slot: PoolSlot,
    is_probe: bool,
}

/// A connect under way.
struct Reached {
    places: Places,
    destination: usize,
    source: Option<IpAddr>,
    opened: Opened,
}

impl Worker {
    /// Begins a connection to a member of a service.
    pub(super) fn open_back(
        &mut self,
        service: &Service,
        member: usize,
        order: Order<'_>,
    ) -> Result<(), NotNow> {
        let reached = self.reach(service, member, &order.purpose)?;
        let entry = &service.members[member];
        let server = &entry.server;
        server.state.pool.opened.fetch_add(1, Relaxed);
        let transport = match (server.tls.as_ref(), reached.opened.socket.is_tcp) {
            (Some(tls), is_tcp) => tls.transport(is_tcp),
            (None, true) => Transport::Plain,
            (None, false) => Transport::Secure,
        };
        let mut back = Back::connecting(reached, &order, entry.rules, transport, self.now);
        if back
            .held
            .as_ref()
            .is_some_and(|held| held.resets_are_lost(self.now))
        {
            back.rules.avoid_resets();
        }
        match order.purpose {
            Purpose::Client(token, share) => {
                (back.wanted_by, back.share) = (Some(token), Some(share));
            }
            Purpose::Scout => back.is_scout = true,
            Purpose::Warm(is_guess) => back.is_guess = is_guess,
            Purpose::Kill(victim) => back.errand = Some(victim),
        }
        if server.send_proxy {
            // Kept until the connect is done; it must be the first that the server reads.
            back.has_proxy = true;
            back.socket.tail = match order.client {
                Some((client, listener)) => proxy_header::v2(client, listener),
                None => proxy_header::v2_local(),
            };
        }
        self.watch_back(back);
        Ok(())
    }

    /// Takes the places and begins the connect; whatever fails gives everything back.
    fn reach(
        &mut self,
        service: &Service,
        member: usize,
        purpose: &Purpose,
    ) -> Result<Reached, NotNow> {
        let server = Arc::clone(&service.members[member].server);
        let places = self.take_places(service, &server, purpose)?;
        lift_bars(&self.shared, &server, self.now);
        let choice = server.sources.choose(&server.destinations, self.now);
        let opened = match choice {
            Some(choice) => self.open(&server, choice),
            None => Err((Failed::NoSource, no_source_text(&server).into())),
        };
        match opened {
            Ok((destination, opened)) => Ok(Reached {
                places,
                destination,
                source: choice.and_then(|choice| choice.source),
                opened,
            }),
            Err((why, text)) => {
                if places.is_probe {
                    server.state.breaker.on(Breaker::Withdrawn, self.now);
                }
                let to = choice.map_or(0, |choice| choice.destination);
                let is_theirs = why == Failed::Server;
                Err(NotNow::Failed {
                    why,
                    has_other: is_theirs && self.server_failed(&server, to, self.now, &text),
                    text: text.into(),
                })
            }
        }
    }

    /// A place in the pool and on the server, one of the second's opens, and the breaker's leave.
    fn take_places(
        &self,
        service: &Service,
        server: &Arc<Server>,
        purpose: &Purpose,
    ) -> Result<Places, NotNow> {
        let Some(rules) = service.pool else {
            return Err(NotNow::Full);
        };
        let pool = &server.state.pool;
        let is_killer = matches!(purpose, Purpose::Kill(_));
        let burst_ms = match purpose {
            Purpose::Warm(_) => WARM_BURST_MS,
            _ => 1_000,
        };
        let is_full = self.now < pool.full_until_ms.load(SeqCst);
        let Some(slot) = PoolSlot::take(server, is_killer).filter(|_| !is_full) else {
            return Err(NotNow::Full);
        };
        // One at a time needs no budget.
        if !is_killer && !pool.may_open(rules.open_rate, burst_ms, self.now) {
            return Err(NotNow::Full);
        }
        match server.state.breaker.on(Breaker::Ask, self.now) {
            Decision::Refuse => Err(NotNow::Failed {
                why: Failed::NotNow,
                text: String::new(),
                has_other: false,
            }),
            decision => Ok(Places {
                slot,
                is_probe: decision == Decision::Probe,
            }),
        }
    }

    fn watch_back(&mut self, mut back: Box<Back>) {
        self.pool.serial += 1;
        self.pool.generations = (self.pool.generations + 1) & 0x3fff_ffff;
        (back.id, back.generation) = (self.pool.serial, self.pool.generations);
        back.index = self.pool.backs.insert(Place::Taken);
        let fd = back.socket.fd();
        let token = pool_token(back.index, back.generation);
        let both = Interest::READABLE | Interest::WRITABLE;
        let watched = self
            .poll
            .registry()
            .register(&mut SourceFd(&fd), token, both);
        back.socket.watches_writes = true;
        if let Err(e) = watched {
            return self.back_failed(back, &format!("epoll: {}", said(&e)), false);
        }
        let limit = self.now + back.rules.connect_ms;
        self.arm_back(&mut back, limit);
        self.drive_back(back);
    }
}

impl Back {
    /// One whose connect has begun; it has no name yet.
    fn connecting(
        reached: Reached,
        order: &Order<'_>,
        rules: Rules,
        transport: Transport,
        now: u64,
    ) -> Box<Self> {
        let opened = reached.opened;
        let source = opened.held.as_ref().map(Held::source);
        let mut socket = opened.socket;
        socket.connected = opened.done;
        Box::new(Self {
            index: 0,
            generation: 0,
            id: 0,
            state: State::Connecting,
            conn: Conn::new(order.user, order.class, random(), transport),
            socket,
            slot: Some(reached.places.slot),
            busy: None,
            share: None,
            held: opened.held,
            source_ip: source.map(|source| source.ip()).or(reached.source),
            source,
            destination: reached.destination,
            rules,
            user: Arc::clone(order.user),
            has_proxy: false,
            client: order.client.map(|(client, _)| client),
            wanted_by: None,
            is_scout: false,
            is_guess: false,
            plan: 0,
            retire_at: 0,
            errand: None,
            has_run: false,
            kills: 0,
            is_probe: reached.places.is_probe,
            has_greeted: false,
            reset_was_lost: false,
            owes_reply: false,
            farewell: Vec::new(),
            ahead: Vec::new(),
            drained: 0,
            opened_at: now,
            used_at: now,
            armed: None,
        })
    }
}

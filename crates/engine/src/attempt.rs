//! One attempt to reach one server: which of our addresses and ports, the connect, and what its failure means.
//!
//! A local shortage is never the server's failure: it neither opens the breaker nor counts there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::Interest;
use portside_core::breaker::{Decision, Event as Breaker};
use portside_core::ports::{Attempt, Closed, Who};
use portside_core::reason::{Cause, Phase};
use socket2::SockAddr;

use crate::error::{is_local_shortage, said};
use crate::events::Kind;
use crate::plan::{Destination, Server, Service};
use crate::ports::{Held, Ports};
use crate::session::{Assigned, Session};
use crate::shared::Shared;
use crate::socket::Socket;
use crate::source::Choice;
use crate::sys;
use crate::worker::{token, Worker};

/// How long a connect() over a tuple used before may take until we look what answers it: longer than the three round trips
/// in which a SYN, the old connection's answer, our reset to it and the next SYN clear the way.
pub(crate) const LOOK_MS: u64 = 300;

/// What such a connect then comes to.
pub(crate) const RESET_WAS_LOST: &str =
    "an old connection of this source port is still open there: our reset to it was lost";

/// Why an attempt did not even start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The server's doing; try another.
    Server,
    /// This host ran out of descriptors, memory or buffers.
    Local,
    /// None of our addresses may be used.
    NoSource,
    /// Every tuple is busy: one may come free.
    NoPort,
    /// The kernel refused as many tuples as one attempt may try; there are more.
    TriesSpent,
    /// The breaker let another session try.
    NotNow,
}

/// Why, and the sentence about it.
type Refused = (Failed, Box<str>);

/// A connect under way (or done).
pub(crate) struct Opened {
    pub socket: Socket,
    pub done: bool,
    pub held: Option<Held>,
}

impl Worker {
    /// One attempt at one member, whose slot is already taken.
    pub(crate) fn attempt(
        &mut self,
        index: usize,
        session: &mut Session,
        service: &Service,
        member: usize,
    ) -> Result<(), Failed> {
        let entry = &service.members[member];
        let server = &entry.server;
        session.attempts += 1;
        let mut assigned = Assigned::new(entry, member);
        session.rules = entry.rules;
        match server.state.breaker.on(Breaker::Ask, self.now) {
            Decision::Refuse => {
                session.assigned = Some(assigned);
                return Err(Failed::NotNow);
            }
            Decision::Probe => assigned.is_probe = true,
            _ => {}
        }
        lift_bars(&self.shared, server, self.now);
        let choice = server.sources.choose(&server.destinations, self.now);
        let opened = if let Some(choice) = choice {
            assigned.destination = choice.destination;
            assigned.source_ip = choice.source;
            self.open(server, choice).map(|(destination, opened)| {
                assigned.destination = destination;
                opened
            })
        } else {
            // If the server refuses all of our addresses, it is its own word that the client should hear.
            session.refusal = server.sources.refusal();
            Err((Failed::NoSource, no_source_text(server).into()))
        };
        session.assigned = Some(assigned);
        let opened = opened.map_err(|(why, text)| {
            session.error = Some(text);
            why
        })?;
        self.watch_server(index, session, opened)
    }

    fn watch_server(
        &mut self,
        index: usize,
        session: &mut Session,
        opened: Opened,
    ) -> Result<(), Failed> {
        let mut socket = opened.socket;
        let fd = socket.fd();
        let token = token(index, session.generation, true);
        let both = Interest::READABLE | Interest::WRITABLE;
        let watched = self
            .poll
            .registry()
            .register(&mut SourceFd(&fd), token, both);
        if let Some(assigned) = session.assigned.as_mut() {
            if let Some(held) = opened.held {
                if held.resets_are_lost(self.now) {
                    session.rules.avoid_resets();
                }
                if held.is_reused() {
                    self.reused.push_back((self.now + LOOK_MS, token));
                }
                assigned.source_ip = Some(held.source().ip());
                assigned.source = Some(held.source());
                assigned.held = Some(held);
            }
        }
        if let Err(e) = watched {
            session.name_error(&format!("epoll: {}", said(&e)));
            return Err(Failed::Local);
        }
        socket.watches_writes = true;
        socket.connected = opened.done;
        session.server_socket = Some(socket);
        session.times.assigned = self.now;
        session.relay.connecting(self.now);
        Ok(())
    }

    /// Opens, binds and connects a socket to a destination; to another one of this server where no port is left.
    pub(crate) fn open(
        &mut self,
        server: &Server,
        choice: Choice,
    ) -> Result<(usize, Opened), Refused> {
        let count = server.destinations.len();
        let mut refused = (Failed::NoPort, Box::default());
        for step in 0..count {
            let index = (choice.destination + step) % count;
            let to = &server.destinations[index];
            if step > 0 && to.ports.is_none() {
                continue;
            }
            match self.open_at(server, to, choice.source) {
                Ok(opened) => return Ok((index, opened)),
                Err(because) => refused = because,
            }
            if refused.0 != Failed::NoPort {
                return Err(refused);
            }
        }
        self.tell_no_port(server, &refused.1);
        Err(refused)
    }

    fn open_at(
        &mut self,
        server: &Server,
        to: &Destination,
        source: Option<IpAddr>,
    ) -> Result<Opened, Refused> {
        let opened = match &to.ports {
            Some(ports) => self.open_leased(server, to, ports)?,
            None => self.open_plain(to, source),
        };
        opened.map_err(|e| {
            let text = format!("server {}: {}: {}", server.name, to.text, said(&e)).into();
            let gone = e.raw_os_error() == Some(libc::EADDRNOTAVAIL) && source.is_some();
            if gone && to.ports.is_none() {
                suspend(&self.shared, server, source, self.now);
                return (Failed::NoSource, text);
            }
            if is_local_shortage(&e) {
                (Failed::Local, text)
            } else {
                (Failed::Server, text)
            }
        })
    }

    /// The kernel chooses the port: at connect(), not at bind(), so that every destination has the whole range.
    fn open_plain(&self, to: &Destination, source: Option<IpAddr>) -> io::Result<Opened> {
        let socket = Socket::new(sys::stream_socket(to.family)?, to.is_tcp());
        let fd = socket.fd();
        if to.is_tcp() {
            sys::nodelay(fd)?;
            if let Some((low, high)) = self.shared.kernel_ports {
                // Without it connect() walks half of the range past 50 %: 3 ms each (docs/internals/ports.md).
                sys::local_port_range(fd, low, high)?;
            }
            if let Some(ip) = source {
                sys::bind_address_no_port(fd)?;
                sys::bind(fd, &SockAddr::from(SocketAddr::new(ip, 0)))?;
            }
        }
        let done = sys::connect(fd, &to.addr)?;
        Ok(Opened {
            socket,
            done,
            held: None,
        })
    }

    /// A tuple of ours; those that the kernel refuses are given back with the reason and the next one is tried.
    /// The outer error ends the attempt, the inner one is the system's.
    fn open_leased(
        &mut self,
        server: &Server,
        to: &Destination,
        ports: &Arc<Ports>,
    ) -> Result<io::Result<Opened>, Refused> {
        let mut attempt = Attempt::new();
        loop {
            let Some(lease) = ports
                .ledger
                .lease(Who::Worker(self.id), &mut attempt, self.now)
            else {
                return Err(self.no_port(server, to, ports));
            };
            let held = Held::new(ports, lease, Who::Worker(self.id), self.now);
            let (error, how) = match connect_from(to, held.source()) {
                Ok((socket, done)) => {
                    ports.count_opened(held.source().ip());
                    return Ok(Ok(Opened {
                        socket,
                        done,
                        held: Some(held),
                    }));
                }
                Err(refused) => refused,
            };
            let source = held.source().ip();
            held.give_back(how, self.now);
            match how {
                Closed::PortInUse | Closed::TupleInUse => {}
                Closed::SourceGone => suspend(&self.shared, server, Some(source), self.now),
                _ => return Ok(Err(error)),
            }
        }
    }

    /// Nothing was leased: why.
    fn no_port(&self, server: &Server, to: &Destination, ports: &Ports) -> Refused {
        let due = ports.ledger.next_due_ms();
        let why = if ports.has_no_source(&self.shared.sources.suspended()) {
            return (Failed::NoSource, no_source_text(server).into());
        } else if due.is_some_and(|due| due <= self.now) {
            Failed::TriesSpent
        } else {
            Failed::NoPort
        };
        (why, ports.none_left(&server.name, &to.text).into())
    }

    /// Exhaustion: once a second.
    fn tell_no_port(&self, server: &Server, text: &str) {
        let first = server.destinations.iter().find_map(|to| to.ports.as_ref());
        if first.is_some_and(|ports| ports.may_tell(self.now)) {
            let text = text.to_owned();
            self.shared
                .events
                .push(Kind::PortsExhausted, "", &server.name, text);
        }
    }

    /// Looks at the connects over tuples used before that are still under way.
    pub(crate) fn look_at_reused(&mut self) {
        while let Some((at, token)) = self.reused.front().copied() {
            if at > self.now {
                return;
            }
            self.reused.pop_front();
            self.guarded_with(token, Self::look_at);
        }
    }

    fn look_at(&mut self, index: usize, mut session: Box<Session>) {
        let connects = session.relay.phase() == Phase::Connect;
        let fd = session.server_socket.as_ref().map(Socket::fd);
        if let Some(fd) = fd.filter(|_| connects) {
            if sys::old_connection_answers(fd) {
                self.reset_was_lost(index, &mut session);
            } else {
                let token = token(index, session.generation, true);
                self.reused.push_back((self.now + LOOK_MS, token));
            }
        }
        self.drive(index, session);
    }

    /// The server has never seen our reset to this tuple's former connection: another tuple, and no failure of anybody.
    fn reset_was_lost(&mut self, index: usize, session: &mut Session) {
        session.name_error(RESET_WAS_LOST);
        let held = session.assigned.as_mut().and_then(|a| a.held.take());
        if let Some(held) = held {
            held.give_back(Closed::OpenAtServer, self.now);
        }
        session.leave_server(self.now);
        self.shared.slot_freed(&self.plan);
        self.dispatch(index, session);
    }

    /// A connect to a destination or its greeting failed by the server's doing. True: another address of the
    /// server is worth a try, so it is not the server that failed.
    pub(crate) fn server_failed(
        &mut self,
        server: &Server,
        destination: usize,
        begun: u64,
        text: &str,
    ) -> bool {
        let state = &server.state;
        let events = &self.shared.events;
        state.failures.fetch_add(1, Relaxed);
        state.trouble.note(text, self.now);
        let has_other = server
            .sources
            .failed(&server.destinations, destination, begun, self.now);
        if !has_other && state.breaker.on(Breaker::Failure, self.now) == Decision::Opened {
            let text = format!(
                "{text}; three failures in a row: no new sessions, tried again every second"
            );
            events.push(Kind::BreakerOpen, "", &server.name, text);
        }
        let told = state.told_at.load(Relaxed);
        let due = self.now >= told + 100;
        if due
            && state
                .told_at
                .compare_exchange(told, self.now, Relaxed, Relaxed)
                .is_ok()
        {
            events.push(Kind::ConnectFailed, "", &server.name, text.to_owned());
        }
        has_other
    }

    /// The running attempt failed: another server, another round, or the end.
    pub(crate) fn attempt_failed(&mut self, index: usize, session: &mut Session, cause: Cause) {
        let Some(assigned) = session.assigned.as_mut() else {
            return;
        };
        let (server, member) = (Arc::clone(&assigned.server), assigned.index);
        let destination = assigned.destination;
        if session.error.is_none() {
            let what = match cause {
                Cause::ConnectTimeout => {
                    format!(
                        "no answer to connect within {} ms",
                        session.rules.connect_ms
                    )
                }
                Cause::NoGreeting => "connected, but no MySQL greeting came".to_owned(),
                _ => "connect failed".to_owned(),
            };
            session.name_error(&what);
        }
        let text = session.error.as_deref().unwrap_or("connect failed");
        let has_other = self.server_failed(&server, destination, session.times.assigned, text);
        if let Some(assigned) = session.assigned.as_mut().filter(|_| !has_other) {
            assigned.is_probe = false; // the breaker has heard how it went
        }
        self.next_attempt(index, session, (!has_other).then_some(member), cause);
    }

    /// Leaves the present server and tries the next; `cause` is what the client hears if there is none.
    /// `tried` is not asked again in this round.
    pub(crate) fn next_attempt(
        &mut self,
        index: usize,
        session: &mut Session,
        tried: Option<usize>,
        cause: Cause,
    ) {
        session.leave_server(self.now);
        self.shared.slot_freed(&self.plan);
        session.failures += 1;
        session.last_failure = cause;
        if let Some(member) = tried {
            session.mark_tried(member);
        }
        if session.failures > session.service.retries {
            self.refuse_last(session, cause);
        } else {
            self.dispatch(index, session);
        }
    }
}

/// Binds and connects; an error comes with what it means for the tuple.
fn connect_from(
    to: &Destination,
    source: SocketAddr,
) -> Result<(Socket, bool), (io::Error, Closed)> {
    let unused = |e| (e, Closed::Unused);
    let socket = Socket::new(sys::stream_socket(to.family).map_err(unused)?, true);
    let fd = socket.fd();
    sys::nodelay(fd).map_err(unused)?;
    sys::reuse_address(fd).map_err(unused)?;
    sys::bind(fd, &SockAddr::from(source)).map_err(|e| match e.raw_os_error() {
        Some(libc::EADDRINUSE) => (e, Closed::PortInUse),
        Some(libc::EADDRNOTAVAIL) => (e, Closed::SourceGone),
        _ => (e, Closed::Unused),
    })?;
    match sys::connect(fd, &to.addr) {
        Ok(done) => Ok((socket, done)),
        Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Err((e, Closed::TupleInUse)),
        Err(e) => Err((e, Closed::NotConnected)),
    }
}

pub(crate) fn no_source_text(server: &Server) -> String {
    let why = if server.sources.blocked().is_empty() {
        "none of our source addresses is on this host"
    } else {
        "it refuses our source addresses (ERR 1129 or 1130: portside explain host_blocked)"
    };
    format!("server {}: {why}", server.name)
}

/// This address is gone from this host.
pub(crate) fn suspend(shared: &Shared, server: &Server, source: Option<IpAddr>, now: u64) {
    if server.sources.suspend(source, now) {
        let ip = source.map_or_else(String::new, |ip| ip.to_string());
        let text = format!(
            "source address {ip} is not on this host (a VIP that moved?); tried again every second"
        );
        shared
            .events
            .push(Kind::SourceSuspended, "", &server.name, text);
    }
}

/// Bars whose time is over: the next session or check tries again.
pub(crate) fn lift_bars(shared: &Shared, server: &Server, now: u64) {
    for bar in server.sources.expired(now) {
        let Some(ip) = bar.source else { continue };
        if bar.destination.is_empty() {
            shared.sources.resume(ip);
        }
        for to in &server.destinations {
            if let Some(ports) = to.ports.as_ref().filter(|_| to.text == bar.destination) {
                ports.ledger.set_barred(ip, false);
            }
        }
    }
}

//! Moves bytes between the two connections of a session and does what the relay's state machine says.
//!
//! Decides nothing about closing or protocol: `portside_core::relay` does. One scratch buffer per worker;
//! only what a kernel did not take is kept, and while something is kept its source is not read.

use std::net::IpAddr;
use std::sync::Arc;

use portside_core::breaker::{Decision, Event as Breaker};
use portside_core::reason::{Cause, Phase};
use portside_core::relay::{Action, ServerBytes};
use portside_proto::err::errno;
use portside_proto::proxy_header;

use crate::error::said;
use crate::events::Kind;
use crate::plan::Server;
use crate::session::{Client, Session};
use crate::socket::{Read, Socket};
use crate::sys;
use crate::worker::{token, Worker, TURN_BYTES};

impl Worker {
    /// Everything that can be done for a session now; it comes back to its slot, or it is over.
    pub(crate) fn drive(&mut self, index: usize, mut session: Box<Session>) {
        if session.proxy_header.is_some() {
            self.read_proxy_header(index, &mut session);
        }
        if session.queued_in.is_some() || session.retry_at.is_some() {
            self.waiting_timers(index, &mut session);
        }
        if session.pooled.as_ref().is_some_and(|p| !p.is_over) {
            return self.drive_pooled(index, session);
        }
        session.keep_alive(self.now);
        loop {
            self.connect_progress(index, &mut session);
            self.pump(index, &mut session);
            match session
                .relay
                .decide(self.now, &session.rules, session.unsent())
            {
                Action::Wait(at) => {
                    if let Some(at) = at {
                        self.arm(index, &mut session, at);
                    }
                    self.put_back(index, session);
                    return;
                }
                Action::Done => {
                    self.finish(index, session);
                    return;
                }
                Action::SendToServer(bytes) => self.send_to_server(index, &mut session, &bytes),
                Action::CloseServer(how) => self.close_server(&mut session, how),
                Action::CloseClient(how) => self.close_client(&mut session, how),
                Action::AskUnacknowledged => {
                    let unacknowledged = session
                        .server_socket
                        .as_ref()
                        .map_or(0, |s| s.tail.len() + sys::unacknowledged(s.fd()));
                    session.relay.overdue(unacknowledged);
                }
                Action::AskClientRtt => {
                    let rtt = session
                        .client_socket
                        .as_ref()
                        .filter(|s| s.is_tcp)
                        .map_or(0, |s| sys::rtt_ms(s.fd()));
                    session.relay.client_rtt(rtt);
                }
                Action::AttemptFailed(cause) => self.attempt_failed(index, &mut session, cause),
            }
        }
    }

    /// Connect finished or failed?
    fn connect_progress(&mut self, index: usize, session: &mut Session) {
        if session.relay.phase() != Phase::Connect {
            return;
        }
        let Some(socket) = session.server_socket.as_mut() else {
            return;
        };
        if socket.failed {
            socket.failed = false;
            let error = sys::take_error(socket.fd()).err();
            let text = error.map_or_else(|| "connection closed".to_owned(), |e| said(&e));
            session.name_error(&text);
            session.relay.server_lost();
        } else if socket.connected {
            let is_tcp = socket.is_tcp;
            session.relay.connected(self.now);
            if is_tcp {
                let fd = session.server_socket.as_ref().map_or(-1, Socket::fd);
                let waited = self.now - session.times.assigned;
                if let Some(assigned) = session.assigned.as_mut() {
                    match assigned.held.as_mut() {
                        // TCP_TIMEOUT_INIT, include/net/tcp.h: the first SYN is repeated after 1 s.
                        Some(held) if waited >= 900 && sys::old_connection_answered(fd) => {
                            held.old_connection_answered();
                        }
                        Some(_) => {}
                        None => assigned.source = sys::local_address(fd),
                    }
                }
            }
            if session
                .assigned
                .as_ref()
                .is_some_and(|a| a.server.send_proxy)
            {
                let header = proxy_header_for(session);
                self.send_to_server(index, session, &header);
            }
        }
    }

    fn pump(&mut self, index: usize, session: &mut Session) {
        flush_client(session);
        flush_server(session);
        self.pump_client(index, session);
        self.pump_server(index, session);
    }

    /// Client to server.
    fn pump_client(&mut self, index: usize, session: &mut Session) {
        let mut moved = 0;
        loop {
            let Some(client) = session.client_socket.as_mut() else {
                return;
            };
            if !session.relay.reads_client() {
                if session.relay.drains_client() {
                    self.drain_client(session);
                } else if session.proxy_header.is_none() && session.relay.phase() <= Phase::Greeting
                {
                    // Nothing is read before the greeting has gone out, so only epoll tells of a client that left.
                    if client.failed {
                        session.relay.client_lost();
                    } else if client.fin_queued {
                        session.relay.client_eof();
                    }
                }
                return;
            }
            if session
                .server_socket
                .as_ref()
                .is_none_or(|s| !s.tail.is_empty())
            {
                return;
            }
            if let Some(early) = session.early.take() {
                self.scratch[..early.len()].copy_from_slice(&early);
                self.take_client_bytes(index, session, early.len());
                continue;
            }
            match client.read(&mut self.scratch) {
                Read::Bytes { count, drained } => {
                    let fin = client.fin_queued;
                    self.take_client_bytes(index, session, count);
                    if drained {
                        if fin {
                            client_ended(session);
                        }
                        return;
                    }
                    moved += count;
                    if moved >= TURN_BYTES {
                        self.run_again.push(token(index, session.generation, false));
                        return;
                    }
                }
                Read::Eof => return client_ended(session),
                Read::Nothing => return,
                Read::Lost => return session.relay.client_lost(),
            }
        }
    }

    /// Bytes of the client that lie in the scratch buffer.
    fn take_client_bytes(&mut self, index: usize, session: &mut Session, count: usize) {
        let bytes = &self.scratch[..count];
        session.relay.client_bytes(bytes, self.now);
        session.moved_at = self.now;
        session.to_server_bytes += count as u64;
        if let Some(server) = session.server_socket.as_mut() {
            if server.send(bytes).is_err() {
                // What the server still had to say is in its receive queue: read on, the error comes there.
                server.tail.clear();
                server.readable = true;
            }
            let token = token(index, session.generation, true);
            let stuck = !server.tail.is_empty();
            watch_if(self, server, token, stuck);
        }
    }

    /// Server to client.
    fn pump_server(&mut self, index: usize, session: &mut Session) {
        let mut moved = 0;
        loop {
            if session.relay.phase() < Phase::Greeting {
                return;
            }
            let blocked = !session.holds_greeting
                && session.relay.client_is_there()
                && session
                    .client_socket
                    .as_ref()
                    .is_some_and(|c| !c.tail.is_empty());
            let Some(server) = session.server_socket.as_mut().filter(|_| !blocked) else {
                return;
            };
            match server.read(&mut self.scratch) {
                Read::Bytes { count, drained } => {
                    let fin = server.fin_queued;
                    session.moved_at = self.now;
                    if !self.take_server_bytes(index, session, count) {
                        return;
                    }
                    if drained {
                        if fin {
                            session.relay.server_eof();
                        }
                        return;
                    }
                    moved += count;
                    if moved >= TURN_BYTES {
                        self.run_again.push(token(index, session.generation, true));
                        return;
                    }
                }
                Read::Eof => return session.relay.server_eof(),
                Read::Nothing => return,
                Read::Lost => {
                    session.name_error("connection reset by the server");
                    return session.relay.server_lost();
                }
            }
        }
    }

    /// Bytes of the server that lie in the scratch buffer. False: the attempt is over.
    fn take_server_bytes(&mut self, index: usize, session: &mut Session, count: usize) -> bool {
        let was_greeting = session.relay.phase() == Phase::Greeting;
        let bytes = &self.scratch[..count];
        match session.relay.server_bytes(bytes, self.now) {
            ServerBytes::Forward => {
                session.to_client_bytes += count as u64;
                if let Some(client) = session.client_socket.as_mut() {
                    let result = if session.holds_greeting {
                        client.tail.extend_from_slice(bytes);
                        session.holds_greeting = false;
                        client.flush()
                    } else {
                        client.send(bytes)
                    };
                    let lost = result.is_err();
                    let token = token(index, session.generation, false);
                    let stuck = !client.tail.is_empty();
                    watch_if(self, client, token, stuck);
                    if lost {
                        session.relay.client_lost();
                    }
                }
                if was_greeting {
                    self.greeted(session);
                    // A check that logs in unasked has sent everything before; no event will tell of it again.
                    let spoke = session.client_socket.as_ref().is_some_and(|c| c.readable);
                    if spoke || session.early.is_some() {
                        self.run_again.push(token(index, session.generation, false));
                    }
                }
                true
            }
            ServerBytes::Hold => {
                session.holds_greeting = true;
                if let Some(client) = session.client_socket.as_mut() {
                    client.tail.extend_from_slice(bytes);
                }
                true
            }
            ServerBytes::Discard => true,
            ServerBytes::Refused { errno, message } => {
                self.refused_by_server(index, session, errno, &message);
                false
            }
            ServerBytes::Garbage => {
                session.name_error("it does not greet like a MySQL server");
                self.attempt_failed(index, session, Cause::NoGreeting);
                false
            }
        }
    }

    /// The greeting is complete and on its way: the attempt has succeeded.
    fn greeted(&mut self, session: &mut Session) {
        session.times.greeted = self.now;
        session.error = None;
        let Some(assigned) = session.assigned.as_mut() else {
            return;
        };
        assigned.is_probe = false;
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        assigned.member.total.fetch_add(1, relaxed);
        assigned.server.state.total.fetch_add(1, relaxed);
        let (server, to) = (Arc::clone(&assigned.server), assigned.destination);
        self.server_greets(&server, assigned.source_ip, to);
    }

    /// A greeting has come over this pair of addresses: nothing is held against them any more.
    pub(crate) fn server_greets(&self, server: &Server, source_ip: Option<IpAddr>, to: usize) {
        if server.state.breaker.on(Breaker::Success, self.now) == Decision::Closed {
            let text = format!("server {} greets again: sessions go there", server.name);
            self.shared
                .events
                .push(Kind::BreakerClosed, "", &server.name, text);
        }
        let destination = &server.destinations[to];
        server.sources.reached(destination);
        for bar in server.sources.served(source_ip, destination) {
            let events = &self.shared.events;
            let (ip, there) = (our_address(bar.source), &bar.destination);
            if there.is_empty() {
                let text = format!("{ip} is back on this host");
                events.push(Kind::SourceBack, "", &server.name, text);
            } else {
                let text = format!("server {}: {there} accepts {ip} again", server.name);
                let about = (bar.source, there.as_str());
                events.push_about(Kind::HostUnblocked, &server.name, about, text);
            }
        }
    }

    /// An ERR in place of the greeting.
    fn refused_by_server(
        &mut self,
        index: usize,
        session: &mut Session,
        number: u16,
        message: &str,
    ) {
        let Some(assigned) = session.assigned.as_ref() else {
            return;
        };
        let (server, member) = (Arc::clone(&assigned.server), assigned.index);
        let (to, source_ip) = (assigned.destination, assigned.source_ip);
        let ours = assigned.source.map(|s| s.ip());
        let is_host = self.host_refused(&server, to, (source_ip, ours), (number, message));
        session.error = Some(message.into());
        let other_address = is_host
            && server
                .sources
                .choose(&server.destinations, self.now)
                .is_some();
        let retries_left = session.failures < session.service.retries;
        if retries_left && (other_address || session.service.members.len() > 1) {
            // Another address of ours may be welcome at the same server: then it is not marked as tried.
            let tried = (!other_address).then_some(member);
            session.refusal = Some((number, message.into()));
            self.next_attempt(index, session, tried, Cause::Refused);
        } else {
            session.leave_server(self.now);
            self.shared.slot_freed(&self.plan);
            self.refuse_with(session, Cause::Refused, number, message);
        }
    }

    /// An ERR in place of a greeting: whether it is our address that is refused, which is then barred for a while.
    pub(crate) fn host_refused(
        &self,
        server: &Server,
        to: usize,
        (source_ip, ours): (Option<IpAddr>, Option<IpAddr>),
        (number, message): (u16, &str),
    ) -> bool {
        let destination = &server.destinations[to];
        let is_host = matches!(
            number,
            errno::SERVER_HOST_BLOCKED | errno::SERVER_HOST_NOT_PRIVILEGED
        );
        if let (true, Some(ip), Some(ports)) = (is_host, source_ip, &destination.ports) {
            // The next lease is of another address, until the bar's time is over (`lift_bars`).
            ports.ledger.set_barred(ip, true);
        }
        // Alive, whatever it says: the breaker is not for this.
        server.state.breaker.on(Breaker::Success, self.now);
        if is_host
            && server
                .sources
                .block(source_ip, destination, (number, message), self.now)
        {
            if let (Some(ports), Some(ip)) = (destination.ports.as_ref(), source_ip) {
                ports.ledger.set_barred(ip, true);
            }
            let cure = if number == errno::SERVER_HOST_BLOCKED {
                "FLUSH HOSTS there, and find what connects without logging in"
            } else {
                "CREATE USER and GRANT for this address there"
            };
            let text = format!(
                "server {}: {} refuses {}: ERR {number}: {message}; cure: {cure}",
                server.name,
                destination.text,
                our_address(source_ip.or(ours))
            );
            let about = (source_ip, destination.text.as_str());
            let events = &self.shared.events;
            events.push_about(Kind::HostBlocked, &server.name, about, text);
        }
        is_host
    }

    fn send_to_server(&mut self, index: usize, session: &mut Session, bytes: &[u8]) {
        if let Some(server) = session.server_socket.as_mut() {
            if server.tail.is_empty() {
                if server.send(bytes).is_err() {
                    server.readable = true;
                }
            } else {
                server.tail.extend_from_slice(bytes);
            }
            let token = token(index, session.generation, true);
            let stuck = !server.tail.is_empty();
            watch_if(self, server, token, stuck);
        }
    }
}

/// The client's FIN. Without QUIT it may be a half-close behind an answer that our kernel has yet to deliver.
fn client_ended(session: &mut Session) {
    session.relay.client_eof();
    let is_owed = !session.relay.quit_seen()
        && session
            .client_socket
            .as_ref()
            .is_some_and(|c| c.is_tcp && sys::unacknowledged(c.fd()) > 0);
    if is_owed {
        session.relay.client_is_owed();
    }
}

fn watch_if(worker: &Worker, socket: &mut Socket, token: mio::Token, stuck: bool) {
    if stuck {
        worker.watch(socket, token, true);
    }
}

fn proxy_header_for(session: &Session) -> Vec<u8> {
    let local = session
        .client_socket
        .as_ref()
        .and_then(|s| sys::local_address(s.fd()))
        .map(sys::canonical);
    match (session.client, local) {
        (Client::Tcp(client), Some(local)) => proxy_header::v2(client, local),
        _ => proxy_header::v2_local(),
    }
}

/// Writes what the client's kernel did not take before.
pub(crate) fn flush_client(session: &mut Session) {
    if session.holds_greeting {
        return;
    }
    if let Some(client) = session
        .client_socket
        .as_mut()
        .filter(|s| !s.tail.is_empty())
    {
        if client.flush().is_err() {
            client.tail = Vec::new();
            session.relay.client_lost();
        }
    }
}

fn flush_server(session: &mut Session) {
    if let Some(server) = session
        .server_socket
        .as_mut()
        .filter(|s| !s.tail.is_empty())
    {
        if session.relay.phase() >= Phase::Greeting && server.flush().is_err() {
            server.tail = Vec::new();
            server.readable = true;
        }
    }
}

fn our_address(ip: Option<IpAddr>) -> String {
    ip.map_or_else(|| "our address".into(), |ip| format!("our address {ip}"))
}

//! How a server connection of the pool ends, also one that never came to be of use: QUIT, the server's FIN, then as the close rules say; and what it gives back.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use portside_core::breaker::Event as Breaker;
use portside_core::pool::Failure;
use portside_core::ports::Closed;
use portside_core::reason::{ServerClose, TlsFailure};
use portside_core::relay::ToServer;
use portside_proto::err::errno;
use portside_proto::quit;

use super::{Back, Denied, State};
use crate::events::Kind;
use crate::ports;
use crate::shared::Peer;
use crate::socket::Read;
use crate::sys;
use crate::worker::{Worker, TURN_BYTES};

/// Read of a reply that nobody wants any more before its query is killed at once.
const LITTLE: u64 = 64 * 1024;
/// What the two kernels may hold of a reply after its query was killed: a send and a receive buffer
/// (`tcp_wmem` 4 MiB, `tcp_rmem` 6 MiB by default).
const IN_FLIGHT: u64 = 16 * 1024 * 1024;

/// How long a server that has no place left is not asked again.
const FULL_MS: u64 = 250;

impl Worker {
    pub(super) fn login_refused(&mut self, mut back: Box<Back>, failure: Failure) {
        match failure {
            Failure::Refused { errno, message } => {
                self.was_refused(&mut back, errno, &message);
                self.back_failed(back, &format!("ERR {errno}: {message}"), false);
            }
            Failure::Unfit(known) => {
                if let Some(server) = back.server() {
                    server.state.pool.known.store(Some(Arc::new(*known)));
                }
                // It looks again, and finds what is known now.
                if let Some(owner) = back.wanted_by.take() {
                    self.opening_done(owner);
                }
                let text = "the server offers other capabilities than before";
                self.back_failed(back, text, false);
            }
            Failure::NoTls(text) => {
                let outcomes = &self.shared.outcomes;
                outcomes.count_tls(Peer::Server, Some(TlsFailure::NotOffered));
                self.back_failed(back, &format!("TLS: {text}"), true);
            }
            // Counted when its certificate was judged.
            Failure::Untrusted(text) => self.back_failed(back, &format!("TLS: {text}"), true),
            Failure::Denied(text) => {
                self.was_denied(&back, &text);
                self.back_failed(back, &text, false);
            }
            Failure::Left(answer, text) => {
                self.was_denied(&back, &text);
                back.farewell = answer;
                self.back_failed(back, &text, false);
            }
            Failure::Broken(text) => self.back_failed(back, &text, false),
            Failure::Step(error) => self.back_failed(back, &error.message, false),
        }
    }

    /// The server does not let an account in: clients of it get errors until somebody mends that.
    fn was_denied(&self, back: &Back, what: &str) {
        let Some(server) = back.server() else {
            return;
        };
        let user = &back.user.server_user;
        let text = format!("server {}: account {user}: {what}", server.name);
        let pool = &server.state.pool;
        let count = pool.logins_failed.fetch_add(1, Relaxed) + 1;
        if pool.logins_told.is_due(self.now) {
            let events = &self.shared.events;
            let text = format!("{text} ({count} so far)");
            events.push(Kind::LoginRefused, "", &server.name, text);
        }
        let user = user.clone();
        let at = self.now;
        pool.denied.store(Some(Arc::new(Denied { user, text, at })));
    }

    /// An ERR of a server that is alive: no place, or not for our address.
    fn was_refused(&mut self, back: &mut Back, number: u16, message: &str) {
        let Some(server) = back.server().map(Arc::clone) else {
            return;
        };
        // Alive, whatever it says: the breaker is not for this.
        server.state.breaker.on(Breaker::Success, self.now);
        let ips = (back.source_ip, back.source.map(|s| s.ip()));
        self.host_refused(&server, back.destination, ips, (number, message));
        if !errno::is_full(number) {
            return;
        }
        let until = self.now + FULL_MS;
        server.state.pool.full_until_ms.store(until, SeqCst);
        let text = format!("server {}: ERR {number}: {message}", server.name);
        server.state.pool.full.note(&text, self.now);
        if server.state.pool.full_told.is_due(self.now) {
            let events = &self.shared.events;
            events.push(Kind::ServerFull, "", &server.name, text.clone());
        }
        if let Some(owner) = back.wanted_by.take() {
            self.opening_turned_away(owner, text);
        }
    }

    /// It never came to be of use: the session that asked for it is told. `is_dead`: the breaker counts it.
    pub(super) fn back_failed(&mut self, mut back: Box<Back>, what: &str, is_dead: bool) {
        let Some(server) = back.server().map(Arc::clone) else {
            return;
        };
        let to = &server.destinations[back.destination].text;
        let text = format!("server {}: {to}: {what}", server.name);
        let wanted_by = back.wanted_by.take();
        if back.is_scout {
            self.pool.scouts.retain(|name| *name != server.name);
            let pool = &server.state.pool;
            pool.was_asked.store(true, Relaxed);
            pool.scout_error.store(Some(Arc::new(text.clone())));
        }
        // Another port is worth a try at once, as another address is.
        let mut has_other = back.reset_was_lost;
        if is_dead {
            back.is_probe = false;
            has_other = self.server_failed(&server, back.destination, back.opened_at, &text);
        }
        // A connection that was answered is closed in the server's own time where that is possible.
        let how = if back.has_greeted {
            ServerClose::Cut
        } else {
            ServerClose::Lost
        };
        self.say_farewell(back, how);
        if let Some(owner) = wanted_by {
            self.opening_failed(owner, &server.name, text, has_other);
        }
    }

    /// Closes, but for a server that is still owed an answer: that one closes by itself, once it has it.
    fn say_farewell(&mut self, mut back: Box<Back>, how: ServerClose) {
        let answer = std::mem::take(&mut back.farewell);
        if answer.is_empty() || back.socket.push(&answer).is_err() {
            return self.close_back(back, how);
        }
        back.state = State::Quitting(self.now);
        back.armed = None;
        self.await_fin(back, self.now);
    }

    /// Says QUIT and waits for the server's FIN, as the close rules want it.
    pub(super) fn quit_back(&mut self, mut back: Box<Back>) {
        let is_busy = back.conn.is_busy();
        back.owes_reply = is_busy;
        back.state = State::Quitting(self.now);
        back.armed = None;
        self.pool.shelf.retain(|index| *index != back.index);
        let stuck = !back.socket.tail.is_empty();
        if stuck || back.socket.push(quit::bytes(false)).is_err() {
            // Half a command is out: nothing can be said any more.
            let how = if stuck {
                ServerClose::Cut
            } else {
                ServerClose::Lost
            };
            return self.close_back(back, how);
        }
        let how = match back.rules.to_server {
            _ if is_busy => None,
            ToServer::EofReset | ToServer::Eof => None,
            ToServer::Linger2 => Some(ServerClose::Linger2),
            ToServer::ResetNow => Some(ServerClose::ResetNow),
            ToServer::Fin => Some(ServerClose::Fin),
        };
        if let Some(how) = how {
            return self.close_back(back, how);
        }
        back.socket.readable = true;
        self.await_fin(back, self.now);
    }

    pub(super) fn await_fin(&mut self, mut back: Box<Back>, since: u64) {
        let mut turn = 0;
        loop {
            match back.socket.read(&mut self.scratch) {
                Read::Bytes { count, .. } => {
                    back.drained += count as u64;
                    turn += count;
                }
                Read::Eof => {
                    let how = match back.rules.to_server {
                        ToServer::Eof => ServerClose::EofFin,
                        _ => ServerClose::EofReset,
                    };
                    return self.close_back(back, how);
                }
                Read::Lost => return self.close_back(back, ServerClose::Lost),
                Read::Nothing => break,
            }
            if back.owes_reply && back.drained > LITTLE {
                self.hurry_kill(&back);
                // While the KILL is under way the server must not be stuck in writing: it would not notice.
                let most = back.rules.abandon_bytes + IN_FLIGHT;
                if back.drained > most && !self.is_hunted(&back) {
                    return self.close_back(back, ServerClose::Abandoned);
                }
            }
            if turn >= TURN_BYTES {
                self.run_again.push(back.token());
                break;
            }
        }
        let limit = since
            + if back.owes_reply {
                back.rules.abandon_ms
            } else {
                back.rules.deadline_ms
            };
        if self.now < limit {
            self.arm_back(&mut back, limit);
            return self.put_back_down(back);
        }
        let how = match (back.owes_reply, sys::unacknowledged(back.socket.fd())) {
            (true, _) => ServerClose::Abandoned,
            (false, 0) => ServerClose::LateReset,
            (false, _) => ServerClose::LateLinger2,
        };
        self.close_back(back, how);
    }

    /// The server closed it, or it died.
    pub(super) fn drop_lost(&mut self, back: Box<Back>) {
        let how = if back.socket.failed {
            ServerClose::Lost
        } else {
            ServerClose::EofReset
        };
        self.close_back(back, how);
    }

    /// The end of a connection: socket, tuple, places.
    pub(super) fn close_back(&mut self, mut back: Box<Back>, how: ServerClose) {
        back.is_back();
        if let Some(victim) = back.errand.take() {
            self.errand_lost(victim, back.has_run);
        }
        if let (true, Some(server)) = (back.is_probe, back.server()) {
            server.state.breaker.on(Breaker::Withdrawn, self.now);
        }
        self.pool.shelf.retain(|index| *index != back.index);
        let timestamps = self.end_server_socket(&mut back.socket, back.held.as_ref(), how);
        self.shared.outcomes.count_server(how);
        let closed = if back.reset_was_lost {
            Closed::OpenAtServer
        } else if back.state == State::Connecting {
            Closed::NotConnected
        } else {
            ports::after(how, timestamps)
        };
        let held = back.held.take();
        let (index, slot) = (back.index, back.slot.take());
        self.pool.backs.try_remove(index);
        // The socket is closed before its tuple and its places are anybody else's.
        drop(back);
        if let Some(held) = held {
            held.give_back(closed, self.now);
        }
        drop(slot);
        self.shared.slot_freed(&self.plan);
        self.pool.has_news |= self.pool.has_waiters();
    }
}

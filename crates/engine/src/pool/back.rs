//! Server connections of the pool that no client has: connect, login, cleaning, and what is next for them; closed
//! by the same rules as relayed ones.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use mio::event::Event as Io;
use mio::Token;
use portside_core::pool::{Event, Failure};
use portside_core::reason::TlsFailure;

use super::securing::secure_server;
use super::welcome::random;
use super::{unpack_pool, Back, Place, State};
use crate::attempt::{LOOK_MS, RESET_WAS_LOST};
use crate::error::said;
use crate::events::Kind;
use crate::ports;
use crate::socket::Read;
use crate::sys;
use crate::worker::{panic_text, Worker};

/// Of the connections that come free while own clients wait every so many may go to another worker's.
const SHARE_EVERY: u32 = 16;

impl Worker {
    pub(super) fn arm_back(&mut self, back: &mut Back, at: u64) {
        if back.armed.is_none_or(|armed| at < armed) {
            back.armed = Some(at);
            self.timers.push(std::cmp::Reverse((at, back.token().0)));
        }
    }

    /// A connection that no client uses is taken into hand.
    pub(super) fn take_back(&mut self, index: usize) -> Option<Box<Back>> {
        let place = self.pool.backs.get_mut(index)?;
        match std::mem::replace(place, Place::Taken) {
            Place::Here(back) => Some(back),
            other => {
                *place = other;
                None
            }
        }
    }

    pub(super) fn put_back_down(&mut self, back: Box<Back>) {
        let index = back.index;
        if let Some(place) = self.pool.backs.get_mut(index) {
            *place = Place::Here(back);
        }
    }

    /// epoll reports a server connection (None: its turn again).
    pub(crate) fn pool_event(&mut self, token: Token, event: Option<&Io>) {
        let (index, generation) = unpack_pool(token);
        if let Some(Place::Lent(owner)) = self.pool.backs.get(index) {
            let owner = *owner;
            self.note_lent(owner, generation, event);
            return self.guarded(owner, None);
        }
        let Some(mut back) = self.take_back(index) else {
            return;
        };
        if back.generation != generation {
            return self.put_back_down(back);
        }
        if let Some(event) = event {
            note(&mut back, event);
        }
        self.guarded_back(back);
    }

    /// Handles one connection's event; a panic costs this connection, not the worker.
    fn guarded_back(&mut self, back: Box<Back>) {
        let index = back.index;
        let outcome = catch_unwind(AssertUnwindSafe(|| self.drive_back(back)));
        if let Err(panic) = outcome {
            self.pool.shelf.retain(|idle| *idle != index);
            self.pool.backs.try_remove(index);
            self.pool_panicked(&panic_text(&panic));
        }
    }

    /// A panic may have taken the scratch buffer along.
    pub(crate) fn pool_panicked(&mut self, text: &str) {
        self.pool_plan();
        let text = format!(
            "worker {}: a pooled connection was lost to a fault of Portside: {text}",
            self.id
        );
        self.shared.events.push(Kind::WorkerDied, "", "", text);
    }

    fn note_lent(&mut self, owner: Token, generation: u32, event: Option<&Io>) {
        let (index, ..) = crate::worker::unpack(owner);
        let session = self.sessions.get_mut(index).and_then(Option::as_mut);
        let back = session
            .and_then(|session| session.pooled.as_mut())
            .and_then(|pooled| pooled.back.as_mut())
            .filter(|back| back.generation == generation);
        if let (Some(back), Some(event)) = (back, event) {
            note(back, event);
        }
    }

    /// A timer of a server connection.
    pub(crate) fn pool_timer(&mut self, token: Token, at: u64) {
        let (index, generation) = unpack_pool(token);
        let Some(mut back) = self.take_back(index) else {
            return;
        };
        if back.generation != generation || back.armed != Some(at) {
            return self.put_back_down(back);
        }
        back.armed = None;
        self.guarded_back(back);
    }

    /// Everything that can be done for a connection that no client uses; it comes back to its place or is closed.
    pub(super) fn drive_back(&mut self, mut back: Box<Back>) {
        match back.state {
            State::Connecting => self.connect_back(back),
            State::Quitting(since) => self.await_fin(back, since),
            State::OnItsOwn => self.log_in_back(back),
            State::Idle | State::Barred => {
                // Whatever comes now, FIN or good-bye, makes it useless.
                match back.socket.read(&mut self.scratch) {
                    Read::Nothing => self.put_back_down(back),
                    Read::Bytes { .. } => self.quit_back(back),
                    Read::Eof | Read::Lost => self.drop_lost(back),
                }
            }
            State::Lent => self.put_back_down(back),
        }
    }

    fn connect_back(&mut self, mut back: Box<Back>) {
        if back.socket.failed {
            let error = sys::take_error(back.socket.fd()).err();
            let text = error.map_or_else(|| "connection closed".to_owned(), |e| said(&e));
            return self.back_failed(back, &text, true);
        }
        if !back.socket.connected {
            let limit = back.opened_at + back.rules.connect_ms;
            if self.now >= limit {
                let text = format!("no answer to connect within {} ms", back.rules.connect_ms);
                return self.back_failed(back, &text, true);
            }
            let is_reused = back.held.as_ref().is_some_and(ports::Held::is_reused);
            if is_reused && self.now >= back.opened_at + LOOK_MS {
                back.reset_was_lost = sys::old_connection_answers(back.socket.fd());
                if back.reset_was_lost {
                    return self.back_failed(back, RESET_WAS_LOST, false);
                }
            }
            let look = is_reused.then_some(self.now + LOOK_MS);
            self.arm_back(&mut back, look.map_or(limit, |at| at.min(limit)));
            return self.put_back_down(back);
        }
        if back.source.is_none() && back.socket.is_tcp {
            back.source = sys::local_address(back.socket.fd());
        }
        let waited = self.now - back.opened_at;
        if let Some(held) = back.held.as_mut() {
            // TCP_TIMEOUT_INIT, include/net/tcp.h: the first SYN is repeated after 1 s.
            if waited >= 900 && sys::old_connection_answered(back.socket.fd()) {
                held.old_connection_answered();
            }
        }
        if let (Some(server), true) = (back.server(), back.socket.is_tcp) {
            // It lives long: a peer that vanishes must be noticed while it is idle. A socket that refuses
            // an option still works.
            if let Some(idle_s) = server.keepalive_s {
                let _ = sys::keepalive(back.socket.fd(), idle_s);
            }
            if let Some(ms) = server.user_timeout_ms {
                let _ = sys::user_timeout(back.socket.fd(), ms);
            }
        }
        back.state = State::OnItsOwn;
        let limit = self.now + back.rules.login_ms;
        self.arm_back(&mut back, limit);
        self.log_in_back(back);
    }

    /// Logs in, or is cleaned: whatever the machine in core wants said.
    fn log_in_back(&mut self, mut back: Box<Back>) {
        if !back.socket.tail.is_empty() && back.socket.flush().is_err() {
            return self.back_failed(back, "connection lost", true);
        }
        if self.now
            >= back.used_at.max(back.opened_at) + back.rules.connect_ms + back.rules.login_ms
        {
            self.count_unfinished(&back, TlsFailure::Timeout);
            return self.back_failed(back, "no answer within timeouts.login", true);
        }
        loop {
            let mut scratch = std::mem::take(&mut self.pool.scratch);
            let read = back.socket.read(&mut scratch);
            let trusted = self.server_tls_news(&mut back);
            let event = match (&trusted, &read) {
                (Ok(()), Read::Bytes { count, .. }) => Ok(feed(&mut back, &scratch[..*count])),
                (Ok(()), Read::Nothing) | (Err(_), _) => Ok(Event::Wait),
                (Ok(()), Read::Eof) => Err("the server closed the connection while logging in"),
                (Ok(()), Read::Lost) => Err("the server reset the connection while logging in"),
            };
            let more = matches!(read, Read::Bytes { .. }) && back.socket.readable;
            self.pool.scratch = scratch;
            if let Err(text) = trusted {
                return self.back_failed(back, &text, true);
            }
            self.learn(&mut back);
            match event {
                Err(text) => {
                    self.count_unfinished(&back, TlsFailure::Left);
                    return self.back_failed(back, text, true);
                }
                Ok(Event::Wait) if more => {}
                Ok(Event::Wait | Event::Send(_) | Event::StartTls(_)) => {
                    let limit = self.now + back.rules.login_ms;
                    self.arm_back(&mut back, limit);
                    return self.put_back_down(back);
                }
                Ok(Event::Ready) => {
                    back.was_let_in();
                    return self.settle(back);
                }
                // A step that failed while cleaning: it is not worth finding out what is left of it.
                Ok(Event::Failed(Failure::Step(_))) => return self.quit_back(back),
                Ok(Event::Failed(failure)) => return self.login_refused(back, failure),
            }
        }
    }

    /// What the greeting says is known from now on.
    fn learn(&mut self, back: &mut Back) {
        // Without its TLS it is of no use.
        if back.has_greeted || back.socket.is_shaking_hands() {
            return;
        }
        let Some(known) = back.conn.server() else {
            return;
        };
        let Some(server) = back.server().map(Arc::clone) else {
            return;
        };
        back.has_greeted = true;
        back.is_probe = false;
        server.state.pool.known.store(Some(Arc::new(known)));
        server.state.total.fetch_add(1, Relaxed);
        self.server_greets(&server, back.source_ip, back.destination);
    }

    /// Ready: to the shelf, to be cleaned, or away.
    pub(super) fn settle(&mut self, mut back: Box<Back>) {
        back.is_back();
        if let Some(owner) = back.wanted_by.take() {
            self.opening_done(owner);
        }
        if back.is_scout {
            let name = back.server().map(|s| s.name.clone()).unwrap_or_default();
            self.pool.scouts.retain(|scout| *scout != name);
            return self.quit_back(back);
        }
        if let Some(victim) = back.errand {
            return self.run_errand(back, victim);
        }
        if self.must_retire(&mut back) {
            return self.quit_back(back);
        }
        if back.kills > 0 {
            back.state = State::Barred;
            return self.put_back_down(back);
        }
        if back.conn.is_spoiled() {
            return self.quit_back(back);
        }
        if back.conn.has_traces() {
            let bytes = back.conn.clean(random());
            if bytes.is_empty() {
                return self.quit_back(back);
            }
            return self.say_on_its_own(back, &bytes);
        }
        self.shelve(back);
        // Mostly the own clients first; now and then the others', who may have no connection at all.
        self.pool.released = self.pool.released.wrapping_add(1);
        if !self.pool.has_waiters() || self.pool.released % SHARE_EVERY == 0 {
            self.share_idle();
        }
    }

    /// Sends commands of our own and follows their replies.
    pub(super) fn say_on_its_own(&mut self, mut back: Box<Back>, bytes: &[u8]) {
        back.state = State::OnItsOwn;
        back.used_at = self.now;
        if back.socket.push(bytes).is_err() {
            back.socket.readable = true;
        }
        back.armed = None;
        let limit = self.now + back.rules.login_ms;
        self.arm_back(&mut back, limit);
        self.log_in_back(back);
    }
}

/// Feeds the machine and sends what it wants sent.
fn feed(back: &mut Back, mut bytes: &[u8]) -> Event {
    loop {
        match back.conn.feed(&mut bytes) {
            Event::StartTls(request) => {
                // The login waits for the end of the handshake (`server_tls_news`).
                return secure_server(back, &request).err().unwrap_or(Event::Wait);
            }
            Event::Send(answer) => back.say(&answer),
            other => return other,
        }
    }
}

fn note(back: &mut Back, event: &Io) {
    back.socket.note(event);
    if event.is_writable() && !event.is_error() {
        back.socket.connected = true;
    }
    if event.is_error() {
        back.socket.failed = true;
        back.socket.readable = true;
    }
}

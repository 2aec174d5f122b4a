//! Drives a client of a pool service: greeting, login, commands in, replies out.

use std::sync::Arc;

use portside_core::pool::{Session as Front, Step};
use portside_core::reason::{Cause, Phase};

use super::{Busy, Pooled, State};
use crate::session::Session;
use crate::socket::Read;
use crate::worker::{token, Worker, TURN_BYTES};

/// How long a connection is kept for SHOW WARNINGS, ROW_COUNT() or FOUND_ROWS(): a program asks at once.
const HOLD_MS: u64 = 1_000;
/// How long a reply goes on after its client's FIN.
const GONE_MS: u64 = 1_000;
/// Why a session has lost its connection: `on_down`, maintenance, a switch, a role that was lost.
pub(super) const SERVER_GOES: &str = "it takes no sessions any more and has ended its own";

/// What came of one step.
pub(super) enum Next {
    /// So many of the client's bytes were taken; go on.
    Took(usize),
    /// So many were taken; the others are TLS.
    Sealed(usize),
    /// More of them are needed.
    Read,
    /// Nothing now.
    Wait,
    /// The session is over.
    Over(Cause),
}

impl Worker {
    /// Everything that can be done for a pooled client now; it comes back to its slot, or it goes the way of
    /// every closed client.
    pub(crate) fn drive_pooled(&mut self, index: usize, mut session: Box<Session>) {
        let Some(mut pooled) = session.pooled.take() else {
            return self.put_back(index, session);
        };
        let mut input = std::mem::take(&mut pooled.pending);
        if input.is_empty() {
            input = std::mem::take(&mut self.pool.spare);
        }
        let (mut at, mut moved) = (0, 0);
        let over = loop {
            let rest = input.get_mut(at..).unwrap_or(&mut []);
            match self.next_step(index, &mut session, &mut pooled, rest) {
                Next::Took(count) => at += count,
                Next::Sealed(count) => {
                    let from = at + count;
                    at = 0;
                    let over =
                        self.secure_client(index, &mut session, &mut pooled, &mut input, from);
                    if over.is_some() {
                        break over;
                    }
                }
                Next::Wait => break None,
                Next::Over(cause) => break Some(cause),
                Next::Read if moved >= TURN_BYTES => {
                    self.run_again.push(token(index, session.generation, false));
                    break None;
                }
                Next::Read => {
                    if at > 0 {
                        input.drain(..at);
                        at = 0;
                    }
                    match self.read_client(index, &mut session, &mut pooled, &mut input) {
                        Ok(0) => break None,
                        Ok(count) => moved += count,
                        Err(cause) => break Some(cause),
                    }
                }
            }
        };
        input.drain(..at);
        if input.is_empty() {
            self.pool.spare = input;
        } else {
            pooled.pending = input;
        }
        if let Some(cause) = over {
            self.end_pooled(&mut session, &mut pooled, cause);
        }
        self.follow_phase(index, &mut session, &pooled);
        session.pooled = Some(pooled);
        if over.is_some() {
            return self.drive(index, session);
        }
        self.put_back(index, session);
    }

    /// Tells the log and the timers where the session stands.
    pub(super) fn follow_phase(&mut self, index: usize, session: &mut Session, pooled: &Pooled) {
        if pooled.is_over {
            return;
        }
        let (phase, limit) = match pooled.front.as_ref() {
            Some(front) if front.is_running() => (Phase::Query, None),
            Some(_) if pooled.waits_since.is_some() => (Phase::Queue, None),
            Some(front) if front.is_logged_in() => (
                Phase::Command,
                session.rules.idle_ms.map(|idle| session.moved_at + idle),
            ),
            _ => {
                let login = session.service.pool.map(|pool| pool.login_ms);
                (Phase::Login, login.map(|ms| session.times.accepted + ms))
            }
        };
        session.relay.follow(phase);
        if let Some(limit) = limit {
            self.arm(index, session, limit.max(self.now + 1));
        }
    }

    pub(super) fn read_client(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &mut Vec<u8>,
    ) -> Result<usize, Cause> {
        let Some(client) = session.client_socket.as_mut() else {
            return Err(Cause::ClientReset);
        };
        let read = client.read(&mut self.scratch);
        let has_ended = client.tls_has_ended();
        if client.has_tls() {
            if let Some(cause) = self.client_tls_news(index, session, pooled) {
                return Err(cause);
            }
        }
        match read {
            Read::Bytes { count, .. } => {
                input.extend_from_slice(&self.scratch[..count]);
                session.moved_at = self.now;
                session.to_server_bytes += count as u64;
                Ok(count)
            }
            Read::Eof => Err(Cause::ClientEof),
            Read::Lost => Err(Cause::ClientReset),
            Read::Nothing if has_ended => Err(Cause::ClientEof),
            Read::Nothing => Ok(0),
        }
    }

    pub(super) fn next_step(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &mut [u8],
    ) -> Next {
        if let Some(cause) = self.must_end(session, pooled) {
            return self.cut_off(session, pooled, cause);
        }
        match self.flush_both(index, session, pooled) {
            Some(true) => {}
            Some(false) => return Next::Wait,
            None => return Next::Over(Cause::ClientReset),
        }
        if pooled.front.is_none() {
            return self.greet(index, session, pooled);
        }
        if self.has_left(index, session, pooled) {
            return Next::Over(Cause::ClientEof);
        }
        self.look_at_lent(pooled);
        self.let_go(index, session, pooled);
        if pooled.waits_since.is_some() && pooled.waiting.is_some() {
            return self.still_waiting(index, session, pooled, input);
        }
        if pooled.back.as_ref().is_some_and(|b| !b.ahead.is_empty()) {
            let next = self.client_step(index, session, pooled, input);
            if let Some(back) = pooled.back.as_mut() {
                back.say_ahead();
            }
            return next;
        }
        if pooled
            .back
            .as_ref()
            .is_some_and(|back| !back.conn.is_ready())
        {
            let next = self.pump_back(index, session, pooled, input);
            // Of a long command or a file no more is read than the server takes.
            let is_stuck = |pooled: &Pooled| {
                let back = pooled.back.as_ref();
                back.is_some_and(|back| !back.socket.tail.is_empty())
            };
            let reads = pooled.front.as_ref().is_some_and(Front::is_sending) && !is_stuck(pooled);
            if !matches!((&next, reads), (Next::Wait, true)) {
                return next;
            }
        }
        self.client_step(index, session, pooled, input)
    }

    /// A client whose FIN came in the middle of a reply gets what is ready; MySQL's clients never close one half. The same
    /// while its connection is prepared: that may be a server which says nothing any more.
    pub(super) fn has_left(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
    ) -> bool {
        let is_preparing = pooled.back.as_ref().is_some_and(|b| !b.conn.is_ready());
        let running = pooled.front.as_ref().is_some_and(Front::is_running);
        if !(running || is_preparing)
            || session.client_socket.as_ref().is_none_or(|c| !c.fin_queued)
        {
            pooled.gone_at = None;
            return false;
        }
        let gone_at = *pooled.gone_at.get_or_insert(self.now);
        self.arm(index, session, gone_at + GONE_MS);
        self.now >= gone_at + GONE_MS
    }

    /// Gives a connection back that is only kept for what the next statement may ask.
    pub(super) fn let_go(&mut self, index: usize, session: &mut Session, pooled: &mut Pooled) {
        let (Some(front), Some(back)) = (pooled.front.as_mut(), pooled.back.as_ref()) else {
            return;
        };
        if !front.only_waits() {
            return;
        }
        let limit = back.used_at.max(session.moved_at) + HOLD_MS;
        if self.now < limit {
            return self.arm(index, session, limit);
        }
        front.let_go();
        self.release_if_free(pooled);
    }

    /// A connection that is kept between two commands may end there.
    fn look_at_lent(&mut self, pooled: &mut Pooled) {
        let is_still = |back: &&mut Box<super::Back>| back.conn.is_ready() && back.socket.readable;
        let Some(back) = pooled.back.as_mut().filter(is_still) else {
            return;
        };
        let read = back.socket.read(&mut self.scratch);
        if matches!(read, Read::Nothing) {
            return;
        }
        let Some(back) = bereave(pooled, "the server closed the connection") else {
            return;
        };
        match read {
            // Its good-bye comes first.
            Read::Bytes { .. } => self.quit_back(back),
            _ => self.drop_lost(back),
        }
    }

    /// Limits and orders that end the session whatever its client says.
    pub(super) fn must_end(&mut self, session: &mut Session, pooled: &Pooled) -> Option<Cause> {
        if session.client_socket.as_ref().is_none_or(|c| c.failed) {
            return Some(Cause::ClientReset);
        }
        let idle =
            pooled.front.as_ref().is_some_and(Front::is_idle) && pooled.waits_since.is_none();
        if let Some((cause, gently)) = session.relay.wanted_cut() {
            if !gently || idle || pooled.front.as_ref().is_none_or(|f| !f.is_logged_in()) {
                return Some(cause);
            }
        }
        let logged_in = pooled.front.as_ref().is_some_and(Front::is_logged_in);
        let login = session.service.pool.map_or(0, |pool| pool.login_ms);
        if !logged_in && self.now >= session.times.accepted + login {
            return Some(Cause::LoginTimeout);
        }
        let limit = session.rules.idle_ms.map(|ms| session.moved_at + ms);
        (idle && limit.is_some_and(|at| self.now >= at)).then_some(Cause::IdleTimeout)
    }

    /// The session ends whatever its client says; where its server goes, it is told, if nothing of a reply was yet.
    fn cut_off(&mut self, session: &mut Session, pooled: &mut Pooled, cause: Cause) -> Next {
        let (Some(front), Some(back)) = (pooled.front.as_ref(), pooled.back.as_ref()) else {
            return Next::Over(cause);
        };
        let Some(server) = back.server().filter(|_| pooled.server_goes) else {
            return Next::Over(cause);
        };
        let text = format!(
            "server {}: {SERVER_GOES} in the middle of a statement",
            server.name
        );
        let may_tell = back.conn.is_busy() && back.conn.reply_is_untouched() && !front.is_sending();
        if !may_tell {
            session.error.get_or_insert_with(|| text.into());
            return Next::Over(cause);
        }
        let bytes = front.lost(&text);
        self.last_words(session, &bytes, cause)
    }

    /// Writes what was stuck. `Some(false)`: the client's kernel still takes no more; None: it is lost.
    pub(super) fn flush_both(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
    ) -> Option<bool> {
        if let Some(back) = pooled.back.as_mut().filter(|b| !b.socket.tail.is_empty()) {
            if back.socket.flush().is_err() {
                back.socket.tail = Vec::new();
                back.socket.readable = true;
            }
        }
        let client = session.client_socket.as_mut()?;
        if client.tail.is_empty() {
            return Some(true);
        }
        client.flush().ok()?;
        if client.tail.is_empty() {
            return Some(true);
        }
        let token = token(index, session.generation, false);
        let client = session.client_socket.as_mut()?;
        self.watch(client, token, true);
        Some(false)
    }

    /// Writes to the client.
    pub(super) fn say(&mut self, index: usize, session: &mut Session, bytes: &[u8]) -> Next {
        let Some(client) = session.client_socket.as_mut() else {
            return Next::Over(Cause::ClientReset);
        };
        session.to_client_bytes += bytes.len() as u64;
        if client.push(bytes).is_err() {
            return Next::Over(Cause::ClientReset);
        }
        if !client.tail.is_empty() {
            let token = token(index, session.generation, false);
            self.watch(client, token, true);
        }
        Next::Took(0)
    }

    pub(super) fn client_step(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &mut [u8],
    ) -> Next {
        let (taken, step) = self.ask_front(session, pooled, input);
        let next = match step {
            Step::More => return Next::Read,
            Step::Await => {
                // Only its client's end matters until the reply is over.
                return if pooled.front.as_ref().is_some_and(Front::awaits_admission) {
                    self.admit_user(index, session, pooled)
                } else {
                    Next::Wait
                };
            }
            Step::Say(bytes) if bytes.is_empty() => Next::Took(0),
            Step::Say(bytes) => self.say(index, session, &bytes),
            Step::StartTls => return Next::Sealed(taken),
            Step::Admit => self.admit_user(index, session, pooled),
            Step::Later => return self.take_turn(index, session, pooled),
            Step::Refused(bytes, name) => {
                self.login_failed(session, &name);
                self.say(index, session, &bytes)
            }
            Step::Denied(bytes, name) => {
                self.login_failed(session, &name);
                self.last_words(session, &bytes, Cause::LoginDenied)
            }
            Step::End(cause, bytes) => self.last_words(session, &bytes, cause),
            // Not to be given back before the command has been stepped again.
            Step::Attach => return self.attach(index, session, pooled, input),
            Step::Forward => {
                let command = input.get_mut(..taken).unwrap_or(&mut []);
                if let Some(front) = pooled.front.as_mut() {
                    front.address(command);
                }
                self.forward(session, pooled, command)
            }
            Step::Instead(bytes) => self.forward(session, pooled, &bytes),
            Step::Kill { id, query } => {
                let user = pooled.front.as_ref().and_then(Front::user);
                let what = self.kill(user, id, query);
                let answer = pooled.front.as_mut().map(|front| front.killed(id, what));
                self.say(index, session, &answer.unwrap_or_default())
            }
        };
        self.release_if_free(pooled);
        match next {
            Next::Took(more) => Next::Took(taken + more),
            other => other,
        }
    }

    /// Writes what the client is told last; it gets time to read it.
    pub(super) fn last_words(&mut self, session: &mut Session, bytes: &[u8], cause: Cause) -> Next {
        if let (false, Some(client)) = (bytes.is_empty(), session.client_socket.as_mut()) {
            session.to_client_bytes += bytes.len() as u64;
            let _ = client.push(bytes);
            if session.error.is_none() {
                // The packet's text, behind header, marker, number and SQLSTATE.
                let text = bytes.get(13..).unwrap_or(&[]);
                session.error = Some(String::from_utf8_lossy(text).into());
            }
            session.relay.refuse(cause, self.now);
        }
        Next::Over(cause)
    }

    /// The session is over: its connection goes back or away, its client the way of all.
    pub(super) fn end_pooled(&mut self, session: &mut Session, pooled: &mut Pooled, cause: Cause) {
        pooled.waiting = None;
        if let Some(front) = pooled.front.as_ref() {
            self.shared.pool.sessions().remove(&front.thread_id());
        }
        if pooled.back.is_some() {
            self.part(pooled);
        }
        self.end_client_tls(session, cause);
        pooled.user_slot = None;
        pooled.is_over = true;
        if !session.relay.is_closing() {
            session.relay.turn_away(cause, self.now);
        }
    }

    /// Gives the connection back if nothing binds the session to it.
    pub(super) fn release_if_free(&mut self, pooled: &mut Pooled) {
        let free = pooled
            .front
            .as_ref()
            .is_some_and(|f| !f.is_pinned() && !f.is_running());
        let ready = pooled.back.as_ref().is_some_and(|b| b.conn.is_ready());
        if free && ready {
            self.release(pooled);
        }
    }

    /// Brings the connection that was opened or freed to where the session's own state is.
    pub(super) fn lend(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        mut back: Box<super::Back>,
    ) -> Next {
        pooled.is_served(self.now);
        let Some(front) = pooled.front.as_mut() else {
            return Next::Over(Cause::Internal);
        };
        front.attached((back.id, back.conn.uses()));
        back.conn.lent_to(front.class());
        back.is_guess &= back.conn.translates();
        back.ahead = back.conn.prepare(&front.want());
        back.state = State::Lent;
        back.used_at = self.now;
        if !front.may_ride(&back.conn) {
            back.say_ahead();
        }
        back.busy = back.server().map(Busy::new);
        if let Some(server) = back.server() {
            session.last = Some(crate::session::Last {
                server: Arc::clone(server),
                destination: back.destination,
                source: back.source,
            });
        }
        let mine = token(index, session.generation, false);
        self.pool.backs[back.index] = super::Place::Lent(mine);
        pooled.back = Some(back);
        Next::Took(0)
    }
}

/// The session has lost the connection that it keeps; if that matters, its next command is answered with it.
pub(super) fn bereave(pooled: &mut Pooled, what: &str) -> Option<Box<super::Back>> {
    let back = pooled.back.take()?;
    let name = back.server().map_or("", |server| &server.name);
    if let Some(front) = pooled.front.as_mut() {
        front.bereave(&format!("server {name}: {what}"));
    }
    Some(back)
}

//! Drives a client of a pool service: greeting, login, commands in, replies out.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, PoisonError};

use portside_core::pool::{Context, Event, Failure, Session as Front, Step};
use portside_core::reason::{Cause, Phase};
use portside_proto::err::errno;

use super::{Pooled, State, UserSlot};
use crate::plan::take_slot;
use crate::refusal::no_server_text;
use crate::session::{ServiceSlot, Session};
use crate::socket::Read;
use crate::worker::{token, Worker, TURN_BYTES};

/// How long a client that came before any server was known waits before it looks again.
const LOOK_AGAIN_MS: u64 = 20;

/// How long a connection is kept for SHOW WARNINGS, ROW_COUNT() or FOUND_ROWS(): a program asks at once.
const HOLD_MS: u64 = 1_000;
/// How long a reply goes on after its client's FIN.
const GONE_MS: u64 = 1_000;

/// What came of one step.
pub(super) enum Next {
    /// So many of the client's bytes were taken; go on.
    Took(usize),
    /// More of them are needed.
    Read,
    /// Nothing now.
    Wait,
    /// The session is over.
    Over(Cause),
}

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
            let rest = input.get(at..).unwrap_or(&[]);
            match self.next_step(index, &mut session, &mut pooled, rest) {
                Next::Took(count) => at += count,
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
                    match self.read_client(&mut session, &mut input) {
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
    fn follow_phase(&mut self, index: usize, session: &mut Session, pooled: &Pooled) {
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

    fn read_client(&mut self, session: &mut Session, input: &mut Vec<u8>) -> Result<usize, Cause> {
        let Some(client) = session.client_socket.as_mut() else {
            return Err(Cause::ClientReset);
        };
        match client.read(&mut self.scratch) {
            Read::Bytes { count, .. } => {
                input.extend_from_slice(&self.scratch[..count]);
                session.moved_at = self.now;
                session.to_server_bytes += count as u64;
                Ok(count)
            }
            Read::Eof => Err(Cause::ClientEof),
            Read::Lost => Err(Cause::ClientReset),
            Read::Nothing => Ok(0),
        }
    }

    fn next_step(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
    ) -> Next {
        if let Some(cause) = self.must_end(session, pooled) {
            return Next::Over(cause);
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
        self.let_go(index, session, pooled);
        if pooled.waits_since.is_some() && pooled.waiting.is_some() {
            return self.still_waiting(index, session, pooled, input);
        }
        if pooled
            .back
            .as_ref()
            .is_some_and(|back| !back.conn.is_ready())
        {
            let next = self.pump_back(index, session, pooled, input);
            let uploads = pooled
                .front
                .as_ref()
                .is_some_and(|front| front.is_running() && front.reads());
            if !matches!((&next, uploads), (Next::Wait, true)) {
                return next;
            }
        }
        self.client_step(index, session, pooled, input)
    }

    /// A client whose FIN came in the middle of a reply gets what is ready; MySQL's clients never close one half.
    fn has_left(&mut self, index: usize, session: &mut Session, pooled: &mut Pooled) -> bool {
        let running = pooled.front.as_ref().is_some_and(Front::is_running);
        if !running || session.client_socket.as_ref().is_none_or(|c| !c.fin_queued) {
            pooled.gone_at = None;
            return false;
        }
        let gone_at = *pooled.gone_at.get_or_insert(self.now);
        self.arm(index, session, gone_at + GONE_MS);
        self.now >= gone_at + GONE_MS
    }

    /// Gives a connection back that is only kept for what the next statement may ask.
    fn let_go(&mut self, index: usize, session: &mut Session, pooled: &mut Pooled) {
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
        self.release_if_free(session, pooled);
    }

    /// Limits and orders that end the session whatever its client says.
    fn must_end(&mut self, session: &mut Session, pooled: &Pooled) -> Option<Cause> {
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

    /// Writes what was stuck. `Some(false)`: the client's kernel still takes no more; None: it is lost.
    fn flush_both(
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

    /// Greets with what is known about the servers, or waits until something is.
    fn greet(&mut self, index: usize, session: &mut Session, pooled: &mut Pooled) -> Next {
        let service = match self.plan.service(&session.service.name) {
            Some(service) => Arc::clone(service),
            None => Arc::clone(&session.service),
        };
        let known: Vec<_> = (service.members.iter())
            .zip(&service.balance)
            .filter(|(_, balance)| balance.eligible)
            .filter_map(|(member, _)| member.server.state.pool.known.load_full())
            .collect();
        let id = self
            .shared
            .pool
            .next_id
            .fetch_add(1, Relaxed)
            .wrapping_add(1);
        let Some((front, greeting)) = Front::new(id, salt(), &known) else {
            self.pool.tick_at = Some(self.now);
            let limit = session.times.accepted + service.rules.connect_ms.max(3_000);
            let served = service.balance.iter().any(|m| m.eligible && m.weight() > 0);
            if served && self.now < limit {
                self.arm(index, session, self.now + LOOK_AGAIN_MS);
                return Next::Wait;
            }
            let text = if served {
                "no server has greeted yet, so its version is not known. On the proxy: portside show servers"
                    .to_owned()
            } else {
                no_server_text(&service, self.now)
            };
            self.refuse(session, Cause::NoServer, errno::NO_SERVER, &text);
            pooled.is_over = true;
            return Next::Over(Cause::NoServer);
        };
        let mut workers = self
            .shared
            .pool
            .workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        workers.insert(id, self.id);
        drop(workers);
        session.times.assigned = self.now;
        session.times.greeted = self.now;
        pooled.front = Some(front);
        self.say(index, session, &greeting)
    }

    /// Writes to the client.
    fn say(&mut self, index: usize, session: &mut Session, bytes: &[u8]) -> Next {
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

    fn client_step(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
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
            Step::Admit => self.admit_user(index, session, pooled),
            Step::Denied(bytes) => {
                self.login_failed(session);
                self.last_words(session, &bytes, Cause::LoginDenied)
            }
            Step::End(cause, bytes) => self.last_words(session, &bytes, cause),
            // Not to be given back before the command has been stepped again.
            Step::Attach => return self.attach(index, session, pooled, input),
            Step::Forward => self.forward(session, pooled, input.get(..taken).unwrap_or(&[])),
            Step::Kill { id, query } => {
                let found = self.kill(id, query);
                let answer = pooled.front.as_ref().map(|front| front.killed(id, found));
                self.say(index, session, &answer.unwrap_or_default())
            }
        };
        self.release_if_free(session, pooled);
        match next {
            Next::Took(more) => Next::Took(taken + more),
            other => other,
        }
    }

    fn ask_front(&self, session: &Session, pooled: &mut Pooled, input: &[u8]) -> (usize, Step) {
        let Some(front) = pooled.front.as_mut() else {
            return (0, Step::Await);
        };
        let ip = session.client.ip();
        let shared = &self.shared.pool;
        let find = |name: &[u8]| {
            let account = session.service.users.get(name)?;
            account.admits(ip).then(|| Arc::clone(&account.user))
        };
        let client = Address(ip);
        let limited = shared.has_failed.load(Relaxed)
            && !front.is_logged_in()
            && ip.is_some_and(|ip| {
                let failed = shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.is_limited(ip, self.now)
            });
        let context = Context {
            client: &client,
            find: &find,
            is_limited: limited,
            salt: &salt,
        };
        front.step(input, pooled.back.as_mut().map(|b| &mut b.conn), &context)
    }

    fn login_failed(&self, session: &Session) {
        if let Some(ip) = session.client.ip() {
            let shared = &self.shared.pool;
            let mut failed = shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.failed(ip, self.now);
            shared.has_failed.store(true, Relaxed);
        }
    }

    /// The password is right: has the user a session left?
    fn admit_user(&mut self, index: usize, session: &mut Session, pooled: &mut Pooled) -> Next {
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
        let bytes = front.admitted();
        self.say(index, session, &bytes)
    }

    /// Writes what the client is told last; it gets time to read it.
    fn last_words(&mut self, session: &mut Session, bytes: &[u8], cause: Cause) -> Next {
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

    /// Passes a command on, or a piece of a long one.
    fn forward(&mut self, session: &mut Session, pooled: &mut Pooled, bytes: &[u8]) -> Next {
        let Some(back) = pooled.back.as_mut() else {
            return Next::Over(Cause::Internal);
        };
        back.used_at = self.now;
        session.moved_at = self.now;
        if back.socket.push(bytes).is_err() {
            // What it still had to say is in its receive queue: read on, the error comes there.
            back.socket.tail.clear();
            back.socket.readable = true;
        }
        if !back.socket.tail.is_empty() {
            let token = back.token();
            self.watch(&mut back.socket, token, true);
        }
        Next::Took(0)
    }

    /// Reads the attached connection: steps of its preparation, or a reply for the client.
    fn pump_back(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
    ) -> Next {
        let mut scratch = std::mem::take(&mut self.pool.scratch);
        let next = self.pump_back_into(index, session, pooled, input, &mut scratch);
        self.pool.scratch = scratch;
        next
    }

    fn pump_back_into(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
        scratch: &mut [u8],
    ) -> Next {
        let mut moved = 0;
        loop {
            let Some(back) = pooled.back.as_mut() else {
                return Next::Took(0);
            };
            let bytes = match back.socket.read(scratch) {
                Read::Bytes { count, .. } => &scratch[..count],
                Read::Nothing => return Next::Wait,
                Read::Eof => {
                    return self.back_lost(session, pooled, "the server closed the connection")
                }
                Read::Lost => {
                    return self.back_lost(session, pooled, "the server's connection broke")
                }
            };
            session.moved_at = self.now;
            moved += bytes.len();
            let next = if back.conn.is_busy() {
                self.reply_bytes(index, session, pooled, bytes)
            } else {
                self.preparing_bytes(index, session, pooled, bytes, input)
            };
            if let Some(next) = next {
                return next;
            }
            if session
                .client_socket
                .as_ref()
                .is_some_and(|c| !c.tail.is_empty())
            {
                return Next::Wait;
            }
            if moved >= TURN_BYTES {
                self.run_again.push(token(index, session.generation, false));
                return Next::Wait;
            }
        }
    }

    /// Bytes of a reply go to the client as they are. None: it is not over.
    fn reply_bytes(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        bytes: &[u8],
    ) -> Option<Next> {
        let (back, front) = (pooled.back.as_mut()?, pooled.front.as_mut()?);
        let mut rest = bytes;
        let result = back.conn.relay(&mut rest);
        let used = bytes.len() - rest.len();
        if let Next::Over(cause) = self.say(index, session, &bytes[..used]) {
            return Some(Next::Over(cause));
        }
        match result {
            Ok(None) => None,
            Ok(Some(outcome)) => {
                let is_early = front.reads();
                front.replied(&outcome, &mut back.conn, back.id);
                if front.pin() != std::mem::replace(&mut pooled.pin, front.pin()) {
                    if let Some(pin) = front.pin() {
                        self.shared.outcomes.count_pin(pin);
                    }
                }
                if is_early || !rest.is_empty() {
                    // An answer before the end of the command, or more than one: nobody knows what comes next.
                    let back = pooled.back.take()?;
                    self.drop_lost(back);
                    return Some(Next::Over(Cause::ServerEof));
                }
                self.release_if_free(session, pooled);
                Some(Next::Took(0))
            }
            Err(Failure::Broken(text)) => Some(self.back_lost(session, pooled, &text)),
            Err(_) => Some(Next::Over(Cause::Internal)),
        }
    }

    /// Replies to our own steps. None: more are to come.
    fn preparing_bytes(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        mut bytes: &[u8],
        input: &[u8],
    ) -> Option<Next> {
        let back = pooled.back.as_mut()?;
        match back.conn.feed(&mut bytes) {
            Event::Wait => None,
            Event::Ready => Some(Next::Took(0)),
            Event::Send(bytes) => {
                let _ = back.socket.push(&bytes);
                None
            }
            Event::Failed(Failure::Step(error)) => {
                self.give_up_back(session, pooled);
                let (number, state) = (error.errno, error.state);
                Some(self.tell(
                    index,
                    session,
                    pooled,
                    input,
                    (number, state, &error.message),
                ))
            }
            Event::Failed(_) => {
                Some(self.back_lost(session, pooled, "the server broke the protocol"))
            }
        }
    }

    /// The connection is gone. Before anything of the client's command was sent, another one is taken.
    fn back_lost(&mut self, session: &mut Session, pooled: &mut Pooled, what: &str) -> Next {
        let (Some(back), Some(front)) = (pooled.back.take(), pooled.front.as_mut()) else {
            return Next::Over(Cause::Internal);
        };
        let name = back.server().map(|s| s.name.clone()).unwrap_or_default();
        let was_busy = !back.conn.is_ready() && front.is_running();
        let untouched = back.conn.reply_is_untouched();
        let pinned = front.is_pinned();
        self.drop_lost(back);
        if !was_busy && !pinned {
            return Next::Took(0);
        }
        let text = format!("server {name}: {what} in the middle of a statement");
        if was_busy && !untouched {
            session.error = Some(text.into());
            return Next::Over(Cause::ServerEof);
        }
        let bytes = front.lost(&text);
        self.last_words(session, &bytes, Cause::ServerEof)
    }

    /// Tells the client that its command cannot be served, and goes on with the next.
    pub(super) fn tell(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
        (number, state, text): (u16, [u8; 5], &str),
    ) -> Next {
        pooled.failures = 0;
        pooled.tried = 0;
        pooled.waits_since = None;
        session.error = Some(text.into());
        let Some(front) = pooled.front.as_mut() else {
            return Next::Over(Cause::Internal);
        };
        let (bytes, is_over) = front.not_attached(number, state, text);
        if is_over {
            return self.last_words(session, &bytes, Cause::LoginDenied);
        }
        match Front::drop_command(input) {
            Some(length) => match self.say(index, session, &bytes) {
                Next::Took(_) => Next::Took(length),
                other => other,
            },
            None => self.last_words(session, &bytes, Cause::ServerEof),
        }
    }

    /// The session is over: its connection goes back or away, its client the way of all.
    fn end_pooled(&mut self, session: &mut Session, pooled: &mut Pooled, cause: Cause) {
        self.leave_queue(pooled);
        if let Some(front) = pooled.front.as_mut() {
            let mut workers = self
                .shared
                .pool
                .workers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            workers.remove(&front.thread_id());
        }
        if pooled.back.is_some() {
            self.part(session, pooled);
        }
        pooled.user_slot = None;
        pooled.is_over = true;
        if !session.relay.is_closing() {
            session.relay.turn_away(cause, self.now);
        }
    }

    /// Gives the connection back if nothing binds the session to it.
    fn release_if_free(&mut self, session: &mut Session, pooled: &mut Pooled) {
        let free = pooled
            .front
            .as_ref()
            .is_some_and(|f| !f.is_pinned() && !f.is_running());
        let ready = pooled.back.as_ref().is_some_and(|b| b.conn.is_ready());
        if free && ready {
            self.release(session, pooled);
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
        let Some(front) = pooled.front.as_mut() else {
            return Next::Over(Cause::Internal);
        };
        front.attached((back.id, back.conn.uses()));
        pooled.failures = 0;
        pooled.tried = 0;
        pooled.waits_since = None;
        pooled.error = None;
        let bytes = back.conn.prepare(&front.want());
        back.state = State::Lent;
        back.used_at = self.now;
        if !bytes.is_empty() && back.socket.push(&bytes).is_err() {
            back.socket.readable = true;
        }
        if let Some(server) = back.server() {
            server.state.pool.busy.fetch_add(1, SeqCst);
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

/// A scramble: printable, so that clients may read it as a text.
pub(super) fn salt() -> [u8; 20] {
    let mut bytes = random();
    for byte in &mut bytes {
        // 64 values that are neither NUL nor '$': 120 bits.
        *byte = b'0' + (*byte & 63);
    }
    bytes
}

thread_local! {
    /// The kernel's random bytes are asked for 32 times 20 at once: one system call per 32 logins.
    static RANDOM: RefCell<(usize, [u8; 640])> = const { RefCell::new((640, [0; 640])) };
}

/// Random bytes from the kernel.
pub(super) fn random() -> [u8; 20] {
    RANDOM.with_borrow_mut(|(at, bytes)| {
        if *at + 20 > bytes.len() {
            // Without randomness no login is safe; getrandom(2) fails only before the system's first seed.
            assert!(getrandom::fill(bytes).is_ok(), "getrandom(2) failed");
            *at = 0;
        }
        let mut out = [0; 20];
        out.copy_from_slice(&bytes[*at..*at + 20]);
        bytes[*at..*at + 20].fill(0);
        *at += 20;
        out
    })
}

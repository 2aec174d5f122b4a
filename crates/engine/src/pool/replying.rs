//! Commands out to a server, replies back to the client, and connections that break meanwhile.

use std::sync::atomic::Ordering::Relaxed;

use portside_core::pool::{Event, Failure, Session as Front};
use portside_core::reason::Cause;
use portside_proto::err::errno;

use super::client::Next;
use super::Pooled;
use crate::events::Kind;
use crate::session::Session;
use crate::socket::Read;
use crate::worker::{token, Worker, TURN_BYTES};

impl Worker {
    /// Reads the attached connection: steps of its preparation, or a reply for the client.
    pub(super) fn pump_back(
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

    pub(super) fn pump_back_into(
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
                Read::Bytes { count, .. } => &mut scratch[..count],
                Read::Nothing => return Next::Wait,
                Read::Eof => {
                    return self.back_lost(
                        index,
                        session,
                        pooled,
                        "the server closed the connection",
                    )
                }
                Read::Lost => {
                    return self.back_lost(index, session, pooled, "the server's connection broke")
                }
            };
            session.moved_at = self.now;
            moved += bytes.len();
            let next = if back.conn.is_preparing() {
                self.preparing_bytes(index, session, pooled, bytes, input)
            } else {
                self.reply_bytes(index, session, pooled, bytes)
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

    /// Bytes of a reply go to the client, as they are but for the id of a statement, or translated. None: it is not
    /// over.
    pub(super) fn reply_bytes(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        bytes: &mut [u8],
    ) -> Option<Next> {
        let mut translated = std::mem::take(&mut self.pool.translated);
        let next = self.reply_bytes_into(index, session, pooled, bytes, &mut translated);
        self.pool.translated = translated;
        next
    }

    fn reply_bytes_into(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        bytes: &mut [u8],
        translated: &mut Vec<u8>,
    ) -> Option<Next> {
        let (back, front) = (pooled.back.as_mut()?, pooled.front.as_mut()?);
        let is_untouched = back.conn.reply_is_untouched();
        let (result, bytes, is_more) = back.conn.pass_on(bytes, translated);
        if let Some(name) = back.conn.take_file() {
            if !front.may_send(&name) || is_more {
                back.conn.refuse_reply(is_untouched);
                let text = format!(
                    "it asked for the local file {:?}, which the client's statement does not name,",
                    String::from_utf8_lossy(&name)
                );
                return Some(self.back_lost(index, session, pooled, &text));
            }
        }
        if result.is_ok() {
            if let Next::Over(cause) = self.say(index, session, bytes) {
                return Some(Next::Over(cause));
            }
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
                if is_early || is_more {
                    // An answer before the end of the command, or more than one: nobody knows what comes next.
                    let back = pooled.back.take()?;
                    self.drop_lost(back);
                    return Some(Next::Over(Cause::ServerEof));
                }
                if outcome.error.is_some_and(errno::is_read_only) {
                    self.note_refused_write(session, pooled);
                }
                self.release_if_free(pooled);
                Some(Next::Took(0))
            }
            Err(Failure::Broken(text)) => Some(self.back_lost(index, session, pooled, &text)),
            Err(_) => Some(Next::Over(Cause::Internal)),
        }
    }

    /// A write met a read-only server. Its client has the server's word; the administrator should know, too.
    fn note_refused_write(&mut self, session: &Session, pooled: &Pooled) {
        let Some(server) = pooled.back.as_ref().and_then(|back| back.server()) else {
            return;
        };
        let pool = &server.state.pool;
        let count = pool.read_only_errors.fetch_add(1, Relaxed) + 1;
        if pool.read_only_told.is_due(self.now) {
            let name = &session.service.name;
            let text = format!(
                "service {name}: server {} refused a write because it is read-only ({count} so far)",
                server.name
            );
            self.shared
                .events
                .push(Kind::WriteRefused, name, &server.name, text);
        }
    }

    /// Replies to our own steps, and what stands behind them. None: more are to come.
    pub(super) fn preparing_bytes(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        bytes: &mut [u8],
        input: &[u8],
    ) -> Option<Next> {
        let back = pooled.back.as_mut()?;
        let mut rest = &*bytes;
        match back.conn.feed(&mut rest) {
            Event::Wait => None,
            Event::Ready if back.conn.is_busy() => match rest.len() {
                0 => None,
                left => {
                    let at = bytes.len() - left;
                    self.reply_bytes(index, session, pooled, &mut bytes[at..])
                }
            },
            Event::Ready => {
                back.count_reprepares();
                Some(Next::Took(0))
            }
            Event::Send(bytes) | Event::StartTls(bytes) => {
                let _ = back.socket.push(&bytes);
                None
            }
            Event::Failed(Failure::Step(error)) => {
                back.count_reprepares();
                self.give_up_back(pooled);
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
                Some(self.back_lost(index, session, pooled, "the server broke the protocol"))
            }
        }
    }

    /// The connection is gone. Before anything of the client's command was sent, another one is taken.
    pub(super) fn back_lost(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        what: &str,
    ) -> Next {
        let (Some(back), Some(front)) = (pooled.back.take(), pooled.front.as_mut()) else {
            return Next::Over(Cause::Internal);
        };
        let name = back.server().map(|s| s.name.clone()).unwrap_or_default();
        let was_busy = !back.conn.is_ready() && front.is_running();
        let untouched = back.conn.reply_is_untouched();
        let pinned = front.is_pinned();
        let was_riding = back.conn.is_ridden();
        self.drop_lost(back);
        if !was_busy && !pinned {
            return Next::Took(0);
        }
        let text = format!("server {name}: {what} in the middle of a statement");
        if was_riding {
            // The client has seen nothing of this reply, and the session has no state.
            let text = format!("portside: {text}");
            let error = (errno::SHUTDOWN, *b"08S01", text.as_str());
            return self.tell(index, session, pooled, &[], error);
        }
        if was_busy && !untouched {
            session.error = Some(text.into());
            return Next::Over(Cause::ServerEof);
        }
        let bytes = front.lost(&text);
        self.last_words(session, &bytes, Cause::ServerEof)
    }

    /// Passes a command on, or a piece of a long one.
    pub(super) fn forward(
        &mut self,
        session: &mut Session,
        pooled: &mut Pooled,
        bytes: &[u8],
    ) -> Next {
        let Some(back) = pooled.back.as_mut() else {
            return Next::Over(Cause::Internal);
        };
        back.used_at = self.now;
        session.moved_at = self.now;
        let mut together = std::mem::take(&mut back.ahead);
        let bytes = if together.is_empty() {
            bytes
        } else {
            together.extend_from_slice(bytes);
            &together
        };
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

    /// Tells the client that its command cannot be served, and goes on with the next.
    pub(super) fn tell(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
        (number, state, text): (u16, [u8; 5], &str),
    ) -> Next {
        pooled.is_served(self.now);
        session.error = Some(text.into());
        let counted = &session.service.state;
        let count = counted.commands_refused.fetch_add(1, Relaxed) + 1;
        let is_exhausted = number == errno::TOO_MANY_CONNECTIONS && !session.service.paused;
        if is_exhausted && counted.exhausted_told.is_due(self.now) {
            let text = text.trim_start_matches("portside: ");
            let text = format!("{text} ({count} commands refused so far)");
            let name = &session.service.name;
            self.shared.events.push(Kind::PoolExhausted, name, "", text);
        }
        let Some(front) = pooled.front.as_mut() else {
            return Next::Over(Cause::Internal);
        };
        // It went out behind the step that failed.
        let is_sent = front.is_running();
        let (bytes, is_over) = front.not_attached(number, state, text);
        if is_over {
            let cause = match number {
                errno::TOO_MANY_CONNECTIONS => Cause::QueueTimeout,
                errno::NO_SERVER => Cause::NoServer,
                _ => Cause::LoginDenied,
            };
            return self.last_words(session, &bytes, cause);
        }
        let length = if is_sent {
            Some(0)
        } else {
            Front::drop_command(input)
        };
        match length {
            Some(length) => match self.say(index, session, &bytes) {
                Next::Took(_) => Next::Took(length),
                other => other,
            },
            None => self.last_words(session, &bytes, Cause::ServerEof),
        }
    }
}

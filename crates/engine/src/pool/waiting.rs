//! Clients of pool services that wait for a connection: first come, first served, each with the deadline of its command.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use mio::Token;
use portside_proto::err::errno;

use super::client::Next;
use super::{Pool, Pooled, Waiting};
use crate::plan::ServiceState;
use crate::session::Session;
use crate::worker::{token, unpack, Worker};

/// Waiters looked at without success before the others must wait for the next news.
const IN_VAIN: usize = 16;
/// Pause before a waiter looks again by itself: the budget of `open_rate` tells nobody when it has grown.
const LOOK_AGAIN_MS: u64 = 20;

impl Worker {
    /// Stands in line. The deadline is that of the command, over all rounds.
    pub(super) fn wait(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
    ) -> Next {
        let service = Arc::clone(&session.service);
        let state = &service.state;
        if pooled.waiting.is_none() {
            if pooled.waits_since.is_none() && state.queued.load(SeqCst) >= service.queue {
                let text = format!(
                    "portside: service {}: no free server connection and the queue is full ({} wait)",
                    service.name, service.queue
                );
                return self.tell(
                    index,
                    session,
                    pooled,
                    input,
                    (errno::TOO_MANY_CONNECTIONS, *b"08004", &text),
                );
            }
            let is_new = pooled.waits_since.is_none();
            let since = *pooled.waits_since.get_or_insert(self.now);
            if self.is_overdue(session, since) {
                return self.waited_too_long_pooled(index, session, pooled, input, since);
            }
            pooled.waiting = Some(Waiting::new(state, self.id, since));
            pooled.look_at = self.now + LOOK_AGAIN_MS;
            let mine = token(index, session.generation, false);
            self.pool.line(&service.state).push_back(mine);
            if is_new {
                self.ask_others();
            }
        }
        self.arm_look(index, session, pooled);
        Next::Wait
    }

    fn is_overdue(&self, session: &Session, since: u64) -> bool {
        let limit = session.service.queue_ms.map(|ms| since + ms);
        limit.is_some_and(|limit| self.now >= limit)
    }

    fn arm_look(&mut self, index: usize, session: &mut Session, pooled: &Pooled) {
        let since = pooled.waits_since.unwrap_or(self.now);
        let limit = session.service.queue_ms.map_or(u64::MAX, |ms| since + ms);
        self.arm(index, session, pooled.look_at.min(limit));
    }

    /// The other workers may have idle connections.
    fn ask_others(&self) {
        let others = self.shared.inboxes.iter().enumerate();
        for (_, inbox) in others.filter(|(id, _)| *id != self.id) {
            if !inbox.slot_free.swap(true, Relaxed) {
                inbox.wake();
            }
        }
    }

    /// A waiting session came by: is its time over, or is it time to look again?
    pub(super) fn still_waiting(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
    ) -> Next {
        let since = pooled.waiting.as_ref().map_or(self.now, |w| w.since);
        if std::mem::take(&mut pooled.is_interrupted) {
            pooled.waiting = None;
            let error = (
                errno::INTERRUPTED,
                *b"70100",
                "Query execution was interrupted",
            );
            return self.tell(index, session, pooled, input, error);
        }
        if self.is_overdue(session, since) {
            return self.waited_too_long_pooled(index, session, pooled, input, since);
        }
        if self.now >= pooled.look_at {
            pooled.look_at = self.now + LOOK_AGAIN_MS;
            self.pool.has_news = true;
        }
        self.arm_look(index, session, pooled);
        Next::Wait
    }

    fn waited_too_long_pooled(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
        since: u64,
    ) -> Next {
        pooled.waiting = None;
        let waited = (self.now - since) as f64 / 1000.0;
        let service = Arc::clone(&session.service);
        let number = match pooled.failures {
            0 => errno::TOO_MANY_CONNECTIONS,
            _ => errno::NO_SERVER,
        };
        let text = match (pooled.error.take(), service.paused) {
            (Some(text), _) => format!(
                "portside: service {}: waited {waited:.1} s: {text}",
                service.name
            ),
            (None, true) => format!(
                "portside: service {}: waited {waited:.1} s; it is paused",
                service.name
            ),
            (None, false) => format!(
                "portside: service {}: waited {waited:.1} s for a free server connection ([pool] max, \
                 max_connections). On the proxy: portside show sessions, PINNED, says who keeps one",
                service.name
            ),
        };
        let error = (number, *b"08004", text.as_str());
        self.tell(index, session, pooled, input, error)
    }

    /// First come, first served, as far as there are connections; the services in turn.
    pub(super) fn serve_pool(&mut self) {
        let count = self.pool.lines.len();
        self.pool.turn = self.pool.turn.wrapping_add(1);
        for at in 0..count {
            self.serve_line((self.pool.turn + at) % count);
        }
    }

    /// A service whose clients cannot be served now must not hold up another's.
    fn serve_line(&mut self, at: usize) {
        let mut line = std::mem::take(&mut self.pool.lines[at].1);
        let mut in_vain = 0;
        while let Some(token) = line.pop_front() {
            let (index, generation, _) = unpack(token);
            let Some(mut session) = self.take(index, generation) else {
                continue;
            };
            let waits = session.pooled.as_mut().filter(|p| p.waiting.is_some());
            let Some(pooled) = waits else {
                self.put_back(index, session);
                continue;
            };
            // It counts as waiting until it stands in line again: what comes free elsewhere meanwhile must go to it, for it
            // asks the others once only.
            let counted = pooled.waiting.take();
            self.put_back(index, session);
            let before = self.pool.lines[at].1.len();
            self.guarded(token, None);
            drop(counted);
            in_vain += usize::from(self.pool.lines[at].1.len() > before);
            if in_vain >= IN_VAIN {
                break;
            }
        }
        self.pool.lines[at].1.append(&mut line);
    }

    /// The connection opened for this session is ready (it may be another's by now): it looks again.
    pub(super) fn opening_done(&mut self, owner: Token) {
        if let Some(pooled) = self.waiting_session(owner) {
            pooled.is_opening = false;
        }
        self.pool.has_news = true;
    }

    /// The server has no place for the connection that was opened for this session: it waits for another.
    pub(super) fn opening_turned_away(&mut self, owner: Token, text: String) {
        if let Some(pooled) = self.waiting_session(owner).filter(|p| p.is_opening) {
            pooled.is_opening = false;
            pooled.error = Some(text);
        }
        self.pool.has_news = true;
    }

    /// The connection opened for this session failed: another server, or another round.
    pub(super) fn opening_failed(
        &mut self,
        owner: Token,
        server: &str,
        text: String,
        has_other: bool,
    ) {
        let (index, ..) = unpack(owner);
        let session = self.sessions.get_mut(index).and_then(Option::as_mut);
        let member = session.and_then(|session| {
            let members = &session.service.members;
            members.iter().position(|m| m.server.name == server)
        });
        // One that was served by another connection meanwhile is not concerned.
        if let Some(pooled) = self.waiting_session(owner).filter(|p| p.is_opening) {
            pooled.is_opening = false;
            pooled.failures += 1;
            pooled.error = Some(text);
            if let Some(member) = member.filter(|_| !has_other) {
                pooled.tried |= 1_u64.checked_shl(member as u32).unwrap_or(0);
            }
        }
        self.pool.has_news = true;
    }

    fn waiting_session(&mut self, owner: Token) -> Option<&mut Pooled> {
        let (index, generation, _) = unpack(owner);
        let session = self.sessions.get_mut(index)?.as_mut()?;
        let is_same = session.generation == generation;
        session.pooled.as_deref_mut().filter(|_| is_same)
    }
}

impl Pool {
    /// Who waits for connections of this service.
    fn line(&mut self, service: &Arc<ServiceState>) -> &mut VecDeque<Token> {
        let known = self.lines.iter().position(|(s, _)| Arc::ptr_eq(s, service));
        let at = known.unwrap_or_else(|| {
            self.lines.push((Arc::clone(service), VecDeque::new()));
            self.lines.len() - 1
        });
        &mut self.lines[at].1
    }

    /// Whether anybody may be waiting here.
    pub(super) fn has_waiters(&self) -> bool {
        self.lines.iter().any(|(_, line)| !line.is_empty())
    }
}

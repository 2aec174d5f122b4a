//! Sessions that wait for a slot or a source port: bounded, first come first served, woken by whoever frees one.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use mio::Token;
use portside_core::reason::Cause;
use portside_proto::err::errno;

use crate::events::Kind;
use crate::plan::{Destination, Server, Service};
use crate::session::Session;
use crate::worker::{token, Worker};

/// How often a session that waits for a source port looks again at least apart.
const LOOK_AGAIN_MS: u64 = 50;
/// Between two attempts that spend all their tries on ports of other programs: 64 x 4 us in each ms.
const NEXT_TRIES_MS: u64 = 1;

impl Worker {
    pub(crate) fn enqueue(&mut self, index: usize, session: &mut Session) {
        let service = Arc::clone(&session.service);
        let state = &service.state;
        let full = state
            .queued
            .fetch_update(SeqCst, Relaxed, |n| (n < service.queue).then_some(n + 1))
            .is_err();
        if full {
            self.shared.events.push(
                Kind::QueueFull,
                &service.name,
                "",
                format!(
                    "service {}: {} sessions wait already (queue)",
                    service.name, service.queue
                ),
            );
            let text = format!(
                "no free slot and the queue is full ({} wait)",
                service.queue
            );
            self.refuse(
                session,
                Cause::QueueFull,
                errno::TOO_MANY_CONNECTIONS,
                &text,
            );
            return;
        }
        state.waiting[self.id].fetch_add(1, SeqCst);
        session.queued_in = Some(Arc::clone(state));
        session.relay.queued(self.now);
        self.queues
            .entry(service.name.clone())
            .or_default()
            .push_back(token(index, session.generation, false));
        self.arm_waiting(index, session);
        // A slot may have come free between the failed try and our standing in line.
        self.shared.inboxes[self.id].slot_free.store(true, Relaxed);
    }

    /// Takes the session out of the count of those that wait; its queue entry goes stale.
    pub(crate) fn dequeue(&self, session: &mut Session) {
        if let Some(state) = session.queued_in.take() {
            state.queued.fetch_sub(1, SeqCst);
            state.waiting[self.id].fetch_sub(1, SeqCst);
        }
    }

    /// First come, first served, as far as there are slots.
    pub(crate) fn serve_queues(&mut self) {
        let names: Vec<String> = self
            .queues
            .iter()
            .filter(|(_, q)| !q.is_empty())
            .map(|(n, _)| n.clone())
            .collect();
        for name in names {
            while let Some(token) = self.queues.get_mut(&name).and_then(|q| q.front().copied()) {
                let Some((index, mut session)) = self.take_queued(token) else {
                    self.pop_queue(&name);
                    continue;
                };
                if !self.try_dispatch(index, &mut session) {
                    session.relay.queued(self.now);
                    self.arm_waiting(index, &mut session);
                    self.put_back(index, session);
                    break;
                }
                self.pop_queue(&name);
                self.dequeue(&mut session);
                self.put_back(index, session);
                self.guarded(token, None);
            }
        }
    }

    /// Whether anybody of this service waits in this worker.
    pub(crate) fn has_queue(&self, service: &str) -> bool {
        self.queues.get(service).is_some_and(|q| !q.is_empty())
    }

    /// Wakes a waiting session at its deadline, or when a resting source port becomes due.
    fn arm_waiting(&mut self, index: usize, session: &mut Session) {
        if let Some(limit) = session.queue_limit() {
            self.arm(index, session, limit);
        }
        let due = session.no_port.as_ref().and_then(|server| {
            let ledgers = server.destinations.iter().filter_map(|d| d.ports.as_ref());
            ledgers.filter_map(|ports| ports.ledger.next_due_ms()).min()
        });
        if let Some(due) = due {
            // Not at once: what was due and yet not leased is somebody else's (a barred address).
            let pause = if session.tries_spent {
                NEXT_TRIES_MS
            } else {
                LOOK_AGAIN_MS
            };
            session.tries_spent = false;
            self.arm(index, session, due.max(self.now + pause));
        }
    }

    fn pop_queue(&mut self, name: &str) {
        if let Some(queue) = self.queues.get_mut(name) {
            queue.pop_front();
        }
    }

    /// The session of a queue entry, if it still waits.
    fn take_queued(&mut self, token: Token) -> Option<(usize, Box<Session>)> {
        let raw = token.0 as u64;
        let (index, generation) = ((raw >> 1) as u32 as usize, (raw >> 33) as u32);
        let slot = self.sessions.get_mut(index)?;
        if slot
            .as_ref()
            .is_none_or(|s| s.generation != generation || s.queued_in.is_none())
        {
            return None;
        }
        slot.take().map(|s| (index, s))
    }

    /// Queue and retry timers.
    pub(crate) fn waiting_timers(&mut self, index: usize, session: &mut Session) {
        if session.queued_in.is_some() {
            if session.queue_limit().is_some_and(|limit| self.now >= limit) {
                self.waited_too_long(session);
            } else {
                if session.no_port.is_some() {
                    self.shared.inboxes[self.id].slot_free.store(true, Relaxed);
                }
                self.arm_waiting(index, session);
            }
        }
        if let Some(at) = session.retry_at {
            if self.now >= at {
                session.retry_at = None;
                self.dispatch(index, session);
            } else {
                self.arm(index, session, at);
            }
        }
    }

    fn waited_too_long(&mut self, session: &mut Session) {
        self.dequeue(session);
        let waited = (self.now - session.times.accepted) as f64 / 1000.0;
        if let Some(server) = session.no_port.take() {
            // Whoever is first now must look itself: nobody tells it when a resting port becomes due.
            self.shared.inboxes[self.id].slot_free.store(true, Relaxed);
            let what = session.error.take().unwrap_or_default();
            return self.refuse_no_port(session, &what, waited, &server);
        }
        let service = Arc::clone(&session.service);
        let active = service.state.active.load(Relaxed);
        if let (false, Some((server, what))) =
            (service.paused || active >= service.max, exhausted(&service))
        {
            // It stood behind others and never tried itself: what they waited for, it waited for.
            return self.refuse_no_port(session, &what, waited, &server);
        }
        let text = if service.paused {
            format!("waited {waited:.1} s; the service is paused")
        } else if service.max == u32::MAX {
            format!("waited {waited:.1} s for a free slot (max_connections of its servers)")
        } else {
            format!(
                "waited {waited:.1} s for a free slot ({active} of {} sessions)",
                service.max
            )
        };
        self.refuse(
            session,
            Cause::QueueTimeout,
            errno::TOO_MANY_CONNECTIONS,
            &text,
        );
    }

    fn refuse_no_port(&mut self, session: &mut Session, what: &str, waited: f64, server: &Server) {
        let text = format!(
            "{what}, waited {waited:.1} s. Not the database. On the proxy: portside show ports {}",
            server.name
        );
        self.refuse(session, Cause::NoSource, errno::OUT_OF_RESOURCES, &text);
    }
}

/// A server of the service that only lacks source ports, and the sentence about it.
fn exhausted(service: &Service) -> Option<(Arc<Server>, String)> {
    let members = service.members.iter().zip(&service.balance);
    for (member, _) in members.filter(|(_, b)| b.eligible && b.weight() > 0) {
        let server = &member.server;
        let to = server.destinations.first()?;
        let none_left = |to: &Destination| to.ports.as_ref().is_some_and(|p| p.is_exhausted());
        if server.destinations.iter().all(none_left) {
            let text = to.ports.as_ref()?.none_left(&server.name, &to.text);
            return Some((Arc::clone(server), text));
        }
    }
    None
}

//! Chooses a server for a session, or lets it wait, or refuses it.
//!
//! A session may change servers as long as no byte of a greeting has reached its client. The connect itself
//! is `attempt.rs`, waiting is `queue.rs`, saying no is `refusal.rs`.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

use portside_core::balance::{Balancer, Choice, Live, Request};
use portside_core::reason::Cause;
use portside_proto::err::errno;

use crate::attempt::Failed;
use crate::plan::{take_slot, Service};
use crate::refusal::no_server_text;
use crate::session::{ServiceSlot, Session};
use crate::worker::Worker;

/// Pause before a server is tried again after every member failed in this session. A restart takes longer,
/// a full accept queue shorter.
const RETRY_MS: u64 = 500;

impl Worker {
    /// Chooses a server and connects, or queues, or refuses. Whoever waits already goes first.
    pub(crate) fn dispatch(&mut self, index: usize, session: &mut Session) {
        if session.service.pool.is_some() {
            return self.begin_pooled(index, session);
        }
        let behind = session.queued_in.is_none() && self.has_queue(&session.service.name);
        if behind || !self.try_dispatch(index, session) {
            self.enqueue(index, session);
        }
    }

    /// False: nothing is free now, the session should wait.
    pub(crate) fn try_dispatch(&mut self, index: usize, session: &mut Session) -> bool {
        // The plan may be newer than the one the session came in under.
        let service = match self.plan.service(&session.service.name) {
            Some(service) => Arc::clone(service),
            None => Arc::clone(&session.service),
        };
        session.service = Arc::clone(&service);
        if service.paused {
            return false;
        }
        if session.slot.is_none() {
            if !take_slot(&service.state.active, service.max) {
                return false;
            }
            session.slot = Some(ServiceSlot(Arc::clone(&service.state)));
        }
        loop {
            let member = match self.choose(&service, session) {
                Choice::Full => return false,
                Choice::Nobody => return self.nobody(index, session, &service),
                Choice::Member(member) => member,
            };
            let server = Arc::clone(&service.members[member].server);
            if !take_slot(&server.state.active, server.max) {
                continue;
            }
            let why = match self.attempt(index, session, &service, member) {
                Ok(()) => return true,
                Err(why) => why,
            };
            session.leave_server(self.now);
            let destination = session.last.as_ref().map_or(0, |last| last.destination);
            let mut has_other = false;
            match why {
                Failed::NoPort => session.no_port = Some(server),
                Failed::TriesSpent => {
                    session.no_port = Some(server);
                    session.tries_spent = true;
                }
                Failed::NotNow => {}
                Failed::Server => {
                    session.failures += 1;
                    let text = session.error.as_deref().unwrap_or("connect failed");
                    has_other = self.server_failed(&server, destination, self.now, text);
                }
                Failed::Local | Failed::NoSource => session.failures += 1,
            }
            if !has_other {
                session.mark_tried(member);
            }
            // Members beyond the 64th cannot be marked, so the round must have an end of its own.
            if session.failures > service.retries + service.members.len() as u32 {
                self.refuse_last(session, cause_of(why));
                return true;
            }
            session.last_failure = cause_of(why);
        }
    }

    fn choose(&mut self, service: &Service, session: &Session) -> Choice {
        let request = Request {
            client: session.client.ip(),
            random: self.next_random(),
        };
        let now = self.now;
        let live = |i: usize| {
            let state = &service.members[i].server.state;
            let load = state.active.load(SeqCst);
            Live {
                load,
                full: load >= service.members[i].server.max,
                excluded: session.has_tried(i) || !state.breaker.state().would_pass(now),
            }
        };
        match self.balancers.get_mut(&service.name) {
            Some(balancer) => balancer.pick(&service.balance, live, request),
            // The service has left the plan, but this session came in under it.
            None => Balancer::new(service.algorithm, &service.balance, self.id).pick(
                &service.balance,
                live,
                request,
            ),
        }
    }

    /// Nobody can take this session now: a source port may come free, or another round later, or an ERR.
    /// False: it should wait in the queue.
    fn nobody(&mut self, index: usize, session: &mut Session, service: &Service) -> bool {
        if session.no_port.is_some() {
            session.tried = 0;
            return false;
        }
        let is_served = service.balance.iter().any(|m| m.eligible && m.weight() > 0);
        if is_served && session.failures > 0 && session.failures <= service.retries {
            session.tried = 0;
            // A round counts even if nobody can be asked in it (an open breaker): it must come to an end.
            session.failures += 1;
            session.retry_at = Some(self.now + RETRY_MS);
            self.arm(index, session, self.now + RETRY_MS);
        } else if session.failures > 0 {
            self.refuse_last(session, session.last_failure);
        } else {
            let text = no_server_text(service, self.now);
            self.refuse(session, Cause::NoServer, errno::NO_SERVER, &text);
        }
        true
    }
}

fn cause_of(why: Failed) -> Cause {
    match why {
        Failed::Server | Failed::NotNow => Cause::ConnectFailed,
        Failed::Local => Cause::LocalResource,
        Failed::NoSource | Failed::NoPort | Failed::TriesSpent => Cause::NoSource,
    }
}

//! KILL by the ids that Portside gave, and queries whose client is gone.
//!
//! The server's KILL QUERY names a connection, not a query, and may come late. So the connection is barred from
//! the pool until the KILL is answered, and reset before anybody else gets it.

use std::sync::{Arc, PoisonError};

use portside_core::pool::Left;
use portside_core::reason::Cause;

use super::back::Order;
use super::{Back, Place, Pool, State, Victim};
use crate::plan::{Server, Service};
use crate::shared::Message;
use crate::worker::{token, unpack, Worker};

/// How long a reply is drained whose client is gone before its query is killed: most are over by then.
const DRAIN_MS: u64 = 200;
/// Pause before another try when there was no connection for a KILL.
const AGAIN_MS: u64 = 20;

impl Worker {
    /// KILL said by a client: whether there is a session with this id.
    pub(super) fn kill(&mut self, id: u64, query: bool) -> bool {
        let Ok(id) = u32::try_from(id) else {
            return false;
        };
        let workers = &self.shared.pool.workers;
        let found = workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .copied();
        let Some(worker) = found else {
            return false;
        };
        // Also for our own: the session may be the one that is being driven.
        self.shared.inboxes[worker]
            .send(Message::Kill { id, query })
            .is_ok()
    }

    /// KILL of a session that is this worker's.
    pub(crate) fn kill_pooled(&mut self, id: u32, query: bool) {
        let found = self.sessions.iter().find_map(|(index, slot)| {
            let session = slot.as_ref()?;
            let front = session.pooled.as_ref()?.front.as_ref()?;
            (front.thread_id() == id).then(|| token(index, session.generation, false))
        });
        let Some(found) = found else {
            return;
        };
        let (index, ..) = unpack(found);
        let Some(Some(session)) = self.sessions.get_mut(index) else {
            return;
        };
        if !query {
            session.relay.cut(Cause::Killed, false);
            return self.guarded(found, None);
        }
        let back = session
            .pooled
            .as_mut()
            .and_then(|pooled| pooled.back.as_mut());
        // One KILL under way is enough: another would find the same query, or the next.
        if let Some(back) = back.filter(|back| back.conn.is_busy() && back.kills == 0) {
            let victim = victim(back, self.now);
            let is_known = |known: &Victim| {
                (known.index, known.generation, known.uses)
                    == (victim.index, victim.generation, victim.uses)
            };
            if !self.pool.victims.iter().any(is_known) {
                self.pool.victims.push(victim);
                self.hunt();
            }
        }
    }

    /// A connection whose client is gone in the middle of a reply: QUIT goes behind the query, the reply is drained
    /// for a moment, then the query is killed; the limits of [close] end what still goes on.
    pub(super) fn abandon(&mut self, back: Box<Back>) {
        let victim = victim(&back, self.now + DRAIN_MS);
        self.pool.victims.push(victim);
        self.quit_back(back);
    }

    /// Sends KILL QUERY for those whose time has come and whose query still runs.
    pub(super) fn hunt(&mut self) {
        if self.pool.victims.is_empty() {
            return;
        }
        let (now, mut later) = (self.now, Vec::new());
        for mut victim in std::mem::take(&mut self.pool.victims) {
            let Some(back) = self.victim_of(victim) else {
                continue;
            };
            if now < victim.at {
                later.push(victim);
                continue;
            }
            let (user, class, client) = (Arc::clone(&back.user), back.conn.class(), back.client);
            let Some(server) = back.server().map(Arc::clone) else {
                continue;
            };
            if self.send_killer(&server, victim, &user, class, client) {
                if let Some(back) = self.victim_of(victim) {
                    back.kills += 1;
                    // Whatever the KILL hits, a reset comes after it.
                    back.conn.left(Left::Traces);
                }
            } else {
                victim.at = now + AGAIN_MS;
                later.push(victim);
            }
        }
        self.pool.victims.append(&mut later);
    }

    /// The victim, while the same query runs on it.
    fn victim_of(&mut self, victim: Victim) -> Option<&mut Back> {
        let back = match self.pool.backs.get_mut(victim.index)? {
            Place::Here(back) => back.as_mut(),
            Place::Lent(owner) => {
                let (index, ..) = unpack(*owner);
                let session = self.sessions.get_mut(index)?.as_mut()?;
                session.pooled.as_mut()?.back.as_deref_mut()?
            }
            Place::Taken => return None,
        };
        let is_same = back.generation == victim.generation && back.conn.uses() == victim.uses;
        (is_same && back.conn.is_busy()).then_some(back)
    }

    /// An idle connection of the same account says it, or a new one. False: neither can be had now.
    fn send_killer(
        &mut self,
        server: &Arc<Server>,
        victim: Victim,
        user: &Arc<portside_core::pool::User>,
        class: portside_core::pool::Class,
        client: Option<std::net::SocketAddr>,
    ) -> bool {
        let is_able = |back: &Back| {
            let same = back
                .server()
                .is_some_and(|s| Arc::ptr_eq(&s.state, &server.state));
            same && back.user.server_user == user.server_user
        };
        let at = (0..self.pool.shelf.len()).find(|at| self.pool.idle_at(*at).is_some_and(is_able));
        if let Some(index) = at.map(|at| self.pool.shelf.remove(at)) {
            if let Some(mut back) = self.take_back(index) {
                back.errand = Some(victim);
                self.run_errand(back, victim);
                return true;
            }
        }
        let plan = Arc::clone(&self.plan);
        let of = |service: &&Arc<Service>| {
            let members = &service.members;
            let member = members
                .iter()
                .position(|m| Arc::ptr_eq(&m.server.state, &server.state));
            member.filter(|_| service.pool.is_some())
        };
        let Some((service, member)) = plan.services.iter().find_map(|s| Some((s, of(&s)?))) else {
            return false;
        };
        let order = Order {
            user,
            class,
            client: client.map(|client| (client, client)),
            wanted_by: None,
            errand: Some(victim),
        };
        self.open_back(service, member, &order).is_ok()
    }

    /// A connection is ready to kill: it does, unless the query is over.
    pub(super) fn run_errand(&mut self, mut back: Box<Back>, victim: Victim) {
        if back.conn.has_traces() || !back.conn.is_ready() || back.has_run {
            back.errand = None;
            back.has_run = false;
            self.errand_over(victim);
            return self.settle(back);
        }
        back.has_run = true;
        let bytes = back.conn.kill_query(victim.thread_id);
        self.say_on_its_own(back, &bytes);
    }

    /// The KILL is answered, or cannot be said: the victim is free again.
    pub(super) fn errand_over(&mut self, victim: Victim) {
        match self.pool.backs.get_mut(victim.index) {
            Some(Place::Here(back)) if back.generation == victim.generation => {
                back.kills = back.kills.saturating_sub(1);
                if back.kills == 0 && back.state == State::Barred {
                    if let Some(back) = self.take_back(victim.index) {
                        self.settle(back);
                    }
                }
            }
            Some(Place::Lent(owner)) => {
                let (index, ..) = unpack(*owner);
                let session = self.sessions.get_mut(index).and_then(Option::as_mut);
                let pooled = session.and_then(|session| session.pooled.as_mut());
                let back = pooled.and_then(|pooled| pooled.back.as_mut());
                if let Some(back) = back.filter(|back| back.generation == victim.generation) {
                    back.kills = back.kills.saturating_sub(1);
                }
            }
            _ => {}
        }
    }
}

impl Pool {
    /// When something is due here.
    pub(crate) fn due(&self) -> Option<u64> {
        let kill = self.victims.iter().map(|victim| victim.at).min();
        [kill, self.tick_at].into_iter().flatten().min()
    }
}

fn victim(back: &Back, at: u64) -> Victim {
    Victim {
        index: back.index,
        generation: back.generation,
        thread_id: back.conn.thread_id(),
        uses: back.conn.uses(),
        at,
    }
}

//! KILL by the ids that Portside gave, and queries whose client is gone.
//!
//! The server's KILL QUERY names a connection, not a query, and may come late. So the connection is barred from
//! the pool until the KILL is answered, and reset before anybody else gets it.

use std::sync::Arc;

use portside_core::pool::{Class, Killed, Left, User};
use portside_core::reason::Cause;

use super::opening::{Order, Purpose};
use super::{Back, Place, Pool, State, Victim};
use crate::plan::{Server, Service};
use crate::shared::Message;
use crate::worker::{token, unpack, Worker};

/// How long a reply is drained whose client is gone before its query is killed: most are over by then.
const DRAIN_MS: u64 = 200;
/// Pause before another try when there was no connection for a KILL.
const AGAIN_MS: u64 = 20;
/// The same after one could not be opened.
const FAILED_MS: u64 = 250;

impl Worker {
    /// KILL said by a client: an account may end its own sessions, as on the server.
    pub(super) fn kill(&mut self, user: Option<&Arc<User>>, id: u64, query: bool) -> Killed {
        let Ok(id) = u32::try_from(id) else {
            return Killed::Unknown;
        };
        let sessions = self.shared.pool.sessions();
        let Some(session) = sessions.get(&id) else {
            return Killed::Unknown;
        };
        let is_same = |(one, other): (&Arc<User>, &Arc<User>)| one.server_user == other.server_user;
        if !session.user.as_ref().zip(user).is_some_and(is_same) {
            return Killed::NotOwner;
        }
        let worker = session.worker;
        drop(sessions);
        // Also for our own: the session may be the one that is being driven.
        match self.shared.inboxes[worker].send(Message::Kill { id, query }) {
            Ok(()) => Killed::Yes,
            Err(_) => Killed::Unknown,
        }
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
        let Some(pooled) = session.pooled.as_mut() else {
            return;
        };
        if pooled.waiting.is_some() {
            pooled.is_interrupted = true;
            return self.guarded(found, None);
        }
        let back = pooled.back.as_mut();
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
            // Before it is sent, which may be over at once.
            if let Some(back) = self.victim_of(victim) {
                back.kills += 1;
                // Whatever the KILL hits, a reset comes after it.
                back.conn.left(Left::Traces);
            }
            if !self.send_killer(&server, victim, &user, class, client) {
                self.errand_over(victim, Left::Nothing);
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
        user: &Arc<User>,
        class: Class,
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
                self.say_kill(back, victim);
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
            purpose: Purpose::Kill(victim),
        };
        self.open_back(service, member, order).is_ok()
    }

    /// A connection with an errand is ready: to say the KILL, or for what comes after its answer.
    pub(super) fn run_errand(&mut self, mut back: Box<Back>, victim: Victim) {
        if !back.has_run {
            return self.say_kill(back, victim);
        }
        (back.errand, back.has_run) = (None, false);
        self.errand_over(victim, Left::Nothing);
        if let Some(next) = self.next_victim(&back) {
            back.errand = Some(next);
            return self.say_kill(back, next);
        }
        // The one beyond `max` was for this only.
        if back.slot.as_ref().is_some_and(|slot| slot.is_killer) {
            return self.quit_back(back);
        }
        self.settle(back);
    }

    /// Says it, unless the query is over: what runs there now was not meant.
    fn say_kill(&mut self, mut back: Box<Back>, victim: Victim) {
        back.has_run = true;
        if self.victim_of(victim).is_none() {
            return self.run_errand(back, victim);
        }
        let bytes = back.conn.kill_query(victim.thread_id);
        self.say_on_its_own(back, &bytes);
    }

    /// Another query that this connection can kill, now that it is here.
    fn next_victim(&mut self, killer: &Back) -> Option<Victim> {
        let (now, victims) = (self.now, std::mem::take(&mut self.pool.victims));
        let mut next = None;
        let mut later = Vec::with_capacity(victims.len());
        for victim in victims {
            match self.victim_of(victim) {
                Some(back) if next.is_none() && victim.at <= now && can_kill(killer, back) => {
                    back.kills += 1;
                    back.conn.left(Left::Traces);
                    next = Some(victim);
                }
                Some(_) => later.push(victim),
                None => {}
            }
        }
        self.pool.victims = later;
        next
    }

    /// The KILL is answered, or cannot be said: the victim is free again, but for what is `left` on it.
    pub(super) fn errand_over(&mut self, victim: Victim, left: Left) {
        let back = match self.pool.backs.get_mut(victim.index) {
            Some(Place::Here(back)) => Some(back),
            Some(Place::Lent(owner)) => {
                let (index, ..) = unpack(*owner);
                let session = self.sessions.get_mut(index).and_then(Option::as_mut);
                let pooled = session.and_then(|session| session.pooled.as_mut());
                pooled.and_then(|pooled| pooled.back.as_mut())
            }
            _ => None,
        };
        let Some(back) = back.filter(|back| back.generation == victim.generation) else {
            return;
        };
        back.kills = back.kills.saturating_sub(1);
        back.conn.left(left);
        // Of a reply that nobody reads only what is on its way is still read.
        back.drained = 0;
        if back.kills == 0 && back.state == State::Barred {
            if let Some(back) = self.take_back(victim.index) {
                self.settle(back);
            }
        }
    }

    /// A connection with an errand ends: said, nobody knows when the KILL takes effect; else it is tried again.
    pub(super) fn errand_lost(&mut self, mut victim: Victim, has_run: bool) {
        if has_run {
            return self.errand_over(victim, Left::Doubt);
        }
        self.errand_over(victim, Left::Nothing);
        victim.at = self.now + FAILED_MS;
        self.pool.victims.push(victim);
    }

    /// Whether the query of a connection that is left to itself is still to be killed.
    pub(super) fn is_hunted(&self, back: &Back) -> bool {
        let is_it = |v: &Victim| (v.index, v.generation) == (back.index, back.generation);
        back.kills > 0 || self.pool.victims.iter().any(is_it)
    }

    /// Enough of its reply was read: most of what is left would be read for nobody.
    pub(super) fn hurry_kill(&mut self, back: &Back) {
        for victim in &mut self.pool.victims {
            if (victim.index, victim.generation) == (back.index, back.generation) {
                victim.at = self.now;
            }
        }
    }
}

/// The server lets an account kill its own queries.
fn can_kill(killer: &Back, victim: &Back) -> bool {
    let servers = killer.server().zip(victim.server());
    servers.is_some_and(|(one, other)| Arc::ptr_eq(&one.state, &other.state))
        && killer.user.server_user == victim.user.server_user
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

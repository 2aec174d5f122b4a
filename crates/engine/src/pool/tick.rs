//! What pool mode does by the clock: connections too old or too long idle, scouts for servers not known yet.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use portside_core::pool::Class;

use super::back::Order;
use super::{Back, Place};
use crate::plan::Service;
use crate::shared::Cut;
use crate::worker::{Worker, READ_BYTES};

/// How often ages are looked at.
const TICK_MS: u64 = 1_000;
/// How often a server that is not known yet is asked.
const SCOUT_MS: u64 = 250;

impl Worker {
    /// A new plan: pool services need a scratch buffer and a clock, old connections may be nobody's any more.
    pub(crate) fn pool_plan(&mut self) {
        let has_pool = self
            .plan
            .services
            .iter()
            .any(|service| service.pool.is_some());
        if has_pool && self.pool.scratch.is_empty() {
            self.pool.scratch = vec![0; READ_BYTES].into_boxed_slice();
        }
        if has_pool || !self.pool.backs.is_empty() {
            self.pool.tick_at = Some(self.now);
        }
    }

    /// Called in every turn of the loop; cheap when nothing is due.
    pub(crate) fn pool_tick(&mut self) {
        if std::mem::take(&mut self.pool.has_news) {
            self.serve_pool();
            if self.pool.waiters.is_empty() {
                self.share_idle();
            }
        }
        self.hunt();
        if self.pool.tick_at.is_none_or(|at| self.now < at) {
            return;
        }
        for index in self.pool.shelf.clone() {
            if let Some(back) = self.take_back(index) {
                if self.must_retire(&back) || self.is_idle_too_long(&back) {
                    self.quit_back(back);
                } else {
                    self.put_back_down(back);
                }
            }
        }
        let is_unknown = self.send_scouts();
        let is_used = !self.pool.backs.is_empty()
            || self
                .plan
                .services
                .iter()
                .any(|service| service.pool.is_some());
        let pause = if is_unknown { SCOUT_MS } else { TICK_MS };
        self.pool.tick_at = is_used.then_some(self.now + pause);
    }

    /// Asks servers of pool services that have not greeted yet who they are, so that clients can be greeted.
    /// True: some are still unknown.
    fn send_scouts(&mut self) -> bool {
        let plan = Arc::clone(&self.plan);
        let mut is_unknown = false;
        for service in plan
            .services
            .iter()
            .filter(|service| service.pool.is_some())
        {
            for member in 0..service.members.len() {
                let server = &service.members[member].server;
                let eligible = service.balance[member].eligible;
                if !eligible || server.state.pool.known.load().is_some() {
                    continue;
                }
                is_unknown = true;
                if self.id == 0 && !self.pool.scouts.contains(&server.name) {
                    self.send_scout(service, member);
                }
            }
        }
        is_unknown && plan.accepting
    }

    fn send_scout(&mut self, service: &Service, member: usize) {
        let Some(user) = service.users.scout() else {
            return;
        };
        let order = Order {
            user,
            class: Class {
                capabilities: 0,
                collation: 45,
            },
            client: None,
            wanted_by: None,
            errand: None,
        };
        let name = service.members[member].server.name.clone();
        self.pool.scouts.push(name.clone());
        if self.open_back(service, member, &order).is_err() {
            let pool = &service.members[member].server.state.pool;
            pool.was_asked.store(true, Relaxed);
            self.pool.scouts.retain(|scout| *scout != name);
        }
    }

    /// Too old, or of a server, an address or an account that the plan does not know any more.
    pub(super) fn must_retire(&self, back: &Back) -> bool {
        let Some(server) = back.server() else {
            return true;
        };
        let Some(present) = self.plan.server(&server.name) else {
            return true;
        };
        let to = &server.destinations[back.destination].text;
        if !self.plan.accepting
            || !Arc::ptr_eq(&present.state, &server.state)
            || present.destinations.iter().all(|d| d.text != *to)
        {
            return true;
        }
        let mut services = self.plan.services.iter().filter(|s| s.pool.is_some());
        let is_of = |service: &&Arc<Service>| {
            let account = service.users.get(back.user.name.as_bytes());
            service
                .members
                .iter()
                .any(|m| Arc::ptr_eq(&m.server.state, &server.state))
                && account.is_some_and(|account| *account.user == *back.user)
        };
        let Some(service) = services.find(is_of) else {
            return true;
        };
        let lifetime = service.pool.and_then(|pool| pool.max_lifetime_ms);
        // A tenth of spread: connections opened together must not go together.
        lifetime.is_some_and(|ms| self.now >= back.opened_at + ms - back.id % 10 * ms / 100)
    }

    fn is_idle_too_long(&self, back: &Back) -> bool {
        let Some(server) = back.server() else {
            return true;
        };
        let mut services = self.plan.services.iter().filter(|service| {
            service
                .members
                .iter()
                .any(|m| Arc::ptr_eq(&m.server.state, &server.state))
        });
        let Some(pool) = services.find_map(|service| service.pool) else {
            return true;
        };
        let open = server.state.pool.open.load(SeqCst);
        open > pool.min_idle && pool.idle_ms.is_some_and(|ms| self.now >= back.used_at + ms)
    }

    /// A server goes (maint, on_down): its idle connections are closed, its clients are cut.
    pub(crate) fn cut_pool(&mut self, cut: &Cut) {
        let Some(name) = cut.server.as_ref() else {
            return;
        };
        for index in self.pool.shelf.clone() {
            let Some(back) = self.take_back(index) else {
                continue;
            };
            if back.server().is_some_and(|server| server.name == *name) {
                self.quit_back(back);
            } else {
                self.put_back_down(back);
            }
        }
        let lent: Vec<_> = self
            .pool
            .backs
            .iter()
            .filter_map(|(_, place)| match place {
                Place::Lent(owner) => Some(*owner),
                _ => None,
            })
            .collect();
        for owner in lent {
            let (index, ..) = crate::worker::unpack(owner);
            let session = self.sessions.get_mut(index).and_then(Option::as_mut);
            let Some(session) = session else {
                continue;
            };
            let back = session
                .pooled
                .as_ref()
                .and_then(|pooled| pooled.back.as_ref());
            let is_there = back
                .and_then(|b| b.server())
                .is_some_and(|s| s.name == *name);
            let of_service = cut
                .service
                .as_ref()
                .is_none_or(|s| *s == session.service.name);
            if is_there && of_service && cut.session.is_none() {
                session.relay.cut(cut.cause, cut.gently);
                self.guarded(owner, None);
            }
        }
    }
}

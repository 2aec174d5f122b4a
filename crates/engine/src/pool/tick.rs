//! What pool mode does by the clock, and when a plan or a server goes: connections that have to end.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

use mio::Token;

use super::client::{bereave, SERVER_GOES};
use super::{Back, Place};
use crate::plan::{ServerState, Service};
use crate::shared::Cut;
use crate::worker::{Worker, READ_BYTES};

/// How often ages are looked at.
const TICK_MS: u64 = 1_000;
/// How often while a server is not known yet, or has too few connections that lie ready.
const SOON_MS: u64 = 250;

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
        self.pool.plans += 1;
        self.pool.lines.retain(|(_, line)| !line.is_empty());
    }

    /// Called in every turn of the loop; cheap when nothing is due.
    pub(crate) fn pool_tick(&mut self) {
        if std::mem::take(&mut self.pool.has_news) {
            self.serve_pool();
            if !self.pool.has_waiters() {
                self.share_idle();
            }
        }
        self.hunt();
        if self.pool.tick_at.is_none_or(|at| self.now < at) {
            return;
        }
        self.thin_out();
        let is_unknown = self.send_scouts();
        let is_cold = self.keep_warm();
        let is_used = !self.pool.backs.is_empty()
            || self
                .plan
                .services
                .iter()
                .any(|service| service.pool.is_some());
        let pause = if is_unknown || is_cold {
            SOON_MS
        } else {
            TICK_MS
        };
        self.pool.tick_at = is_used.then_some(self.now + pause);
    }

    /// Too old, or of a server, an address or an account that nobody here may use.
    pub(super) fn must_retire(&self, back: &mut Back) -> bool {
        if back.plan != self.pool.plans {
            back.plan = self.pool.plans;
            back.retire_at = self.retire_at(back);
        }
        // At the end sessions that run on still need connections.
        let is_over = !self.plan.accepting && !self.pool.has_waiters();
        is_over || self.now >= back.retire_at
    }

    fn retire_at(&self, back: &Back) -> u64 {
        let Some(server) = back.server() else {
            return 0;
        };
        let to = &server.destinations[back.destination].text;
        let present = self.plan.server(&server.name).filter(|present| {
            Arc::ptr_eq(&present.state, &server.state)
                && present.destinations.iter().any(|d| d.text == *to)
        });
        let may_use = |service: &Arc<Service>| {
            let mut members = service.members.iter().enumerate();
            service.pool.is_some()
                && service.users.shares_with(&back.user)
                && members
                    .any(|(i, m)| Arc::ptr_eq(&m.server.state, &server.state) && service.uses(i))
        };
        let pool = present.and_then(|present| present.pool);
        match pool.filter(|_| self.plan.services.iter().any(may_use)) {
            None => 0,
            // A tenth of spread: connections opened together must not go together.
            Some(pool) => pool
                .max_lifetime_ms
                .map_or(u64::MAX, |ms| back.opened_at + ms - back.id % 10 * ms / 100),
        }
    }

    /// Sends idle connections away that are too old, idle for too long, or too many after a reload.
    fn thin_out(&mut self) {
        let mut kept: Vec<(*const ServerState, u32)> = Vec::new();
        // The one used last comes first, so that it is kept.
        for index in self.pool.shelf.iter().rev().copied().collect::<Vec<_>>() {
            let Some(mut back) = self.take_back(index) else {
                continue;
            };
            let state = back
                .server()
                .map_or(std::ptr::null(), |s| Arc::as_ptr(&s.state));
            let at = kept
                .iter()
                .position(|(s, _)| *s == state)
                .unwrap_or_else(|| {
                    kept.push((state, 0));
                    kept.len() - 1
                });
            if self.must_retire(&mut back) || self.is_spare(&back, kept[at].1) {
                self.quit_back(back);
            } else {
                kept[at].1 += 1;
                self.put_back_down(back);
            }
        }
    }

    /// `kept`: idle connections of the same server that stay here.
    fn is_spare(&self, back: &Back, kept: u32) -> bool {
        let server = back
            .server()
            .and_then(|server| self.plan.server(&server.name));
        let Some((server, pool)) = server.and_then(|server| Some((server, server.pool?))) else {
            return true;
        };
        let is_old = pool.idle_ms.is_some_and(|ms| self.now >= back.used_at + ms);
        server.state.pool.open.load(SeqCst) > pool.max
            || back.is_wrong_guess()
            || (is_old && kept >= self.share_of(pool.min_idle))
    }

    /// A server goes (maint, on_down): its idle connections are closed, its clients are cut. How many those are.
    pub(crate) fn cut_pool(&mut self, cut: &Cut) -> usize {
        let Some(name) = cut.server.as_ref() else {
            return 0;
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
        let of_clients = lent
            .iter()
            .filter(|owner| self.cut_lent(**owner, name, cut));
        of_clients.count()
    }

    /// One that waits for nothing loses its connection, and hears of it when that matters; else it is cut. False: it is
    /// not meant.
    fn cut_lent(&mut self, owner: Token, name: &str, cut: &Cut) -> bool {
        let (index, ..) = crate::worker::unpack(owner);
        let session = self.sessions.get_mut(index).and_then(Option::as_mut);
        let Some(session) = session else {
            return false;
        };
        let of_service = (cut.service.as_ref()).is_none_or(|s| *s == session.service.name);
        let Some(pooled) = session.pooled.as_mut().filter(|_| of_service) else {
            return false;
        };
        let (Some(front), Some(back)) = (pooled.front.as_ref(), pooled.back.as_ref()) else {
            return false;
        };
        if cut.session.is_some() || back.server().is_none_or(|server| server.name != name) {
            return false;
        }
        // Nothing of a command has been sent to it.
        if !back.conn.is_busy() && (front.is_idle() || !cut.gently) {
            if let Some(mut back) = bereave(pooled, SERVER_GOES) {
                back.is_back();
                self.pool.backs[back.index] = Place::Taken;
                self.quit_back(back);
            }
        } else {
            pooled.server_goes = true;
            session.relay.cut(cut.cause, cut.gently);
        }
        self.guarded(owner, None);
        true
    }
}

//! Connections that nobody has asked for yet: scouts to servers not known yet, and those of `min_idle`.
//!
//! A connection lies ready for the account and class that used the server last; another's could not use it. Before
//! the first client it is a guess, replaced once a client has come who is different.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use portside_core::pool::{Class, User};
use portside_proto::command::capability;

use super::opening::{NotNow, Order, Purpose};
use super::{Back, Favourite, Place, State};
use crate::plan::{Server, Service};
use crate::worker::Worker;

/// The class of PHP's mysqlnd with utf8mb4: the commonest clients of a pool.
pub(super) const GUESS: Class = Class {
    capabilities: (capability::LONG_FLAG
        | capability::TRANSACTIONS
        | capability::MULTI_RESULTS
        | capability::PS_MULTI_RESULTS) as u64,
    collation: 45,
    is_mariadb: None,
};

/// The class of this server's commonest clients.
fn guess(server: &Server) -> Class {
    let known = server.state.pool.known.load();
    Class {
        is_mariadb: known.as_ref().map(|known| known.is_mariadb),
        ..GUESS
    }
}

impl Worker {
    /// Asks servers of pool services that have not greeted yet who they are, so that clients can be greeted.
    /// True: some are still unknown.
    pub(super) fn send_scouts(&mut self) -> bool {
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
                is_mariadb: None,
            },
            client: None,
            purpose: Purpose::Scout,
        };
        let name = service.members[member].server.name.clone();
        self.pool.scouts.push(name.clone());
        if let Err(why) = self.open_back(service, member, order) {
            let pool = &service.members[member].server.state.pool;
            pool.was_asked.store(true, Relaxed);
            if let NotNow::Failed { text, .. } = why {
                // Empty: not even tried, and the last try's reason holds.
                if !text.is_empty() {
                    pool.scout_error.store(Some(Arc::new(text)));
                }
            }
            self.pool.scouts.retain(|scout| *scout != name);
        }
    }

    /// This worker's part of a number that is kept per server.
    pub(super) fn share_of(&self, number: u32) -> u32 {
        let workers = self.shared.inboxes.len() as u32;
        number / workers + u32::from((self.id as u32) < number % workers)
    }

    /// Notes who uses a server's connections, where some are to lie ready.
    pub(super) fn note_user(&mut self, server: &Arc<Server>, user: &Arc<User>, class: Class) {
        if !server.keeps_warm() {
            return;
        }
        let known = self.pool.recent.iter_mut();
        let mine = known.into_iter().find(|(s, _)| Arc::ptr_eq(s, server));
        let at = self.now;
        match mine {
            Some((_, last)) if Arc::ptr_eq(&last.user, user) && last.class == class => last.at = at,
            Some((_, last)) => {
                *last = Favourite {
                    user: Arc::clone(user),
                    class,
                    at,
                }
            }
            None => self.pool.recent.push((
                Arc::clone(server),
                Favourite {
                    user: Arc::clone(user),
                    class,
                    at,
                },
            )),
        }
    }

    /// Opens what is missing of `min_idle`, as far as `max` and `open_rate` allow. True: some are still missing.
    pub(super) fn keep_warm(&mut self) -> bool {
        for (server, mine) in std::mem::take(&mut self.pool.recent) {
            let all = &server.state.pool.favourite;
            if all.load().as_ref().is_none_or(|last| last.at < mine.at) {
                all.store(Some(Arc::new(mine)));
            }
        }
        // Clients who wait come first.
        if !self.plan.accepting || self.pool.has_waiters() {
            return false;
        }
        let plan = Arc::clone(&self.plan);
        let mut is_cold = false;
        for server in plan.servers.iter().filter(|server| server.keeps_warm()) {
            let wanted = self.share_of(server.pool.map_or(0, |pool| pool.min_idle));
            let ready = self.lie_ready(server);
            for _ in ready..wanted {
                if !self.open_warm(server) {
                    is_cold = true;
                    break;
                }
            }
        }
        is_cold
    }

    /// Idle connections of a server here, and those that soon will be.
    fn lie_ready(&self, server: &Server) -> u32 {
        let is_one = |back: &Back| {
            let is_of = back
                .server()
                .is_some_and(|s| Arc::ptr_eq(&s.state, &server.state));
            let is_soon = matches!(
                back.state,
                State::Connecting | State::OnItsOwn | State::Idle | State::Barred
            );
            is_of && is_soon && !back.is_scout && back.errand.is_none()
        };
        let all = self.pool.backs.iter();
        all.filter(|(_, place)| matches!(place, Place::Here(back) if is_one(back)))
            .count() as u32
    }

    /// False: not now.
    fn open_warm(&mut self, server: &Arc<Server>) -> bool {
        let last = server.state.pool.favourite.load_full();
        let plan = Arc::clone(&self.plan);
        let of = |service: &&Arc<Service>| {
            let mut members = service.members.iter().enumerate();
            let member = members.find(|(_, m)| Arc::ptr_eq(&m.server.state, &server.state));
            member
                .map(|(i, _)| i)
                .filter(|i| service.pool.is_some() && service.uses(*i))
        };
        let mut usable = plan.services.iter().filter_map(|s| Some((s, of(&s)?)));
        // The account as it is now; it may be gone, or have another password.
        let present = usable.clone().find_map(|(service, member)| {
            let account = service.users.get(last.as_ref()?.user.name.as_bytes())?;
            Some((service, member, &account.user))
        });
        let first = || usable.find_map(|(s, member)| Some((s, member, s.users.scout()?)));
        let Some((service, member, user)) = present.or_else(first) else {
            return true;
        };
        // Its password may not be known before its next client's login.
        if !user.can_log_in() {
            return true;
        }
        let order = Order {
            user,
            class: last
                .as_ref()
                .map_or_else(|| guess(server), |last| last.class),
            client: None,
            purpose: Purpose::Warm(last.is_none()),
        };
        let is_barred = !server.state.breaker.state().would_pass(self.now);
        !is_barred && self.open_back(service, member, order).is_ok()
    }
}

impl Back {
    /// Opened before anybody was known, and by now it is known that nobody can use it.
    pub(super) fn is_wrong_guess(&self) -> bool {
        let all = self.server().map(|server| &server.state.pool.favourite);
        let last = all.and_then(arc_swap::ArcSwapOption::load_full);
        let is_same = |last: Arc<Favourite>| {
            last.class == self.conn.class() && last.user.name == self.user.name
        };
        self.is_guess && !last.is_none_or(is_same)
    }
}

impl Server {
    /// Whether connections are to lie ready. Not where each is for one client's address only.
    fn keeps_warm(&self) -> bool {
        !self.send_proxy && self.pool.is_some_and(|pool| pool.min_idle > 0)
    }
}

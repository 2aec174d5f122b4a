//! Idle connections: which of them fits whom, which makes room, and which goes to another worker's clients.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::Interest;
use portside_core::pool::{Class, Session as Front, User, Want};
use portside_core::reason::ServerClose;

use super::lending::{fits, proxied, wishes};
use super::{Back, Place, Pooled, State};
use crate::plan::{Server, Service};
use crate::session::Session;
use crate::shared::Message;
use crate::socket::Read;
use crate::worker::Worker;

/// A connection that was idle for longer is looked at before a command is sent: its end may be in the queue.
const PEEK_AFTER_MS: u64 = 100;

impl Worker {
    /// The idle connection that needs the fewest steps; of equals the one used last, which is warm. Of another class only
    /// if there is none of its own. One whose end is in its queue already is dropped, and the next is tried.
    pub(super) fn take_idle(&mut self, key: &Key<'_>, pooled: &Pooled) -> Option<Box<Back>> {
        loop {
            let want = pooled.front.as_ref().map(Front::want)?;
            let place = (0..self.pool.shelf.len())
                .rev()
                .filter_map(|at| {
                    let back = self.pool.idle_at(at)?;
                    let fits = key.fits(back, &want) && !back.conn.is_unfit(&want);
                    let is_other = back.conn.class() != key.class;
                    fits.then(|| ((is_other, back.conn.distance(&want)), at))
                })
                .min_by_key(|(distance, at)| (*distance, std::cmp::Reverse(*at)));
            let (_, at) = place?;
            if let Some(back) = self.take_alive(at) {
                return Some(back);
            }
        }
    }

    /// The idle connection at this place of the shelf, if it is alive.
    pub(super) fn take_alive(&mut self, at: usize) -> Option<Box<Back>> {
        let index = self.pool.shelf.remove(at);
        let back = self.take_back(index)?;
        self.alive(back)
    }

    /// The connection, if nothing has come that makes it useless.
    pub(super) fn alive(&mut self, mut back: Box<Back>) -> Option<Box<Back>> {
        back.socket.readable |= self.now > back.used_at + PEEK_AFTER_MS;
        match back.socket.read(&mut self.scratch) {
            Read::Nothing => Some(back),
            Read::Bytes { .. } => {
                self.quit_back(back);
                None
            }
            Read::Eof | Read::Lost => {
                self.drop_lost(back);
                None
            }
        }
    }

    /// Every place is taken, perhaps by idle connections that this session cannot use: another account's, of
    /// another class, for another client's address, with a schema where it has none. The one unused for longest
    /// makes room.
    pub(super) fn evict(&mut self, service: &Service, session: &Session, pooled: &Pooled) {
        let (Some((user, class)), Some(front)) = (wishes(pooled), pooled.front.as_ref()) else {
            return;
        };
        let want = front.want();
        let members = (0..service.members.len()).filter(|i| service.uses(*i));
        let now = self.now;
        let servers = members.map(|i| &service.members[i].server);
        // Room where it could not go would help nobody.
        for server in servers.filter(|server| server.is_full(now) && fits(server, class)) {
            let key = Key {
                server,
                user: &user,
                class,
                client: proxied(session, server).map(|(client, _)| client),
            };
            let is_other = |back: &Back| {
                let is_there = back
                    .server()
                    .is_some_and(|s| Arc::ptr_eq(&s.state, &server.state));
                is_there && (!key.fits(back, &want) || back.conn.is_unfit(&want))
            };
            let mut all = 0..self.pool.shelf.len();
            let at = all.find(|at| self.pool.idle_at(*at).is_some_and(is_other));
            if let Some(index) = at.map(|at| self.pool.shelf.remove(at)) {
                if let Some(back) = self.take_back(index) {
                    self.quit_back(back);
                }
                return;
            }
        }
    }

    /// Clients of another worker wait while every place is taken: an idle connection of each server goes there, since
    /// only that worker knows which of them (of one family, say) can serve those who wait.
    pub(super) fn share_idle(&mut self) {
        let waits = |service: &Arc<Service>| {
            let counts = service.state.waiting.iter().enumerate();
            let mut others = counts.filter(|(id, count)| *id != self.id && count.load(SeqCst) > 0);
            others.next().map(|(id, _)| id)
        };
        let mut pools = self.plan.services.iter().filter(|s| s.pool.is_some());
        let Some((service, other)) = pools.find_map(|s| Some((s, waits(s)?))) else {
            return;
        };
        let service = Arc::clone(service);
        for member in &service.members {
            let server = &member.server;
            let is_there = |back: &Back| {
                let its = back.server();
                its.is_some_and(|its| Arc::ptr_eq(&its.state, &server.state))
            };
            let mut all = 0..self.pool.shelf.len();
            let at = all.find(|at| self.pool.idle_at(*at).is_some_and(is_there));
            let Some(at) = at.filter(|_| server.is_full(self.now)) else {
                continue;
            };
            let index = self.pool.shelf.remove(at);
            if let Some(back) = self.take_back(index) {
                self.hand_over(back, other);
            }
        }
    }

    fn hand_over(&mut self, back: Box<Back>, worker: usize) {
        let _ = self
            .poll
            .registry()
            .deregister(&mut SourceFd(&back.socket.fd()));
        self.pool.backs.try_remove(back.index);
        if let Err(Message::Pooled(back)) = self.shared.inboxes[worker].send(Message::Pooled(back))
        {
            // Its inbox is full: it stays.
            if let Some(back) = self.register(back) {
                self.shelve(back);
            }
        }
    }

    /// A connection that another worker has handed over.
    pub(crate) fn take_over(&mut self, back: Box<Back>) {
        if let Some(back) = self.register(back) {
            self.settle(back);
        }
    }

    /// Gives a connection of elsewhere a place here. None: it is gone.
    fn register(&mut self, mut back: Box<Back>) -> Option<Box<Back>> {
        self.pool.serial += 1;
        self.pool.generations = (self.pool.generations + 1) & 0x3fff_ffff;
        // A new name: what a session of the other worker knew of it holds no more.
        (back.id, back.generation) = (self.pool.serial, self.pool.generations);
        back.index = self.pool.backs.insert(Place::Taken);
        (back.armed, back.plan) = (None, 0);
        let fd = back.socket.fd();
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        if registry
            .register(&mut SourceFd(&fd), back.token(), both)
            .is_err()
        {
            self.close_back(back, ServerClose::Cut);
            return None;
        }
        Some(back)
    }

    /// Free for everybody here.
    pub(super) fn shelve(&mut self, mut back: Box<Back>) {
        back.state = State::Idle;
        back.armed = None;
        self.pool.shelf.push(back.index);
        self.pool.has_news |= self.pool.has_waiters();
        self.put_back_down(back);
    }
}

/// What connections of the pool are told apart by.
pub(super) struct Key<'a> {
    pub server: &'a Arc<Server>,
    pub user: &'a Arc<User>,
    pub class: Class,
    pub client: Option<std::net::SocketAddr>,
}

impl Server {
    /// Whether no connection can be added: by `[pool] max`, by its own limit, or by the server's word.
    pub(super) fn is_full(&self, now: u64) -> bool {
        let (state, pool) = (&self.state, &self.state.pool);
        pool.open.load(SeqCst) >= self.pool.map_or(0, |pool| pool.max)
            || state.active.load(SeqCst) >= self.max
            || now < pool.full_until_ms.load(SeqCst)
    }
}

impl Key<'_> {
    fn fits(&self, back: &Back, want: &Want<'_>) -> bool {
        let same_server = back
            .server()
            .is_some_and(|server| Arc::ptr_eq(&server.state, &self.server.state));
        // The server grants by the address that the header named.
        let same_client = back.has_proxy == self.server.send_proxy
            && back.client.map(|c| c.ip()) == self.client.map(|c| c.ip());
        same_server
            && same_client
            && back.conn.serves(self.class, want)
            && back.user.shares_with(self.user)
    }
}

impl super::Pool {
    /// Where the idle connection lies that was left at this count of uses, if it can serve the command at hand.
    pub(super) fn find_same(&self, (id, uses): (u64, u64), front: &Front) -> Option<usize> {
        let want = front.want();
        (0..self.shelf.len()).find(|at| {
            let back = self.idle_at(*at);
            let back = back.filter(|back| back.id == id && back.conn.uses() == uses);
            back.is_some_and(|back| back.conn.serves(front.class(), &want))
        })
    }

    pub(super) fn idle_at(&self, at: usize) -> Option<&Back> {
        match self.backs.get(*self.shelf.get(at)?)? {
            Place::Here(back) => Some(back),
            _ => None,
        }
    }

    pub(super) fn has_idle(&self, key: &Key<'_>, pooled: &Pooled) -> bool {
        let Some(want) = pooled.front.as_ref().map(Front::want) else {
            return false;
        };
        (0..self.shelf.len()).any(|at| {
            self.idle_at(at)
                .is_some_and(|back| key.fits(back, &want) && !back.conn.is_unfit(&want))
        })
    }
}

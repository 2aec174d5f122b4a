//! Who gets which connection: for each command or transaction a server is chosen anew by the service's rule.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use mio::Token;
use portside_core::balance::{Balancer, Choice, Live, Request};
use portside_core::pool::{Class, Session as Front, User};
use portside_proto::err::errno;

use super::back::{NotNow, Order};
use super::client::Next;
use super::{Back, Place, Pooled, State, Waiting};
use crate::attempt::Failed;
use crate::plan::{Server, Service};
use crate::refusal::no_server_text;
use crate::session::{Client, Session};
use crate::socket::Read;
use crate::sys;
use crate::worker::{token, unpack, Worker};

/// A connection that was idle for longer is looked at before a command is sent: its end may be in the queue.
const PEEK_AFTER_MS: u64 = 100;
/// Waiters looked at without success before the others must wait for the next news.
const IN_VAIN: usize = 16;
/// Pause before a waiter looks again by itself: the budget of `open_rate` tells nobody when it has grown.
const LOOK_AGAIN_MS: u64 = 20;

/// What a session is told that asks too late.
const NOT_KNOWN: &str =
    "portside: FOUND_ROWS() and ROW_COUNT() are not known any more: others have used the \
    connection meanwhile. Use SQL_CALC_FOUND_ROWS, or a transaction (docs/pooling.md)";

impl Worker {
    /// Finds a connection for the command at hand, opens one, or lets the session wait.
    pub(super) fn attach(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
    ) -> Next {
        if let (Some(back), Some(front)) = (pooled.back.as_mut(), pooled.front.as_ref()) {
            // It keeps its connection, which lacks a statement.
            let bytes = back.conn.bring(&front.want().needs);
            back.say(&bytes);
            return Next::Took(0);
        }
        let service = match self.plan.service(&session.service.name) {
            Some(service) => Arc::clone(service),
            None => Arc::clone(&session.service),
        };
        session.service = Arc::clone(&service);
        let Some((user, class)) = wishes(pooled) else {
            return Next::Wait;
        };
        if let Some(same) = pooled.front.as_ref().and_then(|front| front.want().same) {
            if let Some(back) = self.take_same(same) {
                return self.lend(index, session, pooled, back);
            }
            let error = (errno::NOT_SUPPORTED, *b"42000", NOT_KNOWN);
            return self.tell(index, session, pooled, input, error);
        }
        if service.paused || pooled.is_opening {
            return self.wait(index, session, pooled, input);
        }
        if let Some(next) = self.go_home(index, session, pooled, input) {
            return next;
        }
        loop {
            let member = match self.choose_pooled(&service, session, pooled, &user, class) {
                Choice::Member(member) => member,
                Choice::Full => {
                    self.evict(&service, &user, class);
                    return self.wait(index, session, pooled, input);
                }
                Choice::Nobody => {
                    return self.nobody_pooled(index, session, pooled, input, &service)
                }
            };
            let server = Arc::clone(&service.members[member].server);
            let client = proxied(session, &server);
            let key = Key {
                server: &server,
                user: &user,
                class,
                client: client.map(|(c, _)| c),
            };
            if let Some(back) = self.take_idle(&key, pooled) {
                service.members[member].state.total.fetch_add(1, Relaxed);
                return self.lend(index, session, pooled, back);
            }
            let order = Order {
                user: &user,
                class,
                client,
                wanted_by: Some(token(index, session.generation, false)),
                errand: None,
            };
            // Before the attempt, which may succeed at once.
            pooled.is_opening = true;
            let begun = self.open_back(&service, member, &order);
            pooled.is_opening = begun.is_ok();
            if let Err(NotNow::Failed {
                why,
                text,
                has_other,
            }) = begun
            {
                let member = (!has_other).then_some(member);
                if is_over_after(pooled, &service, member, (why, text)) {
                    return self.nobody_pooled(index, session, pooled, input, &service);
                }
                if !is_shortage(why) {
                    continue;
                }
            }
            return self.wait(index, session, pooled, input);
        }
    }

    fn choose_pooled(
        &mut self,
        service: &Service,
        session: &Session,
        pooled: &Pooled,
        user: &User,
        class: Class,
    ) -> Choice {
        let request = Request {
            client: session.client.ip(),
            random: self.next_random(),
        };
        let (now, max) = (self.now, service.pool.map_or(0, |pool| pool.max));
        let pool = &self.pool;
        let live = |i: usize| {
            let server = &service.members[i].server;
            let state = &server.state;
            let no_place =
                state.pool.open.load(SeqCst) >= max || state.active.load(SeqCst) >= server.max;
            let client = proxied(session, server).map(|(client, _)| client);
            let fits = state
                .pool
                .known
                .load()
                .as_ref()
                .is_none_or(|known| class.fits(known.capabilities));
            Live {
                load: state.pool.busy.load(SeqCst),
                full: no_place
                    && !pool.has_idle(
                        &Key {
                            server,
                            user,
                            class,
                            client,
                        },
                        pooled,
                    ),
                excluded: !fits
                    || (i < 64 && pooled.tried & (1 << i) != 0)
                    || !state.breaker.state().would_pass(now),
            }
        };
        match self.balancers.get_mut(&service.name) {
            Some(balancer) => balancer.pick(&service.balance, live, request),
            None => Balancer::new(service.algorithm, &service.balance, self.id).pick(
                &service.balance,
                live,
                request,
            ),
        }
    }

    /// Nobody can serve this command: one more round while there are retries, then an ERR.
    fn nobody_pooled(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
        service: &Service,
    ) -> Next {
        let is_served = service.balance.iter().any(|m| m.eligible && m.weight() > 0);
        if is_served && pooled.failures > 0 && pooled.failures <= service.retries {
            pooled.tried = 0;
            pooled.failures += 1;
            return self.wait(index, session, pooled, input);
        }
        let text = match pooled.error.take().filter(|_| pooled.failures > 0) {
            Some(text) => text,
            None => no_server_text(service, self.now),
        };
        let text = format!("portside: service {}: {text}", service.name);
        self.tell(
            index,
            session,
            pooled,
            input,
            (errno::NO_SERVER, *b"08004", &text),
        )
    }

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
            self.pool
                .waiters
                .push_back(token(index, session.generation, false));
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
        let text = match (pooled.error.take(), service.paused) {
            (Some(text), _) => format!("portside: service {}: {text}", service.name),
            (None, true) => format!("portside: service {}: waited {waited:.1} s; it is paused", service.name),
            (None, false) => format!(
                "portside: service {}: waited {waited:.1} s for a free server connection ([pool] max, \
                 max_connections). On the proxy: portside show servers",
                service.name
            ),
        };
        let error = (errno::TOO_MANY_CONNECTIONS, *b"08004", text.as_str());
        self.tell(index, session, pooled, input, error)
    }

    /// First come, first served, as far as there are connections.
    pub(super) fn serve_pool(&mut self) {
        let mut line = std::mem::take(&mut self.pool.waiters);
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
            pooled.waiting = None;
            self.put_back(index, session);
            let before = self.pool.waiters.len();
            self.guarded(token, None);
            in_vain += usize::from(self.pool.waiters.len() > before);
            if in_vain >= IN_VAIN {
                break;
            }
        }
        self.pool.waiters.append(&mut line);
    }

    /// The connection opened for this session is ready (it may be another's by now): it looks again.
    pub(super) fn opening_done(&mut self, owner: Token) {
        if let Some(pooled) = self.waiting_session(owner) {
            pooled.is_opening = false;
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
        if let Some(pooled) = self.waiting_session(owner) {
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

    /// The idle connection that needs the fewest steps; of equals the one used last, which is warm. One whose end
    /// is in its queue already is dropped, and the next is tried.
    fn take_idle(&mut self, key: &Key<'_>, pooled: &Pooled) -> Option<Box<Back>> {
        loop {
            let want = pooled.front.as_ref().map(Front::want)?;
            let place = (0..self.pool.shelf.len())
                .rev()
                .filter_map(|at| {
                    let back = self.pool.idle_at(at)?;
                    let fits = key.fits(back) && !back.conn.is_unfit(&want);
                    fits.then(|| (back.conn.distance(&want), at))
                })
                .min_by_key(|(distance, at)| (*distance, std::cmp::Reverse(*at)));
            let (_, at) = place?;
            let index = self.pool.shelf.remove(at);
            if let Some(back) = self.take_back(index).and_then(|back| self.alive(back)) {
                return Some(back);
            }
        }
    }

    fn take_same(&mut self, (id, uses): (u64, u64)) -> Option<Box<Back>> {
        let at = (0..self.pool.shelf.len()).find(|at| {
            let back = self.pool.idle_at(*at);
            back.is_some_and(|back| back.id == id && back.conn.uses() == uses)
        })?;
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

    /// Every place is taken, perhaps by idle connections of others: the one unused for longest makes room.
    fn evict(&mut self, service: &Service, user: &User, class: Class) {
        for member in &service.members {
            let at = (0..self.pool.shelf.len()).find(|at| {
                self.pool.idle_at(*at).is_some_and(|back| {
                    let same = back.conn.class() == class && is_same_account(&back.user, user);
                    back.server()
                        .is_some_and(|s| Arc::ptr_eq(&s.state, &member.server.state))
                        && !same
                })
            });
            if let Some(index) = at.map(|at| self.pool.shelf.remove(at)) {
                if let Some(back) = self.take_back(index) {
                    self.quit_back(back);
                }
                return;
            }
        }
    }

    /// The command (or transaction) is over: the connection is anybody's.
    pub(super) fn release(&mut self, _session: &mut Session, pooled: &mut Pooled) {
        let (Some(mut back), Some(front)) = (pooled.back.take(), pooled.front.as_mut()) else {
            return;
        };
        back.conn.left(front.take_traces());
        back.busy = None;
        back.state = State::OnItsOwn;
        back.used_at = self.now;
        self.pool.backs[back.index] = Place::Taken;
        self.settle(back);
    }

    /// The session ends: what becomes of its connection.
    pub(super) fn part(&mut self, session: &mut Session, pooled: &mut Pooled) {
        if pooled
            .back
            .as_ref()
            .is_some_and(|back| back.conn.is_ready())
        {
            return self.release(session, pooled);
        }
        let (Some(mut back), Some(front)) = (pooled.back.take(), pooled.front.as_mut()) else {
            return;
        };
        back.busy = None;
        self.pool.backs[back.index] = Place::Taken;
        back.used_at = self.now;
        if back.conn.is_busy() {
            return self.abandon(back);
        }
        // Steps of a preparation are under way: it goes on without the session.
        back.conn.left(front.take_traces());
        back.state = State::OnItsOwn;
        back.armed = None;
        let limit = self.now + back.rules.login_ms;
        self.arm_back(&mut back, limit);
        self.put_back_down(back);
    }

    /// A step of the preparation failed; the connection itself is good.
    pub(super) fn give_up_back(&mut self, session: &mut Session, pooled: &mut Pooled) {
        if pooled.front.as_ref().is_some_and(Front::is_pinned) {
            return;
        }
        self.release(session, pooled);
    }
}

/// What connections of the pool are told apart by.
struct Key<'a> {
    server: &'a Arc<Server>,
    user: &'a User,
    class: Class,
    client: Option<std::net::SocketAddr>,
}

fn is_same_account(one: &User, other: &User) -> bool {
    one.server_user == other.server_user && one.server_password == other.server_password
}

impl Key<'_> {
    fn fits(&self, back: &Back) -> bool {
        let same_server = back
            .server()
            .is_some_and(|server| Arc::ptr_eq(&server.state, &self.server.state));
        // The server grants by the address that the header named.
        let same_client = back.has_proxy == self.server.send_proxy
            && back.client.map(|c| c.ip()) == self.client.map(|c| c.ip());
        same_server
            && same_client
            && back.conn.class() == self.class
            && is_same_account(&back.user, self.user)
    }
}

impl super::Pool {
    pub(super) fn idle_at(&self, at: usize) -> Option<&Back> {
        match self.backs.get(*self.shelf.get(at)?)? {
            Place::Here(back) => Some(back),
            _ => None,
        }
    }

    fn has_idle(&self, key: &Key<'_>, pooled: &Pooled) -> bool {
        let Some(want) = pooled.front.as_ref().map(Front::want) else {
            return false;
        };
        (0..self.shelf.len()).any(|at| {
            self.idle_at(at)
                .is_some_and(|back| key.fits(back) && !back.conn.is_unfit(&want))
        })
    }
}

fn wishes(pooled: &Pooled) -> Option<(Arc<User>, Class)> {
    let front = pooled.front.as_ref()?;
    Some((Arc::clone(front.account()?), front.class()))
}

/// Client and listener for the PROXY header, where this server gets one.
fn proxied(
    session: &Session,
    server: &Server,
) -> Option<(std::net::SocketAddr, std::net::SocketAddr)> {
    if !server.send_proxy {
        return None;
    }
    let socket = session.client_socket.as_ref()?;
    let local = sys::local_address(socket.fd()).map(sys::canonical)?;
    match session.client {
        Client::Tcp(client) => Some((client, local)),
        Client::Unix => None,
    }
}

/// A tuple may come free, or there are more to try.
fn is_shortage(why: Failed) -> bool {
    matches!(why, Failed::NoPort | Failed::TriesSpent)
}

/// Notes an attempt that did not even begin; `tried` is not asked again in this round. True: there are no more.
fn is_over_after(
    pooled: &mut Pooled,
    service: &Service,
    tried: Option<usize>,
    (why, text): (Failed, String),
) -> bool {
    if !text.is_empty() {
        pooled.error = Some(text);
    }
    if is_shortage(why) {
        return false;
    }
    pooled.failures += 1;
    if let Some(member) = tried {
        pooled.tried |= 1_u64.checked_shl(member as u32).unwrap_or(0);
    }
    pooled.failures > service.retries + service.members.len() as u32
}

//! Who gets which connection: for each command or transaction a server is chosen anew by the service's rule.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use portside_core::balance::{Balancer, Choice, Live, Request};
use portside_core::pool::{Class, Session as Front, User};
use portside_core::reason::ServerClose;
use portside_proto::err::errno;

use super::back::{NotNow, Order};
use super::client::Next;
use super::shelf::Key;
use super::{Place, Pooled, State};
use crate::attempt::Failed;
use crate::plan::{Server, Service};
use crate::refusal::no_server_text;
use crate::session::{Client, Session};
use crate::sys;
use crate::worker::{token, Worker};

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
        if front.is_sending() {
            // Whatever is said now would be taken for more of the command, or of the file.
            return self.close_back(back, ServerClose::Cut);
        }
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

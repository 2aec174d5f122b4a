//! Who gets which connection: for each command or transaction a server is chosen anew by the service's rule.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use portside_core::balance::{Balancer, Choice, Live, Request};
use portside_core::pool::{Class, Session as Front, User};
use portside_core::reason::{Cause, ServerClose};
use portside_proto::err::errno;

use super::client::Next;
use super::opening::{NotNow, Order, Purpose};
use super::shelf::Key;
use super::{Place, Pooled, Share, State};
use crate::attempt::Failed;
use crate::plan::{Member, Server, Service};
use crate::refusal::no_server_text;
use crate::session::{Client, Session};
use crate::sys;
use crate::worker::{token, Worker};

/// How long a command waits for a server whose breaker is open: it lets one try after 1 s, and a server that has
/// just come back shall not fail those who wait for it.
const BARRED_MS: u64 = 1_500;

/// What a session is told that asks too late.
const NOT_KNOWN: &str =
    "portside: FOUND_ROWS() and ROW_COUNT() are not known any more: others have used the \
    connection meanwhile. Use SQL_CALC_FOUND_ROWS, or a transaction (docs/pooling.md)";

/// What came of an attempt to open a connection for a session.
enum Begun {
    /// It is under way, or not possible now.
    Waits,
    /// Another server may be tried.
    TryNext,
    /// No attempt is left.
    Over,
}

impl Worker {
    /// Finds a connection for the command at hand, opens one, or lets the session wait.
    pub(super) fn attach(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
    ) -> Next {
        if let (Some(back), Some(front)) = (pooled.back.as_mut(), pooled.front.as_mut()) {
            if !front.outgrows(&back.conn) {
                // It keeps its connection, which lacks a statement or has a stranger's warnings.
                let bytes = back.conn.bring(&front.want());
                back.say(&bytes);
                return Next::Took(0);
            }
            front.let_go();
            self.release(pooled);
        }
        if !self.follow_plan(session, pooled) {
            return self.account_is_gone(session, pooled);
        }
        let front = pooled.front.as_ref();
        let want = front.map(Front::want);
        let (same, rather) = want.map_or((None, None), |want| (want.same, want.rather));
        let find = |at| self.pool.find_same(at, front?);
        // Only a preference: nothing is lost by another, but an answer to what cannot be seen.
        let rather = rather.filter(|at| find(*at).is_some());
        if let Some(same) = same {
            return self.attach_same(index, session, pooled, input, same);
        }
        if session.service.paused {
            return self.wait(index, session, pooled, input);
        }
        if let Some(rather) = rather {
            return self.attach_same(index, session, pooled, input, rather);
        }
        if let Some(next) = self.go_home(index, session, pooled, input) {
            return next;
        }
        self.attach_any(index, session, pooled, input)
    }

    fn attach_any(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
    ) -> Next {
        let Some((user, class)) = wishes(pooled) else {
            return Next::Wait;
        };
        let service = Arc::clone(&session.service);
        loop {
            let member = match self.choose_pooled(&service, session, pooled, &user, class) {
                Choice::Member(member) => member,
                Choice::Full => {
                    if !pooled.is_opening {
                        self.evict(&service, session, pooled);
                    }
                    return self.wait(index, session, pooled, input);
                }
                Choice::Nobody => {
                    return self.nobody_pooled(index, session, pooled, input, &service)
                }
            };
            let Some(share) = Share::take(&service.members[member]) else {
                return self.wait(index, session, pooled, input);
            };
            let server = &service.members[member].server;
            let client = proxied(session, server);
            let key = Key {
                server,
                user: &user,
                class,
                client: client.map(|(c, _)| c),
            };
            self.note_user(server, &user, class);
            if let Some(mut back) = self.take_idle(&key, pooled) {
                service.members[member].state.total.fetch_add(1, Relaxed);
                back.share = Some(share);
                return self.lend(index, session, pooled, back);
            }
            if pooled.is_opening {
                return self.wait(index, session, pooled, input);
            }
            let order = Order {
                user: &user,
                class,
                client,
                purpose: Purpose::Client(token(index, session.generation, false), share),
            };
            match self.open_for(pooled, &service, member, order) {
                Begun::Waits => return self.wait(index, session, pooled, input),
                Begun::Over => return self.nobody_pooled(index, session, pooled, input, &service),
                Begun::TryNext => {}
            }
        }
    }

    /// Opens a connection for a session that has none.
    fn open_for(
        &mut self,
        pooled: &mut Pooled,
        service: &Service,
        member: usize,
        order: Order<'_>,
    ) -> Begun {
        // Before the attempt, which may succeed at once.
        pooled.is_opening = true;
        let begun = self.open_back(service, member, order);
        pooled.is_opening = begun.is_ok();
        let Err(NotNow::Failed {
            why,
            text,
            has_other,
        }) = begun
        else {
            return Begun::Waits;
        };
        let failed = (!has_other).then_some(member);
        if is_over_after(pooled, service, failed, (why, text)) {
            return Begun::Over;
        }
        if is_shortage(why) {
            Begun::Waits
        } else {
            Begun::TryNext
        }
    }

    /// Brings the session to the present plan: its service, and its account's passwords on the servers. False: the
    /// account is not in the plan any more.
    fn follow_plan(&self, session: &mut Session, pooled: &mut Pooled) -> bool {
        let present = self.plan.service(&session.service.name);
        let Some(present) = present.filter(|new| !Arc::ptr_eq(new, &session.service)) else {
            return true;
        };
        session.service = Arc::clone(present);
        let Some(front) = pooled.front.as_mut() else {
            return true;
        };
        let Some(user) = front.account() else {
            return true;
        };
        let account = present.users.get(user.name.as_bytes());
        if let Some(account) = account.filter(|account| !Arc::ptr_eq(&account.user, user)) {
            front.adopt(&account.user);
        }
        account.is_some()
    }

    fn account_is_gone(&mut self, session: &mut Session, pooled: &mut Pooled) -> Next {
        let Some(front) = pooled.front.as_mut() else {
            return Next::Over(Cause::Internal);
        };
        let name = front.account().map_or("", |user| &user.name);
        let text = format!("portside: the account {name} is not in the configuration any more");
        let (bytes, _) = front.not_attached(errno::ACCESS_DENIED, *b"28000", &text);
        self.last_words(session, &bytes, Cause::LoginDenied)
    }

    /// Only the connection of the last statement will do.
    fn attach_same(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
        same: (u64, u64),
    ) -> Next {
        let front = pooled.front.as_ref();
        let Some(at) = front.and_then(|front| self.pool.find_same(same, front)) else {
            let error = (errno::NOT_SUPPORTED, *b"42000", NOT_KNOWN);
            return self.tell(index, session, pooled, input, error);
        };
        let server = self.pool.idle_at(at).and_then(|back| back.server());
        let mut members = session.service.members.iter();
        let of = |m: &&Member| server.is_some_and(|s| Arc::ptr_eq(&s.state, &m.server.state));
        let share = match members.find(of) {
            Some(member) => Share::take(member),
            None => Some(Share::default()),
        };
        if share.is_none() {
            return self.wait(index, session, pooled, input);
        }
        match self.take_alive(at) {
            Some(mut back) => {
                back.share = share;
                self.lend(index, session, pooled, back)
            }
            // It was dead: whether another will do, its command says.
            None => self.attach(index, session, pooled, input),
        }
    }

    fn choose_pooled(
        &mut self,
        service: &Service,
        session: &Session,
        pooled: &Pooled,
        user: &Arc<User>,
        class: Class,
    ) -> Choice {
        let request = Request {
            client: session.client.ip(),
            random: self.next_random(),
        };
        let now = self.now;
        let pool = &self.pool;
        let live = |i: usize| {
            let member = &service.members[i];
            let (server, state) = (&member.server, &member.server.state);
            let client = proxied(session, server).map(|(client, _)| client);
            let key = Key {
                server,
                user,
                class,
                client,
            };
            let opens_none = pooled.is_opening || server.is_full(now);
            let has_share = |max| member.state.lent.load(SeqCst) < max;
            let may_use = member.own_max.is_none_or(has_share);
            Live {
                load: state.pool.busy.load(SeqCst),
                full: !may_use || (opens_none && !pool.has_idle(&key, pooled)),
                excluded: !fits(server, class)
                    || has_tried(pooled, i)
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

    /// Nobody can serve this command: one more round while there are retries, or while the only obstacle is a
    /// breaker that will soon let one try; then an ERR.
    fn nobody_pooled(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
        service: &Service,
    ) -> Next {
        let mut usable = (0..service.members.len()).filter(|i| service.uses(*i));
        let class = pooled.front.as_ref().map(Front::class).unwrap_or_default();
        let since = pooled.waits_since.unwrap_or(self.now);
        let is_served = usable.clone().next().is_some();
        if is_served && pooled.failures > 0 && pooled.failures <= service.retries {
            pooled.tried = 0;
            pooled.failures += 1;
            return self.wait(index, session, pooled, input);
        }
        let is_barred = |i: usize| {
            let server = &service.members[i].server;
            fits(server, class) && !server.state.breaker.state().would_pass(self.now)
        };
        if self.now < since + BARRED_MS && usable.clone().any(is_barred) {
            return self.wait(index, session, pooled, input);
        }
        if is_served && usable.all(|i| !fits(&service.members[i].server, class)) {
            return self.is_outdated(session, pooled);
        }
        let text = match pooled.error.take().filter(|_| pooled.failures > 0) {
            Some(text) => text,
            None => no_server_text(service, self.now),
        };
        let text = format!("portside: service {}: {text}", service.name);
        let error = (errno::NO_SERVER, *b"08004", text.as_str());
        self.tell(index, session, pooled, input, error)
    }

    /// No server offers what this session chose at its login: they were replaced by others meanwhile.
    fn is_outdated(&mut self, session: &mut Session, pooled: &mut Pooled) -> Next {
        let text = format!(
            "portside: service {}: its servers were changed and do not offer any more what this \
             session chose at its login: connect again",
            session.service.name
        );
        let Some(front) = pooled.front.as_mut() else {
            return Next::Over(Cause::Internal);
        };
        let (bytes, _) = front.not_attached(errno::NO_SERVER, *b"08004", &text);
        self.last_words(session, &bytes, Cause::NoServer)
    }

    /// The command (or transaction) is over: the connection is anybody's.
    pub(super) fn release(&mut self, pooled: &mut Pooled) {
        let (Some(mut back), Some(front)) = (pooled.back.take(), pooled.front.as_mut()) else {
            return;
        };
        debug_assert!(back.ahead.is_empty());
        back.conn.left(front.take_traces());
        back.state = State::OnItsOwn;
        back.used_at = self.now;
        self.pool.backs[back.index] = Place::Taken;
        self.settle(back);
    }

    /// The session ends: what becomes of its connection.
    pub(super) fn part(&mut self, pooled: &mut Pooled) {
        if pooled
            .back
            .as_ref()
            .is_some_and(|back| back.conn.is_ready())
        {
            return self.release(pooled);
        }
        let (Some(mut back), Some(front)) = (pooled.back.take(), pooled.front.as_mut()) else {
            return;
        };
        back.is_back();
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
        back.say_ahead();
        back.conn.left(front.take_traces());
        back.state = State::OnItsOwn;
        back.armed = None;
        let limit = self.now + back.rules.login_ms;
        self.arm_back(&mut back, limit);
        self.put_back_down(back);
    }

    /// A step of the preparation failed; the connection itself is good.
    pub(super) fn give_up_back(&mut self, pooled: &mut Pooled) {
        if pooled.front.as_ref().is_some_and(Front::is_pinned) {
            return;
        }
        self.release(pooled);
    }
}

pub(super) fn fits(server: &Server, class: Class) -> bool {
    let known = server.state.pool.known.load();
    let known = known.as_ref();
    known.is_none_or(|known| class.fits(known.capabilities, known.is_mariadb))
}

/// Of the first 64 members.
fn has_tried(pooled: &Pooled, member: usize) -> bool {
    member < 64 && pooled.tried & (1 << member) != 0
}

pub(super) fn wishes(pooled: &Pooled) -> Option<(Arc<User>, Class)> {
    let front = pooled.front.as_ref()?;
    Some((Arc::clone(front.account()?), front.class()))
}

/// Client and listener for the PROXY header, where this server gets one.
pub(super) fn proxied(
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

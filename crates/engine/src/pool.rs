//! Pool mode's I/O: clients of pool services and the server connections that they share.
//!
//! `portside_core::pool` decides; here are sockets, slots, queues and timers. A client is a `Session` with a
//! [`Pooled`] part: `client.rs` drives it. A server connection is a [`Back`] (`back.rs`); while a client uses it
//! its box lies in the client's `Pooled`, and its place in the worker's slab says whose it is. `lending.rs`
//! brings the two together and apart.

mod accounts;
mod back;
mod client;
mod homing;
mod kill;
mod lending;
mod opening;
mod parting;
mod replying;
mod securing;
mod shelf;
mod tick;
mod trial;
mod waiting;
mod warming;
mod welcome;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use mio::Token;
use portside_core::pool::{Class, Conn, FailedLogins, Server as Known, Session as Front, User};
use portside_core::reason::Pin;
use portside_core::relay::Rules;
use slab::Slab;

pub use self::accounts::Accounts;
use self::accounts::{Turns, UserSlot};
pub use self::trial::try_login;
use crate::news::{Told, Trouble};
use crate::plan::{take_slot, Member, MemberState, Server, ServiceState};
use crate::ports::Held;
use crate::socket::Socket;

/// Tokens of server connections have the highest bit; generations of sessions end below it.
const POOL_BIT: u64 = 1 << 63;

/// What a server refused longer ago is no news: clients who still want it would have met it again.
const DENIED_MS: u64 = 300_000;

/// A server that is full is asked every 250 ms while a client waits.
const FULL_NEWS_MS: u64 = 5_000;

/// Bytes of an account's name that are shown: a stranger may have made it up.
const NAME_SHOWN: usize = 80;

/// Whether a token is that of a server connection.
pub(crate) fn is_pool(token: Token) -> bool {
    token.0 as u64 & POOL_BIT != 0
}

fn pool_token(index: usize, generation: u32) -> Token {
    Token((POOL_BIT | u64::from(generation) << 33 | (index as u64) << 1) as usize)
}

fn unpack_pool(token: Token) -> (usize, u32) {
    let raw = token.0 as u64 & !POOL_BIT;
    ((raw >> 1) as u32 as usize, (raw >> 33) as u32)
}

/// What all workers share of pool mode.
#[derive(Debug, Default)]
pub struct PoolShared {
    next_id: AtomicU32,
    /// The sessions by the id that their greeting named.
    sessions: Mutex<HashMap<u32, Living>>,
    failed: Mutex<FailedLogins>,
    has_failed: AtomicBool,
}

impl PoolShared {
    fn sessions(&self) -> MutexGuard<'_, HashMap<u32, Living>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session as KILL has to know it.
#[derive(Debug)]
struct Living {
    worker: usize,
    /// None before its login.
    user: Option<Arc<User>>,
}

/// Who used a server's connections last: what a connection kept warm is made for.
#[derive(Debug, Clone)]
struct Favourite {
    user: Arc<User>,
    class: Class,
    at: u64,
}

/// What a server keeps over reloads for pool mode.
#[derive(Debug, Default)]
pub struct ServerPool {
    /// Connections open or being opened, in the whole process.
    pub open: AtomicU32,
    /// One beyond these, for a KILL while all others are in use.
    killers: AtomicU32,
    /// The server has no place for more, or the account: not before this time (ms).
    full_until_ms: AtomicU64,
    /// Its own words about that.
    full: Trouble,
    full_told: Told,
    /// Writes that it refused since it is read-only.
    pub read_only_errors: AtomicU64,
    read_only_told: Told,
    /// Logins that it refused.
    pub logins_failed: AtomicU64,
    logins_told: Told,
    /// The last of these, until the same account gets in.
    denied: ArcSwapOption<Denied>,
    /// Why it could not be asked what it is.
    scout_error: ArcSwapOption<String>,
    favourite: ArcSwapOption<Favourite>,
    /// Of these, with a client.
    pub busy: AtomicU32,
    /// Opened ever.
    pub opened: AtomicU64,
    /// Prepared statements of clients that were prepared anew on another connection.
    pub reprepared: AtomicU64,
    /// When the budget of `open_rate` is used up to (µs).
    budget_us: AtomicU64,
    /// What its last greeting said.
    known: ArcSwapOption<Known>,
    /// It was asked once, whatever came of it: nobody waits for its greeting any more.
    was_asked: AtomicBool,
}

/// An account that the server does not let in.
#[derive(Debug)]
struct Denied {
    /// Its name on the server.
    user: String,
    /// With the server's name; without secrets.
    text: String,
    at: u64,
}

impl ServerPool {
    /// The account that it refused last, unless that was let in since.
    pub fn login_error(&self, now_ms: u64) -> Option<String> {
        let denied = self.denied.load_full()?;
        (now_ms < denied.at + DENIED_MS).then(|| denied.text.clone())
    }

    /// What the server said when it had no place for one more; it is asked again while somebody waits.
    pub fn full_error(&self, now_ms: u64) -> Option<String> {
        self.full.last(now_ms, FULL_NEWS_MS)
    }

    /// Takes one of `rate` connections per second; at most `burst_ms` worth at once, but for one.
    fn may_open(&self, rate: u32, burst_ms: u64, now_ms: u64) -> bool {
        let (now, step) = (now_ms * 1_000, 1_000_000 / u64::from(rate.max(1)));
        let take = |at: u64| {
            let at = at.max(now);
            (at + step <= now + (burst_ms * 1_000).max(step)).then_some(at + step)
        };
        self.budget_us.fetch_update(SeqCst, SeqCst, take).is_ok()
    }
}

/// A client waits for a connection; dropped, it is counted no more.
#[derive(Debug)]
struct Waiting {
    state: Arc<ServiceState>,
    worker: usize,
    since: u64,
}

impl Waiting {
    fn new(state: &Arc<ServiceState>, worker: usize, since: u64) -> Self {
        state.queued.fetch_add(1, SeqCst);
        state.waiting[worker].fetch_add(1, SeqCst);
        Self {
            state: Arc::clone(state),
            worker,
            since,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.state.queued.fetch_sub(1, SeqCst);
        self.state.waiting[self.worker].fetch_sub(1, SeqCst);
    }
}

/// What a session of a pool service has besides its client socket.
#[derive(Debug, Default)]
pub struct Pooled {
    /// None until a server of the service is known to greet for.
    front: Option<Front>,
    /// The connection it uses.
    back: Option<Box<Back>>,
    /// Bytes of the client that belong to a command not complete yet.
    pending: Vec<u8>,
    waiting: Option<Waiting>,
    /// A connection is being opened for it.
    is_opening: bool,
    /// Since when it waits for the command at hand, over several rounds.
    waits_since: Option<u64>,
    /// How long its commands have waited, milliseconds.
    waited_ms: u64,
    /// When a waiting session looks again by itself.
    look_at: u64,
    user_slot: Option<UserSlot>,
    /// When it may have a slow hash made.
    turn_at: Option<u64>,
    /// Failed attempts for the command at hand.
    failures: u32,
    /// Members tried for it, by position (the first 64).
    tried: u64,
    /// What went wrong last.
    error: Option<String>,
    /// Why it kept its connection after the last reply.
    pin: Option<Pin>,
    /// When its client's FIN was seen in the middle of a reply.
    gone_at: Option<u64>,
    /// Version and cipher of its client's TLS.
    pub tls: Option<(&'static str, &'static str)>,
    /// Its server goes, so its command is cut off.
    server_goes: bool,
    /// KILL QUERY found its command waiting.
    is_interrupted: bool,
    /// The session goes the way of every closed client.
    pub is_over: bool,
}

impl Pooled {
    /// The command at hand has its connection, or its error.
    fn is_served(&mut self, now: u64) {
        self.failures = 0;
        self.tried = 0;
        self.error = None;
        // One that is still being opened will be anybody's.
        self.is_opening = false;
        self.waited_ms += self.waits_since.take().map_or(0, |since| now - since);
    }

    /// How long its commands have waited for connections, milliseconds.
    pub fn waited_ms(&self, now: u64) -> u64 {
        self.waited_ms + self.waits_since.map_or(0, |since| now - since)
    }

    /// For `show sessions`: also who tries to log in; "" before that.
    pub fn user_name(&self) -> Cow<'_, str> {
        let name = self.front.as_ref().map_or(&[][..], Front::login_name);
        String::from_utf8_lossy(name.get(..NAME_SHOWN).unwrap_or(name))
    }

    /// What its client calls itself.
    pub fn program(&self) -> Option<&str> {
        self.front.as_ref().and_then(Front::program)
    }

    /// The id that its greeting gave: what its client sees, and what KILL takes.
    pub fn connection_id(&self) -> Option<u32> {
        self.front.as_ref().map(Front::thread_id)
    }

    /// Whether it has a server connection now.
    pub fn has_connection(&self) -> bool {
        self.back.is_some()
    }

    /// The id on the server of the connection that it has now.
    pub fn server_connection_id(&self) -> Option<u32> {
        self.back.as_ref().map(|back| back.conn.thread_id())
    }

    /// Commands so far.
    pub fn commands(&self) -> u64 {
        self.front.as_ref().map_or(0, Front::commands)
    }

    /// Why it keeps its connection, or kept it when it was lost.
    pub fn pin_word(&self) -> Option<&'static str> {
        let pin = self.front.as_ref().and_then(Front::pin);
        pin.map(Pin::word)
    }

    /// For `show sessions`.
    pub fn state_word(&self) -> &'static str {
        match self.front.as_ref() {
            None => "connecting",
            Some(_) if self.waiting.is_some() => "queued",
            Some(front) if !front.is_logged_in() => "login",
            Some(front) if front.is_running() => "query",
            Some(_) => "command",
        }
    }
}

/// A connection's places: in the server's `max_connections` and in the pool's `max`, or the one for KILLs
/// beside that. Dropped, they are free.
#[derive(Debug)]
struct PoolSlot {
    server: Arc<Server>,
    is_killer: bool,
}

impl PoolSlot {
    /// None: every place is taken.
    fn take(server: &Arc<Server>, is_killer: bool) -> Option<Self> {
        let pool = &server.state.pool;
        let (count, max) = if is_killer {
            (&pool.killers, 1)
        } else {
            (&pool.open, server.pool?.max)
        };
        if !take_slot(count, max) {
            return None;
        }
        if !take_slot(&server.state.active, server.max) {
            count.fetch_sub(1, SeqCst);
            return None;
        }
        Some(Self {
            server: Arc::clone(server),
            is_killer,
        })
    }
}

impl Drop for PoolSlot {
    fn drop(&mut self) {
        let pool = &self.server.state.pool;
        let count = if self.is_killer {
            &pool.killers
        } else {
            &pool.open
        };
        count.fetch_sub(1, SeqCst);
        self.server.state.active.fetch_sub(1, SeqCst);
    }
}

/// A place among those that a service's sessions may use at a time. Dropped, it is free.
#[derive(Debug, Default)]
struct Share(Option<Arc<MemberState>>);

impl Share {
    /// None: they use as many as they may.
    fn take(member: &Member) -> Option<Self> {
        let Some(max) = member.own_max else {
            return Some(Self(None));
        };
        take_slot(&member.state.lent, max).then(|| Self(Some(Arc::clone(&member.state))))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(state) = self.0.as_ref() {
            state.lent.fetch_sub(1, SeqCst);
        }
    }
}

/// A connection in a client's hands; dropped, it is not busy any more.
#[derive(Debug)]
struct Busy(Arc<Server>);

impl Busy {
    fn new(server: &Arc<Server>) -> Self {
        server.state.pool.busy.fetch_add(1, SeqCst);
        Self(Arc::clone(server))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state.pool.busy.fetch_sub(1, SeqCst);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    /// Logging in, or being cleaned.
    OnItsOwn,
    Idle,
    /// Kept from everybody until a KILL against it is answered.
    Barred,
    /// A client's.
    Lent,
    /// QUIT was sent at this time.
    Quitting(u64),
}

/// A server connection.
#[derive(Debug)]
pub(crate) struct Back {
    index: usize,
    generation: u32,
    /// Unique in the worker: tells whether a session's last connection is still the same.
    id: u64,
    state: State,
    conn: Conn,
    socket: Socket,
    slot: Option<PoolSlot>,
    busy: Option<Busy>,
    /// Of the service whose session has it, or for which it is opened.
    share: Option<Share>,
    held: Option<Held>,
    /// Our address as chosen; none = the route's.
    source_ip: Option<IpAddr>,
    /// Our side, once known.
    source: Option<SocketAddr>,
    destination: usize,
    rules: Rules,
    /// The account that it logged in with.
    user: Arc<User>,
    /// It began with a PROXY header.
    has_proxy: bool,
    /// The client that this header named.
    client: Option<SocketAddr>,
    /// The session that asked for it.
    wanted_by: Option<Token>,
    /// Made only to learn what the server is.
    is_scout: bool,
    /// Made before anybody was known who would use it.
    is_guess: bool,
    /// The plan that `retire_at` was computed for.
    plan: u64,
    /// When it is too old, or 0 when nobody may use it.
    retire_at: u64,
    /// What it is to do for another connection before anything else.
    errand: Option<Victim>,
    /// The errand was said; what comes now is its answer.
    has_run: bool,
    /// KILLs under way against it: nobody gets it before they are answered.
    kills: u32,
    /// The breaker's half-open try.
    is_probe: bool,
    has_greeted: bool,
    /// connect() met an old connection of this tuple.
    reset_was_lost: bool,
    /// A reply was under way at QUIT.
    owes_reply: bool,
    /// What it is told last, after a login that we have given up.
    farewell: Vec<u8>,
    /// Steps that wait for the command of their session, to go out in one write with it.
    ahead: Vec<u8>,
    drained: u64,
    opened_at: u64,
    used_at: u64,
    armed: Option<u64>,
}

impl Back {
    fn server(&self) -> Option<&Arc<Server>> {
        self.slot.as_ref().map(|slot| &slot.server)
    }

    /// It is no client's any more.
    fn is_back(&mut self) {
        (self.busy, self.share) = (None, None);
    }

    fn token(&self) -> Token {
        pool_token(self.index, self.generation)
    }

    /// Fresh from its login, and not only cleaned: its account is let in, and what was held against it is over.
    fn was_let_in(&self) {
        if self.conn.uses() > 0 {
            return;
        }
        let pool = self.server().map(|server| &server.state.pool);
        let is_same = |denied: &Arc<Denied>| denied.user == self.user.server_user;
        if let Some(pool) = pool.filter(|pool| pool.denied.load().as_ref().is_some_and(is_same)) {
            pool.denied.store(None);
        }
    }

    /// Sends commands of our own, if there are any. A connection that is lost shows itself at the next read.
    fn say(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() && self.socket.push(bytes).is_err() {
            self.socket.readable = true;
        }
    }

    /// The steps go out alone.
    fn say_ahead(&mut self) {
        let steps = std::mem::take(&mut self.ahead);
        self.say(&steps);
    }

    /// Statements that were prepared anew on it.
    fn count_reprepares(&mut self) {
        let count = self.conn.take_reprepares();
        if let (true, Some(server)) = (count > 0, self.server()) {
            server.state.pool.reprepared.fetch_add(count, SeqCst);
        }
    }
}

/// A connection whose query is to be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Victim {
    index: usize,
    generation: u32,
    thread_id: u32,
    /// Its count of commands: a later one is spared.
    uses: u64,
    /// Not before.
    at: u64,
}

/// A place in the slab.
#[derive(Debug)]
enum Place {
    Here(Box<Back>),
    /// With the session of this token.
    Lent(Token),
    /// In somebody's hands for a moment.
    Taken,
}

/// A worker's own part of pool mode.
#[derive(Debug, Default)]
pub struct Pool {
    backs: Slab<Place>,
    /// Idle connections, the longest unused first.
    shelf: Vec<usize>,
    /// Who waits, by service.
    lines: Vec<(Arc<ServiceState>, VecDeque<Token>)>,
    /// Whose turn it is of these.
    turn: usize,
    /// Counts the plans taken, and what else makes old verdicts void.
    plans: u64,
    /// The last user of each server's connections here, since the last tick.
    recent: Vec<(Arc<Server>, Favourite)>,
    /// Something may have become free: look at the waiters.
    pub(crate) has_news: bool,
    /// When the shelf is looked through again.
    pub(crate) tick_at: Option<u64>,
    serial: u64,
    generations: u32,
    /// Connections that came free.
    released: u32,
    /// For what servers send; made with the first pool service.
    scratch: Box<[u8]>,
    /// What a client sees of a reply that is translated.
    translated: Vec<u8>,
    /// A buffer for clients' commands, lent to the one that is driven.
    spare: Vec<u8>,
    /// Scouts under way, by server name.
    scouts: Vec<String>,
    /// Queries to be killed.
    victims: Vec<Victim>,
    turns: Turns,
}

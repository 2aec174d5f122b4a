//! One worker: one thread, one poller, one slab. The loop, accepting, timers, the inbox.
//!
//! Where a session goes from here: `accept` -> `dispatch.rs` (choose a server, connect) -> `relaying.rs`
//! (move bytes, do what the relay's state machine says) -> `finish.rs` (counters, log line).
//! Per packet there is no lock and no allocation.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use portside_core::balance::Balancer;
use portside_core::reason::Cause;
use slab::Slab;

use crate::accepting::Lent;
use crate::events::Kind;
use crate::log::Pen;
use crate::plan::{Plan, Service};
use crate::pool::{self, Pool};
use crate::session::{Client, Session};
use crate::shared::{Cut, Message, Shared};
use crate::socket::Socket;

/// Read at once; also the most that a stuck client makes us hold: 1,000 of them stay below 64 MiB.
pub const READ_BYTES: usize = 56 * 1024;
/// Read from one connection before the others get their turn: eight bulk readers hold a small query up for
/// half a megabyte of copying, 0.3 ms, not for two.
pub const TURN_BYTES: usize = 64 * 1024;
/// How long a listener that goes away still accepts handshakes under way.
const RETIRE_MS: u64 = 300;
/// Lost session lines are told at once, then at most this often.
const LOST_LINES_MS: u64 = 10_000;
/// The waker's token.
pub const WAKE: Token = Token(0);
pub(crate) const FIRST_LISTENER: usize = 1;
const SERVER_SIDE: u64 = 1;

/// Packs slab index, generation and side. Generations start at 1, so listeners' small tokens never collide.
pub fn token(index: usize, generation: u32, is_server: bool) -> Token {
    Token(((u64::from(generation) << 33) | ((index as u64) << 1) | u64::from(is_server)) as usize)
}

pub(crate) fn unpack(token: Token) -> (usize, u32, bool) {
    let raw = token.0 as u64;
    (
        (raw >> 1) as u32 as usize,
        (raw >> 33) as u32,
        raw & SERVER_SIDE != 0,
    )
}

/// The state of one worker thread.
pub struct Worker {
    pub(crate) id: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) poll: Poll,
    pub(crate) plan: Arc<Plan>,
    /// The services of the plan before; not the plan itself, which holds its listeners open.
    former: Vec<Arc<Service>>,
    /// A session that is being handled is out of its slot.
    pub(crate) sessions: Slab<Option<Box<Session>>>,
    pub(crate) timers: BinaryHeap<Reverse<(u64, usize)>>,
    pub(crate) run_again: Vec<Token>,
    /// Connects over tuples used before, and when to look at each; in order.
    pub(crate) reused: VecDeque<(u64, Token)>,
    pub(crate) scratch: Box<[u8]>,
    pub(crate) balancers: HashMap<String, Balancer>,
    pub(crate) queues: HashMap<String, VecDeque<Token>>,
    pub(crate) pen: Pen,
    pub(crate) now: u64,
    pub(crate) random: u64,
    pub(crate) lent: Slab<Lent>,
    pub(crate) generations: u32,
    pub(crate) serial: u64,
    pub(crate) accept_again: bool,
    pub(crate) paused_until: Option<u64>,
    /// Told as paused and not yet as resumed.
    pub(crate) is_paused: bool,
    log_told: (u64, u64),
    pub(crate) handout: usize,
    stopping: bool,
    pub(crate) pool: Pool,
}

impl Worker {
    /// A worker on a poller whose waker sits in the shared inbox.
    pub fn new(id: usize, shared: Arc<Shared>, poll: Poll) -> Self {
        let plan = shared.plan.load_full();
        let now = shared.now_ms();
        let mut worker = Self {
            id,
            poll,
            plan: Arc::clone(&plan),
            sessions: Slab::new(),
            timers: BinaryHeap::new(),
            run_again: Vec::new(),
            reused: VecDeque::new(),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            balancers: HashMap::new(),
            queues: HashMap::new(),
            pen: Pen::new(Arc::clone(&shared.log)),
            now,
            // Only spreads load; a weak seed is enough. Differs per worker and start.
            random: (id as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ u64::from(std::process::id()),
            former: Vec::new(),
            lent: Slab::new(),
            generations: 0,
            serial: 0,
            accept_again: false,
            paused_until: None,
            is_paused: false,
            log_told: (0, 0),
            handout: id,
            stopping: false,
            pool: Pool::default(),
            shared,
        };
        worker.take_plan(plan);
        worker
    }

    /// Runs until told to stop.
    pub fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        while !self.stopping {
            self.turn(&mut events);
        }
        self.cut_all_hard();
    }

    /// After a panic in the loop itself: the sessions are lost, the listeners are kept.
    pub fn start_over(&mut self) {
        let slots: Vec<Option<Box<Session>>> = self.sessions.drain().collect();
        let lost = slots.len() as u32;
        for mut session in slots.into_iter().flatten() {
            self.dequeue(&mut session);
        }
        self.shared.sessions.fetch_sub(lost, Relaxed);
        self.shared.workers[self.id].sessions.store(0, Relaxed);
        self.timers.clear();
        self.run_again.clear();
        self.reused.clear();
        self.queues.clear();
        self.pool = Pool::default();
        self.pool_plan();
        self.accept_again = true;
    }

    fn turn(&mut self, events: &mut Events) {
        let timeout = self.poll_timeout();
        if let Err(e) = self.poll.poll(events, timeout) {
            // Only EINTR is known to happen here, and signals are blocked in this thread.
            debug_assert_eq!(e.kind(), std::io::ErrorKind::Interrupted);
        }
        self.now = self.shared.now_ms();
        self.shared.workers[self.id].loops.fetch_add(1, Relaxed);
        let mut again = std::mem::take(&mut self.run_again);
        let mut woken = false;
        for event in events.iter() {
            match event.token() {
                WAKE => woken = true,
                token if pool::is_pool(token) => self.pool_event(token, Some(event)),
                token if (token.0 as u64) >> 33 == 0 => self.accept_from(token.0 - FIRST_LISTENER),
                token => self.guarded(token, Some(event)),
            }
        }
        for token in again.drain(..) {
            if pool::is_pool(token) {
                self.pool_event(token, None);
            } else {
                self.guarded(token, None);
            }
        }
        if self.run_again.is_empty() {
            self.run_again = again;
        }
        if woken {
            self.read_inbox();
        }
        self.fire_timers();
        self.look_at_reused();
        self.accept_where_paused();
        if self.shared.inboxes[self.id].slot_free.swap(false, Relaxed) {
            self.serve_queues();
            self.pool.has_news = true;
        }
        self.pool_tick();
        self.pen.tick(self.now);
        self.tell_lost_lines();
    }

    fn poll_timeout(&self) -> Option<Duration> {
        let slot_free = self.shared.inboxes[self.id].slot_free.load(Relaxed);
        if !self.run_again.is_empty() || self.accept_again || slot_free || self.pool.has_news {
            return Some(Duration::ZERO);
        }
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let retire = self.lent.iter().filter_map(|(_, l)| l.retire_at).min();
        let flush = self.pen.has_lines().then_some(self.now + 100);
        let (told, at) = self.log_told;
        let untold = self.id == 0 && self.shared.log.lost() > told;
        let tell = untold.then_some(at + LOST_LINES_MS);
        let look = self.reused.front().map(|(at, _)| *at);
        [
            timer,
            retire,
            flush,
            self.paused_until,
            tell,
            look,
            self.pool.due(),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| Duration::from_millis(at.saturating_sub(self.shared.now_ms())))
    }

    /// Handles one session's event; a panic costs this session, not the worker.
    pub(crate) fn guarded(&mut self, token: Token, event: Option<&Event>) {
        let (_, _, is_server) = unpack(token);
        self.guarded_with(token, |worker, index, mut session| {
            if let Some(event) = event {
                note(&mut session, event, is_server);
            }
            worker.drive(index, session);
        });
    }

    /// Hands a session, if it is still there, to `act`, which puts it back or ends it.
    pub(crate) fn guarded_with(
        &mut self,
        token: Token,
        act: impl FnOnce(&mut Self, usize, Box<Session>),
    ) {
        let (index, generation, _) = unpack(token);
        let Some(session) = self.take(index, generation) else {
            return;
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| act(self, index, session)));
        if let Err(panic) = outcome {
            self.session_panicked(index, &panic);
        }
    }

    pub(crate) fn session_panicked(&mut self, index: usize, panic: &Box<dyn std::any::Any + Send>) {
        self.sessions.try_remove(index);
        // A panic may have taken pool mode's buffer along.
        self.pool_plan();
        self.shared.sessions.fetch_sub(1, Relaxed);
        self.shared.workers[self.id].sessions.fetch_sub(1, Relaxed);
        self.shared.events.push(
            Kind::WorkerDied,
            "",
            "",
            format!(
                "worker {}: a session was lost to a fault of Portside: {}",
                self.id,
                panic_text(panic)
            ),
        );
    }

    pub(crate) fn take(&mut self, index: usize, generation: u32) -> Option<Box<Session>> {
        let slot = self.sessions.get_mut(index)?;
        if slot.as_ref().is_none_or(|s| s.generation != generation) {
            return None;
        }
        slot.take()
    }

    pub(crate) fn put_back(&mut self, index: usize, session: Box<Session>) {
        if let Some(slot) = self.sessions.get_mut(index) {
            *slot = Some(session);
        }
    }

    /// Remembers to look at a session at a time; at most one heap entry per session is the earliest.
    pub(crate) fn arm(&mut self, index: usize, session: &mut Session, at: u64) {
        if session.armed.is_none_or(|armed| at < armed) {
            session.armed = Some(at);
            self.timers
                .push(Reverse((at, token(index, session.generation, false).0)));
        }
    }

    fn fire_timers(&mut self) {
        while let Some(Reverse((at, raw))) = self.timers.peek().copied() {
            if at > self.now {
                break;
            }
            self.timers.pop();
            if pool::is_pool(Token(raw)) {
                self.pool_timer(Token(raw), at);
                continue;
            }
            let (index, generation, _) = unpack(Token(raw));
            if let Some(mut session) = self.take(index, generation) {
                // Entries that a later, earlier one made stale are recognised by their time.
                if session.armed == Some(at) {
                    session.armed = None;
                    self.put_back(index, session);
                    self.guarded(Token(raw), None);
                } else {
                    self.put_back(index, session);
                }
            }
        }
        let due: Vec<usize> = self
            .lent
            .iter()
            .filter(|(_, l)| l.retire_at.is_some_and(|at| at <= self.now))
            .map(|(key, _)| key)
            .collect();
        for key in due {
            self.retire(key);
        }
    }

    fn read_inbox(&mut self) {
        let newest = self.shared.plan.load_full();
        if !Arc::ptr_eq(&newest, &self.plan) {
            self.take_plan(newest);
        }
        for message in self.shared.inboxes[self.id].take() {
            match message {
                Message::Adopt { service, socket } => {
                    // Accepted by a worker that had not yet taken the plan without this service.
                    let former = || self.former.iter().find(|s| s.name == service);
                    if let Some(service) = self.plan.service(&service).or_else(former).cloned() {
                        self.begin(service, Socket::new(socket, false), Client::Unix);
                    }
                }
                Message::Cut(cut) => self.cut(&cut),
                Message::Pooled(back) => self.take_over(back),
                Message::Kill { id, query } => self.kill_pooled(id, query),
                Message::Sessions { limit, reply } => {
                    let _ = reply.send(self.report_sessions(limit));
                }
                Message::Stop => self.stopping = true,
            }
        }
    }

    /// Takes over a new plan: listeners come and go, balancers keep their state, queues are looked at.
    fn take_plan(&mut self, plan: Arc<Plan>) {
        self.former.clone_from(&self.plan.services);
        self.plan = plan;
        let plan = Arc::clone(&self.plan);
        for (listener, service) in &plan.listeners {
            if let Some(service) = plan.services.get(*service) {
                self.borrow(listener, service);
            }
        }
        for service in &plan.services {
            let phase = self.id;
            self.balancers
                .entry(service.name.clone())
                .and_modify(|b| b.rebuild(service.algorithm, &service.balance))
                .or_insert_with(|| Balancer::new(service.algorithm, &service.balance, phase));
        }
        self.balancers
            .retain(|name, _| plan.service(name).is_some());
        for (_, lent) in &mut self.lent {
            let stays = plan
                .listeners
                .iter()
                .any(|(l, _)| Arc::ptr_eq(l, &lent.listener));
            if !stays && lent.retire_at.is_none() {
                lent.listener.steer_away();
                lent.retire_at = Some(self.now + RETIRE_MS);
            }
        }
        self.serve_queues();
        self.pool_plan();
    }

    /// One worker tells for all.
    fn tell_lost_lines(&mut self) {
        let (told, at) = self.log_told;
        if self.id != 0 || (told > 0 && self.now < at + LOST_LINES_MS) {
            return;
        }
        let lost = self.shared.log.lost();
        if lost > told {
            self.log_told = (lost, self.now);
            let text = format!(
                "{} session lines lost: the log cannot be written fast enough",
                lost - told
            );
            self.shared.events.push(Kind::LogDropped, "", "", text);
        }
    }

    fn cut(&mut self, cut: &Cut) {
        let chosen: Vec<Token> = self
            .sessions
            .iter()
            .filter_map(|(index, slot)| slot.as_ref().map(|s| (index, s)))
            .filter(|(_, s)| {
                let server = s.assigned.as_ref().map(|a| a.server.name.as_str());
                cut.session.is_none_or(|id| id == s.id)
                    && cut
                        .service
                        .as_ref()
                        .is_none_or(|name| *name == s.service.name)
                    && cut.server.as_ref().is_none_or(|name| server == Some(name))
            })
            .map(|(index, s)| token(index, s.generation, false))
            .collect();
        for token in &chosen {
            let (index, ..) = unpack(*token);
            if let Some(Some(session)) = self.sessions.get_mut(index) {
                session.relay.cut(cut.cause, cut.gently);
            }
            self.guarded(*token, None);
        }
        let pooled = self.cut_pool(cut);
        let _ = cut.told.send(chosen.len() + pooled);
    }

    fn report_sessions(&self, limit: usize) -> Vec<crate::report::SessionReport> {
        self.sessions
            .iter()
            .filter_map(|(_, slot)| slot.as_deref())
            .take(limit)
            .map(|s| s.report(self.now))
            .collect()
    }

    /// The end of the thread: what is left is closed without ceremony.
    fn cut_all_hard(&mut self) {
        let indexes: Vec<usize> = self.sessions.iter().map(|(index, _)| index).collect();
        for index in indexes {
            if let Some(session) = self.sessions.get_mut(index).and_then(Option::take) {
                self.finish_hard(index, session, Cause::Drained);
            }
        }
        self.shared.workers[self.id].alive.store(false, Relaxed);
    }

    /// Registers or changes interest; write readiness is only watched while something waits for it.
    pub(crate) fn watch(&self, socket: &mut Socket, token: Token, writes: bool) {
        if socket.watches_writes || !writes {
            return;
        }
        let fd = socket.fd();
        socket.watches_writes = self
            .poll
            .registry()
            .reregister(
                &mut SourceFd(&fd),
                token,
                Interest::READABLE | Interest::WRITABLE,
            )
            .is_ok();
    }

    /// xorshift64*: random enough to spread load.
    pub(crate) fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Writes what epoll said into the session; acting on it is `drive`'s work.
fn note(session: &mut Session, event: &Event, is_server: bool) {
    let socket = if is_server {
        session.server_socket.as_mut()
    } else {
        session.client_socket.as_mut()
    };
    let Some(socket) = socket else {
        return;
    };
    socket.note(event);
    if is_server && event.is_writable() && !event.is_error() {
        session.server_writable();
    }
    if event.is_error() {
        session.socket_error(is_server);
    }
}

/// The text of a panic, as far as it has one.
pub fn panic_text(panic: &Box<dyn std::any::Any + Send>) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".into())
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("id", &self.id)
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

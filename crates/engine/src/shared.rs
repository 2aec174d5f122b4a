//! What the workers share: the plan, an inbox each, events, the log, counters. Nothing else.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use mio::Waker;
use portside_core::ports::Sources;
use portside_core::reason::{Cause, ClientClose, Phase, Pin, ServerClose, TlsFailure};

use crate::events::Events;
use crate::log::Log;
use crate::plan::Plan;
use crate::pool::{Back, PoolShared};
use crate::report::SessionReport;

/// Messages that may wait for one worker; beyond it the sender is told.
const INBOX: usize = 4096;

/// Which sessions to end, and how.
#[derive(Debug, Clone)]
pub struct Cut {
    /// By id.
    pub session: Option<u64>,
    /// By server.
    pub server: Option<String>,
    /// By service.
    pub service: Option<String>,
    /// At the next command boundary.
    pub gently: bool,
    /// The reason that is logged.
    pub cause: Cause,
    /// How many were told.
    pub told: Sender<usize>,
}

/// What a worker can be told.
#[derive(Debug)]
pub enum Message {
    /// A connection that another worker accepted (unix sockets).
    Adopt {
        /// Service name.
        service: String,
        /// The accepted socket.
        socket: OwnedFd,
    },
    /// End sessions.
    Cut(Cut),
    /// Pool mode: KILL of a session by the id that its greeting named.
    Kill {
        /// The id.
        id: u32,
        /// The query alone.
        query: bool,
    },
    /// Pool mode: an idle connection that another worker needs more.
    Pooled(Box<Back>),
    /// Report sessions.
    Sessions {
        /// At most.
        limit: usize,
        /// Where to.
        reply: Sender<Vec<SessionReport>>,
    },
    /// End the thread; sessions left are cut hard.
    Stop,
}

/// One worker's inbox.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<VecDeque<Message>>,
    waker: Waker,
    /// A slot came free somewhere: look at the queues.
    pub slot_free: AtomicBool,
}

impl Inbox {
    /// An inbox that wakes a poller.
    pub fn new(waker: Waker) -> Self {
        Self {
            queue: Mutex::new(VecDeque::new()),
            waker,
            slot_free: AtomicBool::new(false),
        }
    }

    /// Hands a message over; it comes back when the inbox is full.
    pub fn send(&self, message: Message) -> Result<(), Message> {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() >= INBOX {
                return Err(message);
            }
            queue.push_back(message);
        }
        self.wake();
        Ok(())
    }

    /// Wakes the worker's poller.
    pub fn wake(&self) {
        // An eventfd write fails only when its counter is full, and then the worker is awake anyway.
        let _ = self.waker.wake();
    }

    /// Everything that waits.
    pub fn take(&self) -> VecDeque<Message> {
        std::mem::take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Counters by outcome, indexed by the enums of `portside_core::reason`.
#[derive(Debug)]
pub struct Outcomes {
    terminations: Vec<AtomicU64>,
    server: Vec<AtomicU64>,
    client: Vec<AtomicU64>,
    pins: Vec<AtomicU64>,
    tls: [TlsOutcomes; 2],
}

/// Whose TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Of clients.
    Client,
    /// Of servers.
    Server,
}

/// Handshakes with one kind of peer.
#[derive(Debug)]
struct TlsOutcomes {
    good: AtomicU64,
    failed: Vec<AtomicU64>,
}

impl Default for Outcomes {
    fn default() -> Self {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        Self {
            terminations: zeros(Cause::ALL.len() * Phase::ALL.len()),
            server: zeros(ServerClose::ALL.len()),
            client: zeros(ClientClose::ALL.len()),
            pins: zeros(Pin::ALL.len()),
            tls: [(); 2].map(|()| TlsOutcomes {
                good: AtomicU64::new(0),
                failed: zeros(TlsFailure::ALL.len()),
            }),
        }
    }
}

impl Outcomes {
    /// Counts a finished session.
    pub fn count(&self, cause: Cause, phase: Phase, server: ServerClose, client: ClientClose) {
        let index = cause as usize * Phase::ALL.len() + phase as usize;
        self.terminations[index].fetch_add(1, Relaxed);
        self.server[server as usize].fetch_add(1, Relaxed);
        self.client[client as usize].fetch_add(1, Relaxed);
    }

    /// Counts the close of a pooled connection, which is no session's.
    pub fn count_server(&self, server: ServerClose) {
        self.server[server as usize].fetch_add(1, Relaxed);
    }

    /// Counts a pool session that begins to keep its connection.
    pub fn count_pin(&self, pin: Pin) {
        self.pins[pin as usize].fetch_add(1, Relaxed);
    }

    /// Counts a handshake that succeeded, or why not.
    pub fn count_tls(&self, peer: Peer, failed: Option<TlsFailure>) {
        let counts = &self.tls[peer as usize];
        let count = failed.map_or(&counts.good, |why| &counts.failed[why as usize]);
        count.fetch_add(1, Relaxed);
    }

    /// Handshakes that succeeded.
    pub fn tls_good(&self, peer: Peer) -> u64 {
        self.tls[peer as usize].good.load(Relaxed)
    }

    /// Handshakes that failed, by reason.
    pub fn tls_failed(&self, peer: Peer) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let failed = self.tls[peer as usize].failed.iter();
        let all = TlsFailure::ALL.iter().zip(failed);
        all.map(|(why, count)| (why.word(), count.load(Relaxed)))
    }

    /// Pins by reason.
    pub fn pins(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Pin::ALL
            .iter()
            .map(|pin| (pin.word(), self.pins[*pin as usize].load(Relaxed)))
    }

    /// `cause/phase` with counts above zero.
    pub fn terminations(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        Cause::ALL.iter().flat_map(move |cause| {
            Phase::ALL.iter().filter_map(move |phase| {
                let index = *cause as usize * Phase::ALL.len() + *phase as usize;
                let n = self.terminations[index].load(Relaxed);
                (n > 0).then(|| (format!("{}/{}", cause.word(), phase.word()), n))
            })
        })
    }

    /// Closes towards servers.
    pub fn server(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ServerClose::ALL
            .iter()
            .map(|close| (close.word(), self.server[*close as usize].load(Relaxed)))
    }

    /// Closes towards clients.
    pub fn client(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ClientClose::ALL
            .iter()
            .map(|close| (close.word(), self.client[*close as usize].load(Relaxed)))
    }
}

/// Per worker, for `show` and metrics.
#[derive(Debug, Default)]
pub struct WorkerState {
    /// The thread runs.
    pub alive: AtomicBool,
    /// Sessions now.
    pub sessions: AtomicU32,
    /// Accepted ever.
    pub accepted: AtomicU64,
    /// Turns of the loop.
    pub loops: AtomicU64,
}

/// Everything shared.
pub struct Shared {
    /// The present plan.
    pub plan: ArcSwap<Plan>,
    /// One per worker.
    pub inboxes: Vec<Inbox>,
    /// One per worker.
    pub workers: Vec<WorkerState>,
    /// For Python.
    pub events: Events,
    /// Session lines.
    pub log: Arc<Log>,
    /// By outcome.
    pub outcomes: Outcomes,
    /// The kernel's own port range, where it can be given per socket.
    pub kernel_ports: Option<(u16, u16)>,
    /// Our addresses: which are gone, which ports other programs hold.
    pub sources: Arc<Sources>,
    /// Sessions in the process, against `max_sessions`.
    pub sessions: AtomicU32,
    /// Pool mode: ids, failed logins.
    pub pool: PoolShared,
    /// Zero of the millisecond clock.
    pub epoch: Instant,
}

impl Shared {
    /// Milliseconds since the engine was made; starts at 1 h so that "long ago" is never negative.
    pub fn now_ms(&self) -> u64 {
        3_600_000 + self.epoch.elapsed().as_millis() as u64
    }

    /// A slot came free: whoever has waiters looks at its queue. One load per service when nobody waits.
    pub fn slot_freed(&self, plan: &Plan) {
        for service in &plan.services {
            if service.state.queued.load(SeqCst) == 0 {
                continue;
            }
            for (waiting, inbox) in service.state.waiting.iter().zip(&self.inboxes) {
                if waiting.load(SeqCst) > 0 && !inbox.slot_free.swap(true, Relaxed) {
                    inbox.wake();
                }
            }
        }
    }
}

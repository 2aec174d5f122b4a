//! The engine as Python sees it: make, start, apply, drain, stop, and questions. Nothing here is on the data path.

use std::net::IpAddr;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mio::{Poll, Waker};
use portside_core::ports::Sources;
use portside_core::reason::Cause;

use crate::checking::{self, CheckLease};
use crate::error::EngineError;
use crate::events::{Events, Kind};
use crate::listen::Listeners;
use crate::log::Log;
use crate::plan::Plan;
use crate::pool::PoolShared;
use crate::ports::MEMORY_BYTES;
use crate::report;
use crate::shared::{Cut, Inbox, Message, Outcomes, Shared, WorkerState};
use crate::snapshot::Snapshot;
use crate::sys;
use crate::worker::{panic_text, Worker, WAKE};

/// Questions to workers are given up after this.
const ANSWER: Duration = Duration::from_secs(1);
/// How long the end waits for the session log's writer.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Which sessions to end.
#[derive(Debug, Clone, Default)]
pub struct Criteria {
    /// By id.
    pub session: Option<u64>,
    /// By server.
    pub server: Option<String>,
    /// By service.
    pub service: Option<String>,
    /// At the next command boundary.
    pub at_boundary: bool,
}

/// What only the controlling thread touches.
struct Control {
    listeners: Listeners,
    sources: Arc<Sources>,
    snapshot: Snapshot,
    /// Pollers of workers not started yet.
    polls: Vec<Poll>,
    threads: Vec<JoinHandle<()>>,
}

/// One running data plane.
pub struct Engine {
    shared: Arc<Shared>,
    control: Mutex<Control>,
}

fn parse(json: &str) -> Result<Snapshot, EngineError> {
    serde_json::from_str(json).map_err(|e| EngineError::snapshot(format!("snapshot: {e}")))
}

impl Engine {
    /// Binds every listener; no thread runs yet.
    pub fn new(json: &str) -> Result<Self, EngineError> {
        let snapshot = parse(json)?;
        let mut listeners = Listeners::default();
        let sources = Arc::new(Sources::new(MEMORY_BYTES));
        let plan = Plan::build(&snapshot, None, &mut listeners, &sources)?;
        let fail = |e: std::io::Error| EngineError::listen("make a poller for", "the workers", &e);
        let mut polls = Vec::new();
        let mut inboxes = Vec::new();
        for _ in 0..snapshot.workers.max(1) {
            let poll = Poll::new().map_err(fail)?;
            inboxes.push(Inbox::new(Waker::new(poll.registry(), WAKE).map_err(fail)?));
            polls.push(poll);
        }
        let shared = Arc::new(Shared {
            plan: ArcSwap::from_pointee(plan),
            workers: polls.iter().map(|_| WorkerState::default()).collect(),
            inboxes,
            events: Events::default(),
            log: Arc::new(Log::open(&snapshot.log)?),
            outcomes: Outcomes::default(),
            kernel_ports: kernel_ports(),
            sources: Arc::clone(&sources),
            sessions: 0.into(),
            pool: PoolShared::default(),
            epoch: Instant::now(),
        });
        Ok(Self {
            shared,
            control: Mutex::new(Control {
                listeners,
                sources,
                snapshot,
                polls,
                threads: Vec::new(),
            }),
        })
    }

    fn control(&self) -> std::sync::MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the worker threads.
    pub fn start(&self) -> Result<(), EngineError> {
        let mut control = self.control();
        let polls = std::mem::take(&mut control.polls);
        for (id, poll) in polls.into_iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new()
                .name(format!("portside-{id}"))
                .spawn(move || work(id, &shared, poll))
                .map_err(|e| EngineError::listen("start", "a worker thread", &e))?;
            control.threads.push(thread);
        }
        Ok(())
    }

    /// Takes a whole new snapshot; all or nothing.
    pub fn apply(&self, json: &str) -> Result<u64, EngineError> {
        let mut snapshot = parse(json)?;
        let mut control = self.control();
        snapshot.workers = control.snapshot.workers;
        self.publish(&mut control, snapshot)
    }

    fn publish(&self, control: &mut Control, snapshot: Snapshot) -> Result<u64, EngineError> {
        let old = self.shared.plan.load_full();
        let sources = Arc::clone(&control.sources);
        let plan = Plan::build(&snapshot, Some(&old), &mut control.listeners, &sources)?;
        self.shared.log.apply(&snapshot.log)?;
        let generation = plan.generation;
        self.shared.plan.store(Arc::new(plan));
        for inbox in &self.shared.inboxes {
            inbox.wake();
        }
        control.snapshot = snapshot;
        if !control.threads.is_empty() {
            self.wait_until_taken();
        }
        Ok(generation)
    }

    /// Returns once every worker has taken the newest plan, or [`ANSWER`] has passed. Without it a worker
    /// could sleep through a plan, never accept from its listeners, and reset those who wait there.
    fn wait_until_taken(&self) {
        let (reply, answers) = channel();
        for inbox in &self.shared.inboxes {
            // A worker takes the newest plan before it reads its inbox.
            let _ = inbox.send(Message::Sessions {
                limit: 0,
                reply: reply.clone(),
            });
        }
        drop(reply);
        collect(&answers);
    }

    /// Stops accepting; sessions go on.
    pub fn drain(&self) -> Result<(), EngineError> {
        let mut control = self.control();
        let snapshot = Snapshot {
            accepting: false,
            ..control.snapshot.clone()
        };
        self.publish(&mut control, snapshot).map(drop)
    }

    /// Ends every session by the close rules, then the threads; returns sessions cut hard.
    pub fn stop(&self, timeout: Duration) -> usize {
        let until = Instant::now() + timeout;
        if self.control().threads.is_empty() {
            return 0;
        }
        let _ = self.drain();
        self.cut_sessions(&Criteria::default(), Cause::Drained);
        while self.shared.sessions.load(Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = self.shared.sessions.load(Relaxed) as usize;
        for inbox in &self.shared.inboxes {
            // A full inbox is emptied by a worker that lives; try until it takes the message.
            let mut message = Message::Stop;
            for _ in 0..200 {
                match inbox.send(message) {
                    Ok(()) => break,
                    Err(back) => message = back,
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let threads = std::mem::take(&mut self.control().threads);
        for thread in threads {
            let _ = thread.join();
        }
        self.shared.log.flush(LAST_LINES);
        left
    }

    /// Ends matching sessions; returns how many were told.
    pub fn close_sessions(&self, criteria: &Criteria) -> usize {
        self.cut_sessions(criteria, Cause::Killed)
    }

    fn cut_sessions(&self, criteria: &Criteria, cause: Cause) -> usize {
        let (told, answers) = channel();
        for inbox in &self.shared.inboxes {
            let _ = inbox.send(Message::Cut(Cut {
                session: criteria.session,
                server: criteria.server.clone(),
                service: criteria.service.clone(),
                gently: criteria.at_boundary,
                cause,
                told: told.clone(),
            }));
        }
        drop(told);
        collect(&answers).into_iter().sum()
    }

    /// Statistics as JSON.
    pub fn stats(&self) -> String {
        report::stats(&self.shared, &self.shared.plan.load())
    }

    /// Source ports as JSON.
    pub fn ports(&self) -> String {
        report::ports(&self.shared, &self.shared.plan.load())
    }

    /// Lends a source port to a check; `Ok(None)`: the kernel chooses there.
    pub fn lease(
        &self,
        server: &str,
        destination: &str,
        avoid: &[IpAddr],
    ) -> Result<Option<CheckLease>, EngineError> {
        let plan = self.shared.plan.load();
        checking::lease(&self.shared, &plan, server, destination, avoid)
    }

    /// Takes `TIME_WAIT` tuples of an earlier process; returns how many belong to a ledger.
    pub fn seed_ports(&self, json: &str) -> Result<usize, EngineError> {
        checking::seed(&self.shared, &self.shared.plan.load(), json)
    }

    /// Running sessions as JSON.
    pub fn sessions(&self, limit: usize) -> String {
        let (reply, answers) = channel();
        for inbox in &self.shared.inboxes {
            let _ = inbox.send(Message::Sessions {
                limit,
                reply: reply.clone(),
            });
        }
        drop(reply);
        let mut sessions: Vec<_> = collect(&answers).into_iter().flatten().collect();
        sessions.truncate(limit);
        serde_json::to_string(&sessions).unwrap_or_else(|_| "[]".into())
    }

    /// Events since the last call as JSON, after waiting for the first.
    pub fn events(&self, timeout: Duration) -> String {
        serde_json::to_string(&self.shared.events.take(timeout)).unwrap_or_else(|_| "[]".into())
    }

    /// Reopens the session log.
    pub fn reopen_log(&self) -> Result<(), EngineError> {
        self.shared.log.reopen()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// `ip_local_port_range`, if this kernel takes it per socket (6.3): that search has no cliff at 50 %.
fn kernel_ports() -> Option<(u16, u16)> {
    if !sys::has_local_port_range() {
        return None;
    }
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// One answer per worker, for at most [`ANSWER`] in all.
fn collect<T>(answers: &std::sync::mpsc::Receiver<T>) -> Vec<T> {
    let until = Instant::now() + ANSWER;
    let mut all = Vec::new();
    while let Ok(answer) = answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
        all.push(answer);
    }
    all
}

/// A worker's thread: a panic outside a session loses its sessions, and a fresh worker takes the same listeners.
fn work(id: usize, shared: &Arc<Shared>, poll: Poll) {
    sys::block_all_signals();
    shared.workers[id].alive.store(true, Relaxed);
    let mut worker = Worker::new(id, Arc::clone(shared), poll);
    while let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker.run())) {
        let text = format!("worker {id} died and was replaced: {}", panic_text(&panic));
        shared.events.push(Kind::WorkerDied, "", "", text);
        worker.start_over();
    }
}

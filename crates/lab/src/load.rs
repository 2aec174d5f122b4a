//! Clients as PHP makes them: connect, log in, ask, QUIT, close; thousands of them on one thread.
//!
//! The close is libmysql's: QUIT is written, then `shutdown(RDWR)` and `close` at once, so that the
//! client is the first closer and keeps the TIME_WAIT. Sessions start as fast as they end (closed loop)
//! or at a rate. What a session says and reads is decided in [`dialogue`], without sockets; this file
//! starts and counts, `worker` moves bytes.

mod dialogue;
mod tally;
mod worker;

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::Deserialize;

use self::worker::Worker;
use crate::address::Address;
use crate::report::LoadReport;

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientClose {
    /// QUIT, `shutdown(RDWR)`, `close`: libmysql, mysqlnd.
    Libmysql,
    /// QUIT, then waits for the other side's FIN.
    Wait,
    /// `close` without QUIT: a request that was cut off.
    NoQuit,
    /// Reset without QUIT: a host that crashed and came back.
    Reset,
}

/// What a load does. Without `connections` and without `duration_ms` it runs until it is stopped.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadPlan {
    /// `IP:PORT` or `unix:PATH`.
    pub target: String,
    /// Our addresses, used in turn; empty: the route's.
    pub sources: Vec<IpAddr>,
    /// User to log in as.
    pub user: String,
    /// Its password, in clear.
    pub password: String,
    /// Schema; empty for none.
    pub database: String,
    /// Sent one after the other in each session.
    pub queries: Vec<String>,
    /// How many times a session sends the list.
    pub repeat: u32,
    /// Sessions at a time.
    pub concurrency: usize,
    /// New sessions per second at most; null: as fast as they end.
    pub rate: Option<f64>,
    /// Sessions in all.
    pub connections: Option<u64>,
    /// Milliseconds after which no session starts any more.
    pub duration_ms: Option<u64>,
    /// Milliseconds that a session stays open and idle after its last answer.
    pub hold_ms: u64,
    /// Milliseconds from `connect()` to the last answer; a longer session failed.
    pub timeout_ms: u64,
    /// How a client leaves.
    pub close: ClientClose,
    /// Count sessions by the first value of their first answer (`SELECT @@server_id`).
    pub identify: bool,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self {
            target: String::new(),
            sources: Vec::new(),
            user: "app".into(),
            password: "app-pw".into(),
            database: String::new(),
            queries: vec!["SELECT @@server_id".into()],
            repeat: 1,
            concurrency: 16,
            rate: None,
            connections: None,
            duration_ms: None,
            hold_ms: 0,
            timeout_ms: 10_000,
            close: ClientClose::Libmysql,
            identify: false,
        }
    }
}

/// What the load's thread and its handle share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    report: Mutex<LoadReport>,
    stop: AtomicBool,
}

impl Shared {
    fn publish(&self, report: LoadReport) {
        // A poisoned lock holds an older report, nothing worse.
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A running load. Dropping it stops it.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Checks the plan and starts the thread; `InvalidInput` for an address that cannot be read.
pub fn start(plan: LoadPlan) -> io::Result<Load> {
    let target = Address::parse(&plan.target)?;
    if plan.queries.is_empty() || plan.repeat == 0 || plan.concurrency == 0 {
        let what = "queries, repeat and concurrency must not be empty or 0";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let shared = Arc::new(Shared::default());
    let mut worker = Worker::new(plan, target, Arc::clone(&shared))?;
    let thread = std::thread::Builder::new()
        .name("load".into())
        .spawn(move || worker.run())?;
    Ok(Load {
        shared,
        thread: Some(thread),
    })
}

/// Runs a bounded plan to its end.
pub fn run(plan: LoadPlan) -> io::Result<LoadReport> {
    let mut load = start(plan)?;
    load.wait();
    Ok(load.report())
}

impl Load {
    /// Figures so far, at most 100 ms old; final ones after [`Load::wait`].
    pub fn report(&self) -> LoadReport {
        let report = self.shared.report.lock();
        report.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts no further session; running ones end by themselves, held ones at once.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until the last session has ended.
    pub fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic has been printed; the report says done = false
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
        self.wait();
    }
}

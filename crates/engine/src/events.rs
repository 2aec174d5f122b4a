//! What happened, for Python: a bounded queue that drops the oldest and counts the drops.
//!
//! Workers push and never wait for more than the queue's lock; nothing here is on the data path of a
//! session that goes well.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Enough for a burst of every kind from every server; Python empties it several times a second.
const CAPACITY: usize = 4096;

/// The kinds of docs/internals/architecture.md, "Sessions and events".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A connect or a greeting failed by the server's doing.
    ConnectFailed,
    /// Three failures in a row.
    BreakerOpen,
    /// It answers again.
    BreakerClosed,
    /// ERR 1129 or 1130 to one of our addresses.
    HostBlocked,
    /// That address is served again.
    HostUnblocked,
    /// A session was refused because the queue was full.
    QueueFull,
    /// No descriptors left: accepting waits.
    AcceptPaused,
    /// Accepting goes on.
    AcceptResumed,
    /// No usable tuple is left in the process.
    PortsExhausted,
    /// A source address is gone from this host.
    SourceSuspended,
    /// It is back.
    SourceBack,
    /// Pool mode: a write met a read-only server.
    WriteRefused,
    /// Pool mode: a server does not let an account in.
    LoginRefused,
    /// Pool mode: a server has no place for one more connection of ours.
    ServerFull,
    /// Pool mode: a client waited in vain for a server connection.
    PoolExhausted,
    /// A worker thread panicked and was replaced.
    WorkerDied,
    /// Session lines were lost.
    LogDropped,
}

/// One event.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Unix time in seconds.
    pub time: f64,
    /// What.
    pub kind: Kind,
    /// Service, or "".
    pub service: String,
    /// Server, or "".
    pub server: String,
    /// Our address and the destination, of `HostBlocked` and `HostUnblocked`: checks tell of the same. Else "".
    pub about: String,
    /// One sentence.
    pub message: String,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Events {
    queue: Mutex<VecDeque<Event>>,
    arrived: Condvar,
    /// Events lost because nobody read them.
    pub dropped: AtomicU64,
}

impl Events {
    /// Adds an event; drops the oldest when full.
    pub fn push(&self, kind: Kind, service: &str, server: &str, message: String) {
        self.add(kind, service, (server, String::new()), message);
    }

    /// Adds an event about a server and one of our addresses; none: the one that the route uses.
    pub fn push_about(
        &self,
        kind: Kind,
        server: &str,
        (source, destination): (Option<IpAddr>, &str),
        message: String,
    ) {
        let source = source.map(|ip| ip.to_string()).unwrap_or_default();
        self.add(
            kind,
            "",
            (server, format!("{source} {destination}")),
            message,
        );
    }

    fn add(&self, kind: Kind, service: &str, (server, about): (&str, String), message: String) {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |d| d.as_secs_f64());
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() == CAPACITY {
            queue.pop_front();
            self.dropped.fetch_add(1, Relaxed);
        }
        queue.push_back(Event {
            time,
            kind,
            service: service.to_owned(),
            server: server.to_owned(),
            about,
            message,
        });
        self.arrived.notify_one();
    }

    /// All events so far, after waiting for the first one for at most `timeout`.
    pub fn take(&self, timeout: Duration) -> Vec<Event> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut queue, _) = self
            .arrived
            .wait_timeout_while(queue, timeout, |q| q.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        queue.drain(..).collect()
    }
}

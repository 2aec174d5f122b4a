//! A server that speaks just enough MySQL to be very fast: what proxies are measured against.
//!
//! Greets, lets everybody in, answers every query with the same prepared bytes and every other command
//! with OK. On QUIT it closes first, as mysqld does, unless told otherwise. One thread, one poller, no
//! allocation per query. It knows nothing of SQL: `SELECT @@server_id` gets the configured text like
//! any other query, but for the one by which a pool learns a connection's state.

mod answers;
mod peer;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use slab::Slab;
use socket2::Socket;

use self::answers::{Answers, RESULT_MAX};
use self::peer::{Peer, Verdict};
use crate::address::Address;
use crate::socket;

/// How a QUIT is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseMode {
    /// `close()` at once: our FIN is first, as mysqld's.
    First,
    /// Waits for the peer's FIN, then closes: a server that is late.
    Wait,
    /// Closes with a reset.
    Reset,
}

/// What a sink does.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkPlan {
    /// Where it listens: `IP:PORT` or `unix:PATH`; port 0 takes a free one.
    pub listen: Vec<String>,
    /// How a QUIT is answered.
    pub close: CloseMode,
    /// Text of the one row's one column, when `result_bytes` is 0.
    pub answer: String,
    /// Size of the one column in bytes, below 16 MiB; 0: it is `answer`.
    pub result_bytes: usize,
    /// Milliseconds before each answer to a query.
    pub delay_ms: u64,
}

impl Default for SinkPlan {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:0".into()],
            close: CloseMode::First,
            answer: "1".into(),
            result_bytes: 0,
            delay_ms: 0,
        }
    }
}

/// What a sink has seen so far.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct SinkReport {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Logins let in.
    pub logins: u64,
    /// Queries answered.
    pub queries: u64,
    /// QUITs received.
    pub quits: u64,
    /// Connections that ended without QUIT: what a server counts as `Aborted_clients`.
    pub aborted: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    closed: AtomicU64,
    logins: AtomicU64,
    queries: AtomicU64,
    quits: AtomicU64,
    aborted: AtomicU64,
}

/// A running sink; ends when dropped.
#[derive(Debug)]
pub struct Sink {
    addresses: Vec<String>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Binds every address and starts the thread. Errors are those of parsing and of bind.
pub fn start(plan: &SinkPlan) -> io::Result<Sink> {
    if plan.result_bytes > RESULT_MAX {
        let what = format!("result_bytes: at most {RESULT_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for text in &plan.listen {
        let listener = socket::listen(&Address::parse(text)?)?;
        let bound = listener.local_addr()?.as_socket();
        addresses.push(bound.map_or_else(|| text.clone(), |address| address.to_string()));
        listeners.push(listener);
    }
    let counters = Arc::new(Counters::default());
    let stop = Arc::new(AtomicBool::new(false));
    let (told, seen, plan) = (Arc::clone(&stop), Arc::clone(&counters), plan.clone());
    let thread =
        std::thread::Builder::new()
            .name("sink".into())
            .spawn(move || match Worker::new(listeners, &plan, seen) {
                Ok(mut worker) => worker.run(&told),
                Err(error) => eprintln!("sink: {error}"),
            })?;
    Ok(Sink {
        addresses,
        counters,
        stop,
        thread: Some(thread),
    })
}

impl Sink {
    /// Where it listens, with the ports that were chosen.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Counters now.
    pub fn report(&self) -> SinkReport {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let accepted = get(&self.counters.accepted);
        SinkReport {
            accepted,
            open: accepted.saturating_sub(get(&self.counters.closed)),
            logins: get(&self.counters.logins),
            queries: get(&self.counters.queries),
            quits: get(&self.counters.quits),
            aborted: get(&self.counters.aborted),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic has been printed already
        }
    }
}

struct Worker {
    poll: Poll,
    listeners: Vec<Socket>,
    peers: Slab<Peer>,
    answers: Answers,
    close: CloseMode,
    delay: Duration,
    /// Answers that wait for their time, in order since the delay is constant: when, key, serial.
    delayed: VecDeque<(Instant, usize, u64)>,
    counters: Arc<Counters>,
    scratch: Vec<u8>,
}

impl Worker {
    fn new(listeners: Vec<Socket>, plan: &SinkPlan, counters: Arc<Counters>) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (index, listener) in listeners.iter().enumerate() {
            let fd = listener.as_raw_fd();
            poll.registry()
                .register(&mut SourceFd(&fd), Token(index), Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            listeners,
            peers: Slab::new(),
            answers: Answers::new(&plan.answer, plan.result_bytes),
            close: plan.close,
            delay: Duration::from_millis(plan.delay_ms),
            delayed: VecDeque::new(),
            counters,
            scratch: vec![0; 64 * 1024],
        })
    }

    fn run(&mut self, stop: &AtomicBool) {
        let mut events = Events::with_capacity(1024);
        while !stop.load(Ordering::Relaxed) {
            // 100 ms: how fast a stop is noticed; a busy sink never waits that long.
            let mut wait = Duration::from_millis(100);
            if let Some((due, ..)) = self.delayed.front() {
                wait = wait.min(due.saturating_duration_since(Instant::now()));
            }
            let _ = self.poll.poll(&mut events, Some(wait)); // EINTR: the loop comes round
            for event in &events {
                let token = event.token().0;
                if token < self.listeners.len() {
                    self.accept(token);
                } else {
                    let closed = event.is_read_closed();
                    self.step(token, event.is_readable(), event.is_writable(), closed);
                }
            }
            self.answer_delayed();
        }
    }

    fn accept(&mut self, listener: usize) {
        while let Ok(socket) = socket::accept(&self.listeners[listener]) {
            let serial = self.counters.accepted.fetch_add(1, Ordering::Relaxed);
            let _ = socket.set_tcp_nodelay(true); // not on unix sockets
            let fd = socket.as_raw_fd();
            let mut peer = Peer::new(socket, serial);
            peer.send(&self.answers.greeting);
            let entry = self.peers.vacant_entry();
            let token = Token(entry.key() + self.listeners.len());
            let both = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            if registry.register(&mut SourceFd(&fd), token, both).is_ok() {
                entry.insert(peer);
            }
        }
    }

    fn step(&mut self, token: usize, readable: bool, writable: bool, closed: bool) {
        let key = token - self.listeners.len();
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let mut verdict = Verdict::Stay;
        if writable {
            verdict = peer.flush();
        }
        let awaits_end = verdict == Verdict::Quit && self.close == CloseMode::Wait;
        if readable && (verdict == Verdict::Stay || awaits_end) {
            let seen = peer.read(
                &self.answers,
                &mut self.scratch,
                closed,
                !self.delay.is_zero(),
            );
            self.counters
                .logins
                .fetch_add(seen.logins, Ordering::Relaxed);
            self.counters
                .queries
                .fetch_add(seen.queries, Ordering::Relaxed);
            for _ in 0..seen.delayed {
                let due = Instant::now() + self.delay;
                self.delayed.push_back((due, key, peer.serial));
            }
            if seen.verdict != Verdict::Stay {
                verdict = seen.verdict;
            }
        }
        self.conclude(key, verdict);
    }

    fn conclude(&mut self, key: usize, verdict: Verdict) {
        match verdict {
            Verdict::Stay => return,
            Verdict::Quit if self.close == CloseMode::Wait && !self.peers[key].has_ended() => {
                return;
            }
            Verdict::Quit => {
                self.counters.quits.fetch_add(1, Ordering::Relaxed);
                let peer = self.peers.remove(key);
                match self.close {
                    CloseMode::Reset => socket::reset(peer.into_socket()),
                    CloseMode::First | CloseMode::Wait => drop(peer),
                }
            }
            Verdict::Lost => {
                self.counters.aborted.fetch_add(1, Ordering::Relaxed);
                self.peers.remove(key);
            }
        }
        self.counters.closed.fetch_add(1, Ordering::Relaxed);
    }

    fn answer_delayed(&mut self) {
        let now = Instant::now();
        while let Some(&(due, key, serial)) = self.delayed.front() {
            if due > now {
                return;
            }
            self.delayed.pop_front();
            // The slot may belong to a later connection by now.
            if let Some(peer) = self.peers.get_mut(key).filter(|peer| peer.serial == serial) {
                let verdict = peer.send(&self.answers.result);
                self.conclude(key, verdict);
            }
        }
    }
}

//! The session log: workers format lines, one thread writes them, nobody waits.
//!
//! A worker collects lines in its own buffer and hands it over when it is large or old. When the writer
//! is behind (a slow disk, a full pipe) whole buffers are dropped and counted, never the sessions held up.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{sync_channel, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::EngineError;
use crate::snapshot::{LogFormat, LogSpec};

/// A buffer is handed over at this size: one write per few hundred lines.
const CHUNK: usize = 32 * 1024;
/// Chunks that may wait: 8 MiB, some seconds of a busy proxy.
const WAITING: usize = 256;
/// How long a worker that ends waits for room.
const LAST_LINES: Duration = Duration::from_millis(250);
/// How often a wait at the end looks.
const POLL: Duration = Duration::from_millis(5);

/// Which sessions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Every one.
    All,
    /// Those that did not end well.
    Errors,
    /// Every nth good one, and all others.
    OneIn(u64),
}

impl Sampling {
    fn parse(text: &str) -> Result<Self, EngineError> {
        match text {
            "all" => Ok(Self::All),
            "errors" => Ok(Self::Errors),
            other => other
                .strip_prefix("1/")
                .and_then(|n| n.parse().ok())
                .filter(|n| *n > 0)
                .map(Self::OneIn)
                .ok_or_else(|| EngineError::snapshot(format!("log.sessions {other}"))),
        }
    }
}

/// Shared by workers and writer.
#[derive(Debug)]
pub struct Log {
    spec: Mutex<(LogFormat, Sampling)>,
    version: AtomicU64,
    sender: SyncSender<Vec<u8>>,
    target: Arc<Target>,
    /// Lines given to the writer.
    handed: AtomicU64,
    /// Lines lost.
    pub dropped: AtomicU64,
}

#[derive(Debug)]
struct Target {
    path: Mutex<Option<String>>,
    reopen: AtomicBool,
    written: AtomicU64,
    failed: AtomicU64,
}

impl Log {
    /// Opens the log and starts its writer.
    pub fn open(spec: &LogSpec) -> Result<Self, EngineError> {
        let (sender, receiver) = sync_channel::<Vec<u8>>(WAITING);
        let target = Arc::new(Target {
            path: Mutex::new(spec.path.clone()),
            reopen: AtomicBool::new(false),
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let mut out = target.open().map_err(|e| {
            EngineError::listen(
                "open the session log",
                spec.path.as_deref().unwrap_or("standard output"),
                &e,
            )
        })?;
        let writer = Arc::clone(&target);
        std::thread::Builder::new()
            .name("portside-log".into())
            .spawn(move || {
                crate::sys::block_all_signals();
                loop {
                    match receiver.recv_timeout(Duration::from_millis(500)) {
                        Ok(chunk) => {
                            writer.reopened(&mut out);
                            let lines = chunk.split(|b| *b == b'\n').count() as u64 - 1;
                            match out.write_all(&chunk) {
                                Ok(()) => writer.written.fetch_add(lines, Relaxed),
                                Err(_) => writer.failed.fetch_add(lines, Relaxed),
                            };
                        }
                        Err(RecvTimeoutError::Timeout) => writer.reopened(&mut out),
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })
            .map_err(|e| EngineError::listen("start", "the session log's thread", &e))?;
        Ok(Self {
            spec: Mutex::new((spec.format, Sampling::parse(&spec.sessions)?)),
            version: AtomicU64::new(1),
            sender,
            target,
            handed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// Takes the log settings of a new snapshot.
    pub fn apply(&self, spec: &LogSpec) -> Result<(), EngineError> {
        let new = (spec.format, Sampling::parse(&spec.sessions)?);
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.version.fetch_add(1, Relaxed);
        let mut path = self
            .target
            .path
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *path != spec.path {
            path.clone_from(&spec.path);
            self.target.reopen.store(true, Relaxed);
        }
        Ok(())
    }

    /// Reopens the file at the next write (logrotate).
    pub fn reopen(&self) {
        self.target.reopen.store(true, Relaxed);
    }

    /// Waits until the writer has written what it was given, at most `timeout` (a full pipe).
    pub fn flush(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        let done = || self.written() + self.target.failed.load(Relaxed);
        while done() < self.handed.load(Relaxed) && Instant::now() < until {
            std::thread::sleep(POLL);
        }
    }

    /// Lines written so far.
    pub fn written(&self) -> u64 {
        self.target.written.load(Relaxed)
    }

    /// Lines lost so far.
    pub fn lost(&self) -> u64 {
        self.dropped.load(Relaxed) + self.target.failed.load(Relaxed)
    }
}

impl Target {
    fn open(&self) -> std::io::Result<File> {
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = path.as_deref() {
            return OpenOptions::new().create(true).append(true).open(path);
        }
        // A duplicate, so that closing it never closes the process's own standard output.
        Ok(File::from(std::io::stdout().as_fd().try_clone_to_owned()?))
    }

    /// A file that cannot be reopened keeps its old descriptor: lines are not lost.
    fn reopened(&self, out: &mut File) {
        if self.reopen.swap(false, Relaxed) {
            if let Ok(file) = self.open() {
                *out = file;
            }
        }
    }
}

/// A worker's own end of the log.
#[derive(Debug)]
pub struct Pen {
    log: Arc<Log>,
    buffer: Vec<u8>,
    lines: u64,
    handed_ms: u64,
    good: u64,
    version: u64,
    format: LogFormat,
    sampling: Sampling,
}

impl Pen {
    /// A pen for a worker.
    pub fn new(log: Arc<Log>) -> Self {
        Self {
            log,
            buffer: Vec::with_capacity(CHUNK + 1024),
            lines: 0,
            handed_ms: 0,
            good: 0,
            version: 0,
            format: LogFormat::Json,
            sampling: Sampling::All,
        }
    }

    /// Writes one line if the session is to be logged: `line` gets the buffer and the format.
    pub fn write(&mut self, is_good: bool, line: impl FnOnce(&mut Vec<u8>, LogFormat)) {
        let version = self.log.version.load(Relaxed);
        if version != self.version {
            self.version = version;
            (self.format, self.sampling) =
                *self.log.spec.lock().unwrap_or_else(PoisonError::into_inner);
        }
        if is_good {
            self.good += 1;
        }
        let wanted = match self.sampling {
            Sampling::All => true,
            Sampling::Errors => !is_good,
            Sampling::OneIn(n) => !is_good || self.good % n == 0,
        };
        if !wanted {
            return;
        }
        line(&mut self.buffer, self.format);
        self.buffer.push(b'\n');
        self.lines += 1;
        if self.buffer.len() >= CHUNK {
            self.hand_over();
        }
    }

    /// Hands over what has waited for 100 ms. Called once per loop.
    pub fn tick(&mut self, now_ms: u64) {
        if !self.buffer.is_empty() && now_ms >= self.handed_ms + 100 {
            self.handed_ms = now_ms;
            self.hand_over();
        }
    }

    /// Whether lines wait for a tick.
    pub fn has_lines(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn hand_over(&mut self) {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK + 1024));
        let lines = std::mem::take(&mut self.lines);
        if let Err(mut chunk) = self.give(chunk, lines) {
            self.log.dropped.fetch_add(lines, Relaxed);
            chunk.clear();
            self.buffer = chunk;
        }
    }

    fn give(&self, chunk: Vec<u8>, lines: u64) -> Result<(), Vec<u8>> {
        self.log.handed.fetch_add(lines, Relaxed);
        self.log.sender.try_send(chunk).map_err(|e| {
            self.log.handed.fetch_sub(lines, Relaxed);
            match e {
                TrySendError::Full(chunk) | TrySendError::Disconnected(chunk) => chunk,
            }
        })
    }
}

impl Drop for Pen {
    /// The last lines wait a little for a writer that is behind, but do not hold up the end.
    fn drop(&mut self) {
        let mut chunk = std::mem::take(&mut self.buffer);
        let until = Instant::now() + LAST_LINES;
        while !chunk.is_empty() {
            match self.give(chunk, self.lines) {
                Ok(()) => return,
                Err(back) => chunk = back,
            }
            if Instant::now() >= until {
                self.log.dropped.fetch_add(self.lines, Relaxed);
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

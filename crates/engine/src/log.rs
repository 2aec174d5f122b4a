//! The session log: workers format lines, one thread writes them, nobody waits.
//!
//! A worker collects lines in its own buffer and hands it over when it is large or old. When the writer
//! is behind (a slow disk, a full pipe) whole buffers are dropped and counted, never the sessions held up.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{sync_channel, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Opened, and taken by the writer before its next line.
    next: Mutex<Option<File>>,
    has_next: AtomicBool,
    written: AtomicU64,
    failed: AtomicU64,
}

impl Log {
    /// Opens the log and starts its writer.
    pub fn open(spec: &LogSpec) -> Result<Self, EngineError> {
        let (sender, receiver) = sync_channel::<Vec<u8>>(WAITING);
        let mut out = open(spec.path.as_deref())?;
        let target = Arc::new(Target {
            path: Mutex::new(spec.path.clone()),
            next: Mutex::new(None),
            has_next: AtomicBool::new(false),
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let writer = Arc::clone(&target);
        std::thread::Builder::new()
            .name("portside-log".into())
            .spawn(move || {
                crate::sys::block_all_signals();
                loop {
                    match receiver.recv_timeout(Duration::from_millis(500)) {
                        Ok(chunk) => {
                            writer.take_next(&mut out);
                            let lines = chunk.split(|b| *b == b'\n').count() as u64 - 1;
                            match out.write_all(&chunk) {
                                Ok(()) => writer.written.fetch_add(lines, Relaxed),
                                Err(_) => writer.failed.fetch_add(lines, Relaxed),
                            };
                        }
                        Err(RecvTimeoutError::Timeout) => writer.take_next(&mut out),
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })
            .map_err(|e| EngineError::log("(its thread)", &e))?;
        Ok(Self {
            spec: Mutex::new((spec.format, Sampling::parse(&spec.sessions)?)),
            version: AtomicU64::new(1),
            sender,
            target,
            handed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// Takes the log settings of a new snapshot; a file that cannot be opened changes nothing.
    pub fn apply(&self, spec: &LogSpec) -> Result<(), EngineError> {
        let new = (spec.format, Sampling::parse(&spec.sessions)?);
        let mut path = lock(&self.target.path);
        if *path != spec.path {
            self.target.write_to(open(spec.path.as_deref())?);
            path.clone_from(&spec.path);
        }
        *lock(&self.spec) = new;
        self.version.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Opens the file anew (logrotate); where that fails lines go on to the old one.
    pub fn reopen(&self) -> Result<(), EngineError> {
        let path = lock(&self.target.path);
        self.target.write_to(open(path.as_deref())?);
        Ok(())
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
    fn write_to(&self, file: File) {
        *lock(&self.next) = Some(file);
        self.has_next.store(true, Relaxed);
    }

    fn take_next(&self, out: &mut File) {
        if self.has_next.swap(false, Relaxed) {
            if let Some(file) = lock(&self.next).take() {
                *out = file;
            }
        }
    }
}

fn open(path: Option<&str>) -> Result<File, EngineError> {
    match path {
        Some(path) => OpenOptions::new().create(true).append(true).open(path),
        // A duplicate, so that closing it never closes the process's own standard output.
        None => std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from),
    }
    .map_err(|e| EngineError::log(path.unwrap_or("to standard output"), &e))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            (self.format, self.sampling) = *lock(&self.log.spec);
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

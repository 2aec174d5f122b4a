//! The load's thread: opens sessions, moves their bytes, closes them as the plan says.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use portside_proto::quit::QUIT;
use slab::Slab;
use socket2::Socket;

use super::dialogue::{Dialogue, Failure, Progress, Script};
use super::tally::Tally;
use super::{ClientClose, LoadPlan, Shared};
use crate::address::Address;
use crate::socket;

/// How often figures are published and a stop is noticed.
const TICK: Duration = Duration::from_millis(100);
/// Pause after a failed session: a server that refuses must not make us spin.
const AFTER_FAILURE: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Talking,
    /// Every answer is here; open until the plan's time is over.
    Holding,
    /// QUIT is written; waits for the other side's FIN.
    Leaving,
}

struct Session {
    socket: Socket,
    serial: u64,
    started: Instant,
    phase: Phase,
    dialogue: Dialogue,
    out: Vec<u8>,
}

/// What one event made of a session.
enum Outcome {
    Goes,
    Answered,
    Left,
    Failed(Failure),
}

/// Sessions to look at again: when, key, serial. Delays are constant, so a queue is in order.
type Alarms = VecDeque<(Instant, usize, u64)>;

pub struct Worker {
    plan: LoadPlan,
    target: Address,
    script: Script,
    shared: Arc<Shared>,
    poll: Poll,
    sessions: Slab<Session>,
    deadlines: Alarms,
    holds: Alarms,
    tally: Tally,
    scratch: Vec<u8>,
    began: Instant,
    started: u64,
    not_before: Instant,
}

impl Worker {
    pub fn new(plan: LoadPlan, target: Address, shared: Arc<Shared>) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            script: Script::new(&plan),
            target,
            shared,
            poll: Poll::new()?,
            sessions: Slab::new(),
            deadlines: VecDeque::new(),
            holds: VecDeque::new(),
            tally: Tally::default(),
            scratch: vec![0; 64 * 1024],
            began: now,
            started: 0,
            not_before: now,
            plan,
        })
    }

    /// Runs the plan to its end and publishes the final figures.
    pub fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        let mut published = self.began;
        loop {
            let now = Instant::now();
            if self.may_start(now) {
                self.open_due(now);
            } else if self.sessions.is_empty() {
                break;
            }
            let _ = self.poll.poll(&mut events, Some(self.pause(now))); // EINTR: comes round
            for event in &events {
                let key = event.token().0;
                self.step(key, event);
            }
            let now = Instant::now();
            self.ring(now);
            if now - published >= TICK {
                published = now;
                self.publish(now, false);
            }
        }
        self.publish(Instant::now(), true);
    }

    fn publish(&self, now: Instant, done: bool) {
        let elapsed = now - self.began;
        let report = self.tally.report(elapsed, self.sessions.len(), done);
        self.shared.publish(report);
    }

    fn may_start(&self, now: Instant) -> bool {
        let over = |limit: Duration| now - self.began >= limit;
        !self.shared.is_stopped()
            && self.plan.connections.is_none_or(|all| self.started < all)
            && !self
                .plan
                .duration_ms
                .is_some_and(|ms| over(Duration::from_millis(ms)))
    }

    /// When the next session may start by the rate.
    fn next_start(&self) -> Instant {
        let by_rate = self.plan.rate.map_or(self.began, |rate| {
            self.began + Duration::from_secs_f64(self.started as f64 / rate)
        });
        by_rate.max(self.not_before)
    }

    fn pause(&self, now: Instant) -> Duration {
        if self.sessions.len() >= self.plan.concurrency || !self.may_start(now) {
            return TICK / 10;
        }
        self.next_start().saturating_duration_since(now).min(TICK)
    }

    fn open_due(&mut self, now: Instant) {
        while self.sessions.len() < self.plan.concurrency
            && self.next_start() <= now
            && self.may_start(now)
        {
            self.started += 1;
            if let Err(error) = self.open() {
                // Nothing was sent: a shortage of ports, descriptors or memory on this host.
                self.fail(Failure::of_system("local", &error));
            }
        }
    }

    fn open(&mut self) -> io::Result<()> {
        let turn = self.started as usize % self.plan.sources.len().max(1);
        let source = self.plan.sources.get(turn).copied();
        let started = Instant::now();
        let socket = socket::connect(&self.target, source)?;
        if !self.target.is_unix() {
            socket.set_tcp_nodelay(true)?;
        }
        let fd = socket.as_raw_fd();
        let entry = self.sessions.vacant_entry();
        let key = entry.key();
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), Token(key), both)?;
        entry.insert(Session {
            socket,
            serial: self.started,
            started,
            phase: Phase::Talking,
            dialogue: Dialogue::new(&self.script),
            out: Vec::new(),
        });
        let timeout = Duration::from_millis(self.plan.timeout_ms);
        self.deadlines
            .push_back((started + timeout, key, self.started));
        Ok(())
    }

    fn step(&mut self, key: usize, event: &Event) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let mut outcome = Outcome::Goes;
        if event.is_writable() && !session.out.is_empty() {
            outcome = session.flush();
        }
        if matches!(outcome, Outcome::Goes) && (event.is_readable() || event.is_error()) {
            let to_the_end = event.is_read_closed() || event.is_error();
            let (script, tally) = (&self.script, &mut self.tally);
            outcome = session.read(script, &mut self.scratch, to_the_end, tally);
        }
        self.conclude(key, outcome);
    }

    fn conclude(&mut self, key: usize, outcome: Outcome) {
        match outcome {
            Outcome::Goes => {}
            Outcome::Left => {
                self.sessions.remove(key);
            }
            Outcome::Failed(failure) => {
                // Reset: no TIME_WAIT of ours may tell a story about the other side's close.
                socket::reset(self.sessions.remove(key).socket);
                self.fail(failure);
            }
            Outcome::Answered => {
                let session = &mut self.sessions[key];
                let server = session
                    .dialogue
                    .first_value()
                    .filter(|_| self.plan.identify);
                self.tally.answered(session.started.elapsed(), server);
                if self.plan.hold_ms > 0 {
                    session.phase = Phase::Holding;
                    let until = Instant::now() + Duration::from_millis(self.plan.hold_ms);
                    self.holds.push_back((until, key, session.serial));
                } else {
                    self.leave(key);
                }
            }
        }
    }

    fn leave(&mut self, key: usize) {
        let close = self.plan.close;
        if matches!(close, ClientClose::Libmysql | ClientClose::Wait) {
            // Five bytes into an empty buffer; a peer that is gone shows at the close.
            let _ = (&self.sessions[key].socket).write(&QUIT);
        }
        if close == ClientClose::Wait {
            self.sessions[key].phase = Phase::Leaving;
            return;
        }
        let socket = self.sessions.remove(key).socket;
        match close {
            ClientClose::Libmysql => socket::close_like_libmysql(socket),
            ClientClose::Reset => socket::reset(socket),
            ClientClose::NoQuit | ClientClose::Wait => drop(socket),
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.tally.failed(failure);
        self.not_before = Instant::now() + AFTER_FAILURE;
    }

    /// Ends sessions whose time is over, and held ones when the plan ends.
    fn ring(&mut self, now: Instant) {
        while let Some((key, serial)) = pop_due(&mut self.deadlines, now, false) {
            let session = self.sessions.get(key).filter(|s| s.serial == serial);
            match session.map(|s| s.phase) {
                Some(Phase::Talking) => self.conclude(key, Outcome::Failed(Failure::timeout())),
                Some(Phase::Leaving) => self.conclude(key, Outcome::Left),
                Some(Phase::Holding) | None => {}
            }
        }
        let stopped = self.shared.is_stopped();
        while let Some((key, serial)) = pop_due(&mut self.holds, now, stopped) {
            let session = self.sessions.get(key).filter(|s| s.serial == serial);
            if session.is_some() {
                self.leave(key);
            }
        }
    }
}

/// The first alarm that is due (or the first of all), without its time.
fn pop_due(alarms: &mut Alarms, now: Instant, all: bool) -> Option<(usize, u64)> {
    let &(due, key, serial) = alarms.front()?;
    if !all && due > now {
        return None;
    }
    alarms.pop_front();
    Some((key, serial))
}

impl Session {
    fn flush(&mut self) -> Outcome {
        match (&self.socket).write(&self.out) {
            Ok(sent) => {
                self.out.drain(..sent);
                Outcome::Goes
            }
            Err(error) if socket::is_later(&error) => Outcome::Goes,
            Err(error) => Outcome::Failed(self.dialogue.broken(&error)),
        }
    }

    fn read(
        &mut self,
        script: &Script,
        scratch: &mut [u8],
        to_the_end: bool,
        tally: &mut Tally,
    ) -> Outcome {
        loop {
            let got = match (&self.socket).read(scratch) {
                Ok(0) if self.phase == Phase::Leaving => return Outcome::Left,
                Ok(0) => return Outcome::Failed(self.dialogue.ended()),
                Ok(got) => got,
                Err(error) if socket::is_later(&error) => return Outcome::Goes,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Outcome::Goes,
                Err(_) if self.phase == Phase::Leaving => return Outcome::Left,
                Err(error) => return Outcome::Failed(self.dialogue.broken(&error)),
            };
            tally.received_bytes += got as u64;
            let before = self.dialogue.answers();
            let progress = self.dialogue.feed(script, &scratch[..got], &mut self.out);
            tally.queries_ok += u64::from(self.dialogue.answers() - before);
            match progress {
                Progress::Done => return Outcome::Answered,
                Progress::Failed(failure) => return Outcome::Failed(failure),
                Progress::More => {}
            }
            if !self.out.is_empty() {
                if let Outcome::Failed(failure) = self.flush() {
                    return Outcome::Failed(failure);
                }
            }
            if got < scratch.len() && !to_the_end {
                return Outcome::Goes; // a short read means empty: epoll(7), question 9
            }
        }
    }
}

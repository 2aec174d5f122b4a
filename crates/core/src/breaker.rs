//! Stops using a server after three connect failures in a row, without asking anybody.
//!
//! The health checks live in Python; this is what keeps sessions off a dead server while the interpreter
//! is busy. One per server, shared by all workers: the whole state is one `u64`, so [`Breaker`] keeps it in
//! an atomic and [`step`] stays a pure function from (state, event, now) to (state, decision).
//!
//! ```text
//! closed --3 failures in a row--> open --1 s, the next session asks--> half-open
//!   ^                              ^                                     |   |
//!   +---------- success -----------|-------------------------------------+   |
//!                                  +------------- failure -------------------+
//! ```
//!
//! In half-open exactly one session is on its way; every other is refused.

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(test)]
mod tests;

/// Failures in a row that open it: one may be a crossed restart, three are not chance.
pub const FAILURES_TO_OPEN: u64 = 3;
/// How long nobody tries.
pub const OPEN_MS: u64 = 1_000;
/// A session that went through in half-open and never reported (its worker died) is given up after this;
/// above any sensible `timeouts.connect`, whose default is 3 s.
pub const LOST_PROBE_MS: u64 = 30_000;

/// A breaker's state: bits 63..62 phase, 61..56 failures in a row, 55..0 when (ms) a session may try again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State(u64);

/// The phase, as shown to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Sessions pass.
    Closed,
    /// Sessions are refused.
    Open,
    /// One session is trying.
    HalfOpen,
}

impl Phase {
    /// `closed`, `open` or `half-open`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session is about to connect.
    Ask,
    /// A connect succeeded.
    Success,
    /// A connect failed by the server's doing (never a local shortage of ports or descriptors).
    Failure,
    /// The session that got [`Decision::Probe`] went away without a verdict (its client left, no source port).
    Withdrawn,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Answer to [`Event::Ask`]: connect.
    Pass,
    /// Answer to [`Event::Ask`]: connect, you are the one that tries. Report, or say [`Event::Withdrawn`].
    Probe,
    /// Answer to [`Event::Ask`]: not this server.
    Refuse,
    /// It opened now: the event `breaker_open`.
    Opened,
    /// It closed now: the event `breaker_closed`.
    Closed,
    /// Nothing to tell.
    Noted,
}

const TIME_BITS: u32 = 56;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

impl State {
    fn new(phase: Phase, failures: u64, due_ms: u64) -> Self {
        let phase = match phase {
            Phase::Closed => 0,
            Phase::Open => 1,
            Phase::HalfOpen => 2,
        };
        Self(phase << 62 | failures << TIME_BITS | due_ms & TIME_MASK)
    }

    /// The phase.
    pub fn phase(self) -> Phase {
        match self.0 >> 62 {
            0 => Phase::Closed,
            1 => Phase::Open,
            _ => Phase::HalfOpen,
        }
    }

    fn failures(self) -> u64 {
        self.0 >> TIME_BITS & 0x3f
    }

    fn due_ms(self) -> u64 {
        self.0 & TIME_MASK
    }

    /// Whether [`Event::Ask`] would be let through now; what the balancer's `excluded` reads.
    pub fn would_pass(self, now_ms: u64) -> bool {
        self.phase() == Phase::Closed || now_ms >= self.due_ms()
    }
}

/// The next state, and what follows from the event. Pure.
pub fn step(state: State, event: Event, now_ms: u64) -> (State, Decision) {
    let open = State::new(Phase::Open, 0, now_ms + OPEN_MS);
    match (state.phase(), event) {
        (Phase::Closed, Event::Ask) => (state, Decision::Pass),
        (_, Event::Ask) if state.would_pass(now_ms) => (
            State::new(Phase::HalfOpen, 0, now_ms + LOST_PROBE_MS),
            Decision::Probe,
        ),
        (_, Event::Ask) => (state, Decision::Refuse),
        (Phase::Closed, Event::Success) => (State::default(), Decision::Noted),
        // Also a late success of a session that began before the third failure: the server answers.
        (_, Event::Success) => (State::default(), Decision::Closed),
        (Phase::Closed, Event::Failure) if state.failures() + 1 >= FAILURES_TO_OPEN => {
            (open, Decision::Opened)
        }
        (Phase::Closed, Event::Failure) => (
            State::new(Phase::Closed, state.failures() + 1, 0),
            Decision::Noted,
        ),
        // Late failures of sessions that began earlier must not push the retry away.
        (Phase::Open, Event::Failure) | (Phase::Closed | Phase::Open, Event::Withdrawn) => {
            (state, Decision::Noted)
        }
        (Phase::HalfOpen, Event::Failure) => (open, Decision::Noted),
        // No verdict: the next session tries, without another second of waiting.
        (Phase::HalfOpen, Event::Withdrawn) => {
            (State::new(Phase::Open, 0, now_ms), Decision::Noted)
        }
    }
}

/// The state in an atomic, for all workers.
#[derive(Debug, Default)]
pub struct Breaker(AtomicU64);

impl Breaker {
    /// The present state.
    pub fn state(&self) -> State {
        State(self.0.load(Ordering::Relaxed))
    }

    /// Applies an event. Closed and quiet, the case of every session, it is one relaxed load.
    pub fn on(&self, event: Event, now_ms: u64) -> Decision {
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            let (new, decision) = step(State(old), event, now_ms);
            if new.0 == old {
                return decision;
            }
            // Relaxed is enough: the word is the whole state, nothing else is published by it.
            match self
                .0
                .compare_exchange_weak(old, new.0, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return decision,
                Err(seen) => old = seen,
            }
        }
    }

    /// Forgets failures: health has just found the server alive.
    pub fn reset(&self) {
        self.0.store(State::default().0, Ordering::Relaxed);
    }
}

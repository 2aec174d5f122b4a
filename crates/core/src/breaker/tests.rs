use super::*;
use proptest::prelude::*;

fn run(events: &[(Event, u64)]) -> (State, Vec<Decision>) {
    let mut state = State::default();
    let mut decisions = Vec::new();
    for &(event, now_ms) in events {
        let (next, decision) = step(state, event, now_ms);
        state = next;
        decisions.push(decision);
    }
    (state, decisions)
}

fn opened_at(now_ms: u64) -> State {
    run(&[(Event::Failure, now_ms); 3]).0
}

#[test]
fn three_failures_in_a_row_open_it() {
    let (state, decisions) = run(&[
        (Event::Failure, 5),
        (Event::Failure, 6),
        (Event::Failure, 7),
    ]);
    assert_eq!(
        decisions,
        [Decision::Noted, Decision::Noted, Decision::Opened]
    );
    assert_eq!(state.phase(), Phase::Open);
    assert_eq!(step(state, Event::Ask, 8).1, Decision::Refuse);
}

#[test]
fn a_success_in_between_starts_the_count_again() {
    use Event::{Failure, Success};
    let (state, _) = run(&[Failure, Failure, Success, Failure, Failure].map(|e| (e, 1)));
    assert_eq!(state.phase(), Phase::Closed);
}

#[test]
fn after_one_second_exactly_one_session_tries() {
    let state = opened_at(100);
    assert_eq!(step(state, Event::Ask, 1_099), (state, Decision::Refuse));
    let (state, decision) = step(state, Event::Ask, 1_100);
    assert_eq!(
        (state.phase(), decision),
        (Phase::HalfOpen, Decision::Probe)
    );
    assert_eq!(step(state, Event::Ask, 1_100).1, Decision::Refuse);
    assert_eq!(step(state, Event::Ask, 5_000).1, Decision::Refuse);
    let (closed, decision) = step(state, Event::Success, 1_200);
    assert_eq!((closed, decision), (State::default(), Decision::Closed));
    let (open, decision) = step(state, Event::Failure, 1_200);
    assert_eq!((open.phase(), decision), (Phase::Open, Decision::Noted));
    assert!(!open.would_pass(2_199));
    assert!(open.would_pass(2_200));
}

#[test]
fn a_withdrawn_or_lost_trial_lets_the_next_one_try() {
    let (half_open, _) = step(opened_at(0), Event::Ask, 1_000);
    let (state, _) = step(half_open, Event::Withdrawn, 1_001);
    assert_eq!(step(state, Event::Ask, 1_001).1, Decision::Probe);
    assert_eq!(
        step(half_open, Event::Ask, 1_000 + LOST_PROBE_MS).1,
        Decision::Probe
    );
}

#[test]
fn a_late_failure_does_not_push_the_retry_away() {
    let state = opened_at(0);
    let (state, _) = step(state, Event::Failure, 900);
    assert!(state.would_pass(1_000));
}

#[test]
fn of_many_threads_exactly_one_tries() {
    for round in 0..200_u64 {
        let breaker = Breaker::default();
        for _ in 0..3 {
            breaker.on(Event::Failure, round);
        }
        let probes = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    if breaker.on(Event::Ask, round + OPEN_MS) == Decision::Probe {
                        probes.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(probes.into_inner(), 1);
        assert_eq!(breaker.state().phase().name(), "half-open");
        breaker.reset();
        assert_eq!(breaker.on(Event::Ask, 0), Decision::Pass);
    }
}

/// The obvious version: named fields, no packing.
#[derive(Default)]
struct Naive {
    failures: u64,
    open_until: Option<u64>,
    probe_until: Option<u64>,
}

impl Naive {
    fn on(&mut self, event: Event, now: u64) -> Option<bool> {
        let (open, probing) = (self.open_until.is_some(), self.probe_until.is_some());
        match event {
            Event::Ask if !open && !probing => return Some(true),
            Event::Ask => {
                let due = self.probe_until.or(self.open_until).unwrap_or(0);
                if now >= due {
                    self.open_until = None;
                    self.probe_until = Some(now + LOST_PROBE_MS);
                }
                return Some(now >= due);
            }
            Event::Success => *self = Self::default(),
            Event::Failure if open => {}
            Event::Failure => {
                self.failures += 1;
                if probing || self.failures == FAILURES_TO_OPEN {
                    *self = Self {
                        open_until: Some(now + OPEN_MS),
                        ..Self::default()
                    };
                }
            }
            Event::Withdrawn if probing => {
                *self = Self {
                    open_until: Some(now),
                    ..Self::default()
                };
            }
            Event::Withdrawn => {}
        }
        None
    }
}

proptest! {
    #[test]
    fn agrees_with_the_naive_version(
        events in prop::collection::vec((0..8_u8, 0..700_u64), 1..200),
    ) {
        let (mut state, mut naive, mut now) = (State::default(), Naive::default(), 0);
        for (event, wait) in events {
            now += wait;
            let event = match event {
                0..=2 => Event::Ask,
                3 => Event::Success,
                4..=6 => Event::Failure,
                _ => Event::Withdrawn,
            };
            let (next, decision) = step(state, event, now);
            state = next;
            let passed = match decision {
                Decision::Pass | Decision::Probe => Some(true),
                Decision::Refuse => Some(false),
                _ => None,
            };
            prop_assert_eq!(passed, naive.on(event, now));
        }
    }
}

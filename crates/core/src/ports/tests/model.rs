//! The ledger against a naive model: one map, searched from end to end.

use super::super::lists::{pause, tick};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Tuple = (IpAddr, u16);

#[derive(Clone, Debug)]
enum Op {
    Lease(usize),
    LeaseMany(usize, usize),
    GiveBack(usize, usize, usize),
    Wait(u64),
    Suspend(u8, bool),
    Bar(u8, bool),
    Reload(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..4_usize).prop_map(Op::Lease),
        1 => (0..4_usize, 1..150_usize).prop_map(|(w, n)| Op::LeaseMany(w, n)),
        8 => (0..4_usize, any::<usize>(), 0..26_usize).prop_map(|(w, n, h)| Op::GiveBack(w, n, h)),
        2 => prop_oneof![1..200_u64, 500..3_000_u64, Just(61_000)].prop_map(Op::Wait),
        1 => (0..3_u8, any::<bool>()).prop_map(|(s, b)| Op::Suspend(s, b)),
        1 => (0..3_u8, any::<bool>()).prop_map(|(s, b)| Op::Bar(s, b)),
        1 => (0..3_usize).prop_map(Op::Reload),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Naive {
    Never,
    Rested(u32),
    Resting(u32),
    TimeWait(u32),
    Blocked(u32),
    Leased,
}

#[derive(Default)]
struct Model {
    tuples: BTreeMap<Tuple, Naive>,
    /// Leased and outside the range.
    strays: HashSet<Tuple>,
    /// What every ledger knows of (source, port), in the range or not: when to try again.
    blocked: BTreeMap<Tuple, u32>,
    away: HashSet<IpAddr>,
    barred: HashSet<IpAddr>,
    /// Was away at some time: the ledger may have put its tuples among the free ones.
    returned: HashSet<IpAddr>,
}

impl Model {
    fn reload(&mut self, spec: &Spec) {
        let old = std::mem::take(&mut self.tuples);
        for (&tuple, _) in old.iter().filter(|(_, state)| **state == Naive::Leased) {
            self.strays.insert(tuple);
        }
        for &source in &spec.sources {
            for port in spec.ports.lo().get()..=spec.ports.hi().get() {
                let tuple = (source, port);
                let state = match old.get(&tuple) {
                    _ if self.strays.remove(&tuple) => Naive::Leased,
                    Some(state) => *state,
                    None => self
                        .blocked
                        .get(&tuple)
                        .map_or(Naive::Never, |d| Naive::Blocked(*d)),
                };
                self.tuples.insert(tuple, state);
            }
        }
        self.barred.retain(|s| spec.sources.contains(s));
    }

    fn usable(&self, source: IpAddr) -> bool {
        !self.away.contains(&source) && !self.barred.contains(&source)
    }

    fn is_due(state: Naive, now: u32, rest: u32) -> bool {
        match state {
            Naive::Never => true,
            Naive::Rested(since) | Naive::Resting(since) => since + rest <= now,
            Naive::TimeWait(since) => since + pause(TIME_WAIT_MS) <= now,
            Naive::Blocked(due) => due <= now,
            Naive::Leased => false,
        }
    }

    fn check_lease(&self, lease: Option<&Lease>, now: u32, rest: u32, workers: usize) {
        let idle = || {
            self.tuples
                .iter()
                .filter(|((source, _), _)| self.usable(*source))
        };
        let Some(lease) = lease else {
            for (tuple, state) in idle() {
                let never_early = matches!(state, Naive::TimeWait(_) | Naive::Blocked(_));
                let usable =
                    Self::is_due(*state, now, rest) || !(never_early || *state == Naive::Leased);
                assert!(!usable, "{tuple:?} {state:?} was usable at {now}");
            }
            return;
        };
        let tuple = (lease.source(), lease.port().get());
        let state = *self.tuples.get(&tuple).expect("out of range");
        assert_ne!(state, Naive::Leased, "{tuple:?} leased twice");
        assert!(self.usable(tuple.0), "{tuple:?} of an address that is away");
        if self.returned.contains(&tuple.0) {
            return;
        }
        if Self::is_due(state, now, rest) {
            if let (Some(since), 1) = (Self::age(state), workers) {
                let older = |s: &Naive| Self::age(*s).is_some_and(|a| a < since);
                let first = idle().find(|(_, s)| Self::is_due(**s, now, rest) && older(s));
                assert_eq!(first, None, "older than {tuple:?} {state:?}");
            }
            return;
        }
        let due = idle().find(|(_, s)| Self::is_due(**s, now, rest));
        assert_eq!(due, None, "{tuple:?} {state:?} was leased early at {now}");
        match state {
            Naive::Rested(_) => {}
            Naive::Resting(_) => {
                assert_eq!(idle().find(|(_, s)| matches!(s, Naive::Rested(_))), None);
            }
            _ => panic!("{tuple:?} {state:?} was leased before it was due"),
        }
    }

    fn age(state: Naive) -> Option<u32> {
        match state {
            Naive::Rested(since) | Naive::Resting(since) | Naive::TimeWait(since) => Some(since),
            _ => None,
        }
    }
}

struct Run {
    ledger: Ledger,
    sources: Arc<Sources>,
    specs: [Spec; 3],
    model: Model,
    held: Vec<(Lease, Naive)>,
    now_ms: u64,
    workers: usize,
}

impl Run {
    fn new(workers: usize) -> Self {
        let sources = Arc::new(Sources::new(u64::MAX));
        let specs = [
            spec(3, 65_400, 65_535, 0),
            spec(2, 65_500, 65_535, 0),
            spec(3, 1, 41, 0),
        ];
        let mut model = Model::default();
        model.reload(&specs[0]);
        let ledger = Ledger::new(&specs[0], workers, &sources, 77).unwrap();
        Self {
            ledger,
            sources,
            specs,
            model,
            held: Vec::new(),
            now_ms: 0,
            workers,
        }
    }

    fn lease(&mut self, worker: usize) {
        let rest = if self.ledger.resets_lost(self.now_ms) {
            TIME_WAIT_MS
        } else {
            REST_MS
        };
        let lease = take(&self.ledger, worker % self.workers, self.now_ms);
        self.model
            .check_lease(lease.as_ref(), tick(self.now_ms), pause(rest), self.workers);
        if let Some(lease) = lease {
            let state = self
                .model
                .tuples
                .insert((lease.source(), lease.port().get()), Naive::Leased);
            self.held.push((lease, state.unwrap()));
        }
    }

    fn give_back(&mut self, worker: usize, which: usize, how: usize) {
        if self.held.is_empty() {
            return;
        }
        let (mut lease, was) = self.held.swap_remove(which % self.held.len());
        let now = tick(self.now_ms);
        let (how, state) = match how {
            0..=6 => (Closed::ServerFirst, Naive::Rested(now)),
            7..=9 => (Closed::Reset, Naive::Resting(now)),
            10 => (Closed::NotConnected, Naive::Resting(now)),
            11..=13 => (
                Closed::WeFirst {
                    peer_timestamps: true,
                },
                Naive::Resting(now),
            ),
            14..=15 => (
                Closed::WeFirst {
                    peer_timestamps: false,
                },
                Naive::TimeWait(now),
            ),
            16..=17 => (Closed::TupleInUse, Naive::TimeWait(now)),
            18..=19 => (Closed::PortInUse, Naive::Blocked(0)),
            20..=21 => (Closed::Unused, was),
            22 => (Closed::SourceGone, Naive::Rested(0)),
            23 => (Closed::ServerFirstFin, Naive::Rested(now)),
            24 => (Closed::OpenAtServer, Naive::TimeWait(now)),
            _ => {
                lease.mark_old_connection_answered();
                (Closed::ServerFirst, Naive::Rested(now))
            }
        };
        let tuple @ (source, port) = (lease.source(), lease.port().get());
        let was_lost = self.ledger.resets_lost(self.now_ms);
        let canaries = self.ledger.canaries.load(Ordering::Relaxed);
        give(&self.ledger, worker % self.workers, lease, how, self.now_ms);
        let is_canary = self.ledger.canaries.load(Ordering::Relaxed) < canaries;
        let is_lost = self.ledger.resets_lost(self.now_ms);
        if is_lost && !was_lost {
            for state in self.model.tuples.values_mut() {
                if let Naive::Rested(since) = *state {
                    *state = Naive::TimeWait(since);
                }
            }
        }
        let state = match how {
            Closed::ServerFirst | Closed::Reset if is_lost => Naive::TimeWait(now),
            Closed::ServerFirst if is_canary => Naive::Never,
            _ => state,
        };
        let Some(known) = self.model.tuples.get_mut(&tuple) else {
            // What it tells of the port is not used either: nobody here would ask.
            assert!(self.model.strays.remove(&tuple));
            return;
        };
        *known = state;
        if how == Closed::PortInUse {
            let until_ms = self
                .sources
                .intern(source)
                .blocked_until_ms(Port::new(port).unwrap())
                .unwrap();
            assert!((2_000..=60_000).contains(&(until_ms - self.now_ms)));
            *known = Naive::Blocked(tick(until_ms) + 1);
            self.model.blocked.insert(tuple, tick(until_ms) + 1);
        }
        if how == Closed::SourceGone {
            self.model.away.insert(source);
            self.model.returned.insert(source);
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Lease(worker) => self.lease(worker),
            Op::LeaseMany(worker, count) => (0..count).for_each(|_| self.lease(worker)),
            Op::GiveBack(worker, which, how) => self.give_back(worker, which, how),
            Op::Wait(ms) => self.now_ms += ms,
            Op::Suspend(source, true) => {
                self.sources.suspend(ip(source));
                self.model.away.insert(ip(source));
                self.model.returned.insert(ip(source));
            }
            Op::Suspend(source, false) => {
                self.sources.resume(ip(source));
                self.model.away.remove(&ip(source));
            }
            Op::Bar(source, barred) => {
                let known = self.model.tuples.keys().any(|(s, _)| *s == ip(source));
                self.ledger.set_barred(ip(source), barred);
                if known && barred {
                    self.model.barred.insert(ip(source));
                    self.model.returned.insert(ip(source));
                } else {
                    self.model.barred.remove(&ip(source));
                }
            }
            Op::Reload(which) => {
                self.ledger.set_ranges(&self.specs[which]).unwrap();
                self.model.reload(&self.specs[which]);
            }
        }
        check(&self.ledger);
        let in_use = self
            .model
            .tuples
            .values()
            .filter(|s| **s == Naive::Leased)
            .count();
        let counted: u32 = self.ledger.stats().iter().map(|r| r.in_use).sum();
        assert_eq!(counted as usize, in_use);
    }
}

/// Few by default; `PROPTEST_CASES=6000 cargo test --release the_ledger` is the wide sweep.
fn config() -> ProptestConfig {
    let wide = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    let cases = if wide { default.cases } else { 64 };
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn the_ledger_agrees_with_the_naive_model(
        workers in prop_oneof![Just(1_usize), Just(4)],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut run = Run::new(workers);
        for op in &ops {
            run.step(op);
        }
    }
}

/// Real threads: no tuple is ever held twice, and afterwards everything is in its place.
#[test]
fn workers_in_parallel_never_share_a_tuple() {
    let ledger = ledger(&spec(2, 1, 300, 0), 4);
    let held: Vec<std::sync::atomic::AtomicBool> = (0..601).map(|_| false.into()).collect();
    std::thread::scope(|scope| {
        for worker in 0..4_usize {
            let (ledger, held) = (&ledger, &held);
            scope.spawn(move || {
                let mut mine: Vec<Lease> = Vec::new();
                let cell = |l: &Lease| {
                    &held[usize::from(l.port().get()) * 2 - usize::from(l.source() == ip(0))]
                };
                for n in 0..40_000_u64 {
                    let now_ms = n / 10;
                    if let Some(lease) = take(ledger, worker, now_ms) {
                        assert!(!cell(&lease).swap(true, Ordering::SeqCst), "held twice");
                        mine.push(lease);
                    }
                    // Up to 200 each: 800 wanted of 600, so that they take from each other.
                    if mine.len() > 200 || n % 3 == 0 && !mine.is_empty() {
                        let lease = mine.swap_remove(n as usize % mine.len());
                        assert!(cell(&lease).swap(false, Ordering::SeqCst));
                        let how = [Closed::ServerFirst, Closed::Reset][n as usize % 2];
                        ledger
                            .give_back(lease, Who::Worker(worker), how, now_ms)
                            .unwrap();
                    }
                }
                for lease in mine {
                    cell(&lease).store(false, Ordering::SeqCst);
                    ledger
                        .give_back(lease, Who::Worker(worker), Closed::ServerFirst, 4_000)
                        .unwrap();
                }
            });
        }
    });
    check(&ledger);
    assert_eq!(take_all(&ledger, 3, 10_000).len(), 600);
}

use super::ledger::Ledger;
use super::lists::{tick, Lists, Taken};
use super::sources::lock;
use super::*;
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::sync::Arc;

mod model;
mod resets;

pub(super) fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

pub(super) fn spec(sources: u8, lo: u16, hi: u16, reserve: u16) -> Spec {
    Spec {
        sources: (0..sources).map(ip).collect(),
        ports: PortRange::new(lo, hi).unwrap(),
        reserve,
        excluded: Vec::new(),
    }
}

fn ledger(spec: &Spec, workers: usize) -> Ledger {
    Ledger::new(spec, workers, &Arc::new(Sources::new(u64::MAX)), 0).unwrap()
}

fn take(ledger: &Ledger, worker: usize, now_ms: u64) -> Option<Lease> {
    ledger.lease(Who::Worker(worker), &mut Attempt::new(), now_ms)
}

fn take_all(ledger: &Ledger, worker: usize, now_ms: u64) -> Vec<Lease> {
    std::iter::from_fn(|| take(ledger, worker, now_ms)).collect()
}

fn give(ledger: &Ledger, worker: usize, lease: Lease, how: Closed, now_ms: u64) {
    ledger
        .give_back(lease, Who::Worker(worker), how, now_ms)
        .unwrap();
    check(ledger);
}

fn tuples(leases: &[Lease]) -> HashSet<(IpAddr, u16)> {
    leases
        .iter()
        .map(|l| (l.source(), l.port().get()))
        .collect()
}

/// Every tuple in exactly one place, lists in order, counters right.
pub(super) fn check(ledger: &Ledger) {
    {
        let mut lists: Vec<_> = ledger.shards.iter().map(|s| lock(&s.lists)).collect();
        let mut seen = vec![false; lists[0].space.total as usize];
        let mut first = |position: u32| !std::mem::replace(&mut seen[position as usize], true);
        let checks = lists.len() - 1;
        for (number, lists) in lists.iter_mut().enumerate() {
            let space = Arc::clone(&lists.space);
            let counted = |l: &Lists| -> Vec<_> {
                l.counts
                    .iter()
                    .map(|c| (c.free, c.resting, c.time_wait, c.blocked))
                    .collect()
            };
            let before = counted(lists);
            let mut counts = vec![(0, 0, 0, 0); space.sources.len()];
            let mut parked = Vec::new();
            while let Some(taken) = lists.pop(Kind::Blocked) {
                parked.push(taken);
            }
            let mut newest = [0; 5];
            let all = lists.drain();
            for taken in all.iter().chain(&parked) {
                assert!(taken.position < space.total && !space.is_excluded(taken.position));
                assert!(first(taken.position), "{taken:?} is in two lists");
                assert_eq!(space.is_reserved(taken.position), number == checks);
                let count = &mut counts[space.tuple(taken.position).0];
                match taken.kind {
                    Kind::Free => count.0 += 1,
                    Kind::Rested | Kind::Resting => count.1 += 1,
                    Kind::TimeWait => count.2 += 1,
                    Kind::Blocked => count.3 += 1,
                }
            }
            for taken in &all {
                let newest = &mut newest[taken.kind as usize];
                assert!(
                    taken.kind == Kind::Free || *newest <= taken.since,
                    "{taken:?} out of order"
                );
                *newest = taken.since;
                match taken.kind {
                    Kind::Blocked => lists
                        .blocked
                        .push(std::cmp::Reverse((taken.since, taken.position))),
                    kind => lists.file(kind, 0, taken.position, taken.since),
                }
            }
            for taken in parked {
                lists.file(Kind::Blocked, 0, taken.position, taken.since);
            }
            assert_eq!(before, counts);
            for (count, (free, resting, time_wait, blocked)) in lists.counts.iter_mut().zip(before)
            {
                (count.free, count.resting) = (free, resting);
                (count.time_wait, count.blocked) = (time_wait, blocked);
            }
        }
        let space = &lists[0].space;
        let depot = lock(&ledger.depot);
        assert_eq!(depot.left, ledger.depot_left.load(Ordering::Relaxed));
        let mut fresh = vec![0; space.sources.len()];
        let mut leased = 0;
        for position in 0..space.total {
            if space.leased_from(position).is_some() {
                assert!(first(position), "leased and in a list");
                leased += 1;
            } else if space.is_new(position) {
                assert!(first(position), "never touched and in a list");
                fresh[space.tuple(position).0] += 1;
            }
        }
        assert_eq!(&*depot.fresh, &*fresh);
        let size: u32 = space.sources.iter().map(|s| s.size).sum();
        assert_eq!(seen.iter().filter(|s| **s).count(), size as usize);
        drop(depot);
        drop(lists);
        assert_eq!(ledger.stats().iter().map(|s| s.in_use).sum::<u32>(), leased);
    }
    for row in ledger.stats() {
        let sum = row.in_use + row.resting + row.blocked + row.time_wait + row.free + row.reserved;
        assert_eq!(sum, row.size, "{row:?}");
    }
}

#[test]
fn ranges_cover_both_ends() {
    assert_eq!(Port::new(0), None);
    assert_eq!(PortRange::new(0, 5), None);
    assert_eq!(PortRange::new(6, 5), None);
    let all = PortRange::new(1, 65_535).unwrap();
    assert_eq!(
        (all.width(), all.lo().get(), all.hi().get()),
        (65_535, 1, 65_535)
    );
    let ledger = ledger(&spec(2, 1, 65_535, 0), 1);
    let leases = take_all(&ledger, 0, 0);
    assert_eq!(tuples(&leases).len(), 2 * 65_535);
    assert!(leases.iter().any(|l| l.port().get() == 1));
    assert!(leases.iter().any(|l| l.port().get() == 65_535));
    check(&ledger);
}

#[test]
fn one_tuple_carries_every_connection_in_a_row() {
    let ledger = ledger(&spec(1, 20_000, 20_000, 16), 4);
    for n in 0..50_000 {
        let lease = take(&ledger, n % 4, n as u64 / 20).unwrap();
        ledger
            .give_back(
                lease,
                Who::Worker(n % 4),
                Closed::ServerFirst,
                n as u64 / 20,
            )
            .unwrap();
    }
    check(&ledger);
}

#[test]
fn one_hot_worker_uses_every_tuple() {
    let ledger = ledger(&spec(4, 12_000, 12_999, 0), 4);
    // Every worker has used a few, closed in every way; all that is due later comes to worker 2.
    for worker in 0..4 {
        let leases: Vec<_> = (0..200).filter_map(|_| take(&ledger, worker, 0)).collect();
        for (n, lease) in leases.into_iter().enumerate() {
            let how = [
                Closed::ServerFirst,
                Closed::Reset,
                Closed::TupleInUse,
                Closed::PortInUse,
            ][n % 4];
            ledger
                .give_back(lease, Who::Worker(worker), how, 0)
                .unwrap();
        }
        check(&ledger);
    }
    let leases = take_all(&ledger, 2, 61_000);
    assert_eq!(tuples(&leases).len(), 4_000);
    assert_eq!(ledger.next_due_ms(), None);
    check(&ledger);
}

#[test]
fn what_is_due_goes_before_what_rests() {
    let ledger = ledger(&spec(1, 1, 3, 0), 2);
    let [a, b, c] = <[Lease; 3]>::try_from(take_all(&ledger, 0, 0)).unwrap();
    let (a_port, b_port, c_port) = (a.port(), b.port(), c.port());
    give(&ledger, 0, b, Closed::Reset, 0);
    give(&ledger, 0, c, Closed::ServerFirstFin, 5_000);
    give(&ledger, 1, a, Closed::ServerFirstFin, 5_100);
    // b is due, even for the other worker; then the own one that closed well, then somebody else's.
    let order: Vec<_> = take_all(&ledger, 1, 5_200)
        .iter()
        .map(Lease::port)
        .collect();
    assert_eq!(order, [b_port, a_port, c_port]);
}

#[test]
fn one_probe_of_a_resting_tuple_per_attempt() {
    let ledger = ledger(&spec(1, 1, 2, 0), 1);
    for lease in take_all(&ledger, 0, 0) {
        give(&ledger, 0, lease, Closed::Reset, 0);
    }
    let mut attempt = Attempt::new();
    let first = ledger.lease(Who::Worker(0), &mut attempt, 10).unwrap();
    assert!(ledger.lease(Who::Worker(0), &mut attempt, 10).is_none());
    assert_eq!(attempt.tries(), 1);
    let _second = take(&ledger, 0, 10).unwrap();
    give(&ledger, 0, first, Closed::TupleInUse, 10);
}

#[test]
fn blocked_and_time_wait_never_before_due() {
    let ledger = ledger(&spec(1, 1, 2, 0), 1);
    let [a, b] = <[Lease; 2]>::try_from(take_all(&ledger, 0, 0)).unwrap();
    give(
        &ledger,
        0,
        a,
        Closed::WeFirst {
            peer_timestamps: false,
        },
        1_000,
    );
    give(&ledger, 0, b, Closed::PortInUse, 1_000);
    assert!(take(&ledger, 0, 2_999).is_none());
    let due_ms = ledger.next_due_ms().unwrap();
    assert!((3_000..3_200).contains(&due_ms), "{due_ms}");
    let b = take(&ledger, 0, due_ms).unwrap();
    // Twice as long the next time, and from the start again after a success.
    give(&ledger, 0, b, Closed::PortInUse, due_ms);
    assert!(take(&ledger, 0, due_ms + 3_999).is_none());
    let b = take(&ledger, 0, due_ms + 4_128).unwrap();
    give(&ledger, 0, b, Closed::ServerFirst, 10_000);
    let b = take(&ledger, 0, 12_000).unwrap();
    give(&ledger, 0, b, Closed::PortInUse, 12_000);
    let b = take(&ledger, 0, 14_128).unwrap();
    assert!(take(&ledger, 0, 60_999).is_none());
    let a = take(&ledger, 0, 61_128).unwrap();
    assert_eq!((a.port().get(), b.port().get()), (1, 2));
}

#[test]
fn a_pause_doubles_to_sixty_seconds() {
    let source = Sources::new(0).intern(ip(1));
    let port = Port::new(9).unwrap();
    let mut now_ms = 0;
    let pauses: Vec<_> = (0..7)
        .map(|_| {
            let until_ms = source.block(port, now_ms);
            // A second finding in the meantime changes nothing.
            assert_eq!(source.block(port, until_ms - 1), until_ms);
            let pause_ms = until_ms - now_ms;
            now_ms = until_ms;
            pause_ms / 1_000
        })
        .collect();
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
    source.unblock(port);
    assert!(!source.is_noted(port));
    assert_eq!(source.block(port, now_ms), now_ms + 2_000);
}

#[test]
fn a_blocked_port_is_known_at_every_destination() {
    let sources = Arc::new(Sources::new(u64::MAX));
    let new = || Ledger::new(&spec(2, 7, 7, 0), 1, &sources, 0).unwrap();
    let (one, other) = (new(), new());
    let lease = take(&one, 0, 0).unwrap();
    let blocked = lease.source();
    give(&one, 0, lease, Closed::PortInUse, 0);
    let leases = take_all(&other, 0, 100);
    assert_eq!(leases.len(), 1);
    assert_ne!(leases[0].source(), blocked);
    check(&other);
    assert_eq!(take(&other, 0, 2_200).unwrap().source(), blocked);
}

#[test]
fn attempts_end_after_64_tries() {
    let ledger = ledger(&spec(1, 1, 1_000, 0), 1);
    let mut attempt = Attempt::new();
    let mut tries = 0;
    while let Some(lease) = ledger.lease(Who::Worker(0), &mut attempt, 0) {
        tries += 1;
        give(&ledger, 0, lease, Closed::PortInUse, 0);
    }
    assert_eq!(tries, 64);
    let row = ledger.stats()[0];
    assert_eq!((row.wasted_probes, row.blocked), (64, 64));
}

#[test]
fn a_suspended_address_is_left_alone_until_it_returns() {
    let sources = Arc::new(Sources::new(u64::MAX));
    let ledger = Ledger::new(&spec(2, 1, 100, 0), 2, &sources, 0).unwrap();
    let first = take(&ledger, 0, 0).unwrap();
    let gone = first.source();
    give(&ledger, 0, first, Closed::SourceGone, 0);
    assert_eq!(sources.suspended(), [gone]);
    assert!(!sources.suspend(gone));
    let leases = take_all(&ledger, 0, 10);
    assert!(leases.len() == 100 && leases.iter().all(|l| l.source() != gone));
    let row = ledger
        .stats()
        .into_iter()
        .find(|r| r.source == gone)
        .unwrap();
    assert_eq!(row.blocked, 100);
    check(&ledger);
    assert!(sources.resume(gone) && !sources.resume(gone));
    // For the other worker too, whose lists never saw them.
    assert_eq!(take_all(&ledger, 1, 20).len(), 100);
    check(&ledger);
}

#[test]
fn a_barred_address_is_left_alone_at_this_destination_only() {
    let sources = Arc::new(Sources::new(u64::MAX));
    let new = || Ledger::new(&spec(2, 1, 10, 0), 1, &sources, 0).unwrap();
    let (one, other) = (new(), new());
    assert!(one.set_barred(ip(0), true) && !one.set_barred(ip(0), true));
    assert!(!one.set_barred(ip(9), true));
    assert_eq!(take_all(&one, 0, 0).len(), 10);
    assert_eq!(take_all(&other, 0, 0).len(), 20);
    one.set_barred(ip(0), false);
    assert_eq!(take_all(&one, 0, 0).len(), 10);
}

#[test]
fn a_check_may_come_from_a_barred_address() {
    let ledger = ledger(&spec(1, 1, 10, 4), 1);
    ledger.set_barred(ip(0), true);
    assert!(take_all(&ledger, 0, 0).is_empty());
    let check = || ledger.lease(Who::Checks, &mut Attempt::new(), 0);
    let reserve: Vec<_> = std::iter::from_fn(check).collect();
    assert_eq!(reserve.len(), 4);
    for lease in reserve {
        ledger
            .give_back(lease, Who::Checks, Closed::Reset, 0)
            .unwrap();
    }
    self::check(&ledger);
}

#[test]
fn checks_keep_their_reserve() {
    let ledger = ledger(&spec(2, 1, 100, 16), 3);
    let traffic = take_all(&ledger, 1, 0);
    assert_eq!(traffic.len(), 168);
    assert_eq!(ledger.stats()[0].reserved, 16);
    for now_ms in 0..1_000 {
        let lease = ledger
            .lease(Who::Checks, &mut Attempt::new(), now_ms)
            .unwrap();
        // A check's tuple that rests is no session's.
        let row = ledger.stats()[usize::from(lease.source() == ip(1))];
        assert_eq!((row.resting, row.free, row.reserved), (0, 0, 15));
        ledger
            .give_back(lease, Who::Checks, Closed::Reset, now_ms)
            .unwrap();
    }
    let all: Vec<_> =
        std::iter::from_fn(|| ledger.lease(Who::Checks, &mut Attempt::new(), 1_000)).collect();
    assert_eq!(all.len(), 32);
    check(&ledger);
    // Beyond the reserve a check takes what is left, and it goes back to where it came from.
    for lease in traffic {
        give(&ledger, 1, lease, Closed::ServerFirst, 1_000);
    }
    let lease = ledger
        .lease(Who::Checks, &mut Attempt::new(), 1_000)
        .unwrap();
    ledger
        .give_back(lease, Who::Checks, Closed::ServerFirst, 1_000)
        .unwrap();
    check(&ledger);
    assert_eq!(take_all(&ledger, 2, 3_000).len(), 168);
}

#[test]
fn excluded_ports_are_never_leased() {
    let mut spec = spec(3, 100, 120, 4);
    let port = |p| Port::new(p).unwrap();
    spec.excluded = vec![
        (None, port(101)),
        (Some(ip(1)), port(105)),
        (None, port(120)),
        (None, port(5)),
    ];
    let ledger = ledger(&spec, 1);
    check(&ledger);
    let mut leases = take_all(&ledger, 0, 0);
    leases.extend(std::iter::from_fn(|| {
        ledger.lease(Who::Checks, &mut Attempt::new(), 0)
    }));
    assert_eq!(leases.len(), 3 * 21 - 7);
    assert!(!tuples(&leases).contains(&(ip(1), 105)) && tuples(&leases).contains(&(ip(2), 105)));
    assert_eq!(
        ledger.stats().iter().map(|r| r.size).collect::<Vec<_>>(),
        [19, 18, 19]
    );
}

#[test]
fn a_lease_goes_back_to_its_own_ledger_once() {
    let (one, other) = (ledger(&spec(1, 1, 2, 0), 1), ledger(&spec(1, 1, 2, 0), 1));
    let lease = take(&one, 0, 0).unwrap();
    assert_eq!(
        other.give_back(lease, Who::Worker(0), Closed::Reset, 0),
        Err(ForeignLease)
    );
    assert_eq!(one.stats()[0].in_use, 1);
}

#[test]
fn a_dead_worker_is_cleared() {
    let ledger = ledger(&spec(1, 1, 500, 16), 2);
    let held: Vec<_> = (0..100).filter_map(|_| take(&ledger, 0, 0)).collect();
    let _other = take(&ledger, 1, 0);
    assert_eq!(ledger.reclaim(0, 5), 100);
    drop(held);
    check(&ledger);
    let row = ledger.stats()[0];
    assert_eq!((row.in_use, row.time_wait), (1, 100));
}

#[test]
fn a_seed_is_not_leased_before_its_time() {
    let ledger = ledger(&spec(1, 1, 200, 0), 2);
    let seeds: Vec<_> = (1..=150)
        .map(|p| (ip(0), Port::new(p).unwrap(), u64::from(p) * 400))
        .collect();
    assert_eq!(ledger.seed(&seeds, 0), 150);
    assert_eq!(ledger.seed(&seeds, 0), 0);
    check(&ledger);
    assert_eq!(take_all(&ledger, 0, 0).len(), 50);
    let early = take_all(&ledger, 1, 30_200);
    assert!((70..=75).contains(&early.len()) && early.iter().all(|l| l.port().get() <= 75));
    assert_eq!(take_all(&ledger, 0, 60_200).len(), 150 - early.len());
}

#[test]
fn a_reload_keeps_what_is_known() {
    let ledger = ledger(&spec(2, 1, 100, 4), 2);
    let mut leases: Vec<_> = (0..20).filter_map(|_| take(&ledger, 0, 0)).collect();
    let waiting = leases.pop().unwrap();
    let waits = (waiting.source(), waiting.port().get());
    give(&ledger, 0, waiting, Closed::TupleInUse, 0);
    ledger.set_ranges(&spec(3, 6, 200, 16)).unwrap();
    check(&ledger);
    assert_eq!(ledger.stats().iter().map(|r| r.size).sum::<u32>(), 3 * 195);
    // Back to what it was: leases of ports that were out of the range meanwhile are still out.
    ledger.set_ranges(&spec(2, 1, 100, 4)).unwrap();
    check(&ledger);
    let others = take_all(&ledger, 1, 100);
    let taken = tuples(&others);
    assert!(tuples(&leases).is_disjoint(&taken));
    assert_eq!(taken.len(), 192 - 20 + usize::from(waits.1 < 6));
    for lease in leases {
        give(&ledger, 0, lease, Closed::ServerFirst, 100);
    }
    // Out of the range for good: forgotten.
    ledger.set_ranges(&spec(1, 500, 600, 0)).unwrap();
    for lease in others {
        give(&ledger, 1, lease, Closed::ServerFirst, 200);
    }
    assert_eq!(take_all(&ledger, 0, 200).len(), 101);
    assert_eq!(
        ledger.set_ranges(&spec(0, 1, 2, 0)),
        Err(SpecError::NoSource)
    );
}

#[test]
fn refused_specs_say_why() {
    let mut twice = spec(1, 1, 2, 0);
    twice.sources.push(ip(0));
    let registry = Arc::new(Sources::new(0));
    let error = |spec: &Spec| {
        Ledger::new(spec, 1, &registry, 0)
            .err()
            .unwrap()
            .to_string()
    };
    assert_eq!(error(&twice), "source address 10.0.0.0 is listed twice");
    let mut many = spec(1, 1, 65_535, 0);
    many.sources = (0..5_000)
        .map(|n| Ipv4Addr::from(0x0a00_0000 + n).into())
        .collect();
    assert_eq!(
        error(&many),
        "327675000 tuples for one destination are more than 268435456"
    );
}

#[test]
fn memory_follows_use_within_the_budget() {
    let range = PortRange::new(10_001, 26_384).unwrap();
    let registry = Arc::new(Sources::new(64 * 1024));
    let ledger = Ledger::new(&spec(1, 10_001, 26_384, 0), 1, &registry, 0).unwrap();
    assert_eq!(ledger.bytes(), 0);
    let _one = take(&ledger, 0, 0);
    assert_eq!(ledger.bytes(), 32 * 1024);
    assert_eq!(take_all(&ledger, 0, 0).len(), 8_191);
    assert_eq!(ledger.bytes(), 64 * 1024);
    drop(ledger);
    let again = Ledger::new(&spec(1, 10_001, 26_384, 0), 1, &registry, 0).unwrap();
    assert!(take(&again, 0, 0).is_some());
    let bytes = ledger_bytes(4, range, 4);
    assert!((4 * 16_384 * 8..4 * 16_384 * 9).contains(&bytes), "{bytes}");
}

#[test]
fn ticks_never_shorten_a_pause() {
    for ms in 0..500 {
        assert!(super::lists::tick_ms(tick(ms)) <= ms);
        let due = tick(ms) + super::lists::pause(REST_MS);
        let first = (ms..ms + 2_000).find(|&t| tick(t) >= due).unwrap();
        assert!((ms + REST_MS..ms + REST_MS + 129).contains(&first));
    }
}

#[test]
fn a_tuple_goes_back_among_its_age() {
    let ledger = ledger(&spec(1, 1, 10, 0), 1);
    let mut lists = lock(&ledger.shards[0].lists);
    for (position, since) in [(0, 100), (1, 200), (2, 300)] {
        lists.file(Kind::Rested, 0, position, since);
    }
    for (position, since) in [(3, 150), (4, 50), (5, 400), (6, 250)] {
        let kind = Kind::Rested;
        lists.unpop(
            Taken {
                position,
                since,
                kind,
            },
            0,
        );
    }
    lists.file(Kind::Rested, 0, 7, 350);
    let order: Vec<_> = std::iter::from_fn(|| lists.pop(Kind::Rested)).collect();
    let order: Vec<_> = order.iter().map(|t| (t.position, t.since)).collect();
    let expected = [
        (4, 50),
        (0, 100),
        (3, 150),
        (1, 200),
        (6, 250),
        (2, 300),
        (5, 400),
        (7, 400),
    ];
    assert_eq!(order, expected);
}

//! lease + give back: under 50 ns, flat from empty to full, at 1, 4 and 256 source addresses.
//!
//! `cargo bench -p portside-core --bench ports`. Full is one tuple short of it: every lease gets the one left.

#![allow(missing_docs, clippy::semicolon_if_nothing_returned)] // criterion's macros and closures

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use portside_core::ports::{Attempt, Closed, Lease, Ledger, PortRange, Sources, Spec, Who};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// "auto" of the configuration.
const PORTS: (u16, u16) = (12_000, 29_999);

fn ledger(sources: u32, workers: usize) -> Ledger {
    let spec = Spec {
        sources: (0..sources)
            .map(|n| Ipv4Addr::from(0x0a00_0000 + n).into())
            .collect(),
        ports: PortRange::new(PORTS.0, PORTS.1).unwrap(),
        reserve: 16,
        excluded: Vec::new(),
    };
    Ledger::new(&spec, workers, &Arc::new(Sources::new(u64::MAX)), 4_711).unwrap()
}

fn lease(ledger: &Ledger, now_ms: u64) -> Option<Lease> {
    ledger.lease(Who::Worker(0), &mut Attempt::new(), now_ms)
}

fn lease_and_give_back(c: &mut Criterion) {
    for sources in [1_u32, 4, 256] {
        let mut group = c.benchmark_group(format!("lease+give_back/{sources} addresses"));
        let size = sources as usize * (usize::from(PORTS.1 - PORTS.0) + 1 - 16);
        for (name, held) in [
            ("0 %", 0),
            ("50 %", size / 2),
            ("90 %", size / 10 * 9),
            ("99 %", size / 100 * 99),
            ("full", size - 1),
        ] {
            let ledger = ledger(sources, 4);
            let held: Vec<_> = (0..held).map(|_| lease(&ledger, 0).unwrap()).collect();
            let mut count = 0_u64;
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    // 20,000 connections a second on this worker.
                    count += 1;
                    let now_ms = count / 20;
                    let lease = black_box(lease(&ledger, now_ms)).unwrap();
                    ledger.give_back(lease, Who::Worker(0), Closed::ServerFirst, now_ms)
                });
            });
            black_box(held);
        }
        group.finish();
    }
}

/// 1,000 connections open at once, each closed as the oldest: the lists are walked from end to end.
fn with_sessions_open(c: &mut Criterion) {
    for sources in [1_u32, 4, 256] {
        let ledger = ledger(sources, 4);
        let mut open: std::collections::VecDeque<_> =
            (0..1_000).map(|_| lease(&ledger, 0).unwrap()).collect();
        let mut count = 0_u64;
        c.bench_function(&format!("1,000 open/{sources} addresses"), |b| {
            b.iter(|| {
                count += 1;
                let now_ms = count / 20;
                let oldest = open.pop_front().unwrap();
                ledger
                    .give_back(oldest, Who::Worker(0), Closed::ServerFirst, now_ms)
                    .unwrap();
                open.push_back(lease(&ledger, now_ms).unwrap());
            });
        });
    }
}

/// What a refusal costs when the process has nothing left.
fn exhausted(c: &mut Criterion) {
    let ledger = ledger(4, 4);
    let held: Vec<_> = std::iter::from_fn(|| lease(&ledger, 0)).collect();
    c.bench_function("lease with nothing left", |b| {
        b.iter(|| black_box(lease(&ledger, 1).is_none()))
    });
    black_box(held);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = lease_and_give_back, with_sessions_open, exhausted
}
criterion_main!(benches);

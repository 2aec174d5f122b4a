//! Counts of a running load and the report made of them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::dialogue::Failure;
use crate::histogram::Histogram;
use crate::report::{ErrorCount, LoadReport};

/// Everything that is counted while sessions run.
#[derive(Debug, Default)]
pub struct Tally {
    pub sessions_ok: u64,
    pub sessions_failed: u64,
    pub queries_ok: u64,
    pub received_bytes: u64,
    latency: Histogram,
    by_server: HashMap<String, u64>,
    errors: Vec<ErrorCount>,
}

impl Tally {
    /// A session got its last answer after `took`.
    pub fn answered(&mut self, took: Duration, server: Option<&str>) {
        self.sessions_ok += 1;
        self.latency.record(took);
        if let Some(server) = server {
            match self.by_server.get_mut(server) {
                Some(count) => *count += 1,
                None => {
                    self.by_server.insert(server.to_owned(), 1);
                }
            }
        }
    }

    /// A session failed. O(kinds seen).
    pub fn failed(&mut self, failure: Failure) {
        self.sessions_failed += 1;
        let same = |e: &&mut ErrorCount| e.kind == failure.kind && e.errno == failure.errno;
        if let Some(known) = self.errors.iter_mut().find(same) {
            known.count += 1;
        } else {
            self.errors.push(ErrorCount {
                kind: failure.kind,
                errno: failure.errno,
                text: failure.text,
                count: 1,
            });
        }
    }

    /// The figures after `elapsed`, with `open` sessions.
    pub fn report(&self, elapsed: Duration, open: usize, done: bool) -> LoadReport {
        let seconds = elapsed.as_secs_f64();
        let mut errors = self.errors.clone();
        errors.sort_by_key(|error| std::cmp::Reverse(error.count));
        let by_server: BTreeMap<String, u64> = self
            .by_server
            .iter()
            .map(|(server, count)| (server.clone(), *count))
            .collect();
        LoadReport {
            seconds,
            done,
            sessions_ok: self.sessions_ok,
            sessions_failed: self.sessions_failed,
            sessions_open: open as u64,
            queries_ok: self.queries_ok,
            received_bytes: self.received_bytes,
            sessions_per_s: self.sessions_ok as f64 / seconds.max(1e-9),
            p50_us: self.latency.quantile_us(0.5),
            p99_us: self.latency.quantile_us(0.99),
            max_us: self.latency.max_us(),
            by_server,
            errors,
        }
    }
}

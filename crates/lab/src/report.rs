//! What a load has seen: counts, errors with their texts, latency, who answered.

use std::collections::BTreeMap;

use serde::Serialize;

/// A kind of failure, its errno (MySQL's for `server`, the system's for the rest) and how often.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct ErrorCount {
    /// `connect`, `reset`, `eof`, `timeout`, `server` (an ERR packet), `protocol` or `local`.
    pub kind: &'static str,
    /// Number of the error, 0 where there is none.
    pub errno: u32,
    /// Its text, the first one seen of this kind and number.
    pub text: String,
    /// How many sessions ended like this.
    pub count: u64,
}

/// Figures of a load, while it runs or at its end. All durations of sessions are in microseconds,
/// from `connect()` to the last byte of the last answer.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LoadReport {
    /// Seconds since the start.
    pub seconds: f64,
    /// True when no session runs any more.
    pub done: bool,
    /// Sessions that got every answer and said QUIT.
    pub sessions_ok: u64,
    /// Sessions that did not.
    pub sessions_failed: u64,
    /// Sessions running or held now.
    pub sessions_open: u64,
    /// Answers received.
    pub queries_ok: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// `sessions_ok` per second.
    pub sessions_per_s: f64,
    /// Median.
    pub p50_us: u64,
    /// 99 of 100 were faster.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Sessions per answer of the first query (`SELECT @@server_id`); empty unless `identify` is set.
    pub by_server: BTreeMap<String, u64>,
    /// Failures by kind, errno; most frequent first.
    pub errors: Vec<ErrorCount>,
}

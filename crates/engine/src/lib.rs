//! The I/O shell: mio workers, sockets, timers, counters, the session log.
//!
//! It performs what `portside-core` decides and knows no protocol; `unsafe` stands only in `sys`. Flow of
//! one connection: `worker::accept_from` -> `dispatch` -> `relaying::drive` -> `finish`. The public door is
//! [`Engine`]; `crates/py` is its only user.

mod accepting;
mod admission;
mod attempt;
mod checking;
mod closing;
mod dispatch;
mod engine;
mod error;
mod events;
mod finish;
mod listen;
mod log;
mod news;
mod plan;
mod pool;
mod ports;
mod queue;
mod refusal;
mod relaying;
mod report;
mod session;
mod shared;
mod snapshot;
mod socket;
mod source;
mod sys;
mod tls;
mod worker;

pub use checking::CheckLease;
pub use engine::{Criteria, Engine};
pub use error::EngineError;
pub use pool::try_login;
pub use ports::MEMORY_BYTES;
pub use portside_core::ports::{ledger_bytes, PortRange};
pub use report::codes;
pub use sys::has_local_port_range;
pub use tls::{judge_certificate, read_certificate};

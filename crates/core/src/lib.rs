//! Decisions without I/O.
#![forbid(unsafe_code)]
pub mod balance;
pub mod breaker;
pub mod pool;
pub mod ports;
pub mod reason;
pub mod relay;
pub mod sql;

//! Logging in as a client, and the few answers that a MySQL-speaking sink needs.
//!
//! The relay does not use this: it never sees a password. The load generator and the lab's sink do, and pool
//! mode will. [`ClientLogin`] is fed with what the server sends and says what to send; [`server`] builds
//! greeting, OK and a one-row result; [`result`] finds the end of a query's answer.
//!
//! What it must not know: sockets, where a password comes from. Passwords are never part of an error's text.

mod client;
pub mod offer;
pub mod result;
mod scramble;
mod seal;
pub mod server;

pub use client::{Announce, ClientLogin, LoginError, Step, Transport};
pub use scramble::{scramble_native, scramble_sha2};

#[cfg(test)]
mod tests;

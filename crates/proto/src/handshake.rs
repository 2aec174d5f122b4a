//! Logging in as a client, and the few answers that a MySQL-speaking sink needs.
//!
//! The relay does not use this: it never sees a password. Pool mode, the load generator and the lab's sink do.
//! [`ClientLogin`] is fed with what the server sends and says what to send; [`offer`] is the server's part of a
//! login, [`Secret`] what it checks answers with; [`server`] builds greeting, OK and a one-row result; [`result`]
//! finds the end of a query's answer.
//!
//! What it must not know: sockets, where a password comes from. Passwords are never part of an error's text.

mod client;
mod crypt;
mod ed25519;
pub mod offer;
mod plugin;
pub mod result;
mod scramble;
mod seal;
mod secret;
pub mod server;

pub use client::{Announce, ClientLogin, LoginError, Step, Transport};
pub use plugin::Plugin;
pub use scramble::{scramble_native, scramble_sha2};
pub use seal::PasswordKey;
pub use secret::{proves_sha2, Credential, Secret};

#[cfg(test)]
mod tests;

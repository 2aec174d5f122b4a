//! MySQL client/server protocol without I/O.
//!
//! Bytes go in through `feed(&[u8])`, decisions and events come out; the owner of the socket moves the
//! bytes themselves. Nothing here knows sockets, time, randomness, configuration or sessions. The relay
//! uses [`watch`] (client direction), [`login`] (server direction, until login ends), [`err`], [`quit`]
//! and [`refuse_login`]; the load generator and its sink use [`handshake`]; listeners and checks use
//! [`proxy_header`]. [`command`] is the only place in the workspace that holds protocol numbers.
//!
//! Network bytes are never indexed and never unwrapped: the two lints below make that a build failure.
//! Bytes that are relayed are looked at in place and never copied, except for at most a few header bytes
//! that a read happened to split.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

pub mod command;
pub mod err;
pub mod handshake;
pub mod login;
pub mod parameters;
pub mod proxy_header;
pub mod quit;
pub mod reframe;
pub mod refuse_login;
pub mod reply;
pub mod single;
pub mod statement;
pub mod watch;
mod wire;

//! TLS as configured: the PEM texts of a snapshot made ready for handshakes, towards clients and towards servers.
//!
//! rustls does the work; here are its settings, and in [`failure`] what went wrong in words of this project. It must
//! not know sockets (`socket/tls.rs`), and reads no file: texts come with the snapshot, so that a snapshot is good or
//! bad as a whole and a change of eligibility reads no half-written certificate.

mod behind;
mod certificate;
mod failure;
mod front;

pub use behind::judge_certificate;
pub(crate) use behind::Behind;
pub use certificate::read as read_certificate;
pub(crate) use failure::{failure, words};
pub(crate) use front::Front;

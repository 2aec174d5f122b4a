//! Load, sink and bare relay: what Portside is shown, compared and measured with.
//!
//! [`load`] behaves like many PHP requests (connect, log in, ask, QUIT, close), [`sink`] like a very
//! fast server, [`relay`] like a proxy without a single feature: the floor of every comparison. [`line`]
//! is a path with a delay between two network namespaces. Each runs on one thread of its own with one poller and reports through a handle that other threads
//! may read. Nothing here is on Portside's data path, and nothing here knows Portside.

pub mod address;
pub mod histogram;
pub mod line;
pub mod load;
pub mod relay;
pub mod report;
pub mod sink;
pub mod socket;
mod sys;

//! What is asked of a client before a server is chosen: PROXY header, allow and deny, probes, its limit.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use portside_core::reason::Cause;
use portside_proto::err::errno;
use portside_proto::proxy_header::{self, Parsed};

use crate::plan::Service;
use crate::session::{Client, Session};
use crate::sys;
use crate::worker::Worker;

/// A PROXY header must be complete within this time.
const PROXY_HEADER_MS: u64 = 1_000;

impl Worker {
    /// Checks that need no server, then the first attempt.
    pub(crate) fn admit(&mut self, index: usize, session: &mut Session) {
        let service = Arc::clone(&session.service);
        let peer = session.client.ip();
        if service.speaks_proxy(peer) {
            session.proxy_header = Some(Vec::new());
            self.arm(index, session, self.now + PROXY_HEADER_MS);
            return;
        }
        self.admit_client(index, session);
    }

    fn admit_client(&mut self, index: usize, session: &mut Session) {
        let service = Arc::clone(&session.service);
        if let Some(ip) = session.client.ip() {
            if service.is_probe(ip) {
                session.relay.turn_away(Cause::Probe, self.now);
                return;
            }
            if !service.admits(ip) {
                let text = format!("client address {ip} is not allowed here (allow, deny)");
                self.refuse(session, Cause::Denied, errno::HOST_NOT_ALLOWED, &text);
                return;
            }
            if !count_client(&service, session, ip) {
                let text =
                    format!("client address {ip} already has max_connections_per_client sessions");
                self.refuse(session, Cause::Denied, errno::TOO_MANY_FROM_CLIENT, &text);
                return;
            }
        }
        self.dispatch(index, session);
    }

    /// Reads the PROXY header; goes on when it is complete.
    pub(crate) fn read_proxy_header(&mut self, index: usize, session: &mut Session) {
        let (Some(header), Some(socket)) = (
            session.proxy_header.as_mut(),
            session.client_socket.as_mut(),
        ) else {
            return;
        };
        while socket.readable && header.len() < proxy_header::V2_MAX {
            let room = proxy_header::V2_MAX - header.len();
            match sys::recv(socket.fd(), &mut self.scratch[..room]) {
                Ok(0) => {
                    socket.readable = false;
                    session.proxy_header = None;
                    session.relay.client_eof();
                    return;
                }
                Ok(n) => header.extend_from_slice(&self.scratch[..n]),
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => socket.readable = false,
                Err(_) => {
                    session.proxy_header = None;
                    session.relay.client_lost();
                    return;
                }
            }
        }
        match proxy_header::parse(header) {
            Parsed::Incomplete if self.now >= session.times.accepted + PROXY_HEADER_MS => {
                self.bad_proxy_header(session, "no PROXY header within 1 s");
            }
            Parsed::Incomplete => {}
            // A client waits for the greeting, so nothing can follow its header yet.
            Parsed::Done { consumed, .. } if consumed < header.len() => {
                self.bad_proxy_header(session, "bytes behind the PROXY header before the greeting");
            }
            Parsed::Done { source, .. } => {
                session.client = Client::Tcp(sys::canonical(source));
                session.proxy_header = None;
                self.admit_client(index, session);
            }
            // HAProxy's `option mysql-check` sends login and QUIT at once, without having seen the greeting.
            Parsed::Local { consumed }
                if consumed < header.len() && session.service.pool.is_none() =>
            {
                session.early = Some(header[consumed..].into());
                session.proxy_header = None;
                self.admit_client(index, session);
            }
            Parsed::Local { consumed } if consumed < header.len() => {
                self.bad_proxy_header(session, "a check's login before the greeting");
            }
            Parsed::Local { .. } => {
                session.proxy_header = None;
                self.admit_client(index, session);
            }
            Parsed::Error(why) => self.bad_proxy_header(session, &why.to_string()),
        }
    }

    fn bad_proxy_header(&mut self, session: &mut Session, why: &str) {
        session.proxy_header = None;
        let text = match session.client.ip() {
            Some(ip) => format!("{why}; accept_proxy has a network that {ip} is in"),
            None => why.to_owned(),
        };
        self.refuse(session, Cause::BadProxyHeader, errno::BAD_HANDSHAKE, &text);
    }
}

fn count_client(service: &Service, session: &mut Session, ip: IpAddr) -> bool {
    let Some(max) = service.max_per_client else {
        return true;
    };
    let mut clients = service
        .state
        .clients
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let count = clients.entry(ip).or_insert(0);
    if *count >= max {
        return false;
    }
    *count += 1;
    session.counted_client = Some(ip);
    true
}

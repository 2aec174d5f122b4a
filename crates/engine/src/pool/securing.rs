//! TLS of pooled connections: when it begins, and what became of the handshake.
//!
//! `socket/tls.rs` seals and opens; here the outcome is counted and gets its words.

use std::sync::Arc;

use portside_core::pool::{Event, Failure, Tls};
use portside_core::reason::{Cause, TlsFailure};

use super::{Back, Pooled};
use crate::plan::Service;
use crate::session::Session;
use crate::shared::Peer;
use crate::tls::{failure, words};
use crate::worker::{token, Worker};

impl Service {
    /// What a greeting says of TLS.
    pub(super) fn offers(&self) -> Tls {
        match self.tls.as_ref() {
            None => Tls::No,
            Some(tls) if tls.is_required() => Tls::Required,
            Some(_) => Tls::Offered,
        }
    }
}

impl Worker {
    /// A client asked for TLS: everything in `input` from `at` on is sealed, and what comes out of it takes its place.
    pub(super) fn secure_client(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &mut Vec<u8>,
        at: usize,
    ) -> Option<Cause> {
        let wire = input.split_off(at);
        input.clear();
        // The certificate of now, unless the service has none any more.
        let now = self.plan.service(&session.service.name);
        let tls = now.and_then(|service| service.tls.as_ref());
        let tls = tls.or(session.service.tls.as_ref()).map(Arc::clone);
        let (Some(tls), Some(client)) = (tls, session.client_socket.as_mut()) else {
            return Some(Cause::Internal);
        };
        match tls.accept() {
            Ok(connection) => client.start_tls(connection.into()),
            Err(error) => {
                session.error = Some(format!("TLS: {error}").into());
                return Some(Cause::Internal);
            }
        }
        client.take_sealed(&wire, &mut self.scratch, input);
        self.client_tls_news(index, session, pooled)
    }

    /// After every read: answers of the handshake that are stuck are watched, its outcome is noted. Some: it failed.
    pub(super) fn client_tls_news(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
    ) -> Option<Cause> {
        let client = session.client_socket.as_mut()?;
        if !client.tail.is_empty() {
            let token = token(index, session.generation, false);
            self.watch(client, token, true);
        }
        match client.tls_news("the client")? {
            Ok(()) => {
                pooled.tls = client.tls_agreed();
                self.shared.outcomes.count_tls(Peer::Client, None);
                None
            }
            Err((why, text)) => {
                self.shared.outcomes.count_tls(Peer::Client, Some(why));
                session.error = Some(format!("TLS: {text}").into());
                Some(Cause::TlsFailed)
            }
        }
    }

    /// The session is over: a handshake that never came to an end is counted, a client that still listens is told that
    /// nothing more will come.
    pub(super) fn end_client_tls(&mut self, session: &mut Session, cause: Cause) {
        let Some(client) = session.client_socket.as_mut() else {
            return;
        };
        let why = match cause {
            Cause::LoginTimeout => TlsFailure::Timeout,
            Cause::TlsFailed => return,
            _ => TlsFailure::Left,
        };
        if client.is_shaking_hands() {
            self.shared.outcomes.count_tls(Peer::Client, Some(why));
            if session.error.is_none() {
                session.error = Some("TLS: the client did not finish the handshake".into());
            }
        } else if !matches!(cause, Cause::Quit | Cause::ClientReset) && !client.fin_queued {
            client.end_tls();
        }
    }

    /// After every read of a login: the outcome of the handshake is counted, and with a server that is to be trusted
    /// the login begins. An error: it failed; with the words for it.
    pub(super) fn server_tls_news(&mut self, back: &mut Back) -> Result<(), String> {
        let outcomes = &self.shared.outcomes;
        match back.socket.tls_news("the server") {
            None => {}
            Some(Ok(())) => {
                let verdict = judge(back);
                let why = verdict.as_ref().err().map(failure);
                outcomes.count_tls(Peer::Server, why);
                let verdict = verdict.map_err(|error| words(&error, "the server"));
                if let Event::Send(login) = back.conn.within_tls(verdict) {
                    back.say(&login);
                }
            }
            Some(Err((why, text))) => {
                outcomes.count_tls(Peer::Server, Some(why));
                return Err(format!("TLS: {text}"));
            }
        }
        Ok(())
    }

    /// A login was given up before the handshake was over.
    pub(super) fn count_unfinished(&mut self, back: &Back, why: TlsFailure) {
        if back.socket.is_shaking_hands() {
            self.shared.outcomes.count_tls(Peer::Server, Some(why));
        }
    }
}

/// Whether the server's certificate is good enough for our password.
fn judge(back: &Back) -> Result<(), rustls::Error> {
    let server = back.server();
    let tls = server.and_then(|server| server.tls.as_ref().map(|tls| (server, tls)));
    let Some((server, tls)) = tls else {
        return Err(rustls::Error::General(
            "TLS that is not configured".to_owned(),
        ));
    };
    let to = server.destinations[back.destination].addr.as_socket();
    tls.judge(back.socket.tls_chain(), to.map(|addr| addr.ip()))
}

/// The server has agreed to TLS: the request goes out as it is, everything behind it sealed.
pub(super) fn secure_server(back: &mut Back, request: &[u8]) -> Result<(), Event> {
    if back.socket.push(request).is_err() {
        back.socket.readable = true;
    }
    let server = back.server().map(Arc::clone);
    let tls = server.as_ref().and_then(|server| server.tls.as_ref());
    let broken = |text: String| Event::Failed(Failure::Broken(text));
    let Some((server, tls)) = server.as_ref().zip(tls) else {
        return Err(broken("TLS that is not configured".to_owned()));
    };
    let to = server.destinations[back.destination].addr.as_socket();
    let connection = tls.connect(to.map(|addr| addr.ip()));
    let connection = connection.map_err(|e| broken(format!("TLS: {e}")))?;
    back.socket.start_tls(connection.into());
    Ok(())
}

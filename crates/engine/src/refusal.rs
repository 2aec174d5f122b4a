//! Saying no: one ERR packet in place of a greeting, with service, server, cause and where to look.

use portside_core::reason::Cause;
use portside_proto::err::{errno, greeting_err};

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use crate::plan::Service;
use crate::session::Session;
use crate::worker::Worker;

impl Worker {
    pub(crate) fn refuse_last(&mut self, session: &mut Session, cause: Cause) {
        if let Some((number, message)) = session.refusal.take() {
            self.refuse_with(session, Cause::Refused, number, &message);
            return;
        }
        let text = session
            .error
            .take()
            .unwrap_or_else(|| "connect failed".into());
        let number = match cause {
            Cause::NoSource | Cause::LocalResource => errno::OUT_OF_RESOURCES,
            _ => errno::NO_SERVER,
        };
        let text = match cause {
            Cause::NoSource | Cause::LocalResource => {
                format!("{text}. Not the database. On the proxy: portside show ports")
            }
            _ => format!("{text}. On the proxy: portside show servers"),
        };
        self.refuse(session, cause, number, &text);
    }

    /// Answers the client with an ERR packet in place of a greeting; the only way to say no.
    pub(crate) fn refuse(&mut self, session: &mut Session, cause: Cause, number: u16, text: &str) {
        let text = format!("portside: service {}: {text}", session.service.name);
        self.refuse_with(session, cause, number, &text);
    }

    /// The same with a text that is passed on as it is (a server's own ERR).
    pub(crate) fn refuse_with(
        &mut self,
        session: &mut Session,
        cause: Cause,
        number: u16,
        text: &str,
    ) {
        session.service.state.refused.fetch_add(1, Relaxed);
        session.error = Some(text.into());
        session.holds_greeting = false;
        session.relay.refuse(cause, self.now);
        if let Some(socket) = session.client_socket.as_mut() {
            socket.tail = greeting_err(number, text);
        }
        crate::relaying::flush_client(session);
    }
}

/// Why no server took the session, server by server, in words.
pub(crate) fn no_server_text(service: &Service, now: u64) -> String {
    if service.members.is_empty() {
        return "it has no servers".to_owned();
    }
    let mut text = String::from("no eligible server:");
    for (member, balance) in service.members.iter().zip(&service.balance) {
        let why = if !balance.eligible {
            if member.why.is_empty() {
                "not eligible"
            } else {
                &member.why
            }
        } else if balance.weight() == 0 {
            "weight 0 (drained)"
        } else if !member.server.state.breaker.state().would_pass(now) {
            "three connect failures in a row"
        } else {
            "not usable"
        };
        let _ = write!(text, " {} ({why})", member.server.name);
    }
    text.push_str(". On the proxy: portside show servers");
    text
}

//! A client's login, and its change of user: who may come in.
//!
//! The engine decides about limits and brings a connection to confirm a schema; the rest is decided here.

use std::sync::Arc;

use portside_proto::command::{capability, status};
use portside_proto::err::errno;
use portside_proto::handshake::offer::{self, Login, Plugin};
use portside_proto::single::err;

use super::{Class, Context, Phase, Session, Step, User};
use crate::pool::Tls;
use crate::reason::Cause;
use crate::sql::Pins;

/// What is only needed while logging in.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) name: Vec<u8>,
    pub(super) user: Option<Arc<User>>,
    pub(super) schema: Option<Box<[u8]>>,
    pub(super) collation: u8,
    /// Of the packet to send next.
    pub(super) sequence: u8,
}

impl Session {
    pub(super) fn login(&mut self, sequence: u8, payload: &[u8], context: &Context<'_>) -> Step {
        let next = sequence.wrapping_add(1);
        let is_offered = self.offered & u64::from(capability::SSL) != 0;
        if offer::is_tls_request(payload) && is_offered && !self.has_tls {
            self.has_tls = true;
            self.channel.is_secure = true;
            return Step::StartTls;
        }
        let Some(login) = Login::parse(payload) else {
            return self.malformed("a login that is not of the 4.1 protocol", next);
        };
        if login.capabilities & u64::from(capability::SSL) != 0 && !self.has_tls {
            return self.malformed("a request for TLS, which was not offered", next);
        }
        if self.channel.tls == Tls::Required && !self.channel.is_secure {
            let text =
                "portside: this service takes connections with TLS only ([tls] required); use \
                        --ssl-mode=REQUIRED";
            let number = errno::SECURE_TRANSPORT_REQUIRED;
            return Step::End(Cause::LoginDenied, err(next, number, *b"HY000", text));
        }
        self.capabilities = login.capabilities & self.offered;
        self.class = Class::of_login(login.capabilities, login.collation, self.offered);
        self.prove(&login, next, context)
    }

    /// Checks the answer that came with the login, or asks for one of a method that is known here.
    pub(super) fn prove(&mut self, login: &Login<'_>, sequence: u8, context: &Context<'_>) -> Step {
        let user = (context.find)(login.user);
        let schema = login.schema.or_else(|| {
            let default = user.as_ref()?.schema.as_ref()?;
            Some(default.as_bytes())
        });
        self.pending = Some(Box::new(Pending {
            name: login.user.to_vec(),
            schema: schema.map(Into::into),
            user,
            collation: login.collation,
            sequence,
        }));
        match Plugin::from_name(login.plugin) {
            // A change of user answers to a salt that was used already. A client that prefers another method than
            // the greeting's has no salt for it, and answers with nothing (libmysql).
            Some(plugin) if self.user.is_none() && plugin == self.plugin => {
                self.check(plugin, login.answer, context)
            }
            known => {
                let plugin = known.unwrap_or(Plugin::Native);
                self.salt = (context.salt)();
                self.phase = Phase::Switch(plugin);
                Step::Say(offer::switch(sequence, plugin, &self.salt))
            }
        }
    }

    pub(super) fn switched(
        &mut self,
        plugin: Plugin,
        sequence: u8,
        answer: &[u8],
        context: &Context<'_>,
    ) -> Step {
        if let Some(pending) = self.pending.as_mut() {
            pending.sequence = sequence.wrapping_add(1);
        }
        self.check(plugin, answer, context)
    }

    pub(super) fn check(&mut self, plugin: Plugin, answer: &[u8], context: &Context<'_>) -> Step {
        let Some(pending) = self.pending.as_mut() else {
            return self.malformed("an answer that was not asked for", 1);
        };
        if context.is_limited {
            let text = "portside: too many failed logins from this address; wait a minute";
            return Step::Denied(err(pending.sequence, errno::ACCESS_DENIED, *b"28000", text));
        }
        // An unknown user costs the same hashes, and gets the same text.
        let password = pending.user.as_ref().map_or("?", |u| u.password.as_str());
        let proves = offer::proves(plugin, password.as_bytes(), &self.salt, answer);
        if !proves || pending.user.is_none() {
            let using = if answer.is_empty() { "NO" } else { "YES" };
            let name = String::from_utf8_lossy(&pending.name);
            let text = format!(
                "Access denied for user '{name}'@'{}' (using password: {using})",
                context.client
            );
            return Step::Denied(err(
                pending.sequence,
                errno::ACCESS_DENIED,
                *b"28000",
                &text,
            ));
        }
        self.phase = Phase::Admission;
        if plugin == Plugin::Sha2 && !answer.is_empty() {
            let sequence = pending.sequence;
            pending.sequence = sequence.wrapping_add(1);
            return Step::Say(offer::fast_auth_ok(sequence));
        }
        Step::Admit
    }

    /// Whether the engine is to decide about the user's limit now.
    pub fn awaits_admission(&self) -> bool {
        self.phase == Phase::Admission
    }

    /// The user may have one more session. Bytes for the client, or none: then a schema is to be confirmed.
    pub fn admitted(&mut self) -> Vec<u8> {
        if self.pending.as_ref().is_some_and(|p| p.schema.is_some()) {
            self.phase = Phase::Schema;
            return Vec::new();
        }
        self.logged_in()
    }

    /// The user may not: what the client is told. The session is over.
    pub fn turned_away(&mut self, number: u16, text: &str) -> Vec<u8> {
        let sequence = self.pending.as_ref().map_or(1, |p| p.sequence);
        err(sequence, number, *b"42000", text)
    }

    pub(super) fn logged_in(&mut self) -> Vec<u8> {
        self.phase = Phase::Command;
        let Some(pending) = self.pending.take() else {
            return Vec::new();
        };
        if self.user.is_some() {
            // COM_CHANGE_USER.
            self.forget();
            if pending.collation != 0 {
                self.class.collation = pending.collation;
            }
        }
        self.user = pending.user;
        self.schema = pending.schema;
        offer::ok(pending.sequence, self.status)
    }

    /// Back to the state of a fresh session; a connection that is attached keeps the traces.
    pub(super) fn forget(&mut self) {
        self.left = self.left.max(self.leaves());
        self.pins = Pins::NONE;
        self.statements.clear();
        self.settings.clear();
        self.status = status::AUTOCOMMIT;
        self.last = None;
        self.knows_found_rows = false;
        self.has_forgotten = false;
    }

    /// A connection with the schema was found: the login is answered.
    pub(super) fn confirmed(&mut self, is_attached: bool) -> Step {
        if !is_attached {
            return Step::Attach;
        }
        Step::Say(self.logged_in())
    }
}

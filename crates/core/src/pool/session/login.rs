//! A client's login, and its change of user: who may come in.
//!
//! An account's secret decides the method, as on a server; where the password itself is known the client chooses.
//! An unknown user is checked against another account, and refused whatever comes of it: every packet, its text
//! and its time are those of a wrong password. The engine decides about limits and brings a connection to confirm
//! a schema; the rest is decided here.

use std::sync::Arc;

use portside_proto::command::{capability, com, status};
use portside_proto::err::errno;
use portside_proto::handshake::offer::{self, Login};
use portside_proto::handshake::{proves_sha2, Plugin, Secret};
use portside_proto::single::err;

use super::answering::{collation_too_high, unknown};
use super::{Class, Context, Phase, Session, Step, User};
use crate::pool::Tls;
use crate::reason::Cause;
use crate::sql::Pins;

/// Characters of a client's `program_name` that are kept.
const PROGRAM_MAX: usize = 64;
/// MariaDB takes no more changes of user after as many failures (`sql/sql_parse.cc`, `failed_com_change_user`).
const FAILED_CHANGES_MAX: u8 = 3;

/// What is only needed while logging in.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) name: Box<[u8]>,
    /// The account, or the one that stands in for an unknown one.
    pub(super) user: Arc<User>,
    /// Nobody of this name may come in from here.
    pub(super) is_unknown: bool,
    pub(super) schema: Option<Box<[u8]>>,
    pub(super) collation: u8,
    /// Of the packet to send next.
    pub(super) sequence: u8,
}

const TOO_MANY_FAILED: &str =
    "portside: too many failed logins with this name from this address; one more is looked at each second";

/// What is thought of an answer.
enum Proof {
    Right,
    Wrong,
    /// The fast exchange needs the password, and only a slow hash is known.
    NeedsPassword,
    /// It is not this session's turn for a slow hash.
    Later,
}

impl From<bool> for Proof {
    fn from(is_right: bool) -> Self {
        if is_right {
            Self::Right
        } else {
            Self::Wrong
        }
    }
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
                        --ssl-mode=REQUIRED (MariaDB's client: --ssl)";
            let number = errno::SECURE_TRANSPORT_REQUIRED;
            return Step::End(Cause::LoginDenied, err(next, number, *b"HY000", text));
        }
        self.capabilities = login.capabilities & self.offered;
        self.class = Class::of_login(login.capabilities, login.collation as u8, self.offered)
            .of_family(self.is_mariadb);
        self.prove(&login, next, context)
    }

    /// `COM_CHANGE_USER`.
    pub(super) fn change_user(&mut self, argument: &[u8], context: &Context<'_>) -> Step {
        let Some(login) = Login::parse_change(argument, self.capabilities) else {
            return self.malformed("a malformed change of user", 1);
        };
        if self.failed_changes >= FAILED_CHANGES_MAX {
            return Step::Say(unknown(com::CHANGE_USER));
        }
        self.commands += 1;
        if login.collation > u16::from(u8::MAX) {
            return Step::Say(collation_too_high(login.collation));
        }
        self.prove(&login, 1, context)
    }

    /// Checks the answer that came with the login, or asks for one of a method that is known here.
    fn prove(&mut self, login: &Login<'_>, sequence: u8, context: &Context<'_>) -> Step {
        let Some((user, is_unknown)) = (context.find)(login.user) else {
            return self.malformed("a login to a service without accounts", sequence);
        };
        let announced = Plugin::from_name(login.plugin)
            .filter(|plugin| *plugin != Plugin::Clear || self.channel.is_secure);
        let plugin = match (announced, user.secret.plugin()) {
            (Some(Plugin::Clear), _) => Plugin::Clear,
            (_, Some(own)) => own,
            (announced, None) => announced.unwrap_or(self.plugin),
        };
        let default = user.schema.as_ref().map(String::as_bytes);
        self.pending = Some(Box::new(Pending {
            name: login.user.into(),
            schema: login.schema.or(default).map(Into::into),
            is_unknown,
            collation: login.collation as u8,
            sequence,
            user,
        }));
        self.program = printable(login.program);
        // A change of user answers to a salt that was used already. A client that prefers another method than
        // the greeting's has no salt for it, and answers with nothing (libmysql).
        let has_plugins = self.capabilities & u64::from(capability::PLUGIN_AUTH) != 0;
        let is_answered = announced == Some(plugin)
            && match plugin {
                Plugin::Clear => !login.answer.is_empty(),
                _ => self.user.is_none() && (plugin == self.plugin || !has_plugins),
            };
        if is_answered {
            return self.check(plugin, login.answer, context);
        }
        if !has_plugins {
            let text = "portside: this client knows no other method than mysql_native_password, and the account has \
                        another; a newer client does";
            let bytes = err(sequence, errno::NOT_SUPPORTED_AUTH_MODE, *b"08004", text);
            return Step::Denied(bytes, self.login_name().into());
        }
        self.nonce = (context.nonce)();
        self.phase = Phase::Switch(plugin);
        Step::Say(offer::switch(sequence, plugin, &self.nonce))
    }

    pub(super) fn switched(
        &mut self,
        plugin: Plugin,
        sequence: u8,
        answer: &[u8],
        context: &Context<'_>,
    ) -> Step {
        self.follow_sequence(sequence);
        self.check(plugin, answer, context)
    }

    fn follow_sequence(&mut self, sequence: u8) {
        if let Some(pending) = self.pending.as_mut() {
            pending.sequence = sequence.wrapping_add(1);
        }
    }

    fn check(&mut self, plugin: Plugin, answer: &[u8], context: &Context<'_>) -> Step {
        let Some(pending) = self.pending.as_ref() else {
            return self.malformed("an answer that was not asked for", 1);
        };
        if (context.is_limited)(&pending.name) {
            return self.deny(TOO_MANY_FAILED);
        }
        let user = &pending.user;
        let proof = match plugin {
            Plugin::Native => match user.secret.proves_native(self.salt(), answer) {
                Some(once) => {
                    if !pending.is_unknown && matches!(user.secret, Secret::Native(_)) {
                        user.learn_sha1(once);
                    }
                    Proof::Right
                }
                None => Proof::Wrong,
            },
            Plugin::Sha2 => match user.password() {
                Some(password) => proves_sha2(password, self.salt(), answer).into(),
                None if answer.is_empty() || answer == [0] => Proof::Wrong,
                None => Proof::NeedsPassword,
            },
            Plugin::Ed25519 => user.secret.proves_ed25519(&self.nonce, answer).into(),
            Plugin::Clear => {
                let password = answer.strip_suffix(&[0]).unwrap_or(answer);
                self.is_password(password, context)
            }
        };
        let is_empty = answer.is_empty() || answer == [0];
        let is_fast = plugin == Plugin::Sha2 && !is_empty;
        self.judged(&proof, is_empty, is_fast, context)
    }

    /// A client was asked for its password; it asks for the key first if nothing else hides it.
    pub(super) fn told(
        &mut self,
        has_asked: bool,
        sequence: u8,
        payload: &[u8],
        context: &Context<'_>,
    ) -> Step {
        self.follow_sequence(sequence);
        let next = sequence.wrapping_add(1);
        if (context.is_limited)(self.login_name()) {
            return self.deny(TOO_MANY_FAILED);
        }
        let proof = match (self.channel.is_secure, payload) {
            (true, [password @ .., 0]) => self.is_password(password, context),
            (true, _) => Proof::Wrong,
            (false, [offer::KEY_REQUEST]) => {
                return match context.public_key.filter(|_| !has_asked) {
                    Some(pem) => {
                        self.phase = Phase::Password { has_asked: true };
                        Step::Say(offer::public_key(next, pem))
                    }
                    None => self.malformed("a request for a key that is not there", next),
                };
            }
            // Opening it takes as long as a slow hash.
            (false, _) if !(context.may_hash)() => Proof::Later,
            (false, sealed) => {
                let password = (context.open)(sealed, self.salt());
                self.is_password(&password, context)
            }
        };
        self.judged(&proof, false, false, context)
    }

    /// Whether this is the password of the account at hand; then it is known from now on.
    fn is_password(&self, password: &[u8], context: &Context<'_>) -> Proof {
        let Some(pending) = self.pending.as_ref() else {
            return Proof::Wrong;
        };
        let user = &pending.user;
        if let Some(known) = user.password() {
            return Secret::Password(Arc::clone(known))
                .is_password(password)
                .into();
        }
        if user.secret.is_slow() && !(context.may_hash)() {
            return Proof::Later;
        }
        let is_right = user.secret.is_password(password);
        if is_right && !pending.is_unknown {
            user.learn_password(password);
        }
        is_right.into()
    }

    fn judged(
        &mut self,
        proof: &Proof,
        is_empty: bool,
        is_fast: bool,
        context: &Context<'_>,
    ) -> Step {
        let Some(pending) = self.pending.as_mut() else {
            return Step::More;
        };
        let sequence = pending.sequence;
        match proof {
            Proof::Later => Step::Later,
            Proof::NeedsPassword => {
                self.phase = Phase::Password { has_asked: false };
                Step::Say(offer::full_auth(sequence))
            }
            Proof::Right if !pending.is_unknown => {
                self.phase = Phase::Admission;
                if is_fast {
                    pending.sequence = sequence.wrapping_add(1);
                    return Step::Say(offer::fast_auth_ok(sequence));
                }
                Step::Admit
            }
            Proof::Right | Proof::Wrong => {
                let text = format!(
                    "Access denied for user '{}'@'{}' (using password: {})",
                    String::from_utf8_lossy(&pending.name),
                    context.client,
                    if is_empty { "NO" } else { "YES" }
                );
                self.deny(&text)
            }
        }
    }

    /// Refuses the login. A change of user that failed ends a MySQL connection; a MariaDB one goes on as its old
    /// user's, as fresh as after a reset (tried on MySQL 9.7 and MariaDB 10.11).
    fn deny(&mut self, text: &str) -> Step {
        let sequence = self.pending.as_ref().map_or(1, |p| p.sequence);
        let bytes = err(sequence, errno::ACCESS_DENIED, *b"28000", text);
        let name = self.login_name().into();
        if self.user.is_none() || !self.is_mariadb {
            return Step::Denied(bytes, name);
        }
        self.pending = None;
        self.phase = Phase::Command;
        self.failed_changes += 1;
        self.forget();
        Step::Refused(bytes, name)
    }

    /// The line of those that wait for a slow hash is full: what the client is told. The session is over.
    pub fn too_busy(&self) -> Vec<u8> {
        let sequence = self.pending.as_ref().map_or(1, |p| p.sequence);
        let text = "portside: too many first logins with stored password hashes at once; try again";
        err(sequence, errno::TOO_MANY_CONNECTIONS, *b"08004", text)
    }

    fn salt(&self) -> &[u8; 20] {
        self.nonce.first_chunk().unwrap_or(&[0; 20])
    }

    /// The name that it logs in with, or has logged in with; empty before.
    pub fn login_name(&self) -> &[u8] {
        match (&self.pending, &self.user) {
            (Some(pending), _) => &pending.name,
            (None, Some(user)) => user.name.as_bytes(),
            (None, None) => &[],
        }
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
            self.failed_changes = 0;
            if pending.collation != 0 {
                self.class.collation = pending.collation;
            }
        }
        self.user = Some(pending.user);
        self.schema = pending.schema;
        match self.schema.as_deref() {
            Some(schema) if self.class.has(capability::SESSION_TRACK) => {
                offer::ok_with_schema(pending.sequence, self.status, schema)
            }
            _ => offer::ok(pending.sequence, self.status),
        }
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

/// A client's word for itself, as one short line. None: it has none.
fn printable(name: &[u8]) -> Option<Box<str>> {
    let text = String::from_utf8_lossy(name);
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(PROGRAM_MAX)
        .collect();
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests;

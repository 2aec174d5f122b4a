//! Pool mode as state machines without sockets: clients and server connections that are brought together for
//! one command, one transaction, or for as long as a state binds them.
//!
//! [`Session`] is a client: it greets, checks the password, reads commands, answers what needs no server, and
//! says when it needs a connection and when not any more. [`Conn`] is a server connection: it logs in, learns
//! its starting state, takes on a session's settings and schema, follows replies to their end, and knows what
//! traces are left on it. The engine owns sockets, chooses connections, and moves the bytes of commands and
//! replies between the two without keeping them. What stands here must not know: descriptors, addresses of
//! servers, clocks, where random bytes come from.
//!
//! The rule is "never a wrong answer; when in doubt, pin" (docs/pooling.md). `crate::sql` reads the statements.

mod conn;
mod guard;
mod server;
mod session;
mod settings;
mod statements;
#[cfg(test)]
mod tests;
mod user;
mod version;

pub use conn::{AskedLimits, Conn, Event, Failure, Limits};
pub use guard::FailedLogins;
pub use server::Server;
pub use session::{Context, Needs, Session, Step};
pub use settings::Settings;
pub use statements::OnServer;
pub use user::{Learnt, User};

use portside_proto::command::{capability, extended};
pub use portside_proto::handshake::Transport;

/// Flags that a client may choose and that its server connections then have as well, bit by bit. Not MariaDB's
/// CACHE_METADATA: its servers remember what was sent on which connection (docs/pooling.md).
pub const CHOICE: u64 = (capability::FOUND_ROWS
    | capability::LONG_FLAG
    | capability::NO_SCHEMA
    | capability::ODBC
    | capability::IGNORE_SPACE
    | capability::INTERACTIVE
    | capability::TRANSACTIONS
    | capability::MULTI_STATEMENTS
    | capability::MULTI_RESULTS
    | capability::PS_MULTI_RESULTS
    | capability::SESSION_TRACK
    | capability::DEPRECATE_EOF
    | capability::OPTIONAL_RESULTSET_METADATA
    | capability::QUERY_ATTRIBUTES) as u64
    | extended::PROGRESS
    | extended::BULK
    | extended::METADATA
    | extended::BULK_UNIT_RESULTS;

/// Flags of the login itself: Portside's own on both sides.
pub const LOGIN: u64 = (capability::LONG_PASSWORD
    | capability::CONNECT_WITH_DB
    | capability::PROTOCOL_41
    | capability::SECURE_CONNECTION
    | capability::PLUGIN_AUTH
    | capability::CONNECT_ATTRS
    | capability::PLUGIN_AUTH_LENENC_DATA) as u64;

/// Flags whose replies are never translated: with the changes of a session that only an OK in place of an EOF tells of,
/// with packets of the client or of progress in their middle.
const UNTRANSLATED: u64 =
    (capability::SESSION_TRACK | capability::LOCAL_FILES) as u64 | extended::PROGRESS;

/// What two clients must have in common to share a connection: flags and collation of their logins; but see
/// [`Class::is_near`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Class {
    /// Of [`CHOICE`], and LOCAL_FILES where the service allows it.
    pub capabilities: u64,
    /// The collation's number.
    pub collation: u8,
    /// The family that the greeting named: the other one answers differently. None: any.
    pub is_mariadb: Option<bool>,
}

impl Class {
    /// Whether its connections have this flag.
    pub fn has(self, flag: u32) -> bool {
        self.capabilities & u64::from(flag) != 0
    }

    /// Whether some replies can be translated from one to the other: they differ in nothing but `DEPRECATE_EOF`.
    pub fn is_near(self, other: Self) -> bool {
        let eof = u64::from(capability::DEPRECATE_EOF);
        let turned = Self {
            capabilities: self.capabilities ^ eof,
            ..self
        };
        turned == other && self.capabilities & UNTRANSLATED == 0
    }

    /// The class of a login to a service that offers `offered`.
    pub fn of_login(capabilities: u64, collation: u8, offered: u64) -> Self {
        Self {
            capabilities: capabilities & offered & (CHOICE | u64::from(capability::LOCAL_FILES)),
            collation,
            is_mariadb: None,
        }
    }

    /// The same class on servers of one family.
    #[must_use]
    pub fn of_family(self, is_mariadb: bool) -> Self {
        Self {
            is_mariadb: Some(is_mariadb),
            ..self
        }
    }

    /// Whether a server of these flags and this family can have connections of this class.
    pub fn fits(self, server: u64, is_mariadb: bool) -> bool {
        self.capabilities & !server == 0 && self.is_mariadb.is_none_or(|one| one == is_mariadb)
    }
}

/// What a client's connection is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Nobody else can read it: a unix socket; TLS, once it has begun.
    pub is_secure: bool,
    /// What the greeting says of TLS.
    pub tls: Tls,
    /// Its files may be loaded (LOAD DATA LOCAL).
    pub local_infile: bool,
}

impl Channel {
    /// TCP without TLS.
    pub const PLAIN: Self = Self {
        is_secure: false,
        tls: Tls::No,
        local_infile: false,
    };
}

/// Whether clients may use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// There is no certificate.
    No,
    /// As they like.
    Offered,
    /// They must, but for those whose channel is secure already.
    Required,
}

/// What a service offers whose servers have these flags in common.
fn offered(common: u64, channel: Channel) -> u64 {
    let files = u64::from(capability::LOCAL_FILES) * u64::from(channel.local_infile);
    let tls = match channel.tls {
        Tls::No => 0,
        Tls::Offered | Tls::Required => u64::from(capability::SSL),
    };
    let offered = common & (CHOICE | files) | LOGIN | tls;
    if offered >> 32 == 0 {
        return offered;
    }
    // As MariaDB says that the reserved bytes are flags.
    offered & !u64::from(capability::LONG_PASSWORD)
}

/// What a session leaves on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// Nothing that others could notice.
    #[default]
    Nothing,
    /// Something that a reset removes.
    Traces,
    /// Perhaps something that a reset does not remove: the connection is of no more use.
    Doubt,
}

/// The connection on which a statement was prepared or executed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// Its name.
    pub id: u64,
    /// No other will do.
    pub is_needed: bool,
}

/// What a session needs of a connection for its next command.
#[derive(Clone, Debug, Default)]
pub struct Want<'a> {
    /// Its schema.
    pub schema: Option<&'a [u8]>,
    /// Its settings.
    pub settings: Option<&'a Settings>,
    /// The SET at hand, which is to be replayed from then on: a connection that has run it already, last, is as good.
    pub set: Option<&'a [u8]>,
    /// The command at hand is a USE: the schema before does not matter, and may be gone.
    pub any_schema: bool,
    /// It will ask for warnings, and has none.
    pub no_diagnostics: bool,
    /// It will ask for the last statement's numbers: only this connection, at this count of uses, knows them.
    pub same: Option<(u64, u64)>,
    /// It may ask for them where Portside cannot read it (a procedure): rather this connection, if nobody used it since.
    pub rather: Option<(u64, u64)>,
    /// The prepared statements.
    pub needs: Needs<'a>,
    /// Where its statement is already.
    pub home: Option<Home>,
    /// It is a read, or a login's choice of a schema: its reply can be translated, and nothing of it binds for long.
    pub only_reads: bool,
}

impl Want<'_> {
    /// Whether more than schema and settings is wanted.
    fn is_more(&self) -> bool {
        self.no_diagnostics || self.needs.iter().next().is_some()
    }
}

/// What came of a KILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// It is under way.
    Yes,
    /// Portside gave no such id, or the session is over.
    Unknown,
    /// It is another account's session.
    NotOwner,
}

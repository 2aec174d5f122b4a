//! Why a connection is of no use, what a failed login is to the pool, and what to do about it.

use portside_proto::err::errno;
use portside_proto::handshake::LoginError;
use portside_proto::single::ServerError;

use super::super::Server;

/// Why a connection cannot be used for what it was wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An ERR in place of the greeting, or one that says that there is no place for one more.
    Refused {
        /// Error number.
        errno: u16,
        /// The server's text.
        message: String,
    },
    /// Not a MySQL server, or one that broke the protocol.
    Broken(String),
    /// The account was refused, or its authentication is not supported.
    Denied(String),
    /// TLS is a must and the server does not offer it.
    NoTls(String),
    /// TLS was begun, and the server's certificate is not one to trust.
    Untrusted(String),
    /// As `Denied`, by ourselves: write these bytes, and the server will close.
    Left(Vec<u8>, String),
    /// The server does not offer what the class needs: it has changed since it was last asked, and says now
    /// that it is this. Its replies would not be what the client expects.
    Unfit(Box<Server>),
    /// A step of [`super::Conn::prepare`] failed; the connection itself is good.
    Step(ServerError),
}

/// `is_secure`: nobody else could read what was sent.
pub(super) fn failure(error: LoginError, is_secure: bool) -> Failure {
    match error {
        LoginError::Refused { errno, message } => Failure::Refused { errno, message },
        LoginError::Denied { errno, message } if errno::is_full(errno) => {
            Failure::Refused { errno, message }
        }
        LoginError::Garbage(garbage) => Failure::Broken(garbage.to_string()),
        LoginError::NoTls => Failure::NoTls(error.to_string()),
        LoginError::Untrusted(text) => Failure::Untrusted(text),
        LoginError::Unexpected(_) => Failure::Broken(error.to_string()),
        LoginError::Denied { errno, .. } => {
            Failure::Denied(format!("{error}{}", cure(errno, is_secure)))
        }
        LoginError::Key(_)
        | LoginError::NeedsSecureChannel
        | LoginError::NeedsTls
        | LoginError::NeedsPassword(_)
        | LoginError::UnknownPlugin(_) => Failure::Denied(error.to_string()),
    }
}

/// What to do about a server's refusal, where its own text does not say. Source: errmsg-utf8.txt of MariaDB 10.11,
/// messages_to_clients.txt of MySQL 9.7.
pub(super) fn cure(errno: u16, is_secure: bool) -> &'static str {
    match errno {
        1045 if is_secure => " (its password there is not that of [[user]], or there is no such account for our address: CREATE USER and GRANT there)",
        1045 => {
            " (its password there is not that of [[user]], or there is no such account for our address: CREATE USER and GRANT there; or it has REQUIRE SSL: [[server]] tls)"
        }
        3159 => " ([[server]] tls = { mode = \"required\" })",
        1820 | 1862 => " (on the server: ALTER USER ... IDENTIFIED BY a new password)",
        3118 | 4151 => " (on the server: ALTER USER ... ACCOUNT UNLOCK)",
        _ => "",
    }
}

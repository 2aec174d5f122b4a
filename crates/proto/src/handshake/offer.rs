//! The server's part of a login, for Portside itself (pool mode): greeting, the client's answer, the switch.
//!
//! It checks no password by itself: [`proves`] says whether an answer fits one. What it must not know: users,
//! where random bytes come from, what a login is allowed to do.

use subtle::ConstantTimeEq;

use super::{scramble_native, scramble_sha2};
use crate::command::{capability, com, extended, marker, status};
use crate::wire::{packet, put_lenenc, Reader};

/// Payload bytes of a login packet at most: user, schema, plugin and 64 KiB of attributes
/// (`sql/auth/sql_authentication.cc`).
pub const LOGIN_MAX: usize = 70 * 1024;

/// An authentication method that Portside offers to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// `mysql_native_password`
    Native,
    /// `caching_sha2_password`
    Sha2,
}

impl Plugin {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::Sha2 => "caching_sha2_password",
        }
    }

    /// The method of that name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Native, Self::Sha2]
            .into_iter()
            .find(|plugin| plugin.name().as_bytes() == name)
    }
}

/// What a greeting says.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// As clients shall see it.
    pub version: &'a str,
    /// `CONNECTION_ID()`.
    pub thread_id: u32,
    /// Capability flags, MariaDB's own in the upper half; with these it looks like MariaDB.
    pub capabilities: u64,
    /// Default collation's number.
    pub collation: u8,
    /// Without NUL bytes and without `$`: clients read it as a text.
    pub salt: &'a [u8; 20],
    /// Default method.
    pub plugin: Plugin,
}

/// The greeting packet (sequence 0).
pub fn greeting(offer: &Offer<'_>) -> Vec<u8> {
    let (front, back) = offer.salt.split_at(8);
    let [a, b, c, d, extended @ ..] = offer.capabilities.to_le_bytes();
    let mut payload = Vec::with_capacity(96 + offer.version.len());
    payload.push(10);
    payload.extend_from_slice(offer.version.as_bytes());
    payload.push(0);
    payload.extend_from_slice(&offer.thread_id.to_le_bytes());
    payload.extend_from_slice(front);
    payload.extend_from_slice(&[0, a, b, offer.collation]);
    payload.extend_from_slice(&status::AUTOCOMMIT.to_le_bytes());
    // The other half of the flags, the salt's length with its NUL, ten reserved bytes: MariaDB has flags in the last.
    payload.extend_from_slice(&[c, d, 21]);
    payload.extend_from_slice(&[0; 6]);
    payload.extend_from_slice(&extended);
    payload.extend_from_slice(back);
    payload.push(0);
    payload.extend_from_slice(offer.plugin.name().as_bytes());
    payload.push(0);
    packet(0, &payload)
}

/// A client's login packet (`HandshakeResponse41`), or a `COM_CHANGE_USER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Login<'a> {
    /// Capability flags, MariaDB's own in the upper half.
    pub capabilities: u64,
    /// Collation's number.
    pub collation: u8,
    /// Account.
    pub user: &'a [u8],
    /// Authentication data.
    pub answer: &'a [u8],
    /// Schema, if it names one.
    pub schema: Option<&'a [u8]>,
    /// Method that made `answer`.
    pub plugin: &'a [u8],
}

/// Payload bytes of a login packet in front of the user's name.
const FRONT_LEN: usize = 32;

/// Whether a packet in place of the login asks for TLS (`SSLRequest`): the front of a login packet alone, or only its
/// four bytes of flags, as Connector/J sends it.
///
/// Source: MySQL `parse_client_handshake_packet`, `AUTH_PACKET_HEADER_SIZE_CONNJ_SSL`.
pub fn is_tls_request(payload: &[u8]) -> bool {
    let wanted = capability::PROTOCOL_41 | capability::SSL;
    let flags = Reader(payload).u32().unwrap_or(0);
    payload.len() <= FRONT_LEN && flags & wanted == wanted
}

impl<'a> Login<'a> {
    /// Reads the payload of a login packet. None: malformed, or a protocol before 4.1.
    ///
    /// Source: MySQL `parse_client_handshake_packet` (`sql/auth/sql_authentication.cc`).
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let capabilities = reader.u32()?;
        if capabilities & capability::PROTOCOL_41 == 0 {
            return None;
        }
        let _largest_packet = reader.u32()?;
        let collation = reader.u8()?;
        let _filler = reader.take(19)?;
        let extended = reader.u32()?;
        let user = reader.until_nul();
        let length = if capabilities & capability::PLUGIN_AUTH_LENENC_DATA != 0 {
            reader.lenenc()?
        } else if capabilities & capability::SECURE_CONNECTION != 0 {
            u64::from(reader.u8()?)
        } else {
            return None;
        };
        let answer = reader.take(usize::try_from(length).ok()?)?;
        let has_schema = capabilities & capability::CONNECT_WITH_DB != 0;
        let schema = has_schema.then(|| reader.until_nul());
        let plugin = if capabilities & capability::PLUGIN_AUTH != 0 {
            reader.until_nul()
        } else {
            Plugin::Native.name().as_bytes()
        };
        // Only MariaDB's clients leave LONG_PASSWORD out to say that these are flags.
        let is_extended = capabilities & capability::LONG_PASSWORD == 0;
        Some(Self {
            capabilities: u64::from(capabilities)
                | u64::from(extended * u32::from(is_extended)) << 32,
            collation,
            user,
            answer,
            schema: schema.filter(|name| !name.is_empty()),
            plugin,
        })
    }

    /// Reads a `COM_CHANGE_USER` behind its command byte; capabilities are those of the login.
    pub fn parse_change(payload: &'a [u8], capabilities: u64) -> Option<Self> {
        let mut reader = Reader(payload);
        let user = reader.nul_text()?;
        let length = reader.u8()?;
        let answer = reader.take(usize::from(length))?;
        let schema = reader.until_nul();
        let collation = reader.u16().map_or(0, |number| number as u8);
        let has_plugin = capabilities & u64::from(capability::PLUGIN_AUTH) != 0;
        let plugin = if has_plugin && !reader.0.is_empty() {
            reader.until_nul()
        } else {
            Plugin::Native.name().as_bytes()
        };
        Some(Self {
            capabilities,
            collation,
            user,
            answer,
            schema: (!schema.is_empty()).then_some(schema),
            plugin,
        })
    }
}

/// Asks the client to answer with another method.
pub fn switch(sequence: u8, plugin: Plugin, salt: &[u8; 20]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(48);
    payload.push(marker::EOF);
    payload.extend_from_slice(plugin.name().as_bytes());
    payload.push(0);
    payload.extend_from_slice(salt);
    payload.push(0);
    packet(sequence, &payload)
}

/// `caching_sha2_password`: the password is known, OK follows.
pub fn fast_auth_ok(sequence: u8) -> Vec<u8> {
    packet(sequence, &[marker::AUTH_MORE_DATA, 3])
}

/// Whether `answer` was made from `password`. Takes the same time whatever differs (given equal lengths).
pub fn proves(plugin: Plugin, password: &[u8], salt: &[u8; 20], answer: &[u8]) -> bool {
    let expected = match plugin {
        Plugin::Native => scramble_native(password, salt),
        Plugin::Sha2 => scramble_sha2(password, salt),
    };
    // An empty password is answered with nothing, by sha2 also with one NUL.
    let answer = if answer == [0] { &[][..] } else { answer };
    expected.ct_eq(answer).into()
}

/// An OK with nothing to tell but these flags. `tracks`: the client asked for session tracking.
pub fn ok(sequence: u8, flags: u16) -> Vec<u8> {
    let [low, high] = flags.to_le_bytes();
    packet(sequence, &[marker::OK, 0, 0, low, high, 0, 0])
}

/// A command packet.
pub fn command(number: u8, argument: &[u8]) -> Vec<u8> {
    debug_assert!(argument.len() < 1 << 20);
    let mut bytes = Vec::with_capacity(5 + argument.len());
    put_command(&mut bytes, number, argument);
    bytes
}

/// Appends a command packet.
pub fn put_command(to: &mut Vec<u8>, number: u8, argument: &[u8]) {
    to.extend_from_slice(&crate::wire::header(argument.len() + 1, 0));
    to.push(number);
    to.extend_from_slice(argument);
}

/// Appends a text query; `capabilities` are those of the connection.
pub fn put_query(to: &mut Vec<u8>, text: &[u8], capabilities: u64) {
    // No attributes, in one set of values.
    let attributes: &[u8] = if capabilities & u64::from(capability::QUERY_ATTRIBUTES) != 0 {
        &[0, 1]
    } else {
        &[]
    };
    to.extend_from_slice(&crate::wire::header(1 + attributes.len() + text.len(), 0));
    to.push(com::QUERY);
    to.extend_from_slice(attributes);
    to.extend_from_slice(text);
}

/// A one-row result of one unsigned 64-bit column, as `SELECT CONNECTION_ID()` has it; begins at sequence 1.
/// `capabilities`: those of the client.
pub fn one_number(name: &[u8], value: u64, flags: u16, capabilities: u64) -> Vec<u8> {
    let has = |flag: u64| capabilities & flag != 0;
    let mut column = Vec::with_capacity(40 + name.len());
    for text in [&b"def"[..], b"", b"", b"", name, b""] {
        put_lenenc(&mut column, text.len() as u64);
        column.extend_from_slice(text);
    }
    if has(extended::METADATA) {
        column.push(0);
    }
    // With OPTIONAL_RESULTSET_METADATA a byte says that the definition follows.
    let count: &[u8] = if has(capability::OPTIONAL_RESULTSET_METADATA.into()) {
        &[1, 1]
    } else {
        &[1]
    };
    // Length of the rest, binary collation, display width, LONGLONG, NOT NULL | UNSIGNED | BINARY, no decimals.
    column.extend_from_slice(&[12, 63, 0, 10, 0, 0, 0, 8, 0xa1, 0, 0, 0, 0]);
    let text = value.to_string();
    let mut row = Vec::with_capacity(24);
    put_lenenc(&mut row, text.len() as u64);
    row.extend_from_slice(text.as_bytes());
    let [low, high] = flags.to_le_bytes();
    if has(capability::DEPRECATE_EOF.into()) {
        let end = [marker::EOF, 0, 0, low, high, 0, 0];
        return [
            packet(1, count),
            packet(2, &column),
            packet(3, &row),
            packet(4, &end),
        ]
        .concat();
    }
    let end = [marker::EOF, 0, 0, low, high];
    let parts = [
        packet(1, count),
        packet(2, &column),
        packet(3, &end),
        packet(4, &row),
        packet(5, &end),
    ];
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_proves_one_password_only() {
        let salt = b"abcdefghijklmnopqrst";
        for plugin in [Plugin::Native, Plugin::Sha2] {
            let answer = match plugin {
                Plugin::Native => scramble_native(b"right", salt),
                Plugin::Sha2 => scramble_sha2(b"right", salt),
            };
            assert!(proves(plugin, b"right", salt, &answer));
            assert!(!proves(plugin, b"wrong", salt, &answer));
            assert!(!proves(plugin, b"right", b"ABCDEFGHIJKLMNOPQRST", &answer));
            assert!(!proves(plugin, b"right", salt, b""));
            assert!(!proves(plugin, b"", salt, &answer));
            assert!(proves(plugin, b"", salt, b""));
        }
    }

    #[test]
    fn a_login_cut_anywhere_is_refused_or_read_without_a_panic() {
        let mut payload = Vec::new();
        let flags = capability::PROTOCOL_41
            | capability::SECURE_CONNECTION
            | capability::CONNECT_WITH_DB
            | capability::PLUGIN_AUTH;
        payload.extend_from_slice(&flags.to_le_bytes());
        payload.extend_from_slice(&[0, 0, 0, 1, 45]);
        payload.extend_from_slice(&[0; 23]);
        payload.extend_from_slice(b"app\0\x03abcshop\0caching_sha2_password\0");
        let whole = Login::parse(&payload).unwrap();
        assert_eq!((whole.user, whole.answer), (&b"app"[..], &b"abc"[..]));
        assert_eq!(whole.schema, Some(&b"shop"[..]));
        assert_eq!(Plugin::from_name(whole.plugin), Some(Plugin::Sha2));
        for length in 0..payload.len() {
            let _ = Login::parse(&payload[..length]);
        }
    }
}

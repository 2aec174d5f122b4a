//! The server's part of a login, for Portside itself (pool mode): greeting, the client's answer, the switch.
//!
//! It checks no password: that is [`super::Secret`]. What it must not know: users, where random bytes come from,
//! what a login is allowed to do.

use super::Plugin;
use crate::command::{capability, com, marker, status, MAX_PAYLOAD};
use crate::wire::{packet, put_lenenc_bytes, Reader};

/// Payload bytes of a login packet at most: user, schema, plugin and 64 KiB of attributes
/// (`sql/auth/sql_authentication.cc`).
pub const LOGIN_MAX: usize = 70 * 1024;

/// A change of the current schema among session state changes (`enum_session_state_type`).
const TRACKED_SCHEMA: u8 = 1;

/// What a client sends to ask for the key.
pub const KEY_REQUEST: u8 = 2;

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
    /// Collation's number; above 255 only in a change of user.
    pub collation: u16,
    /// Account.
    pub user: &'a [u8],
    /// Authentication data.
    pub answer: &'a [u8],
    /// Schema, if it names one.
    pub schema: Option<&'a [u8]>,
    /// Method that made `answer`.
    pub plugin: &'a [u8],
    /// The attribute `program_name`; empty without one.
    pub program: &'a [u8],
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
        let collation = reader.u8()?.into();
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
            program: program(reader, capabilities.into()),
        })
    }

    /// Reads a `COM_CHANGE_USER` behind its command byte; capabilities are those of the login.
    pub fn parse_change(payload: &'a [u8], capabilities: u64) -> Option<Self> {
        let mut reader = Reader(payload);
        let user = reader.nul_text()?;
        let length = reader.u8()?;
        let answer = reader.take(usize::from(length))?;
        let schema = reader.until_nul();
        let collation = reader.u16().unwrap_or(0);
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
            program: program(reader, capabilities),
        })
    }
}

/// The value of `program_name` among the attributes that end a login. Attributes that cannot be read are none: they
/// are no reason to refuse a client.
fn program(mut reader: Reader<'_>, capabilities: u64) -> &[u8] {
    let mut found = || {
        let length = reader.lenenc()?;
        let mut pairs = Reader(reader.take(usize::try_from(length).ok()?)?);
        let mut text = || {
            let length = pairs.lenenc()?;
            pairs.take(usize::try_from(length).ok()?)
        };
        loop {
            let (name, value) = (text()?, text()?);
            if name == b"program_name" {
                return Some(value);
            }
        }
    };
    if capabilities & u64::from(capability::CONNECT_ATTRS) == 0 {
        return &[];
    }
    found().unwrap_or_default()
}

/// Asks the client to answer with another method. Of the nonce each method takes what it knows: two of them a text
/// of 20 bytes, `client_ed25519` all of it, and the password itself needs none.
pub fn switch(sequence: u8, plugin: Plugin, nonce: &[u8; 32]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(64);
    payload.push(marker::EOF);
    payload.extend_from_slice(plugin.name().as_bytes());
    payload.push(0);
    match plugin {
        Plugin::Native | Plugin::Sha2 => {
            payload.extend(nonce.iter().take(20));
            payload.push(0);
        }
        Plugin::Ed25519 => payload.extend_from_slice(nonce),
        Plugin::Clear => {}
    }
    packet(sequence, &payload)
}

/// `caching_sha2_password`: the password is known, OK follows.
pub fn fast_auth_ok(sequence: u8) -> Vec<u8> {
    packet(sequence, &[marker::AUTH_MORE_DATA, 3])
}

/// `caching_sha2_password`: only a slow hash is known, so the password itself is needed.
pub fn full_auth(sequence: u8) -> Vec<u8> {
    packet(sequence, &[marker::AUTH_MORE_DATA, 4])
}

/// The key that a client has asked for.
pub fn public_key(sequence: u8, pem: &str) -> Vec<u8> {
    packet(
        sequence,
        &[&[marker::AUTH_MORE_DATA], pem.as_bytes()].concat(),
    )
}

/// An OK with nothing to tell but these flags. `tracks`: the client asked for session tracking.
pub fn ok(sequence: u8, flags: u16) -> Vec<u8> {
    let [low, high] = flags.to_le_bytes();
    packet(sequence, &[marker::OK, 0, 0, low, high, 0, 0])
}

/// An OK after a login that chose a schema, for a client that tracks the session's state.
pub fn ok_with_schema(sequence: u8, flags: u16, schema: &[u8]) -> Vec<u8> {
    let [low, high] = (flags | status::SESSION_STATE_CHANGED).to_le_bytes();
    // No message; then one change of this kind.
    let mut payload = vec![marker::OK, 0, 0, low, high, 0, 0, 0];
    let (mut name, mut change) = (Vec::new(), vec![TRACKED_SCHEMA]);
    put_lenenc_bytes(&mut name, schema);
    put_lenenc_bytes(&mut change, &name);
    put_lenenc_bytes(&mut payload, &change);
    packet(sequence, &payload)
}

/// A command packet.
pub fn command(number: u8, argument: &[u8]) -> Vec<u8> {
    debug_assert!(argument.len() < MAX_PAYLOAD as usize - 1);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_gets_its_own_scramble() {
        let nonce = b"abcdefghijklmnopqrstuvwxyz012345";
        for (plugin, data) in [
            (
                Plugin::Native,
                &b"mysql_native_password\0abcdefghijklmnopqrst\0"[..],
            ),
            (
                Plugin::Sha2,
                b"caching_sha2_password\0abcdefghijklmnopqrst\0",
            ),
            (
                Plugin::Ed25519,
                b"client_ed25519\0abcdefghijklmnopqrstuvwxyz012345",
            ),
            (Plugin::Clear, b"mysql_clear_password\0"),
        ] {
            assert_eq!(switch(2, plugin, nonce)[5..], *data);
            assert_eq!(Plugin::from_name(plugin.name().as_bytes()), Some(plugin));
        }
        assert_eq!(Plugin::from_name(b"sha256_password"), None);
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

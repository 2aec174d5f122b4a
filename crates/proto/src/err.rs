//! ERR packets that Portside itself sends, and the error numbers it uses.
//!
//! Texts come from the caller; here they are only cut to fit. Numbers stand in [`errno`] and nowhere
//! else. The mysql 9 CLI, PyMySQL (as `OperationalError`) and PHP mysqli print number and text as sent,
//! with SQLSTATE `HY000` where the packet has none. The mariadb CLI does so with `--skip-ssl`; with
//! TLS enabled (Connector/C 3.3.20) it shows every packet that comes in place of a greeting, a real
//! server's too, as `ERROR 2002: Received error packet before completion of TLS handshake. ... : 1040 - text`.

use crate::command::{marker, HEADER_LEN, MAX_PAYLOAD};
use crate::wire::header;

/// Error numbers of packets made by Portside.
///
/// All from the server's range (1000-1999; 3159 is MySQL's alone), known to MySQL and MariaDB under the same number. Numbers
/// from 2000 to 2999 belong to client libraries: a client that gets one from the wire takes it for its
/// own (libmysql rewrites the text of 2013, some drivers reconnect), so they are not used even where
/// "2003 Can't connect" would read well.
pub mod errno {
    /// `ER_CON_COUNT_ERROR`: every slot is taken (`max_connections`, queue full, waited too long). Applications
    /// that retry at all retry on this one.
    pub const TOO_MANY_CONNECTIONS: u16 = 1040;
    /// `ER_OUT_OF_RESOURCES`: this host, not the database, ran out (source ports, file descriptors).
    pub const OUT_OF_RESOURCES: u16 = 1041;
    /// `ER_HANDSHAKE_ERROR`: the client's first bytes are not acceptable (PROXY header missing or wrong).
    pub const BAD_HANDSHAKE: u16 = 1043;
    /// `ER_SERVER_SHUTDOWN`: Portside or the service is going away (drain, stop).
    pub const SHUTDOWN: u16 = 1053;
    /// `ER_HOST_NOT_PRIVILEGED`: the client's address is not allowed here.
    pub const HOST_NOT_ALLOWED: u16 = 1130;
    /// `ER_NET_READ_INTERRUPTED`: a time limit ended the session (login, idle).
    pub const TIMEOUT: u16 = 1159;
    /// `ER_TOO_MANY_USER_CONNECTIONS`: this client address has as many sessions as it may have.
    pub const TOO_MANY_FROM_CLIENT: u16 = 1203;
    /// `ER_CONNECT_TO_FOREIGN_DATA_SOURCE`: no server can be reached or none is eligible.
    pub const NO_SERVER: u16 = 1429;

    /// `ER_NOT_SUPPORTED_AUTH_MODE`: a client's methods are too few (pool mode).
    pub const NOT_SUPPORTED_AUTH_MODE: u16 = 1251;
    /// `ER_ACCESS_DENIED_ERROR`: a client's user or password is wrong (pool mode).
    pub const ACCESS_DENIED: u16 = 1045;
    /// `ER_UNKNOWN_COM_ERROR`: a command that pool mode does not know.
    pub const UNKNOWN_COMMAND: u16 = 1047;
    /// `ER_NO_SUCH_THREAD`: KILL of an id that Portside did not give.
    pub const NO_SUCH_THREAD: u16 = 1094;
    /// `ER_KILL_DENIED_ERROR`: KILL of another account's session.
    pub const NOT_OWNER: u16 = 1095;
    /// `ER_MALFORMED_PACKET`: a client broke the protocol.
    pub const MALFORMED: u16 = 1835;
    /// `ER_NOT_SUPPORTED_YET`: not in pool mode.
    pub const NOT_SUPPORTED: u16 = 1235;
    /// `ER_UNKNOWN_STMT_HANDLER`: a statement that this session did not prepare.
    pub const UNKNOWN_STATEMENT: u16 = 1243;
    /// `ER_WRONG_ARGUMENTS`: an EXECUTE whose parameters never got types.
    pub const WRONG_ARGUMENTS: u16 = 1210;
    /// `ER_NEED_REPREPARE`: a prepared statement is not the same any more; the client prepares it again.
    pub const NEED_REPREPARE: u16 = 1615;
    /// `ER_QUERY_INTERRUPTED`: what the server itself says after KILL QUERY.
    pub const INTERRUPTED: u16 = 1317;
    /// `ER_CONNECTION_KILLED` of MariaDB: its answer to a KILL of the own connection; MySQL's is [`INTERRUPTED`].
    pub const CONNECTION_KILLED: u16 = 1927;

    /// `ER_SECURE_TRANSPORT_REQUIRED`: the login came without TLS where it is a must (pool mode).
    pub const SECURE_TRANSPORT_REQUIRED: u16 = 3159;

    /// What a server says when its `max_connections` is reached; same number as ours, on purpose.
    pub const SERVER_TOO_MANY_CONNECTIONS: u16 = 1040;
    /// `ER_HOST_IS_BLOCKED`: `max_connect_errors` reached for our address.
    pub const SERVER_HOST_BLOCKED: u16 = 1129;
    /// `ER_HOST_NOT_PRIVILEGED`: no account at all for our address.
    pub const SERVER_HOST_NOT_PRIVILEGED: u16 = 1130;
    /// `ER_MAX_PREPARED_STMT_COUNT_REACHED`: of the whole server, over all its connections.
    pub const SERVER_TOO_MANY_STATEMENTS: u16 = 1461;
    /// `ER_ACCESS_DENIED_ERROR`: wrong user or password.
    pub const SERVER_ACCESS_DENIED: u16 = 1045;
    /// `ER_TOO_MANY_USER_CONNECTIONS`: the account has as many connections as it may have.
    pub const SERVER_TOO_MANY_USER_CONNECTIONS: u16 = 1203;
    /// `ER_USER_LIMIT_REACHED`: the same, or connections per hour, of this account alone.
    pub const SERVER_USER_LIMIT: u16 = 1226;
    /// `ER_OPTION_PREVENTS_STATEMENT`: a write met `read_only` (or another option, such as `secure_file_priv`).
    pub const SERVER_OPTION_PREVENTS: u16 = 1290;
    /// `ER_READ_ONLY_MODE`: a write met `super_read_only` or a transaction mode of MySQL.
    pub const SERVER_READ_ONLY: u16 = 1836;

    /// Whether a server says that it, or the account, has no place for one more connection now.
    pub const fn is_full(number: u16) -> bool {
        matches!(
            number,
            SERVER_TOO_MANY_CONNECTIONS | SERVER_TOO_MANY_USER_CONNECTIONS | SERVER_USER_LIMIT
        )
    }

    /// Whether a server refuses a write because it is read-only.
    pub const fn is_read_only(number: u16) -> bool {
        matches!(number, SERVER_OPTION_PREVENTS | SERVER_READ_ONLY)
    }
}

/// Whole bytes of a packet in place of a greeting, at most. 512: `MYSQL_ERRMSG_SIZE`, the buffer of every
/// libmysql and Connector/C (`include/mysql_com.h`).
pub const GREETING_ERR_MAX: usize = 512;

/// An ERR packet: header, 0xff, errno, `#` and SQLSTATE where given, text.
///
/// `sqlstate` needs the 4.1 protocol on the other side (every client after its login packet; none
/// before). The text is cut at a character to fit one packet. One allocation.
pub fn err_packet(sequence: u8, errno: u16, sqlstate: Option<[u8; 5]>, text: &str) -> Vec<u8> {
    build(sequence, errno, sqlstate, text, MAX_PAYLOAD as usize - 1)
}

/// An ERR packet to send instead of a greeting: sequence 0, no SQLSTATE marker, at most
/// [`GREETING_ERR_MAX`] bytes with the header; the text is cut at a character.
///
/// No marker because nobody has announced the 4.1 protocol yet: libmysql would show it as part of the
/// text. Both servers do the same (recorded in `tests/wire/`).
pub fn greeting_err(errno: u16, text: &str) -> Vec<u8> {
    build(0, errno, None, text, GREETING_ERR_MAX - HEADER_LEN)
}

fn build(sequence: u8, errno: u16, sqlstate: Option<[u8; 5]>, text: &str, limit: usize) -> Vec<u8> {
    let fixed = 3 + sqlstate.map_or(0, |_| 6);
    let text = cut(text, limit - fixed);
    let length = fixed + text.len();
    let mut packet = Vec::with_capacity(HEADER_LEN + length);
    packet.extend_from_slice(&header(length, sequence));
    packet.push(marker::ERR);
    packet.extend_from_slice(&errno.to_le_bytes());
    if let Some(state) = sqlstate {
        packet.push(b'#');
        packet.extend_from_slice(&state);
    }
    packet.extend_from_slice(text.as_bytes());
    packet
}

/// The longest prefix of `text` that has at most `limit` bytes and ends between characters.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let end = (0..=limit).rev().find(|&end| text.is_char_boundary(end));
    text.get(..end.unwrap_or(0)).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_what_both_servers_send() {
        let packet = greeting_err(1040, "Too many connections");
        assert_eq!(packet[..7], [23, 0, 0, 0, 0xff, 0x10, 0x04]);
        assert_eq!(&packet[7..], b"Too many connections");
    }

    #[test]
    fn a_marker_is_written_where_asked_for() {
        let packet = err_packet(2, 1045, Some(*b"28000"), "no");
        assert_eq!(
            packet,
            [&[11, 0, 0, 2, 0xff, 0x15, 0x04][..], b"#28000no"].concat()
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        for filler in 0..8 {
            let text = format!("{}{}", "x".repeat(filler), "né€𐍈".repeat(200));
            let packet = greeting_err(1429, &text);
            assert!(
                packet.len() <= GREETING_ERR_MAX && packet.len() > GREETING_ERR_MAX - HEADER_LEN
            );
            let shown = std::str::from_utf8(&packet[7..]).unwrap();
            assert!(text.starts_with(shown));
            assert_eq!(
                usize::from(packet[0]) + 256 * usize::from(packet[1]),
                packet.len() - 4
            );
        }
    }
}

//! Ends a server's login without a client: the orderly way out after the greeting.
//!
//! A connection that is greeted and then closed counts as a handshake error of our address, and after
//! `max_connect_errors` (100) of those the server refuses the address altogether (ERR 1129). A well-formed
//! login that is refused does not count; it does not set the count back either, only a login that succeeds
//! does. So when a client leaves between the greeting and its login packet, the relay logs in as a user that
//! does not exist, with an empty password.
//!
//! Measured with MariaDB 10.11 and MySQL 9.7: 300 of these, nothing counted; leaving silently, ERR 1129 from
//! the 101st or 102nd on (docs/internals/early-leavers.md). `Aborted_connects` grows by one either way.
//!
//! What the owner does: write [`start`]'s bytes, feed what the server sends to [`Refusal::feed`] and do as it
//! says. [`Step::Close`] means that the server's ERR was received (its FIN is next): close as after a QUIT.
//! The login deadline of the session stays in force, since a server may answer late on purpose (MySQL's
//! `connection_control`). Not for sessions whose client sent a part of a packet: those bytes cannot be taken
//! back, so cut them. Not after TLS began either: there it is `ClientLogin::within_tls`.

use crate::command::{capability, marker};
use crate::login::Greeting;
use crate::quit;
use crate::wire::{packet, Assembler};

/// The user name in the server's log: `Access denied for user 'portside-refused'@'...'`. 16 bytes: the limit
/// of MySQL before 5.7.8.
pub const USER: &str = "portside-refused";

/// Authentication packets answered before giving up; servers need one or two.
const ANSWERS_MAX: u8 = 8;

/// Payload bytes of a packet from the server at most.
const PACKET_MAX: usize = 4096;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read on.
    Wait,
    /// Write these bytes, then read on.
    Send(Vec<u8>),
    /// The server let the user in (it has an anonymous account): write these bytes (QUIT), then close as after
    /// any QUIT.
    SendAndClose(&'static [u8]),
    /// The login was refused: close.
    Close,
}

/// The exchange after the login packet.
#[derive(Debug, Default)]
pub struct Refusal {
    assembler: Assembler,
    answers: u8,
    done: bool,
}

/// The login packet (sequence 1) to write in answer to `greeting`, and what reads the server's answer.
pub fn start(greeting: &Greeting) -> (Refusal, Vec<u8>) {
    let wanted = capability::PROTOCOL_41
        | capability::SECURE_CONNECTION
        | capability::LONG_PASSWORD
        | capability::PLUGIN_AUTH;
    // A flag that the server lacks must not be sent: the rest would be read at wrong places.
    let flags = wanted & (greeting.capabilities | capability::LONG_PASSWORD);
    let mut payload = Vec::with_capacity(96);
    payload.extend_from_slice(&flags.to_le_bytes());
    payload.extend_from_slice(&crate::command::MAX_PAYLOAD.to_le_bytes());
    // utf8mb4_general_ci: known to every version since 5.5.
    payload.push(45);
    payload.extend_from_slice(&[0; 23]);
    payload.extend_from_slice(USER.as_bytes());
    // The name's NUL, then an authentication response of length 0.
    payload.extend_from_slice(&[0, 0]);
    if flags & capability::PLUGIN_AUTH != 0 {
        payload.extend_from_slice(greeting.plugin.as_bytes());
        payload.push(0);
    }
    (Refusal::default(), packet(1, &payload))
}

/// The answer that a client owes to the server's packet of this sequence number, when it has left: none.
pub fn no_answer(sequence: u8) -> Vec<u8> {
    // An empty password is an empty packet.
    packet(sequence.wrapping_add(1), &[])
}

impl Refusal {
    /// Looks at bytes from the server. Call again with the rest of `bytes` until [`Step::Wait`] or a close.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Step {
        while !self.done {
            let answer = self.assembler.next(bytes, PACKET_MAX, |sequence, payload| {
                (sequence, payload.first().copied())
            });
            match answer {
                Ok(None) => return Step::Wait,
                Ok(Some((_, Some(marker::OK)))) => {
                    self.done = true;
                    return Step::SendAndClose(&quit::QUIT);
                }
                Ok(Some((sequence, Some(first))))
                    if first != marker::ERR && self.answers < ANSWERS_MAX =>
                {
                    self.answers += 1;
                    return Step::Send(no_answer(sequence));
                }
                Ok(Some(_)) | Err(_) => self.done = true,
            }
        }
        Step::Close
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        Greeting {
            version: "9.7.0".into(),
            is_mariadb: false,
            thread_id: 1,
            capabilities: u32::MAX,
            mariadb_capabilities: 0,
            collation: 255,
            status: 2,
            salt: *b"12345678901234567890",
            plugin: "caching_sha2_password".into(),
        }
    }

    #[test]
    fn the_login_is_complete() {
        let (_, bytes) = start(&greeting());
        assert_eq!(bytes[0] as usize, bytes.len() - 4);
        assert_eq!(bytes[1..4], [0, 0, 1]);
        assert_eq!(&bytes[36..], b"portside-refused\0\0caching_sha2_password\0");
        let mut watch = crate::watch::ClientWatch::new();
        watch.feed(&bytes);
        assert_eq!(watch.capabilities(), Some(0x0008_8201));
        let old = Greeting {
            capabilities: 0xf7ff,
            plugin: String::new(),
            ..greeting()
        };
        let (_, bytes) = start(&old);
        assert_eq!(&bytes[36..], b"portside-refused\0\0");
    }

    #[test]
    fn switches_are_answered_and_the_end_is_seen() {
        let conversation = [
            packet(2, b"\xfemysql_native_password\0aaaaaaaaaaaaaaaaaaaa\0"),
            packet(4, b"\x01\x04"),
            packet(6, b"\xff\x15\x04#28000Access denied"),
        ];
        let (mut refusal, _) = start(&greeting());
        assert_eq!(refusal.feed(&mut &conversation[0][..9]), Step::Wait);
        assert_eq!(
            refusal.feed(&mut &conversation[0][9..]),
            Step::Send(vec![0, 0, 0, 3])
        );
        assert_eq!(
            refusal.feed(&mut &conversation[1][..]),
            Step::Send(vec![0, 0, 0, 5])
        );
        assert_eq!(refusal.feed(&mut &conversation[2][..]), Step::Close);
        assert_eq!(refusal.feed(&mut &b"more"[..]), Step::Close);
    }

    #[test]
    fn an_anonymous_account_gets_a_quit() {
        let (mut refusal, _) = start(&greeting());
        let ok = packet(2, &[0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(refusal.feed(&mut &ok[..]), Step::SendAndClose(&quit::QUIT));
    }

    #[test]
    fn a_server_that_never_ends_is_left() {
        let (mut refusal, _) = start(&greeting());
        for _ in 0..ANSWERS_MAX {
            assert!(matches!(
                refusal.feed(&mut &packet(2, &[1])[..]),
                Step::Send(_)
            ));
        }
        assert_eq!(refusal.feed(&mut &packet(2, &[1])[..]), Step::Close);
        let (mut refusal, _) = start(&greeting());
        assert_eq!(refusal.feed(&mut &[0xff, 0xff, 0xff, 2][..]), Step::Close);
    }
}

//! Watches the server's direction of a session until login has ended, and then is no longer needed.
//!
//! The first packet is a greeting, or an ERR in place of one (host blocked, too many connections), or
//! something that is not MySQL. After the greeting only the first three bytes of each packet are looked at:
//! OK or ERR ends the login, everything else (authentication switch, more data) goes on.
//!
//! What it must not know: sockets, what the owner does about an event. Where the client asked for TLS
//! ([`crate::watch::Phase::Tls`]) the owner stops feeding: the rest is opaque.

use crate::command::{capability, marker, HEADER_LEN};
use crate::err::cut;
use crate::wire::{gather, split, u24, Assembler, Reader};

/// Payload bytes of a first packet at most. Real greetings have 60 to 120; an ERR at most 512.
pub const GREETING_MAX: usize = 1024;

/// What the server says about itself in its first packet (protocol 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Version text without MariaDB's replication prefix, e.g. `10.11.14-MariaDB-0+deb12u2` or `9.7.0`.
    pub version: String,
    /// MariaDB by its version text or by the prefix.
    pub is_mariadb: bool,
    /// The connection's id in the server's process list (low 32 bits).
    pub thread_id: u32,
    /// Capability flags, both halves; see [`capability`].
    pub capabilities: u32,
    /// MariaDB's own second word of flags; 0 from MySQL.
    pub mariadb_capabilities: u32,
    /// Default collation's number, low byte.
    pub collation: u8,
    /// Status flags; see [`crate::command::status`].
    pub status: u16,
    /// The salt of the default plugin.
    pub salt: [u8; 20],
    /// The default authentication plugin; empty from servers before 5.5.7.
    pub plugin: String,
}

/// Why the first packet is not a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// An HTTP server, a TLS record, or a packet of another protocol.
    #[error("the first packet is longer than a greeting can be: not a MySQL server")]
    TooLong,
    /// A first packet has sequence 0.
    #[error("the first packet has a wrong sequence number: not a MySQL server")]
    Sequence,
    /// Protocol 9 (before 3.21) or something else.
    #[error("protocol version {0}, expected 10: not a MySQL server of this age")]
    Protocol(u8),
    /// Shorter than its fields.
    #[error("the greeting ends too early")]
    Truncated,
}

/// What happened while logging in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server greets; the client's login packet is next.
    Greeting(Greeting),
    /// An ERR in place of a greeting; the server closes. Nothing more is reported.
    RefusedErr {
        /// E.g. 1040 too many connections, 1129 our host is blocked, 1130 no account for our host.
        errno: u16,
        /// At most 512 bytes, without SQLSTATE.
        message: String,
    },
    /// The server's OK: commands follow. Nothing more is reported.
    LoginOk,
    /// The server's ERR; the server closes. Nothing more is reported.
    LoginErr {
        /// E.g. 1045 access denied.
        errno: u16,
    },
    /// Not a MySQL server. Nothing more is reported.
    Garbage(Garbage),
}

/// caching_sha2_password's "more data: you are in"; its OK follows by itself.
const FAST_AUTH_DONE: [u8; 3] = [1, 3, 0];

#[derive(Debug)]
enum State {
    First(Assembler),
    Header,
    /// Reading a packet after the greeting: its first bytes, and how many more there are.
    Packet {
        front: [u8; 3],
        front_have: u8,
        left: u32,
    },
    Done,
}

/// The watcher: a few dozen bytes, plus a split greeting's bytes (at most [`GREETING_MAX`]).
#[derive(Debug)]
pub struct ServerLogin {
    state: State,
    asked: Option<u8>,
    head: [u8; HEADER_LEN],
    have: u8,
}

impl Default for ServerLogin {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerLogin {
    /// A watcher before the server's first byte.
    pub fn new() -> Self {
        Self {
            state: State::First(Assembler::default()),
            asked: None,
            head: [0; HEADER_LEN],
            have: 0,
        }
    }

    /// Looks at bytes from the server up to the next event; call again until None.
    ///
    /// `bytes` is moved behind what was looked at: after [`Event::LoginOk`] it begins with the first byte
    /// after the OK. None: every byte was looked at, or nothing more will be reported.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Option<Event> {
        loop {
            match &mut self.state {
                State::Done => return None,
                State::First(assembler) => {
                    let event = match assembler.next(bytes, GREETING_MAX, first_packet) {
                        Ok(None) => return None,
                        Ok(Some(event)) => event,
                        Err(_) => Event::Garbage(Garbage::TooLong),
                    };
                    let greeted = matches!(event, Event::Greeting(_));
                    self.state = if greeted { State::Header } else { State::Done };
                    return Some(event);
                }
                State::Header => {
                    let (full, rest) = gather(&mut self.head, &mut self.have, bytes);
                    *bytes = rest;
                    if !full {
                        return None;
                    }
                    self.have = 0;
                    let [length @ .., _] = self.head;
                    self.state = State::Packet {
                        front: [0; 3],
                        front_have: 0,
                        left: u24(length),
                    };
                }
                State::Packet {
                    front,
                    front_have,
                    left,
                } => {
                    let (piece, rest) = split(bytes, *left);
                    *left -= piece.len() as u32;
                    *bytes = rest;
                    for (to, from) in front.iter_mut().skip(usize::from(*front_have)).zip(piece) {
                        *to = *from;
                        *front_have += 1;
                    }
                    if *left > 0 {
                        return None;
                    }
                    let event = later_packet(*front, *front_have);
                    let [.., sequence] = self.head;
                    self.asked = (*front != FAST_AUTH_DONE).then_some(sequence);
                    self.state = if event.is_some() {
                        State::Done
                    } else {
                        State::Header
                    };
                    if event.is_some() {
                        return event;
                    }
                }
            }
        }
    }

    /// The sequence number of the packet that the server has an answer to come for: a switch of plugin, a challenge.
    pub const fn asked(&self) -> Option<u8> {
        self.asked
    }

    /// Whether the last byte ended a packet: another reader may take over here.
    pub const fn is_between_packets(&self) -> bool {
        match self.state {
            State::Header => self.have == 0,
            State::Done => true,
            State::First(_) | State::Packet { .. } => false,
        }
    }

    /// Whether nothing more will be reported, so that the watcher can be dropped.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

fn later_packet([first, low, high]: [u8; 3], have: u8) -> Option<Event> {
    match (first, have) {
        (_, 0) => None,
        (marker::OK, _) => Some(Event::LoginOk),
        (marker::ERR, 3) => Some(Event::LoginErr {
            errno: u16::from_le_bytes([low, high]),
        }),
        (marker::ERR, _) => Some(Event::LoginErr { errno: 0 }),
        // EOF (switch), 1 (more data), 2 (next factor); plugins of MariaDB also send bare data, but never
        // with 0, 254 or 255 in front (the server escapes those with 1, sql/sql_acl.cc).
        _ => None,
    }
}

pub(crate) fn first_packet(sequence: u8, payload: &[u8]) -> Event {
    let mut reader = Reader(payload);
    match (sequence, reader.u8()) {
        (1.., _) => Event::Garbage(Garbage::Sequence),
        (_, Some(marker::ERR)) => refusal(reader),
        (_, Some(10)) => {
            Greeting::parse(reader).map_or(Event::Garbage(Garbage::Truncated), Event::Greeting)
        }
        (_, Some(other)) => Event::Garbage(Garbage::Protocol(other)),
        (_, None) => Event::Garbage(Garbage::Truncated),
    }
}

fn refusal(mut reader: Reader<'_>) -> Event {
    let Some(errno) = reader.u16() else {
        return Event::Garbage(Garbage::Truncated);
    };
    if reader.0.first() == Some(&b'#') {
        let _ = reader.take(6);
    }
    let text = String::from_utf8_lossy(reader.0);
    Event::RefusedErr {
        errno,
        message: cut(&text, 512).to_owned(),
    }
}

impl Greeting {
    /// All capability flags, MariaDB's own in the upper half.
    pub fn all_capabilities(&self) -> u64 {
        u64::from(self.capabilities) | u64::from(self.mariadb_capabilities) << 32
    }

    /// Reads the greeting behind its protocol byte. None: it ends too early.
    ///
    /// Source: MySQL `send_server_handshake_packet` (`sql/auth/sql_authentication.cc`), MariaDB the same in
    /// `sql/sql_acl.cc`; both are recorded in `tests/wire/`.
    fn parse(mut reader: Reader<'_>) -> Option<Self> {
        let raw = reader.until_nul();
        let thread_id = reader.u32()?;
        let mut salt = [0; 20];
        let (front, back) = salt.split_at_mut(8);
        front.copy_from_slice(reader.take(8)?);
        let _filler = reader.u8()?;
        let low = reader.u16()?;
        let collation = reader.u8()?;
        let status = reader.u16()?;
        let high = reader.u16()?;
        let capabilities = u32::from(low) | u32::from(high) << 16;
        let _salt_length = reader.u8()?;
        let _reserved = reader.take(6)?;
        let extended = reader.u32()?;
        // 12 bytes follow whatever the length byte says, then a NUL.
        back.copy_from_slice(reader.take(12)?);
        let _nul = reader.u8();
        let plugin = if capabilities & capability::PLUGIN_AUTH == 0 {
            &[]
        } else {
            reader.until_nul()
        };
        let version = String::from_utf8_lossy(raw);
        let stripped = version.strip_prefix("5.5.5-");
        Some(Self {
            is_mariadb: stripped.is_some() || version.contains("MariaDB"),
            version: stripped.unwrap_or(&version).to_owned(),
            thread_id,
            capabilities,
            // MariaDB says that the last reserved bytes are flags by leaving LONG_PASSWORD out.
            mariadb_capabilities: if low & 1 == 0 { extended } else { 0 },
            collation,
            status,
            salt,
            plugin: String::from_utf8_lossy(plugin).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests;

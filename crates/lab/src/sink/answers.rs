//! The bytes that a sink sends, prepared once and shared by its connections.

use std::rc::Rc;

use portside_proto::handshake::server::{greeting_packet, ok_packet, one_row, row_of};

/// One row in one packet: 2^24 - 1 bytes less its length prefix, with room to spare.
pub const RESULT_MAX: usize = (1 << 24) - 64;

/// How the query begins by which a pool learns a connection's starting state (`core::pool`).
pub const FIRST_LOOK: &[u8] = b"SELECT @@character_set_client";

/// Answers it: character sets, collation, timeout, SQL mode, autocommit, their global values, `init_connect`.
const VARIABLES: [(&str, &[u8]); 10] = [
    ("client", b"utf8mb4"),
    ("results", b"utf8mb4"),
    ("collation", b"utf8mb4_general_ci"),
    ("wait_timeout", b"28800"),
    ("sql_mode", b""),
    ("autocommit", b"1"),
    ("global client", b"utf8mb4"),
    ("global collation", b"utf8mb4_general_ci"),
    ("global results", b"utf8mb4"),
    ("init_connect", b""),
];

/// Greeting, OKs, the result.
#[derive(Debug)]
pub struct Answers {
    pub greeting: Rc<[u8]>,
    /// Answer to the login packet (sequence 2).
    pub login_ok: Rc<[u8]>,
    /// Answer to any command but QUIT and a query (sequence 1).
    pub ok: Rc<[u8]>,
    /// Answer to a query.
    pub result: Rc<[u8]>,
    /// Answer to a pool's [`FIRST_LOOK`].
    pub variables: Rc<[u8]>,
}

impl Answers {
    /// One row with `answer`, or with `result_bytes` times 'x' unless that is 0.
    pub fn new(answer: &str, result_bytes: usize) -> Self {
        let result = match result_bytes {
            0 => one_row("value", answer.as_bytes()),
            size => one_row("value", &vec![b'x'; size]),
        };
        // Everybody is let in, so that the salt may be the same for all.
        let greeting = greeting_packet(1, "8.0.0-portside-sink", b"saltsaltsaltsaltsalt");
        Self {
            greeting: greeting.into(),
            login_ok: ok_packet(2).into(),
            ok: ok_packet(1).into(),
            result: result.into(),
            variables: row_of(&VARIABLES).into(),
        }
    }
}

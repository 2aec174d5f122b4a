//! What a server says, for a sink that lets everybody in and answers every query with one row.

use crate::command::{capability, marker, status, MAX_PAYLOAD};
use crate::wire::{packet, put_lenenc_bytes};

/// What the sink's greeting offers: no TLS, no compression, no `DEPRECATE_EOF`, no session tracking.
pub const CAPABILITIES: u32 = capability::LONG_PASSWORD
    | capability::FOUND_ROWS
    | capability::LONG_FLAG
    | capability::CONNECT_WITH_DB
    | capability::PROTOCOL_41
    | capability::INTERACTIVE
    | capability::TRANSACTIONS
    | capability::SECURE_CONNECTION
    | capability::MULTI_STATEMENTS
    | capability::MULTI_RESULTS
    | capability::PS_MULTI_RESULTS
    | capability::PLUGIN_AUTH
    | capability::CONNECT_ATTRS
    | capability::PLUGIN_AUTH_LENENC_DATA;

/// A greeting (sequence 0) of protocol 10 with `mysql_native_password`. `salt` has no NUL byte: clients read it
/// as a text. `version` is shown to clients, e.g. `8.0.0-portside-sink`.
pub fn greeting_packet(thread_id: u32, version: &str, salt: &[u8; 20]) -> Vec<u8> {
    let (front, back) = salt.split_at(8);
    let [low_a, low_b, high_a, high_b] = CAPABILITIES.to_le_bytes();
    let mut payload = Vec::with_capacity(80 + version.len());
    payload.push(10);
    payload.extend_from_slice(version.as_bytes());
    payload.push(0);
    payload.extend_from_slice(&thread_id.to_le_bytes());
    payload.extend_from_slice(front);
    // Filler, then half of the flags and utf8mb4_general_ci (45).
    payload.extend_from_slice(&[0, low_a, low_b, 45]);
    payload.extend_from_slice(&status::AUTOCOMMIT.to_le_bytes());
    // The other half, the salt's length with its NUL, ten reserved bytes.
    payload.extend_from_slice(&[high_a, high_b, 21]);
    payload.extend_from_slice(&[0; 10]);
    payload.extend_from_slice(back);
    payload.extend_from_slice(b"\0mysql_native_password\0");
    packet(0, &payload)
}

/// An OK: nothing changed, autocommit on.
pub fn ok_packet(sequence: u8) -> Vec<u8> {
    let [low, high] = status::AUTOCOMMIT.to_le_bytes();
    packet(sequence, &[marker::OK, 0, 0, low, high, 0, 0])
}

/// The answer to a text query: one column called `name`, one row with `value`, in the form without
/// `DEPRECATE_EOF`. Begins at sequence 1. `value` has less than 16 MiB - 4.
pub fn one_row(name: &str, value: &[u8]) -> Vec<u8> {
    row_of(&[(name, value)])
}

/// [`one_row`] with several columns, fewer than 250; their values have less than 16 MiB together.
pub fn row_of(columns: &[(&str, &[u8])]) -> Vec<u8> {
    let eof = {
        let [low, high] = status::AUTOCOMMIT.to_le_bytes();
        [marker::EOF, 0, 0, low, high]
    };
    let mut row = Vec::new();
    let mut answer = packet(1, &[columns.len() as u8]);
    let mut sequence = 2;
    for (name, value) in columns {
        answer.extend(packet(sequence, &definition(name, value.len())));
        sequence += 1;
        put_lenenc_bytes(&mut row, value);
    }
    debug_assert!(row.len() < MAX_PAYLOAD as usize);
    for payload in [&eof[..], &row, &eof] {
        answer.extend(packet(sequence, payload));
        sequence += 1;
    }
    answer
}

/// A column's definition.
fn definition(name: &str, length: usize) -> Vec<u8> {
    let mut column = Vec::with_capacity(40 + name.len());
    for text in ["def", "", "", "", name, ""] {
        put_lenenc_bytes(&mut column, text.as_bytes());
    }
    // Length of the rest, utf8mb4_general_ci, display width, VAR_STRING, no flags, no decimals, filler.
    column.extend_from_slice(&[12, 45, 0]);
    column.extend_from_slice(&(length as u32).saturating_mul(4).to_le_bytes());
    column.extend_from_slice(&[0xfd, 0, 0, 0x1f, 0, 0]);
    column
}

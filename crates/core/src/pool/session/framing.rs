//! Packets at the front of what a client has sent.

use portside_proto::command::{HEADER_LEN, MAX_PAYLOAD};

use super::LONG;

pub(super) enum Packet<'a> {
    Whole {
        sequence: u8,
        payload: &'a [u8],
    },
    /// Payload length as far as it is known.
    Incomplete(usize),
}

pub(super) fn length(input: &[u8]) -> usize {
    match input {
        [a, b, c, ..] => u32::from_le_bytes([*a, *b, *c, 0]) as usize,
        _ => 0,
    }
}

pub(super) fn packet(input: &[u8]) -> Packet<'_> {
    let length = length(input);
    match (input.get(3), input.get(HEADER_LEN..HEADER_LEN + length)) {
        (Some(&sequence), Some(payload)) => Packet::Whole { sequence, payload },
        _ => Packet::Incomplete(length),
    }
}

/// A command's sequence number, its payload as far as it is here, and whether that is all of it; None: wait for more.
pub(super) fn beginning(input: &[u8]) -> Option<(u8, &[u8], bool)> {
    match packet(input) {
        Packet::Incomplete(length) if length > LONG && input.len() > HEADER_LEN => {
            let sequence = input.get(3).copied().unwrap_or(0);
            Some((sequence, input.get(HEADER_LEN..).unwrap_or(&[]), false))
        }
        Packet::Incomplete(_) => None,
        Packet::Whole { sequence, payload } => {
            Some((sequence, payload, payload.len() < MAX_PAYLOAD as usize))
        }
    }
}

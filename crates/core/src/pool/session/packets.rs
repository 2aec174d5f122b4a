//! A command's first packet, as far as it has come.

use portside_proto::command::{HEADER_LEN, MAX_PAYLOAD};

use super::Session;

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

impl Session {
    /// How long the command at hand is, so that it can be dropped after [`Self::not_attached`]. None: longer
    /// than what has come of it.
    pub fn drop_command(input: &[u8]) -> Option<usize> {
        match packet(input) {
            Packet::Whole { payload, .. } if payload.len() < MAX_PAYLOAD as usize => {
                Some(HEADER_LEN + payload.len())
            }
            _ => None,
        }
    }
}

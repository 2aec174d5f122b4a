//! A command's packets as they come: whole ones, and long ones that are passed on in pieces.

use portside_proto::command::{HEADER_LEN, MAX_PAYLOAD};

use super::{Phase, Session, Step};

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
    pub(super) fn upload(&mut self, input: &[u8], left: usize, continues: bool) -> (usize, Step) {
        if left > 0 {
            let taken = left.min(input.len());
            self.phase = Phase::Upload {
                left: left - taken,
                continues,
            };
            let step = if taken > 0 { Step::Forward } else { Step::More };
            return (taken, step);
        }
        if !continues {
            // Long data has no reply.
            let (phase, step) = match self.verdict {
                Some(_) => (Phase::Reply, Step::Await),
                None => (Phase::Command, Step::Say(Vec::new())),
            };
            self.phase = phase;
            return (0, step);
        }
        if input.len() < HEADER_LEN {
            return (0, Step::More);
        }
        let length = length(input);
        let taken = input.len().min(HEADER_LEN + length);
        self.phase = Phase::Upload {
            left: HEADER_LEN + length - taken,
            continues: length == MAX_PAYLOAD as usize,
        };
        (taken, Step::Forward)
    }

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

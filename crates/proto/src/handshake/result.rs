//! Finds the end of a text query's answer, for clients that did not ask for `DEPRECATE_EOF`
//! (as [`super::ClientLogin`] does not).
//!
//! An answer is OK, ERR, or column count, column definitions, EOF, rows, EOF; with the status flag
//! `MORE_RESULTS_EXISTS` in its last packet another follows. Rows are skipped by length, nothing is copied but
//! the first bytes of each packet.

use crate::command::{marker, status, HEADER_LEN, MAX_PAYLOAD};
use crate::wire::{gather, split, u24};

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// OK without rows, or all rows were received.
    Complete {
        /// Rows of all results.
        rows: u64,
    },
    /// ERR; the session goes on.
    Failed {
        /// The server's error number.
        errno: u16,
    },
    /// The server asks for a file, which this client never has: close.
    WantsFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    First,
    Columns,
    Rows,
}

/// Reads one answer; make a new one for each query.
#[derive(Clone, Debug)]
pub struct QueryAnswer {
    rows: u64,
    left: u32,
    head: [u8; HEADER_LEN],
    have: u8,
    front: [u8; 21],
    front_have: u8,
    length: u32,
    in_packet: bool,
    continues: bool,
    part: Part,
}

impl Default for QueryAnswer {
    fn default() -> Self {
        Self::new()
    }
}

impl QueryAnswer {
    /// A reader before the answer's first byte.
    pub const fn new() -> Self {
        Self {
            rows: 0,
            left: 0,
            head: [0; HEADER_LEN],
            have: 0,
            front: [0; 21],
            front_have: 0,
            length: 0,
            in_packet: false,
            continues: false,
            part: Part::First,
        }
    }

    /// Takes bytes up to the answer's end. None: all were taken, more are to come.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Option<Outcome> {
        loop {
            if !self.in_packet {
                let (full, rest) = gather(&mut self.head, &mut self.have, bytes);
                *bytes = rest;
                if !full {
                    return None;
                }
                self.have = 0;
                let [length @ .., _] = self.head;
                (self.length, self.left) = (u24(length), u24(length));
                (self.in_packet, self.front_have) = (true, 0);
            }
            let (piece, rest) = split(bytes, self.left);
            self.left -= piece.len() as u32;
            *bytes = rest;
            for (to, from) in self
                .front
                .iter_mut()
                .skip(usize::from(self.front_have))
                .zip(piece)
            {
                *to = *from;
                self.front_have += 1;
            }
            if self.left > 0 {
                return None;
            }
            self.in_packet = false;
            let continuation = std::mem::replace(&mut self.continues, self.length == MAX_PAYLOAD);
            if !continuation {
                if let Some(outcome) = self.packet() {
                    return Some(outcome);
                }
            }
        }
    }

    fn packet(&mut self) -> Option<Outcome> {
        let [first, low, high, status_low, status_high, ..] = self.front;
        let is_eof = first == marker::EOF && self.length < 9;
        match (self.part, first) {
            (Part::First | Part::Rows, marker::ERR) => {
                return Some(Outcome::Failed {
                    errno: u16::from_le_bytes([low, high]),
                })
            }
            (Part::First, marker::OK) => return self.end(self.ok_status()),
            (Part::First, marker::LOCAL_INFILE) => return Some(Outcome::WantsFile),
            (Part::First, _) => self.part = Part::Columns,
            (Part::Columns, _) if is_eof => self.part = Part::Rows,
            (Part::Columns, _) => {}
            (Part::Rows, _) if is_eof => {
                return self.end(u16::from_le_bytes([status_low, status_high]));
            }
            (Part::Rows, _) => self.rows += 1,
        }
        None
    }

    /// The status flags of an OK: behind its marker and two length-encoded numbers, so within 21 bytes.
    fn ok_status(&self) -> u16 {
        let mut at = 1;
        for _ in 0..2 {
            at += match self.front.get(at) {
                Some(0xfc) => 3,
                Some(0xfd) => 4,
                Some(0xfe) => 9,
                _ => 1,
            };
        }
        match (self.front.get(at), self.front.get(at + 1)) {
            (Some(&low), Some(&high)) if at + 1 < usize::from(self.front_have) => {
                u16::from_le_bytes([low, high])
            }
            _ => 0,
        }
    }

    fn end(&mut self, flags: u16) -> Option<Outcome> {
        if flags & status::MORE_RESULTS_EXISTS == 0 {
            return Some(Outcome::Complete { rows: self.rows });
        }
        self.part = Part::First;
        None
    }
}

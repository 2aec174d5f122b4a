//! Puts a reply into the other form of result sets: with EOF packets, or without (`DEPRECATE_EOF`).
//!
//! For a client whose server connection has the other form. With EOFs there is one behind definitions and one behind
//! rows; without, none and an OK in place of an EOF. [`Reply`] says where it is, so nothing is read twice; rows are
//! copied in the pieces in which they come, under new sequence numbers. Nothing is kept but what has to wait for the
//! next packet: an EOF.
//!
//! What it must not know: which replies may be translated. Two things cannot be known here and are not right in
//! every reply: an EOF behind definitions that the server did not send has the status flags of the reply before, and
//! no warnings; and an EOF tells of no more than status and warnings. Sources: `net_send_ok`, `net_send_eof` of
//! MySQL `sql/protocol_classic.cc` and MariaDB `sql/protocol.cc`.

use crate::command::{marker, status};
use crate::reply::{End, Error, Outcome, Reply, Shape, Turn};
use crate::wire::header;

/// What becomes of the packet at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packet {
    /// Its first byte decides.
    Open(End),
    /// It goes through.
    Passes,
    /// It is an EOF, or an OK in its place.
    Ends(End),
}

/// One reply on its way. See the module's text.
#[derive(Clone, Copy, Debug)]
pub struct Reframe {
    adds_eof: bool,
    /// For EOFs that the server did not send.
    status: u16,
    /// Of the next packet that goes out.
    sequence: Option<u8>,
    packet: Packet,
    /// EOFs behind definitions that are not written yet: where a cursor was opened, there is none.
    owed: u8,
}

impl Reframe {
    /// Before the reply's first byte. `adds_eof`: the connection has `DEPRECATE_EOF` and the client has not; else the other
    /// way round. `status`: flags for an EOF behind definitions.
    pub const fn new(adds_eof: bool, status: u16) -> Self {
        Self {
            adds_eof,
            status,
            sequence: None,
            packet: Packet::Passes,
            owed: 0,
        }
    }

    /// As [`Reply::feed`], and appends to `to` what the client shall see of the bytes that were taken: at most 9 bytes
    /// more per packet.
    pub fn pass(
        &mut self,
        reply: &mut Reply,
        bytes: &mut &[u8],
        to: &mut Vec<u8>,
    ) -> Result<Option<Outcome>, Error> {
        loop {
            match reply.turn(bytes)? {
                Turn::More => return Ok(None),
                Turn::Header => self.begins(reply, to),
                Turn::Piece(piece) => {
                    self.piece(reply, piece, to);
                    return Ok(None);
                }
                Turn::End(piece, is_over) => {
                    self.piece(reply, piece, to);
                    self.ends(reply, to);
                    if is_over {
                        return Ok(Some(reply.outcome()));
                    }
                }
            }
        }
    }

    fn begins(&mut self, reply: &Reply, to: &mut Vec<u8>) {
        let (length, sequence, end) = reply.begun();
        self.sequence.get_or_insert(sequence);
        self.packet = Packet::Open(end);
        if end == End::No {
            self.let_through(length, to);
        }
    }

    fn piece(&mut self, reply: &Reply, piece: &[u8], to: &mut Vec<u8>) {
        match (self.packet, piece.first()) {
            (Packet::Open(end), Some(&marker::EOF)) => self.packet = Packet::Ends(end),
            (Packet::Open(_), Some(_)) => self.let_through(reply.begun().0, to),
            _ => {}
        }
        if self.packet == Packet::Passes {
            to.extend_from_slice(piece);
        }
    }

    fn ends(&mut self, reply: &mut Reply, to: &mut Vec<u8>) {
        self.owed += reply.take_silent_ends() * u8::from(self.adds_eof);
        let is_prepare = reply.shape() == Shape::Prepare;
        let Packet::Ends(end) = self.packet else {
            if is_prepare {
                self.put_owed(to);
            }
            return;
        };
        let (flags, warnings) = reply.said_at_end();
        let has_cursor = flags & status::CURSOR_EXISTS != 0 && !is_prepare;
        if self.adds_eof {
            if has_cursor {
                self.owed = 0;
            }
            self.put_owed(to);
            self.put_eof(flags, warnings, to);
        } else if end == End::OfRows || has_cursor {
            let ([a, b], [c, d]) = (flags.to_le_bytes(), warnings.to_le_bytes());
            self.put(&[marker::EOF, 0, 0, a, b, c, d], to);
        }
    }

    /// The packet at hand, of this length, goes through.
    fn let_through(&mut self, length: u32, to: &mut Vec<u8>) {
        self.put_owed(to);
        self.put_header(length as usize, to);
        self.packet = Packet::Passes;
    }

    fn put_owed(&mut self, to: &mut Vec<u8>) {
        for _ in 0..std::mem::take(&mut self.owed) {
            self.put_eof(self.status, 0, to);
        }
    }

    fn put_eof(&mut self, flags: u16, warnings: u16, to: &mut Vec<u8>) {
        let ([a, b], [c, d]) = (warnings.to_le_bytes(), flags.to_le_bytes());
        self.put(&[marker::EOF, a, b, c, d], to);
    }

    fn put(&mut self, payload: &[u8], to: &mut Vec<u8>) {
        self.put_header(payload.len(), to);
        to.extend_from_slice(payload);
    }

    fn put_header(&mut self, length: usize, to: &mut Vec<u8>) {
        let sequence = self.sequence.unwrap_or(0);
        to.extend_from_slice(&header(length, sequence));
        self.sequence = Some(sequence.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests;

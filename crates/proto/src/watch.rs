//! Watches the client's direction of a relayed session: is this the moment after `COM_QUIT`, may something
//! be appended, how many commands were begun.
//!
//! The relay feeds every byte that it received from the client, in order and in any pieces. Nothing is kept
//! but counters and at most eleven header bytes; payloads are skipped by length. The user name and all
//! authentication data pass by unread.
//!
//! What it must not know: sockets, the server's direction (only the greeting's capabilities and the fact
//! that login ended are told to it), close rules (`portside-core` decides by what is answered here).
//!
//! # Where a command begins, seen from one direction
//!
//! A command is a packet with sequence 0; everything a client sends within a command goes on counting: the
//! continuation of a 16 MiB packet, authentication data of `COM_CHANGE_USER`, the file of `LOAD DATA LOCAL`. The
//! count has eight bits, so the 255th data packet of a file (it began at 2) is followed by one with
//! sequence 0, and that one may hold a single byte 0x01. It is told from a QUIT by what stands before it:
//! **a packet with sequence 0 is not a command if the packet before it had sequence 255 and was not empty.**
//! A file ends with an empty packet in every client, also after a read error, so a real command after a
//! file whose last packet had sequence 255 follows an empty one and is recognised.
//!
//! In a multi-statement query the server's own packets push the count on, so a file may *begin* at sequence 0: when the
//! server's request for it had 255. The owner looks for that ([`asks_for_file`]) and tells.

use crate::command::{capability, com, marker, FRAME_HEADER_LEN, HEADER_LEN, MAX_PAYLOAD};
use crate::wire::{gather, split, u24};

/// Where the session stands, as far as the client's bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The client has not logged in yet: nothing received, or its login packet, or authentication data.
    Login,
    /// Commands. Entered by [`ClientWatch::login_done`], or by the first packet with sequence 0.
    Command,
    /// The client asked for TLS; everything from there on is opaque.
    Tls,
    /// The first bytes are no MySQL login; nothing more is read out of this session.
    Opaque,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the end of the client's first packet.
    First,
    /// The login packet was read; authentication may go on.
    Login,
    Command,
    Tls,
    Opaque,
}

/// What the last packet header means for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// Sequence 0 begins a command.
    Whole,
    /// 16 MiB - 1: the next packet belongs to it, whatever its sequence.
    Full,
    /// Sequence 255 with data: the next sequence 0 is the count wrapping round.
    Wrapping,
    /// Inside a frame that is really compressed; only a fresh frame makes packets visible again.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quit {
    No,
    /// A header that fits was the last thing received.
    Announced,
    Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// No compression.
    Plain,
    /// Frames; the present one holds packets as they are.
    Stored,
    /// Frames; the present one is compressed and skipped.
    Packed,
}

/// The watcher; 48 bytes, no heap. See the module's text.
#[derive(Clone, Debug)]
pub struct ClientWatch {
    commands: u64,
    capabilities: u32,
    server_capabilities: u32,
    /// Payload bytes of the present packet still to come.
    left: u32,
    /// Payload bytes of the present frame still to come.
    frame_left: u32,
    head: [u8; HEADER_LEN],
    frame_head: [u8; FRAME_HEADER_LEN],
    have: u8,
    frame_have: u8,
    frame_sequence: u8,
    /// Capability bytes of the login packet received, up to 4.
    capability_have: u8,
    state: State,
    last: Last,
    quit: Quit,
    framing: Framing,
}

impl Default for ClientWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientWatch {
    /// A watcher before the client's first byte.
    pub const fn new() -> Self {
        Self {
            commands: 0,
            capabilities: 0,
            server_capabilities: u32::MAX,
            left: 0,
            frame_left: 0,
            head: [0; HEADER_LEN],
            frame_head: [0; FRAME_HEADER_LEN],
            have: 0,
            frame_have: 0,
            frame_sequence: 0,
            capability_have: 0,
            state: State::First,
            last: Last::Whole,
            quit: Quit::No,
            framing: Framing::Plain,
        }
    }

    /// Takes the flags of the server's greeting. Compression is used only if both sides have it; without
    /// this call the client's word counts alone. To be called before the client's login packet is fed.
    pub fn set_server_capabilities(&mut self, capabilities: u32) {
        self.server_capabilities = capabilities;
    }

    /// Takes note that the server's OK to the login went by: commands follow, compressed if so agreed.
    ///
    /// Not strictly needed (the first packet with sequence 0 says the same), but [`Self::phase`] and
    /// [`Self::at_boundary`] are right earlier with it. Without effect after TLS and in command phase.
    pub fn login_done(&mut self) {
        match self.state {
            // An OK to a login that nobody sent: not a conversation we understand.
            State::First => self.state = State::Opaque,
            State::Login => self.begin_commands(),
            State::Command | State::Tls | State::Opaque => {}
        }
    }

    /// Whether the server may ask this client for files, and would be seen asking.
    pub fn may_send_files(&self) -> bool {
        self.capabilities & capability::LOCAL_FILES != 0 && !self.is_compressed()
    }

    /// Takes note that the server has asked for a file in a packet of sequence 255 ([`asks_for_file`]): what follows with
    /// sequence 0 is that file, not a command.
    pub fn file_begins(&mut self) {
        if self.at_boundary() {
            self.last = Last::Wrapping;
        }
    }

    /// Looks at the next bytes of the client. O(packets) for whole packets, never O(bytes); no allocation.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match (self.state, self.framing) {
                (State::Tls | State::Opaque, _) => return,
                (_, Framing::Plain) => self.packet_bytes(bytes),
                (_, Framing::Stored | Framing::Packed) => self.frame_bytes(bytes),
            };
        }
    }

    /// Where the session stands.
    pub const fn phase(&self) -> Phase {
        match self.state {
            State::First | State::Login => Phase::Login,
            State::Command => Phase::Command,
            State::Tls => Phase::Tls,
            State::Opaque => Phase::Opaque,
        }
    }

    /// Whether the last bytes received are a `COM_QUIT`: length 1, sequence 0, payload 0x01, in command phase,
    /// also behind other commands. Any byte after it makes this false again.
    ///
    /// With compression: a `COM_QUIT` that ends with a frame which is stored uncompressed. That is what every
    /// client sends, since packets under 50 bytes are not compressed (`MIN_COMPRESS_LENGTH`). It may be split
    /// over such frames. Not recognised: a QUIT inside a really compressed frame. Never true after TLS.
    pub fn quit_seen(&self) -> bool {
        self.quit == Quit::Seen && self.frame_left == 0 && self.frame_have == 0
    }

    /// Whether a packet of our own (a QUIT) may follow what was received: command phase, and no packet, no
    /// 16 MiB continuation, no frame and no wrapping run of file packets is incomplete.
    ///
    /// Inside a `LOAD DATA LOCAL` this can be true between two file packets. A QUIT there has the wrong
    /// sequence, so the server refuses it and rolls back; it cannot become part of the file. Really
    /// compressed frames are taken as whole commands.
    pub fn at_boundary(&self) -> bool {
        self.state == State::Command
            && self.have == 0
            && self.left == 0
            && self.frame_have == 0
            && self.frame_left == 0
            && matches!(self.last, Last::Whole | Last::Lost)
    }

    /// Commands begun, QUIT included. Of commands that share a compressed frame one is counted.
    pub const fn commands(&self) -> u64 {
        self.commands
    }

    /// Capability flags of the client's login packet or TLS request (16 bits of the form before 4.1); None
    /// before that packet is complete.
    pub fn capabilities(&self) -> Option<u32> {
        match self.state {
            State::First | State::Opaque => None,
            State::Login | State::Command | State::Tls => Some(self.capabilities),
        }
    }

    /// Whether both sides agreed on compression (zlib or zstd, the frames are the same), so that
    /// [`crate::quit::QUIT_COMPRESSED`] is the right form once commands have begun.
    pub fn is_compressed(&self) -> bool {
        let wanted = capability::COMPRESS | capability::ZSTD_COMPRESSION;
        self.capabilities & self.server_capabilities & wanted != 0
    }

    fn begin_commands(&mut self) {
        self.state = State::Command;
        if !self.is_compressed() {
            return;
        }
        if self.left > 0 {
            // The server answered in the middle of a packet: the two forms cannot be told apart any more.
            self.state = State::Opaque;
            return;
        }
        // Header bytes that came early are the first bytes of a frame's header.
        self.framing = Framing::Stored;
        for (to, from) in self.frame_head.iter_mut().zip(self.head) {
            *to = from;
        }
        self.frame_have = self.have;
        self.have = 0;
    }

    /// Takes one header or one stretch of payload; returns what is left.
    fn packet_bytes<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.left > 0 {
            return self.payload(bytes);
        }
        self.quit = Quit::No;
        let (header, rest) = match gather(&mut self.head, &mut self.have, bytes) {
            (true, rest) => (self.head, rest),
            (false, rest) => return rest,
        };
        self.have = 0;
        let [length @ .., sequence] = header;
        self.packet(u24(length), sequence);
        rest
    }

    fn packet(&mut self, length: u32, sequence: u8) {
        match self.state {
            State::First if length < LOGIN_MIN => {
                self.state = State::Opaque;
                return;
            }
            State::Login if sequence == 0 && self.last == Last::Whole => {
                self.have = HEADER_LEN as u8;
                self.begin_commands();
                if self.framing != Framing::Plain {
                    return;
                }
                self.have = 0;
            }
            _ => {}
        }
        self.left = length;
        if sequence == 0 && self.last == Last::Whole && self.state == State::Command {
            self.commands += 1;
            if length == 1 {
                self.quit = Quit::Announced;
            }
        }
        self.last = if length == MAX_PAYLOAD {
            Last::Full
        } else if sequence == u8::MAX && (length > 0 || self.last == Last::Full) {
            Last::Wrapping
        } else {
            Last::Whole
        };
    }

    fn payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (piece, rest) = split(bytes, self.left);
        self.left -= piece.len() as u32;
        if self.quit == Quit::Announced {
            self.quit = if piece.first() == Some(&com::QUIT) {
                Quit::Seen
            } else {
                Quit::No
            };
        }
        if self.state == State::First {
            self.login_payload(piece);
        }
        rest
    }

    /// Collects the capability flags, the first two or four bytes of the login packet and of the TLS request.
    fn login_payload(&mut self, piece: &[u8]) {
        for &byte in piece.iter().take(4 - usize::from(self.capability_have)) {
            self.capabilities |= u32::from(byte) << (8 * self.capability_have);
            self.capability_have += 1;
        }
        if self.left > 0 {
            return;
        }
        if self.capabilities & capability::PROTOCOL_41 == 0 {
            // HandshakeResponse320: two bytes of flags, then the largest packet.
            self.capabilities &= 0xffff;
        }
        // Servers look at the flag alone, whatever the packet's length (sql/auth/sql_authentication.cc).
        self.state = if self.capabilities & capability::SSL == 0 {
            State::Login
        } else {
            State::Tls
        };
    }

    fn frame_bytes<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.frame_left > 0 {
            let (mut piece, rest) = split(bytes, self.frame_left);
            self.frame_left -= piece.len() as u32;
            while self.framing == Framing::Stored && !piece.is_empty() {
                piece = self.packet_bytes(piece);
            }
            return rest;
        }
        if self.quit == Quit::Seen {
            self.quit = Quit::No;
        }
        let (header, rest) = match gather(&mut self.frame_head, &mut self.frame_have, bytes) {
            (true, rest) => (self.frame_head, rest),
            (false, rest) => return rest,
        };
        self.frame_have = 0;
        let [a, b, c, sequence, unpacked @ ..] = header;
        self.frame_left = u24([a, b, c]);
        self.frame(sequence, u24(unpacked) > 0);
        rest
    }

    /// Clients set both counts to 0 for every command (`net_clear`), so a frame with sequence 0 that does not
    /// come from wrapping round begins with a packet header.
    fn frame(&mut self, sequence: u8, packed: bool) {
        let fresh = sequence == 0 && self.frame_sequence != u8::MAX;
        self.frame_sequence = sequence;
        if packed {
            let within = self.last != Last::Lost
                && (self.have > 0 || self.left > 0 || self.last == Last::Full);
            if fresh && !within {
                self.commands += 1;
            }
            self.last = Last::Lost;
        } else if fresh && self.last == Last::Lost {
            self.last = Last::Whole;
        }
        if self.last == Last::Lost {
            self.framing = Framing::Packed;
            self.quit = Quit::No;
            self.have = 0;
            self.left = 0;
        } else {
            self.framing = Framing::Stored;
        }
    }
}

/// Whether bytes from the server end with a request for a file (`LOAD DATA LOCAL`) of sequence 255. Looks at the last 517
/// bytes, and in most answers at no more than that none of them is 0xFB.
///
/// Source: MySQL `net_request_file` (sql/sql_load.cc): 0xFB and the name, at most 512 bytes (`FN_REFLEN`).
pub fn asks_for_file(bytes: &[u8]) -> bool {
    let tail = bytes.get(bytes.len().saturating_sub(FILE_REQUEST_MAX)..);
    let Some(tail) = tail.filter(|tail| tail.contains(&marker::LOCAL_INFILE)) else {
        return false;
    };
    (0..tail.len()).any(|start| match tail.get(start..) {
        Some([a, b, c, u8::MAX, payload @ ..]) => {
            payload.first() == Some(&marker::LOCAL_INFILE)
                && u24([*a, *b, *c]) as usize == payload.len()
        }
        _ => false,
    })
}

/// A header, the marker, and the longest file name.
const FILE_REQUEST_MAX: usize = HEADER_LEN + 1 + 512;

/// Two bytes of flags and three of the largest packet: the TLS request before 4.1, the shortest of all.
const LOGIN_MIN: u32 = 5;

#[cfg(test)]
mod tests;

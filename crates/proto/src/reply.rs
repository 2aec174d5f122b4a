//! Finds the end of the server's reply to a command, and what its last packets say.
//!
//! For pool mode: bytes are relayed as they are, so the tracker looks at headers and at the first bytes of
//! each packet and skips the rest by length. O(packets), no allocation, no copy but at most 24 bytes of a
//! packet that a read happened to split. Both forms are known, with and without `DEPRECATE_EOF`.
//!
//! What it must not know: the session, what a reply means for it. A server that breaks the protocol ends in
//! [`Error`]: the connection is of no more use.

use crate::command::{capability, com, extended, marker, status};
use crate::command::{HEADER_LEN, MAX_PAYLOAD, PROGRESS_REPORT};
use crate::wire::{gather, split, u24, Reader};

/// Bytes of a packet that are looked at: marker, two length-encoded numbers, status, warnings.
const FRONT: usize = 24;

/// The shape of a command's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing (`STMT_CLOSE`, `STMT_SEND_LONG_DATA`).
    Nothing,
    /// One OK, EOF or ERR.
    Ok,
    /// One packet of text (`STATISTICS`).
    Text,
    /// OK, ERR, or result sets.
    Results,
    /// Column definitions up to EOF (`FIELD_LIST`).
    Fields,
    /// Statement id, parameter and column definitions.
    Prepare,
    /// Rows up to EOF (`STMT_FETCH`).
    Rows,
}

impl Shape {
    /// The shape of the reply to a command; None: not a command that is known here.
    pub const fn of(command: u8) -> Option<Self> {
        Some(match command {
            com::QUERY | com::STMT_EXECUTE | STMT_BULK_EXECUTE => Self::Results,
            com::INIT_DB
            | com::PING
            | com::RESET_CONNECTION
            | com::STMT_RESET
            | com::SET_OPTION
            | com::PROCESS_KILL => Self::Ok,
            com::STATISTICS => Self::Text,
            com::FIELD_LIST => Self::Fields,
            com::STMT_PREPARE => Self::Prepare,
            com::STMT_FETCH => Self::Rows,
            com::STMT_CLOSE | com::STMT_SEND_LONG_DATA => Self::Nothing,
            _ => return None,
        })
    }
}

/// MariaDB's bulk execution.
pub const STMT_BULK_EXECUTE: u8 = 0xfa;

/// FNV-1a, 64 bit: its start and its prime.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

/// What a finished reply said; of several results the last, but for the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Error number of the ERR that ended it.
    pub error: Option<u16>,
    /// Status flags of the last OK or EOF; None when there was none (an ERR alone, a text).
    pub status: Option<u16>,
    /// Warnings of all results.
    pub warnings: u32,
    /// Rows changed, of all results.
    pub affected: u64,
    /// The last insert id that is not 0.
    pub insert_id: u64,
    /// Whether a result set was sent.
    pub has_rows: bool,
    /// Id of the statement that was prepared.
    pub statement: Option<u32>,
    /// Its parameters.
    pub parameters: u16,
    /// A digest of its definitions (FNV-1a): equal for a statement whose parameters and columns are the same. 0: they
    /// were left out.
    pub definitions: u64,
}

/// Bytes of a file's name at most; a path on any system is shorter.
const FILE_NAME_MAX: usize = 4096;

/// The server broke the protocol, or asks for what was not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A local file was asked for, and LOCAL INFILE was not offered.
    #[error("the server asks for a local file, which was not offered")]
    WantsFile,
    /// A packet that fits nowhere.
    #[error("the server's reply is malformed")]
    Malformed,
}

/// What one turn of reading came to.
pub(crate) enum Turn<'a> {
    /// Bytes are missing.
    More,
    /// A packet's header.
    Header,
    /// Bytes of a packet that is not over; there are no more.
    Piece(&'a [u8]),
    /// The last bytes of a packet, and whether they are the reply's.
    End(&'a [u8], bool),
}

/// What a packet that begins may be, if its first byte is that of an EOF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// No end of anything.
    No,
    /// That of definitions.
    OfDefinitions,
    /// That of rows, or the whole answer.
    OfRows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The first packet of a reply or of a further result.
    First,
    /// Column or parameter definitions, so many to come.
    Definitions(u64),
    /// The EOF behind them.
    DefinitionsEnd,
    /// Rows, or definitions of unknown number.
    Rows,
}

/// Reads one reply; make a new one for each command.
#[derive(Clone, Debug)]
pub struct Reply {
    shape: Shape,
    deprecate_eof: bool,
    /// Definitions may be left out, and a byte tells.
    optional_metadata: bool,
    /// Reports of progress may come.
    progress: bool,
    /// Files of the client may be asked for.
    local_files: bool,
    /// The file that is asked for.
    file: Vec<u8>,
    wants_file: bool,
    part: Part,
    /// `Prepare`: definitions of columns still to come after those of parameters.
    columns: u64,
    /// The server leaves out the definitions, but not the EOFs behind them.
    is_bare: bool,
    /// The result set is OUT parameters: an OK follows, of which MySQL's EOF behind the row says nothing.
    has_out_parameters: bool,
    outcome: Outcome,
    /// Ends of definitions that no packet has told of.
    silent_ends: u8,
    head: [u8; HEADER_LEN],
    have: u8,
    front: [u8; FRONT],
    front_have: u8,
    length: u32,
    left: u32,
    in_packet: bool,
    has_begun: bool,
    /// The packet before had 16 MiB - 1: this one belongs to it.
    continues: bool,
}

impl Reply {
    /// A reader before the reply's first byte. `capabilities` are those of the connection.
    pub const fn new(shape: Shape, capabilities: u64) -> Self {
        Self {
            shape,
            deprecate_eof: capabilities & capability::DEPRECATE_EOF as u64 != 0,
            optional_metadata: capabilities & capability::OPTIONAL_RESULTSET_METADATA as u64 != 0,
            progress: capabilities & extended::PROGRESS != 0,
            local_files: capabilities & capability::LOCAL_FILES as u64 != 0,
            file: Vec::new(),
            wants_file: false,
            part: match shape {
                Shape::Fields | Shape::Rows => Part::Rows,
                _ => Part::First,
            },
            columns: 0,
            is_bare: false,
            has_out_parameters: false,
            outcome: Outcome {
                error: None,
                status: None,
                warnings: 0,
                affected: 0,
                insert_id: 0,
                has_rows: false,
                statement: None,
                parameters: 0,
                definitions: 0,
            },
            silent_ends: 0,
            head: [0; HEADER_LEN],
            have: 0,
            front: [0; FRONT],
            front_have: 0,
            length: 0,
            left: 0,
            in_packet: false,
            has_begun: false,
            continues: false,
        }
    }

    /// Whether not a byte of it has come.
    pub const fn is_untouched(&self) -> bool {
        !self.has_begun
    }

    /// The name of the file that the client is asked for, once: then it sends packets, the last of them empty,
    /// and the reply goes on.
    pub fn take_file(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.wants_file).then(|| std::mem::take(&mut self.file))
    }

    /// Takes bytes up to the reply's end. None: all were taken, more are to come; or all up to the end of a
    /// request for a file ([`Self::take_file`]).
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Result<Option<Outcome>, Error> {
        loop {
            match self.turn(bytes)? {
                Turn::More | Turn::Piece(_) => return Ok(None),
                Turn::End(_, true) => return Ok(Some(self.outcome)),
                Turn::End(..) if self.wants_file => return Ok(None),
                Turn::Header | Turn::End(..) => {}
            }
        }
    }

    /// Takes a header, or bytes of one packet. An empty packet has an end all the same.
    pub(crate) fn turn<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Turn<'a>, Error> {
        self.has_begun |= !bytes.is_empty();
        if !self.in_packet {
            let (full, rest) = gather(&mut self.head, &mut self.have, bytes);
            *bytes = rest;
            if !full {
                return Ok(Turn::More);
            }
            self.have = 0;
            let [length @ .., _] = self.head;
            (self.length, self.left) = (u24(length), u24(length));
            (self.in_packet, self.front_have) = (true, 0);
            self.digest(&length);
            return Ok(Turn::Header);
        }
        let (piece, rest) = split(bytes, self.left);
        self.left -= piece.len() as u32;
        *bytes = rest;
        self.keep_front(piece);
        self.digest(piece);
        self.keep_file(piece)?;
        if self.left > 0 {
            return Ok(Turn::Piece(piece));
        }
        self.in_packet = false;
        let continuation = std::mem::replace(&mut self.continues, self.length == MAX_PAYLOAD);
        Ok(Turn::End(piece, !continuation && self.packet()?))
    }

    /// After a header: payload length, sequence number, and what the packet may be the end of.
    pub(crate) fn begun(&self) -> (u32, u8, End) {
        let [.., sequence] = self.head;
        let end = match (self.part, self.shape) {
            _ if self.continues || !self.is_end_of_rows() => End::No,
            (Part::DefinitionsEnd, _) => End::OfDefinitions,
            (Part::Rows, _) | (Part::First, Shape::Ok) => End::OfRows,
            _ => End::No,
        };
        (self.length, sequence, end)
    }

    /// Status flags and warnings of the EOF, or of the OK in its place, that came last.
    pub(crate) fn said_at_end(&self) -> (u16, u16) {
        let mut reader = Reader(self.front());
        let _marker = reader.u8();
        if self.deprecate_eof {
            let _counts = (reader.lenenc(), reader.lenenc());
            return (reader.u16().unwrap_or(0), reader.u16().unwrap_or(0));
        }
        let warnings = reader.u16().unwrap_or(0);
        (reader.u16().unwrap_or(0), warnings)
    }

    /// Ends of definitions since the last call that only the number of definitions told of.
    pub(crate) fn take_silent_ends(&mut self) -> u8 {
        std::mem::take(&mut self.silent_ends)
    }

    /// Its shape.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// What it has said so far.
    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome
    }

    fn keep_front(&mut self, piece: &[u8]) {
        let have = usize::from(self.front_have);
        for (to, from) in self.front.iter_mut().skip(have).zip(piece) {
            *to = *from;
        }
        self.front_have = (have + piece.len()).min(FRONT) as u8;
    }

    /// Takes definitions of a prepared statement into account: they tell whether it is still the same elsewhere.
    fn digest(&mut self, piece: &[u8]) {
        if self.shape == Shape::Prepare
            && !self.is_bare
            && matches!(self.part, Part::Definitions(_))
        {
            self.outcome.definitions = fnv(self.outcome.definitions, piece);
        }
    }

    /// Keeps a request for a file whole, marker and name.
    fn keep_file(&mut self, piece: &[u8]) -> Result<(), Error> {
        let begins = self.front().first() == Some(&marker::LOCAL_INFILE);
        if !(begins && self.part == Part::First && self.shape == Shape::Results) {
            return Ok(());
        }
        if !self.local_files {
            return Err(Error::WantsFile);
        }
        if self.file.len() + piece.len() > FILE_NAME_MAX {
            return Err(Error::Malformed);
        }
        self.file.extend_from_slice(piece);
        Ok(())
    }

    fn front(&self) -> &[u8] {
        self.front
            .get(..usize::from(self.front_have))
            .unwrap_or(&[])
    }

    /// One packet is complete. True: the reply is.
    fn packet(&mut self) -> Result<bool, Error> {
        let first = self.front().first().copied();
        if self.progress && self.is_progress_report() {
            return Ok(false);
        }
        match (self.part, first) {
            (Part::First, _) if self.shape == Shape::Text => {
                // An ERR is a text, too, for a command that has no other end.
                if first == Some(marker::ERR) {
                    return self.failed();
                }
                Ok(true)
            }
            (_, None) => Err(Error::Malformed),
            // MySQL 9.7 opens a cursor behind the definitions, and may fail there.
            (Part::First | Part::DefinitionsEnd | Part::Rows, Some(marker::ERR)) => self.failed(),
            (Part::First, Some(first)) => self.first_packet(first),
            (Part::Definitions(1), _) => {
                self.definitions_over();
                Ok(self.part == Part::First)
            }
            (Part::Definitions(n), _) => {
                self.part = Part::Definitions(n - 1);
                Ok(false)
            }
            (Part::DefinitionsEnd, Some(marker::EOF)) => {
                let flags = self.eof_flags()?;
                Ok(self.after_definitions(flags))
            }
            (Part::DefinitionsEnd, _) => Err(Error::Malformed),
            (Part::Rows, Some(marker::EOF)) if self.is_end_of_rows() => {
                let flags = if self.deprecate_eof {
                    self.ok_flags()?
                } else {
                    let flags = self.eof_flags()?;
                    self.outcome.warnings += self.eof_warnings();
                    flags
                };
                Ok(self.result_over(flags))
            }
            (Part::Rows, _) => Ok(false),
        }
    }

    fn is_progress_report(&self) -> bool {
        let [low, high] = PROGRESS_REPORT.to_le_bytes();
        matches!(self.front(), [marker::ERR, a, b, ..] if (*a, *b) == (low, high))
    }

    fn first_packet(&mut self, first: u8) -> Result<bool, Error> {
        match (self.shape, first) {
            (Shape::Prepare, marker::OK) => self.prepared(),
            (Shape::Ok, marker::EOF) if self.length < 9 => {
                // COM_SET_OPTION answers with EOF.
                let flags = self.eof_flags()?;
                Ok(self.result_over(flags))
            }
            (Shape::Ok | Shape::Results, marker::OK) => {
                let flags = self.ok_flags()?;
                Ok(self.result_over(flags))
            }
            (Shape::Ok, marker::EOF) if self.deprecate_eof => {
                let flags = self.ok_flags()?;
                Ok(self.result_over(flags))
            }
            (Shape::Results, marker::LOCAL_INFILE) => {
                self.file.remove(0);
                self.wants_file = true;
                Ok(false)
            }
            (Shape::Results, _) => {
                let mut reader = Reader(self.front());
                let count = reader.lenenc().ok_or(Error::Malformed)?;
                if count == 0 {
                    return Err(Error::Malformed);
                }
                self.is_bare = self.optional_metadata && reader.u8() == Some(0);
                self.outcome.has_rows = true;
                self.definitions(count);
                Ok(false)
            }
            _ => Err(Error::Malformed),
        }
    }

    fn failed(&mut self) -> Result<bool, Error> {
        let mut reader = Reader(self.front());
        let _marker = reader.u8();
        self.outcome.error = Some(reader.u16().ok_or(Error::Malformed)?);
        Ok(true)
    }

    /// Statement id, columns, parameters. Source: MySQL `sql/protocol_classic.cc`, `store_ps_status`.
    fn prepared(&mut self) -> Result<bool, Error> {
        let mut reader = Reader(self.front());
        let _marker = reader.u8();
        let mut read = || {
            let counts = (reader.u32()?, reader.u16()?, reader.u16()?);
            let _filler = reader.u8();
            Some((counts, reader.u16().unwrap_or(0), reader.u8()))
        };
        let ((id, columns, parameters), warnings, metadata) = read().ok_or(Error::Malformed)?;
        self.is_bare = self.optional_metadata && metadata == Some(0);
        self.outcome.statement = Some(id);
        self.outcome.warnings = u32::from(warnings);
        self.outcome.parameters = parameters;
        if !self.is_bare {
            self.outcome.definitions = fnv(FNV_START, &columns.to_le_bytes());
        }
        self.columns = u64::from(columns);
        if parameters > 0 {
            self.definitions(u64::from(parameters));
            return Ok(self.part == Part::First);
        }
        Ok(!self.next_columns())
    }

    /// So many definitions follow, or are left out.
    fn definitions(&mut self, count: u64) {
        if self.is_bare {
            self.definitions_over();
        } else {
            self.part = Part::Definitions(count);
        }
    }

    fn next_columns(&mut self) -> bool {
        let columns = std::mem::take(&mut self.columns);
        self.part = Part::First;
        if columns > 0 {
            self.definitions(columns);
        }
        self.part != Part::First
    }

    fn definitions_over(&mut self) {
        if !self.deprecate_eof {
            self.part = Part::DefinitionsEnd;
            return;
        }
        // Two at most, a statement's of parameters and columns.
        self.silent_ends = self.silent_ends.saturating_add(1);
        if self.shape == Shape::Prepare {
            self.next_columns();
        } else {
            self.part = Part::Rows;
        }
    }

    /// The EOF between definitions and rows. True: nothing follows.
    fn after_definitions(&mut self, flags: u16) -> bool {
        if self.shape == Shape::Prepare {
            return !self.next_columns();
        }
        if flags & status::CURSOR_EXISTS != 0 {
            self.outcome.warnings += self.eof_warnings();
            return self.result_over(flags);
        }
        self.has_out_parameters = flags & status::PS_OUT_PARAMS != 0;
        self.part = Part::Rows;
        false
    }

    /// A row whose first value has 16 MiB or more begins with 0xfe as well, but is longer.
    fn is_end_of_rows(&self) -> bool {
        let limit = if self.deprecate_eof { MAX_PAYLOAD } else { 9 };
        self.length < limit
    }

    fn result_over(&mut self, flags: u16) -> bool {
        self.outcome.status = Some(flags);
        self.part = Part::First;
        let is_last = !std::mem::take(&mut self.has_out_parameters);
        is_last && flags & status::MORE_RESULTS_EXISTS == 0
    }

    fn eof_flags(&self) -> Result<u16, Error> {
        match self.front() {
            [_, _, _, low, high, ..] => Ok(u16::from_le_bytes([*low, *high])),
            _ => Err(Error::Malformed),
        }
    }

    fn eof_warnings(&self) -> u32 {
        match self.front() {
            [_, low, high, ..] => u32::from(u16::from_le_bytes([*low, *high])),
            _ => 0,
        }
    }

    /// Reads an OK packet: affected rows, insert id, flags, warnings.
    fn ok_flags(&mut self) -> Result<u16, Error> {
        let mut reader = Reader(self.front());
        let _marker = reader.u8();
        let mut read = || {
            let counts = (reader.lenenc()?, reader.lenenc()?);
            Some((counts, reader.u16()?, reader.u16()?))
        };
        let ((affected, insert_id), flags, warnings) = read().ok_or(Error::Malformed)?;
        self.outcome.affected = self.outcome.affected.saturating_add(affected);
        if insert_id > 0 {
            self.outcome.insert_id = insert_id;
        }
        self.outcome.warnings += u32::from(warnings);
        Ok(flags)
    }
}

#[cfg(test)]
mod tests;

//! Prepared statements on their way through: what an EXECUTE says, and the numbers that are exchanged in packets.
//!
//! For pool mode, where a statement's id towards the client is not the server's, and where a server connection
//! may have to be told the types of parameters that another one knows. Nothing is copied but a packet that types
//! are put into. It must not know: whose the statements are. Source: MySQL `sql/protocol_classic.cc`
//! (`parse_packet`), MariaDB `sql/sql_prepare.cc`.

use crate::command::{com, marker, HEADER_LEN, MAX_PAYLOAD};
use crate::parameters::{self, COUNT_AVAILABLE};
use crate::reply::{Outcome, Reply, Shape};
use crate::single::{Malformed, ServerError};
use crate::wire::{header, Reader};

/// MariaDB: the statement prepared last on the connection.
pub const LAST_PREPARED: u32 = u32::MAX;

/// The bulk execution's flag (MariaDB): types follow.
const SEND_TYPES: u16 = 128;

/// The statement's id in the argument of a statement's command.
pub fn id(argument: &[u8]) -> Option<u32> {
    argument.first_chunk().map(|id| u32::from_le_bytes(*id))
}

/// Whether a bulk execution brings the types of its parameters.
pub fn bulk_has_types(argument: &[u8]) -> bool {
    let mut reader = Reader(argument);
    let _id = reader.u32();
    reader.u16().is_some_and(|flags| flags & SEND_TYPES != 0)
}

/// What an EXECUTE says before its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// A cursor is wanted.
    pub has_cursor: bool,
    /// Whether there are parameters, or attributes.
    pub has_parameters: bool,
    /// Types (with names, where attributes were agreed on) as they stand in the packet; None: those of last time.
    pub types: Option<&'a [u8]>,
    /// Where the bind flag stands in the argument.
    bind_at: usize,
}

/// Why an EXECUTE cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It ends before its values begin.
    Short,
    /// Attributes were agreed on, and it does not say how many parameters it has.
    Unclear,
}

impl<'a> Execute<'a> {
    /// Reads the argument of an EXECUTE as far as it has come. `parameters`: of the statement; `attributes`: the
    /// connection has `QUERY_ATTRIBUTES`. O(parameters), no allocation.
    pub fn read(argument: &'a [u8], parameters: u16, attributes: bool) -> Result<Self, Unread> {
        let flags = *argument.get(4).ok_or(Unread::Short)?;
        if attributes && parameters > 0 && flags & COUNT_AVAILABLE == 0 {
            return Err(Unread::Unclear);
        }
        let found = parameters::execute(argument, parameters, attributes).ok_or(Unread::Short)?;
        Ok(Self {
            has_cursor: found.flags & !COUNT_AVAILABLE != 0,
            has_parameters: found.count > 0,
            types: found.types.and_then(|types| argument.get(types)),
            bind_at: found.bind.unwrap_or(0),
        })
    }

    /// The packet (or its beginning, as far as it has come) with this id and these types put in. None: it would
    /// not fit into one packet any more.
    pub fn with_types(&self, packet: &[u8], id: u32, types: &[u8]) -> Option<Vec<u8>> {
        let ([a, b, c, sequence], payload) = packet.split_first_chunk::<HEADER_LEN>()?;
        let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize + types.len();
        if length >= MAX_PAYLOAD as usize {
            return None;
        }
        // The command stands before the argument.
        let (before, after) = payload.split_at_checked(1 + self.bind_at)?;
        let mut bytes = Vec::with_capacity(packet.len() + types.len());
        bytes.extend_from_slice(&header(length, *sequence));
        bytes.extend_from_slice(before);
        bytes.push(1);
        bytes.extend_from_slice(types);
        bytes.extend_from_slice(after.get(1..)?);
        renumber(&mut bytes, id);
        Some(bytes)
    }
}

/// Puts another statement id into a statement's command.
pub fn renumber(packet: &mut [u8], id: u32) {
    if let Some(place) = packet.get_mut(HEADER_LEN + 1..HEADER_LEN + 5) {
        place.copy_from_slice(&id.to_le_bytes());
    }
}

/// Appends a CLOSE.
pub fn put_close(to: &mut Vec<u8>, id: u32) {
    to.extend_from_slice(&header(5, 0));
    to.push(com::STMT_CLOSE);
    to.extend_from_slice(&id.to_le_bytes());
}

/// Puts another id into the reply to a PREPARE as its bytes pass.
#[derive(Clone, Copy, Debug)]
pub struct Renumber {
    id: [u8; 4],
    /// Bytes of the reply so far, up to those behind the id.
    seen: u8,
    is_ok: bool,
}

impl Renumber {
    /// Before the reply's first byte.
    pub const fn new(id: u32) -> Self {
        Self {
            id: id.to_le_bytes(),
            seen: 0,
            is_ok: false,
        }
    }

    /// The next bytes of the reply.
    pub fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            match self.seen {
                0..=3 => {}
                4 => self.is_ok = *byte == marker::OK,
                5..=8 if self.is_ok => {
                    *byte = self.id.get(usize::from(self.seen) - 5).map_or(0, |id| *id);
                }
                _ => return,
            }
            self.seen += 1;
        }
    }
}

/// Bytes of a reply that are kept to read an ERR from: header, marker, number, state and 512 of text.
const FRONT: usize = 528;

/// Reads the reply to a PREPARE of our own.
#[derive(Debug)]
pub struct Prepared {
    reply: Reply,
    front: Vec<u8>,
}

impl Prepared {
    /// Before the reply's first byte.
    pub const fn new(capabilities: u64) -> Self {
        Self {
            reply: Reply::new(Shape::Prepare, capabilities),
            front: Vec::new(),
        }
    }

    /// Takes bytes up to the reply's end. None: all were taken, more are to come.
    #[allow(clippy::type_complexity)] // as in `Single::feed`
    pub fn feed(
        &mut self,
        bytes: &mut &[u8],
    ) -> Result<Option<Result<Outcome, ServerError>>, Malformed> {
        let given = *bytes;
        let outcome = self.reply.feed(bytes).map_err(|_| Malformed)?;
        let used = given.len() - bytes.len();
        let room = FRONT - self.front.len().min(FRONT);
        self.front
            .extend(given.iter().take(used.min(room)).copied());
        let Some(outcome) = outcome else {
            return Ok(None);
        };
        if outcome.error.is_none() {
            return Ok(Some(Ok(outcome)));
        }
        let payload = self.front.get(HEADER_LEN..).unwrap_or(&[]);
        Ok(Some(Err(ServerError::read(payload).ok_or(Malformed)?)))
    }
}

#[cfg(test)]
mod tests;

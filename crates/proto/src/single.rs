//! Short replies to commands of our own: one OK or ERR, or one row of texts.
//!
//! For what pool mode sends by itself (settings, schema, reset, the first look at a server). Unlike
//! [`crate::reply`], which passes a client's reply on, this keeps the bytes, so they are bounded.

use crate::command::{capability, marker};
use crate::err::cut;
use crate::wire::{packet, Assembler, Reader};

/// Payload bytes of such a reply at most: an OK with session tracking has a few hundred.
const REPLY_MAX: usize = 16 * 1024;

/// An ERR of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// Error number.
    pub errno: u16,
    /// SQLSTATE.
    pub state: [u8; 5],
    /// Text, at most 512 bytes.
    pub message: String,
}

/// Not a reply that belongs here; the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's reply is malformed")]
pub struct Malformed;

/// Reads replies of one packet each.
#[derive(Debug, Default)]
pub struct Single {
    assembler: Assembler,
}

impl Single {
    /// Takes bytes up to the end of one reply. None: all were taken, more are to come.
    #[allow(clippy::type_complexity)] // broken, complete, and the server's own word are three things
    pub fn feed(
        &mut self,
        bytes: &mut &[u8],
    ) -> Result<Option<Result<(), ServerError>>, Malformed> {
        let reply = self
            .assembler
            .next(bytes, REPLY_MAX, |_, payload| read(payload));
        match reply {
            Ok(None) => Ok(None),
            Ok(Some(reply)) => reply.map(Some),
            Err(_) => Err(Malformed),
        }
    }
}

fn read(payload: &[u8]) -> Result<Result<(), ServerError>, Malformed> {
    match payload.first() {
        Some(&(marker::OK | marker::EOF)) => Ok(Ok(())),
        Some(&marker::ERR) => Ok(Err(ServerError::read(payload).ok_or(Malformed)?)),
        _ => Err(Malformed),
    }
}

impl ServerError {
    /// Reads an ERR packet's payload.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let _marker = reader.u8()?;
        let errno = reader.u16()?;
        let mut state = *b"HY000";
        if reader.0.first() == Some(&b'#') {
            let _sign = reader.u8();
            state = reader.array()?;
        }
        let text = String::from_utf8_lossy(reader.0);
        Some(Self {
            errno,
            state,
            message: cut(&text, 512).to_owned(),
        })
    }
}

/// Reads a result set of one row of texts; NULL is None.
#[derive(Debug, Default)]
pub struct OneRow {
    assembler: Assembler,
    columns: Option<usize>,
    definitions: usize,
    collation: Option<u16>,
    row: Option<Vec<Option<String>>>,
}

impl OneRow {
    /// The collation's number of the first column, once it has been read.
    pub fn collation(&self) -> Option<u16> {
        self.collation
    }

    /// Takes bytes up to the end of the result. None: more are to come.
    #[allow(clippy::type_complexity)] // as in `Single::feed`
    pub fn feed(
        &mut self,
        bytes: &mut &[u8],
        capabilities: u64,
    ) -> Result<Option<Result<Vec<Option<String>>, ServerError>>, Malformed> {
        let deprecate_eof = capabilities & u64::from(capability::DEPRECATE_EOF) != 0;
        loop {
            let payload = self
                .assembler
                .next(bytes, REPLY_MAX, |_, payload| payload.to_vec())
                .map_err(|_| Malformed)?;
            let Some(payload) = payload else {
                return Ok(None);
            };
            let first = payload.first().copied().ok_or(Malformed)?;
            let Some(columns) = self.columns else {
                if first == marker::ERR {
                    return Ok(Some(Err(ServerError::read(&payload).ok_or(Malformed)?)));
                }
                let count = Reader(&payload).lenenc().ok_or(Malformed)?;
                self.columns = Some(usize::try_from(count).map_err(|_| Malformed)?);
                continue;
            };
            // An EOF stands behind the definitions unless it was agreed to leave it out.
            let definitions = columns.saturating_add(usize::from(!deprecate_eof));
            if self.definitions < definitions {
                if self.definitions == 0 {
                    self.collation = collation(&payload);
                }
                self.definitions += 1;
            } else if first == marker::EOF {
                return self.row.take().map(|row| Some(Ok(row))).ok_or(Malformed);
            } else if first == marker::ERR {
                return Ok(Some(Err(ServerError::read(&payload).ok_or(Malformed)?)));
            } else if self.row.is_none() {
                self.row = Some(texts(&payload).ok_or(Malformed)?);
            }
        }
    }
}

/// Of a column definition, whose last 12 bytes are: collation, length, type, flags, decimals, filler.
fn collation(definition: &[u8]) -> Option<u16> {
    let (_, last) = definition.split_last_chunk::<12>()?;
    Some(u16::from_le_bytes([last[0], last[1]]))
}

fn texts(payload: &[u8]) -> Option<Vec<Option<String>>> {
    let mut reader = Reader(payload);
    let mut row = Vec::new();
    while let Some(&first) = reader.0.first() {
        if first == marker::LOCAL_INFILE {
            // In a row the same byte is NULL.
            let _null = reader.u8();
            row.push(None);
            continue;
        }
        let length = usize::try_from(reader.lenenc()?).ok()?;
        row.push(Some(
            String::from_utf8_lossy(reader.take(length)?).into_owned(),
        ));
    }
    Some(row)
}

/// An ERR packet with its SQLSTATE.
pub fn err(sequence: u8, errno: u16, state: [u8; 5], text: &str) -> Vec<u8> {
    crate::err::err_packet(sequence, errno, Some(state), text)
}

/// A packet of text (the reply to `STATISTICS`).
pub fn text(sequence: u8, text: &str) -> Vec<u8> {
    packet(sequence, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::server::{ok_packet, one_row};

    #[test]
    fn replies_one_after_the_other() {
        let bytes = [
            ok_packet(1),
            err(1, 1049, *b"42000", "Unknown database 'x'"),
        ]
        .concat();
        for cut in 0..bytes.len() {
            let (mut single, mut got) = (Single::default(), Vec::new());
            for mut piece in [&bytes[..cut], &bytes[cut..]] {
                while let Some(reply) = single.feed(&mut piece).unwrap() {
                    got.push(reply);
                }
            }
            assert_eq!(got[0], Ok(()));
            assert_eq!(got[1].as_ref().unwrap_err().errno, 1049);
            assert_eq!(got[1].as_ref().unwrap_err().state, *b"42000");
        }
    }

    #[test]
    fn one_row_is_read() {
        let bytes = one_row("a", b"value");
        let row = OneRow::default().feed(&mut &bytes[..], 0).unwrap().unwrap();
        assert_eq!(row.unwrap(), [Some("value".to_owned())]);
        let bytes = err(1, 1064, *b"42000", "syntax");
        let row = OneRow::default().feed(&mut &bytes[..], 0).unwrap().unwrap();
        assert_eq!(row.unwrap_err().message, "syntax");
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        assert_eq!(
            Single::default().feed(&mut &[1, 0, 0, 1, 7][..]),
            Err(Malformed)
        );
        assert_eq!(
            Single::default().feed(&mut &[255, 255, 255, 1][..]),
            Err(Malformed)
        );
    }
}

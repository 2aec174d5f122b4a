//! TLS between a socket and its reader: records in, plain bytes out, and the other way round.
//!
//! Whatever was read off the kernel is opened at once, so nothing but an unfinished record ever waits inside, and what
//! epoll said of the socket holds for the plain bytes too. What is sealed and not taken by the kernel lies in the
//! socket's tail, as without TLS.

use std::io::Write;

use portside_core::reason::TlsFailure;
use rustls::pki_types::CertificateDer;
use rustls::{Connection, Error};

use super::{Read, Socket};
use crate::tls::{failure, words};

/// Room at the front of a scratch buffer for plain bytes that come out before their records are used up: one unfinished
/// record (16 KiB and what TLS 1.2 may add, RFC 5246 section 6.2.3).
const ROOM: usize = 20 * 1024;
/// Sealed at once.
const PIECE: usize = 32 * 1024;
/// Records read in one go that hold not one plain byte: nobody sends so many for a good reason.
const SILENT_MAX: usize = 128 * 1024;

/// The state of one connection's TLS.
#[derive(Debug)]
pub struct Tls {
    connection: Connection,
    error: Option<Error>,
    /// The peer said that it will send no more (close_notify).
    has_ended: bool,
    /// How the handshake went was told.
    is_told: bool,
}

impl Tls {
    /// Opens the records at `from..to` of the buffer; plain bytes come to its front. Returns how many.
    fn open(&mut self, scratch: &mut [u8], from: usize, to: usize) -> Result<usize, Error> {
        let (mut at, mut plain) = (from, 0);
        while at < to {
            let mut wire = scratch.get(at..to).unwrap_or(&[]);
            let before = wire.len();
            // A slice fails in no way but by what rustls refuses to take.
            if self.connection.read_tls(&mut wire).is_err() {
                return Err(Error::General("more than it may keep".to_owned()));
            }
            let taken = before - wire.len();
            let state = self.connection.process_new_packets()?;
            self.has_ended |= state.peer_has_closed();
            at += taken;
            let count = state.plaintext_bytes_to_read();
            let room = scratch.get_mut(plain..at.min(plain + count));
            let room = room.filter(|room| room.len() == count);
            let Some(room) = room else {
                return Err(Error::General("more plain bytes than records".to_owned()));
            };
            let mut reader = self.connection.reader();
            if count > 0 && std::io::Read::read_exact(&mut reader, room).is_err() {
                return Err(Error::General("fewer plain bytes than told".to_owned()));
            }
            plain += count;
            if taken == 0 {
                // Behind close_notify nothing counts.
                break;
            }
        }
        Ok(plain)
    }

    /// Appends what is to be sent.
    fn drain(&mut self, tail: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // Into memory: cannot fail.
            if self.connection.write_tls(tail).unwrap_or(0) == 0 {
                return;
            }
        }
    }
}

impl Socket {
    /// From the next byte on it is TLS. A client's hello goes out at once.
    pub fn start_tls(&mut self, connection: Connection) {
        let mut tls = Box::new(Tls {
            connection,
            error: None,
            has_ended: false,
            is_told: false,
        });
        let was_empty = self.tail.is_empty();
        tls.drain(&mut self.tail);
        self.tls = Some(tls);
        self.flush_sealed(was_empty);
    }

    /// Takes bytes that were read before TLS began; what comes out is appended. False: see [`Self::tls_news`].
    pub fn take_sealed(&mut self, wire: &[u8], scratch: &mut [u8], plain: &mut Vec<u8>) -> bool {
        let most = scratch.len() - ROOM;
        for piece in wire.chunks(most) {
            let to = ROOM + piece.len();
            scratch[ROOM..to].copy_from_slice(piece);
            match self.open(scratch, to) {
                Some(count) => plain.extend_from_slice(&scratch[..count]),
                None => return false,
            }
        }
        true
    }

    /// Reads and opens; `drained` as without TLS.
    pub(super) fn read_sealed(&mut self, scratch: &mut [u8]) -> Read {
        let mut silent = 0;
        loop {
            let (count, drained) = match self.receive(&mut scratch[ROOM..]) {
                Read::Bytes { count, drained } => (count, drained),
                other => return other,
            };
            if self.tls.as_ref().is_some_and(|tls| tls.error.is_some()) {
                // It only goes to where nobody looks at it: read before a close.
                return Read::Bytes { count: 0, drained };
            }
            silent += count;
            match self.open(scratch, ROOM + count) {
                None => return Read::Lost,
                Some(0) if silent >= SILENT_MAX => {
                    self.fail(Error::General("only empty records".to_owned()));
                    return Read::Lost;
                }
                Some(0) if !self.readable => return Read::Nothing,
                Some(0) => {}
                Some(count) => return Read::Bytes { count, drained },
            }
        }
    }

    /// Opens `ROOM..to`, answers what the handshake asks. None: it failed.
    fn open(&mut self, scratch: &mut [u8], to: usize) -> Option<usize> {
        let tls = self.tls.as_mut()?;
        let was_empty = self.tail.is_empty();
        let result = tls.open(scratch, ROOM, to);
        // Also the alert that says why not.
        tls.drain(&mut self.tail);
        self.flush_sealed(was_empty);
        result.map_err(|error| self.fail(error)).ok()
    }

    fn fail(&mut self, error: Error) {
        if let Some(tls) = self.tls.as_mut() {
            tls.error.get_or_insert(error);
        }
    }

    /// Seals bytes behind what waits already, and sends.
    pub(super) fn push_sealed(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let was_empty = self.tail.is_empty();
        let Some(tls) = self.tls.as_mut() else {
            return Ok(());
        };
        for piece in bytes.chunks(PIECE) {
            tls.connection.writer().write_all(piece)?;
            tls.drain(&mut self.tail);
        }
        if was_empty && !self.tail.is_empty() {
            return self.flush();
        }
        Ok(())
    }

    fn flush_sealed(&mut self, was_empty: bool) {
        if was_empty && !self.tail.is_empty() && self.flush().is_err() {
            // The next read tells.
            self.tail = Vec::new();
            self.readable = true;
        }
    }

    /// Says that nothing more will be sent (close_notify). The connection itself stays.
    pub fn end_tls(&mut self) {
        let was_empty = self.tail.is_empty();
        if let Some(tls) = self.tls.as_mut() {
            if tls.connection.is_handshaking() || tls.error.is_some() {
                return;
            }
            tls.connection.send_close_notify();
            tls.drain(&mut self.tail);
            self.flush_sealed(was_empty);
        }
    }

    /// The peer said that it will send no more; its FIN may follow.
    pub fn tls_has_ended(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_ended)
    }

    /// Whether everything goes through TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// A handshake is under way.
    pub fn is_shaking_hands(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.connection.is_handshaking())
    }

    /// How the handshake went, told once. None: no news. `peer` as in [`words`].
    pub fn tls_news(&mut self, peer: &str) -> Option<Result<(), (TlsFailure, String)>> {
        let tls = self.tls.as_mut().filter(|tls| !tls.is_told)?;
        let is_over = !tls.connection.is_handshaking();
        tls.is_told = is_over || tls.error.is_some();
        match tls.error.as_ref() {
            Some(error) => Some(Err((failure(error), words(error, peer)))),
            None => is_over.then_some(Ok(())),
        }
    }

    /// The peer's certificate, and what came with it.
    pub fn tls_chain(&self) -> &[CertificateDer<'static>] {
        let tls = self.tls.as_ref();
        tls.and_then(|tls| tls.connection.peer_certificates())
            .unwrap_or(&[])
    }

    /// Version and cipher as agreed, for people.
    pub fn tls_agreed(&self) -> Option<(&'static str, &'static str)> {
        let tls = self.tls.as_ref()?;
        let version = match tls.connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let suite = tls.connection.negotiated_cipher_suite()?.suite();
        Some((version, suite.as_str().unwrap_or("")))
    }
}

//! One connection: its descriptor, what epoll said of it, and what its kernel has not taken yet.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys;

mod tls;

/// One of the two connections.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// TCP, or unix.
    pub is_tcp: bool,
    /// epoll said readable and we have not yet read everything.
    pub readable: bool,
    /// epoll said that the peer's FIN is in the queue.
    pub fin_queued: bool,
    /// And everything before it was read.
    is_at_fin: bool,
    /// epoll said that the socket is dead (or the connect failed).
    pub failed: bool,
    /// epoll said that the connect is done.
    pub connected: bool,
    /// Registered for write readiness too.
    pub watches_writes: bool,
    /// Bytes the kernel has not taken yet, sealed where there is TLS; at most one read's worth.
    pub tail: Vec<u8>,
    /// Everything but the tail goes through it.
    tls: Option<Box<tls::Tls>>,
}

impl Socket {
    /// A fresh socket.
    pub fn new(fd: OwnedFd, is_tcp: bool) -> Self {
        Self {
            fd,
            is_tcp,
            readable: false,
            fin_queued: false,
            is_at_fin: false,
            failed: false,
            connected: false,
            watches_writes: false,
            tail: Vec::new(),
            tls: None,
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Socket {
    /// Takes note of what epoll said of reading.
    pub fn note(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable() || event.is_read_closed();
        self.fin_queued |= event.is_read_closed();
    }

    /// Sends behind what waits already; what the kernel does not take waits, too.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.tls.is_some() {
            return self.push_sealed(bytes);
        }
        if self.tail.is_empty() {
            return self.send(bytes);
        }
        self.tail.extend_from_slice(bytes);
        Ok(())
    }
}

/// One read's outcome.
pub enum Read {
    /// Bytes in the scratch buffer.
    Bytes {
        /// How many.
        count: usize,
        /// Nothing more is queued now.
        drained: bool,
    },
    /// The peer's FIN.
    Eof,
    /// Nothing now.
    Nothing,
    /// The connection is dead.
    Lost,
}

impl Socket {
    /// Reads what there is; `drained` when the kernel's queue is known to be empty.
    pub fn read(&mut self, scratch: &mut [u8]) -> Read {
        if self.tls.is_some() {
            return self.read_sealed(scratch);
        }
        self.receive(scratch)
    }

    /// The same off the kernel.
    fn receive(&mut self, scratch: &mut [u8]) -> Read {
        if !self.readable {
            return Read::Nothing;
        }
        if self.is_at_fin {
            self.readable = false;
            return Read::Eof;
        }
        match sys::recv(self.fd(), scratch) {
            Ok(0) => {
                self.readable = false;
                Read::Eof
            }
            Ok(count) => {
                // A short read of TCP emptied the queue: the next edge tells of more. Saves one EAGAIN per packet.
                let drained = self.is_tcp && count < scratch.len();
                if drained && !self.fin_queued {
                    self.readable = false;
                }
                // Nor need a FIN be read that was there before this read; a reset must be.
                self.is_at_fin = drained && self.fin_queued && !self.failed;
                Read::Bytes { count, drained }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Read::Nothing
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Read::Nothing,
            Err(_) => Read::Lost,
        }
    }

    /// Sends; what the kernel does not take becomes the tail.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(self.tail.is_empty());
        let sent = match sys::send(self.fd(), bytes) {
            Ok(sent) => sent,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(e),
        };
        if sent < bytes.len() {
            self.tail = bytes[sent..].to_vec();
        }
        Ok(())
    }

    /// Sends the tail; frees it when it is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        match sys::send(self.fd(), &self.tail) {
            Ok(sent) if sent == self.tail.len() => {
                self.tail = Vec::new();
                Ok(())
            }
            Ok(sent) => {
                self.tail.drain(..sent);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }
}

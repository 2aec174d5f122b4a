//! One connection of the sink: packets in, prepared bytes out.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::rc::Rc;

use portside_proto::command::{com, HEADER_LEN};
use socket2::Socket;

use super::answers::{Answers, FIRST_LOOK};
use crate::socket::is_later;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on.
    Stay,
    /// The peer said QUIT and has every answer.
    Quit,
    /// Ended without QUIT.
    Lost,
}

/// What one read brought.
#[derive(Debug)]
pub struct Seen {
    pub logins: u64,
    pub queries: u64,
    /// Answers that the caller sends later.
    pub delayed: u64,
    pub verdict: Verdict,
}

/// A connection: what is not parsed and not written yet.
#[derive(Debug)]
pub struct Peer {
    socket: Socket,
    /// Which connection this is; slots of the slab are reused.
    pub serial: u64,
    logged_in: bool,
    quit: bool,
    ended: bool,
    part: Vec<u8>,
    out: VecDeque<Rc<[u8]>>,
    written: usize,
}

impl Peer {
    pub fn new(socket: Socket, serial: u64) -> Self {
        Self {
            socket,
            serial,
            logged_in: false,
            quit: false,
            ended: false,
            part: Vec::new(),
            out: VecDeque::new(),
            written: 0,
        }
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    pub fn into_socket(self) -> Socket {
        self.socket
    }

    /// Writes now, or keeps what the socket does not take.
    pub fn send(&mut self, bytes: &Rc<[u8]>) -> Verdict {
        self.out.push_back(Rc::clone(bytes));
        self.flush()
    }

    /// Writes what is kept; `Quit` when the last of it is out after a QUIT.
    pub fn flush(&mut self) -> Verdict {
        while let Some(front) = self.out.front() {
            match (&self.socket).write(&front[self.written..]) {
                Ok(sent) if self.written + sent == front.len() => {
                    self.out.pop_front();
                    self.written = 0;
                }
                Ok(sent) => self.written += sent,
                Err(error) if is_later(&error) => return Verdict::Stay,
                Err(_) => return Verdict::Lost,
            }
        }
        if self.quit {
            return Verdict::Quit;
        }
        Verdict::Stay
    }

    /// Reads until the socket is empty and answers.
    pub fn read(
        &mut self,
        answers: &Answers,
        scratch: &mut [u8],
        to_the_end: bool,
        delay: bool,
    ) -> Seen {
        let mut seen = Seen {
            logins: 0,
            queries: 0,
            delayed: 0,
            verdict: Verdict::Stay,
        };
        loop {
            let got = match (&self.socket).read(scratch) {
                Ok(0) => {
                    self.ended = true;
                    let verdict = if self.quit {
                        Verdict::Quit
                    } else {
                        Verdict::Lost
                    };
                    seen.verdict = verdict;
                    return seen;
                }
                Ok(got) => got,
                Err(error) if is_later(&error) => return seen,
                Err(_) => {
                    seen.verdict = Verdict::Lost;
                    return seen;
                }
            };
            self.take(&scratch[..got], answers, delay, &mut seen);
            // A FIN that came with the QUIT is told once (edge-triggered): read on, where its end is waited for.
            let goes_on = match seen.verdict {
                Verdict::Stay => to_the_end || got == scratch.len(),
                Verdict::Quit => to_the_end,
                Verdict::Lost => false,
            };
            if !goes_on {
                return seen;
            }
        }
    }

    fn take(&mut self, bytes: &[u8], answers: &Answers, delay: bool, seen: &mut Seen) {
        // Nearly always a read holds whole packets; only a split one is copied.
        let mut kept = std::mem::take(&mut self.part);
        let mut rest = if kept.is_empty() {
            bytes
        } else {
            kept.extend_from_slice(bytes);
            &kept
        };
        while let Some((payload, after)) = next_packet(rest) {
            rest = after;
            seen.verdict = self.answer(payload, answers, delay, seen);
            if seen.verdict != Verdict::Stay {
                return;
            }
        }
        self.part = rest.to_vec();
    }

    fn answer(
        &mut self,
        payload: &[u8],
        answers: &Answers,
        delay: bool,
        seen: &mut Seen,
    ) -> Verdict {
        if !self.logged_in {
            self.logged_in = true;
            seen.logins += 1;
            return self.send(&answers.login_ok);
        }
        match payload.split_first() {
            Some((&com::QUIT, _)) => {
                self.quit = true;
                self.flush()
            }
            Some((&com::QUERY, text)) if text.starts_with(FIRST_LOOK) => {
                self.send(&answers.variables)
            }
            Some((&com::QUERY, _)) => {
                seen.queries += 1;
                if delay {
                    seen.delayed += 1;
                    return Verdict::Stay;
                }
                self.send(&answers.result)
            }
            _ => self.send(&answers.ok),
        }
    }
}

/// The first packet's payload and what follows it; None when it is not whole yet.
fn next_packet(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEADER_LEN)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
    rest.split_at_checked(length)
}

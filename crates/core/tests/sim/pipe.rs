//! One direction of a simulated TCP connection, and the simulation's random numbers.
//!
//! What the kernel does and the relay must live with: bytes arrive later, in other pieces, a buffer is
//! full, a FIN comes behind the bytes, an RST destroys what has not arrived yet (the harsh reading of
//! facts about SO_LINGER{1,0}), and what has arrived can still be read after it.

use std::collections::VecDeque;

/// Milliseconds.
pub type Ms = u64;

/// xorshift64*: the same seed gives the same session on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        // Weyl's constant spreads small seeds; xorshift must not start at 0.
        let mut rng = Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            rng.next();
        }
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in `lo..=hi`.
    pub fn range(&mut self, lo: u64, hi: u64) -> u64 {
        lo + (self.next() >> 16) % (hi - lo + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.range(0, 99) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.range(0, from.len() as u64 - 1) as usize]
    }
}

#[derive(Debug, PartialEq)]
pub enum Read {
    Bytes(Vec<u8>),
    Eof,
    Lost,
    Nothing,
}

enum Piece {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// Bytes under way to one reader.
pub struct Pipe {
    queue: VecDeque<(Ms, Piece)>,
    queued: usize,
    capacity: usize,
    max_delay: Ms,
    last_at: Ms,
    is_over: bool,
    /// Read from since the last look: who writes may go on.
    freed: bool,
    is_cut_off: bool,
}

/// Beyond the life of any session.
pub const NEVER: Ms = 10_000_000;
/// When a kernel gives a silent host up (keepalive, `TCP_USER_TIMEOUT`).
const DEAD_PEER: Ms = 20_000;

impl Pipe {
    pub fn new(capacity: usize, max_delay: Ms) -> Self {
        Self {
            queue: VecDeque::new(),
            queued: 0,
            capacity,
            max_delay,
            last_at: 0,
            is_over: false,
            freed: false,
            is_cut_off: false,
        }
    }

    /// The path to the reader is gone: nothing arrives any more, and nothing is acknowledged.
    fn cut_off(&mut self, now: Ms) {
        self.is_cut_off = true;
        for (at, _) in self.queue.iter_mut().filter(|(at, _)| *at > now) {
            *at = NEVER;
        }
    }

    /// The writer's host is gone: the reader's kernel says so in the end.
    fn give_up(&mut self, now: Ms) {
        self.queue.retain(|(at, _)| *at <= now);
        self.queue.push_back((now + DEAD_PEER, Piece::Reset));
        self.is_over = true;
    }

    fn arrival(&mut self, now: Ms, rng: &mut Rng) -> Ms {
        if self.is_cut_off {
            return NEVER;
        }
        // Never at this moment: whoever acts on it has its turn later.
        self.last_at = self.last_at.max(now + rng.range(1, self.max_delay));
        self.last_at
    }

    /// Takes what fits; returns how much.
    pub fn send(&mut self, bytes: &[u8], now: Ms, rng: &mut Rng) -> usize {
        if self.is_over {
            return bytes.len();
        }
        let taken = bytes.len().min(self.capacity - self.queued);
        let mut rest = &bytes[..taken];
        while !rest.is_empty() {
            let most = rest.len() as u64;
            let length = if rng.chance(60) {
                most
            } else {
                rng.range(1, most)
            };
            let (piece, others) = rest.split_at(length as usize);
            let at = self.arrival(now, rng);
            self.queue.push_back((at, Piece::Bytes(piece.to_vec())));
            rest = others;
        }
        self.queued += taken;
        taken
    }

    pub fn fin(&mut self, now: Ms, rng: &mut Rng) {
        if !self.is_over {
            let at = self.arrival(now, rng);
            self.queue.push_back((at, Piece::Fin));
            self.is_over = true;
        }
    }

    /// Also after a FIN. Returns how many bytes were destroyed.
    pub fn reset(&mut self, now: Ms, rng: &mut Rng) -> usize {
        let destroyed = self.in_flight(now);
        self.queue.retain(|(at, _)| *at <= now);
        self.queued -= destroyed;
        let at = self.arrival(now, rng);
        self.queue.push_back((at, Piece::Reset));
        self.is_over = true;
        destroyed
    }

    /// What SIOCOUTQ says: bytes that have not arrived.
    pub fn in_flight(&self, now: Ms) -> usize {
        let bytes = self.queue.iter().filter(|(at, _)| *at > now);
        bytes.map(|(_, piece)| length(piece)).sum()
    }

    /// Bytes that were sent and not read.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that could be read now.
    pub fn readable(&self, now: Ms) -> usize {
        let bytes = self.queue.iter().take_while(|(at, _)| *at <= now);
        bytes.map(|(_, piece)| length(piece)).sum()
    }

    /// What epoll tells of a socket nobody reads: whether its FIN, or an RST, has arrived.
    pub fn end_arrived(&self, now: Ms) -> Option<Read> {
        match self.queue.back() {
            Some((at, Piece::Fin)) if *at <= now => Some(Read::Eof),
            Some((at, Piece::Reset)) if *at <= now => Some(Read::Lost),
            _ => None,
        }
    }

    /// Whether a read of the last bytes tells of the FIN as well.
    pub fn fin_is_next(&self, now: Ms) -> bool {
        matches!(self.queue.front(), Some((at, Piece::Fin)) if *at <= now)
    }

    pub fn read(&mut self, most: usize, now: Ms) -> Read {
        let read = self.take(most, now);
        self.freed |= matches!(read, Read::Bytes(_));
        read
    }

    fn take(&mut self, most: usize, now: Ms) -> Read {
        match self.queue.front_mut() {
            Some((at, piece)) if *at <= now => match piece {
                Piece::Bytes(bytes) if bytes.len() > most => {
                    self.queued -= most;
                    Read::Bytes(bytes.drain(..most).collect())
                }
                Piece::Bytes(bytes) => {
                    self.queued -= bytes.len();
                    let bytes = std::mem::take(bytes);
                    self.queue.pop_front();
                    Read::Bytes(bytes)
                }
                Piece::Fin => {
                    self.queue.pop_front();
                    Read::Eof
                }
                Piece::Reset => Read::Lost,
            },
            _ => Read::Nothing,
        }
    }

    /// When the next piece after `now` arrives.
    pub fn next_at(&self, now: Ms) -> Option<Ms> {
        let mut times = self.queue.iter().map(|(at, _)| *at);
        times.find(|at| *at > now).filter(|at| *at < NEVER)
    }
}

fn length(piece: &Piece) -> usize {
    match piece {
        Piece::Bytes(bytes) => bytes.len(),
        Piece::Fin | Piece::Reset => 0,
    }
}

/// A connection: the relay on one end, a peer on the other.
pub struct Link {
    pub to_relay: Pipe,
    pub to_peer: Pipe,
    /// The relay has closed its end; who still writes gets an RST.
    pub relay_closed: bool,
    /// The peer has closed its end.
    pub peer_closed: bool,
}

impl Link {
    pub fn new(rng: &mut Rng) -> Self {
        let delay = rng.pick(&[1, 1, 2, 4, 10]);
        let capacity = |rng: &mut Rng| rng.pick(&[200, 1_000, 4_000, 20_000]);
        Self {
            to_relay: Pipe::new(capacity(rng), delay),
            to_peer: Pipe::new(capacity(rng), delay),
            relay_closed: false,
            peer_closed: false,
        }
    }

    /// What the two kernels do by themselves: bytes for a closed socket are answered with an RST.
    pub fn kernels(&mut self, now: Ms, rng: &mut Rng) {
        if self.relay_closed {
            while let Read::Bytes(_) = self.to_relay.read(usize::MAX, now) {
                if !matches!(self.to_peer.queue.back(), Some((_, Piece::Reset))) {
                    self.to_peer.reset(now, rng);
                }
            }
        }
        if self.peer_closed {
            while let Read::Bytes(_) = self.to_peer.read(usize::MAX, now) {
                if !matches!(self.to_relay.queue.back(), Some((_, Piece::Reset))) {
                    self.to_relay.reset(now, rng);
                }
            }
        }
    }

    /// The peer's close(): an RST if something is unread, else a FIN.
    pub fn peer_close(&mut self, now: Ms, rng: &mut Rng) {
        if self.to_peer.readable(now) > 0 {
            self.to_relay.reset(now, rng);
        } else {
            self.to_relay.fin(now, rng);
        }
        self.peer_closed = true;
    }

    /// The peer's host vanishes without a word.
    pub fn peer_vanishes(&mut self, now: Ms) {
        self.to_peer.cut_off(now);
        self.to_relay.give_up(now);
    }

    /// The next moment something happens: an arrival, or a writer that finds room.
    pub fn next_at(&mut self, now: Ms) -> Option<Ms> {
        let pipes = [&mut self.to_relay, &mut self.to_peer];
        pipes
            .into_iter()
            .filter_map(|pipe| {
                let freed = std::mem::take(&mut pipe.freed).then_some(now + 1);
                freed.or_else(|| pipe.next_at(now))
            })
            .min()
    }
}

//! A simulated client: logs in, queries, and leaves in one of many ways.

use portside_proto::command::{capability, com, marker};
use portside_proto::quit;

use crate::pipe::{Link, Ms, Read, Rng, NEVER};

/// What the client's direction looks like on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Compressed,
    Tls,
}

/// How it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// QUIT and close(): every MySQL client library.
    QuitClose,
    /// QUIT, then it waits for our FIN.
    QuitWait,
    /// QUIT and half a close; reads to the end.
    QuitHalf,
    /// close() at a command boundary.
    Close,
    /// close() while its query runs.
    CloseInQuery,
    /// A query, half a close; reads to the end.
    HalfInQuery,
    /// close() in the middle of a packet.
    HalfPacket,
    /// A query and QUIT in one write; reads to the end.
    PipelinedQuit,
    /// The same with half a close.
    PipelinedHalf,
    /// An RST at a boundary.
    Reset,
    /// Goes before the greeting.
    BeforeGreeting,
    /// Reads the greeting, says nothing, goes.
    BeforeLogin,
    /// Goes in the middle of its login packet.
    HalfLogin,
    /// Goes before the answer to its login.
    AfterLogin,
    /// Reads the greeting and says nothing.
    Silent,
    /// Logs in and says nothing for long; then QUIT.
    Idle,
    /// Asks for a result, reads no byte of it, resets much later.
    StopsReading,
}

impl Leave {
    pub const ALL: &'static [Self] = &[
        Self::QuitClose,
        Self::QuitWait,
        Self::QuitHalf,
        Self::Close,
        Self::CloseInQuery,
        Self::HalfInQuery,
        Self::HalfPacket,
        Self::PipelinedQuit,
        Self::PipelinedHalf,
        Self::Reset,
        Self::BeforeGreeting,
        Self::BeforeLogin,
        Self::HalfLogin,
        Self::AfterLogin,
        Self::Silent,
        Self::Idle,
        Self::StopsReading,
    ];

    /// Whether it says QUIT after it has read all of its replies.
    pub fn quits_in_order(self) -> bool {
        matches!(self, Self::QuitClose | Self::QuitWait | Self::QuitHalf)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Answer,
    Ready,
    Reply(usize),
    ToTheEnd,
    Gone,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Close,
    Half,
    Reset,
}

pub struct Client {
    pub leave: Leave,
    pub wire: Wire,
    /// Everything it has written.
    pub sent: Vec<u8>,
    /// Lengths of `sent` at which a command of it was complete.
    pub boundaries: Vec<usize>,
    pub received: usize,
    /// It sent a command that has no answer: a relay cannot know that none is pending.
    pub has_unanswered: bool,
    /// How its connection ended, as it sees it.
    pub end: Option<Read>,
    /// It gave up reading: an RST of its own, or close().
    pub deaf: bool,
    /// Milliseconds it did not read, for no reason.
    pub paused: Ms,
    pub wake: Option<Ms>,
    state: State,
    inbox: Vec<u8>,
    written: usize,
    after_write: Option<End>,
    queries: u64,
    reads_from: Ms,
    reset_at: Option<Ms>,
    gives_up_at: Option<Ms>,
}

impl Client {
    pub fn new(leave: Leave, wire: Wire, rng: &mut Rng) -> Self {
        Self {
            leave,
            wire,
            sent: Vec::new(),
            boundaries: Vec::new(),
            received: 0,
            has_unanswered: false,
            end: None,
            deaf: false,
            paused: 0,
            wake: (leave == Leave::BeforeGreeting).then(|| rng.range(0, 20)),
            state: State::Greeting,
            inbox: Vec::new(),
            written: 0,
            after_write: None,
            queries: rng.range(0, 3),
            reads_from: 0,
            // Nobody waits for ever: then it just closes.
            gives_up_at: Some(rng.range(30_000, 60_000)),
            reset_at: rng.chance(5).then(|| rng.range(0, 300)),
        }
    }

    /// Whether bytes still reach it.
    pub fn reads(&self) -> bool {
        !self.deaf && self.end.is_none()
    }

    /// Whether it went only after it had seen the end of its stream.
    pub fn reads_to_the_end(&self) -> bool {
        self.end.is_some()
    }

    pub fn next_at(&self, now: Ms) -> Option<Ms> {
        let reads_from = Some(self.reads_from).filter(|at| *at != NEVER);
        let times = [self.wake, self.reset_at, self.gives_up_at, reads_from];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    pub fn step(&mut self, link: &mut Link, now: Ms, rng: &mut Rng) {
        if self.reset_at.is_some_and(|at| now >= at) && !self.deaf {
            link.to_relay.reset(now, rng);
            link.peer_closed = true;
            (self.deaf, self.state) = (true, State::Gone);
        }
        if self.wake.is_some_and(|at| now >= at) {
            self.wake = None;
            self.woken(rng, now);
        }
        if self.gives_up_at.is_some_and(|at| now >= at) {
            self.gives_up_at = None;
            self.after_write = Some(End::Close);
        }
        while self.state != State::Gone && self.end.is_none() && now >= self.reads_from {
            match link.to_peer.read(usize::MAX, now) {
                Read::Bytes(bytes) => {
                    self.received += bytes.len();
                    self.inbox.extend(bytes);
                    self.think(now, rng);
                }
                Read::Nothing => break,
                end => {
                    self.end = Some(end);
                    self.after_write = Some(End::Close);
                    self.written = self.sent.len();
                }
            }
            if rng.chance(2) {
                let pause = rng.range(1, 1_500);
                self.paused += pause;
                self.reads_from = now + pause;
            }
        }
        self.write(link, now, rng);
    }

    fn write(&mut self, link: &mut Link, now: Ms, rng: &mut Rng) {
        if self.state == State::Gone {
            return;
        }
        self.written += link.to_relay.send(&self.sent[self.written..], now, rng);
        if self.written < self.sent.len() {
            return;
        }
        match self.after_write.take() {
            Some(End::Close) => {
                link.peer_close(now, rng);
                (self.deaf, self.state) = (true, State::Gone);
            }
            Some(End::Reset) => {
                link.to_relay.reset(now, rng);
                link.peer_closed = true;
                (self.deaf, self.state) = (true, State::Gone);
            }
            Some(End::Half) => link.to_relay.fin(now, rng),
            None => {}
        }
    }

    /// Reacts to what has come in.
    fn think(&mut self, now: Ms, rng: &mut Rng) {
        loop {
            match self.state {
                State::Reply(left) if self.inbox.len() >= left => {
                    self.inbox.drain(..left);
                    self.ready(now, rng);
                }
                State::Greeting | State::Answer => {
                    let Some(packet) = take_packet(&mut self.inbox) else {
                        return;
                    };
                    self.login_packet(&packet, now, rng);
                }
                _ => return,
            }
        }
    }

    fn login_packet(&mut self, packet: &[u8], now: Ms, rng: &mut Rng) {
        match (self.state, packet[4]) {
            (_, marker::ERR) => {
                self.state = State::ToTheEnd;
                if rng.chance(50) {
                    self.after_write = Some(End::Close);
                }
            }
            (State::Greeting, _) => match self.leave {
                Leave::BeforeLogin => self.wake = Some(now + rng.range(1, 30)),
                Leave::Silent => self.state = State::ToTheEnd,
                _ => self.log_in(now, rng),
            },
            (_, marker::EOF) => {
                self.plain(&packet_of(packet[3] + 1, &[7; 20]));
                self.boundaries.push(self.sent.len());
            }
            _ => self.ready(now, rng),
        }
    }

    fn log_in(&mut self, now: Ms, rng: &mut Rng) {
        self.state = State::Answer;
        let mut flags =
            capability::PROTOCOL_41 | capability::SECURE_CONNECTION | capability::PLUGIN_AUTH;
        let mut payload = vec![0; 32];
        match self.wire {
            Wire::Plain => {}
            Wire::Compressed => flags |= capability::COMPRESS,
            Wire::Tls => {
                let tls = flags | capability::SSL;
                payload[..4].copy_from_slice(&tls.to_le_bytes());
                self.sent.extend(packet_of(1, &payload));
            }
        }
        payload[..4].copy_from_slice(&flags.to_le_bytes());
        payload.extend(b"app\0\0mysql_native_password\0");
        let mut login = packet_of(if self.wire == Wire::Tls { 2 } else { 1 }, &payload);
        match self.leave {
            Leave::HalfLogin => {
                login.truncate(rng.range(1, login.len() as u64 - 1) as usize);
                self.wake = Some(now + rng.range(1, 10));
            }
            Leave::AfterLogin => self.wake = Some(now + rng.range(1, 10)),
            _ => {}
        }
        self.plain(&login);
        if self.leave != Leave::HalfLogin {
            self.boundaries.push(self.sent.len());
        }
    }

    /// Logged in, or a reply is complete.
    fn ready(&mut self, now: Ms, rng: &mut Rng) {
        self.state = State::Ready;
        if self.leave == Leave::AfterLogin {
            return;
        }
        if self.queries > 0 {
            self.queries -= 1;
            let query = self.query(rng);
            self.command(&query, rng);
            return;
        }
        if rng.chance(15) {
            self.has_unanswered = true;
            self.command(&packet_of(0, &[com::STMT_CLOSE, 1, 0, 0, 0]), rng);
        }
        let patience = match self.leave {
            Leave::Idle => rng.range(1_000, 20_000),
            _ => rng.pick(&[0, 0, 1, 30]),
        };
        self.wake = Some(now + patience);
        if patience == 0 {
            self.wake = None;
            self.woken(rng, now);
        }
    }

    /// The time to leave.
    fn woken(&mut self, rng: &mut Rng, now: Ms) {
        if self.end.is_some() || matches!(self.state, State::Gone | State::ToTheEnd) {
            return;
        }
        let is_ready = self.state == State::Ready;
        match self.leave {
            Leave::CloseInQuery | Leave::HalfInQuery | Leave::StopsReading if is_ready => {
                let query = self.query(rng);
                self.command(&query, rng);
                match self.leave {
                    Leave::CloseInQuery => self.wake = Some(now + rng.range(1, 30)),
                    Leave::HalfInQuery => self.after_write = Some(End::Half),
                    _ => {
                        self.reads_from = NEVER;
                        self.reset_at = Some(now + rng.range(500, 60_000));
                    }
                }
                return;
            }
            Leave::PipelinedQuit | Leave::PipelinedHalf => {
                let query = self.query(rng);
                self.command(&query, rng);
                self.say_quit();
            }
            Leave::HalfPacket => {
                let query = self.query(rng);
                let before = self.sent.len();
                self.seal(&query, rng);
                let length = (self.sent.len() - before) as u64;
                let cut = rng.range(1, length - 1) as usize;
                self.sent.truncate(before + cut);
            }
            Leave::QuitClose | Leave::QuitWait | Leave::QuitHalf | Leave::Idle => self.say_quit(),
            _ => {}
        }
        self.after_write = match self.leave {
            Leave::QuitWait | Leave::PipelinedQuit => None,
            Leave::QuitHalf | Leave::PipelinedHalf => Some(End::Half),
            Leave::Reset => Some(End::Reset),
            _ if !is_ready && rng.chance(30) => Some(End::Reset),
            _ => Some(End::Close),
        };
        self.state = State::ToTheEnd;
    }

    fn query(&mut self, rng: &mut Rng) -> Vec<u8> {
        let reply = match rng.range(0, 3) {
            0 => 7,
            1 => rng.range(7, 300),
            _ => rng.range(300, 30_000),
        };
        self.state = State::Reply(reply as usize);
        let mut payload = vec![com::QUERY];
        payload.extend(format!("{reply};").bytes());
        let filling = rng.pick(&[0, 0, 30, 3_000]);
        payload.extend(vec![1; filling]);
        packet_of(0, &payload)
    }

    fn command(&mut self, packet: &[u8], rng: &mut Rng) {
        self.seal(packet, rng);
        self.boundaries.push(self.sent.len());
    }

    fn say_quit(&mut self) {
        match self.wire {
            Wire::Compressed => self.sent.extend(quit::QUIT_COMPRESSED),
            _ => self.plain(&quit::QUIT),
        }
        self.boundaries.push(self.sent.len());
    }

    /// As commands go over the wire. "Compressed" is an XOR: the relay must not see packets in it.
    fn seal(&mut self, packet: &[u8], rng: &mut Rng) {
        if self.wire != Wire::Compressed {
            return self.plain(packet);
        }
        let is_packed = packet.len() >= 50 && rng.chance(70);
        let length = packet.len() as u32;
        let unpacked = if is_packed { length } else { 0 };
        self.sent.extend(&length.to_le_bytes()[..3]);
        self.sent.push(0);
        self.sent.extend(&unpacked.to_le_bytes()[..3]);
        let mask = if is_packed { MASK } else { 0 };
        self.sent.extend(packet.iter().map(|byte| byte ^ mask));
    }

    fn plain(&mut self, packet: &[u8]) {
        if self.wire == Wire::Tls {
            self.sent.extend([0x17, 3, 3]);
            self.sent.extend((packet.len() as u16).to_be_bytes());
            self.sent.extend(packet.iter().map(|byte| byte ^ MASK));
        } else {
            self.sent.extend(packet);
        }
    }
}

/// Stands for encryption and compression.
pub const MASK: u8 = 0x5a;

pub fn packet_of(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = (payload.len() as u32).to_le_bytes().to_vec();
    packet[3] = sequence;
    packet.extend(payload);
    packet
}

/// The first packet, header included, once it is complete.
pub fn take_packet(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let header = bytes.get(..4)?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize + 4;
    (bytes.len() >= length).then(|| bytes.drain(..length).collect())
}

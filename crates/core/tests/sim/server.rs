//! A simulated MySQL server, one connection of it.

use portside_proto::command::{capability, com, FRAME_HEADER_LEN};
use portside_proto::refuse_login;

use crate::client::{packet_of, take_packet, MASK};
use crate::pipe::{Link, Ms, Read, Rng};

/// MariaDB 10.11.14's greeting, as recorded in crates/proto/tests/wire; all capabilities on.
const GREETING: &[u8] = b"\x0a5.5.5-10.11.14-MariaDB\0\x08\0\0\0abcdefgh\0\xfe\xff\x2d\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0abcdefghijkl\0mysql_native_password\0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greets {
    Yes,
    Never,
    Err,
    Garbage,
    Closes,
    Resets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Ok,
    Switch,
    Err,
}

/// How it behaves.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    pub greets: Greets,
    pub login: Login,
    /// Nothing more comes after QUIT, not even a FIN.
    pub hangs_after_quit: bool,
    /// Milliseconds from QUIT to its FIN.
    pub close_delay: Ms,
    /// Thinks at most this long over a query.
    pub thinks: Ms,
    /// `wait_timeout`.
    pub closes_idle_after: Option<Ms>,
    pub resets_at: Option<Ms>,
    /// Its host is gone, without a word.
    pub vanishes_at: Option<Ms>,
}

impl Habits {
    pub fn any(rng: &mut Rng) -> Self {
        let greets = match rng.range(0, 39) {
            0 => Greets::Never,
            1 => Greets::Err,
            2 => Greets::Garbage,
            3 => Greets::Closes,
            4 => Greets::Resets,
            _ => Greets::Yes,
        };
        Self {
            greets,
            login: rng.pick(&[Login::Ok, Login::Ok, Login::Ok, Login::Switch, Login::Err]),
            hangs_after_quit: rng.chance(15),
            close_delay: rng.pick(&[0, 0, 1, 8, 60]),
            thinks: rng.pick(&[0, 1, 40, 800]),
            closes_idle_after: rng.chance(15).then(|| rng.range(20, 2_000)),
            resets_at: rng.chance(6).then(|| rng.range(0, 500)),
            vanishes_at: rng.chance(6).then(|| rng.range(0, 500)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Greeted,
    Switched,
    Commands,
    Hung,
    Closing,
    Gone,
}

pub struct Server {
    pub habits: Habits,
    /// Everything it read.
    pub received: Vec<u8>,
    pub sent: usize,
    pub quit_received: bool,
    /// A refused login of Portside's own.
    pub was_refusal: bool,
    /// It closed or reset before anyone said QUIT.
    pub closed_first: bool,
    /// Bytes that make no sense to a server.
    pub complaint: Option<String>,
    state: State,
    wire: Vec<u8>,
    packets: Vec<u8>,
    is_tls: bool,
    is_compressed: bool,
    out: Vec<u8>,
    busy_until: Option<Ms>,
    idle_at: Option<Ms>,
    eof: bool,
}

impl Server {
    pub fn new(habits: Habits, now: Ms, rng: &mut Rng) -> Self {
        Self {
            habits: Habits {
                resets_at: habits.resets_at.map(|at| now + at),
                vanishes_at: habits.vanishes_at.map(|at| now + at),
                ..habits
            },
            received: Vec::new(),
            sent: 0,
            quit_received: false,
            was_refusal: false,
            closed_first: false,
            complaint: None,
            state: State::Before,
            wire: Vec::new(),
            packets: Vec::new(),
            is_tls: false,
            is_compressed: false,
            out: Vec::new(),
            busy_until: Some(now + rng.pick(&[1, 1, 2, 30])),
            idle_at: None,
            eof: false,
        }
    }

    /// Whether it would read a command now.
    pub fn is_listening(&self) -> bool {
        self.busy_until.is_none() && self.out.is_empty()
    }

    pub fn next_at(&self, now: Ms) -> Option<Ms> {
        if self.state == State::Gone {
            return None;
        }
        let habits = &self.habits;
        let times = [
            self.busy_until,
            self.idle_at,
            habits.resets_at,
            habits.vanishes_at,
        ];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    pub fn step(&mut self, link: &mut Link, now: Ms, rng: &mut Rng) {
        if self.state == State::Gone {
            return;
        }
        if self.habits.resets_at.is_some_and(|at| now >= at) {
            self.closed_first |= !self.quit_received;
            return self.reset(link, now, rng);
        }
        if self.habits.vanishes_at.is_some_and(|at| now >= at) {
            self.closed_first = true;
            self.state = State::Gone;
            return link.peer_vanishes(now);
        }
        loop {
            if self.busy_until.is_some_and(|at| now < at) {
                return;
            }
            self.busy_until = None;
            let taken = link.to_relay.send(&self.out, now, rng);
            self.sent += taken;
            self.out.drain(..taken);
            // A server that writes does not read.
            if !self.out.is_empty() {
                return;
            }
            match self.state {
                State::Before => self.greet(link, now, rng),
                State::Closing => {
                    self.state = State::Gone;
                    return link.peer_close(now, rng);
                }
                State::Hung | State::Gone => return,
                _ => {
                    if !self.serve(link, now, rng) {
                        return;
                    }
                }
            }
        }
    }

    fn reset(&mut self, link: &mut Link, now: Ms, rng: &mut Rng) {
        self.state = State::Gone;
        link.to_relay.reset(now, rng);
        link.peer_closed = true;
    }

    fn greet(&mut self, link: &mut Link, now: Ms, rng: &mut Rng) {
        match self.habits.greets {
            Greets::Yes => {
                self.state = State::Greeted;
                self.out = packet_of(0, GREETING);
            }
            Greets::Never => self.state = State::Hung,
            Greets::Err => {
                self.state = State::Closing;
                self.out = packet_of(0, b"\xff\x10\x04Too many connections");
            }
            Greets::Garbage => {
                self.state = State::Hung;
                self.out = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
            }
            Greets::Closes => self.state = State::Closing,
            Greets::Resets => self.reset(link, now, rng),
        }
    }

    /// One packet, or one read. False: nothing to do now.
    fn serve(&mut self, link: &mut Link, now: Ms, rng: &mut Rng) -> bool {
        self.unwrap_bytes();
        if let Some(packet) = take_packet(&mut self.packets) {
            self.idle_at = None;
            self.packet(&packet, now, rng);
            return true;
        }
        if self.eof {
            self.closed_first |= !self.quit_received;
            self.state = State::Closing;
            return true;
        }
        match link.to_peer.read(usize::MAX, now) {
            Read::Bytes(bytes) => {
                self.received.extend(&bytes);
                self.wire.extend(bytes);
                true
            }
            Read::Eof => {
                self.eof = true;
                true
            }
            Read::Lost => {
                self.state = State::Gone;
                link.peer_closed = true;
                false
            }
            Read::Nothing => self.is_idle(now, rng),
        }
    }

    fn is_idle(&mut self, now: Ms, rng: &mut Rng) -> bool {
        let (Some(limit), State::Commands) = (self.habits.closes_idle_after, self.state) else {
            return false;
        };
        let at = *self.idle_at.get_or_insert(now + limit);
        if now < at {
            return false;
        }
        if rng.chance(50) {
            // MySQL 8 says why.
            self.out = packet_of(0, b"\xff\xbf\x0f#HY000disconnected because of inactivity");
        }
        self.closed_first = true;
        self.state = State::Closing;
        true
    }

    /// From the wire's form to packets.
    fn unwrap_bytes(&mut self) {
        if self.is_tls {
            while let Some(&[_, _, _, high, low]) = self.wire.first_chunk() {
                let end = 5 + usize::from(u16::from_be_bytes([high, low]));
                if self.wire.len() < end {
                    return;
                }
                self.packets
                    .extend(self.wire[5..end].iter().map(|byte| byte ^ MASK));
                self.wire.drain(..end);
            }
        } else if self.is_compressed && self.state == State::Commands {
            while let Some(&[a, b, c, sequence, d, e, f]) = self.wire.first_chunk() {
                let end = FRAME_HEADER_LEN + u32::from_le_bytes([a, b, c, 0]) as usize;
                if self.wire.len() < end {
                    return;
                }
                if sequence != 0 {
                    self.complain(format!("frame with sequence {sequence}"));
                }
                let mask = if (d, e, f) == (0, 0, 0) { 0 } else { MASK };
                let payload = self.wire[FRAME_HEADER_LEN..end].iter();
                self.packets.extend(payload.map(|byte| byte ^ mask));
                self.wire.drain(..end);
            }
        } else if self.packets.is_empty() {
            // One packet at a time: what follows the TLS request or the login may have another form.
            self.packets
                .extend(take_packet(&mut self.wire).unwrap_or_default());
        }
    }

    fn complain(&mut self, text: String) {
        self.complaint.get_or_insert(text);
    }

    fn packet(&mut self, packet: &[u8], now: Ms, rng: &mut Rng) {
        let (sequence, payload) = (packet[3], &packet[4..]);
        match self.state {
            State::Greeted => self.login(sequence, payload, now, rng),
            State::Switched => self.login_answer(sequence + 1, now, rng),
            State::Commands => {
                if sequence != 0 {
                    self.complain(format!("command with sequence {sequence}"));
                }
                self.command(payload, now, rng);
            }
            _ => {}
        }
    }

    fn login(&mut self, sequence: u8, payload: &[u8], now: Ms, rng: &mut Rng) {
        let flags = payload.first_chunk().map_or(0, |f| u32::from_le_bytes(*f));
        if flags & capability::SSL != 0 && !self.is_tls {
            self.is_tls = true;
            return;
        }
        if sequence != 1 + u8::from(self.is_tls) {
            self.complain(format!("login with sequence {sequence}"));
        }
        let user = refuse_login::USER.as_bytes();
        self.was_refusal = payload.windows(user.len()).any(|name| name == user);
        self.is_compressed = flags & capability::COMPRESS != 0;
        if self.habits.login == Login::Switch {
            self.state = State::Switched;
            self.out = packet_of(
                sequence + 1,
                b"\xfemysql_native_password\0abcdefghijklmnopqrst\0",
            );
        } else {
            self.login_answer(sequence + 1, now, rng);
        }
    }

    fn login_answer(&mut self, sequence: u8, now: Ms, rng: &mut Rng) {
        self.busy_until = Some(now + rng.pick(&[0, 0, 2, 20]));
        // An anonymous account lets anybody in.
        if self.habits.login == Login::Err || (self.was_refusal && rng.chance(80)) {
            self.state = State::Closing;
            self.out = packet_of(sequence, b"\xff\x15\x04#28000Access denied");
        } else {
            self.state = State::Commands;
            self.out = packet_of(sequence, &[0, 0, 0, 2, 0, 0, 0]);
        }
    }

    fn command(&mut self, payload: &[u8], now: Ms, rng: &mut Rng) {
        match payload.first() {
            Some(&com::QUIT) => {
                self.quit_received = true;
                self.busy_until = Some(now + self.habits.close_delay);
                self.state = if self.habits.hangs_after_quit {
                    State::Hung
                } else {
                    State::Closing
                };
            }
            Some(&com::STMT_CLOSE) => {}
            Some(&com::QUERY) => {
                let digits = payload[1..].iter().take_while(|byte| **byte != b';');
                let size = digits.fold(0, |size, digit| size * 10 + usize::from(digit - b'0'));
                self.out = vec![0xab; size];
                self.busy_until = Some(now + rng.range(0, self.habits.thinks));
            }
            other => self.complain(format!("command {other:?}")),
        }
    }
}

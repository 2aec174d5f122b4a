//! A simulated engine: drives [`Relay`] as `crates/engine/src/relaying.rs` does, over simulated kernels,
//! and checks at each of its actions what may never happen.

use portside_core::reason::{Cause, ClientClose, Phase, ServerClose};
use portside_core::relay::{Action, Relay, Rules, ServerBytes, ToServer, Unsent};
use portside_proto::err;

use crate::client::{Client, Wire};
use crate::pipe::{Link, Ms, Read, Rng};
use crate::server::{Habits, Server};

/// Actions without a byte moved in between; the longest honest row is about six.
const ACTIONS_MAX: u32 = 30;
/// Connects before the client is refused.
const ATTEMPTS: u32 = 2;

/// How the connect of one attempt goes: after how long, and whether well.
#[derive(Debug, Clone, Copy)]
pub struct Connect {
    pub takes: Option<Ms>,
    pub succeeds: bool,
}

/// The relay's end of a connection.
#[derive(Default)]
struct Socket {
    tail: Vec<u8>,
    fin_seen: bool,
    is_over: bool,
}

pub struct Session {
    pub now: Ms,
    pub rng: Rng,
    pub rules: Rules,
    pub relay: Relay,
    pub client: Client,
    pub client_link: Link,
    pub server: Option<(Server, Link)>,
    pub habits: Habits,
    pub connect: Connect,
    /// An administrator's wish: when, why, gently. The last one is not gentle.
    pub cuts: Vec<(Ms, Cause, bool)>,
    pub rtt: Ms,
    /// No administrator and no idle limit ends it.
    pub is_left_alone: bool,
    pub is_done: bool,
    /// Bytes of the client given to the relay.
    pub from_client: usize,
    /// Bytes of our own given to the server, with their place among the client's.
    pub own: Vec<(usize, Vec<u8>)>,
    /// Bytes of our own given to the client (an ERR).
    pub own_to_client: usize,
    pub server_closes: u32,
    pub client_closes: u32,
    /// When the relay first knew that the session ends.
    pub closing_at: Option<Ms>,
    /// The server's connection was closed over bytes in our hands, or over a reply of the server, whose
    /// next write then fails before it reads.
    pub cut_off_at_close: bool,
    pub done_at: Ms,
    /// The client's end arrived behind a part of a reply: nobody who reads one direction can know.
    pub left_in_reply: bool,
    /// Its QUIT came while it had a reply to read yet.
    pub quit_in_reply: bool,
    server_spoke_last: bool,
    /// When the client's connection was closed.
    pub client_closed_at: Option<Ms>,
    pub server_closed_at: Option<Ms>,
    /// Since when nothing but the client's FIN is missing: QUIT is with the server's kernel, every byte
    /// for the client with its own.
    pub only_fin_missing_at: Ms,
    pub tracing: bool,
    client_socket: Option<Socket>,
    server_socket: Option<Socket>,
    connects_at: Option<Ms>,
    holds_greeting: bool,
    attempts: u32,
    timer: Option<Ms>,
}

macro_rules! trace {
    ($session:expr, $($text:tt)*) => {
        if $session.tracing {
            eprintln!("{:>6} {}", $session.now, format!($($text)*));
        }
    };
}

impl Session {
    #[allow(clippy::too_many_arguments)] // one caller, which has just drawn them
    pub fn new(
        rng: Rng,
        rules: Rules,
        client: Client,
        client_link: Link,
        habits: Habits,
        connect: Connect,
        cuts: Vec<(Ms, Cause, bool)>,
        rtt: Ms,
    ) -> Self {
        let mut session = Self {
            now: 0,
            rng,
            rules,
            relay: Relay::new(0),
            client,
            client_link,
            server: None,
            habits,
            connect,
            is_left_alone: cuts.is_empty() && rules.idle_ms.is_none(),
            cuts,
            rtt,
            is_done: false,
            from_client: 0,
            own: Vec::new(),
            own_to_client: 0,
            server_closes: 0,
            client_closes: 0,
            closing_at: None,
            cut_off_at_close: false,
            done_at: 0,
            left_in_reply: false,
            quit_in_reply: false,
            server_spoke_last: false,
            client_closed_at: None,
            server_closed_at: None,
            only_fin_missing_at: 0,
            tracing: false,
            client_socket: Some(Socket::default()),
            server_socket: None,
            connects_at: None,
            holds_greeting: false,
            attempts: 0,
            timer: None,
        };
        session.start_attempt();
        session
    }

    fn start_attempt(&mut self) {
        self.attempts += 1;
        self.relay.connecting(self.now);
        self.server_socket = Some(Socket::default());
        self.connects_at = self.connect.takes.map(|takes| self.now + takes);
    }

    /// Everything that happens at this moment; then time jumps. False: nothing will happen any more.
    pub fn step(&mut self) -> bool {
        let (now, rng) = (self.now, &mut self.rng);
        self.client.step(&mut self.client_link, now, rng);
        self.client_link.kernels(now, rng);
        if let Some((server, link)) = self.server.as_mut() {
            server.step(link, now, rng);
            link.kernels(now, rng);
        }
        if !self.is_done {
            self.drive();
        }
        let server = self.server.as_mut();
        let server = server.map(|(server, link)| [server.next_at(now), link.next_at(now)]);
        let server = server.into_iter().flatten().flatten().min();
        let times = [
            self.client.next_at(now),
            self.client_link.next_at(now),
            server,
            self.timer.map(|at| at.max(now + 1)),
            self.connects_at.filter(|at| *at > now),
            self.cuts.first().map(|(at, ..)| *at),
        ];
        let next = times.into_iter().flatten().filter(|at| *at > now).min();
        self.now = next.unwrap_or(now);
        next.is_some()
    }

    fn drive(&mut self) {
        while self.cuts.first().is_some_and(|(at, ..)| self.now >= *at) {
            let (_, cause, gently) = self.cuts.remove(0);
            trace!(self, "cut {cause:?} gently={gently}");
            self.relay.cut(cause, gently);
        }
        let mut actions = 0;
        loop {
            self.connect_progress();
            if self.pump() {
                actions = 0;
            }
            let unsent = self.unsent();
            let action = self.relay.decide(self.now, &self.rules, unsent);
            self.note();
            trace!(self, "{action:?} {unsent:?} {:?}", self.relay.phase());
            actions += 1;
            assert!(actions < ACTIONS_MAX, "decide never comes to rest");
            if !self.act(action) {
                return;
            }
        }
    }

    fn note(&mut self) {
        if self.relay.is_closing() {
            self.closing_at.get_or_insert(self.now);
        }
        if self.unsent().to_server && self.server_closed_at.is_none() || self.unsent().to_client {
            self.only_fin_missing_at = self.now;
        }
    }

    /// False: wait.
    fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Wait(at) => {
                assert!(
                    at.is_none_or(|at| at > self.now),
                    "a wait for {at:?} is a spin"
                );
                // Timers have a tick of 1 ms.
                self.timer = at.map(|at| at + self.rng.range(0, 1));
                return false;
            }
            Action::Done => {
                self.timer = None;
                (self.is_done, self.done_at) = (true, self.now);
                return false;
            }
            Action::SendToServer(bytes) => {
                self.own.push((self.from_client, bytes.clone()));
                self.give_to_server(&bytes);
            }
            Action::CloseServer(how) => self.close_server(how),
            Action::CloseClient(how) => self.close_client(how),
            Action::AskUnacknowledged => {
                let in_kernel = self.server.as_ref();
                let in_kernel = in_kernel.map_or(0, |(_, link)| link.to_peer.in_flight(self.now));
                let tail = self.server_socket.as_ref().map_or(0, |s| s.tail.len());
                self.relay.overdue(tail + in_kernel);
            }
            Action::AskClientRtt => self.relay.client_rtt(self.rtt),
            Action::AttemptFailed(cause) => self.attempt_failed(cause),
        }
        true
    }

    fn unsent(&self) -> Unsent {
        let stuck = |socket: &Option<Socket>| socket.as_ref().is_some_and(|s| !s.tail.is_empty());
        Unsent {
            to_server: stuck(&self.server_socket),
            to_client: stuck(&self.client_socket),
        }
    }

    fn connect_progress(&mut self) {
        if self.relay.phase() == Phase::Connect && self.connects_at.is_some_and(|at| self.now >= at)
        {
            self.connects_at = None;
            if self.connect.succeeds {
                let server = Server::new(self.habits, self.now, &mut self.rng);
                self.server = Some((server, Link::new(&mut self.rng)));
                self.relay.connected(self.now);
            } else {
                self.relay.server_lost();
            }
        }
    }

    fn attempt_failed(&mut self, cause: Cause) {
        self.drop_attempt();
        self.relay.attempt_over(self.now);
        if self.attempts < ATTEMPTS {
            self.start_attempt();
        } else {
            let packet = err::greeting_err(2003, "portside: no server");
            self.own_to_client = packet.len();
            self.relay.refuse(cause, self.now);
            self.give_to_client(&packet);
        }
    }

    fn drop_attempt(&mut self) {
        if let Some((_, link)) = self.server.as_mut() {
            link.to_peer.reset(self.now, &mut self.rng);
            link.relay_closed = true;
        }
        (self.server, self.server_socket, self.connects_at) = (None, None, None);
        self.holds_greeting = false;
        if let Some(client) = self.client_socket.as_mut() {
            client.tail.clear();
        }
    }

    fn pump(&mut self) -> bool {
        self.flush();
        let client_moved = self.pump_client();
        self.pump_server() || client_moved
    }

    fn flush(&mut self) {
        if let Some(client) = self.client_socket.as_mut().filter(|_| !self.holds_greeting) {
            let link = &mut self.client_link;
            let taken = link.to_peer.send(&client.tail, self.now, &mut self.rng);
            client.tail.drain(..taken);
        }
        if let (Some(socket), Some((_, link))) = (self.server_socket.as_mut(), self.server.as_mut())
        {
            let taken = link.to_peer.send(&socket.tail, self.now, &mut self.rng);
            socket.tail.drain(..taken);
        }
    }

    fn give_to_server(&mut self, bytes: &[u8]) {
        if let Some(socket) = self.server_socket.as_mut() {
            socket.tail.extend(bytes);
        }
        self.flush();
    }

    fn give_to_client(&mut self, bytes: &[u8]) {
        if let Some(socket) = self.client_socket.as_mut() {
            socket.tail.extend(bytes);
        }
        self.flush();
    }

    fn pump_client(&mut self) -> bool {
        let mut moved = false;
        loop {
            let Some(socket) = self.client_socket.as_mut().filter(|s| !s.is_over) else {
                return moved;
            };
            let (reads, drains) = (self.relay.reads_client(), self.relay.drains_client());
            let stuck = self
                .server_socket
                .as_ref()
                .is_some_and(|s| !s.tail.is_empty());
            if !reads && !drains {
                if self.relay.phase() <= Phase::Greeting {
                    match self.client_link.to_relay.end_arrived(self.now) {
                        Some(Read::Eof) => {
                            socket.fin_seen = true;
                            self.relay.client_eof();
                        }
                        Some(_) => self.relay.client_lost(),
                        None => {}
                    }
                }
                return moved;
            }
            let fin_only = self.client_link.to_relay.fin_is_next(self.now) && self.rng.chance(50);
            if reads && stuck && !fin_only {
                return moved;
            }
            let most = self.rng.pick(&[1, 7, 500, 16_384]);
            match self.client_link.to_relay.read(most, self.now) {
                Read::Bytes(_) if !reads => {}
                Read::Bytes(bytes) => {
                    trace!(self, "client: {} bytes", bytes.len());
                    self.relay.client_bytes(&bytes, self.now);
                    let waits = self.client_link.to_peer.queued() > 0;
                    self.quit_in_reply |= waits && self.relay.quit_seen();
                    self.from_client += bytes.len();
                    self.server_spoke_last = false;
                    self.only_fin_missing_at = self.now;
                    self.give_to_server(&bytes);
                }
                Read::Eof => {
                    trace!(self, "client: FIN");
                    (socket.fin_seen, socket.is_over) = (true, true);
                    self.left_in_reply = self.server_spoke_last && !self.client.deaf;
                    self.relay.client_eof();
                    let in_kernel = self.client_link.to_peer.in_flight(self.now);
                    if in_kernel > 0 && !self.relay.quit_seen() {
                        self.relay.client_is_owed();
                    }
                }
                Read::Lost => {
                    trace!(self, "client: RST");
                    socket.is_over = true;
                    self.relay.client_lost();
                }
                Read::Nothing => return moved,
            }
            moved = true;
        }
    }

    fn pump_server(&mut self) -> bool {
        let mut moved = false;
        loop {
            let blocked = !self.holds_greeting
                && self.relay.client_is_there()
                && self
                    .client_socket
                    .as_ref()
                    .is_some_and(|s| !s.tail.is_empty());
            let Some((_, link)) = self.server.as_mut() else {
                return moved;
            };
            if blocked && !(link.to_relay.fin_is_next(self.now) && self.rng.chance(50)) {
                return moved;
            }
            let Some(socket) = self.server_socket.as_mut().filter(|s| !s.is_over) else {
                return moved;
            };
            let most = self.rng.pick(&[5, 60, 16_384]);
            match link.to_relay.read(most, self.now) {
                Read::Bytes(bytes) => {
                    trace!(self, "server: {} bytes", bytes.len());
                    self.server_spoke_last = true;
                    if !self.server_bytes(&bytes) {
                        return true;
                    }
                }
                Read::Eof => {
                    trace!(self, "server: FIN");
                    (socket.fin_seen, socket.is_over) = (true, true);
                    self.relay.server_eof();
                }
                Read::Lost => {
                    trace!(self, "server: RST");
                    socket.is_over = true;
                    socket.tail.clear();
                    self.relay.server_lost();
                }
                Read::Nothing => return moved,
            }
            moved = true;
        }
    }

    /// False: the attempt is over.
    fn server_bytes(&mut self, bytes: &[u8]) -> bool {
        match self.relay.server_bytes(bytes, self.now) {
            ServerBytes::Forward => {
                self.holds_greeting = false;
                self.only_fin_missing_at = self.now;
                self.give_to_client(bytes);
            }
            ServerBytes::Hold => {
                self.holds_greeting = true;
                if let Some(client) = self.client_socket.as_mut() {
                    client.tail.extend(bytes);
                }
            }
            ServerBytes::Discard => {}
            ServerBytes::Refused { .. } => {
                self.attempt_failed(Cause::Refused);
                return false;
            }
            ServerBytes::Garbage => {
                self.attempt_failed(Cause::NoGreeting);
                return false;
            }
        }
        true
    }

    /// Whether the client may still expect every byte that the server sends: it has not been cut off.
    pub fn is_entitled(&self) -> bool {
        self.client.reads()
            && self.is_left_alone
            && !self.left_in_reply
            && matches!(self.relay.cause(), Cause::Quit | Cause::ClientEof)
    }

    fn close_server(&mut self, how: ServerClose) {
        self.server_closes += 1;
        self.server_closed_at = Some(self.now);
        let socket = self.server_socket.take().expect("one close of a server");
        let is_clean = matches!(how, ServerClose::EofReset | ServerClose::EofFin);
        assert!(
            !is_clean || socket.fin_seen,
            "{how:?} before the server's FIN"
        );
        assert!(
            how != ServerClose::EofFin || self.rules.to_server == ToServer::Eof,
            "{how:?} under {:?}",
            self.rules.to_server
        );
        self.connects_at = None;
        let Some((server, link)) = self.server.as_mut() else {
            return;
        };
        let in_reply = !server.is_listening()
            || server.received.len() < self.from_client
            || link.to_relay.in_flight(self.now) > 0;
        self.cut_off_at_close = !socket.tail.is_empty() || (in_reply && !is_clean);
        let is_limit = matches!(how, ServerClose::Abandoned | ServerClose::Cut);
        let lost = link.to_relay.readable(self.now);
        if matches!(
            how,
            ServerClose::Linger2
                | ServerClose::LateLinger2
                | ServerClose::Fin
                | ServerClose::EofFin
        ) {
            while matches!(link.to_relay.read(usize::MAX, self.now), Read::Bytes(_)) {}
            link.to_peer.fin(self.now, &mut self.rng);
        } else {
            let destroyed = link.to_peer.reset(self.now, &mut self.rng);
            assert!(
                how != ServerClose::LateReset || destroyed + socket.tail.len() == 0,
                "LateReset destroyed {destroyed} bytes"
            );
        }
        link.relay_closed = true;
        assert!(
            is_limit || lost == 0 || !self.is_entitled(),
            "{how:?} left {lost} bytes of the server unread that the client waits for"
        );
    }

    fn close_client(&mut self, how: ClientClose) {
        self.client_closes += 1;
        self.client_closed_at = Some(self.now);
        let socket = self.client_socket.take().expect("one close of a client");
        if how == ClientClose::Lost {
            self.client_link.relay_closed = true;
            return;
        }
        assert!(
            socket.tail.is_empty() || !self.is_entitled(),
            "the client's connection was closed over {} unsent bytes",
            socket.tail.len()
        );
        if let (Some((_, link)), Some(_)) = (self.server.as_ref(), self.server_socket.as_ref()) {
            let unread = link.to_relay.readable(self.now);
            assert!(
                unread == 0 || !self.is_entitled(),
                "{unread} bytes of the server were not read for the client"
            );
        }
        let link = &mut self.client_link;
        if how == ClientClose::FinReset {
            assert!(socket.fin_seen, "FinReset before the client's FIN");
            let destroyed = link.to_peer.reset(self.now, &mut self.rng);
            assert!(
                destroyed == 0
                    || !self.client.reads()
                    || self.quit_in_reply
                    || self.client.wire == Wire::Tls,
                "an RST destroyed {destroyed} bytes that the client would have read"
            );
        } else {
            // Unread input would turn the close into an RST: it is discarded first.
            while matches!(link.to_relay.read(usize::MAX, self.now), Read::Bytes(_)) {}
            link.to_peer.fin(self.now, &mut self.rng);
        }
        link.relay_closed = true;
    }
}

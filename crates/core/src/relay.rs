//! One relayed session as a state machine without sockets: what to do next, and how to close.
//!
//! The engine moves bytes and reports what it saw (`client_bytes`, `server_eof`, ...); then it asks
//! [`Relay::decide`] until the answer is [`Action::Wait`] or [`Action::Done`]. `decide` is level
//! triggered: it looks at the facts gathered so far, so the order in which events arrive does not matter.
//! It must not know: descriptors, addresses, names, texts, clocks (milliseconds come in as arguments).
//!
//! The rules are those of docs/how-it-works.md: towards the server QUIT, never our FIN first, wait for the
//! server's FIN, RST; towards the client wait for its FIN, then RST; pending bytes before any close.

use portside_proto::login::{Event as LoginEvent, Greeting, ServerLogin};
use portside_proto::quit;
use portside_proto::refuse_login::{Refusal, Step};
use portside_proto::watch::{self, ClientWatch, Phase as ClientPhase};

use crate::reason::{Cause, ClientClose, Phase, ServerClose};

mod deciding;
#[cfg(test)]
mod tests;

/// Milliseconds on the engine's monotonic clock.
pub type Ms = u64;

/// How connections to a server are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToServer {
    /// QUIT, their FIN, RST.
    EofReset,
    /// QUIT, their FIN, FIN.
    Eof,
    /// QUIT, `TCP_LINGER2 = -1`, close.
    Linger2,
    /// QUIT, RST.
    ResetNow,
    /// QUIT, FIN.
    Fin,
}

/// How connections to clients are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToClient {
    /// Their FIN, then RST.
    FinReset,
    /// A plain close.
    Fin,
}

/// The rules of one session, resolved per service and server.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Close kind towards the server.
    pub to_server: ToServer,
    /// Close kind towards the client.
    pub to_client: ToClient,
    /// For the server's FIN.
    pub deadline_ms: Ms,
    /// Reply bytes read for a client that is gone.
    pub abandon_bytes: u64,
    /// And for how long.
    pub abandon_ms: Ms,
    /// How long a client's FIN is held back under TLS.
    pub tls_hold_ms: Ms,
    /// For connect().
    pub connect_ms: Ms,
    /// For the greeting, and again for the login.
    pub login_ms: Ms,
    /// Silence in both directions.
    pub idle_ms: Option<Ms>,
}

impl Rules {
    /// For a path that eats resets: the server's FIN is answered with ours, which leaves it a `TIME_WAIT` that blocks
    /// nobody, in place of a connection that it still believes in.
    pub fn avoid_resets(&mut self) {
        if self.to_server == ToServer::EofReset {
            self.to_server = ToServer::Eof;
        }
    }
}

/// What only the engine knows: bytes taken from one side and not yet taken by the other's kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unsent {
    /// Bytes for the server.
    pub to_server: bool,
    /// Bytes for the client.
    pub to_client: bool,
}

/// What the engine does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this time (or an event).
    Wait(Option<Ms>),
    /// Write these bytes to the server (QUIT, or the end of a login that the client left).
    SendToServer(Vec<u8>),
    /// Close the connection to the server.
    CloseServer(ServerClose),
    /// The deadline for the server's FIN is over: report SIOCOUTQ through [`Relay::overdue`].
    AskUnacknowledged,
    /// Report the client's round-trip time through [`Relay::client_rtt`].
    AskClientRtt,
    /// Close the connection to the client.
    CloseClient(ClientClose),
    /// The connect or the greeting failed: choose another server or refuse the client.
    AttemptFailed(Cause),
    /// Both sides are closed.
    Done,
}

/// What to do with bytes from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerBytes {
    /// Hand them (and everything held) to the client.
    Forward,
    /// Keep them: the greeting is not complete, and until it is another server may be tried.
    Hold,
    /// An ERR in place of the greeting.
    Refused {
        /// MySQL error number.
        errno: u16,
        /// The server's text.
        message: String,
    },
    /// Not MySQL.
    Garbage,
    /// The client is gone: drop them.
    Discard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Absent,
    Connecting,
    Open,
    Eof,
    Lost,
    Closed,
}

/// What is only needed until the login has ended.
#[derive(Debug, Default)]
struct Login {
    watch: ServerLogin,
    greeting: Option<Greeting>,
    /// The server waits for the client's answer to the packet of this sequence number, already forwarded.
    asked: Option<u8>,
    /// The client left: we end the login ourselves.
    refusal: Option<Refusal>,
    /// What the refusal wants sent.
    answer: Option<Vec<u8>>,
    refusal_done: bool,
}

/// One session. About 250 bytes; the login part is dropped after the login.
#[derive(Debug)]
pub struct Relay {
    watch: ClientWatch,
    login: Option<Box<Login>>,
    client_spoke: bool,
    client: Side,
    server: Side,
    phase: Phase,
    phase_at: Ms,
    moved_at: Ms,
    replied_commands: u64,
    abandoned_bytes: u64,
    cut: Option<Cause>,
    cut_gently: bool,
    refused: bool,
    ending_at: Option<Ms>,
    quit_at: Option<Ms>,
    reply_pending_at_end: bool,
    answered_after_end: bool,
    server_closed_at: Option<Ms>,
    client_fin_ms: Option<Ms>,
    late: Option<ServerClose>,
    cause: Option<Cause>,
    end_phase: Option<Phase>,
    server_close: ServerClose,
    client_close: Option<ClientClose>,
}

impl Relay {
    /// A session whose client has just been accepted.
    pub fn new(now: Ms) -> Self {
        Self {
            watch: ClientWatch::new(),
            login: None,
            client_spoke: false,
            client: Side::Open,
            server: Side::Absent,
            phase: Phase::Accept,
            phase_at: now,
            moved_at: now,
            replied_commands: 0,
            abandoned_bytes: 0,
            cut: None,
            cut_gently: false,
            refused: false,
            ending_at: None,
            quit_at: None,
            reply_pending_at_end: false,
            answered_after_end: false,
            server_closed_at: None,
            client_fin_ms: None,
            late: None,
            cause: None,
            end_phase: None,
            server_close: ServerClose::None,
            client_close: None,
        }
    }

    fn enter(&mut self, phase: Phase, now: Ms) {
        self.phase = phase;
        self.phase_at = now;
    }

    /// The session waits for a slot.
    pub fn queued(&mut self, now: Ms) {
        self.enter(Phase::Queue, now);
    }

    /// A connect to a server was started.
    pub fn connecting(&mut self, now: Ms) {
        self.server = Side::Connecting;
        self.enter(Phase::Connect, now);
    }

    /// The connect succeeded; the greeting is awaited.
    pub fn connected(&mut self, now: Ms) {
        self.server = Side::Open;
        self.login = Some(Box::default());
        self.enter(Phase::Greeting, now);
    }

    /// The attempt is given up (its socket is closed): back to choosing.
    pub fn attempt_over(&mut self, now: Ms) {
        self.server = Side::Absent;
        self.login = None;
        self.enter(Phase::Accept, now);
    }

    /// No server will serve this client: an ERR packet (in `Unsent::to_client`) is its answer.
    pub fn refuse(&mut self, cause: Cause, now: Ms) {
        self.refused = true;
        self.turn_away(cause, now);
    }

    /// Ends the session without a server and without a word to the client.
    pub fn turn_away(&mut self, cause: Cause, now: Ms) {
        self.ended(cause);
        self.server = Side::Closed;
        self.server_closed_at = Some(now);
        self.login = None;
    }

    /// Bytes from the client, all of which go to the server. O(packets in `bytes`), no allocation.
    pub fn client_bytes(&mut self, bytes: &[u8], now: Ms) {
        self.moved_at = now;
        self.client_spoke = true;
        if let Some(login) = self.login.as_mut() {
            login.asked = None;
        }
        let had_quit = self.quit_seen();
        self.watch.feed(bytes);
        if had_quit && !self.quit_seen() {
            self.go_on();
        }
        match self.watch.phase() {
            ClientPhase::Tls => {
                self.login = None;
                if self.phase != Phase::Tls {
                    self.enter(Phase::Tls, now);
                }
            }
            // The first command came before we understood the server's OK.
            ClientPhase::Command if self.phase == Phase::Login => {
                self.login = None;
                self.enter(Phase::Query, now);
            }
            _ => {}
        }
        match self.phase {
            Phase::Command if self.reply_pending() => self.phase = Phase::Query,
            // A QUIT in two pieces looked like a command until its last byte.
            Phase::Query if !self.reply_pending() => self.phase = Phase::Command,
            _ => {}
        }
    }

    /// What looked like QUIT was not the last word (a file's byte 0x01, see `portside_proto::watch`).
    fn go_on(&mut self) {
        self.quit_at = None;
        self.ending_at = None;
        self.late = None;
        self.reply_pending_at_end = false;
        self.answered_after_end = false;
        if self.cause == Some(Cause::Quit) {
            self.cause = None;
            self.end_phase = None;
        }
    }

    /// Bytes from the server: what to do with them. Allocates only for an ERR in place of a greeting.
    pub fn server_bytes(&mut self, bytes: &[u8], now: Ms) -> ServerBytes {
        self.moved_at = now;
        if self.login.is_some() {
            if let Some(answer) = self.login_bytes(bytes, now) {
                return answer;
            }
        } else {
            self.replied_commands = self.commands_before_quit();
            if self.phase == Phase::Query {
                self.phase = Phase::Command;
            }
            if self.watch.may_send_files() && watch::asks_for_file(bytes) {
                self.watch.file_begins();
            }
        }
        if matches!(self.client, Side::Open | Side::Eof) {
            // Under TLS they are the server's close_notify, which nobody reads.
            let has_left = self.client == Side::Eof || self.quit_seen();
            self.answered_after_end |= has_left && self.phase != Phase::Tls;
            ServerBytes::Forward
        } else {
            self.abandoned_bytes += bytes.len() as u64;
            ServerBytes::Discard
        }
    }

    fn login_bytes(&mut self, bytes: &[u8], now: Ms) -> Option<ServerBytes> {
        let login = self.login.as_mut()?;
        let mut rest = bytes;
        if let Some(refusal) = login.refusal.as_mut() {
            loop {
                match refusal.feed(&mut rest) {
                    Step::Wait => break,
                    Step::Send(answer) => login.answer.get_or_insert_default().extend(answer),
                    Step::SendAndClose(_) => {
                        // The client's own login may have agreed on compression.
                        let quit = quit::bytes(self.watch.is_compressed());
                        login.answer.get_or_insert_default().extend(quit);
                        break;
                    }
                    Step::Close => {
                        login.refusal_done = true;
                        break;
                    }
                }
            }
            return Some(ServerBytes::Discard);
        }
        let mut forward = self.phase != Phase::Greeting;
        while let Some(event) = login.watch.feed(&mut rest) {
            match event {
                LoginEvent::Greeting(greeting) => {
                    self.watch.set_server_capabilities(greeting.capabilities);
                    login.greeting = Some(greeting);
                    self.phase = Phase::Login;
                    self.phase_at = now;
                    forward = true;
                }
                // Nobody is left to be sent elsewhere.
                LoginEvent::RefusedErr { .. } | LoginEvent::Garbage(_) if self.cause.is_some() => {
                    return Some(ServerBytes::Discard)
                }
                LoginEvent::RefusedErr { errno, message } => {
                    return Some(ServerBytes::Refused { errno, message })
                }
                LoginEvent::Garbage(_) => return Some(ServerBytes::Garbage),
                LoginEvent::LoginOk => {
                    self.watch.login_done();
                    self.login = None;
                    self.enter(Phase::Command, now);
                    break;
                }
                LoginEvent::LoginErr { .. } => break,
            }
        }
        if let Some(login) = self.login.as_mut() {
            login.asked = login.watch.asked();
        }
        (!forward).then_some(ServerBytes::Hold)
    }

    /// The client sent its FIN.
    pub fn client_eof(&mut self) {
        if self.client == Side::Open {
            self.client = Side::Eof;
        }
    }

    /// The client's FIN came while our kernel still held bytes for it: an RST would destroy them.
    pub fn client_is_owed(&mut self) {
        self.answered_after_end = true;
    }

    /// The client's connection is dead (reset, timed out, or a write failed).
    pub fn client_lost(&mut self) {
        if self.client != Side::Closed {
            self.client = Side::Lost;
        }
    }

    /// The server sent its FIN and everything before it was read.
    pub fn server_eof(&mut self) {
        if self.server == Side::Open {
            self.server = Side::Eof;
        }
    }

    /// The server's connection is dead.
    pub fn server_lost(&mut self) {
        if matches!(self.server, Side::Open | Side::Connecting | Side::Eof) {
            self.server = Side::Lost;
        }
    }

    /// Ends the session: at once, or (`gently`) at the next command boundary.
    pub fn cut(&mut self, cause: Cause, gently: bool) {
        if self.cut.is_none() || self.cut_gently {
            self.cut = Some(cause);
            self.cut_gently = gently;
        }
    }

    /// Answers [`Action::AskUnacknowledged`].
    pub fn overdue(&mut self, unacknowledged: usize) {
        let quiet = unacknowledged == 0 && !self.reply_pending_at_end;
        self.late = Some(if quiet {
            ServerClose::LateReset
        } else {
            ServerClose::LateLinger2
        });
    }

    /// Whether the server's bytes can still reach the client.
    pub fn client_is_there(&self) -> bool {
        matches!(self.client, Side::Open | Side::Eof)
    }

    /// Whether client bytes may be read and relayed now: not before the greeting has gone out, and not
    /// behind a QUIT or a login of our own.
    pub fn reads_client(&self) -> bool {
        self.client == Side::Open
            && self.server == Side::Open
            && self.phase != Phase::Greeting
            && !self.has_parted()
    }

    /// Whether the client's bytes lead nowhere any more and are read only to see its FIN.
    pub fn drains_client(&self) -> bool {
        let nowhere =
            self.server == Side::Closed || (self.server == Side::Open && self.has_parted());
        self.client == Side::Open && nowhere
    }

    /// Whether the server has been told good-bye by us, not by the client.
    fn has_parted(&self) -> bool {
        self.quit_at.is_some() && !self.quit_seen()
    }

    /// Whether the session is on its way out.
    pub fn is_closing(&self) -> bool {
        self.cause.is_some()
    }

    /// What [`Self::cut`] asked for, where the session is not relayed: the cause, and whether gently.
    pub fn wanted_cut(&self) -> Option<(Cause, bool)> {
        self.cut.map(|cause| (cause, self.cut_gently))
    }

    /// Where in its life a session is that is not relayed (pool mode).
    pub fn follow(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Whether QUIT was the client's last word.
    pub fn quit_seen(&self) -> bool {
        self.watch.quit_seen()
    }

    /// Where in its life the session is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Commands the client began, QUIT not counted.
    pub fn commands(&self) -> u64 {
        self.commands_before_quit()
    }

    /// Whether the client had sent anything before the login ended (for the count of early leavers).
    pub fn left_before_login(&self) -> bool {
        self.end_phase == Some(Phase::Login)
            && matches!(
                self.cause,
                Some(Cause::ClientEof | Cause::ClientReset | Cause::LoginTimeout)
            )
    }

    /// Why the session ended; `Internal` if nobody said.
    pub fn cause(&self) -> Cause {
        self.cause.unwrap_or(Cause::Internal)
    }

    /// The phase in which it ended.
    pub fn end_phase(&self) -> Phase {
        self.end_phase.unwrap_or(self.phase)
    }

    /// How the server side was closed.
    pub fn server_close(&self) -> ServerClose {
        self.server_close
    }

    /// How the client side was closed.
    pub fn client_close(&self) -> ClientClose {
        self.client_close.unwrap_or(ClientClose::Lost)
    }

    fn commands_before_quit(&self) -> u64 {
        self.watch
            .commands()
            .saturating_sub(u64::from(self.watch.quit_seen()))
    }

    fn reply_pending(&self) -> bool {
        self.commands_before_quit() > self.replied_commands
    }

    fn ended(&mut self, cause: Cause) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            self.end_phase = Some(self.phase);
        }
    }
}

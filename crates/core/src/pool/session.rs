//! One client of a pool service: greeting, login, commands, and why it keeps a connection.
//!
//! The engine hands in what the client has sent and does what [`Session::step`] says; nothing is kept here but
//! what a later command needs. Bytes that were not taken are handed in again. While a reply runs no further
//! command is looked at.

mod answering;
mod executing;
mod framing;
mod login;
mod replying;
mod sending;
mod statements;
mod told;
mod wanting;

use std::fmt::Display;
use std::sync::Arc;

use portside_proto::command::{capability, com, status, HEADER_LEN, MAX_PAYLOAD};
use portside_proto::handshake::offer::{self, Offer};
use portside_proto::handshake::Plugin;
use portside_proto::parameters::query_text;
use portside_proto::reply::Shape;

use self::answering::{malformed_attributes, unknown};
use self::executing::is_about_statement;
use self::framing::{beginning, length, packet, Packet};
use self::login::Pending;
pub use self::statements::Needs;
use self::statements::Statements;
use super::version::speaker;
use super::{offered, Channel, Class, Conn, Home, Left, Server, Settings, User, Want};
use crate::reason::{Cause, Pin};
use crate::sql::{self, Kind, OwnId, Pins, Verdict};

/// Longer commands are passed on unread, and pin. 1 MiB: what a session may make us hold while a packet is on
/// its way.
pub const LONG: usize = 1024 * 1024;

/// Looks an account up.
type Find<'a> = dyn Fn(&[u8]) -> Option<(Arc<User>, bool)> + 'a;
/// Opens a sealed password.
type Open<'a> = dyn Fn(&[u8], &[u8; 20]) -> Vec<u8> + 'a;

/// What a step may ask of the engine.
pub struct Context<'a> {
    /// The client's address, for texts.
    pub client: &'a dyn Display,
    /// The account of this name; one that stands in for it, and true, if there is none that this client may use
    /// here. None: the service has no accounts.
    pub find: &'a Find<'a>,
    /// Whether too many logins with this name have failed from there.
    pub is_limited: &'a dyn Fn(&[u8]) -> bool,
    /// Fresh random bytes for a scramble: no NUL, no `$`.
    pub nonce: &'a dyn Fn() -> [u8; 32],
    /// The key for the passwords of clients whose channel can be read, in PEM.
    pub public_key: Option<&'a str>,
    /// Opens what was sealed with it, for this salt.
    pub open: &'a Open<'a>,
    /// Whether it is this session's turn to make the worker hash for milliseconds.
    pub may_hash: &'a dyn Fn() -> bool,
}

/// What the engine does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before more bytes of the client have come.
    More,
    /// Write to the client, go on.
    Say(Vec<u8>),
    /// Everything behind what was taken is TLS, from the next byte on; step again with what comes out of it.
    StartTls,
    /// The login with this name was refused: write, count, end.
    Denied(Vec<u8>, Box<[u8]>),
    /// A change of user was refused and the session goes on: write, count.
    Refused(Vec<u8>, Box<[u8]>),
    /// Take a turn for a slow hash, and step again with the same bytes once [`Context::may_hash`].
    Later,
    /// The password is right: call [`Session::admitted`] or [`Session::turned_away`].
    Admit,
    /// Bring a connection that [`Session::want`] describes, prepared, and step again.
    Attach,
    /// Write the bytes that were taken to the connection, after [`Session::address`]; a reply follows unless `Conn`
    /// is still ready.
    Forward,
    /// Write these in place of the bytes that were taken; else as [`Step::Forward`].
    Instead(Vec<u8>),
    /// A reply runs.
    Await,
    /// `KILL`: answer through [`Session::killed`].
    Kill {
        /// The connection's id, as Portside gave it.
        id: u64,
        /// The query alone.
        query: bool,
    },
    /// The session is over; write the bytes first.
    End(Cause, Vec<u8>),
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Awaits the login packet.
    Login,
    /// Awaits the answer to a switch of the authentication method.
    Switch(Plugin),
    /// Awaits the password itself, or a request for the key.
    Password {
        has_asked: bool,
    },
    /// The engine decides about the user's limit.
    Admission,
    /// A server must confirm the schema before the login is answered.
    Schema,
    Command,
    /// A command longer than [`LONG`]: bytes of the present packet still to come, and whether another follows.
    Upload {
        left: usize,
        continues: bool,
    },
    Reply,
    /// The server has asked for a file: bytes of the present packet still to come, and whether the next one belongs
    /// to it. An empty packet that belongs to none ends the file.
    File {
        left: usize,
        continues: bool,
    },
}

/// What is not offered though the servers have it. MySQL 9.7 warns of NO_SCHEMA with every statement, our own too, so
/// the first OK of a session would count a warning that is not its own.
const fn not_with(is_mariadb: bool) -> u64 {
    if is_mariadb {
        0
    } else {
        capability::NO_SCHEMA as u64
    }
}

/// A client. See the module's text.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    channel: Channel,
    /// It came over TLS.
    has_tls: bool,
    thread_id: u32,
    offered: u64,
    /// What the login answers to; of the greeting, its first 20 bytes.
    nonce: [u8; 32],
    /// The method that the greeting named.
    plugin: Plugin,
    /// The greeting's family.
    is_mariadb: bool,
    /// Changes of user that failed in a row.
    failed_changes: u8,
    /// What its client calls itself (the attribute `program_name`).
    program: Option<Box<str>>,
    /// Flags of its login.
    capabilities: u64,
    class: Class,
    pending: Option<Box<Pending>>,
    user: Option<Arc<User>>,
    schema: Option<Box<[u8]>>,
    settings: Settings,
    pins: Pins,
    /// What pins that have gone leave behind.
    left: Left,
    /// Prepared and not closed.
    statements: Statements,
    /// All servers of the service are alike, so that a statement of one can be prepared on another.
    moves: bool,
    /// Of the command at hand, until its reply is over.
    verdict: Option<Verdict>,
    /// A SET under way, to be remembered if it succeeds.
    set: Option<Box<[u8]>>,
    command: u8,
    commands: u64,
    status: u16,
    /// Connection and count of uses after its last command.
    last: Option<(u64, u64)>,
    /// The last result set of that connection was asked for by this session.
    knows_found_rows: bool,
    /// The connection that knew the last statement's warnings was given back meanwhile.
    has_forgotten: bool,
    /// A ping was answered here since the last reply: on a server it would have set ROW_COUNT() to 0.
    has_pinged: bool,
    /// What became of the connection that held its state: its next command is answered with this, and ends it.
    bereft: Option<Box<str>>,
}

impl Session {
    /// A client that has just come, and the greeting for it. `servers`: what is known about those of the
    /// service, in its order; with none there is nothing to greet with. `version`: in place of theirs.
    pub fn new(
        thread_id: u32,
        nonce: [u8; 32],
        servers: &[Arc<Server>],
        channel: Channel,
        version: Option<&str>,
    ) -> Option<(Self, Vec<u8>)> {
        // Where both families serve, each server's is the session's in turn, to the session's end.
        let drawn = servers.get(thread_id as usize % servers.len().max(1))?;
        let is_same = |server: &&Arc<Server>| server.is_mariadb == drawn.is_mariadb;
        let servers: Vec<_> = servers.iter().filter(is_same).cloned().collect();
        let speaker = speaker(&servers)?;
        let common = servers
            .iter()
            .fold(u64::MAX, |all, server| all & server.capabilities);
        let offered = offered(common, channel) & !not_with(drawn.is_mariadb);
        let plugin = match Plugin::from_name(speaker.plugin.as_bytes()) {
            Some(Plugin::Sha2) => Plugin::Sha2,
            _ => Plugin::Native,
        };
        let greeting = offer::greeting(&Offer {
            version: version.unwrap_or(&speaker.version),
            thread_id,
            capabilities: offered,
            collation: speaker.collation,
            salt: nonce.first_chunk().unwrap_or(&[0; 20]),
            plugin,
        });
        let session = Self {
            phase: Phase::Login,
            channel,
            has_tls: false,
            thread_id,
            offered,
            nonce,
            plugin,
            is_mariadb: speaker.is_mariadb,
            failed_changes: 0,
            program: None,
            capabilities: 0,
            class: Class::of_login(0, 0, 0),
            pending: None,
            user: None,
            schema: None,
            settings: Settings::new(),
            pins: Pins::NONE,
            left: Left::Nothing,
            statements: Statements::default(),
            moves: servers
                .iter()
                .all(|server| server.version == speaker.version),
            verdict: None,
            set: None,
            command: 0,
            commands: 0,
            status: status::AUTOCOMMIT,
            last: None,
            knows_found_rows: false,
            has_forgotten: false,
            has_pinged: false,
            bereft: None,
        };
        Some((session, greeting))
    }

    /// Why it keeps its connection; the first reason.
    pub fn pin(&self) -> Option<Pin> {
        self.pins.first()
    }

    /// Whether it keeps its connection.
    pub fn is_pinned(&self) -> bool {
        !self.pins.is_empty()
    }

    /// Whether it has logged in.
    pub fn is_logged_in(&self) -> bool {
        self.user.is_some() && self.pending.is_none()
    }

    /// Whether nothing runs; a transaction may be open.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Command
    }

    /// Whether a reply (or a long command, or a file) is under way.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Reply) || self.is_sending()
    }

    /// Whether the server waits for the rest of a long command or of a file.
    pub fn is_sending(&self) -> bool {
        matches!(self.phase, Phase::Upload { .. } | Phase::File { .. })
    }

    /// Whether the client's bytes are still wanted: not while a reply runs.
    pub fn reads(&self) -> bool {
        !matches!(self.phase, Phase::Reply | Phase::Admission)
    }

    /// The account for connections: while logging in, the one that is being logged in.
    pub fn account(&self) -> Option<&Arc<User>> {
        match self.pending.as_ref() {
            Some(pending) => Some(&pending.user),
            None => self.user.as_ref(),
        }
    }

    /// Looks at the client's bytes. Returns how many were taken and what to do; `conn` is the connection
    /// attached, prepared and ready. O(length of a command's text), no allocation for a command that is passed
    /// on.
    pub fn step(
        &mut self,
        input: &[u8],
        conn: Option<&mut Conn>,
        context: &Context<'_>,
    ) -> (usize, Step) {
        match self.phase {
            Phase::Reply | Phase::Admission => (0, Step::Await),
            Phase::Schema => (0, self.confirmed(conn.is_some())),
            Phase::Upload { left, continues } => self.upload(input, left, continues),
            Phase::File { left, continues } => self.file(input, left, continues),
            Phase::Login | Phase::Switch(_) | Phase::Password { .. } => match packet(input) {
                Packet::Incomplete(length) if length > offer::LOGIN_MAX => {
                    (0, self.malformed("a login packet of this length", 1))
                }
                Packet::Incomplete(_) => (0, Step::More),
                Packet::Whole { sequence, payload } => {
                    let step = match self.phase {
                        Phase::Switch(plugin) => self.switched(plugin, sequence, payload, context),
                        Phase::Password { has_asked } => {
                            self.told(has_asked, sequence, payload, context)
                        }
                        _ => self.login(sequence, payload, context),
                    };
                    let taken = step != Step::Later;
                    (if taken { HEADER_LEN + payload.len() } else { 0 }, step)
                }
            },
            Phase::Command => self.command(input, conn, context),
        }
    }

    /// A connection was found: its name, and its count of uses before it is prepared.
    pub fn attached(&mut self, conn: (u64, u64)) {
        // Others may have asked for the last result set there.
        self.knows_found_rows &= self.last == Some(conn);
        self.statements.attached();
    }

    fn command(
        &mut self,
        input: &[u8],
        conn: Option<&mut Conn>,
        context: &Context<'_>,
    ) -> (usize, Step) {
        let Some((sequence, payload, is_whole)) = beginning(input) else {
            return (0, Step::More);
        };
        let Some((&command, argument)) = payload.split_first() else {
            return (0, self.malformed("an empty command", 1));
        };
        if sequence != 0 {
            return (0, self.malformed("a command out of sequence", 1));
        }
        let whole = HEADER_LEN + payload.len();
        if is_whole || self.bereft.is_some() {
            if let Some(step) = self.answer(command, argument, conn.as_deref(), context) {
                let taken = !matches!(step, Step::Attach | Step::Later);
                return (if taken { whole } else { 0 }, step);
            }
        }
        let Some(shape) = Shape::of(command) else {
            return (whole, Step::Say(unknown(command)));
        };
        let has_attributes =
            is_whole && command == com::QUERY && self.class.has(capability::QUERY_ATTRIBUTES);
        let Some(argument) = (if has_attributes {
            query_text(argument)
        } else {
            Some(argument)
        }) else {
            return (whole, Step::Say(malformed_attributes()));
        };
        self.statements.address = None;
        if is_about_statement(command) {
            if let Some(step) = self.about_statement(command, argument, is_whole, conn.as_deref()) {
                let taken = !matches!(step, Step::More);
                return (if taken { whole } else { 0 }, step);
            }
        } else if self.verdict.is_none() {
            self.first_look(command, argument, is_whole);
        }
        if let Some(step) = self.answer_query() {
            self.verdict = None;
            self.statements.start();
            return (whole, step);
        }
        let Some(conn) = conn.filter(|conn| !self.outgrows(conn)) else {
            return (0, Step::Attach);
        };
        self.run(input, argument, is_whole, conn, shape)
    }

    /// A command has come: what it needs and leaves behind.
    fn first_look(&mut self, command: u8, argument: &[u8], is_whole: bool) {
        self.statements.start();
        let verdict = if is_whole {
            self.read(command, argument)
        } else {
            Verdict::pinned(Pin::Long)
        };
        self.set = (verdict.kind == Kind::Set).then(|| argument.into());
        self.verdict = Some(verdict);
        self.look_for_movers();
    }

    /// Runs the command at the beginning of the input on this connection.
    fn run(
        &mut self,
        input: &[u8],
        argument: &[u8],
        is_whole: bool,
        conn: &mut Conn,
        shape: Shape,
    ) -> (usize, Step) {
        let length = length(input);
        let taken = input.len().min(HEADER_LEN + length);
        let packet = input.get(..taken).unwrap_or(input);
        let command = packet.get(HEADER_LEN).copied().unwrap_or(0);
        if let Some(step) = self.lacks_statements(conn, is_whole) {
            if step == Step::Attach {
                return (0, step);
            }
            self.verdict = None;
            return (taken, step);
        }
        // With MariaDB those of its last user are there until a statement uses a table.
        if conn.has_diagnostics() && self.want().no_diagnostics {
            return (0, Step::Attach);
        }
        let step = self.begin_statement(command, packet, is_whole, conn);
        self.pin_statements();
        if matches!(step, Some(Step::Say(_) | Step::End(..))) {
            self.verdict = None;
            return (taken, step.unwrap_or(Step::More));
        }
        let own = self.with_own_id(argument);
        if command == com::STMT_PREPARE {
            self.begin_prepare(is_whole.then_some(own.as_deref().unwrap_or(argument)));
        }
        let step = own.map_or(step, |text| {
            let attributes = packet.get(HEADER_LEN + 1..packet.len() - argument.len());
            let argument = [attributes.unwrap_or(&[]), &text].concat();
            Some(Step::Instead(offer::command(command, &argument)))
        });
        self.begin(command, conn, shape);
        if !is_whole {
            self.phase = Phase::Upload {
                left: HEADER_LEN + length - taken,
                continues: length == MAX_PAYLOAD as usize,
            };
        }
        (taken, step.unwrap_or(Step::Forward))
    }

    /// The statement at hand as it must run, where it asks for its connection's id.
    fn with_own_id(&self, text: &[u8]) -> Option<Vec<u8>> {
        match self.verdict.as_ref()? {
            Verdict {
                own_id: OwnId::Called,
                ..
            } => sql::with_own_id(text, self.thread_id),
            // Only that of the session itself comes this far.
            Verdict {
                kind: Kind::Kill { .. },
                ..
            } => Some(b"KILL QUERY CONNECTION_ID()".to_vec()),
            _ => None,
        }
    }

    fn begin(&mut self, command: u8, conn: &mut Conn, shape: Shape) {
        let Some(verdict) = self.verdict.as_ref() else {
            return;
        };
        // A ping leaves warnings and FOUND_ROWS() as they are.
        if command != com::PING {
            if self.clears_diagnostics(verdict) {
                self.pins.remove(Pin::Warnings);
                self.has_forgotten = false;
            }
            self.pins.remove(Pin::RowCount);
            self.pins.remove(Pin::FoundRows);
        }
        self.pins = self.pins.and(verdict.pins);
        if command == com::RESET_CONNECTION {
            let lasting = self.pins.outlive_a_reset() || self.has_wide_schema();
            self.forget();
            conn.statements().clear();
            self.pins.add(Pin::Command);
            if lasting {
                self.pins.add(Pin::Statement);
            }
        }
        if !conn.is_readable() {
            self.pins.add(Pin::Unreadable);
        }
        self.command = command;
        self.commands += 1;
        conn.begin(shape);
        if let Some(id) = self.statements.prepares() {
            conn.renumber(id);
        }
        if shape == Shape::Nothing {
            self.verdict = None;
        } else {
            self.phase = Phase::Reply;
        }
    }

    /// The connection is given back: what this session leaves on it.
    pub fn take_traces(&mut self) -> Left {
        std::mem::take(&mut self.left).max(self.leaves())
    }

    fn leaves(&self) -> Left {
        if self.pins.leave_a_doubt() {
            Left::Doubt
        } else if self.pins.leave_a_trace() {
            Left::Traces
        } else {
            Left::Nothing
        }
    }

    /// How long the command at hand is, so that it can be dropped after [`Self::not_attached`]. None: longer
    /// than what has come of it.
    pub fn drop_command(input: &[u8]) -> Option<usize> {
        match packet(input) {
            Packet::Whole { payload, .. } if payload.len() < MAX_PAYLOAD as usize => {
                Some(HEADER_LEN + payload.len())
            }
            _ => None,
        }
    }
}

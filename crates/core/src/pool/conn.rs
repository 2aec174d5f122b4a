//! One connection to a server: login, starting state, what is set on it, and the reply that runs.
//!
//! The engine feeds what the server sends and writes what it is told to. In the phases login, first look and
//! steps the bytes are for this machine ([`Conn::feed`]); while a client's command runs they are the client's,
//! and [`Conn::relay`] only finds the reply's end.

mod cleaning;
mod failing;
mod first_look;
mod limits;
mod preparing;
mod replying;

use std::collections::VecDeque;

use portside_proto::command::{com, status};
use portside_proto::handshake::offer::{put_command, put_query};
use portside_proto::handshake::{Announce, ClientLogin, Step, Transport};
use portside_proto::reframe::Reframe;
use portside_proto::reply::{Reply, Shape};
use portside_proto::single::{OneRow, ServerError, Single};
use portside_proto::statement::{Prepared, Renumber};

use self::cleaning::Cleaning;
use self::failing::failure;
pub use self::failing::Failure;
use self::first_look::FIRST_LOOK;
pub use self::limits::{AskedLimits, Limits};
use self::preparing::Preparing;
pub(super) use self::preparing::NEED_REPREPARE;
use super::statements::OnServer;
use super::{Class, Left, Server, Settings, User, Want};
use crate::sql::is_readable;

/// Forgets warnings and errors: MariaDB only with a statement that uses a table, which may have no schema's name
/// (CLIENT_NO_SCHEMA).
const CLEAR: &[u8] = b"DO (SELECT 1 FROM (SELECT 1) d)";

/// How servers know whose connections these are. Not the clients' own attributes: one connection serves many, and
/// those of the first would be a lie for the others.
const ATTRIBUTES: &[(&str, &str)] = &[
    ("_client_name", "portside"),
    ("_client_version", env!("CARGO_PKG_VERSION")),
    ("program_name", "portside"),
];

/// What has come of the server's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// More bytes are needed.
    Wait,
    /// Write these bytes, go on.
    Send(Vec<u8>),
    /// Write these bytes and begin TLS; then [`Conn::within_tls`].
    StartTls(Vec<u8>),
    /// Logged in, or prepared: a command may be sent.
    Ready,
    /// See [`Failure`]; all but `Step` end the connection.
    Failed(Failure),
}

#[derive(Debug)]
enum Phase {
    Login(Box<ClientLogin>),
    FirstLook(OneRow),
    Steps {
        /// A client's command was sent behind them.
        has_rider: bool,
    },
    Ready,
    /// A client's command runs.
    Busy,
    /// The same behind a step that failed: its reply is for nobody.
    Unheard,
    Broken,
}

/// One of our own commands under way.
#[derive(Debug)]
enum Did {
    Reset,
    Restore,
    Clear,
    Setting(Box<[u8]>),
    Schema(Box<[u8]>),
    /// A statement of a client that this connection had not.
    Statement(Preparing),
    /// Something for others; its outcome matters to nobody here.
    Errand,
}

/// A server connection. See the module's text.
#[derive(Debug)]
pub struct Conn {
    class: Class,
    phase: Phase,
    has_greeted: bool,
    thread_id: u32,
    capabilities: u64,
    is_mariadb: bool,
    /// The SET that a reset is followed by.
    restore: Box<[u8]>,
    /// MySQL warns of it: its character set is deprecated.
    restore_warns: bool,
    /// A reset leaves the character set of the login.
    keeps_charset: bool,
    /// SQL text can be read under its character set and mode.
    is_readable: bool,
    steps: VecDeque<Did>,
    failed: Option<ServerError>,
    single: Single,
    reply: Reply,
    status: u16,
    uses: u64,
    schema: Option<Box<[u8]>>,
    settings: Settings,
    /// What sessions left on it.
    left: Left,
    cleaning: Cleaning,
    /// It may have warnings or an error to show.
    diagnostics: bool,
    /// Prepared statements.
    statements: OnServer,
    /// Reads the reply to a PREPARE of our own.
    preparing: Option<Prepared>,
    /// Of our own, not counted yet.
    reprepares: u64,
    /// Puts the client's statement id into the running reply.
    renumber: Option<Renumber>,
    /// The client that it is lent to has the other form of result sets.
    translates: bool,
    /// Puts the running reply into that form.
    reframe: Option<Reframe>,
    /// `autocommit` is on from the login on.
    is_autocommit: bool,
}

impl Conn {
    /// A connection before the server's first byte. `seed`: random bytes for one RSA encryption.
    pub fn new(user: &User, class: Class, seed: [u8; 20], transport: Transport) -> Self {
        let credential = user.credential();
        let login = ClientLogin::new(&user.server_user, credential, None).announcing(Announce {
            capabilities: class.capabilities,
            collation: class.collation,
            seed,
            transport,
            attributes: ATTRIBUTES,
        });
        Self {
            class,
            phase: Phase::Login(Box::new(login)),
            has_greeted: false,
            thread_id: 0,
            capabilities: 0,
            is_mariadb: false,
            restore: Box::default(),
            restore_warns: false,
            keeps_charset: false,
            is_readable: false,
            steps: VecDeque::new(),
            failed: None,
            single: Single::default(),
            reply: Reply::new(Shape::Nothing, 0),
            status: status::AUTOCOMMIT,
            uses: 0,
            schema: None,
            settings: Settings::new(),
            left: Left::Nothing,
            cleaning: Cleaning::Impossible,
            diagnostics: false,
            statements: OnServer::default(),
            preparing: None,
            reprepares: 0,
            renumber: None,
            translates: false,
            reframe: None,
            is_autocommit: true,
        }
    }

    /// Its class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The connection's id on the server.
    pub fn thread_id(&self) -> u32 {
        self.thread_id
    }

    /// Commands of clients it has carried.
    pub fn uses(&self) -> u64 {
        self.uses
    }

    /// Status flags as last told.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether a reset leaves the character set of the login.
    pub fn keeps_charset(&self) -> bool {
        self.keeps_charset
    }

    /// Whether SQL text can be read under its character set and mode.
    pub fn is_readable(&self) -> bool {
        self.is_readable
    }

    /// Whether a session left traces that a reset must remove.
    pub fn has_traces(&self) -> bool {
        self.left != Left::Nothing
    }

    /// Whether nothing can make it fit for others again.
    pub fn is_spoiled(&self) -> bool {
        self.left == Left::Doubt
            || (self.has_traces() && matches!(self.cleaning, Cleaning::Impossible))
    }

    /// Whether a command may be sent.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// Whether a client's reply is under way, perhaps behind those to our own steps.
    pub fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Busy) || self.is_ridden()
    }

    /// Whether a client's command was sent behind steps whose replies are not over, or of which one failed.
    pub fn is_ridden(&self) -> bool {
        matches!(
            self.phase,
            Phase::Unheard | Phase::Steps { has_rider: true }
        )
    }

    /// Whether the next bytes are for [`Self::feed`].
    pub fn is_preparing(&self) -> bool {
        !matches!(self.phase, Phase::Busy | Phase::Ready)
    }

    /// Whether not a byte of the running reply has come.
    pub fn reply_is_untouched(&self) -> bool {
        self.reply.is_untouched()
    }

    /// Takes the server's bytes while they are ours. Call again until [`Event::Wait`]. Behind the steps what is left
    /// of them may belong to a reply ([`Self::is_busy`]); that of a command whose steps failed is ours, too.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Event {
        let event = match &mut self.phase {
            Phase::Login(_) => self.log_in(bytes),
            Phase::FirstLook(_) => self.look(bytes),
            Phase::Steps { has_rider } => {
                let has_rider = *has_rider;
                self.step(bytes, has_rider)
            }
            // A server says nothing unasked but good-bye (an ERR before it closes).
            Phase::Ready if !bytes.is_empty() => {
                Event::Failed(Failure::Broken("bytes that nobody asked for".to_owned()))
            }
            Phase::Unheard => self.unheard(bytes),
            Phase::Ready | Phase::Busy | Phase::Broken => Event::Wait,
        };
        if matches!(&event, Event::Failed(failure) if !matches!(failure, Failure::Step(_))) {
            self.phase = Phase::Broken;
        }
        event
    }

    fn log_in(&mut self, bytes: &mut &[u8]) -> Event {
        let Phase::Login(login) = &mut self.phase else {
            return Event::Wait;
        };
        match login.feed(bytes) {
            Ok(Some(step @ (Step::Send(_) | Step::StartTls(_)))) => {
                if let (false, Some(greeting)) = (self.has_greeted, login.greeting()) {
                    self.has_greeted = true;
                    let flags = greeting.all_capabilities();
                    if !self.class.fits(flags, greeting.is_mariadb) {
                        return Event::Failed(Failure::Unfit(Box::new(Server::from(greeting))));
                    }
                    self.thread_id = greeting.thread_id;
                    self.is_mariadb = greeting.is_mariadb;
                    self.statements.forgets_types(greeting.is_mariadb);
                    self.capabilities = self.class.capabilities & greeting.all_capabilities();
                }
                match step {
                    // Nobody can have put them there but somebody on the way.
                    Step::StartTls(_) if !bytes.is_empty() => {
                        broken("bytes behind the greeting of a server that offers TLS")
                    }
                    Step::StartTls(request) => Event::StartTls(request),
                    Step::Send(answer) => Event::Send(answer),
                    Step::Done | Step::Leave(..) => Event::Wait,
                }
            }
            Ok(Some(Step::Leave(answer, why))) => {
                Event::Failed(Failure::Left(answer, why.to_string()))
            }
            Ok(Some(Step::Done)) => {
                let looks = Phase::FirstLook(OneRow::default());
                if let Phase::Login(login) = std::mem::replace(&mut self.phase, looks) {
                    self.cleaning = Cleaning::Login(login);
                }
                let mut query = Vec::with_capacity(FIRST_LOOK.len() + 7);
                put_query(&mut query, FIRST_LOOK, self.capabilities);
                Event::Send(query)
            }
            Ok(None) => Event::Wait,
            Err(error) => Event::Failed(failure(error, login.is_secure())),
        }
    }

    /// The handshake is over: the login follows, or, with a server that may not hear it (the text says why), an
    /// orderly end.
    pub fn within_tls(&mut self, verdict: Result<(), String>) -> Event {
        let Phase::Login(login) = &mut self.phase else {
            return Event::Wait;
        };
        match login.within_tls(verdict) {
            Ok(Step::Send(answer)) => Event::Send(answer),
            Ok(_) => Event::Wait,
            Err(error) => Event::Failed(failure(error, true)),
        }
    }

    /// What the server says about itself, once it has greeted.
    pub fn server(&self) -> Option<Server> {
        match &self.phase {
            // Without its TLS it is of no use.
            Phase::Login(login) if login.is_hopeless() => None,
            Phase::Login(login) => login.greeting().map(Server::from),
            _ => None,
        }
    }

    /// Makes it what a session wants. Empty: it is so already; else write the bytes and feed until `Ready`.
    ///
    /// The steps are sent together and checked one by one; the session's command must wait for them, since
    /// a server would run it also after a failed step, unless it is a read ([`super::Session::may_ride`]).
    pub fn prepare(&mut self, want: &Want<'_>) -> Vec<u8> {
        debug_assert!(self.is_ready());
        let mut bytes = Vec::new();
        let missing = if self.needs_reset(want) {
            self.put_reset(&mut bytes);
            want.settings.map_or(&[][..], Settings::all)
        } else {
            self.missing(want).unwrap_or_default()
        };
        for statement in missing {
            put_query(&mut bytes, statement, self.capabilities);
            self.steps.push_back(Did::Setting(statement.clone()));
        }
        let other = |name: &&[u8]| !want.any_schema && Some(*name) != self.schema();
        if let Some(schema) = want.schema.filter(other) {
            put_command(&mut bytes, com::INIT_DB, schema);
            self.steps.push_back(Did::Schema(schema.into()));
        }
        self.put_statements(&want.needs, &mut bytes);
        if want.no_diagnostics && (self.diagnostics || !bytes.is_empty()) {
            self.put_clear(&mut bytes);
        }
        self.start_steps();
        bytes
    }

    /// Whether it cannot be made what a session wants: nothing takes a schema away, and what cannot be reset
    /// must be right as it is.
    pub fn is_unfit(&self, want: &Want<'_>) -> bool {
        (want.schema.is_none() && self.schema.is_some() && !want.any_schema)
            || (self.needs_reset(want) && !matches!(self.cleaning, Cleaning::Reset))
    }

    fn needs_reset(&self, want: &Want<'_>) -> bool {
        self.has_traces() || self.missing(want).is_none()
    }

    /// The SETs to run; None: only after a reset.
    fn missing<'a>(&self, want: &Want<'a>) -> Option<&'a [Box<[u8]>]> {
        const NONE: &Settings = &Settings::new();
        let settings = want.settings.unwrap_or(NONE);
        // The next client of an application sets what the last one has set: no reset for that.
        let has_set = |set: &[u8]| self.settings.are(settings, set);
        if want.set.is_some_and(has_set) {
            return Some(&[]);
        }
        settings.after(&self.settings)
    }

    /// Runs `KILL QUERY` for a connection on the same server. Write the bytes and feed until `Ready`.
    pub fn kill_query(&mut self, thread_id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let text = format!("KILL QUERY {thread_id}");
        put_query(&mut bytes, text.as_bytes(), self.capabilities);
        self.steps.push_back(Did::Errand);
        self.start_steps();
        bytes
    }

    fn put_clear(&mut self, bytes: &mut Vec<u8>) {
        put_query(bytes, CLEAR, self.capabilities);
        self.steps.push_back(Did::Clear);
    }

    fn start_steps(&mut self) {
        if !self.steps.is_empty() {
            // ROW_COUNT() and FOUND_ROWS() are no session's any more.
            self.uses += 1;
            self.phase = Phase::Steps { has_rider: false };
        }
    }

    fn step(&mut self, bytes: &mut &[u8], has_rider: bool) -> Event {
        while let Some(did) = self.steps.front() {
            if matches!(did, Did::Statement(_)) {
                match self.prepared(bytes) {
                    None => return Event::Wait,
                    Some(Ok(())) => continue,
                    Some(Err(text)) => return broken(&text),
                }
            }
            match self.single.feed(bytes) {
                Ok(None) => return Event::Wait,
                Ok(Some(reply)) => {
                    let did = self.steps.pop_front();
                    if let Some(did) = did {
                        self.did(did, reply);
                    }
                }
                Err(e) => return broken(&e.to_string()),
            }
        }
        if has_rider && self.failed.is_some() {
            self.phase = Phase::Unheard;
            return self.unheard(bytes);
        }
        self.phase = if has_rider { Phase::Busy } else { Phase::Ready };
        self.is_prepared()
    }

    fn is_prepared(&mut self) -> Event {
        match self.failed.take() {
            None => Event::Ready,
            Some(error) => Event::Failed(Failure::Step(error)),
        }
    }

    /// A failed step is told when the reply behind it is over: then the connection is as good as before.
    fn unheard(&mut self, bytes: &mut &[u8]) -> Event {
        match self.relay(bytes) {
            Ok(Some(_)) => self.is_prepared(),
            Ok(None) if self.take_file().is_some() => broken("a request for a file"),
            Ok(None) => Event::Wait,
            Err(failure) => Event::Failed(failure),
        }
    }

    fn did(&mut self, did: Did, reply: Result<(), ServerError>) {
        match (did, reply) {
            (Did::Schema(name), Ok(())) => self.schema = Some(name),
            (Did::Setting(statement), Ok(())) => {
                // It may have warned.
                self.diagnostics = true;
                self.settings.add(&statement);
            }
            (Did::Clear, Ok(())) => self.diagnostics = false,
            (Did::Reset, Ok(())) => self.is_like_new(),
            (Did::Restore | Did::Statement(_), Ok(())) => {}
            (Did::Errand, _) => self.diagnostics = true,
            (did, Err(error)) => {
                self.diagnostics = true;
                // What it has done so far is in doubt, but for a schema that was not taken.
                if !matches!(did, Did::Schema(_)) {
                    self.left(Left::Traces);
                }
                self.failed.get_or_insert(error);
            }
        }
    }

    /// A client's command is on its way, perhaps behind steps.
    pub fn begin(&mut self, shape: Shape) {
        let has_rider = matches!(self.phase, Phase::Steps { has_rider: false });
        debug_assert!(self.is_ready() || has_rider);
        self.uses += 1;
        self.renumber = None;
        if shape != Shape::Nothing {
            self.reply = Reply::new(shape, self.capabilities);
            self.begin_translation();
            self.phase = if has_rider {
                Phase::Steps { has_rider }
            } else {
                Phase::Busy
            };
        }
    }

    /// The file that the server asks the client for; the reply goes on behind it.
    pub fn take_file(&mut self) -> Option<Vec<u8>> {
        self.reply.take_file()
    }

    /// Whether `autocommit` is on from the login on, so that switching it on leaves nothing.
    pub fn is_autocommit(&self) -> bool {
        self.is_autocommit
    }

    /// The running reply is no more passed on. `is_untouched`: nothing of it was.
    pub fn refuse_reply(&mut self, is_untouched: bool) {
        self.phase = Phase::Broken;
        if is_untouched {
            self.reply = Reply::new(Shape::Nothing, 0);
        }
    }

    /// The schema in force.
    pub fn schema(&self) -> Option<&[u8]> {
        self.schema.as_deref()
    }

    /// A client's own command has chosen a schema.
    pub fn set_schema(&mut self, name: &[u8]) {
        self.schema = Some(name.into());
    }

    /// Whether it has these settings and no others.
    pub fn has_settings(&self, settings: &Settings) -> bool {
        self.settings == *settings
    }

    /// A client's own SET has taken effect.
    pub fn add_setting(&mut self, statement: &[u8]) {
        if !self.settings.add(statement) {
            self.left(Left::Traces);
        }
    }

    /// The session leaves it.
    pub fn left(&mut self, what: Left) {
        self.left = self.left.max(what);
    }

    /// How many of our own commands it would take to serve this session: the fewest are chosen.
    pub fn distance(&self, want: &Want<'_>) -> usize {
        let all = want.settings.map_or(0, |settings| settings.all().len());
        let steps = self.missing(want).map_or(2 + all, <[_]>::len);
        let schema = usize::from(want.schema != self.schema() && !want.any_schema);
        steps + usize::from(self.has_traces()) * 2 + schema + self.lacks(&want.needs)
    }
}

fn broken(text: &str) -> Event {
    Event::Failed(Failure::Broken(text.to_owned()))
}

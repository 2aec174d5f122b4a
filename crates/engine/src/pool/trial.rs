//! One login as a pooled connection makes it, outside of any pool: for `portside check --connect`.
//!
//! The same machines (`core::pool::Conn`, `tls`) on a connection that the caller has opened and closes; no worker, no
//! budget, no breaker, nothing counted. It waits, so it is for a thread that may.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use portside_core::pool::{AskedLimits, Conn, Event, Failure, Limits, Transport, Want};
use portside_proto::quit;
use serde::{Deserialize, Serialize};

use super::accounts::Account;
use super::warming::GUESS;
use super::welcome::random;
use crate::error::{said, EngineError};
use crate::snapshot::{ServerTlsSpec, UserSpec};
use crate::socket::{Read, Socket};
use crate::sys;
use crate::tls::{words, Behind};

/// Read at once; records of TLS need some room of it.
const SCRATCH: usize = 64 * 1024;

/// Who logs in, and how far TLS goes: parts of a snapshot.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrialSpec {
    user: UserSpec,
    tls: Option<ServerTlsSpec>,
}

/// What came of it.
#[derive(Serialize)]
struct TrialReport {
    outcome: Outcome,
    /// A sentence; "" when it worked.
    text: String,
    /// Version of TLS, where there was any.
    tls: Option<&'static str>,
    /// What the server takes of all its clients together, where it told.
    max_connections: Option<u64>,
    max_prepared_statements: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Good,
    /// The server said no, in place of a greeting or to the account, or to its schema.
    Refused,
    /// There is none, or its handshake failed.
    Tls,
    /// Not in time.
    Late,
    /// The conversation ended, or cannot be followed.
    Broken,
}

type Refusal = (Outcome, String);

/// Logs in on a duplicate of a connected socket that does not block, chooses the account's schema, asks for the
/// server's limits, and says QUIT. The answer is JSON (`TrialReport`). At most `limit` long.
pub fn try_login(fd: RawFd, spec: &str, limit: Duration) -> Result<String, EngineError> {
    let spec: TrialSpec = serde_json::from_str(spec).map_err(|e| {
        // Its text may quote a password.
        let place = format!("line {} column {}", e.line(), e.column());
        EngineError::snapshot(format!("the account to try cannot be read at {place}"))
    })?;
    let account = Account::new(&spec.user, None)?;
    let tls = spec.tls.as_ref().map(|tls| Behind::build(tls, None));
    let tls = tls.transpose().map_err(EngineError::snapshot)?;
    let own = sys::borrow(fd).and_then(|fd| BorrowedFd::try_clone_to_owned(&fd));
    let own = own
        .map_err(|e| EngineError::snapshot(format!("no descriptor for the login: {}", said(&e))))?;
    let (fd, peer) = peer_of(own);
    let transport = match (tls.as_ref(), peer) {
        (Some(tls), peer) => tls.transport(peer.is_some()),
        (None, Some(_)) => Transport::Plain,
        (None, None) => Transport::Secure,
    };
    let mut trial = Trial {
        conn: Conn::new(&account.user, GUESS, random(), transport),
        socket: Socket::new(fd, peer.is_some()),
        tls: tls.as_deref(),
        peer,
        until: Instant::now() + limit,
        asked: None,
        limits: Limits::default(),
    };
    let said = trial.run(spec.user.schema.as_deref());
    let (outcome, text) = said.err().unwrap_or((Outcome::Good, String::new()));
    let report = TrialReport {
        outcome,
        text,
        tls: trial.socket.tls_agreed().map(|agreed| agreed.0),
        max_connections: trial.limits.connections,
        max_prepared_statements: trial.limits.prepared,
    };
    serde_json::to_string(&report).map_err(|e| EngineError::snapshot(e.to_string()))
}

/// The other side's address; none: a unix socket.
fn peer_of(fd: OwnedFd) -> (OwnedFd, Option<IpAddr>) {
    let stream = TcpStream::from(fd);
    let peer = stream.peer_addr().ok().map(|addr| addr.ip());
    (stream.into(), peer)
}

struct Trial<'a> {
    conn: Conn,
    socket: Socket,
    tls: Option<&'a Behind>,
    peer: Option<IpAddr>,
    until: Instant,
    /// The login is over, and its question under way.
    asked: Option<AskedLimits>,
    limits: Limits,
}

impl Trial<'_> {
    fn run(&mut self, schema: Option<&str>) -> Result<(), Refusal> {
        let mut poll = Poll::new().map_err(lost)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let fd = self.socket.fd();
        poll.registry()
            .register(&mut SourceFd(&fd), Token(0), both)
            .map_err(lost)?;
        self.until_ready(&mut poll)?;
        let want = Want {
            schema: schema.map(str::as_bytes),
            ..Want::default()
        };
        let steps = self.conn.prepare(&want);
        if !steps.is_empty() {
            self.socket.push(&steps).map_err(lost)?;
            self.until_ready(&mut poll)?;
        }
        let (question, asked) = self.conn.ask_limits();
        self.asked = Some(asked);
        self.socket.push(&question).map_err(lost)?;
        self.until_ready(&mut poll)?;
        self.socket.push(quit::bytes(false)).map_err(lost)
    }

    fn until_ready(&mut self, poll: &mut Poll) -> Result<(), Refusal> {
        let mut scratch = vec![0; SCRATCH];
        let mut events = Events::with_capacity(4);
        loop {
            if !self.socket.tail.is_empty() {
                self.socket.flush().map_err(lost)?;
            }
            let read = self.socket.read(&mut scratch);
            match self.socket.tls_news("the server") {
                None => {}
                Some(Ok(())) => self.begin_within_tls()?,
                Some(Err((_, text))) => return Err((Outcome::Tls, format!("TLS: {text}"))),
            }
            match read {
                Read::Bytes { count, .. } => {
                    if self.feed(&scratch[..count])? {
                        return Ok(());
                    }
                }
                Read::Nothing => {
                    let left = self.until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let text = "connected, but the login did not end in time";
                        return Err((Outcome::Late, text.to_owned()));
                    }
                    match poll.poll(&mut events, Some(left)) {
                        Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(lost(e)),
                        _ => events.iter().for_each(|event| self.socket.note(event)),
                    }
                }
                Read::Eof => {
                    return Err(broken("the server closed the connection while logging in"))
                }
                Read::Lost => {
                    return Err(broken("the server reset the connection while logging in"))
                }
            }
        }
    }

    fn begin_within_tls(&mut self) -> Result<(), Refusal> {
        let tls = self
            .tls
            .ok_or_else(|| broken("TLS that is not configured"))?;
        let verdict = tls.judge(self.socket.tls_chain(), self.peer);
        let verdict = verdict.map_err(|error| words(&error, "the server"));
        match self.conn.within_tls(verdict) {
            Event::Send(login) => self.socket.push(&login).map_err(lost),
            Event::Failed(failure) => Err(refusal(failure)),
            _ => Ok(()),
        }
    }

    /// True: ready.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, Refusal> {
        if let Some(asked) = &mut self.asked {
            let told = asked.feed(&mut bytes);
            self.limits = told.unwrap_or_default();
            return Ok(told.is_some());
        }
        loop {
            match self.conn.feed(&mut bytes) {
                Event::Wait => return Ok(false),
                Event::Ready => return Ok(true),
                Event::Send(answer) => self.socket.push(&answer).map_err(lost)?,
                Event::StartTls(request) => {
                    self.socket.push(&request).map_err(lost)?;
                    let tls = self
                        .tls
                        .ok_or_else(|| broken("TLS that is not configured"))?;
                    let connection = tls.connect(self.peer);
                    let connection = connection.map_err(|e| (Outcome::Tls, format!("TLS: {e}")))?;
                    self.socket.start_tls(connection.into());
                }
                Event::Failed(Failure::Left(answer, text)) => {
                    self.socket.push(&answer).map_err(lost)?;
                    return Err((Outcome::Refused, text));
                }
                Event::Failed(failure) => return Err(refusal(failure)),
            }
        }
    }
}

fn refusal(failure: Failure) -> Refusal {
    match failure {
        Failure::Refused { errno, message } => {
            (Outcome::Refused, format!("ERR {errno}: {message}"))
        }
        Failure::Denied(text) | Failure::Left(_, text) => (Outcome::Refused, text),
        Failure::Step(error) => {
            let text = format!("logged in, but ERR {}: {}", error.errno, error.message);
            (Outcome::Refused, text)
        }
        Failure::NoTls(text) | Failure::Untrusted(text) => (Outcome::Tls, format!("TLS: {text}")),
        Failure::Broken(text) => (Outcome::Broken, text),
        Failure::Unfit(known) => {
            let text = format!("{} lacks what PHP's clients ask for", known.version);
            (Outcome::Broken, text)
        }
    }
}

fn broken(text: &str) -> Refusal {
    (Outcome::Broken, text.to_owned())
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn lost(error: io::Error) -> Refusal {
    (
        Outcome::Broken,
        format!("the connection broke: {}", said(&error)),
    )
}

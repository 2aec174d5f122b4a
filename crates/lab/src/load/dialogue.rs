//! What one client says and reads, without a socket: login, queries, answers, in portside-proto's words.
//!
//! Bytes go in through [`Dialogue::feed`], bytes to write come out; the result is `Done` after the last
//! answer. Rows are skipped as they pass; only an answer's first bytes are kept.

use std::io;

use portside_proto::command::{com, HEADER_LEN};
use portside_proto::handshake::result::{Outcome, QueryAnswer};
use portside_proto::handshake::{ClientLogin, LoginError, Step};

use super::LoadPlan;

/// Bytes kept of each answer: enough for an ERR's text and for a one-row answer.
const KEPT: usize = 1024;

/// Why a session failed; see [`crate::report::ErrorCount`] for the kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: &'static str,
    pub errno: u32,
    pub text: String,
}

impl Failure {
    /// The system refused something.
    pub fn of_system(kind: &'static str, error: &io::Error) -> Self {
        Self {
            kind,
            errno: error.raw_os_error().unwrap_or(0).unsigned_abs(),
            text: error.to_string(),
        }
    }

    /// No last answer in time.
    pub fn timeout() -> Self {
        Self::plain("timeout", "no answer in time")
    }

    fn plain(kind: &'static str, text: &str) -> Self {
        Self {
            kind,
            errno: 0,
            text: text.to_owned(),
        }
    }

    fn of_login(error: &LoginError) -> Self {
        match error {
            LoginError::Refused { errno, message } | LoginError::Denied { errno, message } => {
                Self {
                    kind: "server",
                    errno: u32::from(*errno),
                    text: message.clone(),
                }
            }
            other => Self::plain("protocol", &other.to_string()),
        }
    }
}

/// What the plan's sessions have in common.
#[derive(Debug)]
pub struct Script {
    user: String,
    password: String,
    database: Option<String>,
    /// Query packets, headers included.
    queries: Vec<Vec<u8>>,
    /// Answers per session.
    answers: u32,
}

impl Script {
    pub fn new(plan: &LoadPlan) -> Self {
        let packet = |query: &String| {
            let [a, b, c, ..] = (query.len() + 1).to_le_bytes();
            [&[a, b, c, 0, com::QUERY], query.as_bytes()].concat()
        };
        Self {
            user: plan.user.clone(),
            password: plan.password.clone(),
            database: Some(plan.database.clone()).filter(|name| !name.is_empty()),
            queries: plan.queries.iter().map(packet).collect(),
            answers: plan.repeat * plan.queries.len() as u32,
        }
    }
}

/// Where the session stands after some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Write what came out, then read on.
    More,
    /// Every answer is here.
    Done,
    /// It is over.
    Failed(Failure),
}

/// One session.
#[derive(Debug)]
pub struct Dialogue {
    /// None once logged in.
    login: Option<ClientLogin>,
    answer: QueryAnswer,
    /// The first bytes of the current answer.
    kept: Vec<u8>,
    is_silent: bool,
    answers: u32,
    first_value: Option<String>,
}

impl Dialogue {
    pub fn new(script: &Script) -> Self {
        let schema = script.database.as_deref();
        Self {
            login: Some(ClientLogin::new(
                &script.user,
                script.password.as_str(),
                schema,
            )),
            answer: QueryAnswer::new(),
            kept: Vec::new(),
            is_silent: true,
            answers: 0,
            first_value: None,
        }
    }

    /// Answers received so far.
    pub fn answers(&self) -> u32 {
        self.answers
    }

    /// The first column of the first row of the first answer, as text.
    pub fn first_value(&self) -> Option<&str> {
        self.first_value.as_deref()
    }

    /// The failure that an error of the socket means here.
    pub fn broken(&self, error: &io::Error) -> Failure {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
            _ if self.is_silent => "connect",
            _ => "eof",
        };
        Failure::of_system(kind, error)
    }

    /// The failure that an end of stream means here.
    pub fn ended(&self) -> Failure {
        let when = match (&self.login, self.kept.is_empty()) {
            (Some(_), _) if self.is_silent => "closed before the greeting",
            (Some(_), _) => "closed during the login",
            (None, true) => "closed before the answer",
            (None, false) => "closed inside the answer",
        };
        Failure::plain("eof", when)
    }

    /// Takes bytes from the server; bytes to write are appended to `out`.
    pub fn feed(&mut self, script: &Script, mut bytes: &[u8], out: &mut Vec<u8>) -> Progress {
        self.is_silent = false;
        while let Some(login) = &mut self.login {
            match login.feed(&mut bytes) {
                Ok(None) => return Progress::More,
                Ok(Some(Step::Send(packet) | Step::StartTls(packet))) => {
                    out.extend_from_slice(&packet);
                }
                Ok(Some(Step::Done)) => {
                    self.login = None;
                    if self.ask(script, out) == Progress::Done {
                        return Progress::Done;
                    }
                }
                Err(error) | Ok(Some(portside_proto::handshake::Step::Leave(_, error))) => {
                    return Progress::Failed(Failure::of_login(&error));
                }
            }
        }
        while !bytes.is_empty() {
            let space = KEPT.saturating_sub(self.kept.len()).min(bytes.len());
            self.kept.extend_from_slice(&bytes[..space]);
            match self.answer.feed(&mut bytes) {
                None => return Progress::More,
                Some(Outcome::Complete { .. }) => {}
                Some(Outcome::Failed { errno }) => {
                    return Progress::Failed(Failure {
                        kind: "server",
                        errno: u32::from(errno),
                        text: err_text(&self.kept),
                    })
                }
                Some(Outcome::WantsFile) => {
                    return Progress::Failed(Failure::plain("protocol", "the server wants a file"))
                }
            }
            if self.answers == 0 {
                self.first_value = first_value(&self.kept);
            }
            self.answers += 1;
            if self.ask(script, out) == Progress::Done {
                return Progress::Done;
            }
        }
        Progress::More
    }

    fn ask(&mut self, script: &Script, out: &mut Vec<u8>) -> Progress {
        self.answer = QueryAnswer::new();
        self.kept.clear();
        if self.answers >= script.answers {
            return Progress::Done;
        }
        let next = self.answers as usize % script.queries.len();
        out.extend_from_slice(&script.queries[next]);
        Progress::More
    }
}

/// The text of an ERR in the last whole packet of `kept`: marker, errno, `#`, SQLSTATE, text.
fn err_text(kept: &[u8]) -> String {
    let last = packets(kept).last().unwrap_or_default();
    String::from_utf8_lossy(last.get(9..).unwrap_or_default()).into_owned()
}

/// The first row's first column, up to 250 bytes: behind the count, its columns and an EOF.
fn first_value(kept: &[u8]) -> Option<String> {
    let mut packets = packets(kept);
    let columns = usize::from(*packets.next()?.first()?);
    let row = packets.nth(columns + 1)?;
    let size = usize::from(*row.first()?);
    let value = row.get(1..1 + size)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The payloads of the whole packets in `bytes`.
fn packets(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&[a, b, c, _], rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let (payload, rest) = rest.split_at_checked(u32::from_le_bytes([a, b, c, 0]) as usize)?;
        bytes = rest;
        Some(payload)
    })
}

#[cfg(test)]
mod tests {
    use portside_proto::err::err_packet;
    use portside_proto::handshake::server::{greeting_packet, ok_packet, one_row};

    use super::{Dialogue, Progress, Script};
    use crate::load::LoadPlan;

    fn script(queries: &[&str]) -> Script {
        Script::new(&LoadPlan {
            queries: queries.iter().map(ToString::to_string).collect(),
            ..LoadPlan::default()
        })
    }

    #[test]
    fn any_split_of_the_servers_bytes_gives_the_same_session() {
        let script = script(&["SELECT @@server_id", "SELECT 2"]);
        let all = [
            greeting_packet(1, "test", b"saltsaltsaltsaltsalt"),
            ok_packet(2),
            one_row("id", b"31"),
            one_row("big", "x".repeat(70_000).as_bytes()),
        ]
        .concat();
        for size in [1, 3, 7, 100, all.len()] {
            let (mut dialogue, mut out) = (Dialogue::new(&script), Vec::new());
            let mut pieces = all.chunks(size).peekable();
            while let Some(piece) = pieces.next() {
                let progress = dialogue.feed(&script, piece, &mut out);
                let over = pieces.peek().is_none();
                assert_eq!(progress == Progress::Done, over, "{size}: {progress:?}");
            }
            assert_eq!(dialogue.first_value(), Some("31"));
            assert_eq!(dialogue.answers(), 2);
            assert!(out.ends_with(b"\x09\0\0\0\x03SELECT 2"));
        }
    }

    #[test]
    fn an_err_keeps_its_number_and_text() {
        let script = script(&["SELECT broken"]);
        let mut dialogue = Dialogue::new(&script);
        let all = [
            greeting_packet(1, "test", b"saltsaltsaltsaltsalt"),
            ok_packet(2),
            err_packet(1, 1064, Some(*b"42000"), "You have an error"),
        ]
        .concat();
        let Progress::Failed(failure) = dialogue.feed(&script, &all, &mut Vec::new()) else {
            panic!("no failure");
        };
        assert_eq!((failure.kind, failure.errno), ("server", 1064));
        assert_eq!(failure.text, "You have an error");
    }
}

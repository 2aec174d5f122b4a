//! What a statement may leave behind on its connection, and what it asks of earlier ones.
//!
//! The rule of pool mode is "never a wrong answer; when in doubt, pin". So this is a list of what is known to be
//! harmless, and everything else pins: an unknown first word, an unknown function, any `@variable`. It must not
//! know: sessions, servers, results. Pure; one pass over the text, no allocation but for a schema's name.

mod lexer;
mod load;
mod names;
mod own_id;
mod pins;
mod scan;
mod setting;
mod showing;
#[cfg(test)]
mod tests;

use crate::reason::Pin;
use lexer::{Lexer, Token};
pub use pins::Pins;
use scan::Scan;
pub use setting::is_readable;

/// What a statement asks of the statements before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// Warnings and errors of the last statement.
    pub diagnostics: bool,
    /// `LAST_INSERT_ID()`, `@@identity`.
    pub insert_id: bool,
    /// `ROW_COUNT()`: only the very connection knows.
    pub row_count: bool,
    /// `FOUND_ROWS()`: of the last result set there, whoever asked for it.
    pub found_rows: bool,
    /// `@@last_gtid`, `Last_query_cost`: of the last write, or query with a cost, there, whoever made it.
    pub stale: bool,
}

impl Asks {
    /// What a name that cannot be read may stand for.
    const HIDDEN: Self = Self {
        diagnostics: true,
        insert_id: true,
        row_count: false,
        found_rows: false,
        stale: false,
    };

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            diagnostics: self.diagnostics || other.diagnostics,
            insert_id: self.insert_id || other.insert_id,
            row_count: self.row_count || other.row_count,
            found_rows: self.found_rows || other.found_rows,
            stale: self.stale || other.stale,
        }
    }
}

/// What a statement is, where that matters beyond pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Nothing special.
    #[default]
    Plain,
    /// `USE schema`.
    Use(Box<[u8]>),
    /// `DROP DATABASE`, `CREATE OR REPLACE DATABASE`: whose it was has no schema then.
    DropSchema(Box<[u8]>),
    /// `SET` of plain values: replayed where the next connection differs.
    Set,
    /// `KILL [QUERY] id`.
    Kill {
        /// The connection's id, as Portside gave it; None: `CONNECTION_ID()`.
        id: Option<u64>,
        /// The query alone.
        query: bool,
    },
    /// Another statement that names a connection by an id that servers do not know.
    OtherId,
}

/// Whether `CONNECTION_ID()` is called, which servers do not know as the client does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnId {
    /// No.
    #[default]
    No,
    /// Yes: the text to run is [`with_own_id`]'s.
    Called,
    /// Where it cannot be replaced for certain.
    Unsure,
}

/// What is known about one command's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What it is.
    pub kind: Kind,
    /// Why the session keeps its connection from here on.
    pub pins: Pins,
    /// What it needs of earlier statements.
    pub asks: Asks,
    /// A SELECT or SHOW that changes nothing and locks nothing, whatever schema and settings it finds: to be thrown away is
    /// all that can become of its answer.
    pub is_read: bool,
    /// It reads or writes a table for certain: MariaDB keeps earlier warnings through all others.
    pub has_table: bool,
    /// If it fails, it may have made an insert id all the same.
    pub may_fail_halfway: bool,
    /// It leaves warnings and errors of earlier ones as they are, and adds its own or counts them in its OK: there
    /// must be none of a stranger.
    pub adds_diagnostics: bool,
    /// It asks for its connection's id.
    pub own_id: OwnId,
    /// Files that a LOAD DATA LOCAL in it names; None where the name cannot be told.
    pub files: Vec<Option<Box<[u8]>>>,
}

impl Verdict {
    /// That of a command which is no statement.
    pub fn of_command() -> Self {
        Self {
            adds_diagnostics: true,
            ..Self::default()
        }
    }

    /// A verdict that pins.
    pub fn pinned(pin: Pin) -> Self {
        Self {
            pins: Pins::of(pin),
            ..Self::default()
        }
    }
}

/// Longest word that is compared with keywords; longer ones are names.
const WORD_MAX: usize = 32;

/// A word in upper case, for comparisons; empty when it is too long to be a keyword.
fn upper(word: &[u8], buffer: &mut [u8; WORD_MAX]) -> usize {
    if word.len() > WORD_MAX {
        return 0;
    }
    for (to, from) in buffer.iter_mut().zip(word) {
        *to = from.to_ascii_uppercase();
    }
    word.len()
}

fn is(token: Option<Token<'_>>, keyword: &str) -> bool {
    matches!(token, Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword.as_bytes()))
}

/// Looks at a query's text, as a server of this family reads it.
pub fn classify(text: &[u8], is_mariadb: bool) -> Verdict {
    let mut scan = Scan::new(is_mariadb);
    let mut lexer = Lexer::new(text);
    while let Some(token) = lexer.next() {
        scan.token(token, &lexer);
    }
    let mut verdict = Verdict {
        kind: Kind::Plain,
        pins: scan.pins,
        asks: scan.asks,
        is_read: scan.is_read && scan.statements == 1 && scan.pins.is_empty(),
        has_table: scan.has_table,
        may_fail_halfway: scan.may_fail_halfway(),
        adds_diagnostics: false,
        own_id: OwnId::No,
        files: if scan.loads {
            load::files(text)
        } else {
            Vec::new()
        },
    };
    if lexer.is_doubtful() {
        verdict.pins.add(Pin::Statement);
        verdict.is_read = false;
        verdict.asks = verdict.asks.and(Asks::HIDDEN);
    } else if scan.statements == 1 {
        special(text, &mut verdict);
    } else if scan.has_special {
        verdict.pins.add(Pin::Statement);
        if has_word(text, "KILL") {
            verdict.kind = Kind::OtherId;
        }
    }
    if lexer.is_doubtful() || verdict.pins.has(Pin::TextPrepare) {
        // Perhaps only a part of a string, but the very connection is no loss then.
        verdict.asks.found_rows |= contains(text, b"FOUND_ROWS");
        verdict.asks.row_count |= contains(text, b"ROW_COUNT");
    }
    if scan.names_own_id || (verdict.pins.has(Pin::TextPrepare) && own_id::is_hidden_in(text)) {
        verdict.own_id = if lexer.is_doubtful() || verdict.pins.has(Pin::TextPrepare) {
            OwnId::Unsure
        } else {
            match own_id::put(text, 0) {
                own_id::Put::Nothing => OwnId::No,
                own_id::Put::Text(_) => OwnId::Called,
                own_id::Put::Unsure => OwnId::Unsure,
            }
        };
    }
    verdict
}

/// The text to run for a statement of [`OwnId::Called`]: with the id that the client knows. O(length).
pub fn with_own_id(text: &[u8], id: u32) -> Option<Vec<u8>> {
    match own_id::put(text, id) {
        own_id::Put::Text(text) => Some(text),
        own_id::Put::Nothing | own_id::Put::Unsure => None,
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len())
        .any(|part| part.eq_ignore_ascii_case(word))
}

fn has_word(text: &[u8], word: &str) -> bool {
    Lexer::new(text).any(|token| is(Some(token), word))
}

/// Statements whose text is read again, word by word.
fn special(text: &[u8], verdict: &mut Verdict) {
    let mut lexer = Lexer::new(text);
    let Some(Token::Word(first)) = lexer.next() else {
        return;
    };
    let mut buffer = [0; WORD_MAX];
    let length = upper(first, &mut buffer);
    match &buffer[..length] {
        b"SET" => match setting::read(lexer) {
            Some(setting::Setting::Replayable) => verdict.kind = Kind::Set,
            Some(setting::Setting::Autocommit) => {}
            Some(setting::Setting::Unreadable) => verdict.pins.add(Pin::Unreadable),
            None if setting::is_no_variable(text) => verdict.pins.add(Pin::Statement),
            None => verdict.pins.add(Pin::Setting),
        },
        b"USE" => match schema_name(lexer) {
            Some(name) => verdict.kind = Kind::Use(name),
            None => verdict.pins.add(Pin::Statement),
        },
        word @ (b"DROP" | b"CREATE") => {
            if let Some(name) = showing::dropped_schema(word == b"DROP", lexer) {
                verdict.pins.add(Pin::Statement);
                verdict.kind = Kind::DropSchema(name);
            }
        }
        b"KILL" => verdict.kind = kill(lexer).unwrap_or(Kind::OtherId),
        word @ (b"EXPLAIN" | b"DESCRIBE" | b"DESC" | b"SHOW")
            if showing::names_connection(word == b"SHOW", lexer.clone()) =>
        {
            verdict.kind = Kind::OtherId;
        }
        b"SHOW" => verdict.asks = verdict.asks.and(showing::variables(lexer)),
        _ => {}
    }
}

fn is_end(mut lexer: Lexer<'_>) -> bool {
    lexer.all(|token| token == Token::Symbol(b';'))
}

fn schema_name(mut lexer: Lexer<'_>) -> Option<Box<[u8]>> {
    let name: Box<[u8]> = match lexer.next()? {
        Token::Word(name) | Token::Quoted(name) => name.into(),
        _ => return None,
    };
    is_end(lexer).then_some(name)
}

fn kill(mut lexer: Lexer<'_>) -> Option<Kind> {
    let mut token = lexer.next();
    let query = is(token, "QUERY");
    if query || is(token, "CONNECTION") {
        token = lexer.next();
    }
    let id = match token? {
        Token::Number(digits) => Some(std::str::from_utf8(digits).ok()?.parse().ok()?),
        token => {
            lexer = own_id::call_end(token, &lexer)?;
            None
        }
    };
    is_end(lexer).then_some(Kind::Kill { id, query })
}

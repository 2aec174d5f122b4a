//! What a statement may leave behind on its connection, and what it asks of earlier ones.
//!
//! The rule of pool mode is "never a wrong answer; when in doubt, pin". So this is a list of what is known to be
//! harmless, and everything else pins: an unknown first word, an unknown function, any `@variable`. It must not
//! know: sessions, servers, results. Pure; one pass over the text, no allocation but for a schema's name.

mod lexer;
mod load;
mod names;
mod setting;
#[cfg(test)]
mod tests;

use crate::reason::Pin;
use lexer::{Lexer, Token};
pub use setting::is_readable;

/// A set of pins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u32);

impl Pins {
    /// Nothing pins.
    pub const NONE: Self = Self(0);

    /// This one alone.
    pub const fn of(pin: Pin) -> Self {
        Self(1 << pin as u8)
    }

    /// Adds one.
    pub fn add(&mut self, pin: Pin) {
        self.0 |= 1 << pin as u8;
    }

    /// Takes one away.
    pub fn remove(&mut self, pin: Pin) {
        self.0 &= !(1 << pin as u8);
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether nothing pins.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is in it.
    pub const fn has(self, pin: Pin) -> bool {
        self.0 & (1 << pin as u8) != 0
    }

    /// The first in declaration order: what views show.
    pub fn first(self) -> Option<Pin> {
        Pin::ALL.iter().copied().find(|pin| self.has(*pin))
    }

    /// Those that leave a trace on the connection, so that it must be reset before others use it.
    pub fn leave_a_trace(self) -> bool {
        self.without_passing() != Self::NONE
    }

    /// Those after which a reset may not be enough: what ran is not known, and roles or a resource group
    /// outlive COM_RESET_CONNECTION.
    pub fn leave_a_doubt(self) -> bool {
        [Pin::Statement, Pin::Call, Pin::Long, Pin::Unreadable]
            .into_iter()
            .any(|pin| self.has(pin))
    }

    /// Those that are more than a wait for what the next statement may ask.
    fn without_passing(self) -> Self {
        let mut left = self;
        for pin in [Pin::Warnings, Pin::RowCount, Pin::FoundRows] {
            left.remove(pin);
        }
        left
    }

    /// Those that hold until the session ends, whatever it does.
    pub fn are_permanent(self) -> bool {
        let mut left = self.without_passing();
        for pin in [Pin::Transaction, Pin::Autocommit, Pin::Statements] {
            left.remove(pin);
        }
        left != Self::NONE
    }

    /// Whether there are only such as wait for what the next statement may ask.
    pub fn only_pass(self) -> bool {
        !self.is_empty() && !self.leave_a_trace()
    }
}

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
}

/// What a statement is, where that matters beyond pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Nothing special.
    #[default]
    Plain,
    /// `USE schema`.
    Use(Box<[u8]>),
    /// `SET` of plain values: replayed where the next connection differs.
    Set,
    /// `SELECT CONNECTION_ID()`, with the column's name as the server would show it.
    ConnectionId(Box<[u8]>),
    /// `KILL [QUERY] id`.
    Kill {
        /// The connection's id, as Portside gave it.
        id: u64,
        /// The query alone.
        query: bool,
    },
    /// Another form of KILL.
    KillOther,
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
    /// Files that a LOAD DATA LOCAL in it names; None where the name cannot be told.
    pub files: Vec<Option<Box<[u8]>>>,
}

impl Verdict {
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

/// Looks at a query's text.
pub fn classify(text: &[u8]) -> Verdict {
    let mut scan = Scan::default();
    let mut lexer = Lexer::new(text);
    while let Some(token) = lexer.next() {
        scan.token(token, &lexer);
    }
    let mut verdict = Verdict {
        kind: Kind::Plain,
        pins: scan.pins,
        asks: scan.asks,
        files: if scan.loads {
            load::files(text)
        } else {
            Vec::new()
        },
    };
    special(text, scan.statements, &mut verdict);
    verdict
}

/// Statements whose text is read again, word by word.
fn special(text: &[u8], statements: usize, verdict: &mut Verdict) {
    let mut lexer = Lexer::new(text);
    let Some(Token::Word(first)) = lexer.next() else {
        return;
    };
    let mut buffer = [0; WORD_MAX];
    let length = upper(first, &mut buffer);
    let single = statements == 1;
    match &buffer[..length] {
        b"SET" => match setting::read(lexer) {
            Some(setting::Setting::Replayable) if single => verdict.kind = Kind::Set,
            Some(setting::Setting::Autocommit) if single => {}
            Some(setting::Setting::Unreadable) => verdict.pins.add(Pin::Unreadable),
            None if setting::is_no_variable(text) => verdict.pins.add(Pin::Statement),
            _ => verdict.pins.add(Pin::Setting),
        },
        b"USE" => match schema_name(lexer) {
            Some(name) if single => verdict.kind = Kind::Use(name),
            _ => verdict.pins.add(Pin::Statement),
        },
        b"KILL" => verdict.kind = kill(lexer).unwrap_or(Kind::KillOther),
        b"SELECT" if single => {
            if let Some(name) = connection_id(text, lexer) {
                verdict.kind = Kind::ConnectionId(name);
            }
        }
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
    let Some(Token::Number(digits)) = token else {
        return None;
    };
    let id = std::str::from_utf8(digits).ok()?.parse().ok()?;
    is_end(lexer).then_some(Kind::Kill { id, query })
}

/// `CONNECTION_ID()` alone; its name is the text as written.
fn connection_id(text: &[u8], mut lexer: Lexer<'_>) -> Option<Box<[u8]>> {
    let mut ahead = lexer.clone();
    if !is(ahead.next(), "CONNECTION_ID") {
        return None;
    }
    let Some(Token::Word(word)) = lexer.next() else {
        return None;
    };
    let start = lexer.position() - word.len();
    let parentheses =
        lexer.next() == Some(Token::Symbol(b'(')) && lexer.next() == Some(Token::Symbol(b')'));
    let name = text.get(start..lexer.position())?.into();
    (parentheses && is_end(lexer)).then_some(name)
}

/// The state of the one pass over all tokens.
#[derive(Default)]
struct Scan {
    pins: Pins,
    asks: Asks,
    statements: usize,
    /// A LOAD is among them.
    loads: bool,
    /// Tokens of the present statement so far.
    position: usize,
    /// Of the present statement.
    first: First,
    /// Whether names before a parenthesis may be those of tables.
    before: Before,
}

/// What the first word of a statement allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum First {
    #[default]
    None,
    /// Expressions are looked through for functions.
    Expressions,
    /// Definitions: types and names stand before parentheses, functions cannot leave traces.
    Definitions,
    /// CREATE, ALTER, DROP: the next word decides.
    Create,
    Alter,
    Drop,
    /// LOAD: only DATA and XML are known.
    Load,
    /// START: only TRANSACTION is known.
    Start,
    /// BEGIN: alone or with WORK.
    Begin,
    Show,
    /// SET, USE and KILL are read again by [`special`].
    Special,
    /// Pinned; nothing more is asked.
    Pinned,
}

/// What stood before the present token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Before {
    #[default]
    Other,
    /// A word after which a table's name stands.
    Introduces,
    /// The table's name.
    TableName,
    /// A name that is neither harmless nor a table's.
    Unknown,
    /// The dot of a qualified name; what it belongs to.
    Dot { table: bool },
}

impl Scan {
    fn token(&mut self, token: Token<'_>, rest: &Lexer<'_>) {
        if token == Token::Symbol(b';') {
            self.position = 0;
            self.first = First::None;
            self.before = Before::Other;
            return;
        }
        match token {
            Token::UserVariable => self.pins.add(Pin::UserVariable),
            Token::SystemVariable(name) => self.system_variable(name),
            _ => {}
        }
        if self.first == First::None {
            // Parentheses may stand before SELECT.
            if token != Token::Symbol(b'(') {
                self.statements += 1;
                self.first_word(token);
            }
            return;
        }
        self.position += 1;
        if let Token::Word(word) = token {
            let mut buffer = [0; WORD_MAX];
            let length = upper(word, &mut buffer);
            self.word(&buffer[..length]);
            self.second_word(&buffer[..length]);
        } else if self.position == 1 && self.first == First::Begin {
            self.pins.add(Pin::Statement);
        }
        self.follow(token, rest);
    }

    fn system_variable(&mut self, name: &[u8]) {
        let name = name.rsplit(|byte| *byte == b'.').next().unwrap_or(name);
        let mut buffer = [0; WORD_MAX];
        let length = upper(name, &mut buffer);
        match &buffer[..length] {
            // @@`name`
            b"" => self.pins.add(Pin::UserVariable),
            b"WARNING_COUNT" | b"ERROR_COUNT" => self.asks.diagnostics = true,
            b"IDENTITY" | b"LAST_INSERT_ID" => self.asks.insert_id = true,
            b"RAND_SEED1" | b"RAND_SEED2" | b"PSEUDO_THREAD_ID" | b"INSERT_ID" => {
                self.pins.add(Pin::Setting);
            }
            _ => {}
        }
    }

    fn first_word(&mut self, token: Token<'_>) {
        self.position = 0;
        let Token::Word(word) = token else {
            self.pin(Pin::Statement);
            return;
        };
        let mut buffer = [0; WORD_MAX];
        let length = upper(word, &mut buffer);
        self.before = Before::Other;
        self.first = match &buffer[..length] {
            b"INSERT" | b"REPLACE" => {
                self.before = Before::Introduces;
                First::Expressions
            }
            b"SELECT" | b"UPDATE" | b"DELETE" | b"WITH" | b"DO" | b"VALUES" | b"EXPLAIN"
            | b"DESCRIBE" | b"DESC" | b"TABLE" => First::Expressions,
            b"COMMIT" | b"ROLLBACK" | b"SAVEPOINT" | b"RELEASE" | b"TRUNCATE" | b"ANALYZE"
            | b"CHECK" | b"OPTIMIZE" | b"CHECKSUM" | b"REPAIR" => First::Definitions,
            b"CREATE" => First::Create,
            b"ALTER" | b"RENAME" => First::Alter,
            b"DROP" => First::Drop,
            b"LOAD" => {
                self.loads = true;
                First::Load
            }
            b"START" => First::Start,
            b"BEGIN" => First::Begin,
            b"SHOW" => First::Show,
            b"SET" | b"USE" | b"KILL" => First::Special,
            b"GET" => {
                self.asks.diagnostics = true;
                return self.pin(Pin::Statement);
            }
            b"CALL" => return self.pin(Pin::Call),
            b"LOCK" | b"UNLOCK" | b"FLUSH" | b"BACKUP" => return self.pin(Pin::Lock),
            b"PREPARE" | b"EXECUTE" | b"DEALLOCATE" => return self.pin(Pin::TextPrepare),
            _ => return self.pin(Pin::Statement),
        };
        // A second statement of this kind is not read again.
        if self.first == First::Special && self.statements > 1 {
            self.pin(Pin::Setting);
        }
    }

    fn pin(&mut self, pin: Pin) {
        self.pins.add(pin);
        self.first = First::Pinned;
    }

    /// Words that mean the same wherever they stand.
    fn word(&mut self, word: &[u8]) {
        match word {
            b"SQL_CALC_FOUND_ROWS" => self.pins.add(Pin::FoundRows),
            b"LAST_INSERT_ID" => self.asks.insert_id = true,
            b"FOUND_ROWS" => self.asks.found_rows = true,
            b"ROW_COUNT" => self.asks.row_count = true,
            b"GET_LOCK" | b"RELEASE_LOCK" | b"RELEASE_ALL_LOCKS" => self.pins.add(Pin::Lock),
            b"TEMPORARY" => self.pins.add(Pin::TemporaryTable),
            // Sequences of MariaDB remember per connection what they gave last.
            b"NEXTVAL" | b"LASTVAL" | b"SETVAL" | b"PREVIOUS" => self.pins.add(Pin::Function),
            _ => {}
        }
    }

    fn second_word(&mut self, word: &[u8]) {
        self.first = match (self.first, word) {
            // CREATE OR REPLACE
            (
                First::Create,
                b"OR" | b"REPLACE" | b"TEMPORARY" | b"UNIQUE" | b"FULLTEXT" | b"SPATIAL",
            ) => First::Create,
            (First::Create, b"TABLE" | b"INDEX" | b"VIEW" | b"DATABASE" | b"SCHEMA") => {
                First::Definitions
            }
            (First::Drop, b"TEMPORARY") => First::Drop,
            (First::Alter, b"TABLE" | b"TABLES")
            | (First::Drop, b"TABLE" | b"TABLES" | b"INDEX" | b"VIEW")
            | (First::Start, b"TRANSACTION")
            | (First::Begin, b"WORK") => First::Definitions,
            (First::Load, b"DATA" | b"XML") => First::Expressions,
            (
                First::Create
                | First::Alter
                | First::Drop
                | First::Load
                | First::Start
                | First::Begin,
                _,
            )
            | (First::Show, b"PROFILE" | b"PROFILES") => return self.pin(Pin::Statement),
            (First::Show, b"WARNINGS" | b"ERRORS" | b"COUNT") => {
                self.asks.diagnostics = true;
                First::Definitions
            }
            (First::Show, _) => First::Definitions,
            (other, _) => other,
        };
    }

    /// Looks for functions that are not known to be harmless.
    fn follow(&mut self, token: Token<'_>, rest: &Lexer<'_>) {
        if self.first != First::Expressions {
            return;
        }
        let in_table = matches!(
            self.before,
            Before::Introduces | Before::Dot { table: true }
        );
        self.before = match token {
            Token::Symbol(b'.') => Before::Dot {
                table: self.before == Before::TableName,
            },
            Token::Symbol(b'(') if self.before == Before::Unknown => {
                self.pins.add(Pin::Function);
                Before::Other
            }
            Token::Word(word) => {
                let mut buffer = [0; WORD_MAX];
                let length = upper(word, &mut buffer);
                self.name(&buffer[..length], in_table, rest)
            }
            Token::Quoted(_) if in_table => Before::TableName,
            Token::Quoted(_) => Before::Unknown,
            _ => Before::Other,
        };
    }

    fn name(&self, word: &[u8], in_table: bool, rest: &Lexer<'_>) -> Before {
        match word {
            // INSERT(str, ...) and REPLACE(str, ...) are functions; before a table they introduce it.
            b"INTO" | b"JOIN" | b"TABLE" | b"IGNORE" | b"LOW_PRIORITY" | b"DELAYED"
            | b"HIGH_PRIORITY" => Before::Introduces,
            _ if matches!(self.before, Before::Dot { table: false }) => Before::Unknown,
            b"" if in_table => Before::TableName,
            b"" => Before::Unknown,
            _ if names::is_harmless(word) => Before::Other,
            _ if in_table && rest.clone().next() != Some(Token::Symbol(b'.')) => Before::TableName,
            _ if in_table => Before::TableName,
            _ => Before::Unknown,
        }
    }
}

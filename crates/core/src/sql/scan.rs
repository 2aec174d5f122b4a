//! The one pass over all tokens of a text: pins, and what it asks of earlier statements.

use super::lexer::{Lexer, Token};
use super::{names, upper, Asks, Pins, WORD_MAX};
use crate::reason::Pin;

/// The state of the one pass over all tokens.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) pins: Pins,
    pub(super) asks: Asks,
    pub(super) statements: usize,
    /// A table is read or written for certain.
    pub(super) has_table: bool,
    /// The last statement is a SHOW, or a SELECT that neither locks nor writes a file.
    pub(super) is_read: bool,
    /// A LOAD is among them.
    pub(super) loads: bool,
    /// SET, USE or KILL is among several statements.
    pub(super) has_special: bool,
    /// `CONNECTION_ID` stands before a parenthesis, or a variable has the same number.
    pub(super) names_own_id: bool,
    is_mariadb: bool,
    /// Tokens of the present statement so far.
    position: usize,
    /// Open parentheses.
    depth: usize,
    /// Of the present statement.
    first: First,
    /// INSERT or REPLACE.
    is_insert: bool,
    /// An earlier statement may fail halfway.
    fails_halfway: bool,
    /// MariaDB's ANALYZE of a statement, which runs it.
    analyzes: bool,
    /// Whether names before a parenthesis may be those of tables.
    before: Before,
    /// The token before was FROM, outside of parentheses.
    is_behind_from: bool,
    /// Where the last token ended.
    end: usize,
}

/// What the first word of a statement allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum First {
    #[default]
    None,
    /// Expressions are looked through for functions.
    Expressions,
    /// Definitions: types and names stand before parentheses; expressions begin with a SELECT.
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
    /// COMMIT and ROLLBACK, which may end the connection.
    End,
    Show,
    /// SET, USE and KILL are read again by [`super::special`].
    Special,
    /// Pinned; nothing more is asked.
    Pinned,
}

/// What stood before the present token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Before {
    #[default]
    Other,
    /// Words behind which the name of a table stands.
    Introduces,
    /// The table's name.
    TableName,
    /// A name that is neither harmless nor a table's.
    Unknown,
    /// A function that is built in only where the parenthesis follows at once.
    Glued,
    /// The dot of a qualified name; what it belongs to.
    Dot { table: bool },
}

impl Scan {
    pub(super) fn new(is_mariadb: bool) -> Self {
        Self {
            is_mariadb,
            ..Self::default()
        }
    }

    pub(super) fn token(&mut self, token: Token<'_>, rest: &Lexer<'_>) {
        if token == Token::Symbol(b';') {
            *self = Self {
                fails_halfway: self.may_fail_halfway(),
                analyzes: false,
                position: 0,
                depth: 0,
                first: First::None,
                before: Before::Other,
                is_insert: false,
                is_behind_from: false,
                ..std::mem::take(self)
            };
            return;
        }
        match token {
            Token::UserVariable => self.pins.add(Pin::UserVariable),
            Token::Word(name) | Token::Quoted(name)
                if name.eq_ignore_ascii_case(b"CONNECTION_ID") =>
            {
                self.names_own_id |= rest.clone().next() == Some(Token::Symbol(b'('));
            }
            Token::SystemVariable(name) => self.system_variable(name),
            // In backquotes they are called as well.
            Token::Quoted(name) if rest.clone().next() == Some(Token::Symbol(b'(')) => {
                let mut buffer = [0; WORD_MAX];
                let length = upper(name, &mut buffer);
                self.function(&buffer[..length]);
            }
            Token::Symbol(b'(') => self.depth += 1,
            Token::Symbol(b')') => self.depth = self.depth.saturating_sub(1),
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
        self.tables(token);
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

    /// Whether a table is used for certain.
    fn tables(&mut self, token: Token<'_>) {
        let is_name = match token {
            Token::Word(word) => !word.eq_ignore_ascii_case(b"DUAL"),
            Token::Quoted(_) => true,
            _ => false,
        };
        self.has_table |= self.is_behind_from && is_name;
        let is_from = matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(b"FROM"));
        self.is_behind_from = is_from && self.depth == 0;
    }

    fn system_variable(&mut self, name: &[u8]) {
        let name = name.rsplit(|byte| *byte == b'.').next().unwrap_or(name);
        let mut buffer = [0; WORD_MAX];
        let length = upper(name, &mut buffer);
        match &buffer[..length] {
            // @@`name`, or @@session . name
            b"" | b"SESSION" | b"LOCAL" | b"GLOBAL" => {
                self.pins.add(Pin::UserVariable);
                self.asks = self.asks.and(Asks::HIDDEN);
            }
            b"WARNING_COUNT" | b"ERROR_COUNT" => self.asks.diagnostics = true,
            b"IDENTITY" | b"LAST_INSERT_ID" => self.asks.insert_id = true,
            b"LAST_GTID" => self.asks.stale = true,
            b"PSEUDO_THREAD_ID" => {
                self.names_own_id = true;
                self.pins.add(Pin::Setting);
            }
            b"RAND_SEED1" | b"RAND_SEED2" | b"INSERT_ID" => {
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
                self.is_insert = true;
                self.has_table = true;
                First::Expressions
            }
            b"WITH" => {
                self.before = Before::Introduces;
                First::Expressions
            }
            b"UPDATE" | b"DELETE" | b"TABLE" => {
                self.has_table = true;
                First::Expressions
            }
            b"ANALYZE" => {
                self.analyzes = true;
                First::Expressions
            }
            b"SELECT" => {
                self.is_read = true;
                First::Expressions
            }
            b"DO" | b"VALUES" | b"EXPLAIN" | b"DESCRIBE" | b"DESC" => First::Expressions,
            b"COMMIT" | b"ROLLBACK" => First::End,
            b"SAVEPOINT" | b"RELEASE" | b"TRUNCATE" | b"CHECK" | b"OPTIMIZE" | b"CHECKSUM"
            | b"REPAIR" => First::Definitions,
            b"CREATE" => First::Create,
            b"ALTER" | b"RENAME" => First::Alter,
            b"DROP" => First::Drop,
            b"LOAD" => {
                self.loads = true;
                self.has_table = true;
                First::Load
            }
            b"START" => First::Start,
            b"BEGIN" => First::Begin,
            b"SHOW" => {
                self.is_read = true;
                First::Show
            }
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
        self.has_special |= self.first == First::Special;
    }

    fn pin(&mut self, pin: Pin) {
        self.pins.add(pin);
        self.first = First::Pinned;
    }

    fn function(&mut self, name: &[u8]) {
        match name {
            b"LAST_INSERT_ID" => self.asks.insert_id = true,
            b"FOUND_ROWS" => self.asks.found_rows = true,
            b"ROW_COUNT" => self.asks.row_count = true,
            b"GET_LOCK" | b"RELEASE_LOCK" | b"RELEASE_ALL_LOCKS" => self.pins.add(Pin::Lock),
            _ => {}
        }
    }

    /// Words that mean the same wherever they stand.
    fn word(&mut self, word: &[u8]) {
        self.function(word);
        match word {
            b"INTO" | b"FOR" | b"LOCK" => self.is_read = false,
            b"SQL_CALC_FOUND_ROWS" => self.pins.add(Pin::FoundRows),
            b"TEMPORARY" => self.pins.add(Pin::TemporaryTable),
            // Sequences of MariaDB remember per connection what they gave last.
            b"NEXTVAL" | b"LASTVAL" | b"SETVAL" | b"PREVIOUS" | b"NEXT" if self.is_mariadb => {
                self.pins.add(Pin::InsertId);
            }
            // The reply has rows and tells of no insert id.
            b"RETURNING" if self.is_insert => self.pins.add(Pin::InsertId),
            b"INSERT" | b"REPLACE" if self.analyzes => self.pins.add(Pin::InsertId),
            // CREATE TABLE ... SELECT
            b"SELECT" | b"WITH" | b"VALUES" | b"TABLE" if self.first == First::Definitions => {
                self.is_insert = true;
            }
            b"RELEASE" if self.first == First::End => self.pins.add(Pin::Statement),
            // The variables of the session as a table.
            b"SESSION_VARIABLES" | b"SYSTEM_VARIABLES" => {
                self.asks.diagnostics = true;
                self.asks.insert_id = true;
            }
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
            (First::Load, b"DATA" | b"XML") => {
                // Its OK tells of no insert id.
                self.pins.add(Pin::InsertId);
                First::Expressions
            }
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
            // CREATE TABLE ... SELECT runs what it selects.
            (First::Show, _) | (First::Definitions, b"SELECT" | b"WITH" | b"VALUES") => {
                First::Expressions
            }
            (other, _) => other,
        };
    }

    /// Looks for functions that are not known to be harmless.
    fn follow(&mut self, token: Token<'_>, rest: &Lexer<'_>) {
        let end = std::mem::replace(&mut self.end, rest.position());
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
            Token::Symbol(b'(')
                if self.before == Before::Unknown
                    || (self.before == Before::Glued && rest.position() > end + 1) =>
            {
                self.pins.add(Pin::Function);
                Before::Other
            }
            Token::Word(word) => {
                let mut buffer = [0; WORD_MAX];
                let length = upper(word, &mut buffer);
                self.name(&buffer[..length])
            }
            Token::Quoted(_) if in_table => Before::TableName,
            Token::Quoted(_) => Before::Unknown,
            _ => Before::Other,
        };
    }

    fn name(&self, word: &[u8]) -> Before {
        match (self.before, word) {
            (
                Before::Introduces,
                b"INTO" | b"IGNORE" | b"LOW_PRIORITY" | b"DELAYED" | b"HIGH_PRIORITY"
                | b"RECURSIVE",
            ) => Before::Introduces,
            (Before::Introduces | Before::Dot { table: true }, _) => Before::TableName,
            // LOAD DATA ... INTO TABLE t (columns)
            (_, b"TABLE") if self.loads => Before::Introduces,
            (Before::Dot { table: false }, _) => Before::Unknown,
            _ if !names::is_harmless(word, self.is_mariadb) => Before::Unknown,
            _ if names::is_glued(word) => Before::Glued,
            _ => Before::Other,
        }
    }

    /// An INSERT that fails after its first row, or in a trigger behind it, may have made an insert id, of which no reply
    /// tells.
    pub(super) fn may_fail_halfway(&self) -> bool {
        self.fails_halfway || self.is_insert
    }
}

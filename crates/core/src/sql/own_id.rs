//! `CONNECTION_ID()` in a statement: a server would answer with the id of its own connection, which the client does
//! not know and which belongs to another one a moment later. The call is replaced by a value of the same type, the id
//! that Portside's greeting gave, and what is named after it gets that name by an alias. What cannot be replaced for
//! certain is told apart from what need not be.
//!
//! Sources: `Item_func_connection_id` of both products; the value's type, length and flags are those of
//! `CAST(id AS UNSIGNED)`, compared by `tests/integration/test_pool_fidelity.py`.

use super::lexer::{Lexer, Token};
use super::{upper, WORD_MAX};

/// Longest text that becomes a name. 64: what every version takes as one, whatever it is the name of.
const NAME_MAX: usize = 64;

/// What became of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// Nothing is to be replaced.
    Nothing,
    /// The text to run.
    Text(Vec<u8>),
    /// It stands where it cannot be replaced for certain.
    Unsure,
}

/// Replaces all calls in a text whose reading is not in doubt. O(length).
pub(super) fn put(text: &[u8], id: u32) -> Put {
    if compares_servers_ids(text) {
        return Put::Nothing;
    }
    let mut writer = Writer {
        text,
        call: format!("CAST({id} AS UNSIGNED)").into_bytes(),
        ..Writer::default()
    };
    match writer.run() {
        None => Put::Unsure,
        Some(()) if writer.copied == 0 => Put::Nothing,
        Some(()) => {
            writer.copy_to(text.len());
            Put::Text(writer.out)
        }
    }
}

/// Whether a statement in a string may call it: the text of a PREPARE.
pub(super) fn is_hidden_in(text: &[u8]) -> bool {
    let name = b"connection_id";
    text.windows(name.len())
        .any(|part| part.eq_ignore_ascii_case(name))
}

/// Tables and functions that have servers' ids: one of these is what the call is compared with.
fn compares_servers_ids(text: &[u8]) -> bool {
    let mut lexer = Lexer::new(text);
    while let Some(token) = lexer.next() {
        let (Token::Word(name) | Token::Quoted(name)) = token else {
            continue;
        };
        let mut buffer = [0; WORD_MAX];
        let length = upper(name, &mut buffer);
        let next = || lexer.clone().next();
        let is_it = match &buffer[..length] {
            b"INFORMATION_SCHEMA" | b"PERFORMANCE_SCHEMA" | b"SYS" => {
                next() == Some(Token::Symbol(b'.'))
            }
            b"IS_USED_LOCK" | b"PS_THREAD_ID" => next() == Some(Token::Symbol(b'(')),
            name => name.starts_with(b"PROCESSLIST"),
        };
        if is_it {
            return true;
        }
    }
    false
}

/// What the first word of a statement says of calls in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Statement {
    /// Not seen yet.
    #[default]
    Begins,
    /// It runs them.
    Runs,
    /// The same, and VALUES names no columns.
    Inserts,
    /// It keeps them for others, or only shows them.
    Keeps,
    /// CREATE: keeps them, but for those of a CREATE TABLE ... SELECT.
    Creates,
    CreatesTable,
    /// Nobody knows.
    Unknown,
}

/// How an item of a SELECT's list ends, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ending {
    #[default]
    Empty,
    /// It is a call alone.
    Call,
    /// With a parenthesis or a number, which is no name.
    Closed,
    /// AS.
    As,
    /// With a name for certain.
    Named,
    /// Perhaps with a name.
    Open,
}

#[derive(Clone, Copy, Debug, Default)]
struct Item {
    start: usize,
    ending: Ending,
    /// A call in it was replaced.
    has_call: bool,
}

/// Between two parentheses, or outside of all.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    /// The item at hand while a list of a SELECT is read.
    item: Option<Item>,
    /// A call in it was replaced.
    has_call: bool,
}

#[derive(Default)]
struct Writer<'a> {
    text: &'a [u8],
    call: Vec<u8>,
    out: Vec<u8>,
    /// Bytes of the text that `out` has.
    copied: usize,
    statement: Statement,
    /// Its first word is SET.
    is_set: bool,
    /// VALUES may have named columns.
    has_values: bool,
    frames: Vec<Frame>,
    /// Where the token before ended.
    end: usize,
}

impl Writer<'_> {
    fn run(&mut self) -> Option<()> {
        self.frames.push(Frame::default());
        let mut lexer = Lexer::new(self.text);
        let mut is_qualified = false;
        while let Some(token) = lexer.next() {
            let call = (!is_qualified).then(|| call_end(token, &lexer)).flatten();
            let start = start(token, lexer.position());
            if let Some(behind) = call {
                lexer = behind;
                self.replace(start, lexer.position())?;
            } else {
                self.token(token, start)?;
            }
            is_qualified = token == Token::Symbol(b'.');
            self.end = lexer.position();
        }
        self.end_of_list()
    }

    fn copy_to(&mut self, to: usize) {
        self.out
            .extend_from_slice(self.text.get(self.copied..to).unwrap_or(&[]));
        self.copied = to;
    }

    /// A call was found.
    fn replace(&mut self, start: usize, end: usize) -> Option<()> {
        match self.statement {
            Statement::Keeps | Statement::Creates => return Some(()),
            // One that a SELECT of its has comes behind it.
            Statement::CreatesTable => {
                let mut rest = Lexer::new(self.text);
                return (!rest.any(|token| is_word(token, b"SELECT"))).then_some(());
            }
            Statement::Inserts => {}
            Statement::Runs if !self.has_values => {}
            _ => return None,
        }
        self.copy_to(start);
        self.out.extend_from_slice(&self.call);
        self.copied = end;
        let frame = self.frames.last_mut()?;
        frame.has_call = true;
        if let Some(item) = frame.item.as_mut() {
            if item.ending == Ending::Empty {
                (item.start, item.ending) = (start, Ending::Call);
            } else {
                item.ending = Ending::Closed;
            }
            item.has_call = true;
        }
        Some(())
    }

    fn token(&mut self, token: Token<'_>, start: usize) -> Option<()> {
        match token {
            Token::Symbol(b';') => {
                self.end_of_list()?;
                (self.statement, self.has_values) = (Statement::Begins, false);
                self.frames = vec![Frame::default()];
                return Some(());
            }
            Token::Symbol(b'(') => {
                self.follow(token, start);
                self.frames.push(Frame::default());
                return Some(());
            }
            Token::Symbol(b')') => return self.close(),
            Token::Symbol(b',') => return self.next_item(),
            Token::SystemVariable(name) => self.variable(name)?,
            Token::Word(word) => {
                let mut buffer = [0; WORD_MAX];
                let length = upper(word, &mut buffer);
                if self.word(&buffer[..length])? {
                    return Some(());
                }
            }
            _ if self.statement == Statement::Begins => self.statement = Statement::Unknown,
            _ => {}
        }
        self.follow(token, start);
        Some(())
    }

    /// `@@pseudo_thread_id` is the same number.
    fn variable(&self, name: &[u8]) -> Option<()> {
        let name = name.rsplit(|byte| *byte == b'.').next().unwrap_or(name);
        let is_it = name.eq_ignore_ascii_case(b"pseudo_thread_id");
        (!is_it || self.is_set).then_some(())
    }

    /// True: it belongs to no item.
    fn word(&mut self, word: &[u8]) -> Option<bool> {
        if self.statement == Statement::Begins {
            self.statement = statement(word);
            self.is_set = word == b"SET";
        }
        match (self.statement, word) {
            (Statement::Creates, b"TABLE") => self.statement = Statement::CreatesTable,
            (
                Statement::Creates,
                b"VIEW" | b"FUNCTION" | b"PROCEDURE" | b"TRIGGER" | b"EVENT" | b"PACKAGE",
            ) => self.statement = Statement::Keeps,
            (Statement::Runs, b"VALUES") => self.has_values = true,
            _ => {}
        }
        match word {
            b"SELECT" | b"RETURNING" => {
                self.end_of_list()?;
                self.frames.last_mut()?.item = Some(Item::default());
                return Some(true);
            }
            b"FROM" | b"INTO" | b"WHERE" | b"GROUP" | b"HAVING" | b"ORDER" | b"LIMIT"
            | b"UNION" | b"EXCEPT" | b"INTERSECT" | b"FOR" | b"PROCEDURE" | b"LOCK" => {
                self.end_of_list()?;
                return Some(true);
            }
            _ => {}
        }
        let item = self.frames.last()?.item;
        let is_first = item.is_some_and(|item| item.ending == Ending::Empty);
        Some(is_first && is_modifier(word))
    }

    /// Takes a token into account that ends no item.
    fn follow(&mut self, token: Token<'_>, start: usize) {
        let item = self.frames.last_mut().and_then(|frame| frame.item.as_mut());
        let Some(item) = item else {
            return;
        };
        if item.ending == Ending::Empty {
            item.start = start;
        }
        let is_name = matches!(token, Token::Word(_) | Token::Quoted(_) | Token::Text(_));
        item.ending = match item.ending {
            _ if is_word(token, b"AS") => Ending::As,
            Ending::As | Ending::Call if is_name => Ending::Named,
            _ if matches!(token, Token::Number(_)) => Ending::Closed,
            _ => Ending::Open,
        };
    }

    fn close(&mut self) -> Option<()> {
        self.end_of_list()?;
        let has_call = self.frames.pop()?.has_call;
        let frame = self.frames.last_mut()?;
        frame.has_call |= has_call;
        if let Some(item) = frame.item.as_mut() {
            item.has_call |= has_call;
            item.ending = Ending::Closed;
        }
        Some(())
    }

    fn next_item(&mut self) -> Option<()> {
        if self.frames.last()?.item.is_some() {
            self.end_of_list()?;
            self.frames.last_mut()?.item = Some(Item::default());
        }
        Some(())
    }

    /// An item is over: it gets its name, unless it has one or nothing in it was replaced.
    fn end_of_list(&mut self) -> Option<()> {
        let item = self.frames.last_mut()?.item.take();
        let Some(item) = item.filter(|item| item.has_call) else {
            return Some(());
        };
        match item.ending {
            Ending::Named => Some(()),
            Ending::Call | Ending::Closed => {
                let name = self.text.get(item.start..self.end)?;
                if !can_be_name(name) {
                    return None;
                }
                self.copy_to(self.end);
                self.out.extend_from_slice(b" AS `");
                self.out.extend_from_slice(name);
                self.out.push(b'`');
                Some(())
            }
            _ => None,
        }
    }
}

/// Behind `CONNECTION_ID()`, whose first token was read.
pub(super) fn call_end<'a>(token: Token<'a>, rest: &Lexer<'a>) -> Option<Lexer<'a>> {
    let (Token::Word(name) | Token::Quoted(name)) = token else {
        return None;
    };
    if !name.eq_ignore_ascii_case(b"CONNECTION_ID") {
        return None;
    }
    let mut rest = rest.clone();
    let is_call = rest.next()? == Token::Symbol(b'(') && rest.next()? == Token::Symbol(b')');
    is_call.then_some(rest)
}

/// Where a token begins that ends here.
fn start(token: Token<'_>, end: usize) -> usize {
    let length = match token {
        Token::Word(text) | Token::Number(text) => text.len(),
        Token::Quoted(text) | Token::Text(text) | Token::SystemVariable(text) => text.len() + 2,
        Token::UserVariable | Token::Symbol(_) => 1,
    };
    end.saturating_sub(length)
}

fn is_word(token: Token<'_>, keyword: &[u8]) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
}

fn statement(first: &[u8]) -> Statement {
    match first {
        b"SELECT" | b"WITH" | b"UPDATE" | b"DELETE" | b"DO" | b"CALL" | b"SET" | b"VALUES"
        | b"TABLE" => Statement::Runs,
        b"INSERT" | b"REPLACE" | b"LOAD" => Statement::Inserts,
        b"CREATE" => Statement::Creates,
        b"EXPLAIN" | b"DESCRIBE" | b"DESC" | b"SHOW" | b"ALTER" | b"RENAME" | b"DROP" | b"KILL" => {
            Statement::Keeps
        }
        _ => Statement::Unknown,
    }
}

/// What may stand between SELECT and its first item.
fn is_modifier(word: &[u8]) -> bool {
    matches!(
        word,
        b"ALL"
            | b"DISTINCT"
            | b"DISTINCTROW"
            | b"HIGH_PRIORITY"
            | b"STRAIGHT_JOIN"
            | b"SQL_SMALL_RESULT"
            | b"SQL_BIG_RESULT"
            | b"SQL_BUFFER_RESULT"
            | b"SQL_CACHE"
            | b"SQL_NO_CACHE"
            | b"SQL_CALC_FOUND_ROWS"
    )
}

/// Whether a server names an item as it is written, and the same text in backquotes is that name.
fn can_be_name(text: &[u8]) -> bool {
    let has = |part: &[u8]| text.windows(part.len()).any(|w| w == part);
    text.len() <= NAME_MAX
        && text
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'`' | b'\\' | b'#'))
        && ![&b"/*"[..], b"*/", b"--"].iter().any(|part| has(part))
}

#[cfg(test)]
mod tests {
    use super::{put, Put};

    const N: &str = "CAST(1073741830 AS UNSIGNED)";

    fn text(statement: &str) -> Put {
        put(statement.as_bytes(), 1_073_741_830)
    }

    #[test]
    fn calls_are_replaced_and_names_stay() {
        for (statement, wanted) in [
            ("SELECT CONNECTION_ID()", "SELECT {} AS `CONNECTION_ID()`"),
            ("select connection_id ( ) ;", "select {} AS `connection_id ( )` ;"),
            ("SELECT CONNECTION_ID() AS id, 1", "SELECT {} AS id, 1"),
            ("SELECT connection_id() id FROM t", "SELECT {} id FROM t"),
            ("SELECT CONNECTION_ID() 'id'", "SELECT {} 'id'"),
            ("SELECT DISTINCT CONNECTION_ID()+1, 2", "SELECT DISTINCT {}+1 AS `CONNECTION_ID()+1`, 2"),
            (
                "SELECT CONCAT('a', CONNECTION_ID()) LIMIT 1",
                "SELECT CONCAT('a', {}) AS `CONCAT('a', CONNECTION_ID())` LIMIT 1",
            ),
            (
                "SELECT (SELECT CONNECTION_ID()) FROM t",
                "SELECT (SELECT {} AS `CONNECTION_ID()`) AS `(SELECT CONNECTION_ID())` FROM t",
            ),
            (
                "SELECT * FROM (SELECT CONNECTION_ID()) d",
                "SELECT * FROM (SELECT {} AS `CONNECTION_ID()`) d",
            ),
            (
                "(SELECT 1) UNION (SELECT CONNECTION_ID()) ORDER BY CONNECTION_ID()",
                "(SELECT 1) UNION (SELECT {} AS `CONNECTION_ID()`) ORDER BY {}",
            ),
            ("SELECT a FROM t WHERE b = CONNECTION_ID()", "SELECT a FROM t WHERE b = {}"),
            (
                "INSERT INTO t (a, b) VALUES (1, CONNECTION_ID()), (`connection_id`(), 2)",
                "INSERT INTO t (a, b) VALUES (1, {}), ({}, 2)",
            ),
            (
                "INSERT INTO t SELECT 1, CONNECTION_ID() RETURNING a, CONNECTION_ID()",
                "INSERT INTO t SELECT 1, {} AS `CONNECTION_ID()` RETURNING a, {} AS `CONNECTION_ID()`",
            ),
            ("UPDATE t SET a = CONNECTION_ID()", "UPDATE t SET a = {}"),
            ("DELETE FROM t WHERE a<>CONNECTION_ID()", "DELETE FROM t WHERE a<>{}"),
            ("DO GET_LOCK('a', CONNECTION_ID())", "DO GET_LOCK('a', {})"),
            ("SET @a = CONNECTION_ID()", "SET @a = {}"),
            ("CALL p(CONNECTION_ID())", "CALL p({})"),
            ("SELECT 1; SELECT CONNECTION_ID()", "SELECT 1; SELECT {} AS `CONNECTION_ID()`"),
            ("SELECT CONNECTION_ID() INTO @a", "SELECT {} AS `CONNECTION_ID()` INTO @a"),
        ] {
            let wanted = wanted.replace("{}", N).into_bytes();
            assert_eq!(text(statement), Put::Text(wanted), "{statement}");
        }
    }

    #[test]
    fn what_is_not_ours_stays() {
        for statement in [
            "SELECT connection_id FROM t",
            "SELECT shop.connection_id()",
            "SELECT CONNECTION_ID(1)",
            "SELECT 'CONNECTION_ID()' -- CONNECTION_ID()",
            "SELECT * FROM information_schema.processlist WHERE id = CONNECTION_ID()",
            "SELECT thread_id FROM threads WHERE processlist_id = CONNECTION_ID()",
            "SELECT IS_USED_LOCK('a') = CONNECTION_ID()",
            "CREATE VIEW v AS SELECT CONNECTION_ID()",
            "CREATE OR REPLACE FUNCTION f() RETURNS INT RETURN CONNECTION_ID()",
            "CREATE TABLE t (a INT DEFAULT (CONNECTION_ID()))",
            "EXPLAIN SELECT CONNECTION_ID()",
            "KILL CONNECTION_ID()",
        ] {
            assert_eq!(text(statement), Put::Nothing, "{statement}");
        }
    }

    #[test]
    fn where_the_name_would_be_a_guess_nothing_runs() {
        for statement in [
            "SELECT CONNECTION_ID() + a FROM t",
            "SELECT CONNECTION_ID() + 1 a",
            "SELECT CONNECTION_ID() /* x */ + 1",
            "SELECT CONCAT(CONNECTION_ID(), `a`)",
            "SELECT CONCAT(CONNECTION_ID(), '\\'')",
            "SELECT CONCAT('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', CONNECTION_ID())",
            "CREATE TABLE t AS SELECT CONNECTION_ID()",
            "CREATE TABLE t SELECT CONNECTION_ID() AS a",
            "VALUES (CONNECTION_ID())",
            "BEGIN NOT ATOMIC SELECT CONNECTION_ID(); END",
            "SELECT @@pseudo_thread_id",
            "SELECT @@session.pseudo_thread_id, 1",
        ] {
            assert_eq!(text(statement), Put::Unsure, "{statement}");
        }
        assert_eq!(text("SET @@session.pseudo_thread_id = 5"), Put::Nothing);
    }

    #[test]
    fn any_text_can_be_read() {
        for statement in [
            "",
            ")",
            "))",
            "SELECT )",
            "(((",
            "`",
            "SELECT CONNECTION_ID(",
            ";)",
        ] {
            let _ = text(statement);
        }
    }
}

//! SET statements: which can be replayed on another connection with the same effect.
//!
//! A replayable SET assigns plain values to session variables, so running it again on a connection in the
//! starting state gives the same state. Variables whose value acts once, or that belong to the very connection,
//! are left out, and so is what would make SQL text unreadable for the lexer.

use super::lexer::{Lexer, Token};
use super::{is, is_end};

/// What a SET statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// Plain values: may be replayed.
    Replayable,
    /// `autocommit` alone: the server's status flag tells of it.
    Autocommit,
    /// Changes how SQL text is read.
    Unreadable,
}

/// Reads what follows SET. None: anything else.
pub(super) fn read(mut lexer: Lexer<'_>) -> Option<Setting> {
    let start = lexer.clone();
    let mut token = lexer.next();
    if is(token, "NAMES") {
        return names(lexer);
    }
    if is(token, "SESSION") || is(token, "LOCAL") {
        token = lexer.next();
        if is(token, "TRANSACTION") {
            return lexer
                .all(|t| matches!(t, Token::Word(_) | Token::Symbol(b',' | b';')))
                .then_some(Setting::Replayable);
        }
    }
    assignments(start)
}

/// SET of something that is no variable, so that a reset does not undo it.
pub(super) fn is_no_variable(text: &[u8]) -> bool {
    let second = Lexer::new(text).nth(1);
    ["ROLE", "DEFAULT", "RESOURCE", "PASSWORD", "STATEMENT"]
        .iter()
        .any(|word| is(second, word))
}

fn names(mut lexer: Lexer<'_>) -> Option<Setting> {
    // A backslash in a text means another name than the one that stands there.
    let name = value(lexer.next()?).filter(|name| !name.contains(&b'\\'))?;
    let readable = is_readable(name);
    let rest = lexer.clone();
    if is(lexer.next(), "COLLATE") {
        value(lexer.next()?)?;
    } else {
        lexer = rest;
    }
    is_end(lexer).then_some(if readable {
        Setting::Replayable
    } else {
        Setting::Unreadable
    })
}

/// A plain value that is a name or a text.
fn value(token: Token<'_>) -> Option<&[u8]> {
    match token {
        Token::Word(text) | Token::Text(text) => Some(text),
        _ => None,
    }
}

/// Whether a character set or sql_mode leaves SQL text readable here. Not: character sets whose later bytes can
/// be ASCII, and modes that change how quotes and backslashes are read.
pub fn is_readable(value: &[u8]) -> bool {
    const UNREADABLE: [&str; 15] = [
        "big5",
        "cp932",
        "gb18030",
        "gbk",
        "sjis",
        "ansi",
        "backslash",
        "db2",
        // The global value, which may be any of these.
        "default",
        "maxdb",
        "mssql",
        "oracle",
        "postgresql",
        "mysql323",
        "swe7",
    ];
    let value = value.to_ascii_lowercase();
    let has = |part: &str| value.windows(part.len()).any(|w| w == part.as_bytes());
    !UNREADABLE.iter().any(|part| has(part))
}

fn assignments(mut lexer: Lexer<'_>) -> Option<Setting> {
    let (mut count, mut readable) = (0, true);
    let (mut autocommit, mut turns_off) = (false, false);
    loop {
        let name = variable(&mut lexer)?;
        match lexer.next()? {
            Token::Symbol(b'=') => {}
            Token::Symbol(b':') if lexer.next()? == Token::Symbol(b'=') => {}
            _ => return None,
        }
        let lower = name.to_ascii_lowercase();
        if ONCE.contains(&std::str::from_utf8(&lower).ok()?) {
            return None;
        }
        let mut token = lexer.next()?;
        if matches!(token, Token::Symbol(b'-' | b'+')) {
            token = lexer.next()?;
        }
        match token {
            // A number, or a text as 0x616e7369.
            Token::Number(_) | Token::Word([b'0'..=b'9', ..]) if is_named(&lower) => return None,
            Token::Number(_) => {}
            Token::Word(text) | Token::Text(text) => {
                if !text.is_ascii() || text.contains(&b'\\') {
                    return None;
                }
                readable &= !is_named(&lower) || is_readable(text);
            }
            _ => return None,
        }
        count += 1;
        if lower == b"autocommit" {
            autocommit = true;
            // Replayed later, it would turn off again what a SET of autocommit alone has turned on.
            turns_off |= token != Token::Number(b"1") && !is(Some(token), "ON");
        }
        match lexer.next() {
            Some(Token::Symbol(b',')) => {}
            Some(Token::Symbol(b';')) if is_end(lexer.clone()) => break,
            None => break,
            // A fraction, a function, an expression, a doubled quote.
            Some(_) => return None,
        }
    }
    Some(match (readable, autocommit && count == 1) {
        (false, _) => Setting::Unreadable,
        (true, true) => Setting::Autocommit,
        (true, false) if turns_off => return None,
        (true, false) => Setting::Replayable,
    })
}

/// Variables that name a character set or modes: a number there would have to be looked up.
fn is_named(name: &[u8]) -> bool {
    name == b"sql_mode" || name.starts_with(b"character_set") || name.starts_with(b"collation")
}

/// The name of a session variable; None for another scope.
fn variable<'a>(lexer: &mut Lexer<'a>) -> Option<&'a [u8]> {
    let token = lexer.next()?;
    if is(Some(token), "SESSION") || is(Some(token), "LOCAL") {
        return match lexer.next()? {
            Token::Word(name) | Token::Quoted(name) => Some(name),
            _ => None,
        };
    }
    match token {
        Token::Word(name) | Token::Quoted(name) => Some(name),
        Token::SystemVariable(name) => {
            let mut parts = name.splitn(2, |byte| *byte == b'.');
            match (parts.next()?, parts.next()) {
                // Without a scope these two are for the next transaction alone.
                (name, None) => (!is_transaction(name)).then_some(name),
                (scope, Some(name)) => {
                    let session = scope.eq_ignore_ascii_case(b"session")
                        || scope.eq_ignore_ascii_case(b"local");
                    session.then_some(name)
                }
            }
        }
        _ => None,
    }
}

fn is_transaction(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with(b"transaction_") || name.starts_with(b"tx_")
}

/// Variables that act once, belong to the connection, or are no variables.
const ONCE: [&str; 27] = [
    // USE sets these two as well, and is replayed last.
    "character_set_database",
    "charset",
    "collation_database",
    "completion_type",
    "debug",
    "default_role",
    "global",
    "gtid_next",
    "gtid_seq_no",
    "identity",
    "insert_id",
    "last_insert_id",
    // Keeps a trace of the last statement.
    "optimizer_trace",
    "password",
    "persist",
    "profiling",
    "pseudo_replica_mode",
    "pseudo_slave_mode",
    "pseudo_thread_id",
    "rand_seed1",
    "rand_seed2",
    "role",
    "session_track_state_change",
    "sql_auto_is_null",
    "statement",
    "timestamp",
    "transaction",
];

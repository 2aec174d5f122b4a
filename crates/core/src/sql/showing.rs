//! Statements that show or drop what belongs to a session: which variables, whose connection, which schema.

use super::lexer::{Lexer, Token};
use super::{is, is_end, Asks};

/// Variables that tell of the last statements, with what they ask for.
const TELLING: [(&[u8], Asks); 4] = [
    (b"warning_count", DIAGNOSTICS),
    (b"error_count", DIAGNOSTICS),
    (b"last_insert_id", INSERT_ID),
    (b"identity", INSERT_ID),
];

const NOTHING: Asks = Asks {
    diagnostics: false,
    insert_id: false,
    row_count: false,
    found_rows: false,
    stale: false,
};
const DIAGNOSTICS: Asks = Asks {
    diagnostics: true,
    ..NOTHING
};
const INSERT_ID: Asks = Asks {
    insert_id: true,
    ..NOTHING
};

/// What `SHOW [SESSION] VARIABLES`, or `STATUS`, asks for; what follows SHOW is given.
pub(super) fn variables(mut lexer: Lexer<'_>) -> Asks {
    let mut token = lexer.next();
    if is(token, "SESSION") || is(token, "LOCAL") {
        token = lexer.next();
    }
    if is(token, "STATUS") {
        return status(lexer);
    }
    if !is(token, "VARIABLES") {
        return NOTHING;
    }
    let pattern = match (lexer.next(), lexer.next()) {
        (Some(like), Some(Token::Text(text))) if is(Some(like), "LIKE") && is_end(lexer) => text,
        _ => b"%",
    };
    let asks = Asks {
        stale: pattern.eq_ignore_ascii_case(b"last_gtid"),
        ..NOTHING
    };
    TELLING
        .iter()
        .filter(|(name, _)| is_like(name, pattern))
        .fold(asks, |all, (_, asks)| all.and(*asks))
}

/// `SHOW STATUS LIKE 'Last_query_cost'` is of the statement before. Of the session's counters, which are the
/// connection's, nothing can be known; asked for together with the server's they are shown as they are.
fn status(mut lexer: Lexer<'_>) -> Asks {
    let is_like = is(lexer.next(), "LIKE");
    let pattern = match lexer.next() {
        Some(Token::Text(text)) if is_like => text.to_ascii_lowercase(),
        _ => return NOTHING,
    };
    Asks {
        // After a statement without a cost it is an earlier one's, whoever made that.
        stale: pattern.starts_with(b"last"),
        ..NOTHING
    }
}

/// SQL's LIKE; with a backslash perhaps. O(name x pattern).
fn is_like(name: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut rest, mut last_percent) = (0, pattern, None);
    while let Some(byte) = name.get(at) {
        match rest.split_first() {
            Some((b'\\', _)) => return true,
            Some((b'%', behind)) => {
                last_percent = Some((behind, at));
                rest = behind;
            }
            Some((one, behind)) if *one == b'_' || one.eq_ignore_ascii_case(byte) => {
                rest = behind;
                at += 1;
            }
            _ => {
                let Some((behind, from)) = last_percent else {
                    return false;
                };
                // The percent sign takes one byte more.
                (rest, at) = (behind, from + 1);
                last_percent = Some((behind, at));
            }
        }
    }
    rest.iter().all(|byte| matches!(byte, b'%' | b'\\'))
}

/// `EXPLAIN FOR CONNECTION id`, `SHOW EXPLAIN FOR id`, `SHOW ANALYZE FOR id`; what follows the first word is given.
pub(super) fn names_connection(is_show: bool, mut lexer: Lexer<'_>) -> bool {
    if is_show {
        let shown = lexer.next();
        return is(shown, "EXPLAIN") || is(shown, "ANALYZE");
    }
    while let Some(token) = lexer.next() {
        if is(Some(token), "FOR") && is(lexer.clone().next(), "CONNECTION") {
            return true;
        }
    }
    false
}

/// The schema that `DROP DATABASE` or `CREATE OR REPLACE DATABASE` drops; what follows the first word is given.
pub(super) fn dropped_schema(is_drop: bool, mut lexer: Lexer<'_>) -> Option<Box<[u8]>> {
    let mut replaces = || is(lexer.next(), "OR") && is(lexer.next(), "REPLACE");
    let drops = is_drop || replaces();
    if !drops {
        return None;
    }
    let what = lexer.next();
    if !is(what, "DATABASE") && !is(what, "SCHEMA") {
        return None;
    }
    let mut name = lexer.next()?;
    if is(Some(name), "IF") {
        let _exists = lexer.next();
        name = lexer.next()?;
    }
    match name {
        Token::Word(name) | Token::Quoted(name) => Some(name.into()),
        _ => None,
    }
}

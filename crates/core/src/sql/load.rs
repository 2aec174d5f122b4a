//! LOAD DATA LOCAL: the files that a client's own text names.
//!
//! Only these may a server ask the client for (docs/pooling.md): a hostile one would ask for others.

use super::is;
use super::lexer::{Lexer, Token};

/// The files of every LOAD DATA LOCAL in a text, in order; None where a name is not sent as it was written
/// (escapes, other characters than ASCII).
pub(super) fn files(text: &[u8]) -> Vec<Option<Box<[u8]>>> {
    let (mut files, mut lexer) = (Vec::new(), Lexer::new(text));
    let mut part = Part::Start;
    while let Some(token) = lexer.next() {
        part = match (part, token) {
            (_, Token::Symbol(b';')) => Part::Start,
            (Part::Start, word) if is(Some(word), "LOAD") => Part::Load,
            (Part::Load, word) if is(Some(word), "LOCAL") => Part::Local,
            (part @ (Part::Load | Part::Local), Token::Word(_)) => part,
            (Part::Local, Token::Text(name)) => {
                // A doubled quote is read as two texts.
                let is_whole = !matches!(lexer.clone().next(), Some(Token::Text(_)));
                let is_plain = is_whole && name.is_ascii() && !name.contains(&b'\\');
                files.push(is_plain.then(|| name.into()));
                Part::Other
            }
            _ => Part::Other,
        };
    }
    files
}

#[derive(Clone, Copy)]
enum Part {
    Start,
    /// Behind LOAD.
    Load,
    /// Behind LOAD DATA LOCAL.
    Local,
    /// Nothing more in this statement.
    Other,
}

#[cfg(test)]
mod tests {
    use super::super::classify;

    #[test]
    fn only_files_that_the_text_names() {
        for (text, names) in [
            ("LOAD DATA LOCAL INFILE '/a b' INTO TABLE t", &[Some("/a b")][..]),
            ("load data low_priority local infile \"x\" ignore into table t", &[Some("x")]),
            ("LOAD XML LOCAL INFILE 'x.xml' INTO TABLE t", &[Some("x.xml")]),
            ("/*!40000 LOAD DATA LOCAL INFILE 'x' INTO TABLE t */", &[Some("x")]),
            (
                "SELECT 1; LOAD DATA LOCAL INFILE 'x' INTO TABLE t; LOAD DATA LOCAL INFILE 'y' INTO TABLE t",
                &[Some("x"), Some("y")],
            ),
            ("LOAD DATA LOCAL INFILE 'C:\\\\x' INTO TABLE t", &[None]),
            ("LOAD DATA LOCAL INFILE 'it''s' INTO TABLE t", &[None]),
            ("LOAD DATA LOCAL INFILE 'ä' INTO TABLE t", &[None]),
            ("LOAD DATA INFILE '/etc/passwd' INTO TABLE local", &[]),
            ("SELECT 'LOAD DATA LOCAL INFILE ''x'''", &[]),
            ("INSERT INTO t VALUES ('LOAD'), ('LOCAL'), ('x')", &[]),
            ("SELECT load, local, 'x' FROM t", &[]),
            ("LOAD INDEX INTO CACHE t", &[]),
            ("-- LOAD DATA LOCAL INFILE 'x'\nSELECT 1", &[]),
        ] {
            let want: Vec<Option<Box<[u8]>>> =
                names.iter().map(|n| n.map(|n| n.as_bytes().into())).collect();
            assert_eq!(classify(text.as_bytes(), true).files, want, "{text}");
        }
    }
}

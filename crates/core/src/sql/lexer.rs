//! SQL text as tokens: only as much as is needed to see what a statement may leave behind.
//!
//! For the default rules: backslash escapes, double quotes are strings, a character set whose later bytes are
//! never ASCII (sessions where that does not hold are pinned before they get here). The contents of executable
//! comments (`/*! */`) are tokens like any other, since they may be executed. Never fails: what is not
//! understood is a [`Token::Symbol`], what is not closed ends with the text. Text that servers read in more than
//! one way ([`Lexer::is_doubtful`]) is not for guessing.

/// One token; the slices are parts of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or an unquoted name.
    Word(&'a [u8]),
    /// A name in backquotes, without them; doubled ones are still doubled.
    Quoted(&'a [u8]),
    /// A string, without its quotes.
    Text(&'a [u8]),
    /// A number.
    Number(&'a [u8]),
    /// `@name`.
    UserVariable,
    /// `@@name`, with its scope (`session.name`), without the signs.
    SystemVariable(&'a [u8]),
    /// Any other character.
    Symbol(u8),
}

/// Reads tokens from the front of a text.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    in_executable: bool,
    /// The first `*/` behind a comment that some versions execute: where the others go on.
    conditional_end: Option<usize>,
    /// A comment that some versions execute is over.
    is_behind_conditional: bool,
    has_tokens: bool,
    is_doubtful: bool,
}

impl<'a> Lexer<'a> {
    /// A lexer at the start of a text.
    pub fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            in_executable: false,
            conditional_end: None,
            is_behind_conditional: false,
            has_tokens: false,
            is_doubtful: false,
        }
    }

    /// Whether servers may have read what was passed so far in another way: a comment for some versions that is
    /// not the whole statement or hides its own end, quotes in a hint, characters that only some character
    /// sets count as white space.
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful || self.in_executable
    }

    /// Where the next token is looked for.
    pub fn position(&self) -> usize {
        self.at
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn run(&mut self, is_part: impl Fn(u8) -> bool) -> &'a [u8] {
        let start = self.at;
        while self.peek(0).is_some_and(&is_part) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn skip_to_line_end(&mut self) {
        self.run(|byte| byte != b'\n');
    }

    /// Skips white space and comments; enters executable ones.
    fn skip(&mut self) {
        loop {
            self.run(|byte| byte.is_ascii_whitespace() || byte == 0x0b);
            match (self.peek(0), self.peek(1), self.peek(2)) {
                (Some(b'#'), ..) => self.skip_to_line_end(),
                (Some(b'-'), Some(b'-'), third) if third.is_none_or(|b| b <= b' ' || b == 0x7f) => {
                    self.skip_to_line_end();
                }
                (Some(b'-'), Some(b'-'), Some(0x80..)) => {
                    // In latin1 0xa0 is white space.
                    self.is_doubtful = true;
                    return;
                }
                (Some(b'/'), Some(b'*'), Some(b'!')) => self.enter_executable(3),
                (Some(b'/'), Some(b'*'), Some(b'M')) if self.peek(3) == Some(b'!') => {
                    self.enter_executable(4);
                }
                (Some(b'/'), Some(b'*'), third) => {
                    let end = self.comment_end().unwrap_or(self.text.len());
                    let comment = self.text.get(self.at..end).unwrap_or(&[]);
                    let has_quotes = comment.iter().any(|b| matches!(b, b'\'' | b'"' | b'`'));
                    self.is_doubtful |= third == Some(b'+') && has_quotes;
                    self.at = end;
                }
                (Some(b'*'), Some(b'/'), _) if self.in_executable => self.leave_executable(),
                _ => return,
            }
        }
    }

    /// Behind the next `*/`, of the comment that begins here.
    fn comment_end(&self) -> Option<usize> {
        let rest = self.text.get(self.at + 2..)?;
        let end = rest.windows(2).position(|pair| pair == b"*/")?;
        Some(self.at + 2 + end + 2)
    }

    fn enter_executable(&mut self, marker: usize) {
        let end = self.comment_end();
        self.is_doubtful |= self.in_executable || end.is_none();
        self.in_executable = true;
        self.at += marker;
        let version = self.run(|byte| byte.is_ascii_digit());
        if marker == 4 || !version.is_empty() {
            self.is_doubtful |= self.has_tokens;
            self.conditional_end = end;
        }
    }

    fn leave_executable(&mut self) {
        self.in_executable = false;
        self.at += 2;
        if let Some(end) = self.conditional_end.take() {
            self.is_doubtful |= end != self.at;
            self.is_behind_conditional = true;
        }
    }

    /// The text up to the closing quote, which may be escaped by a backslash (not in backquotes). A doubled quote
    /// ends one string and begins the next.
    fn quoted(&mut self, quote: u8) -> &'a [u8] {
        self.at += 1;
        let start = self.at;
        while let Some(byte) = self.peek(0) {
            if byte == quote {
                self.at += 1;
                return &self.text[start..self.at - 1];
            }
            self.at += if byte == b'\\' && quote != b'`' { 2 } else { 1 };
        }
        self.at = self.text.len();
        &self.text[start.min(self.at)..]
    }

    fn name(&mut self, is_part: impl Fn(u8) -> bool) -> &'a [u8] {
        let name = self.run(is_part);
        // In latin1 0xa0 is white space; in UTF-8 a part of a character.
        let ends_word = |at: usize| {
            let before = at.checked_sub(1).and_then(|at| name.get(at));
            before.is_none_or(u8::is_ascii) || name.get(at + 1).is_some_and(u8::is_ascii)
        };
        let mut bytes = name.iter().enumerate();
        self.is_doubtful |= bytes.any(|(at, byte)| *byte == 0xa0 && ends_word(at));
        name
    }

    fn variable(&mut self) -> Token<'a> {
        if self.peek(1) != Some(b'@') {
            self.at += 1;
            // @`name`, @'name' and @name alike.
            return Token::UserVariable;
        }
        self.at += 2;
        Token::SystemVariable(self.name(|byte| is_word(byte) || byte == b'.'))
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip();
        let first = self.peek(0)?;
        self.has_tokens = true;
        self.is_doubtful |= self.is_behind_conditional && first != b';';
        Some(match first {
            b'`' => Token::Quoted(self.quoted(b'`')),
            quote @ (b'\'' | b'"') => Token::Text(self.quoted(quote)),
            b'@' => self.variable(),
            first if is_word(first) => {
                let word = self.name(is_word);
                if first.is_ascii_digit() && word.iter().all(u8::is_ascii_digit) {
                    Token::Number(word)
                } else {
                    Token::Word(word)
                }
            }
            other => {
                self.at += 1;
                Token::Symbol(other)
            }
        })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

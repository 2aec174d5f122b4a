//! Prepared statements as a server connection has them, and what another connection needs to have them, too.
//!
//! A client's statement is its text and the state in which it was prepared: an [`Origin`]. A connection keeps the
//! statements of all sessions that used it, found by origin, the least recently used closed first. So a statement
//! is shared, and this is right because nothing of one session can be seen by another: values come with each
//! EXECUTE; what does not (long data, a cursor) takes the statement out of here first ([`OnServer::take`]); and
//! the types of parameters, which the server remembers, are part of what a statement is found by. It must not
//! know: client ids, packets, replies.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use portside_proto::statement::put_close;

use super::Settings;

/// Statements kept per connection. A server has 16,382 in all its connections (`max_prepared_stmt_count`): 64 leave
/// room for 255 connections.
const COUNT_MAX: usize = 64;
/// Bytes of their texts.
const BYTES_MAX: usize = 256 * 1024;

/// What a statement was prepared from.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    text: Box<[u8]>,
    schema: Option<Box<[u8]>>,
    settings: Settings,
}

impl Origin {
    /// Of a text that was prepared under this schema and these settings.
    pub fn new(text: &[u8], schema: Option<&[u8]>, settings: &Settings) -> Self {
        Self {
            text: text.into(),
            schema: schema.map(Into::into),
            settings: settings.clone(),
        }
    }

    /// The statement's text.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether a session with these has the state in which it was prepared.
    pub fn is_of(&self, schema: Option<&[u8]>, settings: &Settings) -> bool {
        self.schema.as_deref() == schema && self.settings == *settings
    }
}

/// An origin with its hash and what the server said of the statement: what a statement is looked for by.
#[derive(Clone, Debug)]
pub struct Key {
    origin: Arc<Origin>,
    hash: u64,
    definitions: u64,
}

impl Key {
    /// For a statement whose definitions have this digest. O(text).
    pub fn new(origin: Origin, definitions: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        (&origin, definitions).hash(&mut hasher);
        Self {
            origin: Arc::new(origin),
            hash: hasher.finish(),
            definitions,
        }
    }

    /// What it was prepared from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Digest of parameters and columns.
    pub fn definitions(&self) -> u64 {
        self.definitions
    }
}

/// Collisions are possible, so the texts are compared, too.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let same = || Arc::ptr_eq(&self.origin, &other.origin) || self.origin == other.origin;
        self.hash == other.hash && self.definitions == other.definitions && same()
    }
}

/// One statement that a command needs on its connection.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// Which.
    pub key: &'a Key,
    /// The types that its parameters had in all executions so far; None: there was none.
    pub types: Option<&'a [u8]>,
    /// Without it the command fails; else the statement is lost to the session.
    pub is_wanted: bool,
    /// It cannot be prepared anew: only the one that was executed before will do.
    pub is_exact: bool,
}

/// A statement as it is on the server.
#[derive(Debug)]
pub struct Kept {
    /// The server's id.
    pub id: u32,
    key: Key,
    /// Types of all its executions.
    types: Option<Box<[u8]>>,
    /// The server certainly knows the types.
    is_bound: bool,
    used: u64,
}

impl Kept {
    /// Whether the server knows the types of its parameters, and they are these.
    pub fn knows(&self, types: Option<&[u8]>) -> bool {
        self.is_bound && self.types.as_deref() == types
    }
}

/// The statements of one connection.
#[derive(Debug, Default)]
pub struct OnServer {
    kept: Vec<Kept>,
    /// Hashes of their keys, in the same order: what is looked through.
    hashes: Vec<u64>,
    bytes: usize,
    clock: u64,
    /// To be closed with what is sent next.
    closing: Vec<u32>,
    /// The server takes no notice of the types of earlier executions.
    forgets_types: bool,
}

impl OnServer {
    /// MariaDB resolves a statement anew for the types of each execution. MySQL since 8.0.22 does so only when they
    /// do not fit: after 1.5 also a 1 is a DOUBLE.
    pub fn forgets_types(&mut self, forgets: bool) {
        self.forgets_types = forgets;
    }

    fn find(&self, need: &Need<'_>) -> Option<usize> {
        let fits = |kept: &Kept| {
            let is_same = kept.types.as_deref() == need.types;
            let is_fresh = kept.types.is_none() || need.types.is_none();
            kept.key == *need.key && (self.forgets_types || is_same || is_fresh && !need.is_exact)
        };
        let mut hashes = self.hashes.iter().enumerate();
        hashes.find_map(|(at, hash)| {
            (*hash == need.key.hash && self.kept.get(at).is_some_and(fits)).then_some(at)
        })
    }

    /// Whether it has the statement. O(statements), some nanoseconds.
    pub fn has(&self, need: &Need<'_>) -> bool {
        self.find(need).is_some()
    }

    /// The server's id of a statement that is about to be executed with these types (None: they do not matter),
    /// and whether the server knows them.
    pub fn touch(&mut self, need: &Need<'_>, types: Option<&[u8]>) -> Option<(u32, bool)> {
        let at = self.find(need)?;
        self.clock += 1;
        let clock = self.clock;
        let kept = self.kept.get_mut(at)?;
        kept.used = clock;
        let found = (kept.id, kept.knows(types));
        if types.is_some() && kept.types.as_deref() != types {
            kept.types = types.map(Into::into);
            self.drop_others(at);
        }
        Some(found)
    }

    /// The server has been told the types of this statement, or (after an error) perhaps not.
    pub fn bound(&mut self, id: u32, is_bound: bool) {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.id == id) {
            kept.is_bound = is_bound;
        }
    }

    /// Takes the statement away for one session alone. Close it, or bring it back.
    pub fn take(&mut self, need: &Need<'_>) -> Option<Kept> {
        let at = self.find(need)?;
        Some(self.remove(at))
    }

    /// Brings one back that was taken. Its executions had these types.
    pub fn bring_back(&mut self, key: &Key, id: u32, types: Option<&[u8]>) {
        self.keep(key, id, types, true);
        self.close_oldest();
    }

    /// A statement was prepared.
    pub fn add(&mut self, key: &Key, id: u32) {
        self.keep(key, id, None, false);
        self.close_oldest();
    }

    /// One was prepared that will be taken at once, as many others: nothing makes room for it.
    pub fn add_to_take(&mut self, key: &Key, id: u32) {
        self.keep(key, id, None, false);
    }

    fn keep(&mut self, key: &Key, id: u32, types: Option<&[u8]>, is_bound: bool) {
        self.clock += 1;
        self.bytes += key.origin.text.len();
        self.hashes.push(key.hash);
        self.kept.push(Kept {
            id,
            key: key.clone(),
            types: types.map(Into::into),
            is_bound,
            used: self.clock,
        });
        self.drop_others(self.kept.len() - 1);
    }

    fn close_oldest(&mut self) {
        while self.kept.len() > COUNT_MAX || self.bytes > BYTES_MAX {
            let oldest = (0..self.kept.len()).min_by_key(|at| self.kept.get(*at).map(|k| k.used));
            let Some(at) = oldest else {
                return;
            };
            let kept = self.remove(at);
            self.closing.push(kept.id);
        }
    }

    /// The one at this place does the work of those like it.
    fn drop_others(&mut self, at: usize) {
        let Some(one) = self.kept.get(at) else {
            return;
        };
        let forgets = self.forgets_types;
        let is_like = |other: &Kept| {
            other.id != one.id && other.key == one.key && (forgets || other.types == one.types)
        };
        if let Some(other) = self.kept.iter().position(is_like) {
            let kept = self.remove(other);
            self.closing.push(kept.id);
        }
    }

    fn remove(&mut self, at: usize) -> Kept {
        self.hashes.swap_remove(at);
        let kept = self.kept.swap_remove(at);
        self.bytes -= kept.key.origin.text.len();
        kept
    }

    /// A statement that is of no use to anybody.
    pub fn close(&mut self, id: u32) {
        self.closing.push(id);
    }

    /// The server has too many: all that are only kept go.
    pub fn shed(&mut self) {
        self.closing.extend(self.kept.drain(..).map(|kept| kept.id));
        self.hashes.clear();
        self.bytes = 0;
    }

    /// A reset has closed all.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.hashes.clear();
        self.closing.clear();
        self.bytes = 0;
    }

    /// Appends what closes those that went. They have no reply.
    pub fn put_closing(&mut self, bytes: &mut Vec<u8>) {
        for id in self.closing.drain(..) {
            put_close(bytes, id);
        }
    }
}

#[cfg(test)]
mod tests;

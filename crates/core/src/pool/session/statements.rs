//! A client's prepared statements: its ids, which of them can be prepared anew elsewhere, and which are bound to
//! the connection.
//!
//! A statement moves while everything it depends on is known: its text, the schema and settings it was prepared
//! under (the session's present ones: what changes these binds it first), the types of its executions. Whatever
//! else the server may remember of it binds it, and the session is pinned with `statements`.

use std::collections::BTreeMap;

use portside_proto::statement::Execute;

use super::{Conn, Home};
use crate::pool::statements::{Key, Need};
use crate::sql::Verdict;

/// A longer text is not kept: its statement is bound.
pub(super) const TEXT_MAX: usize = 16 * 1024;
/// Bytes of all texts of a session.
pub(super) const BYTES_MAX: usize = 64 * 1024;
/// Statements of a session that can move.
pub(super) const COUNT_MAX: usize = 1024;

/// When a bound statement may move again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Until {
    /// It was executed, or reset: its long data is used up.
    Executed,
    /// Never. A cursor is among these reasons: MySQL 9.7 answers an EXECUTE without one with a broken result once the
    /// statement had one, also after a RESET.
    Closed,
}

#[derive(Debug)]
pub(super) enum Place {
    /// Wherever the server is asked to prepare it.
    Moves,
    /// This id on the connection that the session keeps. `is_bound`: the server knows the types there.
    Bound {
        id: u32,
        until: Until,
        is_bound: bool,
    },
    /// It could not be brought along. Executing it is error 1615.
    Lost,
}

#[derive(Debug)]
pub(super) struct Statement {
    pub(super) place: Place,
    /// None: it has never been able to move.
    pub(super) key: Option<Key>,
    pub(super) parameters: u16,
    /// What its text is, for each execution.
    pub(super) verdict: Verdict,
    /// As the client gave them last.
    pub(super) types: Option<Box<[u8]>>,
    pub(super) has_run: bool,
    /// The connection it was used on last.
    pub(super) home: u64,
}

/// What the command at hand does to statements.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Act {
    /// The client's id; 0: none, or all of them.
    pub(super) id: u32,
    /// It binds its statement.
    pub(super) binds: Option<Until>,
    /// Only where the statement was executed before.
    pub(super) is_exact: bool,
    /// Rather where the statement is already.
    pub(super) is_near: bool,
    /// All that can move are to be brought along and bound.
    pub(super) is_move: bool,
    /// But nothing may be prepared for it: that would change its answer.
    pub(super) is_quiet: bool,
    /// They were, as far as possible.
    pub(super) has_brought: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Statements {
    pub(super) open: BTreeMap<u32, Statement>,
    pub(super) given: u32,
    pub(super) last: Option<u32>,
    pub(super) bytes: usize,
    pub(super) moving: usize,
    pub(super) bound: usize,
    pub(super) act: Act,
    /// Under preparation: id, and text where it may move.
    pub(super) preparing: Option<(u32, Option<Box<[u8]>>)>,
    /// What the text under preparation is.
    pub(super) text: Verdict,
    /// The server's id for the command that is to be forwarded.
    pub(super) address: Option<u32>,
    /// The server's id in the command that runs.
    pub(super) running: u32,
}

/// The statements that the command at hand needs on its connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs<'a> {
    open: Option<&'a BTreeMap<u32, Statement>>,
    from: u32,
    to: u32,
    is_exact: bool,
}

impl<'a> Needs<'a> {
    /// One after the other.
    pub(in crate::pool) fn iter(&self) -> impl Iterator<Item = Need<'a>> + 'a {
        let (from, to, is_exact) = (self.from, self.to, self.is_exact);
        let open = self.open.into_iter();
        open.flat_map(move |open| open.range(from..=to))
            .filter_map(move |(_, statement)| statement.need(from == to, is_exact))
    }
}

impl Statement {
    pub(super) fn need(&self, is_wanted: bool, is_exact: bool) -> Option<Need<'_>> {
        matches!(self.place, Place::Moves).then_some(())?;
        Some(Need {
            key: self.key.as_ref()?,
            types: self.types.as_deref(),
            is_wanted,
            is_exact,
        })
    }

    pub(super) fn bind(&mut self, conn: &mut Conn, act: &Act) -> bool {
        let Some(need) = self.need(true, act.is_exact) else {
            return false;
        };
        let until = act.binds.unwrap_or(Until::Closed);
        let kept = conn.statements().take(&need);
        self.place = kept.map_or(Place::Lost, |kept| Place::Bound {
            id: kept.id,
            until,
            is_bound: kept.knows(self.types.as_deref()),
        });
        matches!(self.place, Place::Bound { .. })
    }
}

impl Statements {
    /// What the command at hand needs.
    pub(super) fn needs(&self) -> Needs<'_> {
        let (from, to) = match self.act {
            Act { is_quiet: true, .. }
            | Act {
                id: 0,
                is_move: false,
                ..
            } => {
                return Needs::default();
            }
            Act { is_move: true, .. } => (0, u32::MAX),
            Act { id, .. } => (id, id),
        };
        Needs {
            open: Some(&self.open),
            from,
            to,
            is_exact: self.act.is_exact,
        }
    }

    /// Where the statement of the command at hand is already.
    pub(super) fn home(&self) -> Option<Home> {
        let statement = self.open.get(&self.act.id)?;
        (self.act.is_near && matches!(statement.place, Place::Moves)).then_some(Home {
            id: statement.home,
            is_needed: self.act.is_exact,
        })
    }

    /// The id that the client will have for what is being prepared.
    pub(super) fn prepares(&self) -> Option<u32> {
        self.preparing.as_ref().map(|(id, _)| *id)
    }

    pub(super) fn are_bound(&self) -> bool {
        self.bound > 0
    }

    pub(super) fn clear(&mut self) {
        let given = self.given;
        *self = Self {
            given,
            ..Self::default()
        };
    }

    /// A new command, or the one at hand was given up.
    pub(super) fn start(&mut self) {
        self.act = Act::default();
    }

    /// A connection was found: nothing has been brought there yet.
    pub(super) fn attached(&mut self) {
        self.act.has_brought = false;
    }

    pub(super) fn remove(&mut self, id: u32) {
        let Some(gone) = self.open.remove(&id) else {
            return;
        };
        if self.last == Some(id) {
            self.last = None;
        }
        if let Some(key) = gone.key.as_ref() {
            self.bytes -= key.origin().text().len();
        }
        match gone.place {
            Place::Moves => self.moving -= 1,
            Place::Bound { .. } => self.bound -= 1,
            Place::Lost => {}
        }
    }

    /// Everything that moved is bound to this connection, or lost.
    pub(super) fn bind_all(&mut self, conn: &mut Conn) {
        let act = Act::default();
        for statement in self.open.values_mut() {
            if matches!(statement.place, Place::Moves) {
                self.moving -= 1;
                self.bound += usize::from(statement.bind(conn, &act));
            }
        }
    }
}

impl Statement {
    /// Takes the types that an EXECUTE brings into account. False: there are none and never were.
    pub(super) fn executes(
        &mut self,
        execute: Execute<'_>,
        is_mariadb: bool,
        act: &mut Act,
    ) -> bool {
        if execute.has_cursor {
            act.binds = Some(Until::Closed);
        }
        let known = self.types.as_deref();
        match execute.types {
            Some(given) if known == Some(given) => {}
            // A server that remembers earlier types: only the very statement gives the very same answer.
            Some(_) if self.has_run && known.is_some() && !is_mariadb => {
                (act.binds, act.is_exact) = (Some(Until::Closed), true);
            }
            Some(given) => self.types = Some(given.into()),
            None if execute.has_parameters && known.is_none() => {
                return matches!(self.place, Place::Bound { .. });
            }
            None => {}
        }
        if let (Place::Bound { until, .. }, Some(binds)) = (&mut self.place, act.binds) {
            *until = binds.max(*until);
        }
        true
    }
}

//! What brings statements to a connection that does not have them, and keeps account of those that it has.

use portside_proto::command::com;
use portside_proto::err::errno;
use portside_proto::handshake::offer::put_command;
use portside_proto::reply::Outcome;
use portside_proto::single::ServerError;
use portside_proto::statement::{Prepared, Renumber};

use super::{Conn, Did, Want};
use crate::pool::session::Needs;
use crate::pool::statements::{Key, Need, OnServer};

/// What a client is told whose statement is not the same any more.
pub(in crate::pool) const NEED_REPREPARE: &str =
    "Prepared statement needs to be re-prepared (portside: its parameters or columns have changed since, or its \
    connection is gone; docs/pooling.md)";

/// A statement of a client under preparation on this connection.
#[derive(Debug)]
pub(super) struct Preparing {
    key: Key,
    /// The command at hand fails without it.
    is_wanted: bool,
}

impl Conn {
    /// The statements that it has.
    pub fn statements(&mut self) -> &mut OnServer {
        &mut self.statements
    }

    /// Whether it has what a command needs.
    pub fn has_statements(&self, needs: &Needs<'_>) -> bool {
        needs.iter().all(|need| self.statements.has(&need))
    }

    /// The last statement took earlier warnings away, and has none.
    pub fn has_no_diagnostics(&mut self) {
        self.diagnostics = false;
    }

    /// Whether it may have warnings or an error to show, of whomever.
    pub fn has_diagnostics(&self) -> bool {
        self.diagnostics
    }

    /// Prepares what a command needs and is not there, and forgets warnings that are not its session's, for one that
    /// keeps this connection. Write the bytes and feed until `Ready`.
    pub fn bring(&mut self, want: &Want<'_>) -> Vec<u8> {
        debug_assert!(self.is_ready());
        let mut bytes = Vec::new();
        self.put_statements(&want.needs, &mut bytes);
        if want.no_diagnostics && (self.diagnostics || !bytes.is_empty()) {
            self.put_clear(&mut bytes);
        }
        self.start_steps();
        bytes
    }

    pub(super) fn put_statements(&mut self, needs: &Needs<'_>, bytes: &mut Vec<u8>) {
        self.statements.put_closing(bytes);
        for need in needs.iter() {
            if !need.is_exact && !self.statements.has(&need) {
                put_command(bytes, com::STMT_PREPARE, need.key.origin().text());
                self.steps.push_back(Did::Statement(Preparing {
                    key: need.key.clone(),
                    is_wanted: need.is_wanted,
                }));
            }
        }
    }

    /// How many of these it has not.
    pub(super) fn lacks(&self, needs: &Needs<'_>) -> usize {
        let has = |need: &Need<'_>| self.statements.has(need);
        needs.iter().filter(|need| !has(need)).count()
    }

    /// Reads the reply to a PREPARE of our own. None: more is to come.
    pub(super) fn prepared(&mut self, bytes: &mut &[u8]) -> Option<Result<(), String>> {
        let capabilities = self.capabilities;
        let reader = self
            .preparing
            .get_or_insert_with(|| Prepared::new(capabilities));
        let reply = match reader.feed(bytes) {
            Ok(reply) => reply?,
            Err(e) => return Some(Err(e.to_string())),
        };
        self.preparing = None;
        if let Some(Did::Statement(statement)) = self.steps.pop_front() {
            self.did_prepare(&statement, reply);
        }
        Some(Ok(()))
    }

    fn did_prepare(&mut self, statement: &Preparing, reply: Result<Outcome, ServerError>) {
        self.reprepares += 1;
        let error = match reply {
            Ok(outcome) => {
                let id = outcome.statement.unwrap_or(0);
                // MariaDB keeps those of earlier statements when this one has no table.
                self.diagnostics = outcome.warnings > 0 || (self.is_mariadb && self.diagnostics);
                if outcome.definitions == statement.key.definitions() {
                    return if statement.is_wanted {
                        self.statements.add(&statement.key, id);
                    } else {
                        self.statements.add_to_take(&statement.key, id);
                    };
                }
                self.statements.close(id);
                ServerError {
                    errno: errno::NEED_REPREPARE,
                    state: *b"HY000",
                    message: NEED_REPREPARE.to_owned(),
                }
            }
            Err(error) => {
                self.diagnostics = true;
                self.make_room(error.errno);
                error
            }
        };
        if statement.is_wanted {
            self.failed.get_or_insert(error);
        }
    }

    /// An error of the server that says that it has too many statements: those that are only kept go.
    pub(super) fn make_room(&mut self, number: u16) {
        if number == errno::SERVER_TOO_MANY_STATEMENTS {
            self.statements.shed();
        }
    }

    /// Statements prepared anew since the last call.
    pub fn take_reprepares(&mut self) -> u64 {
        std::mem::take(&mut self.reprepares)
    }

    /// The reply that now runs is that to a PREPARE: the client shall see this id.
    pub fn renumber(&mut self, id: u32) {
        self.renumber = Some(Renumber::new(id));
    }

    /// Bytes of a reply: makes them what the client shall see.
    pub(in crate::pool) fn dress(&mut self, bytes: &mut [u8]) {
        if let Some(renumber) = self.renumber.as_mut() {
            renumber.pass(bytes);
        }
    }

    /// MariaDB, or MySQL.
    pub fn is_mariadb(&self) -> bool {
        self.is_mariadb
    }
}

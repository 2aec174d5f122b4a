//! Commands about prepared statements: what each means for its statement, and for the connection.
//!
//! The order of a command: [`Session::about_statement`] (is it known, what does it bind), the connection is found and
//! brought the statement (`Conn::prepare`, `Conn::bring`), [`Session::begin_statement`] (whose id, which types),
//! [`Session::statement_replied`].

use portside_proto::command::{capability, com};
use portside_proto::err::errno;
use portside_proto::reply::{Outcome, STMT_BULK_EXECUTE};
use portside_proto::single::err;
use portside_proto::statement::{self, Execute, Unread, LAST_PREPARED};

use super::statements::{Act, Place, Statement, Until, BYTES_MAX, COUNT_MAX, TEXT_MAX};
use super::{Conn, Session, Step};
use crate::pool::conn::NEED_REPREPARE;
use crate::pool::statements::{Key, Origin};
use crate::reason::{Cause, Pin};
use crate::sql::{self, Asks, Kind, Pins, Verdict};

/// Whether a command is about a prepared statement that exists already.
pub(super) const fn is_about_statement(command: u8) -> bool {
    matches!(
        command,
        com::STMT_EXECUTE
            | com::STMT_FETCH
            | com::STMT_RESET
            | com::STMT_CLOSE
            | com::STMT_SEND_LONG_DATA
            | STMT_BULK_EXECUTE
    )
}

/// An id of no statement: servers count from 1.
const NOBODY: u32 = 0;

impl Session {
    /// A command about a prepared statement has come. None: go on with it.
    pub(super) fn about_statement(
        &mut self,
        command: u8,
        argument: &[u8],
        is_whole: bool,
        conn: Option<&Conn>,
    ) -> Option<Step> {
        let Some(named) = statement::id(argument) else {
            return Some(if is_whole {
                self.malformed("a statement's command without its id", 1)
            } else {
                Step::More
            });
        };
        let is_mariadb = conn.map_or(self.is_mariadb, Conn::is_mariadb);
        let is_last = named == LAST_PREPARED && is_mariadb;
        let id = if is_last { self.statements.last } else { None }.unwrap_or(named);
        let has_reply = !matches!(command, com::STMT_CLOSE | com::STMT_SEND_LONG_DATA);
        let Some(statement) = self.statements.open.get_mut(&id) else {
            return self.unknown(named, is_whole, has_reply);
        };
        if command == com::STMT_CLOSE {
            return Some(self.close(id));
        }
        if matches!(statement.place, Place::Lost) {
            return Some(changed(is_whole, has_reply));
        }
        let mut act = Act {
            id,
            binds: is_last.then_some(Until::Closed),
            ..Act::default()
        };
        let attributes = self.class.has(capability::QUERY_ATTRIBUTES);
        match command {
            com::STMT_EXECUTE => match Execute::read(argument, statement.parameters, attributes) {
                Err(Unread::Short) if !is_whole => return Some(Step::More),
                Err(_) => (act.binds, act.is_exact) = (Some(Until::Closed), statement.has_run),
                Ok(execute) if !statement.executes(execute, is_mariadb, &mut act) => {
                    return Some(without_types(is_whole));
                }
                Ok(_) => {}
            },
            com::STMT_SEND_LONG_DATA => act.binds = act.binds.max(Some(Until::Executed)),
            STMT_BULK_EXECUTE => {
                act.binds = Some(Until::Closed);
                act.is_exact = !statement::bulk_has_types(argument) && statement.parameters > 0;
            }
            _ => {}
        }
        // Its connection was chosen for it when it was prepared.
        act.is_near = act.is_exact || !statement.has_run || command == com::STMT_RESET;
        let runs = matches!(command, com::STMT_EXECUTE | STMT_BULK_EXECUTE);
        let verdict = runs.then(|| statement.verdict.clone());
        self.verdict = Some(verdict.unwrap_or_else(Verdict::of_command));
        self.statements.act = act;
        None
    }

    /// A statement that was never prepared, or closed: the server itself says so, since it counts the error among
    /// its warnings.
    fn unknown(&mut self, id: u32, is_whole: bool, has_reply: bool) -> Option<Step> {
        if has_reply && is_whole {
            self.statements.start();
            self.statements.address = Some(NOBODY);
            self.verdict = Some(Verdict::of_command());
            return None;
        }
        if is_whole {
            return Some(Step::Say(Vec::new()));
        }
        let text = format!("portside: unknown prepared statement {id}");
        Some(refuse(is_whole, errno::UNKNOWN_STATEMENT, &text))
    }

    /// What is known about a command before it runs.
    pub(super) fn read(&mut self, command: u8, argument: &[u8]) -> Verdict {
        match command {
            com::QUERY => sql::classify(argument, self.is_mariadb),
            com::STMT_PREPARE => {
                let mut verdict = sql::classify(argument, self.is_mariadb);
                verdict.kind = match verdict.kind {
                    Kind::Plain => Kind::Plain,
                    Kind::Kill { .. } | Kind::OtherId => Kind::OtherId,
                    _ => {
                        verdict.pins.add(Pin::Statement);
                        Kind::Plain
                    }
                };
                // Not the preparation asks, but each execution; only diagnostics are kept for both.
                let preparation = Verdict {
                    kind: verdict.kind.clone(),
                    pins: verdict.pins,
                    asks: Asks {
                        diagnostics: verdict.asks.diagnostics,
                        ..Asks::default()
                    },
                    own_id: std::mem::take(&mut verdict.own_id),
                    ..Verdict::default()
                };
                // An execution needs the statement on its connection first.
                verdict.is_read = false;
                self.statements.text = verdict;
                preparation
            }
            com::INIT_DB => Verdict {
                kind: Kind::Use(argument.into()),
                ..Verdict::of_command()
            },
            // A reset does not take it back.
            com::SET_OPTION => Verdict {
                pins: Pins::of(Pin::Command).and(Pins::of(Pin::Statement)),
                ..Verdict::of_command()
            },
            com::PING => Verdict {
                is_read: true,
                ..Verdict::of_command()
            },
            _ => Verdict::of_command(),
        }
    }

    /// A command is known: does it change what statements depend on, so that they must come along?
    pub(super) fn look_for_movers(&mut self) {
        let Some(verdict) = self.verdict.as_ref() else {
            return;
        };
        let changes = matches!(verdict.kind, Kind::Use(_) | Kind::DropSchema(_) | Kind::Set)
            || verdict.pins.are_permanent();
        // Without warnings of its own, those of the preparations are cleared before it asks.
        let has_warnings = verdict.asks.diagnostics && self.pins.has(Pin::Warnings);
        let asks = has_warnings || verdict.asks.row_count || verdict.asks.found_rows;
        let act = &mut self.statements.act;
        if changes && act.id == 0 && self.statements.moving > 0 {
            act.is_move = true;
            // What is not there already is lost.
            act.is_quiet = asks;
        }
    }

    /// Whether the connection has the statements that the command needs. A step: it has not.
    pub(super) fn lacks_statements(&mut self, conn: &Conn, is_whole: bool) -> Option<Step> {
        if conn.has_statements(&self.statements.needs()) {
            return None;
        }
        let act = &mut self.statements.act;
        if act.is_exact {
            return Some(changed(is_whole, true));
        }
        if act.is_move && std::mem::replace(&mut act.has_brought, true) {
            return None;
        }
        Some(Step::Attach)
    }

    /// The command begins on this connection, which has the statements as far as possible. A step: these bytes
    /// instead of the packet, or an error.
    pub(super) fn begin_statement(
        &mut self,
        command: u8,
        packet: &[u8],
        is_whole: bool,
        conn: &mut Conn,
    ) -> Option<Step> {
        let act = self.statements.act;
        if act.is_move {
            self.statements.bind_all(conn);
        }
        let statement = self.statements.open.get_mut(&act.id)?;
        if matches!(statement.place, Place::Moves) && act.binds.is_some() {
            self.statements.moving -= 1;
            self.statements.bound += usize::from(statement.bind(conn, &act));
        }
        let argument = packet.get(5..).unwrap_or(&[]);
        let is_execute = command == com::STMT_EXECUTE;
        let attributes = self.class.has(capability::QUERY_ATTRIBUTES);
        let execute = if is_execute {
            Execute::read(argument, statement.parameters, attributes).ok()
        } else {
            None
        };
        let given = execute.and_then(|execute| execute.types);
        let types = statement.types.as_deref();
        let (id, is_bound) = match statement.place {
            Place::Moves => {
                let need = statement.need(true, act.is_exact)?;
                conn.statements()
                    .touch(&need, types.filter(|_| is_execute))?
            }
            Place::Bound { id, is_bound, .. } => (id, is_bound),
            Place::Lost => return Some(changed(is_whole, true)),
        };
        self.statements.running = id;
        let step = match (execute.filter(|e| e.has_parameters), given, types) {
            (Some(execute), None, Some(types)) if !is_bound => {
                let bytes = execute.with_types(packet, id, types);
                Some(bytes.map_or_else(|| changed(is_whole, true), Step::Instead))
            }
            // A bulk execution without types relies on those of earlier ones.
            _ if command == STMT_BULK_EXECUTE && act.is_exact && !is_bound => {
                Some(changed(is_whole, true))
            }
            _ => None,
        };
        if step.is_none() {
            self.statements.address = Some(id);
        }
        if let Some(given) = given.filter(|given| Some(*given) != types) {
            statement.types = Some(given.into());
        }
        step
    }

    /// Puts the server's statement id into the command that is to be forwarded.
    pub fn address(&mut self, bytes: &mut [u8]) {
        if let Some(id) = self.statements.address.take() {
            statement::renumber(bytes, id);
        }
    }

    fn close(&mut self, id: u32) -> Step {
        self.commands += 1;
        let place = self.statements.open.get(&id).map(|s| &s.place);
        let step = if let Some(Place::Bound { id, .. }) = place {
            self.statements.address = Some(*id);
            Step::Forward
        } else {
            Step::Say(Vec::new())
        };
        self.statements.remove(id);
        self.pin_statements();
        step
    }

    /// The session is pinned while statements are bound.
    pub(super) fn pin_statements(&mut self) {
        // Where something else holds the session for good, that is the reason to be shown.
        if self.statements.are_bound() && !self.pins.are_permanent() {
            self.pins.add(Pin::Statements);
        } else {
            self.pins.remove(Pin::Statements);
        }
    }

    /// A PREPARE is on its way: the id that the client will have. None as the text: it was not read.
    pub(super) fn begin_prepare(&mut self, text: Option<&[u8]>) {
        let statements = &mut self.statements;
        // 0 is no id, and the highest means another thing.
        statements.given = statements.given % (LAST_PREPARED - 1) + 1;
        let id = statements.given;
        let text = text.filter(|text| {
            self.moves
                && text.len() <= TEXT_MAX
                && statements.bytes + text.len() <= BYTES_MAX
                && statements.moving < COUNT_MAX
        });
        statements.preparing = Some((id, text.map(Into::into)));
    }

    /// The reply to a statement's command is over.
    pub(super) fn statement_replied(&mut self, outcome: &Outcome, conn: &mut Conn, home: u64) {
        let act = std::mem::take(&mut self.statements.act);
        if let Some((id, text)) = self.statements.preparing.take() {
            let is_good = outcome.error.is_none();
            self.statements.last = Some(id).filter(|_| is_good);
            if let Some(number) = outcome.statement.filter(|_| is_good) {
                self.prepared(id, number, text, outcome, conn, home);
            }
        } else if let Some(statement) = self.statements.open.get_mut(&act.id) {
            statement.home = home;
            let is_execute = matches!(self.command, com::STMT_EXECUTE | STMT_BULK_EXECUTE);
            statement.has_run |= is_execute;
            let is_good = outcome.error.is_none();
            let is_unread = |number| matches!(number, errno::WRONG_ARGUMENTS | errno::MALFORMED);
            if is_execute && !self.is_mariadb && outcome.error.is_some_and(is_unread) {
                // MySQL has not taken the types either.
                statement.types = None;
            }
            match &mut statement.place {
                Place::Bound { is_bound, .. } if is_execute => *is_bound = is_good,
                Place::Moves if is_execute => {
                    conn.statements().bound(self.statements.running, is_good);
                }
                _ => {}
            }
            if is_good {
                self.unbind(act.id, conn);
            }
        }
        self.pin_statements();
    }

    #[allow(clippy::too_many_arguments)] // all of one reply
    fn prepared(
        &mut self,
        id: u32,
        number: u32,
        text: Option<Box<[u8]>>,
        outcome: &Outcome,
        conn: &mut Conn,
        home: u64,
    ) {
        let verdict = std::mem::take(&mut self.statements.text);
        let asks = verdict.asks;
        let moves = !self.pins.are_permanent()
            && !asks.diagnostics
            && !asks.row_count
            && !asks.found_rows
            // Not to be compared where they were left out.
            && outcome.definitions != 0
            && verdict.kind == Kind::Plain;
        let key = text.filter(|_| moves).map(|text| {
            let origin = Origin::new(&text, self.schema.as_deref(), &self.settings);
            Key::new(origin, outcome.definitions)
        });
        let statements = &mut self.statements;
        let place = if let Some(key) = key.as_ref() {
            conn.statements().add(key, number);
            statements.bytes += key.origin().text().len();
            statements.moving += 1;
            Place::Moves
        } else {
            statements.bound += 1;
            Place::Bound {
                id: number,
                until: Until::Closed,
                is_bound: false,
            }
        };
        let statement = Statement {
            place,
            key,
            parameters: outcome.parameters,
            verdict,
            types: None,
            has_run: false,
            home,
        };
        statements.open.insert(id, statement);
    }

    /// What bound a statement may be over.
    fn unbind(&mut self, id: u32, conn: &mut Conn) {
        let is_settled = !self.pins.are_permanent();
        let Some(statement) = self.statements.open.get_mut(&id) else {
            return;
        };
        if !matches!(self.command, com::STMT_RESET | com::STMT_EXECUTE) {
            return;
        }
        let (Place::Bound { id, until, .. }, Some(key)) = (&statement.place, &statement.key) else {
            return;
        };
        let is_same = key.origin().is_of(self.schema.as_deref(), &self.settings);
        if *until == Until::Executed && is_settled && is_same {
            let types = statement.types.as_deref();
            conn.statements().bring_back(key, *id, types);
            statement.place = Place::Moves;
            self.statements.bound -= 1;
            self.statements.moving += 1;
        }
    }
}

/// An error for the client. A command that has not come wholly cannot be skipped: then it is the last.
fn refuse(is_whole: bool, number: u16, text: &str) -> Step {
    let bytes = err(1, number, *b"HY000", text);
    if is_whole {
        Step::Say(bytes)
    } else {
        Step::End(Cause::ProtocolError, bytes)
    }
}

fn changed(is_whole: bool, has_reply: bool) -> Step {
    if !has_reply && is_whole {
        return Step::Say(Vec::new());
    }
    refuse(is_whole, errno::NEED_REPREPARE, NEED_REPREPARE)
}

fn without_types(is_whole: bool) -> Step {
    let text = "Incorrect arguments to mysqld_stmt_execute";
    refuse(is_whole, errno::WRONG_ARGUMENTS, text)
}

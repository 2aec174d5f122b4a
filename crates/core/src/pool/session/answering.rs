//! What a client is answered without a server: pings, ids, refusals, and what it is told when things go wrong.

use std::sync::Arc;

use portside_proto::command::com;
use portside_proto::err::errno;
use portside_proto::handshake::offer;
use portside_proto::single::err;

use super::super::Killed;
use super::{Conn, Context, Phase, Session, Step, User};
use crate::reason::{Cause, Pin};
use crate::sql::{Kind, OwnId, Pins};

impl Session {
    /// Commands that need no server, or not always. None: pass it on.
    pub(super) fn answer(
        &mut self,
        command: u8,
        argument: &[u8],
        conn: Option<&Conn>,
        context: &Context<'_>,
    ) -> Option<Step> {
        if let (Some(text), true) = (&self.bereft, command != com::QUIT) {
            return Some(Step::End(Cause::ServerEof, self.lost(text)));
        }
        Some(match command {
            com::QUIT => Step::End(Cause::Quit, Vec::new()),
            // One with a connection of its own asks that: whether it lives, so that its idle time begins anew, and
            // since the OK counts the warnings of the last statement.
            com::PING if conn.is_none() => {
                self.commands += 1;
                self.has_pinged = true;
                Step::Say(offer::ok(1, self.status))
            }
            com::PROCESS_KILL => {
                let id = argument
                    .first_chunk()
                    .map_or(0, |id| u32::from_le_bytes(*id));
                self.kill(id.into(), false)
            }
            com::RESET_CONNECTION => return self.reset(conn),
            com::CHANGE_USER => self.change_user(argument, context),
            com::BINLOG_DUMP | com::BINLOG_DUMP_GTID | com::REGISTER_SLAVE => {
                let text = "portside: replicas connect to the server itself, not through a pool";
                Step::Say(err(1, errno::NOT_SUPPORTED, *b"42000", text))
            }
            _ => return None,
        })
    }

    /// Statements that are not for a server.
    pub(super) fn answer_query(&mut self) -> Option<Step> {
        let verdict = self.verdict.as_ref()?;
        if verdict.asks.diagnostics && self.has_forgotten {
            let text =
                "portside: warnings and errors of the last statement are not known any more: its error was Portside's, \
                        or the connection was given back after a second (docs/pooling.md)";
            return Some(Step::Say(err(1, errno::NOT_SUPPORTED, *b"42000", text)));
        }
        if (verdict.asks.row_count && (self.last.is_none() || self.has_pinged))
            || (verdict.asks.found_rows && !self.knows_found_rows)
        {
            let text = "portside: FOUND_ROWS() and ROW_COUNT() are not known before the session's own first result, \
                        nor ROW_COUNT() after a ping (docs/pooling.md)";
            return Some(Step::Say(err(1, errno::NOT_SUPPORTED, *b"42000", text)));
        }
        if verdict.asks.stale {
            let text = "portside: @@last_gtid and Last_query_cost are not known in a pool: they are of the connection's last \
                        write or query, which may be another session's. Use a service in relay mode (docs/pooling.md)";
            return Some(Step::Say(err(1, errno::NOT_SUPPORTED, *b"42000", text)));
        }
        if verdict.own_id == OwnId::Unsure {
            let text = "portside: CONNECTION_ID() cannot be told here: give the whole expression a name (AS ...), or \
                        ask with SELECT CONNECTION_ID() first (docs/pooling.md)";
            return Some(Step::Say(err(1, errno::NOT_SUPPORTED, *b"42000", text)));
        }
        Some(match &verdict.kind {
            Kind::Kill { id, query } => {
                let id = id.unwrap_or(self.thread_id.into());
                // Its own query is this one: the server says so itself.
                if id == u64::from(self.thread_id) && *query {
                    return None;
                }
                self.kill(id, *query)
            }
            Kind::OtherId => {
                let text = "portside: of statements that name a connection only KILL [CONNECTION | QUERY] id \
                            works through a pool, alone and with an id that Portside gave";
                Step::Say(err(1, errno::NOT_SUPPORTED, *b"42000", text))
            }
            _ => return None,
        })
    }

    /// `KILL` of a session. Of its own: what the servers answer before they end the connection.
    fn kill(&self, id: u64, query: bool) -> Step {
        if id != u64::from(self.thread_id) {
            return Step::Kill { id, query };
        }
        let (number, text) = if self.is_mariadb {
            (errno::CONNECTION_KILLED, "Connection was killed")
        } else {
            (errno::INTERRUPTED, "Query execution was interrupted")
        };
        Step::End(Cause::Killed, err(1, number, *b"70100", text))
    }

    /// A statement was answered without the server, which still has the numbers of the one before.
    fn answered_here(&mut self) {
        self.last = None;
        self.knows_found_rows = false;
        self.pins.remove(Pin::RowCount);
        self.pins.remove(Pin::FoundRows);
        if !self.is_mariadb {
            self.pins.remove(Pin::Warnings);
            self.has_forgotten = false;
        }
    }

    /// `COM_RESET_CONNECTION`: here, unless the server would change the character set by it, or not all of the
    /// session's state.
    pub(super) fn reset(&mut self, conn: Option<&Conn>) -> Option<Step> {
        let Some(conn) = conn else {
            return Some(Step::Attach);
        };
        if !conn.keeps_charset() || self.pins.outlive_a_reset() || self.has_wide_schema() {
            return None;
        }
        self.commands += 1;
        self.forget();
        Some(Step::Say(offer::ok(1, self.status)))
    }

    /// Whether it keeps its connection only for what the next statement may ask.
    pub fn only_waits(&self) -> bool {
        self.phase == Phase::Command && self.pins.only_pass()
    }

    /// It has waited long enough: asked later, it says that it does not know.
    pub fn let_go(&mut self) {
        self.has_forgotten |= self.pins.has(Pin::Warnings);
        self.pins = Pins::NONE;
    }

    /// The answer to [`Step::Kill`].
    pub fn killed(&mut self, id: u64, what: Killed) -> Vec<u8> {
        self.answered_here();
        if what != Killed::Yes {
            // SHOW WARNINGS would have the server's last statement, not this error.
            self.pins.remove(Pin::Warnings);
            self.has_forgotten = true;
        }
        let (number, text) = match what {
            Killed::Yes => return offer::ok(1, self.status),
            Killed::Unknown => (
                errno::NO_SUCH_THREAD,
                format!("portside: unknown thread id: {id} (it takes what SELECT CONNECTION_ID() says here: in portside show sessions CONNECTION_ID, not ID)"),
            ),
            Killed::NotOwner => (
                errno::NOT_OWNER,
                format!(
                    "portside: you are not owner of thread {id}: through a pool an account ends its own \
                     sessions only. On the proxy: portside kill"
                ),
            ),
        };
        err(1, number, *b"HY000", &text)
    }

    /// The account as a new configuration has it: new connections are logged in with it.
    pub fn adopt(&mut self, user: &Arc<User>) {
        match self.pending.as_mut() {
            Some(pending) => pending.user = Arc::clone(user),
            None => self.user = Some(Arc::clone(user)),
        }
    }

    /// The connection broke while nothing ran on it. Without state there the session goes on with another; else
    /// its next command is refused: it would run as if nothing had happened.
    pub fn bereave(&mut self, text: &str) {
        if self.pins.is_empty() || self.only_waits() {
            return self.let_go();
        }
        self.bereft = Some(text.into());
    }

    /// What a client is told when its connection to the server broke in the middle of a command.
    pub fn lost(&self, text: &str) -> Vec<u8> {
        let what = if self.pins.has(Pin::Transaction) {
            "; the transaction is lost"
        } else if self.pins.is_empty() {
            ""
        } else {
            "; the session's state is lost"
        };
        err(
            1,
            errno::SHUTDOWN,
            *b"08S01",
            &format!("portside: {text}{what}"),
        )
    }

    /// No connection could be had, or a step to prepare it failed, perhaps with the command behind it: what the client
    /// is told. True: the session is over.
    pub fn not_attached(&mut self, number: u16, state: [u8; 5], text: &str) -> (Vec<u8>, bool) {
        self.verdict = None;
        self.statements.start();
        if self.phase == Phase::Reply {
            self.phase = Phase::Command;
        }
        if !self.is_pinned() {
            // No server has this error to show.
            self.answered_here();
            self.has_forgotten = true;
        }
        match self.pending.as_ref() {
            Some(pending) => (err(pending.sequence, number, state, text), true),
            None => (err(1, number, state, text), false),
        }
    }

    pub(super) fn malformed(&self, what: &str, sequence: u8) -> Step {
        let text = format!("portside: malformed packet: {what}");
        let number = if self.is_logged_in() {
            errno::MALFORMED
        } else {
            errno::BAD_HANDSHAKE
        };
        let cause = Cause::ProtocolError;
        Step::End(cause, err(sequence, number, *b"08S01", &text))
    }
}

pub(super) fn collation_too_high(number: u16) -> Vec<u8> {
    let text = format!(
        "portside: collation {number} in a change of user: a server connection's login has one byte \
         for it; choose one up to 255, then SET NAMES"
    );
    err(1, errno::NOT_SUPPORTED, *b"42000", &text)
}

pub(super) fn malformed_attributes() -> Vec<u8> {
    let text = "portside: malformed packet: query attributes";
    err(1, errno::MALFORMED, *b"HY000", text)
}

/// Commands that are not for a pool; those that clients still send are told what to do instead.
pub(super) fn unknown(command: u8) -> Vec<u8> {
    let instead = match command {
        com::REFRESH => "use FLUSH",
        com::PROCESS_INFO => "use SHOW PROCESSLIST",
        com::SHUTDOWN | com::DEBUG | com::CLONE => "connect to the server itself",
        _ => "it is not known in pool mode",
    };
    let text = format!("portside: command {command} does not pass a pool: {instead}");
    err(1, errno::UNKNOWN_COMMAND, *b"08S01", &text)
}

//! What a client is answered without a server: pings, ids, refusals, and what it is told when things go wrong.

use portside_proto::command::com;
use portside_proto::err::errno;
use portside_proto::handshake::offer;
use portside_proto::single::err;

use super::{Conn, Context, Session, Step};
use crate::reason::{Cause, Pin};
use crate::sql::Kind;

impl Session {
    /// Commands that need no server, or not always. None: pass it on.
    pub(super) fn answer(
        &mut self,
        command: u8,
        argument: &[u8],
        conn: Option<&Conn>,
        context: &Context<'_>,
    ) -> Option<Step> {
        Some(match command {
            com::QUIT => Step::End(Cause::Quit, Vec::new()),
            com::PING => {
                self.commands += 1;
                Step::Say(offer::ok(1, self.status))
            }
            com::PROCESS_KILL => {
                let id = argument
                    .first_chunk()
                    .map_or(0, |id| u32::from_le_bytes(*id));
                Step::Kill {
                    id: id.into(),
                    query: false,
                }
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
    pub(super) fn answer_query(&self) -> Option<Step> {
        let verdict = self.verdict.as_ref()?;
        if verdict.asks.diagnostics && self.has_forgotten {
            let text =
                "portside: warnings and errors of the last statement are not known any more: the \
                        connection was given back after a second (docs/pooling.md)";
            return Some(Step::Say(err(1, errno::NOT_SUPPORTED, *b"42000", text)));
        }
        if (verdict.asks.row_count && self.last.is_none())
            || (verdict.asks.found_rows && !self.knows_found_rows)
        {
            let text = "portside: FOUND_ROWS() and ROW_COUNT() are not known before the session's                         own first result (docs/pooling.md)";
            return Some(Step::Say(err(1, errno::NOT_SUPPORTED, *b"42000", text)));
        }
        Some(match &verdict.kind {
            Kind::ConnectionId(name) => {
                let id = self.thread_id.into();
                Step::Say(offer::one_number(
                    name,
                    id,
                    self.status,
                    self.class.capabilities,
                ))
            }
            Kind::Kill { id, query } => Step::Kill {
                id: *id,
                query: *query,
            },
            Kind::KillOther => {
                let text =
                    "portside: only KILL [CONNECTION | QUERY] id works through a pool, with an id \
                            that Portside gave";
                Step::Say(err(1, errno::NOT_SUPPORTED, *b"42000", text))
            }
            _ => return None,
        })
    }

    /// `COM_RESET_CONNECTION`: here, unless the server would change the character set by it.
    pub(super) fn reset(&mut self, conn: Option<&Conn>) -> Option<Step> {
        let Some(conn) = conn else {
            return Some(Step::Attach);
        };
        if !conn.keeps_charset() {
            return None;
        }
        self.commands += 1;
        self.forget();
        Some(Step::Say(offer::ok(1, self.status)))
    }

    /// The answer to [`Step::Kill`].
    pub fn killed(&self, id: u64, found: bool) -> Vec<u8> {
        if found {
            return offer::ok(1, self.status);
        }
        let text = format!("portside: unknown thread id: {id} (ids are those that Portside gave)");
        err(1, errno::NO_SUCH_THREAD, *b"HY000", &text)
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

    /// No connection could be had, or a step to prepare it failed: what the client is told. True: the session
    /// is over.
    pub fn not_attached(&mut self, number: u16, state: [u8; 5], text: &str) -> (Vec<u8>, bool) {
        self.verdict = None;
        self.statements.start();
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

pub(super) fn malformed_attributes() -> Vec<u8> {
    let text = "portside: malformed packet: query attributes";
    err(1, errno::MALFORMED, *b"HY000", text)
}

pub(super) fn unknown(command: u8) -> Vec<u8> {
    let text = format!("portside: command {command} is not known in pool mode");
    err(1, errno::UNKNOWN_COMMAND, *b"08S01", &text)
}

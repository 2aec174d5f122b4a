//! What a reply says about the session: pins, settings, schema, what the next statement may ask.

use portside_proto::command::status;
use portside_proto::reply::{Outcome, STMT_BULK_EXECUTE};

use super::{Conn, Phase, Session};
use crate::reason::Pin;
use crate::sql::{Kind, Verdict};

impl Session {
    /// The reply is over. `id` names the connection.
    pub fn replied(&mut self, outcome: &Outcome, conn: &mut Conn, id: u64) {
        let verdict = self.verdict.take().unwrap_or_default();
        let set = self.set.take();
        self.phase = Phase::Command;
        let good = outcome.error.is_none();
        if self.clears_diagnostics(&verdict) && good && outcome.warnings == 0 {
            conn.has_no_diagnostics();
        }
        match (&verdict.kind, set) {
            (Kind::Use(name), _) if good => {
                conn.set_schema(name);
                self.schema = Some(name.clone());
            }
            (Kind::DropSchema(name), _) if good && self.schema.as_ref() == Some(name) => {
                self.schema = None;
            }
            (Kind::Set, Some(statement)) => self.was_set(&statement, outcome, conn),
            _ => {}
        }
        let halfway = verdict.may_fail_halfway || self.command == STMT_BULK_EXECUTE;
        let halfway = halfway && !good;
        if outcome.insert_id > 0 || verdict.asks.insert_id || halfway {
            self.pins.add(Pin::InsertId);
        }
        if outcome.warnings > 0 || !good {
            self.pins.add(Pin::Warnings);
            // Those before it are still a part of what SHOW WARNINGS would show.
            self.has_forgotten &= verdict.adds_diagnostics;
        }
        if outcome.affected > 0 || (verdict.has_table && !outcome.has_rows) {
            self.pins.add(Pin::RowCount);
        }
        self.has_pinged = false;
        // Opening a cursor leaves FOUND_ROWS() as it was.
        let has_cursor = outcome.status.unwrap_or(0) & status::CURSOR_EXISTS != 0;
        self.knows_found_rows |= good && outcome.has_rows && !has_cursor;
        self.follow(conn.status());
        if !conn.is_autocommit() && self.status & status::AUTOCOMMIT != 0 {
            self.pins.add(Pin::Setting);
        }
        self.statement_replied(outcome, conn, id);
        if !good && matches!(verdict.kind, Kind::Use(_)) && !self.is_at_home(conn) {
            // The session's schema is not this connection's (`Want::any_schema`): whatever else was seen, it goes.
            self.let_go();
        }
        self.last = Some((id, conn.uses()));
    }

    /// A SET of plain values is over: it follows the session, or binds it.
    fn was_set(&mut self, statement: &[u8], outcome: &Outcome, conn: &mut Conn) {
        // Replayed, it would warn again.
        let quiet = outcome.warnings == 0 || !self.is_mariadb;
        let good = outcome.error.is_none();
        if good && quiet && !self.has_wide_schema() && self.settings.add(statement) {
            return conn.add_setting(statement);
        }
        // Of several assignments some may have taken effect.
        self.pins.add(Pin::Setting);
        if !conn.has_settings(&self.settings) {
            // Another session's SET is still in force there (`Want::set`).
            self.bereft = Some("a SET failed that had been right before".into());
        }
    }

    /// Whether a statement takes away the warnings of those before it. With MariaDB one that uses no table does
    /// not (source: `mysql_execute_command`, sql/sql_parse.cc).
    pub(super) fn clears_diagnostics(&self, verdict: &Verdict) -> bool {
        let keeps = verdict.asks.diagnostics || verdict.adds_diagnostics;
        !keeps && (verdict.has_table || !self.is_mariadb)
    }

    fn is_at_home(&self, conn: &Conn) -> bool {
        self.schema.as_deref() == conn.schema()
    }

    /// Its schema's name depends on the character set in which it was chosen.
    pub(super) fn has_wide_schema(&self) -> bool {
        self.schema.as_ref().is_some_and(|name| !name.is_ascii())
    }

    /// Pins that the server's status flags tell of.
    fn follow(&mut self, flags: u16) {
        self.status = flags & status::LASTING;
        for (pin, holds) in [
            (Pin::Transaction, flags & status::IN_TRANS != 0),
            (Pin::Autocommit, flags & status::AUTOCOMMIT == 0),
        ] {
            if holds {
                self.pins.add(pin);
            } else {
                self.pins.remove(pin);
            }
        }
    }
}

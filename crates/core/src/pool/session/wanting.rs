//! What the command at hand needs of a connection, and whether it may go there unasked.

use super::{Conn, Phase, Session, Want};
use crate::reason::Pin;
use crate::sql::Kind;

impl Session {
    /// What the connection for the command at hand must be like.
    pub fn want(&self) -> Want<'_> {
        let asks = self.verdict.as_ref().map(|v| v.asks).unwrap_or_default();
        let adds = self.verdict.as_ref().is_some_and(|v| v.adds_diagnostics);
        // Of warnings MySQL tells none of a stranger.
        let hides = self.runs_hidden();
        let pending = self.pending.as_ref();
        // Statements that come along are prepared under what was in force before the command.
        let is_bare = self.statements.open.is_empty();
        let verdict = self.verdict.as_ref().filter(|_| is_bare);
        Want {
            schema: match pending {
                Some(pending) => pending.schema.as_deref(),
                None => self.schema.as_deref(),
            },
            settings: Some(&self.settings),
            set: verdict
                .filter(|v| v.kind == Kind::Set)
                .and(self.set.as_deref()),
            any_schema: verdict.is_some_and(|v| matches!(v.kind, Kind::Use(_))),
            no_diagnostics: (asks.diagnostics || adds || (self.is_mariadb && hides))
                && !self.pins.has(Pin::Warnings),
            same: self.last.filter(|_| asks.row_count || asks.found_rows),
            rather: self.last.filter(|_| hides),
            needs: self.statements.needs(),
            home: self.statements.home(),
            only_reads: pending.is_some() || self.only_reads(),
        }
    }

    /// Whether the command at hand may be sent behind the steps that prepare this connection, before it is known
    /// whether they succeed: a server runs it all the same, so only a read may.
    pub fn may_ride(&self, conn: &Conn) -> bool {
        let is_read = self.verdict.as_ref().is_some_and(|verdict| verdict.is_read);
        is_read && self.phase == Phase::Command && conn.is_readable() && !self.want().is_more()
    }

    /// The command at hand is answered with one result, and binds the session to no more than its warnings.
    fn only_reads(&self) -> bool {
        let verdict = self.verdict.as_ref();
        verdict.is_some_and(|verdict| verdict.is_read && !verdict.asks.insert_id)
    }

    /// Whether the connection that it keeps only for what a statement may ask is no more for the command at hand: its
    /// reply cannot be translated.
    pub fn outgrows(&self, conn: &Conn) -> bool {
        conn.translates() && !self.pins.leave_a_trace() && !self.only_reads()
    }

    /// The command at hand runs statements that cannot be read: what do they ask for?
    fn runs_hidden(&self) -> bool {
        let hiding = [
            Pin::Call,
            Pin::Function,
            Pin::TextPrepare,
            Pin::Statement,
            Pin::Long,
        ];
        let pins = self.verdict.as_ref().map(|verdict| verdict.pins);
        pins.is_some_and(|pins| hiding.iter().any(|pin| pins.has(*pin)))
    }
}

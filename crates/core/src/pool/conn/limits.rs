//! What a server takes at most, asked for by `portside check --connect`.

use portside_proto::handshake::offer::put_query;
use portside_proto::single::OneRow;

use super::Conn;

const QUESTION: &[u8] = b"SELECT @@max_connections, @@max_prepared_stmt_count";

/// Limits of a server for all its clients together. None: it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: Option<u64>,
    /// Prepared statements at a time.
    pub prepared: Option<u64>,
}

/// Reads the answer to [`Conn::ask_limits`].
#[derive(Debug)]
pub struct AskedLimits {
    row: OneRow,
    capabilities: u64,
}

impl Conn {
    /// The question, to a connection that is ready and serves no session, and what reads the answer to it.
    pub fn ask_limits(&self) -> (Vec<u8>, AskedLimits) {
        debug_assert!(self.is_ready());
        let mut question = Vec::new();
        put_query(&mut question, QUESTION, self.capabilities);
        let asked = AskedLimits {
            row: OneRow::default(),
            capabilities: self.capabilities,
        };
        (question, asked)
    }
}

impl AskedLimits {
    /// None: more bytes are to come.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Option<Limits> {
        let values = match self.row.feed(bytes, self.capabilities) {
            Ok(None) => return None,
            Ok(Some(Ok(values))) => values,
            // A relative of MySQL that does not know them.
            Ok(Some(Err(_))) | Err(_) => Vec::new(),
        };
        let number = |at: usize| values.get(at)?.as_ref()?.parse().ok();
        Some(Limits {
            connections: number(0),
            prepared: number(1),
        })
    }
}

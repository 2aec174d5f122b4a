//! Back to the state of its login, before somebody else's session uses the connection.

use portside_proto::command::{com, status};
use portside_proto::handshake::offer::{put_command, put_query};
use portside_proto::handshake::ClientLogin;

use super::{Conn, Did, Left, Phase};

/// What brings it back to the state of its login.
#[derive(Debug)]
pub(super) enum Cleaning {
    /// COM_RESET_CONNECTION.
    Reset,
    /// The login once more, on servers that have no reset.
    Login(Box<ClientLogin>),
    /// Nothing: init_connect has run, and neither of these runs it again.
    Impossible,
}

impl Conn {
    /// Removes the traces of a session that is over. Write the bytes and feed until `Ready`; without bytes it must be
    /// closed. `seed`: as in [`Self::new`].
    pub fn clean(&mut self, seed: [u8; 20]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match std::mem::replace(&mut self.cleaning, Cleaning::Impossible) {
            Cleaning::Login(mut login) => {
                bytes = login.again(seed).unwrap_or_default();
                self.phase = Phase::Login(login);
                self.uses += 1;
                self.schema = None;
                self.statements.clear();
                self.is_like_new();
            }
            cleaning => {
                self.cleaning = cleaning;
                self.put_reset(&mut bytes);
                self.start_steps();
            }
        }
        bytes
    }

    /// The server has forgotten its session.
    pub(super) fn is_like_new(&mut self) {
        self.left = Left::Nothing;
        self.diagnostics = false;
        self.settings.clear();
        // An ERR tells of no status: the next session's first reply must not show the last one's.
        self.status = status::AUTOCOMMIT * u16::from(self.is_autocommit);
    }

    pub(super) fn put_reset(&mut self, bytes: &mut Vec<u8>) {
        put_command(bytes, com::RESET_CONNECTION, &[]);
        put_query(bytes, &self.restore, self.capabilities);
        self.steps.extend([Did::Reset, Did::Restore]);
        self.statements.clear();
        if self.restore_warns {
            self.put_clear(bytes);
        }
    }
}

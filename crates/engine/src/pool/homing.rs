//! Sessions whose prepared statement is on a certain connection already: they rather go there, or have to.

use portside_proto::err::errno;

use super::client::Next;
use super::{Place, Pooled, State};
use crate::session::Session;
use crate::worker::Worker;

/// What a session is told whose statement was on a connection that is gone. The errno tells its client to prepare it
/// again.
const IS_GONE: &str =
    "Prepared statement needs to be re-prepared (portside: its connection is gone, and the types of its parameters \
    are not those of earlier executions; docs/pooling.md)";

impl Worker {
    /// Takes the connection where the statement at hand is already. None: any other will do.
    pub(super) fn go_home(
        &mut self,
        index: usize,
        session: &mut Session,
        pooled: &mut Pooled,
        input: &[u8],
    ) -> Option<Next> {
        let want = pooled.front.as_ref()?.want();
        let home = want.home?;
        let at = (0..self.pool.shelf.len()).find(|at| {
            let back = self.pool.idle_at(*at);
            back.is_some_and(|back| back.id == home.id && !back.conn.is_unfit(&want))
        });
        let place = at.map(|at| self.pool.shelf.remove(at));
        let back = place.and_then(|place| self.take_back(place));
        if let Some(back) = back.and_then(|back| self.alive(back)) {
            return Some(self.lend(index, session, pooled, back));
        }
        if !home.is_needed {
            return None;
        }
        if self.is_in_use(home.id) {
            return Some(self.wait(index, session, pooled, input));
        }
        let error = (errno::NEED_REPREPARE, *b"HY000", IS_GONE);
        Some(self.tell(index, session, pooled, input, error))
    }

    fn is_in_use(&self, id: u64) -> bool {
        self.pool.backs.iter().any(|(_, place)| match place {
            Place::Here(back) => back.id == id && back.state != State::Idle,
            Place::Lent(owner) => {
                let (index, ..) = crate::worker::unpack(*owner);
                let session = self.sessions.get(index).and_then(Option::as_ref);
                let pooled = session.and_then(|session| session.pooled.as_ref());
                pooled
                    .and_then(|pooled| pooled.back.as_ref())
                    .is_some_and(|back| back.id == id)
            }
            Place::Taken => false,
        })
    }
}

//! KILL by the ids that Portside gave, and queries whose client is gone.

use std::sync::PoisonError;

use super::Back;
use crate::shared::Message;
use crate::worker::{token, Worker};
use portside_core::reason::Cause;

impl Worker {
    /// KILL said by a client: whether there is a session with this id.
    pub(super) fn kill(&mut self, id: u64, query: bool) -> bool {
        let Ok(id) = u32::try_from(id) else {
            return false;
        };
        let workers = self
            .shared
            .pool
            .workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(worker) = workers.get(&id).copied() else {
            return false;
        };
        drop(workers);
        // Also for our own: the session may be the one that is being driven.
        self.shared.inboxes[worker]
            .send(Message::Kill { id, query })
            .is_ok()
    }

    /// KILL of a session that is this worker's.
    pub(crate) fn kill_pooled(&mut self, id: u32, query: bool) {
        let found = self.sessions.iter().find_map(|(index, slot)| {
            let session = slot.as_ref()?;
            let front = session.pooled.as_ref()?.front.as_ref()?;
            (front.thread_id() == id).then(|| token(index, session.generation, false))
        });
        let Some(found) = found else {
            return;
        };
        if !query {
            let (index, ..) = crate::worker::unpack(found);
            if let Some(Some(session)) = self.sessions.get_mut(index) {
                session.relay.cut(Cause::Killed, false);
            }
            self.guarded(found, None);
        }
    }

    /// A connection whose client is gone in the middle of a reply: QUIT goes behind the query, and the reply is
    /// drained within the limits of [close].
    pub(super) fn abandon(&mut self, back: Box<Back>) {
        self.quit_back(back);
    }
}

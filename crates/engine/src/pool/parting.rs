//! How a server connection of the pool ends: QUIT, the server's FIN, then as the close rules say; and what it gives back.

use portside_core::breaker::Event as Breaker;
use portside_core::ports::Closed;
use portside_core::reason::ServerClose;
use portside_core::relay::ToServer;
use portside_proto::quit;

use super::{Back, State};
use crate::ports;
use crate::socket::Read;
use crate::sys;
use crate::worker::{Worker, TURN_BYTES};

impl Worker {
    /// Says QUIT and waits for the server's FIN, as the close rules want it.
    pub(super) fn quit_back(&mut self, mut back: Box<Back>) {
        let is_busy = back.conn.is_busy();
        back.owes_reply = is_busy;
        back.state = State::Quitting(self.now);
        back.armed = None;
        self.pool.shelf.retain(|index| *index != back.index);
        let stuck = !back.socket.tail.is_empty();
        if stuck || back.socket.push(quit::bytes(false)).is_err() {
            // Half a command is out: nothing can be said any more.
            let how = if stuck {
                ServerClose::Cut
            } else {
                ServerClose::Lost
            };
            return self.close_back(back, how);
        }
        let how = match back.rules.to_server {
            _ if is_busy => None,
            ToServer::EofReset | ToServer::Eof => None,
            ToServer::Linger2 => Some(ServerClose::Linger2),
            ToServer::ResetNow => Some(ServerClose::ResetNow),
            ToServer::Fin => Some(ServerClose::Fin),
        };
        if let Some(how) = how {
            return self.close_back(back, how);
        }
        back.socket.readable = true;
        self.await_fin(back, self.now);
    }

    pub(super) fn await_fin(&mut self, mut back: Box<Back>, since: u64) {
        let mut turn = 0;
        loop {
            match back.socket.read(&mut self.scratch) {
                Read::Bytes { count, .. } => {
                    back.drained += count as u64;
                    turn += count;
                }
                Read::Eof => {
                    let how = match back.rules.to_server {
                        ToServer::Eof => ServerClose::EofFin,
                        _ => ServerClose::EofReset,
                    };
                    return self.close_back(back, how);
                }
                Read::Lost => return self.close_back(back, ServerClose::Lost),
                Read::Nothing => break,
            }
            if back.owes_reply && back.drained > back.rules.abandon_bytes {
                return self.close_back(back, ServerClose::Abandoned);
            }
            if turn >= TURN_BYTES {
                self.run_again.push(back.token());
                break;
            }
        }
        let limit = since
            + if back.owes_reply {
                back.rules.abandon_ms
            } else {
                back.rules.deadline_ms
            };
        if self.now < limit {
            self.arm_back(&mut back, limit);
            return self.put_back_down(back);
        }
        let how = match (back.owes_reply, sys::unacknowledged(back.socket.fd())) {
            (true, _) => ServerClose::Abandoned,
            (false, 0) => ServerClose::LateReset,
            (false, _) => ServerClose::LateLinger2,
        };
        self.close_back(back, how);
    }

    /// The server closed it, or it died.
    pub(super) fn drop_lost(&mut self, back: Box<Back>) {
        let how = if back.socket.failed {
            ServerClose::Lost
        } else {
            ServerClose::EofReset
        };
        self.close_back(back, how);
    }

    /// The end of a connection: socket, tuple, places.
    pub(super) fn close_back(&mut self, mut back: Box<Back>, how: ServerClose) {
        back.busy = None;
        if let Some(victim) = back.errand.take() {
            self.errand_over(victim);
        }
        if let (true, Some(server)) = (back.is_probe, back.server()) {
            server.state.breaker.on(Breaker::Withdrawn, self.now);
        }
        self.pool.shelf.retain(|index| *index != back.index);
        let timestamps = self.end_server_socket(&mut back.socket, back.held.as_ref(), how);
        self.shared.outcomes.count_server(how);
        let closed = if back.reset_was_lost {
            Closed::OpenAtServer
        } else if back.state == State::Connecting {
            Closed::NotConnected
        } else {
            ports::after(how, timestamps)
        };
        let held = back.held.take();
        let (index, slot) = (back.index, back.slot.take());
        self.pool.backs.try_remove(index);
        // The socket is closed before its tuple and its places are anybody else's.
        drop(back);
        if let Some(held) = held {
            held.give_back(closed, self.now);
        }
        drop(slot);
        self.shared.slot_freed(&self.plan);
        self.pool.has_news |= !self.pool.waiters.is_empty();
    }
}

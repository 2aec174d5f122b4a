//! Closes the two connections as the relay's state machine says. The kinds are explained in `portside_core::reason`.

use portside_core::reason::{ClientClose, ServerClose};

use crate::ports::{self, Held};
use crate::session::Session;
use crate::socket::{Read, Socket};
use crate::sys;
use crate::worker::Worker;

/// Reads of input that leads nowhere, in one go: more than a client has on its way.
const DRAIN_READS: usize = 4;

impl Worker {
    pub(crate) fn close_server(&mut self, session: &mut Session, how: ServerClose) {
        let mut peer_timestamps = false;
        if let Some(mut server) = session.server_socket.take() {
            let held = session.assigned.as_ref().and_then(|a| a.held.as_ref());
            peer_timestamps = self.end_server_socket(&mut server, held, how);
        }
        session.give_back_server(ports::after(how, peer_timestamps), self.now);
        self.shared.slot_freed(&self.plan);
    }

    /// Sets a server's socket up for the close that follows; says whether the peer uses timestamps, where that matters.
    pub(crate) fn end_server_socket(
        &mut self,
        server: &mut Socket,
        held: Option<&Held>,
        how: ServerClose,
    ) -> bool {
        if let Some(held) = held {
            held.closing(how, || sys::has_timestamps(server.fd()));
        }
        match how {
            ServerClose::EofReset
            | ServerClose::ResetNow
            | ServerClose::LateReset
            | ServerClose::Abandoned
            | ServerClose::Cut
            | ServerClose::Lost => {
                let _ = sys::linger_reset(server.fd());
            }
            ServerClose::Linger2 | ServerClose::LateLinger2 => {
                let peer_timestamps = sys::has_timestamps(server.fd());
                self.discard_input(server);
                let _ = sys::linger2_none(server.fd());
                return peer_timestamps;
            }
            ServerClose::Fin | ServerClose::EofFin => {
                let peer_timestamps = sys::has_timestamps(server.fd());
                self.discard_input(server);
                return peer_timestamps;
            }
            ServerClose::None => {}
        }
        false
    }

    pub(crate) fn close_client(&mut self, session: &mut Session, how: ClientClose) {
        let Some(mut client) = session.client_socket.take() else {
            return;
        };
        match how {
            ClientClose::FinReset => {
                let _ = sys::linger_reset(client.fd());
            }
            ClientClose::Linger2 => {
                self.discard_input(&mut client);
                let _ = sys::linger2_none(client.fd());
            }
            ClientClose::Fin => self.discard_input(&mut client),
            ClientClose::Lost => {}
        }
    }

    /// The kernel turns close() into an RST while input is unread, and that would destroy what we sent.
    fn discard_input(&mut self, socket: &mut Socket) {
        socket.readable = true;
        for _ in 0..DRAIN_READS {
            if !matches!(socket.read(&mut self.scratch), Read::Bytes { .. }) || !socket.readable {
                return;
            }
        }
    }

    /// Nothing goes to a server any more: read what the client still sends, until its FIN.
    pub(crate) fn drain_client(&mut self, session: &mut Session) {
        let Some(client) = session.client_socket.as_mut() else {
            return;
        };
        for _ in 0..DRAIN_READS {
            match client.read(&mut self.scratch) {
                Read::Bytes { drained: true, .. } if client.fin_queued => {
                    return session.relay.client_eof()
                }
                Read::Bytes { .. } => {}
                Read::Eof => return session.relay.client_eof(),
                Read::Lost => return session.relay.client_lost(),
                Read::Nothing => return,
            }
        }
    }
}

//! Listeners in a worker's hands, and the way of a client from accept() to its first attempt.

use std::os::fd::{OwnedFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use crate::error::said;
use crate::events::Kind;
use crate::listen::Listener;
use crate::plan::Service;
use crate::session::{Client, Session};
use crate::shared::Message;
use crate::socket::Socket;
use crate::sys;
use crate::worker::{token, Worker, FIRST_LISTENER};

/// Connections accepted from one listener before the others get their turn.
const ACCEPT_BATCH: usize = 64;
/// No accept queue is longer: the configuration's limit of `backlog`.
const LONGEST_QUEUE: usize = 65_535;
/// How long accepting pauses when descriptors ran out.
const PAUSE_MS: u64 = 100;

/// A listener in this worker's hands.
pub(crate) struct Lent {
    pub listener: Arc<Listener>,
    pub service: Arc<Service>,
    pub fd: RawFd,
    pub retire_at: Option<u64>,
}

impl Worker {
    pub(crate) fn borrow(&mut self, listener: &Arc<Listener>, service: &Arc<Service>) {
        if let Some((_, lent)) = self
            .lent
            .iter_mut()
            .find(|(_, l)| Arc::ptr_eq(&l.listener, listener))
        {
            lent.service = Arc::clone(service);
            if lent.retire_at.take().is_some() {
                // The control side has done so too, but perhaps before our steering away.
                lent.listener.take_back();
            }
            return;
        }
        let Some(fd) = listener.socket(self.id) else {
            return;
        };
        let entry = self.lent.vacant_entry();
        let token = Token(entry.key() + FIRST_LISTENER);
        if let Err(e) = self
            .poll
            .registry()
            .register(&mut SourceFd(&fd), token, Interest::READABLE)
        {
            self.shared.events.push(
                Kind::AcceptPaused,
                &service.name,
                "",
                format!(
                    "cannot watch the listener {}: {}",
                    listener.address,
                    said(&e)
                ),
            );
            return;
        }
        entry.insert(Lent {
            listener: Arc::clone(listener),
            service: Arc::clone(service),
            fd,
            retire_at: None,
        });
    }

    pub(crate) fn give_back(&mut self, key: usize) {
        if let Some(lent) = self.lent.try_remove(key) {
            // The descriptor may live on in another worker's hands, so it must leave this poller now.
            let _ = self.poll.registry().deregister(&mut SourceFd(&lent.fd));
        }
    }

    pub(crate) fn accept_where_paused(&mut self) {
        if self.paused_until.is_some_and(|at| at <= self.now) {
            self.paused_until = None;
            self.accept_again = true;
        }
        if std::mem::take(&mut self.accept_again) && self.paused_until.is_none() {
            let keys: Vec<usize> = self.lent.iter().map(|(key, _)| key).collect();
            for key in keys {
                self.accept_from(key);
            }
        }
    }

    pub(crate) fn accept_from(&mut self, key: usize) {
        for _ in 0..ACCEPT_BATCH {
            let Some(lent) = self.lent.get(key) else {
                return;
            };
            let (fd, service) = (lent.fd, Arc::clone(&lent.service));
            let is_unix = lent.listener.is_unix;
            if !self.accept_one(fd, service, is_unix) {
                return;
            }
        }
        self.accept_again = true;
    }

    /// Accepts one client; false when nobody waits or accepting pauses.
    fn accept_one(&mut self, listener: RawFd, service: Arc<Service>, is_unix: bool) -> bool {
        if self.paused_until.is_some() {
            return false;
        }
        if self.shared.sessions.load(Relaxed) >= self.plan.max_sessions {
            self.pause("every session that its descriptors allow is in use");
            return false;
        }
        let accepted = sys::accept(listener);
        if accepted.is_ok() && self.is_paused {
            self.resumed();
        }
        match accepted {
            Ok((fd, _)) if is_unix => self.hand_out(service, fd),
            Ok((fd, addr)) => {
                let client = addr
                    .as_socket()
                    .map_or(Client::Unix, |a| Client::Tcp(sys::canonical(a)));
                self.begin(service, Socket::new(fd, true), client);
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    self.pause(&said(&e));
                    return false;
                }
                Some(libc::EAGAIN) => return false,
                // ECONNABORTED and network errors of one client: the next one may be fine (accept(2)).
                _ => {}
            },
        }
        true
    }

    /// The end of a retirement: whoever still waits is accepted, then the listener is given back.
    pub(crate) fn retire(&mut self, key: usize) {
        let Some(lent) = self.lent.get(key) else {
            return;
        };
        let (listener, service) = (Arc::clone(&lent.listener), Arc::clone(&lent.service));
        // Every worker's queue: one that slept through the plan with this listener never accepts from
        // its own, and the close would reset the clients in it.
        for fd in listener.queues() {
            for _ in 0..LONGEST_QUEUE {
                if !self.accept_one(fd, Arc::clone(&service), listener.is_unix) {
                    break;
                }
            }
        }
        match (self.paused_until, self.lent.get_mut(key)) {
            (Some(until), Some(lent)) => lent.retire_at = Some(until),
            _ => self.give_back(key),
        }
    }

    fn pause(&mut self, why: &str) {
        self.paused_until = Some(self.now + PAUSE_MS);
        if std::mem::replace(&mut self.is_paused, true) {
            return;
        }
        self.shared.events.push(
            Kind::AcceptPaused,
            "",
            "",
            format!("worker {}: accepting pauses: {why}; clients wait in the kernel's queue. Raise LimitNOFILE or lower max_connections", self.id),
        );
    }

    fn resumed(&mut self) {
        self.is_paused = false;
        let text = format!("worker {}: accepting goes on", self.id);
        self.shared.events.push(Kind::AcceptResumed, "", "", text);
    }

    /// Unix sockets: one worker accepts, all serve.
    fn hand_out(&mut self, service: Arc<Service>, socket: OwnedFd) {
        let count = self.shared.inboxes.len();
        self.handout = (self.handout + 1) % count;
        let mut mine = socket;
        if self.handout != self.id {
            let message = Message::Adopt {
                service: service.name.clone(),
                socket: mine,
            };
            match self.shared.inboxes[self.handout].send(message) {
                Err(Message::Adopt { socket, .. }) => mine = socket,
                _ => return,
            }
        }
        self.begin(service, Socket::new(mine, false), Client::Unix);
    }

    /// A new session, from accept to its first attempt.
    pub(crate) fn begin(&mut self, service: Arc<Service>, socket: Socket, client: Client) {
        self.serial += 1;
        self.generations = (self.generations + 1) & 0x3fff_ffff;
        let generation = self.generations.max(1);
        let id = ((self.id as u64) << 48) | self.serial;
        let entry = self.sessions.vacant_entry();
        let index = entry.key();
        let fd = socket.fd();
        if self
            .poll
            .registry()
            .register(
                &mut SourceFd(&fd),
                token(index, generation, false),
                Interest::READABLE,
            )
            .is_err()
        {
            return;
        }
        entry.insert(None);
        service.state.accepted.fetch_add(1, Relaxed);
        self.shared.sessions.fetch_add(1, Relaxed);
        let mine = &self.shared.workers[self.id];
        mine.sessions.fetch_add(1, Relaxed);
        mine.accepted.fetch_add(1, Relaxed);
        let mut session = Box::new(Session::new(
            id, generation, service, socket, client, self.now,
        ));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.admit(index, &mut session);
            self.drive(index, session);
        }));
        if let Err(panic) = outcome {
            self.session_panicked(index, &panic);
        }
    }
}

//! What a relayed session does next: the close order, the limits, and whose turn it is.
//!
//! Level-triggered: [`Relay::decide`] looks at what has been reported so far, never at which report came
//! last. The events themselves, and what they note, are in the parent module.

use portside_proto::quit;
use portside_proto::refuse_login::{self, Refusal};

use super::{Action, Login, Ms, Relay, Rules, Side, ToClient, ToServer, Unsent};
use crate::reason::{Cause, ClientClose, Phase, ServerClose};

/// A client that sent QUIT gets at least this long for its FIN. 5 ms covers a LAN.
const CLIENT_FIN_MIN_MS: Ms = 5;

/// And at most this long: a client that waits for our FIN must not be held up.
pub(super) const CLIENT_FIN_MAX_MS: Ms = 250;

/// A client that got our ERR in place of a greeting: time to read it and to close.
const REFUSED_FIN_MS: Ms = 1000;

/// Quiet time after which a relay may believe that no reply is under way (maint, drain).
const BOUNDARY_QUIET_MS: Ms = 20;
/// A connection may be established while we do not know it yet; closed then, the database would count it.
/// In SYN_SENT a close is harmless, so a path that is slower than this loses nothing.
pub(super) const CONNECT_GRACE_MS: Ms = 20;

impl Relay {
    /// Answers [`Action::AskClientRtt`].
    pub fn client_rtt(&mut self, rtt_ms: Ms) {
        self.client_fin_ms = Some((4 * rtt_ms).clamp(CLIENT_FIN_MIN_MS, CLIENT_FIN_MAX_MS));
    }

    /// What to do next. Pure in (state, now, rules, unsent); O(1), no allocation but for our own QUIT.
    pub fn decide(&mut self, now: Ms, rules: &Rules, unsent: Unsent) -> Action {
        if self.client == Side::Lost {
            self.ended(if self.quit_seen() {
                Cause::Quit
            } else {
                Cause::ClientReset
            });
            return self.close_client(ClientClose::Lost);
        }
        let ending = self.is_ending();
        let server_wait = match self.server {
            Side::Eof | Side::Lost => return self.server_went(now, rules),
            Side::Connecting | Side::Open if self.phase <= Phase::Greeting => {
                match self.before_greeting(now, rules) {
                    Action::Wait(at) => at,
                    other => return other,
                }
            }
            Side::Absent if ending => {
                self.server = Side::Closed;
                self.server_closed_at = Some(now);
                None
            }
            Side::Open => match self.server_open(now, rules, unsent) {
                Action::Wait(at) => at,
                other => return other,
            },
            _ => None,
        };
        let client_wait = match self.client {
            Side::Open | Side::Eof => match self.client_open(now, rules, unsent) {
                Action::Wait(at) => at,
                other => return other,
            },
            _ => None,
        };
        if self.client == Side::Closed && self.server == Side::Closed {
            return Action::Done;
        }
        Action::Wait(earliest(server_wait, client_wait))
    }

    /// A reason on the client's side, or ours, to end the session; records it.
    fn is_ending(&mut self) -> bool {
        if self.quit_seen() {
            self.ended(Cause::Quit);
        } else if matches!(self.client, Side::Eof) {
            self.ended(Cause::ClientEof);
        } else if let (Some(cause), false) = (self.cut, self.cut_gently) {
            self.ended(cause);
        } else {
            return self.client == Side::Closed;
        }
        true
    }

    fn before_greeting(&mut self, now: Ms, rules: &Rules) -> Action {
        if self.is_ending() {
            let since = *self.ending_at.get_or_insert(now);
            // Closed before its greeting was answered, a connection counts against our address at the
            // database. So the greeting is awaited and the login refused in order, as after it.
            let (limit, how) = if self.server == Side::Open {
                (since + rules.deadline_ms, ServerClose::Cut)
            } else {
                (since + CONNECT_GRACE_MS, ServerClose::Lost)
            };
            return if now >= limit {
                self.close_server(how, now)
            } else {
                Action::Wait(Some(limit))
            };
        }
        let (limit, cause) = if self.phase == Phase::Connect {
            (self.phase_at + rules.connect_ms, Cause::ConnectTimeout)
        } else {
            (self.phase_at + rules.login_ms, Cause::NoGreeting)
        };
        if now >= limit {
            return Action::AttemptFailed(cause);
        }
        Action::Wait(Some(limit))
    }

    /// The server closed or died.
    fn server_went(&mut self, now: Ms, rules: &Rules) -> Action {
        let lost = self.server == Side::Lost;
        if self.phase <= Phase::Greeting && !self.is_ending() {
            return Action::AttemptFailed(if self.phase == Phase::Connect {
                Cause::ConnectFailed
            } else {
                Cause::NoGreeting
            });
        }
        if !self.is_ending() {
            self.ended(if lost {
                Cause::ServerReset
            } else {
                Cause::ServerEof
            });
        } else if self.phase == Phase::Tls && self.cause == Some(Cause::ClientEof) && !lost {
            // We held the client's FIN back, so the server closed on a QUIT that TLS hid from us.
            self.cause = Some(Cause::Quit);
        }
        let how = match (lost, rules.to_server) {
            (true, _) => ServerClose::Lost,
            (false, ToServer::Eof) => ServerClose::EofFin,
            (false, _) => ServerClose::EofReset,
        };
        self.close_server(how, now)
    }

    /// The server is open and has greeted.
    fn server_open(&mut self, now: Ms, rules: &Rules, unsent: Unsent) -> Action {
        let going_on = self.timeouts(now, rules);
        if !self.is_ending() {
            return Action::Wait(going_on.flatten());
        }
        let since = *self.ending_at.get_or_insert(now);
        if let Some(answer) = self.login.as_mut().and_then(|l| l.answer.take()) {
            return Action::SendToServer(answer);
        }
        if let Some(quit_at) = self.quit_at {
            return self.await_server_fin(now, quit_at, rules, unsent);
        }
        if unsent.to_server {
            // QUIT is ours to send only behind the client's own bytes.
            return self.by(now, since + rules.deadline_ms);
        }
        let in_packet = |login: &Login| !login.watch.is_between_packets();
        if self.client_spoke && self.login.as_deref().is_some_and(in_packet) {
            // The rest may be the OK that makes this a session with a QUIT.
            return self.by(now, since + rules.deadline_ms);
        }
        self.reply_pending_at_end = self.reply_pending();
        self.quit_at = Some(now);
        if self.quit_seen() {
            return self.await_server_fin(now, now, rules, unsent);
        }
        match self.phase {
            Phase::Tls => self.await_server_fin(now, now, rules, unsent),
            Phase::Login => self.end_login(now, rules, unsent),
            _ if self.watch.at_boundary() => {
                Action::SendToServer(quit::bytes(self.watch.is_compressed()).to_vec())
            }
            _ => self.close_server(ServerClose::Cut, now),
        }
    }

    /// The client left between the greeting and the server's OK: end the login in order, so that the
    /// database does not count it against our address (docs/internals/early-leavers.md).
    fn end_login(&mut self, now: Ms, rules: &Rules, unsent: Unsent) -> Action {
        let Some(login) = self.login.as_mut() else {
            return self.await_server_fin(now, now, rules, unsent);
        };
        match (&login.greeting, self.client_spoke) {
            (Some(greeting), false) => {
                let (refusal, bytes) = refuse_login::start(greeting);
                login.refusal = Some(refusal);
                Action::SendToServer(bytes)
            }
            // Its login packet is on its way: answer what the server still asks.
            (_, true) if self.watch.capabilities().is_some() => {
                login.refusal = Some(Refusal::default());
                match login.asked.take() {
                    // It has asked already, and its question went to the client.
                    Some(sequence) => Action::SendToServer(refuse_login::no_answer(sequence)),
                    None => self.await_server_fin(now, now, rules, unsent),
                }
            }
            _ => self.close_server(ServerClose::Cut, now),
        }
    }

    /// Login, idle and boundary rules of a session that goes on; `None` when one of them ended it.
    #[allow(clippy::option_option)] // outer: still going on; inner: when to look again
    fn timeouts(&mut self, now: Ms, rules: &Rules) -> Option<Option<Ms>> {
        let mut wait = None;
        if self.phase == Phase::Login {
            let limit = self.phase_at + rules.login_ms;
            if now >= limit {
                self.cut(Cause::LoginTimeout, false);
                return None;
            }
            wait = Some(limit);
        } else if let Some(idle) = rules.idle_ms {
            let limit = self.moved_at + idle;
            if now >= limit {
                self.cut(Cause::IdleTimeout, false);
                return None;
            }
            wait = Some(limit);
        }
        if self.cut.is_some() && self.cut_gently {
            let quiet_at = self.moved_at + BOUNDARY_QUIET_MS;
            let boundary =
                self.phase == Phase::Command && self.watch.at_boundary() && !self.reply_pending();
            if boundary && now >= quiet_at {
                self.cut_gently = false;
                return None;
            }
            wait = earliest(wait, boundary.then_some(quiet_at));
        }
        Some(wait)
    }

    fn await_server_fin(&mut self, now: Ms, quit_at: Ms, rules: &Rules, unsent: Unsent) -> Action {
        let login_under_way = self
            .login
            .as_ref()
            .is_some_and(|l| l.refusal.is_some() && !l.refusal_done);
        if login_under_way {
            return self.by(now, quit_at + rules.login_ms);
        }
        if let Some(how) = self.at_once(rules, unsent) {
            // Our QUIT may have met a full buffer.
            return if unsent.to_server {
                self.by(now, quit_at + rules.deadline_ms)
            } else {
                self.close_server(how, now)
            };
        }
        if let Some(late) = self.late.take() {
            return self.close_server(late, now);
        }
        if unsent.to_client && self.client_is_there() {
            // The client reads slowly, so the server is not read: that it sends no FIN is not its fault.
            return Action::Wait(None);
        }
        if self.phase == Phase::Tls && !self.quit_seen() {
            let limit = quit_at + rules.tls_hold_ms;
            return if now >= limit {
                self.close_server(ServerClose::Linger2, now)
            } else {
                Action::Wait(Some(limit))
            };
        }
        if self.abandoned_bytes > rules.abandon_bytes {
            return self.close_server(ServerClose::Abandoned, now);
        }
        // A reply that still flows shows that the server is busy, not silent.
        let flowing_at = quit_at.max(self.moved_at);
        if self.reply_pending_at_end {
            // For a client that is gone the time for the whole reply is limited.
            let since = if self.client_is_there() {
                flowing_at
            } else {
                quit_at
            };
            let limit = since + rules.abandon_ms;
            return if now >= limit {
                self.close_server(ServerClose::Abandoned, now)
            } else {
                Action::Wait(Some(limit))
            };
        }
        self.by(now, flowing_at + rules.deadline_ms)
    }

    /// The close that does not wait for the server's FIN, where the rules say so and no reply is due.
    fn at_once(&self, rules: &Rules, unsent: Unsent) -> Option<ServerClose> {
        let is_due = self.reply_pending_at_end;
        match rules.to_server {
            ToServer::EofReset | ToServer::Eof => None,
            _ if (is_due || unsent.to_client) && self.client_is_there() => None,
            ToServer::ResetNow => Some(ServerClose::ResetNow),
            ToServer::Fin => Some(ServerClose::Fin),
            // A reply that meets a closed socket aborts the server's side: linger2 exists to avoid that.
            ToServer::Linger2 => (!is_due).then_some(ServerClose::Linger2),
        }
    }

    fn by(&mut self, now: Ms, limit: Ms) -> Action {
        match self.late.take() {
            Some(late) => self.close_server(late, now),
            None if now >= limit => Action::AskUnacknowledged,
            None => Action::Wait(Some(limit)),
        }
    }

    /// The client is there: is it time to close it?
    fn client_open(&mut self, now: Ms, rules: &Rules, unsent: Unsent) -> Action {
        // Half a greeting of a server that is gone is held, not owed: it will never be sent.
        let owed = unsent.to_client && self.phase != Phase::Greeting;
        let cut_limit = self.cut_limit(now, rules);
        if cut_limit.is_some_and(|limit| now >= limit) && (owed || self.server != Side::Closed) {
            return self.close_client(match rules.to_client {
                ToClient::FinReset => ClientClose::Linger2,
                ToClient::Fin => ClientClose::Fin,
            });
        }
        if owed {
            let has_left = self.client == Side::Eof || self.quit_seen();
            self.answered_after_end |= has_left && self.phase != Phase::Tls;
            return Action::Wait(cut_limit);
        }
        let server_over = self.server == Side::Closed;
        if self.client == Side::Eof && (server_over || self.quit_waited(now)) {
            if self.phase == Phase::Tls && self.cause == Some(Cause::ServerEof) {
                // Both closed within milliseconds: a QUIT that TLS hid from us.
                self.cause = Some(Cause::Quit);
            }
            return self.close_client(match rules.to_client {
                // Bytes that followed its QUIT or FIN may still be in our kernel: an RST would destroy them.
                ToClient::FinReset if self.answered_after_end => ClientClose::Linger2,
                ToClient::FinReset => ClientClose::FinReset,
                ToClient::Fin => ClientClose::Fin,
            });
        }
        if server_over && !self.refused && !self.quit_seen() {
            let limit = self
                .server_closed_at
                .map_or(now, |at| at + CLIENT_FIN_MIN_MS);
            return match rules.to_client {
                ToClient::Fin => self.close_client(ClientClose::Fin),
                ToClient::FinReset if now >= limit => self.close_client(ClientClose::Linger2),
                ToClient::FinReset => Action::Wait(Some(limit)),
            };
        }
        let ending = server_over
            || (self.quit_seen() && self.quit_at.is_some() && !self.reply_pending_at_end);
        if !ending {
            return Action::Wait(cut_limit);
        }
        self.await_client_fin(now, rules)
    }

    /// Until when a client that is cut off (not gently) may wait for a reply, or for its own reading.
    fn cut_limit(&self, now: Ms, rules: &Rules) -> Option<Ms> {
        let is_cut = self.cut.is_some() && !self.cut_gently;
        let since = self.ending_at.or(self.server_closed_at).unwrap_or(now);
        is_cut.then_some(since + rules.deadline_ms)
    }

    /// QUIT was sent so long ago that a client in FIN_WAIT2 need not wait for the server any more.
    fn quit_waited(&self, now: Ms) -> bool {
        let last = self.quit_at.map(|at| at.max(self.moved_at));
        self.quit_seen()
            && !self.reply_pending_at_end
            && last.is_some_and(|at| now >= at + CLIENT_FIN_MAX_MS)
    }

    fn await_client_fin(&mut self, now: Ms, rules: &Rules) -> Action {
        if rules.to_client == ToClient::Fin {
            return self.close_client(ClientClose::Fin);
        }
        // Bytes after QUIT: it came before the end of a reply.
        let quit_at = self.quit_at.unwrap_or(now).max(self.moved_at);
        let limit = if self.refused {
            self.server_closed_at.unwrap_or(now) + REFUSED_FIN_MS
        } else if self.client == Side::Eof {
            // It waits for nothing: closed together with the server's side, or after this.
            quit_at + CLIENT_FIN_MAX_MS
        } else {
            let Some(fin_ms) = self.client_fin_ms else {
                return Action::AskClientRtt;
            };
            let after_server = self
                .server_closed_at
                .map_or(Ms::MAX, |at| at + CLIENT_FIN_MIN_MS);
            after_server.min(quit_at + fin_ms)
        };
        if now >= limit {
            self.close_client(ClientClose::Linger2)
        } else {
            Action::Wait(Some(limit))
        }
    }

    fn close_server(&mut self, how: ServerClose, now: Ms) -> Action {
        self.server = Side::Closed;
        self.server_closed_at = Some(now);
        self.server_close = how;
        self.login = None;
        Action::CloseServer(how)
    }

    fn close_client(&mut self, how: ClientClose) -> Action {
        self.client = Side::Closed;
        self.client_close = Some(how);
        Action::CloseClient(how)
    }
}

fn earliest(a: Option<Ms>, b: Option<Ms>) -> Option<Ms> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

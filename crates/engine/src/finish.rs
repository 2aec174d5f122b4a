//! The end of a session: slots given back, counters, the log line.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use portside_core::ports::Closed;
use portside_core::reason::Cause;

use crate::pool::Pooled;
use crate::session::{Client, Session, Times};
use crate::snapshot::LogFormat;
use crate::worker::Worker;

impl Worker {
    /// Both connections are closed.
    pub(crate) fn finish(&mut self, index: usize, mut session: Box<Session>) {
        self.dequeue(&mut session);
        session.give_back_server(Closed::Reset, self.now);
        let relay = &session.relay;
        let (cause, phase) = (relay.cause(), relay.end_phase());
        self.shared
            .outcomes
            .count(cause, phase, relay.server_close(), relay.client_close());
        if let Some(last) = session.last.as_ref() {
            if relay.left_before_login() {
                last.server.state.left_before_login.fetch_add(1, Relaxed);
            }
            if relay.server_close().is_late() {
                last.server.state.close_deadlines.fetch_add(1, Relaxed);
            }
        }
        let state = &session.service.state;
        state
            .to_server_bytes
            .fetch_add(session.to_server_bytes, Relaxed);
        state
            .to_client_bytes
            .fetch_add(session.to_client_bytes, Relaxed);
        let good = matches!(cause, Cause::Quit | Cause::Probe);
        let now = self.now;
        self.pen
            .write(good, |line, format| write_line(line, format, &session, now));
        self.leave(index, &mut session);
    }

    /// The worker ends while the session runs.
    pub(crate) fn finish_hard(&mut self, index: usize, mut session: Box<Session>, cause: Cause) {
        session.relay.cut(cause, false);
        session.relay.turn_away(cause, self.now);
        session.server_socket = None;
        session.client_socket = None;
        self.finish(index, session);
    }

    /// Gives back everything that is counted.
    fn leave(&mut self, index: usize, session: &mut Session) {
        self.sessions.try_remove(index);
        self.shared.sessions.fetch_sub(1, Relaxed);
        self.shared.workers[self.id].sessions.fetch_sub(1, Relaxed);
        if let Some(ip) = session.counted_client.take() {
            let mut clients = session
                .service
                .state
                .clients
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = clients.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    clients.remove(&ip);
                }
            }
        }
        session.slot = None;
        self.shared.slot_freed(&self.plan);
    }
}

/// One line, without the newline. Keys as in docs/operations.md, "The session log".
fn write_line(out: &mut Vec<u8>, format: LogFormat, session: &Session, now: u64) {
    let relay = &session.relay;
    let mut line = Line { out, format };
    line.begin();
    line.number("session", session.id);
    match session.client {
        Client::Tcp(addr) => line.display("client", &addr),
        Client::Unix => line.display("client", &"unix"),
    }
    line.text("service", &session.service.name);
    let last = session.last.as_ref();
    line.text("server", last.map_or("", |l| &l.server.name));
    match last.and_then(|l| l.source) {
        Some(source) => line.display("source", &source),
        None => line.text("source", ""),
    }
    line.text(
        "destination",
        last.map_or("", |l| l.server.destinations[l.destination].text.as_str()),
    );
    let pooled = session.pooled.as_ref();
    let waited = pooled.map_or(0, |p| p.waited_ms(now));
    write_times(&mut line, session.times, waited, now);
    line.number("to_server_bytes", session.to_server_bytes);
    line.number("to_client_bytes", session.to_client_bytes);
    line.number(
        "commands",
        pooled.map_or_else(|| relay.commands(), |p| p.commands()),
    );
    line.number("retries", u64::from(session.attempts.saturating_sub(1)));
    line.text("close_server", relay.server_close().word());
    line.text("close_client", relay.client_close().word());
    line.pair("end", relay.cause().word(), relay.end_phase().word());
    if let Some(pooled) = pooled {
        write_pooled(&mut line, pooled);
    }
    if let Some(error) = session.error.as_deref() {
        line.text("error", error);
    }
    line.end();
}

fn write_times(line: &mut Line<'_>, times: Times, waited: u64, now: u64) {
    let total = now - times.accepted;
    let queued = if times.assigned > 0 {
        times.assigned - times.accepted
    } else {
        total
    };
    let connect = if times.greeted > 0 {
        times.greeted - times.assigned
    } else {
        0
    };
    line.number("queue_ms", queued + waited);
    line.number("connect_ms", connect);
    line.number("total_ms", total);
}

fn write_pooled(line: &mut Line<'_>, pooled: &Pooled) {
    if let Some(id) = pooled.connection_id() {
        line.number("connection_id", id.into());
    }
    line.text("user", &pooled.user_name());
    line.text("pinned", pooled.pin_word().unwrap_or_default());
    if let Some(program) = pooled.program() {
        line.text("program", program);
    }
    if let Some((version, _)) = pooled.tls {
        line.text("tls", version);
    }
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
}

// Writing into a Vec cannot fail, so the results of write! are dropped.
impl Line<'_> {
    fn begin(&mut self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let (year, month, day) = civil_date(now.as_secs() / 86_400);
        let second = now.as_secs() % 86_400;
        let (open, close) = match self.format {
            LogFormat::Json => ("{\"time\":\"", "\""),
            LogFormat::Text => ("time=", ""),
        };
        let _ = write!(
            self.out,
            "{open}{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z{close}",
            second / 3600,
            second / 60 % 60,
            second % 60,
            now.subsec_millis()
        );
    }

    fn key(&mut self, key: &str) {
        match self.format {
            LogFormat::Json => {
                self.out.extend_from_slice(b",\"");
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            LogFormat::Text => {
                self.out.push(b' ');
                self.out.extend_from_slice(key.as_bytes());
                self.out.push(b'=');
            }
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        let _ = write!(self.out, "{value}");
    }

    fn display(&mut self, key: &str, value: &dyn std::fmt::Display) {
        self.key(key);
        let _ = match self.format {
            LogFormat::Json => write!(self.out, "\"{value}\""),
            LogFormat::Text => write!(self.out, "{value}"),
        };
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        let plain = value
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\' && b != b'=');
        match self.format {
            LogFormat::Text if plain && !value.is_empty() => {
                self.out.extend_from_slice(value.as_bytes());
            }
            LogFormat::Json if plain => {
                self.out.push(b'"');
                self.out.extend_from_slice(value.as_bytes());
                self.out.push(b'"');
            }
            // A server's text may hold anything: escaped as JSON in both formats, so a line stays a line.
            _ => {
                let _ = serde_json::to_writer(&mut *self.out, value);
            }
        }
    }

    fn pair(&mut self, key: &str, left: &str, right: &str) {
        self.key(key);
        let quote: &[u8] = if self.format == LogFormat::Json {
            b"\""
        } else {
            b""
        };
        for part in [quote, left.as_bytes(), b"/", right.as_bytes(), quote] {
            self.out.extend_from_slice(part);
        }
    }

    fn end(&mut self) {
        if self.format == LogFormat::Json {
            self.out.push(b'}');
        }
    }
}

/// Year, month, day of a day number since 1970-01-01. Source: the civil-from-days algorithm of Howard Hinnant.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::civil_date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(20_454), (2026, 1, 1));
        assert_eq!(civil_date(20_453), (2025, 12, 31));
    }
}

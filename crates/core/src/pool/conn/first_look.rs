//! The first look at a connection: the state of its login, to which a reset must bring it back.

use portside_proto::command::capability;

use super::super::version::can_reset;
use super::failing::cure;
use super::{broken, is_readable, Cleaning, Conn, Event, Failure, Phase};

/// What is asked of a server right after the login: what a reset must restore, what a reset would change, and
/// whether SQL text can be read here.
pub(super) const FIRST_LOOK: &[u8] =
    b"SELECT @@character_set_client, @@character_set_results, @@collation_connection, \
    @@wait_timeout, @@sql_mode, @@autocommit, @@global.character_set_client, @@global.collation_connection, \
    @@global.character_set_results, @@global.init_connect";

impl Conn {
    pub(super) fn look(&mut self, bytes: &mut &[u8]) -> Event {
        let Phase::FirstLook(row) = &mut self.phase else {
            return Event::Wait;
        };
        match row.feed(bytes, self.capabilities) {
            Ok(None) => Event::Wait,
            Ok(Some(Ok(values))) => match row.collation().and_then(|n| self.seen(&values, n)) {
                Some(()) => {
                    self.phase = Phase::Ready;
                    Event::Ready
                }
                None => broken("its session variables cannot be read"),
            },
            // 1820: let in with an expired password, to change it and for nothing else.
            Ok(Some(Err(e))) => Event::Failed(Failure::Denied(format!(
                "ERR {}: {}{}",
                e.errno,
                e.message,
                cure(e.errno, true)
            ))),
            Err(e) => broken(&e.to_string()),
        }
    }

    /// `number`: the collation's in which texts are sent.
    fn seen(&mut self, row: &[Option<String>], number: u16) -> Option<()> {
        let [client, results, collation, wait, mode, autocommit, global_client, global_collation, global_results, init] =
            row
        else {
            return None;
        };
        let Cleaning::Login(login) = &self.cleaning else {
            return None;
        };
        let version = login.greeting().map_or("", |greeting| &greeting.version);
        if init.as_ref().is_some_and(|text| !text.is_empty()) {
            self.cleaning = Cleaning::Impossible;
        } else if can_reset(version, self.is_mariadb) {
            self.cleaning = Cleaning::Reset;
        }
        let name = |value: &Option<String>| match value {
            None => Some("NULL".to_owned()),
            Some(text) => text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_')
                .then(|| format!("'{text}'")),
        };
        let wait: u64 = wait.as_ref()?.parse().ok()?;
        self.is_autocommit = autocommit.as_deref() == Some("1");
        // By its name MySQL takes the character set's first collation, and column definitions show which it is.
        let texts = match results {
            Some(_) if !self.is_mariadb => number.to_string(),
            other => name(other)?,
        };
        // A reset brings the global mode, which may have become one in which texts cannot be read, and takes away the
        // one that a login with IGNORE_SPACE sets.
        let mode = mode.as_deref().unwrap_or_default();
        let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',');
        if !mode.bytes().all(is_word) {
            return None;
        }
        let has_mode = self.class.has(capability::IGNORE_SPACE);
        self.restore = format!(
            "SET @@character_set_client={}, @@character_set_results={}, \
             @@collation_connection={}, @@wait_timeout={wait}, @@sql_mode='{mode}'",
            name(client)?,
            texts,
            name(collation)?
        )
        .into_bytes()
        .into();
        let deprecated = |name: &String| name.starts_with("utf8mb3");
        let mut names = [client, results, collation].into_iter().flatten();
        // MySQL warns of some modes, and of others without a strict one.
        let odd_mode = mode.contains("PAD_CHAR") || (!mode.is_empty() && !mode.contains("STRICT_"));
        self.restore_warns = !self.is_mariadb && (has_mode || odd_mode || names.any(deprecated));
        let is_global =
            [global_client, global_collation, global_results] == [client, collation, results];
        self.keeps_charset = (self.is_mariadb || is_global) && !has_mode;
        self.is_readable = is_readable(client.as_ref()?.as_bytes()) && is_readable(mode.as_bytes());
        Some(())
    }
}

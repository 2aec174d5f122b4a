//! Accounts of a service: who a client is checked against, turns for slow hashes, and the key for passwords.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use portside_core::pool::{Learnt, User};
use portside_proto::handshake::{PasswordKey, Secret};
use rsa::rand_core::OsRng;

use crate::error::EngineError;
use crate::snapshot::UserSpec;

/// Time between two slow hashes of a worker. A hash of 5,000 rounds takes 0.7 ms where the processor has SHA-256 and 3 ms
/// where not, opening a sealed password 3 to 9 ms: all of them together at most a fifth of a worker.
const TURN_MS: u64 = 50;
/// Longest line for a turn; who comes later is told to come again.
const LINE_MS: u64 = 2_000;

/// An account, with what the engine checks itself.
#[derive(Debug, Clone)]
pub struct Account {
    pub(super) user: Arc<User>,
    from: Vec<IpNet>,
    pub(super) max: Option<u32>,
    pub(super) sessions: Arc<AtomicU32>,
}

impl Account {
    /// The account of a snapshot; unchanged, it is the old one.
    pub fn new(spec: &UserSpec, old: Option<&Self>) -> Result<Self, EngineError> {
        let secret = match (&spec.password, &spec.password_hash) {
            (Some(password), None) => Some(Secret::password(password)),
            (None, Some(hash)) => Secret::from_hash(hash),
            _ => None,
        };
        let secret = secret.ok_or_else(|| {
            let text = format!("user {}: neither a password nor a hash", spec.name);
            EngineError::snapshot(text)
        })?;
        let user = User {
            name: spec.name.clone(),
            secret,
            schema: spec.schema.clone(),
            server_user: spec.server_user.clone(),
            server_password: spec.server_password.as_ref().map(|p| p.as_bytes().into()),
            learnt: Learnt::default(),
        };
        Ok(Self {
            user: match old.filter(|old| *old.user == user) {
                Some(old) => Arc::clone(&old.user),
                None => Arc::new(user),
            },
            from: spec.from.clone(),
            max: spec.max_connections,
            sessions: old.map_or_else(Arc::default, |old| Arc::clone(&old.sessions)),
        })
    }

    fn admits(&self, ip: Option<IpAddr>) -> bool {
        self.from.is_empty() || ip.is_some_and(|ip| self.from.iter().any(|net| net.contains(&ip)))
    }
}

/// Who may log in to a service.
#[derive(Debug, Default)]
pub struct Accounts {
    by_name: HashMap<Box<[u8]>, Account>,
    /// Chooses who stands in for an unknown name; nobody outside can tell whom.
    keyed: RandomState,
    /// The key for passwords of clients without TLS.
    key: Option<Arc<PasswordKey>>,
}

impl Accounts {
    /// The accounts of a snapshot. `pem`: the key; absent, the process makes one where a stored hash needs it.
    pub fn new(
        service: &str,
        users: &[UserSpec],
        pem: Option<&str>,
        before: Option<&Self>,
    ) -> Result<Self, EngineError> {
        let mut by_name = HashMap::new();
        let all = users.iter();
        for user in all.filter(|u| u.services.is_empty() || u.services.iter().any(|s| s == service))
        {
            let name: Box<[u8]> = user.name.as_bytes().into();
            let old = before.and_then(|accounts| accounts.by_name.get(&name));
            by_name.insert(name, Account::new(user, old)?);
        }
        let key = match pem {
            Some(pem) => Some(Arc::new(PasswordKey::from_pem(pem).map_err(|e| {
                EngineError::snapshot(format!("service {service}: rsa_key: {e}"))
            })?)),
            None if by_name.values().any(|a| a.user.secret.is_slow()) => Some(made_key()?),
            None => None,
        };
        Ok(Self {
            by_name,
            keyed: before.map_or_else(RandomState::new, |accounts| accounts.keyed.clone()),
            key,
        })
    }

    /// The account of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Account> {
        self.by_name.get(name)
    }

    /// The account of this name that may come from there; else another in its place, and true. Takes the same time.
    pub fn find(&self, name: &[u8], ip: Option<IpAddr>) -> Option<(Arc<User>, bool)> {
        let at = self.keyed.hash_one(name) as usize % self.by_name.len().max(1);
        let other = self.by_name.values().nth(at)?;
        Some(match self.by_name.get(name).filter(|a| a.admits(ip)) {
            Some(account) => (Arc::clone(&account.user), false),
            None => (Arc::clone(&other.user), true),
        })
    }

    /// The one that logs in to learn about servers: one that can, the first by name, so that it is the same after a
    /// reload.
    pub fn scout(&self) -> Option<&Arc<User>> {
        let users = self.by_name.values().map(|account| &account.user);
        users.min_by_key(|user| (!user.can_log_in(), &user.name))
    }

    /// Whether any of them can use this account's connections.
    pub fn shares_with(&self, user: &User) -> bool {
        let mut all = self.by_name.values();
        all.any(|account| account.user.shares_with(user))
    }

    /// The key as clients get it.
    pub fn public_key(&self) -> Option<&str> {
        self.key.as_deref().map(PasswordKey::public_pem)
    }

    /// The password that a client has sealed with the key.
    pub fn open(&self, sealed: &[u8], salt: &[u8; 20]) -> Vec<u8> {
        let key = self.key.as_ref();
        key.map_or_else(Vec::new, |key| key.open(&mut OsRng, sealed, salt))
    }
}

/// The process' own key, made when it is first needed: it takes part of a second.
fn made_key() -> Result<Arc<PasswordKey>, EngineError> {
    static MADE: Mutex<Option<Arc<PasswordKey>>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(key) = made.as_ref() {
        return Ok(Arc::clone(key));
    }
    let key = PasswordKey::generate(&mut OsRng)
        .map_err(|e| EngineError::snapshot(format!("no RSA key could be made: {e}")))?;
    Ok(Arc::clone(made.insert(Arc::new(key))))
}

/// One of a user's sessions; dropped, it is counted no more.
#[derive(Debug)]
pub(super) struct UserSlot(pub Arc<AtomicU32>);

impl Drop for UserSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Turns of a worker for slow hashes, so that a flood of logins does not take its time from everybody else.
#[derive(Debug, Default)]
pub(super) struct Turns(Cell<u64>);

impl Turns {
    /// When the next one is. None: the line is full.
    pub(super) fn take(&self, now: u64) -> Option<u64> {
        let at = self.0.get().max(now);
        (at <= now + LINE_MS).then(|| {
            self.0.set(at + TURN_MS);
            at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, hash: Option<&str>) -> UserSpec {
        UserSpec {
            name: name.to_owned(),
            password: hash.is_none().then(|| "pw".to_owned()),
            password_hash: hash.map(str::to_owned),
            services: Vec::new(),
            schema: None,
            from: vec!["10.0.0.0/8".parse().unwrap()],
            max_connections: None,
            server_user: name.to_owned(),
            server_password: None,
        }
    }

    #[test]
    fn an_unknown_name_always_meets_the_same_other() {
        let users = ["a", "b", "c"].map(|name| spec(name, None));
        let accounts = Accounts::new("s", &users, None, None).unwrap();
        let here = Some(IpAddr::from([10, 0, 0, 1]));
        let (user, is_unknown) = accounts.find(b"b", here).unwrap();
        assert!(user.name == "b" && !is_unknown);
        for (name, ip) in [(&b"nobody"[..], here), (b"b", None)] {
            let (first, is_unknown) = accounts.find(name, ip).unwrap();
            assert!(is_unknown);
            assert_eq!(accounts.find(name, ip).unwrap().0.name, first.name);
        }
        assert!(accounts.public_key().is_none());
        assert!(Accounts::default().find(b"b", here).is_none());
    }

    #[test]
    fn the_scout_is_one_that_can_log_in() {
        let hash = "*F5CB189AAFE5D3CC8AB7CE363FD4A583C23E55DC";
        let users = [spec("a", Some(hash)), spec("b", None)];
        let accounts = Accounts::new("s", &users, None, None).unwrap();
        assert_eq!(accounts.scout().unwrap().name, "b");
        let users = [spec("a", Some("no hash"))];
        let error = Accounts::new("s", &users, None, None).unwrap_err();
        assert!(error
            .to_string()
            .contains("user a: neither a password nor a hash"));
        let error = Accounts::new("s", &[], Some("no key"), None).unwrap_err();
        assert!(error.to_string().contains("service s: rsa_key: "));
    }

    #[test]
    fn turns_are_apart_and_the_line_is_short() {
        let turns = Turns::default();
        assert_eq!(turns.take(1_000), Some(1_000));
        assert_eq!(turns.take(1_000), Some(1_000 + TURN_MS));
        let more = (0..1_000).filter(|_| turns.take(1_000).is_some()).count() as u64;
        assert_eq!(more, LINE_MS / TURN_MS - 1);
        assert_eq!(turns.take(60_000), Some(60_000));
    }
}

//! An account of pool mode: what its clients prove, and what its connections log in with.
//!
//! Where only a hash of the password is known, the first client that proves to know the password itself tells it;
//! it is kept with the account, which is made anew when the configuration changes. What this must not know: where
//! an account may come from, how many sessions it has.

use std::sync::{Arc, OnceLock};

use portside_proto::handshake::{Credential, Secret};

/// An account that clients log in with.
pub struct User {
    /// Its name.
    pub name: String,
    /// What its clients must know.
    pub secret: Secret,
    /// The schema of clients that name none.
    pub schema: Option<String>,
    /// The account on the servers.
    pub server_user: String,
    /// The password of that; None: the clients' own.
    pub server_password: Option<Arc<[u8]>>,
    /// What its clients have told.
    pub learnt: Learnt,
}

/// What clients of an account whose password is known by a hash have proved to know.
#[derive(Default)]
pub struct Learnt {
    password: OnceLock<Arc<[u8]>>,
    sha1: OnceLock<[u8; 20]>,
}

/// Equal in the configuration.
impl PartialEq for User {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.secret == other.secret
            && self.schema == other.schema
            && self.server_user == other.server_user
            && self.server_password == other.server_password
    }
}

impl Eq for User {}

/// Without passwords.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl User {
    /// The clients' password, where it is known.
    pub fn password(&self) -> Option<&Arc<[u8]>> {
        match &self.secret {
            Secret::Password(password) => Some(password),
            _ => self.learnt.password.get(),
        }
    }

    /// A client has proved this password.
    pub fn learn_password(&self, password: &[u8]) {
        self.learnt.password.get_or_init(|| password.into());
    }

    /// A client has proved the password of this SHA-1.
    pub fn learn_sha1(&self, once: [u8; 20]) {
        self.learnt.sha1.get_or_init(|| once);
    }

    /// What its connections log in with now. No allocation.
    pub fn credential(&self) -> Credential {
        let password = self.server_password.as_ref().or_else(|| self.password());
        match (password, self.learnt.sha1.get()) {
            (Some(password), _) => Credential::Password(Arc::clone(password)),
            (None, Some(once)) => Credential::Sha1(*once),
            (None, None) => Credential::Unknown,
        }
    }

    /// Whether there is anything to log in with.
    pub fn can_log_in(&self) -> bool {
        self.credential() != Credential::Unknown
    }

    /// Whether the connections of both are the same account's.
    pub fn shares_with(&self, other: &Self) -> bool {
        self.server_user == other.server_user
            && (std::ptr::eq(self, other) || self.credential() == other.credential())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(secret: Secret, server_password: Option<&str>) -> User {
        User {
            name: "app".to_owned(),
            secret,
            schema: None,
            server_user: "app".to_owned(),
            server_password: server_password.map(|text| text.as_bytes().into()),
            learnt: Learnt::default(),
        }
    }

    #[test]
    fn a_hash_becomes_a_credential_with_the_first_client_that_tells() {
        let plain = user(Secret::password("pw"), None);
        assert!(plain.credential() == "pw".into());
        let hashed = user(Secret::Native([1; 20]), None);
        assert!(hashed.credential() == Credential::Unknown && !hashed.shares_with(&plain));
        hashed.learn_sha1([2; 20]);
        assert!(hashed.credential() == Credential::Sha1([2; 20]));
        hashed.learn_password(b"pw");
        assert!(hashed.credential() == "pw".into() && hashed.shares_with(&plain));
        // What was learnt is no part of the configuration.
        assert!(hashed == user(Secret::Native([1; 20]), None) && hashed != plain);
        let other = user(Secret::Native([1; 20]), Some("server-pw"));
        assert!(other.credential() == "server-pw".into());
        assert_eq!(format!("{other:?}"), "User { name: \"app\", .. }");
    }
}

//! What an account's password is known by, and what a client's or our own answer needs of it.
//!
//! [`Secret`] is the account's: the password, or a hash of it as a server stores it. [`Credential`] is what we can
//! log in to a server with. Neither is ever part of a text: `Debug` names the kind only.

use std::sync::Arc;

use base64ct::{Base64Unpadded, Encoding};
use sha1::Sha1;
use sha2::Digest;
use subtle::ConstantTimeEq;

use super::crypt::{sha256_crypt, DIGEST_LEN};
use super::plugin::Plugin;
use super::{ed25519, scramble_sha2};

/// Bytes of a password at most, as in MySQL (`MAX_PLAINTEXT_LENGTH`); a longer one is a wrong one.
pub const PASSWORD_MAX: usize = 256;

/// Rounds of a stored hash at most: 5,000 (MySQL's default) cost 0.7 to 3 ms, by processor.
pub const ROUNDS_MAX: u32 = 20_000;

/// Bytes of a stored salt (`sql/auth/i_sha2_password_common.h`, `SALT_LENGTH`).
const SALT_LEN: usize = 20;

/// What an account's password is known by.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Itself.
    Password(Arc<[u8]>),
    /// SHA1(SHA1(password)), of `mysql_native_password`.
    Native([u8; 20]),
    /// The slow hash of `caching_sha2_password`.
    Sha2(Box<Crypt>),
    /// The public key of `ed25519`.
    Ed25519([u8; 32]),
}

/// A slow hash with what it was made with.
#[derive(Clone, PartialEq, Eq)]
pub struct Crypt {
    rounds: u32,
    salt: [u8; SALT_LEN],
    digest: [u8; DIGEST_LEN],
}

/// What a login on a server is made with.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// The password: good for every method.
    Password(Arc<[u8]>),
    /// SHA1(password): good for `mysql_native_password`.
    Sha1([u8; 20]),
    /// Nothing: the account's password is known by a hash only.
    Unknown,
}

impl From<&str> for Credential {
    fn from(password: &str) -> Self {
        Self::Password(password.as_bytes().into())
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Sha1(_) => "Sha1",
            Self::Unknown => "Unknown",
        })
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Native(_) => "Native",
            Self::Sha2(_) => "Sha2",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

impl Secret {
    /// A password.
    pub fn password(password: &str) -> Self {
        Self::Password(password.as_bytes().into())
    }

    /// A stored hash: `*` and 40 hexadecimal digits, `$A$005$` with salt and hash (as it is, or in hexadecimal
    /// digits, with or without 0x), or the 43 characters of a public key. None: none of these, or more than
    /// [`ROUNDS_MAX`].
    pub fn from_hash(text: &str) -> Option<Self> {
        if let Some(digits) = text.strip_prefix('*') {
            return Some(Self::Native(unhex(digits)?.try_into().ok()?));
        }
        if text.starts_with("$A$") {
            return Crypt::parse(text.as_bytes()).map(|crypt| Self::Sha2(Box::new(crypt)));
        }
        if text.len() == 43 {
            let mut key = [0; 32];
            Base64Unpadded::decode(text, &mut key).ok()?;
            return Some(Self::Ed25519(key));
        }
        let stored = unhex(text.strip_prefix("0x").unwrap_or(text))?;
        Crypt::parse(&stored).map(|crypt| Self::Sha2(Box::new(crypt)))
    }

    /// The method of clients of this account; None: whichever they like.
    pub const fn plugin(&self) -> Option<Plugin> {
        match self {
            Self::Password(_) => None,
            Self::Native(_) => Some(Plugin::Native),
            Self::Sha2(_) => Some(Plugin::Sha2),
            Self::Ed25519(_) => Some(Plugin::Ed25519),
        }
    }

    /// Whether this is the password. Cost: of a slow hash [`Self::is_slow`], else microseconds.
    pub fn is_password(&self, password: &[u8]) -> bool {
        let is_short = password.len() <= PASSWORD_MAX;
        let password = password.get(..PASSWORD_MAX).unwrap_or(password);
        let is_it = match self {
            // Hashes of equal length are compared: the length of the right one takes no part in the time.
            Self::Password(right) => digest(right).ct_eq(&digest(password)),
            Self::Native(twice) => twice.ct_eq(&sha1(&sha1(password))),
            Self::Sha2(crypt) => {
                let made = sha256_crypt(password, &crypt.salt, crypt.rounds);
                crypt.digest.ct_eq(&made)
            }
            Self::Ed25519(key) => key.ct_eq(&ed25519::public_key(password)),
        };
        is_short & bool::from(is_it)
    }

    /// Whether [`Self::is_password`] takes milliseconds.
    pub const fn is_slow(&self) -> bool {
        matches!(self, Self::Sha2(_))
    }

    /// Whether `answer` to this salt was made from the password, by `mysql_native_password`; then SHA1(password).
    pub fn proves_native(&self, salt: &[u8; 20], answer: &[u8]) -> Option<[u8; 20]> {
        let twice = match self {
            Self::Password(password) if password.is_empty() => {
                return answer.is_empty().then(|| sha1(password))
            }
            Self::Password(password) => sha1(&sha1(password)),
            Self::Native(twice) => *twice,
            Self::Sha2(_) | Self::Ed25519(_) => return None,
        };
        let answer: [u8; 20] = answer.try_into().ok()?;
        let mut once: [u8; 20] = Sha1::new()
            .chain_update(salt)
            .chain_update(twice)
            .finalize()
            .into();
        for (byte, mask) in once.iter_mut().zip(answer) {
            *byte ^= mask;
        }
        bool::from(sha1(&once).ct_eq(&twice)).then_some(once)
    }

    /// Whether `answer` signs this scramble.
    pub fn proves_ed25519(&self, scramble: &[u8; 32], answer: &[u8]) -> bool {
        match self {
            Self::Password(password) => {
                ed25519::verifies(&ed25519::public_key(password), scramble, answer)
            }
            Self::Ed25519(key) => ed25519::verifies(key, scramble, answer),
            Self::Native(_) | Self::Sha2(_) => false,
        }
    }
}

/// Whether `answer` to this salt was made from the password, by the fast exchange of `caching_sha2_password`. It
/// needs SHA256(SHA256(password)), which no stored hash gives.
pub fn proves_sha2(password: &[u8], salt: &[u8; 20], answer: &[u8]) -> bool {
    // An empty password is answered with nothing, or with one NUL.
    let answer = if answer == [0] { &[][..] } else { answer };
    scramble_sha2(password, salt).ct_eq(answer).into()
}

impl Crypt {
    /// `$A$`, three digits (thousands of rounds, hexadecimal), `$`, salt, hash. Source: MySQL
    /// `sql/auth/sha2_password.cc`, `Caching_sha2_password::deserialize`.
    fn parse(stored: &[u8]) -> Option<Self> {
        let rest = stored.strip_prefix(b"$A$")?;
        let (thousands, rest) = rest.split_first_chunk::<3>()?;
        let rest = rest.strip_prefix(b"$")?;
        let (salt, digest) = rest.split_first_chunk::<SALT_LEN>()?;
        let thousands = std::str::from_utf8(thousands).ok()?;
        let rounds = u32::from_str_radix(thousands, 16).ok()? * 1_000;
        (1..=ROUNDS_MAX).contains(&rounds).then_some(Self {
            rounds,
            salt: *salt,
            digest: digest.try_into().ok()?,
        })
    }
}

fn sha1(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() % 2 != 0 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::scramble_native;

    const SALT: &[u8; 20] = b"abcdefghijklmnopqrst";
    /// Of mysql.user, MySQL 9.7.
    const STORED: [(&str, &str); 2] = [
        (
            "stored-pw",
            "2441243030412436252C125D39576D5B602B483F781E5617352C5F6A5769702F5A486E6C4838574D714\
             85677552E66736D496F47344A635A655336765958472F4576524B2F35",
        ),
        (
            "a much longer password than thirty-two bytes",
            "244124303041247D021B08434C6B2C3A4F2A48067B0E656A2C583545724278456454327A362F59576E4\
             B33626C367843724D70304C7136715A51664F70485A7A38554A58312E",
        ),
    ];

    fn hash(text: &str) -> Secret {
        Secret::from_hash(text).unwrap()
    }

    #[test]
    fn stored_hashes_of_mysql_know_their_password() {
        for (password, stored) in STORED {
            let raw = String::from_utf8(unhex(stored).unwrap()).unwrap();
            for text in [stored, &format!("0x{stored}"), &raw] {
                let secret = hash(text);
                assert!(secret == hash(stored) && secret.is_slow());
                assert_eq!(secret.plugin(), Some(Plugin::Sha2));
                assert!(!format!("{secret:?}").contains('$'));
            }
            assert!(hash(stored).is_password(password.as_bytes()));
            assert!(!hash(stored).is_password(b"wrong"));
        }
    }

    #[test]
    fn a_native_hash_proves_answers_and_gives_what_a_server_needs() {
        // SELECT PASSWORD('stored-pw')
        let secret = hash("*F5CB189AAFE5D3CC8AB7CE363FD4A583C23E55DC");
        assert_eq!(secret.plugin(), Some(Plugin::Native));
        assert!(secret.is_password(b"stored-pw"));
        let twice = sha1(&sha1(b"right"));
        for secret in [Secret::Native(twice), Secret::password("right")] {
            let answer = scramble_native(b"right", SALT);
            assert_eq!(secret.proves_native(SALT, &answer), Some(sha1(b"right")));
            for wrong in [scramble_native(b"wrong", SALT), vec![], vec![0; 20]] {
                assert_eq!(secret.proves_native(SALT, &wrong), None);
            }
            assert_eq!(secret.proves_native(b"ABCDEFGHIJKLMNOPQRST", &answer), None);
            assert!(secret.is_password(b"right") && !secret.is_password(b"wrong"));
        }
        assert!(Secret::password("").proves_native(SALT, b"").is_some());
    }

    #[test]
    fn the_fast_exchange_proves_one_password_only() {
        let answer = scramble_sha2(b"right", SALT);
        assert!(proves_sha2(b"right", SALT, &answer));
        assert!(!proves_sha2(b"wrong", SALT, &answer) && !proves_sha2(b"right", SALT, b""));
        assert!(proves_sha2(b"", SALT, b"") && proves_sha2(b"", SALT, b"\0"));
    }

    #[test]
    fn an_ed25519_key_is_mariadbs() {
        // From MariaDB's manual: IDENTIFIED VIA ed25519 USING PASSWORD('secret').
        let secret = hash("ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY");
        let scramble = [7; 32];
        let answer = ed25519::sign(b"secret", &scramble);
        for secret in [secret, Secret::password("secret")] {
            assert!(secret.is_password(b"secret") && !secret.is_password(b"Secret"));
            assert!(secret.proves_ed25519(&scramble, &answer));
            assert!(!secret.proves_ed25519(&[8; 32], &answer));
            assert!(!secret.proves_ed25519(&scramble, &ed25519::sign(b"wrong", &scramble)));
            assert!(!secret.proves_ed25519(&scramble, b"short"));
        }
        // A key that is no point of the curve proves nothing.
        assert!(!Secret::Ed25519([0xff; 32]).proves_ed25519(&scramble, &answer));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let rounds = STORED[0].1.replacen("303041", "303135", 1);
        for text in [
            "",
            "*",
            "*00",
            "secret",
            "$A$005$short",
            "$A$xyz$aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
            "$A$000$aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
            "0x",
            "0xzz",
            "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJ!",
            &rounds,
        ] {
            assert!(Secret::from_hash(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_password_longer_than_mysqls_is_a_wrong_one() {
        let long = "x".repeat(PASSWORD_MAX + 1);
        assert!(!Secret::password(&long).is_password(long.as_bytes()));
        let most = "x".repeat(PASSWORD_MAX);
        assert!(Secret::password(&most).is_password(most.as_bytes()));
    }
}

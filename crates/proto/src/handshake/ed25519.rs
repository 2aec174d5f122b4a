//! MariaDB's `client_ed25519`: the password's SHA-512 is the expanded secret key, the scramble is signed with it,
//! and the server has the public key. Source: MariaDB `plugin/auth_ed25519` (`ref10/sign.c`, `crypto_sign`).
//!
//! ed25519-dalek does the arithmetic: it is the widely used one, and its `hazmat` module takes an expanded key, which
//! RFC 8032's interface (a seed of 32 bytes that is hashed once more) does not.

use ed25519_dalek::hazmat::{raw_sign, ExpandedSecretKey};
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use sha2::{Digest, Sha512};

/// The public key of a password: what `mysql.global_priv` has in base64.
pub fn public_key(password: &[u8]) -> [u8; 32] {
    VerifyingKey::from(&expanded(password)).to_bytes()
}

/// The answer to a scramble.
pub fn sign(password: &[u8], scramble: &[u8; 32]) -> [u8; 64] {
    let key = expanded(password);
    raw_sign::<Sha512>(&key, scramble, &VerifyingKey::from(&key)).to_bytes()
}

/// Whether this answer was made with the public key's password.
pub fn verifies(public: &[u8; 32], scramble: &[u8; 32], answer: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (
        VerifyingKey::from_bytes(public),
        Signature::from_slice(answer),
    ) else {
        return false;
    };
    key.verify(scramble, &signature).is_ok()
}

fn expanded(password: &[u8]) -> ExpandedSecretKey {
    ExpandedSecretKey::from_bytes(&Sha512::digest(password).into())
}

//! What is sent in place of a password.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// `mysql_native_password`: SHA1(password) XOR SHA1(salt + SHA1(SHA1(password))), 20 bytes; empty for an empty
/// password. Source: MySQL `sql/auth/password.c`, `scramble()`.
pub fn scramble_native(password: &[u8], salt: &[u8; 20]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    scramble_native_once(&Sha1::digest(password).into(), salt)
}

/// The same from SHA1(password), which is all that a client of this method needs.
pub(super) fn scramble_native_once(once: &[u8; 20], salt: &[u8; 20]) -> Vec<u8> {
    let twice = Sha1::digest(once);
    let mask = Sha1::new()
        .chain_update(salt)
        .chain_update(twice)
        .finalize();
    once.iter()
        .zip(mask)
        .map(|(byte, mask)| byte ^ mask)
        .collect()
}

/// `caching_sha2_password`: SHA256(password) XOR SHA256(SHA256(SHA256(password)) + salt), 32 bytes; empty for
/// an empty password. Source: MySQL `sql/auth/sha2_password_common.cc`, `Generate_scramble`.
pub fn scramble_sha2(password: &[u8], salt: &[u8; 20]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha256::digest(password);
    let twice = Sha256::digest(once);
    let mask = Sha256::new()
        .chain_update(twice)
        .chain_update(salt)
        .finalize();
    once.iter()
        .zip(mask)
        .map(|(byte, mask)| byte ^ mask)
        .collect()
}

//! The slow hash of `caching_sha2_password`: SHA-crypt with SHA-256, but with 20 bytes of salt.
//!
//! Source: SHA-crypt.txt (Ulrich Drepper); MySQL `mysys/crypt_genhash_impl.cc`, whose salt may have 20 bytes
//! (`CRYPT_SALT_LENGTH`). The sha-crypt crate cuts a salt after 16 as the specification says, so it cannot be used.

use sha2::{Digest, Sha256};

/// Characters of a hash.
pub const DIGEST_LEN: usize = 43;

const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The hash in the characters of crypt(3). Cost: `rounds` times SHA-256 of the password and more; the caller bounds
/// both.
pub fn sha256_crypt(password: &[u8], salt: &[u8], rounds: u32) -> [u8; DIGEST_LEN] {
    let mut running = start(password, salt);
    let by_password = Sha256::digest(password.repeat(password.len()));
    let by_salt =
        Sha256::digest(salt.repeat(16 + usize::from(running.first().copied().unwrap_or(0))));
    let password: Vec<u8> = stretched(&by_password, password.len());
    let salt: Vec<u8> = stretched(&by_salt, salt.len());
    for round in 0..rounds {
        let is_odd = round % 2 == 1;
        let mut hash = Sha256::new();
        hash.update(if is_odd { &password } else { &running[..] });
        if round % 3 != 0 {
            hash.update(&salt);
        }
        if round % 7 != 0 {
            hash.update(&password);
        }
        hash.update(if is_odd { &running[..] } else { &password });
        running = hash.finalize().into();
    }
    encoded(&running)
}

/// Steps 1 to 12 of the specification.
fn start(password: &[u8], salt: &[u8]) -> [u8; 32] {
    let other = Sha256::new()
        .chain_update(password)
        .chain_update(salt)
        .chain_update(password)
        .finalize();
    let mut hash = Sha256::new().chain_update(password).chain_update(salt);
    hash.update(stretched(&other, password.len()));
    let mut length = password.len();
    while length > 0 {
        if length % 2 == 1 {
            hash.update(other);
        } else {
            hash.update(password);
        }
        length /= 2;
    }
    hash.finalize().into()
}

fn stretched(digest: &[u8], length: usize) -> Vec<u8> {
    digest.iter().copied().cycle().take(length).collect()
}

/// Which three bytes make which four characters (lowest bits first); the last three characters have two bytes.
const ORDER: [[usize; 3]; 11] = [
    [0, 10, 20],
    [21, 1, 11],
    [12, 22, 2],
    [3, 13, 23],
    [24, 4, 14],
    [15, 25, 5],
    [6, 16, 26],
    [27, 7, 17],
    [18, 28, 8],
    [9, 19, 29],
    [usize::MAX, 31, 30],
];

fn encoded(digest: &[u8; 32]) -> [u8; DIGEST_LEN] {
    let byte = |at: usize| u32::from(digest.get(at).copied().unwrap_or(0));
    let mut text = [0; DIGEST_LEN];
    for (to, [a, b, c]) in text.chunks_mut(4).zip(ORDER) {
        let mut bits = byte(a) << 16 | byte(b) << 8 | byte(c);
        for character in to {
            *character = ALPHABET
                .get((bits & 63) as usize)
                .copied()
                .unwrap_or_default();
            bits >>= 6;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::sha256_crypt;

    #[test]
    fn the_vectors_of_the_specification() {
        // SHA-crypt.txt, with salts of at most 16 bytes; real hashes of MySQL are in secret.rs.
        for (password, salt, rounds, hash) in [
            (
                "Hello world!",
                "saltstring",
                5000,
                "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
            ),
            (
                "Hello world!",
                "saltstringsaltst",
                10_000,
                "3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA",
            ),
        ] {
            let made = sha256_crypt(password.as_bytes(), salt.as_bytes(), rounds);
            assert_eq!(std::str::from_utf8(&made), Ok(hash));
        }
    }
}

//! RSA encryption of a password for `caching_sha2_password` without TLS: ours for servers, clients' for us.
//!
//! Randomness is an argument: OAEP with SHA-1 takes exactly 20 bytes of it, once; making a key and blinding a
//! decryption (the rsa crate's arithmetic takes a time that depends on its numbers) need a source of it.

use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey, LineEnding};
use rsa::rand_core::{CryptoRng, CryptoRngCore, Error, RngCore};
use rsa::traits::PublicKeyParts;
use rsa::{Oaep, RsaPrivateKey, RsaPublicKey};
use sha1::Sha1;

use super::secret::PASSWORD_MAX;

/// A PEM key is 451 bytes for RSA-2048 and 1,640 for 8192 bits; more is not a key.
const PEM_MAX: usize = 4096;

/// Bits of a key that we make, as MySQL does.
const KEY_BITS: usize = 2048;
/// Bytes of a modulus at most: 8192 bits.
const MODULUS_MAX: usize = 1024;

/// The key under which clients that have no TLS send their password.
pub struct PasswordKey {
    private: RsaPrivateKey,
    public_pem: String,
}

/// Without the key.
impl std::fmt::Debug for PasswordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordKey")
    }
}

impl PasswordKey {
    /// A new key. Takes a fraction of a second.
    pub fn generate(random: &mut impl CryptoRngCore) -> Result<Self, String> {
        Self::new(RsaPrivateKey::new(random, KEY_BITS).map_err(|e| e.to_string())?)
    }

    /// A key in PEM, PKCS#8 or PKCS#1, without a passphrase. An error says what is wrong with it.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let private = if text.contains("BEGIN RSA PRIVATE KEY") {
            RsaPrivateKey::from_pkcs1_pem(text.trim()).map_err(|e| e.to_string())
        } else {
            RsaPrivateKey::from_pkcs8_pem(text.trim()).map_err(|e| e.to_string())
        };
        Self::new(private?)
    }

    fn new(private: RsaPrivateKey) -> Result<Self, String> {
        if private.size() > MODULUS_MAX {
            return Err(format!("more than {} bits", MODULUS_MAX * 8));
        }
        let public_pem = (private.to_public_key())
            .to_public_key_pem(LineEnding::LF)
            .map_err(|e| e.to_string())?;
        Ok(Self {
            private,
            public_pem,
        })
    }

    /// What clients are given.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The password that a client has hidden in its salt and encrypted. Empty, as any wrong password, where it
    /// cannot be read. A millisecond or two.
    pub fn open(&self, random: &mut impl CryptoRngCore, sealed: &[u8], salt: &[u8; 20]) -> Vec<u8> {
        let opened = self
            .private
            .decrypt_blinded(random, Oaep::new::<Sha1>(), sealed)
            .unwrap_or_default();
        let mut password: Vec<u8> = opened
            .iter()
            .zip(salt.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect();
        if password.pop() != Some(0) || password.len() > PASSWORD_MAX {
            password.clear();
        }
        password
    }
}

/// Encrypts `plain` under a public key in PEM. An error says what is wrong with the key.
pub(super) fn rsa_oaep(pem: &[u8], plain: &[u8], seed: [u8; 20]) -> Result<Vec<u8>, String> {
    if pem.len() > PEM_MAX {
        return Err(format!("{} bytes are no key", pem.len()));
    }
    let text = std::str::from_utf8(pem).map_err(|e| e.to_string())?;
    let key = RsaPublicKey::from_public_key_pem(text.trim()).map_err(|e| e.to_string())?;
    key.encrypt(&mut Given(&seed), Oaep::new::<Sha1>(), plain)
        .map_err(|e| e.to_string())
}

/// Hands out the caller's random bytes; asked for more, it fails instead of repeating itself.
struct Given<'a>(&'a [u8]);

impl RngCore for Given<'_> {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        let given = self.try_fill_bytes(to);
        debug_assert!(given.is_ok(), "OAEP with SHA-1 takes one seed of 20 bytes");
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Error> {
        let Some((now, later)) = self.0.split_at_checked(to.len()) else {
            return Err(Error::new("more randomness was asked for than was given"));
        };
        to.copy_from_slice(now);
        self.0 = later;
        Ok(())
    }
}

impl CryptoRng for Given<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use rsa::pkcs1::EncodeRsaPrivateKey;
    use rsa::pkcs8::EncodePrivateKey;

    #[test]
    fn what_is_sealed_can_be_opened_with_the_private_key() {
        let mut random = rsa::rand_core::OsRng;
        let key = RsaPrivateKey::new(&mut random, 1024).unwrap();
        let pem = key
            .to_public_key()
            .to_public_key_pem(rsa::pkcs8::LineEnding::LF)
            .unwrap();
        let sealed = rsa_oaep(pem.as_bytes(), b"secret\0", [7; 20]).unwrap();
        assert_eq!(
            key.decrypt(Oaep::new::<Sha1>(), &sealed).unwrap(),
            b"secret\0"
        );
        assert_ne!(
            sealed,
            rsa_oaep(pem.as_bytes(), b"secret\0", [8; 20]).unwrap()
        );
    }

    #[test]
    fn a_clients_password_is_opened_and_nothing_else() {
        let (mut random, salt) = (rsa::rand_core::OsRng, b"abcdefghijklmnopqrst");
        let key = PasswordKey::new(RsaPrivateKey::new(&mut random, 1024).unwrap()).unwrap();
        let hidden = |text: &[u8]| -> Vec<u8> {
            let masked = text.iter().zip(salt.iter().cycle());
            masked.map(|(byte, mask)| byte ^ mask).collect()
        };
        let pem = key.public_pem().as_bytes();
        let password = b"a password that is longer than its salt";
        let sealed = rsa_oaep(pem, &hidden(&[password, &[0][..]].concat()), [7; 20]).unwrap();
        assert_eq!(key.open(&mut random, &sealed, salt), password);
        let no_nul = rsa_oaep(pem, &hidden(password), [7; 20]).unwrap();
        for broken in [&no_nul[..], &sealed[1..], b"", &[0xff; 256]] {
            assert_eq!(key.open(&mut random, broken, salt), b"");
        }
        for form in [
            key.private.to_pkcs8_pem(LineEnding::LF).unwrap(),
            key.private.to_pkcs1_pem(LineEnding::LF).unwrap(),
        ] {
            let same = PasswordKey::from_pem(&form).unwrap();
            assert_eq!(same.open(&mut random, &sealed, salt), password);
        }
        assert!(PasswordKey::from_pem("no key").is_err());
        assert_eq!(format!("{key:?}"), "PasswordKey");
    }

    #[test]
    fn what_is_no_key_is_said_to_be_none() {
        assert!(rsa_oaep(b"not a key", b"secret", [0; 20]).is_err());
        let long = rsa_oaep(&[b'x'; 5000], b"secret", [0; 20]).unwrap_err();
        assert_eq!(long, "5000 bytes are no key");
    }
}

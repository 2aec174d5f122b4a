//! RSA encryption of a password for `caching_sha2_password` without TLS.
//!
//! Randomness is an argument: OAEP with SHA-1 takes exactly 20 bytes of it, once.

use rsa::pkcs8::DecodePublicKey;
use rsa::rand_core::{CryptoRng, Error, RngCore};
use rsa::{Oaep, RsaPublicKey};
use sha1::Sha1;

/// A PEM key is 451 bytes for RSA-2048 and 1,640 for 8192 bits; more is not a key.
const PEM_MAX: usize = 4096;

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
    use super::rsa_oaep;
    use rsa::pkcs8::EncodePublicKey;
    use rsa::{Oaep, RsaPrivateKey};
    use sha1::Sha1;

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
    fn what_is_no_key_is_said_to_be_none() {
        assert!(rsa_oaep(b"not a key", b"secret", [0; 20]).is_err());
        let long = rsa_oaep(&[b'x'; 5000], b"secret", [0; 20]).unwrap_err();
        assert_eq!(long, "5000 bytes are no key");
    }
}

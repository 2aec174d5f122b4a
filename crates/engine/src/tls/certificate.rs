//! Certificates and keys out of PEM texts, and what stands in a certificate.
//!
//! Texts of errors name no file and show nothing of a key: the caller says which file it was.

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use serde::Serialize;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::Certificate;

/// `id-at-commonName`, RFC 5280 appendix A.1.
const COMMON_NAME: &str = "2.5.4.3";
/// `id-ce-subjectAltName`.
const SUBJECT_ALT_NAME: &str = "2.5.29.17";

/// What an administrator wants to know of a certificate.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Its subject, as RFC 4514 writes it.
    pub subject: String,
    /// Unix time from which it is good.
    pub not_before_s: u64,
    /// Unix time after which it is not.
    pub not_after_s: u64,
    /// Host names and addresses it is for; of one without them the common name.
    pub names: Vec<String>,
}

/// Certificates of a PEM text, in order: the server's own first, then what signed it.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err("it holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned())
        }
        Ok(found) => Ok(found),
        Err(e) => Err(format!("it is not PEM: {e}")),
    }
}

/// A certificate with its chain, and the key that belongs to it.
pub fn pair(
    certificate: &str,
    key: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = certificates(certificate)?;
    if key.contains("ENCRYPTED") {
        return Err(
            "the key is locked with a passphrase; write it without: openssl pkey -in KEY -out NEW"
                .to_owned(),
        );
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
        "the key file holds no private key (-----BEGIN PRIVATE KEY-----)".to_owned()
    })?;
    let signer = any_supported_type(&key).map_err(|_| {
        "a key of this kind cannot be used: RSA from 2048 bits, ECDSA on P-256 or P-384, Ed25519"
            .to_owned()
    })?;
    match CertifiedKey::new(chain.clone(), signer).keys_match() {
        // What a certificate of an old kind has in it cannot be compared; the handshake would tell.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok((chain, key)),
        Err(Error::InconsistentKeys(_)) => {
            Err("the key does not belong to the certificate".to_owned())
        }
        Err(e) => Err(format!("the certificate cannot be used: {e}")),
    }
}

/// What stands in the certificates of a PEM text; with a key, whether that is the first one's.
pub fn read(certificate: &str, key: Option<&str>) -> Result<Vec<Facts>, String> {
    let chain = match key {
        Some(key) => pair(certificate, key)?.0,
        None => certificates(certificate)?,
    };
    chain.iter().map(|der| facts(der)).collect()
}

fn facts(der: &[u8]) -> Result<Facts, String> {
    let parsed = Certificate::from_der(der).map_err(|e| format!("a certificate is broken: {e}"))?;
    let validity = &parsed.tbs_certificate.validity;
    Ok(Facts {
        subject: parsed.tbs_certificate.subject.to_string(),
        not_before_s: validity.not_before.to_unix_duration().as_secs(),
        not_after_s: validity.not_after.to_unix_duration().as_secs(),
        names: names(&parsed).unwrap_or_else(|| common_name(&parsed).into_iter().collect()),
    })
}

/// Host names and addresses. None: it has no such list.
fn names(parsed: &Certificate) -> Option<Vec<String>> {
    let extensions = parsed.tbs_certificate.extensions.as_ref()?;
    let list = (extensions.iter()).find(|e| e.extn_id.to_string() == SUBJECT_ALT_NAME)?;
    let list = SubjectAltName::from_der(list.extn_value.as_bytes()).ok()?;
    let text = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => match bytes.as_bytes() {
            bytes @ [_, _, _, _] => <[u8; 4]>::try_from(bytes)
                .ok()
                .map(|b| std::net::Ipv4Addr::from(b).to_string()),
            bytes => <[u8; 16]>::try_from(bytes)
                .ok()
                .map(|b| std::net::Ipv6Addr::from(b).to_string()),
        },
        _ => None,
    };
    Some(list.0.iter().filter_map(text).collect())
}

fn common_name(parsed: &Certificate) -> Option<String> {
    let parts = parsed.tbs_certificate.subject.0.iter();
    let mut last = parts.flat_map(|part| part.0.iter());
    let value = last.find(|value| value.oid.to_string() == COMMON_NAME)?;
    let bytes = value.value.to_der().ok()?;
    // Tag and length of a short string, then its text.
    let text = bytes.get(2..2 + usize::from(*bytes.get(1)?))?;
    String::from_utf8(text.to_vec()).ok()
}

/// The common name of a certificate without a list of names, which OpenSSL, and so MySQL's clients, then go by.
/// Source: OpenSSL `X509_check_host`, "the subject commonName is checked only if no DNS names are present".
pub fn common_name_without_list(der: &[u8]) -> Option<String> {
    let parsed = Certificate::from_der(der).ok()?;
    match names(&parsed) {
        Some(_) => None,
        None => common_name(&parsed),
    }
}

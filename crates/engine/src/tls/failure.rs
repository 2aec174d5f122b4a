//! What a failed handshake is called: the reason for counters, the sentence for people.

use portside_core::reason::TlsFailure;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// The reason of an error.
pub fn failure(error: &Error) -> TlsFailure {
    use PeerIncompatible as Peer;
    match error {
        Error::InvalidMessage(_) => TlsFailure::NotTls,
        Error::PeerIncompatible(
            Peer::Tls12NotOffered
            | Peer::Tls12NotOfferedOrEnabled
            | Peer::ServerDoesNotSupportTls12Or13
            | Peer::ServerTlsVersionIsDisabledByOurConfig
            // Every hello of TLS 1.2 has it.
            | Peer::SignatureAlgorithmsExtensionRequired
            | Peer::SupportedVersionsExtensionRequired,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => TlsFailure::Version,
        Error::PeerIncompatible(_) | Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            TlsFailure::Cipher
        }
        Error::InvalidCertificate(_)
        | Error::NoCertificatesPresented
        | Error::InvalidCertRevocationList(_) => TlsFailure::Certificate,
        Error::AlertReceived(_) => TlsFailure::Refused,
        _ => TlsFailure::Broken,
    }
}

/// The sentence, behind "TLS: ". `peer`: "the client" or "the server".
pub fn words(error: &Error, peer: &str) -> String {
    match error {
        Error::AlertReceived(alert) => {
            format!("{peer} refused with the alert {}", alert_words(*alert))
        }
        Error::InvalidCertificate(e) => format!("{peer}'s certificate {}", certificate_words(e)),
        Error::NoCertificatesPresented => format!("{peer} showed no certificate"),
        error => match failure(error) {
            TlsFailure::NotTls => format!("{peer} sent something that is not TLS"),
            TlsFailure::Version => format!("{peer} speaks neither TLS 1.2 nor TLS 1.3"),
            TlsFailure::Cipher => format!("{peer} has no cipher in common with us ({error})"),
            _ => error.to_string(),
        },
    }
}

fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            "unknown_ca: it does not know who signed our certificate".into()
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            format!("{}: it does not accept our certificate", alert_name(alert))
        }
        AlertDescription::CertificateExpired => {
            "certificate_expired: our certificate is too old for it".into()
        }
        alert => alert_name(alert),
    }
}

/// As the standard writes it: `bad_certificate`.
fn alert_name(alert: AlertDescription) -> String {
    let mut name = String::new();
    let mut was_upper = true;
    for letter in format!("{alert:?}").chars() {
        if letter.is_ascii_uppercase() && !was_upper {
            name.push('_');
        }
        was_upper = letter.is_ascii_uppercase();
        name.push(letter.to_ascii_lowercase());
    }
    name
}

fn certificate_words(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet".into()
        }
        CertificateError::UnknownIssuer => "is not signed by the configured ca".into(),
        CertificateError::BadSignature => "is signed by another ca of the same name".into(),
        CertificateError::NotValidForName => "is for another name".into(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "is not for {}; it is for {}",
            expected.to_str(),
            presented.join(", ")
        ),
        CertificateError::Other(e) if e.to_string().contains("UnsupportedCertVersion") => {
            "is of X.509 version 1; make one of version 3 (openssl x509 -req -extfile)".into()
        }
        CertificateError::Other(e) if e.to_string().contains("CaUsedAsEndEntity") => {
            "is one of an authority; put it itself into ca".into()
        }
        other => format!("is not accepted: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{InvalidMessage, OtherError};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("UnsupportedCertVersion")]
    struct OldVersion;

    #[test]
    fn every_failure_has_its_reason_and_its_sentence() {
        let certificate = Error::InvalidCertificate;
        let old = CertificateError::Other(OtherError(std::sync::Arc::new(OldVersion)));
        for (error, reason, text) in [
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                TlsFailure::NotTls,
                "the peer sent something that is not TLS",
            ),
            (
                PeerIncompatible::Tls12NotOffered.into(),
                TlsFailure::Version,
                "the peer speaks neither TLS 1.2 nor TLS 1.3",
            ),
            (
                PeerIncompatible::NoCipherSuitesInCommon.into(),
                TlsFailure::Cipher,
                "the peer has no cipher in common with us",
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                TlsFailure::Refused,
                "refused with the alert unknown_ca: it does not know who signed our certificate",
            ),
            (
                Error::AlertReceived(AlertDescription::BadCertificate),
                TlsFailure::Refused,
                "refused with the alert bad_certificate: it does not accept our certificate",
            ),
            (
                Error::AlertReceived(AlertDescription::InternalError),
                TlsFailure::Refused,
                "the peer refused with the alert internal_error",
            ),
            (
                certificate(CertificateError::Expired),
                TlsFailure::Certificate,
                "the peer's certificate has expired",
            ),
            (
                certificate(CertificateError::UnknownIssuer),
                TlsFailure::Certificate,
                "the peer's certificate is not signed by the configured ca",
            ),
            (
                certificate(CertificateError::BadSignature),
                TlsFailure::Certificate,
                "the peer's certificate is signed by another ca of the same name",
            ),
            (
                certificate(old),
                TlsFailure::Certificate,
                "the peer's certificate is of X.509 version 1; make one of version 3",
            ),
            (
                Error::NoCertificatesPresented,
                TlsFailure::Certificate,
                "the peer showed no certificate",
            ),
            (Error::DecryptError, TlsFailure::Broken, "decrypt"),
        ] {
            assert_eq!(failure(&error), reason, "{error:?}");
            let words = words(&error, "the peer");
            assert!(words.contains(text), "{words}");
        }
    }
}

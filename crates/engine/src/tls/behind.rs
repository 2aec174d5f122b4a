//! Towards servers: the modes of MySQL's `--ssl-mode`, meaning the same.

use std::net::IpAddr;
use std::sync::Arc;

use portside_core::pool::Transport;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    ring, verify_tls12_signature, verify_tls13_signature, WebPkiSupportedAlgorithms,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

use super::{certificate, front, words};
use crate::snapshot::{ServerTlsSpec, TlsMode};

/// A server's side of TLS.
#[derive(Debug)]
pub struct Behind {
    spec: ServerTlsSpec,
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    roots: RootCertStore,
    /// The authorities as they are: a server may show one of them itself (self-signed).
    known: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Behind {
    /// Ready for handshakes; unchanged, it is the old one, with its sessions to resume. Errors are sentences.
    pub fn build(spec: &ServerTlsSpec, old: Option<&Arc<Self>>) -> Result<Arc<Self>, String> {
        if let Some(old) = old.filter(|old| old.spec == *spec) {
            return Ok(Arc::clone(old));
        }
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let authorities = spec.ca.as_deref().unwrap_or_default();
        let known = if spec.mode.is_verifying() {
            certificate::certificates(authorities)?
        } else {
            Vec::new()
        };
        let roots = if known.is_empty() {
            RootCertStore::empty()
        } else {
            front::roots(authorities)?
        };
        let verifier = Verifier {
            is_verifying: spec.mode.is_verifying(),
            algorithms,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match (spec.certificate.as_ref(), spec.key.as_ref()) {
            (Some(certificate), Some(key)) => {
                let (chain, key) = certificate::pair(certificate, key)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| e.to_string())?
            }
            _ => builder.with_no_client_auth(),
        };
        let name = spec.name.clone().map(ServerName::try_from).transpose();
        Ok(Arc::new(Self {
            spec: spec.clone(),
            config: Arc::new(config),
            name: name.map_err(|_| "name is no host name".to_owned())?,
            roots,
            known,
            algorithms,
        }))
    }

    /// How a login travels; on a unix socket "preferred" is content, as MySQL's clients are.
    pub fn transport(&self, is_tcp: bool) -> Transport {
        match self.spec.mode {
            TlsMode::Preferred if is_tcp => Transport::TlsIfOffered,
            TlsMode::Preferred => Transport::Secure,
            TlsMode::Required | TlsMode::VerifyCa | TlsMode::VerifyIdentity => Transport::Tls,
        }
    }

    /// A handshake with the server at this address; where no name is configured, the address is its name.
    pub fn connect(&self, ip: Option<IpAddr>) -> Result<ClientConnection, Error> {
        ClientConnection::new(Arc::clone(&self.config), self.name_of(ip))
    }

    fn name_of(&self, ip: Option<IpAddr>) -> ServerName<'static> {
        match (self.name.clone(), ip) {
            (Some(name), _) => name,
            (None, Some(ip)) => ServerName::IpAddress(ip.into()),
            // A unix socket; `portside check` wants a name there if it matters.
            (None, None) => ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
        }
    }

    /// Whether the mode is content with the server that shows this, once the handshake is over: nothing of ours may be
    /// said before.
    pub fn judge(&self, chain: &[CertificateDer<'_>], ip: Option<IpAddr>) -> Result<(), Error> {
        if !self.spec.mode.is_verifying() {
            return Ok(());
        }
        let (end_entity, intermediates) =
            chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        // One that cannot be read has not signed the handshake either (see `Verifier`).
        let parsed = ParsedCertificate::try_from(end_entity)?;
        // OpenSSL trusts a certificate that stands in the ca file, and so do MySQL's clients.
        if !self.known.contains(end_entity) {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                UnixTime::now(),
                self.algorithms.all,
            )?;
        }
        if self.spec.mode == TlsMode::VerifyIdentity {
            is_for(end_entity, &self.name_of(ip))?;
        }
        Ok(())
    }
}

/// Whether a server's `tls` (JSON, as in a snapshot) is content with one that shows these certificates, its own first.
/// Errors are sentences.
pub fn judge_certificate(tls: &str, chain: Vec<Vec<u8>>) -> Result<(), String> {
    let spec: ServerTlsSpec = serde_json::from_str(tls).map_err(|e| e.to_string())?;
    let behind = Behind::build(&spec, None)?;
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    let verdict = behind.judge(&chain, None);
    verdict.map_err(|error| words(&error, "the server"))
}

/// Judges signatures only. A handshake that is broken off for the certificate counts as an error of our address, and
/// after 100 (`max_connect_errors`) the server refuses us altogether, whatever certificate it has by then. So the
/// handshake comes to its end, [`Behind::judge`] follows, and the login of nobody ends what may not go on.
#[derive(Debug)]
struct Verifier {
    is_verifying: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Of a certificate that cannot be read no signature can be judged; nor will it be trusted.
    fn judges(&self, cert: &CertificateDer<'_>) -> bool {
        self.is_verifying && ParsedCertificate::try_from(cert).is_ok()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    // Whoever may show any certificate may as well sign as he likes: the modes that verify nothing accept keys and
    // certificates of every age, as MySQL's do.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.judges(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.judges(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// By the list of names, or, without one, by the common name, as OpenSSL has it.
fn is_for(end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let Some(common) = certificate::common_name_without_list(end_entity) else {
        return verify_server_name(&ParsedCertificate::try_from(end_entity)?, name);
    };
    let wanted = name.to_str();
    let behind_star = common
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.') && rest.matches('.').count() > 1);
    let fits = match (behind_star, wanted.split_once('.')) {
        (Some(rest), Some((_, domain))) => rest[1..].eq_ignore_ascii_case(domain),
        _ => common.eq_ignore_ascii_case(&wanted),
    };
    if fits {
        return Ok(());
    }
    Err(Error::InvalidCertificate(
        CertificateError::NotValidForNameContext {
            expected: name.to_owned(),
            presented: vec![common],
        },
    ))
}

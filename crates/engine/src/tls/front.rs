//! Towards clients: a service's certificate.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::certificate;
use crate::snapshot::ServiceTlsSpec;

/// A service's side of TLS.
#[derive(Debug)]
pub struct Front {
    spec: ServiceTlsSpec,
    config: Arc<ServerConfig>,
}

impl Front {
    /// Ready for handshakes; unchanged, it is the old one, with its tickets. Errors are sentences.
    pub fn build(spec: &ServiceTlsSpec, old: Option<&Arc<Self>>) -> Result<Arc<Self>, String> {
        if let Some(old) = old.filter(|old| old.spec == *spec) {
            return Ok(Arc::clone(old));
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let builder = match spec.client_ca.as_ref() {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let roots = Arc::new(roots(pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = if spec.client_verify {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| e.to_string())?)
            }
        };
        let (chain, key) = certificate::pair(&spec.certificate, &spec.key)?;
        let mut config = (builder.with_single_cert(chain, key)).map_err(|e| e.to_string())?;
        // Tickets need no memory per client and are good on every worker. One is enough: a client comes back once.
        config.ticketer = ring::Ticketer::new().map_err(|e| e.to_string())?;
        config.send_tls13_tickets = 1;
        Ok(Arc::new(Self {
            spec: spec.clone(),
            config: Arc::new(config),
        }))
    }

    /// Clients without TLS are turned away.
    pub fn is_required(&self) -> bool {
        self.spec.required
    }

    /// A handshake with a client.
    pub fn accept(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.config))
    }
}

/// Authorities out of a PEM text.
pub fn roots(pem: &str) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for der in certificate::certificates(pem)? {
        store
            .add(der)
            .map_err(|e| format!("an authority cannot be used: {e}"))?;
    }
    Ok(store)
}

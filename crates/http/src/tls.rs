//! TLS of the listener.

use std::path::Path;
use std::sync::Arc;

use base::{Error, Result, error::Internal};
use rustls::RootCertStore;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use crate::certificate::certificates_of;

pub type Acceptor = TlsAcceptor;

/// An acceptor that shows each connection what `shown` says by then, speaking HTTP/1.1 and HTTP/2. With `clients` it asks for a
/// certificate, which clients may keep to themselves.
pub fn acceptor(shown: Arc<dyn ResolvesServerCert>, clients: Option<Arc<dyn ClientCertVerifier>>) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().internal("TLS versions")?;
    let asks = clients.is_some();
    let mut config = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(shown);
    if asks {
        // A session that is taken up again shows no certificate: an old one would count for longer than it is good.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes certificates of clients by the authorities in a PEM file, and connections without one.
pub fn clients(authorities: &Path) -> Result<Arc<dyn ClientCertVerifier>> {
    let wrong = |problem: String| Error::invalid(format!("tls.client_ca: {}: {problem}", authorities.display()));
    let pem = std::fs::read(authorities).map_err(|e| wrong(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(&pem).map_err(|e| wrong(e.message().to_string()))? {
        roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
    verifier.map(|verifier| verifier as Arc<dyn ClientCertVerifier>).map_err(|e| wrong(e.to_string()))
}

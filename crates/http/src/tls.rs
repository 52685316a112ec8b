//! TLS of the listener.

use std::sync::Arc;

use base::{Result, error::Internal};
use rustls::server::ResolvesServerCert;
use tokio_rustls::TlsAcceptor;

pub type Acceptor = TlsAcceptor;

/// An acceptor that shows each connection what `shown` says by then, speaking HTTP/1.1 and HTTP/2.
pub fn acceptor(shown: Arc<dyn ResolvesServerCert>) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .internal("TLS versions")?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

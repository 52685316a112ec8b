//! TLS from PEM files.

use std::path::Path;
use std::sync::Arc;

use base::{Error, Result, error::Internal};
use tokio_rustls::TlsAcceptor;

pub type Acceptor = TlsAcceptor;

/// An acceptor with the chain in `certificate` and the key in `key`, speaking HTTP/1.1 and HTTP/2.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let open = |path: &Path| std::fs::File::open(path).map(std::io::BufReader::new).internal(&format!("opening {}", path.display()));
    let chain = rustls_pemfile::certs(&mut open(certificate)?).collect::<Result<Vec<_>, _>>().internal("reading the certificate")?;
    let key = rustls_pemfile::private_key(&mut open(key)?)
        .internal("reading the key")?
        .ok_or_else(|| Error::invalid(format!("{} holds no private key", key.display())))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .internal("TLS versions")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .internal("certificate and key")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

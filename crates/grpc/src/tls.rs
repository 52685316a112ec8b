//! Who may talk to whom.

use std::sync::Arc;

use base::{Error, Result, error::Internal};
use pki::{Revocations, Served};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::TlsAcceptor;

/// The controller's side.
#[derive(Clone)]
pub struct ServerTls {
    /// Whose certificates hosts must have, in PEM.
    pub ca: String,
    /// What hosts are shown: for each connection what it is by then.
    pub shown: Arc<Served>,
    /// The authority's list of certificates that are no longer good.
    pub revocations: Option<Arc<Revocations>>,
}

/// A host's side; texts in PEM.
#[derive(Clone)]
pub struct ClientTls {
    /// Whose certificate the controller must have.
    pub ca: String,
    pub cert: String,
    pub key: String,
}

impl ServerTls {
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in chain("ca", &self.ca)? {
            roots.add(certificate).map_err(|e| Error::invalid("`ca` is no authority").caused_by(e))?;
        }
        let known = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().internal("`ca`")?;
        let verifier = Arc::new(HostsOnly { known, revocations: self.revocations.clone() });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .internal("TLS versions")?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would skip the check of the certificate, and with it the revocations.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

pub(crate) fn chain(field: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(Error::invalid(format!("`{field}` holds no certificate in PEM"))),
        Err(e) => Err(Error::invalid(format!("`{field}` is not PEM")).caused_by(e)),
    }
}

/// Lets in who has a good certificate that names a host.
#[derive(Debug)]
struct HostsOnly {
    known: Arc<dyn ClientCertVerifier>,
    revocations: Option<Arc<Revocations>>,
}

impl ClientCertVerifier for HostsOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.known.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.known.verify_client_cert(certificate, between, now)?;
        let refused = || rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let peer = pki::peer(certificate).map_err(|_| refused())?;
        match self.revocations.as_ref().map(|list| list.contains(&peer.serial)) {
            None | Some(Ok(false)) => Ok(verified),
            Some(Ok(true)) => Err(rustls::Error::InvalidCertificate(CertificateError::Revoked)),
            Some(Err(error)) => {
                tracing::error!("nobody is let in while the revocations cannot be read: {}", error.chain());
                Err(refused())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known.supported_verify_schemes()
    }
}

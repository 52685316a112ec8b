//! What a host keeps to prove who it is.

use std::path::{Path, PathBuf};

use base::{Error, Result, error::Internal};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};

use crate::{files, life, peer};

/// A new key, and the request to have it certified. Neither `Debug` nor `Display`: the key is in it.
pub struct Request {
    key: String,
    /// PKCS #10 in PEM: for [`crate::Authority::sign_host`].
    pub text: String,
}

impl Request {
    pub fn new() -> Result<Request> {
        let doing = "making a host's key";
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).internal(doing)?;
        let request = CertificateParams::new([]).internal(doing)?.serialize_request(&key).internal(doing)?;
        Ok(Request { key: key.serialize_pem(), text: request.pem().internal(doing)? })
    }

    /// Keeps key and request in a file of its owner's, for [`Request::parse`].
    pub fn keep(&self, path: &Path) -> Result<()> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(Error::invalid(format!("{} names no file", path.display())));
        };
        files::directory(directory)?;
        let _lock = files::lock(directory)?;
        files::write(directory, name, 0o600, format!("{}{}", self.text, self.key).as_bytes())
    }

    /// A request as [`Request::keep`] wrote it.
    pub fn parse(text: &str) -> Result<Request> {
        let (text, key) = split(text)?;
        KeyPair::from_pem(key).map_err(|e| Error::invalid("no key in PEM").caused_by(e))?;
        Ok(Request { key: key.to_string(), text: text.to_string() })
    }

    /// The key in PEM.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// `ca.crt`, `host.crt` and `host.key` of a host that joined, in one directory.
pub struct HostFiles {
    directory: PathBuf,
}

impl HostFiles {
    pub fn new(directory: &Path) -> HostFiles {
        HostFiles { directory: directory.to_path_buf() }
    }

    /// Keeps what a controller answered to `request`. A crash in between leaves the old pair, or the new one whole.
    pub fn store(&self, authority: &str, certificate: &str, request: &Request) -> Result<()> {
        files::directory(&self.directory)?;
        let _lock = files::lock(&self.directory)?;
        files::write(&self.directory, "ca.crt", 0o644, authority.as_bytes())?;
        // Key and certificate are one file: two could not be replaced at once.
        files::write(&self.directory, "host.pem", 0o600, format!("{certificate}{}", request.key).as_bytes())
    }

    /// Authority, certificate and key in PEM. `NotFound` when the host has not joined.
    pub fn load(&self) -> Result<(String, String, String)> {
        let read = |name: &str| {
            let text = files::read(&self.directory.join(name))?;
            text.ok_or_else(|| Error::not_found("A certificate of this host", &self.directory.join(name).display().to_string()))
        };
        let (authority, pair) = (read("ca.crt")?, read("host.pem")?);
        let (certificate, key) = split(&pair)?;
        Ok((authority, certificate.to_string(), key.to_string()))
    }

    /// Whom the certificate names.
    pub fn peer(&self) -> Result<crate::Peer> {
        let (_, certificate, _) = self.load()?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes());
        peer::peer(&certificate.map_err(|e| Error::invalid("not a certificate in PEM").caused_by(e))?)
    }

    /// Whether the certificate should be replaced by now.
    pub fn is_due(&self) -> Result<bool> {
        Ok(files::read(&self.directory.join("host.pem"))?.is_none_or(|pem| life::is_due(&pem)))
    }
}

/// What stands before the key, and the key.
fn split(text: &str) -> Result<(&str, &str)> {
    text.find("-----BEGIN PRIVATE KEY").map(|at| text.split_at(at)).ok_or_else(|| Error::invalid("no private key in PEM"))
}

/// The SHA-256 of an authority's certificate (PEM), in hexadecimal: by it a newcomer knows the authority it has not met.
pub fn fingerprint(certificate: &str) -> Result<String> {
    let der =
        CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| Error::invalid("not a certificate in PEM").caused_by(e))?;
    Ok(peer::hex(&Sha256::digest(&der)))
}

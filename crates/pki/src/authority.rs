//! The authority's key and what it signs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base::{Error, Result, Timestamp, error::Internal};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use serde::{Deserialize, Serialize};

use crate::revocations::{Revocations, records};
use crate::{files, life, peer};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the authority's own certificate is good, and how long those it issues.
const AUTHORITY: Duration = DAY.saturating_mul(3650);
const CERTIFICATE: Duration = DAY.saturating_mul(365);
/// Clocks of hosts may be behind by this much.
const SKEW: Duration = Duration::from_secs(3600);

/// A certificate and its key, in PEM. Neither `Debug` nor `Display`: the key is in it.
pub struct Issued {
    /// The certificate itself; trust is anchored in [`Authority::certificate`].
    pub certificate: String,
    pub key: String,
    /// In hexadecimal.
    pub serial: String,
}

/// One line of `issued` and of `revoked`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub serial: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    pub at: Timestamp,
    /// Seconds since 1970: afterwards the line means nothing.
    pub not_after: u64,
}

pub struct Authority {
    directory: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    /// How long what it issues is good.
    life: Duration,
}

impl Authority {
    /// Opens the authority in `directory`, and makes it when there is none. A certificate of its own that is due is signed anew with the
    /// same key and name: whoever trusts the old one trusts what either signed.
    pub fn open(directory: &Path) -> Result<Authority> {
        files::directory(directory)?;
        let _lock = files::lock(directory)?;
        let (key, certificate) = (files::read(&directory.join("ca.key"))?, files::read(&directory.join("ca.crt"))?);
        let (key, certificate) = match (key, certificate) {
            (Some(key), Some(certificate)) => {
                let key = KeyPair::from_pem(&key).internal("reading the authority's key")?;
                let certificate = if life::is_due(&certificate) { renew(directory, &key, &certificate)? } else { certificate };
                (key, certificate)
            }
            (None, Some(_)) => {
                return Err(Error::invalid(format!("{} holds the authority's certificate but not its key", directory.display())));
            }
            // A key alone has signed nothing yet: the process died between the two files.
            (_, None) => create(directory, AUTHORITY)?,
        };
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).internal("reading the authority's certificate")?;
        Ok(Authority { directory: directory.to_path_buf(), certificate, issuer, life: CERTIFICATE })
    }

    /// The same authority, whose certificates are good for `life` from now on.
    pub fn lasting(self, life: Duration) -> Authority {
        Authority { life, ..self }
    }

    /// What others trust: the authority's own certificate in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn revocations(&self) -> Revocations {
        Revocations::new(&self.directory)
    }

    /// A certificate for a server that is reached by `names` (host names and addresses).
    pub fn issue_server(&self, names: &[String]) -> Result<Issued> {
        let Some(first) = names.first() else { return Err(Error::invalid("a server's certificate needs a name")) };
        let mut params = CertificateParams::new(names).map_err(|e| Error::invalid(format!("names {names:?}: {e}")))?;
        // The field holds 64 characters; clients look at the names only.
        params.distinguished_name.push(DnType::CommonName, first.chars().take(64).collect::<String>());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).internal("making a server's key")?;
        let (certificate, serial) = self.issue(params, &key, None, names)?;
        Ok(Issued { certificate, key: key.serialize_pem(), serial })
    }

    /// A certificate by which a host proves its id and its name, for the key that signed `request` (PKCS #10 in PEM). It serves
    /// for nothing else: of the request only the key is taken, whatever names and uses it asks for. Answers the certificate in PEM.
    pub fn sign_host(&self, host_id: &str, name: &str, request: &str) -> Result<String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        for (what, text) in [("id", host_id), ("name", name)] {
            if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
                return Err(Error::invalid(format!("a host's {what} has 1 to 64 letters, digits, `-`, `_` and `.`")));
            }
        }
        let asked = request_read(request)?;
        let mut params = CertificateParams::new([]).internal("a host's certificate")?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(peer::uri(host_id).try_into().internal("a host's certificate")?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, &asked.public_key, Some(host_id), &[]).map(|(certificate, _)| certificate)
    }

    /// The certificate in PEM and its serial.
    fn issue(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        host_id: Option<&str>,
        names: &[String],
    ) -> Result<(String, String)> {
        let serial = valid_for(&mut params, self.life)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).internal("issuing a certificate")?.pem();
        let record = Record {
            serial: serial.clone(),
            host_id: host_id.map(str::to_string),
            names: names.to_vec(),
            at: Timestamp::now(),
            not_after: params.not_after.unix_timestamp().max(0).unsigned_abs(),
        };
        // Written down before it is handed out: what is not in the list could not be revoked.
        let _lock = files::lock(&self.directory)?;
        self.append("issued", vec![record])?;
        Ok((certificate, serial))
    }

    /// Adds to a list, and drops what has expired meanwhile.
    fn append(&self, name: &str, added: Vec<Record>) -> Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut text = String::new();
        for record in records(&self.directory.join(name))?.into_iter().filter(|record| record.not_after > now).chain(added) {
            text.push_str(&serde_json::to_string(&record).internal("writing a list")?);
            text.push('\n');
        }
        files::write(&self.directory, name, 0o600, text.as_bytes())
    }

    /// Makes every certificate of a host worthless; how many there were. `NotFound` when it never had one.
    pub fn revoke_host(&self, host_id: &str) -> Result<usize> {
        let _lock = files::lock(&self.directory)?;
        let of_host = |record: &Record| record.host_id.as_deref() == Some(host_id);
        let mut issued = records(&self.directory.join("issued"))?;
        issued.retain(of_host);
        if issued.is_empty() {
            return Err(Error::not_found("A certificate of host", host_id));
        }
        let revoked: Vec<String> = records(&self.directory.join("revoked"))?.into_iter().map(|record| record.serial).collect();
        issued.retain(|record| !revoked.contains(&record.serial));
        for record in &mut issued {
            record.at = Timestamp::now();
        }
        let count = issued.len();
        if count > 0 {
            tracing::info!(host_id, "{count} certificates revoked");
            self.append("revoked", issued)?;
        }
        Ok(count)
    }

    /// A server's certificate and key (PEM) as they lie in the authority's directory, issued anew when the names changed or the
    /// certificate is due.
    pub fn server_pair(&self, names: &[String]) -> Result<(String, String)> {
        let wanted = serde_json::to_string(names).internal("a server's names")?;
        if let Some(pair) = self.server_read(&wanted)? {
            return Ok(pair);
        }
        let issued = self.issue_server(names)?;
        let _lock = files::lock(&self.directory)?;
        // The mark goes first and comes back last: a crash in between issues again.
        files::write(&self.directory, "server.names", 0o600, b"")?;
        files::write(&self.directory, "server.key", 0o600, issued.key.as_bytes())?;
        files::write(&self.directory, "server.crt", 0o644, issued.certificate.as_bytes())?;
        files::write(&self.directory, "server.names", 0o600, wanted.as_bytes())?;
        Ok((issued.certificate, issued.key))
    }

    /// The pair on disk, when it is for the wanted names and not due.
    fn server_read(&self, wanted: &str) -> Result<Option<(String, String)>> {
        let _lock = files::lock(&self.directory)?;
        let read = |name: &str| files::read(&self.directory.join(name));
        if read("server.names")?.as_deref() != Some(wanted) {
            return Ok(None);
        }
        let pair = read("server.crt")?.zip(read("server.key")?);
        Ok(pair.filter(|(certificate, _)| !life::is_due(certificate)))
    }
}

/// Whether a request for a certificate could be signed: `Invalid` when it is none.
pub fn request_check(request: &str) -> Result<()> {
    request_read(request).map(drop)
}

fn request_read(request: &str) -> Result<CertificateSigningRequestParams> {
    CertificateSigningRequestParams::from_pem(request)
        .map_err(|e| Error::invalid("request: not a signed request for a certificate (PKCS #10 in PEM).").caused_by(e))
}

fn create(directory: &Path, life: Duration) -> Result<(KeyPair, String)> {
    let doing = "making the authority";
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).internal(doing)?;
    let mut params = CertificateParams::new([]).internal(doing)?;
    let serial = valid_for(&mut params, life)?;
    // Two authorities never share a name, or a client could look up the wrong one.
    let certificate = sign_own(params, &key, &format!("Sturnus authority {}", serial.get(..8).unwrap_or(&serial)))?;
    files::write(directory, "ca.key", 0o600, key.serialize_pem().as_bytes())?;
    files::write(directory, "ca.crt", 0o644, certificate.as_bytes())?;
    tracing::info!("made an authority in {}", directory.display());
    Ok((key, certificate))
}

/// Another certificate for the key and the name of an authority whose own is due; call it under the lock.
fn renew(directory: &Path, key: &KeyPair, old: &str) -> Result<String> {
    let doing = "renewing the authority's certificate";
    let (_, pem) = x509_parser::pem::parse_x509_pem(old.as_bytes()).internal(doing)?;
    let old = pem.parse_x509().internal(doing)?;
    let name = old.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let name = name.ok_or_else(|| Error::internal("the authority's certificate has no name"))?;
    let mut params = CertificateParams::new([]).internal(doing)?;
    valid_for(&mut params, AUTHORITY)?;
    let certificate = sign_own(params, key, name)?;
    files::write(directory, "ca.crt", 0o644, certificate.as_bytes())?;
    tracing::info!("the authority's own certificate was renewed");
    Ok(certificate)
}

/// An authority's certificate for itself, in PEM.
fn sign_own(mut params: CertificateParams, key: &KeyPair, name: &str) -> Result<String> {
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key).internal("signing the authority's certificate")?.pem())
}

/// Sets a time from now and a random serial; the serial in hexadecimal.
fn valid_for(params: &mut CertificateParams, life: Duration) -> Result<String> {
    let mut serial = [0u8; 16];
    getrandom::fill(&mut serial).map_err(|e| Error::internal(format!("a serial number: {e}")))?;
    // Positive and of full length in any encoding.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let now = SystemTime::now();
    params.not_before = time::OffsetDateTime::from(now - SKEW);
    params.not_after = time::OffsetDateTime::from(now + life);
    Ok(peer::hex(&serial))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

    use super::*;

    fn trusts(authority: &str, certificate: &str) -> bool {
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(der(authority)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        verifier.verify_server_cert(&der(certificate), &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn an_authority_that_is_due_is_renewed_and_nobody_has_to_join_again() {
        let home = tempfile::tempdir().unwrap();
        let (_, old) = create(home.path(), Duration::from_secs(60)).unwrap();
        let names = ["localhost".to_string()];
        let before = {
            let key = KeyPair::from_pem(&std::fs::read_to_string(home.path().join("ca.key")).unwrap()).unwrap();
            let issuer = Issuer::from_ca_cert_pem(&old, key).unwrap();
            let directory = home.path().to_path_buf();
            Authority { directory, certificate: old.clone(), issuer, life: CERTIFICATE }.issue_server(&names).unwrap().certificate
        };
        let authority = Authority::open(home.path()).unwrap();
        assert_ne!(authority.certificate(), old);
        assert!(life::Life::of(authority.certificate()).unwrap().left() > 3649 * 86400);
        assert_eq!(Authority::open(home.path()).unwrap().certificate(), authority.certificate(), "once");
        let after = authority.issue_server(&names).unwrap().certificate;
        for trusted in [&old, authority.certificate()] {
            assert!(trusts(trusted, &before) && trusts(trusted, &after));
        }
        let other = Authority::open(&home.path().join("other")).unwrap();
        assert!(!trusts(other.certificate(), &after));
    }

    /// A host that was away while the authority's certificate ended has the old one still.
    #[test]
    fn who_has_the_old_certificate_of_the_authority_trusts_its_key_beyond_its_end() {
        let home = tempfile::tempdir().unwrap();
        let (_, old) = create(home.path(), Duration::ZERO).unwrap();
        assert!(life::Life::of(&old).unwrap().left() <= 0);
        let after = Authority::open(home.path()).unwrap().issue_server(&["localhost".to_string()]).unwrap();
        assert!(trusts(&old, &after.certificate));
    }
}

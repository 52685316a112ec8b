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
use crate::{files, peer};

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_DAYS: u32 = 3650;
const CERTIFICATE_DAYS: u32 = 365;
/// A server's certificate is replaced when less is left of it.
const RENEW_DAYS: u32 = 90;
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
}

impl Authority {
    /// Opens the authority in `directory`, and makes it when there is none.
    pub fn open(directory: &Path) -> Result<Authority> {
        files::directory(directory)?;
        let _lock = files::lock(directory)?;
        let (key, certificate) = (files::read(&directory.join("ca.key"))?, files::read(&directory.join("ca.crt"))?);
        let (key, certificate) = match (key, certificate) {
            (Some(key), Some(certificate)) => (KeyPair::from_pem(&key).internal("reading the authority's key")?, certificate),
            (None, Some(_)) => {
                return Err(Error::invalid(format!("{} holds the authority's certificate but not its key", directory.display())));
            }
            // A key alone has signed nothing yet: the process died between the two files.
            (_, None) => create(directory)?,
        };
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).internal("reading the authority's certificate")?;
        Ok(Authority { directory: directory.to_path_buf(), certificate, issuer })
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
        let serial = valid_for(&mut params, CERTIFICATE_DAYS)?;
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

    /// The files of a server's certificate and key in the authority's directory, issued anew when the names changed
    /// or little of its time is left.
    pub fn server_files(&self, names: &[String]) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (self.directory.join("server.crt"), self.directory.join("server.key"));
        let mark = self.directory.join("server.names");
        let wanted = serde_json::to_string(names).internal("a server's names")?;
        let fresh = {
            let _lock = files::lock(&self.directory)?;
            key.exists() && files::read(&mark)?.as_deref() == Some(&wanted) && days_left(&certificate)? > i64::from(RENEW_DAYS)
        };
        if !fresh {
            let issued = self.issue_server(names)?;
            let _lock = files::lock(&self.directory)?;
            // The mark goes first and comes back last: a crash in between issues again.
            files::write(&self.directory, "server.names", 0o600, b"")?;
            files::write(&self.directory, "server.key", 0o600, issued.key.as_bytes())?;
            files::write(&self.directory, "server.crt", 0o644, issued.certificate.as_bytes())?;
            files::write(&self.directory, "server.names", 0o600, wanted.as_bytes())?;
        }
        Ok((certificate, key))
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

/// Whole days until the certificate in a file expires; negative when it did, or when there is none.
pub(crate) fn days_left(path: &Path) -> Result<i64> {
    let Some(text) = files::read(path)? else { return Ok(-1) };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(text.as_bytes()) else { return Ok(-1) };
    let Ok(certificate) = pem.parse_x509() else { return Ok(-1) };
    Ok(certificate.validity().time_to_expiration().map_or(-1, |left| left.whole_days()))
}

fn create(directory: &Path) -> Result<(KeyPair, String)> {
    let doing = "making the authority";
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).internal(doing)?;
    let mut params = CertificateParams::new([]).internal(doing)?;
    let serial = valid_for(&mut params, AUTHORITY_DAYS)?;
    // Two authorities never share a name, or a client could look up the wrong one.
    params.distinguished_name.push(DnType::CommonName, format!("Sturnus authority {}", serial.get(..8).unwrap_or(&serial)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).internal(doing)?.pem();
    files::write(directory, "ca.key", 0o600, key.serialize_pem().as_bytes())?;
    files::write(directory, "ca.crt", 0o644, certificate.as_bytes())?;
    tracing::info!("made an authority in {}", directory.display());
    Ok((key, certificate))
}

/// Sets a time from now and a random serial; the serial in hexadecimal.
fn valid_for(params: &mut CertificateParams, days: u32) -> Result<String> {
    let mut serial = [0u8; 16];
    getrandom::fill(&mut serial).map_err(|e| Error::internal(format!("a serial number: {e}")))?;
    // Positive and of full length in any encoding.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let now = SystemTime::now();
    params.not_before = time::OffsetDateTime::from(now - SKEW);
    params.not_after = time::OffsetDateTime::from(now + DAY * days);
    Ok(peer::hex(&serial))
}

//! Two ends that shall know each other and nobody else, for a while.

use std::time::{Duration, SystemTime};

use base::{Result, error::Internal};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

const DAYS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks of hosts may be behind by this much.
const SKEW: Duration = Duration::from_secs(3600);

/// Certificates for both ends of one connection, of an authority that exists for them alone: its key is gone when they are made.
/// All in PEM. Neither `Debug` nor `Display`: keys are in it.
pub struct Pair {
    pub authority: String,
    /// What the server is called in its certificate.
    pub name: String,
    pub server: End,
    pub client: End,
}

pub struct End {
    pub certificate: String,
    pub key: String,
}

impl Pair {
    /// `id` may hold letters, digits and `-`.
    pub fn new(id: &str) -> Result<Pair> {
        let doing = "making certificates for a connection";
        let mut params = CertificateParams::new([]).internal(doing)?;
        params.distinguished_name.push(DnType::CommonName, format!("Sturnus connection {id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        valid(&mut params);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).internal(doing)?;
        let authority = CertifiedIssuer::self_signed(params, key).internal(doing)?;
        let name = format!("{id}.connection.sturnus");
        let end = |names: Vec<String>, purpose: ExtendedKeyUsagePurpose| {
            let mut params = CertificateParams::new(names.clone()).internal(doing)?;
            params.distinguished_name.push(DnType::CommonName, names.first().map_or("client", String::as_str));
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![purpose];
            params.use_authority_key_identifier_extension = true;
            valid(&mut params);
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).internal(doing)?;
            let certificate = params.signed_by(&key, &authority).internal(doing)?.pem();
            Ok(End { certificate, key: key.serialize_pem() })
        };
        Ok(Pair {
            server: end(vec![name.clone()], ExtendedKeyUsagePurpose::ServerAuth)?,
            client: end(Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)?,
            authority: authority.pem(),
            name,
        })
    }
}

fn valid(params: &mut CertificateParams) {
    let now = SystemTime::now();
    params.not_before = time::OffsetDateTime::from(now - SKEW);
    params.not_after = time::OffsetDateTime::from(now + DAYS);
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, X509Certificate};

    fn read(pem: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
    }

    #[test]
    fn each_pair_has_an_authority_of_its_own() {
        let (one, other) = (Pair::new("a-1").unwrap(), Pair::new("a-2").unwrap());
        let (authority, stranger) = (read(&one.authority), read(&other.authority));
        let key = |der: &[u8]| X509Certificate::from_der(der).unwrap().1.public_key().raw.to_vec();
        assert_ne!(key(&authority), key(&stranger));
        for (end, name) in [(&one.server, Some("a-1.connection.sturnus")), (&one.client, None)] {
            let der = read(&end.certificate);
            let certificate = X509Certificate::from_der(&der).unwrap().1;
            let signer = X509Certificate::from_der(&authority).unwrap().1;
            assert_eq!(certificate.issuer(), signer.subject());
            assert_ne!(certificate.issuer(), X509Certificate::from_der(&stranger).unwrap().1.subject());
            let purpose = certificate.extended_key_usage().unwrap().unwrap().value;
            assert_eq!((purpose.server_auth, purpose.client_auth), (name.is_some(), name.is_none()));
            let names = certificate.subject_alternative_name().unwrap();
            assert_eq!(names.is_some(), name.is_some());
            assert!(name.is_none_or(|name| end.certificate.len() > name.len() && one.name == name));
            assert!(end.key.contains("PRIVATE KEY"));
        }
    }
}

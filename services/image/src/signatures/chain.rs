//! Whether a signer's certificate may be trusted: whether it was issued, in one or several steps, by certificates that the user trusts.
//!
//! As upstream, the chain ends at a certificate that has signed itself, and all its certificates but the signer's are among the
//! trusted ones; each is in its time, and each that has issued another may do so (`CA`, `keyCertSign`, length of the path). Beyond
//! upstream, signatures over SHA-1 count for nothing. Certificates are signed with RSA, ECDSA of P-256 or P-384, or Ed25519.

use base::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::keys::der;

/// RSA over SHA-1, by both of its names: certificates can be made that share such a signature.
const BROKEN: [&str; 2] = ["1.2.840.113549.1.1.5", "1.3.14.3.2.29"];

/// Certificates are PEM or DER; of the trusted ones those that are no certificates, or may issue none, count for nothing. The error is a whole
/// sentence without its end.
pub fn trusts(trusted: &[Vec<u8>], certificate: &[u8], now: Timestamp) -> Result<(), String> {
    let outer: Vec<Vec<u8>> = trusted.iter().filter_map(|document| der(document).ok()).collect();
    let issuers: Vec<X509Certificate> = outer
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok())
        .map(|(_, parsed)| parsed)
        .filter(|issuer| in_time(issuer, now) && may_issue(issuer))
        .collect();
    let inner = der(certificate)?;
    let (_, signer) = X509Certificate::from_der(&inner).map_err(|_| "The certificate is no X.509 certificate")?;
    if !in_time(&signer, now) {
        return Err("The certificate is outside its valid date range".into());
    }
    let mut link = &signer;
    // Certificates below the next one that have not issued themselves, the signer's own not counted.
    let mut below = 0;
    for _ in 0..=issuers.len() {
        let Some(issuer) = issuers.iter().find(|issuer| has_issued(issuer, link)) else {
            return Err(format!(
                "Certificate chain building failed: who issued '{}' is not among the trusted certificates",
                link.subject()
            ));
        };
        if issuer.tbs_certificate.as_ref() == link.tbs_certificate.as_ref() {
            return Ok(());
        }
        if most_below(issuer).is_some_and(|most| below > most) {
            return Err(format!("Certificate validation failed: the chain below '{}' is longer than that allows", issuer.subject()));
        }
        if issuer.subject().as_raw() != issuer.issuer().as_raw() {
            below += 1;
        }
        link = issuer;
    }
    Err("Certificate chain building failed: the certificates have issued each other".into())
}

fn in_time(certificate: &X509Certificate, now: Timestamp) -> bool {
    let now = ASN1Time::from_timestamp(now.micros().div_euclid(1_000_000));
    now.is_ok_and(|now| certificate.validity().is_valid_at(now))
}

fn may_issue(certificate: &X509Certificate) -> bool {
    let authority = certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
    authority && certificate.key_usage().ok().flatten().is_some_and(|usage| usage.value.key_cert_sign())
}

/// How many certificates may stand between this one and a signer's; none: any number.
fn most_below(certificate: &X509Certificate) -> Option<u32> {
    certificate.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint)
}

fn has_issued(issuer: &X509Certificate, certificate: &X509Certificate) -> bool {
    issuer.subject().as_raw() == certificate.issuer().as_raw()
        && !BROKEN.contains(&certificate.signature_algorithm.algorithm.to_id_string().as_str())
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/data/chain/{name}.pem", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn outcome(signer: &str, trusted: &[&str], now: Timestamp) -> Result<(), String> {
        let trusted: Vec<Vec<u8>> = trusted.iter().map(|name| document(name)).collect();
        trusts(&trusted, &document(signer), now)
    }

    /// OpenSSL has made them all.
    #[test]
    fn chains_of_every_kind() {
        let building = "Certificate chain building failed";
        for (signer, trusted, wanted) in [
            ("leaf", &["root", "inter"][..], None),
            ("leaf", &["other-root", "notca", "inter", "root"], None),
            ("inter", &["root"], None),
            ("root", &["root"], None),
            // All of a chain is wanted, as by upstream.
            ("leaf", &["inter"], Some(building)),
            ("leaf", &["root"], Some(building)),
            ("leaf", &["leaf"], Some(building)),
            ("leaf", &[], Some(building)),
            // The same name, another key.
            ("leaf", &["other-root", "inter"], Some(building)),
            ("root", &["other-root"], Some(building)),
            // It may not issue certificates, and not so deep.
            ("under-notca", &["root", "notca"], Some(building)),
            ("deep", &["root", "inter", "deep-ca"], Some("is longer than that allows")),
            ("deep-ca", &["root", "inter"], None),
            ("sha1", &["root"], Some(building)),
            ("expired", &["root", "inter"], Some("outside its valid date range")),
        ] {
            let told = outcome(signer, trusted, Timestamp::now());
            match wanted {
                None => assert_eq!(told, Ok(()), "{signer} {trusted:?}"),
                Some(words) => assert!(told.clone().is_err_and(|why| why.contains(words)), "{signer} {trusted:?}: {told:?}"),
            }
        }
    }

    #[test]
    fn every_certificate_of_a_chain_is_in_its_time() {
        let then = Timestamp::parse("2020-07-01T00:00:00Z").unwrap();
        // Those that issued it are of later.
        assert!(outcome("expired", &["root", "inter"], then).unwrap_err().contains("chain building"));
        assert!(outcome("leaf", &["root", "inter"], then).unwrap_err().contains("date range"));
        let far = Timestamp::parse("2200-01-01T00:00:00Z").unwrap();
        assert!(outcome("leaf", &["root", "inter"], far).unwrap_err().contains("date range"));
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        assert!(trusts(&[b"nothing".to_vec()], b"nothing", Timestamp::now()).is_err());
        assert!(trusts(&[b"nothing".to_vec(), document("root"), document("inter")], &document("leaf"), Timestamp::now()).is_ok());
    }
}

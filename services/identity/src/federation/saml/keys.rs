//! Keys and certificates of those who sign, ourselves among them.

use std::path::Path;

use base::{Error, Result};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, Pem, X509Certificate};

const RSA_SHA1: &str = "http://www.w3.org/2000/09/xmldsig#rsa-sha1";
const RSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";
const RSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha384";
const RSA_SHA512: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512";
const ECDSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";

/// Whom a signature may be of. That the certificate has ended does not matter: whoever names it here vouches for it.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub der: Vec<u8>,
    /// As ring wants it: RSAPublicKey, or an uncompressed point.
    key: Vec<u8>,
    kind: KeyKind,
    /// Whether SHA-1 is good enough of this one.
    pub sha1: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum KeyKind {
    Rsa,
    P256,
    P384,
}

impl Certificate {
    /// All certificates of a PEM file, at least one. `Invalid` when there is none, or one whose key is of another kind than ours.
    pub fn load(path: &Path) -> Result<Vec<Certificate>> {
        let wrong = |problem: &dyn std::fmt::Display| Error::invalid(format!("{}: {problem}", path.display()));
        let text = std::fs::read(path).map_err(|e| wrong(&e))?;
        let mut all = Vec::new();
        for pem in Pem::iter_from_buffer(&text) {
            let pem = pem.map_err(|e| wrong(&e))?;
            if pem.label == "CERTIFICATE" {
                all.push(Certificate::of(pem.contents).ok_or_else(|| wrong(&"a certificate with a key of RSA, P-256 or P-384 is wanted"))?);
            }
        }
        if all.is_empty() { Err(wrong(&"there is no certificate in it")) } else { Ok(all) }
    }

    fn of(der: Vec<u8>) -> Option<Certificate> {
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let info = certificate.public_key();
        let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok()).map(|oid| oid.to_id_string());
        let kind = match (info.algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
            ("1.2.840.113549.1.1.1", _) => KeyKind::Rsa,
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => KeyKind::P256,
            ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => KeyKind::P384,
            _ => return None,
        };
        let key = info.subject_public_key.data.to_vec();
        Some(Certificate { der, key, kind, sha1: false })
    }

    /// The kind of the key decides what can be verified with it, never the document (as with tokens: CVE-2015-9235).
    fn verification(&self, algorithm: &str) -> Option<&'static dyn signature::VerificationAlgorithm> {
        Some(match (self.kind, algorithm) {
            (KeyKind::Rsa, RSA_SHA1) if self.sha1 => &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            (KeyKind::Rsa, RSA_SHA256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa, RSA_SHA384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa, RSA_SHA512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::P256, ECDSA_SHA256) => &signature::ECDSA_P256_SHA256_FIXED,
            (KeyKind::P384, ECDSA_SHA384) => &signature::ECDSA_P384_SHA384_FIXED,
            _ => return None,
        })
    }

    /// Whether its key is this one of RSA, in the form of PKCS#1.
    pub fn is_of_rsa(&self, key: &[u8]) -> bool {
        self.kind == KeyKind::Rsa && self.key == key
    }

    pub fn can(&self, algorithm: &str) -> bool {
        self.verification(algorithm).is_some()
    }

    pub fn verifies(&self, algorithm: &str, message: &[u8], sign: &[u8]) -> bool {
        self.verification(algorithm).is_some_and(|by| UnparsedPublicKey::new(by, &self.key).verify(message, sign).is_ok())
    }
}

/// The key by which this cloud signs, and the certificate that goes with it.
pub struct SigningKey {
    pub certificate: Vec<u8>,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
}

impl SigningKey {
    /// Of PEM files. `Invalid` when they cannot be read, or do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<SigningKey> {
        let wrong = |problem: &dyn std::fmt::Display| Error::invalid(format!("{}: {problem}", key.display()));
        let der = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(&e))?;
        let rejected = |e: ring::error::KeyRejected| wrong(&e);
        let pair = match &der {
            PrivateKeyDer::Pkcs1(key) => Pair::Rsa(RsaKeyPair::from_der(key.secret_pkcs1_der()).map_err(rejected)?),
            PrivateKeyDer::Pkcs8(key) => match RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()) {
                Ok(pair) => Pair::Rsa(pair),
                Err(_) => {
                    let form = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
                    Pair::P256(EcdsaKeyPair::from_pkcs8(form, key.secret_pkcs8_der(), &SystemRandom::new()).map_err(rejected)?)
                }
            },
            _ => return Err(wrong(&"a key of RSA (PKCS#1 or PKCS#8) or P-256 (PKCS#8) is wanted")),
        };
        let own = Certificate::load(certificate)?.swap_remove(0);
        let key = SigningKey { certificate: own.der.clone(), pair };
        if !own.verifies(key.algorithm(), b"", &key.sign(b"")?) {
            return Err(wrong(&"the key is not that of the certificate"));
        }
        Ok(key)
    }

    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => RSA_SHA256,
            Pair::P256(_) => ECDSA_SHA256,
        }
    }

    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut value = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut value)
                    .map_err(|_| Error::internal("no random numbers"))?;
                Ok(value)
            }
            Pair::P256(pair) => {
                let value = pair.sign(&SystemRandom::new(), message).map_err(|_| Error::internal("no random numbers"))?;
                Ok(value.as_ref().to_vec())
            }
        }
    }
}

//! The key in a certificate, and signatures by it.

use p384::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::pss::Pss;
use rsa::{BigUint, RsaPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Sha224, Sha256, Sha384, Sha512};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;

use super::Hash;

/// Keys outside this range are refused: shorter ones are broken, longer ones take an attacker's time from us.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// A digest shorter than the curve's numbers is a small number: the library wants it written out in full.
const P521_BYTES: usize = 66;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyType {
    RsaPss,
    P384,
    P521,
}

impl KeyType {
    /// The error goes on from the type's name.
    pub fn parse(text: &str) -> Result<KeyType, &'static str> {
        match text {
            "RSA-PSS" => Ok(KeyType::RsaPss),
            "ECC_SECP384R1" => Ok(KeyType::P384),
            "ECC_SECP521R1" => Ok(KeyType::P521),
            "DSA" | "ECC_SECT409K1" | "ECC_SECT409R1" | "ECC_SECT571K1" | "ECC_SECT571R1" => {
                Err("which this cloud does not verify: sign with RSA-PSS, ECC_SECP384R1 or ECC_SECP521R1")
            }
            _ => Err("not RSA-PSS, ECC_SECP384R1 or ECC_SECP521R1"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            KeyType::RsaPss => "RSA",
            KeyType::P384 => "SECP384R1",
            KeyType::P521 => "SECP521R1",
        }
    }
}

const BROKEN: &str = "it is no X.509 certificate";

/// A certificate as DER, which it is or holds as PEM.
pub fn der(document: &[u8]) -> Result<Vec<u8>, String> {
    if !document.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Ok(document.to_vec());
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(document.trim_ascii_start()).map_err(|_| BROKEN.to_string())?;
    Ok(pem.contents)
}

pub enum PublicKey {
    Rsa(RsaPublicKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(p521::ecdsa::VerifyingKey),
}

impl PublicKey {
    /// The key in a certificate, which is PEM or DER. The error goes on from the certificate's name.
    pub fn of_certificate(document: &[u8], wanted: KeyType) -> Result<PublicKey, String> {
        let broken = |_| BROKEN.to_string();
        let der = der(document)?;
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der).map_err(|_| broken(()))?;
        let info = &certificate.tbs_certificate.subject_pki;
        let curve = info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
        let mismatch = || format!("its key is not of type {}", wanted.name());
        match (wanted, info.parsed().map_err(|_| broken(()))?, curve.as_deref()) {
            (KeyType::RsaPss, Parsed::RSA(key), _) => rsa_key(key.modulus, key.exponent),
            (KeyType::P384, Parsed::EC(point), Some("1.3.132.0.34")) => p384::ecdsa::VerifyingKey::from_sec1_bytes(point.data())
                .map(PublicKey::P384)
                .map_err(|_| "its key is no point of its curve".into()),
            (KeyType::P521, Parsed::EC(point), Some("1.3.132.0.35")) => p521::ecdsa::VerifyingKey::from_sec1_bytes(point.data())
                .map(PublicKey::P521)
                .map_err(|_| "its key is no point of its curve".into()),
            _ => Err(mismatch()),
        }
    }

    /// Whether `signature` is of a content with this digest.
    pub fn verifies(&self, hash: Hash, digest: &[u8], signature: &[u8]) -> bool {
        match self {
            PublicKey::Rsa(key) => verifies_pss(key, hash, digest, signature),
            PublicKey::P384(key) => {
                p384::ecdsa::Signature::from_der(signature).is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok())
            }
            PublicKey::P521(key) => {
                let mut number = vec![0; P521_BYTES - digest.len()];
                number.extend_from_slice(digest);
                p521::ecdsa::Signature::from_der(signature).is_ok_and(|signature| key.verify_prehash(&number, &signature).is_ok())
            }
        }
    }
}

fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, String> {
    let (modulus, exponent) = (BigUint::from_bytes_be(modulus), BigUint::from_bytes_be(exponent));
    if !RSA_BITS.contains(&modulus.bits()) {
        return Err(format!("its key of {} bits is not of {} to {}", modulus.bits(), RSA_BITS.start(), RSA_BITS.end()));
    }
    RsaPublicKey::new_with_max_size(modulus, exponent, *RSA_BITS.end()).map(PublicKey::Rsa).map_err(|_| "its key is no RSA key".into())
}

/// With a salt as long as the key lets it be, which is all that upstream takes, or as long as the digest, which newer tools
/// and hardware make.
fn verifies_pss(key: &RsaPublicKey, hash: Hash, digest: &[u8], signature: &[u8]) -> bool {
    use rsa::traits::PublicKeyParts;
    let encoded = (key.n().bits() - 1).div_ceil(8);
    let salts = [encoded.saturating_sub(digest.len() + 2), digest.len()];
    salts.into_iter().any(|salt| {
        let scheme = match hash {
            Hash::Sha224 => Pss::new_with_salt::<Sha224>(salt),
            Hash::Sha256 => Pss::new_with_salt::<Sha256>(salt),
            Hash::Sha384 => Pss::new_with_salt::<Sha384>(salt),
            Hash::Sha512 => Pss::new_with_salt::<Sha512>(salt),
        };
        key.verify(scheme, digest, signature).is_ok()
    })
}

//! Signed images: whoever makes an image may give it a signature of its content, and then nothing else becomes its content.
//!
//! The signature stands in four properties, in the form that cursive's users know: the signature in base64, the hash it is
//! over, the type of key, and the id of the signer's certificate in the key manager. An image with all four is checked at
//! its upload; one with fewer is not signed. As upstream, the certificate is not traced to any authority at the upload, and its
//! time is not looked at: whose signature is trusted is for those to say who start guests (`proof`, `chain`).

mod chain;
mod keys;
mod proof;

use std::collections::BTreeMap;

use base::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::digest::DynDigest;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use crate::Images;
use crate::model::Image;
use keys::{KeyType, PublicKey};
pub use proof::{Doubt, Trust};

const SIGNATURE: &str = "img_signature";
const HASH: &str = "img_signature_hash_method";
const KEY: &str = "img_signature_key_type";
const CERTIFICATE: &str = "img_signature_certificate_uuid";

/// Whether an image's properties say that it is signed, well or badly.
pub fn is_signed(image: &Image) -> bool {
    !matches!(Claim::of(&image.properties), Ok(None))
}

/// What is signed is the hash of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn parse(text: &str) -> Option<Hash> {
        match text {
            "SHA-224" => Some(Hash::Sha224),
            "SHA-256" => Some(Hash::Sha256),
            "SHA-384" => Some(Hash::Sha384),
            "SHA-512" => Some(Hash::Sha512),
            _ => None,
        }
    }

    pub fn hasher(self) -> Hasher {
        Hasher(match self {
            Hash::Sha224 => Box::<Sha224>::default(),
            Hash::Sha256 => Box::<Sha256>::default(),
            Hash::Sha384 => Box::<Sha384>::default(),
            Hash::Sha512 => Box::<Sha512>::default(),
        })
    }
}

/// A hash on its way.
pub struct Hasher(Box<dyn DynDigest + Send>);

impl Hasher {
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }
    pub fn end(self) -> Box<[u8]> {
        self.0.finalize()
    }
}

/// What the properties of an image say.
struct Claim {
    signature: Vec<u8>,
    hash: Hash,
    key: KeyType,
    certificate: String,
}

impl Claim {
    /// None: the image is not signed. The error says what cannot be checked.
    fn of(properties: &BTreeMap<String, String>) -> std::result::Result<Option<Claim>, String> {
        let [Some(signature), Some(hash), Some(key), Some(certificate)] =
            [SIGNATURE, HASH, KEY, CERTIFICATE].map(|name| properties.get(name))
        else {
            return Ok(None);
        };
        let hash = Hash::parse(hash).ok_or_else(|| format!("{HASH} is '{hash}', not SHA-224, SHA-256, SHA-384 or SHA-512"))?;
        let key = KeyType::parse(key).map_err(|why| format!("{KEY} is '{key}', {why}"))?;
        // Clients break the lines of base64 as their tools do.
        let signature: String = signature.split_ascii_whitespace().collect();
        let signature = STANDARD.decode(signature).map_err(|_| format!("{SIGNATURE} is not base64"))?;
        // The id becomes part of a URL.
        if !base::id::is_uuid(certificate) {
            return Err(format!("{CERTIFICATE} is '{certificate}', which is no UUID"));
        }
        Ok(Some(Claim { signature, hash, key, certificate: certificate.clone() }))
    }
}

/// What the content of a signed image must be. Operations take it along: nobody has the user's token when they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    hash: Hash,
    key: KeyType,
    signature: Vec<u8>,
    certificate: Vec<u8>,
}

impl Expected {
    /// The hash whose digest [`Expected::check`] wants.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Whether the signature is of content with this digest. The error is for the uploader of the image `id`.
    pub fn check(&self, id: &str, digest: Option<&[u8]>) -> Result<()> {
        let key = PublicKey::of_certificate(&self.certificate, self.key).map_err(|why| failed(id, format!("its certificate: {why}")))?;
        if digest.is_some_and(|digest| key.verifies(self.hash, digest, &self.signature)) {
            return Ok(());
        }
        Err(failed(id, "the signature is not of this content by this certificate's key"))
    }
}

fn failed(id: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Signature verification failed for image {id}: {why}."))
}

impl Images {
    /// What the content of the image must be; none when it is not signed. `token` is the caller's, the key manager asks for it.
    pub(crate) async fn signature_expected(&self, token: Option<&str>, image: &Image) -> Result<Option<Expected>> {
        let claim = Claim::of(&image.properties).map_err(|why| failed(&image.id, why))?;
        let Some(Claim { signature, hash, key, certificate }) = claim else { return Ok(None) };
        let token = token.ok_or_else(|| failed(&image.id, "its certificate can only be asked for with a user's token"))?;
        let document = self.key_manager().certificate(token, &certificate).await.map_err(|error| {
            tracing::info!(image = image.id, "the certificate of a signed image: {}", error.chain());
            failed(&image.id, error.message().trim_end_matches('.'))
        })?;
        PublicKey::of_certificate(&document, key).map_err(|why| failed(&image.id, format!("certificate {certificate}: {why}")))?;
        Ok(Some(Expected { hash, key, signature, certificate: document }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(changes: &[(&str, Option<&str>)]) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from(
            [(SIGNATURE, "AAAA\n BBBB"), (HASH, "SHA-256"), (KEY, "RSA-PSS"), (CERTIFICATE, "0e7ef1a6-1c9a-4f7f-8f5d-0b3a0c5d9d10")]
                .map(|(name, value)| (name.to_string(), value.to_string())),
        );
        for (name, value) in changes {
            match value {
                Some(value) => all.insert(name.to_string(), value.to_string()),
                None => all.remove(*name),
            };
        }
        all
    }

    #[test]
    fn an_image_with_all_four_properties_is_signed() {
        let claim = Claim::of(&properties(&[])).unwrap().unwrap();
        assert_eq!((claim.signature.len(), claim.hash, claim.key), (6, Hash::Sha256, KeyType::RsaPss));
        for name in [SIGNATURE, HASH, KEY, CERTIFICATE] {
            assert!(Claim::of(&properties(&[(name, None)])).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_told_by_name() {
        for (name, value) in [
            (SIGNATURE, "!!"),
            (HASH, "MD5"),
            (HASH, "sha-256"),
            (KEY, "DSA"),
            (KEY, "ECC_SECT571K1"),
            (KEY, "RSA"),
            (CERTIFICATE, "../v1/orders"),
            (CERTIFICATE, ""),
        ] {
            let why = Claim::of(&properties(&[(name, Some(value))])).err().unwrap();
            assert!(why.starts_with(name), "{why}");
        }
    }
}

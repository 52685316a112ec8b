//! XML Encryption of what a SAML provider seals for us: opening alone. Anybody may bring a document, so nothing is to be learnt from how
//! it is taken: PKCS#1 v1.5 (CVE-2011-2487, CVE-2015-0226) is refused, a key that does not open is
//! replaced by a random one, and CBC, whose text can be changed and guessed without the key (CVE-2011-1096), is read only when a provider
//! whom we believe signed it as it stands.

use std::path::Path;

use aes::cipher::block_padding::Iso10126;
use aes::cipher::{BlockCipher, BlockDecryptMut, KeyInit, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use base::{Error, Result};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rsa::pkcs1::{DecodeRsaPrivateKey, EncodeRsaPublicKey};
use rsa::pkcs8::DecodePrivateKey;
use rsa::rand_core::OsRng;
use rsa::traits::PublicKeyParts;
use rsa::{Oaep, RsaPrivateKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha256, Sha384, Sha512};

use super::keys::Certificate;
use super::signature::{DSIG, algorithm, bytes};
use super::xml::Element;

const XENC: &str = "http://www.w3.org/2001/04/xmlenc#";
const XENC11: &str = "http://www.w3.org/2009/xmlenc11#";
pub const OAEP_MGF1P: &str = "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p";
const OAEP: &str = "http://www.w3.org/2009/xmlenc11#rsa-oaep";
pub const AES256_GCM: &str = "http://www.w3.org/2009/xmlenc11#aes256-gcm";
pub const AES128_GCM: &str = "http://www.w3.org/2009/xmlenc11#aes128-gcm";
/// Of RSA, in bits.
const LEAST_BITS: usize = 2048;
const CLOSED: &str = "what is encrypted does not open";

/// The key for which providers seal, and the certificate that tells them.
pub struct DecryptionKey {
    pub certificate: Vec<u8>,
    key: RsaPrivateKey,
}

impl DecryptionKey {
    /// Of PEM files. `Invalid` when they cannot be read, are not of RSA, or do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<DecryptionKey> {
        let wrong = |problem: &dyn std::fmt::Display| Error::invalid(format!("{}: {problem}", key.display()));
        let own = Certificate::load(certificate)?.swap_remove(0);
        let pair = match PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(&e))? {
            PrivateKeyDer::Pkcs1(der) => RsaPrivateKey::from_pkcs1_der(der.secret_pkcs1_der()).map_err(|e| wrong(&e))?,
            PrivateKeyDer::Pkcs8(der) => RsaPrivateKey::from_pkcs8_der(der.secret_pkcs8_der()).map_err(|e| wrong(&e))?,
            _ => return Err(wrong(&"a key of RSA (PKCS#1 or PKCS#8) is wanted")),
        };
        if pair.n().bits() < LEAST_BITS {
            return Err(wrong(&format!("the key has less than {LEAST_BITS} bits")));
        }
        let public = pair.to_public_key().to_pkcs1_der().map_err(|e| wrong(&e))?;
        if !own.is_of_rsa(public.as_bytes()) {
            return Err(wrong(&"the key is not that of the certificate"));
        }
        Ok(DecryptionKey { certificate: own.der, key: pair })
    }

    /// The text of an `EncryptedAssertion`. `signed`: it is known who sealed it so.
    pub fn open(&self, sealed: &Element, signed: bool) -> Result<String, &'static str> {
        let data = sealed.one(XENC, "EncryptedData").ok_or("nothing is encrypted in it, or several things are")?;
        let cipher = Cipher::of(method(data)?, signed)?;
        let session = self.session_key(wrapped_key(sealed, data)?, cipher.key_bytes())?;
        let text = cipher.open(&session, &value(data)?).ok_or(CLOSED)?;
        String::from_utf8(text).map_err(|_| CLOSED)
    }

    /// The key of one message; a random one when it does not open, so that nobody learns from the answer how far it went (Manger's attack).
    fn session_key(&self, wrapped: &Element, length: usize) -> Result<Vec<u8>, &'static str> {
        let padding = padding(wrapped)?;
        let sealed = value(wrapped)?;
        let mut other = vec![0; length];
        getrandom::fill(&mut other).map_err(|_| "there are no random numbers")?;
        let key = self.key.decrypt_blinded(&mut OsRng, padding, &sealed);
        Ok(key.ok().filter(|key| key.len() == length).unwrap_or(other))
    }
}

fn method(element: &Element) -> Result<&Element, &'static str> {
    element.one(XENC, "EncryptionMethod").ok_or("it does not say how it is encrypted")
}

/// What stands in an element itself: references to elsewhere are followed nowhere.
fn value(element: &Element) -> Result<Vec<u8>, &'static str> {
    let data = element.one(XENC, "CipherData").and_then(|data| data.one(XENC, "CipherValue"));
    data.and_then(bytes).ok_or("what is encrypted does not stand in it")
}

/// The one key of a message, which stands in the message or beside it.
fn wrapped_key<'a>(sealed: &'a Element, data: &'a Element) -> Result<&'a Element, &'static str> {
    let inside = data.all(DSIG, "KeyInfo").flat_map(|info| info.all(XENC, "EncryptedKey"));
    let mut keys = inside.chain(sealed.all(XENC, "EncryptedKey"));
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        _ => Err("it is encrypted with no key of its own, or with several"),
    }
}

/// How a key is wrapped. SHA-1 is good enough here: nothing depends on collisions.
fn padding(wrapped: &Element) -> Result<Oaep, &'static str> {
    const REFUSED: &str = "its key is wrapped in a way that is not taken";
    let method = method(wrapped)?;
    let mgf = match algorithm(method) {
        OAEP_MGF1P => "sha1",
        OAEP => match method.one(XENC11, "MGF").map(algorithm) {
            None => "sha1",
            Some(mgf) => mgf.strip_prefix("http://www.w3.org/2009/xmlenc11#mgf1").ok_or(REFUSED)?,
        },
        _ => return Err(REFUSED),
    };
    if method.one(XENC, "OAEPparams").and_then(bytes).is_some_and(|label| !label.is_empty()) {
        return Err(REFUSED);
    }
    let digest_name = match method.one(DSIG, "DigestMethod").map(algorithm) {
        None | Some("http://www.w3.org/2000/09/xmldsig#sha1") => "sha1",
        Some("http://www.w3.org/2001/04/xmlenc#sha256") => "sha256",
        Some("http://www.w3.org/2001/04/xmldsig-more#sha384") => "sha384",
        Some("http://www.w3.org/2001/04/xmlenc#sha512") => "sha512",
        Some(_) => return Err(REFUSED),
    };
    let digest = |name: &str| -> Option<Box<dyn DynDigest + Send + Sync>> {
        Some(match name {
            "sha1" => Box::new(Sha1::default()),
            "sha256" => Box::new(Sha256::default()),
            "sha384" => Box::new(Sha384::default()),
            "sha512" => Box::new(Sha512::default()),
            _ => return None,
        })
    };
    Ok(Oaep { digest: digest(digest_name).ok_or(REFUSED)?, mgf_digest: digest(mgf).ok_or(REFUSED)?, label: None })
}

enum Cipher {
    Gcm(&'static Algorithm),
    /// With the bytes of the key.
    Cbc(usize),
}

impl Cipher {
    fn of(method: &Element, signed: bool) -> Result<Cipher, &'static str> {
        let cipher = match algorithm(method) {
            AES128_GCM => Cipher::Gcm(&AES_128_GCM),
            AES256_GCM => Cipher::Gcm(&AES_256_GCM),
            "http://www.w3.org/2001/04/xmlenc#aes128-cbc" => Cipher::Cbc(16),
            "http://www.w3.org/2001/04/xmlenc#aes192-cbc" => Cipher::Cbc(24),
            "http://www.w3.org/2001/04/xmlenc#aes256-cbc" => Cipher::Cbc(32),
            _ => return Err("it is encrypted in a way that is not taken"),
        };
        match cipher {
            Cipher::Cbc(_) if !signed => Err("it is encrypted with CBC, and the response around it is not signed"),
            cipher => Ok(cipher),
        }
    }

    fn key_bytes(&self) -> usize {
        match self {
            Cipher::Gcm(algorithm) => algorithm.key_len(),
            Cipher::Cbc(length) => *length,
        }
    }

    /// What `sealed` holds: a nonce or an initialization vector, and what follows it.
    fn open(&self, key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        match self {
            Cipher::Gcm(algorithm) => {
                let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
                let (nonce, mut text) = (Nonce::try_assume_unique_for_key(nonce).ok()?, text.to_vec());
                let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
                let length = key.open_in_place(nonce, Aad::empty(), &mut text).ok()?.len();
                text.truncate(length);
                Some(text)
            }
            Cipher::Cbc(16) => chained::<Aes128>(key, sealed),
            Cipher::Cbc(24) => chained::<Aes192>(key, sealed),
            Cipher::Cbc(_) => chained::<Aes256>(key, sealed),
        }
    }
}

/// The last byte says how many were added; what the others are is nobody's affair, as XML Encryption has it.
fn chained<C: BlockDecryptMut + BlockCipher + KeyInit>(key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (vector, text) = sealed.split_at_checked(C::block_size())?;
    let opener = cbc::Decryptor::<C>::new_from_slices(key, vector).ok()?;
    let mut text = text.to_vec();
    let length = opener.decrypt_padded_mut::<Iso10126>(&mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_makes_it_panic(sealed in proptest::collection::vec(any::<u8>(), 0..80)) {
            for cipher in [Cipher::Gcm(&AES_128_GCM), Cipher::Gcm(&AES_256_GCM), Cipher::Cbc(16), Cipher::Cbc(24), Cipher::Cbc(32)] {
                let opened = cipher.open(&vec![1; cipher.key_bytes()], &sealed);
                prop_assert!(opened.is_none_or(|text| text.len() < sealed.len()));
            }
        }
    }
}

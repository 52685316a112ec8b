//! Signed tokens (RFC 7515, 7518, 7519) and the keys of those who sign them (RFC 7517).
//!
//! The kind of the key decides what can be verified with it, never the token: a token that names no algorithm, or one of those that
//! need a shared secret (CVE-2015-9235 and its kin), finds no key that fits.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value};

/// No token of a provider is longer.
const TOKEN: usize = 16 * 1024;
/// A provider has a few keys: those of today, yesterday and tomorrow.
const KEYS: usize = 64;

/// Why a token is not believed.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// None of the keys that are known: there may be new ones.
    UnknownKey,
    /// Anything else.
    Wrong(&'static str),
}

/// The keys of one provider.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed points.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl KeySet {
    /// Keys of other kinds than ours, and those that are for something else, are passed over.
    pub fn read(document: &Value) -> Result<KeySet, Fault> {
        let keys = document.get("keys").and_then(Value::as_array).ok_or(Fault::Wrong("the keys are no list"))?;
        if keys.len() > KEYS {
            return Err(Fault::Wrong("there are too many keys"));
        }
        Ok(KeySet(keys.iter().filter_map(Key::read).collect()))
    }
}

impl Key {
    fn read(value: &Value) -> Option<Key> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [&[4], &x[..], &y[..]].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x")?),
            _ => return None,
        };
        Some(Key { id: text("kid").map(str::to_string), algorithm: text("alg").map(str::to_string), material })
    }

    fn can(&self, algorithm: &str) -> bool {
        let kind = match &self.material {
            Material::Rsa { .. } => matches!(algorithm, "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512"),
            Material::P256(_) => algorithm == "ES256",
            Material::P384(_) => algorithm == "ES384",
            Material::Ed25519(_) => matches!(algorithm, "EdDSA" | "Ed25519"),
        };
        kind && self.algorithm.as_deref().is_none_or(|own| own == algorithm)
    }

    fn verifies(&self, algorithm: &str, message: &[u8], sign: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, sign).is_ok()
            }
            Material::P256(point) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, sign).is_ok(),
            Material::P384(point) => UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, sign).is_ok(),
            Material::Ed25519(x) => UnparsedPublicKey::new(&signature::ED25519, x).verify(message, sign).is_ok(),
        }
    }
}

/// Whether a text has the form of a signed token; others only their maker can read.
pub fn is_jwt(token: &str) -> bool {
    token.split('.').count() == 3
}

/// The claims of a token that one of the keys has signed.
pub fn verify(token: &str, keys: &KeySet) -> Result<Map<String, Value>, Fault> {
    if token.len() > TOKEN {
        return Err(Fault::Wrong("the token is too long"));
    }
    let Some((message, sign)) = token.rsplit_once('.') else { return Err(Fault::Wrong("it has no signature")) };
    let Some((header, body)) = message.split_once('.') else { return Err(Fault::Wrong("it has no header")) };
    let header = object(header).ok_or(Fault::Wrong("its header is no JSON object"))?;
    let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Fault::Wrong("it names no algorithm"))?;
    // What must be understood and is not makes a token void (RFC 7515, 4.1.11).
    if header.contains_key("crit") {
        return Err(Fault::Wrong("it asks for extensions"));
    }
    if !matches!(algorithm, "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" | "ES256" | "ES384" | "EdDSA" | "Ed25519") {
        return Err(Fault::Wrong("its algorithm is none that a public key verifies"));
    }
    let id = header.get("kid").and_then(Value::as_str);
    let named: Vec<&Key> = keys.0.iter().filter(|key| id.is_none() || key.id.as_deref() == id).collect();
    if named.is_empty() {
        return Err(Fault::UnknownKey);
    }
    let sign = URL_SAFE_NO_PAD.decode(sign).map_err(|_| Fault::Wrong("its signature is not encoded as such"))?;
    if !named.iter().any(|key| key.can(algorithm) && key.verifies(algorithm, message.as_bytes(), &sign)) {
        // Without a name of the key, a new one is as likely as a wrong signature.
        return Err(if id.is_none() { Fault::UnknownKey } else { Fault::Wrong("its signature does not fit") });
    }
    object(body).ok_or(Fault::Wrong("its claims are no JSON object"))
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use serde_json::json;

    fn b64(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn message(header: Value, claims: Value) -> String {
        format!("{}.{}", b64(header.to_string()), b64(claims.to_string()))
    }

    struct Ed(Ed25519KeyPair);
    impl Ed {
        fn new() -> Ed {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            Ed(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
        }
        fn jwk(&self) -> Value {
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": b64(self.0.public_key()) })
        }
        fn sign(&self, header: Value) -> String {
            let message = message(header, json!({ "sub": "bob" }));
            format!("{message}.{}", b64(self.0.sign(message.as_bytes())))
        }
    }

    fn keys(list: Value) -> KeySet {
        KeySet::read(&json!({ "keys": list })).unwrap()
    }

    #[test]
    fn signatures_of_elliptic_curves() {
        let ed = Ed::new();
        let set = keys(json!([ed.jwk()]));
        assert_eq!(verify(&ed.sign(json!({ "alg": "EdDSA", "kid": "k" })), &set).unwrap()["sub"], "bob");
        assert_eq!(verify(&ed.sign(json!({ "alg": "EdDSA" })), &set).unwrap()["sub"], "bob");
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let set = keys(json!([{ "kty": "EC", "crv": "P-256", "kid": "e", "x": b64(&point[1..33]), "y": b64(&point[33..]) }]));
        let message = message(json!({ "alg": "ES256", "kid": "e" }), json!({ "sub": "eve" }));
        let token = format!("{message}.{}", b64(pair.sign(&random, message.as_bytes()).unwrap()));
        assert_eq!(verify(&token, &set).unwrap()["sub"], "eve");
        assert!(is_jwt(&token) && !is_jwt("opaque") && !is_jwt("a.b.c.d"));
    }

    /// Made with another library (python-cryptography), whose private key is gone.
    #[test]
    fn signatures_of_rsa() {
        let source: Value = serde_json::from_str(include_str!("rsa.json")).unwrap();
        let set = keys(json!([source["key"]]));
        for name in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
            let token = source[name].as_str().unwrap();
            assert_eq!(verify(token, &set).unwrap()["sub"], "bob", "{name}");
            let (start, _) = token.rsplit_once('.').unwrap();
            assert_eq!(verify(&format!("{start}.{}", b64([1; 256])), &set), Err(Fault::Wrong("its signature does not fit")));
        }
        let mut small = source["key"].clone();
        small["n"] = json!(b64([0xff; 128]));
        assert_eq!(verify(source["RS256"].as_str().unwrap(), &keys(json!([small]))), Err(Fault::Wrong("its signature does not fit")));
    }

    #[test]
    fn what_nobody_signed_is_refused() {
        let ed = Ed::new();
        let set = keys(json!([ed.jwk()]));
        let good = ed.sign(json!({ "alg": "EdDSA", "kid": "k" }));
        let parts: Vec<&str> = good.split('.').collect();
        let none = message(json!({ "alg": "none", "kid": "k" }), json!({ "sub": "bob" }));
        // The public key as the secret of an HMAC.
        let hmac = message(json!({ "alg": "HS256", "kid": "k" }), json!({ "sub": "bob" }));
        let other = Ed::new().sign(json!({ "alg": "EdDSA", "kid": "k" }));
        let table = [
            (format!("{none}."), Fault::Wrong("its algorithm is none that a public key verifies")),
            (format!("{none}.{}", parts[2]), Fault::Wrong("its algorithm is none that a public key verifies")),
            (format!("{hmac}.{}", b64([0; 32])), Fault::Wrong("its algorithm is none that a public key verifies")),
            (other, Fault::Wrong("its signature does not fit")),
            (ed.sign(json!({ "alg": "RS256", "kid": "k" })), Fault::Wrong("its signature does not fit")),
            (ed.sign(json!({ "alg": "EdDSA", "kid": "other" })), Fault::UnknownKey),
            (ed.sign(json!({ "alg": "EdDSA", "kid": "k", "crit": ["exp"] })), Fault::Wrong("it asks for extensions")),
            (ed.sign(json!({ "kid": "k" })), Fault::Wrong("it names no algorithm")),
            (format!("{}.{}.{}", parts[0], b64("{\"sub\":\"root\"}"), parts[2]), Fault::Wrong("its signature does not fit")),
            (format!("{}.{}.", parts[0], parts[1]), Fault::Wrong("its signature does not fit")),
            (format!("{good}="), Fault::Wrong("its signature is not encoded as such")),
            ("a.b.c".into(), Fault::Wrong("its header is no JSON object")),
            ("x".repeat(TOKEN + 1), Fault::Wrong("the token is too long")),
        ];
        for (token, fault) in table {
            assert_eq!(verify(&token, &set), Err(fault), "{token}");
        }
    }

    #[test]
    fn keys_of_wrong_types_are_none() {
        for document in
            [json!(null), json!([]), json!({}), json!({ "keys": "k" }), json!({ "keys": {} }), json!({ "keys": vec![1; KEYS + 1] })]
        {
            assert!(KeySet::read(&document).is_err(), "{document}");
        }
        let ed = Ed::new();
        let mut jwk = ed.jwk();
        let token = ed.sign(json!({ "alg": "EdDSA" }));
        let odd = json!([null, 1, "k", [], {}, { "kty": 1 }, { "kty": "oct", "k": "AAAA" }, { "kty": "RSA", "n": 1, "e": "AQAB" },
            { "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }, { "kty": "OKP", "crv": "Ed25519", "x": "?" }, { "kty": "RSA", "n": "", "e": "" }]);
        assert_eq!(verify(&token, &keys(odd)), Err(Fault::UnknownKey));
        jwk["use"] = json!("enc");
        assert_eq!(verify(&token, &keys(json!([jwk]))), Err(Fault::UnknownKey));
        jwk["use"] = json!("sig");
        jwk["alg"] = json!("ES256");
        assert_eq!(verify(&token, &keys(json!([jwk]))), Err(Fault::UnknownKey));
    }

    proptest! {
        #[test]
        fn no_token_makes_it_panic(token in "[A-Za-z0-9_.-]{0,80}|eyJhbGciOiJFZERTQSJ9\\.[A-Za-z0-9_-]{0,20}\\.[A-Za-z0-9_-]{0,90}") {
            let set = keys(json!([{ "kty": "OKP", "crv": "Ed25519", "x": b64([7; 32]) }]));
            prop_assert!(verify(&token, &set).is_err());
        }
    }
}

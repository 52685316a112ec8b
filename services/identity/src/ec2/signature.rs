//! Signatures of requests to EC2 and S3: what a client signed with its secret is worked out again from what it sent. The forms are
//! Amazon's versions 1, 2 and 4, as Keystone reads them. Version 0 is refused: it signs neither the parameters nor the path.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Error, Result, Timestamp};
use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::fault;
use crate::wire::Object;

/// For how long a signature is good: keystone's `credential.auth_ttl`.
const LASTS: Duration = Duration::from_secs(15 * 60);
/// How far the clock of a signer may be ahead.
const AHEAD: Duration = Duration::from_secs(15 * 60);
/// The longest life of a URL that was signed beforehand.
const URL_LASTS: Duration = Duration::from_secs(7 * 24 * 3600);

const V4: &str = "AWS4-HMAC-SHA256";
const V4_END: &str = "aws4_request";

const BASE64: GeneralPurpose =
    GeneralPurpose::new(&ALPHABET, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// When a signature is good, as far as the signer said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    from: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Window {
    fn of(text: &str, lasts: Duration) -> Result<Window> {
        let at = time(text)?;
        let ahead = i64::try_from(AHEAD.as_micros()).unwrap_or(i64::MAX);
        Ok(Window { from: Some(Timestamp(at.0.saturating_sub(ahead))), until: Some(at.plus(lasts)) })
    }

    pub fn check(self, now: Timestamp) -> Result<()> {
        let early = self.from.is_some_and(|from| now < from);
        if early || self.until.is_some_and(|until| now > until) { Err(Error::unauthenticated("Credential is expired")) } else { Ok(()) }
    }
}

fn time(text: &str) -> Result<Timestamp> {
    Timestamp::parse(text).ok_or_else(|| Error::unauthenticated(format!("Credential timestamp is invalid: {text}")))
}

fn wrong() -> Error {
    Error::unauthenticated("Invalid EC2 signature.")
}

fn missing() -> Error {
    Error::unauthenticated("EC2 signature not supplied.")
}

/// The access key that a request names.
pub fn access(map: &Object) -> Result<&str> {
    let access = map.get("access").ok_or_else(|| Error::unauthenticated("EC2 Signature not supplied"))?;
    access.as_str().ok_or_else(|| fault::field("credentials/access", "it is not of type 'string'"))
}

/// A request to EC2, as the service hands it on that was asked.
pub struct Ec2Request {
    signature: String,
    verb: String,
    host: String,
    path: String,
    params: BTreeMap<String, String>,
    /// By their names in lower case.
    headers: BTreeMap<String, String>,
    body_hash: String,
}

impl Ec2Request {
    pub fn read(map: &Object) -> Result<Ec2Request> {
        let text = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(fault::field(&format!("credentials/{key}"), "it is not of type 'string'")),
        };
        let headers = pairs(map, "headers")?.into_iter().map(|(name, value)| (name.trim().to_lowercase(), value)).collect();
        Ok(Ec2Request {
            signature: text("signature")?,
            verb: text("verb")?,
            host: text("host")?,
            path: text("path")?,
            params: pairs(map, "params")?,
            headers,
            body_hash: text("body_hash")?,
        })
    }

    /// When the signature is good; `Unauthenticated` unless `secret` made it.
    pub fn check(&self, secret: &str) -> Result<Window> {
        if self.signature.is_empty() {
            return Err(missing());
        }
        match self.check_for(secret, &self.host, &self.headers) {
            // Some clients leave the port out of what they sign.
            Err(_) if self.host.contains(':') || self.headers.get("host").is_some_and(|host| host.contains(':')) => {
                let mut headers = self.headers.clone();
                if let Some(host) = headers.get_mut("host") {
                    *host = without_port(host);
                }
                self.check_for(secret, &without_port(&self.host), &headers)
            }
            done => done,
        }
    }

    fn check_for(&self, secret: &str, host: &str, headers: &BTreeMap<String, String>) -> Result<Window> {
        match self.params.get("SignatureVersion").map(String::as_str) {
            Some("1") => self.check_v1(secret),
            Some("2") => self.check_v2(secret, host),
            None | Some("4") => self.check_v4(secret, headers),
            Some(_) => Err(wrong()),
        }
    }

    /// What versions 1 and 2 sign says it by one of two parameters, or leaves it open.
    fn window(&self) -> Result<Window> {
        match (self.params.get("Timestamp"), self.params.get("Expires")) {
            (Some(at), _) => Window::of(at, LASTS),
            (None, Some(end)) => Ok(Window { from: None, until: Some(time(end)?) }),
            (None, None) => Ok(Window::default()),
        }
    }

    fn check_v1(&self, secret: &str) -> Result<Window> {
        let mut params: Vec<(String, &String, &String)> = self.params.iter().map(|(k, v)| (k.to_lowercase(), k, v)).collect();
        params.sort();
        let signed: String = params.into_iter().flat_map(|(_, key, value)| [key.as_str(), value.as_str()]).collect();
        verify::<Hmac<Sha1>>(secret.as_bytes(), signed.as_bytes(), &from_base64(&self.signature)?)?;
        self.window()
    }

    fn check_v2(&self, secret: &str, host: &str) -> Result<Window> {
        let mut params = self.params.clone();
        params.insert("SignatureMethod".into(), "HmacSHA256".into());
        let signed = format!("{}\n{host}\n{}\n{}", self.verb, self.path, query(&params));
        verify::<Hmac<Sha256>>(secret.as_bytes(), signed.as_bytes(), &from_base64(&self.signature)?)?;
        self.window()
    }

    fn check_v4(&self, secret: &str, headers: &BTreeMap<String, String>) -> Result<Window> {
        let authorization = headers.get("authorization").filter(|text| text.starts_with(V4));
        if authorization.is_none() && self.params.get("X-Amz-Algorithm").is_none_or(|algorithm| algorithm != V4) {
            return Err(wrong());
        }
        let said = |name: &str| match authorization {
            Some(text) => text.split_once(&format!("{name}=")).map(|(_, rest)| rest.split(',').next().unwrap_or_default().trim()),
            None => self.params.get(&format!("X-Amz-{name}")).map(String::as_str),
        };
        let (credential, names) = (said("Credential").ok_or_else(wrong)?, said("SignedHeaders").ok_or_else(wrong)?);
        let (_, scope) = credential.split_once('/').ok_or_else(wrong)?;
        let at = headers.get("x-amz-date").or_else(|| self.params.get("X-Amz-Date")).ok_or_else(wrong)?;
        let mut canonical = String::new();
        for name in names.split(';') {
            if let Some(value) = headers.get(name) {
                let folded: Vec<&str> = value.split_whitespace().collect();
                canonical.push_str(&format!("{name}:{}\n", folded.join(" ")));
            }
        }
        // A POST has its parameters in the body, of which the hash is signed.
        let query = if self.verb.eq_ignore_ascii_case("POST") { String::new() } else { query(&self.params) };
        let verb = self.verb.to_uppercase();
        let request = format!("{verb}\n{}\n{query}\n{canonical}\n{names}\n{}", self.path, self.body_hash);
        let signed = format!("{V4}\n{at}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
        verify_v4(secret, scope, at, signed.as_bytes(), &self.signature)?;
        Window::of(at, LASTS)
    }
}

/// What S3 was asked, as the text that was signed.
pub struct S3Request {
    signature: String,
    signed: Vec<u8>,
}

impl S3Request {
    pub fn read(map: &Object) -> Result<S3Request> {
        let text = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Err(missing()),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(fault::field(&format!("credentials/{key}"), "it is not of type 'string'")),
        };
        let token = text("token")?.replace('-', "+").replace('_', "/");
        let signed = BASE64.decode(token.trim()).map_err(|_| fault::field("credentials/token", "it is not base64"))?;
        Ok(S3Request { signature: text("signature")?.to_string(), signed })
    }

    /// When the signature is good; `Unauthenticated` unless `secret` made it. The store that was asked knows how long its URLs
    /// last; here a signature of version 4 only cannot be older than any of them.
    pub fn check(&self, secret: &str) -> Result<Window> {
        if !self.signed.starts_with(b"AWS4") {
            verify::<Hmac<Sha1>>(secret.as_bytes(), &self.signed, &from_base64(&self.signature)?)?;
            return Ok(Window::default());
        }
        let text = std::str::from_utf8(&self.signed).map_err(|_| wrong())?;
        let [V4, at, scope, _] = text.split('\n').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let [_, _, "s3" | "iam" | "sts", V4_END] = scope.split('/').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        verify_v4(secret, scope, at, &self.signed, &self.signature)?;
        Window::of(at, URL_LASTS)
    }
}

/// `scope` is `DATE/REGION/SERVICE/aws4_request`, and the time that is signed lies on its date.
fn verify_v4(secret: &str, scope: &str, at: &str, signed: &[u8], signature: &str) -> Result<()> {
    let [date, region, service, V4_END] = scope.split('/').collect::<Vec<_>>()[..] else { return Err(wrong()) };
    if date.len() != 8 || !at.starts_with(date) {
        return Err(wrong());
    }
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [date, region, service, V4_END] {
        key = mac::<Hmac<Sha256>>(&key, part.as_bytes())?.finalize().into_bytes().to_vec();
    }
    verify::<Hmac<Sha256>>(&key, signed, &from_hex(signature)?)
}

fn mac<M: Mac + hmac::digest::KeyInit>(key: &[u8], text: &[u8]) -> Result<M> {
    let mut mac = <M as Mac>::new_from_slice(key).map_err(|_| Error::internal("a key of HMAC may have any length"))?;
    mac.update(text);
    Ok(mac)
}

/// Compares in constant time.
fn verify<M: Mac + hmac::digest::KeyInit>(key: &[u8], text: &[u8], signature: &[u8]) -> Result<()> {
    mac::<M>(key, text)?.verify_slice(signature).map_err(|_| wrong())
}

fn from_base64(text: &str) -> Result<Vec<u8>> {
    BASE64.decode(text.trim()).map_err(|_| wrong())
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let text = text.trim().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let bytes: Option<Vec<u8>> = text.chunks(2).map(|chunk| if chunk.len() == 2 { pair(chunk) } else { None }).collect();
    bytes.ok_or_else(wrong)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The member `key`, an object of texts and numbers.
fn pairs(map: &Object, key: &str) -> Result<BTreeMap<String, String>> {
    let wrong = || fault::field(&format!("credentials/{key}"), "it is not an object of strings");
    let object = match map.get(key) {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(object)) => object,
        Some(_) => return Err(wrong()),
    };
    object
        .iter()
        .map(|(name, value)| match value {
            Value::String(text) => Ok((name.clone(), text.clone())),
            Value::Number(number) => Ok((name.clone(), number.to_string())),
            _ => Err(wrong()),
        })
        .collect()
}

/// Sorted, each byte escaped that RFC 3986 does not leave alone.
fn query(params: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = params.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    pairs.join("&")
}

pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `[::1]:80` and `name:80` without the port.
fn without_port(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name.to_string(),
        _ => host.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const SECRET: &str = "89cdf9e94e2643cab35b8b8ac5a51f83";
    const AWS_SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn ec2(request: Value) -> Ec2Request {
        Ec2Request::read(request.as_object().unwrap()).unwrap()
    }

    fn old(version: &str, signature: &str, more: Value) -> Ec2Request {
        let mut params = json!({ "SignatureVersion": version, "AWSAccessKeyId": "966afbde20b84200ae4e62e09acf46b2" });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ec2(json!({ "host": "127.0.0.1", "verb": "GET", "path": "/v1/", "params": params, "signature": signature }))
    }

    /// The vectors of python-keystoneclient's tests.
    #[test]
    fn versions_1_and_2_as_known() {
        assert_eq!(old("1", "VRnoQH/EhVTTLhwRLfuL7jmFW9c=", json!({})).check(SECRET).unwrap(), Window::default());
        assert_eq!(old("2", "odsGmT811GffUO0Eu13Pq+xTzKNIjJ6NhgZU74tYX/w=", json!({})).check(SECRET).unwrap(), Window::default());
        let zero = json!({ "Timestamp": "2012-11-27T11:47:02Z", "Action": "Foo" });
        old("0", "SmXQEZAUdQw5glv5mX8mmixBtas=", zero).check(SECRET).unwrap_err();
        old("3", "SmXQEZAUdQw5glv5mX8mmixBtas=", json!({})).check(SECRET).unwrap_err();
        for broken in ["", "VRnoQH", "VRnoQH/EhVTTLhwRLfuL7jmFW9d=", "ü"] {
            old("1", broken, json!({})).check(SECRET).unwrap_err();
        }
        old("1", "VRnoQH/EhVTTLhwRLfuL7jmFW9c=", json!({ "More": 1 })).check(SECRET).unwrap_err();
        old("2", "odsGmT811GffUO0Eu13Pq+xTzKNIjJ6NhgZU74tYX/w=", json!({})).check("other").unwrap_err();
    }

    fn v4(host: &str, signature: &str) -> Value {
        let authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20110909/us-east-1/iam/aws4_request,\
                             SignedHeaders=content-type;host;x-amz-date,";
        json!({ "host": host, "verb": "POST", "path": "/", "params": {}, "signature": signature,
            "body_hash": "b6359072c78d70ebee1e81adcbab4f01bf2c23245fa365ef83fe8f1f955085e2",
            "headers": { "Content-type": "application/x-www-form-urlencoded; charset=utf-8", "X-Amz-Date": "20110909T233600Z",
                         "Host": host, "Authorization": authorization } })
    }

    const AMAZONS: &str = "ced6826de92d2bdeed8f846f0bf508e8559e98e4b0199114b84c54174deb456c";

    /// Amazon's own example, and python-keystoneclient's with ports.
    #[test]
    fn version_4_as_known() {
        let window = ec2(v4("iam.amazonaws.com", AMAZONS)).check(AWS_SECRET).unwrap();
        let at = |text: &str| Timestamp::parse(text).unwrap();
        window.check(at("2011-09-09T23:36:00Z")).unwrap();
        window.check(at("2011-09-09T23:51:00Z")).unwrap();
        window.check(at("2011-09-09T23:51:01Z")).unwrap_err();
        window.check(at("2011-09-09T23:20:59Z")).unwrap_err();
        ec2(v4("foo:8000", "26dd92ea79aaa49f533d13b1055acdcd7d7321460d64621f96cc79c4f4d4ab2b")).check(AWS_SECRET).unwrap();
        ec2(v4("foo:8000", "9a4b2276a5039ada3b90f72ea8ec174514b92b909fb106b22ad910c5d75a54f4")).check(AWS_SECRET).unwrap();
        ec2(v4("bar:8000", "9a4b2276a5039ada3b90f72ea8ec174514b92b909fb106b22ad910c5d75a54f4")).check(AWS_SECRET).unwrap_err();
    }

    /// What botocore 1.44.5 signs: a header that is folded, a query that is escaped; and a URL that was signed beforehand.
    #[test]
    fn version_4_as_botocore_signs() {
        let authorization = "AWS4-HMAC-SHA256 Credential=access/20260101/RegionOne/ec2/aws4_request, SignedHeaders=host;x-amz-date;x-spaces, \
                             Signature=3a0e2848911efe809dee42f4adf8eb53d1fb9a962fa1edaa6fcb35fcda8736ff";
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let request = json!({ "verb": "GET", "host": "cloud:8788", "path": "/services/Cloud", "body_hash": empty,
            "params": { "Action": "Describe Instances", "Filter.1": "a*b~c ü", "Empty": "" },
            "headers": { "Host": "cloud:8788", "X-Spaces": " a   b ", "X-Amz-Date": "20260101T120000Z", "Authorization": authorization },
            "signature": "3a0e2848911efe809dee42f4adf8eb53d1fb9a962fa1edaa6fcb35fcda8736ff" });
        ec2(request).check(SECRET).unwrap();
        let params = json!({ "Action": "List", "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Date": "20260101T120000Z", "X-Amz-Expires": 60,
            "X-Amz-Credential": "access/20260101/RegionOne/ec2/aws4_request", "X-Amz-SignedHeaders": "host" });
        let request = json!({ "verb": "GET", "host": "cloud", "path": "/b/k", "body_hash": empty, "params": params,
            "headers": { "Host": "cloud" }, "signature": "41535dcc3f40f71a2d430f20cda978abafd28b1ed36d19a0497e16085242b94e" });
        ec2(request).check(SECRET).unwrap();
    }

    #[test]
    fn version_4_covers_what_it_names() {
        for (at, value) in [
            ("/verb", json!("PUT")),
            ("/path", json!("/other")),
            ("/body_hash", json!("00")),
            ("/headers/Host", json!("evil")),
            ("/headers/Content-type", json!("text/plain")),
            ("/headers/X-Amz-Date", json!("20110909T233601Z")),
            ("/headers/X-Amz-Date", json!("20110910T233600Z")),
            ("/headers/X-Amz-Date", Value::Null),
            ("/signature", json!("ced6")),
            ("/signature", json!("ced")),
            ("/signature", json!("zz")),
        ] {
            let mut request = v4("iam.amazonaws.com", AMAZONS);
            if value.is_null() {
                request["headers"].as_object_mut().unwrap().remove("X-Amz-Date");
            } else {
                *request.pointer_mut(at).unwrap() = value;
            }
            assert!(ec2(request).check(AWS_SECRET).is_err(), "{at}");
        }
        // The time that counts is the one that was signed, whatever stands beside it (cf. CVE-2020-12692).
        let mut request = v4("iam.amazonaws.com", AMAZONS);
        request["params"]["Timestamp"] = json!(Timestamp::now().iso());
        request["params"]["X-Amz-Date"] = json!("20300101T000000Z");
        ec2(request).check(AWS_SECRET).unwrap().check(Timestamp::now()).unwrap_err();
    }

    #[test]
    fn of_versions_1_and_2_too_the_signed_time_counts() {
        let sign = |params: &Value| {
            let mut request = old("1", "-", params.clone());
            let mut keys: Vec<_> = request.params.clone().into_iter().collect();
            keys.sort_by_key(|(key, _)| key.to_lowercase());
            let text: String = keys.into_iter().flat_map(|(key, value)| [key, value]).collect();
            let digest = mac::<Hmac<Sha1>>(SECRET.as_bytes(), text.as_bytes()).unwrap().finalize().into_bytes();
            request.signature = BASE64.encode(digest);
            request.check(SECRET)
        };
        let now = Timestamp::parse("2026-01-01T12:00:00Z").unwrap();
        for (params, good) in [
            (json!({ "Timestamp": "2026-01-01T12:00:00Z" }), true),
            (json!({ "Timestamp": "2026-01-01T11:45:00Z" }), true),
            (json!({ "Timestamp": "2026-01-01T11:44:59Z" }), false),
            (json!({ "Timestamp": "2026-01-01T12:15:01Z" }), false),
            (json!({ "Expires": "2026-01-01T12:00:01Z" }), true),
            (json!({ "Expires": "2026-01-01T11:59:59Z" }), false),
        ] {
            assert_eq!(sign(&params).unwrap().check(now).is_ok(), good, "{params}");
        }
        sign(&json!({ "Timestamp": "yesterday" })).unwrap_err();
    }

    fn s3(signed: &str, signature: &str) -> Result<Window> {
        let token = base64::engine::general_purpose::URL_SAFE.encode(signed);
        S3Request::read(json!({ "token": token, "signature": signature }).as_object().unwrap())?.check(AWS_SECRET)
    }

    /// Amazon's examples of the S3 API: REST authentication, and a GET with version 4.
    #[test]
    fn s3_as_known() {
        let v1 = "GET\n\n\nTue, 27 Mar 2007 19:36:42 +0000\n/awsexamplebucket1/photos/puppy.jpg";
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let token = base64::engine::general_purpose::URL_SAFE.encode(v1);
        let request = |token: &str, signature: &str| {
            S3Request::read(json!({ "token": token, "signature": signature }).as_object().unwrap()).unwrap().check(secret)
        };
        assert_eq!(request(&token, "qgk2+6Sv9/oM7G3qLEjTH1a1l1g=").unwrap(), Window::default());
        request(&token, "qgk2+6Sv9/oM7G3qLEjTH1a1l1h=").unwrap_err();
        let v4 = "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n\
                  7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972";
        let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        let token = base64::engine::general_purpose::URL_SAFE.encode(v4);
        let window = request(&token, signature).unwrap();
        window.check(Timestamp::parse("2013-05-30T23:59:59Z").unwrap()).unwrap();
        window.check(Timestamp::parse("2013-05-31T00:00:01Z").unwrap()).unwrap_err();
        window.check(Timestamp::parse("2013-05-23T00:00:00Z").unwrap()).unwrap_err();
        for other in [
            v4.replace("/s3/", "/ec2/"),
            v4.replace("aws4_request", "aws5_request"),
            v4.replace("20130524/", "20130525/"),
            v4.replace("SHA256\n", "SHA512\n"),
            format!("{v4}\n"),
            "AWS4".into(),
            "AWS4\n\n\n".into(),
        ] {
            s3(&other, signature).unwrap_err();
        }
    }

    #[test]
    fn wrong_forms_are_named() {
        for (request, field) in [
            (json!({ "signature": 1 }), "signature"),
            (json!({ "params": [] }), "params"),
            (json!({ "params": { "a": [] } }), "params"),
            (json!({ "headers": { "a": null } }), "headers"),
            (json!({ "host": {} }), "host"),
        ] {
            let message = Ec2Request::read(request.as_object().unwrap()).err().unwrap().to_string();
            assert!(message.contains(&format!("credentials/{field}")), "{message}");
        }
        assert!(S3Request::read(json!({ "token": "ä", "signature": "s" }).as_object().unwrap()).is_err());
        assert!(S3Request::read(json!({ "token": "YQ==" }).as_object().unwrap()).is_err());
    }

    proptest! {
        /// Whatever a service hands on, nothing of it is taken for a signature, and nothing panics.
        #[test]
        fn no_other_text_passes(
            version in "[0-9]?", host in ".{0,12}", names in ".{0,20}", scope in "[0-9a-z/]{0,40}", date in "[0-9TZ]{0,17}", signature in ".{0,70}",
        ) {
            let authorization = format!("AWS4-HMAC-SHA256 Credential=a/{scope},SignedHeaders={names},");
            let mut params = json!({ "X-Amz-Date": date });
            if !version.is_empty() {
                params["SignatureVersion"] = json!(version);
            }
            let headers = json!({ "Authorization": authorization, "Host": host });
            let request = ec2(json!({ "host": host, "verb": "GET", "path": "/", "params": params, "headers": headers, "signature": signature }));
            prop_assert!(request.check(SECRET).is_err());
            let signed = format!("AWS4-HMAC-SHA256\n{date}\n{scope}/s3/aws4_request\n{names}");
            prop_assert!(s3(&signed, &signature).is_err());
        }
    }
}

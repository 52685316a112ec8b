//! Requests that are signed with OAuth 1.0a (RFC 5849), by HMAC: what is in their `Authorization`, and whether a secret made it.

use std::collections::BTreeMap;

use base::{Error, Result, Timestamp};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use http_api::Request;
use sha1::Sha1;
use sha2::Sha256;

use crate::ec2::escape;
use crate::fault;

/// How far the time of a signature may be from now, in seconds.
pub const WINDOW: i64 = 600;

/// A signed request.
pub struct SignedRequest {
    /// `oauth_*` of the header, decoded.
    fields: BTreeMap<String, String>,
    /// Method, address and parameters, as they are signed.
    base: String,
}

fn wrong() -> Error {
    Error::unauthenticated("Invalid signature")
}

impl SignedRequest {
    /// What a request carries, for an address as its sender has it. `Invalid` without a header that is OAuth's.
    pub fn read(req: &Request) -> Result<SignedRequest> {
        let header = req.header("authorization").ok_or_else(|| Error::invalid("Error parsing oauth headers: no Authorization"))?;
        let form = req.header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        let body = if form { http_api::Query::parse(&String::from_utf8_lossy(&req.body)).0 } else { Vec::new() };
        let address = format!("{}{}", req.root_url, req.path);
        SignedRequest::of(header, req.method.as_str(), &address, req.query.0.iter().cloned().chain(body))
    }

    fn of(header: &str, method: &str, address: &str, params: impl Iterator<Item = (String, String)>) -> Result<SignedRequest> {
        let bad = || Error::invalid("Error parsing oauth headers: Authorization is not that of OAuth");
        let (scheme, rest) = header.trim().split_once(' ').ok_or_else(bad)?;
        if !scheme.eq_ignore_ascii_case("oauth") {
            return Err(bad());
        }
        let mut fields = BTreeMap::new();
        for part in rest.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let value = value.trim().strip_prefix('"').and_then(|value| value.strip_suffix('"')).ok_or_else(bad)?;
            if fields.insert(unescape(name.trim()).ok_or_else(bad)?, unescape(value).ok_or_else(bad)?).is_some() {
                return Err(bad());
            }
        }
        let signed = fields.iter().filter(|(name, _)| !matches!(name.as_str(), "realm" | "oauth_signature"));
        let signed = signed.map(|(name, value)| (name.clone(), value.clone()));
        let mut all: Vec<(String, String)> = params.chain(signed).map(|(name, value)| (escape(&name), escape(&value))).collect();
        all.sort();
        let all: Vec<String> = all.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let base = format!("{}&{}&{}", method.to_uppercase(), escape(&plain(address)), escape(&all.join("&")));
        Ok(SignedRequest { fields, base })
    }

    /// A field that must be there, without its `oauth_`.
    pub fn field(&self, name: &str) -> Result<&str> {
        let full = format!("oauth_{name}");
        let value = self.fields.get(&full).map(String::as_str).filter(|value| !value.is_empty() && value.len() <= 255);
        value.ok_or_else(|| fault::expecting(&full, "request"))
    }

    /// Compares in constant time.
    pub fn check(&self, consumer_secret: &str, token_secret: &str) -> Result<()> {
        if self.fields.get("oauth_version").is_some_and(|version| version != "1.0") {
            return Err(wrong());
        }
        let key = format!("{}&{}", escape(consumer_secret), escape(token_secret));
        let signature = STANDARD.decode(self.field("signature")?).map_err(|_| wrong())?;
        let right = match self.field("signature_method")? {
            "HMAC-SHA1" => mac::<Hmac<Sha1>>(&key, &self.base)?.verify_slice(&signature),
            "HMAC-SHA256" => mac::<Hmac<Sha256>>(&key, &self.base)?.verify_slice(&signature),
            _ => return Err(wrong()),
        };
        right.map_err(|_| wrong())
    }

    /// When it was signed, which is about now, and the word that no other signature of the time has.
    pub fn moment(&self, now: Timestamp) -> Result<(i64, &str)> {
        let at: i64 = self.field("timestamp")?.parse().map_err(|_| fault::field("oauth_timestamp", "it is not a number of seconds"))?;
        if now.micros().div_euclid(1_000_000).abs_diff(at) > WINDOW.unsigned_abs() {
            return Err(Error::unauthenticated("The signature is too old, or the signer's clock is wrong"));
        }
        Ok((at, self.field("nonce")?))
    }
}

/// The address in the one form that is signed: scheme and host in lower case, no port that goes without saying.
fn plain(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_string() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (scheme, host) = (scheme.to_lowercase(), host.to_lowercase());
    let usual = if scheme == "https" { ":443" } else { ":80" };
    format!("{scheme}://{}{}", host.strip_suffix(usual).unwrap_or(&host), if path.is_empty() { "/" } else { path })
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
            let (high, low) = (digit()?, digit()?);
            out.push(high << 4 | low);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn mac<M: Mac + hmac::digest::KeyInit>(key: &str, text: &str) -> Result<M> {
    let mut mac = <M as Mac>::new_from_slice(key.as_bytes()).map_err(|_| Error::internal("a key of HMAC may have any length"))?;
    mac.update(text.as_bytes());
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
        http_api::Query::parse(text).0.into_iter()
    }

    /// The example of RFC 5849, section 1.2 and errata, and of section 3.4.1.1 for what is signed.
    #[test]
    fn as_rfc_5849_has_it() {
        let header = r#"OAuth realm="Photos", oauth_consumer_key="dpf43f3p2l4k3l03", oauth_token="nnch734d00sl2jdk",
            oauth_signature_method="HMAC-SHA1", oauth_timestamp="137131202", oauth_nonce="chapoH", oauth_signature="MdpQcU8iPSUjWoN%2FUDMsK2sui9I%3D""#;
        let header = header.replace('\n', " ");
        let address = "http://photos.example.net/photos";
        let params = "file=vacation.jpg&size=original";
        let of = |method: &str, address: &str, params: &str| SignedRequest::of(&header, method, address, pairs(params)).unwrap();
        let right = |request: SignedRequest| request.check("kd94hf93k423kf44", "pfkkdhi9sl3r4s00").is_ok();
        assert!(right(of("GET", address, params)));
        assert!(right(of("get", "HTTP://PHOTOS.example.net:80/photos", params)));
        assert!(!right(of("POST", address, params)));
        assert!(!right(of("GET", "http://photos.example.net/Photos", params)));
        assert!(!right(of("GET", address, "file=vacation.jpg&size=original&more=1")));
        assert!(of("GET", address, params).check("kd94hf93k423kf44", "").is_err());
        let header = r#"OAuth realm="Example", oauth_consumer_key="9djdj82h48djs9d2", oauth_token="kkk9d7dh3k39sjv7",
            oauth_signature_method="HMAC-SHA1", oauth_timestamp="137131201", oauth_nonce="7d8f3e4a", oauth_signature="x""#;
        let params = "b5=%3D%253D&a3=a&c%40=&a2=r%20b&c2=&a3=2+q";
        let request = SignedRequest::of(&header.replace('\n', " "), "POST", "http://EXAMPLE.COM:80/request", pairs(params)).unwrap();
        assert_eq!(
            request.base,
            "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D%26c%2540%3D%26c2%3D%26\
             oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_method%3DHMAC-SHA1%26\
             oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
        );
    }

    #[test]
    fn only_hmac_of_version_1_counts() {
        for more in
            [r#"oauth_signature_method="PLAINTEXT", oauth_signature="a%26b""#, r#"oauth_signature_method="HMAC-SHA1", oauth_signature="""#]
        {
            SignedRequest::of(&format!("OAuth {more}"), "GET", "http://a/", pairs("")).unwrap().check("a", "b").unwrap_err();
        }
        for bad in ["", "OAuth", "Basic x", "OAuth a", "OAuth a=b", r#"OAuth a="b", a="c""#, r#"OAuth a="%zz""#] {
            assert!(SignedRequest::of(bad, "GET", "http://a/", pairs("")).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(header in "OAuth [a-z_=\",% 0-9ü]{0,60}", address in ".{0,30}") {
            if let Ok(request) = SignedRequest::of(&header, "GET", &address, pairs("")) {
                prop_assert!(request.check("a", "b").is_err());
            }
        }
    }
}

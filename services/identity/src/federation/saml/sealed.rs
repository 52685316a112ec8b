//! Assertions that a provider encrypted: what xmlsec1 and OpenSSL seal for us is opened, and nothing is that could tell a stranger more.

use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::attacks::{expected, plain, signed};
use super::c14n::{Form, Scope, write};
use super::encryption::DecryptionKey;
use super::response::{Expected, Said, read};
use super::signature::{DSIG, sign};
use super::tests::Signer;
use super::xml::parse;
use super::{ASSERTION, document};

const XENC: &str = "http://www.w3.org/2001/04/xmlenc#";
const GCM: &str = "http://www.w3.org/2009/xmlenc11#aes256-gcm";
const CBC: &str = "http://www.w3.org/2001/04/xmlenc#aes256-cbc";
const OAEP: &str = "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p";

/// A provider and a cloud that has a key for it.
struct Pair {
    provider: Signer,
    own: Signer,
    key: DecryptionKey,
}

impl Pair {
    fn new() -> Pair {
        let own = Signer::rsa();
        let key = DecryptionKey::load(&own.path("certificate.pem"), &own.path("key.pem")).unwrap();
        Pair { provider: Signer::p256(), own, key }
    }

    fn read(&self, document: &str) -> Result<Said, &'static str> {
        let certificates = self.provider.certificates();
        read(document, &Expected { key: Some(&self.key), ..expected(&certificates) })
    }

    fn refusal(&self, document: &str) -> &'static str {
        self.read(document).expect_err(document)
    }

    /// The assertion of a response, signed by the provider.
    fn assertion(&self) -> String {
        assertion(&signed(&plain(), &self.provider))
    }

    fn response_signed(&self, text: &str) -> String {
        document(&sign(parse(text).unwrap(), &self.provider.key()).unwrap())
    }
}

fn assertion(response: &str) -> String {
    write(parse(response).unwrap().one(ASSERTION, "Assertion").unwrap(), &Scope::new(), Form::default())
}

/// The response with something else where the assertion was.
fn around(inside: &str) -> String {
    let plain = plain();
    let (before, rest) = plain.split_once("<Assertion ").unwrap();
    format!("{before}{inside}{}", rest.split_once("</Assertion>").unwrap().1)
}

fn response(sealed: &str) -> String {
    around(&format!("<EncryptedAssertion>{sealed}</EncryptedAssertion>"))
}

/// `EncryptedData`; `method`: what says how the key is wrapped.
fn data(cipher: &str, method: &str, key: &str, text: &str) -> String {
    let value = |value: &str| format!("<e:CipherData><e:CipherValue>{value}</e:CipherValue></e:CipherData>");
    format!(
        "<e:EncryptedData xmlns:e=\"{XENC}\" Type=\"{XENC}Element\"><e:EncryptionMethod Algorithm=\"{cipher}\"/><d:KeyInfo xmlns:d=\"{DSIG}\">\
         <e:EncryptedKey>{method}{}</e:EncryptedKey></d:KeyInfo>{}</e:EncryptedData>",
        value(key),
        value(text)
    )
}

/// Sealed by xmlsec1 for whoever has a certificate.
fn seal(text: &str, to: &Signer, cipher: &str, transport: &str) -> String {
    let template = data(cipher, &format!("<e:EncryptionMethod Algorithm=\"{transport}\"/>"), "", "");
    let (plain, file) = (to.path("plain.xml"), to.path("template.xml"));
    std::fs::write(&plain, text).unwrap();
    std::fs::write(&file, template).unwrap();
    let bits: String = cipher.split_once("#aes").unwrap().1.chars().take(3).collect();
    let done = Command::new("xmlsec1")
        .args(["--encrypt", "--session-key", &format!("aes-{bits}"), "--pubkey-cert-pem"])
        .arg(to.path("certificate.pem"))
        .arg("--xml-data")
        .arg(plain)
        .arg(file)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    text[text.find("<e:EncryptedData").unwrap()..].trim_end().to_string()
}

/// Sealed by ring, the key by OpenSSL with digests of choice.
fn seal_by(text: &str, to: &Signer, digest: &str, mgf: &str) -> (String, String) {
    let (key, nonce) = ([7_u8; 16], [9_u8; 12]);
    let mut sealed = text.as_bytes().to_vec();
    let sealer = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap());
    sealer.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).unwrap();
    let file = to.path("session");
    std::fs::write(&file, key).unwrap();
    let done = Command::new("openssl")
        .args(["pkeyutl", "-encrypt", "-certin", "-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", &format!("rsa_oaep_md:{digest}")])
        .args(["-pkeyopt", &format!("rsa_mgf1_md:{mgf}"), "-inkey"])
        .arg(to.path("certificate.pem"))
        .arg("-in")
        .arg(file)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    (STANDARD.encode(done.stdout), STANDARD.encode([&nonce[..], &sealed].concat()))
}

#[test]
fn what_is_sealed_for_us_is_read() {
    let pair = Pair::new();
    let said = pair.read(&signed(&plain(), &pair.provider)).unwrap();
    let bare = assertion(&plain());
    for cipher in ["aes128-gcm", "aes256-gcm"] {
        let sealed = seal(&pair.assertion(), &pair.own, &format!("http://www.w3.org/2009/xmlenc11#{cipher}"), OAEP);
        assert_eq!(pair.read(&response(&sealed)).as_ref(), Ok(&said), "{cipher}");
        assert_eq!(pair.read(&pair.response_signed(&response(&sealed))).as_ref(), Ok(&said), "{cipher}, both signed");
        // The key beside what it opens.
        let (before, rest) = sealed.split_once(&format!("<d:KeyInfo xmlns:d=\"{DSIG}\">")).unwrap();
        let (key, after) = rest.split_once("</d:KeyInfo>").unwrap();
        let key = key.replacen("<e:EncryptedKey", &format!("<e:EncryptedKey xmlns:e=\"{XENC}\""), 1);
        assert_eq!(pair.read(&response(&format!("{before}{after}{key}"))).as_ref(), Ok(&said), "{cipher}, the key apart");
    }
    for cipher in ["aes128-cbc", "aes192-cbc", "aes256-cbc"] {
        let sealed = seal(&bare, &pair.own, &format!("{XENC}{cipher}"), OAEP);
        assert_eq!(pair.read(&pair.response_signed(&response(&sealed))).as_ref(), Ok(&said), "{cipher}");
    }
    let name = |digest: &str| match digest {
        "sha1" => format!("{DSIG}sha1"),
        "sha384" => "http://www.w3.org/2001/04/xmldsig-more#sha384".into(),
        other => format!("{XENC}{other}"),
    };
    for (digest, mgf) in [("sha256", "sha256"), ("sha512", "sha1"), ("sha1", "sha384"), ("sha384", "sha512")] {
        let method = format!(
            "<e:EncryptionMethod Algorithm=\"http://www.w3.org/2009/xmlenc11#rsa-oaep\"><d:DigestMethod Algorithm=\"{}\"/>\
             <m:MGF xmlns:m=\"http://www.w3.org/2009/xmlenc11#\" Algorithm=\"http://www.w3.org/2009/xmlenc11#mgf1{mgf}\"/></e:EncryptionMethod>",
            name(digest)
        );
        let (key, text) = seal_by(&pair.assertion(), &pair.own, digest, mgf);
        let sealed = data("http://www.w3.org/2009/xmlenc11#aes128-gcm", &method, &key, &text);
        assert_eq!(pair.read(&response(&sealed)).as_ref(), Ok(&said), "{digest} {mgf}");
        let refused = |from: &str, to: &str| pair.refusal(&response(&sealed.replace(from, to)));
        assert!(refused(&format!("#mgf1{mgf}"), "#mgf1md5").contains("wrapped in a way"));
        assert!(refused(&name(digest), "urn:md5").contains("wrapped in a way"));
        assert!(refused("<d:DigestMethod", "<e:OAEPparams>eA==</e:OAEPparams><d:DigestMethod").contains("wrapped in a way"));
    }
}

#[test]
fn nothing_is_learnt_from_what_is_refused() {
    let pair = Pair::new();
    let sealed = seal(&pair.assertion(), &pair.own, GCM, OAEP);
    let good = response(&sealed);
    assert!(pair.read(&good).is_ok());
    // CVE-2011-2487 and CVE-2015-0226 (Bleichenbacher): whoever made it, and whether or not the response is signed.
    let old = response(&seal(&pair.assertion(), &pair.own, GCM, "http://www.w3.org/2001/04/xmlenc#rsa-1_5"));
    assert!(pair.refusal(&old).contains("wrapped in a way that is not taken"));
    assert!(pair.refusal(&pair.response_signed(&old)).contains("wrapped in a way that is not taken"));
    // CVE-2011-1096: CBC whose text anybody may have changed, though the assertion in it is signed.
    let cbc = response(&seal(&pair.assertion(), &pair.own, CBC, OAEP));
    assert!(pair.refusal(&cbc).contains("with CBC"));
    assert!(pair.read(&pair.response_signed(&cbc)).is_ok());
    let changed = pair.response_signed(&cbc).replace("<e:CipherValue>", "<e:CipherValue>AAAA");
    assert!(pair.refusal(&changed).contains("changed after it was signed"));

    // A key that does not open and a text that does not are the same to whoever asks.
    let stranger = response(&seal(&pair.assertion(), &Signer::rsa(), GCM, OAEP));
    let pieces: Vec<&str> = good.split("<e:CipherValue>").collect();
    let flip = |piece: &str| format!("{}{}", if piece.starts_with('A') { "B" } else { "A" }, &piece[1..]);
    let with = |piece: &str, value: &str| format!("{value}</e:CipherValue>{}", piece.split_once("</e:CipherValue>").unwrap().1);
    let put = |key: &str, text: &str| [pieces[0], key, text].join("<e:CipherValue>");
    let other_key = put(&flip(pieces[1]), pieces[2]);
    let other_text = put(pieces[1], &flip(pieces[2]));
    let short_key = put(&with(pieces[1], "AAAA"), pieces[2]);
    let short_text = put(pieces[1], &with(pieces[2], "AAAA"));
    // A key for 128 bits where 256 are wanted.
    let shorter = good.replace("aes256-gcm", "aes128-gcm");
    for document in [stranger, other_key, other_text, short_key, short_text, shorter] {
        assert_eq!(pair.refusal(&document), "what is encrypted does not open", "{document}");
    }

    let key = &sealed[sealed.find("<e:EncryptedKey>").unwrap()..sealed.find("</d:KeyInfo>").unwrap()];
    let seal_again = |text: &str| response(&seal(text, &pair.own, GCM, OAEP));
    let plain_assertion = pair.assertion();
    let beside = |what: &str| around(&format!("<EncryptedAssertion>{sealed}</EncryptedAssertion>{what}"));
    let table = [
        ("3DES", good.replace(GCM, "http://www.w3.org/2001/04/xmlenc#tripledes-cbc"), "in a way that is not taken"),
        (
            "text elsewhere",
            good.replace("<e:CipherValue>", "<e:CipherReference>").replace("</e:CipherValue>", "</e:CipherReference>"),
            "does not stand in it",
        ),
        ("no method", good.replace(&format!("<e:EncryptionMethod Algorithm=\"{GCM}\"/>"), ""), "does not say how"),
        ("two keys", good.replace(key, &format!("{key}{key}")), "or with several"),
        ("no key", good.replace(key, ""), "no key of its own"),
        ("nothing", response(""), "nothing is encrypted in it"),
        ("two texts", response(&format!("{sealed}{sealed}")), "or several things are"),
        ("nobody signed it", seal_again(&assertion(&plain())), "it is not signed"),
        (
            "another assertion beside it",
            beside(&plain_assertion.replace("ID=\"a\"", "ID=\"b\"").replace("#a\"", "#b\"")),
            "where none belongs",
        ),
        ("another sealed one", beside("<EncryptedAssertion/>"), "something more in it is encrypted"),
        (
            "a sealed one in the sealed one",
            seal_again(&format!("<EncryptedAssertion xmlns=\"{ASSERTION}\">{plain_assertion}</EncryptedAssertion>")),
            "something more",
        ),
        ("an assertion in something else", seal_again(&format!("<x>{plain_assertion}</x>")), "where none belongs"),
        (
            "an ID of the response",
            seal_again(&plain_assertion.replace("ID=\"a\"", "ID=\"r\"").replace("#a\"", "#r\"")),
            "an ID is there twice",
        ),
        ("somebody else's name", seal_again(&plain_assertion.replace("bob", "admin")), "changed after it was signed"),
        ("no assertion", seal_again("<x/>"), "where none belongs"),
    ];
    for (what, document, wanted) in table {
        let error = pair.refusal(&document);
        assert!(error.contains(wanted), "{what}: {error}: {document}");
    }
    // Who has no key does not even look.
    let certificates = pair.provider.certificates();
    assert!(read(&good, &expected(&certificates)).unwrap_err().contains("no key for it"));
}

#[test]
fn keys_are_checked_when_they_are_loaded() {
    let (own, other, curve) = (Signer::rsa(), Signer::rsa(), Signer::p256());
    let load = |certificate: &Signer, key: &Signer, name: &str| {
        DecryptionKey::load(&certificate.path("certificate.pem"), &key.path(name)).err().map(|error| error.chain()).unwrap_or_default()
    };
    assert_eq!(load(&own, &own, "key.pem"), "");
    assert!(load(&other, &own, "key.pem").contains("not that of the certificate"));
    assert!(load(&curve, &own, "key.pem").contains("not that of the certificate"));
    assert!(load(&curve, &curve, "key.pem").contains("key.pem"));
    assert!(load(&own, &own, "certificate.pem").contains("certificate.pem"));
    assert!(load(&own, &own, "none").contains("none"));
    let short = Command::new("openssl").args(["genrsa", "-traditional", "-out"]).arg(own.path("short.pem")).arg("1024").output().unwrap();
    assert!(short.status.success());
    assert!(load(&own, &own, "short.pem").contains("less than 2048 bits"));
}

//! Our signatures and those of xmlsec1 (libxml2): each side believes the other's, and nobody what was changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::c14n::{Form, Scope, write};
use super::idp::Idp;
use super::keys::{Certificate, SigningKey};
use super::signature::{DSIG, sign, verify};
use super::xml::{Element, parse};
use super::{ASSERTION, document};

/// A key, its certificate, and a place for files.
pub struct Signer {
    home: tempfile::TempDir,
}

impl Signer {
    fn new(kind: &[&str]) -> Signer {
        let signer = Signer { home: tempfile::tempdir().unwrap() };
        let (key, certificate) = (signer.path("key.pem"), signer.path("certificate.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=signer", "-newkey"])
            .args(kind)
            .arg("-keyout")
            .arg(key)
            .arg("-out")
            .arg(certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        signer
    }
    pub fn rsa() -> Signer {
        Signer::new(&["rsa:2048"])
    }
    pub fn p256() -> Signer {
        Signer::new(&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
    pub fn key(&self) -> SigningKey {
        SigningKey::load(&self.path("certificate.pem"), &self.path("key.pem")).unwrap()
    }
    pub fn certificates(&self) -> Vec<Certificate> {
        Certificate::load(&self.path("certificate.pem")).unwrap()
    }

    /// Whether xmlsec1 believes the signature in a document, and what it says.
    fn xmlsec_verifies(&self, document: &str) -> (bool, String) {
        self.xmlsec(&["--verify", "--pubkey-cert-pem"], &self.path("certificate.pem"), document)
    }
    /// A document whose signature xmlsec1 fills in.
    fn xmlsec_signs(&self, document: &str) -> String {
        let (signed, out) = self.xmlsec(&["--sign", "--privkey-pem"], &self.path("key.pem"), document);
        assert!(signed, "{out}\n{document}");
        out
    }
    fn xmlsec(&self, how: &[&str], key: &Path, document: &str) -> (bool, String) {
        let file = self.path("document.xml");
        std::fs::write(&file, document).unwrap();
        let done = Command::new("xmlsec1")
            .args(how)
            .arg(key)
            .arg("--id-attr:ID")
            .arg(format!("{ASSERTION}:Assertion"))
            .arg(file)
            .output()
            .unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr))
    }
}

fn check(document: &str, signer: &Signer) -> Result<(), &'static str> {
    verify(&parse(document)?, &Scope::new(), &signer.certificates())
}

fn assertion() -> Element {
    let name = Element::new(ASSERTION, "saml:NameID").with("Format", "\"<\t\n\r>'&").text("bob & <ann>\r\n\"é\"");
    Element::new(ASSERTION, "saml:Assertion").with("ID", "_1").child(Element::new(ASSERTION, "saml:Issuer").text("us")).child(name)
}

/// What xmlsec1 is to sign: `inside` of an assertion, with `kept` prefixes in its canonical form.
fn template(inside: &str, kept: &str, signature: &str, digest: &str) -> String {
    let kept = match kept {
        "" => String::new(),
        kept => format!("<ec:InclusiveNamespaces xmlns:ec=\"http://www.w3.org/2001/10/xml-exc-c14n#\" PrefixList=\"{kept}\"/>"),
    };
    let exclusive = "http://www.w3.org/2001/10/xml-exc-c14n#";
    format!(
        "<s:Assertion xmlns:s=\"{ASSERTION}\" xmlns:a=\"urn:a\" xmlns:b='urn:b' xmlns=\"urn:default\" ID=\"x\">{inside}\
         <d:Signature xmlns:d=\"{DSIG}\"><d:SignedInfo>\n<d:CanonicalizationMethod Algorithm=\"{exclusive}\"/>\
         <d:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#{signature}\"/>\
         <d:Reference URI=\"#x\"><d:Transforms>\
         <d:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"/> <d:Transform Algorithm=\"{exclusive}\">{kept}</d:Transform></d:Transforms>\
         <d:DigestMethod Algorithm=\"{digest}\"/><d:DigestValue/></d:Reference></d:SignedInfo><d:SignatureValue/></d:Signature></s:Assertion>"
    )
}

const SHA256: &str = "http://www.w3.org/2001/04/xmlenc#sha256";

#[test]
fn xmlsec1_believes_us() {
    for signer in [Signer::rsa(), Signer::p256()] {
        let signed = document(&sign(assertion(), &signer.key()).unwrap());
        assert_eq!(check(&signed, &signer), Ok(()));
        let (believed, said) = signer.xmlsec_verifies(&signed);
        assert!(believed, "{said}\n{signed}");
        // In other documents too, and not when it is changed.
        let wrapped = signed.split_once('\n').unwrap().1;
        let (believed, said) = signer.xmlsec_verifies(&format!("<x xmlns='urn:x' xmlns:saml='urn:y'>{wrapped}</x>"));
        assert!(believed, "{said}");
        assert!(!signer.xmlsec_verifies(&signed.replace("bob", "eve")).0);
        // What is read again is what was written.
        assert_eq!(document(&parse(&signed).unwrap()), signed);
    }
}

#[test]
fn we_believe_xmlsec1() {
    let (rsa, p256) = (Signer::rsa(), Signer::p256());
    let sha1 = "http://www.w3.org/2000/09/xmldsig#sha1";
    let table = [
        (&rsa, "rsa-sha256", SHA256, Ok(())),
        (&rsa, "rsa-sha384", "http://www.w3.org/2001/04/xmldsig-more#sha384", Ok(())),
        (&rsa, "rsa-sha512", "http://www.w3.org/2001/04/xmlenc#sha512", Ok(())),
        (&p256, "ecdsa-sha256", SHA256, Ok(())),
        (&rsa, "rsa-sha256", sha1, Err("its digest is of a kind that is not taken")),
        (&p256, "ecdsa-sha1", SHA256, Err("its signature is of a kind that none of the keys makes")),
    ];
    for (signer, signature, digest, outcome) in table {
        let signed = signer.xmlsec_signs(&template("<s:Issuer>us</s:Issuer>", "", signature, digest));
        assert_eq!(check(&signed, signer), outcome, "{signature} {digest}");
        // Another key is none, and a key of another kind is not even asked.
        let other = if std::ptr::eq(signer, &rsa) { &p256 } else { &rsa };
        assert!(check(&signed, other).is_err());
        if outcome.is_ok() {
            assert_eq!(check(&signed, &Signer::rsa()).is_err_and(|e| e.contains("of none of the keys")), signature.starts_with("rsa"));
            assert_eq!(check(&signed.replace(">us<", ">me<"), signer), Err("it was changed after it was signed"));
        }
    }
    // SHA-1 only of those of whom it is wanted.
    let weak = template("<s:Issuer>us</s:Issuer>", "", "rsa-sha1", sha1);
    let weak = weak.replace("http://www.w3.org/2001/04/xmldsig-more#rsa-sha1", "http://www.w3.org/2000/09/xmldsig#rsa-sha1");
    let signed = parse(&rsa.xmlsec_signs(&weak)).unwrap();
    let mut certificates = rsa.certificates();
    assert!(verify(&signed, &Scope::new(), &certificates).unwrap_err().contains("of a kind that none of the keys makes"));
    certificates[0].sha1 = true;
    assert_eq!(verify(&signed, &Scope::new(), &certificates), Ok(()));
}

#[test]
fn an_identity_provider_is_set_up_whole() {
    let (own, other) = (Signer::rsa(), Signer::p256());
    let text = |path: PathBuf| path.display().to_string();
    let (certificate, key) = (text(own.path("certificate.pem")), text(own.path("key.pem")));
    let config = |name: &'static str, value: &str| {
        let mut config = base::Config::for_home(own.home.path());
        let whole = [
            ("saml.idp_entity_id", "https://us"),
            ("saml.idp_sso_endpoint", "https://us/sso"),
            ("saml.certfile", &certificate),
            ("saml.keyfile", &key),
        ];
        whole.into_iter().chain([(name, value)]).for_each(|(name, value)| config.set(name, value));
        config
    };
    assert!(Idp::read(&config("saml.idp_lang", "de")).unwrap().is_some());
    assert!(Idp::read(&config("saml.idp_entity_id", "")).unwrap().is_none());
    let table = [
        ("saml.certfile", "", "saml.certfile: an identity provider"),
        ("saml.keyfile", "", "saml.keyfile: an identity provider"),
        ("saml.idp_sso_endpoint", "", "saml.idp_sso_endpoint: an identity provider"),
        ("saml.keyfile", &text(other.path("key.pem")), "the key is not that of the certificate"),
        ("saml.keyfile", &certificate, "certificate.pem"),
        ("saml.keyfile", "/nonexistent", "/nonexistent"),
        ("saml.certfile", &key, "there is no certificate in it"),
        ("saml.certfile", "/nonexistent", "/nonexistent"),
        ("saml.idp_contact_type", "boss", "saml.idp_contact_type"),
    ];
    for (name, value, wanted) in table {
        let error = Idp::read(&config(name, value)).err().unwrap().chain();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn signatures_of_other_forms_are_refused() {
    let signer = Signer::rsa();
    let signed = document(&sign(assertion(), &signer.key()).unwrap());
    let (before, rest) = signed.split_once("<ds:Signature ").unwrap();
    let (signature, after) = rest.split_once("</ds:Signature>").unwrap();
    let signature = format!("<ds:Signature {signature}</ds:Signature>");
    let exclusive = "http://www.w3.org/2001/10/xml-exc-c14n#";
    let table = [
        // The signature of another element than the one that is read (CVE-2012-6426, CVE-2016-5697).
        (signed.replace("ID=\"_1\"", "ID=\"_2\""), "its signature is of something else"),
        (signed.replace("URI=\"#_1\"", "URI=\"\""), "its signature is of something else"),
        (signed.replace(" ID=\"_1\"", ""), "it has no ID"),
        (signed.replace(" ID=\"_1\"", " ID=\"\"").replace("#_1", "#"), "it has no ID"),
        // The signed element put away in the signature, another around it.
        (format!("{before}{}{after}", signature.replace("</ds:Signature>", "<ds:Object><x/></ds:Object></ds:Signature>")), "brings something along"),
        (format!("{before}{signature}{signature}{after}"), "no signature, or several"),
        (format!("{before}{after}"), "no signature, or several"),
        // Transforms that leave something out (CVE-2007-3716 ran what was in one).
        (signed.replace("<ds:Transform Algorithm=\"http://www.w3.org/2001", "<ds:Transform Algorithm=\"http://www.w3.org/TR/1999/REC-xslt-19991116\"></ds:Transform><ds:Transform Algorithm=\"http://www.w3.org/2001"), "another form"),
        (signed.replace("http://www.w3.org/2000/09/xmldsig#enveloped-signature", "http://www.w3.org/TR/1999/REC-xpath-19991116"), "not of all of it"),
        (signed.replacen(exclusive, "http://www.w3.org/TR/2001/REC-xml-c14n-20010315", 1), "canonical form is of a kind"),
        // Secrets that are none: the public key as the key of an HMAC, and one of no length (CVE-2009-0217).
        (signed.replace("rsa-sha256", "hmac-sha256"), "of a kind that none of the keys makes"),
        (signed.replace("xmldsig-more#rsa-sha256\">", "xmldsig-more#rsa-sha256\"><ds:HMACOutputLength>0</ds:HMACOutputLength>"), "of a kind that none of the keys makes"),
        (signed.replace("xmlenc#sha256", "xmlenc#md5"), "of none of the keys"),
        (signed.replace("bob", "eve"), "changed after it was signed"),
        (signed.replace("<saml:NameID", "<saml:NameID x=\"\""), "changed after it was signed"),
    ];
    for (document, wanted) in table {
        let error = check(&document, &signer).unwrap_err();
        assert!(error.contains(wanted), "{error}: {document}");
    }
    // A key that the document brings along is no reason to believe it (CVE-2017-1000452 and its kin).
    let stranger = Signer::rsa();
    let forged = document(&sign(assertion(), &stranger.key()).unwrap());
    assert_eq!(check(&forged, &stranger), Ok(()));
    assert_eq!(check(&forged, &signer), Err("its signature is of none of the keys"));
}

#[test]
fn what_saml_does_not_write_is_refused() {
    let deep = format!("{}{}", "<a>".repeat(33), "</a>".repeat(33));
    let wide = format!("<a>{}</a>", "<b/>".repeat(8192));
    let many = format!("<a{}/>", (0..65).map(|i| format!(" x{i}=''")).collect::<String>());
    let names = format!("<a{}><b xmlns:y=''/></a>", (0..31).map(|i| format!(" xmlns:x{i}='urn:x'")).collect::<String>());
    let long = format!("<a>{}</a>", "x".repeat(256 * 1024));
    let bad = [
        // Entities: those that read files (CVE-2013-6440) and those that grow (CVE-2003-1564).
        "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>",
        "<!DOCTYPE a [<!ENTITY x 'xx'>]><a/>",
        "<a>&x;</a>",
        "<a>&#0;</a>",
        "<a>&#xD800;</a>",
        "<a>&#x110000;</a>",
        "<a>&#+65;</a>",
        "<a>&amp</a>",
        // A comment in a name (CVE-2017-11427, CVE-2017-11428, CVE-2018-0489).
        "<a>admin<!-- -->.eve</a>",
        "<a>admin<?x?>.eve</a>",
        "<a><![CDATA[x]]></a>",
        "<a>]]></a>",
        "<?xml version=\"1.0\" encoding=\"UTF-7\"?><a/>",
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><?x?><a/>",
        "<a/><b/>",
        "<a/>x",
        "x<a/>",
        "",
        "<a>",
        "<a></b>",
        "<a x=1/>",
        "<a x='1'y='2'/>",
        "<a x='<'/>",
        "<a x='1' x='2'/>",
        "<a xmlns:p='u' xmlns:q='u' p:x='1' q:x='2'/>",
        "<p:a/>",
        "<a p:x=''/>",
        "<a:b:c xmlns:a='u'/>",
        "<:a/>",
        "<1/>",
        "<é/>",
        "<a xmlns:p=''/>",
        "<a xmlns:xml='u'/>",
        "<a xmlns:p='http://www.w3.org/2000/xmlns/'/>",
        "<a xmlns='u' xmlns='v'/>",
        "<a>\u{0}</a>",
        "<a>\u{b}</a>",
        "<a>\u{fffe}</a>",
        "< a/>",
        "<a/ >",
        &deep,
        &wide,
        &many,
        &names.replace("xmlns:y=''", "xmlns:y='urn:y'"),
        &long,
    ];
    for text in bad {
        assert!(parse(text).is_err(), "{}", &text[..text.len().min(80)]);
    }
    let good =
        parse("<?xml version='1.0' encoding='utf-8' standalone='no'?>\r\n <p:a xmlns:p = 'u' x=\"'&#10;\n\"\n>a\r\nb&#xD;<b/></p:a >\n")
            .unwrap();
    let plain = write(&good, &Scope::new(), Form::default());
    assert_eq!(plain, "<p:a xmlns:p=\"u\" x=\"'&#xA; \">a\nb&#xD;<b></b></p:a>");
}

/// Elements with namespaces declared here and there, and all that canonical form is about.
fn pieces() -> impl Strategy<Value = String> {
    let text = proptest::sample::select(vec![
        "x", " ", "\n", "\r\n", "&amp;", "&lt;", "&gt;", ">", "&#13;", "&quot;", "\"", "'", "é", "&#x9;", "]] ",
    ]);
    let value = proptest::sample::select(vec!["", "v", "&amp;", "&lt;", ">", "&quot;", "'", "&#10;", "\n", "\t", "&#13;", "é", "  "]);
    let declared = proptest::sample::select(vec![
        "",
        " xmlns:a=\"urn:a\"",
        " xmlns:a=\"urn:other\"",
        " xmlns=\"\"",
        " xmlns=\"urn:x\"",
        " xmlns:c=\"urn:c\"",
    ]);
    let name = proptest::sample::select(vec!["a:e", "b:e", "e", "s:e"]);
    let attribute = proptest::sample::select(vec!["y", "a:z", "b:y", "xml:lang"]);
    let leaf = proptest::collection::vec(text, 0..4).prop_map(|texts| texts.concat());
    leaf.prop_recursive(4, 24, 4, move |inner| {
        (name.clone(), declared.clone(), attribute.clone(), value.clone(), value.clone(), proptest::collection::vec(inner, 0..4)).prop_map(
            |(name, declared, attribute, value, other, children)| {
                let inside = children.concat();
                let start = format!("<{name}{declared} {attribute} = \"{value}\" w=\"{other}\"");
                if inside.is_empty() { format!("{start}/>") } else { format!("{start}>{inside}</{name}>") }
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn canonical_form_is_libxml2s(inside in pieces(), kept in proptest::sample::select(vec!["", "a", "#default c", "b nowhere"])) {
        static SIGNER: std::sync::OnceLock<Signer> = std::sync::OnceLock::new();
        let signer = SIGNER.get_or_init(Signer::p256);
        let home = tempfile::tempdir().unwrap();
        for name in ["key.pem", "certificate.pem"] {
            std::fs::copy(signer.path(name), home.path().join(name)).unwrap();
        }
        let signer = Signer { home };
        let signed = signer.xmlsec_signs(&template(&inside, kept, "ecdsa-sha256", SHA256));
        prop_assert_eq!(check(&signed, &signer), Ok(()), "{}", signed);
    }
}

proptest! {
    #[test]
    fn no_document_makes_it_panic(text in "[<>/&;=\"'a-c: xmlns!\\[\\]-]{0,60}|<a( [a-c:]{1,4}=\"[a&;#x0-9<]{0,6}\"){0,3}>[a<&;/>]{0,20}</a>") {
        if let Ok(read) = parse(&text) {
            let plain = write(&read, &Scope::new(), Form::default());
            // Canonical form is its own canonical form.
            prop_assert_eq!(write(&parse(&plain).unwrap(), &Scope::new(), Form::default()), plain);
        }
    }
}

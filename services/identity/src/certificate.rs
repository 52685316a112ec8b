//! What a client's certificate says, by the names that Apache's mod_ssl and keystone have for it: what mappings are written for.

use base64::{Engine, engine::general_purpose::URL_SAFE};
use http_api::Certificate;
use sha2::{Digest, Sha256};
use x509_parser::der_parser::oid::Oid;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::federation::mapping::Assertion;

/// Kinds of attributes: object id, name in a name's text (RFC 4514, OpenSSL), and in the names of mod_ssl and of keystone. Where keystone has none
/// it takes the id.
const KINDS: [(&str, &str, &str, &str); 17] = [
    ("2.5.4.3", "CN", "CN", "CN"),
    ("2.5.4.4", "SN", "S", ""),
    ("2.5.4.5", "serialNumber", "serialNumber", ""),
    ("2.5.4.6", "C", "C", "C"),
    ("2.5.4.7", "L", "L", "L"),
    ("2.5.4.8", "ST", "ST", "ST"),
    ("2.5.4.9", "street", "street", "STREET"),
    ("2.5.4.10", "O", "O", "O"),
    ("2.5.4.11", "OU", "OU", "OU"),
    ("2.5.4.12", "title", "T", ""),
    ("2.5.4.13", "description", "D", ""),
    ("2.5.4.42", "GN", "G", ""),
    ("2.5.4.43", "initials", "I", ""),
    ("2.5.4.46", "dnQualifier", "dnQualifier", ""),
    ("0.9.2342.19200300.100.1.1", "UID", "UID", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC", "DC", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress", "Email", "EMAILADDRESS"),
];

/// `x5t#S256` as keystone and keystonemiddleware have it: of the PEM text, with padding. RFC 8705 hashes DER and leaves the padding out.
pub fn thumbprint(certificate: &Certificate) -> String {
    URL_SAFE.encode(Sha256::digest(certificate.pem()))
}

/// `SSL_CLIENT_S_DN`, `SSL_CLIENT_S_DN_CN` and so on, also by keystone's names `SSL_CLIENT_SUBJECT_DN_CN`. An attribute that a name has
/// several times has all of these values. `None` for what is no certificate, or holds what is no text: nobody is let in by half of a name.
pub fn assertion(certificate: &Certificate) -> Option<Assertion> {
    let (rest, parsed) = X509Certificate::from_der(certificate.der()).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut said = Assertion::default();
    for (name, short, long) in [(parsed.subject(), "S", "SUBJECT"), (parsed.issuer(), "I", "ISSUER")] {
        said.put(format!("SSL_CLIENT_{short}_DN"), vec![text_of(name)?]);
        let mut found: Vec<(Oid, Vec<String>)> = Vec::new();
        for attribute in name.iter_attributes() {
            let value = value_of(attribute)?;
            match found.iter_mut().find(|(kind, _)| kind == attribute.attr_type()) {
                Some((_, values)) => values.push(value),
                None => found.push((attribute.attr_type().clone(), vec![value])),
            }
        }
        for (kind, values) in found {
            let kind = kind.to_id_string();
            let known = KINDS.iter().find(|(id, ..)| *id == kind);
            if let Some((_, _, apache, _)) = known {
                said.put(format!("SSL_CLIENT_{short}_DN_{apache}"), values.clone());
            }
            let keystone = known.map(|(.., name)| *name).filter(|name| !name.is_empty());
            said.put(format!("SSL_CLIENT_{long}_DN_{}", keystone.unwrap_or(&kind)), values);
        }
    }
    said.put("SSL_CLIENT_M_SERIAL".into(), vec![parsed.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect()]);
    let (mut emails, mut hosts) = (Vec::new(), Vec::new());
    if let Some(names) = parsed.subject_alternative_name().ok()? {
        for name in &names.value.general_names {
            match name {
                GeneralName::RFC822Name(text) => emails.push(plain(text)?),
                GeneralName::DNSName(text) => hosts.push(plain(text)?),
                _ => {}
            }
        }
    }
    for (kind, texts) in [("Email", emails), ("DNS", hosts)] {
        for (i, text) in texts.into_iter().enumerate() {
            said.put(format!("SSL_CLIENT_SAN_{kind}_{i}"), vec![text]);
        }
    }
    Some(said)
}

/// A zero byte ends a name for some and not for others (CVE-2009-2408).
fn plain(text: &str) -> Option<String> {
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_string())
}

fn value_of(attribute: &AttributeTypeAndValue) -> Option<String> {
    plain(attribute.as_str().ok()?)
}

/// As RFC 4514 writes a name and mod_ssl shows it: the last part first, no blanks.
fn text_of(name: &X509Name) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.iter() {
        let mut texts = Vec::new();
        for attribute in part.iter() {
            let id = attribute.attr_type().to_id_string();
            let kind = KINDS.iter().find(|(known, ..)| *known == id).map_or(id.as_str(), |(_, text, ..)| text);
            texts.push(format!("{kind}={}", escaped(&value_of(attribute)?)));
        }
        parts.push(texts.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (i, c) in value.chars().enumerate() {
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') || (c == '#' && i == 0) || (c == ' ' && (i == 0 || i == last)) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn shown(parts: &[(DnType, &str)], sans: Vec<SanType>) -> Certificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), DnValue::Utf8String(value.to_string()));
        }
        params.subject_alt_names = sans;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::from_der(certificate.der().to_vec())
    }

    #[test]
    fn a_name_is_taken_apart() {
        let email = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        let uid = DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]);
        let parts = [
            (DnType::CountryName, "JP"),
            (DnType::OrganizationName, "Acme, Inc."),
            (uid, "0af1"),
            (DnType::CommonName, "#alice; "),
            (email, "a@b.example"),
        ];
        let sans = vec![SanType::Rfc822Name("a@b.example".try_into().unwrap()), SanType::DnsName("host.example".try_into().unwrap())];
        let said = assertion(&shown(&parts, sans)).unwrap();
        for (name, wanted) in [
            ("SSL_CLIENT_S_DN", r"emailAddress=a@b.example,CN=\#alice\;\ ,UID=0af1,O=Acme\, Inc.,C=JP"),
            ("SSL_CLIENT_I_DN", r"emailAddress=a@b.example,CN=\#alice\;\ ,UID=0af1,O=Acme\, Inc.,C=JP"),
            ("SSL_CLIENT_S_DN_CN", "#alice; "),
            ("SSL_CLIENT_I_DN_O", "Acme, Inc."),
            ("SSL_CLIENT_S_DN_Email", "a@b.example"),
            ("SSL_CLIENT_SUBJECT_DN_EMAILADDRESS", "a@b.example"),
            ("SSL_CLIENT_SUBJECT_DN_UID", "0af1"),
            ("SSL_CLIENT_ISSUER_DN_C", "JP"),
            ("SSL_CLIENT_SAN_Email_0", "a@b.example"),
            ("SSL_CLIENT_SAN_DNS_0", "host.example"),
        ] {
            assert_eq!(said.get(name), Some(&[wanted.to_string()][..]), "{name}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        assert!(assertion(&shown(&[(DnType::CommonName, "admin\0.evil.example")], Vec::new())).is_none());
        assert!(assertion(&shown(&[(DnType::CommonName, "admin\n")], Vec::new())).is_none());
        let whole = shown(&[(DnType::CommonName, "a")], Vec::new());
        assert!(assertion(&whole).is_some());
        assert!(assertion(&Certificate::from_der([whole.der(), &[0][..]].concat())).is_none());
        assert!(assertion(&Certificate::from_der(whole.der()[..50].to_vec())).is_none());
    }

    #[test]
    fn the_thumbprint_is_that_of_keystonemiddleware() {
        // By Python: base64.urlsafe_b64encode(hashlib.sha256(ssl.DER_cert_to_PEM_cert(bytes(range(100))).encode()).digest())
        let certificate = Certificate::from_der((0..100).collect::<Vec<u8>>());
        assert_eq!(thumbprint(&certificate), "JKYwccOyV3_XJzcf-R685sB8mpN0zBt2ggyOLhJhRzw=");
    }

    proptest! {
        #[test]
        fn no_certificate_upsets_it(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = assertion(&Certificate::from_der(der));
        }

        #[test]
        fn no_damage_upsets_it(at in 0usize..300, to in any::<u8>()) {
            let mut der = shown(&[(DnType::CommonName, "alice")], Vec::new()).der().to_vec();
            let at = at % der.len();
            der[at] = to;
            let _ = assertion(&Certificate::from_der(der));
        }
    }
}

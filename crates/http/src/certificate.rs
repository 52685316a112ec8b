//! The certificate that a client has shown: to us, or to a reverse proxy that hands it on in a header.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName};
use base::{Error, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// Of a header; certificates are a few kilobytes.
const LONGEST: usize = 32 * 1024;

/// A client's own certificate, without those that vouch for it. Whoever made this has verified it, or believes who has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate(Bytes);

impl Certificate {
    pub fn from_der(der: impl Into<Bytes>) -> Certificate {
        Certificate(der.into())
    }

    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// As OpenSSL writes it: lines of 64, the last one ended too.
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(&self.0);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for start in (0..text.len()).step_by(64) {
            pem.push_str(&text[start..text.len().min(start + 64)]);
            pem.push('\n');
        }
        pem + "-----END CERTIFICATE-----\n"
    }

    /// As proxies write it: as RFC 9440 says, or as PEM that is percent-encoded (nginx) or has blanks for line ends (Apache).
    fn of_header(text: &str) -> Option<Certificate> {
        if text.len() > LONGEST {
            return None;
        }
        let text = text.trim();
        if let Some(inner) = text.strip_prefix(':') {
            let der = STANDARD.decode(inner.strip_suffix(':')?).ok()?;
            return (!der.is_empty()).then(|| Certificate::from_der(der));
        }
        let text = percent_decode_str(text).decode_utf8().ok()?;
        let inner = text.trim().strip_prefix("-----BEGIN CERTIFICATE-----")?.strip_suffix("-----END CERTIFICATE-----")?;
        let inner: String = inner.split_ascii_whitespace().collect();
        let der = STANDARD.decode(inner).ok()?;
        (!der.is_empty()).then(|| Certificate::from_der(der))
    }
}

/// The reverse proxies in front.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Requests are believed what `X-Forwarded-` headers say of the client: nobody reaches the cloud but through a proxy.
    pub forwarded: bool,
    /// Those that are believed who the client is. The address of a connection cannot be chosen by who opens it, a header can.
    pub addresses: Vec<IpAddr>,
    /// The header in which they hand on the client's certificate, having removed what the client called so.
    pub certificate: Option<HeaderName>,
}

impl Proxies {
    /// `addresses`: separated by commas; `header`: empty for none.
    pub fn read(forwarded: bool, addresses: &str, header: &str) -> Result<Proxies> {
        let parts = addresses.split(',').map(str::trim).filter(|part| !part.is_empty());
        let addresses = parts.map(str::parse).collect::<std::result::Result<Vec<IpAddr>, _>>();
        let addresses = addresses.map_err(|_| Error::invalid("api.proxies: it must be addresses, separated by commas"))?;
        if !forwarded && !addresses.is_empty() {
            return Err(Error::invalid("api.proxies: it is for clouds with `api.proxied`"));
        }
        let certificate = match header {
            "" => None,
            _ if addresses.is_empty() => {
                return Err(Error::invalid("api.client_certificate_header: say in `api.proxies` who may send it"));
            }
            name => Some(name.parse().map_err(|_| Error::invalid(format!("api.client_certificate_header: `{name}` names no header")))?),
        };
        Ok(Proxies { forwarded, addresses, certificate })
    }

    /// Whether a connection from there is one of a proxy that is believed.
    pub fn include(&self, address: Option<IpAddr>) -> bool {
        self.forwarded && address.is_some_and(|address| self.addresses.contains(&address))
    }

    /// What a proxy that is believed says the client has shown it. A header that came twice, or is unreadable, is as good as none.
    pub(crate) fn handed_on(&self, headers: &HeaderMap) -> Option<Certificate> {
        let mut values = headers.get_all(self.certificate.as_ref()?).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        Certificate::of_header(value.to_str().ok()?)
    }
}

/// All certificates in a PEM file's text.
pub(crate) fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<std::result::Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Error::invalid("there is no certificate in it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_form_of_a_header_is_read() {
        let certificate = Certificate::from_der(vec![0x30; 100]);
        let pem = certificate.pem();
        assert_eq!(pem.lines().map(str::len).max(), Some(64));
        let encoded = percent_encoding::utf8_percent_encode(&pem, percent_encoding::NON_ALPHANUMERIC).to_string();
        for text in [format!(":{}:", STANDARD.encode(certificate.der())), encoded, pem.replace('\n', " "), pem.replace('\n', "\t")] {
            assert_eq!(Certificate::of_header(&text), Some(certificate.clone()), "{text}");
        }
        assert_eq!(certificates_of(pem.as_bytes()).unwrap()[0].as_ref(), certificate.der());
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        let one = Certificate::from_der(vec![1]).pem().replace('\n', " ");
        let two = format!("{one}{one}");
        for text in ["", "(null)", "::", ":", ":*:", ":AAAA", "AAAA", "-----BEGIN CERTIFICATE----- -----END CERTIFICATE-----", &two] {
            assert_eq!(Certificate::of_header(text), None, "{text}");
        }
        assert_eq!(Certificate::of_header(&format!(":{}:", "A".repeat(LONGEST))), None);
    }

    #[test]
    fn who_may_hand_on_is_said_whole_or_not_at_all() {
        assert!(Proxies::read(false, "", "").unwrap().certificate.is_none());
        assert!(Proxies::read(true, "10.0.0.1, ::1", "Client-Cert").unwrap().certificate.is_some());
        for (forwarded, addresses, header) in [(true, "", "client-cert"), (false, "10.0.0.1", ""), (true, "here", ""), (true, "::1", "a b")]
        {
            assert!(Proxies::read(forwarded, addresses, header).is_err(), "{forwarded} {addresses} {header}");
        }
    }

    proptest! {
        #[test]
        fn any_certificate_comes_through(der in proptest::collection::vec(any::<u8>(), 1..2000)) {
            let certificate = Certificate::from_der(der);
            prop_assert_eq!(Certificate::of_header(&certificate.pem().replace('\n', " ")), Some(certificate.clone()));
            prop_assert_eq!(Certificate::of_header(&format!(":{}:", STANDARD.encode(certificate.der()))), Some(certificate));
        }

        #[test]
        fn no_header_upsets_it(text in ".{0,200}") {
            let _ = Certificate::of_header(&text);
        }
    }
}

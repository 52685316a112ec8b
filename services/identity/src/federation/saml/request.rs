//! Asking an identity provider for an assertion. A request's ID says by itself what it was made for and when: nothing is kept, and every
//! controller knows it again.

use std::time::Duration;

use base::{Error, Result, Timestamp};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_api::Request;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::xml::Element;
use super::{ASSERTION, ECP, PROTOCOL, Provider, SOAP, document, time};
use crate::Identity;

const PAOS: &str = "urn:liberty:paos:2003-08";
pub const PAOS_TYPE: &str = "application/vnd.paos+xml";
const PURPOSE: &str = "saml request";
/// How long a user may take to log in.
const PATIENCE: Duration = Duration::from_secs(600);

impl Identity {
    /// The ID of a new request.
    pub(crate) fn saml_request_id(&self, provider: &Provider) -> String {
        format!("_{}", self.state_seal(PURPOSE, &[&provider.settings.identity_provider, &provider.settings.protocol, &base::id::hex()]))
    }

    /// Whether an assertion answers a request of ours to this provider, or needs none.
    pub(crate) fn check_answers(&self, provider: &Provider, request: Option<&str>) -> Result<()> {
        let Some(request) = request else {
            return if provider.settings.keystone { Ok(()) } else { Err(provider.refuse("nobody asked for it")) };
        };
        let made_for = request.strip_prefix('_').and_then(|sealed| self.state_open(PURPOSE, sealed, PATIENCE));
        let names = [provider.settings.identity_provider.as_str(), provider.settings.protocol.as_str()];
        match made_for.as_deref() {
            Some([idp, protocol, _]) if [idp.as_str(), protocol.as_str()] == names => Ok(()),
            _ => Err(provider.refuse("it answers another request, or one of long ago")),
        }
    }
}

impl Provider {
    fn request(&self, id: &str, consumer: &str, binding: &str) -> Element {
        Element::new(PROTOCOL, "samlp:AuthnRequest")
            .with("AssertionConsumerServiceURL", consumer)
            .with("ID", id)
            .with("IssueInstant", time(Timestamp::now()))
            .with("ProtocolBinding", binding)
            .with("Version", "2.0")
            .child(Element::new(ASSERTION, "saml:Issuer").text(self.audience()))
    }

    /// Where a browser goes to log in (HTTP-Redirect). `Unauthenticated` when browsers are not sent there.
    pub fn login_url(&self, id: &str, relay_state: &str) -> Result<String> {
        let url = self.settings.sso_url.as_deref().ok_or_else(|| self.refuse("it has no address for browsers"))?;
        let request = document(&self.request(id, &self.browser_url, "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST"));
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let encoded = encode(&STANDARD.encode(deflated(request.as_bytes())));
        Ok(format!("{url}{}SAMLRequest={encoded}&RelayState={}", if url.contains('?') { '&' } else { '?' }, encode(relay_state)))
    }

    /// For an enhanced client, which carries it to the provider and brings the answer to [`Provider::consumer`].
    pub fn ecp_request(&self, id: &str) -> String {
        let next = "http://schemas.xmlsoap.org/soap/actor/next";
        let header = |namespace: &str, name: &str| {
            Element::new(namespace, name).with_in(SOAP, "soap:actor", next).with_in(SOAP, "soap:mustUnderstand", "1")
        };
        let paos = header(PAOS, "paos:Request").with("responseConsumerURL", &self.consumer).with("service", ECP);
        let ecp = header(ECP, "ecp:Request").with("IsPassive", "0").child(Element::new(ASSERTION, "saml:Issuer").text(self.audience()));
        let state = header(ECP, "ecp:RelayState").text(id);
        let headers = Element::new(SOAP, "soap:Header").child(paos).child(ecp).child(state);
        let request = self.request(id, &self.consumer, "urn:oasis:names:tc:SAML:2.0:bindings:PAOS");
        document(&Element::new(SOAP, "soap:Envelope").child(headers).child(Element::new(SOAP, "soap:Body").child(request)))
    }
}

/// Deflate (RFC 1951) that leaves all as it is: one stored block, of less than 64 KiB. A request is shorter than what it would save.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or_default();
    [&[1], &length.to_le_bytes()[..], &(!length).to_le_bytes()[..], bytes].concat()
}

/// What a browser brings of a provider (HTTP-POST).
pub struct Posted {
    pub document: Option<String>,
    pub relay_state: Option<String>,
}

/// The form of a request; none: it has another body.
pub fn posted(req: &Request) -> Result<Option<Posted>> {
    let wrong = || Error::invalid("The SAML response cannot be read.");
    if content_type(req) != "application/x-www-form-urlencoded" {
        return Ok(None);
    }
    let form = http_api::Query::parse(std::str::from_utf8(&req.body).map_err(|_| wrong())?);
    let document = match form.get("SAMLResponse") {
        None => None,
        Some(encoded) => {
            let encoded: String = encoded.split_ascii_whitespace().collect();
            let bytes = STANDARD.decode(encoded).map_err(|_| wrong())?;
            Some(String::from_utf8(bytes).map_err(|_| wrong())?)
        }
    };
    Ok(Some(Posted { document, relay_state: form.get("RelayState").map(str::to_string) }))
}

/// What an enhanced client brings of a provider (PAOS); none: nothing.
pub fn enclosed(req: &Request) -> Result<Option<String>> {
    if !matches!(content_type(req).as_str(), PAOS_TYPE | "text/xml") || req.body.is_empty() {
        return Ok(None);
    }
    let document = String::from_utf8(req.body.to_vec());
    document.map(Some).map_err(|_| Error::invalid("The SAML response cannot be read."))
}

fn content_type(req: &Request) -> String {
    req.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

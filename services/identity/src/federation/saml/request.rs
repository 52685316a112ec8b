//! Asking an identity provider for an assertion. A request's ID says by itself what it was made for and when: nothing is kept, and every
//! controller knows it again.

use std::time::Duration;

use base::{Result, Timestamp};

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

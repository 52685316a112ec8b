//! What a SAML provider is to know of us: as whom it knows us, where its assertions are brought, and for which key it may encrypt them.

use super::encryption::{AES128_GCM, AES256_GCM, OAEP_MGF1P};
use super::signature::key_info;
use super::xml::Element;
use super::{METADATA, PROTOCOL, Provider, document};

fn new(name: &str) -> Element {
    Element::new(METADATA, name)
}

impl Provider {
    /// The document, for this provider alone: others know us by other names and bring assertions elsewhere.
    pub fn metadata(&self) -> String {
        let method = |algorithm| new("md:EncryptionMethod").with("Algorithm", algorithm);
        let key = self.key.iter().map(|key| {
            let descriptor = new("md:KeyDescriptor").with("use", "encryption").child(key_info(&key.certificate));
            descriptor.children([AES256_GCM, AES128_GCM, OAEP_MGF1P].map(method))
        });
        let consumers = [("HTTP-POST", &self.browser_url), ("PAOS", &self.consumer)].into_iter().enumerate();
        let consumers = consumers.map(|(index, (binding, url))| {
            new("md:AssertionConsumerService")
                .with("Binding", format!("urn:oasis:names:tc:SAML:2.0:bindings:{binding}"))
                .with("Location", url)
                .with("index", index.to_string())
        });
        let descriptor = new("md:SPSSODescriptor")
            .with("AuthnRequestsSigned", "false")
            .with("WantAssertionsSigned", "true")
            .with("protocolSupportEnumeration", PROTOCOL);
        let descriptor = descriptor.children(key).children(consumers);
        document(&new("md:EntityDescriptor").with("entityID", self.audience()).child(descriptor))
    }
}

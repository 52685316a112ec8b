//! SAML 2.0: what this cloud says about its users to others that believe it, and what it believes of others.

#[cfg(test)]
mod attacks;
pub mod c14n;
pub mod encryption;
pub mod idp;
pub mod keys;
mod metadata;
mod provider;
pub mod replay;
pub mod request;
pub mod response;
#[cfg(test)]
mod sealed;
pub mod signature;
#[cfg(test)]
mod tests;
pub mod xml;

use base::Timestamp;

pub use provider::Provider;

pub const ASSERTION: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
pub const PROTOCOL: &str = "urn:oasis:names:tc:SAML:2.0:protocol";
pub const METADATA: &str = "urn:oasis:names:tc:SAML:2.0:metadata";
pub const ECP: &str = "urn:oasis:names:tc:SAML:2.0:profiles:SSO:ecp";
pub const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
pub const BEARER: &str = "urn:oasis:names:tc:SAML:2.0:cm:bearer";
pub const SUCCESS: &str = "urn:oasis:names:tc:SAML:2.0:status:Success";

/// A new `ID` of an element: a name of XML begins with no digit.
pub fn new_id() -> String {
    format!("_{}", base::id::hex())
}

/// As SAML writes times.
fn time(at: Timestamp) -> String {
    at.iso_micros_z()
}

/// A document for the wire.
fn document(root: &xml::Element) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", c14n::write(root, &c14n::Scope::new(), c14n::Form::default()))
}

//! Who a certificate is for.

use base::{Error, Result};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A host's id stands in its certificate as a URI of this form, so no name of a machine can be taken for it.
const PREFIX: &str = "urn:sturnus:host:";

/// The host a certificate was issued to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub host_id: String,
    /// Its name in the cloud.
    pub name: String,
    /// In hexadecimal, as [`crate::Issued::serial`].
    pub serial: String,
}

pub(crate) fn uri(host_id: &str) -> String {
    format!("{PREFIX}{host_id}")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a certificate in DER. That the authority signed it, is for the caller to check.
pub fn peer(certificate: &[u8]) -> Result<Peer> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|e| Error::invalid("not a certificate").caused_by(e))?;
    let names = certificate.subject_alternative_name().map_err(|e| Error::invalid("a certificate with broken names").caused_by(e))?;
    let mut ids = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(PREFIX),
        _ => None,
    });
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    match (ids.next(), ids.next()) {
        (Some(id), None) => Ok(Peer { host_id: id.to_string(), name: name.to_string(), serial: hex(certificate.raw_serial()) }),
        _ => Err(Error::forbidden("the certificate names no host")),
    }
}

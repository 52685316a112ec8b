//! By the word of what stands in front: a client's certificate, or a reverse proxy that has asked who the client is (upstream's `external`).

use base::Result;
use http_api::Request;
use store::Tx;

use super::Proof;
use crate::bootstrap::DEFAULT_DOMAIN;
use crate::certificate::assertion;
use crate::users::{User, user_by_name_in};
use crate::{Identity, fault, projects};

/// What of a certificate has names that begin so.
const OF_CERTIFICATE: &str = "SSL_CLIENT_";

impl Identity {
    /// Whether the request comes with somebody's word for who it is.
    pub(super) fn is_vouched_for(&self, req: &Request) -> bool {
        self.vouched(req, "external.remote_user").is_some()
    }

    pub(super) async fn prove_by_external(&self, req: &Request, proof: &mut Proof) -> Result<()> {
        let name = self.vouched(req, "external.remote_user").ok_or_else(fault::unauthorized)?;
        let domain = match self.0.config.text("external.remote_domain") {
            "" => None,
            _ => self.vouched(req, "external.remote_domain"),
        };
        let found = self.0.store.read(|tx| user_in(tx, &name, domain.as_deref())).await?;
        let user = found.filter(|user| user.enabled).ok_or_else(fault::unauthorized)?;
        proof.methods |= self.0.methods.bit("external");
        proof.is(user.id)
    }

    /// The one value of what the setting names: an attribute of the certificate, or a header that came from a proxy which is believed. Anybody
    /// else can write a header (REMOTE_USER out of a request's own headers, as in CVE-2015-0219).
    fn vouched(&self, req: &Request, setting: &str) -> Option<String> {
        let source = self.0.config.text(setting);
        if source.starts_with(OF_CERTIFICATE) {
            return match assertion(req.certificate.as_ref()?)?.get(source) {
                Some([value]) => Some(value.clone()),
                _ => None,
            };
        }
        if source.is_empty() || !req.by_proxy {
            return None;
        }
        let mut values = req.headers.get_all(source).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        value.to_str().ok().filter(|value| !value.is_empty()).map(str::to_string)
    }
}

/// In the domain of a name; without one in the default domain, as upstream.
fn user_in(tx: &Tx, name: &str, domain: Option<&str>) -> Result<Option<User>> {
    let domain_id = match domain {
        None => DEFAULT_DOMAIN.to_string(),
        Some(name) => match projects::project_by_name_in(tx, name, "")?.filter(|domain| domain.enabled) {
            Some(domain) => domain.id,
            None => return Ok(None),
        },
    };
    user_by_name_in(tx, name, &domain_id)
}

//! By a client's certificate: OAuth 2.0 with mutual TLS (RFC 8705). The client is a user, and a mapping says which certificates are the user's.

use std::sync::Arc;

use base::Result;
use http_api::Certificate;
use store::Tx;

use super::rules;
use crate::certificate::{assertion, thumbprint};
use crate::federation::mapping::{Assertion, DomainRef, MappedUser, apply};
use crate::federation::mappings::mapping_get_in;
use crate::federation::rules::{Rules, Version};
use crate::projects::domain_get_in;
use crate::token::cache::Live;
use crate::token::issue::Claim;
use crate::token::payload::{Target, Via};
use crate::users::{self, User};
use crate::{Identity, fault};

const METHOD: &str = "oauth2_credential";

impl Identity {
    /// A token for the user's default project, bound to the certificate. `Unauthenticated` whatever does not hold.
    pub(crate) async fn token_by_certificate(&self, client_id: &str, certificate: &Certificate) -> Result<(String, Arc<Live>)> {
        let said = assertion(certificate).ok_or_else(fault::unauthorized)?;
        let mapping_id = self.0.config.text("oauth2.oauth2_cert_dn_mapping_id");
        let made = self.token_make(|tx, _| {
            let user = users::user_fetch_in(tx, client_id)?.ok_or_else(fault::unauthorized)?;
            let mapped = mapped_in(tx, mapping_id, &said)?;
            if !is_of_in(tx, &mapped, &user)? {
                return Err(refuse(client_id, "the certificate is not the client's"));
            }
            let methods = self.0.methods.bit(METHOD);
            if methods == 0 || !rules::is_enough(&self.0.methods, &user, methods) {
                return Err(refuse(client_id, "more is demanded of the user than a certificate"));
            }
            let project = user.default_project_id.ok_or_else(|| refuse(client_id, "the user has no default project"))?;
            Ok(Claim {
                user_id: user.id,
                methods,
                target: Target::Project(project),
                via: Via::Certificate(thumbprint(certificate)),
                expires_at: None,
                parent_audit_id: None,
            })
        });
        made.await
    }
}

/// Why is for the log alone.
fn refuse(client_id: &str, problem: &str) -> base::Error {
    tracing::info!(client_id, "no token for a certificate: {problem}");
    fault::unauthorized()
}

fn mapped_in(tx: &Tx, mapping_id: &str, said: &Assertion) -> Result<MappedUser> {
    let mapping = mapping_get_in(tx, mapping_id).map_err(|_| refuse("", &format!("there is no mapping '{mapping_id}'")))?;
    let rules = Rules::read(&mapping.rules, Version::read(Some(&mapping.schema_version))?)?;
    Ok(apply(&rules, said, &mut |_| {}).map_err(|e| refuse("", e.message()))?.user)
}

/// Whether all that the mapping made of a certificate fits the user, and that could be no other one's: upstream lets in whoever has a certificate when
/// the mapping says nothing of the user, and a name is one user's only together with its domain.
fn is_of_in(tx: &Tx, mapped: &MappedUser, user: &User) -> Result<bool> {
    let domain_fits = match &mapped.domain {
        None => true,
        Some(DomainRef::Id(id)) => *id == user.domain_id,
        Some(DomainRef::Name(name)) => *name == domain_get_in(tx, &user.domain_id)?.name,
    };
    let is_one = mapped.id.is_some() || (mapped.name.is_some() && mapped.domain.is_some());
    let email = user.extra.get("email").and_then(|email| email.as_str());
    Ok(is_one
        && domain_fits
        && mapped.id.as_ref().is_none_or(|id| *id == user.id)
        && mapped.name.as_ref().is_none_or(|name| *name == user.name)
        && mapped.email.as_deref().is_none_or(|mapped| email == Some(mapped)))
}

//! By a client's certificate in place of a token (upstream's X.509 tokenless authorization): the issuer is an identity provider, whose mapping
//! says which user it is, or which groups. Each request says its own scope.

use std::sync::Arc;

use base::{Context, Result, Scope, Timestamp};
use bytes::Bytes;
use http_api::Certificate;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use store::Tx;

use axum::http::HeaderMap;

use super::{rules, scope};
use crate::certificate::assertion;
use crate::federation::shadow::{Visitor, visit_in};
use crate::projects::{Project, project_fetch_in};
use crate::roles::roles_of_groups_in;
use crate::token::cache::Live;
use crate::token::payload::{self, Payload, Target, Via};
use crate::token::validate::role_names;
use crate::users::user_get_in;
use crate::{Identity, fault};

impl Identity {
    /// What a token would stand for that a certificate gave. `Unauthenticated` when its issuer is not trusted or nobody comes of it.
    pub(crate) async fn tokenless_live(&self, shown: Option<&Certificate>, headers: &HeaderMap) -> Result<Arc<Live>> {
        let trusted = self.0.config.text("tokenless_auth.trusted_issuer");
        if trusted.is_empty() {
            return Err(fault::unauthorized());
        }
        let said = shown.and_then(assertion).ok_or_else(fault::unauthorized)?;
        let issuer = match said.get(self.0.config.text("tokenless_auth.issuer_attribute")) {
            Some([issuer]) if issuers(trusted).any(|known| known == issuer) => issuer.clone(),
            _ => return Err(fault::unauthorized()),
        };
        let wanted = scope::wanted(&Map::from_iter([("scope".to_string(), scope_of(headers)?)]))?;
        let generation = self.0.cache.generation();
        let live = self.0.store.read(|tx| {
            let idp_id = Sha256::digest(&issuer).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let visitor = visit_in(tx, &idp_id, self.0.config.text("tokenless_auth.protocol"), &issuer, &said)?;
            let target = scope::place_in(tx, wanted)?;
            match visitor {
                Visitor::Local(user_id) => {
                    let user = user_get_in(tx, &user_id)?;
                    // A certificate is no method of those that rules ask for.
                    if !rules::is_enough(&self.0.methods, &user, 0) {
                        return Err(fault::unauthorized());
                    }
                    self.live_in(tx, of_request(user_id, target), generation)
                }
                Visitor::Groups { name, ids } => guest_in(tx, name, &ids, target, generation),
            }
        });
        live.await.map(Arc::new)
    }
}

/// Names, separated by semicolons; one in a name has a backslash before it.
fn issuers(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let ends = c == ';' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })
    .map(str::trim)
}

/// The scope of a request in the form that a request for a token has.
fn scope_of(headers: &HeaderMap) -> Result<Value> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    if let Some(id) = text("x-project-id") {
        return Ok(json!({ "project": { "id": id } }));
    }
    if let Some(name) = text("x-project-name") {
        let domain = match (text("x-project-domain-id"), text("x-project-domain-name")) {
            (Some(id), _) => json!({ "id": id }),
            (None, Some(name)) => json!({ "name": name }),
            (None, None) => return Err(base::Error::invalid("Neither Project Domain ID nor Project Domain Name was provided.")),
        };
        return Ok(json!({ "project": { "name": name, "domain": domain } }));
    }
    match (text("x-domain-id"), text("x-domain-name")) {
        (Some(id), _) => Ok(json!({ "domain": { "id": id } })),
        (None, Some(name)) => Ok(json!({ "domain": { "name": name } })),
        (None, None) => Err(fault::expecting("project or domain", "scope")),
    }
}

/// For this request alone: nobody ever sees it as a token.
fn of_request(user_id: String, target: Target) -> Payload {
    let now = Timestamp::now();
    Payload {
        user_id,
        methods: 0,
        target,
        via: Via::User,
        issued_at: now,
        expires_at: payload::end_of(now, std::time::Duration::from_secs(1)),
        audit_id: [0; 16],
        parent_audit_id: None,
    }
}

/// Who is no user here, and has what the groups have.
fn guest_in(tx: &Tx, name: String, group_ids: &[String], target: Target, generation: u64) -> Result<Live> {
    let enabled = |id: &str| project_fetch_in(tx, id).map(|found| found.filter(|found: &Project| found.enabled));
    let domain_of = |id: &str| enabled(id)?.filter(|domain| domain.is_domain).ok_or_else(fault::unauthorized);
    let (scope, project) = match &target {
        Target::Project(id) => {
            let project = enabled(id)?.ok_or_else(fault::unauthorized)?;
            let domain = domain_of(&project.domain_id)?;
            let (id, name) = (project.id.clone(), project.name.clone());
            (Scope::Project { id, name, domain_id: domain.id, domain_name: domain.name }, Some(project))
        }
        Target::Domain(id) => {
            let domain = domain_of(id)?;
            (Scope::Domain { id: domain.id, name: domain.name }, None)
        }
        _ => return Err(fault::unauthorized()),
    };
    let roles = roles_of_groups_in(tx, group_ids, &target, project.as_ref())?;
    if roles.is_empty() {
        return Err(fault::unauthorized());
    }
    let ctx = Context { user_name: name, scope, roles: role_names(&roles), ..Context::default() };
    let mut live = Live::new(of_request(String::new(), target), ctx, String::new(), Bytes::new(), generation);
    live.role_ids = roles.into_iter().map(|role| role.id).collect();
    Ok(live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_told_apart() {
        let found: Vec<&str> = issuers(r"CN=a,O=b; CN=c\;d,O=e;CN=f\\;CN=g").collect();
        assert_eq!(found, ["CN=a,O=b", r"CN=c\;d,O=e", r"CN=f\\", "CN=g"]);
    }

    #[test]
    fn each_request_says_its_scope() {
        let scope = |said: &[(&'static str, &'static str)]| {
            let headers: HeaderMap = said.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            scope_of(&headers).map_err(|e| e.message().to_string())
        };
        assert_eq!(scope(&[("x-project-id", "p"), ("x-domain-id", "d")]), Ok(json!({ "project": { "id": "p" } })));
        let by_name = json!({ "project": { "name": "p", "domain": { "name": "d" } } });
        assert_eq!(scope(&[("x-project-name", "p"), ("x-project-domain-name", "d")]), Ok(by_name));
        assert_eq!(scope(&[("x-domain-name", "d")]), Ok(json!({ "domain": { "name": "d" } })));
        assert!(scope(&[("x-project-name", "p")]).unwrap_err().starts_with("Neither Project Domain ID"));
        assert!(scope(&[("x-project-id", "")]).unwrap_err().starts_with("Expecting to find project or domain in scope."));
    }
}

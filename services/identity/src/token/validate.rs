//! From the text of a token to everything it stands for now.

use std::sync::Arc;
use std::time::Duration;

use base::{Context, Error, Kind, Result, Scope, Timestamp, error::Internal};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http_api::Request;
use serde_json::{Value, json};
use store::{Tx, params};

use super::cache::Live;
use super::payload::{Payload, Target, Via};
use crate::application_credentials::access::AccessRule;
use crate::federation::service_providers::service_providers_of_tokens_in;
use crate::federation::shadow::check_way_in;
use crate::projects::{Project, project_fetch_in};
use crate::roles::{RoleRef, roles_of_user_in};
use crate::users::User;
use crate::{Identity, application_credentials, catalogue, fault, oauth1, trusts, users};

/// How long after its end a token may still be looked at with `allow_expired`: long operations need it.
pub const EXPIRED_WINDOW: Duration = Duration::from_secs(48 * 3600);

/// Kinds of [`revoke_in`].
pub const AUDIT: &str = "audit";
pub const USER: &str = "user";
pub const PROJECT: &str = "project";
pub const DOMAIN: &str = "domain";

impl Identity {
    /// The token, if it is valid now (or was within `window`).
    pub(crate) async fn token_live(&self, token: &str, window: Duration) -> Result<Arc<Live>> {
        let now = Timestamp::now();
        if let Some(live) = self.0.cache.get(token) {
            return if live.is_expired(now, window) { Err(fault::unauthorized()) } else { Ok(live) };
        }
        let generation = self.0.cache.generation();
        let payload = match self.token_read(token) {
            Some(payload) => payload,
            None if self.keys_missed(token).await? => self.token_read(token).ok_or_else(fault::unauthorized)?,
            None => return Err(fault::unauthorized()),
        };
        if now >= payload.expires_at.plus(window) {
            return Err(fault::unauthorized());
        }
        let live = Arc::new(self.0.store.read(|tx| self.live_in(tx, payload, generation)).await?);
        self.0.cache.put(token, live.clone());
        Ok(live)
    }

    /// Looks everything up. `Unauthenticated` when any part of it does not hold any more.
    pub(crate) fn live_in(&self, tx: &Tx, payload: Payload, generation: u64) -> Result<Live> {
        let delegation = match &payload.target {
            Target::Trust { id, .. } => Some(trusts::delegation_in(tx, id).map_err(void)?),
            _ => None,
        };
        let credential = match &payload.via {
            Via::User | Via::OAuth1(_) | Via::Certificate(_) => None,
            Via::Federation { idp_id, protocol_id, .. } => {
                check_way_in(tx, idp_id, protocol_id)?;
                None
            }
            Via::ApplicationCredential(id) => Some(application_credentials::credential_usable_in(tx, id)?.ok_or_else(fault::unauthorized)?),
        };
        if let Some(credential) = &credential
            && (credential.user_id != payload.user_id || payload.target != Target::Project(credential.project_id.clone()))
        {
            return Err(fault::unauthorized());
        }
        let access = match &payload.via {
            Via::OAuth1(id) => {
                let found = oauth1::access_token_in(tx, &self.0.credential_keys, id)?.filter(|access| !access.has_ended(payload.issued_at));
                let right = |access: &oauth1::AccessToken| {
                    access.user_id == payload.user_id && payload.target == Target::Project(access.project_id.clone())
                };
                Some(found.filter(right).ok_or_else(fault::unauthorized)?)
            }
            _ => None,
        };
        let user = match &delegation {
            Some(lent) if lent.trust.trustee_user_id != payload.user_id => return Err(fault::unauthorized()),
            Some(lent) if !matches!(&payload.target, Target::Trust { project_id, .. } if *project_id == lent.project.id) => {
                return Err(fault::unauthorized());
            }
            Some(lent) if lent.trust.impersonation => lent.trustor.clone(),
            Some(lent) => lent.trustee.clone(),
            None => users::user_fetch_in(tx, &payload.user_id)?.filter(|u| u.enabled).ok_or_else(fault::unauthorized)?,
        };
        let user_domain = enabled_domain(tx, &user.domain_id)?;
        let (project, domain) = match &payload.target {
            Target::Project(_) | Target::Trust { .. } => {
                let project = match (&payload.target, &delegation) {
                    (Target::Project(id), _) => project_fetch_in(tx, id)?,
                    (_, lent) => lent.as_ref().map(|lent| lent.project.clone()),
                };
                let project = project.filter(|p| p.enabled).ok_or_else(fault::unauthorized)?;
                let domain = if project.is_domain { project.clone() } else { enabled_domain(tx, &project.domain_id)? };
                (Some(project), Some(domain))
            }
            Target::Domain(id) => (None, Some(enabled_domain(tx, id)?)),
            Target::System | Target::Unscoped => (None, None),
        };
        let people = delegation.as_ref().map_or(std::slice::from_ref(&user), |lent| &lent.people);
        for person in people {
            if is_revoked(tx, &payload, person, project.as_ref(), domain.as_ref())? {
                return Err(fault::unauthorized());
            }
        }
        let roles = match (&delegation, &credential, &project) {
            (Some(lent), ..) => lent.roles.clone(),
            (None, Some(credential), Some(project)) => application_credentials::roles_of_credential_in(tx, credential, project)?,
            (None, None, Some(project)) if let Some(access) = &access => access.roles_in(tx, project)?,
            _ => roles_of_user_in(tx, &user.id, &payload.target, project.as_ref())?,
        };
        if roles.is_empty() && payload.target != Target::Unscoped {
            return Err(fault::unauthorized());
        }
        let catalogue = match payload.target {
            Target::Unscoped => None,
            _ => {
                let of = delegation.as_ref().map_or(&user.id, |lent| &lent.trustor.id);
                let document = catalogue::document_in(tx, of, project.as_ref().map(|p| p.id.as_str()), self.whole_catalogue())?;
                Some(self.0.cache.intern(serde_json::to_vec(&document).internal("rendering the catalogue")?))
            }
        };
        let named = |p: &Project| json!({ "id": p.id, "name": p.name });
        let mut token = json!({
            "methods": self.0.methods.names(payload.methods),
            "user": { "domain": named(&user_domain), "id": user.id, "name": user.name, "password_expires_at": user.password_expires_at() },
            "audit_ids": audit_ids(&payload),
            "expires_at": payload.expires_at.iso_micros_z(),
            "issued_at": payload.issued_at.iso_micros_z(),
        });
        let service_providers = service_providers_of_tokens_in(tx)?;
        if !service_providers.is_empty() {
            token["service_providers"] = Value::Array(service_providers);
        }
        let scope = match (&payload.target, &project, &domain) {
            (Target::Project(_) | Target::Trust { .. }, Some(project), Some(domain)) => {
                token["project"] = json!({ "domain": named(domain), "id": project.id, "name": project.name });
                match &delegation {
                    None => token["is_domain"] = json!(project.is_domain),
                    Some(lent) => {
                        token["OS-TRUST:trust"] = json!({
                            "id": lent.trust.id,
                            "trustor_user": { "id": lent.trustor.id },
                            "trustee_user": { "id": lent.trustee.id },
                            "impersonation": lent.trust.impersonation,
                        });
                    }
                }
                Scope::Project {
                    id: project.id.clone(),
                    name: project.name.clone(),
                    domain_id: domain.id.clone(),
                    domain_name: domain.name.clone(),
                }
            }
            (Target::Domain(_), _, Some(domain)) => {
                token["domain"] = named(domain);
                Scope::Domain { id: domain.id.clone(), name: domain.name.clone() }
            }
            (Target::System, ..) => {
                token["system"] = json!({ "all": true });
                Scope::System
            }
            _ => Scope::Unscoped,
        };
        if let Via::Federation { idp_id, protocol_id, group_ids } = &payload.via {
            let groups: Vec<Value> = group_ids.iter().map(|id| json!({ "id": id })).collect();
            token["user"]["OS-FEDERATION"] =
                json!({ "groups": groups, "identity_provider": { "id": idp_id }, "protocol": { "id": protocol_id } });
            token["user"].as_object_mut().map(|user| user.remove("password_expires_at"));
        }
        if payload.target != Target::Unscoped {
            token["roles"] = roles.iter().map(|role| json!({ "id": role.id, "name": role.name })).collect::<Value>();
        }
        if let Some(credential) = &credential {
            let mut shown = json!({ "id": credential.id, "name": credential.name, "restricted": !credential.unrestricted });
            if !credential.rules.is_empty() {
                shown["access_rules"] = credential.rules.iter().map(AccessRule::view).collect();
            }
            token["application_credential"] = shown;
        }
        if let Via::Certificate(thumbprint) = &payload.via {
            token["oauth2_credential"] = json!({ "x5t#S256": thumbprint });
        }
        if let Some(access) = &access {
            token["OS-OAUTH1"] = json!({ "access_token_id": access.id, "consumer_id": access.consumer_id });
        }
        let ctx = Context {
            user_id: user.id,
            user_name: user.name,
            user_domain_id: user_domain.id.clone(),
            user_domain_name: user_domain.name,
            scope,
            roles: role_names(&roles),
            ..Context::default()
        };
        let bare = serde_json::to_vec(&json!({ "token": token })).internal("rendering a token")?.into();
        let role_ids = roles.into_iter().map(|role| role.id).collect();
        let mut live = Live::new(payload, ctx, user_domain.id, bare, generation);
        (live.catalogue, live.role_ids, live.credential) = (catalogue, role_ids, credential);
        Ok(live)
    }

    /// What is in a token that is ours. Sealed ones are taken also when new ones are signed: those of before stay good.
    fn token_read(&self, token: &str) -> Option<Payload> {
        match self.signatures().filter(|_| token.contains('.')) {
            Some(signatures) => signatures.read(token, &self.0.methods),
            None => {
                let (bytes, sealed_at) = self.keys().unseal(token)?;
                Payload::decode(&bytes, sealed_at)
            }
        }
    }

    /// The text of a new token; `None` when there is no form for it.
    pub(crate) fn token_write(&self, payload: &Payload) -> Option<String> {
        match self.signatures() {
            Some(signatures) => signatures.sign(payload, &self.0.methods),
            None => Some(self.keys().seal(&payload.encode()?, payload.sealed_at())),
        }
    }

    /// The token of a request, or what stands for one.
    pub(crate) async fn caller(&self, req: &Request) -> Result<Arc<Live>> {
        match &req.token {
            Some(token) => self.token_live(token, Duration::ZERO).await,
            None => self.tokenless_live(req.certificate.as_ref(), &req.headers).await,
        }
    }
}

pub fn role_names(roles: &[RoleRef]) -> Vec<String> {
    roles.iter().map(|role| role.name.to_lowercase()).collect()
}

fn enabled_domain(tx: &Tx, id: &str) -> Result<Project> {
    project_fetch_in(tx, id)?.filter(|d| d.is_domain && d.enabled).ok_or_else(fault::unauthorized)
}

pub fn audit_ids(payload: &Payload) -> Vec<String> {
    std::iter::once(&payload.audit_id).chain(&payload.parent_audit_id).map(|id| URL_SAFE_NO_PAD.encode(id)).collect()
}

/// What a trust lacks is, for its tokens, no better told than of any other token.
fn void(error: Error) -> Error {
    if error.is(Kind::NotFound) || error.is(Kind::Forbidden) { fault::unauthorized() } else { error }
}

fn is_revoked(tx: &Tx, payload: &Payload, user: &User, project: Option<&Project>, domain: Option<&Project>) -> Result<bool> {
    let project_id = project.map_or("", |p| p.id.as_str());
    let domain_id = domain.map_or("", |d| d.id.as_str());
    let found = tx.query_opt(
        "SELECT 1 FROM revocation WHERE issued_before >= ?1 AND ((kind = 'audit' AND subject = ?2) OR (kind = 'user' AND subject = ?3) \
         OR (kind = 'project' AND subject = ?4) OR (kind = 'domain' AND subject IN (?5, ?6))) LIMIT 1",
        params![payload.issued_at, URL_SAFE_NO_PAD.encode(payload.audit_id), &user.id, project_id, domain_id, &user.domain_id],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// Whether what a user proved at an instant is void by now.
pub fn is_user_revoked_in(tx: &Tx, user_id: &str, issued_at: Timestamp) -> Result<bool> {
    let sql = "SELECT 1 FROM revocation WHERE kind = 'user' AND subject = ?1 AND issued_before >= ?2";
    Ok(tx.query_opt(sql, params![user_id, issued_at], |_| Ok(()))?.is_some())
}

/// Makes void every token of the subject that was issued up to now.
pub fn revoke_in(tx: &Tx, kind: &str, subject: &str, lifetime: Duration) -> Result<()> {
    let now = Timestamp::now();
    tx.execute(
        "INSERT INTO revocation (kind, subject, issued_before, forget_after) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (kind, subject) DO UPDATE SET issued_before = excluded.issued_before, forget_after = excluded.forget_after",
        params![kind, subject, now, now.plus(lifetime).plus(EXPIRED_WINDOW)],
    )?;
    Ok(())
}

/// Forgets revocations of tokens that would all be over by now.
pub fn revocations_prune_in(tx: &Tx) -> Result<u64> {
    tx.execute("DELETE FROM revocation WHERE forget_after < ?1", params![Timestamp::now()])
}

/// Turns "not valid" into upstream's answer for a subject token.
pub fn as_subject(error: Error, token: &str) -> Error {
    if error.is(Kind::Unauthenticated) { fault::not_found("token", token) } else { error }
}

//! `/v3/users/{user_id}/application_credentials` and `/v3/users/{user_id}/access_rules`.

use std::sync::Arc;

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::application_credentials::access::{self, AccessRule, rule_fetch_in};
use crate::application_credentials::{self as credentials, ApplicationCredential, CredentialWanted, credential_fetch_in};
use crate::list::{Ask, Attribute, Form, collection};
use crate::roles::{Role, roles_by_ids_in};
use crate::token::cache::Live;
use crate::users::user_fetch_in;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    const ALL: &str = "/v3/users/{user_id}/application_credentials";
    const ONE: &str = "/v3/users/{user_id}/application_credentials/{application_credential_id}";
    routes
        .get(ALL, index)
        .post(ALL, create)
        .get(ONE, show)
        .delete(ONE, delete)
        .get("/v3/users/{user_id}/access_rules", index_rules)
        .get("/v3/users/{user_id}/access_rules/{access_rule_id}", show_rule)
        .delete("/v3/users/{user_id}/access_rules/{access_rule_id}", delete_rule)
}

const ATTRIBUTES: &[Attribute] = &[("name", "name", Form::Text)];
const RULE_ATTRIBUTES: &[Attribute] = &[("service", "service", Form::Text), ("path", "path", Form::Text), ("method", "method", Form::Text)];

/// The caller's token, unless it is of a trust or of OAuth 1.0a: what it gives has an end, and a credential made by it would not.
async fn own_token(identity: &Identity, req: &Request) -> Result<Arc<Live>> {
    let live = identity.caller(req).await?;
    if live.is_lent() {
        return Err(fault::forbidden_action("application credentials are not managed with a token that was lent"));
    }
    Ok(live)
}

/// As [`own_token`]; a credential that is restricted neither makes nor deletes others.
async fn free_token(identity: &Identity, req: &Request) -> Result<Arc<Live>> {
    let live = own_token(identity, req).await?;
    if live.is_restricted() {
        return Err(fault::forbidden_action("a restricted application credential does not manage application credentials"));
    }
    Ok(live)
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let user_id = req.param("user_id");
    identity.allow("list_application_credentials", &req.ctx, &json!({ "user_id": user_id }))?;
    own_token(&identity, &req).await?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let (found, roles, rest) = identity.application_credential_list(&ask, user_id).await?;
    let views = found.iter().map(|credential| Value::Object(credential.view(&req, &roles))).collect();
    answer(200, &collection(&req, "application_credentials", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let user_id = req.param("user_id");
    identity.allow("create_application_credential", &req.ctx, &json!({ "user_id": user_id }))?;
    let wanted = CredentialWanted::read(wire::member(&req, "application_credential")?)?;
    let live = free_token(&identity, &req).await?;
    if req.ctx.user_id != user_id {
        return Err(fault::forbidden_action("Cannot create an application credential for another user."));
    }
    if req.ctx.project_id().is_empty() {
        return Err(fault::forbidden_action("an application credential is for the project of the token, and this one has none"));
    }
    let (credential, roles, secret) = identity.application_credential_create(&req.ctx, &live, wanted).await?;
    let mut view = credential.view(&req, &roles);
    view.insert("secret".into(), json!(secret));
    answer(201, &json!({ "application_credential": view }))
}

/// The credential of the path with its roles, when the caller may. Whose it is counts, not whose the path says.
async fn guarded(identity: &Identity, req: &Request, rule: &str) -> Result<(ApplicationCredential, Vec<Role>)> {
    let (user_id, id) = (req.param("user_id"), req.param("application_credential_id"));
    let found = identity.0.store.read(|tx| {
        let Some(credential) = credential_fetch_in(tx, id)? else { return Ok(None) };
        let roles = roles_by_ids_in(tx, &credential.roles)?;
        Ok(Some((credential, roles)))
    });
    let found = found.await?;
    let owner = found.as_ref().map_or(user_id, |(credential, _)| &credential.user_id);
    identity.allow(rule, &req.ctx, &json!({ "user_id": owner }))?;
    found.filter(|(credential, _)| credential.user_id == user_id).ok_or_else(|| credentials::not_found(id))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let (credential, roles) = guarded(&identity, &req, "get_application_credential").await?;
    own_token(&identity, &req).await?;
    answer(200, &json!({ "application_credential": credential.view(&req, &roles) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let (credential, _) = guarded(&identity, &req, "delete_application_credential").await?;
    free_token(&identity, &req).await?;
    identity.application_credential_delete(&req.ctx, &credential.id).await?;
    nothing()
}

/// What rules may ask about the user of the path.
async fn user_target(identity: &Identity, user_id: &str) -> Result<Value> {
    let user = identity.0.store.read(|tx| user_fetch_in(tx, user_id)).await?;
    Ok(user.map_or_else(|| json!({}), |user| json!({ "target": { "user": user.target() } })))
}

fn rule_view(rule: &AccessRule, req: &Request) -> Value {
    let mut view = rule.view();
    view["links"] = json!({ "self": format!("{}/v3/users/{}/access_rules/{}", req.base_url, rule.user_id, rule.id) });
    view
}

async fn index_rules(identity: Identity, req: Request) -> Result<Response> {
    let user_id = req.param("user_id");
    identity.allow("list_access_rules", &req.ctx, &user_target(&identity, user_id).await?)?;
    own_token(&identity, &req).await?;
    let ask = Ask::read(&req.query, RULE_ATTRIBUTES, max(&identity))?;
    let (rules, rest) = identity.access_rule_list(&ask, user_id).await?;
    let views = rules.iter().map(|rule| rule_view(rule, &req)).collect();
    answer(200, &collection(&req, "access_rules", views, more(&ask, rest)))
}

/// The rule of the path, when the caller may see it there.
async fn guarded_rule(identity: &Identity, req: &Request, rule: &str) -> Result<AccessRule> {
    let (user_id, id) = (req.param("user_id"), req.param("access_rule_id"));
    identity.allow(rule, &req.ctx, &user_target(identity, user_id).await?)?;
    own_token(identity, req).await?;
    let found = identity.0.store.read(|tx| rule_fetch_in(tx, id)).await?;
    found.filter(|rule| rule.user_id == user_id).ok_or_else(|| access::not_found(id))
}

async fn show_rule(identity: Identity, req: Request) -> Result<Response> {
    let rule = guarded_rule(&identity, &req, "get_access_rule").await?;
    answer(200, &json!({ "access_rule": rule_view(&rule, &req) }))
}

async fn delete_rule(identity: Identity, req: Request) -> Result<Response> {
    let rule = guarded_rule(&identity, &req, "delete_access_rule").await?;
    if identity.caller(&req).await?.is_restricted() {
        return Err(fault::forbidden_action("a restricted application credential does not manage access rules"));
    }
    identity.access_rule_delete(&req.ctx, &rule.id).await?;
    nothing()
}

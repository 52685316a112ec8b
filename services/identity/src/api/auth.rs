//! `/v3/auth`: tokens, and what the caller can do with one.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base::{Error, Result};
use http_api::{Request, Response, query::parse_bool, response};
use serde_json::{Value, json};

use super::{R, answer, is_head, nothing, rendered};
use crate::auth::{Answer, RECEIPT_HEADER, Word};
use crate::federation::peers::Peer;
use crate::federation::saml::request::{PAOS_TYPE, enclosed, posted};
use crate::list::collection;
use crate::token::cache::Live;
use crate::token::validate::{AUDIT, EXPIRED_WINDOW, as_subject, audit_ids, revoke_in};
use crate::{Identity, catalogue, fault, grants, note, projects, wire};

pub fn routes(routes: R) -> R {
    let routes = reach_routes(routes, "/v3/auth/projects", "/v3/auth/domains");
    routes
        .public("POST", "/v3/auth/tokens", create)
        .get("/v3/auth/tokens", show)
        .delete("/v3/auth/tokens", delete)
        .get("/v3/auth/catalog", catalog)
        .get("/v3/auth/system", scopes_system)
}

/// What the caller can scope to; federation has names of its own for them.
pub fn reach_routes(routes: R, projects: &str, domains: &str) -> R {
    routes.get(projects, scopes_projects).get(domains, scopes_domains)
}

fn with_token(status: u16, live: &Live, token: &str, req: &Request) -> Response {
    let mut response = rendered(status, live.rendered(!req.query.has("nocatalog")));
    response::set_header(&mut response, "x-subject-token", token);
    response
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let body = wire::body(&req)?;
    let auth = match body.get("auth") {
        Some(Value::Object(auth)) => auth,
        Some(Value::Null) | None => return Err(fault::expecting("auth", "request body")),
        Some(_) => return Err(fault::field("auth", "it is not of type 'object'")),
    };
    token_answer(&identity, &req, auth).await
}

async fn token_answer(identity: &Identity, req: &Request, auth: &wire::Object) -> Result<Response> {
    answered(identity.token_issue(req, auth).await?, req)
}

pub fn answered(outcome: Answer, req: &Request) -> Result<Response> {
    match outcome {
        Answer::Token(token, live) => Ok(with_token(201, &live, &token, req)),
        Answer::Receipt(issued) => {
            let mut response = answer(401, &issued.body)?;
            response::set_header(&mut response, RECEIPT_HEADER, &issued.receipt);
            Ok(response)
        }
    }
}

/// `/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/auth`: a token without a scope.
pub async fn create_federated(identity: Identity, req: Request) -> Result<Response> {
    let (idp, protocol) = (req.param("idp_id"), req.param("protocol_id"));
    let said = json!({ "identity_provider": idp, "protocol": protocol });
    let auth = wire::Object::from_iter([("identity".to_string(), json!({ "methods": ["mapped"], "mapped": said }))]);
    let Some(Peer::Saml(provider)) = identity.0.peers.find(idp, protocol) else {
        return token_answer(&identity, &req, &auth).await;
    };
    let document = match posted(&req)? {
        Some(form) => form.document,
        None => enclosed(&req)?,
    };
    match document {
        Some(document) => answered(identity.token_issue_by(&req, &auth, Word::Document(&document)).await?, &req),
        // An enhanced client is told whom to ask.
        None if req.header("accept").is_some_and(|accept| accept.contains(PAOS_TYPE)) => {
            let request = provider.ecp_request(&identity.saml_request_id(&provider));
            Ok(response::with_type(200, PAOS_TYPE, Body::from(request)))
        }
        None => Err(fault::unauthorized()),
    }
}

/// The token in `X-Subject-Token`, looked at for the caller.
async fn subject(identity: &Identity, req: &Request, rule: &str, window: Duration) -> Result<(String, Arc<Live>)> {
    let token = req.header("x-subject-token").filter(|t| !t.is_empty());
    let token = token.ok_or_else(|| Error::new(base::Kind::NotFound, "No token in the request"))?.to_string();
    let live = identity.token_live(&token, window).await.map_err(|e| as_subject(e, &token))?;
    let target = json!({ "target": { "token": { "user_id": live.ctx.user_id, "user": { "domain": { "id": live.user_domain_id } } } } });
    identity.allow(rule, &req.ctx, &target)?;
    Ok((token, live))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let expired_too = req.query.get("allow_expired").and_then(parse_bool) == Some(true);
    let window = if expired_too { EXPIRED_WINDOW } else { Duration::ZERO };
    let rule = if is_head(&req) { "check_token" } else { "validate_token" };
    let (token, live) = subject(&identity, &req, rule, window).await?;
    Ok(with_token(200, &live, &token, &req))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let (_, live) = subject(&identity, &req, "revoke_token", Duration::ZERO).await?;
    let id = audit_ids(&live.payload).swap_remove(0);
    let (ctx, lifetime, user) = (req.ctx.clone(), identity.token_lifetime(), live.ctx.user_id.clone());
    identity
        .change(move |tx| {
            revoke_in(tx, AUDIT, &id, lifetime)?;
            note(tx, &ctx, "token.revoked", &user)
        })
        .await?;
    nothing()
}

async fn catalog(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_auth_catalog", &req.ctx, &Value::Null)?;
    let project = req.ctx.project_id();
    if project.is_empty() {
        return Err(Error::forbidden("Only a token for a project has a catalogue here."));
    }
    let document =
        identity.0.store.read(|tx| catalogue::document_in(tx, &req.ctx.user_id, Some(project), identity.whole_catalogue())).await?;
    answer(200, &json!({ "catalog": document, "links": { "self": format!("{}/v3/auth/catalog", req.base_url) } }))
}

async fn scopes_projects(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_auth_projects", &req.ctx, &Value::Null)?;
    let user = &req.ctx.user_id;
    let found = identity.0.store.read(|tx| projects::projects_by_ids_in(tx, &grants::reach_in(tx, user, false)?)).await?;
    let views = found.iter().filter(|p| p.enabled).map(|p| p.view(&req)).collect();
    answer(200, &collection(&req, "projects", views, None))
}

async fn scopes_domains(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_auth_domains", &req.ctx, &Value::Null)?;
    let user = &req.ctx.user_id;
    let found = identity.0.store.read(|tx| projects::projects_by_ids_in(tx, &grants::reach_in(tx, user, true)?)).await?;
    let views = found.iter().filter(|d| d.enabled).map(|d| d.domain_view(&req)).collect();
    answer(200, &collection(&req, "domains", views, None))
}

async fn scopes_system(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_auth_system", &req.ctx, &Value::Null)?;
    let reaches = identity.0.store.read(|tx| grants::reaches_system_in(tx, &req.ctx.user_id)).await?;
    let system = if reaches { json!([{ "all": true }]) } else { json!([]) };
    answer(200, &json!({ "system": system, "links": { "self": format!("{}/v3/auth/system", req.base_url) } }))
}

//! `/v3/OS-OAUTH1`, and the access tokens of a user.

use std::sync::Arc;

use axum::body::Body;
use base::{Error, Result, Timestamp};
use http_api::{Request, Response, response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::list::{Ask, collection};
use crate::oauth1::ConsumerWanted;
use crate::oauth1::signature::SignedRequest;
use crate::roles::roles_by_ids_in;
use crate::token::cache::Live;
use crate::trusts::roles_wanted;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/OS-OAUTH1/consumers", consumers)
        .post("/v3/OS-OAUTH1/consumers", create_consumer)
        .get("/v3/OS-OAUTH1/consumers/{consumer_id}", consumer)
        .patch("/v3/OS-OAUTH1/consumers/{consumer_id}", update_consumer)
        .delete("/v3/OS-OAUTH1/consumers/{consumer_id}", delete_consumer)
        .public("POST", "/v3/OS-OAUTH1/request_token", request_token)
        .put("/v3/OS-OAUTH1/authorize/{request_token_id}", authorize)
        .public("POST", "/v3/OS-OAUTH1/access_token", create_access_token)
        .get("/v3/users/{user_id}/OS-OAUTH1/access_tokens", access_tokens)
        .get("/v3/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}", access_token)
        .delete("/v3/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}", delete_access_token)
        .get("/v3/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}/roles", roles)
        .get("/v3/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}/roles/{role_id}", role)
}

async fn consumers(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_consumers", &req.ctx, &Value::Null)?;
    let ask = Ask::read(&req.query, &[], max(&identity))?;
    let (found, rest) = identity.consumer_list(&ask).await?;
    let views = found.iter().map(|consumer| consumer.view(&req, false)).collect();
    answer(200, &collection(&req, "consumers", views, more(&ask, rest)))
}

async fn create_consumer(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_consumer", &req.ctx, &Value::Null)?;
    let wanted = ConsumerWanted::read(unsecret(wire::member(&req, "consumer")?)?)?;
    let consumer = identity.consumer_create(&req.ctx, wanted).await?;
    answer(201, &json!({ "consumer": consumer.view(&req, true) }))
}

/// A secret is made here, and never changed.
fn unsecret(map: wire::Object) -> Result<wire::Object> {
    if map.contains_key("secret") { Err(fault::field("consumer/secret", "it cannot be chosen")) } else { Ok(map) }
}

async fn consumer(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_consumer", &req.ctx, &Value::Null)?;
    let consumer = identity.consumer_fetch(req.param("consumer_id")).await?;
    answer(200, &json!({ "consumer": consumer.view(&req, false) }))
}

async fn update_consumer(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_consumer", &req.ctx, &Value::Null)?;
    let mut map = unsecret(wire::member(&req, "consumer")?)?;
    wire::not_empty(&map, "consumer")?;
    wire::Take { map: &mut map, what: "consumer" }.same_id(req.param("consumer_id"))?;
    let consumer = identity.consumer_update(&req.ctx, req.param("consumer_id"), ConsumerWanted::read(map)?).await?;
    answer(200, &json!({ "consumer": consumer.view(&req, false) }))
}

async fn delete_consumer(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_consumer", &req.ctx, &Value::Null)?;
    identity.consumer_delete(&req.ctx, req.param("consumer_id")).await?;
    nothing()
}

/// As OAuth wants them: a form.
fn token((id, secret, end): (String, String, Timestamp)) -> Response {
    let body = format!("oauth_token={id}&oauth_token_secret={secret}&oauth_expires_at={}", end.iso_micros_z());
    response::with_type(201, "application/x-www-form-urlencoded", Body::from(body))
}

async fn request_token(identity: Identity, req: Request) -> Result<Response> {
    let signed = SignedRequest::read(&req)?;
    signed.field("consumer_key")?;
    let project = req.header("requested-project-id").filter(|id| !id.is_empty());
    let project = project.ok_or_else(|| fault::expecting("Requested-Project-Id", "request"))?;
    Ok(token(identity.request_token_create(&req.ctx, &signed, project).await?))
}

async fn create_access_token(identity: Identity, req: Request) -> Result<Response> {
    let signed = SignedRequest::read(&req)?;
    Ok(token(identity.access_token_create(&req.ctx, &signed).await?))
}

/// Whoever acts for another hands nothing on and looks at nothing that others were let do.
async fn own_token(identity: &Identity, req: &Request) -> Result<Arc<Live>> {
    let live = identity.caller(req).await?;
    if live.is_delegated() {
        return Err(Error::forbidden("Cannot manage OAuth access tokens with a token issued via delegation."));
    }
    Ok(live)
}

async fn authorize(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("authorize_request_token", &req.ctx, &Value::Null)?;
    own_token(&identity, &req).await?;
    let roles = roles_wanted("authorize", wire::body(&req)?.remove("roles"))?;
    let verifier = identity.request_token_authorize(&req.ctx, req.param("request_token_id"), roles).await?;
    answer(200, &json!({ "token": { "oauth_verifier": verifier } }))
}

async fn access_tokens(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_access_tokens", &req.ctx, &Value::Null)?;
    own_token(&identity, &req).await?;
    let ask = Ask::read(&req.query, &[], max(&identity))?;
    let (found, rest) = identity.access_token_list(&ask, req.param("user_id")).await?;
    let views = found.iter().map(|token| token.view(&req)).collect();
    answer(200, &collection(&req, "access_tokens", views, more(&ask, rest)))
}

async fn access_token(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_access_token", &req.ctx, &Value::Null)?;
    own_token(&identity, &req).await?;
    let token = identity.access_token_fetch(req.param("user_id"), req.param("access_token_id")).await?;
    answer(200, &json!({ "access_token": token.view(&req) }))
}

async fn delete_access_token(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_access_token", &req.ctx, &Value::Null)?;
    own_token(&identity, &req).await?;
    identity.access_token_delete(&req.ctx, req.param("user_id"), req.param("access_token_id")).await?;
    nothing()
}

async fn roles(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_access_token_roles", &req.ctx, &Value::Null)?;
    let token = identity.access_token_fetch(req.param("user_id"), req.param("access_token_id")).await?;
    let found = identity.0.store.read(|tx| roles_by_ids_in(tx, &token.roles)).await?;
    answer(200, &collection(&req, "roles", found.iter().map(|role| role.short(&req)).collect(), None))
}

async fn role(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_access_token_role", &req.ctx, &Value::Null)?;
    let token = identity.access_token_fetch(req.param("user_id"), req.param("access_token_id")).await?;
    let wanted = req.param("role_id");
    let ids: Vec<String> = token.roles.into_iter().filter(|id| id == wanted).collect();
    let found = identity.0.store.read(|tx| roles_by_ids_in(tx, &ids)).await?;
    let role = found.first().ok_or_else(|| fault::not_found("role", wanted))?;
    answer(200, &json!({ "role": role.short(&req) }))
}

//! `/v3/credentials`.

use std::sync::Arc;

use base::{Result, Scope};
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::credentials::{Credential, CredentialChange};
use crate::list::{Ask, Attribute, Form, collection};
use crate::token::cache::Live;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/credentials", index)
        .post("/v3/credentials", create)
        .get("/v3/credentials/{credential_id}", show)
        .patch("/v3/credentials/{credential_id}", update)
        .delete("/v3/credentials/{credential_id}", delete)
}

const ATTRIBUTES: &[Attribute] = &[("user_id", "user_id", Form::Text), ("type", "type", Form::Text)];

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let own = json!({ "target": { "credential": { "user_id": req.ctx.user_id } } });
    let target = if req.ctx.scope == Scope::System { Value::Null } else { own };
    identity.allow("list_credentials", &req.ctx, &target)?;
    // Whoever may see those of nobody in particular sees all, others see their own.
    let sees_all = identity.allow("get_credential", &req.ctx, &Value::Null).is_ok();
    let user = (!sees_all).then_some(req.ctx.user_id.as_str());
    let (credentials, rest) = identity.credential_list(&ask, user).await?;
    let live = identity.caller(&req).await?;
    let may_see = |c: &&Credential| identity.allow("get_credential", &req.ctx, &c.target()).is_ok() && check_scope(&req, &live, c).is_ok();
    let views = credentials.iter().filter(may_see).map(|c| c.view(&req)).collect();
    answer(200, &collection(&req, "credentials", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let mut credential = CredentialChange::read(wire::member(&req, "credential")?)?.whole()?;
    identity.allow("create_credential", &req.ctx, &credential.target())?;
    let live = free_token(&identity, &req).await?;
    check_scope(&req, &live, &credential)?;
    credential.bind(&live)?;
    let credential = identity.credential_create(&req.ctx, credential).await?;
    answer(201, &json!({ "credential": credential.view(&req) }))
}

/// The caller's token, unless it is of a restricted application credential: that makes and changes no others.
pub(super) async fn free_token(identity: &Identity, req: &Request) -> Result<Arc<Live>> {
    let live = identity.caller(req).await?;
    if live.is_restricted() {
        return Err(fault::forbidden_action("a restricted application credential does not manage credentials"));
    }
    Ok(live)
}

/// Whoever acts by a delegation gets at the credentials of its project only: others are not what was lent.
pub(super) fn check_scope(req: &Request, live: &Live, credential: &Credential) -> Result<()> {
    if live.is_delegated() && credential.project_id.as_deref() != Some(req.ctx.project_id()) {
        return Err(fault::forbidden_action("the credential is not of the project of the delegation"));
    }
    Ok(())
}

/// The credential of the path, when the caller may.
async fn guarded(identity: &Identity, req: &Request, rule: &str) -> Result<Credential> {
    let id = req.param("credential_id");
    let found = identity.credential_fetch(id).await?;
    let target = found.as_ref().map_or_else(|| json!({}), Credential::target);
    identity.allow(rule, &req.ctx, &target)?;
    let credential = found.ok_or_else(|| fault::not_found("credential", id))?;
    check_scope(req, &*identity.caller(req).await?, &credential)?;
    Ok(credential)
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let credential = guarded(&identity, &req, "get_credential").await?;
    answer(200, &json!({ "credential": credential.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    let mut map = wire::member(&req, "credential")?;
    wire::not_empty(&map, "credential")?;
    wire::Take { map: &mut map, what: "credential" }.same_id(req.param("credential_id"))?;
    let change = CredentialChange::read(map)?;
    let credential = guarded(&identity, &req, "update_credential").await?;
    let credential = change.applied(credential)?;
    // Nobody gives a credential to a user they may not act for.
    identity.allow("update_credential", &req.ctx, &credential.target())?;
    check_scope(&req, &*free_token(&identity, &req).await?, &credential)?;
    let credential = identity.credential_store(&req.ctx, credential).await?;
    answer(200, &json!({ "credential": credential.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let credential = guarded(&identity, &req, "delete_credential").await?;
    free_token(&identity, &req).await?;
    identity.credential_delete(&req.ctx, &credential.id).await?;
    nothing()
}

//! `/v3/OS-TRUST/trusts`.

use std::sync::Arc;

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::list::{Ask, Attribute, Form, collection};
use crate::roles::{Role, roles_by_ids_in};
use crate::token::cache::Live;
use crate::trusts::{self, Trust, TrustWanted, trust_get_in, trust_usable_in};
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/OS-TRUST/trusts", index)
        .post("/v3/OS-TRUST/trusts", create)
        .get("/v3/OS-TRUST/trusts/{trust_id}", show)
        .delete("/v3/OS-TRUST/trusts/{trust_id}", delete)
        .get("/v3/OS-TRUST/trusts/{trust_id}/roles", roles)
        .get("/v3/OS-TRUST/trusts/{trust_id}/roles/{role_id}", role)
}

const ATTRIBUTES: &[Attribute] = &[("trustor_user_id", "trustor_user_id", Form::Text), ("trustee_user_id", "trustee_user_id", Form::Text)];

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let of = |name: &str| req.query.get(name).filter(|id| !id.is_empty());
    match (of("trustor_user_id"), of("trustee_user_id")) {
        (Some(trustor), _) => identity.allow("list_trusts_for_trustor", &req.ctx, &only("trustor_user_id", trustor))?,
        (None, Some(trustee)) => identity.allow("list_trusts_for_trustee", &req.ctx, &only("trustee_user_id", trustee))?,
        (None, None) => identity.allow("list_trusts", &req.ctx, &Value::Null)?,
    }
    lender(&identity, &req).await?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let (trusts, rest) = identity.trust_list(&ask).await?;
    let views = trusts.iter().map(|trust| Value::Object(trust.view(&req))).collect();
    answer(200, &collection(&req, "trusts", views, more(&ask, rest)))
}

/// The caller's token, unless it is of an application credential: that is for one project, and a trust could be for more.
async fn lender(identity: &Identity, req: &Request) -> Result<Arc<Live>> {
    let live = identity.caller(req).await?;
    if live.credential_id().is_some() {
        return Err(fault::forbidden_action("trusts are not managed with an application credential"));
    }
    Ok(live)
}

/// One side of a trust as a target: whoever asks for the trusts of the other side is not judged by the own.
fn only(side: &str, user_id: &str) -> Value {
    json!({ "target": { "trust": { side: user_id } } })
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let wanted = TrustWanted::read(wire::member(&req, "trust")?)?;
    let target = trusts::target(&wanted.trustor_user_id, &wanted.trustee_user_id);
    identity.allow("create_trust", &req.ctx, &target)?;
    let by = lender(&identity, &req).await?.trust_id().map(str::to_string);
    let (trust, roles) = identity.trust_create(&req.ctx, wanted, by).await?;
    answer(201, &json!({ "trust": trust.whole_view(&req, &roles) }))
}

/// The trust of the path with those of its roles that are still there, when the caller may.
async fn guarded(identity: &Identity, req: &Request, rule: &str) -> Result<(Trust, Vec<Role>)> {
    let id = req.param("trust_id");
    let found = identity.0.store.read(|tx| {
        let trust = trust_usable_in(tx, id)?;
        let roles = roles_by_ids_in(tx, &trust.roles)?;
        Ok((trust, roles))
    });
    let (trust, roles) = found.await?;
    identity.allow(rule, &req.ctx, &trust.target())?;
    lender(identity, req).await?;
    Ok((trust, roles))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let (trust, roles) = guarded(&identity, &req, "get_trust").await?;
    answer(200, &json!({ "trust": trust.whole_view(&req, &roles) }))
}

/// Also of one that is used up: its last token ends with it.
async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("trust_id");
    let trust = identity.0.store.read(|tx| trust_get_in(tx, id)).await?;
    identity.allow("delete_trust", &req.ctx, &trust.target())?;
    lender(&identity, &req).await?;
    identity.trust_delete(&req.ctx, id).await?;
    nothing()
}

async fn roles(identity: Identity, req: Request) -> Result<Response> {
    let (trust, roles) = guarded(&identity, &req, "list_roles_for_trust").await?;
    let views: Vec<Value> = roles.iter().map(|role| role.view(&req)).collect();
    answer(200, &json!({ "roles": views, "links": trust.roles_links(&req) }))
}

async fn role(identity: Identity, req: Request) -> Result<Response> {
    let (_, roles) = guarded(&identity, &req, "get_role_for_trust").await?;
    let id = req.param("role_id");
    let role = roles.iter().find(|role| role.id == id).ok_or_else(|| fault::not_found("role", id))?;
    answer(200, &json!({ "role": role.view(&req) }))
}

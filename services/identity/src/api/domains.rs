//! `/v3/domains`.

use base::{Error, Result};
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing, own_domain};
use crate::list::{Ask, Attribute, Form, collection};
use crate::projects::{ProjectChange, ProjectList, TagFilter, domain_get_in, project_fetch_in, project_list_in};
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/domains", index)
        .post("/v3/domains", create)
        .get("/v3/domains/{domain_id}", show)
        .patch("/v3/domains/{domain_id}", update)
        .delete("/v3/domains/{domain_id}", delete)
}

const ATTRIBUTES: &[Attribute] = &[("name", "name", Form::Text), ("enabled", "enabled", Form::Flag)];

async fn target(identity: &Identity, id: &str) -> Result<Value> {
    let found = identity.0.store.read(|tx| project_fetch_in(tx, id)).await?.filter(|d| d.is_domain);
    let inner = found.map_or_else(|| json!({}), |domain| json!({ "domain": domain.target() }));
    Ok(json!({ "domain_id": id, "target": inner }))
}

/// As [`target`], of a domain that must be there: as upstream, that it is not is told to everybody.
async fn known(identity: &Identity, id: &str) -> Result<Value> {
    let domain = identity.0.store.read(|tx| domain_get_in(tx, id)).await?;
    Ok(json!({ "domain_id": id, "target": { "domain": domain.target() } }))
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let only = req.ctx.domain_id();
    identity.allow("list_domains", &req.ctx, &own_domain(&req.ctx, |domain| json!({ "domain": { "id": domain } })))?;
    let wanted = ProjectList { ask: &ask, tags: TagFilter::default(), is_domain: Some(true), within: None, only };
    let (domains, rest) = identity.0.store.read(|tx| project_list_in(tx, &wanted)).await?;
    let views = domains.iter().map(|domain| domain.domain_view(&req)).collect();
    answer(200, &collection(&req, "domains", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let mut map = wire::member(&req, "domain")?;
    let id = match map.remove("explicit_domain_id") {
        None => base::id::hex(),
        Some(Value::String(id)) if id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => id,
        Some(_) => return Err(Error::invalid("Domain ID does not conform to required UUID format.")),
    };
    let change = ProjectChange { is_domain: Some(true), ..ProjectChange::read(map, "domain")? };
    if change.name.is_none() {
        return Err(fault::field("domain", "'name' is a required property"));
    }
    identity.allow("create_domain", &req.ctx, &Value::Null)?;
    let domain = identity.project_create(&req.ctx, id, change).await?;
    answer(201, &json!({ "domain": domain.domain_view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("domain_id");
    identity.allow("get_domain", &req.ctx, &target(&identity, id).await?)?;
    let domain = identity.0.store.read(|tx| domain_get_in(tx, id)).await?;
    answer(200, &json!({ "domain": domain.domain_view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("domain_id");
    let mut map = wire::member(&req, "domain")?;
    wire::not_empty(&map, "domain")?;
    wire::Take { map: &mut map, what: "domain" }.same_id(id)?;
    let change = ProjectChange::read(map, "domain")?;
    identity.allow("update_domain", &req.ctx, &known(&identity, id).await?)?;
    let domain = identity.project_update(&req.ctx, id, change, true).await?;
    answer(200, &json!({ "domain": domain.domain_view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("domain_id");
    identity.allow("delete_domain", &req.ctx, &known(&identity, id).await?)?;
    identity.domain_delete(&req.ctx, id).await?;
    nothing()
}

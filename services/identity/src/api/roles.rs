//! `/v3/roles`, what they imply, and `/v3/role_inferences`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Map, Value, json};

use super::{R, answer, is_head, max, more, nothing};
use crate::list::{Ask, Attribute, Form, collection};
use crate::roles::{Role, RoleChange, implications_in, no_implication, role_get_in, role_list_in, roles_all_in};
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/roles", index)
        .post("/v3/roles", create)
        .get("/v3/roles/{role_id}", show)
        .patch("/v3/roles/{role_id}", update)
        .delete("/v3/roles/{role_id}", delete)
        .get("/v3/roles/{prior_role_id}/implies", index_implied)
        .get("/v3/roles/{prior_role_id}/implies/{implied_role_id}", show_implied)
        .put("/v3/roles/{prior_role_id}/implies/{implied_role_id}", create_implied)
        .delete("/v3/roles/{prior_role_id}/implies/{implied_role_id}", delete_implied)
        .get("/v3/role_inferences", index_inferences)
}

const ATTRIBUTES: &[Attribute] = &[("name", "name", Form::Text)];

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let domain = req.query.get("domain_id").filter(|d| !d.is_empty());
    identity.allow(if domain.is_some() { "list_domain_roles" } else { "list_roles" }, &req.ctx, &Value::Null)?;
    let (roles, rest) = identity.0.store.read(|tx| role_list_in(tx, &ask, domain.unwrap_or_default())).await?;
    let views = roles.iter().map(|role| role.view(&req)).collect();
    answer(200, &collection(&req, "roles", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let change = RoleChange::read(wire::member(&req, "role")?)?;
    if change.name.is_none() {
        return Err(fault::field("role", "'name' is a required property"));
    }
    identity.allow(if change.domain_id.is_some() { "create_domain_role" } else { "create_role" }, &req.ctx, &Value::Null)?;
    let role = identity.role_create(&req.ctx, change).await?;
    answer(201, &json!({ "role": role.view(&req) }))
}

/// The role of the path, after the check of `<verb>_role` or `<verb>_domain_role`.
async fn guarded(identity: &Identity, req: &Request, verb: &str) -> Result<Role> {
    let id = req.param("role_id");
    // As upstream, that there is no such role is told to everybody.
    let role = identity.0.store.read(|tx| role_get_in(tx, id)).await?;
    let rule = if role.domain_id.is_empty() { format!("{verb}_role") } else { format!("{verb}_domain_role") };
    identity.allow(&rule, &req.ctx, &json!({ "role_id": id, "target": { "role": role.target() } }))?;
    Ok(role)
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let role = guarded(&identity, &req, "get").await?;
    answer(200, &json!({ "role": role.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("role_id");
    let mut map = wire::member(&req, "role")?;
    wire::not_empty(&map, "role")?;
    wire::Take { map: &mut map, what: "role" }.same_id(id)?;
    let change = RoleChange::read(map)?;
    guarded(&identity, &req, "update").await?;
    let role = identity.role_update(&req.ctx, id, change).await?;
    answer(200, &json!({ "role": role.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    guarded(&identity, &req, "delete").await?;
    identity.role_delete(&req.ctx, req.param("role_id")).await?;
    nothing()
}

/// Both roles of the path must be there before anything else is looked at.
async fn prior_and_implied(identity: &Identity, req: &Request, rule: &str) -> Result<(Role, Option<Role>)> {
    let (prior_id, implied_id) = (req.param("prior_role_id"), req.param("implied_role_id"));
    let (prior, implied) = identity
        .0
        .store
        .read(|tx| {
            let implied = if implied_id.is_empty() { None } else { Some(role_get_in(tx, implied_id)?) };
            Ok((role_get_in(tx, prior_id)?, implied))
        })
        .await?;
    let target = json!({ "target": { "prior_role": prior.target(), "implied_role": implied.as_ref().map(Role::target) } });
    identity.allow(rule, &req.ctx, &target)?;
    Ok((prior, implied))
}

async fn index_implied(identity: Identity, req: Request) -> Result<Response> {
    let (prior, _) = prior_and_implied(&identity, &req, "list_implied_roles").await?;
    let (pairs, roles) = identity.0.store.read(|tx| Ok((implications_in(tx)?, roles_all_in(tx)?))).await?;
    let implied: Vec<Value> =
        pairs.iter().filter(|(p, _)| *p == prior.id).filter_map(|(_, i)| roles.get(i)).map(|role| role.short(&req)).collect();
    let links = json!({ "self": format!("{}/v3/roles/{}/implies", req.base_url, prior.id) });
    answer(200, &json!({ "role_inference": { "prior_role": prior.short(&req), "implies": implied }, "links": links }))
}

fn inference(req: &Request, prior: &Role, implied: &Role) -> Value {
    let own = format!("{}/v3/roles/{}/implies/{}", req.base_url, prior.id, implied.id);
    json!({ "role_inference": { "prior_role": prior.short(req), "implies": implied.short(req) }, "links": { "self": own } })
}

async fn show_implied(identity: Identity, req: Request) -> Result<Response> {
    let rule = if is_head(&req) { "check_implied_role" } else { "get_implied_role" };
    let (prior, implied) = prior_and_implied(&identity, &req, rule).await?;
    let implied = implied.ok_or_else(|| fault::not_found("role", ""))?;
    let pair = (prior.id.clone(), implied.id.clone());
    if !identity.0.store.read(implications_in).await?.contains(&pair) {
        return Err(no_implication(&prior.id, &implied.id));
    }
    if is_head(&req) { nothing() } else { answer(200, &inference(&req, &prior, &implied)) }
}

async fn create_implied(identity: Identity, req: Request) -> Result<Response> {
    let (prior, implied) = prior_and_implied(&identity, &req, "create_implied_role").await?;
    let implied = implied.ok_or_else(|| fault::not_found("role", ""))?;
    identity.implication_create(&req.ctx, &prior.id, &implied.id).await?;
    answer(201, &inference(&req, &prior, &implied))
}

async fn delete_implied(identity: Identity, req: Request) -> Result<Response> {
    let (prior, _) = prior_and_implied(&identity, &req, "delete_implied_role").await?;
    identity.implication_delete(&req.ctx, &prior.id, req.param("implied_role_id")).await?;
    nothing()
}

async fn index_inferences(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_role_inference_rules", &req.ctx, &Value::Null)?;
    let (pairs, roles) = identity.0.store.read(|tx| Ok((implications_in(tx)?, roles_all_in(tx)?))).await?;
    let mut rules: Map<String, Value> = Map::new();
    for (prior, implied) in &pairs {
        let (Some(prior), Some(implied)) = (roles.get(prior), roles.get(implied)) else { continue };
        let rule = rules.entry(prior.id.clone()).or_insert_with(|| json!({ "prior_role": prior.short(&req), "implies": [] }));
        if let Some(list) = rule["implies"].as_array_mut() {
            list.push(implied.short(&req));
        }
    }
    let rules: Vec<Value> = rules.into_iter().map(|(_, rule)| rule).collect();
    answer(200, &json!({ "role_inferences": rules, "links": { "self": format!("{}/v3/role_inferences", req.base_url) } }))
}

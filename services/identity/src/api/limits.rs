//! `/v3/limits`.

use base::{Context, Kind, Result, Scope};
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::registered_limits::{MAX, MIN};
use super::{R, answer, max, more, nothing};
use crate::limits::{About, Holder, Limit, Seen, limit_get_in, limit_list_in};
use crate::list::{Ask, Attribute, Form, collection};
use crate::wire::Object;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/limits", index)
        .post("/v3/limits", create)
        .get("/v3/limits/model", show_model)
        .get("/v3/limits/{limit_id}", show)
        .patch("/v3/limits/{limit_id}", update)
        .delete("/v3/limits/{limit_id}", delete)
}

const ATTRIBUTES: &[Attribute] = &[
    ("service_id", "service_id", Form::Text),
    ("region_id", "region_id", Form::Text),
    ("resource_name", "resource_name", Form::Text),
    ("project_id", "project_id", Form::Text),
    ("domain_id", "domain_id", Form::Text),
];

/// Administrators, other services and who has a role on the system see all; others those of their scope, without one none.
fn seen(ctx: &Context) -> Option<Seen<'_>> {
    if ctx.roles.iter().any(|role| matches!(role.as_str(), "admin" | "service")) {
        return Some(Seen::All);
    }
    match &ctx.scope {
        Scope::System => Some(Seen::All),
        Scope::Domain { id, .. } => Some(Seen::Domain(id)),
        Scope::Project { id, .. } => Some(Seen::Project(id)),
        Scope::Unscoped | Scope::None => None,
    }
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_limits", &req.ctx, &Value::Null)?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let (limits, rest) = match seen(&req.ctx) {
        Some(seen) => identity.0.store.read(|tx| limit_list_in(tx, &ask, &seen)).await?,
        None => (Vec::new(), false),
    };
    let views = limits.iter().map(|limit| limit.view(&req)).collect();
    answer(200, &collection(&req, "limits", views, more(&ask, rest)))
}

async fn show_model(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_limit_model", &req.ctx, &Value::Null)?;
    answer(200, &json!({ "model": identity.limit_model()?.view() }))
}

fn whole(mut map: Object) -> Result<Limit> {
    let required = |name: &str| fault::field("limits", format!("'{name}' is a required property"));
    let mut take = wire::Take { map: &mut map, what: "limit" };
    let (project, domain) = (take.id("project_id")?, take.id("domain_id")?);
    let service_id = take.text("service_id", 64)?.ok_or_else(|| required("service_id"))?;
    let region_id = take.nullable_text("region_id", 255)?.flatten().unwrap_or_default();
    let resource_name = take.name("resource_name", 255)?.ok_or_else(|| required("resource_name"))?;
    let resource_limit = take.int("resource_limit", MIN, MAX)?.ok_or_else(|| required("resource_limit"))?;
    let description = take.nullable_text("description", 255)?.flatten();
    take.nothing_else()?;
    let holder = match (project, domain) {
        (Some(id), None) => Holder::Project(id),
        (None, Some(id)) => Holder::Domain(id),
        _ => return Err(fault::field("limits", "one of 'project_id' and 'domain_id' must be given, and not both")),
    };
    Ok(Limit { id: base::id::hex(), holder, about: About { service_id, region_id, resource_name }, resource_limit, description })
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_limits", &req.ctx, &Value::Null)?;
    let limits = wire::members(&req, "limits")?.into_iter().map(whole).collect::<Result<_>>()?;
    let limits = identity.limits_create(&req.ctx, limits).await?;
    answer(201, &json!({ "limits": limits.iter().map(|limit| limit.view(&req)).collect::<Value>() }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("limit_id");
    let found = identity
        .0
        .store
        .read(|tx| match limit_get_in(tx, id) {
            Ok(limit) => Ok(Ok((limit.target_in(tx)?, limit))),
            Err(e) if e.is(Kind::NotFound) => Ok(Err(e)),
            Err(e) => Err(e),
        })
        .await?;
    // Who may not see it does not hear whether it is there.
    let target = found.as_ref().map_or(&Value::Null, |(target, _)| target);
    identity.allow("get_limit", &req.ctx, target)?;
    answer(200, &json!({ "limit": found?.1.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_limit", &req.ctx, &Value::Null)?;
    let mut map = wire::member(&req, "limit")?;
    let mut take = wire::Take { map: &mut map, what: "limit" };
    let resource_limit = take.int("resource_limit", MIN, MAX)?;
    let description = take.nullable_text("description", 255)?;
    take.nothing_else()?;
    let limit = identity
        .limit_update(&req.ctx, req.param("limit_id"), move |limit| {
            limit.resource_limit = resource_limit.unwrap_or(limit.resource_limit);
            if let Some(description) = description {
                limit.description = description;
            }
        })
        .await?;
    answer(200, &json!({ "limit": limit.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_limit", &req.ctx, &Value::Null)?;
    identity.limit_delete(&req.ctx, req.param("limit_id")).await?;
    nothing()
}

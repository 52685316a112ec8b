//! `/v3/registered_limits`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::limits::{About, RegisteredLimit, registered_get_in, registered_list_in};
use crate::list::{Ask, Attribute, Form, collection};
use crate::wire::Object;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/registered_limits", index)
        .post("/v3/registered_limits", create)
        .get("/v3/registered_limits/{registered_limit_id}", show)
        .patch("/v3/registered_limits/{registered_limit_id}", update)
        .delete("/v3/registered_limits/{registered_limit_id}", delete)
}

const ATTRIBUTES: &[Attribute] =
    &[("service_id", "service_id", Form::Text), ("region_id", "region_id", Form::Text), ("resource_name", "resource_name", Form::Text)];

pub(super) const MIN: i64 = -1;
pub(super) const MAX: i64 = i32::MAX as i64;

/// What a request wants to set.
struct Change {
    service_id: Option<String>,
    region_id: Option<Option<String>>,
    resource_name: Option<String>,
    default_limit: Option<i64>,
    description: Option<Option<String>>,
}

fn read(mut map: Object) -> Result<Change> {
    let mut take = wire::Take { map: &mut map, what: "registered_limit" };
    let change = Change {
        service_id: take.text("service_id", 64)?,
        region_id: take.nullable_text("region_id", 255)?,
        resource_name: take.name("resource_name", 255)?,
        default_limit: take.int("default_limit", MIN, MAX)?,
        description: take.nullable_text("description", 255)?,
    };
    take.nothing_else()?;
    if change.region_id.as_ref().is_some_and(|region| region.as_deref() == Some("")) {
        return Err(fault::field("registered_limit/region_id", "'' is too short"));
    }
    Ok(change)
}

fn whole(map: Object) -> Result<RegisteredLimit> {
    let change = read(map)?;
    let required = |name: &str| fault::field("registered_limits", format!("'{name}' is a required property"));
    Ok(RegisteredLimit {
        id: base::id::hex(),
        about: About {
            service_id: change.service_id.ok_or_else(|| required("service_id"))?,
            region_id: change.region_id.flatten().unwrap_or_default(),
            resource_name: change.resource_name.ok_or_else(|| required("resource_name"))?,
        },
        default_limit: change.default_limit.ok_or_else(|| required("default_limit"))?,
        description: change.description.flatten(),
    })
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_registered_limits", &req.ctx, &Value::Null)?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let (limits, rest) = identity.0.store.read(|tx| registered_list_in(tx, &ask)).await?;
    let views = limits.iter().map(|limit| limit.view(&req)).collect();
    answer(200, &collection(&req, "registered_limits", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_registered_limits", &req.ctx, &Value::Null)?;
    let limits = wire::members(&req, "registered_limits")?.into_iter().map(whole).collect::<Result<_>>()?;
    let limits = identity.registered_limits_create(&req.ctx, limits).await?;
    answer(201, &json!({ "registered_limits": limits.iter().map(|limit| limit.view(&req)).collect::<Value>() }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_registered_limit", &req.ctx, &Value::Null)?;
    let limit = identity.0.store.read(|tx| registered_get_in(tx, req.param("registered_limit_id"))).await?;
    answer(200, &json!({ "registered_limit": limit.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_registered_limit", &req.ctx, &Value::Null)?;
    let change = read(wire::member(&req, "registered_limit")?)?;
    let limit = identity
        .registered_limit_update(&req.ctx, req.param("registered_limit_id"), move |limit| {
            if let Some(service_id) = change.service_id {
                limit.about.service_id = service_id;
            }
            if let Some(region_id) = change.region_id {
                limit.about.region_id = region_id.unwrap_or_default();
            }
            if let Some(name) = change.resource_name {
                limit.about.resource_name = name;
            }
            limit.default_limit = change.default_limit.unwrap_or(limit.default_limit);
            if let Some(description) = change.description {
                limit.description = description;
            }
        })
        .await?;
    answer(200, &json!({ "registered_limit": limit.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_registered_limit", &req.ctx, &Value::Null)?;
    identity.registered_limit_delete(&req.ctx, req.param("registered_limit_id")).await?;
    nothing()
}

//! `/v3/regions`.

use base::{Error, Result};
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::catalogue::{Region, region_get_in, region_list_in};
use crate::list::{Ask, Attribute, Form, collection};
use crate::wire::Object;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/regions", index)
        .post("/v3/regions", create)
        .get("/v3/regions/{region_id}", show)
        .put("/v3/regions/{region_id}", create_with_id)
        .patch("/v3/regions/{region_id}", update)
        .delete("/v3/regions/{region_id}", delete)
}

const ATTRIBUTES: &[Attribute] = &[("parent_region_id", "parent_region_id", Form::Text)];

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    identity.allow("list_regions", &req.ctx, &Value::Null)?;
    let (regions, rest) = identity.0.store.read(|tx| region_list_in(tx, &ask)).await?;
    let views = regions.iter().map(|region| region.view(&req)).collect();
    answer(200, &collection(&req, "regions", views, more(&ask, rest)))
}

struct Change {
    id: Option<String>,
    parent_region_id: Option<Option<String>>,
    description: Option<Option<String>>,
    extra: Object,
}

fn read(mut map: Object) -> Result<Change> {
    let mut take = wire::Take { map: &mut map, what: "region" };
    let id = take.nullable_text("id", 255)?.flatten().filter(|id| !id.is_empty());
    let parent_region_id = take.nullable_text("parent_region_id", 255)?;
    let description = take.nullable_text("description", 255)?;
    if parent_region_id.as_ref().is_some_and(|parent| parent.as_ref().is_some_and(String::is_empty)) {
        return Err(fault::field("region/parent_region_id", "'' is too short"));
    }
    map.remove("links");
    Ok(Change { id, parent_region_id, description, extra: map })
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    store(identity, req, None).await
}

async fn create_with_id(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("region_id").to_string();
    store(identity, req, Some(id)).await
}

async fn store(identity: Identity, req: Request, path_id: Option<String>) -> Result<Response> {
    let change = read(wire::member(&req, "region")?)?;
    identity.allow("create_region", &req.ctx, &Value::Null)?;
    let id = match (path_id, change.id) {
        (Some(path), Some(body)) if path != body => {
            return Err(Error::invalid(format!("Conflicting region IDs specified: \"{path}\" != \"{body}\"")));
        }
        (Some(id), _) | (None, Some(id)) => id,
        (None, None) => base::id::hex(),
    };
    let region = Region {
        id,
        parent_region_id: change.parent_region_id.flatten(),
        description: change.description.flatten().unwrap_or_default(),
        extra: change.extra,
    };
    let region = identity.region_create(&req.ctx, region).await?;
    answer(201, &json!({ "region": region.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_region", &req.ctx, &Value::Null)?;
    let region = identity.0.store.read(|tx| region_get_in(tx, req.param("region_id"))).await?;
    answer(200, &json!({ "region": region.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("region_id");
    let mut map = wire::member(&req, "region")?;
    wire::not_empty(&map, "region")?;
    wire::Take { map: &mut map, what: "region" }.same_id(id)?;
    let change = read(map)?;
    identity.allow("update_region", &req.ctx, &Value::Null)?;
    let region = identity
        .region_update(&req.ctx, id, move |region| {
            if let Some(parent) = change.parent_region_id {
                region.parent_region_id = parent;
            }
            if let Some(description) = change.description {
                region.description = description.unwrap_or_default();
            }
            region.extra.extend(change.extra);
        })
        .await?;
    answer(200, &json!({ "region": region.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_region", &req.ctx, &Value::Null)?;
    identity.region_delete(&req.ctx, req.param("region_id")).await?;
    nothing()
}

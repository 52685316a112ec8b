//! `/v3/OS-FEDERATION/mappings`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use crate::api::{R, answer, max, more, nothing};
use crate::federation::check_id;
use crate::federation::mappings::{MappingChange, mapping_get_in, mapping_list_in};
use crate::list::{Ask, Attribute, collection};
use crate::{Identity, wire};

const PATH: &str = "/v3/OS-FEDERATION/mappings/{mapping_id}";

pub fn routes(routes: R) -> R {
    routes.get("/v3/OS-FEDERATION/mappings", index).get(PATH, show).put(PATH, create).patch(PATH, update).delete(PATH, delete)
}

const ATTRIBUTES: &[Attribute] = &[];

async fn index(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_mappings", &req.ctx, &Value::Null)?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let (found, rest) = identity.0.store.read(|tx| mapping_list_in(tx, &ask)).await?;
    let views = found.iter().map(|one| one.view(&req)).collect();
    answer(200, &collection(&req, "mappings", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_mapping", &req.ctx, &Value::Null)?;
    let id = req.param("mapping_id");
    check_id("mapping_id", id)?;
    let change = MappingChange::read(wire::member(&req, "mapping")?)?;
    let made = identity.mapping_create(&req.ctx, id, change).await?;
    answer(201, &json!({ "mapping": made.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_mapping", &req.ctx, &Value::Null)?;
    let found = identity.0.store.read(|tx| mapping_get_in(tx, req.param("mapping_id"))).await?;
    answer(200, &json!({ "mapping": found.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_mapping", &req.ctx, &Value::Null)?;
    let map = wire::member(&req, "mapping")?;
    wire::not_empty(&map, "mapping")?;
    let changed = identity.mapping_update(&req.ctx, req.param("mapping_id"), MappingChange::read(map)?).await?;
    answer(200, &json!({ "mapping": changed.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_mapping", &req.ctx, &Value::Null)?;
    identity.mapping_delete(&req.ctx, req.param("mapping_id")).await?;
    nothing()
}

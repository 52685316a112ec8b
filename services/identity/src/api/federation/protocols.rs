//! `/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use crate::api::{R, answer, nothing};
use crate::federation::check_id;
use crate::federation::protocols::{ProtocolChange, protocol_get_in, protocol_list_in};
use crate::list::collection;
use crate::{Identity, wire};

const PATH: &str = "/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}";

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols", index)
        .get(PATH, show)
        .put(PATH, create)
        .patch(PATH, update)
        .delete(PATH, delete)
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_protocols", &req.ctx, &Value::Null)?;
    let found = identity.0.store.read(|tx| protocol_list_in(tx, req.param("idp_id"))).await?;
    let views = found.iter().map(|protocol| protocol.listed(&req)).collect();
    answer(200, &collection(&req, "protocols", views, None))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_protocol", &req.ctx, &Value::Null)?;
    let id = req.param("protocol_id");
    check_id("protocol_id", id)?;
    let change = ProtocolChange::read(wire::member(&req, "protocol")?, true)?;
    let protocol = identity.protocol_create(&req.ctx, req.param("idp_id"), id, change).await?;
    answer(201, &json!({ "protocol": protocol.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_protocol", &req.ctx, &Value::Null)?;
    let protocol = identity.0.store.read(|tx| protocol_get_in(tx, req.param("idp_id"), req.param("protocol_id"))).await?;
    answer(200, &json!({ "protocol": protocol.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_protocol", &req.ctx, &Value::Null)?;
    let change = ProtocolChange::read(wire::member(&req, "protocol")?, false)?;
    let protocol = identity.protocol_update(&req.ctx, req.param("idp_id"), req.param("protocol_id"), change).await?;
    answer(200, &json!({ "protocol": protocol.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_protocol", &req.ctx, &Value::Null)?;
    identity.protocol_delete(&req.ctx, req.param("idp_id"), req.param("protocol_id")).await?;
    nothing()
}

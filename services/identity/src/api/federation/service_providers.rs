//! `/v3/OS-FEDERATION/service_providers`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use crate::api::{R, answer, max, more, nothing};
use crate::federation::check_id;
use crate::federation::service_providers::{ServiceProviderChange, service_provider_get_in, service_provider_list_in};
use crate::list::{Ask, Attribute, Form, collection};
use crate::{Identity, wire};

const PATH: &str = "/v3/OS-FEDERATION/service_providers/{service_provider_id}";

pub fn routes(routes: R) -> R {
    routes.get("/v3/OS-FEDERATION/service_providers", index).get(PATH, show).put(PATH, create).patch(PATH, update).delete(PATH, delete)
}

const ATTRIBUTES: &[Attribute] = &[("id", "id", Form::Text), ("enabled", "enabled", Form::Flag)];

async fn index(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_service_providers", &req.ctx, &Value::Null)?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let (found, rest) = identity.0.store.read(|tx| service_provider_list_in(tx, &ask)).await?;
    let views = found.iter().map(|one| one.view(&req)).collect();
    answer(200, &collection(&req, "service_providers", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_service_provider", &req.ctx, &Value::Null)?;
    let id = req.param("service_provider_id");
    check_id("service_provider_id", id)?;
    let change = ServiceProviderChange::read(wire::member(&req, "service_provider")?)?;
    let made = identity.service_provider_create(&req.ctx, id, change).await?;
    answer(201, &json!({ "service_provider": made.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_service_provider", &req.ctx, &Value::Null)?;
    let found = identity.0.store.read(|tx| service_provider_get_in(tx, req.param("service_provider_id"))).await?;
    answer(200, &json!({ "service_provider": found.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_service_provider", &req.ctx, &Value::Null)?;
    let map = wire::member(&req, "service_provider")?;
    wire::not_empty(&map, "service_provider")?;
    let changed = identity.service_provider_update(&req.ctx, req.param("service_provider_id"), ServiceProviderChange::read(map)?).await?;
    answer(200, &json!({ "service_provider": changed.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_service_provider", &req.ctx, &Value::Null)?;
    identity.service_provider_delete(&req.ctx, req.param("service_provider_id")).await?;
    nothing()
}

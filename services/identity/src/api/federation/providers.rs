//! `/v3/OS-FEDERATION/identity_providers`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use crate::api::{R, answer, max, more, nothing};
use crate::federation::check_id;
use crate::federation::providers::{ProviderChange, provider_get_in, provider_list_in};
use crate::list::{Ask, Attribute, Form, collection};
use crate::{Identity, wire};

const PATH: &str = "/v3/OS-FEDERATION/identity_providers/{idp_id}";

pub fn routes(routes: R) -> R {
    routes.get("/v3/OS-FEDERATION/identity_providers", index).get(PATH, show).put(PATH, create).patch(PATH, update).delete(PATH, delete)
}

const ATTRIBUTES: &[Attribute] = &[("id", "id", Form::Text), ("enabled", "enabled", Form::Flag)];

async fn index(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("list_identity_providers", &req.ctx, &Value::Null)?;
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    let (found, rest) = identity.0.store.read(|tx| provider_list_in(tx, &ask)).await?;
    let views = found.iter().map(|one| one.view(&req)).collect();
    answer(200, &collection(&req, "identity_providers", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_identity_provider", &req.ctx, &Value::Null)?;
    let id = req.param("idp_id");
    check_id("idp_id", id)?;
    let change = ProviderChange::read(wire::member(&req, "identity_provider")?, true)?;
    let made = identity.provider_create(&req.ctx, id, change).await?;
    answer(201, &json!({ "identity_provider": made.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_identity_provider", &req.ctx, &Value::Null)?;
    let found = identity.0.store.read(|tx| provider_get_in(tx, req.param("idp_id"))).await?;
    answer(200, &json!({ "identity_provider": found.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_identity_provider", &req.ctx, &Value::Null)?;
    let map = wire::member(&req, "identity_provider")?;
    wire::not_empty(&map, "identity_provider")?;
    let changed = identity.provider_update(&req.ctx, req.param("idp_id"), ProviderChange::read(map, false)?).await?;
    answer(200, &json!({ "identity_provider": changed.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_identity_provider", &req.ctx, &Value::Null)?;
    identity.provider_delete(&req.ctx, req.param("idp_id")).await?;
    nothing()
}

//! `/v3/services`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::catalogue::{Service, service_get_in, service_list_in};
use crate::list::{Ask, Attribute, Form, collection};
use crate::wire::Object;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/services", index)
        .post("/v3/services", create)
        .get("/v3/services/{service_id}", show)
        .patch("/v3/services/{service_id}", update)
        .delete("/v3/services/{service_id}", delete)
}

const ATTRIBUTES: &[Attribute] = &[("type", "type", Form::Text), ("name", "name", Form::Text)];

struct Change {
    kind: Option<String>,
    name: Option<String>,
    enabled: Option<bool>,
    extra: Object,
}

fn read(mut map: Object) -> Result<Change> {
    let mut take = wire::Take { map: &mut map, what: "service" };
    let (kind, name, enabled) = (take.name("type", 255)?, take.name("name", 255)?, take.strict_flag("enabled")?);
    map.remove("links");
    Ok(Change { kind, name, enabled, extra: map })
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    identity.allow("list_services", &req.ctx, &Value::Null)?;
    let (services, rest) = identity.0.store.read(|tx| service_list_in(tx, &ask)).await?;
    let views = services.iter().map(|service| service.view(&req)).collect();
    answer(200, &collection(&req, "services", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let change = read(wire::member(&req, "service")?)?;
    let kind = change.kind.ok_or_else(|| fault::field("service", "'type' is a required property"))?;
    identity.allow("create_service", &req.ctx, &Value::Null)?;
    let mut extra = change.extra;
    extra.remove("id");
    let service =
        Service { id: base::id::hex(), kind, name: change.name.unwrap_or_default(), enabled: change.enabled.unwrap_or(true), extra };
    let service = identity.service_create(&req.ctx, service).await?;
    answer(201, &json!({ "service": service.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_service", &req.ctx, &Value::Null)?;
    let service = identity.0.store.read(|tx| service_get_in(tx, req.param("service_id"))).await?;
    answer(200, &json!({ "service": service.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("service_id");
    let mut map = wire::member(&req, "service")?;
    wire::not_empty(&map, "service")?;
    wire::Take { map: &mut map, what: "service" }.same_id(id)?;
    let change = read(map)?;
    identity.allow("update_service", &req.ctx, &Value::Null)?;
    let service = identity
        .service_update(&req.ctx, id, move |service| {
            if let Some(kind) = change.kind {
                service.kind = kind;
            }
            if let Some(name) = change.name {
                service.name = name;
            }
            service.enabled = change.enabled.unwrap_or(service.enabled);
            service.extra.extend(change.extra);
        })
        .await?;
    answer(200, &json!({ "service": service.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_service", &req.ctx, &Value::Null)?;
    identity.service_delete(&req.ctx, req.param("service_id")).await?;
    nothing()
}

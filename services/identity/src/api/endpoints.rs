//! `/v3/endpoints`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, max, more, nothing};
use crate::catalogue::{Endpoint, INTERFACES, check_url, endpoint_get_in, endpoint_list_in};
use crate::list::{Ask, Attribute, Form, collection};
use crate::wire::Object;
use crate::{Identity, fault, wire};

pub fn routes(routes: R) -> R {
    routes
        .get("/v3/endpoints", index)
        .post("/v3/endpoints", create)
        .get("/v3/endpoints/{endpoint_id}", show)
        .patch("/v3/endpoints/{endpoint_id}", update)
        .delete("/v3/endpoints/{endpoint_id}", delete)
}

const ATTRIBUTES: &[Attribute] =
    &[("interface", "interface", Form::Text), ("service_id", "service_id", Form::Text), ("region_id", "region_id", Form::Text)];

struct Change {
    service_id: Option<String>,
    interface: Option<String>,
    region_id: Option<Option<String>>,
    /// The region came in its old form, which makes it when it is new.
    make_region: bool,
    url: Option<String>,
    enabled: Option<bool>,
    extra: Object,
}

fn read(mut map: Object) -> Result<Change> {
    let mut take = wire::Take { map: &mut map, what: "endpoint" };
    let service_id = take.text("service_id", 64)?;
    let interface = take.text("interface", 64)?;
    let (region_id, region) = (take.nullable_text("region_id", 255)?, take.nullable_text("region", 255)?.flatten());
    let (url, enabled) = (take.text("url", 225)?, take.strict_flag("enabled")?);
    if let Some(other) = interface.as_ref().filter(|i| !INTERFACES.contains(&i.as_str())) {
        return Err(fault::field("endpoint/interface", format!("'{other}' is not one of ['admin', 'internal', 'public']")));
    }
    if let Some(url) = &url {
        check_url(url)?;
    }
    let make_region = region_id.as_ref().is_none_or(Option::is_none) && region.is_some();
    let region_id = if make_region { Some(region) } else { region_id };
    map.remove("links");
    Ok(Change { service_id, interface, region_id, make_region, url, enabled, extra: map })
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let ask = Ask::read(&req.query, ATTRIBUTES, max(&identity))?;
    identity.allow("list_endpoints", &req.ctx, &Value::Null)?;
    let (endpoints, rest) = identity.0.store.read(|tx| endpoint_list_in(tx, &ask)).await?;
    let views = endpoints.iter().map(|endpoint| endpoint.view(&req)).collect();
    answer(200, &collection(&req, "endpoints", views, more(&ask, rest)))
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    let change = read(wire::member(&req, "endpoint")?)?;
    let required = |name: &str| fault::field("endpoint", format!("'{name}' is a required property"));
    let interface = change.interface.ok_or_else(|| required("interface"))?;
    let service_id = change.service_id.ok_or_else(|| required("service_id"))?;
    let url = change.url.ok_or_else(|| required("url"))?;
    identity.allow("create_endpoint", &req.ctx, &Value::Null)?;
    let mut extra = change.extra;
    extra.remove("id");
    let endpoint = Endpoint {
        id: base::id::hex(),
        service_id,
        interface,
        region_id: change.region_id.flatten(),
        url,
        enabled: change.enabled.unwrap_or(true),
        extra,
    };
    let endpoint = identity.endpoint_create(&req.ctx, endpoint, change.make_region).await?;
    answer(201, &json!({ "endpoint": endpoint.view(&req) }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_endpoint", &req.ctx, &Value::Null)?;
    let endpoint = identity.0.store.read(|tx| endpoint_get_in(tx, req.param("endpoint_id"))).await?;
    answer(200, &json!({ "endpoint": endpoint.view(&req) }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    let id = req.param("endpoint_id");
    let mut map = wire::member(&req, "endpoint")?;
    wire::not_empty(&map, "endpoint")?;
    wire::Take { map: &mut map, what: "endpoint" }.same_id(id)?;
    let change = read(map)?;
    identity.allow("update_endpoint", &req.ctx, &Value::Null)?;
    let endpoint = identity
        .endpoint_update(&req.ctx, id, change.make_region, move |endpoint| {
            if let Some(service_id) = change.service_id {
                endpoint.service_id = service_id;
            }
            if let Some(interface) = change.interface {
                endpoint.interface = interface;
            }
            if let Some(region_id) = change.region_id {
                endpoint.region_id = region_id;
            }
            if let Some(url) = change.url {
                endpoint.url = url;
            }
            endpoint.enabled = change.enabled.unwrap_or(endpoint.enabled);
            endpoint.extra.extend(change.extra);
        })
        .await?;
    answer(200, &json!({ "endpoint": endpoint.view(&req) }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_endpoint", &req.ctx, &Value::Null)?;
    identity.endpoint_delete(&req.ctx, req.param("endpoint_id")).await?;
    nothing()
}

//! `/v3/domains/{domain_id}/config` and `/v3/domains/config`.

use base::Result;
use http_api::{Request, Response};
use serde_json::{Value, json};

use super::{R, answer, nothing};
use crate::domain_config::{Place, defaults};
use crate::{Identity, wire};

pub fn routes(routes: R) -> R {
    let routes = routes.put("/v3/domains/{domain_id}/config", create);
    let places =
        ["/v3/domains/{domain_id}/config", "/v3/domains/{domain_id}/config/{group}", "/v3/domains/{domain_id}/config/{group}/{option}"];
    let routes = places.into_iter().fold(routes, |routes, path| routes.get(path, show).patch(path, update).delete(path, delete));
    ["/v3/domains/config/default", "/v3/domains/config/{group}/default", "/v3/domains/config/{group}/{option}/default"]
        .into_iter()
        .fold(routes, |routes, path| routes.get(path, show_default))
}

fn place(req: &Request) -> Place<'_> {
    let named = |name| Some(req.param(name)).filter(|text| !text.is_empty());
    Place { group: named("group"), option: named("option") }
}

async fn create(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("create_domain_config", &req.ctx, &Value::Null)?;
    let (config, fresh) = identity.domain_config_create(&req.ctx, req.param("domain_id"), wire::member(&req, "config")?).await?;
    answer(if fresh { 201 } else { 200 }, &json!({ "config": config }))
}

async fn show(identity: Identity, req: Request) -> Result<Response> {
    let (domain, place) = (req.param("domain_id"), place(&req));
    let config = if place.group == Some("security_compliance") {
        identity.allow("get_security_compliance_domain_config", &req.ctx, &Value::Null)?;
        identity.password_rules_show(domain, place.option)?
    } else {
        identity.allow("get_domain_config", &req.ctx, &Value::Null)?;
        identity.domain_config_show(domain, place).await?
    };
    answer(200, &json!({ "config": config }))
}

async fn update(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("update_domain_config", &req.ctx, &Value::Null)?;
    let config = identity.domain_config_update(&req.ctx, req.param("domain_id"), wire::member(&req, "config")?, place(&req)).await?;
    answer(200, &json!({ "config": config }))
}

async fn delete(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("delete_domain_config", &req.ctx, &Value::Null)?;
    identity.domain_config_delete(&req.ctx, req.param("domain_id"), place(&req)).await?;
    nothing()
}

async fn show_default(identity: Identity, req: Request) -> Result<Response> {
    identity.allow("get_domain_config_default", &req.ctx, &Value::Null)?;
    answer(200, &json!({ "config": defaults(place(&req))? }))
}

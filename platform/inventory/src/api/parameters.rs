//! `/v1/service_parameter`.

use base::{Error, Result};
use http_api::{Request, Response, json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Change;
use super::sensors::page;
use crate::Inventory;
use crate::parameters::db::{self, Parameter};
use crate::parameters::not_found;

fn view(inventory: &Inventory, parameter: &Parameter, base_url: &str) -> Value {
    let uuid = &parameter.uuid;
    json!({
        "uuid": uuid,
        "service": parameter.service,
        "section": parameter.section,
        "name": parameter.name,
        "value": inventory.parameter_shown(parameter),
        // Of the whole site.
        "personality": null,
        "resource": null,
        "created_at": parameter.created_at.iso_micros_z(),
        "updated_at": parameter.updated_at.iso_micros_z(),
        "links": super::sensors::links(base_url, "service_parameter", uuid),
    })
}

pub async fn index(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:service_parameter:get", &req.ctx)?;
    let all = inventory.core.store.read(db::parameters_in).await?;
    let is = |name: &str, value: &str| req.query.get(name).is_none_or(|wanted| wanted == value);
    let wanted = |p: &&Parameter| is("service", &p.service) && is("section", &p.section) && is("name", &p.name);
    page(&req, "parameters", all.iter().filter(wanted).map(|p| view(&inventory, p, &req.base_url)).collect())
}

pub async fn show(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:service_parameter:get", &req.ctx)?;
    let id = req.param("id");
    let parameter = inventory.core.store.read(|tx| db::parameter_in(tx, id)).await?.ok_or_else(|| not_found(id))?;
    json(200, &view(&inventory, &parameter, &req.base_url))
}

pub async fn update(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:service_parameter:modify", &req.ctx)?;
    let changes: Vec<Change> = req.json()?;
    let [Change { op, path, value }] = &changes[..] else {
        return Err(Error::invalid(
            "A service parameter is changed in its value: [{\"op\": \"replace\", \"path\": \"/value\", \"value\": \"100\"}].",
        ));
    };
    if op != "replace" || path.trim_start_matches('/') != "value" {
        return Err(Error::invalid(format!("Of a service parameter only /value can be replaced, not {op} {path}.")));
    }
    // StarlingX's client sends texts; a number is no other value.
    let value = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(Error::invalid("value: that of a service parameter is a text.")),
    };
    let (this, id) = (inventory.clone(), req.param("id").to_string());
    let parameter = inventory.core.store.write(move |tx| this.parameter_set_in(tx, &id, &value)).await?;
    json(200, &view(&inventory, &parameter, &req.base_url))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Apply {
    service: String,
    section: Option<String>,
}

pub async fn apply(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:service_parameter:apply", &req.ctx)?;
    let Apply { service, section } = req.json()?;
    let this = inventory.clone();
    inventory.core.store.write(move |tx| this.parameters_apply_in(tx, &service, section.as_deref())).await?;
    http_api::empty(204)
}

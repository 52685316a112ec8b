//! `/v1/isystems`.

use base::{Error, Result};
use http_api::{Request, Response, json};
use serde_json::{Value, json};
use store::Tx;

use super::Change;
use super::sensors::{links, page};
use crate::Inventory;
use crate::db::{self, Host};
use crate::system::System;

fn view(inventory: &Inventory, system: &System, hosts: &[Host], base_url: &str) -> Value {
    let (uuid, doc, config) = (&system.uuid, &system.doc, &inventory.core.config);
    let own = hosts.iter().any(|host| host.personality == "controller");
    let others = hosts.iter().filter(|host| host.provisioned).count() > 1;
    json!({
        "uuid": uuid,
        // One that nobody has named has its UUID, as StarlingX names it.
        "name": doc.name.as_ref().unwrap_or(uuid),
        "description": doc.description,
        "contact": doc.contact,
        "location": doc.location,
        "latitude": doc.latitude,
        "longitude": doc.longitude,
        "timezone": doc.timezone.as_deref().unwrap_or("UTC"),
        "software_version": env!("CARGO_PKG_VERSION"),
        "system_type": if own { "All-in-one" } else { "Standard" },
        "system_mode": if own && !others { "simplex" } else { "duplex" },
        "region_name": config.text("region"),
        "service_project_name": "services",
        "distributed_cloud_role": null,
        "security_feature": null,
        "security_profile": "standard",
        "capabilities": {
            "https_enabled": config.public_url().starts_with("https:"),
            "sdn_enabled": false,
            "vswitch_type": "none",
            "region_config": false,
            "shared_services": "[]",
            "bm_region": null,
            "cinder_backend": null,
        },
        "created_at": system.created_at.iso_micros_z(),
        "updated_at": system.updated_at.iso_micros_z(),
        "links": links(base_url, "isystems", uuid),
    })
}

/// It, by its UUID, with the hosts of the site.
fn found_in(inventory: &Inventory, tx: &Tx, id: &str) -> Result<(System, Vec<Host>)> {
    let system = inventory.system_in(tx)?;
    if system.uuid != id {
        return Err(Error::new(base::Kind::NotFound, format!("System {id} not found.")));
    }
    Ok((system, db::host_list_in(tx)?))
}

pub async fn index(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:isystems:get", &req.ctx)?;
    let (system, hosts) = inventory.core.store.read(|tx| Ok((inventory.system_in(tx)?, db::host_list_in(tx)?))).await?;
    page(&req, "isystems", vec![view(&inventory, &system, &hosts, &req.base_url)])
}

pub async fn show(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:isystems:get", &req.ctx)?;
    let (system, hosts) = inventory.core.store.read(|tx| found_in(&inventory, tx, req.param("id"))).await?;
    json(200, &view(&inventory, &system, &hosts, &req.base_url))
}

pub async fn update(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:isystems:modify", &req.ctx)?;
    let changes: Vec<Change> = req.json()?;
    let (this, id) = (inventory.clone(), req.param("id").to_string());
    let (system, hosts) = inventory
        .core
        .store
        .write(move |tx| {
            let (mut system, hosts) = found_in(&this, tx, &id)?;
            for Change { op, path, value } in &changes {
                if op != "replace" {
                    return Err(Error::invalid(format!("op: '{op}' is not known here; replace is.")));
                }
                let name = path.trim_start_matches('/');
                let value = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    _ => return Err(Error::invalid(format!("{name}: a text."))),
                };
                system.doc.set(name, &value)?;
            }
            Ok((this.system_put_in(tx, system)?, hosts))
        })
        .await?;
    json(200, &view(&inventory, &system, &hosts, &req.base_url))
}

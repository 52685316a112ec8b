//! `/v1/ihosts`.

use base::{Error, Result};
use http_api::{Page, Request, Response, SortDir, empty, json};
use serde::Deserialize;
use serde_json::{Value, json};
use store::Tx;

use crate::Inventory;
use crate::db::{self, Host};
use crate::join::hostname_check;
use crate::lock::FORCE;

/// Pages are never longer than this.
const PAGE: u64 = 1000;
const SORT: &[&str] = &["id", "uuid", "hostname", "personality", "administrative", "operational", "availability", "created_at"];
/// Actions that StarlingX has and that come with the maintenance of hosts.
const LATER: &[&str] = &["force-unlock", "swact", "force-swact", "reboot", "reset", "power-on", "power-off", "reinstall"];

fn view(host: &Host, base_url: &str) -> Value {
    let uuid = &host.uuid;
    json!({
        "id": host.number,
        "uuid": uuid,
        "hostname": host.hostname,
        "personality": host.personality,
        "subfunctions": host.subfunctions,
        "subfunction_oper": host.operational(),
        "subfunction_avail": host.availability(),
        "mgmt_ip": host.mgmt_ip,
        "administrative": host.administrative(),
        "operational": host.operational(),
        "availability": host.availability(),
        "invprovision": if host.provisioned { "provisioned" } else { "unprovisioned" },
        "action": match host.task.as_str() {
            "" => "none",
            FORCE => "force-lock",
            _ => "lock",
        },
        "task": host.task,
        "vim_progress_status": host.progress,
        "capabilities": if host.personality == "controller" { json!({"Personality": "Controller-Active"}) } else { json!({}) },
        "created_at": host.created_at.iso_micros_z(),
        "updated_at": host.updated_at.iso_micros_z(),
        "links": [{"href": format!("{base_url}/v1/ihosts/{uuid}"), "rel": "self"}, {"href": format!("{base_url}/ihosts/{uuid}"), "rel": "bookmark"}],
    })
}

fn key(view: &Value, name: &str) -> (i64, String) {
    let value = &view[name];
    (value.as_i64().unwrap_or_default(), value.as_str().unwrap_or_default().to_string())
}

pub async fn index(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:get", &req.ctx)?;
    let page = Page::from_query(&req.query, PAGE, &[])?;
    if let Some((name, _)) = page.sort.iter().find(|(name, _)| !SORT.contains(&name.as_str())) {
        return Err(Error::invalid(format!("sort_key: hosts cannot be sorted by '{name}'; known are {}.", SORT.join(", "))));
    }
    let hosts = inventory.core.store.read(db::host_list_in).await?;
    let wanted = |host: &&Host| {
        let is = |name: &str, value: &str| req.query.get(name).is_none_or(|wanted| wanted == value);
        is("hostname", &host.hostname) && is("personality", &host.personality) && is("uuid", &host.uuid)
    };
    let mut views: Vec<Value> = hosts.iter().filter(wanted).map(|host| view(host, &req.base_url)).collect();
    for (name, direction) in page.sort.iter().rev() {
        views.sort_by_key(|view| key(view, name));
        if *direction == SortDir::Desc {
            views.reverse();
        }
    }
    if let Some(marker) = &page.marker {
        let at = views.iter().position(|view| view["uuid"] == **marker);
        let at = at.ok_or_else(|| Error::invalid(format!("marker: there is no host {marker}.")))?;
        views.drain(..=at);
    }
    let limit = usize::try_from(page.fetch_limit(PAGE)).unwrap_or(usize::MAX);
    let more = views.len() > limit;
    views.truncate(limit);
    let mut body = json!({"ihosts": views});
    if let (true, Some(last)) = (more, views.last().and_then(|view| view["uuid"].as_str())) {
        body["next"] = json!(http_api::page::link_with_marker(&req, last, None));
    }
    json(200, &body)
}

fn host_in(tx: &Tx, id: &str) -> Result<Host> {
    let found = db::host_list_in(tx)?.into_iter().find(|host| host.uuid == id || host.number.to_string() == id);
    found.ok_or_else(|| Error::new(base::Kind::NotFound, format!("Server {id} not found.")))
}

pub async fn show(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:get", &req.ctx)?;
    let host = inventory.core.store.read(|tx| host_in(tx, req.param("id"))).await?;
    json(200, &view(&host, &req.base_url))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    hostname: String,
    personality: String,
}

pub async fn create(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:add", &req.ctx)?;
    let new: New = req.json()?;
    hostname_check(&new.hostname)?;
    if new.personality != "worker" {
        return Err(Error::invalid(format!("personality: '{}' cannot be added; only worker can.", new.personality)));
    }
    let host = inventory
        .core
        .store
        .write(move |tx| {
            if db::host_by_name_in(tx, &new.hostname)?.is_some() {
                return Err(Error::exists(format!("Host with hostname {} already exists.", new.hostname)));
            }
            let mut host = Host { locked: true, ..Host::new(&new.hostname, &new.personality) };
            db::host_put_in(tx, &mut host)?;
            Ok(host)
        })
        .await?;
    json(200, &view(&host, &req.base_url))
}

#[derive(Deserialize)]
struct Change {
    op: String,
    path: String,
    value: Value,
}

pub async fn update(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:modify", &req.ctx)?;
    let changes: Vec<Change> = req.json()?;
    let [change] = changes.as_slice() else {
        return Err(Error::invalid(
            "A host is changed by one action at a time: [{\"op\": \"replace\", \"path\": \"/action\", \"value\": \"lock\"}].",
        ));
    };
    if change.op != "replace" || change.path.trim_start_matches('/') != "action" {
        return Err(Error::invalid(format!("Only /action of a host can be replaced, not {} {}.", change.op, change.path)));
    }
    let Some(action) = change.value.as_str().map(str::to_string) else {
        return Err(Error::invalid("value: an action is a text."));
    };
    let (this, id, ctx) = (inventory.clone(), req.param("id").to_string(), req.ctx.clone());
    let host = inventory
        .core
        .store
        .write(move |tx| {
            let host = host_in(tx, &id)?;
            match action.as_str() {
                "lock" => this.host_lock_begin_in(tx, &ctx, host),
                "force-lock" => this.host_force_in(tx, host),
                "unlock" => this.host_unlock_in(tx, host),
                later if LATER.contains(&later) => {
                    Err(Error::invalid(format!("value: action {later} is not there yet; lock, force-lock and unlock are.")))
                }
                unknown => Err(Error::invalid(format!("value: there is no action '{unknown}'; known are lock, force-lock and unlock."))),
            }
        })
        .await?;
    json(200, &view(&host, &req.base_url))
}

pub async fn delete(inventory: Inventory, req: Request) -> Result<Response> {
    inventory.authorize("config_api:ihosts:delete", &req.ctx)?;
    let host = inventory.core.store.read(|tx| host_in(tx, req.param("id"))).await?;
    inventory.host_delete(&host).await?;
    empty(204)
}

//! `/os-services` (compute API reference, "Compute services"). One service a host: `nova-compute`.

use base::{Error, Kind, Result, Timestamp};
use http_api::{Request, Response, Routes, Version, empty, json};
use serde_json::{Value, json};
use store::{Tx, params};

use crate::Compute;
use crate::db::nodes::{DEFAULT_ZONE, Node, node_by_name_in, node_list_in, zones_in};
use crate::fields::{self, Fields};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes.get("/os-services", index).put("/os-services/{id}", update).delete("/os-services/{id}", delete)
}

const BINARY: &str = "nova-compute";
const WITH_FORCED_DOWN: Version = Version::new(2, 11);
/// Services are named by UUID.
const BY_UUID: Version = Version::new(2, 53);
const STRICT: Version = Version::new(2, 75);

fn view(node: &Node, zone: &str, version: Version) -> Value {
    let mut view = json!({
        "id": if version >= BY_UUID { json!(node.service_id) } else { json!(node.number) },
        "binary": BINARY,
        "host": node.name,
        "zone": zone,
        "status": if node.disabled { "disabled" } else { "enabled" },
        "state": if node.is_up() { "up" } else { "down" },
        "updated_at": node.service_updated_at.unwrap_or(node.updated_at).iso_micros(),
        "disabled_reason": node.disabled_reason,
    });
    if version >= WITH_FORCED_DOWN {
        view["forced_down"] = json!(node.forced_down);
    }
    view
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-services:list", &req.ctx, &())?;
    if let Some((name, _)) = req.query.0.iter().find(|(n, _)| req.version >= STRICT && n != "host" && n != "binary") {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
    }
    let (nodes, zones) = compute.core.store.read(|tx| Ok((node_list_in(tx)?, zones_in(tx)?))).await?;
    let wanted = |n: &&Node| req.query.get("host").is_none_or(|h| h == n.name) && req.query.get("binary").is_none_or(|b| b == BINARY);
    let zone = |n: &Node| zones.get(&n.name).map_or(DEFAULT_ZONE, String::as_str).to_string();
    let views: Vec<Value> = nodes.iter().filter(wanted).map(|n| view(n, &zone(n), req.version)).collect();
    json(200, &json!({ "services": views }))
}

/// What a request changes of a service.
#[derive(Default)]
struct Change {
    disabled: Option<bool>,
    reason: Option<Option<String>>,
    forced_down: Option<bool>,
}

async fn update(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-services:update", &req.ctx, &())?;
    if req.version >= BY_UUID { update_by_id(compute, req).await } else { update_by_verb(compute, req).await }
}

async fn update_by_id(compute: Compute, req: Request) -> Result<Response> {
    let id = req.param("id").to_string();
    if !base::id::is_uuid(&id) {
        return Err(Error::invalid(format!("Invalid uuid {id}")));
    }
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let status = root.take("status", fields::one_of(&["enabled", "disabled"]))?;
    let reason = root.take("disabled_reason", fields::text(1, 255))?;
    let forced_down = root.take("forced_down", fields::boolean)?;
    root.finish()?;
    if status.is_none() && forced_down.is_none() {
        return Err(Error::invalid("No updates were requested. Fields 'status' or 'forced_down' should be specified."));
    }
    if reason.is_some() && status != Some("disabled") {
        return Err(Error::invalid("Specifying disabled_reason is only allowed if the service status is being disabled."));
    }
    let change = Change { disabled: status.map(|s| s == "disabled"), reason: status.map(|_| reason), forced_down };
    let version = req.version;
    let this = compute.clone();
    let body = compute
        .core
        .store
        .write(move |tx| {
            let node = node_list_in(tx)?.into_iter().find(|n| n.service_id == id);
            let node = node.ok_or_else(|| Error::new(Kind::NotFound, format!("Service {id} not found.")))?;
            let node = apply(&this, tx, node, change)?;
            let zone = zones_in(tx)?.remove(&node.name).unwrap_or_else(|| DEFAULT_ZONE.into());
            Ok(json!({"service": view(&node, &zone, version)}))
        })
        .await?;
    json(200, &body)
}

/// Before 2.53: `PUT /os-services/{enable|disable|disable-log-reason|force-down}` with the host in the body.
async fn update_by_verb(compute: Compute, req: Request) -> Result<Response> {
    let verb = req.param("id").to_string();
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let host = root.need("host", fields::text(1, 255))?;
    let binary = root.need("binary", fields::text(1, 255))?;
    let change = match verb.as_str() {
        "enable" => Change { disabled: Some(false), reason: Some(None), ..Change::default() },
        "disable" => Change { disabled: Some(true), reason: Some(None), ..Change::default() },
        "disable-log-reason" => {
            Change { disabled: Some(true), reason: Some(Some(root.need("disabled_reason", fields::text(1, 255))?)), ..Change::default() }
        }
        "force-down" if req.version >= WITH_FORCED_DOWN => {
            Change { forced_down: Some(root.need("forced_down", fields::boolean)?), ..Change::default() }
        }
        _ => return Err(Error::new(Kind::NotFound, "Unknown action")),
    };
    root.finish()?;
    let this = compute.clone();
    let node = compute
        .core
        .store
        .write(move |tx| {
            let node = node_by_name_in(tx, &host)?.filter(|_| binary == BINARY);
            let node = node.ok_or_else(|| Error::new(Kind::NotFound, format!("Could not find binary {binary} on host {host}.")))?;
            apply(&this, tx, node, change)
        })
        .await?;
    let mut view = json!({"host": node.name, "binary": BINARY});
    match verb.as_str() {
        "force-down" => view["forced_down"] = json!(node.forced_down),
        _ => view["status"] = json!(if node.disabled { "disabled" } else { "enabled" }),
    }
    if verb == "disable-log-reason" {
        view["disabled_reason"] = json!(node.disabled_reason);
    }
    json(200, &json!({ "service": view }))
}

fn apply(compute: &Compute, tx: &Tx, mut node: Node, change: Change) -> Result<Node> {
    node.disabled = change.disabled.unwrap_or(node.disabled);
    node.disabled_reason = change.reason.unwrap_or(node.disabled_reason);
    node.forced_down = change.forced_down.unwrap_or(node.forced_down);
    node.service_updated_at = Some(Timestamp::now());
    tx.execute(
        "UPDATE compute_node SET disabled = ?2, disabled_reason = ?3, forced_down = ?4, service_updated_at = ?5 WHERE id = ?1",
        params![&node.id, node.disabled, node.disabled_reason.clone(), node.forced_down, node.service_updated_at],
    )?;
    compute.host_tell_in(tx, &node.id)?;
    Ok(node)
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-services:delete", &req.ctx, &())?;
    let id = req.param("id").to_string();
    if req.version >= BY_UUID && !base::id::is_uuid(&id) {
        return Err(Error::invalid(format!("Invalid uuid {id}")));
    }
    let this = compute.clone();
    compute
        .core
        .store
        .write(move |tx| {
            let node = node_list_in(tx)?.into_iter().find(|n| n.service_id == id || n.number.to_string() == id);
            let node = node.ok_or_else(|| Error::new(Kind::NotFound, format!("Service {id} not found.")))?;
            if node.connected {
                return Err(Error::conflict(format!("Host {} is connected: a service can be deleted once its host is gone.", node.name)));
            }
            if this.servers_on_in(tx, &node.id)? > 0 {
                return Err(Error::conflict(
                    "Unable to delete compute service that is hosting instances. Migrate or delete the instances first.",
                ));
            }
            this.host_forget_in(tx, &node.id)
        })
        .await?;
    empty(204)
}

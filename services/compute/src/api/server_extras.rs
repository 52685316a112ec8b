//! `/servers/{id}/topology`, `/servers/{id}/os-server-password`, `/os-server-external-events` (compute API reference).

use std::collections::HashMap;

use base::{Error, Kind, Result};
use http_api::{Request, Response, Routes, Version, empty, json};
use serde_json::{Value, json};
use store::Select;

use super::servers::no_query;
use crate::Compute;
use crate::fields::{self, Field, Fields};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/servers/{id}/topology", topology)
        .get("/servers/{id}/os-server-password", password_show)
        .delete("/servers/{id}/os-server-password", password_clear)
        .post("/os-server-external-events", events)
}

const WITH_TOPOLOGY: Version = Version::new(2, 78);

/// Guests have no NUMA topology of their own: the answer is that of a server whose flavor asks for none.
async fn topology(compute: Compute, req: Request) -> Result<Response> {
    if req.version < WITH_TOPOLOGY {
        return Err(Error::new(Kind::NotFound, "The resource could not be found."));
    }
    no_query(&req)?;
    compute.server_for(&req.ctx, req.param("id"), "compute:server:topology:index").await?;
    json(200, &json!({"nodes": [], "pagesize_kb": null}))
}

/// The password that the guest has posted to its metadata address, encrypted for its user.
async fn password_show(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:os-server-password:show").await?;
    json(200, &json!({"password": server.doc.posted_password}))
}

/// Forgets the password, so that the guest may post another.
async fn password_clear(compute: Compute, req: Request) -> Result<Response> {
    let id = req.param("id");
    compute.server_for(&req.ctx, id, "os_compute_api:os-server-password:clear").await?;
    let clear = |this: &Compute, tx: &store::Tx, _: &base::Context, server: &mut crate::db::servers::Server| {
        server.doc.posted_password.clear();
        this.server_changed_in(tx, server, true)
    };
    compute.server_change(&req.ctx, id, clear).await?;
    empty(204)
}

/// An event as it was sent.
struct Event {
    name: &'static str,
    server: String,
    status: &'static str,
    tag: Option<String>,
}

/// The events, and the version each came with.
const NAMES: &[(&str, u16)] = &[
    ("network-changed", 1),
    ("network-vif-plugged", 1),
    ("network-vif-unplugged", 1),
    ("network-vif-deleted", 1),
    ("volume-extended", 51),
    ("power-update", 76),
    ("accelerator-request-bound", 82),
    ("volume-reimaged", 93),
];
/// These mean nothing without a tag.
const TAGGED: &[&str] = &["volume-extended", "power-update", "accelerator-request-bound"];

fn event(f: Field, version: Version) -> Result<Event> {
    let mut of = Fields::of(f)?;
    let name = of.need("name", |f| {
        let text = fields::text(1, 255)(f)?;
        let known = NAMES.iter().find(|(name, since)| *name == text && version >= Version::new(2, *since));
        known.map(|(name, _)| *name).ok_or_else(|| f.wrong(format!("'{text}' is not one of the events of this version")))
    })?;
    let server = of.need("server_uuid", fields::uuid)?;
    let status = of.take("status", fields::one_of(&["failed", "completed", "in-progress"]))?.unwrap_or("completed");
    let tag = of.take("tag", fields::text(0, 255))?;
    of.finish()?;
    Ok(Event { name, server, status, tag })
}

/// What other services tell of servers. Network and volumes are parts of this program and tell it themselves, so an event from
/// outside changes nothing here; it is checked, answered and logged.
async fn events(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-server-external-events:create", &req.ctx, &())?;
    let body = req.object()?;
    let version = req.version;
    let mut root = Fields::root(&body, req.version);
    let events = root.need("events", |f| {
        let events = fields::list(10_000, |f| event(f, version))(f)?;
        if events.is_empty() { Err(f.wrong("[] is too short")) } else { Ok(events) }
    })?;
    root.finish()?;
    let ids = events.iter().map(|e| e.server.as_str());
    let select = Select::new("SELECT id, host FROM server").in_list("id", ids).eq("deleted", 0);
    let hosts: HashMap<String, Option<String>> =
        compute.core.store.read(|tx| select.clone().fetch(tx, |r| Ok((r.text(0)?, r.opt_text(1)?)))).await?.into_iter().collect();
    let views: Vec<Value> = events.iter().map(|event| answer(event, hosts.get(&event.server))).collect();
    let all = views.iter().all(|view| view["code"] == 200);
    json(if all { 200 } else { 207 }, &json!({ "events": views }))
}

fn answer(event: &Event, host: Option<&Option<String>>) -> Value {
    let code = match host {
        None => 404,
        Some(_) if event.tag.is_none() && TAGGED.contains(&event.name) => 400,
        Some(None) => 422,
        Some(Some(host)) => {
            tracing::info!(server = event.server, host, tag = event.tag, status = event.status, "event {} from outside", event.name);
            200
        }
    };
    let status = if code == 200 { "completed" } else { "failed" };
    let mut view = json!({"name": event.name, "server_uuid": event.server, "status": status, "code": code});
    if let Some(tag) = &event.tag {
        view["tag"] = json!(tag);
    }
    view
}

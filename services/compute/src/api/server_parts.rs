//! What lies below a server and is only read: addresses, interfaces, security groups, actions, diagnostics.

use base::{Error, Kind, Result, Timestamp};
use http_api::{Request, Response, Routes, Version, json, query};
use network::NicInfo;
use rpc::message::{Request as Ask, Response as Told};
use serde_json::{Value, json};

use super::server_actions::diagnostics_view;
use super::server_view::{Addresses, Links, addresses, host_id_hash, shown};
use super::servers::no_query;
use crate::Compute;
use crate::db::actions::{self, Action};
use crate::db::servers::Server;
use crate::servers::target;
use crate::states::{power, vm};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/servers/{id}/ips", ips_index)
        .get("/servers/{id}/ips/{label}", ips_show)
        .get("/servers/{id}/os-interface", interface_index)
        .get("/servers/{id}/os-interface/{port}", interface_show)
        .get("/servers/{id}/os-security-groups", group_index)
        .get("/servers/{id}/os-instance-actions", action_index)
        .get("/servers/{id}/os-instance-actions/{request}", action_show)
        .get("/servers/{id}/diagnostics", diagnostics)
}

fn v(minor: u16) -> Version {
    Version::new(2, minor)
}

async fn nics(compute: &Compute, server: &Server) -> Result<Vec<NicInfo>> {
    if server.vm_state == vm::BUILDING {
        return Ok(Vec::new());
    }
    compute.core.store.read(|tx| compute.network.nics_in(tx, &server.id)).await
}

async fn ips_index(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:ips:index").await?;
    let nics = nics(&compute, &server).await?;
    json(200, &json!({"addresses": Addresses { networks: addresses(&nics), extended: false }}))
}

async fn ips_show(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:ips:show").await?;
    let nics = nics(&compute, &server).await?;
    let label = req.param("label");
    let all = addresses(&nics);
    let found = all.iter().find(|(network, _)| *network == label);
    let (_, list) = found.ok_or_else(|| Error::new(Kind::NotFound, "Instance is not a member of specified network"))?;
    json(200, &json!({ label: shown(list, false) }))
}

pub(super) fn interface(nic: &NicInfo, version: Version) -> Value {
    let fixed: Vec<Value> = nic.fixed.iter().map(|f| json!({"subnet_id": f.subnet_id, "ip_address": f.address})).collect();
    let mut view =
        json!({"net_id": nic.network_id, "port_id": nic.port_id, "mac_addr": nic.mac, "port_state": nic.status, "fixed_ips": fixed});
    if version >= v(70) {
        view["tag"] = json!(nic.tag);
    }
    view
}

async fn interface_index(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:os-attach-interfaces:list").await?;
    let nics = nics(&compute, &server).await?;
    json(200, &json!({"interfaceAttachments": nics.iter().map(|n| interface(n, req.version)).collect::<Vec<_>>()}))
}

async fn interface_show(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:os-attach-interfaces:show").await?;
    let port = req.param("port");
    let nics = nics(&compute, &server).await?;
    let missing = || Error::new(Kind::NotFound, format!("Instance {} does not have a port with id {port}", server.id));
    let nic = nics.iter().find(|n| n.port_id == port).ok_or_else(missing)?;
    json(200, &json!({"interfaceAttachment": interface(nic, req.version)}))
}

async fn group_index(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:os-security-groups:list").await?;
    let ids: Vec<String> = nics(&compute, &server).await?.into_iter().flat_map(|n| n.security_groups).map(|(id, _)| id).collect();
    let groups = super::security_groups::views(&compute.network.security_groups_with(&req.ctx, &ids).await?);
    json(200, &json!({"security_groups": groups}))
}

/// The server of an action list: from 2.21 on also one that is gone.
async fn acted(compute: &Compute, req: &Request, rule: &str) -> Result<Server> {
    let deleted = req.version >= v(21);
    let server = compute.core.store.read(|tx| compute.server_visible_in(tx, &req.ctx, req.param("id"), deleted)).await?;
    compute.authorize(rule, &req.ctx, &target(&server))?;
    Ok(server)
}

fn action_view(action: &Action, version: Version) -> Value {
    let mut view = json!({
        "action": action.action,
        "instance_uuid": action.server_id,
        "request_id": action.request_id,
        "user_id": action.user_id,
        "project_id": action.project_id,
        "start_time": action.started_at.iso_micros(),
        "message": action.message,
    });
    if version >= v(58) {
        view["updated_at"] = json!(action.updated_at.iso_micros());
    }
    view
}

async fn action_index(compute: Compute, req: Request) -> Result<Response> {
    let server = acted(&compute, &req, "os_compute_api:os-instance-actions:list").await?;
    let paged = req.version >= v(58);
    let (mut since, mut before) = (None, None);
    if paged {
        let known = |name: &str| matches!(name, "limit" | "marker" | "changes-since") || (name == "changes-before" && req.version >= v(66));
        if let Some((name, _)) = req.query.0.iter().find(|(name, _)| !known(name)) {
            return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
        }
        let time = |name: &str| {
            let bad = |text: &str| Error::invalid(format!("Invalid input for query parameters {name}. '{text}' is not a 'date-time'"));
            req.query.get(name).map(|text| Timestamp::parse(text).ok_or_else(|| bad(text))).transpose()
        };
        since = time("changes-since")?;
        before = time("changes-before")?;
        if let (Some(since), Some(before)) = (since, before) {
            if before < since {
                return Err(Error::invalid("The value of changes-since must be less than or equal to changes-before."));
            }
        }
    }
    let max = compute.core.config.int("api.max_limit");
    let limit = match req.query.get("limit").filter(|_| paged) {
        Some(text) => text.parse::<u64>().map_err(|_| Error::invalid("limit must be a non-negative integer"))?.min(max),
        None => max,
    };
    let found = compute
        .core
        .store
        .read(|tx| {
            let marker = match req.query.get("marker").filter(|_| paged) {
                Some(id) => {
                    let missing = || Error::invalid(format!("Marker {id} could not be found."));
                    Some(actions::action_fetch_in(tx, &server.id, id)?.ok_or_else(missing)?)
                }
                None => None,
            };
            actions::action_list_in(tx, &server.id, since, before, marker.as_ref(), limit)
        })
        .await?;
    let mut body = json!({"instanceActions": found.iter().map(|a| action_view(a, req.version)).collect::<Vec<_>>()});
    if let Some(last) = found.last().filter(|_| paged && limit > 0 && found.len() as u64 == limit) {
        let mut pairs: Vec<(String, String)> = req.query.0.iter().filter(|(k, _)| k != "marker").cloned().collect();
        pairs.push(("marker".into(), last.request_id.clone()));
        let path = format!("servers/{}/os-instance-actions?{}", server.id, query::Query(pairs).encode());
        body["links"] = json!([{"rel": "next", "href": Links::new(&req).own(&path)}]);
    }
    json(200, &body)
}

async fn action_show(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = acted(&compute, &req, "os_compute_api:os-instance-actions:show").await?;
    let id = req.param("request");
    let found = compute
        .core
        .store
        .read(|tx| {
            Ok(actions::action_fetch_in(tx, &server.id, id)?.map(|a| Ok::<_, Error>((a, actions::action_events_in(tx, &server.id, id)?))))
        })
        .await?;
    let (action, events) = found.ok_or_else(|| Error::new(Kind::NotFound, format!("Action {id} not found")))??;
    let mut view = action_view(&action, req.version);
    let whole = compute.may("os_compute_api:os-instance-actions:events", &req.ctx, &target(&server));
    let details = req.version >= v(84) && compute.may("os_compute_api:os-instance-actions:events:details", &req.ctx, &target(&server));
    if whole || req.version >= v(51) {
        let shown = events.iter().map(|e| {
            let mut event = json!({
                "event": e.event,
                "start_time": e.started_at.iso_micros(),
                "finish_time": e.finished_at.map(|t| t.iso_micros()),
                "result": e.result,
            });
            if whole {
                event["traceback"] = Value::Null;
            }
            if req.version >= v(62) {
                if whole {
                    event["host"] = json!(e.host);
                }
                event["hostId"] = json!(host_id_hash(&server.project_id, e.host.as_deref()));
            }
            if details {
                event["details"] = json!(e.details);
            }
            event
        });
        view["events"] = shown.collect();
    }
    json(200, &json!({"instanceAction": view}))
}

async fn diagnostics(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:os-server-diagnostics").await?;
    let host = compute.server_host(&server)?;
    if server.power_state != power::RUNNING {
        return Err(crate::servers::wrong_state("get_diagnostics", &server, "power state"));
    }
    match compute.core.hosts.ask(&host, Ask::Diagnostics { instance_id: server.id.clone() }).await? {
        Told::Json(raw) => json(200, &diagnostics_view(&raw, &server, req.version)),
        _ => Err(Error::internal("a host answered a diagnostics request with something else")),
    }
}

//! `/servers` (compute API reference, "Servers").

use base::{Error, Result};
use http_api::{Request, Response, Routes, Version, empty, json, query, response};
use serde::Serialize;
use serde_json::{Value, json};

use super::server_body::{ServerCreate, ServerUpdate};
use super::server_view::{Links, Shown};
use crate::Compute;
use crate::db::server_list;
use crate::db::servers::Server;

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/servers", index)
        .post("/servers", create)
        .get("/servers/detail", detail)
        .get("/servers/{id}", show)
        .put("/servers/{id}", update)
        .delete("/servers/{id}", delete)
}

/// From 2.102 on, a query string that means nothing is an error everywhere.
pub fn no_query(req: &Request) -> Result<()> {
    match req.query.0.first() {
        Some((name, _)) if req.version >= Version::new(2, 102) => {
            Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")))
        }
        _ => Ok(()),
    }
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:servers:index", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let (servers, links) = list(&compute, &req, false).await?;
    let urls = Links::new(&req);
    let shown: Vec<Value> =
        servers.iter().map(|s| json!({"id": s.id, "name": s.display_name, "links": urls.of("servers", &s.id)})).collect();
    json(200, &Page { servers: shown, servers_links: links })
}

async fn detail(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:servers:detail", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let (servers, links) = list(&compute, &req, true).await?;
    let urls = Links::new(&req);
    let views = compute.server_views(&req.ctx, servers).await?;
    let servers = views.iter().map(|view| view.render(req.version, Shown::Detail, &urls)).collect();
    json(200, &Page { servers, servers_links: links })
}

/// A page of servers as a list answers.
#[derive(Serialize)]
struct Page<T> {
    servers: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    servers_links: Option<Value>,
}

/// A page of servers, and the link to the next.
async fn list(compute: &Compute, req: &Request, detail: bool) -> Result<(Vec<Server>, Option<Value>)> {
    let query = compute.server_list_query(req, detail)?;
    if query.nothing {
        return Ok((Vec::new(), None));
    }
    let by_address = query.ip.is_some() || query.ip6.is_some();
    let servers = compute
        .core
        .store
        .read(|tx| {
            let marker = match &query.marker {
                Some(id) => Some(
                    compute
                        .server_visible_in(tx, &req.ctx, id, query.filter.deleted != Some(false))
                        .map_err(|_| Error::invalid(format!("marker [{id}] not found")))?,
                ),
                None => None,
            };
            let keep = |tx: &store::Tx, server: &Server| {
                if !by_address {
                    return Ok(true);
                }
                let nics = compute.network.nics_in(tx, &server.id)?;
                let mut addresses = nics.iter().flat_map(|n| &n.fixed).map(|f| f.address);
                let fits = |address: std::net::IpAddr| {
                    let pattern = if address.is_ipv4() { &query.ip } else { &query.ip6 };
                    pattern.as_ref().is_some_and(|p| p.is_match(&address.to_string()))
                };
                Ok(addresses.any(fits))
            };
            server_list::server_list_in(tx, &query.filter, &query.sort, marker.as_ref(), query.limit, keep, by_address)
        })
        .await?;
    let next = servers.last().filter(|_| query.limit > 0 && servers.len() as u64 == query.limit).map(|last| {
        let mut pairs: Vec<(String, String)> = req.query.0.iter().filter(|(k, _)| k != "marker").cloned().collect();
        pairs.push(("marker".into(), last.id.clone()));
        let path = if detail { "servers/detail" } else { "servers" };
        json!([{"rel": "next", "href": format!("{}?{}", Links::new(req).own(path), query::Query(pairs).encode())}])
    });
    Ok((servers, next))
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    no_query(&req)?;
    let server = compute.server_for(&req.ctx, req.param("id"), "os_compute_api:servers:show").await?;
    let view = compute.server_view(&req.ctx, server).await?;
    json(200, &json!({"server": view.render(req.version, Shown::Show, &Links::new(&req))}))
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    let wish = ServerCreate::parse(&req.object()?, req.version)?;
    let reservation = wish.return_reservation_id;
    let groups = wish.security_groups.clone();
    let created = compute.server_create(&req.ctx, wish, req.token.as_deref()).await?;
    if reservation {
        return json(202, &json!({"reservation_id": created.server.reservation_id}));
    }
    let links = Links::new(&req);
    let names = groups.unwrap_or_else(|| vec!["default".into()]);
    let body = json!({"server": {
        "id": created.server.id,
        "links": links.of("servers", &created.server.id),
        "OS-DCF:diskConfig": if created.server.auto_disk_config { "AUTO" } else { "MANUAL" },
        "security_groups": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
        "adminPass": created.admin_pass,
    }});
    let mut answer = json(202, &body)?;
    response::set_header(&mut answer, "location", &links.own(&format!("servers/{}", created.server.id)));
    Ok(answer)
}

async fn update(compute: Compute, req: Request) -> Result<Response> {
    let update = ServerUpdate::parse(&req.object()?, req.version)?;
    let server = compute.server_update(&req.ctx, req.param("id"), update).await?;
    let view = compute.server_view(&req.ctx, server).await?;
    json(200, &json!({"server": view.render(req.version, Shown::Update, &Links::new(&req))}))
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    compute.server_delete(&req.ctx, req.param("id"), "os_compute_api:servers:delete", "delete").await?;
    empty(204)
}

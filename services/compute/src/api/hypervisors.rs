//! `/os-hypervisors` (compute API reference, "Hypervisors").

use std::collections::BTreeMap;

use base::{Error, Kind, Result};
use http_api::{Page, Request, Response, Routes, Version, json};
use serde_json::{Value, json};
use store::{Tx, params};

use crate::Compute;
use crate::db::nodes::{Node, node_list_in};
use crate::db::servers::ServerDoc;

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/os-hypervisors", index)
        .get("/os-hypervisors/detail", detail)
        .get("/os-hypervisors/statistics", statistics)
        .get("/os-hypervisors/{id}", show)
        .get("/os-hypervisors/{id}/uptime", uptime)
        .get("/os-hypervisors/{id}/search", search)
        .get("/os-hypervisors/{id}/servers", servers)
}

const CPU_INFO_OBJECT: Version = Version::new(2, 28);
const WITH_PAGING: Version = Version::new(2, 33);
/// Hypervisors are named by UUID; `search` and `servers` become query parameters.
const BY_UUID: Version = Version::new(2, 53);
const STRICT: Version = Version::new(2, 75);
/// Figures that placement knows better are gone; `uptime` joins the view.
const WITHOUT_FIGURES: Version = Version::new(2, 88);

/// A host with what its servers use.
struct Hypervisor {
    node: Node,
    vcpus_used: i64,
    memory_used: i64,
    disk_used: i64,
    /// Id, name.
    servers: Vec<(String, String)>,
}

/// Id, name, vCPUs, MiB of memory, GiB of disk.
type Guest = (String, String, i64, i64, i64);

fn hypervisors_in(tx: &Tx) -> Result<Vec<Hypervisor>> {
    let mut by_host: BTreeMap<String, Vec<Guest>> = BTreeMap::new();
    let sql = "SELECT host_id, id, display_name, vcpus, memory_mb, doc FROM server WHERE host_id IS NOT NULL AND deleted = 0 ORDER BY created_at, id";
    let row = |r: &store::Row| {
        let doc: ServerDoc = r.json(5)?;
        let disk = doc.flavor.as_ref().map_or(0, |f| number(f.root_gb + doc.ephemeral.unwrap_or(f.ephemeral_gb)));
        Ok((r.text(0)?, (r.text(1)?, r.text(2)?, r.int(3)?, r.int(4)?, disk)))
    };
    for (host, row) in tx.query(sql, params![], row)? {
        by_host.entry(host).or_default().push(row);
    }
    let nodes = node_list_in(tx)?;
    Ok(nodes
        .into_iter()
        .map(|node| {
            let rows = by_host.remove(&node.id).unwrap_or_default();
            Hypervisor {
                vcpus_used: rows.iter().map(|r| r.2).sum(),
                memory_used: rows.iter().map(|r| r.3).sum(),
                disk_used: rows.iter().map(|r| r.4).sum(),
                servers: rows.into_iter().map(|r| (r.0, r.1)).collect(),
                node,
            }
        })
        .collect())
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Hypervisor {
    fn id(&self, version: Version) -> Value {
        if version >= BY_UUID { json!(self.node.id) } else { json!(self.node.number) }
    }

    fn short(&self, version: Version) -> Value {
        json!({
            "id": self.id(version),
            "hypervisor_hostname": self.node.name,
            "state": if self.node.is_up() { "up" } else { "down" },
            "status": if self.node.disabled { "disabled" } else { "enabled" },
        })
    }

    fn view(&self, version: Version) -> Value {
        let (node, info) = (&self.node, &self.node.info);
        let mut view = self.short(version);
        view["hypervisor_type"] = json!("QEMU");
        view["hypervisor_version"] = json!(info.hypervisor_version);
        view["host_ip"] = json!(info.address);
        let service_id = if version >= BY_UUID { json!(node.service_id) } else { json!(node.number) };
        view["service"] = json!({"id": service_id, "host": node.name, "disabled_reason": node.disabled_reason});
        if version >= WITHOUT_FIGURES {
            view["uptime"] = json!(self.uptime());
            return view;
        }
        let memory = number(info.memory_mib);
        view["vcpus"] = json!(info.vcpus);
        view["vcpus_used"] = json!(self.vcpus_used);
        view["memory_mb"] = json!(memory);
        view["memory_mb_used"] = json!(self.memory_used);
        view["free_ram_mb"] = json!(memory - self.memory_used);
        view["local_gb"] = json!(info.disk_gib);
        view["local_gb_used"] = json!(self.disk_used);
        view["free_disk_gb"] = json!(number(info.disk_gib) - self.disk_used);
        view["disk_available_least"] = json!(info.free_disk_gib);
        view["current_workload"] = json!(0);
        view["running_vms"] = json!(self.servers.len());
        view["cpu_info"] = if version >= CPU_INFO_OBJECT { info.cpu.clone() } else { json!(info.cpu.to_string()) };
        view
    }

    /// In the words of `uptime(1)`, which the reference passes on.
    fn uptime(&self) -> Option<String> {
        let seconds = self.node.info.uptime_seconds;
        let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
        self.node.is_up().then(|| format!(" up {days} days, {hours:2}:{minutes:02},  0 users,  load average: 0.00, 0.00, 0.00"))
    }

    fn with_servers(&self, mut view: Value, version: Version) -> Value {
        let servers: Vec<Value> = self.servers.iter().map(|(id, name)| json!({"uuid": id, "name": name})).collect();
        if !servers.is_empty() || version >= STRICT {
            view["servers"] = json!(servers);
        }
        view
    }

    fn is(&self, id: &str) -> bool {
        self.node.id == id || self.node.number.to_string() == id
    }
}

fn missing(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Compute host {id} could not be found."))
}

fn gone() -> Error {
    Error::new(Kind::NotFound, "The resource could not be found.")
}

impl Compute {
    async fn hypervisors(&self) -> Result<Vec<Hypervisor>> {
        self.core.store.read(hypervisors_in).await
    }

    async fn hypervisor(&self, req: &Request) -> Result<Hypervisor> {
        let id = req.param("id");
        if req.version >= BY_UUID && !base::id::is_uuid(id) {
            return Err(Error::invalid(format!("Invalid uuid {id}")));
        }
        self.hypervisors().await?.into_iter().find(|h| h.is(id)).ok_or_else(|| missing(id))
    }
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-hypervisors:list", &req.ctx, &())?;
    list(compute, req, false).await
}

async fn detail(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-hypervisors:list-detail", &req.ctx, &())?;
    list(compute, req, true).await
}

async fn list(compute: Compute, req: Request, detailed: bool) -> Result<Response> {
    let version = req.version;
    let known = ["limit", "marker", "hypervisor_hostname_pattern", "with_servers"];
    if let Some((name, _)) = req.query.0.iter().find(|(n, _)| version >= BY_UUID && !known.contains(&n.as_str())) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
    }
    let mut found = compute.hypervisors().await?;
    let pattern = req.query.get("hypervisor_hostname_pattern").filter(|_| version >= BY_UUID);
    if let Some(pattern) = pattern {
        if req.query.has("limit") || req.query.has("marker") {
            return Err(Error::invalid("Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported."));
        }
        found.retain(|h| h.node.name.contains(pattern));
        if found.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("No hypervisor matching '{pattern}' could be found.")));
        }
    }
    let with_servers = version >= BY_UUID && req.query.flag("with_servers")?.unwrap_or(false);
    let max = compute.core.config.int("api.max_limit");
    let mut next = None;
    if version >= WITH_PAGING {
        let page = Page::from_query(&req.query, max, &[])?;
        if let Some(marker) = &page.marker {
            let at = found.iter().position(|h| h.is(marker)).ok_or_else(|| Error::invalid(format!("marker [{marker}] not found")))?;
            found.drain(..=at);
        }
        let limit = usize::try_from(page.fetch_limit(max)).unwrap_or(usize::MAX);
        if found.len() > limit {
            found.truncate(limit);
            next = found.last().map(|h| h.id(version).as_str().map_or_else(|| h.node.number.to_string(), str::to_string));
        }
    }
    let view = |h: &Hypervisor| {
        let view = if detailed { h.view(version) } else { h.short(version) };
        if with_servers { h.with_servers(view, version) } else { view }
    };
    let mut body = json!({"hypervisors": found.iter().map(view).collect::<Vec<_>>()});
    if let Some(marker) = next {
        body["hypervisors_links"] = json!([{"rel": "next", "href": http_api::page::link_with_marker(&req, &marker, None)}]);
    }
    json(200, &body)
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:os-hypervisors:show", &req.ctx, &())?;
    let hypervisor = compute.hypervisor(&req).await?;
    let view = hypervisor.view(req.version);
    let with_servers = req.version >= BY_UUID && req.query.flag("with_servers")?.unwrap_or(false);
    json(200, &json!({"hypervisor": if with_servers { hypervisor.with_servers(view, req.version) } else { view }}))
}

async fn uptime(compute: Compute, req: Request) -> Result<Response> {
    if req.version >= WITHOUT_FIGURES {
        return Err(gone());
    }
    compute.authorize("os_compute_api:os-hypervisors:uptime", &req.ctx, &())?;
    let hypervisor = compute.hypervisor(&req).await?;
    let mut view = hypervisor.short(req.version);
    view["uptime"] = json!(hypervisor.uptime().ok_or_else(|| Error::invalid(format!("Host {} is down.", hypervisor.node.name)))?);
    json(200, &json!({ "hypervisor": view }))
}

async fn search(compute: Compute, req: Request) -> Result<Response> {
    matching(compute, req, "os_compute_api:os-hypervisors:search", false).await
}

async fn servers(compute: Compute, req: Request) -> Result<Response> {
    matching(compute, req, "os_compute_api:os-hypervisors:servers", true).await
}

async fn matching(compute: Compute, req: Request, rule: &str, with_servers: bool) -> Result<Response> {
    if req.version >= BY_UUID {
        return Err(gone());
    }
    compute.authorize(rule, &req.ctx, &())?;
    let pattern = req.param("id");
    let found: Vec<Hypervisor> = compute.hypervisors().await?.into_iter().filter(|h| h.node.name.contains(pattern)).collect();
    if found.is_empty() {
        return Err(Error::new(Kind::NotFound, format!("No hypervisor matching '{pattern}' could be found.")));
    }
    let view = |h: &Hypervisor| if with_servers { h.with_servers(h.short(req.version), req.version) } else { h.short(req.version) };
    json(200, &json!({"hypervisors": found.iter().map(view).collect::<Vec<_>>()}))
}

async fn statistics(compute: Compute, req: Request) -> Result<Response> {
    if req.version >= WITHOUT_FIGURES {
        return Err(gone());
    }
    compute.authorize("os_compute_api:os-hypervisors:statistics", &req.ctx, &())?;
    let all: Vec<Value> = compute.hypervisors().await?.iter().filter(|h| !h.node.disabled).map(|h| h.view(Version::new(2, 1))).collect();
    let mut sums = json!({"count": all.len()});
    for name in [
        "vcpus",
        "vcpus_used",
        "memory_mb",
        "memory_mb_used",
        "free_ram_mb",
        "local_gb",
        "local_gb_used",
        "free_disk_gb",
        "disk_available_least",
        "current_workload",
        "running_vms",
    ] {
        sums[name] = json!(all.iter().filter_map(|view| view[name].as_i64()).sum::<i64>());
    }
    json(200, &json!({ "hypervisor_statistics": sums }))
}

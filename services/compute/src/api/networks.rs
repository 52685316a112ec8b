//! `/os-networks`, `/os-tenant-networks`, `/os-floating-ips` and `/os-floating-ip-pools`: the network's, before 2.36.

use base::{Error, Kind, Result};
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Map, Value, json};

use super::proxies::{allowed, missing};
use crate::Compute;
use crate::fields::{self, Fields};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/os-networks", network_index)
        .get("/os-networks/{id}", network_show)
        .get("/os-tenant-networks", tenant_network_index)
        .get("/os-tenant-networks/{id}", tenant_network_show)
        .get("/os-floating-ip-pools", pool_index)
        .get("/os-floating-ips", floating_ip_index)
        .post("/os-floating-ips", floating_ip_create)
        .get("/os-floating-ips/{id}", floating_ip_show)
        .delete("/os-floating-ips/{id}", floating_ip_delete)
}

/// The pool of those who name none, where there are several.
const USUAL_POOL: &str = "nova";
/// What compute's own networks had and the network service's do not; shown as null.
const LOST: &[&str] = &["cidr", "netmask", "gateway", "broadcast", "dns1", "dns2", "cidr_v6", "gateway_v6", "netmask_v6"];
/// As [`LOST`], of what only administrators saw.
const LOST_OF_ADMINS: &[&str] = &[
    "created_at",
    "updated_at",
    "deleted_at",
    "deleted",
    "injected",
    "bridge",
    "vlan",
    "vpn_public_address",
    "vpn_public_port",
    "vpn_private_address",
    "dhcp_start",
    "project_id",
    "host",
    "bridge_interface",
    "multi_host",
    "priority",
    "rxtx_base",
    "mtu",
    "dhcp_server",
    "enable_dhcp",
    "share_address",
];

type Network = Map<String, Value>;

fn network_view(req: &Request, network: &Network) -> Value {
    let admins = if req.ctx.is_admin() { LOST_OF_ADMINS } else { &[] };
    let mut view = json!({"id": network["id"], "label": network["name"]});
    for name in LOST.iter().chain(admins) {
        view[*name] = Value::Null;
    }
    view
}

/// The text where an address range should be is upstream's.
fn tenant_network_view(network: &Network) -> Value {
    json!({"id": network["id"], "label": network["name"], "cidr": "None"})
}

async fn network(compute: &Compute, req: &Request) -> Result<Network> {
    compute.network.network_show(&req.ctx, req.param("id")).await.map_err(|error| match error.kind() {
        Kind::NotFound => missing("Network not found"),
        _ => error,
    })
}

async fn network_index(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-networks:list")?;
    let networks = compute.network.networks_found(&req.ctx, &[]).await?;
    json(200, &json!({"networks": networks.iter().map(|n| network_view(&req, n)).collect::<Vec<_>>()}))
}

async fn network_show(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-networks:show")?;
    json(200, &json!({"network": network_view(&req, &network(&compute, &req).await?)}))
}

async fn tenant_network_index(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-tenant-networks:list")?;
    let networks = compute.network.networks_found(&req.ctx, &[]).await?;
    json(200, &json!({"networks": networks.iter().map(tenant_network_view).collect::<Vec<_>>()}))
}

async fn tenant_network_show(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-tenant-networks:show")?;
    json(200, &json!({"network": tenant_network_view(&network(&compute, &req).await?)}))
}

/// Networks with addresses to give: compute's pools.
async fn pools(compute: &Compute, req: &Request) -> Result<Vec<Network>> {
    compute.network.networks_found(&req.ctx, &[("router:external", "true")]).await
}

/// What a pool is called; a network without a name is known by its id.
fn pool_name(pool: &Network) -> &Value {
    let name = &pool["name"];
    if name.as_str().is_some_and(|n| !n.is_empty()) { name } else { &pool["id"] }
}

async fn pool_index(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-floating-ip-pools")?;
    let pools = pools(&compute, &req).await?;
    json(200, &json!({"floating_ip_pools": pools.iter().map(|pool| json!({"name": pool_name(pool)})).collect::<Vec<_>>()}))
}

/// A floating address; `pools` has its network, unless the caller may not see that.
fn floating_ip_view(address: &Network, pools: &[Network]) -> Value {
    let of = &address["floating_network_id"];
    json!({
        "id": address["id"],
        "ip": address["floating_ip_address"],
        "fixed_ip": address["fixed_ip_address"],
        "instance_id": address["port_details"]["device_id"],
        "pool": pools.iter().find(|pool| pool["id"] == *of).map_or(of, pool_name),
    })
}

async fn floating_ip_index(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-floating-ips:list")?;
    let addresses = compute.network.floating_ips_found(&req.ctx, &[("project_id", req.ctx.project_id())]).await?;
    let pools = pools(&compute, &req).await?;
    json(200, &json!({"floating_ips": addresses.iter().map(|a| floating_ip_view(a, &pools)).collect::<Vec<_>>()}))
}

fn floating_ip_told(error: Error, id: &str) -> Error {
    if error.is(Kind::NotFound) { missing(format!("Floating IP not found for ID {id}")) } else { error }
}

async fn floating_ip_show(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-floating-ips:show")?;
    let id = req.param("id");
    let address = compute.network.floating_ip_show(&req.ctx, id).await.map_err(|e| floating_ip_told(e, id))?;
    json(200, &json!({"floating_ip": floating_ip_view(&address, &pools(&compute, &req).await?)}))
}

/// The pool that a request names. It may have no body at all.
fn pool_wanted(req: &Request) -> Result<Option<String>> {
    if req.body.is_empty() || req.json::<Value>()?.is_null() {
        return Ok(None);
    }
    let body = req.object()?;
    let pool = Fields::root(&body, req.version).take("pool", fields::nullable(fields::text(0, usize::MAX)))?;
    Ok(pool.flatten().filter(|name| !name.is_empty()))
}

/// The network whose id or name this is; of those who name none, the only one there is, or the usual one.
fn pool_chosen<'a>(pools: &'a [Network], wanted: Option<&str>) -> Result<&'a Network> {
    let by = |key: &str, value: &str| pools.iter().filter(|pool| pool[key] == value).collect::<Vec<_>>();
    let fitting = match (wanted, pools) {
        (None, [only]) => return Ok(only),
        (Some(id), _) if base::id::is_uuid(id) => by("id", id),
        (wanted, _) => by("name", wanted.unwrap_or(USUAL_POOL)),
    };
    match fitting[..] {
        [pool] => Ok(pool),
        [] => Err(missing("Floating IP pool not found.")),
        _ => Err(Error::invalid(format!("Multiple floating IP pools matches found for name '{}'", wanted.unwrap_or(USUAL_POOL)))),
    }
}

async fn floating_ip_create(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-floating-ips:create")?;
    let wanted = pool_wanted(&req)?;
    let pools = pools(&compute, &req).await?;
    let pool = pool_chosen(&pools, wanted.as_deref())?;
    let of = wanted.as_ref().map(|name| format!(" in pool {name}")).unwrap_or_default();
    let made = compute.network.floating_ip_create(&req.ctx, pool["id"].as_str().unwrap_or_default()).await.map_err(|error| {
        match (error.kind(), error.name()) {
            (Kind::QuotaExceeded, _) => Error::forbidden(format!("IP allocation over quota{of}.")),
            (_, Some("IpAddressGenerationFailure")) if of.is_empty() => missing("No more floating IPs available."),
            (_, Some("IpAddressGenerationFailure")) => missing(format!("No more floating IPs{of}.")),
            _ => error,
        }
    })?;
    json(200, &json!({"floating_ip": floating_ip_view(&made, &pools)}))
}

async fn floating_ip_delete(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "os_compute_api:os-floating-ips:delete")?;
    let id = req.param("id");
    compute.network.floating_ip_delete(&req.ctx, id).await.map_err(|e| floating_ip_told(e, id))?;
    empty(202)
}

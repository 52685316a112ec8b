//! What old versions had: `/os-hosts`, `/extensions`, and the resources that upstream has removed and answers for with 410.

use std::collections::BTreeMap;

use base::{Error, Kind, Result};
use http_api::{Request, Response, Routes, Version, json};
use serde_json::{Value, json};

use super::servers::no_query;
use crate::Compute;
use crate::db::nodes::{DEFAULT_ZONE, node_by_name_in, node_list_in, zones_in};
use crate::db::servers::servers_on_host_in;
use crate::fields::{self, Fields};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    let routes = routes
        .get("/os-hosts", host_index)
        .get("/os-hosts/{host}", host_show)
        .put("/os-hosts/{host}", host_update)
        .get("/os-hosts/{host}/reboot", host_reboot)
        .get("/os-hosts/{host}/shutdown", host_shutdown)
        .get("/os-hosts/{host}/startup", host_startup)
        .get("/extensions", extension_index)
        .get("/extensions/{alias}", extension_show);
    GONE.iter().fold(routes, |routes, (method, path)| match *method {
        "GET" => routes.get(path, gone),
        "POST" => routes.post(path, gone),
        "PUT" => routes.put(path, gone),
        _ => routes.delete(path, gone),
    })
}

/// From here on `/os-hosts` is gone: services and hypervisors say it better.
const WITHOUT_HOSTS: Version = Version::new(2, 43);

/// Removed upstream, between Queens and Ussuri. What reads `/os-networks` and `/os-tenant-networks` is served still, before 2.36.
const GONE: &[(&str, &str)] = &[
    ("GET", "/os-agents"),
    ("POST", "/os-agents"),
    ("PUT", "/os-agents/{id}"),
    ("DELETE", "/os-agents/{id}"),
    ("GET", "/os-cells"),
    ("POST", "/os-cells"),
    ("GET", "/os-cells/capacities"),
    ("GET", "/os-cells/detail"),
    ("GET", "/os-cells/info"),
    ("POST", "/os-cells/sync_instances"),
    ("GET", "/os-cells/{id}"),
    ("PUT", "/os-cells/{id}"),
    ("DELETE", "/os-cells/{id}"),
    ("GET", "/os-cells/{id}/capacities"),
    ("POST", "/os-certificates"),
    ("GET", "/os-certificates/{id}"),
    ("GET", "/os-cloudpipe"),
    ("POST", "/os-cloudpipe"),
    ("PUT", "/os-cloudpipe/{id}"),
    ("GET", "/os-fixed-ips/{id}"),
    ("POST", "/os-fixed-ips/{id}/action"),
    ("GET", "/os-floating-ip-dns"),
    ("PUT", "/os-floating-ip-dns/{id}"),
    ("DELETE", "/os-floating-ip-dns/{id}"),
    ("GET", "/os-floating-ip-dns/{domain}/entries/{id}"),
    ("PUT", "/os-floating-ip-dns/{domain}/entries/{id}"),
    ("DELETE", "/os-floating-ip-dns/{domain}/entries/{id}"),
    ("GET", "/os-floating-ips-bulk"),
    ("POST", "/os-floating-ips-bulk"),
    ("GET", "/os-floating-ips-bulk/{id}"),
    ("PUT", "/os-floating-ips-bulk/{id}"),
    ("GET", "/os-fping"),
    ("GET", "/os-fping/{id}"),
    ("POST", "/os-networks"),
    ("POST", "/os-networks/add"),
    ("DELETE", "/os-networks/{id}"),
    ("POST", "/os-networks/{id}/action"),
    ("GET", "/os-security-group-default-rules"),
    ("POST", "/os-security-group-default-rules"),
    ("GET", "/os-security-group-default-rules/{id}"),
    ("DELETE", "/os-security-group-default-rules/{id}"),
    ("POST", "/os-tenant-networks"),
    ("DELETE", "/os-tenant-networks/{id}"),
    ("GET", "/servers/{id}/consoles"),
    ("POST", "/servers/{id}/consoles"),
    ("GET", "/servers/{id}/consoles/{console}"),
    ("DELETE", "/servers/{id}/consoles/{console}"),
    ("GET", "/servers/{id}/os-virtual-interfaces"),
];

async fn gone(_: Compute, _: Request) -> Result<Response> {
    Err(Error::new(Kind::Gone, "This resource is no longer available. No forwarding address is given."))
}

fn host_allowed(compute: &Compute, req: &Request, rule: &str) -> Result<()> {
    if req.version >= WITHOUT_HOSTS {
        return Err(Error::new(Kind::NotFound, "The resource could not be found."));
    }
    compute.authorize(rule, &req.ctx, &())
}

async fn host_index(compute: Compute, req: Request) -> Result<Response> {
    host_allowed(&compute, &req, "os_compute_api:os-hosts:list")?;
    let (nodes, zones) = compute.core.store.read(|tx| Ok((node_list_in(tx)?, zones_in(tx)?))).await?;
    let zone = |name: &str| zones.get(name).map_or(DEFAULT_ZONE, String::as_str).to_string();
    let views = nodes.iter().filter(|n| !n.disabled).map(|n| (n.name.as_str(), zone(&n.name)));
    let views = views.filter(|(_, zone)| req.query.get("zone").is_none_or(|wanted| wanted.is_empty() || wanted == zone));
    let views: Vec<Value> = views.map(|(name, zone)| json!({"host_name": name, "service": "compute", "zone": zone})).collect();
    json(200, &json!({ "hosts": views }))
}

fn host_missing(host: &str) -> Error {
    Error::new(Kind::NotFound, format!("Compute host {host} could not be found."))
}

/// Processors, memory in MiB, disk in GiB.
type Amounts = (u64, u64, u64);

async fn host_show(compute: Compute, req: Request) -> Result<Response> {
    host_allowed(&compute, &req, "os_compute_api:os-hosts:show")?;
    let name = req.param("host");
    let (node, servers) = compute
        .core
        .store
        .read(|tx| {
            let node = node_by_name_in(tx, name)?.ok_or_else(|| host_missing(name))?;
            let servers = servers_on_host_in(tx, &node.id)?;
            Ok((node, servers))
        })
        .await?;
    let mut projects: BTreeMap<&str, Amounts> = BTreeMap::new();
    let mut used: Amounts = (0, 0, 0);
    for server in &servers {
        let disk = server.doc.flavor.as_ref().map_or(0, |f| f.root_gb + f.ephemeral_gb);
        for sum in [projects.entry(&server.project_id).or_default(), &mut used] {
            *sum = (sum.0 + u64::from(server.vcpus), sum.1 + server.memory_mb, sum.2 + disk);
        }
    }
    let row = |project: &str, (cpu, memory, disk): Amounts| json!({"resource": {"host": name, "project": project, "cpu": cpu, "memory_mb": memory, "disk_gb": disk}});
    let total = (u64::from(node.info.vcpus), node.info.memory_mib, node.info.disk_gib);
    let mut rows = vec![row("(total)", total), row("(used_now)", used), row("(used_max)", used)];
    rows.extend(projects.into_iter().map(|(project, sum)| row(project, sum)));
    json(200, &json!({ "host": rows }))
}

async fn known(compute: &Compute, name: &str) -> Result<()> {
    compute.core.store.read(|tx| node_by_name_in(tx, name)?.map(drop).ok_or_else(|| host_missing(name))).await
}

/// As upstream with QEMU: neither this switch nor the machine's power is compute's to turn. `/os-services` disables a host.
fn unsupported<T>() -> Result<T> {
    Err(Error::new(Kind::NotSupported, "Requested functionality is not supported."))
}

async fn host_update(compute: Compute, req: Request) -> Result<Response> {
    host_allowed(&compute, &req, "os_compute_api:os-hosts:update")?;
    let body = req.object()?;
    let words = fields::one_of(&["enable", "disable", "Enable", "Disable", "ENABLE", "DISABLE"]);
    let mut root = Fields::root(&body, req.version);
    let status = root.take("status", &words)?;
    let maintenance = root.take("maintenance_mode", &words)?;
    root.finish()?;
    if status.is_none() && maintenance.is_none() {
        return Err(Error::invalid("one of 'status', 'maintenance_mode' is a required property"));
    }
    known(&compute, req.param("host")).await?;
    unsupported()
}

async fn host_power(compute: &Compute, req: &Request, rule: &str) -> Result<Response> {
    host_allowed(compute, req, rule)?;
    known(compute, req.param("host")).await?;
    unsupported()
}

async fn host_reboot(compute: Compute, req: Request) -> Result<Response> {
    host_power(&compute, &req, "os_compute_api:os-hosts:reboot").await
}

async fn host_shutdown(compute: Compute, req: Request) -> Result<Response> {
    host_power(&compute, &req, "os_compute_api:os-hosts:shutdown").await
}

async fn host_startup(compute: Compute, req: Request) -> Result<Response> {
    host_power(&compute, &req, "os_compute_api:os-hosts:start").await
}

/// Alias and name of what once were extensions, as far as it is served here.
const EXTENSIONS: &[(&str, &str)] = &[
    ("NMN", "Multinic"),
    ("OS-DCF", "DiskConfig"),
    ("OS-EXT-AZ", "ExtendedAvailabilityZone"),
    ("OS-EXT-IMG-SIZE", "ImageSize"),
    ("OS-EXT-IPS", "ExtendedIps"),
    ("OS-EXT-IPS-MAC", "ExtendedIpsMac"),
    ("OS-EXT-SRV-ATTR", "ExtendedServerAttributes"),
    ("OS-EXT-STS", "ExtendedStatus"),
    ("OS-FLV-DISABLED", "FlavorDisabled"),
    ("OS-FLV-EXT-DATA", "FlavorExtraData"),
    ("OS-SCH-HNT", "SchedulerHints"),
    ("OS-SRV-USG", "ServerUsage"),
    ("os-admin-actions", "AdminActions"),
    ("os-aggregates", "Aggregates"),
    ("os-attach-interfaces", "AttachInterfaces"),
    ("os-availability-zone", "AvailabilityZone"),
    ("os-config-drive", "ConfigDrive"),
    ("os-console-auth-tokens", "ConsoleAuthTokens"),
    ("os-console-output", "ConsoleOutput"),
    ("os-consoles", "Consoles"),
    ("os-deferred-delete", "DeferredDelete"),
    ("os-extended-quotas", "ExtendedQuotas"),
    ("os-extended-services", "ExtendedServices"),
    ("os-flavor-access", "FlavorAccess"),
    ("os-flavor-extra-specs", "FlavorExtraSpecs"),
    ("os-flavor-manage", "FlavorManage"),
    ("os-flavor-rxtx", "FlavorRxtx"),
    ("os-flavor-swap", "FlavorSwap"),
    ("os-floating-ip-pools", "FloatingIpPools"),
    ("os-floating-ips", "FloatingIps"),
    ("os-hosts", "Hosts"),
    ("os-hypervisors", "Hypervisors"),
    ("os-instance-actions", "InstanceActions"),
    ("os-instance_usage_audit_log", "OSInstanceUsageAuditLog"),
    ("os-keypairs", "Keypairs"),
    ("os-networks", "Networks"),
    ("os-quota-class-sets", "QuotaClasses"),
    ("os-quota-sets", "Quotas"),
    ("os-security-groups", "SecurityGroups"),
    ("os-server-diagnostics", "ServerDiagnostics"),
    ("os-server-external-events", "ServerExternalEvents"),
    ("os-server-groups", "ServerGroups"),
    ("os-server-password", "ServerPassword"),
    ("os-server-start-stop", "ServerStartStop"),
    ("os-services", "Services"),
    ("os-simple-tenant-usage", "SimpleTenantUsage"),
    ("os-tenant-networks", "TenantNetworks"),
    ("os-used-limits", "UsedLimits"),
    ("os-user-data", "UserData"),
    ("os-user-quotas", "UserQuotas"),
    ("os-volumes", "Volumes"),
];

fn extension((alias, name): &(&str, &str)) -> Value {
    json!({
        "alias": alias,
        "name": name,
        "description": format!("{name}."),
        "links": [],
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
        "updated": "2014-12-03T00:00:00Z",
    })
}

async fn extension_index(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:extensions", &req.ctx, &())?;
    no_query(&req)?;
    json(200, &json!({"extensions": EXTENSIONS.iter().map(extension).collect::<Vec<_>>()}))
}

async fn extension_show(compute: Compute, req: Request) -> Result<Response> {
    compute.authorize("os_compute_api:extensions", &req.ctx, &())?;
    no_query(&req)?;
    let found = EXTENSIONS.iter().find(|(alias, _)| *alias == req.param("alias"));
    let found = found.ok_or_else(|| Error::new(Kind::NotFound, "The resource could not be found."))?;
    json(200, &json!({"extension": extension(found)}))
}

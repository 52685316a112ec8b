//! How servers are shown. [`ServerView::render`] is the only place that knows what a version shows.

use std::collections::{BTreeMap, HashMap};

use base::{Context, Result};
use http_api::{Request, Version};
use network::NicInfo;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha224};

use crate::Compute;
use crate::db::nodes::{self, Node};
use crate::db::servers::{self as db, Fault, Server};
use crate::db::tags;
use crate::db::volumes::{ServerVolume, volumes_of_all_in};
use crate::servers::target;
use crate::states::vm;

fn v(minor: u16) -> Version {
    Version::new(2, minor)
}

/// Where links begin.
pub struct Links {
    versioned: String,
    bookmark: String,
}

impl Links {
    pub fn new(req: &Request) -> Links {
        let project = req.param("project_id");
        let tail = if project.is_empty() { String::new() } else { format!("/{project}") };
        let version = if req.version == Version::LEGACY { "v2" } else { "v2.1" };
        Links { versioned: format!("{}/{version}{tail}", req.base_url), bookmark: format!("{}{tail}", req.base_url) }
    }
    pub fn own(&self, path: &str) -> String {
        format!("{}/{path}", self.versioned)
    }
    pub fn of(&self, collection: &str, id: &str) -> Value {
        json!([
            {"rel": "self", "href": format!("{}/{collection}/{id}", self.versioned)},
            {"rel": "bookmark", "href": format!("{}/{collection}/{id}", self.bookmark)},
        ])
    }
    fn bookmark(&self, collection: &str, id: &str) -> Value {
        json!([{"rel": "bookmark", "href": format!("{}/{collection}/{id}", self.bookmark)}])
    }
}

/// Which request the server is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Show,
    Detail,
    Update,
}

/// A server and everything that is shown with it.
pub struct ServerView {
    pub server: Server,
    pub nics: Vec<NicInfo>,
    pub volumes: Vec<ServerVolume>,
    pub tags: Vec<String>,
    pub fault: Option<Fault>,
    pub groups: Vec<String>,
    /// Status of the host; none when the caller may not see it.
    pub host_status: Option<&'static str>,
    pub extended: bool,
    pub extra_specs: bool,
    pub fault_details: bool,
}

impl ServerView {
    pub fn render(&self, version: Version, shown: Shown, links: &Links) -> Value {
        let s = &self.server;
        let status = s.status();
        // Until 2.75 an update answered with the bare server.
        let whole = shown != Shown::Update || version >= v(75);
        let mut out = json!({
            "id": s.id,
            "name": s.display_name,
            "status": status,
            "tenant_id": s.project_id,
            "user_id": s.user_id,
            "metadata": s.doc.metadata,
            "hostId": host_id_hash(&s.project_id, s.host.as_deref()),
            "image": self.image(version, links),
            "flavor": self.flavor(version, links),
            "created": s.created_at.iso(),
            "updated": s.updated_at.iso(),
            "addresses": if s.vm_state == vm::BUILDING { json!({}) } else { addresses(&self.nics, whole) },
            "accessIPv4": s.access_ip_v4.as_deref().unwrap_or_default(),
            "accessIPv6": s.access_ip_v6.as_deref().unwrap_or_default(),
            "links": links.of("servers", &s.id),
            "OS-DCF:diskConfig": if s.auto_disk_config { "AUTO" } else { "MANUAL" },
        });
        if matches!(status, "ERROR" | "DELETED") {
            if let Some(fault) = &self.fault {
                out["fault"] = self.fault(fault);
            }
        }
        if matches!(status, "ACTIVE" | "BUILD" | "REBUILD" | "RESIZE" | "VERIFY_RESIZE" | "MIGRATING") {
            out["progress"] = json!(s.progress);
        }
        if whole {
            self.render_whole(version, &mut out);
        }
        if version >= v(9) {
            out["locked"] = json!(s.is_locked());
        }
        if let Some(host_status) = self.host_status.filter(|_| version >= v(16) && whole) {
            out["host_status"] = json!(host_status);
        }
        if version >= v(19) {
            out["description"] = json!(s.display_description);
        }
        if version >= v(26) {
            out["tags"] = json!(self.tags);
        }
        if version >= v(63) {
            out["trusted_image_certificates"] = Value::Null;
        }
        if version >= v(71) && shown != Shown::Detail {
            out["server_groups"] = json!(self.groups);
        }
        if version >= v(73) {
            out["locked_reason"] = json!(s.doc.locked_reason);
        }
        if version >= v(90) {
            out["OS-EXT-SRV-ATTR:hostname"] = json!(s.hostname);
        }
        if version >= v(96) && whole {
            out["pinned_availability_zone"] = json!(s.doc.pinned_zone);
        }
        if version >= v(100) {
            out["scheduler_hints"] = if s.doc.hints.is_object() { s.doc.hints.clone() } else { json!({}) };
        }
        out
    }

    fn render_whole(&self, version: Version, out: &mut Value) {
        let s = &self.server;
        let zone = s.availability_zone.as_deref().filter(|_| s.host.is_some() || !s.doc.placement.zone.iter().all(String::is_empty));
        out["OS-EXT-AZ:availability_zone"] = json!(zone.unwrap_or_default());
        out["config_drive"] = json!(s.config_drive);
        out["key_name"] = json!(s.key_name);
        out["OS-SRV-USG:launched_at"] = json!(s.launched_at.map(|t| t.iso_micros()));
        out["OS-SRV-USG:terminated_at"] = json!(s.terminated_at.map(|t| t.iso_micros()));
        let groups = group_names(&self.nics);
        if !groups.is_empty() {
            out["security_groups"] = json!(groups.iter().map(|name| json!({"name": name})).collect::<Vec<_>>());
        }
        if self.extended {
            out["OS-EXT-SRV-ATTR:host"] = json!(s.host);
            out["OS-EXT-SRV-ATTR:instance_name"] = json!(s.instance_name());
            out["OS-EXT-SRV-ATTR:hypervisor_hostname"] = json!(s.node);
            if version >= v(3) {
                out["OS-EXT-SRV-ATTR:hostname"] = json!(s.hostname);
                out["OS-EXT-SRV-ATTR:kernel_id"] = json!("");
                out["OS-EXT-SRV-ATTR:ramdisk_id"] = json!("");
                out["OS-EXT-SRV-ATTR:launch_index"] = json!(s.launch_index);
                out["OS-EXT-SRV-ATTR:reservation_id"] = json!(s.reservation_id);
                out["OS-EXT-SRV-ATTR:root_device_name"] = json!(s.root_device_name);
                out["OS-EXT-SRV-ATTR:user_data"] = json!(s.doc.user_data);
            }
        }
        out["OS-EXT-STS:task_state"] = json!(s.task_state);
        out["OS-EXT-STS:vm_state"] = json!(s.vm_state);
        out["OS-EXT-STS:power_state"] = json!(s.power_state);
        let attached = |v: &ServerVolume| match version >= self::v(3) {
            true => json!({"id": v.volume_id, "delete_on_termination": v.delete_on_termination}),
            false => json!({"id": v.volume_id}),
        };
        let volumes: Vec<Value> = self.volumes.iter().filter(|v| v.volume_id.is_some()).map(attached).collect();
        out["os-extended-volumes:volumes_attached"] = json!(volumes);
    }

    fn image(&self, version: Version, links: &Links) -> Value {
        let s = &self.server;
        if s.image_ref.is_empty() {
            return json!("");
        }
        let mut image = json!({"id": s.image_ref, "links": links.bookmark("images", &s.image_ref)});
        if version >= v(98) {
            let properties = s.doc.image.iter().flat_map(|i| &i.properties).filter(|(name, _)| is_standard_property(name));
            image["properties"] = Value::Object(properties.map(|(k, v)| (k.clone(), json!(v))).collect());
        }
        image
    }

    fn flavor(&self, version: Version, links: &Links) -> Value {
        let Some(flavor) = &self.server.doc.flavor else { return json!({}) };
        if version < v(47) {
            return json!({"id": flavor.id, "links": links.bookmark("flavors", &flavor.id)});
        }
        let mut shown = json!({
            "vcpus": flavor.vcpus,
            "ram": flavor.memory_mb,
            "disk": flavor.root_gb,
            "ephemeral": flavor.ephemeral_gb,
            "swap": flavor.swap_mb,
            "original_name": flavor.name,
        });
        if self.extra_specs {
            shown["extra_specs"] = json!(flavor.doc.extra_specs);
        }
        shown
    }

    fn fault(&self, fault: &Fault) -> Value {
        let mut shown = json!({"code": fault.code, "created": fault.created_at.iso(), "message": fault.message});
        if !fault.details.is_empty() && (self.fault_details || fault.code != 500) {
            shown["details"] = json!(fault.details);
        }
        shown
    }
}

/// Image properties that mean something to compute.
fn is_standard_property(name: &str) -> bool {
    const NAMES: &[&str] = &["architecture", "hypervisor_type", "vm_mode", "auto_disk_config", "cache_in_nova", "root_device_name"];
    ["hw_", "os_", "img_", "traits_required", "trait:"].iter().any(|p| name.starts_with(p)) || NAMES.contains(&name)
}

/// A host's name that tells nothing but whether two servers of a project share it.
pub fn host_id_hash(project_id: &str, host: Option<&str>) -> String {
    let Some(host) = host else { return String::new() };
    let digest = Sha224::new().chain_update(project_id).chain_update(host).finalize();
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Names of the security groups of a server's ports, each once.
pub fn group_names(nics: &[NicInfo]) -> Vec<&str> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (id, name) in nics.iter().flat_map(|n| &n.security_groups) {
        seen.insert(id, name);
    }
    seen.into_values().collect()
}

/// Addresses by network name: fixed ones, then floating ones. `extended`: with their kind and MAC.
pub fn addresses(nics: &[NicInfo], extended: bool) -> Value {
    let mut networks: Map<String, Value> = Map::new();
    for floating in [false, true] {
        for nic in nics {
            let list = networks.entry(nic.network_name.clone()).or_insert_with(|| json!([]));
            let fixed = nic.fixed.iter().map(|f| f.address).filter(|_| !floating);
            let outer = nic.floating.iter().map(|(_, address)| *address).filter(|_| floating);
            for address in fixed.chain(outer) {
                let mut entry = json!({"version": if address.is_ipv4() { 4 } else { 6 }, "addr": address});
                if extended {
                    entry["OS-EXT-IPS:type"] = json!(if floating { "floating" } else { "fixed" });
                    entry["OS-EXT-IPS-MAC:mac_addr"] = json!(nic.mac);
                }
                if let Some(list) = list.as_array_mut() {
                    list.push(entry);
                }
            }
        }
    }
    Value::Object(networks)
}

/// `UP`, `DOWN`, `MAINTENANCE`, `UNKNOWN`, or nothing without a host.
fn host_status(server: &Server, nodes: &[Node]) -> &'static str {
    let Some(id) = &server.host_id else { return "" };
    match nodes.iter().find(|n| n.id == *id) {
        Some(node) if node.forced_down => "DOWN",
        Some(node) if node.is_up() && node.disabled => "MAINTENANCE",
        Some(node) if node.is_up() => "UP",
        _ => "UNKNOWN",
    }
}

/// What the caller may see of servers of one owner.
#[derive(Clone, Copy)]
struct Rights {
    host_status: bool,
    unknown_host: bool,
    extended: bool,
    extra_specs: bool,
}

impl Compute {
    /// Gathers what is shown with servers: a fixed number of queries, however many there are.
    pub async fn server_views(&self, ctx: &Context, servers: Vec<Server>) -> Result<Vec<ServerView>> {
        let ids: Vec<String> = servers.iter().map(|s| s.id.clone()).collect();
        let mut nics = self.network.nics(&ids).await?;
        let (mut tags, mut faults, nodes, mut groups, mut volumes) = self
            .core
            .store
            .read(|tx| {
                let mut groups: HashMap<String, Vec<String>> = HashMap::new();
                let members = store::Select::new("SELECT server_id, group_id FROM server_group_member").in_list("server_id", &ids);
                for (server, group) in members.fetch(tx, |r| Ok((r.text(0)?, r.text(1)?)))? {
                    groups.entry(server).or_default().push(group);
                }
                Ok((
                    tags::tags_of_in(tx, &ids)?,
                    db::faults_of_in(tx, &ids)?,
                    nodes::node_list_in(tx)?,
                    groups,
                    volumes_of_all_in(tx, &ids)?,
                ))
            })
            .await?;
        // The rules look at a server's owner only, and a page is mostly of one.
        let mut rights: HashMap<(String, String), Rights> = HashMap::new();
        let views = servers.into_iter().map(|server| {
            let owner = (server.project_id.clone(), server.user_id.clone());
            let rights = *rights.entry(owner).or_insert_with(|| self.rights(ctx, &server));
            let status = host_status(&server, &nodes);
            ServerView {
                nics: nics.remove(&server.id).unwrap_or_default(),
                volumes: volumes.remove(&server.id).unwrap_or_default(),
                tags: tags.remove(&server.id).unwrap_or_default(),
                fault: faults.remove(&server.id),
                groups: groups.remove(&server.id).unwrap_or_default(),
                host_status: (rights.host_status || (rights.unknown_host && status == "UNKNOWN")).then_some(status),
                extended: rights.extended,
                extra_specs: rights.extra_specs,
                fault_details: ctx.is_admin(),
                server,
            }
        });
        Ok(views.collect())
    }

    fn rights(&self, ctx: &Context, server: &Server) -> Rights {
        let target = target(server);
        let may = |rule: &str| self.may(rule, ctx, &target);
        Rights {
            host_status: may("os_compute_api:servers:show:host_status"),
            unknown_host: may("os_compute_api:servers:show:host_status:unknown-only"),
            extended: may("os_compute_api:os-extended-server-attributes"),
            extra_specs: may("os_compute_api:servers:show:flavor-extra-specs"),
        }
    }

    pub async fn server_view(&self, ctx: &Context, server: Server) -> Result<ServerView> {
        let mut views = self.server_views(ctx, vec![server]).await?;
        views.pop().ok_or_else(|| base::Error::internal("a server without a view"))
    }
}

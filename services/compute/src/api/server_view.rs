//! How servers are shown. [`ServerView::render`] is the only place that knows what a version shows.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use base::{Context, Result};
use http_api::{Request, Version};
use network::NicInfo;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha224};

use crate::Compute;
use crate::cpus;
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
    /// The server as `version` shows it. It is written field by field when it is serialized: a page of a thousand servers, made of
    /// values first, takes twice the time.
    pub fn render<'a>(&'a self, version: Version, shown: Shown, links: &'a Links) -> Rendered<'a> {
        Rendered { view: self, version, shown, links }
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

    fn fault(&self, fault: &Fault) -> Value {
        let mut shown = json!({"code": fault.code, "created": fault.created_at.iso(), "message": fault.message});
        if !fault.details.is_empty() && (self.fault_details || fault.code != 500) {
            shown["details"] = json!(fault.details);
        }
        shown
    }
}

/// What [`ServerView::render`] gives.
pub struct Rendered<'a> {
    view: &'a ServerView,
    version: Version,
    shown: Shown,
    links: &'a Links,
}

impl Serialize for Rendered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let (view, s, version) = (self.view, &self.view.server, self.version);
        let status = s.status();
        // Until 2.75 an update answered with the bare server.
        let whole = self.shown != Shown::Update || version >= v(75);
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("id", &s.id)?;
        out.serialize_entry("name", &s.display_name)?;
        out.serialize_entry("status", status)?;
        out.serialize_entry("tenant_id", &s.project_id)?;
        out.serialize_entry("user_id", &s.user_id)?;
        out.serialize_entry("metadata", &s.doc.metadata)?;
        out.serialize_entry("hostId", &host_id_hash(&s.project_id, s.host.as_deref()))?;
        out.serialize_entry("image", &view.image(version, self.links))?;
        out.serialize_entry("flavor", &FlavorShown { view, version, links: self.links })?;
        out.serialize_entry("created", &s.created_at.iso())?;
        out.serialize_entry("updated", &s.updated_at.iso())?;
        let nics: &[NicInfo] = if s.vm_state == vm::BUILDING { &[] } else { &view.nics };
        out.serialize_entry("addresses", &Addresses { networks: addresses(nics), extended: whole })?;
        out.serialize_entry("accessIPv4", s.access_ip_v4.as_deref().unwrap_or_default())?;
        out.serialize_entry("accessIPv6", s.access_ip_v6.as_deref().unwrap_or_default())?;
        out.serialize_entry("links", &self.links.of("servers", &s.id))?;
        out.serialize_entry("OS-DCF:diskConfig", if s.auto_disk_config { "AUTO" } else { "MANUAL" })?;
        if let Some(fault) = view.fault.as_ref().filter(|_| matches!(status, "ERROR" | "DELETED")) {
            out.serialize_entry("fault", &view.fault(fault))?;
        }
        if matches!(status, "ACTIVE" | "BUILD" | "REBUILD" | "RESIZE" | "VERIFY_RESIZE" | "MIGRATING") {
            out.serialize_entry("progress", &s.progress)?;
        }
        if whole {
            self.whole(&mut out)?;
        }
        if version >= v(9) {
            out.serialize_entry("locked", &s.is_locked())?;
        }
        if let Some(host_status) = view.host_status.filter(|_| version >= v(16) && whole) {
            out.serialize_entry("host_status", host_status)?;
        }
        if version >= v(19) {
            out.serialize_entry("description", &s.display_description)?;
        }
        if version >= v(26) {
            out.serialize_entry("tags", &view.tags)?;
        }
        if version >= v(63) {
            out.serialize_entry("trusted_image_certificates", &s.doc.trusted_certs)?;
        }
        if version >= v(71) && self.shown != Shown::Detail {
            out.serialize_entry("server_groups", &view.groups)?;
        }
        if version >= v(73) {
            out.serialize_entry("locked_reason", &s.doc.locked_reason)?;
        }
        if version >= v(90) && !(whole && view.extended) {
            out.serialize_entry("OS-EXT-SRV-ATTR:hostname", &s.hostname)?;
        }
        if version >= v(96) && whole {
            out.serialize_entry("pinned_availability_zone", &s.doc.pinned_zone)?;
        }
        if version >= v(100) {
            let none = Value::Object(Map::new());
            out.serialize_entry("scheduler_hints", if s.doc.hints.is_object() { &s.doc.hints } else { &none })?;
        }
        out.end()
    }
}

impl Rendered<'_> {
    fn whole<M: SerializeMap>(&self, out: &mut M) -> std::result::Result<(), M::Error> {
        let (view, s, version) = (self.view, &self.view.server, self.version);
        let zone = s.availability_zone.as_deref().filter(|_| s.host.is_some() || !s.doc.placement.zone.iter().all(String::is_empty));
        out.serialize_entry("OS-EXT-AZ:availability_zone", zone.unwrap_or_default())?;
        out.serialize_entry("config_drive", &s.config_drive)?;
        out.serialize_entry("key_name", &s.key_name)?;
        out.serialize_entry("OS-SRV-USG:launched_at", &s.launched_at.map(|t| t.iso_micros()))?;
        out.serialize_entry("OS-SRV-USG:terminated_at", &s.terminated_at.map(|t| t.iso_micros()))?;
        let groups: Vec<Name> = group_names(&view.nics).into_iter().map(|name| Name { name }).collect();
        if !groups.is_empty() {
            out.serialize_entry("security_groups", &groups)?;
        }
        if view.extended {
            out.serialize_entry("OS-EXT-SRV-ATTR:host", &s.host)?;
            out.serialize_entry("OS-EXT-SRV-ATTR:instance_name", &s.instance_name())?;
            out.serialize_entry("OS-EXT-SRV-ATTR:hypervisor_hostname", &s.node)?;
            if version >= v(3) {
                out.serialize_entry("OS-EXT-SRV-ATTR:hostname", &s.hostname)?;
                out.serialize_entry("OS-EXT-SRV-ATTR:kernel_id", "")?;
                out.serialize_entry("OS-EXT-SRV-ATTR:ramdisk_id", "")?;
                out.serialize_entry("OS-EXT-SRV-ATTR:launch_index", &s.launch_index)?;
                out.serialize_entry("OS-EXT-SRV-ATTR:reservation_id", &s.reservation_id)?;
                out.serialize_entry("OS-EXT-SRV-ATTR:root_device_name", &s.root_device_name)?;
                out.serialize_entry("OS-EXT-SRV-ATTR:user_data", &s.doc.user_data)?;
            }
        }
        out.serialize_entry("OS-EXT-STS:task_state", &s.task_state)?;
        out.serialize_entry("OS-EXT-STS:vm_state", &s.vm_state)?;
        out.serialize_entry("OS-EXT-STS:power_state", &s.power_state)?;
        if let (Some(least), Some(flavor)) = (cpus::of_server(s).least, &s.doc.flavor) {
            out.serialize_entry("wrs-res:vcpus", &[least, s.vcpus, flavor.vcpus])?;
        }
        let attached = view.volumes.iter().filter(|v| v.volume_id.is_some()).map(|v| VolumeShown {
            id: v.volume_id.as_deref(),
            delete_on_termination: (version >= self::v(3)).then_some(v.delete_on_termination),
        });
        out.serialize_entry("os-extended-volumes:volumes_attached", &attached.collect::<Vec<_>>())
    }
}

#[derive(Serialize)]
struct Name<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct VolumeShown<'a> {
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_on_termination: Option<bool>,
}

struct FlavorShown<'a> {
    view: &'a ServerView,
    version: Version,
    links: &'a Links,
}

impl Serialize for FlavorShown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        let Some(flavor) = &self.view.server.doc.flavor else { return out.end() };
        if self.version < v(47) {
            out.serialize_entry("id", &flavor.id)?;
            out.serialize_entry("links", &self.links.bookmark("flavors", &flavor.id))?;
            return out.end();
        }
        out.serialize_entry("vcpus", &flavor.vcpus)?;
        out.serialize_entry("ram", &flavor.memory_mb)?;
        out.serialize_entry("disk", &flavor.root_gb)?;
        out.serialize_entry("ephemeral", &flavor.ephemeral_gb)?;
        out.serialize_entry("swap", &flavor.swap_mb)?;
        out.serialize_entry("original_name", &flavor.name)?;
        if self.view.extra_specs {
            out.serialize_entry("extra_specs", &flavor.doc.extra_specs)?;
        }
        out.end()
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

/// One address of a server.
pub struct Address<'a> {
    mac: &'a str,
    floating: bool,
    address: IpAddr,
}

/// Addresses by network name: fixed ones, then floating ones.
pub fn addresses(nics: &[NicInfo]) -> Vec<(&str, Vec<Address<'_>>)> {
    let mut networks: Vec<(&str, Vec<Address>)> = Vec::new();
    for floating in [false, true] {
        for nic in nics {
            let place = networks.iter().position(|(name, _)| *name == nic.network_name).unwrap_or_else(|| {
                networks.push((&nic.network_name, Vec::new()));
                networks.len() - 1
            });
            let fixed = nic.fixed.iter().map(|f| f.address).filter(|_| !floating);
            let outer = nic.floating.iter().map(|(_, address)| *address).filter(|_| floating);
            let found = fixed.chain(outer).map(|address| Address { mac: &nic.mac, floating, address });
            networks[place].1.extend(found);
        }
    }
    networks
}

/// [`addresses`] as they are shown. `extended`: with their kind and MAC.
pub struct Addresses<'a> {
    pub networks: Vec<(&'a str, Vec<Address<'a>>)>,
    pub extended: bool,
}

impl Serialize for Addresses<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.networks.iter().map(|(name, list)| (name, shown(list, self.extended))))
    }
}

#[derive(Serialize)]
pub struct AddressShown<'a> {
    version: u8,
    addr: IpAddr,
    #[serde(rename = "OS-EXT-IPS:type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(rename = "OS-EXT-IPS-MAC:mac_addr", skip_serializing_if = "Option::is_none")]
    mac: Option<&'a str>,
}

/// The addresses in one network as they are shown.
pub fn shown<'a>(list: &[Address<'a>], extended: bool) -> Vec<AddressShown<'a>> {
    let one = |a: &Address<'a>| AddressShown {
        version: if a.address.is_ipv4() { 4 } else { 6 },
        addr: a.address,
        kind: extended.then_some(if a.floating { "floating" } else { "fixed" }),
        mac: extended.then_some(a.mac),
    };
    list.iter().map(one).collect()
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

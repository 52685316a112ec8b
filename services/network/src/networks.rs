//! Networks: rules.

use base::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Select, Tx, params};

use crate::attr::{Absent, Attribute, Check, Kind, Object, attr};
use crate::floatingips::FloatingIp;
use crate::ports::Port;
use crate::row::{self, Common, Resource};
use crate::segments::{LAST_VNI, Segment};
use crate::subnets::Subnet;
use crate::{Network, db, encryption, fault, hosts, qos};

static ATTRIBUTES: &[Attribute] = &[
    attr("status", Check::Text(16)).column(),
    attr("admin_state_up", Check::Flag).post(Absent::Flag(true)).put().column(),
    attr("shared", Check::Flag).post(Absent::Flag(false)).put().column(),
    attr("router:external", Check::Flag).post(Absent::Flag(false)).put().column(),
    attr("is_default", Check::Flag).post(Absent::Flag(false)).put().column(),
    attr("mtu", Check::Int(0, 65535)).post(Absent::Unset).put().column(),
    attr("port_security_enabled", Check::Flag).post(Absent::Flag(true)).put(),
    attr("dns_domain", Check::Custom(dns_domain)).post(Absent::Text("")).put(),
    attr("availability_zone_hints", Check::Texts(255)).post(Absent::List),
    attr("availability_zones", Check::Any),
    attr("provider:network_type", Check::TextOrNull(32)).post(Absent::Unset).put().column(),
    attr("provider:physical_network", Check::TextOrNull(64)).post(Absent::Unset).put().column(),
    attr("provider:segmentation_id", Check::IntOrNull(0, LAST_VNI)).post(Absent::Unset).put().column(),
    attr("qos_policy_id", Check::UuidOrNull).post(Absent::Null).put().column(),
    attr("subnets", Check::Any),
    attr("ipv4_address_scope", Check::Any),
    attr("ipv6_address_scope", Check::Any),
];

pub static KIND: Kind = Kind {
    singular: "network",
    plural: "networks",
    table: "network",
    not_found: "NetworkNotFound",
    label: "Network",
    attributes: ATTRIBUTES,
    policy_only: &[],
    filters: &[],
};

/// A domain name, with or without a dot at its end; or nothing.
pub fn dns_domain(value: &Value) -> Result<Value, String> {
    let text = crate::attr::text(value, 255)?.to_lowercase();
    let labels = text.strip_suffix('.').unwrap_or(&text);
    if labels.is_empty() || labels.split('.').all(is_label) { Ok(json!(text)) } else { Err(format!("'{text}' not a valid PQDN or FQDN")) }
}

pub fn is_label(label: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=63).contains(&label.len()) && label.chars().all(fine) && !label.starts_with('-') && !label.ends_with('-')
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Net {
    #[serde(flatten)]
    pub common: Common,
    pub status: String,
    pub admin_state_up: bool,
    pub shared: bool,
    #[serde(rename = "router:external")]
    pub external: bool,
    pub is_default: bool,
    pub mtu: i64,
    pub port_security_enabled: bool,
    pub dns_domain: String,
    pub availability_zone_hints: Vec<String>,
    #[serde(rename = "provider:network_type")]
    pub network_type: String,
    #[serde(rename = "provider:physical_network")]
    pub physical_network: Option<String>,
    #[serde(rename = "provider:segmentation_id")]
    pub segmentation_id: Option<i64>,
    #[serde(default)]
    pub qos_policy_id: Option<String>,
}

impl Net {
    /// Whether it is a tunnel's. Others are on a physical network, where whoever else is there learns where a MAC is.
    pub fn is_overlay(&self) -> bool {
        self.network_type == "vxlan"
    }

    /// Whether a caller may know of it and attach to it.
    pub fn seen_by(&self, net: &Network, ctx: &Context) -> bool {
        net.sees_all(ctx) || self.project() == ctx.project_id() || self.shared || self.external
    }
}

/// The network, or `NetworkNotFound` when the caller may not know of it.
pub fn fetch_seen(net: &Network, tx: &Tx, ctx: &Context, id: &str) -> Result<Net> {
    row::find::<Net>(tx, id)?.filter(|n| n.seen_by(net, ctx)).ok_or_else(|| KIND.missing(id))
}

impl Resource for Net {
    const KIND: &'static Kind = &KIND;
    fn common(&self) -> &Common {
        &self.common
    }
    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn decorate(net: &Network, tx: &Tx, objects: &mut [Object]) -> Result<()> {
        let mut subnets = db::networks::subnet_ids(tx, &db::ids(objects))?;
        for object in objects {
            let id = object.get("id").and_then(Value::as_str).unwrap_or_default();
            let own = subnets.remove(id).unwrap_or_default();
            object.insert("availability_zones".into(), json!(net.zones()));
            object.insert("ipv4_address_scope".into(), Value::Null);
            object.insert("ipv6_address_scope".into(), Value::Null);
            object.insert("subnets".into(), json!(own));
        }
        Ok(())
    }

    fn visible(select: Select, project: &str) -> Select {
        select.any(|or| or.eq("project_id", project).eq("shared", true).eq("router_external", true))
    }

    fn create_in(net: &Network, tx: &Tx, ctx: &Context, project: &str, body: &Object) -> Result<Self> {
        let flag = |name: &str| body.get(name).and_then(Value::as_bool).unwrap_or_default();
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_string);
        zones_known(net, body)?;
        let segment = Segment::asked(net, body)?;
        let network_type = segment.network_type();
        let greatest = greatest(net, tx, network_type)?;
        let qos_policy_id = match text("qos_policy_id") {
            Some(id) => qos::checked(net, tx, ctx, Some(&id))?,
            None => qos::default_of(tx, project)?,
        };
        let mut item = Net {
            common: Common::new(project, body),
            status: "ACTIVE".into(),
            admin_state_up: flag("admin_state_up"),
            shared: flag("shared"),
            external: flag("router:external"),
            is_default: flag("is_default"),
            mtu: mtu(body, greatest)?.unwrap_or(greatest),
            port_security_enabled: flag("port_security_enabled"),
            dns_domain: text("dns_domain").unwrap_or_default(),
            availability_zone_hints: crate::attr_list(body, "availability_zone_hints"),
            network_type: network_type.into(),
            physical_network: None,
            segmentation_id: None,
            qos_policy_id,
        };
        check_default(tx, &item)?;
        row::insert(tx, &item)?;
        segment.take(net, tx, &mut item)?;
        Ok(item)
    }

    fn update_in(net: &Network, tx: &Tx, ctx: &Context, mut item: Self, change: &Object) -> Result<Self> {
        let old = item.clone();
        for (name, value) in change {
            let flag = value.as_bool().unwrap_or_default();
            let text = value.as_str().unwrap_or_default();
            match name.as_str() {
                "name" => item.common.name = text.into(),
                "description" => item.common.description = text.into(),
                "admin_state_up" => item.admin_state_up = flag,
                "shared" => item.shared = flag,
                "router:external" => item.external = flag,
                "is_default" => item.is_default = flag,
                "port_security_enabled" => item.port_security_enabled = flag,
                "dns_domain" => item.dns_domain = text.into(),
                "qos_policy_id" => item.qos_policy_id = qos::changed(net, tx, ctx, old.qos_policy_id.as_deref(), value.as_str())?,
                "mtu" => {
                    let greatest = greatest(net, tx, &item.network_type)?;
                    item.mtu = mtu(change, greatest)?.unwrap_or(greatest);
                }
                "provider:network_type" | "provider:physical_network" | "provider:segmentation_id"
                    if row::object(&old)?.get(name) != Some(value) =>
                {
                    return Err(fault::input(format!("{name} cannot be changed once the network is made")));
                }
                _ => {}
            }
        }
        if old.shared && !item.shared && db::networks::used_by_others(tx, item.id(), item.project())? {
            let message =
                format!("Unable to reconfigure sharing settings for network {}. Multiple projects are using it.", item.common.name);
            return Err(fault::in_use("InvalidSharedSetting", message));
        }
        if old.external && !item.external && db::ports::any_of_owner(tx, item.id(), &["network:router_gateway", "network:floatingip"])? {
            let message =
                format!("External network {} cannot be updated to be made non-external, since it has existing gateway ports.", item.id());
            return Err(fault::in_use("ExternalNetworkInUse", message));
        }
        if old.mtu != item.mtu {
            for subnet in crate::subnets::of_network(tx, item.id())? {
                mtu_fits(&item, subnet.ip_version)?;
            }
        }
        check_default(tx, &item)?;
        row::update(tx, &mut item)?;
        if (old.mtu, old.admin_state_up, old.external) != (item.mtu, item.admin_state_up, item.external) {
            hosts::touch_network(net, tx, item.id())?;
        }
        if old.qos_policy_id != item.qos_policy_id {
            hosts::touch_network(net, tx, item.id())?;
            net.network_demands_changed(tx, ctx, item.id())?;
        }
        Ok(item)
    }

    fn delete_in(net: &Network, tx: &Tx, ctx: &Context, item: Self) -> Result<()> {
        let id = item.id();
        // Floating addresses that lead nowhere go with their network.
        for floating in row::list::<FloatingIp>(tx, "floating_network_id = ?1 AND port_id IS NULL", params![id])? {
            net.recorded(tx, ctx, "floatingip.delete.end", &floating)?;
            FloatingIp::delete_in(net, tx, ctx, floating)?;
        }
        let ports: Vec<Port> = row::list(tx, "network_id = ?1", params![id])?;
        let blocking: Vec<&str> = ports.iter().filter(|p| !p.is_service()).map(|p| p.id()).collect();
        if !blocking.is_empty() {
            let message = format!(
                "Unable to complete operation on network {id}. There are one or more ports still in use on the network, id for these ports is: {}.",
                blocking.join(",")
            );
            return Err(fault::in_use("NetworkInUse", message));
        }
        hosts::touch_network(net, tx, id)?;
        for port in ports {
            crate::ports::remove(net, tx, ctx, port)?;
        }
        for subnet in row::list::<Subnet>(tx, "network_id = ?1", params![id])? {
            net.recorded(tx, ctx, "subnet.delete.end", &subnet)?;
            row::remove::<Subnet>(tx, subnet.id())?;
        }
        tx.execute("DELETE FROM network_segment WHERE network_id = ?1", params![id])?;
        row::remove::<Net>(tx, id)
    }
}

/// The greatest MTU that a network of this type may have.
fn greatest(net: &Network, tx: &Tx, network_type: &str) -> Result<i64> {
    if network_type == "vxlan" { encryption::greatest(net, tx) } else { Ok(net.mtu()) }
}

/// A wanted MTU; zero asks for the greatest.
fn mtu(body: &Object, greatest: i64) -> Result<Option<i64>> {
    match body.get("mtu").and_then(Value::as_i64) {
        None | Some(0) => Ok(None),
        Some(n) if n > greatest => Err(fault::input(format!("Requested MTU is too big, maximum is {greatest}"))),
        Some(n) => Ok(Some(n)),
    }
}

/// What a subnet of an IP version needs at least.
pub fn mtu_fits(item: &Net, version: u8) -> Result<()> {
    let least = if version == 6 { 1280 } else { 68 };
    if item.mtu >= least {
        return Ok(());
    }
    let message = format!("MTU of {} is not valid, subnet requires a minimum of {least}", item.id());
    Err(fault::in_use("NetworkMTUSubnetConflict", message))
}

/// There is at most one default external network.
fn check_default(tx: &Tx, item: &Net) -> Result<()> {
    if !item.is_default {
        return Ok(());
    }
    if !item.external {
        return Err(fault::input("Only external networks can be the default"));
    }
    match db::networks::default_id(tx)?.filter(|id| id != item.id()) {
        Some(id) => Err(fault::in_use("DefaultExternalNetworkExists", format!("A default external network already exists: {id}."))),
        None => Ok(()),
    }
}

pub fn zones_known(net: &Network, body: &Object) -> Result<()> {
    match crate::attr_list(body, "availability_zone_hints").iter().find(|zone| zone.as_str() != net.zone()) {
        Some(zone) => Err(fault::missing("AvailabilityZoneNotFound", format!("AvailabilityZone {zone} could not be found."))),
        None => Ok(()),
    }
}

//! Ports: rules.

mod body;
mod make;

use std::net::IpAddr;

use base::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Select, Tx, params};

use crate::allocation::{self, Asker};
use crate::attr::{Kind, Object};
use crate::networks::fetch_seen;
use crate::qos::{self, demand};
use crate::row::{self, Common, Resource};
use crate::subnets::{self, Subnet};
use crate::{Network, db, fault, floatingips, hosts, security_groups};

pub use body::{DhcpOption, Pair, fixed_ips, wishes};
pub use make::{Draft, addresses_renew, make, service_port_sync, subnet_forget};

/// Owner of the port a network has on every host for DHCP, DNS and metadata.
pub const DISTRIBUTED: &str = "network:distributed";
/// The domain of names that DHCP hands out.
pub const DOMAIN: &str = "openstacklocal";

pub static KIND: Kind = Kind {
    singular: "port",
    plural: "ports",
    table: "port",
    not_found: "PortNotFound",
    label: "Port",
    attributes: body::ATTRIBUTES,
    policy_only: &["network:project_id", "shared"],
    filters: &["fixed_ips"],
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedIp {
    pub subnet_id: String,
    pub ip_address: IpAddr,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    #[serde(flatten)]
    pub common: Common,
    pub network_id: String,
    pub admin_state_up: bool,
    pub status: String,
    pub mac_address: String,
    pub fixed_ips: Vec<FixedIp>,
    pub device_id: String,
    pub device_owner: String,
    pub security_groups: Vec<String>,
    pub allowed_address_pairs: Vec<Pair>,
    pub extra_dhcp_opts: Vec<DhcpOption>,
    pub port_security_enabled: bool,
    pub dns_name: String,
    #[serde(rename = "binding:vnic_type")]
    pub vnic_type: String,
    #[serde(rename = "binding:host_id")]
    pub host_name: String,
    #[serde(rename = "binding:profile")]
    pub profile: Object,
    #[serde(default)]
    pub qos_policy_id: Option<String>,
    #[serde(rename = "binding:vif_type")]
    pub vif_type: String,
    #[serde(rename = "binding:vif_details")]
    pub vif_details: Object,
    /// Id of the host it is bound to; empty: to none that is known.
    #[serde(rename = "_host")]
    pub host: String,
    /// The server it was made for, with which it goes.
    #[serde(rename = "_made_for", default)]
    pub made_for: String,
    #[serde(rename = "_tag", default)]
    pub tag: Option<String>,
    /// The name DHCP gives the guest, when the port names none.
    #[serde(rename = "_hostname", default)]
    pub hostname: String,
    /// Its place among the server's ports.
    #[serde(rename = "_place", default)]
    pub place: i64,
    /// The types of the rules whose promises somebody gives it.
    #[serde(rename = "_promised", default)]
    pub promised: Vec<String>,
}

impl Port {
    /// The network's own, which never keeps anything from being deleted.
    pub fn is_service(&self) -> bool {
        self.device_owner == DISTRIBUTED
    }
    /// Whether only the network service may end it.
    fn is_owned(&self) -> bool {
        matches!(self.device_owner.as_str(), "network:router_interface" | "network:router_gateway" | "network:floatingip" | DISTRIBUTED)
    }
    /// Whether compute itself made it for its device, or took it for that.
    fn is_given(&self) -> bool {
        self.made_for == self.device_id || !self.hostname.is_empty()
    }
    /// Names the host it is bound to; an unknown name cannot be bound to.
    pub fn bind(&mut self, name: &str, id: Option<&str>) {
        self.host_name = name.to_string();
        self.host = id.unwrap_or_default().to_string();
        let bound = !self.host.is_empty() && self.vnic_type == "normal";
        self.vif_type = if name.is_empty() {
            "unbound"
        } else if bound {
            "bridge"
        } else {
            "binding_failed"
        }
        .into();
        if name.is_empty() {
            demand::allocation_forget(self);
        }
        self.vif_details = Object::new();
        if bound {
            self.vif_details.insert("port_filter".into(), json!(true));
            self.vif_details.insert("connectivity".into(), json!("l2"));
        }
        self.status = if self.is_service() { "ACTIVE" } else { "DOWN" }.into();
    }
    pub fn hostname_of(&self, at: IpAddr) -> String {
        match (self.dns_name.as_str(), self.hostname.as_str()) {
            ("", "") => format!("host-{}", at.to_string().replace(['.', ':'], "-")),
            ("", name) | (name, _) => name.split('.').next().unwrap_or_default().to_string(),
        }
    }
    fn asker(&self) -> Asker<'_> {
        Asker { port_id: self.id(), network_id: &self.network_id, mac: &self.mac_address, device_owner: &self.device_owner }
    }
}

fn dns_assignment(object: &Object) -> Vec<Value> {
    let name = object.get("dns_name").and_then(Value::as_str).unwrap_or_default();
    let fixed = object.get("fixed_ips").and_then(Value::as_array).cloned().unwrap_or_default();
    fixed
        .iter()
        .filter_map(|f| f.get("ip_address").and_then(Value::as_str))
        .map(|at| {
            let host = match name {
                "" => format!("host-{}", at.replace(['.', ':'], "-")),
                name => name.trim_end_matches('.').to_string(),
            };
            json!({"ip_address": at, "hostname": host, "fqdn": format!("{host}.{DOMAIN}.")})
        })
        .collect()
}

impl Resource for Port {
    const KIND: &'static Kind = &KIND;
    fn common(&self) -> &Common {
        &self.common
    }
    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn decorate(_net: &Network, tx: &Tx, objects: &mut [Object]) -> Result<()> {
        let networks = db::grouped(tx, "network", "id", &db::column(objects, "network_id"))?;
        for object in objects.iter_mut() {
            let id = object.get("network_id").and_then(Value::as_str).unwrap_or_default();
            if let Some(network) = networks.get(id).and_then(|l| l.first()) {
                object.insert("network:project_id".into(), network.get("project_id").cloned().unwrap_or_default());
                object.insert("shared".into(), network.get("shared").cloned().unwrap_or_default());
            }
            object.insert("dns_assignment".into(), json!(dns_assignment(object)));
        }
        demand::decorate(tx, objects, &networks)
    }

    fn visible(select: Select, project: &str) -> Select {
        let networks = "network_id IN (SELECT id FROM network WHERE project_id = ?)";
        select.any(|or| or.eq("project_id", project).cond(networks, [project.into()]))
    }

    fn narrow(mut select: Select, _name: &str, values: &[String]) -> Result<Select> {
        let of = |key: &str| -> Vec<&str> { values.iter().filter_map(|v| v.strip_prefix(key)?.strip_prefix('=')).collect() };
        let marks = |n: usize| vec!["?"; n].join(", ");
        let (subnets, addresses, parts) = (of("subnet_id"), of("ip_address"), of("ip_address_substr"));
        if subnets.is_empty() && addresses.is_empty() && parts.is_empty() {
            return Err(fault::input("fixed_ips must be filtered by ip_address, ip_address_substr or subnet_id"));
        }
        if !subnets.is_empty() {
            let condition = format!("id IN (SELECT port_id FROM ip_allocation WHERE subnet_id IN ({}))", marks(subnets.len()));
            select = select.cond(&condition, subnets.iter().map(|s| (*s).into()));
        }
        if !addresses.is_empty() {
            let condition = format!("id IN (SELECT port_id FROM ip_allocation WHERE address IN ({}))", marks(addresses.len()));
            let usual = |text: &&str| text.parse::<IpAddr>().map_or_else(|_| text.to_string(), |at| at.to_string());
            select = select.cond(&condition, addresses.iter().map(|a| usual(a).into()));
        }
        for part in parts {
            let pattern = format!("%{}%", store::escape_like(part));
            select = select.cond("id IN (SELECT port_id FROM ip_allocation WHERE address LIKE ? ESCAPE '\\')", [pattern.into()]);
        }
        Ok(select)
    }

    fn parent(net: &Network, tx: &Tx, ctx: &Context, body: &Object) -> Result<()> {
        fetch_seen(net, tx, ctx, body.get("network_id").and_then(Value::as_str).unwrap_or_default()).map(|_| ())
    }

    fn create_in(net: &Network, tx: &Tx, ctx: &Context, project: &str, body: &Object) -> Result<Self> {
        let network = fetch_seen(net, tx, ctx, body.get("network_id").and_then(Value::as_str).unwrap_or_default())?;
        let draft = Draft::read(project, body)?;
        device_fits(net, tx, ctx, &draft.device_owner, &draft.device_id)?;
        make(net, tx, ctx, &network, draft)
    }

    fn update_in(net: &Network, tx: &Tx, ctx: &Context, mut item: Self, change: &Object) -> Result<Self> {
        let old = item.clone();
        let mut wishes = None;
        let mut pairs = None;
        let mut groups = None;
        let mut host = None;
        for (name, value) in change {
            let text = value.as_str().unwrap_or_default();
            let flag = value.as_bool().unwrap_or_default();
            match name.as_str() {
                "name" => item.common.name = text.into(),
                "description" => item.common.description = text.into(),
                "admin_state_up" => item.admin_state_up = flag,
                "device_id" => item.device_id = text.into(),
                "device_owner" => item.device_owner = text.into(),
                "mac_address" => item.mac_address = text.into(),
                "dns_name" => item.dns_name = text.into(),
                "port_security_enabled" => item.port_security_enabled = flag,
                "binding:vnic_type" => item.vnic_type = text.into(),
                "binding:profile" => {
                    item.profile = value.as_object().cloned().unwrap_or_default();
                    demand::allocation_keep(&old, &mut item);
                }
                "qos_policy_id" => item.qos_policy_id = qos::changed(net, tx, ctx, old.qos_policy_id.as_deref(), value.as_str())?,
                "binding:host_id" => host = Some(text.to_string()),
                "fixed_ips" => wishes = Some(body::wishes(value)),
                "allowed_address_pairs" => pairs = Some(value),
                "security_groups" => groups = Some(crate::attr_list(change, name)),
                "extra_dhcp_opts" => body::merge_options(&mut item.extra_dhcp_opts, value),
                _ => {}
            }
        }
        if (&old.device_owner, &old.device_id) != (&item.device_owner, &item.device_id) {
            if old.is_owned() && !ctx.is_admin() {
                let message = format!("Port {} cannot be given to another device: it has device owner {}.", old.id(), old.device_owner);
                return Err(fault::in_use("ServicePortInUse", message));
            }
            device_fits(net, tx, ctx, &item.device_owner, &item.device_id)?;
        }
        if old.device_id != item.device_id {
            // What the device had given it goes with it.
            item.hostname.clear();
            item.tag = None;
            demand::allocation_forget(&mut item);
        }
        if old.mac_address != item.mac_address {
            if old.vif_type == "bridge" && !old.device_owner.is_empty() {
                let message = format!(
                    "Unable to complete operation on port {}, port is already bound, port type: {}, old_mac {}, new_mac {}.",
                    old.id(),
                    old.vif_type,
                    old.mac_address,
                    item.mac_address
                );
                return Err(fault::in_use("PortBound", message));
            }
            if db::ports::mac_taken(tx, &item.network_id, &item.mac_address)? {
                return Err(make::mac_in_use(&item.network_id, &item.mac_address));
            }
        }
        if let Some(value) = pairs {
            item.allowed_address_pairs = body::pairs(value, &item.mac_address);
        } else if old.mac_address != item.mac_address {
            // Pairs that named no address follow the port's own.
            for pair in item.allowed_address_pairs.iter_mut().filter(|p| p.mac_address == old.mac_address) {
                pair.mac_address = item.mac_address.clone();
            }
        }
        if let Some(groups) = groups {
            item.security_groups = security_groups::check_ids(net, tx, ctx, &item.common.project_id, &groups)?;
        }
        make::security_fits(&item, change.contains_key("security_groups"))?;
        let subnets = subnets::of_network(tx, &item.network_id)?;
        if let Some(wishes) = wishes {
            item.fixed_ips = allocation::settle(tx, &item.asker(), &subnets, Some(&wishes), &old.fixed_ips)?;
        } else if old.mac_address != item.mac_address && subnets.iter().any(Subnet::is_auto) {
            let wishes = make::kept(&old.fixed_ips, &subnets);
            item.fixed_ips = allocation::settle(tx, &item.asker(), &subnets, Some(&wishes), &old.fixed_ips)?;
        }
        if let Some(name) = host.filter(|name| *name != old.host_name) {
            let id = db::ports::host_named(tx, &name)?;
            hosts::touch_host(net, tx, &old.host)?;
            item.bind(&name, id.as_deref());
        } else if old.vnic_type != item.vnic_type {
            let (name, id) = (item.host_name.clone(), item.host.clone());
            item.bind(&name, Some(id.as_str()).filter(|id| !id.is_empty()));
        }
        if old.admin_state_up && !item.admin_state_up {
            item.status = "DOWN".into();
        }
        for gone in old.fixed_ips.iter().filter(|f| !item.fixed_ips.contains(f)) {
            floatingips::fixed_gone(net, tx, ctx, item.id(), Some(gone.ip_address))?;
        }
        row::update(tx, &mut item)?;
        if old.security_groups != item.security_groups {
            db::security_groups::bind(tx, &item)?;
        }
        touch(net, tx, &old)?;
        if old.security_groups != item.security_groups || old.fixed_ips != item.fixed_ips {
            touch(net, tx, &item)?;
            net.device_changed(tx, &item.device_id)?;
        }
        let asks = |port: &Port| (port.device_id.clone(), port.device_owner.clone(), port.vnic_type.clone(), port.qos_policy_id.clone());
        if asks(&old) != asks(&item) && demand::has_allocation(&old) {
            net.demand_changed(tx, ctx, &old.device_id)?;
            // Who gives it what it asks for now is written down on it.
            item = row::fetch(tx, item.id())?;
        }
        Ok(item)
    }

    fn delete_in(net: &Network, tx: &Tx, ctx: &Context, item: Self) -> Result<()> {
        if item.is_owned() && !item.device_id.is_empty() {
            let message =
                format!("Port {} cannot be deleted directly via the port API: has device owner {}.", item.id(), item.device_owner);
            return Err(fault::in_use("ServicePortInUse", message));
        }
        let device = demand::has_allocation(&item).then(|| item.device_id.clone());
        remove(net, tx, ctx, item)?;
        device.map_or(Ok(()), |device| net.demand_changed(tx, ctx, &device))
    }

    fn repeat(&self, tx: &Tx) -> Result<()> {
        db::security_groups::host_set(tx, self.id(), &self.host)
    }
}

/// A port given to a router must be given to one of the caller's, and none to a server of another project.
fn device_fits(net: &Network, tx: &Tx, ctx: &Context, owner: &str, device: &str) -> Result<()> {
    if device.is_empty() || net.sees_all(ctx) {
        return Ok(());
    }
    let own = match owner {
        "network:router_interface" => {
            row::find::<crate::routers::Router>(tx, device)?.is_some_and(|router| router.project() == ctx.project_id())
        }
        _ => net.device_project(tx, device)?.is_none_or(|project| project == ctx.project_id()),
    };
    if own {
        return Ok(());
    }
    let message = format!("The following device_id {device} is not owned by your tenant or matches another tenants router.");
    Err(fault::in_use("DeviceIDNotOwnedByTenant", message))
}

/// The ports of a server.
pub fn of_server(net: &Network, tx: &Tx, server_id: &str) -> Result<Vec<Port>> {
    theirs(net, tx, db::ports::of_device(tx, server_id)?)
}

/// Those of some ports that are their devices': given to them by compute, or by their own project. Anybody can write the id of another's
/// server on a port of theirs, which is not that server's for it.
pub fn theirs(net: &Network, tx: &Tx, ports: Vec<Port>) -> Result<Vec<Port>> {
    let mut own = Vec::new();
    for port in ports {
        if port.is_given() || net.device_project(tx, &port.device_id)?.is_none_or(|project| project == port.project()) {
            own.push(port);
        }
    }
    Ok(own)
}

/// Tells the hosts that care about a port.
pub fn touch(net: &Network, tx: &Tx, port: &Port) -> Result<()> {
    hosts::touch_network(net, tx, &port.network_id)?;
    hosts::touch_groups(net, tx, &port.security_groups)
}

/// Ends a port and what depends on it.
pub fn remove(net: &Network, tx: &Tx, ctx: &Context, port: Port) -> Result<()> {
    touch(net, tx, &port)?;
    floatingips::fixed_gone(net, tx, ctx, port.id(), None)?;
    allocation::release(tx, port.id())?;
    tx.execute("DELETE FROM port_security_group WHERE port_id = ?1", params![port.id()])?;
    row::remove::<Port>(tx, port.id())?;
    net.recorded(tx, ctx, "port.delete.end", &port)
}

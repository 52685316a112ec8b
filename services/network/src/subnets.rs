//! Subnets: rules.

use std::net::IpAddr;

use base::{Context, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Select, Tx, params};

use crate::attr::{Absent, Attribute, Check, Kind, Object, attr, show};
use crate::ip::{self, Pool};
use crate::networks::{Net, fetch_seen};
use crate::row::{self, Common, Resource};
use crate::{Network, allocation, db, fault, hosts, ports};

const MODES: &[&str] = &["slaac", "dhcpv6-stateful", "dhcpv6-stateless"];
const MAX_NAMESERVERS: usize = 5;
const MAX_ROUTES: usize = 20;

static ATTRIBUTES: &[Attribute] = &[
    attr("network_id", Check::Uuid).post(Absent::Required).column(),
    attr("ip_version", Check::Custom(ip_version)).post(Absent::Required).column(),
    attr("cidr", Check::Cidr).post(Absent::Unset).column(),
    attr("gateway_ip", Check::AddressOrNull).post(Absent::Unset).put().column(),
    attr("allocation_pools", Check::Custom(pools)).post(Absent::Unset).put(),
    attr("dns_nameservers", Check::Custom(nameservers)).post(Absent::List).put(),
    attr("host_routes", Check::Custom(routes)).post(Absent::List).put(),
    attr("enable_dhcp", Check::Flag).post(Absent::Flag(true)).put().column(),
    attr("ipv6_ra_mode", Check::OneOfOrNull(MODES)).post(Absent::Unset).column(),
    attr("ipv6_address_mode", Check::OneOfOrNull(MODES)).post(Absent::Unset).column(),
    attr("subnetpool_id", Check::UuidOrNull).post(Absent::Unset).column(),
    attr("prefixlen", Check::IntOrNull(0, 128)).post(Absent::Unset),
    attr("service_types", Check::Texts(255)).post(Absent::List).put(),
    attr("router:external", Check::Flag),
];

pub static KIND: Kind = Kind {
    singular: "subnet",
    plural: "subnets",
    table: "subnet",
    not_found: "SubnetNotFound",
    label: "Subnet",
    attributes: ATTRIBUTES,
    policy_only: &["network:project_id", "shared"],
    filters: &["shared", "router:external"],
};

fn ip_version(value: &Value) -> Result<Value, String> {
    match crate::attr::int(value, 0, i64::MAX)? {
        n @ (4 | 6) => Ok(json!(n)),
        n => Err(format!("'{n}' is not in [4, 6]")),
    }
}

/// An object with exactly these keys.
fn exact<'a>(value: &'a Value, keys: &[&str]) -> Result<Vec<&'a Value>, String> {
    let object = value.as_object().ok_or_else(|| format!("'{}' is not a dictionary", show(value)))?;
    if object.len() != keys.len() || !keys.iter().all(|key| object.contains_key(*key)) {
        return Err(format!("Invalid data format: '{}' must have the keys {}", show(value), keys.join(", ")));
    }
    Ok(keys.iter().map(|key| &object[*key]).collect())
}

fn list<'a>(value: &'a Value, what: &str) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("Invalid data format for {what}: '{}'", show(value)))
}

fn pools(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let pools = list(value, "IP pool")?.iter().map(|item| {
        let ends = exact(item, &["start", "end"])?;
        Ok(Pool { start: crate::attr::address(ends[0])?, end: crate::attr::address(ends[1])? })
    });
    Ok(json!(pools.collect::<Result<Vec<_>, String>>()?))
}

fn nameservers(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(json!([]));
    }
    let servers = list(value, "nameserver")?.iter().map(crate::attr::address).collect::<Result<Vec<_>, _>>()?;
    if let Some(twice) = servers.iter().enumerate().find_map(|(i, s)| servers[..i].contains(s).then_some(s)) {
        return Err(format!("Duplicate nameserver '{twice}'"));
    }
    Ok(json!(servers))
}

/// `[{destination, nexthop}]`, as subnets and routers have them.
pub fn routes(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(json!([]));
    }
    let mut seen: Vec<Route> = Vec::new();
    for item in list(value, "hostroute")? {
        let ends = exact(item, &["destination", "nexthop"])?;
        let route = Route { destination: crate::attr::cidr(ends[0])?, nexthop: crate::attr::address(ends[1])? };
        if seen.contains(&route) {
            return Err(format!("Duplicate hostroute '{}'", show(item)));
        }
        if !ip::same_family(&route.destination, route.nexthop) {
            return Err(format!("destination and nexthop of '{}' are of different IP versions", show(item)));
        }
        seen.push(route);
    }
    Ok(json!(seen))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpNet,
    pub nexthop: IpAddr,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subnet {
    #[serde(flatten)]
    pub common: Common,
    pub network_id: String,
    pub ip_version: u8,
    pub cidr: IpNet,
    pub gateway_ip: Option<IpAddr>,
    pub allocation_pools: Vec<Pool>,
    pub dns_nameservers: Vec<IpAddr>,
    pub host_routes: Vec<Route>,
    pub enable_dhcp: bool,
    pub ipv6_ra_mode: Option<String>,
    pub ipv6_address_mode: Option<String>,
    pub subnetpool_id: Option<String>,
    pub service_types: Vec<String>,
}

impl Subnet {
    /// Whether stations make their own addresses.
    pub fn is_auto(&self) -> bool {
        [&self.ipv6_ra_mode, &self.ipv6_address_mode].iter().any(|mode| matches!(mode.as_deref(), Some("slaac" | "dhcpv6-stateless")))
    }
    /// Who sends router advertisements and how addresses are made, in one word.
    pub fn mode(&self) -> Option<&str> {
        self.ipv6_ra_mode.as_deref().or(self.ipv6_address_mode.as_deref())
    }
}

/// Subnets of a network, oldest first.
pub fn of_network(tx: &Tx, network_id: &str) -> Result<Vec<Subnet>> {
    row::list(tx, "network_id = ?1", params![network_id])
}

impl Resource for Subnet {
    const KIND: &'static Kind = &KIND;
    fn common(&self) -> &Common {
        &self.common
    }
    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn decorate(_net: &Network, tx: &Tx, objects: &mut [Object]) -> Result<()> {
        let networks = db::grouped(tx, "network", "id", &db::column(objects, "network_id"))?;
        for object in objects {
            let id = object.get("network_id").and_then(Value::as_str).unwrap_or_default();
            let Some(network) = networks.get(id).and_then(|l| l.first()) else { continue };
            for (from, to) in [("project_id", "network:project_id"), ("shared", "shared"), ("router:external", "router:external")] {
                object.insert(to.into(), network.get(from).cloned().unwrap_or_default());
            }
        }
        Ok(())
    }

    fn visible(select: Select, project: &str) -> Select {
        let networks = "network_id IN (SELECT id FROM network WHERE project_id = ? OR shared = 1 OR router_external = 1)";
        select.any(|or| or.eq("project_id", project).cond(networks, [project.into()]))
    }

    fn narrow(select: Select, name: &str, values: &[String]) -> Result<Select> {
        let wanted = values.iter().any(|v| crate::attr::flag(&json!(v)) == Some(true));
        let column = if name == "shared" { "shared" } else { "router_external" };
        Ok(select.cond(&format!("network_id IN (SELECT id FROM network WHERE {column} = ?)"), [wanted.into()]))
    }

    fn parent(net: &Network, tx: &Tx, ctx: &Context, body: &Object) -> Result<()> {
        fetch_seen(net, tx, ctx, body.get("network_id").and_then(Value::as_str).unwrap_or_default()).map(|_| ())
    }

    fn create_in(net: &Network, tx: &Tx, ctx: &Context, project: &str, body: &Object) -> Result<Self> {
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_string);
        let network: Net = fetch_seen(net, tx, ctx, &text("network_id").unwrap_or_default())?;
        if let Some(pool) = text("subnetpool_id") {
            return Err(fault::missing("SubnetPoolNotFound", format!("Subnet pool {pool} could not be found.")));
        }
        let Some(cidr) = text("cidr").and_then(|c| c.parse::<IpNet>().ok()) else {
            return Err(fault::refused("subnets", "a subnetpool must be specified in the absence of a cidr"));
        };
        if body.get("prefixlen").is_some_and(|v| !v.is_null()) {
            return Err(fault::refused("subnets", "cidr and prefixlen must not be supplied together"));
        }
        let version = if matches!(cidr, IpNet::V4(_)) { 4 } else { 6 };
        if body.get("ip_version").and_then(Value::as_u64) != Some(version) {
            return Err(fault::input(format!(
                "Invalid CIDR {cidr} for IP version {}",
                body.get("ip_version").map(show).unwrap_or_default()
            )));
        }
        if matches!(cidr, IpNet::V4(v4) if v4.network().is_loopback() || v4.network().is_multicast()) {
            return Err(fault::input(format!("'{cidr}' is a loopback or multicast network and cannot be a subnet")));
        }
        crate::networks::mtu_fits(&network, if version == 4 { 4 } else { 6 })?;
        let others = of_network(tx, network.id())?;
        if let Some(other) = others.iter().find(|other| ip::overlap(&other.cidr, &cidr)) {
            let message = format!(
                // Clients look for the words "overlaps with another subnet".
                "Requested subnet with cidr: {cidr} for network: {} overlaps with another subnet: {} ({})",
                network.id(),
                other.id(),
                other.cidr
            );
            return Err(fault::input(message));
        }
        let gateway_ip = match body.get("gateway_ip") {
            None => Some(ip::default_gateway(&cidr)),
            Some(Value::Null) => None,
            Some(value) => Some(crate::attr::address(value).map_err(|reason| fault::attribute("gateway_ip", reason))?),
        };
        let mut item = Subnet {
            common: Common::new(project, body),
            network_id: network.id().into(),
            ip_version: if version == 4 { 4 } else { 6 },
            cidr,
            gateway_ip,
            allocation_pools: Vec::new(),
            dns_nameservers: Vec::new(),
            host_routes: Vec::new(),
            enable_dhcp: body.get("enable_dhcp").and_then(Value::as_bool).unwrap_or(true),
            ipv6_ra_mode: text("ipv6_ra_mode"),
            ipv6_address_mode: text("ipv6_address_mode"),
            subnetpool_id: None,
            service_types: crate::attr_list(body, "service_types"),
        };
        modes_fit(&item)?;
        item.take_lists(body)?;
        item.gateway_fits()?;
        item.allocation_pools = match body.get("allocation_pools").filter(|v| !v.is_null()) {
            Some(value) => ip::check_pools(&cidr, &crate::parsed::<Vec<Pool>>(value)?, item.gateway_ip)?,
            None => ip::default_pools(&cidr, item.gateway_ip),
        };
        row::insert(tx, &item)?;
        if item.is_auto() {
            ports::addresses_renew(net, tx, ctx, network.id())?;
        }
        ports::service_port_sync(net, tx, ctx, &network)?;
        hosts::touch_network(net, tx, network.id())?;
        Ok(item)
    }

    fn update_in(net: &Network, tx: &Tx, ctx: &Context, mut item: Self, change: &Object) -> Result<Self> {
        let old = item.clone();
        for (name, value) in change {
            match name.as_str() {
                "name" => item.common.name = show(value),
                "description" => item.common.description = show(value),
                "enable_dhcp" => item.enable_dhcp = value.as_bool().unwrap_or_default(),
                "service_types" => item.service_types = crate::attr_list(change, name),
                "gateway_ip" => {
                    item.gateway_ip = match value {
                        Value::Null => None,
                        value => Some(crate::attr::address(value).map_err(|reason| fault::attribute("gateway_ip", reason))?),
                    }
                }
                _ => {}
            }
        }
        item.take_lists(change)?;
        if !item.enable_dhcp && item.ip_version == 6 && (item.ipv6_ra_mode.is_some() || item.ipv6_address_mode.is_some()) {
            modes_fit(&item)?;
        }
        if old.gateway_ip != item.gateway_ip {
            item.gateway_fits()?;
            if let Some((gateway, port)) = match old.gateway_ip {
                Some(gateway) => allocation::holder(tx, item.id(), gateway)?.map(|port| (gateway, port)),
                None => None,
            } && db::ports::owner(tx, &port)?.is_some_and(|o| o == "network:router_interface")
            {
                let message = format!("Current gateway ip {gateway} already in use by port {port}. Unable to update.");
                return Err(fault::in_use("GatewayIpInUse", message));
            }
        }
        if let Some(value) = change.get("allocation_pools").filter(|v| !v.is_null()) {
            item.allocation_pools = ip::check_pools(&item.cidr, &crate::parsed::<Vec<Pool>>(value)?, item.gateway_ip)?;
        } else if old.gateway_ip != item.gateway_ip {
            ip::check_pools(&item.cidr, &item.allocation_pools, item.gateway_ip)?;
        }
        row::update(tx, &mut item)?;
        if old.enable_dhcp != item.enable_dhcp {
            let network = row::fetch::<Net>(tx, &item.network_id)?;
            ports::service_port_sync(net, tx, ctx, &network)?;
        }
        hosts::touch_network(net, tx, &item.network_id)?;
        Ok(item)
    }

    fn delete_in(net: &Network, tx: &Tx, ctx: &Context, item: Self) -> Result<()> {
        let in_use = |reason: &str| {
            let message = format!("Unable to complete operation on subnet {}: {reason}.", item.id());
            Err(fault::in_use("SubnetInUse", message))
        };
        for port in db::ports::with_subnet(tx, item.id())? {
            if port.is_service() || (item.is_auto() && !allocation::is_router_port(&port.device_owner)) {
                continue;
            }
            return in_use(&format!("One or more ports have an IP allocation from this subnet: {}", port.id()));
        }
        hosts::touch_network(net, tx, &item.network_id)?;
        ports::subnet_forget(net, tx, &item)?;
        row::remove::<Subnet>(tx, item.id())?;
        let network = row::fetch::<Net>(tx, &item.network_id)?;
        ports::service_port_sync(net, tx, ctx, &network)
    }
}

impl Subnet {
    /// Name servers and routes out of a checked body.
    fn take_lists(&mut self, body: &Object) -> Result<()> {
        if let Some(value) = body.get("dns_nameservers") {
            self.dns_nameservers = crate::parsed(value)?;
            if self.dns_nameservers.len() > MAX_NAMESERVERS {
                let message = format!(
                    "Unable to complete operation for {}. The number of DNS nameservers exceeds the limit {MAX_NAMESERVERS}.",
                    self.id()
                );
                return Err(fault::bad("DNSNameServersExhausted", message));
            }
            if let Some(wrong) = self.dns_nameservers.iter().find(|at| !ip::same_family(&self.cidr, **at)) {
                return Err(fault::input(format!("dns_nameserver '{wrong}' does not match the ip_version '{}'", self.ip_version)));
            }
        }
        if let Some(value) = body.get("host_routes") {
            self.host_routes = crate::parsed(value)?;
            if self.host_routes.len() > MAX_ROUTES {
                let message =
                    format!("Unable to complete operation for {}. The number of host routes exceeds the limit {MAX_ROUTES}.", self.id());
                return Err(fault::bad("HostRoutesExhausted", message));
            }
            if let Some(wrong) = self.host_routes.iter().find(|route| !ip::same_family(&self.cidr, route.nexthop)) {
                return Err(fault::input(format!(
                    "host route '{}' does not match the ip_version '{}'",
                    wrong.destination, self.ip_version
                )));
            }
        }
        Ok(())
    }

    fn gateway_fits(&self) -> Result<()> {
        let Some(gateway) = self.gateway_ip else { return Ok(()) };
        if !ip::same_family(&self.cidr, gateway) {
            return Err(fault::input(format!("gateway_ip '{gateway}' does not match the ip_version '{}'", self.ip_version)));
        }
        // Link-local gateways of IPv6 and those outside the subnet are fine; the subnet's own first and last are not.
        let own_edge = self.cidr.contains(&gateway) && !ip::is_usable(&self.cidr, gateway);
        if own_edge || gateway.is_unspecified() || gateway.is_multicast() {
            return Err(fault::input("Gateway is not valid on subnet"));
        }
        Ok(())
    }
}

fn modes_fit(item: &Subnet) -> Result<()> {
    let given = [("ipv6_ra_mode", &item.ipv6_ra_mode), ("ipv6_address_mode", &item.ipv6_address_mode)];
    let Some((name, _)) = given.iter().find(|(_, mode)| mode.is_some()) else { return Ok(()) };
    if item.ip_version == 4 {
        return Err(fault::input(format!("{name} is not valid when ip_version is 4")));
    }
    if !item.enable_dhcp {
        return Err(fault::input("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False"));
    }
    if let (Some(ra), Some(address)) = (&item.ipv6_ra_mode, &item.ipv6_address_mode)
        && ra != address
    {
        return Err(fault::input(format!(
            "ipv6_ra_mode set to '{ra}' with ipv6_address_mode set to '{address}' is not valid. If both attributes are set, they must be the same value"
        )));
    }
    if item.is_auto() && item.cidr.prefix_len() != 64 {
        return Err(fault::input(format!(
            "Invalid CIDR {} for IPv6 address mode. OpenStack uses the EUI-64 address format, which requires the prefix to be /64",
            item.cidr
        )));
    }
    Ok(())
}

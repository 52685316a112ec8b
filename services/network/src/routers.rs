//! Routers: rules. What joins them to subnets is in [`crate::interfaces`].

use std::net::IpAddr;

use base::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Tx, params};

use crate::allocation::{self, Asker};
use crate::attr::{self, Absent, Attribute, Check, Kind, Object, attr, show};
use crate::networks::{Net, fetch_seen, zones_known};
use crate::ports::{self, Draft, FixedIp, Port};
use crate::row::{self, Common, Resource};
use crate::subnets::{self, Route, Subnet};
use crate::{Network, db, fault, floatingips, hosts, ip};

pub const INTERFACE: &str = "network:router_interface";
pub const GATEWAY: &str = "network:router_gateway";
const MAX_ROUTES: usize = 30;

static ATTRIBUTES: &[Attribute] = &[
    attr("status", Check::Text(16)).column(),
    attr("admin_state_up", Check::Flag).post(Absent::Flag(true)).put().column(),
    attr("external_gateway_info", Check::Custom(gateway_info)).post(Absent::Null).put(),
    attr("routes", Check::Custom(subnets::routes)).put(),
    attr("distributed", Check::Custom(never)).post(Absent::Unset).put(),
    attr("ha", Check::Custom(never)).post(Absent::Unset).put(),
    attr("availability_zone_hints", Check::Texts(255)).post(Absent::List),
    attr("availability_zones", Check::Any),
    attr("_gateway_host", Check::Text(64)).column(),
];

pub static KIND: Kind = Kind {
    singular: "router",
    plural: "routers",
    table: "router",
    not_found: "RouterNotFound",
    label: "Router",
    attributes: ATTRIBUTES,
    policy_only: &[],
    filters: &[],
};

fn never(value: &Value) -> Result<Value, String> {
    match attr::flag(value) {
        Some(false) => Ok(json!(false)),
        Some(true) => Err("this cloud's routers are neither distributed nor highly available".into()),
        None => Err(format!("'{}' cannot be converted to boolean", show(value))),
    }
}

fn gateway_info(value: &Value) -> Result<Value, String> {
    let object = match value {
        Value::Null => return Ok(Value::Null),
        Value::Object(map) if map.is_empty() => return Ok(Value::Null),
        Value::Object(map) => map,
        other => return Err(format!("'{}' is not a dictionary", show(other))),
    };
    let mut out = Object::new();
    for (name, value) in object {
        let value = match name.as_str() {
            "network_id" => json!(attr::uuid(value)?),
            "enable_snat" => json!(attr::flag(value).ok_or_else(|| format!("'{}' cannot be converted to boolean", show(value)))?),
            "external_fixed_ips" => ports_fixed(value)?,
            "qos_policy_id" if value.is_null() => continue,
            other => return Err(format!("'{other}' is not a key of external_gateway_info")),
        };
        out.insert(name.clone(), value);
    }
    if !out.contains_key("network_id") {
        return Err("Validation of dictionary's keys failed: network_id is required".into());
    }
    Ok(Value::Object(out))
}

fn ports_fixed(value: &Value) -> Result<Value, String> {
    ports::fixed_ips(value)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gateway {
    pub network_id: String,
    pub enable_snat: bool,
    pub external_fixed_ips: Vec<FixedIp>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Router {
    #[serde(flatten)]
    pub common: Common,
    pub status: String,
    pub admin_state_up: bool,
    pub external_gateway_info: Option<Gateway>,
    pub routes: Vec<Route>,
    pub distributed: bool,
    pub ha: bool,
    pub availability_zone_hints: Vec<String>,
    /// The host that carries its gateway and its interfaces where no guest is near; empty while there is none.
    #[serde(rename = "_gateway_host")]
    pub gateway_host: String,
    #[serde(rename = "_gateway_port")]
    pub gateway_port: Option<String>,
}

impl Resource for Router {
    const KIND: &'static Kind = &KIND;
    fn common(&self) -> &Common {
        &self.common
    }
    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn decorate(net: &Network, _tx: &Tx, objects: &mut [Object]) -> Result<()> {
        for object in objects {
            object.insert("availability_zones".into(), json!(net.zones()));
        }
        Ok(())
    }

    fn create_in(net: &Network, tx: &Tx, ctx: &Context, project: &str, body: &Object) -> Result<Self> {
        zones_known(net, body)?;
        let host = hosts::for_router(tx)?;
        let mut item = Router {
            common: Common::new(project, body),
            status: "ACTIVE".into(),
            admin_state_up: body.get("admin_state_up").and_then(Value::as_bool).unwrap_or(true),
            external_gateway_info: None,
            routes: Vec::new(),
            distributed: false,
            ha: false,
            availability_zone_hints: crate::attr_list(body, "availability_zone_hints"),
            gateway_host: host.unwrap_or_default(),
            gateway_port: None,
        };
        row::insert(tx, &item)?;
        if let Some(wanted) = body.get("external_gateway_info").and_then(Value::as_object) {
            item.gateway_set(net, tx, ctx, wanted)?;
            let doc = Value::Object(row::object(&item)?);
            tx.execute("UPDATE router SET doc = ?2 WHERE id = ?1", params![item.id(), doc])?;
        }
        Ok(item)
    }

    fn update_in(net: &Network, tx: &Tx, ctx: &Context, mut item: Self, change: &Object) -> Result<Self> {
        for (name, value) in change {
            let text = value.as_str().unwrap_or_default();
            match name.as_str() {
                "name" => item.common.name = text.into(),
                "description" => item.common.description = text.into(),
                "admin_state_up" => item.admin_state_up = value.as_bool().unwrap_or_default(),
                "external_gateway_info" => match value.as_object() {
                    Some(wanted) => item.gateway_set(net, tx, ctx, wanted)?,
                    None => item.gateway_clear(net, tx, ctx)?,
                },
                _ => {}
            }
        }
        if let Some(value) = change.get("routes") {
            item.routes_set(tx, crate::parsed(value)?)?;
        }
        row::update(tx, &mut item)?;
        hosts::touch_router(net, tx, item.id())?;
        Ok(item)
    }

    fn delete_in(net: &Network, tx: &Tx, ctx: &Context, mut item: Self) -> Result<()> {
        if db::ports::of_device(tx, item.id())?.iter().any(|p| p.device_owner == INTERFACE) {
            return Err(fault::in_use("RouterInUse", format!("Router {} still has ports", item.id())));
        }
        item.gateway_clear(net, tx, ctx)?;
        row::remove::<Router>(tx, item.id())
    }
}

impl Router {
    /// Joins the router to an external network, or changes how it is.
    fn gateway_set(&mut self, net: &Network, tx: &Tx, ctx: &Context, wanted: &Object) -> Result<()> {
        let network_id = wanted.get("network_id").and_then(Value::as_str).unwrap_or_default();
        let network: Net = fetch_seen(net, tx, ctx, network_id)?;
        if !network.external {
            return Err(fault::refused("router", format!("Network {network_id} is not an external network")));
        }
        let fixed = wanted.get("external_fixed_ips").map(ports::wishes);
        let snat = wanted.get("enable_snat").and_then(Value::as_bool);
        if let (Some(have), Some(port_id)) = (self.external_gateway_info.clone(), self.gateway_port.clone())
            && have.network_id == network_id
        {
            let mut have = have;
            if let Some(fixed) = fixed {
                let mut port = row::fetch::<Port>(tx, &port_id)?;
                let subnets = subnets::of_network(tx, network_id)?;
                let asker = Asker { port_id: &port_id, network_id, mac: &port.mac_address, device_owner: GATEWAY };
                let settled = allocation::settle(tx, &asker, &subnets, Some(&fixed), &port.fixed_ips)?;
                port.fixed_ips = settled.clone();
                row::update(tx, &mut port)?;
                have.external_fixed_ips = settled;
            }
            have.enable_snat = snat.unwrap_or(true);
            self.external_gateway_info = Some(have);
            return Ok(());
        }
        self.gateway_clear(net, tx, ctx)?;
        let inside = self.inside_subnets(tx)?;
        for outer in subnets::of_network(tx, network_id)? {
            if let Some(inner) = inside.iter().find(|inner| ip::overlap(&inner.cidr, &outer.cidr)) {
                return Err(overlaps(&outer, inner));
            }
        }
        let host_name = hosts::name_of(tx, &self.gateway_host)?;
        let draft = Draft { host_name, port_security: Some(false), ..Draft::own("", GATEWAY, self.id(), fixed) };
        let port = ports::make(net, tx, ctx, &network, draft)?;
        net.recorded(tx, ctx, "port.create.end", &port)?;
        self.external_gateway_info =
            Some(Gateway { network_id: network_id.into(), enable_snat: snat.unwrap_or(true), external_fixed_ips: port.fixed_ips.clone() });
        self.gateway_port = Some(port.common.id);
        hosts::touch_router(net, tx, self.id())
    }

    fn gateway_clear(&mut self, net: &Network, tx: &Tx, ctx: &Context) -> Result<()> {
        let Some(port_id) = self.gateway_port.clone() else { return Ok(()) };
        if floatingips::of_router(tx, self.id())?.is_empty() {
            hosts::touch_router(net, tx, self.id())?;
            ports::remove(net, tx, ctx, row::fetch::<Port>(tx, &port_id)?)?;
            self.external_gateway_info = None;
            self.gateway_port = None;
            return Ok(());
        }
        let message = format!(
            "Gateway cannot be updated for router {}, since a gateway to external network is required by one or more floating IPs.",
            self.id()
        );
        Err(fault::in_use("RouterExternalGatewayInUseByFloatingIp", message))
    }

    /// Subnets it has an interface in.
    pub fn inside_subnets(&self, tx: &Tx) -> Result<Vec<Subnet>> {
        let condition = "id IN (SELECT a.subnet_id FROM ip_allocation a JOIN port p ON p.id = a.port_id \
                         WHERE p.device_id = ?1 AND p.device_owner = 'network:router_interface')";
        row::list(tx, condition, params![self.id()])
    }

    /// Replaces the extra routes: each next hop is a neighbour, and not the router itself.
    pub fn routes_set(&mut self, tx: &Tx, routes: Vec<Route>) -> Result<()> {
        if routes.len() > MAX_ROUTES {
            let message = format!("Unable to complete operation for {}. The number of routes exceeds the maximum {MAX_ROUTES}.", self.id());
            return Err(fault::bad("RoutesExhausted", message));
        }
        let own: Vec<Port> = db::ports::of_device(tx, self.id())?;
        let mut near: Vec<Subnet> = self.inside_subnets(tx)?;
        if let Some(gateway) = &self.external_gateway_info {
            near.extend(subnets::of_network(tx, &gateway.network_id)?);
        }
        let mine = |at: IpAddr| own.iter().flat_map(|p| &p.fixed_ips).any(|f| f.ip_address == at);
        for route in &routes {
            let wrong = |reason: &str| {
                let message = format!("Invalid format for routes: {} via {}, {reason}", route.destination, route.nexthop);
                Err(fault::bad("InvalidRoutes", message))
            };
            if !near.iter().any(|s| s.cidr.contains(&route.nexthop)) {
                return wrong("the nexthop is not connected with router");
            }
            if mine(route.nexthop) {
                return wrong("the nexthop is used by router");
            }
        }
        self.routes = routes;
        Ok(())
    }
}

pub fn overlaps(outer: &Subnet, inner: &Subnet) -> base::Error {
    let text = format!("Cidr {} of subnet {} overlaps with cidr {} of subnet {}", outer.cidr, outer.id(), inner.cidr, inner.id());
    fault::refused("router", text)
}

//! Floating addresses: rules.

use std::net::IpAddr;

use base::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Tx, params};

use crate::allocation::Wish;
use crate::attr::{Absent, Attribute, Check, Kind, Object, attr};
use crate::networks::{Net, fetch_seen};
use crate::ports::{self, Draft, Port};
use crate::routers::Router;
use crate::row::{self, Common, Resource};
use crate::{Network, allocation, db, fault, hosts, subnets};

static ATTRIBUTES: &[Attribute] = &[
    attr("status", Check::Text(16)).column(),
    attr("floating_network_id", Check::Uuid).post(Absent::Required).column(),
    attr("floating_ip_address", Check::AddressOrNull).post(Absent::Null).column(),
    attr("subnet_id", Check::UuidOrNull).post(Absent::Null),
    attr("port_id", Check::UuidOrNull).post(Absent::Null).put().column(),
    attr("fixed_ip_address", Check::AddressOrNull).post(Absent::Null).put().column(),
    attr("router_id", Check::UuidOrNull).column(),
    attr("dns_name", Check::Custom(crate::networks::dns_domain)).post(Absent::Text("")),
    attr("dns_domain", Check::Custom(crate::networks::dns_domain)).post(Absent::Text("")),
    attr("port_details", Check::Any),
    attr("_floating_port", Check::Text(64)).column(),
];

pub static KIND: Kind = Kind {
    singular: "floatingip",
    plural: "floatingips",
    table: "floatingip",
    not_found: "FloatingIPNotFound",
    label: "Floating IP",
    attributes: ATTRIBUTES,
    policy_only: &["name"],
    filters: &[],
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FloatingIp {
    #[serde(flatten)]
    pub common: Common,
    pub status: String,
    pub floating_network_id: String,
    pub floating_ip_address: IpAddr,
    pub port_id: Option<String>,
    pub fixed_ip_address: Option<IpAddr>,
    pub router_id: Option<String>,
    pub dns_name: String,
    pub dns_domain: String,
    /// The port that holds the address on the external network.
    #[serde(rename = "_floating_port")]
    pub floating_port: String,
}

impl Resource for FloatingIp {
    const KIND: &'static Kind = &KIND;
    fn common(&self) -> &Common {
        &self.common
    }
    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn decorate(_net: &Network, tx: &Tx, objects: &mut [Object]) -> Result<()> {
        let ports = db::grouped(tx, "port", "id", &db::column(objects, "port_id"))?;
        for object in objects {
            let id = object.get("port_id").and_then(Value::as_str).unwrap_or_default();
            let details = ports.get(id).and_then(|l| l.first()).map(|port| {
                let keys = ["name", "network_id", "mac_address", "admin_state_up", "status", "device_id", "device_owner"];
                keys.iter().map(|k| (k.to_string(), port.get(*k).cloned().unwrap_or_default())).collect::<Object>()
            });
            object.insert("port_details".into(), json!(details));
        }
        Ok(())
    }

    fn create_in(net: &Network, tx: &Tx, ctx: &Context, project: &str, body: &Object) -> Result<Self> {
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let network: Net = fetch_seen(net, tx, ctx, text("floating_network_id").unwrap_or_default())?;
        if !network.external {
            return Err(fault::refused("floatingip", format!("Network {} is not a valid external network", network.id())));
        }
        let v4: Vec<_> = subnets::of_network(tx, network.id())?.into_iter().filter(|s| s.ip_version == 4).collect();
        if v4.is_empty() {
            return Err(fault::refused("floatingip", format!("Network {} does not contain any IPv4 subnet", network.id())));
        }
        let address: Option<IpAddr> = text("floating_ip_address").and_then(|a| a.parse().ok());
        let common = Common::new(project, body);
        let port = match (text("subnet_id"), address) {
            (None, None) => take_any(net, tx, ctx, &network, &v4, &common.id)?,
            (subnet, address) => {
                let wish = Wish { subnet_id: subnet.map(str::to_string), address };
                hold(net, tx, ctx, &network, &common.id, wish)?
            }
        };
        let Some(at) = port.fixed_ips.iter().map(|f| f.ip_address).find(IpAddr::is_ipv4) else {
            return Err(fault::refused("floatingip", "a floating address must be of IPv4"));
        };
        let mut item = FloatingIp {
            common,
            status: "DOWN".into(),
            floating_network_id: network.id().into(),
            floating_ip_address: at,
            port_id: None,
            fixed_ip_address: None,
            router_id: None,
            dns_name: text("dns_name").unwrap_or_default().into(),
            dns_domain: text("dns_domain").unwrap_or_default().into(),
            floating_port: port.common.id,
        };
        let fixed = text("fixed_ip_address").and_then(|a| a.parse().ok());
        match text("port_id") {
            Some(port_id) => item.associate(net, tx, ctx, port_id, fixed)?,
            None if fixed.is_some() => {
                return Err(fault::refused("floatingip", "fixed_ip_address cannot be specified without a port_id"));
            }
            None => {}
        }
        row::insert(tx, &item)?;
        Ok(item)
    }

    fn update_in(net: &Network, tx: &Tx, ctx: &Context, mut item: Self, change: &Object) -> Result<Self> {
        if let Some(text) = change.get("description").and_then(Value::as_str) {
            item.common.description = text.into();
        }
        let fixed = change.get("fixed_ip_address").and_then(Value::as_str).and_then(|a| a.parse().ok());
        match change.get("port_id") {
            // The association was once all there was to change: naming nothing ends it.
            None if change.is_empty() => item.release(net, tx)?,
            Some(Value::String(port_id)) => item.associate(net, tx, ctx, port_id, fixed)?,
            Some(_) if fixed.is_some() => {
                return Err(fault::refused("floatingip", "fixed_ip_address cannot be specified without a port_id"));
            }
            Some(_) => item.release(net, tx)?,
            None => match (item.port_id.clone(), fixed) {
                (Some(port_id), Some(_)) => item.associate(net, tx, ctx, &port_id, fixed)?,
                (None, Some(_)) => {
                    return Err(fault::refused("floatingip", "fixed_ip_address cannot be specified without a port_id"));
                }
                _ => {}
            },
        }
        row::update(tx, &mut item)?;
        Ok(item)
    }

    fn delete_in(net: &Network, tx: &Tx, ctx: &Context, mut item: Self) -> Result<()> {
        item.release(net, tx)?;
        row::remove::<FloatingIp>(tx, item.id())?;
        let port = row::fetch::<Port>(tx, &item.floating_port)?;
        ports::remove(net, tx, ctx, port)
    }
}

/// A port on the external network that holds an address.
fn hold(net: &Network, tx: &Tx, ctx: &Context, network: &Net, id: &str, wish: Wish) -> Result<Port> {
    let draft = Draft { port_security: Some(false), ..Draft::own("", "network:floatingip", id, Some(vec![wish])) };
    ports::make(net, tx, ctx, network, draft)
}

fn take_any(net: &Network, tx: &Tx, ctx: &Context, network: &Net, v4: &[subnets::Subnet], id: &str) -> Result<Port> {
    for subnet in v4 {
        let wish = Wish { subnet_id: Some(subnet.id().into()), address: None };
        match tx.attempt(|tx| hold(net, tx, ctx, network, id, wish)) {
            Err(error) if error.name() == Some("IpAddressGenerationFailure") => {}
            settled => return settled,
        }
    }
    Err(fault::addresses_exhausted(network.id()))
}

impl FloatingIp {
    /// Leads the address to a fixed one of a port.
    fn associate(&mut self, net: &Network, tx: &Tx, ctx: &Context, port_id: &str, fixed: Option<IpAddr>) -> Result<()> {
        let port = row::find::<Port>(tx, port_id)?.ok_or_else(|| ports::KIND.missing(port_id))?;
        // Owners of a network see the ports of others there.
        let seen = net.sees_all(ctx)
            || port.project() == ctx.project_id()
            || row::fetch::<Net>(tx, &port.network_id)?.project() == ctx.project_id();
        if !seen {
            return Err(ports::KIND.missing(port_id));
        }
        if port.project() != self.project() && !ctx.is_admin() {
            let message = format!(
                "Port {port_id} is associated with a different project than Floating IP {} and therefore cannot be bound",
                self.id()
            );
            return Err(fault::refused("floatingip", message));
        }
        let v4: Vec<_> = port.fixed_ips.iter().filter(|f| f.ip_address.is_ipv4()).collect();
        let chosen = match (fixed, v4.as_slice()) {
            (Some(at), _) => v4
                .iter()
                .find(|f| f.ip_address == at)
                .copied()
                .ok_or_else(|| fault::refused("floatingip", format!("Port {port_id} does not have fixed ip {at}")))?,
            (None, []) => {
                return Err(fault::refused(
                    "floatingip",
                    format!("Cannot add floating IP to port {port_id} that has no fixed IPv4 addresses"),
                ));
            }
            (None, [only]) => only,
            (None, _) => {
                let message = format!(
                    "Port {port_id} has multiple fixed IPv4 addresses. Must provide a specific IPv4 address when assigning a floating IP"
                );
                return Err(fault::refused("floatingip", message));
            }
        };
        let at = chosen.ip_address;
        let other = row::list::<FloatingIp>(tx, "port_id = ?1 AND id <> ?2", params![port_id, self.id()])?;
        if let Some(other) = other.iter().find(|o| o.fixed_ip_address == Some(at) && o.floating_network_id == self.floating_network_id) {
            let message = format!(
                "Cannot associate floating IP {} ({}) with port {port_id} using fixed IP {at}, as that fixed IP already has a floating IP ({}) on external network {}.",
                self.floating_ip_address, self.floating_port, other.floating_ip_address, self.floating_network_id
            );
            return Err(fault::in_use("FloatingIPPortAlreadyAssociated", message));
        }
        let Some(router) = router_between(tx, &chosen.subnet_id, &self.floating_network_id)? else {
            let message = format!(
                "External network {} is not reachable from subnet {}. Therefore, cannot associate Port {port_id} with a Floating IP.",
                self.floating_network_id, chosen.subnet_id
            );
            return Err(fault::missing("ExternalGatewayForFloatingIPNotFound", message));
        };
        if self.router_id.as_deref() != Some(router.id()) || self.fixed_ip_address != Some(at) {
            self.release(net, tx)?;
        }
        self.port_id = Some(port_id.into());
        self.fixed_ip_address = Some(at);
        self.router_id = Some(router.common.id.clone());
        net.device_changed(tx, &port.device_id)?;
        hosts::touch_router(net, tx, router.id())
    }

    fn release(&mut self, net: &Network, tx: &Tx) -> Result<()> {
        if let Some(router) = self.router_id.take() {
            hosts::touch_router(net, tx, &router)?;
        }
        // The port may be gone already.
        if let Some(port) = self.port_id.take().map(|id| row::find::<Port>(tx, &id)).transpose()?.flatten() {
            net.device_changed(tx, &port.device_id)?;
        }
        self.fixed_ip_address = None;
        self.status = "DOWN".into();
        Ok(())
    }
}

/// The router that leads from a subnet to an external network; of several the one that is the subnet's gateway.
fn router_between(tx: &Tx, subnet_id: &str, network_id: &str) -> Result<Option<Router>> {
    let condition = "id IN (SELECT p.device_id FROM port p JOIN ip_allocation a ON a.port_id = p.id \
                     WHERE a.subnet_id = ?1 AND p.device_owner = 'network:router_interface')";
    let mut routers: Vec<Router> = row::list(tx, condition, params![subnet_id])?;
    routers.retain(|r| r.external_gateway_info.as_ref().is_some_and(|g| g.network_id == network_id));
    if routers.len() > 1
        && let Some(gateway) = row::fetch::<subnets::Subnet>(tx, subnet_id)?.gateway_ip
        && let Some(holder) = allocation::holder(tx, subnet_id, gateway)?
        && let Some(port) = row::find::<Port>(tx, &holder)?
        && let Some(i) = routers.iter().position(|r| r.id() == port.device_id)
    {
        return Ok(Some(routers.swap_remove(i)));
    }
    Ok(routers.into_iter().next())
}

/// Associated addresses that a router translates.
pub fn of_router(tx: &Tx, router_id: &str) -> Result<Vec<FloatingIp>> {
    row::list(tx, "router_id = ?1", params![router_id])
}

/// After a port, or one of its addresses, went: what led there leads nowhere now.
pub fn fixed_gone(net: &Network, tx: &Tx, ctx: &Context, port_id: &str, address: Option<IpAddr>) -> Result<()> {
    for mut item in row::list::<FloatingIp>(tx, "port_id = ?1", params![port_id])? {
        if address.is_none() || item.fixed_ip_address == address {
            item.release(net, tx)?;
            row::update(tx, &mut item)?;
            net.recorded(tx, ctx, "floatingip.update.end", &item)?;
        }
    }
    Ok(())
}

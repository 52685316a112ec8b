//! Interfaces of routers: which subnets a router joins, and its extra routes one by one.

use base::{Context, Result};
use serde_json::{Value, json};
use store::Tx;

use crate::allocation::{self, Asker, Wish};
use crate::attr::{self, Object};
use crate::networks::Net;
use crate::ports::{self, Draft, Port};
use crate::routers::{INTERFACE, Router, overlaps};
use crate::row::{self, Resource};
use crate::subnets::{self, Route, Subnet};
use crate::{Network, db, fault, floatingips, hosts, ip};

/// What a request names: a subnet, a port, or (to remove) both.
struct Named {
    subnet_id: Option<String>,
    port_id: Option<String>,
}

fn read(body: &Object) -> Result<Named> {
    let id = |name: &str| -> Result<Option<String>> {
        match body.get(name).filter(|v| !v.is_null()) {
            None => Ok(None),
            Some(value) => attr::uuid(value).map(Some).map_err(|reason| fault::refused("router", format!("{name}: {reason}"))),
        }
    };
    if let Some(name) = body.keys().find(|k| !matches!(k.as_str(), "subnet_id" | "port_id" | "tenant_id" | "project_id")) {
        return Err(fault::request(format!("Unrecognized attribute(s) '{name}'")));
    }
    let named = Named { subnet_id: id("subnet_id")?, port_id: id("port_id")? };
    if named.subnet_id.is_none() && named.port_id.is_none() {
        return Err(fault::refused("router", "Either subnet_id or port_id must be specified"));
    }
    Ok(named)
}

fn answer(router: &Router, port: &Port, subnet: Option<&str>) -> Object {
    let ids: Vec<&str> = match subnet {
        Some(id) => vec![id],
        None => port.fixed_ips.iter().map(|f| f.subnet_id.as_str()).collect(),
    };
    let mut out = Object::new();
    out.insert("id".into(), json!(router.id()));
    out.insert("tenant_id".into(), json!(router.project()));
    out.insert("project_id".into(), json!(router.project()));
    out.insert("port_id".into(), json!(port.id()));
    out.insert("network_id".into(), json!(port.network_id));
    out.insert("subnet_id".into(), json!(ids.first()));
    out.insert("subnet_ids".into(), json!(ids));
    out
}

/// The subnet, when the caller may know of it.
fn subnet_seen(net: &Network, tx: &Tx, ctx: &Context, id: &str) -> Result<Subnet> {
    let missing = || subnets::KIND.missing(id);
    let subnet = row::find::<Subnet>(tx, id)?.ok_or_else(missing)?;
    let network = row::fetch::<Net>(tx, &subnet.network_id)?;
    if subnet.project() == ctx.project_id() || network.seen_by(net, ctx) { Ok(subnet) } else { Err(missing()) }
}

/// A new neighbour must be none already and not overlap one.
fn fits(tx: &Tx, router: &Router, subnet: &Subnet) -> Result<()> {
    let mut near = router.inside_subnets(tx)?;
    if near.iter().any(|known| known.id() == subnet.id()) {
        return Err(fault::refused("router", format!("Router already has a port on subnet {}", subnet.id())));
    }
    if let Some(gateway) = &router.external_gateway_info {
        near.extend(subnets::of_network(tx, &gateway.network_id)?);
    }
    match near.iter().find(|known| ip::overlap(&known.cidr, &subnet.cidr)) {
        Some(known) => Err(overlaps(subnet, known)),
        None => Ok(()),
    }
}

pub fn add(net: &Network, tx: &Tx, ctx: &Context, mut router: Router, body: &Object) -> Result<Object> {
    let named = read(body)?;
    let (port, subnet) = match (named.port_id, named.subnet_id) {
        (Some(_), Some(_)) => return Err(fault::refused("router", "Cannot specify both subnet-id and port-id")),
        (Some(port_id), None) => (add_port(net, tx, ctx, &router, &port_id)?, None),
        (None, subnet_id) => {
            let subnet = subnet_seen(net, tx, ctx, &subnet_id.unwrap_or_default())?;
            (add_subnet(net, tx, ctx, &router, &subnet)?, Some(subnet))
        }
    };
    row::update(tx, &mut router)?;
    hosts::touch_router(net, tx, router.id())?;
    let out = answer(&router, &port, subnet.as_ref().map(|s| s.id()));
    net.notify(tx, ctx, "router.interface.create", router.id(), json!({"router_interface": out}))?;
    Ok(out)
}

fn add_port(net: &Network, tx: &Tx, ctx: &Context, router: &Router, port_id: &str) -> Result<Port> {
    let mut port = row::find::<Port>(tx, port_id)?
        .filter(|p| net.sees_all(ctx) || p.project() == ctx.project_id())
        .ok_or_else(|| ports::KIND.missing(port_id))?;
    if !port.device_id.is_empty() && (port.device_id != router.id() || port.device_owner == INTERFACE) {
        let message = format!(
            "Unable to complete operation on port {port_id} for network {}. Port already has an attached device {}.",
            port.network_id, port.device_id
        );
        return Err(fault::in_use("PortInUse", message));
    }
    if port.fixed_ips.is_empty() {
        return Err(fault::refused("router", "Router port must have at least one fixed IP"));
    }
    if port.fixed_ips.iter().filter(|f| f.ip_address.is_ipv4()).count() > 1 {
        return Err(fault::refused("router", "Cannot have multiple IPv4 subnets on router port"));
    }
    for fixed in &port.fixed_ips {
        fits(tx, router, &row::fetch::<Subnet>(tx, &fixed.subnet_id)?)?;
    }
    port.device_id = router.id().into();
    port.device_owner = INTERFACE.into();
    port.bind(&hosts::name_of(tx, &router.gateway_host)?, Some(router.gateway_host.as_str()).filter(|h| !h.is_empty()));
    row::update(tx, &mut port)?;
    net.recorded(tx, ctx, "port.update.end", &port)?;
    Ok(port)
}

fn add_subnet(net: &Network, tx: &Tx, ctx: &Context, router: &Router, subnet: &Subnet) -> Result<Port> {
    let Some(gateway) = subnet.gateway_ip else {
        return Err(fault::refused("router", "Subnet for router interface must have a gateway IP"));
    };
    fits(tx, router, subnet)?;
    // IPv6 subnets of one network share an interface.
    let present = db::ports::of_device(tx, router.id())?.into_iter().find(|p| {
        subnet.ip_version == 6
            && p.network_id == subnet.network_id
            && p.device_owner == INTERFACE
            && p.fixed_ips.iter().all(|f| f.ip_address.is_ipv6())
    });
    let wish = Wish { subnet_id: Some(subnet.id().into()), address: Some(gateway) };
    if let Some(mut port) = present {
        let all = subnets::of_network(tx, &subnet.network_id)?;
        let mut wishes: Vec<Wish> =
            port.fixed_ips.iter().map(|f| Wish { subnet_id: Some(f.subnet_id.clone()), address: Some(f.ip_address) }).collect();
        wishes.push(wish);
        let asker = Asker { port_id: port.id(), network_id: &port.network_id, mac: &port.mac_address, device_owner: INTERFACE };
        let settled = allocation::settle(tx, &asker, &all, Some(&wishes), &port.fixed_ips)?;
        port.fixed_ips = settled;
        row::update(tx, &mut port)?;
        net.recorded(tx, ctx, "port.update.end", &port)?;
        return Ok(port);
    }
    let network = row::fetch::<Net>(tx, &subnet.network_id)?;
    let host_name = hosts::name_of(tx, &router.gateway_host)?;
    let draft = Draft { host_name, port_security: Some(false), ..Draft::own(router.project(), INTERFACE, router.id(), Some(vec![wish])) };
    let port = ports::make(net, tx, ctx, &network, draft)?;
    net.recorded(tx, ctx, "port.create.end", &port)?;
    Ok(port)
}

pub fn remove(net: &Network, tx: &Tx, ctx: &Context, mut router: Router, body: &Object) -> Result<Object> {
    let named = read(body)?;
    let own: Vec<Port> = db::ports::of_device(tx, router.id())?.into_iter().filter(|p| p.device_owner == INTERFACE).collect();
    let has = |port: &Port, subnet: &str| port.fixed_ips.iter().any(|f| f.subnet_id == subnet);
    let port = match (&named.port_id, &named.subnet_id) {
        (Some(port_id), subnet) => {
            let port = own.into_iter().find(|p| p.id() == port_id).ok_or_else(|| {
                let message = format!("Router {} does not have an interface with id {port_id}", router.id());
                fault::missing("RouterInterfaceNotFound", message)
            })?;
            if let Some(subnet) = subnet.as_deref().filter(|s| !has(&port, s)) {
                let message = format!("Subnet on port {port_id} does not match the requested subnet {subnet}.");
                return Err(fault::bad("SubnetMismatchForPort", message));
            }
            port
        }
        (None, subnet) => {
            let subnet = subnet.clone().unwrap_or_default();
            subnet_seen(net, tx, ctx, &subnet)?;
            own.into_iter().find(|p| has(p, &subnet)).ok_or_else(|| {
                let message = format!("Router {} has no interface on subnet {subnet}", router.id());
                fault::missing("RouterInterfaceNotFoundForSubnet", message)
            })?
        }
    };
    let leaving: Vec<String> = match (&named.port_id, named.subnet_id) {
        (None, Some(subnet)) => vec![subnet],
        _ => port.fixed_ips.iter().map(|f| f.subnet_id.clone()).collect(),
    };
    for id in &leaving {
        let subnet = row::fetch::<Subnet>(tx, id)?;
        if router.routes.iter().any(|r| subnet.cidr.contains(&r.nexthop)) {
            let message = format!(
                "Router interface for subnet {id} on router {} cannot be deleted, as it is required by one or more routes.",
                router.id()
            );
            return Err(fault::in_use("RouterInterfaceInUseByRoute", message));
        }
        if floatingips::of_router(tx, router.id())?.iter().any(|f| f.fixed_ip_address.is_some_and(|at| subnet.cidr.contains(&at))) {
            let message = format!(
                "Router interface for subnet {id} on router {} cannot be deleted, as it is required by one or more floating IPs.",
                router.id()
            );
            return Err(fault::in_use("RouterInterfaceInUseByFloatingIP", message));
        }
    }
    hosts::touch_router(net, tx, router.id())?;
    let out = answer(&router, &port, leaving.first().map(String::as_str).filter(|_| leaving.len() == 1));
    if leaving.len() < port.fixed_ips.len() {
        let mut port = port;
        port.fixed_ips.retain(|f| !leaving.contains(&f.subnet_id));
        for id in &leaving {
            db::ports::allocation_drop(tx, port.id(), id)?;
        }
        row::update(tx, &mut port)?;
        net.recorded(tx, ctx, "port.update.end", &port)?;
    } else {
        ports::remove(net, tx, ctx, port)?;
    }
    row::update(tx, &mut router)?;
    net.notify(tx, ctx, "router.interface.delete", router.id(), json!({"router_interface": out}))?;
    Ok(out)
}

/// Adds or removes extra routes, leaving the others alone. Both may be repeated.
pub fn routes_change(net: &Network, tx: &Tx, ctx: &Context, mut router: Router, body: &Object, adding: bool) -> Result<Router> {
    let given = subnets::routes(body.get("routes").unwrap_or(&Value::Null)).map_err(|reason| fault::attribute("routes", reason))?;
    let given: Vec<Route> = crate::parsed(&given)?;
    let mut routes = router.routes.clone();
    routes.retain(|r| !given.contains(r));
    if adding {
        routes.extend(given);
    }
    router.routes_set(tx, routes)?;
    row::update(tx, &mut router)?;
    hosts::touch_router(net, tx, router.id())?;
    net.recorded(tx, ctx, "router.update.end", &router)?;
    Ok(router)
}

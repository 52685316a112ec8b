//! Making ports: for clients, servers, routers, floating addresses and the network itself.

use base::error::Internal;
use base::{Context, Kind as ErrorKind, Result};
use serde_json::Value;
use store::{Tx, params};

use super::{DISTRIBUTED, DhcpOption, FixedIp, Port, body};
use crate::allocation::{self, Wish};
use crate::attr::Object;
use crate::networks::Net;
use crate::row::{self, Common, Resource};
use crate::subnets::{self, Subnet};
use crate::{Network, db, fault, qos, security_groups};

/// First half of the addresses made here.
const MAC_PREFIX: &str = "fa:16:3e";

/// A port as it is asked for.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub common: Common,
    pub admin_state_up: bool,
    pub mac: Option<String>,
    /// None: one address of each family.
    pub wishes: Option<Vec<Wish>>,
    pub device_id: String,
    pub device_owner: String,
    /// None: the project's default group.
    pub groups: Option<Vec<String>>,
    /// As checked from a request.
    pub pairs: Value,
    pub options: Vec<DhcpOption>,
    pub port_security: Option<bool>,
    pub dns_name: String,
    pub vnic_type: String,
    pub host_name: String,
    pub profile: Object,
    pub qos_policy_id: Option<String>,
    pub made_for: String,
    pub tag: Option<String>,
    pub hostname: String,
    pub place: i64,
}

impl Draft {
    /// A port of the network service itself.
    pub fn own(project: &str, device_owner: &str, device_id: &str, wishes: Option<Vec<Wish>>) -> Draft {
        Draft {
            common: Common::new(project, &Object::new()),
            admin_state_up: true,
            wishes,
            device_owner: device_owner.into(),
            device_id: device_id.into(),
            vnic_type: "normal".into(),
            ..Draft::default()
        }
    }
}

pub fn mac_in_use(network_id: &str, mac: &str) -> base::Error {
    let message = format!("Unable to complete operation for network {network_id}. The mac address {mac} is in use.");
    fault::in_use("MacAddressInUse", message)
}

fn mac_new() -> Result<String> {
    let mut bytes = [0u8; 3];
    getrandom::fill(&mut bytes).internal("making a MAC address")?;
    Ok(format!("{MAC_PREFIX}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2]))
}

/// Groups and pairs need port security.
pub fn security_fits(port: &Port, groups_given: bool) -> Result<()> {
    if port.port_security_enabled {
        return Ok(());
    }
    if !port.security_groups.is_empty() {
        return Err(if groups_given {
            let message = "Port security must be enabled and port must have an IP address in order to use security groups.";
            fault::bad("PortSecurityAndIPRequiredForSecurityGroups", message)
        } else {
            let message = "Port has security group associated. Cannot disable port security or IP address until security group is removed.";
            fault::in_use("PortSecurityPortHasSecurityGroup", message)
        });
    }
    if !port.allowed_address_pairs.is_empty() {
        let message = "Port Security must be enabled in order to have allowed address pairs on a port.";
        return Err(fault::in_use("AddressPairAndPortSecurityRequired", message));
    }
    Ok(())
}

pub fn make(net: &Network, tx: &Tx, ctx: &Context, network: &Net, draft: Draft) -> Result<Port> {
    let own = draft.device_owner.starts_with("network:");
    let port_security_enabled = draft.port_security.unwrap_or(network.port_security_enabled && !own);
    let groups_given = draft.groups.is_some();
    let security_groups = match &draft.groups {
        Some(ids) => security_groups::check_ids(net, tx, ctx, &draft.common.project_id, ids)?,
        None if port_security_enabled && !own && !draft.common.project_id.is_empty() => {
            vec![security_groups::default_id(net, tx, ctx, &draft.common.project_id)?]
        }
        None => Vec::new(),
    };
    let qos_policy_id = qos::checked(net, tx, ctx, draft.qos_policy_id.as_deref())?;
    let mut port = Port {
        common: draft.common,
        network_id: network.id().into(),
        admin_state_up: draft.admin_state_up,
        status: "DOWN".into(),
        mac_address: String::new(),
        fixed_ips: Vec::new(),
        device_id: draft.device_id,
        device_owner: draft.device_owner,
        security_groups,
        allowed_address_pairs: Vec::new(),
        extra_dhcp_opts: draft.options,
        port_security_enabled,
        dns_name: draft.dns_name,
        vnic_type: draft.vnic_type,
        host_name: String::new(),
        profile: draft.profile,
        qos_policy_id,
        vif_type: "unbound".into(),
        vif_details: Object::new(),
        host: String::new(),
        made_for: draft.made_for,
        promised: Vec::new(),
        tag: draft.tag,
        hostname: draft.hostname,
        place: draft.place,
    };
    let host = if draft.host_name.is_empty() { None } else { db::ports::host_named(tx, &draft.host_name)? };
    port.bind(&draft.host_name, host.as_deref());
    if port.device_owner == "network:floatingip" {
        port.status = "N/A".into();
    }
    insert(tx, &mut port, draft.mac, &draft.pairs)?;
    security_fits(&port, groups_given)?;
    let subnets = subnets::of_network(tx, network.id())?;
    port.fixed_ips = allocation::settle(tx, &port.asker(), &subnets, draft.wishes.as_deref(), &[])?;
    db::ports::doc_set(tx, &port)?;
    db::security_groups::bind(tx, &port)?;
    super::touch(net, tx, &port)?;
    Ok(port)
}

/// Writes the row under a MAC that is free on the network.
fn insert(tx: &Tx, port: &mut Port, wanted: Option<String>, pairs: &Value) -> Result<()> {
    for _ in 0..16 {
        port.mac_address = match &wanted {
            Some(mac) => mac.clone(),
            None => mac_new()?,
        };
        port.allowed_address_pairs = body::pairs(pairs, &port.mac_address);
        match tx.attempt(|tx| row::insert(tx, port)) {
            Ok(()) => return Ok(()),
            Err(error) if error.is(ErrorKind::Exists) && wanted.is_some() => return Err(mac_in_use(&port.network_id, &port.mac_address)),
            Err(error) if error.is(ErrorKind::Exists) => {}
            Err(error) => return Err(error),
        }
    }
    let message = format!("Unable to generate unique mac on network {}.", port.network_id);
    Err(base::Error::unavailable(message).named("NetworkMacAddressGenerationFailure"))
}

/// Present addresses as wishes, but for those that stations make themselves.
pub fn kept(present: &[FixedIp], subnets: &[Subnet]) -> Vec<Wish> {
    let own = |f: &&FixedIp| subnets.iter().any(|s| s.id() == f.subnet_id && !s.is_auto());
    present.iter().filter(own).map(|f| Wish { subnet_id: Some(f.subnet_id.clone()), address: Some(f.ip_address) }).collect()
}

/// After a subnet whose stations make their own addresses came: every port has one in it.
pub fn addresses_renew(net: &Network, tx: &Tx, ctx: &Context, network_id: &str) -> Result<()> {
    let subnets = subnets::of_network(tx, network_id)?;
    for mut port in row::list::<Port>(tx, "network_id = ?1", params![network_id])? {
        if allocation::is_router_port(&port.device_owner) || port.device_owner == "network:floatingip" || port.is_service() {
            continue;
        }
        let wishes = kept(&port.fixed_ips, &subnets);
        let settled = allocation::settle(tx, &port.asker(), &subnets, Some(&wishes), &port.fixed_ips)?;
        if settled != port.fixed_ips {
            port.fixed_ips = settled;
            row::update(tx, &mut port)?;
            super::touch(net, tx, &port)?;
            net.recorded(tx, ctx, "port.update.end", &port)?;
        }
    }
    Ok(())
}

/// Takes a subnet that goes out of the ports that still have an address in it.
pub fn subnet_forget(net: &Network, tx: &Tx, subnet: &Subnet) -> Result<()> {
    for mut port in db::ports::with_subnet(tx, subnet.id())? {
        port.fixed_ips.retain(|f| f.subnet_id != subnet.id());
        row::update(tx, &mut port)?;
        super::touch(net, tx, &port)?;
    }
    tx.execute("DELETE FROM ip_allocation WHERE subnet_id = ?1", params![subnet.id()])?;
    Ok(())
}

/// Keeps the network's own port in line with its subnets: an address in each that has DHCP, and no port without one.
pub fn service_port_sync(net: &Network, tx: &Tx, ctx: &Context, network: &Net) -> Result<()> {
    let subnets = subnets::of_network(tx, network.id())?;
    let served: Vec<&Subnet> = subnets.iter().filter(|s| s.enable_dhcp).collect();
    let present = row::list::<Port>(tx, "network_id = ?1 AND device_owner = ?2", params![network.id(), DISTRIBUTED])?.pop();
    if served.is_empty() {
        return present.map_or(Ok(()), |port| super::remove(net, tx, ctx, port));
    }
    let made = present.is_none();
    let mut port = match present {
        Some(port) => port,
        None => {
            let device = format!("sturnus-{}", network.id());
            let draft = Draft { port_security: Some(false), ..Draft::own(network.project(), DISTRIBUTED, &device, Some(Vec::new())) };
            make(net, tx, ctx, network, draft)?
        }
    };
    // A subnet without a free address is served without one of its own.
    let mut wishes: Vec<Wish> = Vec::new();
    for subnet in served {
        let have = port.fixed_ips.iter().find(|f| f.subnet_id == subnet.id());
        wishes.push(Wish { subnet_id: Some(subnet.id().into()), address: have.map(|f| f.ip_address) });
        let tried = tx.attempt(|tx| allocation::settle(tx, &port.asker(), &subnets, Some(&wishes), &port.fixed_ips));
        match tried {
            Ok(settled) => port.fixed_ips = settled,
            Err(error) if error.name() == Some("IpAddressGenerationFailure") => {
                wishes.pop();
            }
            Err(error) => return Err(error),
        }
        // Later rounds name what this one settled.
        for (wish, fixed) in wishes.iter_mut().zip(&port.fixed_ips) {
            wish.address = Some(fixed.ip_address);
        }
    }
    let settled = allocation::settle(tx, &port.asker(), &subnets, Some(&wishes), &port.fixed_ips)?;
    port.fixed_ips = settled;
    row::update(tx, &mut port)?;
    net.recorded(tx, ctx, if made { "port.create.end" } else { "port.update.end" }, &port)
}

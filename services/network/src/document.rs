//! The whole wanted network of a host, out of the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use base::Result;
use ipnet::IpNet;
use rpc::network::{
    AddressPair, DhcpOption, FloatingIp, Ipv6Mode, Lease, Network as WireNetwork, NetworkDocument, NetworkKind, Port as WirePort, Remote,
    RemoteHost, RemotePort, Route, Router as WireRouter, RouterGateway, RouterInterface, SecurityGroup as WireGroup, SecurityRule,
    ServicePort, Subnet as WireSubnet,
};
use store::{Tx, params};

use crate::networks::Net;
use crate::ports::{DOMAIN, FixedIp, Port};
use crate::routers::{GATEWAY, INTERFACE, Router};
use crate::row::{self, Resource};
use crate::security_groups::SecurityGroup;
use crate::security_rules::{Rule, protocol_number};
use crate::seen::{Gather, Seen};
use crate::subnets::Subnet;
use crate::{floatingips, ip};

pub fn build(gather: &mut Gather, host_id: &str) -> Result<NetworkDocument> {
    let tx = gather.tx;
    let generation =
        tx.query_opt("SELECT wanted FROM network_host WHERE id = ?1", params![host_id], |row| row.count(0))?.unwrap_or_default();
    let bound = gather.of_host(host_id)?;
    let guests: Vec<&WirePort> = bound.iter().filter_map(|p| p.guest.as_ref()).collect();
    let mut network_ids: BTreeSet<String> = guests.iter().map(|p| p.network_id.clone()).collect();
    let routers = routers_on(tx, host_id)?;
    let router_ids: Vec<String> = routers.iter().map(|r| r.id().to_string()).collect();
    let joints: Vec<Port> = row::list_in::<Port>(tx, "device_id", &router_ids)?
        .into_iter()
        .filter(|p| {
            let leads_out = || routers.iter().any(|r| r.gateway_port.as_deref() == Some(p.id()));
            p.device_owner == INTERFACE || (p.device_owner == GATEWAY && leads_out())
        })
        .collect();
    network_ids.extend(joints.iter().map(|p| p.network_id.clone()));
    let ids: Vec<String> = network_ids.into_iter().collect();
    let all = All {
        networks: row::list_in::<Net>(tx, "id", &ids)?.into_iter().map(|n| (n.id().to_string(), n)).collect(),
        subnets: row::list_in::<Subnet>(tx, "network_id", &ids)?.into_iter().map(|s| (s.id().to_string(), s)).collect(),
    };
    let tunnels = tunnels(tx, host_id)?;
    let carries = tx
        .query_opt("SELECT id FROM network_host ORDER BY started_at, id LIMIT 1", params![], |row| row.text(0))?
        .is_some_and(|first| first == host_id);
    let mut networks = Vec::new();
    for network in all.networks.values() {
        networks.push(all.network(network, &gather.of_network(network.id())?, carries, &tunnels));
    }
    Ok(NetworkDocument {
        generation,
        networks,
        routers: routers.iter().map(|r| all.router(tx, r, &joints)).collect::<Result<_>>()?,
        security_groups: groups(gather, &guests)?,
        ports: guests.into_iter().cloned().collect(),
    })
}

/// Routers that this host carries and that have anything to join.
fn routers_on(tx: &Tx, host_id: &str) -> Result<Vec<Router>> {
    let joins = "_gateway_host = ?1 AND EXISTS (SELECT 1 FROM port p WHERE p.device_id = router.id AND p.device_owner IN ('network:router_interface', 'network:router_gateway'))";
    row::list(tx, joins, params![host_id])
}

/// Ends of tunnels of the other hosts, by host.
fn tunnels(tx: &Tx, host_id: &str) -> Result<HashMap<String, IpAddr>> {
    let rows = tx.query("SELECT id, address FROM network_host WHERE id <> ?1 AND address <> ''", params![host_id], |row| {
        Ok((row.text(0)?, row.text(1)?))
    })?;
    Ok(rows.into_iter().filter_map(|(id, address)| Some((id, address.parse().ok()?))).collect())
}

/// The ports of a network that are on other hosts. The network's own port is on every host by itself.
fn elsewhere(ports: &[Arc<Seen>], tunnels: &HashMap<String, IpAddr>) -> Vec<RemoteHost> {
    let mut hosts: BTreeMap<IpAddr, Vec<RemotePort>> = BTreeMap::new();
    for port in ports {
        if let (Some(address), Some(remote)) = (tunnels.get(&port.host), &port.remote) {
            hosts.entry(*address).or_default().push(remote.clone());
        }
    }
    hosts.into_iter().map(|(address, ports)| RemoteHost { address, ports }).collect()
}

struct All {
    networks: BTreeMap<String, Net>,
    subnets: HashMap<String, Subnet>,
}

impl All {
    fn network(&self, network: &Net, ports: &[Arc<Seen>], carries: bool, tunnels: &HashMap<String, IpAddr>) -> WireNetwork {
        let mut subnets: Vec<&Subnet> = self.subnets.values().filter(|s| s.network_id == network.id()).collect();
        subnets.sort_by(|a, b| (&a.common.created_at, a.id()).cmp(&(&b.common.created_at, b.id())));
        let kind = match network.segmentation_id {
            Some(vni) => NetworkKind::Overlay { vni: u32::try_from(vni).unwrap_or_default() },
            None => NetworkKind::Provider {
                physical_network: network.physical_network.clone().unwrap_or_default(),
                host_addresses: subnets
                    .iter()
                    .filter(|_| carries && network.external)
                    .filter_map(|s| ip::with_prefix(s.gateway_ip.filter(|g| s.cidr.contains(g))?, &s.cidr))
                    .collect(),
            },
        };
        let service_port = ports.iter().find_map(|p| {
            let (mac, fixed) = p.service.as_ref()?;
            Some(ServicePort { port_id: p.id.clone(), mac: mac.clone(), addresses: self.with_prefixes(fixed) })
        });
        let elsewhere = match kind {
            NetworkKind::Overlay { .. } => elsewhere(ports, tunnels),
            NetworkKind::Provider { .. } => Vec::new(),
        };
        WireNetwork {
            id: network.id().into(),
            mtu: u32::try_from(network.mtu).unwrap_or(1500),
            kind,
            elsewhere,
            subnets: subnets.into_iter().map(wire_subnet).collect(),
            service_port,
            dns_domain: DOMAIN.into(),
            leases: ports.iter().filter_map(|p| p.lease.clone()).collect(),
        }
    }

    fn with_prefixes(&self, fixed: &[FixedIp]) -> Vec<IpNet> {
        fixed.iter().filter_map(|f| ip::with_prefix(f.ip_address, &self.subnets.get(&f.subnet_id)?.cidr)).collect()
    }

    fn mtu(&self, network_id: &str) -> u32 {
        self.networks.get(network_id).and_then(|n| u32::try_from(n.mtu).ok()).unwrap_or(1500)
    }

    fn router(&self, tx: &Tx, router: &Router, joints: &[Port]) -> Result<WireRouter> {
        let own = |p: &&Port| p.device_id == router.id();
        let interfaces = joints.iter().filter(own).filter(|p| p.device_owner == INTERFACE).map(|p| RouterInterface {
            port_id: p.id().into(),
            network_id: p.network_id.clone(),
            mac: p.mac_address.clone(),
            addresses: self.with_prefixes(&p.fixed_ips),
            mtu: self.mtu(&p.network_id),
        });
        let gateway = joints.iter().filter(own).find(|p| p.device_owner == GATEWAY).map(|p| RouterGateway {
            port_id: p.id().into(),
            network_id: p.network_id.clone(),
            mac: p.mac_address.clone(),
            addresses: self.with_prefixes(&p.fixed_ips),
            mtu: self.mtu(&p.network_id),
            nexthops: p.fixed_ips.iter().filter_map(|f| self.subnets.get(&f.subnet_id)?.gateway_ip).collect(),
            snat: router.external_gateway_info.as_ref().is_some_and(|g| g.enable_snat),
        });
        let floating = floatingips::of_router(tx, router.id())?;
        Ok(WireRouter {
            id: router.id().into(),
            admin_up: router.admin_state_up,
            interfaces: interfaces.collect(),
            gateway,
            floating: floating
                .iter()
                .filter_map(|f| Some(FloatingIp { id: f.id().into(), floating: f.floating_ip_address, fixed: f.fixed_ip_address? }))
                .collect(),
            routes: router.routes.iter().map(|r| Route { destination: r.destination, nexthop: r.nexthop }).collect(),
        })
    }
}

fn wire_subnet(subnet: &Subnet) -> WireSubnet {
    WireSubnet {
        id: subnet.id().into(),
        cidr: subnet.cidr,
        gateway: subnet.gateway_ip,
        dhcp: subnet.enable_dhcp,
        dns: subnet.dns_nameservers.clone(),
        host_routes: subnet.host_routes.iter().map(|r| Route { destination: r.destination, nexthop: r.nexthop }).collect(),
        ipv6: match subnet.mode() {
            Some("slaac") => Some(Ipv6Mode::Slaac),
            Some("dhcpv6-stateless") => Some(Ipv6Mode::DhcpStateless),
            Some("dhcpv6-stateful") => Some(Ipv6Mode::DhcpStateful),
            _ => None,
        },
    }
}

/// What DHCP tells the port's guest.
pub fn lease(port: &Port) -> Lease {
    let first = port.fixed_ips.iter().map(|f| f.ip_address).find(IpAddr::is_ipv4).or(port.fixed_ips.first().map(|f| f.ip_address));
    Lease {
        port_id: port.id().into(),
        mac: port.mac_address.clone(),
        addresses: port.fixed_ips.iter().map(|f| f.ip_address).collect(),
        hostname: first.map(|at| port.hostname_of(at)).unwrap_or_default(),
        options: port
            .extra_dhcp_opts
            .iter()
            .map(|o| DhcpOption { name: o.opt_name.clone(), value: o.opt_value.clone(), ip_version: o.ip_version })
            .collect(),
    }
}

pub fn wire_port(port: &Port) -> WirePort {
    WirePort {
        id: port.id().into(),
        network_id: port.network_id.clone(),
        instance_id: port.device_id.clone(),
        mac: port.mac_address.clone(),
        admin_up: port.admin_state_up,
        addresses: port.fixed_ips.iter().map(|f| f.ip_address).collect(),
        allowed_pairs: port
            .allowed_address_pairs
            .iter()
            .filter_map(|p| Some(AddressPair { mac: p.mac_address.clone(), cidr: net_of(&p.ip_address)? }))
            .collect(),
        port_security: port.port_security_enabled,
        security_groups: port.security_groups.clone(),
    }
}

/// The guests' groups, and those whose members their rules ask for.
fn groups(gather: &mut Gather, guests: &[&WirePort]) -> Result<Vec<WireGroup>> {
    let tx = gather.tx;
    let mut ids: Vec<String> = guests.iter().flat_map(|p| p.security_groups.iter().cloned()).collect();
    ids.sort();
    ids.dedup();
    let mut rules: Vec<Rule> = row::list_in(tx, "security_group_id", &ids)?;
    let mut remote: Vec<String> = rules.iter().filter_map(|r| r.remote_group_id.clone()).filter(|id| !ids.contains(id)).collect();
    remote.sort();
    remote.dedup();
    rules.extend(row::list_in::<Rule>(tx, "security_group_id", &remote)?);
    ids.extend(remote);
    let mut out = Vec::new();
    for group in row::list_in::<SecurityGroup>(tx, "id", &ids)? {
        let own = rules.iter().filter(|r| r.security_group_id == group.id());
        out.push(WireGroup {
            id: group.id().into(),
            stateful: group.stateful,
            rules: own.filter_map(wire_rule).collect(),
            members: gather.members(group.id())?.to_vec(),
        });
    }
    out.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(out)
}

/// An address or a prefix, as text.
pub fn net_of(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn wire_rule(rule: &Rule) -> Option<SecurityRule> {
    let port = |n: Option<i64>| n.and_then(|n| u16::try_from(n).ok());
    let remote = match (&rule.remote_group_id, &rule.normalized_cidr) {
        (Some(group), _) => Remote::Group(group.clone()),
        // A rule whose network cannot be read must not open more than it said.
        (None, Some(cidr)) => Remote::Cidr(cidr.parse().ok()?),
        (None, None) => Remote::Any,
    };
    Some(SecurityRule {
        id: rule.id().into(),
        ingress: rule.direction == "ingress",
        ip_version: if rule.ethertype == "IPv6" { 6 } else { 4 },
        // Protocol 0 by the name `ip` is every protocol.
        protocol: protocol_number(rule.protocol.as_deref()).filter(|_| rule.protocol.as_deref() != Some("ip")),
        port_min: port(rule.port_range_min),
        port_max: port(rule.port_range_max),
        remote,
    })
}

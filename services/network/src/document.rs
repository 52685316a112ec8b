//! The whole wanted network of a host, out of the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use base::Result;
use ipnet::IpNet;
use rpc::network::{
    AddressPair, DhcpOption, FloatingIp, Ipv6Mode, Lease, Limits, Network as WireNetwork, NetworkDocument, NetworkKind, Port as WirePort,
    Remote, RemoteHost, Route, Router as WireRouter, RouterGateway, RouterInterface, SecurityGroup as WireGroup, SecurityRule, ServicePort,
    Subnet as WireSubnet,
};
use store::{Tx, params};

use crate::networks::Net;
use crate::ports::{DOMAIN, FixedIp, Port};
use crate::qos::rules;
use crate::routers::{GATEWAY, INTERFACE, Router};
use crate::row::{self, Resource};
use crate::security_groups::SecurityGroup;
use crate::security_rules::{Rule, protocol_number};
use crate::seen::{Gather, Seen};
use crate::subnets::Subnet;
use crate::{encryption, ip, parts};

pub fn build(gather: &mut Gather, host_id: &str) -> Result<NetworkDocument> {
    let tx = gather.tx;
    let generation =
        tx.query_opt("SELECT wanted FROM network_host WHERE id = ?1", params![host_id], |row| row.count(0))?.unwrap_or_default();
    let bound = gather.of_host(host_id)?;
    let guests: Vec<&WirePort> = bound.iter().filter_map(|p| p.guest.as_ref()).collect();
    let mut network_ids: BTreeSet<String> = guests.iter().map(|p| p.network_id.clone()).collect();
    let routers = routers_on(gather, host_id, &network_ids)?;
    let router_ids: Vec<String> = routers.iter().map(|r| r.id().to_string()).collect();
    let joints: Vec<Port> = row::list_in::<Port>(tx, "device_id", &router_ids)?
        .into_iter()
        .filter(|p| {
            let leads_out = || routers.iter().any(|r| r.gateway_port.as_deref() == Some(p.id()));
            p.device_owner == INTERFACE || (p.device_owner == GATEWAY && leads_out())
        })
        .collect();
    let site = parts::Site::read(tx, host_id)?;
    let coming: BTreeSet<String> = bound.iter().filter(|p| p.guest.is_some() && p.host != host_id).map(|p| p.id.clone()).collect();
    let mut parts = Vec::new();
    for router in &routers {
        let own = joints.iter().filter(|p| p.device_id == router.id()).collect();
        parts.push(parts::Part::of(gather, &site, router, own, &coming)?);
    }
    network_ids.extend(parts.iter().flat_map(|part| part.networks()).map(str::to_string));
    let ids: Vec<String> = network_ids.into_iter().collect();
    let all = All {
        networks: row::list_in::<Net>(tx, "id", &ids)?.into_iter().map(|n| (n.id().to_string(), n)).collect(),
        subnets: row::list_in::<Subnet>(tx, "network_id", &ids)?.into_iter().map(|s| (s.id().to_string(), s)).collect(),
    };
    let carries = tx
        .query_opt("SELECT id FROM network_host ORDER BY started_at, id LIMIT 1", params![], |row| row.text(0))?
        .is_some_and(|first| first == host_id);
    let mut networks = Vec::new();
    for network in all.networks.values() {
        let mut wire = all.network(network, &gather.of_network(network.id())?, carries);
        if let NetworkKind::Overlay { .. } | NetworkKind::Vlan { .. } = wire.kind {
            wire.elsewhere = elsewhere(&gather.of_network(network.id())?, &site, &parts);
        }
        networks.push(wire);
    }
    Ok(NetworkDocument {
        generation,
        networks,
        routers: parts.iter().map(|part| all.router(&site, part)).collect(),
        security_groups: groups(gather, &guests)?,
        ports: limited(tx, &bound, &all)?,
        encryption: encryption::document(tx, host_id)?,
    })
}

/// The guests' ports, with what the rules of their policies let through. Rules change without their ports.
fn limited(tx: &Tx, bound: &[Arc<Seen>], all: &All) -> Result<Vec<WirePort>> {
    let policy = |seen: &Seen| {
        let network = all.networks.get(&seen.guest.as_ref()?.network_id)?;
        seen.qos_policy.clone().or_else(|| network.qos_policy_id.clone())
    };
    let policies: BTreeSet<String> = bound.iter().filter_map(|seen| policy(seen)).collect();
    let rules = rules::of_policies(tx, &policies.into_iter().collect::<Vec<_>>())?;
    let ports = bound.iter().filter_map(|seen| {
        let own = policy(seen).and_then(|policy| rules.get(&policy));
        Some(WirePort { limits: own.map(|rules| rules::limits(rules)).unwrap_or_default(), ..seen.guest.clone()? })
    });
    Ok(ports.collect())
}

/// Routers that join anything and have a part here: this host is their home, or has a guest on a network of theirs.
fn routers_on(gather: &mut Gather, host_id: &str, networks: &BTreeSet<String>) -> Result<Vec<Router>> {
    let joins = "_gateway_host = ?1 AND EXISTS (SELECT 1 FROM port p WHERE p.device_id = router.id AND p.device_owner IN ('network:router_interface', 'network:router_gateway'))";
    let mut routers: Vec<Router> = row::list(gather.tx, joins, params![host_id])?;
    let mut near: BTreeSet<String> = BTreeSet::new();
    for network in networks {
        near.extend(gather.of_network(network)?.iter().filter_map(|port| port.router.clone()));
    }
    near.retain(|id| !routers.iter().any(|r| r.id() == id));
    let near: Vec<String> = near.into_iter().collect();
    routers.extend(row::list_in::<Router>(gather.tx, "id", &near)?);
    routers.sort_by(|a, b| (&a.common.created_at, a.id()).cmp(&(&b.common.created_at, b.id())));
    Ok(routers)
}

/// The ports of a network that are on other hosts. The network's own port is on every host by itself, and a router that has a
/// part here is met here; its parts on other hosts are known by MACs of their own.
fn elsewhere(ports: &[Arc<Seen>], site: &parts::Site, parts: &[parts::Part]) -> Vec<RemoteHost> {
    let mut hosts: BTreeMap<IpAddr, RemoteHost> = BTreeMap::new();
    let new = |address: IpAddr| move || RemoteHost { address, ports: Vec::new(), ends: Vec::new() };
    for port in ports {
        match port.router.as_ref().and_then(|id| parts.iter().find(|part| part.router.id() == id)) {
            Some(part) => {
                for (host, address) in site.others().filter(|(host, _)| part.hosts.contains(*host)) {
                    hosts.entry(address).or_insert_with(new(address)).ends.push(parts::mac(&port.id, host));
                }
            }
            None => {
                if let (Some(address), Some(remote)) = (site.other(&port.host), &port.remote) {
                    hosts.entry(address).or_insert_with(new(address)).ports.push(remote.clone());
                }
            }
        }
    }
    hosts.into_values().collect()
}

struct All {
    networks: BTreeMap<String, Net>,
    subnets: HashMap<String, Subnet>,
}

impl All {
    fn network(&self, network: &Net, ports: &[Arc<Seen>], carries: bool) -> WireNetwork {
        let mut subnets: Vec<&Subnet> = self.subnets.values().filter(|s| s.network_id == network.id()).collect();
        subnets.sort_by(|a, b| (&a.common.created_at, a.id()).cmp(&(&b.common.created_at, b.id())));
        let physical_network = network.physical_network.clone().unwrap_or_default();
        let kind = match network.segmentation_id {
            Some(vni) if network.is_overlay() => NetworkKind::Overlay { vni: u32::try_from(vni).unwrap_or_default() },
            Some(id) => NetworkKind::Vlan { physical_network, id: u16::try_from(id).unwrap_or_default() },
            None => NetworkKind::Provider {
                physical_network,
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
        WireNetwork {
            id: network.id().into(),
            mtu: u32::try_from(network.mtu).unwrap_or(1500),
            kind,
            elsewhere: Vec::new(),
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

    fn router(&self, site: &parts::Site, part: &parts::Part) -> WireRouter {
        let router = part.router;
        let interfaces = part.interfaces().map(|p| RouterInterface {
            port_id: p.id().into(),
            network_id: p.network_id.clone(),
            mac: p.mac_address.clone(),
            end: if site.is_alone() { String::new() } else { parts::mac(p.id(), &site.host_id) },
            addresses: self.with_prefixes(&p.fixed_ips),
            mtu: self.mtu(&p.network_id),
        });
        let gateway = part.gateway().map(|p| RouterGateway {
            port_id: p.id().into(),
            network_id: p.network_id.clone(),
            mac: if part.is_home { p.mac_address.clone() } else { parts::mac(p.id(), &site.host_id) },
            addresses: self.with_prefixes(&p.fixed_ips),
            mtu: self.mtu(&p.network_id),
            nexthops: p.fixed_ips.iter().filter_map(|f| self.subnets.get(&f.subnet_id)?.gateway_ip).collect(),
            snat: router.external_gateway_info.as_ref().is_some_and(|g| g.enable_snat),
        });
        WireRouter {
            id: router.id().into(),
            admin_up: router.admin_state_up,
            interfaces: interfaces.collect(),
            gateway,
            floating: part
                .floating
                .iter()
                .filter_map(|(f, coming)| {
                    Some(FloatingIp { id: f.id().into(), floating: f.floating_ip_address, fixed: f.fixed_ip_address?, coming: *coming })
                })
                .collect(),
            routes: router.routes.iter().map(|r| Route { destination: r.destination, nexthop: r.nexthop }).collect(),
            home: part.home(site),
        }
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
        limits: Limits::default(),
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

//! What the servers of a namespace know: rebuilt from each document, read without waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rpc::network::{Lease, Network, NetworkDocument, Subnet};

use super::super::link::{Mac, mac_of_link_local, mac_parse};

/// A network as its servers see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub id: String,
    pub mtu: u32,
    /// Without the dot at the end; may be empty.
    pub domain: String,
    pub subnets: Vec<Subnet>,
    pub service: Vec<IpNet>,
    pub service_mac: Mac,
    pub leases: BTreeMap<Mac, Lease>,
    /// Subnets that a router on this host has an interface in.
    pub routed: BTreeSet<String>,
    /// Name servers for other names exist.
    pub callers: Vec<Caller>,
}

/// A guest's port on this host.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
    pub instance_id: String,
}

impl View {
    pub fn new(network: &Network, document: &NetworkDocument) -> View {
        let service = network.service_port.as_ref();
        let interfaces: Vec<IpAddr> = document
            .routers
            .iter()
            .filter(|r| r.admin_up)
            .flat_map(|r| &r.interfaces)
            .filter(|i| i.network_id == network.id)
            .flat_map(|i| i.addresses.iter().map(|a| a.addr()))
            .collect();
        View {
            id: network.id.clone(),
            mtu: network.mtu,
            domain: network.dns_domain.trim_matches('.').to_ascii_lowercase(),
            subnets: network.subnets.clone(),
            service: service.map(|s| s.addresses.clone()).unwrap_or_default(),
            service_mac: service.and_then(|s| mac_parse(&s.mac)).unwrap_or_default(),
            leases: network.leases.iter().filter_map(|l| Some((mac_parse(&l.mac)?, l.clone()))).collect(),
            routed: network.subnets.iter().filter(|s| interfaces.iter().any(|a| s.cidr.contains(a))).map(|s| s.id.clone()).collect(),
            callers: callers(&network.id, document),
        }
    }
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|s| s.cidr.contains(&address))
    }
    /// The service's own address in a subnet.
    pub fn service_in(&self, subnet: &Subnet) -> Option<IpAddr> {
        self.service.iter().map(|a| a.addr()).find(|a| subnet.cidr.contains(a))
    }
    pub fn service4(&self, subnet: &Subnet) -> Option<Ipv4Addr> {
        match self.service_in(subnet) {
            Some(IpAddr::V4(a)) => Some(a),
            _ => None,
        }
    }
    pub fn service6(&self) -> Option<Ipv6Addr> {
        self.service.iter().find_map(|a| match a.addr() {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        })
    }
}

fn callers(network_id: &str, document: &NetworkDocument) -> Vec<Caller> {
    let ports = document.ports.iter().filter(|p| p.network_id == network_id && p.admin_up);
    ports
        .filter_map(|p| Some(Caller { mac: mac_parse(&p.mac)?, addresses: p.addresses.clone(), instance_id: p.instance_id.clone() }))
        .collect()
}

/// Who may ask for metadata in a namespace, by source address. In a router's namespace a network's guests are
/// looked for only behind the interface that their address belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Callers {
    networks: Vec<(Option<Vec<IpNet>>, Vec<Caller>)>,
}

impl Callers {
    pub fn of_network(network_id: &str, document: &NetworkDocument) -> Callers {
        Callers { networks: vec![(None, callers(network_id, document))] }
    }
    pub fn of_router(router: &rpc::network::Router, document: &NetworkDocument) -> Callers {
        let networks =
            router.interfaces.iter().map(|i| (Some(i.addresses.iter().map(|a| a.trunc()).collect()), callers(&i.network_id, document)));
        Callers { networks: networks.collect() }
    }
    pub fn instance(&self, source: IpAddr) -> Option<&str> {
        let mac = match source {
            IpAddr::V6(v6) => mac_of_link_local(&v6),
            IpAddr::V4(_) => None,
        };
        self.networks
            .iter()
            .filter(|(nets, _)| nets.as_ref().is_none_or(|nets| nets.iter().any(|n| n.contains(&source))))
            .flat_map(|(_, callers)| callers)
            .find(|c| c.addresses.contains(&source) || mac == Some(c.mac))
            .map(|c| c.instance_id.as_str())
    }
}

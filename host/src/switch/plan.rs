//! From the wanted document to the wanted things: bridges, taps, namespaces with their links, routes and rules.
//!
//! Pure: looks at nothing but the document and the options. What cannot be planned becomes a line of `errors`
//! and is left out; everything else goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base::id::short;
use ipnet::IpNet;
use rpc::instance::tap_name;
use rpc::network::{Encryption, Network, NetworkDocument, NetworkKind, Router, RouterGateway, RouterHome};

use super::forwarding::Forwarding;
use super::link::{MAIN, Mac, OUTSIDE, link_local, mac_parse};
use super::nft::Ruleset;
use super::{METADATA_V4, METADATA_V6, Options, cipher, router_rules};

/// Names of links in the machine's own namespace, without clashes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    bridges: BTreeMap<String, String>,
    taps: BTreeMap<String, String>,
    /// Every outer end with its kind: `inner` (on a tenant's bridge), `service`, `tunnel`, `vlan`, `joint` (a router's, which has parts
    /// on other hosts), `provider` (on a bridge of a physical network), `trunk` (there for a VLAN).
    outer: BTreeMap<String, &'static str>,
}

impl Names {
    pub fn bridge(&self, network_id: &str) -> Option<&str> {
        self.bridges.get(network_id).map(String::as_str)
    }
    pub fn tap(&self, port_id: &str) -> Option<&str> {
        self.taps.get(port_id).map(String::as_str)
    }
    pub fn outer(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.outer.iter().map(|(name, kind)| (name.as_str(), *kind))
    }
    fn claim(&mut self, name: &str, kind: &'static str) -> bool {
        if self.outer.contains_key(name) {
            return false;
        }
        self.outer.insert(name.into(), kind);
        true
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Bridge {
    pub name: String,
    pub alias: String,
    /// False: the machine's own bridge for a physical network, of which we only use what is there.
    pub overlay: bool,
    pub mtu: u32,
    pub mac: Mac,
    /// Whether security groups need to see bridged packets.
    pub filtered: bool,
    pub addresses: Vec<IpNet>,
}

/// A link of the machine's own namespace in a bridge.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub name: String,
    pub alias: String,
    pub bridge: String,
    pub mtu: u32,
    pub kind: PortKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PortKind {
    Tap {
        port_id: String,
    },
    Tunnel {
        vni: u32,
        local: IpAddr,
        forwarding: Forwarding,
    },
    /// The outer end of a veth; `inner` is its name in `namespace`.
    Cable {
        namespace: String,
        inner: String,
        mac: Mac,
        /// Whether the bridge is told that the MAC is here, and need not learn it.
        pinned: bool,
    },
    /// The end of a VLAN's veth in the bridge of the physical network. It is made first, with the other.
    Trunk {
        id: u16,
        inner: String,
    },
    /// The end in the network's own bridge.
    Vlan {
        outer: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    pub name: String,
    pub alias: String,
    pub settings: Vec<(&'static str, &'static str)>,
    pub loopback: Vec<IpNet>,
    pub links: Vec<InnerLink>,
    pub routes: Vec<Route>,
    /// Whose packets go by the routes of [`OUTSIDE`] before the default route.
    pub sources: Vec<Ipv4Addr>,
    pub rules: Ruleset,
}

#[derive(Clone, Debug, PartialEq)]
pub struct InnerLink {
    pub name: String,
    pub outer: String,
    pub mac: Mac,
    pub mtu: u32,
    pub addresses: Vec<IpNet>,
    /// Tell the neighbours when an address is new: it may have been elsewhere.
    pub announce: bool,
    /// Packets may come by another link than the one that leads back.
    pub loose: bool,
    /// Neighbours that need not be asked for.
    pub neighbours: BTreeMap<IpAddr, Mac>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub destination: IpNet,
    pub via: Option<IpAddr>,
    pub link: String,
    /// [`MAIN`] or [`OUTSIDE`].
    pub table: u8,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub names: Names,
    pub bridges: Vec<Bridge>,
    pub ports: Vec<Port>,
    pub namespaces: Vec<Namespace>,
    /// How tunnels are encrypted, if they are.
    pub cipher: Option<cipher::Wanted>,
    pub errors: Vec<String>,
    /// What links of overlay networks let pass at least, in bytes.
    largest: u32,
}

pub fn router_namespace(id: &str) -> String {
    format!("sturnus-r-{id}")
}
pub fn service_namespace(id: &str) -> String {
    format!("sturnus-n-{id}")
}
pub fn interface_name(port_id: &str) -> String {
    format!("qr-{}", short(port_id, 11))
}
pub fn gateway_name(port_id: &str) -> String {
    format!("qg-{}", short(port_id, 11))
}
pub fn service_name(network_id: &str) -> String {
    format!("ns-{}", short(network_id, 11))
}

/// The name of a router interface's end in the bridge.
pub fn joint_name(port_id: &str) -> String {
    format!("sr{}", short(port_id, 11))
}
pub fn tunnel_name(network_id: &str) -> String {
    format!("vx{}", short(network_id, 11))
}
pub fn vlan_name(network_id: &str) -> String {
    format!("vi{}", short(network_id, 11))
}
fn trunk_name(network_id: &str) -> String {
    format!("vo{}", short(network_id, 11))
}

/// Whether a network has a bridge of its own: a tunnel's, a VLAN's, or one that never leaves the host. Others have the machine's.
pub fn is_inner(kind: &NetworkKind) -> bool {
    match kind {
        NetworkKind::Overlay { .. } | NetworkKind::Vlan { .. } => true,
        NetworkKind::Provider { physical_network, .. } => physical_network.is_empty(),
    }
}

/// How a router's part calls the router's home: next hops that only its own neighbour table knows.
const HOME_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
const HOME_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fd);

/// Whether an id can be part of names of files and links.
fn id_fits(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

const COMMON: [(&str, &str); 16] = [
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/dad_transmits", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
];

impl Plan {
    pub fn new(document: &NetworkDocument, options: &Options) -> Plan {
        let mut plan = Plan::default();
        if let Some(encryption) = &document.encryption {
            plan.encrypt(encryption, options);
        }
        for network in &document.networks {
            plan.network(network, document, options);
        }
        plan.trunks(document, options);
        for port in &document.ports {
            plan.tap(port, document);
        }
        for router in &document.routers {
            plan.router(router, document);
        }
        plan
    }

    fn encrypt(&mut self, encryption: &Encryption, options: &Options) {
        self.largest = encryption.largest;
        let Some(local) = options.vtep else { return };
        // Headers of IP and UDP, and WireGuard's 32 bytes.
        let outside = if local.is_ipv4() { 20 } else { 40 } + 8 + 32;
        let mut peers = BTreeMap::new();
        for peer in encryption.peers.iter().filter(|peer| peer.address != local) {
            match cipher::decode(&peer.key) {
                Some(key) => drop(peers.insert(peer.address, key)),
                None => self.errors.push(format!("the key of host {} cannot be read", peer.address)),
            }
        }
        self.cipher = Some(cipher::Wanted { local, port: encryption.port, mtu: encryption.mtu.saturating_sub(outside), peers });
    }

    /// The MTU of a network's links. Guests that were started with a larger MTU than the network has now must get through until they
    /// have heard of it: what is too large for the way to other hosts is sent in pieces, or answered by the tunnel.
    fn mtu(&self, network: &Network) -> u32 {
        let tunnelled = is_inner(&network.kind) && !matches!(network.kind, NetworkKind::Vlan { .. });
        if tunnelled { network.mtu.max(self.largest) } else { network.mtu }
    }

    fn network(&mut self, network: &Network, document: &NetworkDocument, options: &Options) {
        if !id_fits(&network.id) {
            return self.errors.push(format!("network {}: not an id", network.id));
        }
        let physical = match &network.kind {
            NetworkKind::Provider { physical_network, .. } if !is_inner(&network.kind) => Some(physical_network),
            NetworkKind::Vlan { physical_network, .. } => Some(physical_network),
            _ => None,
        };
        let bridge = physical.map(|name| options.physical_networks.get(name));
        if let (Some(physical), Some(None)) = (physical, bridge) {
            return self.errors.push(format!("network {}: no bridge for physical network {physical} here", network.id));
        }
        let (name, overlay, addresses) = match (&network.kind, bridge.flatten()) {
            (NetworkKind::Provider { host_addresses, .. }, Some(bridge)) => (bridge.clone(), false, host_addresses.clone()),
            _ => (format!("br{}", short(&network.id, 11)), true, Vec::new()),
        };
        if self.bridges.iter().any(|b| b.name == name) {
            return self.errors.push(format!("network {}: its bridge {name} is another network's", network.id));
        }
        self.names.bridges.insert(network.id.clone(), name.clone());
        self.bridges.push(Bridge {
            alias: format!("sturnus:network:{}", network.id),
            overlay,
            mtu: self.mtu(network),
            mac: stable_mac(&network.id),
            filtered: overlay || document.ports.iter().any(|p| p.network_id == network.id),
            addresses,
            name: name.clone(),
        });
        if let (NetworkKind::Overlay { vni }, Some(local)) = (&network.kind, options.vtep) {
            let tunnel = tunnel_name(&network.id);
            if self.names.claim(&tunnel, "tunnel") {
                let alias = format!("sturnus:tunnel:{}", network.id);
                let kind = PortKind::Tunnel { vni: *vni, local, forwarding: self.forwarding(network, local) };
                self.ports.push(Port { name: tunnel, alias, bridge: name.clone(), mtu: self.mtu(network), kind });
            }
        }
        if let (NetworkKind::Vlan { id, .. }, Some(trunk)) = (&network.kind, bridge.flatten()) {
            self.vlan(network, &name, *id, trunk);
        }
        self.service(network, &name, overlay);
    }

    /// The veth from a network's bridge to the physical network's.
    fn vlan(&mut self, network: &Network, bridge: &str, id: u16, trunk: &str) {
        let (outer, inner) = (trunk_name(&network.id), vlan_name(&network.id));
        if !self.names.claim(&outer, "trunk") || !self.names.claim(&inner, "vlan") {
            return self.errors.push(format!("network {}: link {outer} or {inner} is another network's", network.id));
        }
        let kind = PortKind::Trunk { id, inner: inner.clone() };
        let alias = format!("sturnus:trunk:{}", network.id);
        self.ports.push(Port { name: outer.clone(), alias, bridge: trunk.into(), mtu: network.mtu, kind });
        let alias = format!("sturnus:vlan:{}", network.id);
        self.ports.push(Port { name: inner, alias, bridge: bridge.into(), mtu: network.mtu, kind: PortKind::Vlan { outer } });
    }

    /// Bridges of physical networks of which only VLANs are here.
    fn trunks(&mut self, document: &NetworkDocument, options: &Options) {
        for network in &document.networks {
            let NetworkKind::Vlan { physical_network, .. } = &network.kind else { continue };
            let Some(name) = options.physical_networks.get(physical_network) else { continue };
            let alias = format!("sturnus:physical:{physical_network}");
            match self.bridges.iter_mut().find(|b| b.name == *name) {
                Some(bridge) if bridge.overlay => {
                    self.errors.push(format!("network {}: its bridge {name} is another network's", network.id))
                }
                Some(bridge) if bridge.alias == alias => bridge.mtu = bridge.mtu.max(network.mtu),
                Some(_) => {}
                None => self.bridges.push(Bridge {
                    name: name.clone(),
                    alias,
                    overlay: false,
                    mtu: network.mtu,
                    mac: stable_mac(physical_network),
                    filtered: false,
                    addresses: Vec::new(),
                }),
            }
        }
    }

    /// Where the network's ports on other hosts are.
    fn forwarding(&mut self, network: &Network, local: IpAddr) -> Forwarding {
        let mut forwarding = Forwarding::default();
        for host in network.elsewhere.iter().filter(|host| host.address != local) {
            if host.address.is_ipv4() != local.is_ipv4() {
                self.errors.push(format!("network {}: no tunnel leads from {local} to {}", network.id, host.address));
                continue;
            }
            // A router's part has no use for what is for everybody.
            if !host.ports.is_empty() {
                forwarding.hosts.insert(host.address);
            }
            for end in &host.ends {
                match mac_parse(end) {
                    Some(mac) => drop(forwarding.macs.insert(mac, host.address)),
                    None => {
                        self.errors.push(format!("network {}: a router's end on {} has no readable MAC: {end}", network.id, host.address))
                    }
                }
            }
            for port in &host.ports {
                let Some(mac) = mac_parse(&port.mac) else {
                    self.errors.push(format!("network {}: a port on {} has no readable MAC: {}", network.id, host.address, port.mac));
                    continue;
                };
                forwarding.macs.insert(mac, host.address);
                forwarding.neighbours.extend(port.addresses.iter().map(|address| (*address, mac)));
            }
        }
        forwarding
    }

    fn service(&mut self, network: &Network, bridge: &str, overlay: bool) {
        let Some(service) = &network.service_port else { return };
        let Some(mac) = mac_parse(&service.mac) else {
            return self.errors.push(format!("network {}: service port has no readable MAC: {}", network.id, service.mac));
        };
        let outer = format!("sn{}", short(&network.id, 11));
        if !self.names.claim(&outer, if overlay { "service" } else { "provider" }) {
            return self.errors.push(format!("network {}: link {outer} is another network's", network.id));
        }
        let namespace = service_namespace(&network.id);
        let inner = service_name(&network.id);
        let alias = format!("sturnus:service:{}", network.id);
        let mut addresses = service.addresses.clone();
        addresses.push(IpNet::from(IpAddr::V4(METADATA_V4)));
        if let Ok(net) = IpNet::new(IpAddr::V6(METADATA_V6), 64) {
            addresses.push(net);
        }
        // Guests of subnets that the service has no address in are on the same wire all the same.
        let routes = network
            .subnets
            .iter()
            .filter(|s| !service.addresses.iter().any(|a| a.trunc() == s.cidr.trunc()))
            .map(|s| Route { destination: s.cidr.trunc(), via: None, link: inner.clone(), table: MAIN })
            .collect();
        let kind = PortKind::Cable { namespace: namespace.clone(), inner: inner.clone(), mac, pinned: false };
        self.ports.push(Port { name: outer.clone(), alias: alias.clone(), bridge: bridge.into(), mtu: network.mtu, kind });
        self.namespaces.push(Namespace {
            name: namespace,
            alias,
            settings: COMMON.to_vec(),
            loopback: Vec::new(),
            links: vec![InnerLink { addresses, ..InnerLink::new(inner, outer, mac, network.mtu) }],
            routes,
            sources: Vec::new(),
            rules: Ruleset::default(),
        });
    }

    fn tap(&mut self, port: &rpc::network::Port, document: &NetworkDocument) {
        if !id_fits(&port.id) {
            return self.errors.push(format!("port {}: not an id", port.id));
        }
        let Some(network) = document.networks.iter().find(|n| n.id == port.network_id) else {
            return self.errors.push(format!("port {}: its network {} is not in the document", port.id, port.network_id));
        };
        let Some(bridge) = self.names.bridge(&network.id).map(str::to_string) else {
            return self.errors.push(format!("port {}: its network {} has no bridge here", port.id, port.network_id));
        };
        let name = tap_name(&port.id);
        let overlay = is_inner(&network.kind);
        if !self.names.claim(&name, if overlay { "inner" } else { "provider" }) {
            return self.errors.push(format!("port {}: tap {name} is another port's", port.id));
        }
        self.names.taps.insert(port.id.clone(), name.clone());
        let alias = format!("sturnus:port:{}", port.id);
        self.ports.push(Port { name, alias, bridge, mtu: self.mtu(network), kind: PortKind::Tap { port_id: port.id.clone() } });
    }

    /// Connects a router to a network; `outer` is the name of the end there, and `joint` whether the router has parts elsewhere.
    fn cable(&mut self, router: &Router, outer: String, inner: String, joint: bool, end: End<'_>) -> Option<InnerLink> {
        let End { port_id, network_id, mac, mtu } = end;
        let Some(bridge) = self.bridges.iter().find(|b| self.names.bridge(network_id) == Some(&b.name)) else {
            self.errors.push(format!("router {}: network {network_id} of its port {port_id} is not on this host", router.id));
            return None;
        };
        let Some(mac) = mac_parse(mac).filter(|_| id_fits(port_id)) else {
            self.errors.push(format!("router {}: port {port_id} has no readable id and MAC: {mac}", router.id));
            return None;
        };
        let mtu = if bridge.overlay { bridge.mtu } else { mtu };
        let (bridge, overlay) = (bridge.name.clone(), bridge.overlay);
        let kind = match (overlay, joint) {
            (true, true) => "joint",
            (true, false) => "inner",
            (false, _) => "provider",
        };
        if !self.names.claim(&outer, kind) {
            self.errors.push(format!("router {}: link {outer} is another port's", router.id));
            return None;
        }
        let alias = format!("sturnus:router-port:{port_id}");
        let kind = PortKind::Cable { namespace: router_namespace(&router.id), inner: inner.clone(), mac, pinned: overlay && joint };
        self.ports.push(Port { name: outer.clone(), alias, bridge, mtu, kind });
        Some(InnerLink { announce: true, loose: joint, ..InnerLink::new(inner, outer, mac, mtu) })
    }

    /// Has a network's bridge answer for addresses that are on this host, so that nobody asks other hosts for them.
    fn answer(&mut self, network_id: &str, mac: Mac, addresses: &[IpNet]) {
        let tunnel = tunnel_name(network_id);
        for port in self.ports.iter_mut().filter(|p| p.name == tunnel) {
            if let PortKind::Tunnel { forwarding, .. } = &mut port.kind {
                forwarding.neighbours.extend(addresses.iter().map(|a| (a.addr(), mac)));
                forwarding.neighbours.insert(link_local(&mac).into(), mac);
            }
        }
    }

    fn router(&mut self, router: &Router, document: &NetworkDocument) {
        if !id_fits(&router.id) {
            return self.errors.push(format!("router {}: not an id", router.id));
        }
        let mut links: Vec<InnerLink> = Vec::new();
        for interface in &router.interfaces {
            let end = End { port_id: &interface.port_id, network_id: &interface.network_id, mac: &interface.mac, mtu: interface.mtu };
            let (outer, inner) = (joint_name(&interface.port_id), interface_name(&interface.port_id));
            let joint = !interface.end.is_empty();
            if let Some(mut link) = self.cable(router, outer, inner, joint, end) {
                link.addresses = interface.addresses.clone();
                link.neighbours = neighbours(document, &interface.network_id);
                if joint {
                    self.answer(&interface.network_id, link.mac, &link.addresses);
                }
                links.push(link);
            }
        }
        let mut routes = Vec::new();
        if let Some(home) = &router.home {
            self.way_home(router, home, &mut links, &mut routes);
        }
        let inside = links.len();
        if let Some(gateway) = &router.gateway {
            links.extend(self.way_out(router, gateway, document, &mut routes));
        }
        for floating in router.floating.iter().filter(|f| !f.floating.is_ipv4() || !f.fixed.is_ipv4()) {
            self.errors.push(format!("floating address {}: {} for {} is not IPv4", floating.id, floating.floating, floating.fixed));
        }
        for route in &router.routes {
            let reaches = |l: &&InnerLink| l.addresses.iter().any(|a| a.contains(&route.nexthop));
            let (link, table) = match (links[..inside].iter().find(reaches), &router.home) {
                (Some(link), _) => (Some(link), MAIN),
                (None, None) => (links.iter().find(reaches), MAIN),
                // The home knows the way, and those that leave here need it here.
                (None, Some(_)) if links.len() == inside || !route.nexthop.is_ipv4() => continue,
                (None, Some(_)) => (links.last(), OUTSIDE),
            };
            match link {
                Some(link) => {
                    let route = Route { destination: route.destination.trunc(), via: Some(route.nexthop), link: link.name.clone(), table };
                    routes.retain(|r| (r.destination, r.table) != (route.destination, route.table));
                    routes.push(route);
                }
                None => self.errors.push(format!("router {}: no interface reaches next hop {}", router.id, route.nexthop)),
            }
        }
        let v4 = |address: IpAddr| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        // The floating addresses too: who asks for one of them must be answered by the link that leads there.
        let own = router.floating.iter().filter(|_| router.home.is_some());
        let sources: BTreeSet<Ipv4Addr> = own.flat_map(|f| [f.fixed, f.floating]).filter_map(v4).collect();
        let mut settings = COMMON.to_vec();
        settings.extend([
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "1"),
            ("net/ipv4/conf/default/rp_filter", "1"),
        ]);
        self.namespaces.push(Namespace {
            name: router_namespace(&router.id),
            alias: format!("sturnus:router:{}", router.id),
            settings,
            loopback: vec![IpNet::from(IpAddr::V4(METADATA_V4))],
            links,
            routes,
            sources: sources.into_iter().collect(),
            rules: router_rules::ruleset(router),
        });
    }
}

impl Plan {
    /// What a part does not lead out itself goes to the router's home, through one of the networks they both are on.
    fn way_home(&mut self, router: &Router, home: &RouterHome, links: &mut [InnerLink], routes: &mut Vec<Route>) {
        if home.mac.is_empty() {
            return;
        }
        let name = interface_name(&home.port_id);
        let (Some(link), Some(mac)) = (links.iter_mut().find(|l| l.name == name), mac_parse(&home.mac)) else {
            return self.errors.push(format!("router {}: no way to its home through {} to {}", router.id, home.port_id, home.mac));
        };
        for nexthop in [IpAddr::V4(HOME_V4), IpAddr::V6(HOME_V6)] {
            link.neighbours.insert(nexthop, mac);
            routes.extend(default_route(nexthop, &name, MAIN));
        }
    }

    /// The link to the outside, and what leaves by it. A part that is not the home leads out its floating addresses only.
    fn way_out(
        &mut self,
        router: &Router,
        gateway: &RouterGateway,
        document: &NetworkDocument,
        routes: &mut Vec<Route>,
    ) -> Option<InnerLink> {
        let end = End { port_id: &gateway.port_id, network_id: &gateway.network_id, mac: &gateway.mac, mtu: gateway.mtu };
        let outer = format!("sg{}", short(&gateway.port_id, 11));
        let mut link = self.cable(router, outer, gateway_name(&gateway.port_id), false, end)?;
        let whole = router.home.is_none();
        let (own, table) = if whole { (gateway.addresses.as_slice(), MAIN) } else { (&[][..], OUTSIDE) };
        link.addresses = own.to_vec();
        let floating: BTreeSet<IpAddr> = router.floating.iter().filter(|f| !f.coming).map(|f| f.floating).collect();
        for address in floating {
            if !link.addresses.iter().any(|a| a.addr() == address) {
                link.addresses.push(IpNet::from(address));
            }
        }
        for nexthop in gateway.nexthops.iter().filter(|n| whole || n.is_ipv4()) {
            routes.extend(default_route(*nexthop, &link.name, table));
        }
        // The gateway's own subnets; others of the external network are on the same wire.
        if let Some(network) = document.networks.iter().find(|n| n.id == gateway.network_id) {
            for subnet in network.subnets.iter().filter(|s| whole || s.cidr.addr().is_ipv4()) {
                if !own.iter().any(|a| a.trunc() == subnet.cidr.trunc()) {
                    routes.push(Route { destination: subnet.cidr.trunc(), via: None, link: link.name.clone(), table });
                }
            }
        }
        Some(link)
    }
}

impl InnerLink {
    fn new(name: String, outer: String, mac: Mac, mtu: u32) -> InnerLink {
        InnerLink { name, outer, mac, mtu, addresses: Vec::new(), announce: false, loose: false, neighbours: BTreeMap::new() }
    }
}

/// Who of a VLAN is on other hosts: bridges do not answer for them, as those with tunnels do.
fn neighbours(document: &NetworkDocument, network_id: &str) -> BTreeMap<IpAddr, Mac> {
    let is_vlan = |network: &&Network| network.id == network_id && matches!(network.kind, NetworkKind::Vlan { .. });
    let remote = document.networks.iter().filter(is_vlan).flat_map(|n| &n.elsewhere).flat_map(|host| &host.ports);
    remote
        .filter_map(|port| Some((mac_parse(&port.mac)?, port)))
        .flat_map(|(mac, port)| port.addresses.iter().map(move |a| (*a, mac)))
        .collect()
}

fn default_route(nexthop: IpAddr, link: &str, table: u8) -> Option<Route> {
    let any = if nexthop.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    Some(Route { destination: IpNet::new(any, 0).ok()?, via: Some(nexthop), link: link.into(), table })
}

struct End<'a> {
    port_id: &'a str,
    network_id: &'a str,
    mac: &'a str,
    mtu: u32,
}

/// A MAC for a network's bridge that is the same after every restart: others keep it in their ARP caches.
fn stable_mac(id: &str) -> Mac {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(id.as_bytes());
    [0x02, hash[0], hash[1], hash[2], hash[3], hash[4]]
}

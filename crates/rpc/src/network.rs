//! The whole wanted network of one host, as one document.
//!
//! The host computes the difference to what is there and applies it at once. Addresses are text in the
//! usual forms; every `id` is the OpenStack id of the resource.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDocument {
    /// Counts the host's document; a lower one than stored is ignored.
    pub generation: u64,
    pub networks: Vec<Network>,
    /// Ports bound to this host that have a tap.
    pub ports: Vec<Port>,
    /// Routers that have a part on this host: those of its guests' networks, and those it is the home of.
    pub routers: Vec<Router>,
    /// Groups that `ports` name, and groups those refer to, with their members on any host.
    pub security_groups: Vec<SecurityGroup>,
    /// How what goes to other hosts is encrypted. None: it is not.
    #[serde(default)]
    pub encryption: Option<Encryption>,
}

/// Tunnels between hosts within WireGuard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// UDP port of every host.
    pub port: u16,
    /// MTU of the network among the hosts, in bytes.
    pub mtu: u32,
    /// The largest MTU that networks of the site have when nothing is encrypted: what guests may have that heard of no other yet.
    pub largest: u32,
    pub peers: Vec<Peer>,
}

/// Another host that tunnels lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its end of tunnels.
    pub address: IpAddr,
    /// Its public key (Curve25519), as base64.
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: String,
    pub mtu: u32,
    pub kind: NetworkKind,
    pub subnets: Vec<Subnet>,
    /// The network's own port on every host (`network:distributed`): DHCP, DNS and metadata answer on it.
    /// Absent when no subnet has DHCP enabled.
    pub service_port: Option<ServicePort>,
    pub dns_domain: String,
    /// Ports of the network on other hosts, by host: where tunnels lead. Of a VLAN they are what routers need not ask for; empty for
    /// networks of the machine's own bridges.
    #[serde(default)]
    pub elsewhere: Vec<RemoteHost>,
    /// Addresses DHCP and RA hand out for *all* ports of the network, bound here or not.
    pub leases: Vec<Lease>,
}

/// Another host with ports of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteHost {
    /// Its end of tunnels.
    pub address: IpAddr,
    pub ports: Vec<RemotePort>,
    /// MACs of routers' parts there. They speak with ports of the network, and need nothing that is for everybody.
    #[serde(default)]
    pub ends: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemotePort {
    pub mac: String,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// VXLAN between hosts under this network identifier.
    Overlay { vni: u32 },
    /// The machine's own bridge for a physical network; `host_addresses` are put on the bridge so that the
    /// machine reaches floating addresses (all-in-one), and are its subnets' gateways.
    Provider { physical_network: String, host_addresses: Vec<IpNet> },
    /// A VLAN (1 to 4094) of a physical network: on the machine's bridge for that, every frame has the tag.
    Vlan { physical_network: String, id: u16 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub id: String,
    pub cidr: IpNet,
    pub gateway: Option<IpAddr>,
    pub dhcp: bool,
    pub dns: Vec<IpAddr>,
    pub host_routes: Vec<Route>,
    /// Of IPv6 subnets: who sends RA and how addresses are made.
    pub ipv6: Option<Ipv6Mode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ipv6Mode {
    Slaac,
    DhcpStateless,
    DhcpStateful,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpNet,
    pub nexthop: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub port_id: String,
    pub mac: String,
    pub addresses: Vec<IpNet>,
}

/// A DHCP reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub port_id: String,
    pub mac: String,
    pub addresses: Vec<IpAddr>,
    pub hostname: String,
    /// Extra DHCP options of the port: name or number → value, per IP version.
    pub options: Vec<DhcpOption>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpOption {
    pub name: String,
    pub value: String,
    pub ip_version: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub id: String,
    pub network_id: String,
    /// The guest behind the port: answers metadata by it.
    pub instance_id: String,
    pub mac: String,
    pub admin_up: bool,
    /// Source addresses the guest may use; more pairs come from `allowed_pairs`.
    pub addresses: Vec<IpAddr>,
    pub allowed_pairs: Vec<AddressPair>,
    /// False: no filtering at all on this port.
    pub port_security: bool,
    pub security_groups: Vec<String>,
    #[serde(default)]
    pub limits: Limits,
}

/// How much a port carries at most, as its guest sees the directions, and how what it sends is marked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub egress: Option<Limit>,
    pub ingress: Option<Limit>,
    pub egress_packets: Option<PacketLimit>,
    pub ingress_packets: Option<PacketLimit>,
    /// The DSCP of every IP packet that it sends (RFC 2474); none: what its guest says.
    pub mark: Option<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    /// Kilobits per second.
    pub rate: u64,
    /// Kilobits that may pass at once beyond the rate.
    pub burst: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PacketLimit {
    /// Thousands of packets per second.
    pub rate: u64,
    /// Thousands of packets that may pass at once beyond the rate.
    pub burst: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPair {
    pub mac: String,
    pub cidr: IpNet,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    pub id: String,
    pub admin_up: bool,
    pub interfaces: Vec<RouterInterface>,
    pub gateway: Option<RouterGateway>,
    /// Those that this part leads to its guests.
    pub floating: Vec<FloatingIp>,
    pub routes: Vec<Route>,
    /// The way to the outside, for what leaves without a floating address of this part. None: here, or nowhere.
    #[serde(default)]
    pub home: Option<RouterHome>,
}

/// The part of a router that has its gateway's address, on another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterHome {
    /// The interface through which this part reaches it.
    pub port_id: String,
    /// Its own MAC there; empty while the router has no home.
    pub mac: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterInterface {
    pub port_id: String,
    pub network_id: String,
    /// The same on every host: guests only know this one.
    pub mac: String,
    /// This part's own MAC, by which other hosts reach it; empty when there are no others.
    #[serde(default)]
    pub end: String,
    pub addresses: Vec<IpNet>,
    pub mtu: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterGateway {
    pub port_id: String,
    pub network_id: String,
    /// This part's own.
    pub mac: String,
    /// The router's own addresses, which only its home has on its link.
    pub addresses: Vec<IpNet>,
    pub mtu: u32,
    /// Next hops of the default routes, one an IP version.
    pub nexthops: Vec<IpAddr>,
    /// Whether guests without a floating address leave under the gateway's.
    pub snat: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloatingIp {
    pub id: String,
    pub floating: IpAddr,
    pub fixed: IpAddr,
    /// Its guest is on its way here: what it sends leaves under the address, which is still on another host.
    #[serde(default)]
    pub coming: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    pub id: String,
    pub stateful: bool,
    pub rules: Vec<SecurityRule>,
    /// Addresses of all ports in the group and those they are allowed besides, on any host: what `remote_group` rules match.
    pub members: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityRule {
    pub id: String,
    pub ingress: bool,
    /// 4 or 6.
    pub ip_version: u8,
    /// IP protocol number; none: any.
    pub protocol: Option<u8>,
    /// Port range, or ICMP type and code.
    pub port_min: Option<u16>,
    pub port_max: Option<u16>,
    pub remote: Remote,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remote {
    Any,
    Cidr(IpNet),
    Group(String),
}

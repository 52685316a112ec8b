//! Links, addresses and routes of one namespace, by netlink.
//!
//! Every link the switch makes carries [`GROUP`] from its first instant (the kernel sets it in the request that
//! makes the link), and then an alias `sturnus:<kind>:<id>`. The group proves that a link is ours even when the
//! process died before it could name it; the alias says what it is for.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use nix::errno::Errno;

use super::netlink::{self, Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, as_text, as_u32, find};

/// `Stur`: the group of all our links.
pub const GROUP: u32 = 0x5374_7572;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const BR_FORWARD_DELAY: u16 = 1;
const BR_STP_STATE: u16 = 5;
const BR_MCAST_SNOOPING: u16 = 23;
const BR_NF_CALL_IPTABLES: u16 = 36;
const BR_NF_CALL_IP6TABLES: u16 = 37;
const BRPORT_LEARNING: u16 = 8;
const BRPORT_UNICAST_FLOOD: u16 = 9;
const BRPORT_NEIGH_SUPPRESS: u16 = 32;
const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const VXLAN_LOCAL6: u16 = 17;
const VETH_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const IFA_F_NODAD: u8 = 2;

pub type Mac = [u8; 6];

pub fn mac_parse(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

pub fn mac_text(mac: &Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// The link-local address that an interface with this MAC makes itself.
pub fn link_local(mac: &Mac) -> Ipv6Addr {
    let m = mac.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (m[0] ^ 2) << 8 | m[1], m[2] << 8 | 0xff, 0xfe00 | m[3], m[4] << 8 | m[5])
}

/// The MAC that made this link-local address, if one did.
pub fn mac_of_link_local(address: &Ipv6Addr) -> Option<Mac> {
    let o = address.octets();
    (o[..8] == [0xfe, 0x80, 0, 0, 0, 0, 0, 0] && o[11..13] == [0xff, 0xfe]).then(|| [o[8] ^ 2, o[9], o[10], o[13], o[14], o[15]])
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub kind: String,
    pub alias: String,
    pub group: u32,
    pub mtu: u32,
    pub master: u32,
    pub mac: Option<Mac>,
    pub up: bool,
    /// Of a veth: the other end's index, in its own namespace.
    pub peer: u32,
    /// Of a bridge: whether bridged packets pass the `inet` hooks.
    pub filtered: bool,
}

pub fn link_list(netlink: &mut Netlink) -> io::Result<BTreeMap<String, Link>> {
    let message = Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0));
    Ok(netlink.dump(message)?.iter().filter_map(|body| link_read(body)).map(|l| (l.name.clone(), l)).collect())
}

pub fn link_get(netlink: &mut Netlink, name: &str) -> io::Result<Option<Link>> {
    match netlink.get(Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0)).text(IFLA_IFNAME, name)) {
        Ok(body) => Ok(link_read(&body)),
        Err(e) if netlink::is_errno(&e, Errno::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

fn link_read(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: as_u32(body.get(4..8)?), up: as_u32(body.get(8..12)?) & IFF_UP != 0, ..Link::default() };
    for (kind, value) in netlink::attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = as_text(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MTU => link.mtu = as_u32(value),
            IFLA_LINK => link.peer = as_u32(value),
            IFLA_MASTER => link.master = as_u32(value),
            IFLA_IFALIAS => link.alias = as_text(value),
            IFLA_GROUP => link.group = as_u32(value),
            IFLA_LINKINFO => {
                link.kind = find(value, INFO_KIND).map(as_text).unwrap_or_default();
                if link.kind == "bridge" {
                    let data = find(value, INFO_DATA).unwrap_or_default();
                    let set = |kind| find(data, kind).is_some_and(|v| v.first() == Some(&1));
                    link.filtered = set(BR_NF_CALL_IPTABLES) && set(BR_NF_CALL_IP6TABLES);
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn link_new(name: &str) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0)).text(IFLA_IFNAME, name).u32(IFLA_GROUP, GROUP)
}

pub fn bridge_create(netlink: &mut Netlink, name: &str, mac: &Mac, mtu: u32) -> io::Result<()> {
    let message = link_new(name).attr(IFLA_ADDRESS, mac).u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |m| {
        m.text(INFO_KIND, "bridge").nest(INFO_DATA, |m| {
            m.u32(BR_FORWARD_DELAY, 0).u32(BR_STP_STATE, 0).u8(BR_MCAST_SNOOPING, 0).u8(BR_NF_CALL_IPTABLES, 1).u8(BR_NF_CALL_IP6TABLES, 1)
        })
    });
    netlink.change(&format!("make bridge {name}"), message)
}

/// Lets bridged packets of a bridge pass the `inet` hooks, so that security groups see them.
pub fn bridge_filter(netlink: &mut Netlink, link: &Link) -> io::Result<()> {
    let message = Message::new(RTM_NEWLINK, 0, &ifinfo(link.index, 0, 0))
        .nest(IFLA_LINKINFO, |m| m.text(INFO_KIND, "bridge").nest(INFO_DATA, |m| m.u8(BR_NF_CALL_IPTABLES, 1).u8(BR_NF_CALL_IP6TABLES, 1)));
    netlink.change(&format!("filter bridge {}", link.name), message)
}

pub fn vxlan_create(netlink: &mut Netlink, name: &str, vni: u32, local: IpAddr, mtu: u32) -> io::Result<()> {
    let message = link_new(name).u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |m| {
        m.text(INFO_KIND, "vxlan").nest(INFO_DATA, |m| {
            let m = match local {
                IpAddr::V4(a) => m.attr(VXLAN_LOCAL, &a.octets()),
                IpAddr::V6(a) => m.attr(VXLAN_LOCAL6, &a.octets()),
            };
            m.u32(VXLAN_ID, vni).u8(VXLAN_LEARNING, 0).attr(VXLAN_PORT, &4789u16.to_be_bytes())
        })
    });
    netlink.change(&format!("make tunnel {name}"), message)
}

/// The end of a veth that goes into another namespace.
pub struct Peer<'a> {
    pub name: &'a str,
    pub namespace: BorrowedFd<'a>,
    pub mac: Mac,
}

/// A veth with both ends here.
pub fn cable_create(netlink: &mut Netlink, name: &str, peer: &str, mtu: u32) -> io::Result<()> {
    let message = link_new(name).u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |m| {
        m.text(INFO_KIND, "veth").nest(INFO_DATA, |m| {
            m.nest_behind(VETH_PEER, &ifinfo(0, 0, 0), |m| m.text(IFLA_IFNAME, peer).u32(IFLA_MTU, mtu).u32(IFLA_GROUP, GROUP))
        })
    });
    netlink.change(&format!("make veth {name}"), message)
}

pub fn veth_create(netlink: &mut Netlink, name: &str, mtu: u32, peer: Peer<'_>) -> io::Result<()> {
    let message = link_new(name).u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |m| {
        m.text(INFO_KIND, "veth").nest(INFO_DATA, |m| {
            m.nest_behind(VETH_PEER, &ifinfo(0, 0, 0), |m| {
                m.text(IFLA_IFNAME, peer.name)
                    .attr(IFLA_ADDRESS, &peer.mac)
                    .u32(IFLA_MTU, mtu)
                    .u32(IFLA_GROUP, GROUP)
                    .u32(IFLA_NET_NS_FD, peer.namespace.as_raw_fd() as u32)
            })
        })
    });
    netlink.change(&format!("make veth {name}"), message)
}

/// Marks a link as ours and keeps the kernel from giving it addresses of its own.
pub fn link_mark(netlink: &mut Netlink, index: u32, alias: &str, quiet: bool) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).u32(IFLA_GROUP, GROUP).attr(IFLA_IFALIAS, alias.as_bytes());
    if quiet {
        // IFLA_INET6_ADDR_GEN_MODE (8) = none (1): else the machine would speak on tenants' networks.
        message = message.nest(IFLA_AF_SPEC, |m| m.nest(u16::from(AF_INET6), |m| m.u8(8, 1)));
    }
    netlink.change(&format!("mark {alias}"), message)
}

/// What [`link_set`] changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub mtu: Option<u32>,
    pub master: Option<u32>,
    pub mac: Option<Mac>,
    pub up: bool,
}

pub fn link_set(netlink: &mut Netlink, index: u32, what: &str, change: Change) -> io::Result<()> {
    let flags = if change.up { IFF_UP } else { 0 };
    let message = Message::new(RTM_NEWLINK, 0, &ifinfo(index, flags, flags))
        .maybe(change.mtu, |m, v| m.u32(IFLA_MTU, v))
        .maybe(change.mac, |m, v| m.attr(IFLA_ADDRESS, &v))
        .maybe(change.master, |m, v| m.u32(IFLA_MASTER, v));
    netlink.change(&format!("set link {what}"), message)
}

/// A tunnel's place in its bridge: the controller says where a MAC is, nothing is learned, and what is for a MAC that nobody
/// knows stays here.
pub fn tunnel_port(netlink: &mut Netlink, index: u32, name: &str) -> io::Result<()> {
    let message = Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).nest(IFLA_LINKINFO, |m| {
        m.text(INFO_SLAVE_KIND, "bridge")
            .nest(INFO_SLAVE_DATA, |m| m.u8(BRPORT_LEARNING, 0).u8(BRPORT_UNICAST_FLOOD, 0).u8(BRPORT_NEIGH_SUPPRESS, 1))
    });
    netlink.change(&format!("set tunnel {name}"), message)
}

pub fn link_delete(netlink: &mut Netlink, link: &Link) -> io::Result<()> {
    match netlink.change(&format!("remove link {}", link.name), Message::new(RTM_DELLINK, 0, &ifinfo(link.index, 0, 0))) {
        Err(e) if netlink::is_errno(&e, Errno::ENODEV) => Ok(()),
        other => other,
    }
}

pub fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub fn family(address: &IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

pub fn address_from(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| IpAddr::V6(Ipv6Addr::from(b))),
        _ => None,
    }
}

/// All addresses of the namespace with the index of their link.
pub fn address_list(netlink: &mut Netlink) -> io::Result<Vec<(u32, IpNet)>> {
    let mut found = Vec::new();
    for body in netlink.dump(Message::new(RTM_GETADDR, 0, &[0; 8]))? {
        let (Some(head), Some(rest)) = (body.get(..8), body.get(8..)) else { continue };
        // IFA_LOCAL (2) where the address of a point-to-point link would differ, else IFA_ADDRESS (1).
        let Some(address) = find(rest, 2).or_else(|| find(rest, 1)).and_then(address_from) else { continue };
        if let Ok(net) = IpNet::new(address, head[1]) {
            found.push((as_u32(&head[4..8]), net));
        }
    }
    Ok(found)
}

fn address_message(kind: u16, flags: u16, index: u32, net: &IpNet) -> Message {
    let address = net.addr();
    let mut fixed = [family(&address), net.prefix_len(), IFA_F_NODAD, 0, 0, 0, 0, 0];
    if address.is_ipv4() {
        fixed[2] = 0;
    }
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(&address);
    let message = Message::new(kind, flags, &fixed).attr(2, &bytes).attr(1, &bytes);
    match net {
        IpNet::V4(v4) if v4.prefix_len() < 31 => message.attr(4, &v4.broadcast().octets()),
        _ => message,
    }
}

pub fn address_add(netlink: &mut Netlink, index: u32, net: &IpNet) -> io::Result<()> {
    netlink.change(&format!("add address {net}"), address_message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, net))
}

pub fn address_delete(netlink: &mut Netlink, index: u32, net: &IpNet) -> io::Result<()> {
    match netlink.change(&format!("remove address {net}"), address_message(RTM_DELADDR, 0, index, net)) {
        Err(e) if netlink::is_errno(&e, Errno::EADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}

/// Routing tables: everybody's, and that of packets with a way out of their own.
pub const MAIN: u8 = 254;
pub const OUTSIDE: u8 = 100;

/// A route in a namespace of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteEntry {
    pub destination: IpNet,
    pub via: Option<IpAddr>,
    pub index: u32,
    pub table: u8,
}

/// The routes somebody set, not those the kernel makes for addresses.
pub fn route_list(netlink: &mut Netlink) -> io::Result<Vec<RouteEntry>> {
    let mut found = Vec::new();
    for v in [AF_INET, AF_INET6] {
        let mut fixed = [0; 12];
        fixed[0] = v;
        for body in netlink.dump(Message::new(RTM_GETROUTE, 0, &fixed))? {
            let (Some(head), Some(rest)) = (body.get(..12), body.get(12..)) else { continue };
            // Protocol static, type unicast.
            if ![MAIN, OUTSIDE].contains(&head[4]) || head[5] != 4 || head[7] != 1 {
                continue;
            }
            let any = if v == AF_INET { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
            let destination = find(rest, 1).and_then(address_from).unwrap_or(any);
            let Ok(destination) = IpNet::new(destination, head[1]) else { continue };
            let via = find(rest, 5).and_then(address_from);
            found.push(RouteEntry { destination, via, index: find(rest, 4).map_or(0, as_u32), table: head[4] });
        }
    }
    Ok(found)
}

fn route_message(kind: u16, flags: u16, route: &RouteEntry) -> Message {
    let net = route.destination;
    let mut fixed = [family(&net.addr()), net.prefix_len(), 0, 0, route.table, 4, 0, 1, 0, 0, 0, 0];
    if route.via.is_none() && net.addr().is_ipv4() {
        fixed[6] = 253; // scope link
    }
    if route.via.is_some() {
        fixed[8..12].copy_from_slice(&4u32.to_ne_bytes()); // onlink: the next hop need not be in the subnet
    }
    let mut message = Message::new(kind, flags, &fixed).u32(4, route.index);
    if net.prefix_len() > 0 {
        message = message.attr(1, &octets(&net.network()));
    }
    message.maybe(route.via, |m, via| m.attr(5, &octets(&via)))
}

pub fn route_add(netlink: &mut Netlink, route: &RouteEntry) -> io::Result<()> {
    netlink.change(&format!("add route {}", route.destination), route_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route))
}

pub fn route_delete(netlink: &mut Netlink, route: &RouteEntry) -> io::Result<()> {
    match netlink.change(&format!("remove route {}", route.destination), route_message(RTM_DELROUTE, 0, route)) {
        Err(e) if netlink::is_errno(&e, Errno::ESRCH) => Ok(()),
        other => other,
    }
}

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
/// The first of our rules: whatever is known but the default route comes before any way out.
const KNOWN_FIRST: u32 = 100;
const BY_SOURCE: u32 = 200;

/// A rule by which packets find their table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The main table without its default route.
    KnownFirst,
    /// Packets from this address go by [`OUTSIDE`].
    Source(Ipv4Addr),
}

/// Our rules of a namespace, for IPv4.
pub fn rule_list(netlink: &mut Netlink) -> io::Result<Vec<Rule>> {
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    let mut found = Vec::new();
    for body in netlink.dump(Message::new(RTM_GETRULE, 0, &fixed))? {
        let Some(rest) = body.get(12..) else { continue };
        match (find(rest, FRA_PRIORITY).map(as_u32), find(rest, FRA_SRC).and_then(address_from)) {
            (Some(KNOWN_FIRST), _) => found.push(Rule::KnownFirst),
            (Some(BY_SOURCE), Some(IpAddr::V4(source))) => found.push(Rule::Source(source)),
            _ => {}
        }
    }
    Ok(found)
}

fn rule_message(kind: u16, flags: u16, rule: &Rule) -> Message {
    // `struct fib_rule_hdr`; the action is 1: look into a table.
    let mut fixed = [AF_INET, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    match rule {
        Rule::KnownFirst => {
            fixed[4] = MAIN;
            let message = Message::new(kind, flags, &fixed).u32(FRA_PRIORITY, KNOWN_FIRST).u32(FRA_TABLE, MAIN.into());
            message.u32(FRA_SUPPRESS_PREFIXLEN, 0)
        }
        Rule::Source(source) => {
            (fixed[2], fixed[4]) = (32, OUTSIDE);
            let message = Message::new(kind, flags, &fixed).u32(FRA_PRIORITY, BY_SOURCE).u32(FRA_TABLE, OUTSIDE.into());
            message.attr(FRA_SRC, &source.octets())
        }
    }
}

pub fn rule_add(netlink: &mut Netlink, rule: &Rule) -> io::Result<()> {
    netlink.change(&format!("add rule {rule:?}"), rule_message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule))
}

pub fn rule_delete(netlink: &mut Netlink, rule: &Rule) -> io::Result<()> {
    match netlink.change(&format!("remove rule {rule:?}"), rule_message(RTM_DELRULE, 0, rule)) {
        Err(e) if netlink::is_errno(&e, Errno::ENOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_and_link_local_addresses() {
        let mac = mac_parse("fa:16:3e:00:0a:ff").unwrap();
        assert_eq!(mac_text(&mac), "fa:16:3e:00:0a:ff");
        let address = link_local(&mac);
        assert_eq!(address.to_string(), "fe80::f816:3eff:fe00:aff");
        assert_eq!(mac_of_link_local(&address), Some(mac));
        for bad in ["", "fa:16:3e:00:0a", "fa:16:3e:00:0a:ff:00", "fa:16:3e:00:0a:fg", "fa163e000aff", "+1:16:3e:00:0a:ff"] {
            assert_eq!(mac_parse(bad), None, "{bad}");
        }
    }
}

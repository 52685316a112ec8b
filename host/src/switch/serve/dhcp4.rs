//! DHCP for IPv4: answers known MACs with the one lease each has, silence for all others.
//!
//! Pure: bytes in, bytes out. Leases are the network service's reservations, so nothing is handed out or taken
//! back here; DECLINE and RELEASE change nothing.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use rpc::network::{Lease, Subnet};

use super::super::METADATA_V4;
use super::super::link::Mac;
use super::options::{name_bytes, option4, route_bytes};
use super::view::View;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const LEASE_SECONDS: u32 = 86_400;
/// What every client takes, without IP and UDP headers.
const SMALLEST: usize = 548;
const LARGEST: usize = 1400;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

/// A client's message, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: u8,
    xid: [u8; 4],
    broadcast: bool,
    ciaddr: Ipv4Addr,
    pub mac: Mac,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    client_id: Option<Vec<u8>>,
    largest: usize,
}

impl Request {
    pub fn parse(bytes: &[u8]) -> Option<Request> {
        let address = |at: usize| bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from);
        // BOOTREQUEST, Ethernet, and not through a relay: guests are on the wire.
        if bytes.len() < 240 || bytes[..3] != [1, 1, 6] || bytes[236..240] != MAGIC || address(24)? != Ipv4Addr::UNSPECIFIED {
            return None;
        }
        let mut request = Request {
            kind: 0,
            xid: bytes[4..8].try_into().ok()?,
            broadcast: bytes[10] & 0x80 != 0,
            ciaddr: address(12)?,
            mac: bytes[28..34].try_into().ok()?,
            requested: None,
            server: None,
            client_id: None,
            largest: SMALLEST,
        };
        let mut rest = &bytes[240..];
        while let [code, tail @ ..] = rest {
            match code {
                0 => rest = tail,
                255 => break,
                _ => {
                    let (length, tail) = tail.split_first()?;
                    let value = tail.get(..usize::from(*length))?;
                    rest = &tail[value.len()..];
                    let four = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
                    match code {
                        50 => request.requested = four(),
                        53 => request.kind = *value.first()?,
                        54 => request.server = four(),
                        57 if value.len() == 2 => {
                            request.largest =
                                usize::from(u16::from_be_bytes([value[0], value[1]])).saturating_sub(28).clamp(SMALLEST, LARGEST);
                        }
                        61 => request.client_id = Some(value.to_vec()),
                        _ => {}
                    }
                }
            }
        }
        (request.kind != 0).then_some(request)
    }
}

/// An answer and where to send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub bytes: Vec<u8>,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub mac: Mac,
}

/// The answer to a message, if it gets one.
pub fn answer(view: &View, request: &Request) -> Option<Answer> {
    let lease = view.leases.get(&request.mac)?;
    if matches!(request.kind, DECLINE | RELEASE) {
        tracing::debug!(network = %view.id, port = %lease.port_id, kind = request.kind, "DHCP lease given back");
        return None;
    }
    // The addresses of the port that DHCP serves, with their subnet and our address in it.
    let served: Vec<(Ipv4Addr, &Subnet, Ipv4Addr)> = lease
        .addresses
        .iter()
        .filter_map(|a| match a {
            IpAddr::V4(v4) => {
                let subnet = view.subnet_of(*a).filter(|s| s.dhcp)?;
                Some((*v4, subnet, view.service4(subnet)?))
            }
            IpAddr::V6(_) => None,
        })
        .collect();
    let asked = request.requested.or((!request.ciaddr.is_unspecified()).then_some(request.ciaddr));
    let wanted = served.iter().find(|(a, _, _)| Some(*a) == asked);
    let &(address, subnet, server) = wanted.or(served.first())?;
    match request.kind {
        DISCOVER => Some(reply(view, request, lease, OFFER, Some(address), subnet, server)),
        INFORM if wanted.is_some() => Some(reply(view, request, lease, ACK, None, subnet, server)),
        REQUEST => {
            if request.server.is_some_and(|s| !served.iter().any(|(_, _, own)| *own == s)) {
                return None; // took another server's offer
            }
            match wanted {
                Some(_) => Some(reply(view, request, lease, ACK, Some(address), subnet, server)),
                None => Some(refusal(request, server)),
            }
        }
        _ => None,
    }
}

fn header(request: &Request, yours: Ipv4Addr, next: Ipv4Addr) -> Vec<u8> {
    let mut out = vec![2, 1, 6, 0];
    out.extend(request.xid);
    out.extend([0, 0, if request.broadcast { 0x80 } else { 0 }, 0]);
    out.extend(request.ciaddr.octets());
    out.extend(yours.octets());
    out.extend(next.octets());
    out.extend([0; 4]);
    out.extend(request.mac);
    out.resize(236, 0);
    out.extend(MAGIC);
    out
}

fn refusal(request: &Request, server: Ipv4Addr) -> Answer {
    let mut bytes = header(request, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    bytes[12..16].fill(0);
    bytes.extend([53, 1, NAK, 54, 4]);
    bytes.extend(server.octets());
    bytes.push(255);
    bytes.resize(bytes.len().max(300), 0);
    Answer { bytes, from: server, to: Ipv4Addr::BROADCAST, mac: [0xff; 6] }
}

/// The options of a lease, in the order in which they are kept when space is short.
fn options(view: &View, lease: &Lease, address: Ipv4Addr, subnet: &Subnet, server: Ipv4Addr) -> Vec<(u8, Vec<u8>)> {
    let IpNet::V4(net) = subnet.cidr else { return Vec::new() };
    let mut out: Vec<(u8, Vec<u8>)> = vec![(1, net.netmask().octets().to_vec())];
    let gateway = match subnet.gateway {
        Some(IpAddr::V4(gateway)) => Some(gateway),
        _ => None,
    };
    out.extend(gateway.map(|g| (3, g.octets().to_vec())));
    let mut dns: Vec<u8> =
        subnet.dns.iter().filter_map(|a| if let IpAddr::V4(a) = a { Some(a.octets()) } else { None }).flatten().collect();
    if dns.is_empty() {
        dns = server.octets().to_vec();
    }
    out.push((6, dns));
    // Clients that read classless routes look at nothing else: the default route and the metadata address too.
    let mut routes = route_bytes(Ipv4Net::from(METADATA_V4), server);
    for route in &subnet.host_routes {
        if let (IpNet::V4(to), IpAddr::V4(via)) = (route.destination, route.nexthop)
            && to != Ipv4Net::from(METADATA_V4)
        {
            routes.extend(route_bytes(to, via));
        }
    }
    for other in view.subnets.iter().filter(|s| s.id != subnet.id) {
        if let IpNet::V4(other) = other.cidr {
            routes.extend(route_bytes(other, Ipv4Addr::UNSPECIFIED));
        }
    }
    let default = subnet.host_routes.iter().any(|r| r.destination.prefix_len() == 0 && r.nexthop.is_ipv4());
    if let (Some(gateway), false) = (gateway, default) {
        routes.extend(route_bytes(Ipv4Net::default(), gateway));
    }
    out.push((121, routes));
    out.push((26, u16::try_from(view.mtu).unwrap_or(u16::MAX).to_be_bytes().to_vec()));
    out.push((12, hostname(lease, address).into_bytes()));
    if !view.domain.is_empty() {
        out.push((15, view.domain.clone().into_bytes()));
        out.extend(name_bytes(&view.domain).map(|n| (119, n)));
    }
    out.push((28, net.broadcast().octets().to_vec()));
    out
}

pub fn hostname(lease: &Lease, address: impl std::fmt::Display) -> String {
    if lease.hostname.is_empty() {
        format!("host-{}", address.to_string().replace(['.', ':'], "-"))
    } else {
        lease.hostname.to_ascii_lowercase()
    }
}

fn reply(view: &View, request: &Request, lease: &Lease, kind: u8, yours: Option<Ipv4Addr>, subnet: &Subnet, server: Ipv4Addr) -> Answer {
    let mut next = Ipv4Addr::UNSPECIFIED;
    let mut own: Vec<(u8, Vec<u8>)> = Vec::new();
    for option in lease.options.iter().filter(|o| o.ip_version == 4) {
        if option.name == "server-ip-address" {
            next = option.value.trim().parse().unwrap_or(next);
        } else if let Some((code, value)) = option4(&option.name, &option.value) {
            own.retain(|(c, _)| *c != code);
            own.push((code, value));
        }
    }
    let address = yours.unwrap_or(request.ciaddr);
    let mut list = vec![(53, vec![kind]), (54, server.octets().to_vec())];
    if yours.is_some() {
        let lasts = own.iter().position(|(c, v)| *c == 51 && v.len() == 4).map(|i| own.remove(i).1);
        let lasts = lasts.and_then(|v| v.try_into().ok()).map_or(LEASE_SECONDS, u32::from_be_bytes);
        list.push((51, lasts.to_be_bytes().to_vec()));
        list.push((58, (lasts / 2).to_be_bytes().to_vec()));
        list.push((59, (lasts - lasts / 8).to_be_bytes().to_vec()));
    }
    list.extend(request.client_id.clone().map(|id| (61, id)));
    for (code, value) in options(view, lease, address, subnet, server) {
        // The port's own word replaces ours, in our place in the order.
        match own.iter().position(|(c, _)| *c == code) {
            Some(i) => list.push(own.remove(i)),
            None => list.push((code, value)),
        }
    }
    list.extend(own);

    let mut bytes = header(request, yours.unwrap_or(Ipv4Addr::UNSPECIFIED), next);
    // Clients of old look for the server's name and the boot file in the header only.
    for (code, at, room) in [(66, 44, 63), (67, 108, 127)] {
        if let Some((_, value)) = list.iter().find(|(c, v)| *c == code && v.len() <= room) {
            bytes[at..at + value.len()].copy_from_slice(value);
        }
    }
    for (code, value) in &list {
        let needs = value.len() + 2 * value.len().div_ceil(255).max(1);
        if bytes.len() + needs + 1 > request.largest {
            continue;
        }
        if value.is_empty() {
            bytes.extend([*code, 0]);
        }
        for chunk in value.chunks(255) {
            bytes.extend([*code, chunk.len() as u8]);
            bytes.extend(chunk);
        }
    }
    bytes.push(255);
    bytes.resize(bytes.len().max(300), 0);
    let to = if request.broadcast { Ipv4Addr::BROADCAST } else { address };
    let mac = if request.broadcast { [0xff; 6] } else { request.mac };
    Answer { bytes, from: server, to, mac }
}

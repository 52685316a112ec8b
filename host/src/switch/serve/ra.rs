//! Router advertisements. Pure: a view in, ICMPv6 messages out (the kernel adds checksums).

use std::net::Ipv6Addr;

use ipnet::IpNet;
use rpc::network::{Ipv6Mode, Subnet};

use super::super::link::Mac;
use super::dhcp6::name_servers;
use super::view::View;

const ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 133;
const LIFETIME_SECONDS: u16 = 1800;
const PREFIX_SECONDS: u32 = 86_400;

/// Whether bytes are a solicitation. An error: why one is not answered; only nodes on the link may ask, and those without an address.
pub fn solicited(bytes: &[u8], source: Ipv6Addr) -> Result<bool, &'static str> {
    match bytes {
        [SOLICITATION, 0, ..] if bytes.len() >= 8 && (source.is_unspecified() || source.is_unicast_link_local()) => Ok(true),
        [SOLICITATION, 0, ..] if bytes.len() >= 8 => Err("forged"),
        [SOLICITATION, ..] => Err("malformed"),
        _ => Ok(false),
    }
}

/// What a router's interface says about the subnets it has an address in; `None`: nothing to say.
pub fn router_advertisement(view: &View, addresses: &[IpNet], mac: &Mac) -> Option<Vec<u8>> {
    let subnets: Vec<&Subnet> = view.subnets.iter().filter(|s| addresses.iter().any(|a| s.cidr.contains(&a.addr()))).collect();
    advertisement(view, &subnets, mac, LIFETIME_SECONDS)
}

/// What the service says about subnets without a router: addresses, no way out.
pub fn service_advertisement(view: &View, mac: &Mac) -> Option<Vec<u8>> {
    let subnets: Vec<&Subnet> = view.subnets.iter().filter(|s| !view.routed.contains(&s.id)).collect();
    advertisement(view, &subnets, mac, 0)
}

fn advertisement(view: &View, subnets: &[&Subnet], mac: &Mac, lifetime: u16) -> Option<Vec<u8>> {
    let modes: Vec<(&IpNet, Ipv6Mode)> =
        subnets.iter().filter(|s| s.cidr.addr().is_ipv6()).filter_map(|s| Some((&s.cidr, s.ipv6?))).collect();
    if modes.is_empty() {
        return None;
    }
    let has = |mode| modes.iter().any(|(_, m)| *m == mode);
    let managed = has(Ipv6Mode::DhcpStateful);
    let other = managed || has(Ipv6Mode::DhcpStateless);
    let mut out = vec![ADVERTISEMENT, 0, 0, 0, 64, u8::from(managed) << 7 | u8::from(other) << 6];
    out.extend(lifetime.to_be_bytes());
    out.extend([0; 8]);
    out.extend([1, 1]);
    out.extend(mac);
    out.extend([5, 1, 0, 0]);
    out.extend(view.mtu.to_be_bytes());
    for (net, mode) in &modes {
        let IpNet::V6(net) = net else { continue };
        // On link always; addresses are the hosts' own to make unless DHCP gives them.
        let own = net.prefix_len() == 64 && *mode != Ipv6Mode::DhcpStateful;
        out.extend([3, 4, net.prefix_len(), 0x80 | u8::from(own) << 6]);
        out.extend(PREFIX_SECONDS.to_be_bytes());
        out.extend(PREFIX_SECONDS.to_be_bytes());
        out.extend([0; 4]);
        out.extend(net.network().octets());
    }
    let dns = name_servers(view);
    if !dns.is_empty() {
        let dns = &dns[..dns.len().min(8)];
        out.extend([25, 1 + 2 * dns.len() as u8, 0, 0]);
        out.extend(u32::from(LIFETIME_SECONDS).to_be_bytes());
        dns.iter().for_each(|a| out.extend(a.octets()));
    }
    if let Some(name) = super::options::name_bytes(&view.domain) {
        let blocks = (8 + name.len()).div_ceil(8);
        let end = out.len() + blocks * 8;
        out.extend([31, blocks as u8, 0, 0]);
        out.extend(u32::from(LIFETIME_SECONDS).to_be_bytes());
        out.extend(name);
        out.resize(end, 0);
    }
    Some(out)
}

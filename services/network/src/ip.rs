//! Arithmetic of addresses: pools, gateways, and addresses made from a MAC.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base::Result;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::fault;

/// Both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub start: IpAddr,
    pub end: IpAddr,
}

pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address of that number in the family of `net`; numbers beyond IPv4 are cut.
fn address(net: &IpNet, number: u128) -> IpAddr {
    match net {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// How far an address lies behind the subnet's first.
pub fn place(net: &IpNet, at: IpAddr) -> u128 {
    number(at).saturating_sub(number(net.network()))
}

pub fn at_place(net: &IpNet, place: u128) -> IpAddr {
    address(net, number(net.network()).saturating_add(place))
}

pub fn same_family(net: &IpNet, at: IpAddr) -> bool {
    matches!(net, IpNet::V4(_)) == at.is_ipv4()
}

/// First and last address that a port may have.
pub fn usable(net: &IpNet) -> (u128, u128) {
    let (first, last) = (number(net.network()), number(net.broadcast()));
    if last - first < 2 {
        return (first, last);
    }
    match net {
        IpNet::V4(_) => (first + 1, last - 1),
        // The first address is every router's.
        IpNet::V6(_) => (first + 1, last),
    }
}

pub fn is_usable(net: &IpNet, at: IpAddr) -> bool {
    let (first, last) = usable(net);
    same_family(net, at) && (first..=last).contains(&number(at))
}

pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The gateway of a subnet that names none: its first usable address.
pub fn default_gateway(net: &IpNet) -> IpAddr {
    address(net, usable(net).0)
}

/// All usable addresses but the gateway.
pub fn default_pools(net: &IpNet, gateway: Option<IpAddr>) -> Vec<Pool> {
    let (first, last) = usable(net);
    let pool = |from: u128, to: u128| (from <= to).then(|| Pool { start: address(net, from), end: address(net, to) });
    match gateway.filter(|g| is_usable(net, *g)).map(number) {
        None => pool(first, last).into_iter().collect(),
        Some(gateway) => {
            let below = if gateway > first { pool(first, gateway - 1) } else { None };
            let above = if gateway < last { pool(gateway + 1, last) } else { None };
            below.into_iter().chain(above).collect()
        }
    }
}

/// Pools given by a client: inside the subnet, apart from each other and from the gateway. Answers them in order.
pub fn check_pools(net: &IpNet, pools: &[Pool], gateway: Option<IpAddr>) -> Result<Vec<Pool>> {
    let shown = |p: &Pool| format!("{}-{}", p.start, p.end);
    for pool in pools {
        if pool.start.is_ipv4() != pool.end.is_ipv4() || !same_family(net, pool.start) || number(pool.start) > number(pool.end) {
            return Err(fault::bad("InvalidAllocationPool", format!("The allocation pool {} is not valid.", shown(pool))));
        }
        if !is_usable(net, pool.start) || !is_usable(net, pool.end) {
            let message = format!("The allocation pool {} spans beyond the subnet cidr {net}.", shown(pool));
            return Err(fault::bad("OutOfBoundsAllocationPool", message));
        }
        if let Some(gateway) = gateway.filter(|g| number(pool.start) <= number(*g) && number(*g) <= number(pool.end)) {
            let message = format!("Gateway ip {gateway} conflicts with allocation pool {}.", shown(pool));
            return Err(fault::in_use("GatewayConflictWithAllocationPools", message));
        }
    }
    let mut sorted = pools.to_vec();
    sorted.sort_by_key(|p| number(p.start));
    if let Some(pair) = sorted.windows(2).find(|pair| number(pair[1].start) <= number(pair[0].end)) {
        let message = format!("Found overlapping allocation pools: {} {} for subnet {net}.", shown(&pair[0]), shown(&pair[1]));
        return Err(fault::in_use("OverlappingAllocationPools", message));
    }
    Ok(sorted)
}

/// The address a station gives itself from its MAC (modified EUI-64); none unless `net` is a /64.
pub fn eui64(net: &IpNet, mac: &str) -> Option<IpAddr> {
    let IpNet::V6(v6) = net else { return None };
    let bytes: Vec<u8> = mac.split(':').map(|pair| u8::from_str_radix(pair, 16).ok()).collect::<Option<_>>()?;
    if v6.prefix_len() != 64 || bytes.len() != 6 {
        return None;
    }
    let mut octets = v6.network().octets();
    octets[8..].copy_from_slice(&[bytes[0] ^ 2, bytes[1], bytes[2], 0xff, 0xfe, bytes[3], bytes[4], bytes[5]]);
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

/// An address with its subnet's prefix length.
pub fn with_prefix(at: IpAddr, net: &IpNet) -> Option<IpNet> {
    IpNet::new(at, net.prefix_len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }
    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn pools_leave_the_gateway_out() {
        let text = |cidr: &str, gateway: Option<&str>| -> Vec<String> {
            default_pools(&net(cidr), gateway.map(ip)).iter().map(|p| format!("{}-{}", p.start, p.end)).collect()
        };
        assert_eq!(text("10.0.0.0/24", Some("10.0.0.1")), ["10.0.0.2-10.0.0.254"]);
        assert_eq!(text("10.0.0.0/24", Some("10.0.0.254")), ["10.0.0.1-10.0.0.253"]);
        assert_eq!(text("10.0.0.0/29", Some("10.0.0.3")), ["10.0.0.1-10.0.0.2", "10.0.0.4-10.0.0.6"]);
        assert_eq!(text("10.0.0.0/29", None), ["10.0.0.1-10.0.0.6"]);
        assert_eq!(text("10.0.0.0/30", Some("192.168.0.1")), ["10.0.0.1-10.0.0.2"]);
        assert_eq!(text("10.0.0.0/32", None), ["10.0.0.0-10.0.0.0"]);
        assert_eq!(text("10.0.0.0/31", Some("10.0.0.0")), ["10.0.0.1-10.0.0.1"]);
        assert_eq!(text("fd00::/64", Some("fd00::1")), ["fd00::2-fd00::ffff:ffff:ffff:ffff"]);
        assert_eq!(text("fd00::5/128", None), ["fd00::5-fd00::5"]);
    }

    #[test]
    fn pools_of_clients_are_checked() {
        let check = |pools: &[(&str, &str)], gateway: &str| {
            let pools: Vec<Pool> = pools.iter().map(|(a, b)| Pool { start: ip(a), end: ip(b) }).collect();
            check_pools(&net("10.0.0.0/24"), &pools, Some(ip(gateway))).map_err(|e| e.name().unwrap())
        };
        assert_eq!(check(&[("10.0.0.50", "10.0.0.60"), ("10.0.0.2", "10.0.0.9")], "10.0.0.1").unwrap()[0].start, ip("10.0.0.2"));
        assert_eq!(check(&[("10.0.0.9", "10.0.0.2")], "10.0.0.1"), Err("InvalidAllocationPool"));
        assert_eq!(check(&[("10.0.0.9", "fd00::1")], "10.0.0.1"), Err("InvalidAllocationPool"));
        assert_eq!(check(&[("10.0.0.9", "10.0.0.255")], "10.0.0.1"), Err("OutOfBoundsAllocationPool"));
        assert_eq!(check(&[("10.0.1.9", "10.0.1.10")], "10.0.0.1"), Err("OutOfBoundsAllocationPool"));
        assert_eq!(check(&[("10.0.0.1", "10.0.0.10")], "10.0.0.1"), Err("GatewayConflictWithAllocationPools"));
        assert_eq!(check(&[("10.0.0.2", "10.0.0.10"), ("10.0.0.10", "10.0.0.11")], "10.0.0.1"), Err("OverlappingAllocationPools"));
    }

    #[test]
    fn eui64_follows_the_standard() {
        assert_eq!(eui64(&net("fd00::/64"), "fa:16:3e:01:02:03"), Some(ip("fd00::f816:3eff:fe01:203")));
        assert_eq!(eui64(&net("fd00::/80"), "fa:16:3e:01:02:03"), None);
        assert_eq!(eui64(&net("10.0.0.0/24"), "fa:16:3e:01:02:03"), None);
    }

    proptest! {
        #[test]
        fn default_pools_hold_every_usable_address_but_the_gateway(base: u32, prefix in 16u8..=32, gateway in 0u32..70000) {
            let net = IpNet::new(IpAddr::V4(base.into()), prefix).unwrap().trunc();
            let gateway = at_place(&net, u128::from(gateway));
            let pools = default_pools(&net, Some(gateway));
            let (first, last) = usable(&net);
            let held: u128 = pools.iter().map(|p| number(p.end) - number(p.start) + 1).sum();
            prop_assert_eq!(held, last - first + 1 - u128::from(is_usable(&net, gateway)));
            prop_assert!(check_pools(&net, &pools, Some(gateway)).is_ok());
        }
        #[test]
        fn places_turn_back(base: u128, prefix in 0u8..=128, offset: u64) {
            let net = IpNet::new(IpAddr::V6(base.into()), prefix).unwrap().trunc();
            let at = at_place(&net, u128::from(offset));
            if net.contains(&at) {
                prop_assert_eq!(place(&net, at), u128::from(offset));
            }
        }
    }
}

//! Live connections: those that no rule would allow any more are cut.
//!
//! Rules see the first packet of a connection only, so taking a rule, a group, a member or a floating address away
//! must also end what it had let in.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;
use rpc::network::{NetworkDocument, Port, Remote, Router, SecurityGroup, SecurityRule};

use super::guard::{has_ports, protocol, stateful};
use super::netlink::{self, Message, Netlink, find};
use super::plan::is_inner;

const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// The destination port, or ICMP type and code.
    pub port: u16,
    pub icmp: (u8, u8),
}

pub struct Connection {
    pub zone: u16,
    pub original: Tuple,
    pub reply: Tuple,
    family: u8,
    raw: Vec<u8>,
}

pub fn list(netfilter: &mut Netlink) -> io::Result<Vec<Connection>> {
    Ok(netfilter.dump(Message::new(CT_GET, 0, &[0; 4]))?.iter().filter_map(|b| read(b)).collect())
}

fn read(body: &[u8]) -> Option<Connection> {
    let rest = body.get(4..)?;
    let raw = find(rest, 1)?;
    let zone = find(rest, 18).and_then(|v| v.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Connection { zone, original: tuple(raw)?, reply: tuple(find(rest, 2)?)?, family: body[0], raw: raw.to_vec() })
}

fn tuple(raw: &[u8]) -> Option<Tuple> {
    let ip = find(raw, 1)?;
    let v4 = |k| find(ip, k).and_then(|v| <[u8; 4]>::try_from(v).ok()).map(IpAddr::from);
    let v6 = |k| find(ip, k).and_then(|v| <[u8; 16]>::try_from(v).ok()).map(IpAddr::from);
    let proto = find(raw, 2)?;
    let byte = |k| find(proto, k).and_then(|v| v.first().copied());
    let port = find(proto, 3).and_then(|v| v.try_into().ok()).map_or(0, u16::from_be_bytes);
    let icmp = (byte(5).or(byte(8)).unwrap_or(0), byte(6).or(byte(9)).unwrap_or(0));
    Some(Tuple { source: v4(1).or_else(|| v6(3))?, destination: v4(2).or_else(|| v6(4))?, protocol: byte(1)?, port, icmp })
}

fn delete(netfilter: &mut Netlink, connection: &Connection) -> io::Result<()> {
    let message = Message::new(CT_DELETE, 0, &[connection.family, 0, 0, 0])
        .attr(1 | 0x8000, &connection.raw)
        .attr(18, &connection.zone.to_be_bytes());
    match netfilter.change("cut connection", message) {
        Err(e) if netlink::is_errno(&e, Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// Cuts the connections of guarded ports that their groups do not allow. `zones` is by network.
pub fn cut_refused(netfilter: &mut Netlink, document: &NetworkDocument, zones: &BTreeMap<String, u16>) -> io::Result<()> {
    let mut ports: BTreeMap<(u16, IpAddr), &Port> = BTreeMap::new();
    for network in &document.networks {
        let zone = if is_inner(&network.kind) { zones.get(&network.id).copied().unwrap_or(0) } else { 0 };
        for port in document.ports.iter().filter(|p| p.network_id == network.id && p.port_security && p.admin_up) {
            for address in &port.addresses {
                ports.insert((zone, *address), port);
            }
        }
    }
    let groups: BTreeMap<&str, &SecurityGroup> = document.security_groups.iter().map(|g| (g.id.as_str(), g)).collect();
    for connection in list(netfilter)? {
        let tuple = &connection.original;
        let from = ports.get(&(connection.zone, tuple.source));
        let to = ports.get(&(connection.zone, tuple.destination));
        let refused = from.is_some_and(|p| !allowed(p, &groups, tuple, false)) || to.is_some_and(|p| !allowed(p, &groups, tuple, true));
        if refused {
            delete(netfilter, &connection)?;
        }
    }
    Ok(())
}

fn allowed(port: &Port, groups: &BTreeMap<&str, &SecurityGroup>, tuple: &Tuple, ingress: bool) -> bool {
    let mine: Vec<&SecurityGroup> = port.security_groups.iter().filter_map(|id| groups.get(id.as_str()).copied()).collect();
    // A port that does not follow connections has none to cut: each packet meets the rules.
    if !stateful(&mine) || needed(tuple) {
        return true;
    }
    mine.iter().flat_map(|g| &g.rules).any(|rule| rule.ingress == ingress && matches(rule, groups, tuple))
}

/// DHCP, which no rule is needed for.
fn needed(tuple: &Tuple) -> bool {
    tuple.protocol == 17 && matches!(tuple.port, 67 | 68 | 546 | 547)
}

fn matches(rule: &SecurityRule, groups: &BTreeMap<&str, &SecurityGroup>, tuple: &Tuple) -> bool {
    let remote = if rule.ingress { tuple.source } else { tuple.destination };
    if remote.is_ipv4() != (rule.ip_version == 4) {
        return false;
    }
    let known = match &rule.remote {
        Remote::Any => true,
        Remote::Cidr(net) => net.contains(&remote),
        Remote::Group(id) => groups.get(id.as_str()).is_some_and(|g| g.members.iter().any(|net| net.contains(&remote))),
    };
    let fits = match protocol(rule) {
        None => true,
        Some(number) if number != tuple.protocol => false,
        Some(1 | 58) => {
            rule.port_min.is_none_or(|t| t == u16::from(tuple.icmp.0)) && rule.port_max.is_none_or(|c| c == u16::from(tuple.icmp.1))
        }
        Some(number) if has_ports(number) => (rule.port_min.unwrap_or(0)..=rule.port_max.unwrap_or(u16::MAX)).contains(&tuple.port),
        Some(_) => true,
    };
    known && fits
}

/// Cuts connections translated by a floating address, or by the gateway's, that the router no longer has.
pub fn cut_untranslated(netfilter: &mut Netlink, router: &Router) -> io::Result<()> {
    let own: Vec<IpAddr> = router.gateway.iter().filter(|g| g.snat).flat_map(|g| g.addresses.iter().map(|a| a.addr())).collect();
    let floats = |floating: IpAddr, fixed: IpAddr| router.floating.iter().any(|f| f.floating == floating && f.fixed == fixed);
    for connection in list(netfilter)? {
        let (original, reply) = (&connection.original, &connection.reply);
        let to_floating = original.destination != reply.source && !floats(original.destination, reply.source);
        let under = original.source != reply.destination
            && !own.contains(&reply.destination)
            && !floats(reply.destination, original.source)
            // Hairpin: the caller's address is the gateway's even where the router translates nobody else.
            && !router.gateway.iter().flat_map(|g| &g.addresses).any(|a| a.addr() == reply.destination && original.destination != reply.source);
        if to_floating || under {
            delete(netfilter, &connection)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(protocol: Option<u8>, ports: Option<(u16, u16)>, remote: Remote) -> SecurityRule {
        let (port_min, port_max) = ports.map_or((None, None), |(a, b)| (Some(a), Some(b)));
        SecurityRule { id: "r".into(), ingress: true, ip_version: 4, protocol, port_min, port_max, remote }
    }

    #[test]
    fn rules_match_connections() {
        let groups = BTreeMap::new();
        let tcp = Tuple { source: [10, 0, 0, 2].into(), destination: [10, 0, 0, 3].into(), protocol: 6, port: 22, icmp: (0, 0) };
        let ping = Tuple { protocol: 1, port: 0, icmp: (8, 0), ..tcp };
        let cases = [
            (rule(None, None, Remote::Any), true, true),
            (rule(Some(6), Some((20, 25)), Remote::Any), true, false),
            (rule(Some(6), Some((80, 80)), Remote::Any), false, false),
            (rule(Some(1), None, Remote::Any), false, true),
            (rule(Some(1), Some((0, 0)), Remote::Any), false, false),
            (rule(Some(6), None, Remote::Cidr("10.0.0.0/30".parse().unwrap())), true, false),
            (rule(Some(6), None, Remote::Cidr("10.1.0.0/30".parse().unwrap())), false, false),
            (rule(None, None, Remote::Group("none".into())), false, false),
        ];
        for (rule, on_tcp, on_ping) in cases {
            assert_eq!((matches(&rule, &groups, &tcp), matches(&rule, &groups, &ping)), (on_tcp, on_ping), "{rule:?}");
        }
    }
}

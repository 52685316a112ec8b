//! How tunnels' packets find the encrypting link: a rule of the machine's routing, and the one route of a table of its own.
//!
//! Both are known by their numbers, so that they are found again after a crash. The route goes with its link; that nothing leaves in
//! the clear meanwhile is for the rules of nftables.

use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

use super::super::link::{address_from, family, octets};
use super::super::netlink::{self, Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, as_u32, find};

/// VXLAN's port, also the rule's priority.
pub const VXLAN: u16 = 4789;
/// `St`: the table.
const TABLE: u32 = 0x5374;

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_IP_PROTO: u16 = 22;
const FRA_DPORT_RANGE: u16 = 24;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const UDP: u8 = 17;
/// The dummy address of IPv4 (RFC 7600): a link without any is refused by the kernel's check of sources.
const DUMMY: [u8; 4] = [192, 0, 0, 8];

/// Where tunnels' packets are from that go by our table.
fn sources(netlink: &mut Netlink) -> io::Result<Vec<IpAddr>> {
    let rules = netlink.dump(Message::new(RTM_GETRULE, 0, &[0; 12]))?;
    let ours = |rest: &&[u8]| {
        let number = |kind| find(rest, kind).map(as_u32);
        number(FRA_PRIORITY) == Some(VXLAN.into()) && number(FRA_TABLE) == Some(TABLE)
    };
    let all = rules.iter().filter_map(|body| body.get(12..)).filter(ours);
    Ok(all.filter_map(|rest| find(rest, FRA_SRC).and_then(address_from)).collect())
}

fn rule(kind: u16, flags: u16, source: &IpAddr) -> Message {
    let bytes = octets(source);
    // `struct fib_rule_hdr`; the action is 1: look into a table.
    let fixed = [family(source), 0, bytes.len() as u8 * 8, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let port = VXLAN.to_ne_bytes();
    Message::new(kind, flags, &fixed)
        .u32(FRA_PRIORITY, VXLAN.into())
        .u32(FRA_TABLE, TABLE)
        .attr(FRA_SRC, &bytes)
        // What the machine sends itself, not what it routes.
        .text(FRA_IIFNAME, "lo")
        .u8(FRA_IP_PROTO, UDP)
        .attr(FRA_DPORT_RANGE, &[port[0], port[1], port[0], port[1]])
}

/// The index of the link that the table's route leads to.
fn route(netlink: &mut Netlink, local: &IpAddr) -> io::Result<Option<u32>> {
    let mut fixed = [0; 12];
    fixed[0] = family(local);
    let routes = netlink.dump(Message::new(RTM_GETROUTE, 0, &fixed))?;
    let mut ours = routes.iter().filter_map(|body| body.get(12..)).filter(|rest| find(rest, RTA_TABLE).map(as_u32) == Some(TABLE));
    Ok(ours.find_map(|rest| find(rest, RTA_OIF)).map(as_u32))
}

/// Leads what tunnels send from `local` to the link of this index. None: leads it nowhere else than it would go.
pub fn settle(netlink: &mut Netlink, wanted: Option<(IpAddr, u32)>) -> io::Result<()> {
    let known = sources(netlink)?;
    for source in known.iter().filter(|source| wanted.is_none_or(|(local, _)| **source != local)) {
        match netlink.change("remove tunnels' rule", rule(RTM_DELRULE, 0, source)) {
            Err(e) if netlink::is_errno(&e, Errno::ENOENT) => {}
            other => other?,
        }
    }
    let Some((local, index)) = wanted else { return Ok(()) };
    if route(netlink, &local)? != Some(index) {
        // `struct rtmsg`: protocol static, scope link for IPv4, type unicast.
        let scope = if local.is_ipv4() { 253 } else { 0 };
        let fixed = [family(&local), 0, 0, 0, 0, 4, scope, 1, 0, 0, 0, 0];
        let message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &fixed).u32(RTA_TABLE, TABLE).u32(RTA_OIF, index);
        netlink.change("add tunnels' route", message)?;
    }
    if !known.contains(&local) {
        netlink.change("add tunnels' rule", rule(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &local))?;
    }
    Ok(())
}

/// Gives the link an address that nobody uses.
pub fn address_add(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    // `struct ifaddrmsg`: IPv4, a whole address, scope host, so that nothing is sent from it.
    let mut fixed = [2, 32, 0, 254, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    // IFA_LOCAL and IFA_ADDRESS.
    let message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &fixed).attr(2, &DUMMY).attr(1, &DUMMY);
    netlink.change("add the encrypting link's address", message)
}

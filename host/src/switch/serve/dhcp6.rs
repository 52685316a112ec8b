//! DHCP for IPv6, stateless and stateful. Pure: bytes in, bytes out.

use std::net::{IpAddr, Ipv6Addr};

use rpc::network::{Ipv6Mode, Lease};

use super::super::link::{Mac, mac_of_link_local};
use super::options::{name_bytes, option6};
use super::view::View;

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION: u8 = 11;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS: u16 = 23;
const SEARCH: u16 = 24;
const LEASE_SECONDS: u32 = 86_400;

const NO_ADDRESS: u16 = 2;
const NOT_ON_LINK: u16 = 4;
const LARGEST: usize = 1200;

fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.get(..4)?;
        let code = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = bytes.get(4..4 + length)?;
        bytes = &bytes[4 + length..];
        Some((code, value))
    })
}

fn push(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Longer than a packet never fits, so the length always does.
    if let Ok(length) = u16::try_from(value.len())
        && out.len() + value.len() <= LARGEST
    {
        out.extend(code.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend(value);
    }
}

fn status(code: u16, text: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], text.as_bytes()].concat()
}

/// The MAC in a client's DUID, if it is made from one.
fn duid_mac(duid: &[u8]) -> Option<Mac> {
    match duid {
        [0, 1, 0, 1, _, _, _, _, mac @ ..] | [0, 3, 0, 1, mac @ ..] => mac.try_into().ok(),
        _ => None,
    }
}

/// What a client calls itself.
fn duid(options_of: &[u8]) -> Option<&[u8]> {
    options(options_of).find(|(c, _)| *c == CLIENT_ID).map(|(_, v)| v).filter(|v| v.len() <= 130)
}

/// Whose message it is. The sender's link-local address tells its MAC (anti-spoofing vouches for it); only where it was made
/// otherwise the DUID's word is taken. None: that is no message of a client.
pub fn client(message: &[u8], source: Ipv6Addr) -> Option<Mac> {
    mac_of_link_local(&source).filter(|_| message.len() >= 4).or_else(|| duid(message.get(4..)?).and_then(duid_mac))
}

/// The answer to a message, if it gets one.
pub fn answer(view: &View, message: &[u8], source: Ipv6Addr) -> Option<Vec<u8>> {
    let lease = view.leases.get(&self::client(message, source)?)?;
    let (head, rest) = (message.get(..4)?, message.get(4..)?);
    let client = duid(rest);
    let own = [&[0, 3, 0, 1][..], &view.service_mac].concat();
    let server = options(rest).find(|(c, _)| *c == SERVER_ID).map(|(_, v)| v);
    match (head[0], server) {
        // To any server, to this one, to another.
        (SOLICIT | CONFIRM | REBIND, None) | (INFORMATION, None) => {}
        (REQUEST | RENEW | RELEASE | DECLINE | INFORMATION, Some(id)) if id == own => {}
        _ => return None,
    }
    if head[0] != INFORMATION && client.is_none() {
        return None;
    }
    let stateful: Vec<Ipv6Addr> = lease
        .addresses
        .iter()
        .filter_map(|a| match a {
            IpAddr::V6(v6) => view.subnet_of(*a).filter(|s| s.dhcp && s.ipv6 == Some(Ipv6Mode::DhcpStateful)).map(|_| *v6),
            IpAddr::V4(_) => None,
        })
        .collect();
    let rapid = options(rest).any(|(c, _)| c == RAPID_COMMIT);
    let kind = if head[0] == SOLICIT && !rapid { ADVERTISE } else { REPLY };
    let mut out = vec![kind, head[1], head[2], head[3]];
    push(&mut out, SERVER_ID, &own);
    if let Some(client) = client {
        push(&mut out, CLIENT_ID, client);
    }
    if head[0] == SOLICIT && rapid {
        push(&mut out, RAPID_COMMIT, &[]);
    }
    match head[0] {
        SOLICIT | REQUEST | RENEW | REBIND => {
            for (_, association) in options(rest).filter(|(c, v)| *c == IA_NA && v.len() >= 12).take(4) {
                push(&mut out, IA_NA, &associate(association, &stateful));
            }
        }
        CONFIRM => {
            let asked = options(rest).filter(|(c, v)| *c == IA_NA && v.len() >= 12).flat_map(|(_, v)| options(&v[12..]));
            let mut asked = asked.filter(|(c, v)| *c == IA_ADDRESS && v.len() >= 16).peekable();
            asked.peek()?;
            let here = asked.all(|(_, v)| <[u8; 16]>::try_from(&v[..16]).is_ok_and(|a| stateful.contains(&Ipv6Addr::from(a))));
            let word = if here { status(0, "on link") } else { status(NOT_ON_LINK, "not on link") };
            push(&mut out, STATUS, &word);
            return Some(out);
        }
        // Reservations stay whatever the client says.
        RELEASE | DECLINE => {
            push(&mut out, STATUS, &status(0, "noted"));
            return Some(out);
        }
        _ => {}
    }
    configuration(&mut out, view, lease);
    Some(out)
}

/// The answer to one association: the port's addresses, and an end to all others the client has.
fn associate(association: &[u8], addresses: &[Ipv6Addr]) -> Vec<u8> {
    let mut out = association[..4].to_vec();
    out.extend((LEASE_SECONDS / 2).to_be_bytes());
    out.extend((LEASE_SECONDS / 8 * 7).to_be_bytes());
    let mut put = |address: &[u8], seconds: u32| {
        let value = [address, &seconds.to_be_bytes()[..], &seconds.to_be_bytes()[..]].concat();
        push(&mut out, IA_ADDRESS, &value);
    };
    for address in addresses {
        put(&address.octets(), LEASE_SECONDS);
    }
    for (_, value) in options(&association[12..]).filter(|(c, v)| *c == IA_ADDRESS && v.len() >= 16).take(8) {
        if !addresses.iter().any(|a| a.octets() == value[..16]) {
            put(&value[..16], 0);
        }
    }
    if addresses.is_empty() {
        push(&mut out, STATUS, &status(NO_ADDRESS, "no address for this port"));
    }
    out
}

fn configuration(out: &mut Vec<u8>, view: &View, lease: &Lease) {
    let mut own: Vec<(u16, Vec<u8>)> =
        lease.options.iter().filter(|o| o.ip_version == 6).filter_map(|o| option6(&o.name, &o.value)).collect();
    let dns = name_servers(view);
    if !dns.is_empty() && !own.iter().any(|(c, _)| *c == DNS) {
        own.push((DNS, dns.iter().flat_map(|a| a.octets()).collect()));
    }
    if let (Some(name), false) = (name_bytes(&view.domain), own.iter().any(|(c, _)| *c == SEARCH)) {
        own.push((SEARCH, name));
    }
    for (code, value) in own {
        push(out, code, &value);
    }
}

/// The subnets' own name servers, else the service.
pub fn name_servers(view: &View) -> Vec<Ipv6Addr> {
    let mut found: Vec<Ipv6Addr> = Vec::new();
    for address in view.subnets.iter().flat_map(|s| &s.dns) {
        if let IpAddr::V6(v6) = address
            && !found.contains(v6)
        {
            found.push(*v6);
        }
    }
    if found.is_empty() {
        found.extend(view.service6());
    }
    found
}

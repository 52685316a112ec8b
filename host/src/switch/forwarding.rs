//! Where ports of other hosts are: the entries of tunnels and of the bridges they are in. The controller says all of it;
//! nothing is learned, what nobody knows is not sent, and the bridge answers itself who asks for a known address.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

use super::link::{Mac, address_from, family, mac_text, octets};
use super::netlink::{self, Message, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, Netlink, as_u32, find};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const AF_BRIDGE: u8 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;
const NTF_MASTER: u8 = 4;
/// What goes to everybody leaves by the entries of this one.
const EVERYBODY: Mac = [0; 6];

/// What a tunnel must know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forwarding {
    /// Behind which host a MAC is.
    pub macs: BTreeMap<Mac, IpAddr>,
    /// Hosts with ports of the network: broadcasts and multicasts go to each.
    pub hosts: BTreeSet<IpAddr>,
    /// Whose answer the bridge gives itself.
    pub neighbours: BTreeMap<IpAddr, Mac>,
}

/// One entry of any of the three tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    /// In the tunnel: frames to this MAC go to that host.
    Tunnel(Mac, IpAddr),
    /// In the bridge: this MAC is behind the tunnel.
    Bridge(Mac),
    Neighbour(IpAddr, Mac),
}

/// All entries of the namespace, by the link they are on.
#[derive(Default)]
pub struct Known(BTreeMap<u32, BTreeSet<Entry>>);

impl Known {
    pub fn read(netlink: &mut Netlink) -> io::Result<Known> {
        let mut known = Known::default();
        for family in [AF_BRIDGE, 0] {
            for body in netlink.dump(Message::new(RTM_GETNEIGH, 0, &header(family, 0, 0, 0)))? {
                if let Some((index, entry)) = read(&body) {
                    known.0.entry(index).or_default().insert(entry);
                }
            }
        }
        Ok(known)
    }

    /// Makes the entries of a tunnel and its bridge what is wanted, by difference. New ones come before old ones go, so that
    /// a port that moved is never out of reach.
    pub fn apply(&mut self, netlink: &mut Netlink, tunnel: u32, bridge: u32, wanted: &Forwarding) -> io::Result<()> {
        let on_tunnel = wanted.macs.iter().map(|(mac, host)| Entry::Tunnel(*mac, *host));
        let on_tunnel = on_tunnel.chain(wanted.hosts.iter().map(|host| Entry::Tunnel(EVERYBODY, *host)));
        let on_tunnel = on_tunnel.chain(wanted.macs.keys().map(|mac| Entry::Bridge(*mac)));
        self.settle(netlink, tunnel, on_tunnel.collect())?;
        self.settle(netlink, bridge, wanted.neighbours.iter().map(|(address, mac)| Entry::Neighbour(*address, *mac)).collect())
    }

    /// A MAC that is behind this port of a bridge, whether it has spoken or not.
    pub fn pin(&mut self, netlink: &mut Netlink, port: u32, mac: Mac) -> io::Result<()> {
        self.settle(netlink, port, BTreeSet::from([Entry::Bridge(mac)]))
    }

    /// The neighbours of a link that need not be asked for.
    pub fn neighbours(&mut self, netlink: &mut Netlink, index: u32, wanted: &BTreeMap<IpAddr, Mac>) -> io::Result<()> {
        self.settle(netlink, index, wanted.iter().map(|(address, mac)| Entry::Neighbour(*address, *mac)).collect())
    }

    fn settle(&mut self, netlink: &mut Netlink, index: u32, wanted: BTreeSet<Entry>) -> io::Result<()> {
        let present = self.0.remove(&index).unwrap_or_default();
        for entry in wanted.difference(&present) {
            netlink.change(&format!("forward {}", told(entry)), message(RTM_NEWNEIGH, index, entry))?;
        }
        for entry in present.difference(&wanted) {
            // What was replaced by a new one of the same key must stay.
            if wanted.iter().any(|new| replaces(new, entry)) {
                continue;
            }
            match netlink.change(&format!("forget {}", told(entry)), message(RTM_DELNEIGH, index, entry)) {
                Err(e) if netlink::is_errno(&e, Errno::ENOENT) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }
}

fn replaces(new: &Entry, old: &Entry) -> bool {
    match (new, old) {
        (Entry::Tunnel(new, _), Entry::Tunnel(old, _)) => new == old && *new != EVERYBODY,
        (Entry::Neighbour(new, _), Entry::Neighbour(old, _)) => new == old,
        _ => false,
    }
}

fn told(entry: &Entry) -> String {
    match entry {
        Entry::Tunnel(mac, host) => format!("{} to {host}", mac_text(mac)),
        Entry::Bridge(mac) => format!("{} to the tunnel", mac_text(mac)),
        Entry::Neighbour(address, mac) => format!("{address} at {}", mac_text(mac)),
    }
}

/// `struct ndmsg`.
fn header(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut fixed = [0; 12];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed[10] = flags;
    fixed
}

fn message(kind: u16, index: u32, entry: &Entry) -> Message {
    let flags = |more| if kind == RTM_NEWNEIGH { NLM_F_CREATE | more } else { 0 };
    match entry {
        Entry::Tunnel(mac, host) => {
            let more = if *mac == EVERYBODY { NLM_F_APPEND } else { NLM_F_REPLACE };
            let fixed = header(AF_BRIDGE, index, NUD_NOARP | NUD_PERMANENT, NTF_SELF);
            Message::new(kind, flags(more), &fixed).attr(NDA_LLADDR, mac).attr(NDA_DST, &octets(host))
        }
        Entry::Bridge(mac) => {
            Message::new(kind, flags(NLM_F_REPLACE), &header(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER)).attr(NDA_LLADDR, mac)
        }
        Entry::Neighbour(address, mac) => {
            let fixed = header(family(address), index, NUD_PERMANENT, 0);
            let message = Message::new(kind, flags(NLM_F_REPLACE), &fixed).attr(NDA_DST, &octets(address));
            if kind == RTM_NEWNEIGH { message.attr(NDA_LLADDR, mac) } else { message }
        }
    }
}

/// An entry of a kind that we make, and its link.
fn read(body: &[u8]) -> Option<(u32, Entry)> {
    let (fixed, rest) = body.split_at_checked(12)?;
    let index = as_u32(fixed.get(4..8)?);
    let state = u16::from_ne_bytes([fixed[8], fixed[9]]);
    let mac: Mac = find(rest, NDA_LLADDR)?.try_into().ok()?;
    let address = find(rest, NDA_DST).and_then(address_from);
    let entry = match (fixed[0], address) {
        (AF_BRIDGE, Some(host)) if fixed[10] & NTF_SELF != 0 => Entry::Tunnel(mac, host),
        (AF_BRIDGE, None) if state == NUD_NOARP && fixed[10] & NTF_SELF == 0 => Entry::Bridge(mac),
        (AF_BRIDGE, _) => return None,
        (_, Some(address)) if state & NUD_PERMANENT != 0 => Entry::Neighbour(address, mac),
        _ => return None,
    };
    Some((index, entry))
}

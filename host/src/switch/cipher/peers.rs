//! The other hosts as WireGuard's peers: what becomes of each packet, without sockets.
//!
//! A peer is known by the address its packets come from, which the controller has told, and must prove that it has the key. The
//! protocol answers for secrecy, replay and new session keys; here it is decided who is a peer and what may come out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::drops::Drops;

/// The port's name in counts.
const PORT: &str = "tunnel";
/// The largest packet, and what encryption adds.
const LARGEST: usize = 65535 + 32;
const UDP: u8 = 17;
/// IPv6 in pieces.
const FRAGMENT: u8 = 44;
/// Message type of data, and from which counter on a session's messages must be refused (WireGuard, section 6.1).
const DATA: [u8; 4] = [4, 0, 0, 0];
const SPENT: u64 = u64::MAX - (1 << 13);

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To this peer, encrypted.
    Peer(IpAddr),
    /// Into the machine, in the clear.
    Inside,
}

type Send<'a> = &'a mut dyn FnMut(To, &[u8]);

pub struct Peers {
    own: StaticSecret,
    local: IpAddr,
    peers: HashMap<IpAddr, Peer>,
    drops: Arc<Drops>,
    buffer: Vec<u8>,
}

struct Peer {
    key: [u8; 32],
    tunnel: Tunn,
}

impl Peers {
    pub fn new(own: StaticSecret, local: IpAddr, drops: Arc<Drops>) -> Peers {
        Peers { own, local, peers: HashMap::new(), drops, buffer: vec![0; LARGEST] }
    }

    /// Has exactly these peers. Sessions begin at once with those that are new or have another key; the others' go on.
    pub fn update(&mut self, wanted: &BTreeMap<IpAddr, [u8; 32]>, send: Send) {
        self.peers.retain(|address, peer| wanted.get(address) == Some(&peer.key));
        for (address, key) in wanted {
            if self.peers.contains_key(address) {
                continue;
            }
            let mut index = [0; 4];
            // Only tells late packets of an earlier session from this one's.
            let _ = getrandom::fill(&mut index[..3]);
            let mut tunnel = Tunn::new(self.own.clone(), PublicKey::from(*key), None, None, u32::from_le_bytes(index), None);
            if let TunnResult::WriteToNetwork(bytes) = tunnel.format_handshake_initiation(&mut self.buffer, true) {
                send(To::Peer(*address), bytes);
            }
            self.peers.insert(*address, Peer { key: *key, tunnel });
        }
    }

    /// What came on the port.
    pub fn datagram(&mut self, from: IpAddr, datagram: &[u8], send: Send) {
        let Some(peer) = self.peers.get_mut(&from) else { return self.drops.add(PORT, "unknown") };
        if datagram.is_empty() || is_spent(datagram) {
            return self.drops.add(PORT, "malformed");
        }
        match peer.tunnel.decapsulate(Some(from), datagram, &mut self.buffer) {
            TunnResult::Done => {}
            TunnResult::Err(error) => return self.drops.add(PORT, reason(&error)),
            TunnResult::WriteToNetwork(bytes) => send(To::Peer(from), bytes),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                return if is_tunnels(packet, from, self.local) { send(To::Inside, packet) } else { self.drops.add(PORT, "inside") };
            }
        }
        // What waited for a session, which there may be now.
        while let TunnResult::WriteToNetwork(bytes) = peer.tunnel.decapsulate(None, &[], &mut self.buffer) {
            send(To::Peer(from), bytes);
        }
    }

    /// What the machine sends to another host.
    pub fn packet(&mut self, packet: &[u8], send: Send) {
        let Some(to) = Tunn::dst_address(packet).filter(|to| !to.is_multicast()) else { return };
        let Some(peer) = self.peers.get_mut(&to) else { return self.drops.add(PORT, "no_peer") };
        if let TunnResult::WriteToNetwork(bytes) = peer.tunnel.encapsulate(packet, &mut self.buffer) {
            send(To::Peer(to), bytes);
        }
    }

    /// Runs the protocol's clocks; to be called some times a second.
    pub fn tick(&mut self, send: Send) {
        for (address, peer) in &mut self.peers {
            // An error says that there has been no session for long: the next packet begins one.
            if let TunnResult::WriteToNetwork(bytes) = peer.tunnel.update_timers(&mut self.buffer) {
                send(To::Peer(*address), bytes);
            }
        }
    }
}

/// Whether it is data under a counter that no session gets to. The library would count on from it.
fn is_spent(datagram: &[u8]) -> bool {
    let counter = datagram.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    datagram.starts_with(&DATA) && counter.is_some_and(|counter| counter >= SPENT)
}

/// Whether a packet is UDP, from this peer to this host. Which port it is for the machine's own rules tell, once it is whole.
fn is_tunnels(packet: &[u8], from: IpAddr, local: IpAddr) -> bool {
    let protocol = match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(9),
        _ => packet.get(6),
    };
    let source = match from {
        IpAddr::V4(from) => packet.get(12..16) == Some(&from.octets()),
        IpAddr::V6(from) => packet.get(8..24) == Some(&from.octets()),
    };
    let fits = protocol == Some(&UDP) || (protocol == Some(&FRAGMENT) && local.is_ipv6());
    fits && source && Tunn::dst_address(packet) == Some(local)
}

fn reason(error: &WireGuardError) -> &'static str {
    use WireGuardError::*;
    match error {
        InvalidMac | InvalidAeadTag | WrongKey => "forged",
        InvalidCounter | DuplicateCounter | WrongTai64nTimestamp => "replayed",
        NoCurrentSession | WrongIndex | ConnectionExpired | UnexpectedPacket => "late",
        UnderLoad => "overload",
        _ => "malformed",
    }
}

//! Two hosts whose wire is a queue.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use boringtun::x25519::{PublicKey, StaticSecret};
use proptest::prelude::*;

use super::peers::{Peers, To};
use crate::drops::Drops;

const HOSTS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

fn address(host: usize) -> IpAddr {
    HOSTS[host].parse().unwrap()
}

fn secret(seed: u8) -> StaticSecret {
    StaticSecret::from([seed; 32])
}

fn public(seed: u8) -> [u8; 32] {
    *PublicKey::from(&secret(seed)).as_bytes()
}

/// Packets of one host on their way.
#[derive(Default)]
struct Sent {
    wire: Vec<Vec<u8>>,
    inside: Vec<Vec<u8>>,
}

impl Sent {
    fn take(&mut self) -> impl FnMut(To, &[u8]) {
        |to, bytes| match to {
            To::Peer(_) => self.wire.push(bytes.to_vec()),
            To::Inside => self.inside.push(bytes.to_vec()),
        }
    }
}

struct Hosts {
    peers: [Peers; 2],
    drops: [Arc<Drops>; 2],
    sent: [Sent; 2],
}

impl Hosts {
    /// Host 0 with key 1, host 1 with key 2; what each takes for the other's.
    fn new(keys: [u8; 2]) -> Hosts {
        let drops = [Arc::new(Drops::default()), Arc::new(Drops::default())];
        let mut hosts = Hosts {
            peers: [0, 1].map(|host| Peers::new(secret(host as u8 + 1), address(host), drops[host].clone())),
            drops,
            sent: Default::default(),
        };
        for (host, key) in keys.into_iter().enumerate() {
            hosts.knows(host, key);
        }
        hosts
    }
    fn knows(&mut self, host: usize, key: u8) {
        self.peers[host].update(&BTreeMap::from([(address(1 - host), public(key))]), &mut self.sent[host].take());
    }
    /// Carries what is on the wire until nothing is.
    fn carry(&mut self) {
        while self.sent.iter().any(|sent| !sent.wire.is_empty()) {
            for host in [0, 1] {
                for datagram in std::mem::take(&mut self.sent[host].wire) {
                    self.arrives(1 - host, &datagram);
                }
            }
        }
    }
    fn arrives(&mut self, host: usize, datagram: &[u8]) {
        self.peers[host].datagram(address(1 - host), datagram, &mut self.sent[host].take());
    }
    fn sends(&mut self, host: usize, packet: &[u8]) {
        self.peers[host].packet(packet, &mut self.sent[host].take());
    }
    fn dropped(&self, host: usize) -> Vec<(String, u64)> {
        self.drops[host].list().into_iter().map(|d| (d.reason, d.packets)).collect()
    }
}

/// IPv4 with a protocol.
fn packet(from: IpAddr, to: IpAddr, protocol: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0];
    for address in [from, to] {
        let IpAddr::V4(address) = address else { panic!("IPv4 only") };
        packet.extend(address.octets());
    }
    packet.resize(40, 7);
    packet
}

#[test]
fn packets_pass_both_ways_once_and_not_in_the_clear() {
    let mut hosts = Hosts::new([2, 1]);
    hosts.carry();
    let [there, back] = [(0, 1), (1, 0)].map(|(from, to)| packet(address(from), address(to), 17));
    hosts.sends(0, &there);
    let datagram = hosts.sent[0].wire[0].clone();
    assert!(!datagram.windows(8).any(|part| part == [7; 8]), "in the clear");
    hosts.carry();
    hosts.sends(1, &back);
    hosts.carry();
    assert_eq!((&hosts.sent[1].inside, &hosts.sent[0].inside), (&vec![there], &vec![back]));

    hosts.arrives(1, &datagram);
    assert_eq!(hosts.dropped(1), [("replayed".to_string(), 1)]);
    let mut changed = datagram.clone();
    changed[8] += 100;
    hosts.arrives(1, &changed);
    hosts.arrives(1, &datagram[..20]);
    let mut spent = datagram.clone();
    spent[8..16].fill(0xff);
    hosts.arrives(1, &spent);
    hosts.arrives(1, &[]);
    hosts.peers[1].datagram("192.0.2.9".parse().unwrap(), &datagram, &mut hosts.sent[1].take());
    let counted: Vec<(String, u64)> =
        [("forged", 1), ("malformed", 3), ("replayed", 1), ("unknown", 1)].map(|(reason, n)| (reason.to_string(), n)).into();
    assert_eq!(hosts.dropped(1), counted);
    assert_eq!(hosts.sent[1].inside.len(), 1);
}

#[test]
fn what_waits_for_a_session_goes_out_with_it_on_either_side() {
    let mut hosts = Hosts::new([2, 1]);
    // Neither has heard of the other: both begin, and both have something to say.
    hosts.sends(0, &packet(address(0), address(1), 17));
    hosts.sends(1, &packet(address(1), address(0), 17));
    hosts.carry();
    assert_eq!((hosts.sent[0].inside.len(), hosts.sent[1].inside.len()), (1, 1));
}

#[test]
fn a_peer_says_nothing_but_tunnels_packets_of_its_own() {
    let mut hosts = Hosts::new([2, 1]);
    hosts.carry();
    let other: IpAddr = "192.0.2.9".parse().unwrap();
    // The sender looks at where a packet goes only.
    for bad in [packet(other, address(1), 17), packet(address(0), address(1), 6)] {
        hosts.sends(0, &bad);
        hosts.carry();
    }
    hosts.sends(0, &packet(address(0), other, 17));
    assert!(hosts.sent[0].wire.is_empty(), "to nobody");
    assert_eq!((hosts.dropped(1), hosts.dropped(0)), (vec![("inside".into(), 2)], vec![("no_peer".into(), 1)]));
    assert!(hosts.sent[1].inside.is_empty());
}

#[test]
fn another_key_gets_nothing_through_until_it_is_known() {
    let mut hosts = Hosts::new([2, 9]);
    hosts.sends(0, &packet(address(0), address(1), 17));
    hosts.carry();
    assert!(hosts.sent[1].inside.is_empty());
    assert!(hosts.dropped(1).iter().any(|(reason, _)| reason == "forged"), "{:?}", hosts.dropped(1));

    // The session begins from the side that learned of the key; what waited on the other goes out too.
    hosts.knows(1, 1);
    hosts.carry();
    assert_eq!(hosts.sent[1].inside.len(), 1);

    // A peer no more.
    hosts.sends(0, &packet(address(0), address(1), 17));
    hosts.peers[1].update(&BTreeMap::new(), &mut |_, _| panic!("nothing to say"));
    hosts.carry();
    assert_eq!(hosts.sent[1].inside.len(), 1);
    assert!(hosts.dropped(1).contains(&("unknown".to_string(), 1)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2000), ..ProptestConfig::default() })]
    #[test]
    fn whatever_comes_on_the_port_nothing_reaches_the_inside(
        kind in 0u8..6,
        index in any::<u32>(),
        rest in proptest::collection::vec(any::<u8>(), 0..300),
        // A real packet with a byte changed: where, and what.
        real in any::<Option<(prop::sample::Index, u8)>>(),
    ) {
        let mut hosts = Hosts::new([2, 1]);
        hosts.carry();
        hosts.sends(0, &packet(address(0), address(1), 17));
        let good = hosts.sent[0].wire.pop().unwrap();
        let datagram = match real {
            Some((at, byte)) => {
                let mut bad = good.clone();
                let at = at.index(bad.len());
                bad[at] = if bad[at] == byte { !byte } else { byte };
                bad
            }
            // The good one's session, or any.
            None => {
                let to = if index % 2 == 0 { index.to_le_bytes() } else { good[4..8].try_into().unwrap() };
                [&[kind, 0, 0, 0], &to[..], &rest].concat()
            }
        };
        hosts.arrives(1, &datagram);
        prop_assert!(hosts.sent[1].inside.is_empty());
        prop_assert_eq!(hosts.dropped(1).iter().map(|(_, n)| n).sum::<u64>(), 1);
        // And the session goes on.
        hosts.arrives(1, &good);
        prop_assert_eq!(hosts.sent[1].inside.len(), 1);
    }
}

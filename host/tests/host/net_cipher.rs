//! Encrypted tunnels between two hosts.

use std::time::Instant;

use host::wire::Wire as _;
use rpc::network::*;

use crate::net_support::*;
use crate::net_tunnels::*;

/// What guests' pings carry, so that they are known on the wire.
const MARK: &[u8] = b"StStStSt";
const PORT: u16 = 51820;

/// The two hosts, their guests `a` here and `b` there, and all they are told.
struct Site {
    near: Bench,
    far: Far,
    addresses: [&'static str; 2],
    keys: [String; 2],
    net: Network,
    open: SecurityGroup,
    ports: [Port; 2],
}

fn key_of(bench: &Bench) -> String {
    bench.switch.tunnel_key()
}

impl Site {
    fn start(here: &'static str, there: &'static str, prefix: u8) -> (Site, Guest) {
        let (near, far) = hosts_at(here, there, prefix);
        let net = network(1, vec![subnet(1, "10.0.0.0/24", None)], &[]);
        let open = open_group(1);
        let ports = [1, 2].map(|n| port(n, &net, &[&format!("10.0.0.1{n}")], &[&open]));
        let keys = [key_of(&near), far.run(|bench| key_of(bench))];
        let site = Site { near, far, addresses: [here, there], keys, net, open, ports };
        site.tell([false; 2], 1);
        let port = site.ports[1].clone();
        site.far.run(move |_| drop(Guest::start("b", &port, &["10.0.0.12/24"], None)));
        let guest = Guest::start("a", &site.ports[0], &["10.0.0.11/24"], None);
        (site, guest)
    }
    /// What a host is told.
    fn view(&self, host: usize, encrypted: bool, generation: u64) -> NetworkDocument {
        let other = 1 - host;
        let net = Network { mtu: if encrypted { 1390 } else { 1450 }, ..self.net.clone() };
        let mut document = view(&net, &[&self.ports[host]], self.addresses[other], &[&self.ports[other]], &self.open, generation);
        let peer = Peer { address: self.addresses[other].parse().unwrap(), key: self.keys[other].clone() };
        document.encryption = encrypted.then(|| Encryption { port: PORT, mtu: 1500, largest: 1450, peers: vec![peer] });
        document
    }
    fn tell_far(&self, document: NetworkDocument) {
        self.far.run(move |bench| drop(bench.apply(&document)));
    }
    fn tell(&self, encrypted: [bool; 2], generation: u64) {
        self.near.apply(&self.view(0, encrypted[0], generation));
        self.tell_far(self.view(1, encrypted[1], generation));
    }
    fn dropped_there(&self, reason: &'static str) -> u64 {
        self.far.run(move |bench| dropped(bench, reason))
    }
}

fn dropped(bench: &Bench, reason: &str) -> u64 {
    bench.switch.dropped().iter().filter(|d| (d.port.as_str(), d.reason.as_str()) == ("tunnel", reason)).map(|d| d.packets).sum()
}

fn has(frame: &[u8], part: &[u8]) -> bool {
    frame.windows(part.len()).any(|window| window == part)
}

/// Frames of UDP over IPv4 to a port.
fn to_port(frames: &[Vec<u8>], port: u16) -> Vec<Vec<u8>> {
    frames.iter().filter(|f| f.len() > 42 && f[12..14] == [8, 0] && f[23] == 17 && f[36..38] == port.to_be_bytes()).cloned().collect()
}

/// Those that 192.0.2.1 has sent.
fn from_here(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    frames.iter().filter(|frame| frame[26..30] == [192, 0, 2, 1]).cloned().collect()
}

fn ping(guest: &Guest) -> bool {
    guest.ok("ping -n -c 3 -i 0.05 -W 0.5 -p 5374 10.0.0.12")
}

#[test]
fn net_cipher_hides_tunnels_and_takes_nothing_else() {
    let (site, guest) = Site::start("192.0.2.1", "192.0.2.2", 24);
    let wire = Wire::open("wire");
    assert!(guest.pings("10.0.0.12") && ping(&guest));
    let clear = from_here(&to_port(&wire.frames(), 4789));
    assert!(clear.iter().any(|frame| has(frame, MARK)), "the mark is seen where nothing is encrypted");
    guest.sh("ping -n -q -i 0.02 -c 1500 -W 1 10.0.0.12 >/run/during 2>&1 &");
    site.far.run(|_| of("b").serve(80));
    let mut talk = guest.connect("10.0.0.12", 80).unwrap();
    assert!(talk.seen_as().is_some());

    site.tell([true; 2], 2);
    let begun = Instant::now();
    eventually("guests reach each other encrypted", || guest.pings_once("10.0.0.12"));
    println!("switched on: reached after {:?}", begun.elapsed());
    wire.frames();
    assert!(ping(&guest));
    let frames = wire.frames();
    assert!(!to_port(&frames, PORT).is_empty());
    assert!(to_port(&frames, 4789).is_empty() && !frames.iter().any(|frame| has(frame, MARK)), "in the clear");
    assert_eq!(site.near.changes(&site.view(0, true, 2)), 0, "the same document again");
    assert!(talk.seen_as().is_some(), "an open connection goes on");

    // The network's MTU fits the wire; what guests of before may still send is answered, or comes in pieces.
    assert!(guest.ok("ping -n -c 3 -i 0.2 -W 1 -M do -s 1362 10.0.0.12"));
    assert!(frames.iter().chain(&wire.frames()).all(|frame| frame.len() <= 1514));
    let refused = guest.run("ping -n -c 2 -i 0.2 -W 1 -M do -s 1422 10.0.0.12");
    assert!(String::from_utf8_lossy(&refused.stdout).contains("mtu = 1390"), "{refused:?}");
    guest.sh("ip route flush cache");
    assert!(guest.ok("ping -n -c 3 -i 0.2 -W 1 -M dont -s 1422 10.0.0.12"));

    // The good old frames, in the clear and again, and what is no frame of anybody.
    let encrypted = from_here(&to_port(&frames, PORT)).into_iter().next_back().unwrap();
    let was = site.dropped_there("replayed");
    // Behind ICMP's header and the time.
    let marked = "icmp type echo-request @th,192,32 0x53745374";
    site.far.run(move |_| {
        of("b").sh(&format!(
            "nft 'add table netdev heard; add chain netdev heard c {{ type filter hook ingress device eth0 priority 0; }}; \
             add rule netdev heard c {marked} counter'"
        ))
    });
    for frame in &clear {
        wire.send(frame);
    }
    wire.send(&whole(&encrypted));
    wire.send(&whole(&encrypted[..60]));
    eventually("it is counted", || site.dropped_there("replayed") > was && site.dropped_there("malformed") > 0);
    let count = site.far.run(|_| of("b").sh("nft list table netdev heard; nft delete table netdev heard"));
    assert!(count.contains("packets 0 "), "{count}");

    // Off again, and nothing stays.
    site.tell([false; 2], 3);
    eventually("guests reach each other in the clear", || guest.pings_once("10.0.0.12"));
    assert!(talk.seen_as().is_some());
    let left = sh("ip rule; ip -6 rule; ip link; ip route show table all; nft list ruleset");
    assert!(!left.contains("4789") && !left.contains("sturnus-wg") && !left.contains("21364"), "{left}");
    guest.sh("pkill -INT ping; sleep 0.3");
    println!("while it was switched: {}", sh("tail -3 /run/during"));
}

/// What is left of a frame with its lengths and IPv4's checksum made right, and UDP's taken away: the link left that to be filled in.
fn whole(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let n = frame.len() as u16;
    frame[16..18].copy_from_slice(&(n - 14).to_be_bytes());
    frame[38..40].copy_from_slice(&(n - 34).to_be_bytes());
    frame[40..42].fill(0);
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn net_cipher_resumes_when_a_host_starts_again() {
    let (mut site, guest) = Site::start("192.0.2.1", "192.0.2.2", 24);
    site.tell([true; 2], 2);
    assert!(guest.pings("10.0.0.12"));
    let wire = Wire::open("wire");
    for here in [true, false] {
        // While a host's process is away nothing leaves it in the clear.
        let (host, document) = if here { (0, site.view(0, true, 2)) } else { (1, site.view(1, true, 2)) };
        wire.frames();
        let begun = Instant::now();
        if here {
            site.near.stop();
            guest.run("ping -n -c 3 -i 0.05 -W 0.1 -p 5374 10.0.0.12");
            site.near.restart();
            site.near.apply(&document);
        } else {
            site.far.run(move |bench| {
                bench.stop();
                of("b").run("ping -n -c 3 -i 0.05 -W 0.1 -p 5374 10.0.0.11");
                bench.restart();
                bench.apply(&document);
            });
        }
        let started = Instant::now();
        eventually("it goes on", || guest.ok("ping -n -c 1 -W 0.05 10.0.0.12"));
        println!("host {host}: away {:?}, reached {:?} after it was applied", started - begun, started.elapsed());
        assert!(to_port(&wire.frames(), 4789).is_empty(), "in the clear");
    }
}

#[test]
fn net_cipher_follows_keys() {
    let (mut site, guest) = Site::start("192.0.2.1", "192.0.2.2", 24);
    let other = site.keys[1].clone();
    let key = std::mem::replace(&mut site.keys[0], other);
    site.tell([true; 2], 2);
    assert!(!ping(&guest) && dropped(&site.near, "forged") > 0, "the far host takes another key for the near one's");
    site.keys[0] = key;
    site.tell_far(site.view(1, true, 3));
    assert!(guest.pings("10.0.0.12"));

    // The near host joins again: a new key.
    host::tunnel_key_forget(site.near.home.path()).unwrap();
    site.near.stop();
    site.near.restart();
    let new = key_of(&site.near);
    assert_ne!(new, site.keys[0]);
    site.near.apply(&site.view(0, true, 2));
    assert!(!ping(&guest));
    site.keys[0] = new;
    site.tell_far(site.view(1, true, 4));
    assert!(guest.pings("10.0.0.12"));

    // A host that was deleted is a peer no more.
    let mut alone = site.view(1, true, 5);
    alone.encryption.as_mut().unwrap().peers.clear();
    let before = site.dropped_there("unknown");
    site.tell_far(alone);
    assert!(!ping(&guest) && site.dropped_there("unknown") > before);

    // A host that does not encrypt reaches nobody who does.
    site.tell([false, true], 6);
    assert!(!ping(&guest));
}

#[test]
fn net_cipher_survives_a_break_at_every_change() {
    let (site, _guest) = Site::start("192.0.2.1", "192.0.2.2", 24);
    let state = || {
        sh("ip rule; ip route show table 21364; ip -o link | sed 's/^[0-9]*: //'; ip -o addr show dev sturnus-wg | sed 's/^[0-9]*: *//'")
    };
    let (off, on) = (site.view(0, false, 1), site.view(0, true, 1));
    site.near.apply(&on);
    let encrypted = state();
    site.near.apply(&off);
    let clear = state();
    assert_ne!(encrypted, clear);
    for (from, to, wanted) in [(&off, &on, &encrypted), (&on, &off, &clear)] {
        for breaks in 0.. {
            assert!(breaks < 40, "more changes than this test breaks at");
            site.near.apply(from);
            site.near.switch.probe().fail_after(breaks);
            let broken = site.near.try_apply(to);
            site.near.switch.probe().fail_after(u64::MAX >> 1);
            site.near.apply(to);
            assert_eq!(&state(), wanted, "after a break at change {breaks}");
            if broken.is_ok_and(|applied| applied.errors.is_empty()) {
                break;
            }
        }
    }
}

#[test]
fn net_cipher_hides_tunnels_over_ipv6() {
    let (site, guest) = Site::start("2001:db8::1", "2001:db8::2", 64);
    assert!(guest.pings("10.0.0.12"));
    site.tell([true; 2], 2);
    assert!(guest.pings("10.0.0.12"));
    let wire = Wire::open("wire");
    assert!(ping(&guest));
    let frames = wire.frames();
    assert!(!frames.is_empty() && !frames.iter().any(|frame| has(frame, MARK)), "in the clear");
    site.tell([false; 2], 3);
    assert!(guest.pings("10.0.0.12"));
    assert!(!sh("ip -6 rule").contains("4789"));
}

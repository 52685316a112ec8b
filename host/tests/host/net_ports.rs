//! Ports on real links: groups, spoofing, isolation of networks.

use rpc::network::*;

use crate::net_support::*;

#[test]
fn net_groups_decide_who_reaches_whom() {
    let bench = Bench::new();
    let net = network(1, vec![subnet(1, "10.0.0.0/24", None)], &[]);
    let closed = group(1, vec![]);
    let mut web = group(2, vec![rule(true, 4, Some(6), Some((80, 80)), Remote::Any), rule(true, 4, Some(1), Some((8, 0)), Remote::Any)]);
    let ports = vec![port(1, &net, &["10.0.0.11"], &[&closed]), port(2, &net, &["10.0.0.12"], &[&web]), port(3, &net, &["10.0.0.13"], &[])];
    let mut doc = document(vec![net], ports, vec![], vec![closed.clone(), web.clone()]);
    assert_eq!(bench.apply(&doc).len(), 3);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24"], None);
    let b = Guest::start("b", &doc.ports[1], &["10.0.0.12/24"], None);
    let c = Guest::start("c", &doc.ports[2], &["10.0.0.13/24"], None);
    b.serve(80);
    b.serve(81);
    a.serve(80);
    assert!(a.pings("10.0.0.12"), "allowed by rule");
    assert!(!b.pings_once("10.0.0.11"), "nothing lets this in");
    assert!(a.connect("10.0.0.12", 81).is_none(), "another port");
    let mut talk = a.connect("10.0.0.12", 80).expect("allowed by rule");
    assert_eq!(talk.seen_as().as_deref(), Some("10.0.0.11"), "the answer of an allowed connection passes");
    assert!(!c.pings_once("10.0.0.12"), "a port without groups sends nothing");

    // A group as remote: only its members.
    web.rules.retain(|r| r.protocol != Some(1));
    web.rules.push(rule(true, 4, Some(1), None, Remote::Group(closed.id.clone())));
    doc.security_groups[1] = web.clone();
    bench.apply(&doc);
    assert!(!a.pings_once("10.0.0.12"), "not a member yet");
    doc.security_groups[0].members = nets(&["10.0.0.11/32"]);
    bench.apply(&doc);
    assert!(a.pings("10.0.0.12"), "a member");
    assert!(talk.seen_as().is_some(), "the connection lives through changes of other rules");

    // The rule goes, and with it what it had let in.
    doc.security_groups[1].rules.retain(|r| r.protocol != Some(6));
    bench.apply(&doc);
    assert_eq!(talk.seen_as(), None, "a connection that no rule allows is cut");

    doc.ports[0].admin_up = false;
    bench.apply(&doc);
    assert!(!a.pings_once("10.0.0.12"), "a port that is down");
    doc.ports[0].admin_up = true;
    doc.ports[0].port_security = false;
    bench.apply(&doc);
    assert!(b.pings("10.0.0.11"), "without port security everything passes");
}

#[test]
fn net_stateless_groups_do_not_remember() {
    let bench = Bench::new();
    let net = network(1, vec![subnet(1, "10.0.0.0/24", None)], &[]);
    let mut stateless = group(1, vec![]);
    stateless.stateful = false;
    let open = open_group(2);
    let ports = vec![port(1, &net, &["10.0.0.11"], &[&stateless]), port(2, &net, &["10.0.0.12"], &[&open])];
    let mut doc = document(vec![net], ports, vec![], vec![stateless, open]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24"], None);
    Guest::start("b", &doc.ports[1], &["10.0.0.12/24"], None);
    assert!(!a.pings_once("10.0.0.12"), "the answer needs a rule of its own");
    doc.security_groups[0].rules.push(rule(true, 4, Some(1), Some((0, 0)), Remote::Any));
    doc.security_groups[0].rules.last_mut().unwrap().port_max = None;
    bench.apply(&doc);
    assert!(a.pings("10.0.0.12"));
}

#[test]
fn net_spoofed_frames_are_refused() {
    let bench = Bench::new();
    let net = network(1, vec![subnet(1, "10.0.0.0/24", None), subnet(2, "fd00:1::/64", None)], &[]);
    let open = open_group(1);
    let ports = vec![port(1, &net, &["10.0.0.11", "fd00:1::11"], &[&open]), port(2, &net, &["10.0.0.12", "fd00:1::12"], &[&open])];
    let mut doc = document(vec![net], ports, vec![], vec![open]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24", "fd00:1::11/64"], None);
    let b = Guest::start("b", &doc.ports[1], &["10.0.0.12/24", "fd00:1::12/64"], None);
    assert!(a.pings("10.0.0.12") && a.pings("fd00:1::12"));
    assert!(a.pings(&format!("{}%eth0", link_local(&doc.ports[1].mac))), "link-local addresses need no rule");

    // Addresses.
    a.sh("ip addr add 10.0.0.99/24 dev eth0; ip -6 addr add fd00:1::99/64 dev eth0 nodad");
    b.sh(&format!("ip neigh replace 10.0.0.99 lladdr {0} dev eth0; ip neigh replace fd00:1::99 lladdr {0} dev eth0", doc.ports[0].mac));
    assert!(!a.pings_once("-I 10.0.0.99 10.0.0.12") && !a.pings_once("-I fd00:1::99 fd00:1::12"), "an address that is not the port's");
    doc.ports[0].allowed_pairs = vec![
        AddressPair { mac: doc.ports[0].mac.clone(), cidr: "10.0.0.96/29".parse().unwrap() },
        AddressPair { mac: doc.ports[0].mac.clone(), cidr: "fd00:1::99/128".parse().unwrap() },
    ];
    bench.apply(&doc);
    b.sh("ip neigh flush all");
    assert!(a.pings("-I 10.0.0.99 10.0.0.12") && a.pings("-I fd00:1::99 fd00:1::12"), "an allowed pair");

    // ARP for somebody else's address. What b learns is what passed.
    let victim = [10, 0, 0, 50];
    let own = bytes(&doc.ports[0].mac);
    b.sh("sysctl -qw net.ipv4.conf.all.arp_accept=1 net.ipv4.conf.eth0.arp_accept=1; ip neigh flush all");
    a.send_frame(&arp(own, own, victim));
    a.send_frame(&arp(own, own, [10, 0, 0, 97]));
    eventually("the allowed announcement arrives", || b.sh("ip neigh").contains("10.0.0.97"));
    assert!(!b.sh("ip neigh").contains("10.0.0.50"), "an ARP sender that is not the port's");

    // MAC.
    a.sh("ip link set eth0 down; ip link set eth0 address fa:16:3e:99:99:99 up");
    assert!(!a.pings_once("10.0.0.12"), "a MAC that is not the port's");
}

#[test]
fn net_guests_cannot_serve_addresses_or_routes() {
    let bench = Bench::new();
    let net = network(1, vec![subnet(1, "10.0.0.0/24", None), subnet(2, "fd00:1::/64", None)], &[]);
    let open = open_group(1);
    let ports = vec![port(1, &net, &["10.0.0.11"], &[&open]), port(2, &net, &["10.0.0.12"], &[&open])];
    let doc = document(vec![net], ports, vec![], vec![open]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24"], None);
    let b = Guest::start("b", &doc.ports[1], &["10.0.0.12/24"], None);
    // A DHCP answer, and for comparison the same packet between other ports.
    let listen = |port: u16, patience: u64| {
        let socket = within("b", || std::net::UdpSocket::bind(("0.0.0.0", port)).unwrap());
        socket.set_read_timeout(Some(std::time::Duration::from_millis(patience))).unwrap();
        move || socket.recv_from(&mut [0; 64]).is_ok()
    };
    // What was sent first has come, or will not, when the second has.
    let (dhcp, other) = (listen(68, 400), listen(6868, 20_000));
    within("a", || {
        let from67 = std::net::UdpSocket::bind("10.0.0.11:67").unwrap();
        from67.send_to(b"offer", "10.0.0.12:68").unwrap();
        from67.send_to(b"hello", "10.0.0.12:6868").unwrap();
    });
    assert!(other());
    assert!(!dhcp(), "a DHCP server's answer from a guest");
    // A router advertisement from a guest.
    b.sh("sysctl -qw net.ipv6.conf.eth0.accept_ra=2");
    let mut ra = vec![0x33, 0x33, 0, 0, 0, 1];
    ra.extend(bytes(&doc.ports[0].mac));
    ra.extend(router_advertisement(&doc.ports[0].mac));
    a.send_frame(&ra);
    assert!(a.pings(&format!("{}%eth0", link_local(&doc.ports[1].mac))), "what was sent before has arrived or was refused");
    assert!(!b.sh("ip -6 route").contains("default"), "a router advertisement from a guest");
    // The same frame from a port without port security does pass, so the frame itself is good.
    let mut open_doc = doc.clone();
    open_doc.ports[0].port_security = false;
    bench.apply(&open_doc);
    a.send_frame(&ra);
    eventually("an unguarded port may advertise", || b.sh("ip -6 route").contains("default"));
}

#[test]
fn net_networks_do_not_meet_even_with_equal_addresses() {
    let bench = Bench::new();
    let one = network(1, vec![subnet(1, "10.0.0.0/24", Some("10.0.0.1"))], &[]);
    let two = network(2, vec![subnet(2, "10.0.0.0/24", Some("10.0.0.1"))], &[]);
    let open = open_group(1);
    let ports = vec![
        port(1, &one, &["10.0.0.11"], &[&open]),
        port(2, &one, &["10.0.0.12"], &[&open]),
        port(3, &two, &["10.0.0.11"], &[&open]),
        port(4, &two, &["10.0.0.12"], &[&open]),
        port(5, &two, &["10.0.0.13"], &[&open]),
    ];
    let routers = vec![router(1, &[(&one, &["10.0.0.1/24"])], None, &[]), router(2, &[(&two, &["10.0.0.1/24"])], None, &[])];
    let doc = document(vec![one, two], ports, routers, vec![open]);
    bench.apply(&doc);
    let start = |name: &str, i: usize, address: &str| Guest::start(name, &doc.ports[i], &[address], Some("10.0.0.1"));
    let a1 = start("a1", 0, "10.0.0.11/24");
    let b1 = start("b1", 1, "10.0.0.12/24");
    let a2 = start("a2", 2, "10.0.0.11/24");
    let b2 = start("b2", 3, "10.0.0.12/24");
    let c2 = start("c2", 4, "10.0.0.13/24");
    b1.serve(80);
    assert!(a1.pings("10.0.0.12") && a2.pings("10.0.0.12") && a1.pings("10.0.0.1") && a2.pings("10.0.0.1"));
    assert!(a1.connect("10.0.0.12", 80).is_some(), "the server of the own network");
    assert!(a2.connect("10.0.0.12", 80).is_none(), "the other network's address is another machine");
    assert!(c2.pings("10.0.0.11") && !a1.pings_once("10.0.0.13"));
    // Multicast reaches its own network and no other.
    let listen = |name: &str| {
        within(name, || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:5000").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            socket.join_multicast_v4(&[239, 1, 1, 1].into(), &[10, 0, 0, 12].into()).unwrap();
            socket
        })
    };
    let (here, there) = (listen("b1"), listen("b2"));
    within("a1", || {
        let socket = std::net::UdpSocket::bind("10.0.0.11:0").unwrap();
        socket.send_to(b"all", "239.1.1.1:5000").unwrap();
    });
    assert!(here.recv(&mut [0; 8]).is_ok());
    assert!(there.recv(&mut [0; 8]).is_err());
    drop((b2, b1));
    // The machine itself is not on the tenants' wires: not by address, not by link-local address.
    sh("ip link add outside type veth peer name outside2; ip addr add 192.0.2.1/24 dev outside; ip link set outside up");
    let bridge = format!("br{}", &doc.networks[0].id[..11]);
    let own = sh(&format!(
        "cat /sys/class/net/{bridge}/address 2>/dev/null || ip -o link show {bridge} | sed -E 's/.*ether ([0-9a-f:]+).*/\\1/'"
    ));
    a1.sh(&format!("ip route add 192.0.2.1 dev eth0; ip neigh replace 192.0.2.1 lladdr {} dev eth0", own.trim()));
    assert!(!a1.pings_once("192.0.2.1"));
    a1.sh("ip neigh del 192.0.2.1 dev eth0");
    assert!(!a1.pings_once("192.0.2.1"));
    assert_eq!(sh(&format!("ip -6 addr show dev {bridge}")), "");
}

fn bytes(mac: &str) -> [u8; 6] {
    let parts: Vec<u8> = mac.split(':').map(|p| u8::from_str_radix(p, 16).unwrap()).collect();
    parts.try_into().unwrap()
}

fn link_local(mac: &str) -> std::net::Ipv6Addr {
    let m = bytes(mac).map(u16::from);
    std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, (m[0] ^ 2) << 8 | m[1], m[2] << 8 | 0xff, 0xfe00 | m[3], m[4] << 8 | m[5])
}

fn arp(source: [u8; 6], claimed: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(source);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(claimed);
    frame.extend(address);
    frame.extend([0; 6]);
    frame.extend(address);
    frame
}

/// From the Ethernet type on: a router with a lifetime, to all nodes.
fn router_advertisement(mac: &str) -> Vec<u8> {
    let all: std::net::Ipv6Addr = "ff02::1".parse().unwrap();
    let from = link_local(mac);
    let mut icmp = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut sum: u32 = 58 + icmp.len() as u32;
    let words = |bytes: &[u8]| bytes.chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], p[1]]))).sum::<u32>();
    sum += words(&from.octets()) + words(&all.octets()) + words(&icmp);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    icmp[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, icmp.len() as u8, 58, 255];
    packet.extend(from.octets());
    packet.extend(all.octets());
    packet.extend(icmp);
    packet
}

/// How many of 60 datagrams of 1000 bytes, sent at once, come through.
fn carried(from: &Guest, to: &Guest, address: &str) -> usize {
    let ear = within(&to.name, || std::net::UdpSocket::bind((address, 7000)).unwrap());
    ear.set_read_timeout(Some(std::time::Duration::from_millis(700))).unwrap();
    within(&from.name, || {
        let mouth = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..60).for_each(|_| assert_eq!(mouth.send_to(&[0; 1000], (address, 7000)).unwrap(), 1000));
    });
    std::iter::from_fn(|| ear.recv(&mut [0; 2000]).ok()).count()
}

#[test]
fn net_limits_hold_in_both_directions() {
    let bench = Bench::new();
    let net = network(1, vec![subnet(1, "10.0.0.0/24", None)], &[]);
    let open = open_group(1);
    let ports = vec![port(1, &net, &["10.0.0.11"], &[&open]), port(2, &net, &["10.0.0.12"], &[&open])];
    let mut doc = document(vec![net], ports, vec![], vec![open]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24"], None);
    let b = Guest::start("b", &doc.ports[1], &["10.0.0.12/24"], None);
    assert!(a.pings("10.0.0.12"));
    assert_eq!(carried(&a, &b, "10.0.0.12"), 60, "no limit, no loss");

    // Ten kilobytes at once, then next to nothing.
    let limit = Some(Limit { rate: 1, burst: 80 });
    doc.ports[0].limits.egress = limit;
    bench.apply(&doc);
    let came = carried(&a, &b, "10.0.0.12");
    assert!((7..=12).contains(&came), "{came} of ten kilobytes");
    doc.security_groups[0].rules.push(rule(true, 4, Some(6), Some((80, 80)), Remote::Any));
    bench.apply(&doc);
    assert!(carried(&a, &b, "10.0.0.12") <= 2, "what has nothing to do with it gives it nothing new");
    assert_eq!(carried(&b, &a, "10.0.0.11"), 60, "the other direction is free");

    doc.ports[0].limits.egress = None;
    doc.ports[1].limits.ingress = limit;
    bench.apply(&doc);
    let came = carried(&a, &b, "10.0.0.12");
    assert!((7..=12).contains(&came), "{came} of ten kilobytes");
    assert_eq!(carried(&b, &a, "10.0.0.11"), 60, "the other direction is free");
    doc.ports[1].limits = Limits::default();
    bench.apply(&doc);
    assert_eq!(carried(&a, &b, "10.0.0.12"), 60, "free again");
}

/// A counter in a guest of the packets that it gets and that match.
fn count(guest: &Guest, name: &str, matches: &str) {
    guest.sh(&format!(
        "nft 'add table inet seen; add chain inet seen {name} {{ type filter hook prerouting priority -300; }}; add rule inet seen {name} {matches} counter'"
    ));
}

fn counted(guest: &Guest, name: &str) -> u64 {
    let rules = guest.sh(&format!("nft list chain inet seen {name}"));
    let packets = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    packets.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{rules}"))
}

/// How many of 4000 small datagrams come through, and in how many seconds they were sent: a few at a time, as queues on their way hold only so many.
fn packets_carried(from: &Guest, to: &Guest, address: &str) -> (u64, f64) {
    let before = counted(to, "small");
    let started = std::time::Instant::now();
    within(&from.name, || {
        let mouth = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..80 {
            // Nobody listens there: that an answer says so does not count.
            (0..50).for_each(|_| drop(mouth.send_to(&[0], (address, 7001))));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    // What is on its way is there before this has come back.
    assert!(from.pings(address));
    (counted(to, "small") - before, seconds)
}

#[test]
fn net_packets_are_limited_in_both_directions() {
    let bench = Bench::new();
    let net = network(1, vec![subnet(1, "10.0.0.0/24", None)], &[]);
    let open = open_group(1);
    let ports = vec![port(1, &net, &["10.0.0.11"], &[&open]), port(2, &net, &["10.0.0.12"], &[&open])];
    let mut doc = document(vec![net], ports, vec![], vec![open]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24"], None);
    let b = Guest::start("b", &doc.ports[1], &["10.0.0.12/24"], None);
    for guest in [&a, &b] {
        count(guest, "small", "udp dport 7001");
    }
    assert!(a.pings("10.0.0.12"));
    let (came, _) = packets_carried(&a, &b, "10.0.0.12");
    assert!(came > 3500, "no limit, no loss: {came}");

    // A second of the rate and the burst at once, then the rate.
    let limit = Some(PacketLimit { rate: 1, burst: 1 });
    let limited = |(came, seconds): (u64, f64)| {
        let most = 2000.0 + 1000.0 * seconds;
        assert!((2000.0..=most + 100.0).contains(&(came as f64)), "{came}, where {most} may pass");
    };
    doc.ports[0].limits.egress_packets = limit;
    bench.apply(&doc);
    limited(packets_carried(&a, &b, "10.0.0.12"));
    assert!(packets_carried(&b, &a, "10.0.0.11").0 > 3500, "the other direction is free");

    doc.ports[0].limits.egress_packets = None;
    doc.ports[1].limits.ingress_packets = limit;
    bench.apply(&doc);
    limited(packets_carried(&a, &b, "10.0.0.12"));
    assert!(packets_carried(&b, &a, "10.0.0.11").0 > 3500, "the other direction is free");
}

#[test]
fn net_packets_are_marked() {
    let bench = Bench::new();
    let net = network(1, vec![subnet(1, "10.0.0.0/24", None), subnet(2, "fd00:1::/64", None)], &[]);
    let open = open_group(1);
    let ports = vec![port(1, &net, &["10.0.0.11", "fd00:1::11"], &[&open]), port(2, &net, &["10.0.0.12", "fd00:1::12"], &[&open])];
    let mut doc = document(vec![net], ports, vec![], vec![open]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24", "fd00:1::11/64"], None);
    let b = Guest::start("b", &doc.ports[1], &["10.0.0.12/24", "fd00:1::12/64"], None);
    for (name, matches) in [("own4", "ip dscp 10"), ("own6", "ip6 dscp 10"), ("ours4", "ip dscp 46"), ("ours6", "ip6 dscp 46")] {
        count(&a, name, matches);
        count(&b, name, matches);
    }
    let talk = || assert!(a.pings("-Q 40 10.0.0.12") && a.pings("-Q 40 fd00:1::12"));
    talk();
    let seen = ["own4", "own6", "ours4", "ours6"].map(|name| counted(&b, name) > 0);
    assert_eq!(seen, [true, true, false, false], "what the guest says");
    doc.ports[0].limits.mark = Some(46);
    bench.apply(&doc);
    let before = (counted(&b, "own4"), counted(&b, "own6"));
    talk();
    assert_eq!((counted(&b, "own4"), counted(&b, "own6")), before, "what the guest says does not count");
    assert!(counted(&b, "ours4") > 0 && counted(&b, "ours6") > 0);
    let before = (counted(&a, "own4"), counted(&a, "own6"));
    assert!(b.pings("-Q 40 10.0.0.11") && b.pings("-Q 40 fd00:1::11"));
    let after = (counted(&a, "own4"), counted(&a, "own6"));
    assert!(after.0 > before.0 && after.1 > before.1, "only what it sends");
}

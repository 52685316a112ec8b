//! Routers: between networks, to the outside, floating addresses.

use rpc::network::*;

use crate::net_support::*;

/// Two networks behind one router with a gateway, one guest in each, and the machine itself as the outside.
fn tour(floating: &[(&str, &str)]) -> NetworkDocument {
    let out = external(9);
    let one = network(1, vec![subnet(1, "10.0.0.0/24", Some("10.0.0.1"))], &[]);
    let two = network(2, vec![subnet(2, "10.1.0.0/24", Some("10.1.0.1"))], &[]);
    let open = open_group(1);
    let ports =
        vec![port(1, &one, &["10.0.0.11"], &[&open]), port(2, &two, &["10.1.0.12"], &[&open]), port(3, &one, &["10.0.0.13"], &[&open])];
    let router = router(1, &[(&one, &["10.0.0.1/24"]), (&two, &["10.1.0.1/24"])], Some((&out, "172.24.4.100/24")), floating);
    document(vec![out, one, two], ports, vec![router], vec![open])
}

fn guests(doc: &NetworkDocument) -> [Guest; 3] {
    [
        Guest::start("a", &doc.ports[0], &["10.0.0.11/24"], Some("10.0.0.1")),
        Guest::start("b", &doc.ports[1], &["10.1.0.12/24"], Some("10.1.0.1")),
        Guest::start("c", &doc.ports[2], &["10.0.0.13/24"], Some("10.0.0.1")),
    ]
}

/// The outside's server: answers with the address it sees.
fn serve_outside(port: u16) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind(("172.24.4.1", port)).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
}

fn outside_pings(address: &str) -> bool {
    run(&format!("ping -n -c 2 -i 0.05 -W 0.5 {address}")).status.success()
}

fn outside_connect(address: &str, port: u16) -> Option<std::net::TcpStream> {
    let address: std::net::IpAddr = address.parse().unwrap();
    std::net::TcpStream::connect_timeout(&(address, port).into(), std::time::Duration::from_millis(500)).ok()
}

#[test]
fn net_router_routes_and_translates() {
    let bench = Bench::new();
    let mut doc = tour(&[("172.24.4.50", "10.0.0.11")]);
    bench.apply(&doc);
    let [a, b, c] = guests(&doc);
    for guest in [&a, &b, &c] {
        guest.serve(80);
    }
    serve_outside(8000);
    assert!(a.pings("10.1.0.12") && b.pings("10.0.0.13"), "between the router's networks");
    assert_eq!(a.connect("10.1.0.12", 80).unwrap().seen_as().as_deref(), Some("10.0.0.11"), "without translation");
    assert_eq!(b.connect("172.24.4.1", 8000).unwrap().seen_as().as_deref(), Some("172.24.4.100"), "out under the gateway's address");
    assert_eq!(a.connect("172.24.4.1", 8000).unwrap().seen_as().as_deref(), Some("172.24.4.50"), "out under the floating address");
    assert!(outside_pings("172.24.4.50") && outside_connect("172.24.4.50", 80).is_some(), "in by the floating address");
    // Hairpin: from another network, from the same, from itself.
    for (guest, seen) in [(&b, "172.24.4.100"), (&c, "172.24.4.100"), (&a, "172.24.4.50")] {
        assert!(guest.pings("172.24.4.50"), "{} to the floating address", guest.name);
        assert_eq!(guest.connect("172.24.4.50", 80).unwrap().seen_as().as_deref(), Some(seen), "{}", guest.name);
    }
    // Tenants' addresses are not reachable from outside, even for those who know the way.
    sh("ip route add 10.0.0.0/16 via 172.24.4.100");
    assert!(!outside_pings("10.0.0.11") && !outside_pings("10.0.0.13"));
    sh("ip route del 10.0.0.0/16");

    // The floating address moves: the old connection ends, the outside learns at once.
    use std::io::{Read, Write};
    let mut talk = outside_connect("172.24.4.50", 80).unwrap();
    talk.set_read_timeout(Some(std::time::Duration::from_millis(700))).unwrap();
    talk.write_all(b"?").unwrap();
    assert!(talk.read(&mut [0; 64]).is_ok());
    doc.routers[0].floating[0].fixed = "10.1.0.12".parse().unwrap();
    bench.apply(&doc);
    talk.write_all(b"?").unwrap();
    assert!(!talk.read(&mut [0; 64]).is_ok_and(|n| n > 0), "a connection through a floating address that went elsewhere");
    assert!(outside_connect("172.24.4.50", 80).is_some());
    assert_eq!(b.connect("172.24.4.1", 8000).unwrap().seen_as().as_deref(), Some("172.24.4.50"));
    doc.routers[0].floating.clear();
    bench.apply(&doc);
    assert!(!outside_pings("172.24.4.50"), "a floating address that is gone");

    doc.routers[0].gateway.as_mut().unwrap().snat = false;
    bench.apply(&doc);
    assert!(!a.pings_once("172.24.4.1"), "without translation nobody outside knows the way back");
    sh("ip route add 10.0.0.0/24 via 172.24.4.100");
    assert!(a.pings("172.24.4.1"), "a routed network");
    assert!(outside_pings("10.0.0.11"));

    doc.routers[0].admin_up = false;
    bench.apply(&doc);
    assert!(!a.pings_once("10.1.0.12"), "a router that is down");
}

#[test]
fn net_router_extra_routes_and_ipv6() {
    let bench = Bench::new();
    let one = network(1, vec![subnet(1, "10.0.0.0/24", Some("10.0.0.1")), subnet(3, "fd00:1::/64", Some("fd00:1::1"))], &[]);
    let two = network(2, vec![subnet(2, "10.1.0.0/24", Some("10.1.0.1")), subnet(4, "fd00:2::/64", Some("fd00:2::1"))], &[]);
    let open = open_group(1);
    let mut ports = vec![port(1, &one, &["10.0.0.11", "fd00:1::11"], &[&open]), port(2, &two, &["10.1.0.12", "fd00:2::12"], &[&open])];
    ports[1].allowed_pairs = vec![AddressPair { mac: ports[1].mac.clone(), cidr: "192.168.7.0/24".parse().unwrap() }];
    let mut router = router(1, &[(&one, &["10.0.0.1/24", "fd00:1::1/64"]), (&two, &["10.1.0.1/24", "fd00:2::1/64"])], None, &[]);
    router.routes = vec![Route { destination: "192.168.7.0/24".parse().unwrap(), nexthop: "10.1.0.12".parse().unwrap() }];
    let mut doc = document(vec![one, two], ports, vec![router], vec![open]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24", "fd00:1::11/64"], Some("10.0.0.1"));
    let b = Guest::start("b", &doc.ports[1], &["10.1.0.12/24", "fd00:2::12/64", "192.168.7.1/32"], Some("10.1.0.1"));
    a.sh("ip -6 route add default via fd00:1::1");
    b.sh("ip -6 route add default via fd00:2::1");
    assert!(a.pings("fd00:2::12"), "IPv6 is routed");
    assert!(a.pings("192.168.7.1"), "an extra route");
    doc.routers[0].routes.clear();
    bench.apply(&doc);
    assert!(!a.pings_once("192.168.7.1"));
}

#[test]
fn net_two_tenants_with_the_same_addresses_share_the_outside() {
    let bench = Bench::new();
    let out = external(9);
    let one = network(1, vec![subnet(1, "10.0.0.0/24", Some("10.0.0.1"))], &[]);
    let two = network(2, vec![subnet(2, "10.0.0.0/24", Some("10.0.0.1"))], &[]);
    let open = open_group(1);
    let ports = vec![port(1, &one, &["10.0.0.11"], &[&open]), port(2, &two, &["10.0.0.11"], &[&open])];
    let routers = vec![
        router(1, &[(&one, &["10.0.0.1/24"])], Some((&out, "172.24.4.101/24")), &[("172.24.4.51", "10.0.0.11")]),
        router(2, &[(&two, &["10.0.0.1/24"])], Some((&out, "172.24.4.102/24")), &[("172.24.4.52", "10.0.0.11")]),
    ];
    let doc = document(vec![out, one, two], ports, routers, vec![open]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24"], Some("10.0.0.1"));
    let b = Guest::start("b", &doc.ports[1], &["10.0.0.11/24"], Some("10.0.0.1"));
    a.serve(80);
    serve_outside(8000);
    assert_eq!(a.connect("172.24.4.1", 8000).unwrap().seen_as().as_deref(), Some("172.24.4.51"));
    assert_eq!(b.connect("172.24.4.1", 8000).unwrap().seen_as().as_deref(), Some("172.24.4.52"));
    assert!(outside_connect("172.24.4.51", 80).is_some() && outside_connect("172.24.4.52", 80).is_none());
    assert!(b.pings("172.24.4.51"), "one tenant to the other, by floating addresses only");
    assert_eq!(b.connect("172.24.4.51", 80).unwrap().seen_as().as_deref(), Some("172.24.4.52"));
}

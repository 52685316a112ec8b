//! What guests get from the network itself: addresses, routes, names, metadata.

use host::wire::Wire;
use rpc::instance::Metadata;
use rpc::network::*;
use serde_json::json;

use crate::net_support::*;

/// Runs a DHCP client in a guest and sets what it got; returns what the client was told, a `name=value` a line.
fn dhcp(guest: &Guest, home: &std::path::Path) -> String {
    let script = home.join("udhcpc.sh");
    std::fs::write(
        &script,
        r#"#!/bin/sh
[ "$1" = bound ] || exit 0
set > "$OUT"
ip link set eth0 mtu "$mtu"
ip addr add "$ip/$mask" dev eth0
set -- $staticroutes
while [ -n "$1" ]; do
  case "$2" in 0.0.0.0) ip route add "$1" dev eth0 ;; *) ip route add "$1" via "$2" ;; esac
  shift 2
done
"#,
    )
    .unwrap();
    sh(&format!("chmod +x {}", script.display()));
    let out = home.join(format!("{}.lease", guest.name));
    let options = "-O mtu -O staticroutes -O search -O 121 -O bootfile -O ntpsrv";
    guest.sh(&format!("OUT={} busybox udhcpc -n -q -f -t 5 -T 1 -i eth0 {options} -s {}", out.display(), script.display()));
    std::fs::read_to_string(out).unwrap()
}

fn metadata(uuid: &str) -> Metadata {
    Metadata {
        meta_data: json!({"uuid": uuid}),
        user_data_base64: Some("aGVsbG8=".into()),
        ec2: [("instance-id".to_string(), format!("i-{uuid}"))].into(),
        ..Metadata::default()
    }
}

#[test]
fn net_dhcp_gives_the_whole_configuration() {
    let bench = Bench::new();
    let mut net = network(1, vec![subnet(1, "10.0.0.0/24", Some("10.0.0.1")), subnet(2, "10.5.0.0/16", None)], &["10.0.0.2/24"]);
    net.subnets[0].host_routes = vec![Route { destination: "192.168.0.0/16".parse().unwrap(), nexthop: "10.0.0.7".parse().unwrap() }];
    let closed = group(1, vec![]);
    let ports = vec![port(1, &net, &["10.0.0.11"], &[&closed]), port(2, &net, &["10.0.0.12"], &[&closed])];
    net.leases = vec![lease(&ports[0], "web")];
    net.leases[0].options = vec![DhcpOption { name: "bootfile-name".into(), value: "pxelinux.0".into(), ip_version: 4 }];
    let mut doc = document(vec![net], ports, vec![], vec![closed]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &[], None);
    let got = dhcp(&a, bench.home.path());
    for line in [
        "ip='10.0.0.11'",
        "mask='24'",
        "router='10.0.0.1'",
        "dns='10.0.0.2'",
        "hostname='web'",
        "domain='example.test'",
        "mtu='1450'",
        "lease='86400'",
        "serverid='10.0.0.2'",
        "staticroutes='169.254.169.254/32 10.0.0.2 192.168.0.0/16 10.0.0.7 10.5.0.0/16 0.0.0.0 0.0.0.0/0 10.0.0.1'",
    ] {
        assert!(got.contains(line), "{line} in:\n{got}");
    }
    assert!(got.contains("pxelinux.0"), "{got}");
    assert!(a.pings("10.0.0.2"), "the service answers");
    // Names, and a guest that has no lease.
    let ask = |name: &str| a.run(&format!("busybox nslookup {name} 10.0.0.2"));
    assert!(String::from_utf8_lossy(&ask("web.example.test").stdout).contains("10.0.0.11"));
    assert!(String::from_utf8_lossy(&ask("10.0.0.11").stdout).contains("web.example.test"));
    assert!(String::from_utf8_lossy(&ask("example.org").stdout).contains("REFUSED"));
    let b = Guest::start("b", &doc.ports[1], &[], None);
    assert!(!b.ok("busybox udhcpc -n -q -f -t 2 -T 1 -i eth0 -s /bin/true"), "no lease, no answer");
    let second = lease(&doc.ports[1], "");
    doc.networks[0].leases.push(second);
    bench.apply(&doc);
    assert!(dhcp(&b, bench.home.path()).contains("hostname='host-10-0-0-12'"));
}

#[test]
fn net_metadata_knows_the_caller_by_network_and_address() {
    let bench = Bench::new();
    let tenant = |n: u32| {
        let mut net = network(n, vec![subnet(n, "10.0.0.0/24", Some("10.0.0.1"))], &["10.0.0.2/24"]);
        let closed = group(n, vec![]);
        let guest = port(n, &net, &["10.0.0.11"], &[&closed]);
        net.leases = vec![lease(&guest, "")];
        let router = router(n, &[(&net, &["10.0.0.1/24"])], None, &[]);
        (net, guest, router, closed)
    };
    let (one, two) = (tenant(1), tenant(2));
    let doc = document(vec![one.0, two.0], vec![one.1, two.1], vec![one.2, two.2], vec![one.3, two.3]);
    bench.apply(&doc);
    bench.switch.instance_metadata_set(&doc.ports[0].instance_id, metadata("first"));
    bench.switch.instance_metadata_set(&doc.ports[1].instance_id, metadata("second"));
    let kept = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = kept.clone();
    bench.switch.passwords_keep(std::sync::Arc::new(move |id, password| {
        keep.lock().unwrap().push((id.to_string(), password.to_string()));
        Ok(())
    }));
    let guests = [Guest::start("a", &doc.ports[0], &[], None), Guest::start("b", &doc.ports[1], &[], None)];
    let get =
        |guest: &Guest, path: &str, more: &str| guest.sh(&format!("curl -s -m 5 {more} -w ' %{{http_code}}' http://169.254.169.254{path}"));
    for (guest, uuid) in guests.iter().zip(["first", "second"]) {
        dhcp(guest, bench.home.path());
        // By the service's route, then by the router's.
        for way in ["", "ip route replace 169.254.169.254 via 10.0.0.1", "ip route del 169.254.169.254"] {
            guest.sh(way);
            assert_eq!(get(guest, "/openstack/latest/meta_data.json", ""), format!("{{\"uuid\":\"{uuid}\"}} 200"), "{way}");
            assert_eq!(get(guest, "/latest/meta-data/instance-id", ""), format!("i-{uuid} 200"));
        }
        assert_eq!(get(guest, "/latest/user-data", ""), "hello 200");
        assert!(get(guest, "/openstack/latest/meta_data.json", "-H 'X-Forwarded-For: 10.0.0.12' -H 'X-Instance-ID: x'").contains(uuid));
        assert!(get(guest, "/nothing", "").ends_with(" 404"));
        assert_eq!(get(guest, "/openstack/latest/password", "-d \"$(head -c 1021 /dev/zero | tr '\\0' a)\""), "400 Bad Request\n 400");
        assert_eq!(get(guest, "/openstack/2013-04-04/password", "-d secret"), " 200");
        assert_eq!(get(guest, "/openstack/latest/password", ""), "secret 200");
        assert_eq!(get(guest, "/openstack/latest/password", "-d other"), "409 Conflict\n 409");
        assert!(get(guest, "/openstack/latest/meta_data.json", "-d x").ends_with(" 405"));
        let refused = get(guest, "/", "-H \"A: $(head -c 9000 /dev/zero | tr '\\0' a)\"");
        assert!(refused.ends_with(" 431"), "{refused}");
        let six = guest.sh("curl -s -m 5 'http://[fe80::a9fe:a9fe%25eth0]/latest/meta-data/instance-id'");
        assert_eq!(six, format!("i-{uuid}"), "by IPv6");
        // The responder is on the metadata address only.
        assert!(!guest.ok("curl -s -m 2 http://10.0.0.2/"));
    }
    let wanted: Vec<(String, String)> = doc.ports.iter().map(|p| (p.instance_id.clone(), "secret".into())).collect();
    assert_eq!(*kept.lock().unwrap(), wanted, "each guest's own");
    bench.switch.instance_metadata_remove(&doc.ports[0].instance_id);
    assert!(get(&guests[0], "/latest/meta-data/instance-id", "").ends_with(" 404"));
    assert!(get(&guests[1], "/latest/meta-data/instance-id", "").ends_with(" 200"));
}

#[test]
fn net_metadata_withstands_slow_and_greedy_guests() {
    let bench = Bench::new();
    let net = network(1, vec![subnet(1, "10.0.0.0/24", Some("10.0.0.1"))], &["10.0.0.2/24"]);
    let closed = group(1, vec![]);
    let ports = vec![port(1, &net, &["10.0.0.11"], &[&closed]), port(2, &net, &["10.0.0.12"], &[&closed])];
    let doc = document(vec![net], ports, vec![], vec![closed]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24"], Some("10.0.0.2"));
    let b = Guest::start("b", &doc.ports[1], &["10.0.0.12/24"], Some("10.0.0.2"));
    for (port, uuid) in doc.ports.iter().zip(["greedy", "modest"]) {
        bench.switch.instance_metadata_set(&port.instance_id, metadata(uuid));
    }
    // One opens all it can and says nothing; the other is served all the same.
    let held: Vec<_> = (0..100).filter_map(|_| a.connect("169.254.169.254", 80)).collect();
    assert!(!held.is_empty());
    assert_eq!(b.sh("curl -s -m 5 http://169.254.169.254/latest/meta-data/instance-id"), "i-modest");
    drop(held);
    // More than its share of requests: told so.
    eventually("a is served again", || a.ok("curl -sf -m 1 http://169.254.169.254/"));
    let urls = "http://169.254.169.254/ ".repeat(90);
    let codes = a.sh(&format!(
        "curl -Z --parallel-max 8 -s -m 20 -o /dev/null -w '%{{http_code}} ' {urls} {urls} {urls} --remote-name-all --output-dir /dev/null; true"
    ));
    assert!(codes.contains("429"), "{codes}");
    assert_eq!(b.sh("curl -s -m 5 http://169.254.169.254/latest/meta-data/instance-id"), "i-modest");
}

#[test]
fn net_ipv6_addresses_come_from_advertisements() {
    let bench = Bench::new();
    let routed = network(1, vec![subnet(1, "fd00:1::/64", Some("fd00:1::1"))], &["fd00:1::2/64"]);
    let alone = network(2, vec![subnet(2, "fd00:2::/64", None)], &["fd00:2::2/64"]);
    let far = network(3, vec![subnet(3, "fd00:3::/64", Some("fd00:3::1"))], &["fd00:3::2/64"]);
    let own = |net: u32, n: u32| format!("fd00:{net}::f816:3eff:fe00:{n:x}");
    let (closed, open) = (group(1, vec![]), open_group(2));
    let ports = vec![
        port(1, &routed, &[&own(1, 1)], &[&closed]),
        port(2, &alone, &[&own(2, 2)], &[&open]),
        port(3, &alone, &[&own(2, 3)], &[&open]),
        port(4, &far, &[&own(3, 4)], &[&open]),
    ];
    let routers = vec![router(1, &[(&routed, &["fd00:1::1/64"]), (&far, &["fd00:3::1/64"])], None, &[])];
    let mut doc = document(vec![routed, alone, far], ports, routers, vec![closed, open]);
    doc.networks[1].leases = vec![lease(&doc.ports[1], "")];
    bench.apply(&doc);
    let start = |i: usize, name: &str| Guest::start_with(name, &doc.ports[i], "sysctl -qw net.ipv6.conf.eth0.accept_ra=2");
    let (a, b, c, d) = (start(0, "a"), start(1, "b"), start(2, "c"), start(3, "d"));
    for (guest, address) in [(&a, own(1, 1)), (&b, own(2, 2)), (&c, own(2, 3)), (&d, own(3, 4))] {
        eventually(&format!("{} has made itself {address}", guest.name), || guest.sh("ip -6 addr show dev eth0").contains(&address));
    }
    assert!(a.sh("ip -6 route").contains("default via fe80::"), "the router is the way out");
    // Name servers by DHCPv6: an information request, answered to the guest's link-local address.
    let answer = within("b", || {
        let socket = std::net::UdpSocket::bind("[::]:546").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        let to = std::net::SocketAddrV6::new("ff02::1:2".parse().unwrap(), 547, 0, index);
        socket.send_to(&[11, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1, 1, 2, 3, 4, 5, 6], to).unwrap();
        let mut buffer = [0; 1500];
        let n = socket.recv(&mut buffer).expect("an answer by DHCPv6");
        buffer[..n].to_vec()
    });
    assert_eq!(answer[..4], [7, 1, 2, 3]);
    assert!(!b.sh("ip -6 route").contains("default"), "without a router there is none");
    assert!(b.pings(&own(2, 3)), "on the wire");
    assert!(a.pings(&own(3, 4)), "through the router");
    assert!(!d.pings_once(&own(1, 1)), "groups hold for IPv6 too");
    assert_eq!(a.sh("sysctl -n net.ipv6.conf.eth0.mtu").trim(), "1450");
}

#[test]
fn net_service_survives_damage_and_restart() {
    let mut bench = Bench::new();
    let mut net = network(1, vec![subnet(1, "10.0.0.0/24", Some("10.0.0.1"))], &["10.0.0.2/24"]);
    let closed = group(1, vec![]);
    let ports = vec![port(1, &net, &["10.0.0.11"], &[&closed])];
    net.leases = vec![lease(&ports[0], "web")];
    let doc = document(vec![net], ports, vec![], vec![closed]);
    bench.apply(&doc);
    let a = Guest::start("a", &doc.ports[0], &[], None);
    let served = || a.ok("busybox udhcpc -n -q -f -t 3 -T 1 -i eth0 -s /bin/true");
    assert!(served());
    sh(&format!("ip link del sn{}", &doc.networks[0].id[..11]));
    bench.apply(&doc);
    assert!(served(), "with new links under the old namespace");
    // As a crash would: the old process's sockets are gone, the namespaces are not.
    bench.restart();
    eventually("the new process serves", || bench.try_apply(&doc).unwrap().errors.is_empty());
    assert!(served(), "after a restart");
}

/// What ICMPv6 sends from here.
fn icmp6(from: &str) -> std::net::UdpSocket {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, setsockopt, socket, sockopt};
    let fd = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6).unwrap();
    setsockopt(&fd, sockopt::Ipv6MulticastHops, &255).unwrap();
    let at = std::net::SocketAddrV6::new(from.parse().unwrap(), 0, 0, nix::net::if_::if_nametoindex("eth0").unwrap());
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &nix::sys::socket::SockaddrIn6::from(at)).unwrap();
    fd.into()
}

#[test]
fn net_services_count_what_they_drop_and_serve_on() {
    let bench = Bench::new();
    let subnets = vec![subnet(1, "10.0.0.0/24", None), subnet(2, "fd00::/64", None)];
    let mut net = network(1, subnets, &["10.0.0.2/24", "fd00::2/64"]);
    let open = open_group(1);
    let ports =
        vec![port(1, &net, &["10.0.0.11", "fd00::11"], &[&open]), Port { port_security: false, ..port(2, &net, &["10.0.0.12"], &[]) }];
    net.leases = vec![lease(&ports[0], "web")];
    let doc = document(vec![net], ports, vec![], vec![open]);
    bench.apply(&doc);
    bench.switch.instance_metadata_set(&doc.ports[0].instance_id, metadata("a"));
    let a = Guest::start("a", &doc.ports[0], &["10.0.0.11/24", "fd00::11/64"], Some("10.0.0.2"));
    // Under an address that is nobody's.
    let b = Guest::start("b", &doc.ports[1], &["10.0.0.99/24"], Some("10.0.0.2"));
    // So that what is larger comes in pieces.
    a.sh("ip link set eth0 mtu 1450");
    assert!(a.pings("10.0.0.2") && a.pings("fd00::2"));
    let counts = || -> Vec<String> { bench.switch.dropped().iter().map(|d| format!("{} {} {}", d.port, d.reason, d.packets)).collect() };
    assert_eq!(counts(), Vec::<String>::new());

    let link = within("a", || nix::net::if_::if_nametoindex("eth0").unwrap());
    let own = a.sh("ip -6 -o addr show dev eth0 scope link | awk '{print $4}'").trim().split('/').next().unwrap().to_string();
    within("a", || {
        let send = |from: std::net::SocketAddr, to: &str, bytes: &[u8]| {
            std::net::UdpSocket::bind(from).unwrap().send_to(bytes, to).unwrap();
        };
        let four = || "10.0.0.11:0".parse().unwrap();
        let mut discover = vec![0; 240];
        discover[..3].copy_from_slice(&[1, 1, 6]);
        discover[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        discover[236..].copy_from_slice(&[99, 130, 83, 99]);
        discover.extend([53, 1, 1, 255]);
        for bytes in [&[7; 50][..], &discover, &[1; 3000]] {
            send(four(), "10.0.0.2:67", bytes);
        }
        let six = |from: &str| std::net::SocketAddrV6::new(from.parse().unwrap(), 0, 0, link).into();
        let all = format!("[ff02::1:2%{link}]:547");
        send(six(&own), &all, &[1]);
        send(six(&own), &all, &[1; 2500]);
        send(six("fd00::11"), "[fd00::2]:547", &[1, 1, 2, 3]);
        send(four(), "10.0.0.2:53", &[9; 5]);
        send(four(), "10.0.0.2:53", &[9; 5000]);
        let solicit = |from: &str, bytes: &[u8]| {
            let to = std::net::SocketAddrV6::new("ff02::2".parse().unwrap(), 0, 0, link);
            icmp6(from).send_to(bytes, to).unwrap();
        };
        solicit(&own, &[133, 1, 0, 0, 0, 0, 0, 0]);
        solicit("fd00::11", &[133, 0, 0, 0, 0, 0, 0, 0]);
    });
    a.run("printf '\\377\\377 and more' | busybox nc -w 2 10.0.0.2 53");
    a.run("printf 'nonsense\\r\\n\\r\\n' | busybox nc -w 2 169.254.169.254 80");
    a.run("curl -s -m 5 -H \"A: $(head -c 9000 /dev/zero | tr '\\0' a)\" http://169.254.169.254/");
    b.run("curl -s -m 5 http://169.254.169.254/");
    let wanted = [
        "dhcp malformed 1",
        "dhcp oversized 1",
        "dhcp stranger 1",
        "dhcp6 forged 1",
        "dhcp6 malformed 1",
        "dhcp6 oversized 1",
        "dns malformed 1",
        "dns oversized 2",
        "metadata malformed 1",
        "metadata oversized 1",
        "metadata stranger 1",
        "ra forged 1",
        "ra malformed 1",
    ];
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while counts() != wanted && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(counts(), wanted);

    // And who means well is served.
    assert!(dhcp(&a, bench.home.path()).contains("hostname='web'"));
    assert!(String::from_utf8_lossy(&a.run("busybox nslookup web.example.test 10.0.0.2").stdout).contains("10.0.0.11"));
    assert_eq!(a.sh("curl -s -m 5 http://169.254.169.254/latest/meta-data/instance-id"), "i-a");
    assert_eq!(counts(), wanted);
}

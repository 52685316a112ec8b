//! VLANs between two hosts, whose bridges of the physical network are joined by a wire; beside each other, and beside the flat network.

use host::switch::Options;
use rpc::network::*;

use crate::net_support::*;
use crate::net_tunnels::{Far, Site, of, routers_have_parts};

/// Joins a host's bridge of the physical network with its end of the wire.
fn join() {
    sh("ip link add br-ex type bridge 2>/dev/null; ip link set br-ex up; ip link set wire master br-ex up");
}

fn hosts() -> (Bench, Far) {
    let near = Bench::with(Options::default());
    let far = Far::start("192.0.2.2");
    sh(&format!("ip link add wire type veth peer name wire netns {}", far.namespace));
    join();
    far.run(|_| join());
    (near, far)
}

/// Counts what comes in by a link, for each of these filters.
fn count(link: &str, filters: &[&str]) {
    let rules: String = filters.iter().map(|filter| format!("add rule netdev seen c {filter} counter; ")).collect();
    sh(&format!("nft 'add table netdev seen; add chain netdev seen c {{ type filter hook ingress device {link} priority 0; }}; {rules}'"));
}

/// What was counted so far.
fn counts() -> Vec<u64> {
    let text = sh("nft -j list table netdev seen");
    text.split("\"packets\": ").skip(1).map(|rest| rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()).collect()
}

/// The same, at the end.
fn counted() -> Vec<u64> {
    let counts = counts();
    sh("nft delete table netdev seen");
    counts
}

/// An ARP request in an Ethernet frame, with these tags.
fn asks(mac: &str, from: [u8; 4], whom: [u8; 4], tags: &[u16]) -> Vec<u8> {
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let mut frame = [&[0xff; 6][..], &mac].concat();
    for tag in tags {
        frame.extend([&[0x81, 0x00][..], &tag.to_be_bytes()].concat());
    }
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([&mac[..], &from, &[0; 6], &whom].concat());
    frame
}

/// Networks 100 and 200 with the same addresses, and the flat one.
fn networks() -> [Network; 3] {
    let subnets = |n| vec![subnet(n, "10.0.0.0/24", None), subnet(n + 10, "2001:db8::/64", None)];
    [vlan(1, 100, subnets(1), &["10.0.0.2/24"]), vlan(2, 200, subnets(2), &["10.0.0.2/24"]), external(9)]
}

#[test]
fn net_vlans_join_hosts_and_stay_apart() {
    let (near, far) = hosts();
    let [one, two, flat] = networks();
    let open = open_group(1);
    let addresses = |n: u32| [format!("10.0.0.1{n}"), format!("2001:db8::1{n}")];
    let port = |n: u32, net: &Network| port(n, net, &addresses(n).each_ref().map(String::as_str), &[&open]);
    let [a, b, c, d] = [port(1, &one), port(2, &one), port(3, &two), port(4, &two)];
    let mut e = crate::net_support::port(5, &flat, &["172.24.4.35"], &[]);
    e.port_security = false;
    let f = Port { port_security: false, ..crate::net_support::port(6, &flat, &["172.24.4.36"], &[]) };
    let before = snapshot();
    let mut away = flat.clone();
    if let NetworkKind::Provider { host_addresses, .. } = &mut away.kind {
        host_addresses.clear();
    }
    let here = document(vec![one.clone(), two.clone(), flat], vec![a.clone(), c.clone(), e.clone()], vec![], vec![open.clone()]);
    let there = document(vec![two, away, one.clone()], vec![b.clone(), d.clone(), f.clone()], vec![], vec![open]);
    near.apply(&here);
    far.run(move |bench| {
        bench.apply(&there);
        Guest::start("b", &b, &["10.0.0.12/24", "2001:db8::12/64"], None);
        Guest::start("d", &d, &["10.0.0.14/24", "2001:db8::14/64"], None);
        Guest::start("f", &f, &["172.24.4.36/24"], None);
    });
    let [ga, gc] = [("a", &a, 1), ("c", &c, 3)].map(|(name, port, n)| {
        let [v4, v6] = addresses(n);
        Guest::start(name, port, &[&format!("{v4}/24"), &format!("{v6}/64")], None)
    });
    let ge = Guest::start("e", &e, &["172.24.4.35/24"], None);

    // Within a VLAN, over the wire, with its whole MTU; the flat network goes on beside.
    assert!(ga.pings("10.0.0.12") && ga.pings("2001:db8::12") && gc.pings("10.0.0.14") && gc.pings("2001:db8::14"));
    assert!(ga.ok("ping -n -c 3 -i 0.2 -W 1 -M do -s 1472 10.0.0.12"));
    assert!(ge.pings("172.24.4.36") && ge.pings("172.24.4.1"));
    // From one to the other nothing passes, on one host or by the wire, whatever addresses somebody takes.
    assert!(!ga.pings_once("10.0.0.13") && !ga.pings_once("10.0.0.14") && !gc.pings_once("10.0.0.12") && !gc.pings_once("2001:db8::12"));
    ge.sh("ip addr add 10.0.0.77/24 dev eth0");
    assert!(!ge.pings_once("10.0.0.11") && !ge.pings_once("10.0.0.12"));

    // On the wire each frame has its network's tag.
    let filters = ["vlan id 100 vlan type ip", "vlan id 200 vlan type ip", "ether type ip", "vlan id 100 ether saddr fa:16:3e:00:00:03"];
    far.run(move |_| count("wire", &filters));
    assert!(ga.ok("ping -n -c 5 -i 0.05 -W 1 10.0.0.12") && gc.ok("ping -n -c 4 -i 0.05 -W 1 10.0.0.14"));
    assert!(ge.ok("ping -n -c 3 -i 0.05 -W 1 172.24.4.36"));
    assert_eq!(far.run(|_| counted()), [5, 4, 3, 0]);

    // The network's own port is on every host: neither its frames nor its MAC go to another.
    let service = one.service_port.as_ref().unwrap().mac.clone();
    far.run(move |_| count("wire", &[&format!("ether saddr {service}"), "vlan id 100 vlan type arp"]));
    count_in(&ga, "arp operation reply");
    ga.sh("arping -q -c 1 -w 1 -I eth0 10.0.0.2");
    assert_eq!(counted_in(&ga), [1], "who has the service's address");
    let [from_service, asked] = far.run(|_| counted())[..] else { panic!() };
    assert!(from_service == 0 && asked > 0, "{from_service} of the service, {asked} others");

    // Guests of the flat network neither send into a VLAN nor hear it, though nothing else guards these ports.
    far.run(|_| {
        count(
            "wire",
            &["vlan id 100 ether saddr fa:16:3e:00:00:05", "vlan id 200 ether saddr fa:16:3e:00:00:05", "ether saddr fa:16:3e:00:00:05"],
        );
        count_in(&of("b"), "ether saddr fa:16:3e:00:00:05");
        count_in(&of("f"), "ether type 0x8100");
    });
    count_in(&ge, "ether type 0x8100");
    for tags in [&[100][..], &[200], &[0x2064], &[100, 100], &[0, 100], &[]] {
        ge.send_frame(&asks("fa:16:3e:00:00:05", [10, 0, 0, 77], [10, 0, 0, 12], tags));
    }
    ga.run("ping -n -b -c 20 -i 0.01 -W 0.2 10.0.0.255");
    eventually("the frame without a tag passes", || far.run(|_| counts()[2] > 0));
    assert_eq!(far.run(|_| (counted()[..2].to_vec(), counted_in(&of("b")), counted_in(&of("f")))), (vec![0, 0], vec![0], vec![0]));
    assert_eq!(counted_in(&ge), [0]);

    // Nor does a guest of a VLAN that nothing guards leave it, with one tag or two.
    let mut loose = here.clone();
    loose.ports[0].port_security = false;
    loose.ports[0].security_groups.clear();
    near.apply(&loose);
    far.run(|_| {
        count(
            "wire",
            &[
                "ether type 0x8100 ether saddr fa:16:3e:00:00:01 vlan type 0x8100",
                "vlan id 200 ether saddr fa:16:3e:00:00:01",
                "vlan id 100 ether saddr fa:16:3e:00:00:01 vlan type arp",
            ],
        )
    });
    for tags in [&[100][..], &[200], &[200, 100], &[100, 200], &[]] {
        ga.send_frame(&asks("fa:16:3e:00:00:01", [10, 0, 0, 11], [10, 0, 0, 12], tags));
    }
    eventually("the frame without a tag passes", || far.run(|_| counts()[2] > 0));
    assert_eq!(far.run(|_| counted())[..2], [0, 0]);
    near.apply(&here);

    // The same again changes nothing, nor does a start of the process, and connections go on.
    assert_eq!(near.changes(&here), 0);
    let mut near = near;
    near.restart();
    near.apply(&here);
    assert_eq!(near.changes(&here), 0);
    assert!(ga.pings("10.0.0.12") && ge.pings("172.24.4.36"));

    // A guest that comes over from the other host is found where it is now.
    let mut moved = here.clone();
    let b = crate::net_support::port(2, &one, &["10.0.0.12"], &[&moved.security_groups[0]]);
    moved.ports.push(b.clone());
    far.run(|_| sh("ip netns delete b"));
    near.apply(&moved);
    let gb = Guest::start("b", &b, &["10.0.0.12/24"], None);
    assert!(gb.pings("10.0.0.11") && ga.pings("10.0.0.12"));

    for name in ["a", "b", "c", "e"] {
        sh(&format!("ip netns delete {name}"));
    }
    near.apply(&document(vec![], vec![], vec![], vec![]));
    assert_eq!(snapshot(), before);
}

fn count_in(guest: &Guest, filter: &str) {
    within(&guest.name, || count("eth0", &[filter]));
}

fn counted_in(guest: &Guest) -> Vec<u64> {
    within(&guest.name, counted)
}

#[test]
fn net_vlan_alone_makes_the_bridge_and_survives_a_break_at_every_change() {
    let mut bench = Bench::new();
    let before = snapshot();
    let empty = document(vec![], vec![], vec![], vec![]);
    let [mut one, mut two, flat] = networks();
    (one.service_port, two.service_port) = (None, None);
    let open = open_group(1);
    let both = document(vec![one.clone(), two], vec![port(1, &one, &["10.0.0.11"], &[&open])], vec![], vec![open]);
    let mut more = both.clone();
    more.networks.push(flat);
    bench.apply(&both);
    let wanted = snapshot();
    assert!(wanted.contains("sturnus:physical:external") && wanted.contains("sturnus-vlan-200-"), "{wanted}");
    // The flat network comes to the same bridge, and leaves it.
    bench.apply(&more);
    assert!(snapshot().contains("172.24.4.1/24"));
    bench.apply(&both);
    assert_eq!(snapshot(), wanted);
    bench.apply(&empty);
    for k in 0.. {
        bench.restart();
        bench.switch.probe().fail_after(k);
        let made = bench.try_apply(&both).is_ok_and(|applied| applied.errors.is_empty());
        // Whatever is in the bridge has its programs.
        for link in sh("ip -o link show master br-ex 2>/dev/null || true").lines().filter(|line| line.contains("vo")) {
            let name = link.split([' ', '@']).nth(1).unwrap();
            let programs = sh(&format!("tc filter show dev {name} ingress; tc filter show dev {name} egress"));
            assert_eq!(programs.matches("sturnus-vlan-").count(), 2, "after {k} changes: {link}{programs}");
        }
        bench.restart();
        bench.apply(&both);
        assert_eq!(snapshot(), wanted, "died after {k} changes");
        bench.switch.probe().fail_after(k);
        let removed = bench.try_apply(&empty).is_ok_and(|applied| applied.errors.is_empty());
        bench.restart();
        bench.apply(&empty);
        assert_eq!(snapshot(), before, "died after {k} changes of removal");
        if made && removed {
            assert!(k > 10);
            return;
        }
    }
}

#[test]
fn net_vlan_without_its_physical_network_or_with_anothers_links_is_told() {
    let bench = Bench::new();
    let [one, mut two, _] = networks();
    two.kind = NetworkKind::Vlan { physical_network: "mars".into(), id: 200 };
    let name = format!("vo{}", &one.id[..11]);
    sh(&format!("ip link add {name} type bridge"));
    let open = open_group(1);
    let ports = vec![port(1, &one, &["10.0.0.11"], &[&open]), port(2, &two, &["10.0.0.12"], &[&open])];
    let both = document(vec![one, two], ports, vec![], vec![open]);
    let applied = bench.try_apply(&both).unwrap();
    let errors = applied.errors.join("\n");
    assert!(errors.contains("no bridge for physical network mars") && errors.contains(&format!("a link {name} exists")), "{errors}");
    assert!(sh(&format!("ip -d link show {name}")).contains("bridge "), "the other's link is left alone");
    assert_eq!(applied.ports, Vec::<String>::new(), "no port is up whose network leads nowhere");
    sh(&format!("ip link del {name}"));
    let applied = bench.try_apply(&both).unwrap();
    assert!(applied.errors.iter().all(|error| error.contains("mars") || error.contains(&id('b', 2))), "{:?}", applied.errors);
    assert_eq!(applied.ports, [id('b', 1)]);
}

/// The parts of a router on VLANs.
fn site() -> Site {
    Site::of(|n, subnets| vlan(n, 100 * n as u16, subnets, &[]))
}

#[test]
fn net_vlan_routers_have_parts_on_every_host() {
    routers_have_parts(site);
}

#[test]
fn net_vlan_routers_are_met_from_outside_the_cloud_by_their_home() {
    let (near, far) = hosts();
    let site = site();
    let live = [0, 1];
    near.apply(&site.view(0, 1, &live, 1));
    let view = site.view(1, 1, &live, 1);
    far.run(move |bench| {
        bench.apply(&view);
        let site = self::site();
        site.guest("b", 1);
        site.guest("c", 2);
    });
    let a = site.guest("a", 0);
    // Somebody on the wire who is no guest.
    sh("ip link add probe type veth peer name probe-bridge && ip link set probe up && ip link set probe-bridge master br-ex up");
    let probe = Wire::open("probe");
    let stranger = "02:00:00:00:00:77";
    let [shared, part, home] = [site_mac(&site), "02:00:00:00:00:00".to_string(), "02:00:00:00:00:01".to_string()];
    count("wire", &[&format!("ether saddr {shared}"), &format!("ether saddr {home}")]);
    let mut answers = Vec::new();
    eventually("the home answers", || {
        probe.send(&asks(stranger, [10, 0, 0, 200], [10, 0, 0, 1], &[100]));
        std::thread::sleep(std::time::Duration::from_millis(100));
        answers.extend(probe.frames().into_iter().filter(|frame| is_answer(frame)));
        !answers.is_empty()
    });
    let bytes: Vec<u8> = home.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    for frame in &answers {
        assert_eq!((&frame[6..12], &frame[22..28]), (&bytes[..], &bytes[..]), "another than the home answers: {frame:02x?}");
    }
    // Guests meet the part of their own host, under the MAC that all parts have; it does not leave the host, in whatever is routed.
    a.sh("ip neigh flush all");
    assert!(a.pings("10.0.0.1") && a.pings("10.1.0.12") && a.pings("10.0.0.13"));
    assert!(a.sh("ip neigh show 10.0.0.1").contains(&shared), "{}", a.sh("ip neigh"));
    let [with_shared, with_home] = counted()[..] else { panic!() };
    assert!(with_shared == 0 && with_home > 0, "{with_shared} frames of the shared MAC, {with_home} of the home's");
    let known = sh("bridge fdb show");
    let learned =
        |line: &&str| line.starts_with(&shared) && (line.contains("dev wire") || line.contains("dev vi") || line.contains("dev vo"));
    assert!(known.lines().all(|line| !learned(&line)), "{known}");
    assert!(!known.lines().any(|line| line.starts_with(&part) && line.contains("dev wire")), "{known}");
}

/// The MAC of the router's interface in the first network.
fn site_mac(site: &Site) -> String {
    site.view(0, 1, &[0, 1], 1).routers[0].interfaces[0].mac.clone()
}

/// An ARP answer; the kernel has taken the tag off.
fn is_answer(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 6]) && frame.get(20..22) == Some(&[0, 2])
}

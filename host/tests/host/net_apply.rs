//! Applying documents: by difference, again and again, after crashes, beside other people's things.

use std::time::Instant;

use rpc::network::*;

use crate::net_support::*;

/// Something of everything.
fn everything() -> NetworkDocument {
    let out = external(9);
    let one = network(
        1,
        vec![subnet(1, "10.0.0.0/24", Some("10.0.0.1")), subnet(3, "fd00:1::/64", Some("fd00:1::1"))],
        &["10.0.0.2/24", "fd00:1::2/64"],
    );
    let two = network(2, vec![subnet(2, "10.1.0.0/24", Some("10.1.0.1"))], &["10.1.0.2/24"]);
    let open = open_group(1);
    let mut web = group(2, vec![rule(true, 4, Some(6), Some((80, 90)), Remote::Group(id('9', 1)))]);
    web.members = nets(&["10.0.0.11/32", "fd00:1::11/128"]);
    let mut ports = vec![
        port(1, &one, &["10.0.0.11", "fd00:1::11"], &[&open, &web]),
        port(2, &two, &["10.1.0.12"], &[&web]),
        port(3, &out, &["172.24.4.33"], &[&open]),
        port(4, &one, &["10.0.0.14"], &[]),
        port(5, &one, &["10.0.0.15"], &[]),
    ];
    ports[0].allowed_pairs = vec![AddressPair { mac: mac(99), cidr: "10.9.0.0/16".parse().unwrap() }];
    ports[3].admin_up = false;
    ports[4].port_security = false;
    let mut router = router(
        1,
        &[(&one, &["10.0.0.1/24", "fd00:1::1/64"]), (&two, &["10.1.0.1/24"])],
        Some((&out, "172.24.4.100/24")),
        &[("172.24.4.50", "10.0.0.11")],
    );
    router.routes = vec![Route { destination: "192.168.0.0/16".parse().unwrap(), nexthop: "10.1.0.12".parse().unwrap() }];
    let three = vlan(3, 300, vec![subnet(4, "10.3.0.0/24", None)], &["10.3.0.2/24"]);
    document(vec![out, one, two, three], ports, vec![router], vec![open, web])
}

#[test]
fn net_apply_is_idempotent_and_removal_leaves_nothing() {
    let mut bench = Bench::new();
    let before = snapshot();
    let doc = everything();
    assert!(bench.changes(&doc) > 20);
    let wanted = snapshot();
    assert!(wanted.contains("172.24.4.50/32") && wanted.contains("sturnus:port:"), "{wanted}");
    assert_eq!(bench.changes(&doc), 0, "the same document again");
    let mut other = doc.clone();
    other.generation += 1;
    assert_eq!(bench.changes(&other), 0, "a newer document that says the same");
    bench.restart();
    bench.apply(&doc);
    assert_eq!(snapshot(), wanted, "after a restart of the process");
    assert_eq!(bench.changes(&doc), 0);

    // One port more, then less.
    let mut more = doc.clone();
    let extra = port(6, &doc.networks[1], &["10.0.0.16"], &[&doc.security_groups[0]]);
    more.ports.push(extra);
    more.security_groups[0].members = nets(&["10.0.0.16/32", "10.0.7.0/24", "10.0.7.8/29"]);
    let changes = bench.changes(&more);
    assert!((1..=6).contains(&changes), "{changes} changes for one port");
    bench.apply(&doc);
    assert_eq!(snapshot(), wanted);

    bench.apply(&document(vec![], vec![], vec![], vec![]));
    assert_eq!(snapshot(), before);
    assert_eq!(namespaces(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir("/run/netns").unwrap().count(), 0);
    assert_eq!(bench.changes(&document(vec![], vec![], vec![], vec![])), 0);
}

#[test]
fn net_apply_mends_what_was_damaged() {
    let bench = Bench::new();
    let doc = everything();
    bench.apply(&doc);
    let wanted = snapshot();
    let (net, router) = (&doc.networks[1].id[..11], format!("nsenter --net=/run/netns/sturnus-r-{}", doc.routers[0].id));
    let inner = &doc.routers[0].interfaces[0].port_id[..11];
    for damage in [
        format!("ip link del br{net}"),
        format!("ip link del sn{net}"),
        format!("ip link del {}", rpc::instance::tap_name(&doc.ports[0].id)),
        format!("ip link set {} down nomaster", rpc::instance::tap_name(&doc.ports[0].id)),
        format!("ip link set br{net} mtu 1280"),
        format!("ip link del vi{}", &doc.networks[3].id[..11]),
        format!("ip link set vo{} nomaster", &doc.networks[3].id[..11]),
        format!("ip link del vo{0}; ip link add vo{0} group 0x53747572 type bridge", &doc.networks[3].id[..11]),
        format!("tc qdisc del dev vo{} clsact", &doc.networks[3].id[..11]),
        format!("tc filter del dev vo{} egress", &doc.networks[3].id[..11]),
        "nft flush ruleset".into(),
        "nft delete table inet sturnus".into(),
        "ip addr del 172.24.4.1/24 dev br-ex".into(),
        format!("{router} nft flush ruleset"),
        format!("{router} ip addr flush dev qr-{inner}"),
        format!("{router} ip addr add 1.2.3.4/24 dev qr-{inner}"),
        format!("{router} ip route del default"),
        format!("{router} ip link del qr-{inner}"),
    ] {
        sh(&damage);
        assert_ne!(snapshot(), wanted, "{damage}");
        bench.apply(&doc);
        assert_eq!(snapshot(), wanted, "{damage}");
    }
}

#[test]
fn net_apply_after_a_crash_at_any_point() {
    let mut bench = Bench::new();
    let before = snapshot();
    let empty = document(vec![], vec![], vec![], vec![]);
    // One of each kind, so that every change is met but none often.
    let mut doc = everything();
    doc.networks.truncate(2);
    doc.ports.truncate(1);
    doc.routers[0].interfaces.truncate(1);
    doc.routers[0].routes.clear();
    bench.apply(&doc);
    let wanted = snapshot();
    let mut dying = 0;
    bench.apply(&empty);
    // Dies while making, then while removing: the next process must end with the same.
    for k in 0.. {
        bench.restart();
        bench.switch.probe().fail_after(k);
        let made = bench.try_apply(&doc).is_ok_and(|a| a.errors.is_empty());
        bench.restart();
        bench.apply(&doc);
        assert_eq!(snapshot(), wanted, "died after {k} changes");
        bench.switch.probe().fail_after(k);
        let removed = bench.try_apply(&empty).is_ok_and(|a| a.errors.is_empty());
        bench.restart();
        bench.apply(&empty);
        assert_eq!(snapshot(), before, "died after {k} changes of removal");
        assert_eq!(std::fs::read_dir("/run/netns").unwrap().count(), 0, "died after {k} changes of removal");
        dying = k;
        if made && removed {
            break;
        }
    }
    assert!(dying > 20);
}

#[test]
fn net_apply_leaves_foreign_things_alone() {
    let bench = Bench::new();
    let doc = everything();
    let (bridge, tap) = (format!("br{}", &doc.networks[1].id[..11]), rpc::instance::tap_name(&doc.ports[1].id));
    sh(&format!(
        "ip link add {bridge} type bridge; ip tuntap add {tap} mode tap; ip link add br-ex type bridge; ip link set br-ex up mtu 1400"
    ));
    sh(
        "ip addr add 172.24.4.200/24 dev br-ex; ip link add mine type bridge; ip tuntap add tapmine mode tap; ip link set tapmine master mine",
    );
    sh("nft add table inet mine; nft add chain inet mine c; nft add rule inet mine c accept; ip netns add mine");
    sh(&format!("ip netns add sturnus-r-{}", doc.routers[0].id));
    let before = snapshot();
    let applied = bench.try_apply(&doc).unwrap();
    let errors = applied.errors.join("\n");
    for name in [bridge.as_str(), tap.as_str(), &format!("sturnus-r-{}", doc.routers[0].id)] {
        assert!(errors.contains(name), "{name} in: {errors}");
    }
    assert_eq!(applied.ports, vec![doc.ports[2].id.clone()], "only the port that depends on nothing foreign");
    let after = snapshot();
    for line in before.lines().filter(|l| l.contains("mine") || l.contains(&bridge) || l.contains(&tap)) {
        assert!(after.contains(line), "{line}");
    }
    assert_eq!(bench.try_apply(&doc).unwrap().errors.join("\n"), errors);
    bench.apply(&document(vec![], vec![], vec![], vec![]));
    // `nf_call` on the used bridge does not show in the snapshot: it was needed for guests' groups.
    assert_eq!(snapshot(), before);
    assert!(sh("ip netns").lines().count() == 2, "the others' namespaces");
    // Ours again once the name is free.
    sh(&format!("ip link del {bridge}; ip link del {tap}; ip netns del sturnus-r-{}", doc.routers[0].id));
    assert_eq!(bench.apply(&doc).len(), 5);
}

#[test]
fn net_apply_makes_tunnels_when_the_host_has_an_end() {
    let bench = Bench::with(host::switch::Options { vtep: Some("192.0.2.1".parse().unwrap()), ..Default::default() });
    let before = snapshot();
    let mut doc = everything();
    bench.apply(&doc);
    let tunnel = format!("vx{}", &doc.networks[1].id[..11]);
    let shown = sh(&format!("ip -d link show {tunnel}"));
    for word in ["vxlan id 1 local 192.0.2.1", "dstport 4789", "nolearning", "master br", "learning off", "neigh_suppress on", "mtu 1450"] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    assert_eq!(bench.changes(&doc), 0);
    // A network of this host only has a bridge and no tunnel.
    doc.networks[1].kind = NetworkKind::Provider { physical_network: String::new(), host_addresses: vec![] };
    bench.apply(&doc);
    assert!(!run(&format!("ip link show {tunnel}")).status.success());
    bench.apply(&document(vec![], vec![], vec![], vec![]));
    assert_eq!(snapshot(), before);
}

#[test]
fn net_apply_speed() {
    let bench = Bench::new();
    let mut doc = everything();
    bench.apply(&doc);
    let mut one = Vec::new();
    for n in 0..10 {
        let address = format!("10.0.0.{}", 100 + n);
        let new = port(100 + n, &doc.networks[1], &[&address], &[&doc.security_groups[0]]);
        doc.ports.push(new);
        doc.security_groups[0].members.push(address.parse::<std::net::IpAddr>().unwrap().into());
        let start = Instant::now();
        bench.apply(&doc);
        one.push(start.elapsed());
    }
    one.sort();
    for n in 0..20 {
        let address = format!("10.0.0.{}", 200 + n);
        let new = port(200 + n, &doc.networks[1], &[&address], &[&doc.security_groups[0]]);
        doc.ports.push(new);
    }
    let start = Instant::now();
    bench.apply(&doc);
    let twenty = start.elapsed();
    println!("one port: median {:?}, worst {:?}; twenty ports: {twenty:?}", one[5], one[9]);
    // Ten times what it takes on an idle machine: this test tells a mistake in kind, not a busy machine.
    assert!(one[5].as_millis() < 200 && twenty.as_millis() < 2000, "{one:?} {twenty:?}");
}

//! Any document gives rules that nftables takes, and every change from one document to another too.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use rpc::network::*;
use serde_json::json;

use super::guard::{self, Marks};
use super::plan::Plan;
use super::{Options, nft, router_rules};

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn net() -> impl Strategy<Value = ipnet::IpNet> {
    (address(), any::<u8>()).prop_map(|(a, n)| ipnet::IpNet::new(a, n % if a.is_ipv4() { 33 } else { 129 }).unwrap())
}

fn id(letter: char) -> impl Strategy<Value = String> {
    (0..4u32).prop_map(move |n| format!("{letter}{n}0000000-0000-4000-8000-000000000000"))
}

fn rule() -> impl Strategy<Value = SecurityRule> {
    let remote = prop_oneof![Just(Remote::Any), net().prop_map(Remote::Cidr), id('9').prop_map(Remote::Group)];
    let protocol = prop_oneof![Just(None), any::<u8>().prop_map(Some), prop::sample::select(vec![1, 6, 17, 58, 132]).prop_map(Some)];
    (any::<bool>(), any::<bool>(), protocol, any::<Option<(u16, u16)>>(), any::<bool>(), remote).prop_map(
        |(ingress, six, protocol, ports, icmp, remote)| {
            // As the network service lets through: ports in order, ICMP types and codes in a byte.
            let small = matches!(protocol, Some(1 | 58)) || icmp;
            let order = |(a, b): (u16, u16)| if small { (a & 255, b & 255) } else { (a.min(b), a.max(b)) };
            let ports = ports.map(order).map(|(a, b)| (a.min(b), a.max(b)));
            SecurityRule {
                id: String::new(),
                ingress,
                ip_version: if six { 6 } else { 4 },
                protocol,
                port_min: ports.map(|p| p.0),
                port_max: ports.map(|p| p.1),
                remote,
            }
        },
    )
}

fn port() -> impl Strategy<Value = Port> {
    let pair = (any::<[u8; 6]>(), net()).prop_map(|(mac, cidr)| AddressPair { mac: super::link::mac_text(&mac), cidr });
    let pairs = proptest::collection::vec(pair, 0..3);
    let groups = proptest::collection::vec(id('9'), 0..3);
    let limit = || {
        proptest::option::of(
            (prop_oneof![0..5u64, Just(80_000_000), any::<u64>()], any::<u32>())
                .prop_map(|(rate, burst)| Limit { rate, burst: burst.into() }),
        )
    };
    let packets = || {
        let rate = prop_oneof![0..5u64, Just(100_000), any::<u64>()];
        proptest::option::of((rate, any::<u64>()).prop_map(|(rate, burst)| PacketLimit { rate, burst }))
    };
    let limits = (limit(), limit(), packets(), packets(), proptest::option::of(0..64u8)).prop_map(
        |(egress, ingress, egress_packets, ingress_packets, mark)| Limits { egress, ingress, egress_packets, ingress_packets, mark },
    );
    (id('b'), id('a'), any::<[u8; 6]>(), proptest::collection::vec(address(), 0..3), pairs, groups, 0..8u8, limits).prop_map(
        |(id, network_id, mac, addresses, allowed_pairs, security_groups, bits, limits)| Port {
            id,
            network_id,
            instance_id: String::new(),
            mac: super::link::mac_text(&mac),
            admin_up: bits & 1 == 0,
            port_security: bits & 6 != 0,
            limits,
            addresses,
            allowed_pairs,
            security_groups,
        },
    )
}

fn document() -> impl Strategy<Value = NetworkDocument> {
    let network = |n: u32| Network {
        id: format!("a{n}0000000-0000-4000-8000-000000000000"),
        mtu: 1450,
        kind: match n {
            2 => NetworkKind::Provider { physical_network: "external".into(), host_addresses: vec![] },
            3 => NetworkKind::Vlan { physical_network: "external".into(), id: 3 },
            _ => NetworkKind::Overlay { vni: n },
        },
        subnets: vec![],
        service_port: None,
        elsewhere: Vec::new(),
        dns_domain: String::new(),
        leases: vec![],
    };
    let group = |n: u32| {
        (proptest::collection::vec(rule(), 0..5), proptest::collection::vec(address().prop_map(IpNet::from), 0..4), any::<bool>()).prop_map(
            move |(rules, members, stateful)| SecurityGroup {
                id: format!("9{n}0000000-0000-4000-8000-000000000000"),
                stateful,
                rules,
                members,
            },
        )
    };
    (proptest::collection::vec(port(), 0..4), (group(0), group(1), group(2))).prop_map(move |(ports, groups)| NetworkDocument {
        generation: 1,
        networks: (0..4).map(network).collect(),
        ports,
        routers: vec![],
        security_groups: vec![groups.0, groups.1, groups.2],
        encryption: None,
    })
}

fn router() -> impl Strategy<Value = Router> {
    let four = || any::<[u8; 4]>().prop_map(IpAddr::from);
    let floating = proptest::collection::vec((four(), four()), 0..4);
    (any::<[bool; 2]>(), any::<Option<bool>>(), proptest::collection::vec(net(), 0..3), floating).prop_map(
        |([admin_up, away], gateway, addresses, floating)| Router {
            id: "80000000-0000".into(),
            admin_up,
            interfaces: vec![],
            gateway: gateway.map(|snat| RouterGateway {
                port_id: "60000000-0000".into(),
                network_id: "a".into(),
                mac: String::new(),
                addresses,
                mtu: 1500,
                nexthops: vec![],
                snat,
            }),
            floating: floating
                .into_iter()
                .map(|(floating, fixed)| FloatingIp { id: String::new(), floating, fixed, coming: away })
                .collect(),
            routes: vec![],
            home: away.then(|| RouterHome { port_id: "70000000-0000".into(), mac: String::new() }),
        },
    )
}

fn take(commands: &[serde_json::Value]) {
    if commands.is_empty() {
        return;
    }
    let text = json!({ "nftables": commands }).to_string();
    let mut child = Command::new("nft").args(["-j", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// The rules as the kernel holds them, without the handles that tell their age.
fn shown() -> String {
    String::from_utf8(Command::new("nft").args(["-s", "list", "ruleset"]).output().unwrap().stdout).unwrap()
}

fn alone() {
    unshare(CloneFlags::CLONE_NEWNET).expect("tests of the data plane run as root");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn net_rules_of_any_documents_are_taken(first in document(), second in document()) {
        alone();
        let mut marks = Marks::default();
        let mut rules = |document: &NetworkDocument| {
            let plan = Plan::new(document, &Options::default());
            marks.assign(document.ports.iter().map(|p| p.id.as_str()));
            let zones: BTreeMap<String, u16> = document.networks.iter().zip(1..).map(|(n, z)| (n.id.clone(), z)).collect();
            guard::ruleset(document, &plan.names, &marks, &zones, None)
        };
        let (first, second) = (rules(&first), rules(&second));
        take(&nft::transaction(Err(&[]), &first));
        take(&nft::transaction(Ok(&first), &second));
        let by_difference = shown();
        let both = ["bridge".to_string(), "inet".to_string()];
        take(&nft::transaction(Err(&both), &second));
        let whole = shown();
        let sorted = |text: &str| { let mut lines: Vec<String> = text.lines().map(str::to_string).collect(); lines.sort(); lines };
        prop_assert_eq!(sorted(&by_difference), sorted(&whole));
        take(&nft::transaction(Ok(&second), &nft::Ruleset::default()));
        prop_assert_eq!(shown(), "");
    }

    #[test]
    fn net_rules_of_any_routers_are_taken(first in router(), second in router()) {
        alone();
        let (first, second) = (router_rules::ruleset(&first), router_rules::ruleset(&second));
        take(&nft::transaction(Err(&[]), &first));
        take(&nft::transaction(Ok(&first), &second));
        take(&nft::transaction(Ok(&second), &nft::Ruleset::default()));
        prop_assert_eq!(shown(), "");
    }
}

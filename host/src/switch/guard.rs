//! The rules of the machine's own namespace: who may send what from which port, and security groups.
//!
//! Two tables, both called `sturnus`. `bridge` sees ports: it refuses spoofed frames and marks a packet with the
//! port it comes from, later with the port it goes to. `inet` sees the same packets through br_netfilter, where
//! there is connection tracking (one zone a network), and applies the groups of the port that the mark names.
//! Packets of ports that are not ours are neither marked nor dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rpc::network::{NetworkDocument, PacketLimit, Port, Remote, SecurityGroup, SecurityRule};
use serde_json::{Value, json};

use super::cipher::{LINK, path};
use super::link::{Mac, link_local, mac_parse, mac_text};
use super::nft::{
    Chain, Ruleset, Table, accept, assign, back, beyond, beyond_packets, concat, ct_state, drop_it, field, goto, is, is_not, jump, mapped,
    meta, one_of, prefix, transport, verdict_by,
};
use super::plan::{Names, is_inner, joint_name, vlan_name};
use super::vlan::TAGS;

const FROM: u32 = 0x5300_0000;
const TO: u32 = 0x5400_0000;

/// Numbers of ports in packet marks; kept while the process lives, so that a change of one port touches no other.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    numbers: BTreeMap<String, u32>,
}

impl Marks {
    pub fn assign<'a>(&mut self, ports: impl Iterator<Item = &'a str>) {
        let ports: BTreeSet<&str> = ports.collect();
        self.numbers.retain(|id, _| ports.contains(id.as_str()));
        let mut used: BTreeSet<u32> = self.numbers.values().copied().collect();
        let mut next = 1;
        for id in ports {
            if !self.numbers.contains_key(id) {
                while !used.insert(next) {
                    next += 1;
                }
                self.numbers.insert(id.to_string(), next);
            }
        }
    }
    fn get(&self, port: &str) -> u32 {
        self.numbers.get(port).copied().unwrap_or(0)
    }
}

/// An id as part of a chain's or set's name.
fn word(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Source addresses a port may use, with the MAC each belongs to.
fn sources(port: &Port) -> Option<Vec<(Mac, IpNet)>> {
    let mac = mac_parse(&port.mac)?;
    let mut found: Vec<(Mac, IpNet)> = port.addresses.iter().map(|a| (mac, IpNet::from(*a))).collect();
    found.push((mac, IpNet::from(IpAddr::V6(link_local(&mac)))));
    for pair in &port.allowed_pairs {
        // An unreadable MAC allows nothing.
        if let Some(mac) = mac_parse(&pair.mac) {
            found.push((mac, pair.cidr.trunc()));
            found.push((mac, IpNet::from(IpAddr::V6(link_local(&mac)))));
        }
    }
    Some(found)
}

fn is_host(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// `encrypted`: this host's end of tunnels while they are encrypted.
pub fn ruleset(
    document: &NetworkDocument,
    names: &Names,
    marks: &Marks,
    zones: &BTreeMap<String, u16>,
    encrypted: Option<IpAddr>,
) -> Ruleset {
    let mut rules = Ruleset::default();
    if document.networks.is_empty() {
        return rules;
    }
    rules.tables.insert("bridge", bridge_table(document, names, marks));
    let mut inet = inet_table(document, names, marks, zones);
    if let Some(local) = encrypted {
        encrypted_only(&mut inet, local);
    }
    rules.tables.insert("inet", inet);
    rules
}

fn bridge_table(document: &NetworkDocument, names: &Names, marks: &Marks) -> Table {
    let mut table = Table::default();
    let iifname = || meta("iifname");
    let source = || field("ether", "saddr");
    table.set("macs", &["ifname", "ether_addr"]);
    table.set("source4", &["ifname", "ether_addr", "ipv4_addr"]);
    table.set("source6", &["ifname", "ether_addr", "ipv6_addr"]);
    table.set("down", &["ifname"]);
    table.set("inner", &["ifname"]);
    table.set("service", &["ifname"]);
    table.set("tunnel", &["ifname"]);
    table.set("vlan", &["ifname"]);
    table.set("provider", &["ifname"]);
    table.map("from", &["ifname"], "mark");
    table.map("to", &["ifname"], "mark");
    table.map("entry", &["ifname"], "verdict");
    table.map("target", &["ifname"], "verdict");
    table.map("qos_out", &["ifname"], "verdict");
    table.map("qos_in", &["ifname"], "verdict");
    for chain in ["pairs_arp", "pairs4", "pairs6"] {
        table.chain(chain);
    }
    table
        .base("prerouting", "filter", "prerouting", -300)
        // Or its frames would be in a VLAN that shares the physical network.
        .rule([is(iifname(), "@provider"), tagged(), drop_it()])
        // What another host sends to a router's part here.
        .rule([is(iifname(), "@tunnel"), assign(field("ether", "daddr"), mapped(field("ether", "daddr"), "ends"))])
        .rule([assign(meta("mark"), mapped(iifname(), "from"))])
        .rule([verdict_by(iifname(), "qos_out")])
        .rule([verdict_by(iifname(), "entry")]);
    table
        .base("postrouting", "filter", "postrouting", 300)
        .rule([is(meta("oifname"), "@provider"), tagged(), drop_it()])
        // Behind all that may drop a packet: what a guest does not get does not count.
        .rule([verdict_by(meta("oifname"), "qos_in")]);
    table
        .base("forward", "filter", "forward", -200)
        .rule([is(meta("oifname"), "@down"), drop_it()])
        // The service answers on every host by itself: its traffic never leaves for another.
        .rule([is(iifname(), "@service"), is(meta("oifname"), "@tunnel"), drop_it()])
        .rule([is(iifname(), "@tunnel"), is(meta("oifname"), "@service"), drop_it()])
        .rule([is(iifname(), "@tunnel"), is(meta("oifname"), "@joint"), jump("to_part")])
        .rule([is(iifname(), "@joint"), is(meta("oifname"), "@tunnel"), jump("from_part")])
        // Bridges and switches learn who is behind a VLAN: there a router's part has only the name of its own.
        .rule([is(iifname(), "@joint"), is(meta("oifname"), "@vlan"), assign(source(), mapped(iifname(), "speaks"))])
        // The part here answers, and no other host's.
        .rule([
            is(field("ether", "type"), "arp"),
            is(field("arp", "operation"), 1),
            is(concat([meta("oifname"), field("arp", "daddr ip")]), "@answered"),
            drop_it(),
        ])
        .rule([assign(meta("mark"), mapped(meta("oifname"), "to"))]);
    // Tenants' frames never reach the machine itself.
    table.base("input", "filter", "input", -200).rule([is(iifname(), "@inner"), drop_it()]);
    guarded_chains(&mut table);
    parts(&mut table, document, names);

    for (name, kind) in names.outer() {
        match kind {
            "inner" | "service" | "tunnel" | "vlan" | "joint" => {
                table.set("inner", &["ifname"]).insert(json!(name));
                if kind != "inner" {
                    table.set(kind, &["ifname"]).insert(json!(name));
                }
                // What does not leave for another host by a tunnel does not by a VLAN.
                if kind == "vlan" {
                    table.set("tunnel", &["ifname"]).insert(json!(name));
                }
            }
            "provider" => table.set("provider", &["ifname"]).insert(json!(name)),
            _ => {}
        }
    }
    for port in &document.ports {
        let Some(tap) = names.tap(&port.id) else { continue };
        if !port.admin_up {
            table.map("entry", &["ifname"], "verdict").insert_value(json!(tap), drop_it());
            table.set("down", &["ifname"]).insert(json!(tap));
            continue;
        }
        quality(&mut table, port, tap);
        if !port.port_security {
            continue;
        }
        let number = marks.get(&port.id);
        table.map("from", &["ifname"], "mark").insert_value(json!(tap), json!(FROM | number));
        table.map("to", &["ifname"], "mark").insert_value(json!(tap), json!(TO | number));
        let Some(sources) = sources(port) else {
            table.map("entry", &["ifname"], "verdict").insert_value(json!(tap), drop_it());
            continue;
        };
        table.map("entry", &["ifname"], "verdict").insert_value(json!(tap), jump("guarded"));
        let target = format!("target_{}", word(&port.id));
        table.map("target", &["ifname"], "verdict").insert_value(json!(tap), jump(&target));
        table.chain(&target);
        for (mac, net) in sources {
            let mac = mac_text(&mac);
            table.set("macs", &["ifname", "ether_addr"]).insert(json!({"concat": [tap, mac]}));
            let (set, types, chain, address) = match net {
                IpNet::V4(_) => ("source4", "ipv4_addr", "pairs4", field("ip", "saddr")),
                IpNet::V6(_) => ("source6", "ipv6_addr", "pairs6", field("ip6", "saddr")),
            };
            if is_host(&net) {
                table.set(set, &["ifname", "ether_addr", types]).insert(json!({"concat": [tap, mac, net.addr().to_string()]}));
            } else {
                let from = [is(iifname(), tap), is(source(), mac.as_str())];
                if net.prefix_len() == 0 {
                    table.chain(chain).rule(from.clone().into_iter().chain([accept()]));
                } else {
                    table.chain(chain).rule(from.clone().into_iter().chain([is(address, prefix(&net)), accept()]));
                }
                if net.addr().is_ipv4() {
                    let claim = if net.prefix_len() == 0 { None } else { Some(is(field("arp", "saddr ip"), prefix(&net))) };
                    let arp = [is(iifname(), tap), is(field("arp", "saddr ether"), mac.as_str())];
                    table.chain("pairs_arp").rule(arp.into_iter().chain(claim).chain([accept()]));
                }
            }
            if let IpNet::V6(v6) = net {
                // The target of a neighbour message stands 8 bytes behind the start of ICMPv6.
                let bits = u128::from(v6.network());
                let length = u32::from(v6.prefix_len());
                let matches = (length > 0).then(|| is(transport(64, length), format!("{:#x}", bits >> (128 - length))));
                let rule = Value::Array(matches.into_iter().chain([back()]).collect());
                let chain = table.chain(&target);
                if !chain.rules.contains(&rule) {
                    chain.rules.push(rule);
                }
            }
        }
        table.chain(&target).rule([drop_it()]);
    }
    table
}

/// Kilobits and thousands of packets per second beyond which a port is not limited: the kernel cannot count so fast, and no guest is.
const FASTEST: u64 = 80_000_000;
const MOST_PACKETS: u64 = 100_000;

/// Matches frames with a tag.
fn tagged() -> Value {
    one_of(field("ether", "type"), &TAGS.map(|tag| json!(tag)))
}

/// Drops what a port sends or gets beyond its limits, whatever it is: also what passes between guests of this host. Marks what it sends.
fn quality(table: &mut Table, port: &Port, tap: &str) {
    let limits = &port.limits;
    let marks = limits.mark.map(|mark| ["ip", "ip6"].map(|protocol| assign(field(protocol, "dscp"), mark)));
    let ways = [("qos_out", limits.egress, limits.egress_packets, marks), ("qos_in", limits.ingress, limits.ingress_packets, None)];
    for (map, limit, packets, marks) in ways {
        let limit = limit.filter(|limit| (1..=FASTEST).contains(&limit.rate));
        let limit = limit.map(|limit| beyond(bytes(limit.rate), bytes(limit.burst.max(1)).min(u32::MAX.into())));
        let packets = packets.filter(|limit| (1..=MOST_PACKETS).contains(&limit.rate));
        // Here the kernel's bucket is what it is told alone: it holds a second of the rate too, as that for bytes.
        let bucket = |limit: &PacketLimit| u32::try_from(limit.rate.saturating_add(limit.burst).saturating_mul(1000)).unwrap_or(u32::MAX);
        let packets = packets.map(|limit| beyond_packets(limit.rate * 1000, bucket(&limit)));
        let drops = [limit, packets].into_iter().flatten().map(|beyond| vec![beyond, drop_it()]);
        let rules: Vec<Vec<Value>> = drops.chain(marks.into_iter().flatten().map(|mark| vec![mark])).collect();
        if rules.is_empty() {
            continue;
        }
        let chain = format!("{map}_{}", word(&port.id));
        for rule in rules {
            table.chain(&chain).rule(rule);
        }
        table.map(map, &["ifname"], "verdict").insert_value(json!(tap), jump(&chain));
    }
}

/// Kilobits as bytes.
fn bytes(kilobits: u64) -> u64 {
    kilobits.saturating_mul(125)
}

/// Parts of one router on several hosts share a MAC and addresses. Each answers on its own host only, and what it asks of other
/// hosts it asks in its own name: as a probe, which tells nobody where the router's address is.
fn parts(table: &mut Table, document: &NetworkDocument, names: &Names) {
    table.set("joint", &["ifname"]);
    table.set("home", &["ifname"]);
    table.set("answered", &["ifname", "ipv4_addr"]);
    table.map("ends", &["ether_addr"], "ether_addr");
    table.map("speaks", &["ifname"], "ether_addr");
    let icmp6 = || field("icmpv6", "type");
    let arp = || is(field("ether", "type"), "arp");
    let request = || is(field("arp", "operation"), 1);
    table
        .chain("to_part")
        // Guests ask the part of their own host: who asks by a VLAN is none of the cloud's, and is answered by the home.
        .rule([is(meta("iifname"), "@vlan"), is(meta("oifname"), "@home"), arp(), request(), back()])
        .rule([arp(), request(), drop_it()])
        .rule([is(icmp6(), 133), drop_it()]);
    let own = || mapped(meta("iifname"), "speaks");
    table
        .chain("from_part")
        .rule([
            is(meta("iifname"), "@home"),
            is(meta("oifname"), "@vlan"),
            arp(),
            is(field("arp", "operation"), 2),
            assign(field("arp", "saddr ether"), own()),
            back(),
        ])
        .rule([arp(), is(field("arp", "operation"), 2), drop_it()])
        .rule([
            arp(),
            assign(field("arp", "saddr ip"), "0.0.0.0"),
            assign(field("arp", "saddr ether"), own()),
            assign(field("ether", "saddr"), own()),
        ])
        .rule([one_of(icmp6(), &[json!(134), json!(136)]), drop_it()]);
    for (router, interface) in document.routers.iter().flat_map(|r| r.interfaces.iter().map(move |i| (r, i))) {
        let outer = joint_name(&interface.port_id);
        let joint = names.outer().any(|(name, kind)| name == outer && kind == "joint");
        if let (true, Some(end), Some(mac)) = (joint, mac_parse(&interface.end), mac_parse(&interface.mac)) {
            table.map("ends", &["ether_addr"], "ether_addr").insert_value(json!(mac_text(&end)), json!(mac_text(&mac)));
            table.map("speaks", &["ifname"], "ether_addr").insert_value(json!(outer), json!(mac_text(&end)));
            if router.home.is_none() {
                table.set("home", &["ifname"]).insert(json!(outer));
            }
            let vlan = vlan_name(&interface.network_id);
            if names.outer().any(|(name, kind)| name == vlan && kind == "vlan") {
                for address in interface.addresses.iter().map(|a| a.addr()).filter(IpAddr::is_ipv4) {
                    table.set("answered", &["ifname", "ipv4_addr"]).insert(json!({"concat": [vlan, address.to_string()]}));
                }
            }
        }
    }
}

/// What a guarded port may send, in the sets the ports fill.
fn guarded_chains(table: &mut Table) {
    let iifname = || meta("iifname");
    let source = || field("ether", "saddr");
    let icmp6 = || field("icmpv6", "type");
    table
        .chain("guarded")
        .rule([is_not(concat([iifname(), source()]), "@macs"), drop_it()])
        .rule([is(field("ether", "type"), "arp"), goto("guarded_arp")])
        .rule([is(field("ether", "type"), "ip"), goto("guarded4")])
        .rule([is(field("ether", "type"), "ip6"), goto("guarded6")])
        // Tagged frames and whatever else would pass unseen by the rules for IP.
        .rule([drop_it()]);
    table
        .chain("guarded_arp")
        .rule([is_not(field("arp", "hlen"), 6), drop_it()])
        .rule([is(concat([iifname(), field("arp", "saddr ether"), field("arp", "saddr ip")]), "@source4"), accept()])
        // A probe for an address that is not taken yet claims nothing.
        .rule([
            is(field("arp", "operation"), 1),
            is(field("arp", "saddr ip"), "0.0.0.0"),
            is(concat([iifname(), field("arp", "saddr ether")]), "@macs"),
            accept(),
        ])
        .rule([jump("pairs_arp")])
        .rule([drop_it()]);
    table
        .chain("guarded4")
        .rule([is(field("udp", "sport"), 67), is(field("udp", "dport"), 68), drop_it()])
        .rule([is(concat([iifname(), source(), field("ip", "saddr")]), "@source4"), accept()])
        .rule([
            is(field("ip", "saddr"), "0.0.0.0"),
            is(field("ip", "daddr"), "255.255.255.255"),
            is(field("udp", "sport"), 68),
            is(field("udp", "dport"), 67),
            accept(),
        ])
        .rule([jump("pairs4")])
        .rule([drop_it()]);
    table
        .chain("guarded6")
        .rule([is(field("udp", "sport"), 547), is(field("udp", "dport"), 546), drop_it()])
        .rule([one_of(icmp6(), &[json!(134), json!(137)]), drop_it()])
        .rule([is(icmp6(), 136), verdict_by(iifname(), "target")])
        .rule([is(field("ip6", "saddr"), "::"), is(icmp6(), 135), verdict_by(iifname(), "target")])
        .rule([is(field("ip6", "saddr"), "::"), one_of(icmp6(), &[json!(131), json!(132), json!(135), json!(143)]), accept()])
        .rule([is(concat([iifname(), source(), field("ip6", "saddr")]), "@source6"), accept()])
        .rule([jump("pairs6")])
        .rule([drop_it()]);
}

fn inet_table(document: &NetworkDocument, names: &Names, marks: &Marks, zones: &BTreeMap<String, u16>) -> Table {
    let mut table = Table::default();
    table.map("zones", &["ifname"], "verdict");
    table.map("egress", &["mark"], "verdict");
    table.map("ingress", &["mark"], "verdict");
    table.base("raw", "filter", "prerouting", -300).rule([verdict_by(meta("iifname"), "zones")]);
    table.base("prerouting", "filter", "prerouting", 0).rule([verdict_by(meta("mark"), "egress")]);
    table.base("forward", "filter", "forward", 0).rule([verdict_by(meta("mark"), "ingress")]);
    let types = |list: &[u8]| one_of(field("icmpv6", "type"), &list.iter().map(|t| json!(t)).collect::<Vec<_>>());
    let udp = |family: &str, from: u16, to: u16| {
        [is(meta("nfproto"), family), is(field("udp", "sport"), from), is(field("udp", "dport"), to), accept()]
    };
    table
        .chain("needed_out")
        .rule(udp("ipv4", 68, 67))
        .rule(udp("ipv6", 546, 547))
        .rule([types(&[131, 132, 133, 135, 136, 143]), accept()]);
    table
        .chain("needed_in")
        .rule(udp("ipv4", 67, 68))
        .rule(udp("ipv6", 547, 546))
        .rule([types(&[130, 131, 132, 134, 135, 136, 143]), accept()]);
    for network in &document.networks {
        // A provider network shares the machine's own addresses, and with them its own zone.
        if let (true, Some(zone), Some(bridge)) = (is_inner(&network.kind), zones.get(&network.id), names.bridge(&network.id)) {
            let chain = format!("zone_{zone}");
            table.chain(&chain).rule([assign(json!({"ct": {"key": "zone"}}), *zone)]);
            table.map("zones", &["ifname"], "verdict").insert_value(json!(bridge), jump(&chain));
        }
    }
    let groups: BTreeMap<&str, &SecurityGroup> = document.security_groups.iter().map(|g| (g.id.as_str(), g)).collect();
    let mut referred: BTreeSet<&str> = BTreeSet::new();
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for port in document.ports.iter().filter(|p| p.port_security && p.admin_up && names.tap(&p.id).is_some()) {
        let mine: Vec<&SecurityGroup> = port.security_groups.iter().filter_map(|id| groups.get(id.as_str()).copied()).collect();
        let stateful = stateful(&mine);
        for (direction, map, base) in [("out", "egress", FROM), ("in", "ingress", TO)] {
            let chain = format!("{direction}_{}", word(&port.id));
            let rules = table.chain(&chain);
            rules.rule([jump(&format!("needed_{direction}"))]);
            if stateful {
                rules.rule([ct_state(&["established", "related"]), accept()]);
                rules.rule([ct_state(&["invalid"]), drop_it()]);
            }
            for group in &mine {
                rules.rule([jump(&format!("group_{direction}_{}", word(&group.id)))]);
            }
            rules.rule([drop_it()]);
            table.map(map, &["mark"], "verdict").insert_value(json!(base | marks.get(&port.id)), goto(&chain));
        }
        used.extend(mine.iter().map(|g| g.id.as_str()));
    }
    for id in used {
        let Some(group) = groups.get(id) else { continue };
        for (direction, ingress) in [("out", false), ("in", true)] {
            let chain = table.chain(&format!("group_{direction}_{}", word(id)));
            for rule in group.rules.iter().filter(|r| r.ingress == ingress) {
                group_rule(chain, rule);
            }
        }
        referred.extend(group.rules.iter().filter_map(|r| match &r.remote {
            Remote::Group(id) => Some(id.as_str()),
            _ => None,
        }));
    }
    for id in referred {
        let members = groups.get(id).map(|g| g.members.as_slice()).unwrap_or_default();
        table.prefixes(&format!("member4_{}", word(id)), &["ipv4_addr"]);
        table.prefixes(&format!("member6_{}", word(id)), &["ipv6_addr"]);
        // Two ports may be allowed the same prefix, or one within another's.
        for net in IpNet::aggregate(&members.to_vec()) {
            let (version, kind) = if net.addr().is_ipv4() { (4, "ipv4_addr") } else { (6, "ipv6_addr") };
            let element = if net.prefix_len() == net.max_prefix_len() { json!(net.addr().to_string()) } else { prefix(&net) };
            table.prefixes(&format!("member{version}_{}", word(id)), &[kind]).insert(element);
        }
    }
    table
}

/// Tunnels' packets pass by the encrypting link only, and nothing else does.
fn encrypted_only(table: &mut Table, local: IpAddr) {
    let ip = if local.is_ipv4() { "ip" } else { "ip6" };
    let own = |side: &str| is(field(ip, side), local.to_string());
    let vxlan = || is(field("udp", "dport"), path::VXLAN);
    table
        .base("tunnels_in", "filter", "input", -200)
        .rule([is_not(meta("iifname"), LINK), own("daddr"), vxlan(), drop_it()])
        .rule([is(meta("iifname"), LINK), vxlan(), accept()])
        .rule([is(meta("iifname"), LINK), drop_it()]);
    table.base("tunnels_out", "filter", "output", -200).rule([is_not(meta("oifname"), LINK), own("saddr"), vxlan(), drop_it()]);
}

/// A port follows connections unless all its groups say not to.
pub fn stateful(groups: &[&SecurityGroup]) -> bool {
    groups.is_empty() || groups.iter().any(|g| g.stateful)
}

/// ICMP's number for an IP version: rules of either name mean the one that fits.
pub fn protocol(rule: &SecurityRule) -> Option<u8> {
    match (rule.ip_version, rule.protocol) {
        (6, Some(1)) => Some(58),
        (_, other) => other,
    }
}

/// Protocols with ports where TCP has them.
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

fn group_rule(chain: &mut Chain, rule: &SecurityRule) {
    let (family, ip) = if rule.ip_version == 4 { ("ipv4", "ip") } else { ("ipv6", "ip6") };
    let mut statements = vec![is(meta("nfproto"), family)];
    let remote = field(ip, if rule.ingress { "saddr" } else { "daddr" });
    match &rule.remote {
        Remote::Any => {}
        // A prefix of the other version can match nothing.
        Remote::Cidr(net) if net.addr().is_ipv4() != (rule.ip_version == 4) => return,
        Remote::Cidr(net) if net.prefix_len() == 0 => {}
        Remote::Cidr(net) => statements.push(is(remote, prefix(net))),
        Remote::Group(id) => statements.push(is(remote, format!("@member{}_{}", rule.ip_version, word(id)))),
    }
    if let Some(number) = protocol(rule) {
        statements.push(is(meta("l4proto"), number));
        match number {
            1 | 58 => {
                let name = if number == 1 { "icmp" } else { "icmpv6" };
                if let Some(kind) = rule.port_min {
                    statements.push(is(field(name, "type"), kind));
                    if let Some(code) = rule.port_max {
                        statements.push(is(field(name, "code"), code));
                    }
                }
            }
            n if has_ports(n) => match (rule.port_min, rule.port_max) {
                (None, None) => {}
                (min, max) => {
                    let (min, max) = (min.unwrap_or(0), max.unwrap_or(u16::MAX));
                    let ports = if min == max { json!(min) } else { json!({"range": [min, max]}) };
                    statements.push(is(field("th", "dport"), ports));
                }
            },
            _ => {}
        }
    }
    statements.push(accept());
    chain.rule(statements);
}

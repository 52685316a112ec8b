//! The rules of a router's namespace: who passes, and under which address.

use std::net::IpAddr;

use rpc::network::Router;
use serde_json::{Value, json};

use super::nft::{Ruleset, Table, accept, assign, ct_state, ct_status, drop_it, field, is, is_not, mapped, meta};
use super::plan::gateway_name;

/// Marks packets that came in through the gateway, for the chain behind routing.
const FROM_OUTSIDE: u32 = 1;
/// The map of all floating addresses, also those whose guests are still on their way here: before they are, nothing comes for them from
/// outside, and when they are here no rule has to change for what does.
const ARRIVING: &str = "arriving";

/// Whether rules lead what comes from outside for this address to its guest.
pub fn leads_in(rules: &Ruleset, floating: &IpAddr) -> bool {
    let arriving = rules.tables.get("ip").and_then(|nat| nat.sets.get(ARRIVING));
    arriving.is_some_and(|map| map.elements.contains_key(&json!(floating.to_string()).to_string()))
}

pub fn ruleset(router: &Router) -> Ruleset {
    let mut rules = Ruleset::default();
    let mut filter = Table::default();
    let forward = filter.base("forward", "filter", "forward", 0);
    if !router.admin_up {
        forward.rule([drop_it()]);
        rules.tables.insert("inet", filter);
        return rules;
    }
    let Some(gateway) = &router.gateway else { return rules };
    let outside = gateway_name(&gateway.port_id);
    let from_outside = || is(meta("iifname"), outside.as_str());
    let own4 = gateway.addresses.iter().map(|a| a.addr()).find(|a| a.is_ipv4()).filter(|_| gateway.snat);
    if own4.is_some() {
        // Behind address translation only floating addresses can be reached from outside. IPv6 is routed, and
        // there the ports' security groups decide.
        let ipv4 = || is(meta("nfproto"), "ipv4");
        forward
            .rule([from_outside(), ipv4(), ct_state(&["established", "related"]), accept()])
            .rule([from_outside(), ipv4(), ct_status("dnat"), accept()])
            .rule([from_outside(), ipv4(), drop_it()])
            // What translation does not know would leave under its inner address.
            .rule([is(meta("oifname"), outside.as_str()), ipv4(), ct_state(&["invalid"]), drop_it()]);
        rules.tables.insert("inet", filter);
    }
    let mut nat = Table::default();
    nat.map("floating", &["ipv4_addr"], "ipv4_addr");
    nat.map(ARRIVING, &["ipv4_addr"], "ipv4_addr");
    nat.map("fixed", &["ipv4_addr"], "ipv4_addr");
    for f in router.floating.iter().filter(|f| f.floating.is_ipv4() && f.fixed.is_ipv4()) {
        let (floating, fixed) = (json!(f.floating.to_string()), json!(f.fixed.to_string()));
        nat.map(ARRIVING, &["ipv4_addr"], "ipv4_addr").insert_value(floating.clone(), fixed.clone());
        // Who calls from within is led to the guest where it still is.
        if !f.coming {
            nat.map("floating", &["ipv4_addr"], "ipv4_addr").insert_value(floating.clone(), fixed.clone());
        }
        // One fixed address may have several floating ones; it leaves under the first.
        let map = nat.map("fixed", &["ipv4_addr"], "ipv4_addr");
        if !map.elements.contains_key(&fixed.to_string()) {
            map.insert_value(fixed, floating);
        }
    }
    nat.base("mark", "filter", "prerouting", -150).rule([from_outside(), assign(meta("mark"), FROM_OUTSIDE)]);
    let translate = |kind: &str, to: Value| json!({kind: {"addr": to}});
    nat.base("prerouting", "nat", "prerouting", -100)
        .rule([from_outside(), translate("dnat", mapped(field("ip", "daddr"), ARRIVING))])
        .rule([translate("dnat", mapped(field("ip", "daddr"), "floating"))]);
    let leaving = || is(meta("oifname"), outside.as_str());
    let not_dnat = json!({"match": {"op": "==", "left": {"&": [{"ct": {"key": "status"}}, 32]}, "right": 0}});
    let postrouting = nat.base("postrouting", "nat", "postrouting", 100);
    postrouting
        // Between inner networks, and from outside to a floating address: the caller stays visible.
        .rule([is_not(meta("oifname"), outside.as_str()), not_dnat, accept()])
        .rule([is_not(meta("oifname"), outside.as_str()), is(meta("mark"), FROM_OUTSIDE), accept()])
        // Leaving, or to a floating address from within (the answer must come back through here).
        .rule([translate("snat", mapped(field("ip", "saddr"), "fixed"))]);
    // A part that is not the home leads out nobody else.
    if let Some(own) = own4.filter(|_| router.home.is_none()) {
        postrouting.rule([leaving(), translate("snat", json!(own.to_string()))]);
    }
    if let Some(own) = gateway.addresses.iter().map(|a| a.addr()).find(|a| a.is_ipv4()) {
        postrouting.rule([is_not(meta("oifname"), outside.as_str()), ct_status("dnat"), translate("snat", json!(own.to_string()))]);
    }
    rules.tables.insert("ip", nat);
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::network::{FloatingIp, RouterGateway};

    #[test]
    fn what_comes_from_outside_for_a_guest_on_its_way_has_its_rules_before() {
        let floating =
            |coming| FloatingIp { id: String::new(), floating: "203.0.113.9".parse().unwrap(), fixed: "10.0.0.5".parse().unwrap(), coming };
        let gateway = RouterGateway {
            port_id: "60000000-0000".into(),
            network_id: "a".into(),
            mac: String::new(),
            addresses: vec!["203.0.113.2/24".parse().unwrap()],
            mtu: 1500,
            nexthops: vec![],
            snat: true,
        };
        let router = |floating: Vec<FloatingIp>| Router {
            id: "80000000-0000".into(),
            admin_up: true,
            interfaces: vec![],
            gateway: Some(gateway.clone()),
            floating,
            routes: vec![],
            home: None,
        };
        let [none, coming, here] = [vec![], vec![floating(true)], vec![floating(false)]].map(|f| ruleset(&router(f)));
        let address = "203.0.113.9".parse().unwrap();
        assert_eq!([&none, &coming, &here].map(|rules| leads_in(rules, &address)), [false, true, true]);
        // All that its arrival changes is what callers from within meet.
        let nat = |rules: &Ruleset| rules.tables["ip"].clone();
        let (mut coming, here) = (nat(&coming), nat(&here));
        assert!(coming != here && coming.sets["floating"].elements.is_empty());
        coming.sets.insert("floating".into(), here.sets["floating"].clone());
        assert_eq!(coming, here);
    }
}

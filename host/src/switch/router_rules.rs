//! The rules of a router's namespace: who passes, and under which address.

use rpc::network::Router;
use serde_json::{Value, json};

use super::nft::{Ruleset, Table, accept, assign, ct_state, ct_status, drop_it, field, is, is_not, mapped, meta};
use super::plan::gateway_name;

/// Marks packets that came in through the gateway, for the chain behind routing.
const FROM_OUTSIDE: u32 = 1;

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
    nat.map("fixed", &["ipv4_addr"], "ipv4_addr");
    for f in router.floating.iter().filter(|f| f.floating.is_ipv4() && f.fixed.is_ipv4()) {
        let (floating, fixed) = (json!(f.floating.to_string()), json!(f.fixed.to_string()));
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
    nat.base("prerouting", "nat", "prerouting", -100).rule([translate("dnat", mapped(field("ip", "daddr"), "floating"))]);
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

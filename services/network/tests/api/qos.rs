//! QoS policies: their rules, who may use them, and what ports get and ask for.

use std::sync::{Arc, Mutex};

use base::{Error, Kind};
use network::{NicWanted, ServerPorts};
use rpc::network::{Limit, Limits, PacketLimit};
use serde_json::{Value, json};

use crate::world::{World, all, caller, text};

const LIMITS: &str = "bandwidth_limit_rule";
const MINIMUM: &str = "minimum_bandwidth_rule";
const PACKETS: &str = "packet_rate_limit_rule";
const PACKET_MINIMUM: &str = "minimum_packet_rate_rule";
const MARK: &str = "dscp_marking_rule";
const SERVER: &str = "51515151-0000-4000-8000-000000000001";

async fn policy(w: &World, token: &str, body: Value) -> String {
    text(&w.make(token, "/qos/policies", "policy", body).await["id"])
}

async fn rule(w: &World, token: &str, policy: &str, kind: &str, body: Value) -> String {
    text(&w.make(token, &format!("/qos/policies/{policy}/{kind}s"), kind, body).await["id"])
}

pub async fn a_policy_from_birth_to_death(w: World) {
    let made = w.make("manager:p1", "/qos/policies", "policy", json!({"name": "gold", "description": "d"})).await;
    let id = text(&made["id"]);
    assert_eq!((&made["shared"], &made["is_default"], &made["rules"]), (&json!(false), &json!(false), &json!([])));
    assert_eq!((&made["project_id"], &made["revision_number"], &made["tags"]), (&json!("p1"), &json!(0), &json!([])));
    let path = format!("/qos/policies/{id}");
    let (status, changed) = w.ask("manager:p1", "PUT", &path, json!({"policy": {"name": "silver", "is_default": true}})).await;
    assert_eq!((status, &changed["policy"]["name"], &changed["policy"]["revision_number"]), (200, &json!("silver"), &json!(1)));
    assert_eq!(
        w.refused("manager:p1", "POST", "/qos/policies", json!({"policy": {"is_default": true}}), 409).await,
        "QoSPolicyDefaultAlreadyExists"
    );
    let second = policy(&w, "manager:p1", json!({"name": "b"})).await;
    let body = json!({"policy": {"is_default": true}});
    assert_eq!(w.refused("manager:p1", "PUT", &format!("/qos/policies/{second}"), body, 409).await, "QoSPolicyDefaultAlreadyExists");
    policy(&w, "manager:p2", json!({"is_default": true})).await;
    assert_eq!(all(&w.get("reader:p1", "/qos/policies?sort_key=name").await["policies"], "name"), ["b", "silver"]);
    assert_eq!(all(&w.get("reader:p1", "/qos/policies?is_default=True").await["policies"], "id"), [id.as_str()]);
    assert_eq!(w.ask("manager:p1", "PUT", &format!("{path}/tags"), json!({"tags": ["a"]})).await.0, 200);
    assert_eq!(w.get("reader:p1", "/qos/policies?tags=a").await["policies"][0]["tags"], json!(["a"]));
    for (token, body, status, name) in [
        ("manager:p1", json!({"policy": {"rules": []}}), 400, "HTTPBadRequest"),
        ("manager:p1", json!({"policy": {"shared": "perhaps"}}), 400, "HTTPBadRequest"),
        ("manager:p1", json!({}), 400, "HTTPBadRequest"),
        ("member:p1", json!({"policy": {}}), 403, "PolicyNotAuthorized"),
    ] {
        assert_eq!(w.refused(token, "POST", "/qos/policies", body, status).await, name);
    }
    assert_eq!(w.refused("member:p1", "PUT", &path, json!({"policy": {"name": "x"}}), 403).await, "PolicyNotAuthorized");
    assert_eq!(w.refused("member:p1", "DELETE", &path, Value::Null, 403).await, "PolicyNotAuthorized");
    assert_eq!(w.refused("manager:p2", "GET", &path, Value::Null, 404).await, "QosPolicyNotFound");
    rule(&w, "manager:p1", &id, LIMITS, json!({"max_kbps": 1})).await;
    for path in [path, format!("/qos/policies/{second}")] {
        w.delete("manager:p1", &path).await;
    }
    w.empty(&["qos_rule"]).await;
}

pub async fn rules_of_a_policy(w: World) {
    let id = policy(&w, "manager:p1", json!({"name": "gold"})).await;
    let (policy_path, limits) = (format!("/qos/policies/{id}"), format!("/qos/policies/{id}/bandwidth_limit_rules"));
    let limit = w.make("manager:p1", &limits, LIMITS, json!({"max_kbps": 5000})).await;
    let one = text(&limit["id"]);
    assert_eq!(limit, json!({"id": one, "max_kbps": 5000, "max_burst_kbps": 0, "direction": "egress"}));
    let least = rule(&w, "manager:p1", &id, MINIMUM, json!({"min_kbps": 4000, "direction": "egress"})).await;
    let seen = w.get("reader:p1", &policy_path).await["policy"].clone();
    let whole =
        json!({"id": one, "qos_policy_id": id, "type": "bandwidth_limit", "max_kbps": 5000, "max_burst_kbps": 0, "direction": "egress"});
    assert_eq!((&seen["rules"][0], &seen["rules"][1]["id"], &seen["revision_number"]), (&whole, &json!(least), &json!(2)));

    // What contradicts another rule.
    let conflicts = [(LIMITS, json!({"max_kbps": 1}), "QoSRulesConflict"), (MINIMUM, json!({"min_kbps": 1}), "QoSRulesConflict")];
    for (kind, body, name) in conflicts {
        assert_eq!(w.refused("manager:p1", "POST", &format!("{policy_path}/{kind}s"), json!({kind: body}), 409).await, name);
    }
    let path = format!("{limits}/{one}");
    assert_eq!(w.refused("manager:p1", "PUT", &path, json!({LIMITS: {"max_kbps": 3999}}), 409).await, "QoSRuleParameterConflict");
    let other = rule(&w, "manager:p1", &id, LIMITS, json!({"max_kbps": 10, "direction": "ingress", "max_burst_kbps": 20})).await;
    assert_eq!(
        w.refused("manager:p1", "PUT", &format!("{limits}/{other}"), json!({LIMITS: {"direction": "egress"}}), 409).await,
        "QoSRulesConflict"
    );

    // One and all, by either way.
    let (status, changed) = w.ask("manager:p1", "PUT", &path, json!({LIMITS: {"max_kbps": 6000}})).await;
    assert_eq!((status, &changed[LIMITS]["max_kbps"]), (200, &json!(6000)));
    let alias = format!("/qos/alias_bandwidth_limit_rules/{one}");
    let (status, changed) = w.ask("manager:p1", "PUT", &alias, json!({"alias_bandwidth_limit_rule": {"max_kbps": 7000}})).await;
    assert_eq!((status, &changed["alias_bandwidth_limit_rule"]["max_kbps"]), (200, &json!(7000)));
    assert_eq!(w.get("reader:p1", &alias).await["alias_bandwidth_limit_rule"]["id"], json!(one));
    assert_eq!(w.get("reader:p1", &format!("{path}?fields=max_kbps")).await[LIMITS], json!({"max_kbps": 7000}));
    let list = |query: &str| format!("{limits}?{query}");
    let ids = async |query: &str| all(&w.get("reader:p1", &list(query)).await["bandwidth_limit_rules"], "id");
    assert_eq!(ids("sort_key=max_kbps&sort_dir=desc").await, [one.clone(), other.clone()]);
    assert_eq!(ids("direction=ingress").await, [other.as_str()]);
    assert_eq!(ids("max_kbps=7000").await, [one.as_str()]);
    assert_eq!(ids("sort_key=max_kbps&limit=1").await, [other.as_str()]);
    assert_eq!(ids(&format!("sort_key=max_kbps&limit=1&marker={other}")).await, [one.as_str()]);
    assert_eq!(w.refused("reader:p1", "GET", &list("colour=red"), Value::Null, 400).await, "HTTPBadRequest");
    assert_eq!(w.refused("reader:p1", "GET", &list("sort_key=colour"), Value::Null, 400).await, "HTTPBadRequest");

    // Who may not, and what is none.
    let body = || json!({LIMITS: {"max_kbps": 1}});
    assert_eq!(w.refused("member:p1", "POST", &limits, body(), 403).await, "PolicyNotAuthorized");
    assert_eq!(w.refused("member:p1", "PUT", &path, body(), 403).await, "PolicyNotAuthorized");
    assert_eq!(w.refused("member:p1", "DELETE", &alias, Value::Null, 403).await, "PolicyNotAuthorized");
    assert_eq!(w.refused("manager:p2", "POST", &limits, body(), 404).await, "QosPolicyNotFound");
    assert_eq!(w.refused("manager:p2", "GET", &alias, Value::Null, 404).await, "QosRuleNotFound");
    assert_eq!(w.refused("manager:p1", "GET", &format!("{limits}/{least}"), Value::Null, 404).await, "QosRuleNotFound");
    for wrong in [json!({}), json!({"max_kbps": -1}), json!({"max_kbps": 1, "direction": "up"}), json!({"max_kbps": 1, "min_kbps": 1})] {
        assert_eq!(w.refused("manager:p1", "POST", &limits, json!({LIMITS: wrong}), 400).await, "HTTPBadRequest");
    }
    assert_eq!(w.refused("manager:p1", "PUT", &alias, body(), 400).await, "HTTPBadRequest");
    let stale = w.ask_with("manager:p1", "PUT", &path, body(), &[("if-match", "revision_number=1")]).await;
    assert_eq!(stale.0, 412);

    // Of a shared policy everybody sees the rules with it, and only its owner sees them alone.
    assert_eq!(w.ask("manager:p1", "PUT", &policy_path, json!({"policy": {"shared": true}})).await.0, 200);
    assert_eq!(w.get("reader:p2", &policy_path).await["policy"]["rules"].as_array().unwrap().len(), 3);
    assert_eq!(w.get("reader:p2", &limits).await["bandwidth_limit_rules"], json!([]));
    assert_eq!(w.refused("manager:p2", "POST", &limits, body(), 403).await, "PolicyNotAuthorized");
    w.delete("manager:p1", &alias).await;
    w.delete("manager:p1", &format!("{policy_path}/minimum_bandwidth_rules/{least}")).await;
    assert_eq!(w.refused("manager:p1", "GET", &path, Value::Null, 404).await, "QosRuleNotFound");
    assert_eq!(ids("").await, [other]);
}

pub async fn rules_of_packets_and_marks(w: World) {
    let id = policy(&w, "manager:p1", json!({"name": "gold"})).await;
    let path = |kind: &str| format!("/qos/policies/{id}/{kind}s");
    let kinds = [
        (PACKETS, json!({"max_kpps": 5}), json!({"max_kpps": 5, "max_burst_kpps": 0, "direction": "egress"})),
        (PACKET_MINIMUM, json!({"min_kpps": 9, "direction": "any"}), json!({"min_kpps": 9, "direction": "any"})),
        (MARK, json!({"dscp_mark": 26}), json!({"dscp_mark": 26})),
    ];
    let mut made = Vec::new();
    for (kind, body, mut wanted) in kinds {
        let rule = w.make("manager:p1", &path(kind), kind, body).await;
        wanted["id"] = rule["id"].clone();
        assert_eq!(rule, wanted);
        assert_eq!(w.get("reader:p1", &path(kind)).await[format!("{kind}s")], json!([wanted]));
        made.push(text(&rule["id"]));
    }
    let rules = w.get("reader:p1", &format!("/qos/policies/{id}")).await["policy"]["rules"].clone();
    assert_eq!(rules[2], json!({"id": made[2], "qos_policy_id": id, "type": "dscp_marking", "dscp_mark": 26}));

    let conflicts = [
        (PACKETS, json!({"max_kpps": 1}), "QoSRulesConflict"),
        (PACKET_MINIMUM, json!({"min_kpps": 1, "direction": "any"}), "QoSRulesConflict"),
        (PACKET_MINIMUM, json!({"min_kpps": 1, "direction": "ingress"}), "QoSRuleParameterConflict"),
        (MARK, json!({"dscp_mark": 8}), "QoSRulesConflict"),
    ];
    for (kind, body, name) in conflicts {
        assert_eq!(w.refused("manager:p1", "POST", &path(kind), json!({kind: body}), 409).await, name);
    }
    for (kind, body) in [
        (PACKETS, json!({"max_kpps": 1, "direction": "any"})),
        (PACKETS, json!({"max_kpps": 1, "max_burst_kbps": 1})),
        (PACKET_MINIMUM, json!({"min_kpps": 1, "max_kpps": 1})),
        (MARK, json!({"dscp_mark": 7})),
        (MARK, json!({"dscp_mark": 8, "direction": "egress"})),
    ] {
        assert_eq!(w.refused("manager:p1", "POST", &path(kind), json!({kind: body}), 400).await, "HTTPBadRequest");
        assert_eq!(w.refused("member:p1", "POST", &path(kind), json!({kind: {}}), 403).await, "PolicyNotAuthorized");
    }
    // One alone may have a direction or none.
    let one = format!("{}/{}", path(PACKET_MINIMUM), made[1]);
    assert_eq!(w.ask("manager:p1", "PUT", &one, json!({PACKET_MINIMUM: {"direction": "ingress"}})).await.0, 200);
    let up = rule(&w, "manager:p1", &id, PACKET_MINIMUM, json!({"min_kpps": 2})).await;
    assert_eq!(w.refused("manager:p1", "PUT", &one, json!({PACKET_MINIMUM: {"direction": "any"}}), 409).await, "QoSRuleParameterConflict");
    assert_eq!(
        w.get("reader:p1", &format!("{}?direction=egress", path(PACKET_MINIMUM))).await[format!("{PACKET_MINIMUM}s")][0]["id"],
        json!(up)
    );
    assert_eq!(w.refused("reader:p1", "GET", &format!("{}?direction=egress", path(MARK)), Value::Null, 400).await, "HTTPBadRequest");

    for (kind, rule, change) in [(PACKET_MINIMUM, &made[1], json!({"min_kpps": 3})), (MARK, &made[2], json!({"dscp_mark": 0}))] {
        let (alias, key) = (format!("/qos/alias_{kind}s/{rule}"), format!("alias_{kind}"));
        let (status, changed) = w.ask("manager:p1", "PUT", &alias, json!({&key: change})).await;
        let amount = changed[&key].as_object().unwrap().iter().find(|(name, _)| change.get(name.as_str()).is_some());
        assert_eq!((status, amount.map(|(_, n)| n)), (200, change.as_object().unwrap().values().next()));
        assert_eq!(w.get("reader:p1", &alias).await[&key]["id"], json!(rule));
        assert_eq!(w.refused("member:p1", "DELETE", &alias, Value::Null, 403).await, "PolicyNotAuthorized");
        w.delete("manager:p1", &alias).await;
    }
    assert_eq!(w.ask("manager:p1", "GET", &format!("/qos/alias_{PACKETS}s/{}", made[0]), Value::Null).await.0, 404, "upstream has none");
    w.delete("manager:p1", &format!("{}/{}", path(PACKETS), made[0])).await;
    assert_eq!(w.refused("manager:p2", "GET", &path(MARK), Value::Null, 404).await, "QosPolicyNotFound");
}

pub async fn types_of_rules(w: World) {
    let types = w.get("reader:p1", "/qos/rule-types?all_supported=True").await;
    let all_types = ["bandwidth_limit", "dscp_marking", "minimum_bandwidth", "minimum_packet_rate", "packet_rate_limit"];
    assert_eq!(all(&types["rule_types"], "type"), all_types);
    assert_eq!(all(&w.get("reader:p1", "/qos/rule-types?type=minimum_bandwidth").await["rule_types"], "type"), ["minimum_bandwidth"]);
    assert_eq!(w.ask("reader:p1", "GET", "/qos/rule-types?all_rules=perhaps", Value::Null).await.0, 400);
    assert_eq!(w.ask("nobody:p1", "GET", "/qos/rule-types", Value::Null).await.0, 403);
    let shown = w.get("admin", "/qos/rule-types/bandwidth_limit").await["rule_type"].clone();
    assert_eq!(all(&shown["drivers"][0]["supported_parameters"], "parameter_name"), ["max_kbps", "max_burst_kbps", "direction"]);
    assert_eq!(w.ask("reader:p1", "GET", "/qos/rule-types/bandwidth_limit", Value::Null).await.0, 403);
    let shown = w.get("admin", "/qos/rule-types/dscp_marking").await["rule_type"]["drivers"][0]["supported_parameters"].clone();
    assert_eq!(
        (all(&shown, "parameter_name"), all(&shown, "parameter_type")),
        (vec!["dscp_mark".to_string()], vec!["choices".to_string()])
    );
    let shown = w.get("admin", "/qos/rule-types/minimum_packet_rate").await["rule_type"]["drivers"][0]["supported_parameters"].clone();
    assert_eq!(shown[1]["parameter_values"], json!(["any", "ingress", "egress"]));
    assert_eq!(w.ask("admin", "GET", "/qos/rule-types/colour", Value::Null).await.0, 404);
}

pub async fn ports_and_networks_with_policies(w: World) {
    let own = policy(&w, "manager:p1", json!({"name": "own"})).await;
    let foreign = policy(&w, "manager:p2", json!({"name": "foreign"})).await;
    let of_admins = policy(&w, "admin", json!({"name": "admins"})).await;
    let network = w.network("member:p1").await;
    w.subnet("member:p1", &network, "10.0.0.0/24").await;
    let path = format!("/networks/{network}");
    let with = |id: &str| json!({"network": {"qos_policy_id": id}});
    assert_eq!(w.get("member:p1", &path).await["network"]["qos_policy_id"], Value::Null);
    assert_eq!(w.refused("member:p1", "PUT", &path, with(&foreign), 404).await, "QosPolicyNotFound");
    assert_eq!(w.refused("member:p1", "PUT", &path, with("x"), 400).await, "HTTPBadRequest");
    let (status, body) = w.ask("member:p1", "PUT", &path, with(&own)).await;
    assert_eq!((status, &body["network"]["qos_policy_id"]), (200, &json!(own)));
    assert_eq!(all(&w.get("member:p1", &format!("/networks?qos_policy_id={own}")).await["networks"], "id"), [network.as_str()]);
    let port = w.port("member:p1", &network).await;
    assert_eq!((&port["qos_policy_id"], &port["qos_network_policy_id"]), (&Value::Null, &json!(own)));
    assert!(port.get("resource_request").is_none(), "hidden from members");
    let port_path = format!("/ports/{}", text(&port["id"]));
    let put = |id: Value| json!({"port": {"qos_policy_id": id}});
    assert_eq!(w.refused("member:p1", "PUT", &port_path, put(json!(foreign)), 404).await, "QosPolicyNotFound");
    assert_eq!(w.ask("admin", "PUT", &port_path, put(json!(of_admins))).await.0, 200);
    assert_eq!(w.refused("member:p1", "PUT", &port_path, put(Value::Null), 403).await, "PolicyRemoveAuthorizationError");
    assert_eq!(w.refused("admin", "DELETE", &format!("/qos/policies/{of_admins}"), Value::Null, 409).await, "QosPolicyInUse");
    assert_eq!(w.refused("manager:p1", "DELETE", &format!("/qos/policies/{own}"), Value::Null, 409).await, "QosPolicyInUse");
    let router = json!({"network_id": network, "device_owner": "network:router_interface"});
    assert_eq!(w.make("admin", "/ports", "port", router).await["qos_network_policy_id"], Value::Null, "not for the network's own");

    // Shared ones are anybody's, and stay so while they are used.
    let share = |shared: bool| json!({"policy": {"shared": shared}});
    assert_eq!(w.ask("manager:p2", "PUT", &format!("/qos/policies/{foreign}"), share(true)).await.0, 200);
    assert_eq!(w.ask("member:p1", "PUT", &path, with(&foreign)).await.0, 200);
    assert_eq!(w.refused("manager:p2", "PUT", &format!("/qos/policies/{foreign}"), share(false), 409).await, "RbacPolicyInUse");

    // A default is for new networks that name none.
    assert_eq!(w.ask("manager:p1", "PUT", &format!("/qos/policies/{own}"), json!({"policy": {"is_default": true}})).await.0, 200);
    let new = w.make("member:p1", "/networks", "network", json!({"name": "new"})).await;
    assert_eq!(new["qos_policy_id"], json!(own));
    let named = w.make("member:p1", "/networks", "network", json!({"name": "named", "qos_policy_id": foreign})).await;
    assert_eq!(named["qos_policy_id"], json!(foreign));
    assert_eq!(w.make("member:p2", "/networks", "network", json!({})).await["qos_policy_id"], Value::Null);
}

pub async fn a_host_hears_of_limits_at_once(w: World) {
    let mut host = w.host("host-1", "compute-1").await;
    let (gold, iron) = (policy(&w, "manager:p1", json!({"name": "gold"})).await, policy(&w, "manager:p1", json!({"name": "iron"})).await);
    let limit = rule(&w, "manager:p1", &gold, LIMITS, json!({"max_kbps": 1000, "max_burst_kbps": 300})).await;
    rule(&w, "manager:p1", &iron, LIMITS, json!({"max_kbps": 50, "direction": "ingress"})).await;
    let network = w.network("member:p1").await;
    w.subnet("member:p1", &network, "10.0.0.0/24").await;
    let body = json!({"network_id": network, "binding:host_id": "compute-1", "device_owner": "compute:nova", "device_id": SERVER});
    let port = text(&w.make("admin", "/ports", "port", body).await["id"]);
    let unlimited = host.document(|d| d.ports.len() == 1).await;
    assert_eq!(unlimited.ports[0].limits, Limits::default());
    let (rate, burst) = (1000, 300);
    assert_eq!(w.ask("member:p1", "PUT", &format!("/networks/{network}"), json!({"network": {"qos_policy_id": gold}})).await.0, 200);
    let wanted = Limits { egress: Some(Limit { rate, burst }), ..Limits::default() };
    host.document(|d| d.ports.iter().any(|p| p.limits == wanted)).await;
    // A rule changes, and a burst that is not given is made.
    let path = format!("/qos/policies/{gold}/bandwidth_limit_rules/{limit}");
    assert_eq!(w.ask("manager:p1", "PUT", &path, json!({LIMITS: {"max_kbps": 2000, "max_burst_kbps": 0}})).await.0, 200);
    let wanted = Limits { egress: Some(Limit { rate: 2000, burst: 1600 }), ..Limits::default() };
    host.document(|d| d.ports.iter().any(|p| p.limits == wanted)).await;
    // The port's own policy is instead of its network's, not beside it.
    assert_eq!(w.ask("admin", "PUT", &format!("/ports/{port}"), json!({"port": {"qos_policy_id": iron}})).await.0, 200);
    let wanted = Limits { ingress: Some(Limit { rate: 50, burst: 525 }), ..Limits::default() };
    host.document(|d| d.ports.iter().any(|p| p.limits == wanted)).await;
    assert_eq!(w.ask("admin", "PUT", &format!("/ports/{port}"), json!({"port": {"qos_policy_id": null}})).await.0, 200);
    host.document(|d| d.ports.iter().any(|p| p.limits.egress.is_some())).await;
    w.delete("manager:p1", &path).await;
    host.document(|d| d.ports.iter().all(|p| p.limits == Limits::default())).await;
    // Packets and marks.
    rule(&w, "manager:p1", &gold, PACKETS, json!({"max_kpps": 7})).await;
    rule(&w, "manager:p1", &gold, PACKETS, json!({"max_kpps": 9, "max_burst_kpps": 1, "direction": "ingress"})).await;
    rule(&w, "manager:p1", &gold, MARK, json!({"dscp_mark": 46})).await;
    let (egress_packets, ingress_packets) = (Some(PacketLimit { rate: 7, burst: 0 }), Some(PacketLimit { rate: 9, burst: 1 }));
    let wanted = Limits { egress_packets, ingress_packets, mark: Some(46), ..Limits::default() };
    host.document(|d| d.ports.iter().any(|p| p.limits == wanted)).await;
}

pub async fn what_ports_ask_of_their_host(w: World) {
    w.host("host-1", "compute-1").await;
    let public = w.public().await;
    let gold = policy(&w, "admin", json!({"name": "gold", "shared": true})).await;
    let body = json!({"network_id": public, "qos_policy_id": gold});
    let port = text(&w.make("admin", "/ports", "port", body).await["id"]);
    let path = format!("/ports/{port}");
    let asked = async || w.get("admin", &path).await["port"]["resource_request"].clone();
    assert_eq!(asked().await, Value::Null);
    rule(&w, "admin", &gold, MINIMUM, json!({"min_kbps": 1000})).await;
    let up = rule(&w, "admin", &gold, MINIMUM, json!({"min_kbps": 500, "direction": "ingress"})).await;
    let request = asked().await;
    let group = &request["request_groups"][0];
    assert_eq!(group["required"], json!(["CUSTOM_PHYSNET_PUBLIC", "CUSTOM_VNIC_TYPE_NORMAL"]));
    assert_eq!(group["resources"], json!({"NET_BW_EGR_KILOBIT_PER_SEC": 1000, "NET_BW_IGR_KILOBIT_PER_SEC": 500}));
    assert_eq!(request["same_subtree"], json!([group["id"]]));
    let group_id = text(&group["id"]);
    // A VLAN takes it from the same place as the flat network.
    let body = json!({"provider:network_type": "vlan", "provider:physical_network": "public", "provider:segmentation_id": 100});
    let vlan = w.make("admin", "/networks", "network", body).await["id"].clone();
    let tagged = w.make("admin", "/ports", "port", json!({"network_id": vlan, "qos_policy_id": gold})).await;
    assert_eq!(tagged["resource_request"]["request_groups"][0]["required"], group["required"]);
    w.delete("admin", &format!("/ports/{}", text(&tagged["id"]))).await;

    // A server takes it, and one of the network's beside it.
    let tunnel = w.network("member:p1").await;
    w.subnet("member:p1", &tunnel, "10.0.0.0/24").await;
    assert_eq!(w.ask("member:p1", "PUT", &format!("/networks/{tunnel}"), json!({"network": {"qos_policy_id": gold}})).await.0, 200);
    let wanted = [NicWanted::Port { id: port.clone(), tag: None }, NicWanted::Network { id: tunnel, fixed_ip: None, tag: None }];
    let plan = w.net.nics_plan(&caller("admin:p1"), &wanted, &[]).await.unwrap();
    let server = ServerPorts { server_id: SERVER.into(), project_id: "p1".into(), ..ServerPorts::default() };
    let net = w.net.clone();
    let (planned, demands) = w
        .core
        .store
        .write(move |tx| {
            let planned = net.demands_planned_in(tx, &plan)?;
            net.ports_create_in(tx, &caller("admin:p1"), &server, &plan)?;
            net.ports_bind_in(tx, SERVER, "host-1", "compute-1", "nova")?;
            let demands = net.demands_in(tx, SERVER)?;
            let given: Vec<_> = demands.iter().map(|d| (d.clone(), format!("provider of {}", d.traits[0]))).collect();
            net.promises_put_in(tx, SERVER, &given)?;
            Ok((planned, demands))
        })
        .await
        .unwrap();
    let traits = |list: &[network::Demand]| list.iter().map(|d| d.traits[0].clone()).collect::<Vec<_>>();
    assert_eq!(traits(&planned), ["CUSTOM_PHYSNET_PUBLIC", "CUSTOM_NETWORK_TUNNEL_PROVIDER"]);
    let mut both = traits(&demands);
    both.sort();
    assert_eq!(both, ["CUSTOM_NETWORK_TUNNEL_PROVIDER", "CUSTOM_PHYSNET_PUBLIC"]);
    let profile = async || w.get("admin", &path).await["port"]["binding:profile"].clone();
    assert_eq!(profile().await, json!({"allocation": {&group_id: "provider of CUSTOM_PHYSNET_PUBLIC"}}));
    assert_eq!(w.ask("service", "PUT", &path, json!({"port": {"binding:profile": {"x": 1, "allocation": {}}}})).await.0, 200);
    assert_eq!(profile().await, json!({"x": 1, "allocation": {&group_id: "provider of CUSTOM_PHYSNET_PUBLIC"}}), "not a client's to write");

    // What was given is all that is kept, and what is given to a new port.
    rule(&w, "admin", &gold, PACKET_MINIMUM, json!({"min_kpps": 3, "direction": "any"})).await;
    let net = w.net.clone();
    let kinds = async |newcomer: Option<String>| {
        let net = net.clone();
        let asked = w.core.store.read(move |tx| net.demands_kept_in(tx, SERVER, newcomer.as_deref())).await.unwrap();
        let mut kinds: Vec<&str> = asked.into_iter().map(|demand| demand.kind).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(None).await, ["minimum_bandwidth"; 2]);
    assert_eq!(kinds(Some(port.clone())).await, ["minimum_bandwidth", "minimum_bandwidth", "minimum_packet_rate"]);
    let packets = w.get("admin", &format!("/qos/policies/{gold}/{PACKET_MINIMUM}s")).await[format!("{PACKET_MINIMUM}s")][0]["id"].clone();
    w.delete("admin", &format!("/qos/policies/{gold}/{PACKET_MINIMUM}s/{}", text(&packets))).await;

    // Whoever keeps count of hosts is asked before anything changes.
    let heard = Arc::new(Mutex::new((Vec::new(), true)));
    let ear = heard.clone();
    w.net.demands_listen(Box::new(move |_, server| {
        let mut ear = ear.lock().unwrap();
        ear.0.push(server.to_string());
        if ear.1 { Err(Error::new(Kind::NoCapacity, "full")) } else { Ok(()) }
    }));
    let rule_path = format!("/qos/policies/{gold}/minimum_bandwidth_rules/{up}");
    let more = json!({MINIMUM: {"min_kbps": 5000}});
    assert_eq!(w.refused("admin", "PUT", &rule_path, more.clone(), 409).await, "QosPlacementAllocationUpdateConflict");
    assert_eq!(asked().await, request, "nothing has changed");
    let none = json!({"port": {"qos_policy_id": null}});
    assert_eq!(w.refused("admin", "PUT", &path, none.clone(), 409).await, "QosPlacementAllocationUpdateConflict");
    assert_eq!(w.refused("admin", "DELETE", &path, Value::Null, 409).await, "QosPlacementAllocationUpdateConflict");
    *heard.lock().unwrap() = (Vec::new(), false);
    assert_eq!(w.ask("admin", "PUT", &rule_path, more).await.0, 200);
    assert_eq!(asked().await["request_groups"][0]["resources"]["NET_BW_IGR_KILOBIT_PER_SEC"], json!(5000));
    rule(&w, "admin", &gold, LIMITS, json!({"max_kbps": 9000})).await;
    assert_eq!(w.ask("admin", "PUT", &path, none).await.0, 200);
    assert_eq!(heard.lock().unwrap().0, [SERVER, SERVER], "a limit asks for nothing");
    assert_eq!(asked().await, Value::Null);

    // Released it has nothing.
    assert_eq!(w.ask("admin", "PUT", &path, json!({"port": {"qos_policy_id": gold}})).await.0, 200);
    let net = w.net.clone();
    w.core.store.write(move |tx| net.ports_release_in(tx, SERVER)).await.unwrap();
    assert_eq!(profile().await, json!({"x": 1}));
}

pub async fn a_bound_port_that_asks_for_something_else_is_heard_of(w: World) {
    const OTHER: &str = "51515151-0000-4000-8000-000000000002";
    w.host("host-1", "compute-1").await;
    w.net.devices_owned(Box::new(|_, device| Ok([SERVER, OTHER].contains(&device).then(|| "p2".to_string()))));
    let network = w.network("member:p2").await;
    w.subnet("member:p2", &network, "10.0.0.0/24").await;
    let gold = policy(&w, "manager:p1", json!({"name": "gold"})).await;
    assert_eq!(w.ask("admin", "PUT", &format!("/qos/policies/{gold}"), json!({"policy": {"shared": true}})).await.0, 200);
    let least = rule(&w, "manager:p1", &gold, MINIMUM, json!({"min_kbps": 1000})).await;
    let body = json!({"network_id": network, "qos_policy_id": gold, "device_id": SERVER});
    let path = format!("/ports/{}", text(&w.make("member:p2", "/ports", "port", body).await["id"]));
    let net = w.net.clone();
    let promise = move |tx: &store::Tx| {
        net.ports_bind_in(tx, SERVER, "host-1", "compute-1", "nova")?;
        let given: Vec<_> = net.demands_in(tx, SERVER)?.into_iter().map(|d| (d, "provider".to_string())).collect();
        net.promises_put_in(tx, SERVER, &given)
    };
    w.core.store.write(promise.clone()).await.unwrap();
    let heard = Arc::new(Mutex::new((Vec::new(), None)));
    let ear = heard.clone();
    w.net.demands_listen(Box::new(move |_, server| {
        let mut ear = ear.lock().unwrap();
        ear.0.push(server.to_string());
        ear.1.map_or(Ok(()), |kind| Err(Error::new(kind, "it is at work.")))
    }));
    let put = async |change: Value| {
        heard.lock().unwrap().0.clear();
        assert_eq!(w.ask("admin", "PUT", &path, json!({"port": change})).await.0, 200);
        heard.lock().unwrap().0.clone()
    };
    assert!(put(json!({"name": "n"})).await.is_empty());
    // Whoever its owner says it is of.
    assert_eq!(put(json!({"device_owner": "mine"})).await, [SERVER]);
    assert_eq!(put(json!({"binding:vnic_type": "direct"})).await, [SERVER]);
    assert_eq!(put(json!({"binding:vnic_type": "normal"})).await, [SERVER]);

    // Others than the server's project do not learn of it.
    let rules = format!("/qos/policies/{gold}/minimum_bandwidth_rules/{least}");
    for kind in [Kind::NoCapacity, Kind::Conflict] {
        heard.lock().unwrap().1 = Some(kind);
        for (token, named) in [("admin", true), ("manager:p1", false)] {
            let (status, body) = w.ask(token, "PUT", &rules, json!({MINIMUM: {"min_kbps": 2000}})).await;
            assert_eq!((status, &body["NeutronError"]["type"]), (409, &json!("QosPlacementAllocationUpdateConflict")));
            assert_eq!(body["NeutronError"]["message"].as_str().unwrap().contains(SERVER), named, "{body}");
        }
    }
    heard.lock().unwrap().1 = None;

    // It leaves by this API: what it had is given back, and it says so no more.
    let profile = async || w.get("admin", &path).await["port"]["binding:profile"].clone();
    assert!(profile().await["allocation"].is_object());
    assert_eq!(put(json!({"device_id": OTHER})).await, [SERVER]);
    assert_eq!(profile().await, json!({}));
    assert!(put(json!({"device_id": ""})).await.is_empty() && put(json!({"device_id": SERVER})).await.is_empty(), "it has nothing");
    w.core.store.write(promise).await.unwrap();
    assert_eq!(put(json!({"device_id": "", "device_owner": ""})).await, [SERVER]);
    assert_eq!(profile().await, json!({}));
}

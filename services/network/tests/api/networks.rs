use serde_json::{Value, json};

use crate::world::{World, text};

pub async fn a_network_from_birth_to_death(w: World) {
    let made = w.make("member:p1", "/networks", "network", json!({"name": "lan", "description": "d"})).await;
    let id = text(&made["id"]);
    assert_eq!((&made["status"], &made["mtu"], &made["shared"]), (&json!("ACTIVE"), &json!(1450), &json!(false)));
    assert_eq!((&made["project_id"], &made["tenant_id"], &made["revision_number"]), (&json!("p1"), &json!("p1"), &json!(0)));
    assert!(made.get("provider:network_type").is_none(), "hidden from members");
    assert!(made.as_object().unwrap().keys().all(|k| !k.starts_with('_')));
    let seen = w.get("admin", &format!("/networks/{id}")).await;
    assert_eq!((&seen["network"]["provider:network_type"], &seen["network"]["provider:segmentation_id"]), (&json!("vxlan"), &json!(1)));
    let (status, changed) = w.ask("member:p1", "PUT", &format!("/networks/{id}"), json!({"network": {"name": "wan", "mtu": 1300}})).await;
    assert_eq!((status, &changed["network"]["name"], &changed["network"]["revision_number"]), (200, &json!("wan"), &json!(1)));
    let subnet = w.subnet("member:p1", &id, "10.0.0.0/24").await;
    assert_eq!(w.get("member:p1", &format!("/networks/{id}")).await["network"]["subnets"], json!([subnet]));
    w.delete("member:p1", &format!("/networks/{id}")).await;
    assert_eq!(w.refused("member:p1", "GET", &format!("/networks/{id}"), Value::Null, 404).await, "NetworkNotFound");
    w.empty(&["network", "subnet", "port", "ip_allocation", "network_segment"]).await;
}

pub async fn what_a_network_may_not_be(w: World) {
    let table = [
        ("member:p1", json!({"network": {"name": "x".repeat(256)}}), 400, "HTTPBadRequest"),
        ("member:p1", json!({"network": {"colour": "red"}}), 400, "HTTPBadRequest"),
        ("member:p1", json!({"network": {"status": "ACTIVE"}}), 400, "HTTPBadRequest"),
        ("member:p1", json!({"network": []}), 400, "HTTPBadRequest"),
        ("member:p1", json!({"networks": []}), 400, "HTTPBadRequest"),
        ("member:p1", json!([]), 400, "HTTPBadRequest"),
        ("member:p1", json!({}), 400, "HTTPBadRequest"),
        ("member:p1", json!({"network": {"admin_state_up": "maybe"}}), 400, "HTTPBadRequest"),
        ("member:p1", json!({"network": {"mtu": 9000}}), 400, "InvalidInput"),
        ("member:p1", json!({"network": {"shared": true}}), 403, "PolicyNotAuthorized"),
        ("member:p1", json!({"network": {"router:external": true}}), 403, "PolicyNotAuthorized"),
        ("member:p1", json!({"network": {"provider:network_type": "vxlan"}}), 403, "PolicyNotAuthorized"),
        ("member:p1", json!({"network": {"project_id": "p2"}}), 400, "HTTPBadRequest"),
        ("member:p1", json!({"network": {"availability_zone_hints": ["moon"]}}), 404, "AvailabilityZoneNotFound"),
        ("admin", json!({"network": {"provider:network_type": "geneve"}}), 400, "InvalidInput"),
        ("admin", json!({"network": {"provider:network_type": "flat"}}), 400, "InvalidInput"),
        ("admin", json!({"network": {"provider:network_type": "flat", "provider:physical_network": "mars"}}), 400, "InvalidInput"),
        ("admin", json!({"network": {"is_default": true}}), 400, "InvalidInput"),
        ("reader:p1", json!({"network": {}}), 403, "PolicyNotAuthorized"),
    ];
    for (token, body, status, name) in table {
        assert_eq!(w.refused(token, "POST", "/networks", body.clone(), status).await, name, "{body}");
    }
    w.empty(&["network", "network_segment"]).await;
}

pub async fn bulk_is_all_or_nothing_and_segments_are_unique(w: World) {
    let (status, made) = w.ask("admin", "POST", "/networks", json!({"networks": [{"name": "a"}, {"name": "b"}]})).await;
    assert_eq!((status, made["networks"].as_array().unwrap().len()), (201, 2));
    let bad = json!({"networks": [{"name": "c"}, {"name": "d", "mtu": 9001}]});
    assert_eq!(w.refused("admin", "POST", "/networks", bad, 400).await, "InvalidInput");
    assert_eq!(w.get("admin", "/networks").await["networks"].as_array().unwrap().len(), 2);
    let vni = json!({"network": {"provider:network_type": "vxlan", "provider:segmentation_id": 2}});
    assert_eq!(w.refused("admin", "POST", "/networks", vni, 409).await, "TunnelIdInUse");
    w.public().await;
    let flat = json!({"network": {"provider:network_type": "flat", "provider:physical_network": "public"}});
    assert_eq!(w.refused("admin", "POST", "/networks", flat, 409).await, "FlatNetworkInUse");
}

/// A VLAN network's body: `null` is left out.
fn vlan(physical: Value, id: Value) -> Value {
    let mut body =
        json!({"name": "v", "provider:network_type": "vlan", "provider:physical_network": physical, "provider:segmentation_id": id});
    body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    json!({"network": body})
}

pub async fn vlans_are_chosen_or_given_out(w: World) {
    let nothing = Value::Null;
    for (physical, id, status, name, says) in [
        (json!("mars"), json!(5), 400, "InvalidInput", "physical_network 'mars' unknown for VLAN provider network"),
        (json!("mars"), nothing.clone(), 400, "InvalidInput", "physical_network 'mars' unknown for VLAN provider network"),
        (json!("public"), json!(0), 400, "InvalidInput", "segmentation_id out of range (1 through 4094)"),
        (json!("public"), json!(4095), 400, "InvalidInput", "segmentation_id out of range (1 through 4094)"),
        (json!("public"), json!(-1), 400, "HTTPBadRequest", "segmentation_id"),
        (json!("public"), json!("x"), 400, "HTTPBadRequest", "segmentation_id"),
        (nothing.clone(), json!(5), 400, "InvalidInput", "segmentation_id requires physical_network for VLAN provider network"),
        (json!("public"), nothing.clone(), 400, "InvalidInput", "Physical network public requires segmentation_id to be specified"),
        (nothing.clone(), nothing.clone(), 503, "NoNetworkAvailable", "No tenant network is available"),
    ] {
        let body = vlan(physical, id);
        let (got, answer) = w.ask("admin", "POST", "/networks", body.clone()).await;
        let fault = &answer["NeutronError"];
        assert_eq!((got, text(&fault["type"])), (status, name.into()), "{body}");
        assert!(text(&fault["message"]).contains(says), "{body}: {fault}");
    }
    for (body, says) in [
        (json!({"provider:physical_network": "public"}), "network_type required"),
        (json!({"provider:segmentation_id": 7}), "network_type required"),
        (json!({"provider:network_type": "gre"}), "network_type value 'gre' not supported"),
    ] {
        let (status, answer) = w.ask("admin", "POST", "/networks", json!({"network": body})).await;
        assert!(status == 400 && text(&answer["NeutronError"]["message"]).contains(says), "{answer}");
    }
    w.empty(&["network", "network_segment"]).await;
    assert_eq!(w.refused("member:p1", "POST", "/networks", vlan(json!("public"), json!(100)), 403).await, "PolicyNotAuthorized");

    let made = w.make("admin", "/networks", "network", vlan(json!("public"), json!(100))["network"].clone()).await;
    let path = format!("/networks/{}", text(&made["id"]));
    let shown = |of: &Value| ["network_type", "physical_network", "segmentation_id"].map(|name| of[format!("provider:{name}")].clone());
    assert_eq!(shown(&made), [json!("vlan"), json!("public"), json!(100)]);
    assert_eq!(made["mtu"], json!(1500), "a tag takes nothing from the MTU");
    assert_eq!(shown(&w.get("admin", &path).await["network"]), shown(&made));
    for (filter, n) in [
        ("provider:network_type=vlan", 1),
        ("provider:segmentation_id=100", 1),
        ("provider:physical_network=public&provider:segmentation_id=101", 0),
    ] {
        assert_eq!(w.get("admin", &format!("/networks?{filter}")).await["networks"].as_array().unwrap().len(), n, "{filter}");
    }
    // The same number is another thing for tunnels, and the flat network is beside its VLANs.
    let (status, answer) = w.ask("admin", "POST", "/networks", vlan(json!("public"), json!(100))).await;
    assert_eq!((status, text(&answer["NeutronError"]["type"])), (409, "VlanIdInUse".into()));
    assert!(text(&answer["NeutronError"]["message"]).contains("VLAN 100 on physical network public is in use"), "{answer}");
    w.make("admin", "/networks", "network", json!({"provider:network_type": "vxlan", "provider:segmentation_id": 100})).await;
    w.public().await;
    for (name, value) in [("network_type", json!("vxlan")), ("physical_network", json!("mars")), ("segmentation_id", json!(101))] {
        let body = json!({"network": {format!("provider:{name}"): value}});
        assert_eq!(w.refused("admin", "PUT", &path, body, 400).await, "InvalidInput", "{name}");
    }
    assert_eq!(w.ask("admin", "PUT", &path, json!({"network": {"provider:segmentation_id": 100, "shared": true}})).await.0, 200);

    // Given out: the first of a range that nobody has, while there is one.
    let w = w.again(&[("network.vlan_ranges", "public:99:101")]).await;
    let mut given = Vec::new();
    for physical in [nothing.clone(), json!("public")] {
        given.push(shown(&w.make("admin", "/networks", "network", vlan(physical, nothing.clone())["network"].clone()).await));
    }
    assert_eq!(given, [99, 101].map(|id| [json!("vlan"), json!("public"), json!(id)]));
    assert_eq!(w.refused("admin", "POST", "/networks", vlan(json!("public"), nothing.clone()), 503).await, "NoNetworkAvailable");
    // Chosen ones may be outside of it; and who asks for nothing gets a tunnel as ever.
    w.make("admin", "/networks", "network", vlan(json!("public"), json!(4094))["network"].clone()).await;
    let own = w.network("member:p1").await;
    assert_eq!(w.get("admin", &format!("/networks/{own}")).await["network"]["provider:network_type"], json!("vxlan"));
    w.delete("admin", &path).await;
    let again = w.make("admin", "/networks", "network", vlan(nothing.clone(), nothing)["network"].clone()).await;
    assert_eq!(again["provider:segmentation_id"], json!(100), "it was given back");
}

pub async fn in_use_networks_stay_and_sharing_is_guarded(w: World) {
    let id = text(&w.make("admin", "/networks", "network", json!({"shared": true, "project_id": "p1"})).await["id"]);
    w.subnet("member:p1", &id, "10.0.0.0/24").await;
    let port = text(&w.port("member:p2", &id).await["id"]);
    assert_eq!(w.refused("member:p1", "DELETE", &format!("/networks/{id}"), Value::Null, 409).await, "NetworkInUse");
    let unshare = json!({"network": {"shared": false}});
    assert_eq!(w.refused("admin", "PUT", &format!("/networks/{id}"), unshare.clone(), 409).await, "InvalidSharedSetting");
    w.delete("member:p2", &format!("/ports/{port}")).await;
    assert_eq!(w.ask("admin", "PUT", &format!("/networks/{id}"), unshare).await.0, 200);
    assert_eq!(w.refused("member:p2", "GET", &format!("/networks/{id}"), Value::Null, 404).await, "NetworkNotFound");
}

pub async fn an_mtu_carries_its_subnets(w: World) {
    let small = text(&w.make("member:p1", "/networks", "network", json!({"mtu": 67})).await["id"]);
    let v4 = |net: &str| json!({"subnet": {"network_id": net, "cidr": "10.0.0.0/24", "ip_version": 4}});
    assert_eq!(w.refused("member:p1", "POST", "/subnets", v4(&small), 409).await, "NetworkMTUSubnetConflict");
    let net = text(&w.make("member:p1", "/networks", "network", json!({"mtu": 1280})).await["id"]);
    w.subnet("member:p1", &net, "fd00::/64").await;
    let lower = json!({"network": {"mtu": 1279}});
    assert_eq!(w.refused("member:p1", "PUT", &format!("/networks/{net}"), lower, 409).await, "NetworkMTUSubnetConflict");
}

pub async fn changes_on_condition(w: World) {
    let id = w.network("member:p1").await;
    let path = format!("/networks/{id}");
    let body = json!({"network": {"name": "b"}});
    let (status, answer) = w.ask_with("member:p1", "PUT", &path, body.clone(), &[("if-match", "revision_number=7")]).await;
    assert_eq!((status, &answer["NeutronError"]["type"]), (412, &json!("RevisionNumberConstraintFailed")));
    assert_eq!(w.ask_with("member:p1", "PUT", &path, body.clone(), &[("if-match", "revision_number=0")]).await.0, 200);
    assert_eq!(w.ask_with("member:p1", "PUT", &path, body, &[("if-match", "nonsense")]).await.0, 400);
    assert_eq!(w.ask_with("member:p1", "DELETE", &path, Value::Null, &[("if-match", "revision_number=0")]).await.0, 412);
}

pub async fn tags(w: World) {
    let id = w.network("member:p1").await;
    let path = format!("/networks/{id}/tags");
    assert_eq!(w.ask("member:p1", "PUT", &path, json!({"tags": ["red", "blue"]})).await, (200, json!({"tags": ["red", "blue"]})));
    assert_eq!(w.ask("member:p1", "PUT", &format!("{path}/green"), Value::Null).await.0, 201);
    assert_eq!(w.ask("member:p1", "GET", &format!("{path}/green"), Value::Null).await.0, 204);
    assert_eq!(w.refused("member:p1", "GET", &format!("{path}/black"), Value::Null, 404).await, "TagNotFound");
    assert_eq!(w.refused("member:p1", "DELETE", &format!("{path}/black"), Value::Null, 404).await, "TagNotFound");
    assert_eq!(w.ask("member:p1", "PUT", &path, json!({"tags": ["a,b"]})).await.0, 400);
    assert_eq!(w.ask("member:p1", "PUT", &path, json!({"tags": "a"})).await.0, 400);
    w.delete("member:p1", &format!("{path}/red")).await;
    let named = |query: &str| format!("/networks?{query}");
    for (query, n) in
        [("tags=blue,green", 1), ("tags=blue,red", 0), ("tags-any=red,blue", 1), ("not-tags=blue", 0), ("not-tags-any=red", 1)]
    {
        assert_eq!(w.get("member:p1", &named(query)).await["networks"].as_array().unwrap().len(), n, "{query}");
    }
    w.delete("member:p1", &path).await;
    assert_eq!(w.get("member:p1", &path).await, json!({"tags": []}));
    assert_eq!(w.ask("reader:p1", "PUT", &path, json!({"tags": ["x"]})).await.0, 403);
}

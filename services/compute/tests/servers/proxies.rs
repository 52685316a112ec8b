//! What compute passed on to other services before 2.36.

use serde_json::{Value, json};

use crate::world::World;

const NONE: &str = "11111111-2222-4333-8444-555555555555";

async fn group(w: &World, name: &str) -> String {
    let body = json!({"security_group": {"name": name, "description": "d"}});
    let made = w.post("/os-security-groups", body, "2.1").await.expect(200)["security_group"].clone();
    made["id"].as_str().unwrap().to_string()
}

async fn rule(w: &World, body: Value) -> testing::Answer {
    w.post("/os-security-group-rules", json!({ "security_group_rule": body }), "2.35").await
}

#[tokio::test(flavor = "multi_thread")]
async fn security_groups_are_the_networks() {
    let w = World::new().await;
    let named = |name: &str| json!({"security_group": {"name": name, "description": "d", "x": 1}, "y": 2});
    let made = w.post("/os-security-groups", named(" web "), "2.1").await.expect(200)["security_group"].clone();
    let id = made["id"].as_str().unwrap().to_string();
    let whole = json!({"id": id, "name": " web ", "description": "d", "tenant_id": w.tenant.project_id, "rules": []});
    assert_eq!(made, whole);
    let at = format!("/os-security-groups/{id}");
    assert_eq!(w.get(&at, "2.35").await.expect(200)["security_group"], whole);
    let listed = w.get("/os-security-groups", "2.1").await.expect(200)["security_groups"].clone();
    let names = |list: &Value| list.as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(names(&listed), [" web ", "default"], "sorted by name");
    let open: Vec<&Value> = listed[1]["rules"].as_array().unwrap().iter().map(|r| &r["group"]).collect();
    let own = json!({"name": "default", "tenant_id": w.tenant.project_id});
    assert_eq!(open, [&own, &own], "of the default group only what lets in");
    for (query, count) in [("?limit=1", 1), ("?limit=0", 2), ("?offset=1", 1), ("?limit=5&offset=2", 0), ("?odd=1", 2)] {
        let page = w.get(&format!("/os-security-groups{query}"), "2.1").await.expect(200);
        assert_eq!(page["security_groups"].as_array().unwrap().len(), count, "{query}");
    }
    let changed = w.put(&at, named("www"), "2.1").await.expect(200)["security_group"].clone();
    assert_eq!(changed["name"], "www");
    let theirs = w.cloud.get(&w.tenant, &format!("/network/v2.0/security-groups/{id}")).await.expect(200);
    assert_eq!(theirs["security_group"]["name"], "www");

    // Administrators may see everybody's; others only think they do.
    let admins = |query: &'static str| w.call(&w.admin, "GET", query, None, "2.1");
    let (own, all) = (admins("/os-security-groups").await.expect(200), admins("/os-security-groups?all_tenants=1").await.expect(200));
    assert_eq!(names(&own["security_groups"]), ["default"]);
    assert!(names(&all["security_groups"]).contains(&"www".to_string()));
    let stranger = w.cloud.tenant("stranger", "member").await;
    let seen = w.call(&stranger, "GET", "/os-security-groups?all_tenants=1", None, "2.1").await.expect(200);
    assert_eq!(names(&seen["security_groups"]), ["default"]);
    for (method, body) in [("GET", None), ("PUT", Some(named("theirs"))), ("DELETE", None)] {
        assert_eq!(w.call(&stranger, method, &at, body, "2.1").await.status, 404, "{method}");
    }
    let reader = w.cloud.tenant("reader", "reader").await;
    assert_eq!(w.call(&reader, "GET", "/os-security-groups", None, "2.1").await.status, 200);
    assert_eq!(w.call(&reader, "POST", "/os-security-groups", Some(named("a")), "2.1").await.status, 403);

    assert_eq!(w.delete(&at, "2.1").await.status, 202);
    assert_eq!(w.get(&at, "2.1").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn security_groups_refuse_as_upstream() {
    let w = World::new().await;
    let id = group(&w, "web").await;
    let listed = w.get("/os-security-groups", "2.1").await.expect(200)["security_groups"].clone();
    let default = listed[0]["id"].as_str().unwrap();
    let at = |id: &str| format!("/os-security-groups/{id}");
    let named = |name: Value| Some(json!({"security_group": {"name": name, "description": "d"}}));
    for (method, path, body, version, status) in [
        ("GET", "/os-security-groups".to_string(), None, "2.36", 404),
        ("POST", "/os-security-groups".to_string(), named(json!("a")), "2.36", 404),
        ("GET", at(&id), None, "2.36", 404),
        ("PUT", at(&id), named(json!("a")), "2.36", 404),
        ("DELETE", at(&id), None, "2.36", 404),
        ("GET", at(NONE), None, "2.1", 404),
        ("GET", at("web"), None, "2.1", 400),
        ("PUT", at(NONE), named(json!("a")), "2.1", 404),
        ("PUT", at("web"), named(json!("a")), "2.1", 400),
        ("PUT", at(default), named(json!("other")), "2.1", 400),
        ("PUT", at(&id), Some(json!({"security_group": {"name": "a"}})), "2.1", 400),
        ("DELETE", at(NONE), None, "2.1", 404),
        ("DELETE", at("web"), None, "2.1", 400),
        ("DELETE", at(default), None, "2.1", 400),
        ("DELETE", at(""), None, "2.1", 404),
        ("POST", "/os-security-groups".to_string(), named(json!("x".repeat(256))), "2.1", 400),
        ("POST", "/os-security-groups".to_string(), named(Value::Null), "2.1", 400),
        ("POST", "/os-security-groups".to_string(), named(json!("default")), "2.1", 403),
        ("POST", "/os-security-groups".to_string(), Some(json!({"security_group": {"name": "a"}})), "2.1", 400),
        ("POST", "/os-security-groups".to_string(), Some(json!({})), "2.1", 400),
        ("GET", "/os-security-groups?limit=-1".to_string(), None, "2.1", 400),
        ("GET", "/os-security-groups?offset=1&offset=x".to_string(), None, "2.1", 400),
    ] {
        let answer = w.call(&w.tenant, method, &path, body, version).await;
        assert_eq!(answer.status, status, "{method} {path} {version}: {}", answer.text());
    }
    // The quota is the network's.
    let quota = json!({"quota": {"security_group": 2}});
    let path = format!("/network/v2.0/quotas/{}", w.tenant.project_id);
    w.cloud.request("PUT", &path).token(&w.admin).json(&quota).send().await.expect(200);
    let full = w.call(&w.tenant, "POST", "/os-security-groups", named(json!("more")), "2.1").await;
    assert_eq!(full.status, 403, "{}", full.text());

    // A group of a server stays while the server is there.
    let server = w.active(json!({"security_groups": [{"name": "web"}]})).await;
    assert_eq!(w.delete(&at(&id), "2.1").await.status, 400);
    let of_server = w.get(&format!("/servers/{server}/os-security-groups"), "2.1").await.expect(200);
    let mine = json!({"id": id, "name": "web", "description": "d", "tenant_id": w.tenant.project_id, "rules": []});
    assert_eq!(of_server["security_groups"], json!([mine]));
    w.delete(&format!("/servers/{server}"), "2.1").await;
    w.gone(&server).await;
    assert_eq!(w.delete(&at(&id), "2.1").await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn security_group_rules_let_in() {
    let w = World::new().await;
    let (web, peer) = (group(&w, "web").await, group(&w, "peer").await);
    let of_peer = json!({"name": "peer", "tenant_id": w.tenant.project_id});
    let ssh = json!({"parent_group_id": web, "ip_protocol": "tcp", "from_port": 22, "to_port": "22"});
    let made = rule(&w, ssh.clone()).await.expect(200)["security_group_rule"].clone();
    let id = made["id"].as_str().unwrap().to_string();
    let whole = json!({"id": id, "parent_group_id": web, "ip_protocol": "tcp", "from_port": 22, "to_port": 22, "group": {},
        "ip_range": {"cidr": "0.0.0.0/0"}});
    assert_eq!(made, whole);
    // Body besides the parent; protocol, ports, range and group of the answer.
    let from = |cidr: &str| json!({ "cidr": cidr });
    for (body, protocol, first, last, range, source) in [
        (
            json!({"ip_protocol": "TCP", "from_port": 1, "to_port": 9, "cidr": "10.2.3.124/24"}),
            "tcp",
            1,
            9,
            from("10.2.3.124/24"),
            json!({}),
        ),
        (json!({"ip_protocol": "udp", "from_port": 5, "to_port": 5, "cidr": "10.0.0.0%2F8"}), "udp", 5, 5, from("10.0.0.0/8"), json!({})),
        (json!({"ip_protocol": "udp", "from_port": 5, "to_port": 5, "cidr": "fd00::/8"}), "udp", 5, 5, from("fd00::/8"), json!({})),
        (json!({"ip_protocol": "icmp", "from_port": -1, "to_port": -1}), "icmp", -1, -1, from("0.0.0.0/0"), json!({})),
        (json!({"ip_protocol": "icmp", "from_port": 8, "to_port": 0}), "icmp", 8, 0, from("0.0.0.0/0"), json!({})),
        (json!({"ip_protocol": "tcp", "from_port": 80, "to_port": 80, "group_id": peer}), "tcp", 80, 80, json!({}), of_peer.clone()),
        (json!({"ip_protocol": "udp", "group_id": peer}), "udp", 1, 65535, json!({}), of_peer.clone()),
        (json!({"ip_protocol": "icmp", "group_id": peer}), "icmp", -1, -1, json!({}), of_peer.clone()),
    ] {
        let mut body = body;
        body["parent_group_id"] = json!(web);
        let made = rule(&w, body.clone()).await.expect(200)["security_group_rule"].clone();
        let found = json!([made["ip_protocol"], made["from_port"], made["to_port"], made["ip_range"], made["group"]]);
        assert_eq!(found, json!([protocol, first, last, range, source]), "{body}");
    }
    let open = rule(&w, json!({"parent_group_id": web, "group_id": peer, "from_port": 7})).await.expect(200)["security_group_rule"].clone();
    assert_eq!((&open["ip_protocol"], &open["from_port"], &open["group"]), (&Value::Null, &Value::Null, &of_peer));
    let shown = w.get(&format!("/os-security-groups/{web}"), "2.1").await.expect(200)["security_group"]["rules"].clone();
    assert_eq!(shown.as_array().unwrap().len(), 10);
    assert!(shown.as_array().unwrap().contains(&whole));
    assert_eq!(rule(&w, ssh).await.status, 400, "the same again");

    assert_eq!(w.delete(&format!("/os-security-group-rules/{id}"), "2.1").await.status, 202);
    assert_eq!(w.delete(&format!("/os-security-group-rules/{id}"), "2.1").await.status, 404);
    // With the peer go the rules for it.
    assert_eq!(w.delete(&format!("/os-security-groups/{peer}"), "2.1").await.status, 202);
    let shown = w.get(&format!("/os-security-groups/{web}"), "2.1").await.expect(200)["security_group"]["rules"].clone();
    assert_eq!(shown.as_array().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn security_group_rules_refuse_as_upstream() {
    let w = World::new().await;
    let (web, peer) = (group(&w, "web").await, group(&w, "peer").await);
    let tcp = |from: Value, to: Value| json!({"parent_group_id": web, "ip_protocol": "tcp", "from_port": from, "to_port": to});
    let with = |extra: Value| {
        let mut body = tcp(json!(22), json!(22));
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    for (body, status) in [
        (json!({}), 400),
        (with(json!({"parent_group_id": NONE})), 404),
        (with(json!({"parent_group_id": "web"})), 400),
        (with(json!({"group_id": NONE})), 404),
        (with(json!({"group_id": "peer"})), 400),
        (with(json!({"ip_protocol": "999"})), 400),
        (with(json!({"ip_protocol": 6})), 400),
        (with(json!({"ip_protocol": null})), 400),
        (with(json!({"cidr": "10.0.0.1"})), 400),
        (with(json!({"cidr": "10.0.0.0/33"})), 400),
        (with(json!({"cidr": "10.0.0.0/0"})), 400),
        (with(json!({"cidr": 7})), 400),
        (tcp(json!(0), json!(22)), 400),
        (tcp(json!(22), json!(65536)), 400),
        (tcp(json!(22), json!(21)), 400),
        (tcp(json!("ssh"), json!(22)), 400),
        (tcp(Value::Null, json!(22)), 400),
        (with(json!({"ip_protocol": "icmp", "from_port": 256, "to_port": 0})), 400),
        (with(json!({"ip_protocol": "icmp", "from_port": -2, "to_port": 0})), 400),
    ] {
        let answer = rule(&w, body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
    }
    // A rule for a group is compared by the network, whose conflict counts as a quota that is used up.
    let for_peer = with(json!({"group_id": peer}));
    rule(&w, for_peer.clone()).await.expect(200);
    assert_eq!(rule(&w, for_peer).await.status, 403);
    let path = "/os-security-group-rules";
    let body = || Some(json!({"security_group_rule": tcp(json!(1), json!(2))}));
    assert_eq!(w.call(&w.tenant, "POST", path, body(), "2.36").await.status, 404);
    assert_eq!(w.delete(&format!("{path}/{NONE}"), "2.36").await.status, 404);
    assert_eq!(w.delete(&format!("{path}/{NONE}"), "2.1").await.status, 404);
    assert_eq!(w.delete(&format!("{path}/7"), "2.1").await.status, 400);
    let stranger = w.cloud.tenant("stranger", "member").await;
    assert_eq!(w.call(&stranger, "POST", path, body(), "2.1").await.status, 404);
    let reader = w.cloud.tenant("reader", "reader").await;
    assert_eq!(w.call(&reader, "POST", path, body(), "2.1").await.status, 403);
    assert_eq!(w.call(&reader, "DELETE", &format!("{path}/{NONE}"), None, "2.1").await.status, 403);
}

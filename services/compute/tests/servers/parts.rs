//! What a server shows in each version, and what lies below it.

use serde_json::{Value, json};

use crate::world::World;

/// (version, keys that appear there first), for the owner.
const APPEAR: &[(u16, &[&str])] = &[
    (9, &["locked"]),
    (19, &["description"]),
    (26, &["tags"]),
    (63, &["trusted_image_certificates"]),
    (71, &["server_groups"]),
    (73, &["locked_reason"]),
    (90, &["OS-EXT-SRV-ATTR:hostname"]),
    (96, &["pinned_availability_zone"]),
    (100, &["scheduler_hints"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_version_shows_what_it_should() {
    let w = World::new().await;
    let id = w.active(json!({"tags": ["t"], "description": "d"})).await;
    let path = format!("/servers/{id}");
    for minor in 1..=104u16 {
        let shown = w.get(&path, &format!("2.{minor}")).await.expect(200)["server"].clone();
        for (first, keys) in APPEAR {
            for key in *keys {
                assert_eq!(shown.get(key).is_some(), minor >= *first, "{key} in 2.{minor}");
            }
        }
        assert_eq!(shown["flavor"].get("id").is_some(), minor < 47, "2.{minor}");
        assert_eq!(shown["flavor"].get("original_name").is_some(), minor >= 47, "2.{minor}");
        assert_eq!(shown["image"].get("properties").is_some(), minor >= 98, "2.{minor}");
        let whole = w.call(&w.admin, "GET", &path, None, &format!("2.{minor}")).await.expect(200)["server"].clone();
        assert_eq!(whole["OS-EXT-SRV-ATTR:host"], "host-0");
        assert_eq!(whole.get("OS-EXT-SRV-ATTR:user_data").is_some(), minor >= 3, "2.{minor}");
        assert_eq!(whole.get("host_status").is_some(), minor >= 16, "2.{minor}");
        let renamed = w.put(&path, json!({"server": {"name": format!("vm-{minor}")}}), &format!("2.{minor}")).await.expect(200);
        assert_eq!(renamed["server"]["name"], format!("vm-{minor}"));
        assert_eq!(renamed["server"].get("OS-EXT-STS:vm_state").is_some(), minor >= 75, "2.{minor}");
    }
    assert_eq!(w.get(&path, "2.105").await.status, 406);
    assert_eq!(w.get(&format!("{path}?x=1"), "2.101").await.status, 200);
    assert_eq!(w.get(&format!("{path}?x=1"), "2.102").await.status, 400);
    let own = format!("/{}/servers/{id}", w.tenant.project_id);
    let linked = w.get(&own, "2.1").await.expect(200)["server"]["links"][0]["href"].clone();
    assert_eq!(linked, format!("http://cloud.test/compute/v2.1{own}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_take_what_the_version_has() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let path = format!("/servers/{id}");
    let table: &[(Value, u16, u16)] = &[
        (json!({"name": "n"}), 1, 200),
        (json!({"accessIPv4": "1.2.3.4", "accessIPv6": "::1"}), 1, 200),
        (json!({"accessIPv4": "x"}), 1, 400),
        (json!({"OS-DCF:diskConfig": "AUTO"}), 1, 200),
        (json!({"OS-DCF:diskConfig": "auto"}), 1, 400),
        (json!({"description": "d"}), 18, 400),
        (json!({"description": "d"}), 19, 200),
        (json!({"description": null}), 19, 200),
        (json!({"hostname": "host"}), 89, 400),
        (json!({"hostname": "host"}), 90, 200),
        (json!({"hostname": "host.example.org"}), 93, 400),
        (json!({"hostname": "host.example.org"}), 94, 200),
        (json!({"pinned_availability_zone": "nova"}), 103, 400),
        (json!({"pinned_availability_zone": "nova"}), 104, 200),
        (json!({"pinned_availability_zone": "mars"}), 104, 409),
        (json!({"pinned_availability_zone": null}), 104, 200),
        (json!({"name": " "}), 1, 400),
        (json!({"flavorRef": "1"}), 1, 400),
        (json!({}), 1, 200),
    ];
    for (change, minor, status) in table {
        let answer = w.put(&path, json!({"server": change}), &format!("2.{minor}")).await;
        assert_eq!(answer.status, *status, "{change} in 2.{minor}: {}", answer.text());
    }
    let shown = w.get(&path, "2.104").await.expect(200)["server"].clone();
    assert_eq!((&shown["accessIPv4"], &shown["OS-DCF:diskConfig"]), (&json!("1.2.3.4"), &json!("AUTO")));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_a_small_dictionary() {
    let w = World::new().await;
    let id = w.active(json!({"metadata": {"a": "1"}})).await;
    let at = format!("/servers/{id}/metadata");
    assert_eq!(w.get(&at, "2.1").await.expect(200), json!({"metadata": {"a": "1"}}));
    assert_eq!(w.post(&at, json!({"metadata": {"b": "2"}}), "2.1").await.expect(200), json!({"metadata": {"a": "1", "b": "2"}}));
    assert_eq!(w.put(&format!("{at}/a"), json!({"meta": {"a": "3"}}), "2.1").await.expect(200), json!({"meta": {"a": "3"}}));
    assert_eq!(w.get(&format!("{at}/a"), "2.1").await.expect(200), json!({"meta": {"a": "3"}}));
    assert_eq!(w.put(&at, json!({"metadata": {"c": "4"}}), "2.1").await.expect(200), json!({"metadata": {"c": "4"}}));
    assert_eq!(w.delete(&format!("{at}/c"), "2.1").await.status, 204);
    assert_eq!(w.get(&at, "2.1").await.expect(200), json!({"metadata": {}}));
    let many: serde_json::Map<String, Value> = (0..129).map(|i| (format!("k{i}"), json!("v"))).collect();
    for (method, path, body, status) in [
        ("GET", format!("{at}/c"), None, 404),
        ("DELETE", format!("{at}/c"), None, 404),
        ("PUT", format!("{at}/x"), Some(json!({"meta": {"y": "1"}})), 400),
        ("PUT", format!("{at}/x"), Some(json!({"meta": {"x": "1", "y": "1"}})), 400),
        ("PUT", format!("{at}/x"), Some(json!({"meta": {}})), 400),
        ("POST", at.clone(), Some(json!({"metadata": {"x": null}})), 400),
        ("POST", at.clone(), Some(json!({"metadata": {"": "x"}})), 400),
        ("POST", at.clone(), Some(json!({"metadata": {}, "meta": {}})), 400),
        ("PUT", at.clone(), Some(json!({"meta": {}})), 400),
        ("POST", at.clone(), Some(json!({"metadata": many})), 403),
    ] {
        let answer = w.call(&w.tenant, method, &path, body, "2.1").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_a_set() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let at = format!("/servers/{id}/tags");
    assert_eq!(w.get(&at, "2.25").await.status, 404);
    let made = w.put(&format!("{at}/blue"), Value::Null, "2.26").await;
    assert_eq!((made.status, made.header("location")), (201, format!("http://cloud.test/compute/v2.1{at}/blue").as_str()));
    assert_eq!(w.put(&format!("{at}/blue"), Value::Null, "2.26").await.status, 204);
    assert_eq!(w.get(&format!("{at}/blue"), "2.26").await.status, 204);
    assert_eq!(w.get(&format!("{at}/red"), "2.26").await.status, 404);
    assert_eq!(w.put(&at, json!({"tags": ["b", "a", "b"]}), "2.26").await.expect(200), json!({"tags": ["a", "b"]}));
    assert_eq!(w.get(&at, "2.26").await.expect(200), json!({"tags": ["a", "b"]}));
    assert_eq!(w.delete(&format!("{at}/a"), "2.26").await.status, 204);
    assert_eq!(w.delete(&format!("{at}/a"), "2.26").await.status, 404);
    assert_eq!(w.delete(&at, "2.26").await.status, 204);
    assert_eq!(w.get(&at, "2.26").await.expect(200), json!({"tags": []}));
    let full: Vec<String> = (0..50).map(|i| format!("t{i}")).collect();
    assert_eq!(w.put(&at, json!({"tags": full}), "2.26").await.status, 200);
    assert_eq!(w.put(&format!("{at}/more"), Value::Null, "2.26").await.status, 400);
    assert_eq!(w.put(&at, json!({"tags": (0..51).map(|i| i.to_string()).collect::<Vec<_>>()}), "2.26").await.status, 400);
    assert_eq!(w.put(&at, json!({"tags": ["a,b"]}), "2.26").await.status, 400);
    assert_eq!(w.put(&format!("{at}/{}", "x".repeat(61)), Value::Null, "2.26").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_interfaces_and_groups() {
    let w = World::new().await;
    let group = json!({"security_group": {"name": "web"}});
    w.cloud.post(&w.tenant, "/network/v2.0/security-groups", group).await.expect(201);
    let id = w.active(json!({})).await;
    let ips = w.get(&format!("/servers/{id}/ips"), "2.1").await.expect(200);
    assert_eq!(ips["addresses"]["private"][0]["version"], 4);
    assert!(ips["addresses"]["private"][0].get("OS-EXT-IPS:type").is_none());
    assert_eq!(w.get(&format!("/servers/{id}/ips/private"), "2.1").await.expect(200)["private"], ips["addresses"]["private"]);
    assert_eq!(w.get(&format!("/servers/{id}/ips/other"), "2.1").await.status, 404);
    let interfaces = w.get(&format!("/servers/{id}/os-interface"), "2.70").await.expect(200);
    let interface = &interfaces["interfaceAttachments"][0];
    assert_eq!((&interface["net_id"], &interface["tag"]), (&json!(w.network), &Value::Null));
    let port = interface["port_id"].as_str().unwrap();
    assert_eq!(w.get(&format!("/servers/{id}/os-interface/{port}"), "2.1").await.status, 200);
    assert_eq!(w.get(&format!("/servers/{id}/os-interface/{id}"), "2.1").await.status, 404);
    assert_eq!(w.act(&id, json!({"addSecurityGroup": {"name": "web"}})).await.status, 202);
    let groups = w.get(&format!("/servers/{id}/os-security-groups"), "2.1").await.expect(200);
    assert_eq!(groups["security_groups"].as_array().unwrap().len(), 2);
    assert_eq!(w.act(&id, json!({"removeSecurityGroup": {"name": "web"}})).await.status, 202);
    assert_eq!(w.act(&id, json!({"removeSecurityGroup": {"name": "web"}})).await.status, 404);
    assert_eq!(w.act(&id, json!({"addSecurityGroup": {"name": "none"}})).await.status, 404);
    assert_eq!(w.act(&id, json!({"addSecurityGroup": {}})).await.status, 400);
    let diagnostics = w.call(&w.admin, "GET", &format!("/servers/{id}/diagnostics"), None, "2.48").await.expect(200);
    assert_eq!(diagnostics["state"], "running");
    assert_eq!(w.get(&format!("/servers/{id}/diagnostics"), "2.48").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn action_lists_page_and_filter() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    for _ in 0..3 {
        w.post(&format!("/servers/{id}/metadata"), json!({"metadata": {"a": "b"}}), "2.1").await.expect(200);
    }
    let at = format!("/servers/{id}/os-instance-actions");
    let all = w.get(&at, "2.58").await.expect(200)["instanceActions"].clone();
    assert_eq!(all.as_array().unwrap().len(), 4);
    assert!(all[0]["updated_at"].is_string());
    let page = w.get(&format!("{at}?limit=2"), "2.58").await.expect(200);
    assert_eq!(page["instanceActions"][1], all[1]);
    let next = page["links"][0]["href"].as_str().unwrap().split("/compute/v2.1").nth(1).unwrap().to_string();
    assert_eq!(w.get(&next, "2.58").await.expect(200)["instanceActions"][0], all[2]);
    assert_eq!(w.get(&format!("{at}?marker=none"), "2.58").await.status, 400);
    assert_eq!(w.get(&format!("{at}?changes-before=2020-01-01T00:00:00Z"), "2.65").await.status, 400);
    assert_eq!(w.get(&format!("{at}?changes-before=2020-01-01T00:00:00Z"), "2.66").await.expect(200)["instanceActions"], json!([]));
    assert_eq!(w.get(&format!("{at}/req-none"), "2.1").await.status, 404);
}

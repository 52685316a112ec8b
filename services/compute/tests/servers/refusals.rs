//! Requests that are wrong get the reference's status and leave nothing behind.

use serde_json::{Value, json};

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn bad_creates_are_refused_and_leave_nothing() {
    let w = World::new().await;
    let nobody = "11111111-1111-1111-1111-111111111111";
    let big = json!({"flavor": {"id": "big", "name": "big", "ram": 99999, "vcpus": 1, "disk": 1}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", big).await.expect(200);
    let zero = json!({"flavor": {"id": "zero", "name": "zero", "ram": 64, "vcpus": 1, "disk": 0}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", zero).await.expect(200);
    let table: &[(Value, u16)] = &[
        (json!({"name": ""}), 400),
        (json!({"name": 7}), 400),
        (json!({"flavorRef": "none"}), 400),
        (json!({"imageRef": nobody}), 400),
        (json!({"imageRef": "x"}), 400),
        (json!({"imageRef": ""}), 400),
        (json!({"networks": [{"uuid": nobody}]}), 400),
        (json!({"networks": [{"port": nobody}]}), 400),
        (json!({"networks": [{"uuid": w.network, "fixed_ip": "192.168.7.7"}]}), 400),
        (json!({"networks": "some"}), 400),
        (json!({"networks": null}), 400),
        (json!({"key_name": "none"}), 400),
        (json!({"security_groups": [{"name": "none"}]}), 400),
        (json!({"availability_zone": "mars"}), 400),
        (json!({"availability_zone": "nova:host-0"}), 403),
        (json!({"host": "host-0"}), 403),
        (json!({"os": "x"}), 400),
        (json!({"metadata": {"k": "v".repeat(256)}}), 400),
        (json!({"user_data": "?"}), 400),
        (json!({"block_device_mapping_v2": [{"source_type": "volume", "destination_type": "volume", "uuid": nobody}]}), 400),
        (json!({"trusted_image_certificates": []}), 400),
        (json!({"trusted_image_certificates": ["a", "a"]}), 400),
        (json!({"trusted_image_certificates": [""]}), 400),
        (json!({"trusted_image_certificates": (0..51).map(|n| n.to_string()).collect::<Vec<_>>()}), 400),
        (json!({"trusted_image_certificates": "a"}), 400),
        (json!({"flavorRef": "big"}), 403),
        (json!({"flavorRef": "zero"}), 403),
        (json!({"min_count": 2, "max_count": 1}), 400),
        (json!({"min_count": 11}), 403),
        (json!({"max_count": 2, "hostname": "one"}), 400),
    ];
    for (extra, status) in table {
        let answer = w.post("/servers", w.body(extra.clone()), "2.104").await;
        assert_eq!(answer.status, *status, "{extra}: {}", answer.text());
    }
    for (body, status) in [("", 400), ("{", 400), ("[]", 400), ("null", 400), ("{\"server\": []}", 400), ("{}", 400)] {
        let request = w.cloud.request("POST", "/compute/v2.1/servers").token(&w.tenant);
        assert_eq!(request.text("application/json", body).send().await.status, status, "{body}");
    }
    let mut hinted = w.body(json!({}));
    hinted["os:scheduler_hints"] = json!({"group": nobody});
    assert_eq!(w.post("/servers", hinted, "2.104").await.status, 400);
    let listed = w.get("/servers?all=1", "2.74").await.expect(200);
    assert_eq!(listed["servers"], json!([]));
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_nothing() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let stranger = w.cloud.tenant("stranger", "member").await;
    let reader = w.cloud.tenant("reader", "reader").await;
    let body = Some(json!({"metadata": {"a": "b"}}));
    for (method, path, body) in [
        ("GET", format!("/servers/{id}"), None),
        ("PUT", format!("/servers/{id}"), Some(json!({"server": {"name": "x"}}))),
        ("DELETE", format!("/servers/{id}"), None),
        ("POST", format!("/servers/{id}/action"), Some(json!({"os-stop": null}))),
        ("GET", format!("/servers/{id}/metadata"), None),
        ("POST", format!("/servers/{id}/metadata"), body),
        ("GET", format!("/servers/{id}/tags"), None),
        ("GET", format!("/servers/{id}/ips"), None),
        ("GET", format!("/servers/{id}/os-interface"), None),
        ("GET", format!("/servers/{id}/os-security-groups"), None),
        ("GET", format!("/servers/{id}/os-instance-actions"), None),
        ("GET", format!("/servers/{id}/diagnostics"), None),
    ] {
        let answer = w.call(&stranger, method, &path, body, "2.104").await;
        assert_eq!(answer.status, 404, "{method} {path} {}", answer.text());
    }
    assert_eq!(w.call(&stranger, "GET", "/servers?all_tenants=1", None, "2.1").await.status, 403);
    assert_eq!(w.call(&stranger, "GET", "/servers", None, "2.1").await.expect(200)["servers"], json!([]));
    assert_eq!(w.call(&reader, "POST", "/servers", Some(w.body(json!({}))), "2.104").await.status, 403);
    assert_eq!(w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.status, 200);
    assert_eq!(w.cloud.request("GET", "/compute/v2.1/servers").send().await.status, 401);
    assert_eq!(w.get("/servers/not-a-uuid", "2.1").await.status, 404);
}

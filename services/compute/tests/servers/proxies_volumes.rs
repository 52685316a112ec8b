//! Volumes and snapshots, as compute passed them on before 2.36.

use serde_json::{Value, json};
use testing::Answer;

use crate::world::{PATIENCE, World};

const NONE: &str = "11111111-2222-4333-8444-555555555555";

impl World {
    async fn becomes(&self, path: &str, kind: &str, status: &str) -> Value {
        let fits = |a: &Answer| a.json()[kind]["status"] == status;
        self.cloud.until(&self.tenant, &format!("/compute/v2.1{path}"), PATIENCE, fits).await.json()[kind].clone()
    }
    async fn left(&self, path: &str) {
        self.cloud.until(&self.tenant, &format!("/compute/v2.1{path}"), PATIENCE, |a| a.status == 404).await;
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|v| v["displayName"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_snapshots_are_the_block_storages() {
    let w = World::new().await;
    let wish = json!({"size": "1", "display_name": "data", "display_description": "d", "metadata": {"a": "b"}, "volume_type": "local"});
    let made = w.post("/os-volumes", json!({"volume": wish}), "2.1").await;
    let location = made.header("location").to_string();
    let made = made.expect(200)["volume"].clone();
    let id = made["id"].as_str().unwrap().to_string();
    assert!(location.ends_with(&format!("/compute/v2.1/os-volumes/{id}")), "{location}");
    let at = format!("/os-volumes/{id}");
    let mut whole = w.becomes(&at, "volume", "available").await;
    for (key, value) in [
        ("size", json!(1)),
        ("displayName", json!("data")),
        ("displayDescription", json!("d")),
        ("metadata", json!({"a": "b"})),
        ("volumeType", json!("local")),
        ("availabilityZone", json!("nova")),
        ("snapshotId", Value::Null),
        ("attachments", json!([{}])),
    ] {
        assert_eq!(whole[key], value, "{key}");
    }
    let server = w.active(json!({})).await;
    let body = json!({"volumeAttachment": {"volumeId": id}});
    w.post(&format!("/servers/{server}/os-volume_attachments"), body, "2.1").await.expect(200);
    let used = w.becomes(&at, "volume", "in-use").await;
    assert_eq!(used["attachments"], json!([{"id": id, "volumeId": id, "serverId": server, "device": "/dev/vdb"}]));
    (whole["status"], whole["attachments"]) = (used["status"].clone(), used["attachments"].clone());
    assert_eq!(w.get("/os-volumes/detail", "2.35").await.expect(200), json!({"volumes": [whole]}));

    let snapshot = |extra: Value| {
        let mut body = json!({"volume_id": id, "display_name": "before"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({ "snapshot": body })
    };
    assert_eq!(w.post("/os-snapshots", snapshot(json!({})), "2.1").await.status, 400, "it is in use");
    let taken = w.post("/os-snapshots", snapshot(json!({"force": "True"})), "2.1").await.expect(200)["snapshot"].clone();
    let of = format!("/os-snapshots/{}", taken["id"].as_str().unwrap());
    let taken = w.becomes(&of, "snapshot", "available").await;
    assert_eq!((&taken["volumeId"], &taken["size"], &taken["displayName"]), (&json!(id), &json!(1), &json!("before")));
    for path in ["/os-snapshots", "/os-snapshots/detail"] {
        assert_eq!(w.get(path, "2.1").await.expect(200), json!({"snapshots": [taken]}));
    }
    let second = json!({"volume": {"size": 2, "snapshot_id": taken["id"], "display_name": "second"}});
    let second = w.post("/os-volumes", second, "2.1").await.expect(200)["volume"]["id"].as_str().unwrap().to_string();
    let second = format!("/os-volumes/{second}");
    assert_eq!(w.becomes(&second, "volume", "available").await["snapshotId"], taken["id"]);
    for (query, wanted) in [
        ("", vec!["second", "data"]),
        ("?limit=1", vec!["second"]),
        ("?offset=1", vec!["data"]),
        ("?offset=2&limit=1", vec![]),
        ("?x=1", vec!["second", "data"]),
    ] {
        let listed = w.get(&format!("/os-volumes{query}"), "2.1").await.expect(200);
        assert_eq!(names(&listed["volumes"]), wanted, "{query}");
    }

    let quota = json!({"quota_set": {"volumes": 2}});
    let path = format!("/volume/v3/os-quota-sets/{}", w.tenant.project_id);
    w.cloud.request("PUT", &path).token(&w.admin).json(&quota).send().await.expect(200);
    let stranger = w.cloud.tenant("stranger", "member").await;
    let reader = w.cloud.tenant("reader", "reader").await;
    let volume = |body: Value| Some(json!({ "volume": body }));
    for (token, method, path, body, version, status) in [
        (&w.tenant, "GET", "/os-volumes", None, "2.36", 404),
        (&w.tenant, "POST", "/os-volumes", volume(json!({"size": 1})), "2.36", 404),
        (&w.tenant, "GET", "/os-volumes/detail", None, "2.36", 404),
        (&w.tenant, "GET", at.as_str(), None, "2.36", 404),
        (&w.tenant, "DELETE", at.as_str(), None, "2.36", 404),
        (&w.tenant, "GET", "/os-snapshots", None, "2.36", 404),
        (&w.tenant, "POST", "/os-snapshots", Some(snapshot(json!({}))), "2.36", 404),
        (&w.tenant, "GET", "/os-snapshots/detail", None, "2.36", 404),
        (&w.tenant, "GET", of.as_str(), None, "2.36", 404),
        (&w.tenant, "DELETE", of.as_str(), None, "2.36", 404),
        (&w.tenant, "POST", "/os-volumes", volume(json!({"size": 1})), "2.1", 403),
        (&w.tenant, "POST", "/os-volumes", volume(json!({})), "2.1", 400),
        (&w.tenant, "POST", "/os-volumes", volume(json!({"size": 0})), "2.1", 400),
        (&w.tenant, "POST", "/os-volumes", volume(json!({"size": 1, "x": 1})), "2.1", 400),
        (&w.tenant, "POST", "/os-volumes", volume(json!({"size": 1, "metadata": {"a": 1}})), "2.1", 400),
        (&w.tenant, "POST", "/os-volumes", volume(json!({"size": 1, "snapshot_id": NONE})), "2.1", 404),
        (&w.tenant, "POST", "/os-volumes", volume(json!({"size": 1, "volume_type": "none"})), "2.1", 404),
        (&w.tenant, "GET", "/os-volumes?limit=x", None, "2.1", 400),
        (&w.tenant, "GET", &format!("/os-volumes/{NONE}"), None, "2.1", 404),
        (&w.tenant, "DELETE", &format!("/os-volumes/{NONE}"), None, "2.1", 404),
        (&w.tenant, "DELETE", at.as_str(), None, "2.1", 400),
        (&w.tenant, "POST", "/os-snapshots", Some(json!({"snapshot": {"volume_id": NONE}})), "2.1", 404),
        (&w.tenant, "POST", "/os-snapshots", Some(snapshot(json!({"force": "perhaps"}))), "2.1", 400),
        (&w.tenant, "GET", &format!("/os-snapshots/{NONE}"), None, "2.1", 404),
        (&w.tenant, "DELETE", &format!("/os-snapshots/{NONE}"), None, "2.1", 404),
        (&stranger, "GET", at.as_str(), None, "2.1", 404),
        (&stranger, "DELETE", of.as_str(), None, "2.1", 404),
        (&reader, "POST", "/os-volumes", volume(json!({"size": 1})), "2.1", 403),
        (&reader, "POST", "/os-snapshots", Some(snapshot(json!({}))), "2.1", 403),
        (&w.tenant, "DELETE", of.as_str(), None, "2.1", 202),
        (&w.tenant, "DELETE", second.as_str(), None, "2.1", 202),
    ] {
        let answer = w.call(token, method, path, body.clone(), version).await;
        assert_eq!(answer.status, status, "{method} {path} {body:?} {version}: {}", answer.text());
    }
    assert_eq!(w.call(&stranger, "GET", "/os-volumes", None, "2.1").await.expect(200)["volumes"], json!([]));
    w.left(&of).await;
    w.left(&second).await;
}

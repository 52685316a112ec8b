//! Groups of volumes: their types, what is in them, snapshots of all at once, copies.

use serde_json::{Value, json};

use crate::api::{PATIENCE, World};

impl World {
    async fn group_type(&self, name: &str, specs: Value) -> String {
        let body = json!({"group_type": {"name": name, "group_specs": specs}});
        let made = self.call(&self.admin, "POST", "/group_types", body, "3.71").await.expect(202);
        made["group_type"]["id"].as_str().unwrap().to_string()
    }
    async fn group(&self, kind: &str) -> String {
        let made = self.post("/groups", json!({"group": {"name": "g", "group_type": kind, "volume_types": ["local"]}})).await.expect(202);
        made["group"]["id"].as_str().unwrap().to_string()
    }
    async fn group_is(&self, kind: &str, id: &str, status: &str) -> Value {
        let path = format!("/volume/v3/{kind}s/{id}");
        let request = || self.cloud.request("GET", &path).token(&self.member).header("openstack-api-version", "volume 3.71");
        let started = std::time::Instant::now();
        loop {
            let answer = request().send().await;
            if status == "gone" && answer.status == 404 {
                return Value::Null;
            }
            if answer.status == 200 && answer.json()[kind]["status"] == status {
                return answer.json()[kind].clone();
            }
            assert!(started.elapsed() < PATIENCE, "{}", answer.text());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    async fn act_on(&self, path: &str, body: Value) -> u16 {
        self.post(&format!("{path}/action"), body).await.status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn group_types_and_their_specs() {
    let w = World::new().await;
    let id = w.group_type("plain", json!({"a": "b"})).await;
    let path = format!("/group_types/{id}");
    assert_eq!(w.post("/group_types", json!({"group_type": {"name": "mine"}})).await.status, 403);
    let again = json!({"group_type": {"name": "plain"}});
    assert_eq!(w.call(&w.admin, "POST", "/group_types", again, "3.71").await.status, 409);
    assert_eq!(w.call(&w.admin, "GET", &path, Value::Null, "3.10").await.status, 404, "since 3.11");
    assert!(w.get(&path).await.expect(200)["group_type"].get("group_specs").is_none(), "specs are for administrators");
    let admin = async |method: &str, path: String, body: Value| w.call(&w.admin, method, &path, body, "3.71").await;
    assert_eq!(admin("PUT", path.clone(), json!({"group_type": {}})).await.status, 400);
    let changed = admin("PUT", path.clone(), json!({"group_type": {"name": "other", "is_public": false}})).await.expect(200);
    assert_eq!((&changed["group_type"]["name"], &changed["group_type"]["is_public"]), (&json!("other"), &json!(false)));
    assert_eq!(w.get(&path).await.status, 404, "it is not public any more");
    assert_eq!(w.get("/group_types").await.expect(200)["group_types"], json!([]));
    let listed = admin("GET", "/group_types?is_public=None&sort=name:asc".into(), Value::Null).await.expect(200);
    assert_eq!(listed["group_types"][0]["id"], id.as_str());
    let specs = format!("{path}/group_specs");
    let more = admin("POST", specs.clone(), json!({"group_specs": {"c": "d"}})).await.expect(202);
    assert_eq!(more["group_specs"], json!({"c": "d"}));
    assert_eq!(admin("GET", specs.clone(), Value::Null).await.expect(200)["group_specs"], json!({"a": "b", "c": "d"}));
    assert_eq!(admin("PUT", format!("{specs}/c"), json!({"c": "e"})).await.expect(200), json!({"c": "e"}));
    assert_eq!(admin("PUT", format!("{specs}/c"), json!({"a": "e"})).await.status, 400);
    assert_eq!(admin("GET", format!("{specs}/c"), Value::Null).await.expect(200), json!({"c": "e"}));
    assert_eq!(admin("DELETE", format!("{specs}/c"), Value::Null).await.status, 202);
    assert_eq!(admin("GET", format!("{specs}/c"), Value::Null).await.status, 404);
    assert_eq!(w.get(&specs).await.status, 403);
    assert_eq!(admin("DELETE", path.clone(), Value::Null).await.status, 202);
    assert_eq!(admin("GET", path, Value::Null).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_groups_day() {
    let w = World::new().await;
    let kind = w.group_type("plain", json!({})).await;
    for bad in [
        json!({"group_type": kind}),
        json!({"group_type": kind, "volume_types": []}),
        json!({"group_type": kind, "volume_types": ["local", "local"]}),
        json!({"group_type": kind, "volume_types": ["local"], "availability_zone": "nowhere"}),
        json!({"group_type": kind, "volume_types": ["local"], "more": 1}),
    ] {
        assert_eq!(w.post("/groups", json!({"group": bad})).await.status, 400, "{bad}");
    }
    assert_eq!(w.post("/groups", json!({"group": {"group_type": "nothing", "volume_types": ["local"]}})).await.status, 404);
    let group = w.group("plain").await;
    let path = format!("/groups/{group}");
    let shown = w.group_is("group", &group, "available").await;
    assert_eq!((&shown["group_type"], &shown["replication_status"]), (&json!(kind), &json!("disabled")));
    let old = w.call(&w.member, "GET", &path, Value::Null, "3.13").await.expect(200);
    assert!(old["group"].get("source_group_id").is_none() && old["group"].get("volumes").is_none());
    assert_eq!(w.call(&w.member, "GET", &path, Value::Null, "3.12").await.status, 404);
    let stranger = w.cloud.tenant("stranger", "member").await;
    assert_eq!(w.call(&stranger, "GET", &path, Value::Null, "3.71").await.status, 404);

    let first = w.volume(json!({"size": 1, "group_id": group})).await;
    let second = w.volume(json!({"size": 1})).await;
    assert_eq!(w.get(&format!("/volumes/{first}")).await.expect(200)["volume"]["group_id"], group.as_str());
    assert_eq!(w.delete(&format!("/volumes/{first}")).await.status, 400, "it belongs to a group");
    let change = async |body: Value| w.call(&w.member, "PUT", &path, json!({ "group": body }), "3.71").await.status;
    assert_eq!(change(json!({})).await, 400);
    assert_eq!(change(json!({"add_volumes": base::id::uuid()})).await, 400);
    assert_eq!(change(json!({"remove_volumes": second})).await, 400);
    assert_eq!(change(json!({"name": "named", "add_volumes": second})).await, 202);
    let members = w.get(&format!("{path}?list_volume=true")).await.expect(200)["group"]["volumes"].as_array().unwrap().len();
    assert_eq!(members, 2);
    assert_eq!(w.get(&format!("/volumes?group_id={group}")).await.expect(200)["volumes"].as_array().unwrap().len(), 2);

    // All at once, and copies of all.
    let made = w.post("/group_snapshots", json!({"group_snapshot": {"group_id": group, "name": "s"}})).await.expect(202);
    let snapshot = made["group_snapshot"]["id"].as_str().unwrap().to_string();
    assert_eq!(w.group_is("group_snapshot", &snapshot, "available").await["group_id"], group.as_str());
    let listed = w.get(&format!("/snapshots?group_snapshot_id={snapshot}")).await.expect(200)["snapshots"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let one = listed[0]["id"].as_str().unwrap();
    assert_eq!(w.delete(&format!("/snapshots/{one}")).await.status, 400, "it belongs to a group snapshot");
    assert_eq!(w.get("/group_snapshots/detail").await.expect(200)["group_snapshots"][0]["status"], "available");
    let copy = |from: &str, id: &str| json!({"create-from-src": {"name": "copy", from: id}});
    assert_eq!(w.post("/groups/action", json!({"create-from-src": {"name": "copy"}})).await.status, 400);
    let mut copies = Vec::new();
    for (from, id) in [("source_group_id", &group), ("group_snapshot_id", &snapshot)] {
        let id = w.post("/groups/action", copy(from, id)).await.expect(202)["group"]["id"].as_str().unwrap().to_string();
        assert!(w.group_is("group", &id, "available").await[from].is_string());
        copies.push(id);
    }
    let reset = json!({"reset_status": {"status": "error"}});
    assert_eq!(w.act_on(&path, reset.clone()).await, 403);
    let by_admin = async |path: String, body: Value| w.call(&w.admin, "POST", &format!("{path}/action"), body, "3.71").await.status;
    assert_eq!(by_admin(path.clone(), json!({"reset_status": {"status": "odd"}})).await, 400);
    assert_eq!(by_admin(format!("/group_snapshots/{snapshot}"), reset.clone()).await, 202);
    w.group_is("group_snapshot", &snapshot, "error").await;
    assert_eq!(by_admin(path.clone(), reset).await, 202);
    w.group_is("group", &group, "error").await;

    let whole = json!({"delete": {"delete-volumes": true}});
    assert_eq!(w.act_on(&path, whole.clone()).await, 400, "it has a snapshot");
    assert_eq!(w.delete(&format!("/group_snapshots/{snapshot}")).await.status, 202);
    w.group_is("group_snapshot", &snapshot, "gone").await;
    assert_eq!(w.act_on(&path, json!({"delete": {}})).await, 400, "it has volumes");
    for id in copies.iter().chain([&group]) {
        assert_eq!(w.act_on(&format!("/groups/{id}"), whole.clone()).await, 202);
        w.group_is("group", id, "gone").await;
    }
    w.gone("volume", &first).await;
    w.gone("volume", &second).await;
    w.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_have_a_limit_and_ask_for_what_hosts_have() {
    let w = World::new().await;
    let kind = w.group_type("consistent", json!({"consistent_group_snapshot_enabled": "<is> True"})).await;
    let group = w.group(&kind).await;
    w.group_is("group", &group, "error").await;
    let empty = w.post("/group_snapshots", json!({"group_snapshot": {"group_id": group}})).await;
    assert_eq!(empty.status, 400, "it is empty");
    let quota = json!({"quota_set": {"groups": 1}});
    w.call(&w.admin, "PUT", &format!("/os-quota-sets/{}", w.member.project_id), quota, "3.0").await.expect(200);
    let more = json!({"group": {"group_type": kind, "volume_types": ["local"]}});
    assert_eq!(w.post("/groups", more).await.status, 413);
    assert_eq!(w.call(&w.admin, "DELETE", &format!("/group_types/{kind}"), Value::Null, "3.71").await.status, 400, "it is in use");
    assert_eq!(w.act_on(&format!("/groups/{group}"), json!({"delete": {}})).await, 202);
    w.group_is("group", &group, "gone").await;
}

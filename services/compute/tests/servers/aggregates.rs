//! Aggregates: their life, the zones they give, what the scheduler and placement make of them.

use serde_json::{Value, json};
use testing::Answer;

use crate::world::World;

impl World {
    async fn admin_call(&self, method: &str, path: &str, body: Value, version: &str) -> Answer {
        let body = if body.is_null() { None } else { Some(body) };
        self.call(&self.admin, method, path, body, version).await
    }
    async fn aggregate(&self, body: Value) -> Value {
        let made = self.admin_call("POST", "/os-aggregates", json!({ "aggregate": body }), "2.41").await.expect(200);
        made["aggregate"].clone()
    }
    async fn aggregate_act(&self, id: &Value, body: Value) -> Answer {
        self.admin_call("POST", &format!("/os-aggregates/{id}/action"), body, "2.41").await
    }
    async fn mirrored(&self, host: &str) -> Vec<String> {
        let providers = self.cloud.get(&self.admin, &format!("/placement/resource_providers?name={host}")).await.expect(200);
        let id = providers["resource_providers"][0]["uuid"].as_str().unwrap().to_string();
        let path = format!("/placement/resource_providers/{id}/aggregates");
        let request = self.cloud.request("GET", &path).token(&self.admin).header("openstack-api-version", "placement 1.19");
        let found = request.send().await.expect(200);
        found["aggregates"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_string()).collect()
    }
    async fn zones(&self) -> Vec<String> {
        let zones = self.get("/os-availability-zone", "2.1").await.expect(200);
        zones["availabilityZoneInfo"].as_array().unwrap().iter().map(|z| z["zoneName"].as_str().unwrap().to_string()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregates_life() {
    let w = World::with_hosts(2).await;
    let made = w.admin_call("POST", "/os-aggregates", json!({"aggregate": {"name": "rack", "availability_zone": "east"}}), "2.40").await;
    let made = made.expect(200)["aggregate"].clone();
    assert_eq!((&made["name"], &made["availability_zone"], &made["deleted"]), (&json!("rack"), &json!("east"), &json!(false)));
    assert!(made.get("uuid").is_none() && made.get("hosts").is_none() && made.get("metadata").is_none(), "{made}");
    let id = &made["id"];
    assert_eq!(w.zones().await, ["nova"], "a zone without hosts is none");
    let with_host = w.aggregate_act(id, json!({"add_host": {"host": "host-0"}})).await.expect(200)["aggregate"].clone();
    assert_eq!((&with_host["hosts"], &with_host["metadata"]), (&json!(["host-0"]), &json!({"availability_zone": "east"})));
    assert_eq!(w.mirrored("host-0").await, [with_host["uuid"].as_str().unwrap()]);
    assert_eq!(w.mirrored("host-1").await, Vec::<String>::new());
    assert_eq!(w.zones().await, ["east", "nova"]);
    let detail = w.admin_call("GET", "/os-availability-zone/detail", Value::Null, "2.1").await.expect(200);
    assert_eq!(detail["availabilityZoneInfo"][0]["hosts"]["host-0"]["nova-compute"]["available"], true);
    let services = w.admin_call("GET", "/os-services?host=host-0", Value::Null, "2.53").await.expect(200);
    assert_eq!(services["services"][0]["zone"], "east");
    let set = json!({"set_metadata": {"metadata": {"disk": "ssd", "gone": "x", "availability_zone": "west"}}});
    w.aggregate_act(id, set).await.expect(200);
    let set = w.aggregate_act(id, json!({"set_metadata": {"metadata": {"gone": null, "never": null}}})).await.expect(200);
    assert_eq!(set["aggregate"]["metadata"], json!({"availability_zone": "west", "disk": "ssd"}));
    assert!(set["aggregate"]["updated_at"].is_string());
    let path = format!("/os-aggregates/{id}");
    let renamed = w.admin_call("PUT", &path, json!({"aggregate": {"name": " shelf "}}), "2.1").await.expect(200);
    assert_eq!((&renamed["aggregate"]["name"], &renamed["aggregate"]["availability_zone"]), (&json!("shelf"), &json!("west")));
    let listed = w.admin_call("GET", "/os-aggregates", Value::Null, "2.1").await.expect(200);
    assert_eq!(listed["aggregates"], json!([renamed["aggregate"]]));
    assert_eq!(w.admin_call("DELETE", &path, Value::Null, "2.1").await.status, 400, "it has a host");
    assert_eq!(w.aggregate_act(id, json!({"remove_host": {"host": "host-1"}})).await.status, 404);
    w.aggregate_act(id, json!({"remove_host": {"host": "host-0"}})).await.expect(200);
    assert_eq!(w.mirrored("host-0").await, Vec::<String>::new());
    assert_eq!(w.admin_call("DELETE", &path, Value::Null, "2.1").await.status, 200);
    assert_eq!(w.admin_call("GET", &path, Value::Null, "2.1").await.status, 404);
    let second = w.aggregate(json!({"name": "shelf"})).await;
    assert_ne!(second["id"], *id, "numbers are not given out twice");
    assert_eq!(second["availability_zone"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused() {
    let w = World::new().await;
    let a = w.aggregate(json!({"name": "a", "availability_zone": "east"})).await["id"].clone();
    let b = w.aggregate(json!({"name": "b", "availability_zone": "west"})).await["id"].clone();
    w.aggregate_act(&a, json!({"add_host": {"host": "host-0"}})).await.expect(200);
    let (at_a, act_a, act_b) = (format!("/os-aggregates/{a}"), format!("/os-aggregates/{a}/action"), format!("/os-aggregates/{b}/action"));
    let table: &[(&str, &str, Value, u16)] = &[
        ("POST", "/os-aggregates", json!({"aggregate": {"name": "a"}}), 409),
        ("POST", "/os-aggregates", json!({"aggregate": {"name": " x"}}), 400),
        ("POST", "/os-aggregates", json!({"aggregate": {"name": "x".repeat(256)}}), 400),
        ("POST", "/os-aggregates", json!({"aggregate": {"name": "x", "availability_zone": "a:b"}}), 400),
        ("POST", "/os-aggregates", json!({"aggregate": {"name": "x", "availability_zone": ""}}), 400),
        ("POST", "/os-aggregates", json!({"aggregate": {"name": "x", "hosts": []}}), 400),
        ("PUT", &at_a, json!({"aggregate": {"name": "b"}}), 409),
        ("PUT", &at_a, json!({"aggregate": {}}), 400),
        ("PUT", &at_a, json!({"aggregate": {"availability_zone": null}}), 400),
        ("PUT", "/os-aggregates/x", json!({"aggregate": {"name": "x"}}), 400),
        ("PUT", "/os-aggregates/99", json!({"aggregate": {"name": "x"}}), 404),
        ("GET", "/os-aggregates/x", Value::Null, 400),
        ("GET", "/os-aggregates/99999999999999999999", Value::Null, 404),
        ("DELETE", "/os-aggregates/99", Value::Null, 404),
        ("POST", &act_a, json!({"add_host": {"host": "host-0"}}), 409),
        ("POST", &act_a, json!({"add_host": {"host": "elsewhere"}}), 404),
        ("POST", &act_b, json!({"add_host": {"host": "host-0"}}), 409),
        ("POST", &act_a, json!({"add_host": {}}), 400),
        ("POST", &act_a, json!({"set_metadata": {"metadata": {"k": 1}}}), 400),
        ("POST", &act_a, json!({"set_metadata": {"metadata": {"a/b": "x"}}}), 400),
        ("POST", &act_a, json!({"set_metadata": {"metadata": {"availability_zone": null}}}), 400),
        ("POST", &act_a, json!({"set_metadata": {"metadata": {"availability_zone": ""}}}), 400),
        ("POST", &act_a, json!({"nonsense": {}}), 400),
        ("POST", &act_a, json!({"add_host": {"host": "host-0"}, "remove_host": {"host": "host-0"}}), 400),
        ("POST", "/os-aggregates/99/action", json!({"add_host": {"host": "host-0"}}), 404),
    ];
    for (method, path, body, status) in table {
        let answer = w.admin_call(method, path, body.clone(), "2.1").await;
        assert_eq!(answer.status, *status, "{method} {path} {body}: {}", answer.text());
        let tenant = w.call(&w.tenant, method, path, Some(body.clone()), "2.1").await;
        assert!(matches!(tenant.status, 400 | 403), "{method} {path} {body}: {}", tenant.text());
    }
    assert_eq!(w.admin_call("GET", "/os-aggregates?x=1", Value::Null, "2.101").await.status, 200);
    assert_eq!(w.admin_call("GET", "/os-aggregates?x=1", Value::Null, "2.102").await.status, 400);
    assert_eq!(w.get("/os-aggregates", "2.1").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_keep_their_zone() {
    let w = World::with_hosts(2).await;
    let east = w.aggregate(json!({"name": "a", "availability_zone": "east"})).await["id"].clone();
    w.aggregate_act(&east, json!({"add_host": {"host": "host-1"}})).await.expect(200);
    let refused = w.post("/servers", w.body(json!({"availability_zone": "mars"})), "2.1").await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    let id = w.active(json!({"availability_zone": "east"})).await;
    let shown = w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200)["server"].clone();
    assert_eq!((&shown["OS-EXT-AZ:availability_zone"], &shown["OS-EXT-SRV-ATTR:host"]), (&json!("east"), &json!("host-1")));
    let west = w.aggregate(json!({"name": "b", "availability_zone": "east"})).await["id"].clone();
    let plain = w.aggregate(json!({"name": "c"})).await["id"].clone();
    for (id, body, status) in [
        (&east, json!({"set_metadata": {"metadata": {"availability_zone": "south"}}}), 400),
        (&east, json!({"remove_host": {"host": "host-1"}}), 409),
        (&plain, json!({"add_host": {"host": "host-1"}}), 200),
        (&plain, json!({"set_metadata": {"metadata": {"availability_zone": "south"}}}), 400),
        (&plain, json!({"remove_host": {"host": "host-1"}}), 200),
        (&west, json!({"add_host": {"host": "host-1"}}), 200),
        // The other aggregate still gives it the zone.
        (&east, json!({"remove_host": {"host": "host-1"}}), 200),
        (&east, json!({"add_host": {"host": "host-0"}}), 200),
    ] {
        let answer = w.aggregate_act(id, body.clone()).await;
        assert_eq!(answer.status, status, "{id} {body}: {}", answer.text());
    }
    w.delete(&format!("/servers/{id}"), "2.1").await;
    w.gone(&id).await;
    assert_eq!(w.aggregate_act(&west, json!({"remove_host": {"host": "host-1"}})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn flavors_and_projects_choose_by_metadata() {
    let w = World::with_hosts(2).await;
    let fast = w.aggregate(json!({"name": "fast"})).await["id"].clone();
    w.aggregate_act(&fast, json!({"add_host": {"host": "host-1"}})).await.expect(200);
    w.aggregate_act(&fast, json!({"set_metadata": {"metadata": {"disk": "ssd"}}})).await.expect(200);
    let specs = json!({"extra_specs": {"aggregate_instance_extra_specs:disk": "ssd"}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors/1/os-extra_specs", specs).await.expect(200);
    let w = &w;
    let host = |id: String| async move {
        let path = format!("/servers/{id}");
        w.call(&w.admin, "GET", &path, None, "2.1").await.expect(200)["server"]["OS-EXT-SRV-ATTR:host"].clone()
    };
    let (first, second) = (w.active(json!({})).await, w.active(json!({})).await);
    assert_eq!((host(first).await, host(second).await), (json!("host-1"), json!("host-1")));
    w.aggregate_act(&fast, json!({"set_metadata": {"metadata": {"filter_tenant_id": "somebody-else"}}})).await.expect(200);
    let id = w.create(json!({})).await;
    let shown = w.wait(&id, "ERROR").await;
    assert!(shown["fault"]["message"].as_str().unwrap().contains("No valid host"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_fetched_ahead() {
    let w = World::with_hosts(2).await;
    let a = w.aggregate(json!({"name": "a"})).await["id"].clone();
    w.aggregate_act(&a, json!({"add_host": {"host": "host-1"}})).await.expect(200);
    let path = format!("/os-aggregates/{a}/images");
    let unknown = "11111111-2222-4333-8444-555555555555";
    let body = json!({"cache": [{"id": w.image}, {"id": unknown}]});
    for (path, body, version, status) in [
        (path.as_str(), body.clone(), "2.80", 404),
        (path.as_str(), json!({"cache": []}), "2.81", 400),
        (path.as_str(), json!({"cache": [{"id": "x"}]}), "2.81", 400),
        (path.as_str(), json!({"cache": [{"id": unknown}, {"id": unknown}]}), "2.81", 400),
        ("/os-aggregates/99/images", body.clone(), "2.81", 404),
        (path.as_str(), body.clone(), "2.81", 202),
    ] {
        let answer = w.admin_call("POST", path, body.clone(), version).await;
        assert_eq!(answer.status, status, "{path} {body} {version}: {}", answer.text());
    }
    assert_eq!(w.post(&path, body, "2.81").await.status, 403);
    let store = w.cloud.controller.core.store.clone();
    let started = std::time::Instant::now();
    let told = loop {
        let sql = "SELECT payload FROM event WHERE event_type = 'aggregate.cache_images.progress'";
        let found: Vec<Value> = store.read(|tx| tx.query(sql, &[], |r| r.json(0))).await.unwrap();
        if let Some(told) = found.first() {
            break told.clone();
        }
        assert!(started.elapsed() < crate::world::PATIENCE, "no event came");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert_eq!((&told["host"], &told["images_cached"], &told["images_failed"]), (&json!("host-1"), &json!([w.image]), &json!([unknown])));
}

//! Messages between the servers of a group, over their port for that.

use std::time::Instant;

use serde_json::{Value, json};

use crate::world::{PATIENCE, World};

/// A cloud with a flavor whose servers hear their group.
async fn world(hosts: usize) -> World {
    let w = World::with_hosts(hosts).await;
    let flavor = json!({"flavor": {"id": "talks", "name": "talks", "ram": 64, "vcpus": 1, "disk": 1}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    let specs = json!({"extra_specs": {"sw:wrs:srv_grp_messaging": "true"}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors/talks/os-extra_specs", specs).await.expect(200);
    w
}

async fn group(w: &World) -> String {
    let body = json!({"server_group": {"name": "g", "policies": ["soft-anti-affinity"]}});
    w.post("/os-server-groups", body, "2.15").await.expect(200)["server_group"]["id"].as_str().unwrap().to_string()
}

async fn member(w: &World, group: &str, flavor: &str) -> String {
    let mut body = w.body(json!({"flavorRef": flavor, "metadata": {"role": "member"}}));
    body["os:scheduler_hints"] = json!({"group": group});
    let id = w.post("/servers", body, "2.104").await.expect(202)["server"]["id"].as_str().unwrap().to_string();
    w.wait(&id, "ACTIVE").await;
    id
}

/// What a guest was told of this kind.
fn heard(w: &World, id: &str, kind: &str) -> Vec<Value> {
    let all = w.cloud.hosts.iter().flat_map(|host| host.hypervisor.members().heard(id));
    all.filter(|message| message["msg_type"] == kind).collect()
}

/// The same, as soon as there are so many.
async fn hears(w: &World, id: &str, kind: &str, count: usize) -> Vec<Value> {
    let started = Instant::now();
    loop {
        let all = heard(w, id, kind);
        if all.len() >= count {
            return all;
        }
        assert!(started.elapsed() < PATIENCE, "{id} hears {all:?} only");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn host_of(w: &World, id: &str) -> (usize, String) {
    let shown = w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200)["server"].clone();
    let host = shown["OS-EXT-SRV-ATTR:host"].as_str().unwrap().trim_start_matches("host-").parse().unwrap();
    (host, shown["OS-EXT-SRV-ATTR:instance_name"].as_str().unwrap().to_string())
}

async fn say(w: &World, id: &str, data: Value) {
    let (host, _) = host_of(w, id).await;
    w.cloud.hosts[host].hypervisor.members().say(id, &data);
}

fn broadcast(text: &str) -> Value {
    json!({"version": 2, "msg_type": "broadcast", "data": text})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_reaches_the_others_of_the_group_that_listen() {
    let w = world(2).await;
    let group_id = group(&w).await;
    let (a, b, c) = (member(&w, &group_id, "talks").await, member(&w, &group_id, "talks").await, member(&w, &group_id, "talks").await);
    let plain = member(&w, &group_id, "1").await;
    let (other_group, alone) = (group(&w).await, w.active(json!({"flavorRef": "talks"})).await);
    let foreign = member(&w, &other_group, "talks").await;
    let (host_a, name) = host_of(&w, &a).await;
    assert_ne!(host_a, host_of(&w, &b).await.0, "they are on different hosts");
    say(&w, &a, broadcast("hello, all of you")).await;
    let wanted = json!({"version": 2, "msg_type": "broadcast", "source_instance": name, "data": "hello, all of you"});
    for id in [&b, &c] {
        assert_eq!(hears(&w, id, "broadcast", 1).await, std::slice::from_ref(&wanted));
    }
    // One word too long is for nobody; what follows is.
    say(&w, &b, broadcast(&"x".repeat(3051))).await;
    let nack = hears(&w, &b, "nack", 1).await.remove(0);
    assert_eq!((&nack["orig_msg_type"], nack["log_msg"].as_str().unwrap().contains("3050")), (&json!("broadcast"), true), "{nack}");
    say(&w, &b, broadcast("from b")).await;
    assert_eq!(hears(&w, &a, "broadcast", 1).await[0]["data"], "from b");
    assert_eq!(hears(&w, &c, "broadcast", 2).await[1]["data"], "from b");
    // Nobody hears himself, nor do those who do not listen or are of another group, or of none.
    say(&w, &alone, broadcast("is anybody there?")).await;
    say(&w, &foreign, broadcast("or here?")).await;
    say(&w, &c, broadcast("the end")).await;
    assert_eq!(hears(&w, &a, "broadcast", 2).await[1]["data"], "the end");
    assert_eq!(hears(&w, &b, "broadcast", 2).await.len(), 2);
    for (id, count) in [(&a, 2), (&b, 2), (&c, 2), (&plain, 0), (&alone, 0), (&foreign, 0)] {
        assert_eq!(heard(&w, id, "broadcast").len(), count, "{id}");
    }
    for id in [a, b, c, plain, alone, foreign] {
        assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
        w.gone(&id).await;
    }
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_learn_what_the_others_are_and_what_happens_to_them() {
    let w = world(1).await;
    let group_id = group(&w).await;
    let (a, b, plain) = (member(&w, &group_id, "talks").await, member(&w, &group_id, "talks").await, member(&w, &group_id, "1").await);
    say(&w, &a, json!({"version": 2, "msg_type": "status_query", "seq": 41})).await;
    assert_eq!(hears(&w, &a, "status_response_done", 1).await, [json!({"version": 2, "msg_type": "status_response_done", "seq": 41})]);
    let all = heard(&w, &a, "status_response");
    assert!(all.iter().all(|m| m["seq"] == 41 && m["version"] == 2), "{all:?}");
    let ids: Vec<&str> = all.iter().map(|m| m["data"]["instance_id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&a, &b, &plain], "the asker, and one that does not listen, are members too");
    let one = &all[1]["data"];
    for (key, value) in [
        ("tenant_id", json!(w.tenant.project_id)),
        ("display_name", json!("vm")),
        ("instance_type", json!("talks")),
        ("state", json!("active")),
        ("state_description", json!("")),
        ("host", json!("host-0")),
        ("vcpus", json!(1)),
        ("memory_mb", json!(64)),
        ("deleted_at", json!("")),
        ("kernel_id", json!("")),
        ("access_ip_v4", json!("")),
        ("metadata", json!({"role": "member"})),
    ] {
        assert_eq!(one[key], value, "{key} of {one}");
    }
    for key in ["image_meta", "os_type", "architecture", "availability_zone", "launched_at", "cell_name", "progress", "image_ref_url"] {
        assert!(one.get(key).is_some_and(|value| !value.is_null()), "{key} of {one}");
    }
    assert!(heard(&w, &b, "status_response").is_empty());
    // What happens to one, also to one that does not listen, the others hear.
    let notified = |id: &str, of: &str, event: &str| {
        let about = |m: &Value| m["data"]["event_type"] == event && m["data"]["payload"]["instance_id"] == of;
        heard(&w, id, "notification").into_iter().find(about)
    };
    let until = async |id: &str, of: &str, event: &str| {
        let started = Instant::now();
        loop {
            if let Some(found) = notified(id, of, event) {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "{event} is never told");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert_eq!(w.act(&b, json!({"pause": null})).await.status, 202);
    let told = until(&a, &b, "compute.instance.pause.end").await;
    assert_eq!(
        (&told["version"], &told["data"]["priority"], &told["data"]["payload"]["state"]),
        (&json!(2), &json!("INFO"), &json!("paused"))
    );
    assert!(told["data"]["timestamp"].as_str().is_some_and(|t| t.len() == 26), "{told}");
    assert_eq!(notified(&b, &b, "compute.instance.pause.end"), None, "not the one it happened to");
    assert_eq!(w.act(&b, json!({"unpause": null})).await.status, 202);
    w.wait(&b, "ACTIVE").await;
    assert_eq!(w.delete(&format!("/servers/{plain}"), "2.1").await.status, 204);
    for id in [&a, &b] {
        until(id, &plain, "compute.instance.delete.end").await;
    }
    for id in [a, b] {
        assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
        w.gone(&id).await;
    }
    w.clean().await;
}

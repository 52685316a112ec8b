//! Servers that have processors for themselves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use host::hypervisor::RunState;
use serde_json::{Value, json};

use crate::world::{PATIENCE, World};

/// A cloud whose hosts give these processors away, and share two, with a flavor of two dedicated ones.
pub async fn world(hosts: usize, dedicated: &str) -> World {
    let mut w = World::with_hosts(hosts).await;
    for number in 0..hosts {
        let host = &mut w.cloud.hosts[number];
        host.settings.push(("host.cpu_dedicated_set", dedicated.into()));
        host.settings.push(("host.cpu_shared_set", "0-1".into()));
        host.vanish().await;
        w.cloud.host_return(number).await;
    }
    giving(&w, hosts).await;
    flavor(&w, "own", 2, json!({"hw:cpu_policy": "dedicated"})).await;
    w
}

/// Waits until so many hosts have processors to give away.
async fn giving(w: &World, hosts: usize) {
    let started = Instant::now();
    loop {
        let request = w.cloud.request("GET", "/placement/resource_providers?resources=PCPU:1").token(&w.admin);
        let answer = request.header("openstack-api-version", "placement 1.39").send().await.expect(200);
        if answer["resource_providers"].as_array().is_some_and(|all| all.len() == hosts) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{answer}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn flavor(w: &World, id: &str, vcpus: u32, specs: Value) {
    let flavor = json!({"flavor": {"id": id, "name": id, "ram": 64, "vcpus": vcpus, "disk": 1}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    let path = format!("/compute/v2.1/flavors/{id}/os-extra_specs");
    w.cloud.post(&w.admin, &path, json!({"extra_specs": specs})).await.expect(200);
}

/// What a server or a migration has of processors.
pub async fn claimed(w: &World, consumer: &str) -> Value {
    let answer = w.cloud.get(&w.admin, &format!("/placement/allocations/{consumer}")).await.expect(200);
    let all = answer["allocations"].as_object().unwrap().values().next().cloned().unwrap_or_default();
    json!([all["resources"]["PCPU"], all["resources"]["VCPU"]])
}

async fn inventory(w: &World, class: &str) -> Value {
    let providers = w.cloud.get(&w.admin, "/placement/resource_providers").await.expect(200);
    let provider = providers["resource_providers"][0]["uuid"].as_str().unwrap().to_string();
    let answer = w.cloud.get(&w.admin, &format!("/placement/resource_providers/{provider}/inventories/{class}")).await;
    if answer.status == 404 { Value::Null } else { answer.json()["total"].clone() }
}

/// The processors of a guest's vCPUs, on whichever host it runs.
pub fn processors(w: &World, id: &str) -> Vec<u32> {
    let running = w.cloud.hosts.iter().find(|host| host.hypervisor.state(id) == Some(RunState::Running)).unwrap();
    let (vcpus, others) = running.hypervisor.affinity(id).unwrap();
    assert_eq!(others, BTreeSet::from([0, 1]), "what emulates it is where sharing is");
    vcpus.into_iter().map(|set| set.into_iter().next().unwrap()).collect()
}

async fn refused(w: &World, extra: Value) -> String {
    let answer = w.post("/servers", w.body(extra), "2.104").await.expect(400);
    answer["badRequest"]["message"].as_str().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_has_its_own_until_there_are_no_more() {
    let mut w = world(1, "2-5").await;
    assert_eq!((inventory(&w, "PCPU").await, inventory(&w, "VCPU").await), (json!(4), json!(2)));
    let (a, b) = (w.active(json!({"flavorRef": "own"})).await, w.active(json!({"flavorRef": "own"})).await);
    assert_eq!(claimed(&w, &a).await, json!([2, null]));
    let both: BTreeSet<u32> = processors(&w, &a).into_iter().chain(processors(&w, &b)).collect();
    assert_eq!(both, BTreeSet::from([2, 3, 4, 5]));
    let none = w.create(json!({"flavorRef": "own"})).await;
    w.wait(&none, "ERROR").await;
    // Those that share do not take any of them.
    let plain = w.active(json!({})).await;
    assert_eq!((claimed(&w, &plain).await, processors(&w, &plain)), (json!([null, 1]), vec![0]));
    let metadata = w.cloud.hosts[0].wire.metadata(&a).unwrap().meta_data;
    assert_eq!(metadata["dedicated_cpus"], json!([0, 1]));
    // Off or on, before and after the host's restart: the same ones.
    let before = processors(&w, &a);
    assert_eq!(w.act(&a, json!({"os-stop": null})).await.status, 202);
    w.wait(&a, "SHUTOFF").await;
    w.cloud.hosts[0].vanish().await;
    w.cloud.host_return(0).await;
    w.cloud.until(&w.admin, "/compute/v2.1/os-hypervisors/detail", PATIENCE, |a| a.json()["hypervisors"][0]["state"] == "up").await;
    assert_eq!(w.act(&a, json!({"os-start": null})).await.status, 202);
    w.wait(&a, "ACTIVE").await;
    assert_eq!(processors(&w, &a), before);
    for id in [a, none] {
        assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
        w.gone(&id).await;
    }
    let again = w.active(json!({"flavorRef": "own"})).await;
    assert_eq!(processors(&w, &again).into_iter().collect::<BTreeSet<_>>(), before.into_iter().collect());
    for id in [b, plain, again] {
        assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
        w.gone(&id).await;
    }
    // A host that gives none away any more offers none.
    w.cloud.hosts[0].settings.clear();
    w.cloud.hosts[0].vanish().await;
    w.cloud.host_return(0).await;
    giving(&w, 0).await;
    assert_eq!(inventory(&w, "PCPU").await, Value::Null);
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_server_goes_it_has_its_own() {
    let w = world(2, "2-5").await;
    let admin = async |id: &str, body: Value| {
        let answer = w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(body), "2.104").await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    };
    let id = w.active(json!({"flavorRef": "own"})).await;
    let other = w.active(json!({"flavorRef": "own"})).await;
    admin(&id, json!({"os-migrateLive": {"host": null, "block_migration": "auto"}})).await;
    w.wait(&id, "ACTIVE").await;
    assert_eq!(claimed(&w, &id).await, json!([2, null]));
    assert_eq!(processors(&w, &id).into_iter().chain(processors(&w, &other)).collect::<BTreeSet<_>>(), (2..6).collect());
    admin(&id, json!({"migrate": {"host": null}})).await;
    w.wait(&id, "VERIFY_RESIZE").await;
    assert_eq!((claimed(&w, &id).await, processors(&w, &id).len()), (json!([2, null]), 2));
    assert_eq!(w.act(&id, json!({"confirmResize": null})).await.status, 204);
    w.wait(&id, "ACTIVE").await;
    // To one that shares, and back.
    assert_eq!(w.act(&id, json!({"resize": {"flavorRef": "1"}})).await.status, 202);
    w.wait(&id, "VERIFY_RESIZE").await;
    assert_eq!((claimed(&w, &id).await, processors(&w, &id)), (json!([null, 1]), vec![0]));
    assert_eq!(w.act(&id, json!({"revertResize": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!((claimed(&w, &id).await, processors(&w, &id).len()), (json!([2, null]), 2));
    for id in [id, other] {
        assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
        w.gone(&id).await;
    }
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let w = world(1, "2-5").await;
    let specs = "/compute/v2.1/flavors/1/os-extra_specs";
    let set = async |specs_of: &str, body: Value, version: &str| {
        let request = w.cloud.request("POST", specs_of).token(&w.admin);
        request.header("openstack-api-version", &format!("compute {version}")).json(&body).send().await.status
    };
    // What words mean is looked at since 2.86.
    for (spec, value) in [("hw:cpu_policy", "mine"), ("hw:cpu_thread_policy", "none")] {
        assert_eq!(set(specs, json!({"extra_specs": {spec: value}}), "2.86").await, 400, "{spec}");
    }
    assert_eq!(set(specs, json!({"extra_specs": {"hw:cpu_policy": "mine"}}), "2.85").await, 200);
    assert!(refused(&w, json!({})).await.contains("'mine'"));
    flavor(&w, "shares", 1, json!({"hw:cpu_policy": "shared"})).await;
    flavor(&w, "apart", 1, json!({"hw:cpu_policy": "dedicated", "hw:cpu_thread_policy": "require"})).await;
    flavor(&w, "odd", 1, json!({"hw:cpu_thread_policy": "require"})).await;
    assert!(refused(&w, json!({"flavorRef": "odd"})).await.contains("non dedicated"));
    // No host here has threads.
    let none = w.create(json!({"flavorRef": "apart"})).await;
    w.wait(&none, "ERROR").await;
    // The image may ask for it where the flavor says nothing, not where it says otherwise.
    let patch = json!([{"op": "add", "path": "/hw_cpu_policy", "value": "dedicated"}]).to_string();
    let request = w.cloud.request("PATCH", &format!("/image/v2/images/{}", w.image)).token(&w.admin);
    let patched = request.text("application/openstack-images-v2.1-json-patch", patch.into_bytes()).send().await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    assert!(refused(&w, json!({"flavorRef": "shares"})).await.contains("not permitted to override CPU pinning"));
    flavor(&w, "plain", 1, json!({})).await;
    let id = w.active(json!({"flavorRef": "plain"})).await;
    assert_eq!(claimed(&w, &id).await, json!([1, null]));
    let answer = w.act(&id, json!({"resize": {"flavorRef": "shares"}})).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
}

//! Room for volumes, as placement promises it.

use futures_util::future::join_all;
use serde_json::{Value, json};
use testing::{Answer, Cloud};

use crate::api::{PATIENCE, World};

const CLASS: &str = block_storage::ROOM;
/// A consumer of somebody else's.
const STRANGER: &str = "eeeeeeee-0000-4000-8000-000000000001";
const CALLERS: usize = 16;

impl World {
    async fn placement(&self, method: &str, path: &str, body: Value) -> Answer {
        let request = self.cloud.request(method, &format!("/placement{path}")).token(&self.admin);
        let request = request.header("openstack-api-version", "placement 1.39");
        if body.is_null() { request.send().await } else { request.json(&body).send().await }
    }

    async fn asked(&self, path: &str) -> Value {
        self.placement("GET", path, Value::Null).await.expect(200)
    }

    /// The provider of a host's disk.
    async fn provider(&self, host: &str) -> Value {
        self.asked(&format!("/resource_providers?name={host}@local%23local")).await["resource_providers"][0].clone()
    }

    async fn inventory(&self, provider: &Value) -> Value {
        self.asked(&format!("/resource_providers/{}/inventories/{CLASS}", provider["uuid"].as_str().unwrap())).await
    }

    async fn inventory_set(&self, provider: &Value, changes: &[(&str, Value)]) {
        let mut body = self.inventory(provider).await;
        for (key, value) in changes {
            body[*key] = value.clone();
        }
        let path = format!("/resource_providers/{}/inventories/{CLASS}", provider["uuid"].as_str().unwrap());
        self.placement("PUT", &path, body).await.expect(200);
    }

    /// What a volume has, of whom.
    async fn allocation(&self, volume: &str) -> Value {
        self.asked(&format!("/allocations/{volume}")).await
    }

    /// GiB that a volume has of the first host's disk; none: nothing of anybody.
    async fn promised(&self, volume: &str) -> Option<u64> {
        let provider = self.provider("host-0").await["uuid"].as_str().unwrap().to_string();
        let allocations = self.allocation(volume).await["allocations"].clone();
        let all = allocations.as_object().unwrap();
        assert!(all.keys().all(|uuid| *uuid == provider), "{allocations}");
        all.get(&provider).map(|one| one["resources"][CLASS].as_u64().unwrap())
    }

    /// What the pool of the first host shows.
    async fn pool(&self) -> Value {
        let answer = self.call(&self.admin, "GET", "/scheduler-stats/get_pools?detail=true", Value::Null, "3.71").await.expect(200);
        answer["pools"][0]["capabilities"].clone()
    }

    /// Leaves so many GiB of a host's disk: somebody else has the rest.
    async fn leave(&self, host: &str, gib: u64) {
        let provider = self.provider(host).await;
        let offer = self.inventory(&provider).await;
        let usages = self.asked(&format!("/resource_providers/{}/usages", provider["uuid"].as_str().unwrap())).await;
        let capacity = offer["total"].as_u64().unwrap() * 20;
        let rest = capacity - usages["usages"][CLASS].as_u64().unwrap() - gib;
        let body = json!({
            "allocations": {provider["uuid"].as_str().unwrap(): {"resources": {CLASS: rest}}},
            "project_id": "p", "user_id": "u", "consumer_generation": null, "consumer_type": "TAPE",
        });
        assert_eq!(self.placement("PUT", &format!("/allocations/{STRANGER}"), body).await.status, 204);
    }

    async fn message_of(&self, resource: &str) -> Value {
        self.get(&format!("/messages?resource_uuid={resource}")).await.expect(200)["messages"][0]["event_id"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_has_an_allocation_that_follows_it() {
    let w = World::new().await;
    let before = w.pool().await;
    let id = w.volume(json!({"size": 2})).await;
    let shown = w.allocation(&id).await;
    let project = w.get(&format!("/volumes/{id}")).await.expect(200)["volume"]["os-vol-tenant-attr:tenant_id"].clone();
    assert_eq!((&shown["consumer_type"], &shown["project_id"], &shown["user_id"].is_string()), (&json!("VOLUME"), &project, &true));
    assert_eq!(w.promised(&id).await, Some(2));
    assert_eq!(w.act(&id, json!({"os-extend": {"new_size": 3}})).await.status, 202);
    w.becomes("volume", &id, "available").await;
    assert_eq!(w.promised(&id).await, Some(3));
    // Its snapshot may come to hold as much as it does.
    let snapshot = w.snapshot(&id).await;
    assert_eq!(w.promised(&id).await, Some(6));
    let copy = w.volume(json!({"snapshot_id": snapshot, "size": 4})).await;
    assert_eq!((w.promised(&copy).await, w.promised(&id).await), (Some(4), Some(6)));
    let pool = w.pool().await;
    assert_eq!((&pool["allocated_capacity_gb"], &pool["provisioned_capacity_gb"]), (&json!(7), &json!(10)));
    assert_eq!((&pool["total_capacity_gb"], &pool["total_volumes"]), (&before["total_capacity_gb"], &json!(2)));
    // By hand, and back.
    let reset = |status: &'static str| json!({"os-reset_status": {"status": status}});
    let path = format!("/snapshots/{snapshot}/action");
    assert_eq!(w.call(&w.admin, "POST", &path, reset("error"), "3.71").await.status, 202);
    assert_eq!(w.promised(&id).await, Some(3), "one that failed holds nothing");
    assert_eq!(w.call(&w.admin, "POST", &path, reset("available"), "3.71").await.status, 202);
    assert_eq!(w.promised(&id).await, Some(6));

    let usage = async |project: &Value| w.asked(&format!("/usages?project_id={}&consumer_type=VOLUME", project.as_str().unwrap())).await;
    assert_eq!(usage(&project).await["usages"]["VOLUME"], json!({CLASS: 10, "consumer_count": 2}));
    let offer = w.post("/volume-transfers", json!({"transfer": {"volume_id": id}})).await.expect(202)["transfer"].clone();
    let other = w.cloud.tenant("other", "member").await;
    let accept = json!({"accept": {"auth_key": offer["auth_key"]}});
    let path = format!("/volume-transfers/{}/accept", offer["id"].as_str().unwrap());
    w.call(&other, "POST", &path, accept, "3.71").await.expect(202);
    assert_ne!(w.allocation(&id).await["project_id"], project);
    assert_eq!(usage(&project).await["usages"]["VOLUME"], json!({CLASS: 4, "consumer_count": 1}));

    assert_eq!(w.call(&other, "DELETE", &format!("/snapshots/{snapshot}"), Value::Null, "3.71").await.status, 202);
    w.cloud.until(&other, &format!("/volume/v3/snapshots/{snapshot}"), PATIENCE, |a| a.status == 404).await;
    assert_eq!(w.promised(&id).await, Some(3));
    assert_eq!(w.call(&other, "DELETE", &format!("/volumes/{id}"), Value::Null, "3.71").await.status, 202);
    w.cloud.until(&other, &format!("/volume/v3/volumes/{id}"), PATIENCE, |a| a.status == 404).await;
    assert_eq!(w.delete(&format!("/volumes/{copy}")).await.status, 202);
    w.gone("volume", &copy).await;
    for gone in [&id, &copy] {
        assert_eq!(w.promised(gone).await, None);
    }
    assert_eq!(w.cloud.controller.placement.consumers().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_a_provider_below_its_host_and_nothing_that_servers_are_offered() {
    let w = World::new().await;
    let provider = w.provider("host-0").await;
    let host = w.asked("/resource_providers?name=host-0").await["resource_providers"][0]["uuid"].clone();
    assert_eq!((&provider["parent_provider_uuid"], &provider["root_provider_uuid"]), (&host, &host));
    let (offer, pool) = (w.inventory(&provider).await, w.pool().await);
    assert_eq!((&offer["total"], &offer["reserved"], &offer["allocation_ratio"]), (&pool["total_capacity_gb"], &json!(0), &json!(20.0)));
    assert_eq!((&pool["max_over_subscription_ratio"], &pool["reserved_percentage"]), (&json!("20.0"), &json!(0)));
    assert_eq!(w.placement("GET", &format!("/resource_classes/{CLASS}"), Value::Null).await.status, 200);
    let disks = w.asked("/allocation_candidates?resources=DISK_GB:1").await;
    let takers: Vec<&Value> = disks["allocation_requests"].as_array().unwrap().iter().map(|r| &r["allocations"]).collect();
    assert_eq!(takers, [&json!({host.as_str().unwrap(): {"resources": {"DISK_GB": 1}}})]);
    let both = w.asked(&format!("/allocation_candidates?resources=VCPU:1&resources_disk={CLASS}:1")).await;
    let given = json!({
        host.as_str().unwrap(): {"resources": {"VCPU": 1}},
        provider["uuid"].as_str().unwrap(): {"resources": {CLASS: 1}},
    });
    assert_eq!(both["allocation_requests"][0]["allocations"], given, "a machine for both");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_says_of_a_disk_holds() {
    let settings = [("block_storage.reserved_percentage", "10"), ("block_storage.max_over_subscription_ratio", "5.0")];
    let mut w = World::on(Cloud::with_settings(1, &settings).await).await;
    let (provider, pool) = (w.provider("host-0").await, w.pool().await);
    let total = pool["total_capacity_gb"].as_u64().unwrap();
    let offer = w.inventory(&provider).await;
    assert_eq!((&offer["reserved"], &offer["allocation_ratio"]), (&json!(total.div_ceil(10)), &json!(5.0)));
    assert_eq!(pool["max_over_subscription_ratio"], json!("5.0"));
    w.inventory_set(&provider, &[("allocation_ratio", json!(1.5))]).await;
    // The host says again what it has, and so does the controller after a start.
    w.cloud.hosts[0].vanish().await;
    w.cloud.host_return(0).await;
    let World { cloud, admin, member } = w;
    let cloud = cloud.crash().await;
    cloud.until(&admin, "/volume/v3/scheduler-stats/get_pools", PATIENCE, |a| a.json()["pools"][0].is_object()).await;
    let w = World { cloud, admin, member };
    assert_eq!(w.provider("host-0").await["uuid"], provider["uuid"]);
    let offer = w.inventory(&provider).await;
    assert_eq!((&offer["reserved"], &offer["allocation_ratio"]), (&json!(total.div_ceil(10)), &json!(1.5)));
    assert_eq!(w.pool().await["max_over_subscription_ratio"], json!("1.5"));
    // Nothing at all: the next volume finds no place.
    w.inventory_set(&provider, &[("reserved", json!(total))]).await;
    assert_eq!(w.pool().await["reserved_percentage"], json!(100));
    let made = w.post("/volumes", json!({"volume": {"size": 1}})).await.expect(202)["volume"]["id"].as_str().unwrap().to_string();
    w.becomes("volume", &made, "error").await;
    assert_eq!((w.message_of(&made).await, w.promised(&made).await), (json!("VOLUME_VOLUME_001_003"), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_gibibytes_go_to_as_many_volumes_as_they_suffice_for() {
    let w = World::new().await;
    let project = w.volume(json!({"size": 1})).await;
    let project = w.get(&format!("/volumes/{project}")).await.expect(200)["volume"]["os-vol-tenant-attr:tenant_id"].clone();
    let path = format!("/os-quota-sets/{}", project.as_str().unwrap());
    w.call(&w.admin, "PUT", &path, json!({"quota_set": {"volumes": 100}}), "3.71").await.expect(200);
    w.leave("host-0", 5).await;
    let made = join_all((0..CALLERS).map(|_| w.post("/volumes", json!({"volume": {"size": 1}})))).await;
    let (mut there, mut failed) = (Vec::new(), Vec::new());
    for answer in made {
        let id = answer.expect(202)["volume"]["id"].as_str().unwrap().to_string();
        let path = format!("/volume/v3/volumes/{id}");
        let settled = w.cloud.until(&w.member, &path, PATIENCE, |a| a.json()["volume"]["status"] != "creating").await;
        if settled.json()["volume"]["status"] == "available" { there.push(id) } else { failed.push(id) }
    }
    assert_eq!((there.len(), failed.len()), (5, CALLERS - 5));
    for id in &failed {
        assert_eq!((w.message_of(id).await, w.promised(id).await), (json!("VOLUME_VOLUME_001_003"), None));
    }
    // Nor does one grow, or get a snapshot. What they have they keep.
    let id = &there[0];
    assert_eq!(w.act(id, json!({"os-extend": {"new_size": 2}})).await.status, 202);
    let volume = w.becomes("volume", id, "available").await;
    assert_eq!((&volume["size"], w.message_of(id).await), (&json!(1), json!("VOLUME_VOLUME_007_003")));
    let snapshot = w.post("/snapshots", json!({"snapshot": {"volume_id": id}})).await.expect(202)["snapshot"]["id"].clone();
    let snapshot = snapshot.as_str().unwrap();
    w.becomes("snapshot", snapshot, "error").await;
    assert_eq!((w.message_of(snapshot).await, w.promised(id).await), (json!("VOLUME_VOLUME_SNAPSHOT_009_003"), Some(1)));
    assert_eq!(w.delete(&format!("/snapshots/{snapshot}")).await.status, 202);
    w.gone("snapshot", snapshot).await;
    // What one gives back another gets.
    assert_eq!(w.delete(&format!("/volumes/{}", there[1])).await.status, 202);
    w.gone("volume", &there[1]).await;
    assert_eq!(w.act(id, json!({"os-extend": {"new_size": 2}})).await.status, 202);
    assert_eq!(w.becomes("volume", id, "available").await["size"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_does_not_go_where_there_is_no_room() {
    let w = World::on(Cloud::with_hosts(2).await).await;
    w.cloud.until(&w.admin, "/volume/v3/scheduler-stats/get_pools", PATIENCE, |a| a.json()["pools"][1].is_object()).await;
    let made = w.call(&w.admin, "POST", "/volumes", json!({"volume": {"size": 1}}), "3.71").await.expect(202);
    let id = made["volume"]["id"].as_str().unwrap();
    let path = format!("/volume/v3/volumes/{id}");
    let made = w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["volume"]["status"] == "available").await;
    let there = if made.json()["volume"]["os-vol-host-attr:host"] == "host-0@local#local" { "host-1" } else { "host-0" };
    w.leave(there, 0).await;
    let go = json!({"os-migrate_volume": {"host": format!("{there}@local#local")}});
    let path = format!("/volumes/{id}/action");
    let refused = w.call(&w.admin, "POST", &path, go, "3.71").await.expect(400);
    assert!(refused.to_string().contains("no room"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_an_older_release_get_their_allocations_at_the_first_start() {
    let w = World::new().await;
    let id = w.volume(json!({"size": 3})).await;
    w.snapshot(&id).await;
    let error = w.volume(json!({"size": 1})).await;
    // As a release that did not know of them left the store.
    let forget = |tx: &store::Tx| {
        for table in ["allocation", "consumer", "volume_pool"] {
            tx.execute(&format!("DELETE FROM {table}"), &[])?;
        }
        let below = "(SELECT uuid FROM provider WHERE name LIKE '%@local#local')";
        tx.execute(&format!("DELETE FROM inventory WHERE provider IN {below}"), &[])?;
        tx.execute("DELETE FROM provider WHERE name LIKE '%@local#local'", &[])?;
        tx.execute("UPDATE volume SET status = 'error', host_id = NULL, host = NULL WHERE size = 1", &[]).map(drop)
    };
    w.cloud.controller.core.store.write(forget).await.unwrap();
    let World { cloud, admin, member } = w;
    let w = World { cloud: cloud.crash().await, admin, member };
    assert_eq!((w.promised(&id).await, w.promised(&error).await), (Some(6), None));
    let shown = w.allocation(&id).await;
    assert_eq!((&shown["consumer_type"], &shown["consumer_generation"]), (&json!("VOLUME"), &json!(1)));
    // Only once: what somebody has taken away since stays away until the volume changes.
    assert_eq!(w.placement("DELETE", &format!("/allocations/{id}"), Value::Null).await.status, 204);
    let World { cloud, admin, member } = w;
    let w = World { cloud: cloud.crash().await, admin, member };
    assert_eq!(w.promised(&id).await, None);
    w.cloud.until(&w.admin, "/volume/v3/scheduler-stats/get_pools", PATIENCE, |a| a.json()["pools"][0].is_object()).await;
    assert_eq!(w.act(&id, json!({"os-extend": {"new_size": 4}})).await.status, 202);
    w.becomes("volume", &id, "available").await;
    assert_eq!(w.promised(&id).await, Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_gone_for_good_leaves_no_provider_and_no_name_taken() {
    let mut w = World::new().await;
    let host = w.asked("/resource_providers?name=host-0").await["resource_providers"][0]["uuid"].as_str().unwrap().to_string();
    w.cloud.hosts[0].vanish().await;
    let controller = &w.cloud.controller;
    let (volumes, compute, id) = (controller.volumes.clone(), controller.compute.clone(), host.clone());
    // Its service first, as clients do; then what starts anew finds a host of block storage yet; then the rest.
    controller.core.store.write(move |tx| compute.host_forget_in(tx, &id)).await.unwrap();
    assert!(w.asked("/resource_providers").await["resource_providers"].as_array().unwrap().is_empty());
    w.cloud = w.cloud.crash().await;
    assert_eq!(w.provider("host-0").await["root_provider_uuid"], json!(host));
    let controller = &w.cloud.controller;
    let (compute, id) = (controller.compute.clone(), host.clone());
    controller.core.store.write(move |tx| volumes.host_forget_in(tx, &id).and_then(|()| compute.host_forget_in(tx, &id))).await.unwrap();
    assert!(w.asked("/resource_providers").await["resource_providers"].as_array().unwrap().is_empty());
}

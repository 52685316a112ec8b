//! Volumes in storage that hosts share: they go wherever their servers go, also from a host that is lost, once that is fenced.

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Answer, Cloud};

use crate::world::{PATIENCE, World};

async fn until(what: &str, mut fits: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !fits().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A cloud whose first two hosts share storage; the third has only its own disk.
struct Site {
    w: World,
    storage: tempfile::TempDir,
}

impl Site {
    async fn new() -> Site {
        let storage = tempfile::tempdir().unwrap();
        std::fs::write(storage.path().join("sturnus-storage"), base::id::uuid()).unwrap();
        let mut cloud = Cloud::with_hosts(3).await;
        for number in 0..2 {
            cloud.hosts[number].vanish().await;
            cloud.hosts[number].settings.push(("host.shared_storage", storage.path().to_str().unwrap().into()));
            cloud.host_return(number).await;
        }
        let w = World::on(cloud, 3).await;
        let both = |a: &Answer| a.json()["pools"].as_array().unwrap().iter().filter(|p| shared(&p["name"])).count() == 2;
        w.cloud.until(&w.admin, "/volume/v3/scheduler-stats/get_pools", PATIENCE, both).await;
        let kind = json!({"volume_type": {"name": "shared", "extra_specs": {"volume_backend_name": "shared"}}});
        w.cloud.post(&w.admin, "/volume/v3/types", kind).await.expect(200);
        Site { w, storage }
    }

    async fn volume(&self, mut body: Value) -> String {
        body["size"] = json!(1);
        let made = self.w.cloud.post(&self.w.admin, "/volume/v3/volumes", json!({ "volume": body })).await.expect(202);
        let id = made["volume"]["id"].as_str().unwrap().to_string();
        self.volume_is(&id, "status", "available").await;
        id
    }

    async fn volume_is(&self, id: &str, attribute: &str, value: &str) {
        let path = format!("/volume/v3/volumes/{id}");
        self.w.cloud.until(&self.w.admin, &path, PATIENCE, |a| a.json()["volume"][attribute] == value).await;
    }

    async fn kept_by(&self, id: &str, host: &str) {
        self.volume_is(id, "os-vol-host-attr:host", &format!("{host}@shared#shared")).await;
    }

    /// A running server on a host, whose root disk is this volume if one is named.
    async fn server(&self, host: &str, root: Option<&str>) -> String {
        let mut body = self.w.body(json!({"availability_zone": format!("nova:{host}")}));
        if let Some(root) = root {
            body["server"]["imageRef"] = json!("");
            body["server"]["block_device_mapping_v2"] =
                json!([{"source_type": "volume", "destination_type": "volume", "uuid": root, "boot_index": 0}]);
        }
        let id = self.call("POST", "/servers", body, "2.1").await.expect(202)["server"]["id"].as_str().unwrap().to_string();
        self.is(&id, "ACTIVE", host).await;
        id
    }

    async fn call(&self, method: &str, path: &str, body: Value, version: &str) -> Answer {
        self.w.call(&self.w.admin, method, path, Some(body), version).await
    }

    async fn act(&self, id: &str, body: Value, version: &str) -> Answer {
        self.call("POST", &format!("/servers/{id}/action"), body, version).await
    }

    async fn attach(&self, server: &str, volume: &str) {
        let body = json!({"volumeAttachment": {"volumeId": volume}});
        self.call("POST", &format!("/servers/{server}/os-volume_attachments"), body, "2.1").await.expect(200);
        self.volume_is(volume, "status", "in-use").await;
    }

    /// Waits until a server has come to rest on a host.
    async fn is(&self, id: &str, status: &str, host: &str) {
        let fits = |a: &Answer| {
            let server = &a.json()["server"];
            server["status"] == status && server["OS-EXT-STS:task_state"].is_null() && server["OS-EXT-SRV-ATTR:host"] == host
        };
        self.w.cloud.until(&self.w.admin, &format!("/compute/v2.1/servers/{id}"), PATIENCE, fits).await;
    }

    /// The hosts whose process of a server has a volume.
    fn plugged(&self, server: &str, volume: &str) -> Vec<usize> {
        let has = |n: &usize| self.w.cloud.hosts[*n].hypervisor.plugged(server).contains_key(volume);
        (0..self.w.cloud.hosts.len()).filter(has).collect()
    }

    async fn only_on(&self, server: &str, volume: &str, host: usize) {
        until("one host has it", async || self.plugged(server, volume) == [host]).await;
    }

    /// What the record of a volume says of its keeper.
    fn keeper(&self, volume: &str) -> Value {
        let path = self.storage.path().join("volumes").join(format!("{volume}.json"));
        serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap()["keeper"].clone()
    }

    async fn host_id(&self, name: &str) -> String {
        let hosts = self.w.cloud.get(&self.w.admin, "/inventory/v1/ihosts").await.expect(200);
        let all = hosts["ihosts"].as_array().unwrap().clone();
        all.iter().find(|host| host["hostname"] == name).unwrap()["uuid"].as_str().unwrap().to_string()
    }
}

fn shared(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.ends_with("@shared#shared"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_is_a_backend_of_each_host_that_sees_it() {
    let site = Site::new().await;
    let w = &site.w;
    let pools = w.cloud.get(&w.admin, "/volume/v3/scheduler-stats/get_pools?detail=true").await.expect(200);
    let mut names: Vec<&str> = pools["pools"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["host-0@local#local", "host-0@shared#shared", "host-1@local#local", "host-1@shared#shared", "host-2@local#local"]);
    let services = w.cloud.get(&w.admin, "/volume/v3/os-services?binary=cinder-volume").await.expect(200);
    assert_eq!(services["services"].as_array().unwrap().iter().filter(|s| s["host"].as_str().unwrap().ends_with("@shared")).count(), 2);
    let capabilities = w.cloud.get(&w.admin, "/volume/v3/capabilities/host-1@shared").await.expect(200);
    assert_eq!((&capabilities["volume_backend_name"], &capabilities["storage_protocol"]), (&json!("shared"), &json!("file")));

    // Nobody gets it who has not asked for it.
    let plain = site.volume(json!({})).await;
    let volume = site.volume(json!({"volume_type": "shared"})).await;
    let host = async |id: &str| {
        w.cloud.get(&w.admin, &format!("/volume/v3/volumes/{id}")).await.expect(200)["volume"]["os-vol-host-attr:host"].clone()
    };
    assert!(host(&plain).await.as_str().unwrap().ends_with("@local#local"));
    assert!(shared(&host(&volume).await));
    let pools = w.cloud.get(&w.admin, "/volume/v3/scheduler-stats/get_pools?detail=true").await.expect(200);
    for pool in pools["pools"].as_array().unwrap().iter().filter(|p| shared(&p["name"])) {
        assert_eq!(pool["capabilities"]["allocated_capacity_gb"], 1, "both see the same: {pool}");
    }
    let retype = json!({"os-retype": {"new_type": "shared"}});
    let refused = w.cloud.post(&w.admin, &format!("/volume/v3/volumes/{plain}/action"), retype).await;
    assert!(refused.status == 400 && refused.text().contains("between backends"), "{}", refused.text());

    // Snapshots, copies, more room, and back: as any other.
    let body = json!({"snapshot": {"volume_id": volume, "name": "s"}});
    let snapshot = w.cloud.post(&w.admin, "/volume/v3/snapshots", body).await.expect(202)["snapshot"]["id"].as_str().unwrap().to_string();
    let of_snapshot = format!("/volume/v3/snapshots/{snapshot}");
    w.cloud.until(&w.admin, &of_snapshot, PATIENCE, |a| a.json()["snapshot"]["status"] == "available").await;
    let copy = site.volume(json!({"snapshot_id": snapshot})).await;
    assert!(shared(&host(&copy).await), "its type is that of what it is made of");
    let booted = site.volume(json!({"volume_type": "shared", "imageRef": w.image})).await;
    for id in [&copy, &booted, &plain] {
        w.cloud.delete(&w.admin, &format!("/volume/v3/volumes/{id}")).await.expect(202);
        w.cloud.until(&w.admin, &format!("/volume/v3/volumes/{id}"), PATIENCE, |a| a.status == 404).await;
    }
    w.cloud.delete(&w.admin, &of_snapshot).await.expect(202);
    w.cloud.until(&w.admin, &of_snapshot, PATIENCE, |a| a.status == 404).await;
    w.cloud.delete(&w.admin, &format!("/volume/v3/volumes/{volume}")).await.expect(202);
    w.cloud.until(&w.admin, &format!("/volume/v3/volumes/{volume}"), PATIENCE, |a| a.status == 404).await;
    let left = std::fs::read_dir(site.storage.path().join("volumes")).unwrap().map(|e| e.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| !name.to_string_lossy().ends_with(".new")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_go_with_their_server_and_nothing_is_copied() {
    let site = Site::new().await;
    let w = &site.w;
    let volume = site.volume(json!({"volume_type": "shared"})).await;
    let away = json!({"os-migrate_volume": {"host": "host-1@shared#shared"}});
    let before =
        w.cloud.get(&w.admin, &format!("/volume/v3/volumes/{volume}")).await.expect(200)["volume"]["os-vol-host-attr:host"].clone();
    if before != "host-1@shared#shared" {
        w.cloud.post(&w.admin, &format!("/volume/v3/volumes/{volume}/action"), away).await.expect(202);
    }
    site.kept_by(&volume, "host-1").await;
    // Attached to a server on the other host, with a snapshot that comes along.
    let body = json!({"snapshot": {"volume_id": volume, "name": "s"}});
    let snapshot = w.cloud.post(&w.admin, "/volume/v3/snapshots", body).await.expect(202)["snapshot"]["id"].as_str().unwrap().to_string();
    let of_snapshot = format!("/volume/v3/snapshots/{snapshot}");
    w.cloud.until(&w.admin, &of_snapshot, PATIENCE, |a| a.json()["snapshot"]["status"] == "available").await;
    let server = site.server("host-0", None).await;
    site.attach(&server, &volume).await;
    site.kept_by(&volume, "host-0").await;
    site.only_on(&server, &volume, 0).await;

    // While it runs.
    site.act(&server, json!({"os-migrateLive": {"host": null, "block_migration": "auto"}}), "2.30").await.expect(202);
    site.is(&server, "ACTIVE", "host-1").await;
    site.kept_by(&volume, "host-1").await;
    site.only_on(&server, &volume, 1).await;
    let there = site.host_id("host-1").await;
    until("the other host has let go", async || site.keeper(&volume) == there.as_str()).await;
    // Where the storage is not seen it does not go.
    let blind =
        site.act(&server, json!({"os-migrateLive": {"host": "host-2", "block_migration": false, "disk_over_commit": false}}), "2.1").await;
    assert_eq!(blind.status, 400, "{}", blind.text());

    // Switched off, and back.
    site.act(&server, json!({"migrate": {}}), "2.1").await.expect(202);
    site.is(&server, "VERIFY_RESIZE", "host-0").await;
    site.only_on(&server, &volume, 0).await;
    site.act(&server, json!({"revertResize": null}), "2.1").await.expect(202);
    site.is(&server, "ACTIVE", "host-1").await;
    site.kept_by(&volume, "host-1").await;
    site.only_on(&server, &volume, 1).await;

    // From the shelf to another host.
    site.act(&server, json!({"shelve": null}), "2.1").await.expect(202);
    let offloaded = |a: &Answer| a.json()["server"]["status"] == "SHELVED_OFFLOADED";
    w.cloud.until(&w.admin, &format!("/compute/v2.1/servers/{server}"), PATIENCE, offloaded).await;
    let disable = json!({"status": "disabled"});
    let services = w.call(&w.admin, "GET", "/os-services?host=host-1&binary=nova-compute", None, "2.53").await.expect(200);
    let service = services["services"][0]["id"].as_str().unwrap().to_string();
    site.call("PUT", &format!("/os-services/{service}"), disable, "2.53").await.expect(200);
    site.act(&server, json!({"unshelve": null}), "2.1").await.expect(202);
    site.is(&server, "ACTIVE", "host-0").await;
    site.kept_by(&volume, "host-0").await;
    site.only_on(&server, &volume, 0).await;
    let shown = w.cloud.get(&w.admin, &of_snapshot).await.expect(200);
    assert_eq!(shown["snapshot"]["status"], "available");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_a_lost_host_comes_up_with_its_volumes_once_the_host_is_fenced() {
    let mut site = Site::new().await;
    let root = site.volume(json!({"volume_type": "shared", "imageRef": site.w.image})).await;
    // Wherever it is kept, it comes to its server.
    let body = json!({"os-migrate_volume": {"host": "host-1@shared#shared"}});
    let shown = site.w.cloud.get(&site.w.admin, &format!("/volume/v3/volumes/{root}")).await.expect(200);
    if shown["volume"]["os-vol-host-attr:host"] != "host-1@shared#shared" {
        site.w.cloud.post(&site.w.admin, &format!("/volume/v3/volumes/{root}/action"), body).await.expect(202);
        site.kept_by(&root, "host-1").await;
        let migrated = |a: &Answer| a.json()["volume"]["migration_status"] == "success";
        site.w.cloud.until(&site.w.admin, &format!("/volume/v3/volumes/{root}"), PATIENCE, migrated).await;
    }
    let data = site.volume(json!({"volume_type": "shared"})).await;
    let server = site.server("host-0", Some(&root)).await;
    site.attach(&server, &data).await;
    // One with a volume of its host's own disk stays, and says why.
    let (bound, local) = (site.server("host-0", None).await, site.volume(json!({})).await);
    let body = json!({"volumeAttachment": {"volumeId": local}});
    site.call("POST", &format!("/servers/{bound}/os-volume_attachments"), body, "2.1").await.expect(200);
    site.volume_is(&local, "status", "in-use").await;
    let (store, compute) = (site.w.cloud.controller.core.store.clone(), site.w.cloud.controller.compute.clone());
    let lost = site.host_id("host-0").await;
    let stranded = async || store.read(|tx| compute.stranded_in(tx, &lost)).await.unwrap();
    until("the host confirms what ends with its lease", async || stranded().await.iter().any(|s| s.id == server && s.leased)).await;
    let obstacles: Vec<(bool, bool)> = stranded().await.iter().map(|s| (s.id == bound, s.obstacle.is_some())).collect();
    assert!(obstacles.iter().all(|(bound, obstacle)| bound == obstacle), "{obstacles:?}");
    assert!(stranded().await.iter().all(|s| s.leased == (s.id == server)));

    site.w.cloud.hosts[0].vanish().await;
    let down = |a: &Answer| a.json()["services"].as_array().unwrap().iter().any(|s| s["host"] == "host-0" && s["state"] == "down");
    site.w.cloud.until(&site.w.admin, "/compute/v2.1/os-services", PATIENCE, down).await;
    let early = site.act(&server, json!({"evacuate": {}}), "2.95").await;
    assert!(early.status == 409 && early.text().contains("must be fenced first"), "{}", early.text());
    let never = site.act(&bound, json!({"evacuate": {}}), "2.95").await;
    assert!(never.status == 409 && never.text().contains("is on host host-0"), "{}", never.text());
    assert_eq!((site.plugged(&server, &root), site.keeper(&root)), (vec![0], json!(lost)));

    // Fenced: its processes have ended with its lease.
    site.w.cloud.hosts[0].hypervisor.kill(&server, "the lease is over");
    let (inventory, engine, id) = (site.w.cloud.controller.inventory.clone(), compute.clone(), lost.clone());
    store
        .write(move |tx| {
            inventory.host_fence_in(tx, &id)?;
            engine.host_failed_in(tx, &id)
        })
        .await
        .unwrap();
    // The site's own recovery may be faster than the administrator.
    let asked = site.act(&server, json!({"evacuate": {}}), "2.94").await;
    assert!(matches!(asked.status, 200 | 400 | 409), "{}", asked.text());
    site.is(&server, "ACTIVE", "host-1").await;
    for volume in [&root, &data] {
        site.kept_by(volume, "host-1").await;
        site.only_on(&server, volume, 1).await;
    }
    let there = site.host_id("host-1").await;
    assert_eq!((site.keeper(&root), site.keeper(&data)), (json!(there), json!(there)));

    // It comes back, and has nothing of it any more: what it kept is the other host's.
    site.w.cloud.host_return(0).await;
    let clear = async || store.read(|tx| compute.host_is_clear_in(tx, &lost)).await.unwrap();
    until("the host knows what became of its guests", clear).await;
    assert!(!site.w.cloud.hosts[0].hypervisor.running().contains(&server));
    let body = json!({"snapshot": {"volume_id": root, "force": true, "name": "s"}});
    let made = site.w.cloud.post(&site.w.admin, "/volume/v3/snapshots", body).await.expect(202);
    let path = format!("/volume/v3/snapshots/{}", made["snapshot"]["id"].as_str().unwrap());
    site.w.cloud.until(&site.w.admin, &path, PATIENCE, |a| a.json()["snapshot"]["status"] == "available").await;
    assert_eq!(site.keeper(&root), json!(there));
}

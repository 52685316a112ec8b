//! Servers that boot from a volume: imaged, shelved, rescued, resized like any other.

use std::sync::Arc;

use async_trait::async_trait;
use base::Result;
use compute::op::{server_copy, server_reimage, server_shelve, server_unshelve};
use serde_json::{Value, json};
use task::testing::{Fixture, four_runs};
use task::{Engine, Operation};
use testing::Answer;

use crate::world::{PATIENCE, World};

impl World {
    /// A server that runs from a volume made for it.
    async fn volume_backed(&self) -> String {
        self.volume_backed_on(json!([{"uuid": self.network}])).await
    }
    async fn volume_backed_on(&self, networks: Value) -> String {
        let device = json!({"boot_index": 0, "uuid": self.image, "source_type": "image", "destination_type": "volume", "volume_size": 1,
            "delete_on_termination": true});
        let id = self.create(json!({"block_device_mapping_v2": [device], "imageRef": "", "networks": networks})).await;
        self.wait(&id, "ACTIVE").await;
        id
    }
    async fn root(&self, id: &str) -> String {
        let all = self.get(&format!("/servers/{id}/os-volume_attachments"), "2.100").await.expect(200)["volumeAttachments"].clone();
        all[0]["volumeId"].as_str().unwrap().to_string()
    }
    async fn private_images(&self) -> Vec<Value> {
        let all = self.cloud.get(&self.tenant, "/image/v2/images?visibility=private").await.expect(200);
        all["images"].as_array().unwrap().clone()
    }
    async fn snapshots(&self) -> Vec<Value> {
        let all = self.cloud.get(&self.tenant, "/volume/v3/snapshots/detail").await.expect(200);
        all["snapshots"].as_array().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_boots_another() {
    let w = World::new().await;
    // From a volume that is there: it notes what its image was, as text.
    let made = w.cloud.post(&w.tenant, "/volume/v3/volumes", json!({"volume": {"size": 1, "imageRef": w.image}})).await.expect(202);
    let volume = made["volume"]["id"].as_str().unwrap().to_string();
    let path = format!("/volume/v3/volumes/{volume}");
    w.cloud.until(&w.tenant, &path, PATIENCE, |a| a.json()["volume"]["status"] == "available").await;
    let device = json!({"boot_index": 0, "uuid": volume, "source_type": "volume", "destination_type": "volume"});
    let id = w.active(json!({"block_device_mapping_v2": [device], "imageRef": ""})).await;
    assert_eq!(w.act(&id, json!({"createBackup": {"name": "b", "backup_type": "daily", "rotation": 1}})).await.status, 400);
    let made = w.act(&id, json!({"createImage": {"name": "copy", "metadata": {"k": "v"}}})).await.expect(202);
    let path = format!("/image/v2/images/{}", made["image_id"].as_str().unwrap());
    let image = w.cloud.until(&w.tenant, &path, PATIENCE, |a| a.json()["status"] == "active").await.json();
    w.wait(&id, "ACTIVE").await;
    assert_eq!((&image["size"], &image["k"], &image["bdm_v2"]), (&json!(0), &json!("v"), &json!("True")));
    let devices: Value = serde_json::from_str(image["block_device_mapping"].as_str().unwrap()).unwrap();
    let snapshots = w.snapshots().await;
    assert_eq!((snapshots.len(), &snapshots[0]["name"], &snapshots[0]["status"]), (1, &json!("snapshot for copy"), &json!("available")));
    assert_eq!((&devices[0]["snapshot_id"], &devices[0]["boot_index"]), (&snapshots[0]["id"], &json!(0)));
    // A volume of such an image is one of its snapshot.
    let body = json!({"volume": {"size": 1, "imageRef": image["id"]}});
    let request = w.cloud.request("POST", "/volume/v3/volumes").token(&w.tenant).header("openstack-api-version", "volume 3.46");
    let made = request.json(&body).send().await.expect(202);
    assert_eq!((&made["volume"]["snapshot_id"], &made["volume"]["bootable"]), (&snapshots[0]["id"], &json!("true")));
    let path = format!("/volume/v3/volumes/{}", made["volume"]["id"].as_str().unwrap());
    w.cloud.until(&w.tenant, &path, PATIENCE, |a| a.json()["volume"]["status"] == "available").await;
    assert_eq!(w.cloud.delete(&w.tenant, &path).await.status, 202);
    w.cloud.until(&w.tenant, &path, PATIENCE, |a| a.status == 404).await;

    let second = w.active(json!({"imageRef": image["id"]})).await;
    assert_eq!(w.wait(&second, "ACTIVE").await["image"], "", "it boots from a volume");
    let root = w.root(&second).await;
    assert_ne!(root, w.root(&id).await);
    let shown = w.cloud.get(&w.tenant, &format!("/volume/v3/volumes/{root}")).await.expect(200);
    assert_eq!(shown["volume"]["snapshot_id"], snapshots[0]["id"]);
    // What the image says can be nonsense.
    let broken = json!({"name": "broken", "disk_format": "raw", "container_format": "bare", "bdm_v2": "true", "block_device_mapping": "{"});
    let broken = w.cloud.post(&w.tenant, "/image/v2/images", broken).await.expect(201)["id"].clone();
    assert_eq!(w.post("/servers", w.body(json!({"imageRef": broken})), "2.100").await.status, 400);
    for server in [&id, &second] {
        assert_eq!(w.delete(&format!("/servers/{server}"), "2.1").await.status, 204);
        w.gone(server).await;
    }
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_shelved_and_comes_back_on_its_volume() {
    let w = World::with_hosts(2).await;
    let id = w.volume_backed().await;
    let (root, before) = (w.root(&id).await, w.cloud.get(&w.admin, &format!("/compute/v2.1/servers/{id}")).await.expect(200));
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    let shown = w.wait(&id, "SHELVED_OFFLOADED").await;
    assert_eq!(shown["hostId"], "");
    assert_eq!(w.private_images().await, Vec::<Value>::new(), "nothing had to be copied");
    assert_eq!(w.claimants().await, Vec::<String>::new());
    assert_eq!(w.act(&id, json!({"unshelve": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    let after = w.cloud.get(&w.admin, &format!("/compute/v2.1/servers/{id}")).await.expect(200);
    let host = "OS-EXT-SRV-ATTR:host";
    assert_eq!((&after["server"][host], w.root(&id).await), (&before["server"][host], root), "where its volume is");
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    w.wait(&id, "SHELVED_OFFLOADED").await;
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_rescued_and_resized() {
    let w = World::new().await;
    let id = w.volume_backed().await;
    let path = format!("/servers/{id}/action");
    let rescue = json!({"rescue": {"rescue_image_ref": w.image}});
    assert_eq!(w.post(&path, rescue.clone(), "2.86").await.status, 400, "since 2.87");
    assert_eq!(w.act(&id, json!({"rescue": {}})).await.status, 400, "it has no image of its own");
    w.post(&path, rescue, "2.87").await.expect(200);
    w.wait(&id, "RESCUE").await;
    let root = w.root(&id).await;
    assert!(w.cloud.hosts[0].hypervisor.plugged(&id).contains_key(&root), "its volume is beside");
    assert_eq!(w.act(&id, json!({"unrescue": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;

    // The flavor's root disk says nothing about a volume.
    let flavor = json!({"flavor": {"id": "2", "name": "m1.none", "ram": 128, "vcpus": 1, "disk": 0}});
    w.cloud.post(&w.admin, "/compute/v2.1/flavors", flavor).await.expect(200);
    assert_eq!(w.act(&id, json!({"resize": {"flavorRef": "2"}})).await.status, 202);
    w.wait(&id, "VERIFY_RESIZE").await;
    assert_eq!(w.act(&id, json!({"confirmResize": null})).await.status, 204);
    let shown = w.wait(&id, "ACTIVE").await;
    assert_eq!((&shown["flavor"]["id"], w.root(&id).await), (&json!("2"), root));
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_rebuilt_as_its_version_allows() {
    let w = World::new().await;
    let id = w.volume_backed().await;
    let (root, path) = (w.root(&id).await, format!("/servers/{id}/action"));
    let other = json!({"name": "other", "disk_format": "raw", "container_format": "bare"});
    let other = w.cloud.post(&w.tenant, "/image/v2/images", other).await.expect(201)["id"].as_str().unwrap().to_string();
    let file = w.cloud.request("PUT", &format!("/image/v2/images/{other}/file")).token(&w.tenant);
    assert_eq!(file.text("application/octet-stream", vec![9u8; 65536]).send().await.status, 204);
    let rebuild = |image: &str| json!({"rebuild": {"imageRef": image, "name": "again"}});
    assert_eq!(w.post(&path, rebuild(&other), "2.92").await.status, 400, "another image, since 2.93");
    let head = |w: &World| w.cloud.hosts[0].hypervisor.plugged(&id)[&root].clone();
    let first = head(&w);
    w.post(&path, rebuild(&w.image), "2.92").await.expect(202);
    assert_eq!(w.wait(&id, "ACTIVE").await["name"], "again");
    assert_eq!(head(&w), first, "what the volume holds stays");

    w.post(&path, rebuild(&other), "2.93").await.expect(202);
    let shown = w.wait(&id, "ACTIVE").await;
    assert_eq!((&shown["image"], w.root(&id).await), (&json!(""), root.clone()));
    assert_ne!(head(&w), first, "it has a new beginning");
    let volume = w.cloud.get(&w.tenant, &format!("/volume/v3/volumes/{root}")).await.expect(200)["volume"].clone();
    assert_eq!((&volume["status"], &volume["volume_image_metadata"]["image_id"]), (&json!("in-use"), &json!(other)));
    assert_eq!(w.act(&id, json!({"os-stop": null})).await.status, 202);
    w.wait(&id, "SHUTOFF").await;
    w.post(&path, rebuild(&w.image), "2.104").await.expect(202);
    w.wait(&id, "SHUTOFF").await;
    let large = json!({"name": "large", "disk_format": "raw", "container_format": "bare", "min_disk": 5});
    let large = w.cloud.post(&w.tenant, "/image/v2/images", large).await.expect(201)["id"].as_str().unwrap().to_string();
    assert_eq!(w.post(&path, rebuild(&large), "2.93").await.status, 400, "it has no content, and needs more room");
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Rebuild,
    Image,
    Shelve,
    Unshelve,
}

/// A whole cloud whose own engine has been stopped: the run's engine works.
struct Runs {
    w: World,
    id: String,
    kind: Kind,
    _beside: Engine,
}

impl Runs {
    async fn new(kind: Kind) -> Runs {
        let w = World::new().await;
        // With the engine stopped nobody tells hosts of new ports.
        let id = w.volume_backed_on(json!("none")).await;
        if kind == Kind::Unshelve {
            assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
            w.wait(&id, "SHELVED_OFFLOADED").await;
        }
        let cloud = &w.cloud.controller;
        cloud.core.tasks.stop().await;
        // What is done with volumes is of another controller, which nobody kills.
        let beside = Engine::new(cloud.core.store.clone(), "beside");
        beside.register(Arc::new(block_storage::op::VolumeChange(cloud.volumes.clone())));
        beside.start().await.unwrap();
        Runs { w, id, kind, _beside: beside }
    }

    async fn rebuilt(&self, status: &str) {
        let path = format!("/compute/v2.1/servers/{}", self.id);
        let settled = |a: &Answer| [status, "ACTIVE"].iter().any(|s| a.json()["server"]["status"] == *s);
        self.w.cloud.until(&self.w.tenant, &path, PATIENCE, settled).await;
        let root = format!("/volume/v3/volumes/{}", self.w.root(&self.id).await);
        self.w.cloud.until(&self.w.tenant, &root, PATIENCE, |a| a.json()["volume"]["status"] == "in-use").await;
        let started = std::time::Instant::now();
        while self.w.cloud.hosts[0].hypervisor.running().is_empty() {
            assert!(started.elapsed() < PATIENCE, "the guest does not run");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Rebuild => server_reimage::KIND,
            Kind::Image => server_copy::KIND,
            Kind::Shelve => server_shelve::KIND,
            Kind::Unshelve => server_unshelve::KIND,
        }
    }
}

#[async_trait]
impl Fixture for Runs {
    fn store(&self) -> store::Store {
        self.w.cloud.controller.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        let compute = self.w.cloud.controller.compute.clone();
        match self.kind {
            Kind::Rebuild => Arc::new(server_reimage::ServerReimage(compute)),
            Kind::Image => Arc::new(server_copy::ServerCopy(compute)),
            Kind::Shelve => Arc::new(server_shelve::ServerShelve(compute)),
            Kind::Unshelve => Arc::new(server_unshelve::ServerUnshelve(compute)),
        }
    }
    async fn submit(&self, _: &Engine) -> Result<String> {
        let body = match self.kind {
            Kind::Rebuild => json!({"rebuild": {"imageRef": self.w.image}}),
            Kind::Image => json!({"createImage": {"name": "copy"}}),
            Kind::Shelve => json!({"shelve": null}),
            Kind::Unshelve => json!({"unshelve": null}),
        };
        assert_eq!(self.w.act(&self.id, body).await.status, 202);
        let filter = task::Filter { kind: Some(self.name().into()), ..Default::default() };
        Ok(self.w.cloud.controller.core.tasks.list(&filter).await?.iter().max_by_key(|o| o.created_at).unwrap().id.clone())
    }
    async fn check_done(&self) {
        match self.kind {
            Kind::Rebuild => self.rebuilt("ACTIVE").await,
            Kind::Image => {
                assert_eq!(self.w.private_images().await[0]["status"], "active");
                assert_eq!(self.w.snapshots().await.len(), 1);
                self.w.wait(&self.id, "ACTIVE").await;
            }
            Kind::Shelve => drop(self.w.wait(&self.id, "SHELVED_OFFLOADED").await),
            Kind::Unshelve => drop(self.w.wait(&self.id, "ACTIVE").await),
        }
    }
    async fn leave(&self) {
        self.store().close().await;
    }

    async fn check_undone(&self) {
        match self.kind {
            // Its guest runs again, on one volume or the other.
            Kind::Rebuild => self.rebuilt("ERROR").await,
            Kind::Image => {
                assert_eq!(self.w.private_images().await, Vec::<Value>::new());
                let none = |a: &Answer| a.json()["snapshots"].as_array().is_some_and(Vec::is_empty);
                self.w.cloud.until(&self.w.tenant, "/volume/v3/snapshots", PATIENCE, none).await;
                self.w.wait(&self.id, "ACTIVE").await;
            }
            Kind::Shelve => drop(self.w.wait(&self.id, "ACTIVE").await),
            // The last step only clears away: then it runs.
            Kind::Unshelve => {
                let path = format!("/compute/v2.1/servers/{}", self.id);
                let settled = |a: &Answer| ["SHELVED_OFFLOADED", "ACTIVE"].iter().any(|s| a.json()["server"]["status"] == *s);
                self.w.cloud.until(&self.w.tenant, &path, PATIENCE, settled).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilding_one_survives_the_four_runs() {
    four_runs(|| Runs::new(Kind::Rebuild)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_survives_the_four_runs() {
    four_runs(|| Runs::new(Kind::Image)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shelving_one_survives_the_four_runs() {
    four_runs(|| Runs::new(Kind::Shelve)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unshelving_one_survives_the_four_runs() {
    four_runs(|| Runs::new(Kind::Unshelve)).await;
}

//! Images that volumes hold: a store of the image service on simulated hosts.

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Answer, Cloud, Token};

use crate::api::{PATIENCE, World};

/// A cloud whose images are in volumes.
async fn world(hosts: usize) -> World {
    let settings = [("image.stores", "far=cinder:3"), ("image.default_store", "far"), ("image.show_multiple_locations", "true")];
    World::on(Cloud::with_settings(hosts, &settings).await).await
}

fn content(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

impl World {
    async fn crashed(self) -> World {
        let World { cloud, admin, member } = self;
        World { cloud: cloud.crash().await, admin, member }
    }

    async fn queued(&self) -> String {
        let image = json!({"name": "i", "disk_format": "raw", "container_format": "bare"});
        self.cloud.post(&self.member, "/image/v2/images", image).await.expect(201)["id"].as_str().unwrap().to_string()
    }

    async fn upload(&self, image: &str, content: &[u8]) -> Answer {
        let request = self.cloud.request("PUT", &format!("/image/v2/images/{image}/file")).token(&self.member);
        request.text("application/octet-stream", content.to_vec()).send().await
    }

    async fn image(&self, content: &[u8]) -> String {
        let image = self.queued().await;
        let uploaded = self.upload(&image, content).await;
        assert_eq!(uploaded.status, 204, "{}", uploaded.text());
        image
    }

    async fn shown(&self, image: &str) -> Value {
        self.cloud.get(&self.member, &format!("/image/v2/images/{image}")).await.expect(200)
    }

    async fn download(&self, image: &str) -> Answer {
        self.cloud.get(&self.member, &format!("/image/v2/images/{image}/file")).await
    }

    /// Forgets what has been read of an image.
    async fn uncached(&self, image: &str) {
        assert_eq!(self.cloud.delete(&self.admin, &format!("/image/v2/cache/{image}")).await.status, 204);
    }

    /// All volumes of all projects.
    async fn volumes(&self) -> Vec<Value> {
        let listed = self.cloud.get(&self.admin, "/volume/v3/volumes/detail?all_tenants=1").await.expect(200);
        listed["volumes"].as_array().unwrap().clone()
    }

    /// Waits until the hosts together have so many files of volumes.
    async fn files(&self, count: usize) {
        let started = std::time::Instant::now();
        let all = || self.cloud.hosts.iter().flat_map(|host| host.hypervisor.layer_files()).collect::<Vec<_>>();
        while all().len() != count {
            assert!(started.elapsed() < PATIENCE, "{:?}, not {count}", all());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn no_volumes(&self) {
        let started = std::time::Instant::now();
        while !self.volumes().await.is_empty() {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.volumes().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.files(0).await;
    }

    async fn drop_image(&self, token: &Token, image: &str) {
        assert_eq!(self.cloud.delete(token, &format!("/image/v2/images/{image}")).await.status, 204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_holds_an_image() {
    let w = world(2).await;
    // More than one piece, and no whole sector at its end.
    let content = content(9_000_001);
    let image = w.image(&content).await;
    let shown = w.shown(&image).await;
    assert_eq!((&shown["status"], &shown["stores"]), (&json!("active"), &json!("far")), "{shown}");
    let volumes = w.volumes().await;
    let volume = volumes[0].clone();
    let id = volume["id"].as_str().unwrap();
    assert_eq!((volumes.len(), &shown["locations"][0]["url"]), (1, &json!(format!("cinder://far/{id}"))));
    assert_eq!((&volume["name"], &volume["size"]), (&json!(format!("image-{image}")), &json!(1)));
    assert_eq!(volume["status"], "available");
    let noted = json!({"glance_image_id": image, "image_size": "9000001", "image_owner": shown["owner"], "readonly": "True"});
    assert_eq!(volume["metadata"], noted);
    let projects = w.cloud.get(&w.admin, "/identity/v3/projects?name=service").await.expect(200);
    assert_eq!(volume["os-vol-tenant-attr:tenant_id"], projects["projects"][0]["id"]);
    // The bytes, and the empty head over them. Nobody else's members see it.
    w.files(2).await;
    assert_eq!(w.get(&format!("/volumes/{id}")).await.status, 404);
    assert!(w.download(&image).await.bytes == content);
    let path = format!("/image/v2/images/{image}/file");
    let part = w.cloud.request("GET", &path).token(&w.member).header("range", "bytes=8999990-9000000").send().await;
    assert_eq!((part.status, &part.bytes[..]), (206, &content[8_999_990..]));
    // What was offered for reading is offered no more.
    w.files(2).await;
    w.uncached(&image).await;

    // Extended, frozen by its owner and migrated, it holds the image as before.
    let act = async |body: Value| w.call(&w.admin, "POST", &format!("/volumes/{id}/action"), body, "3.71").await.status;
    let settled = async |host: &str| {
        let fits = |a: &Answer| {
            let v = &a.json()["volume"];
            v["status"] == "available"
                && v["os-vol-host-attr:host"].as_str().unwrap().starts_with(host)
                && v["migration_status"] != "migrating"
        };
        w.cloud.until(&w.admin, &format!("/volume/v3/volumes/{id}"), PATIENCE, fits).await;
    };
    let here = volume["os-vol-host-attr:host"].as_str().unwrap().split('@').next().unwrap().to_string();
    let there = if here == "host-0" { "host-1" } else { "host-0" };
    assert_eq!(act(json!({"os-extend": {"new_size": 2}})).await, 202);
    settled(&here).await;
    assert_eq!(act(json!({"os-migrate_volume": {"host": format!("{there}@local#local")}})).await, 202);
    settled(there).await;
    assert!(w.download(&image).await.bytes == content);
    w.uncached(&image).await;

    // It goes with its image.
    w.drop_image(&w.member, &image).await;
    w.no_volumes().await;
    for content in [&b""[..], b"seven b", &[0; 5000]] {
        let image = w.image(content).await;
        assert!(w.download(&image).await.bytes == content);
        w.drop_image(&w.member, &image).await;
    }
    w.no_volumes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_it_are_made_without_a_byte() {
    let w = world(1).await;
    let content = content(70_000);
    let image = w.image(&content).await;
    w.files(2).await;
    let first = w.volume(json!({"imageRef": image, "size": 1})).await;
    let second = w.volume(json!({"imageRef": image, "size": 3})).await;
    // A head for each, over the same bytes, which have not been brought anywhere.
    w.files(4).await;
    let cache = w.cloud.get(&w.admin, "/image/v2/cache").await.expect(200);
    assert_eq!((&cache["cached_images"], &cache["queued_images"]), (&json!([]), &json!([])));
    let shown = w.get(&format!("/volumes/{first}")).await.expect(200)["volume"].clone();
    assert_eq!((&shown["bootable"], &shown["volume_image_metadata"]["image_id"]), (&json!("true"), &json!(image)));
    assert_eq!(shown["snapshot_id"], Value::Null);
    // An image of other bytes is none of it; neither is what is no raw disk.
    let qcow2 = json!({"name": "q", "disk_format": "raw", "container_format": "bare"});
    let other = w.cloud.post(&w.member, "/image/v2/images", qcow2).await.expect(201)["id"].as_str().unwrap().to_string();
    let request = w.cloud.request("PUT", &format!("/image/v2/images/{other}/file")).token(&w.member);
    let request = request.header("x-image-meta-store", "local").text("application/octet-stream", b"other".to_vec());
    assert_eq!(request.send().await.status, 204);
    let third = w.volume(json!({"imageRef": other, "size": 1})).await;
    w.files(5).await;
    // The volumes stay when the image goes, and the bytes with them.
    w.drop_image(&w.member, &image).await;
    w.cloud.until(&w.admin, "/volume/v3/volumes?all_tenants=1", PATIENCE, |a| a.json()["volumes"].as_array().unwrap().len() == 3).await;
    w.files(4).await;
    for volume in [&first, &second, &third] {
        assert_eq!(w.delete(&format!("/volumes/{volume}")).await.status, 202);
    }
    w.no_volumes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_is_told_and_tried_again() {
    let mut w = world(1).await;
    let image = w.image(b"content").await;
    w.cloud.hosts[0].vanish().await;
    let down = |a: &Answer| a.json()["services"].as_array().unwrap().iter().any(|s| s["binary"] == "cinder-volume" && s["state"] == "down");
    w.cloud.until(&w.admin, "/volume/v3/os-services", PATIENCE, down).await;
    let queued = w.queued().await;
    let refused = w.upload(&queued, b"more").await;
    assert_eq!((refused.status, w.shown(&queued).await["status"].as_str()), (503, Some("queued")), "{}", refused.text());
    let read = w.download(&image).await;
    assert!(read.status == 503 && read.text().contains(&image), "{}: {}", read.status, read.text());
    assert_eq!(w.volumes().await.len(), 1);
    let staged = w.cloud.request("PUT", &format!("/image/v2/images/{queued}/stage")).token(&w.member);
    assert_eq!(staged.text("application/octet-stream", b"more".to_vec()).send().await.status, 204);
    let import = json!({"method": {"name": "glance-direct"}});
    assert_eq!(w.cloud.post(&w.member, &format!("/image/v2/images/{queued}/import"), import).await.status, 202);
    w.cloud.until(&w.member, &format!("/image/v2/images/{queued}"), PATIENCE, |a| a.json()["status"] == "importing").await;
    w.cloud.host_return(0).await;
    w.cloud.until(&w.member, &format!("/image/v2/images/{queued}"), Duration::from_secs(60), |a| a.json()["status"] == "active").await;
    assert_eq!(w.download(&queued).await.text(), "more");
    assert_eq!(w.download(&image).await.text(), "content");
    // Damaged there, it is given to nobody; elsewhere whoever reads hears nothing of where it lies.
    w.uncached(&image).await;
    w.cloud.hosts[0].hypervisor.contents_damage();
    let damaged = w.download(&image).await;
    assert!(matches!(damaged.status, 500 | 503) && !damaged.text().contains("cinder"), "{}: {}", damaged.status, damaged.text());
    for image in [&image, &queued] {
        w.drop_image(&w.member, image).await;
    }
    w.no_volumes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_leaves_nothing() {
    let w = world(1).await;
    let projects = w.cloud.get(&w.admin, "/identity/v3/projects?name=service").await.expect(200);
    let service = projects["projects"][0]["id"].as_str().unwrap().to_string();
    let quota = async |volumes: i64| {
        let body = json!({"quota_set": {"volumes": volumes}});
        assert_eq!(w.cloud.put(&w.admin, &format!("/volume/v3/os-quota-sets/{service}"), body).await.status, 200);
    };
    quota(0).await;
    let image = w.queued().await;
    let refused = w.upload(&image, b"content").await;
    assert_eq!((refused.status, w.shown(&image).await["status"].as_str()), (413, Some("queued")), "{}", refused.text());
    quota(1).await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.full = true);
    let refused = w.upload(&image, b"content").await;
    assert_eq!((refused.status, w.shown(&image).await["status"].as_str()), (503, Some("queued")), "{}", refused.text());
    w.no_volumes().await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.full = false);
    assert_eq!(w.upload(&image, b"content").await.status, 204);
    assert_eq!(w.upload(&w.queued().await, b"content").await.status, 413);
    assert_eq!(w.download(&image).await.text(), "content");
    // One that somebody has a snapshot of stays until that is gone.
    let volume = w.volumes().await[0]["id"].as_str().unwrap().to_string();
    let wish = json!({"snapshot": {"volume_id": volume}});
    let made = w.call(&w.admin, "POST", "/snapshots", wish, "3.71").await.expect(202);
    let snapshot = format!("/volume/v3/snapshots/{}", made["snapshot"]["id"].as_str().unwrap());
    w.cloud.until(&w.admin, &snapshot, PATIENCE, |a| a.json()["snapshot"]["status"] == "available").await;
    w.uncached(&image).await;
    assert_eq!(w.download(&image).await.text(), "content");
    w.drop_image(&w.member, &image).await;
    assert_eq!(w.volumes().await.len(), 1);
    assert_eq!(w.cloud.delete(&w.admin, &snapshot).await.status, 202);
    w.cloud.until(&w.admin, &snapshot, PATIENCE, |a| a.status == 404).await;
    let w = w.crashed().await;
    w.no_volumes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_leaves_an_image_without_content_and_no_volume() {
    let w = world(1).await;
    let kept = w.image(b"kept").await;
    let image = w.queued().await;
    // Its host takes its time, in which the controller dies.
    w.cloud.hosts[0].hypervisor.trouble(|t| t.delay = Duration::from_secs(3600));
    {
        let upload = w.upload(&image, b"content");
        let begun = async {
            while w.volumes().await.len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = upload => panic!("{}", ended.text()),
            begun = tokio::time::timeout(PATIENCE, begun) => begun.unwrap(),
        }
    }
    let w = w.crashed().await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.delay = Duration::ZERO);
    w.cloud.until(&w.member, &format!("/image/v2/images/{image}"), PATIENCE, |a| a.json()["status"] == "queued").await;
    w.cloud.until(&w.admin, "/volume/v3/volumes?all_tenants=1", PATIENCE, |a| a.json()["volumes"].as_array().unwrap().len() == 1).await;
    w.files(2).await;
    assert_eq!(w.download(&kept).await.text(), "kept");
    assert_eq!(w.upload(&image, b"content").await.status, 204);
    assert_eq!(w.download(&image).await.text(), "content");
    w.files(4).await;
}

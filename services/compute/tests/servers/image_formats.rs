//! Servers and volumes of images that are no raw disk and no qcow2.

use std::process::Command;

use serde_json::{Value, json};

use crate::world::{PATIENCE, World};

/// A disk of one MiB in a format.
fn disk(format: &str) -> Vec<u8> {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("raw"), vec![7u8; 1 << 20]).unwrap();
    let made = Command::new("qemu-img").current_dir(home.path()).args(["convert", "-f", "raw", "-O", format, "raw", "made"]).output();
    assert!(made.expect("qemu-img is needed for this test").status.success());
    std::fs::read(home.path().join("made")).unwrap()
}

/// An ISO 9660 file system without any file.
fn disc() -> Vec<u8> {
    let mut bytes = vec![0u8; 40 << 10];
    bytes[32768..32775].copy_from_slice(b"\x01CD001\x01");
    bytes
}

impl World {
    async fn uploaded(&self, disk_format: &str, content: Vec<u8>) -> String {
        let body = json!({"name": disk_format, "disk_format": disk_format, "container_format": "bare"});
        let image = self.cloud.post(&self.tenant, "/image/v2/images", body).await.expect(201);
        let id = image["id"].as_str().unwrap().to_string();
        let file = format!("/image/v2/images/{id}/file");
        let stored = self.cloud.request("PUT", &file).token(&self.tenant).text("application/octet-stream", content).send().await;
        assert_eq!(stored.status, 204, "{}", stored.text());
        id
    }

    async fn shown_image(&self, server: &str) -> Value {
        self.get(&format!("/servers/{server}"), "2.1").await.expect(200)["server"]["image"]["id"].clone()
    }

    async fn reaches(&self, server: &str, action: Value, status: &str) {
        let begun = self.act(server, action.clone()).await;
        assert!(matches!(begun.status, 200 | 202), "{action}: {}", begun.text());
        self.wait(server, status).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_volumes_are_made_of_every_format() {
    let w = World::new().await;
    let mut images = Vec::new();
    for (ours, qemu) in [("vmdk", "vmdk"), ("vdi", "vdi"), ("vhd", "vpc"), ("vhdx", "vhdx"), ("qcow2", "qcow2")] {
        images.push(w.uploaded(ours, disk(qemu)).await);
    }
    images.push(w.uploaded("iso", disc()).await);
    let server = w.active(json!({"imageRef": images[0]})).await;
    for image in &images[1..] {
        w.reaches(&server, json!({"rebuild": {"imageRef": image}}), "ACTIVE").await;
        assert_eq!(w.shown_image(&server).await, json!(image));
        w.reaches(&server, json!({"rescue": {"rescue_image_ref": image}}), "RESCUE").await;
        w.reaches(&server, json!({"unrescue": null}), "ACTIVE").await;
    }
    for image in &images {
        let made = w.cloud.post(&w.tenant, "/volume/v3/volumes", json!({"volume": {"size": 1, "imageRef": image}})).await.expect(202);
        let volume = format!("/volume/v3/volumes/{}", made["volume"]["id"].as_str().unwrap());
        let settled = |a: &testing::Answer| matches!(a.json()["volume"]["status"].as_str(), Some("available" | "error"));
        let made = w.cloud.until(&w.tenant, &volume, PATIENCE, settled).await.json();
        assert_eq!(made["volume"]["status"], "available", "{made}");
        let reimage = w.cloud.request("POST", &format!("{volume}/action")).token(&w.tenant).header("openstack-api-version", "volume 3.68");
        let reimage = reimage.json(&json!({"os-reimage": {"image_id": images[0]}})).send().await;
        assert_eq!(reimage.status, 202, "{}", reimage.text());
        let made = w.cloud.until(&w.tenant, &volume, PATIENCE, settled).await.json();
        assert_eq!(made["volume"]["status"], "available", "{made}");
    }
    let opaque = w.uploaded("ploop", vec![7; 4096]).await;
    let refused = w.post("/servers", w.body(json!({"imageRef": opaque})), "2.1").await;
    assert!(refused.status == 400 && refused.text().contains("disk format ploop cannot be booted"), "{}", refused.text());
    let refused = w.cloud.post(&w.tenant, "/volume/v3/volumes", json!({"volume": {"size": 1, "imageRef": opaque}})).await;
    assert!(refused.status == 400 && refused.text().contains("format ploop"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_it_says_starts_nothing() {
    let w = World::new().await;
    let (server, lie) = (w.active(json!({})).await, w.uploaded("raw", disk("qcow2")).await);
    let other = w.create(json!({"imageRef": lie})).await;
    let fault = w.wait(&other, "ERROR").await["fault"]["message"].clone();
    assert!(fault.as_str().unwrap().contains("disk_format is raw, but the content is qcow2"), "{fault}");
    for action in [json!({"rebuild": {"imageRef": lie}}), json!({"rescue": {"rescue_image_ref": lie}})] {
        let refused = w.act(&server, action).await;
        assert!(refused.status == 400 && refused.text().contains("but the content is qcow2"), "{}", refused.text());
    }
    let refused = w.cloud.post(&w.tenant, "/volume/v3/volumes", json!({"volume": {"size": 1, "imageRef": lie}})).await;
    assert!(refused.status == 400 && refused.text().contains("but the content is qcow2"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_its_image_when_the_new_one_cannot_be_converted() {
    let w = World::new().await;
    let (server, image) = (w.active(json!({})).await, w.uploaded("vmdk", disk("vmdk")).await);
    let shown = w.cloud.get(&w.tenant, &format!("/image/v2/images/{image}")).await.expect(200);
    assert_eq!(shown["status"], "active");
    // Its content is lost behind the records' back.
    let files: Vec<_> = std::fs::read_dir(w.cloud.home().join("images")).unwrap().map(|f| f.unwrap().path()).collect();
    let of_image = |f: &std::path::PathBuf| std::fs::metadata(f).unwrap().len() == shown["size"].as_u64().unwrap();
    files.iter().filter(|f| of_image(f)).for_each(|f| std::fs::write(f, "nothing").unwrap());
    let begun = w.act(&server, json!({"rebuild": {"imageRef": image}})).await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    let failed = |a: &testing::Answer| a.json()["instanceActions"][0]["message"] == "Error";
    w.cloud.until(&w.tenant, &format!("/compute/v2.1/servers/{server}/os-instance-actions"), PATIENCE, failed).await;
    assert_eq!(w.shown_image(&server).await, json!(w.image));
    w.reaches(&server, json!({"reboot": {"type": "HARD"}}), "ACTIVE").await;
    assert!(w.cloud.hosts[0].hypervisor.running().contains(&server));
}

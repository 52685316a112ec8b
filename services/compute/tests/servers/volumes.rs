//! Volumes of servers: attached while they run and while they do not, booted from, gone with them, and never half of either.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::Result;
use serde_json::{Value, json};
use task::testing::{Fixture, four_runs};
use task::{Engine, Operation};
use testing::Answer;

use crate::world::{PATIENCE, World};

impl World {
    async fn volume(&self, body: Value) -> String {
        let made = self.cloud.post(&self.tenant, "/volume/v3/volumes", json!({ "volume": body })).await.expect(202);
        let id = made["volume"]["id"].as_str().unwrap().to_string();
        self.volume_becomes(&id, "available").await;
        id
    }
    async fn volume_becomes(&self, id: &str, status: &str) -> Value {
        let path = format!("/volume/v3/volumes/{id}");
        let fits = |a: &Answer| [status, "error"].iter().any(|s| a.json()["volume"]["status"] == *s);
        let answer = self.cloud.until(&self.tenant, &path, PATIENCE, fits).await.json();
        assert_eq!(answer["volume"]["status"], status, "{answer}");
        answer["volume"].clone()
    }
    async fn volume_gone(&self, id: &str) {
        self.cloud.until(&self.tenant, &format!("/volume/v3/volumes/{id}"), PATIENCE, |a| a.status == 404).await;
    }
    async fn attach(&self, server: &str, volume: &str) -> Answer {
        let body = json!({"volumeAttachment": {"volumeId": volume}});
        self.post(&format!("/servers/{server}/os-volume_attachments"), body, "2.100").await
    }
    async fn no_layers(&self) {
        let started = Instant::now();
        while !self.cloud.hosts[0].hypervisor.layer_files().is_empty() {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.cloud.hosts[0].hypervisor.layer_files());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    fn plugged(&self, server: &str) -> Vec<String> {
        self.cloud.hosts.iter().flat_map(|host| host.hypervisor.plugged(server).into_keys()).collect()
    }
    /// Number of the host that has a server or a volume, as administrators see it.
    async fn place(&self, path: &str, body: &str, attribute: &str) -> usize {
        let shown = self.cloud.get(&self.admin, path).await.expect(200)[body][attribute].clone();
        shown.as_str().unwrap().split('@').next().unwrap().strip_prefix("host-").unwrap().parse().unwrap()
    }
    async fn place_of_volume(&self, id: &str) -> usize {
        self.place(&format!("/volume/v3/volumes/{id}"), "volume", "os-vol-host-attr:host").await
    }
    async fn place_of_server(&self, id: &str) -> usize {
        self.place(&format!("/compute/v2.1/servers/{id}"), "server", "OS-EXT-SRV-ATTR:host").await
    }
    /// A volume that is not on the host of this server. Needs two hosts.
    async fn volume_away_from(&self, server: &str) -> String {
        let (first, second) = (self.volume(json!({"size": 1})).await, self.volume(json!({"size": 1})).await);
        let here = self.place_of_server(server).await;
        assert_ne!(self.place_of_volume(&first).await, self.place_of_volume(&second).await, "the one with more room");
        let (away, near) = if self.place_of_volume(&first).await == here { (second, first) } else { (first, second) };
        assert_eq!(self.cloud.delete(&self.tenant, &format!("/volume/v3/volumes/{near}")).await.status, 202);
        self.volume_gone(&near).await;
        away
    }
    /// Files of volumes are on no host but this one.
    async fn only_on(&self, host: usize) {
        let started = Instant::now();
        let elsewhere = || self.cloud.hosts.iter().enumerate().any(|(n, h)| n != host && !h.hypervisor.layer_files().is_empty());
        while elsewhere() {
            assert!(started.elapsed() < PATIENCE, "something of a volume is on another host than {host}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_comes_and_goes_with_the_server_running() {
    let w = World::new().await;
    let (id, volume) = (w.active(json!({})).await, w.volume(json!({"size": 1})).await);
    let made = w.attach(&id, &volume).await.expect(200)["volumeAttachment"].clone();
    assert_eq!((&made["device"], &made["serverId"], &made["delete_on_termination"]), (&json!("/dev/vdb"), &json!(id), &json!(false)));
    let shown = w.volume_becomes(&volume, "in-use").await;
    assert_eq!((&shown["attachments"][0]["server_id"], &shown["attachments"][0]["device"]), (&json!(id), &json!("/dev/vdb")));
    assert_eq!(w.plugged(&id), std::slice::from_ref(&volume));
    let server = w.get(&format!("/servers/{id}"), "2.100").await.expect(200);
    assert_eq!(server["server"]["os-extended-volumes:volumes_attached"], json!([{"id": volume, "delete_on_termination": false}]));
    let path = format!("/servers/{id}/os-volume_attachments/{volume}");
    let old = w.get(&path, "2.1").await.expect(200)["volumeAttachment"].clone();
    assert_eq!(old, json!({"id": volume, "serverId": id, "volumeId": volume, "device": "/dev/vdb"}));
    assert!(w.get(&path, "2.89").await.expect(200)["volumeAttachment"]["attachment_id"].is_string());
    assert_eq!(
        w.get(&format!("/servers/{id}/os-volume_attachments"), "2.1").await.expect(200)["volumeAttachments"].as_array().unwrap().len(),
        1
    );

    assert_eq!(w.attach(&id, &volume).await.status, 400, "it is attached");
    assert_eq!(w.attach(&id, &base::id::uuid()).await.status, 404);
    let attachment = shown["attachments"][0]["attachment_id"].as_str().unwrap();
    let direct = w.cloud.request("DELETE", &format!("/volume/v3/attachments/{attachment}")).token(&w.tenant);
    assert_eq!(direct.header("openstack-api-version", "volume 3.71").send().await.status, 409, "the guest has it open");
    for body in
        [json!({"os-detach": {}}), json!({"os-detach": {"attachment_id": id}}), json!({"os-terminate_connection": {"connector": {}}})]
    {
        let answer = w.cloud.post(&w.tenant, &format!("/volume/v3/volumes/{volume}/action"), body.clone()).await;
        assert_eq!(answer.status, 409, "{body} {}", answer.text());
    }
    let another = w.cloud.post(&w.tenant, "/volume/v3/volumes", json!({"volume": {"size": 1}})).await.expect(202)["volume"]["id"].clone();
    let another = format!("/volume/v3/volumes/{}", another.as_str().unwrap());
    w.cloud.until(&w.tenant, &another, PATIENCE, |a| a.json()["volume"]["status"] == "available").await;
    let crossed = w.cloud.post(&w.tenant, &format!("{another}/action"), json!({"os-detach": {"attachment_id": attachment}})).await;
    assert_eq!(crossed.status, 400, "{}", crossed.text());
    assert_eq!(w.cloud.delete(&w.tenant, &another).await.status, 202);
    w.cloud.until(&w.tenant, &another, PATIENCE, |a| a.status == 404).await;

    // Frozen and grown under the guest.
    let head = w.cloud.hosts[0].hypervisor.plugged(&id)[&volume].clone();
    let snapshot = json!({"snapshot": {"volume_id": volume, "force": true}});
    w.cloud.post(&w.tenant, "/volume/v3/snapshots", snapshot).await.expect(202);
    let started = Instant::now();
    while w.cloud.hosts[0].hypervisor.plugged(&id)[&volume] == head {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Stopped and started, it comes back.
    assert_eq!(w.act(&id, json!({"os-stop": null})).await.status, 202);
    w.wait(&id, "SHUTOFF").await;
    assert_eq!(w.act(&id, json!({"os-start": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!(w.plugged(&id), std::slice::from_ref(&volume));

    assert_eq!(w.delete(&path, "2.100").await.status, 202);
    w.volume_becomes(&volume, "available").await;
    assert_eq!(w.plugged(&id), Vec::<String>::new());
    assert_eq!(w.delete(&path, "2.100").await.status, 404);
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_let_go_keeps_its_volume() {
    let w = World::new().await;
    let (id, volume) = (w.active(json!({})).await, w.volume(json!({"size": 1})).await);
    w.attach(&id, &volume).await.expect(200);
    w.volume_becomes(&volume, "in-use").await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.clinging = true);
    assert_eq!(w.delete(&format!("/servers/{id}/os-volume_attachments/{volume}"), "2.100").await.status, 202);
    w.volume_becomes(&volume, "detaching").await;
    assert_eq!(w.delete(&format!("/servers/{id}/os-volume_attachments/{volume}"), "2.100").await.status, 409);
    // Deleting the server does not wait for its guest's goodwill.
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.volume_becomes(&volume, "available").await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_boot_from_volumes() {
    let w = World::new().await;
    // Made of an image, and gone with the server.
    let device = json!({"boot_index": 0, "uuid": w.image, "source_type": "image", "destination_type": "volume", "volume_size": 1,
        "delete_on_termination": true});
    let blank =
        json!({"source_type": "blank", "destination_type": "volume", "volume_size": 2, "delete_on_termination": false, "tag": "data"});
    let mut body = w.body(json!({"block_device_mapping_v2": [device, blank]}));
    body["server"].as_object_mut().unwrap().remove("imageRef");
    let made = w.post("/servers", body, "2.100").await.expect(202);
    let id = made["server"]["id"].as_str().unwrap().to_string();
    let shown = w.wait(&id, "ACTIVE").await;
    assert_eq!(shown["image"], "");
    let volumes = w.get(&format!("/servers/{id}/os-volume_attachments"), "2.100").await.expect(200)["volumeAttachments"].clone();
    assert_eq!(
        (&volumes[0]["device"], &volumes[1]["device"], &volumes[1]["tag"]),
        (&json!("/dev/vda"), &json!("/dev/vdb"), &json!("data"))
    );
    let (root, data) = (volumes[0]["volumeId"].as_str().unwrap(), volumes[1]["volumeId"].as_str().unwrap());
    assert_eq!(w.volume_becomes(root, "in-use").await["bootable"], "true");
    assert_eq!(w.plugged(&id).len(), 2);
    assert_eq!(w.delete(&format!("/servers/{id}/os-volume_attachments/{root}"), "2.100").await.status, 403, "it boots from it");
    let keep = json!({"volumeAttachment": {"volumeId": data, "delete_on_termination": true}});
    assert_eq!(w.put(&format!("/servers/{id}/os-volume_attachments/{data}"), keep, "2.85").await.status, 202);
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.volume_gone(root).await;
    w.volume_gone(data).await;
    w.no_layers().await;
    w.clean().await;

    // One that is there, and stays.
    let volume = w.volume(json!({"size": 1, "imageRef": w.image})).await;
    let device = json!({"boot_index": 0, "uuid": volume, "source_type": "volume", "destination_type": "volume"});
    let mut body = w.body(json!({"block_device_mapping_v2": [device]}));
    body["server"].as_object_mut().unwrap().remove("imageRef");
    let id = w.post("/servers", body.clone(), "2.100").await.expect(202)["server"]["id"].as_str().unwrap().to_string();
    w.wait(&id, "ACTIVE").await;
    assert_eq!(w.post("/servers", body.clone(), "2.100").await.status, 400, "it is in use");
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.volume_becomes(&volume, "available").await;

    for bad in [
        json!([{"boot_index": 0, "uuid": base::id::uuid(), "source_type": "volume", "destination_type": "volume"}]),
        json!([{"boot_index": 0, "uuid": base::id::uuid(), "source_type": "snapshot", "destination_type": "volume"}]),
        json!([{"boot_index": 0, "uuid": w.image, "source_type": "image", "destination_type": "volume"}]),
        json!([{"source_type": "blank", "destination_type": "volume"}]),
    ] {
        body["server"]["block_device_mapping_v2"] = bad.clone();
        assert_eq!(w.post("/servers", body.clone(), "2.100").await.status, 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_gives_its_volumes_back() {
    let w = World::new().await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.starts_fail.extend((0..50).map(|_| "no luck".to_string())));
    let volume = w.volume(json!({"size": 1})).await;
    let devices = json!([
        {"boot_index": 0, "uuid": w.image, "source_type": "image", "destination_type": "volume", "volume_size": 1},
        {"uuid": volume, "source_type": "volume", "destination_type": "volume", "delete_on_termination": true},
    ]);
    let id = w.create(json!({"block_device_mapping_v2": devices, "imageRef": ""})).await;
    w.wait(&id, "ERROR").await;
    let listed = |a: &Answer| a.json()["volumes"].as_array().is_some_and(|all| all.len() == 1);
    w.cloud.until(&w.tenant, "/volume/v3/volumes", PATIENCE, listed).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_controller_leaves_no_volume_in_between() {
    let mut w = World::new().await;
    let (id, volume) = (w.active(json!({})).await, w.volume(json!({"size": 1})).await);
    let other = w.volume(json!({"size": 1})).await;
    w.attach(&id, &other).await.expect(200);
    w.volume_becomes(&other, "in-use").await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.delay = Duration::from_millis(80));
    w.attach(&id, &volume).await.expect(200);
    assert_eq!(w.delete(&format!("/servers/{id}/os-volume_attachments/{other}"), "2.100").await.status, 202);
    let device = json!([{"boot_index": 0, "uuid": w.image, "source_type": "image", "destination_type": "volume", "volume_size": 1,
        "delete_on_termination": true}]);
    let building = w.create(json!({"block_device_mapping_v2": device, "imageRef": ""})).await;
    let World { cloud, admin, tenant, image, network } = w;
    w = World { cloud: cloud.crash().await, admin, tenant, image, network };
    w.volume_becomes(&volume, "in-use").await;
    w.volume_becomes(&other, "available").await;
    w.wait(&building, "ACTIVE").await;
    assert_eq!(w.plugged(&id), std::slice::from_ref(&volume));
    for server in [&id, &building] {
        assert_eq!(w.delete(&format!("/servers/{server}"), "2.1").await.status, 204);
        w.gone(server).await;
    }
    for volume in [&volume, &other] {
        w.volume_becomes(volume, "available").await;
        assert_eq!(w.cloud.delete(&w.tenant, &format!("/volume/v3/volumes/{volume}")).await.status, 202);
        w.volume_gone(volume).await;
    }
    w.no_layers().await;
    w.clean().await;
}

impl World {
    /// A type whose volumes several servers may have.
    async fn shared_type(&self) {
        let body = json!({"volume_type": {"name": "shared", "extra_specs": {"multiattach": "<is> True"}}});
        self.cloud.post(&self.admin, "/volume/v3/types", body).await.expect(200);
    }
    /// The servers that have a volume, by the volume's own word.
    fn holders(volume: &Value) -> Vec<String> {
        let all = volume["attachments"].as_array().unwrap();
        all.iter().map(|a| a["server_id"].as_str().unwrap().to_string()).collect()
    }
    async fn held_by(&self, volume: &str, status: &str, servers: &[&String]) {
        let path = format!("/volume/v3/volumes/{volume}");
        let mut wanted: Vec<String> = servers.iter().map(|s| s.to_string()).collect();
        wanted.sort();
        let fits = |a: &Answer| {
            let volume = &a.json()["volume"];
            let mut have = World::holders(volume);
            have.sort();
            volume["status"] == status && have == wanted
        };
        self.cloud.until(&self.tenant, &path, PATIENCE, fits).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_have_a_volume_of_a_shared_type() {
    let w = World::new().await;
    w.shared_type().await;
    let (one, two) = (w.active(json!({})).await, w.active(json!({})).await);
    let volume = w.volume(json!({"size": 1, "volume_type": "shared"})).await;
    let plain = w.volume(json!({"size": 1})).await;
    let body = json!({"volumeAttachment": {"volumeId": volume}});
    let old = w.post(&format!("/servers/{one}/os-volume_attachments"), body.clone(), "2.59").await;
    assert_eq!(old.status, 400, "{}", old.text());
    assert!(old.text().contains("2.60"));
    w.post(&format!("/servers/{one}/os-volume_attachments"), body, "2.60").await.expect(200);
    w.held_by(&volume, "in-use", &[&one]).await;
    assert_eq!(w.attach(&one, &volume).await.status, 400, "it has it already");
    w.attach(&two, &volume).await.expect(200);
    w.held_by(&volume, "in-use", &[&one, &two]).await;
    assert_eq!((w.plugged(&one), w.plugged(&two)), (vec![volume.clone()], vec![volume.clone()]));

    w.attach(&one, &plain).await.expect(200);
    w.volume_becomes(&plain, "in-use").await;
    assert_eq!(w.attach(&two, &plain).await.status, 400, "nobody said that it may be shared");
    assert_eq!(w.delete(&format!("/servers/{one}/os-volume_attachments/{plain}"), "2.100").await.status, 202);
    w.volume_becomes(&plain, "available").await;

    let path = format!("/volume/v3/volumes/{volume}");
    assert_eq!(w.cloud.delete(&w.tenant, &path).await.status, 400, "servers have it");
    let retype = json!({"os-retype": {"new_type": "local", "migration_policy": "never"}});
    assert_eq!(w.cloud.post(&w.tenant, &format!("{path}/action"), retype).await.status, 400);
    // A snapshot is a copy, for which the guests stand still; and it grows under both.
    let snapshot = json!({"snapshot": {"volume_id": volume, "force": true}});
    let made = w.cloud.post(&w.tenant, "/volume/v3/snapshots", snapshot).await.expect(202);
    let snapshot = format!("/volume/v3/snapshots/{}", made["snapshot"]["id"].as_str().unwrap());
    w.cloud.until(&w.tenant, &snapshot, PATIENCE, |a| a.json()["snapshot"]["status"] == "available").await;
    let grow = w.cloud.request("POST", &format!("{path}/action")).token(&w.tenant).header("openstack-api-version", "volume 3.42");
    assert_eq!(grow.json(&json!({"os-extend": {"new_size": 2}})).send().await.status, 202);
    w.cloud.until(&w.tenant, &path, PATIENCE, |a| a.json()["volume"]["size"] == 2 && a.json()["volume"]["status"] == "in-use").await;
    for server in [&one, &two] {
        assert_eq!(w.wait(server, "ACTIVE").await["OS-EXT-STS:power_state"], 1);
    }
    assert_eq!(w.cloud.hosts[0].hypervisor.running().len(), 2, "they go on");
    assert_eq!(w.cloud.delete(&w.tenant, &snapshot).await.status, 202);
    w.cloud.until(&w.tenant, &snapshot, PATIENCE, |a| a.status == 404).await;

    // One goes, the other keeps it.
    assert_eq!(w.delete(&format!("/servers/{one}"), "2.1").await.status, 204);
    w.gone(&one).await;
    w.held_by(&volume, "in-use", &[&two]).await;
    assert_eq!(w.plugged(&two), std::slice::from_ref(&volume));
    assert_eq!(w.delete(&format!("/servers/{two}/os-volume_attachments/{volume}"), "2.100").await.status, 202);
    w.held_by(&volume, "available", &[]).await;
    for volume in [&volume, &plain] {
        assert_eq!(w.cloud.delete(&w.tenant, &format!("/volume/v3/volumes/{volume}")).await.status, 202);
        w.volume_gone(volume).await;
    }
    w.no_layers().await;
    assert_eq!(w.delete(&format!("/servers/{two}"), "2.1").await.status, 204);
    w.gone(&two).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_boot_from_a_volume_that_others_have() {
    let w = World::new().await;
    w.shared_type().await;
    let volume = w.volume(json!({"size": 1, "imageRef": w.image, "volume_type": "shared"})).await;
    let device = json!({"boot_index": 0, "uuid": volume, "source_type": "volume", "destination_type": "volume",
        "delete_on_termination": true});
    let mut body = w.body(json!({"block_device_mapping_v2": [device]}));
    body["server"].as_object_mut().unwrap().remove("imageRef");
    assert_eq!(w.post("/servers", body.clone(), "2.59").await.status, 400);
    let mut made = Vec::new();
    for _ in 0..2 {
        let id = w.post("/servers", body.clone(), "2.60").await.expect(202)["server"]["id"].as_str().unwrap().to_string();
        w.wait(&id, "ACTIVE").await;
        made.push(id);
    }
    w.held_by(&volume, "in-use", &[&made[0], &made[1]]).await;
    // It would go with its server, were it not for the other one.
    assert_eq!(w.delete(&format!("/servers/{}", made[0]), "2.1").await.status, 204);
    w.gone(&made[0]).await;
    w.held_by(&volume, "in-use", &[&made[1]]).await;
    assert_eq!(w.delete(&format!("/servers/{}", made[1]), "2.1").await.status, 204);
    w.gone(&made[1]).await;
    w.volume_gone(&volume).await;
    w.no_layers().await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_a_shelved_server_are_reserved() {
    let w = World::new().await;
    let (id, volume) = (w.active(json!({})).await, w.volume(json!({"size": 1})).await);
    let later = w.volume(json!({"size": 1})).await;
    w.attach(&id, &volume).await.expect(200);
    w.volume_becomes(&volume, "in-use").await;
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    w.wait(&id, "SHELVED_OFFLOADED").await;
    let shown = w.volume_becomes(&volume, "reserved").await;
    let attachment = w.get(&format!("/servers/{id}/os-volume_attachments/{volume}"), "2.89").await.expect(200);
    let attachment = attachment["volumeAttachment"]["attachment_id"].as_str().unwrap().to_string();
    assert_eq!(shown["attachments"], json!([]), "nobody has it open");
    let direct = w.cloud.request("DELETE", &format!("/volume/v3/attachments/{attachment}")).token(&w.tenant);
    assert_eq!(direct.header("openstack-api-version", "volume 3.71").send().await.status, 409, "it is the server's");
    assert_eq!(w.cloud.delete(&w.tenant, &format!("/volume/v3/volumes/{volume}")).await.status, 400);

    // On the shelf volumes come and go without anyone having to hear of it.
    let of = format!("/servers/{id}/os-volume_attachments");
    let body = json!({"volumeAttachment": {"volumeId": later}});
    assert_eq!(w.post(&of, body.clone(), "2.19").await.status, 409);
    let tagged = json!({"volumeAttachment": {"volumeId": later, "tag": "x"}});
    assert_eq!(w.post(&of, tagged, "2.49").await.status, 400);
    w.shared_type().await;
    let shared = w.volume(json!({"size": 1, "volume_type": "shared"})).await;
    assert_eq!(w.post(&of, json!({"volumeAttachment": {"volumeId": shared}}), "2.60").await.status, 400);
    w.post(&of, body, "2.20").await.expect(200);
    w.held_by(&later, "in-use", &[&id]).await;
    assert_eq!(w.delete(&format!("{of}/{volume}"), "2.19").await.status, 409);
    assert_eq!(w.delete(&format!("{of}/{volume}"), "2.20").await.status, 202);
    w.volume_becomes(&volume, "available").await;

    assert_eq!(w.act(&id, json!({"unshelve": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    w.held_by(&later, "in-use", &[&id]).await;
    assert_eq!(w.plugged(&id), std::slice::from_ref(&later));
    // Deleted on the shelf, it lets go of all.
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    w.wait(&id, "SHELVED_OFFLOADED").await;
    w.volume_becomes(&later, "reserved").await;
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.volume_becomes(&later, "available").await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attachments_change_in_what_may_change() {
    let w = World::new().await;
    let (id, volume) = (w.active(json!({})).await, w.volume(json!({"size": 1})).await);
    let other = w.volume(json!({"size": 1})).await;
    w.attach(&id, &volume).await.expect(200);
    w.volume_becomes(&volume, "in-use").await;
    let path = format!("/servers/{id}/os-volume_attachments/{volume}");
    let body = |more: Value| {
        let mut body = json!({"volumeId": volume});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "volumeAttachment": body })
    };
    for (more, status) in [
        (json!({"delete_on_termination": true, "device": "/dev/vdb", "tag": null, "id": volume, "serverId": id}), 202),
        (json!({}), 202),
        (json!({"device": "/dev/vdc"}), 400),
        (json!({"device": null}), 400),
        (json!({"tag": "x"}), 400),
        (json!({"id": other}), 400),
        (json!({"serverId": other}), 400),
        (json!({"else": 1}), 400),
    ] {
        let answer = w.put(&path, body(more.clone()), "2.85").await;
        assert_eq!(answer.status, status, "{more} {}", answer.text());
    }
    assert_eq!(w.get(&path, "2.79").await.expect(200)["volumeAttachment"]["delete_on_termination"], true);
    // In its place comes another one only when block storage moves it, which it never does here.
    let swap = json!({"volumeAttachment": {"volumeId": other}});
    assert_eq!(w.put(&path, swap.clone(), "2.85").await.status, 403, "it is not for tenants");
    for version in ["2.1", "2.85"] {
        let full = format!("/servers/{id}/os-volume_attachments");
        let answer = w.call(&w.admin, "PUT", &path, Some(swap.clone()), version).await;
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert!(answer.text().contains("is not migrating"));
        let unknown = format!("{full}/{}", base::id::uuid());
        assert_eq!(w.call(&w.admin, "PUT", &unknown, Some(swap.clone()), version).await.status, 404);
    }
    w.held_by(&volume, "in-use", &[&id]).await;
    w.volume_becomes(&other, "available").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_come_to_their_server_and_go_with_it_when_it_is_off() {
    let w = World::with_hosts(2).await;
    let id = w.active(json!({})).await;
    let volume = w.volume_away_from(&id).await;
    let (here, there) = (w.place_of_server(&id).await, w.place_of_volume(&volume).await);
    // Its snapshots go along, wherever it goes.
    let (older, newer) = (w.snapshot(&volume).await, w.snapshot(&volume).await);

    w.attach(&id, &volume).await.expect(200);
    w.volume_becomes(&volume, "in-use").await;
    assert_eq!((w.place_of_volume(&volume).await, w.plugged(&id)), (here, vec![volume.clone()]));
    w.only_on(here).await;
    // Off and to the other host, back again, and there for good.
    for (end, place) in [("revertResize", here), ("confirmResize", there)] {
        let body = Some(json!({"migrate": null}));
        assert_eq!(w.call(&w.admin, "POST", &format!("/servers/{id}/action"), body, "2.1").await.status, 202);
        w.wait(&id, "VERIFY_RESIZE").await;
        assert_eq!((w.place_of_server(&id).await, w.place_of_volume(&volume).await), (there, there));
        assert_eq!(w.plugged(&id), std::slice::from_ref(&volume));
        w.only_on(there).await;
        assert!(w.act(&id, json!({ end: null })).await.status < 300);
        w.wait(&id, "ACTIVE").await;
        assert_eq!((w.place_of_server(&id).await, w.place_of_volume(&volume).await), (place, place));
        assert_eq!(w.plugged(&id), std::slice::from_ref(&volume));
        w.only_on(place).await;
    }
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.volume_becomes(&volume, "available").await;
    // By hand.
    let path = format!("/volume/v3/volumes/{volume}/action");
    let act = |body: Value| w.cloud.post(&w.admin, &path, body);
    for (body, part) in [
        (json!({"host": "host-7@local#local"}), "No available service named host-7"),
        (json!({"host": format!("host-{there}")}), "must be different"),
        (json!({}), "host"),
        (json!({"host": "host-0", "lock_volume": "perhaps"}), "lock_volume"),
        (json!({"host": "host-0", "more": 1}), "more"),
    ] {
        let refused = act(json!({ "os-migrate_volume": body })).await;
        assert_eq!((refused.status, refused.text().contains(part)), (400, true), "{}", refused.text());
    }
    let body = json!({"os-migrate_volume": {"host": format!("host-{here}@local#local"), "force_host_copy": false}});
    assert_eq!(w.cloud.post(&w.tenant, &path, body.clone()).await.status, 403);
    assert_eq!(act(body).await.status, 202);
    let arrived = |a: &Answer| a.json()["volume"]["os-vol-mig-status-attr:migstat"] == "success";
    w.cloud.until(&w.admin, &format!("/volume/v3/volumes/{volume}"), PATIENCE, arrived).await;
    assert_eq!(w.place_of_volume(&volume).await, here);
    w.only_on(here).await;
    // They are there, and good for all they were good for.
    let copy = w.volume(json!({"size": 1, "snapshot_id": older})).await;
    assert_eq!(w.place_of_volume(&copy).await, here);
    let request = w.cloud.request("POST", &path).token(&w.tenant).header("openstack-api-version", "volume 3.40");
    assert_eq!(request.json(&json!({"revert": {"snapshot_id": newer}})).send().await.status, 202);
    w.volume_becomes(&volume, "available").await;
    for snapshot in [&newer, &older] {
        let path = format!("/volume/v3/snapshots/{snapshot}");
        assert_eq!(w.cloud.delete(&w.tenant, &path).await.status, 202);
        w.cloud.until(&w.tenant, &path, PATIENCE, |a| a.status == 404).await;
    }
    assert_eq!(w.cloud.delete(&w.tenant, &format!("/volume/v3/volumes/{copy}")).await.status, 202);
    w.volume_gone(&copy).await;
    assert_eq!(w.cloud.delete(&w.tenant, &format!("/volume/v3/volumes/{volume}")).await.status, 202);
    w.volume_gone(&volume).await;
    w.no_layers().await;
    w.clean().await;
}

/// A device of a server that is to have this.
fn device(source: &str, id: &str) -> Value {
    json!({"uuid": id, "source_type": source, "destination_type": "volume", "boot_index": -1})
}

impl World {
    /// The image on a disk of the server's own, and these.
    fn with_devices(&self, devices: &[Value]) -> Value {
        let root = json!({"uuid": self.image, "source_type": "image", "destination_type": "local", "boot_index": 0});
        let all: Vec<Value> = std::iter::once(&root).chain(devices).cloned().collect();
        json!({ "block_device_mapping_v2": all })
    }
    /// As that, without a network: the reconcilers that tell hosts of networks do not run when an engine is stopped.
    fn alone_with(&self, devices: &[Value]) -> Value {
        let mut body = self.with_devices(devices);
        body["networks"] = "none".into();
        body
    }
    async fn snapshot(&self, volume: &str) -> String {
        let body = json!({"snapshot": {"volume_id": volume, "force": true}});
        let made = self.cloud.post(&self.tenant, "/volume/v3/snapshots", body).await.expect(202);
        let id = made["snapshot"]["id"].as_str().unwrap().to_string();
        let path = format!("/volume/v3/snapshots/{id}");
        self.cloud.until(&self.tenant, &path, PATIENCE, |a| a.json()["snapshot"]["status"] == "available").await;
        id
    }
    /// A new volume on this one of two hosts: hosts of this machine do not always say that they have the same room.
    async fn volume_on(&self, host: usize, body: Value) -> String {
        let id = self.volume(body).await;
        if self.place_of_volume(&id).await != host {
            let to = json!({"os-migrate_volume": {"host": format!("host-{host}@local#local")}});
            assert_eq!(self.cloud.post(&self.admin, &format!("/volume/v3/volumes/{id}/action"), to).await.status, 202);
            let arrived = |a: &Answer| a.json()["volume"]["os-vol-mig-status-attr:migstat"] == "success";
            self.cloud.until(&self.admin, &format!("/volume/v3/volumes/{id}"), PATIENCE, arrived).await;
            self.nothing_on_its_way().await;
        }
        id
    }
    /// Nothing of any volume is on its way.
    async fn nothing_on_its_way(&self) {
        let started = Instant::now();
        while self.cloud.hosts.iter().any(|host| host.hypervisor.layer_files().iter().any(|name| name.contains('-'))) {
            assert!(started.elapsed() < PATIENCE, "copies of volumes are left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    /// Files on each host are of volumes that are there, and nothing is on its way.
    async fn no_volume_twice(&self, volumes: &[&String]) {
        let mut homes = Vec::new();
        for id in volumes {
            homes.push(self.place_of_volume(id).await);
        }
        let settled = || {
            self.cloud.hosts.iter().enumerate().all(|(n, host)| {
                let files = host.hypervisor.layer_files();
                // Copies on their way have the names of UUIDs.
                files.is_empty() != homes.contains(&n) && files.iter().all(|name| !name.contains('-'))
            })
        };
        let started = Instant::now();
        while !settled() {
            let files: Vec<_> = self.cloud.hosts.iter().map(|h| h.hypervisor.layer_files()).collect();
            assert!(started.elapsed() < PATIENCE, "{files:?}, volumes on {homes:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_made_where_most_of_its_volumes_are_and_the_others_come() {
    let w = World::with_hosts(2).await;
    let (from, to) = (0, 1);
    let (small, large) = (w.volume_on(from, json!({"size": 1})).await, w.volume_on(to, json!({"size": 3})).await);
    let id = w.active(w.with_devices(&[device("volume", &small), device("volume", &large)])).await;
    assert_eq!((w.place_of_server(&id).await, w.place_of_volume(&small).await), (to, to));
    for volume in [&small, &large] {
        w.held_by(volume, "in-use", &[&id]).await;
    }
    assert_eq!(w.plugged(&id).len(), 2);
    w.only_on(to).await;
    // Off the shelf on another host: they come along. What is attached on the shelf may be anywhere.
    assert_eq!(w.act(&id, json!({"shelve": null})).await.status, 202);
    w.wait(&id, "SHELVED_OFFLOADED").await;
    let later = w.volume_on(from, json!({"size": 1})).await;
    w.attach(&id, &later).await.expect(200);
    w.held_by(&later, "in-use", &[&id]).await;
    let services = w.call(&w.admin, "GET", "/os-services?binary=nova-compute", None, "2.53").await.expect(200);
    let all = services["services"].as_array().unwrap();
    let of_host = all.iter().find(|s| s["host"] == format!("host-{to}")).unwrap()["id"].as_str().unwrap().to_string();
    let path = format!("/os-services/{of_host}");
    let set = async |status: &str| {
        assert_eq!(w.call(&w.admin, "PUT", &path, Some(json!({ "status": status })), "2.53").await.status, 200);
    };
    set("disabled").await;
    assert_eq!(w.act(&id, json!({"unshelve": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    set("enabled").await;
    assert_eq!(w.place_of_server(&id).await, from);
    for volume in [&small, &large, &later] {
        w.held_by(volume, "in-use", &[&id]).await;
        assert_eq!(w.place_of_volume(volume).await, from);
    }
    w.only_on(from).await;
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;

    // What is made of a snapshot is made where that is, and comes too.
    let snapshot = w.snapshot(&small).await;
    let blank = json!({"source_type": "blank", "destination_type": "volume", "volume_size": 1, "delete_on_termination": true});
    let mut copy = device("snapshot", &snapshot);
    copy["delete_on_termination"] = true.into();
    let mut body = w.with_devices(&[copy, blank]);
    body["availability_zone"] = json!(format!("nova:host-{to}"));
    let made = w.call(&w.admin, "POST", "/servers", Some(w.body(body)), "2.1").await.expect(202);
    let id = made["server"]["id"].as_str().unwrap().to_string();
    let path = format!("/compute/v2.1/servers/{id}");
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["server"]["status"] == "ACTIVE").await;
    let devices = w.call(&w.admin, "GET", &format!("/servers/{id}/os-volume_attachments"), None, "2.1").await.expect(200);
    for one in devices["volumeAttachments"].as_array().unwrap() {
        assert_eq!(w.place_of_volume(one["volumeId"].as_str().unwrap()).await, to);
    }
    assert_eq!((w.place_of_server(&id).await, w.plugged(&id).len()), (to, 2));
    assert_eq!(w.call(&w.admin, "DELETE", &format!("/servers/{id}"), None, "2.1").await.status, 204);
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.status == 404).await;
    w.only_on(from).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_have_to_stay_say_so() {
    let w = World::with_hosts(2).await;
    w.shared_type().await;
    let mut shared = Vec::new();
    // On each host a server with a volume that others may have too.
    for host in 0..2 {
        let volume = w.volume_on(host, json!({"size": 1, "volume_type": "shared"})).await;
        let mut body = w.with_devices(&[device("volume", &volume)]);
        body["availability_zone"] = json!(format!("nova:host-{host}"));
        let made = w.call(&w.admin, "POST", "/servers", Some(w.body(body)), "2.104").await.expect(202);
        let path = format!("/compute/v2.1/servers/{}", made["server"]["id"].as_str().unwrap());
        w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["server"]["status"] == "ACTIVE").await;
        w.volume_becomes(&volume, "in-use").await;
        shared.push(volume);
    }
    let both = w.with_devices(&[device("volume", &shared[0]), device("volume", &shared[1])]);
    let refused = w.post("/servers", w.body(both), "2.104").await;
    let text = refused.text();
    assert_eq!((refused.status, shared.iter().all(|id| text.contains(id)), text.contains("have to stay")), (400, true, true), "{text}");
    // One of them and one that can go: the server goes where the first is.
    let plain = w.volume(json!({"size": 5})).await;
    let away = usize::from(w.place_of_volume(&plain).await == 0);
    let id = w.active(w.with_devices(&[device("volume", &plain), device("volume", &shared[away])])).await;
    assert_eq!((w.place_of_server(&id).await, w.place_of_volume(&plain).await), (away, away));
    // Not where it is sent against that.
    let mut body = w.with_devices(&[device("volume", &shared[away])]);
    body["availability_zone"] = json!(format!("nova:host-{}", 1 - away));
    let made = w.call(&w.admin, "POST", "/servers", Some(w.body(body)), "2.104").await.expect(202);
    let path = format!("/compute/v2.1/servers/{}", made["server"]["id"].as_str().unwrap());
    let shown = w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["server"]["status"] == "ERROR").await.json();
    let why = shown["server"]["fault"]["message"].as_str().unwrap().to_string();
    assert!(why.starts_with("No valid host was found.") && why.contains(&shared[away]), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volumes_of_a_group_are_wherever_there_is_room() {
    let w = World::with_hosts(2).await;
    let call = async |method: &str, path: &str, body: Value| {
        let request = w.cloud.request(method, &format!("/volume/v3{path}")).token(&w.admin).header("openstack-api-version", "volume 3.71");
        request.json(&body).send().await.expect(if method == "GET" { 200 } else { 202 })
    };
    let kind = call("POST", "/group_types", json!({"group_type": {"name": "plain", "group_specs": {}}})).await["group_type"]["id"].clone();
    let group = json!({"group": {"name": "g", "group_type": kind, "volume_types": ["local"]}});
    let group = call("POST", "/groups", group).await["group"]["id"].as_str().unwrap().to_string();
    let mut volumes = Vec::new();
    for _ in 0..2 {
        let made = call("POST", "/volumes", json!({"volume": {"size": 1, "group_id": group, "volume_type": "local"}})).await;
        let id = made["volume"]["id"].as_str().unwrap().to_string();
        let path = format!("/volume/v3/volumes/{id}");
        w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["volume"]["status"] == "available").await;
        volumes.push(id);
    }
    // One goes elsewhere, wherever the other is, and both are copied where they are.
    let there = 1 - w.place_of_volume(&volumes[0]).await;
    let to = json!({"os-migrate_volume": {"host": format!("host-{there}@local#local")}});
    call("POST", &format!("/volumes/{}/action", volumes[0]), to).await;
    let arrived = |a: &Answer| a.json()["volume"]["os-vol-mig-status-attr:migstat"] == "success";
    w.cloud.until(&w.admin, &format!("/volume/v3/volumes/{}", volumes[0]), PATIENCE, arrived).await;
    assert_eq!(w.place_of_volume(&volumes[0]).await, there);
    let copy = json!({"create-from-src": {"name": "copy", "source_group_id": group}});
    let copy = call("POST", "/groups/action", copy).await["group"]["id"].as_str().unwrap().to_string();
    let started = Instant::now();
    while call("GET", &format!("/groups/{copy}"), Value::Null).await["group"]["status"] != "available" {
        assert!(started.elapsed() < PATIENCE, "the copy of a group is not made");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_for_several_goes_with_the_only_server_that_has_it() {
    let w = World::with_hosts(2).await;
    w.shared_type().await;
    let one = w.active(json!({})).await;
    let here = w.place_of_server(&one).await;
    let volume = w.volume(json!({"size": 1, "volume_type": "shared"})).await;
    w.attach(&one, &volume).await.expect(200);
    w.held_by(&volume, "in-use", &[&one]).await;
    assert_eq!(w.place_of_volume(&volume).await, here, "it came, if it was not there");
    // Running, and off.
    let live = json!({"os-migrateLive": {"host": null, "block_migration": "auto", "force": false}});
    let act =
        async |body: &Value, version: &str| w.call(&w.admin, "POST", &format!("/servers/{one}/action"), Some(body.clone()), version).await;
    assert_eq!(act(&live, "2.30").await.status, 202);
    w.wait(&one, "ACTIVE").await;
    assert_eq!((w.place_of_server(&one).await, w.place_of_volume(&volume).await), (1 - here, 1 - here));
    w.only_on(1 - here).await;
    assert_eq!(act(&json!({"migrate": null}), "2.1").await.status, 202);
    w.wait(&one, "VERIFY_RESIZE").await;
    assert!(w.act(&one, json!({"confirmResize": null})).await.status < 300);
    w.wait(&one, "ACTIVE").await;
    w.only_on(here).await;
    let raw = || w.cloud.hosts[here].hypervisor.layer_files().iter().all(|name| name.starts_with('r'));
    assert!(raw(), "one file that several may write to");
    // With another one it stays, and says with which.
    let mut body = w.with_devices(&[device("volume", &volume)]);
    body["availability_zone"] = json!(format!("nova:host-{here}"));
    let made = w.call(&w.admin, "POST", "/servers", Some(w.body(body)), "2.104").await.expect(202);
    let two = made["server"]["id"].as_str().unwrap().to_string();
    w.held_by(&volume, "in-use", &[&one, &two]).await;
    let refused = act(&live, "2.30").await;
    assert_eq!((refused.status, refused.text().contains(&format!("is attached to server {two} too"))), (400, true), "{}", refused.text());
    let mut body = json!({"block_device_mapping_v2": []});
    body["availability_zone"] = json!(format!("nova:host-{}", 1 - here));
    let made = w.call(&w.admin, "POST", "/servers", Some(w.body(body)), "2.1").await.expect(202);
    let three = made["server"]["id"].as_str().unwrap().to_string();
    let path = format!("/compute/v2.1/servers/{three}");
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["server"]["status"] == "ACTIVE").await;
    let of = format!("/servers/{three}/os-volume_attachments");
    let attach = Some(json!({"volumeAttachment": {"volumeId": volume}}));
    let refused = w.call(&w.admin, "POST", &of, attach, "2.60").await;
    assert_eq!((refused.status, refused.text().contains("is attached to server")), (400, true), "{}", refused.text());
}

/// A server with a volume and a snapshot of that goes to the other host, by the run's engine.
struct Going {
    w: World,
    id: String,
    volume: String,
    live: bool,
}

impl Going {
    async fn new(live: bool) -> Going {
        let w = World::with_hosts(2).await;
        let volume = w.volume_on(0, json!({"size": 1})).await;
        w.snapshot(&volume).await;
        let id = w.active(w.alone_with(&[device("volume", &volume)])).await;
        w.held_by(&volume, "in-use", &[&id]).await;
        assert_eq!(w.place_of_server(&id).await, 0, "where its volume is");
        w.cloud.controller.core.tasks.stop().await;
        Going { w, id, volume, live }
    }
    async fn check(&self, status: &str, host: usize) {
        self.w.wait(&self.id, status).await;
        assert_eq!((self.w.place_of_server(&self.id).await, self.w.place_of_volume(&self.volume).await), (host, host));
        self.w.held_by(&self.volume, "in-use", &[&self.id]).await;
        self.w.no_volume_twice(&[&self.volume]).await;
        let files = self.w.cloud.hosts[host].hypervisor.layer_files().len();
        assert!((2..=3).contains(&files), "the snapshot's, the head, and what a copy was made of: {files}");
    }
}

#[async_trait]
impl Fixture for Going {
    fn store(&self) -> store::Store {
        self.w.cloud.controller.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        let compute = self.w.cloud.controller.compute.clone();
        match self.live {
            true => Arc::new(compute::op::server_live::ServerLive(compute)),
            false => Arc::new(compute::op::server_move::ServerMove(compute)),
        }
    }
    async fn submit(&self, _: &Engine) -> Result<String> {
        let (body, kind) = match self.live {
            true => (json!({"os-migrateLive": {"host": null, "block_migration": "auto"}}), compute::op::server_live::KIND),
            false => (json!({"migrate": null}), compute::op::server_move::KIND),
        };
        let answer = self.w.call(&self.w.admin, "POST", &format!("/servers/{}/action", self.id), Some(body), "2.34").await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let filter = task::Filter { kind: Some(kind.into()), ..Default::default() };
        Ok(self.w.cloud.controller.core.tasks.list(&filter).await?[0].id.clone())
    }
    async fn check_done(&self) {
        self.check(if self.live { "ACTIVE" } else { "VERIFY_RESIZE" }, 1).await;
    }
    async fn leave(&self) {
        self.store().close().await;
    }

    async fn check_undone(&self) {
        // One that had left when its way was given up is where it went.
        let host = self.w.place_of_server(&self.id).await;
        assert!(host == 0 || self.live);
        self.check("ACTIVE", host).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_go_along_live_in_all_four_runs() {
    four_runs(|| Going::new(true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_go_along_switched_off_in_all_four_runs() {
    four_runs(|| Going::new(false)).await;
}

/// A server with a volume on each of two hosts is made, by the run's engine.
struct Making {
    w: World,
    volumes: Vec<String>,
    id: std::sync::OnceLock<String>,
}

impl Making {
    async fn new() -> Making {
        let w = World::with_hosts(2).await;
        let volumes = vec![w.volume_on(0, json!({"size": 1})).await, w.volume_on(1, json!({"size": 1})).await];
        w.cloud.controller.core.tasks.stop().await;
        Making { w, volumes, id: std::sync::OnceLock::new() }
    }
    async fn check(&self, status: &str, volumes: &str, holders: &[&String]) {
        self.w.wait(&self.id.get().unwrap().clone(), status).await;
        for volume in &self.volumes {
            self.w.held_by(volume, volumes, holders).await;
        }
        self.w.no_volume_twice(&self.volumes.iter().collect::<Vec<_>>()).await;
    }
}

#[async_trait]
impl Fixture for Making {
    fn store(&self) -> store::Store {
        self.w.cloud.controller.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        Arc::new(compute::op::server_create::ServerCreate(self.w.cloud.controller.compute.clone()))
    }
    async fn submit(&self, _: &Engine) -> Result<String> {
        let devices: Vec<Value> = self.volumes.iter().map(|id| device("volume", id)).collect();
        self.id.set(self.w.create(self.w.alone_with(&devices)).await).unwrap();
        let filter = task::Filter { kind: Some(compute::op::server_create::KIND.into()), ..Default::default() };
        Ok(self.w.cloud.controller.core.tasks.list(&filter).await?[0].id.clone())
    }
    async fn check_done(&self) {
        let id = self.id.get().unwrap();
        self.check("ACTIVE", "in-use", &[id]).await;
        let host = self.w.place_of_server(id).await;
        for volume in &self.volumes {
            assert_eq!(self.w.place_of_volume(volume).await, host);
        }
        assert_eq!(self.w.plugged(id).len(), 2);
    }
    async fn leave(&self) {
        self.store().close().await;
    }

    async fn check_undone(&self) {
        self.check("ERROR", "available", &[]).await;
        self.w.clean().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_volumes_from_everywhere_survives_the_four_runs() {
    four_runs(Making::new).await;
}

/// A whole cloud whose own engine has been stopped: the run's engine works.
struct Runs {
    /// Another server has the volume too, and keeps it.
    other: Option<String>,
    w: World,
    id: String,
    volume: String,
    attach: bool,
}

impl Runs {
    /// The volume is on another host than the server.
    async fn away() -> Runs {
        let w = World::with_hosts(2).await;
        let id = w.active(json!({})).await;
        let volume = w.volume_away_from(&id).await;
        w.cloud.controller.core.tasks.stop().await;
        Runs { other: None, w, id, volume, attach: true }
    }

    async fn new(attach: bool, shared: bool) -> Runs {
        let w = World::new().await;
        let id = w.active(json!({})).await;
        let mut other = None;
        let volume = if shared {
            w.shared_type().await;
            let (server, volume) = (w.active(json!({})).await, w.volume(json!({"size": 1, "volume_type": "shared"})).await);
            w.attach(&server, &volume).await.expect(200);
            w.volume_becomes(&volume, "in-use").await;
            other = Some(server);
            volume
        } else {
            w.volume(json!({"size": 1})).await
        };
        if !attach {
            w.attach(&id, &volume).await.expect(200);
            let holders: Vec<&String> = other.iter().chain([&id]).collect();
            w.held_by(&volume, "in-use", &holders).await;
        }
        w.cloud.controller.core.tasks.stop().await;
        Runs { other, w, id, volume, attach }
    }
}

#[async_trait]
impl Fixture for Runs {
    fn store(&self) -> store::Store {
        self.w.cloud.controller.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        let compute = self.w.cloud.controller.compute.clone();
        Arc::new(compute::op::server_volume::ServerVolumeChange { compute, attach: self.attach })
    }
    async fn submit(&self, _: &Engine) -> Result<String> {
        if self.attach {
            self.w.attach(&self.id, &self.volume).await.expect(200);
        } else {
            let path = format!("/servers/{}/os-volume_attachments/{}", self.id, self.volume);
            assert_eq!(self.w.delete(&path, "2.100").await.status, 202);
        }
        let kind = if self.attach { compute::op::server_volume::ATTACH } else { compute::op::server_volume::DETACH };
        let filter = task::Filter { kind: Some(kind.into()), ..Default::default() };
        Ok(self.w.cloud.controller.core.tasks.list(&filter).await?[0].id.clone())
    }
    async fn check_done(&self) {
        self.check(self.attach).await;
    }
    async fn leave(&self) {
        self.store().close().await;
    }

    async fn check_undone(&self) {
        self.check(!self.attach).await;
    }
}

impl Runs {
    async fn check(&self, attached: bool) {
        let holders: Vec<&String> = self.other.iter().chain(attached.then_some(&self.id)).collect();
        self.w.held_by(&self.volume, if holders.is_empty() { "available" } else { "in-use" }, &holders).await;
        if let Some(other) = &self.other {
            assert_eq!(self.w.plugged(other), std::slice::from_ref(&self.volume));
        }
        let wanted: &[String] = if attached { std::slice::from_ref(&self.volume) } else { &[] };
        assert_eq!(self.w.plugged(&self.id), wanted);
        let listed = self.w.get(&format!("/servers/{}/os-volume_attachments", self.id), "2.1").await.expect(200);
        assert_eq!(listed["volumeAttachments"].as_array().unwrap().len(), wanted.len());
        // Nothing half of it is anywhere else.
        self.w.only_on(self.w.place_of_volume(&self.volume).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_what_is_elsewhere_survives_the_four_runs() {
    four_runs(Runs::away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_survives_the_four_runs() {
    four_runs(|| Runs::new(true, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detaching_survives_the_four_runs() {
    four_runs(|| Runs::new(false, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_what_another_has_survives_the_four_runs() {
    four_runs(|| Runs::new(true, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detaching_what_another_has_survives_the_four_runs() {
    four_runs(|| Runs::new(false, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_told_of_its_tagged_devices() {
    let w = World::new().await;
    let (data, later) = (w.volume(json!({"size": 1})).await, w.volume(json!({"size": 1})).await);
    let devices = json!([
        {"uuid": w.image, "source_type": "image", "destination_type": "local", "boot_index": 0},
        {"uuid": data, "source_type": "volume", "destination_type": "volume", "tag": "data"},
    ]);
    let networks = json!([{"uuid": w.network, "tag": "front"}, {"uuid": w.network}]);
    let id = w.active(json!({"block_device_mapping_v2": devices, "networks": networks})).await;
    let told = || w.cloud.hosts[0].wire.metadata(&id).unwrap().meta_data["devices"].clone();
    let ports = w.get(&format!("/servers/{id}/os-interface"), "2.70").await.expect(200)["interfaceAttachments"].clone();
    let front = ports.as_array().unwrap().iter().find(|p| p["tag"] == "front").unwrap()["mac_addr"].clone();
    let nic = json!({"type": "nic", "bus": "none", "address": "none", "mac": front, "tags": ["front"]});
    let disk = |id: &str, path: &str, tag: &str| json!({"type": "disk", "bus": "none", "address": "none", "serial": id, "path": path, "tags": [tag]});
    assert_eq!(told(), json!([nic, disk(&data, "/dev/vdb", "data")]));
    // What comes and goes later is told too.
    let body = json!({"volumeAttachment": {"volumeId": later, "tag": "later"}});
    w.post(&format!("/servers/{id}/os-volume_attachments"), body, "2.100").await.expect(200);
    w.volume_becomes(&later, "in-use").await;
    assert_eq!(told(), json!([nic, disk(&data, "/dev/vdb", "data"), disk(&later, "/dev/vdc", "later")]));
    assert_eq!(w.delete(&format!("/servers/{id}/os-volume_attachments/{data}"), "2.100").await.status, 202);
    w.volume_becomes(&data, "available").await;
    assert_eq!(told(), json!([nic, disk(&later, "/dev/vdc", "later")]));
}

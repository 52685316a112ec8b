//! Requests and their answers, from making to deleting, and what a crash of the controller leaves.

use std::time::Duration;

use serde_json::{Value, json};
use testing::{Answer, Cloud, Token};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub cloud: Cloud,
    pub admin: Token,
    pub member: Token,
}

impl World {
    pub async fn new() -> World {
        Self::on(Cloud::start().await).await
    }

    pub async fn on(cloud: Cloud) -> World {
        let admin = cloud.admin().await;
        let member = cloud.tenant("tenant", "member").await;
        cloud.until(&admin, "/volume/v3/scheduler-stats/get_pools", PATIENCE, |a| a.json()["pools"][0].is_object()).await;
        World { cloud, admin, member }
    }
    pub async fn call(&self, token: &Token, method: &str, path: &str, body: Value, version: &str) -> Answer {
        let request = self.cloud.request(method, &format!("/volume/v3{path}")).token(token);
        let request = request.header("openstack-api-version", &format!("volume {version}"));
        if body.is_null() { request.send().await } else { request.json(&body).send().await }
    }
    pub async fn get(&self, path: &str) -> Answer {
        self.call(&self.member, "GET", path, Value::Null, "3.71").await
    }
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(&self.member, "POST", path, body, "3.71").await
    }
    pub async fn delete(&self, path: &str) -> Answer {
        self.call(&self.member, "DELETE", path, Value::Null, "3.71").await
    }
    pub async fn act(&self, id: &str, body: Value) -> Answer {
        self.post(&format!("/volumes/{id}/action"), body).await
    }
    pub async fn becomes(&self, kind: &str, id: &str, status: &str) -> Value {
        let path = format!("/volume/v3/{kind}s/{id}");
        let fits = |a: &Answer| [status, "error"].iter().any(|s| a.json()[kind]["status"] == *s);
        let answer = self.cloud.until(&self.member, &path, PATIENCE, fits).await.json();
        assert_eq!(answer[kind]["status"], status, "{answer}");
        answer[kind].clone()
    }
    pub async fn volume(&self, body: Value) -> String {
        let made = self.post("/volumes", json!({ "volume": body })).await.expect(202);
        let id = made["volume"]["id"].as_str().unwrap().to_string();
        self.becomes("volume", &id, "available").await;
        id
    }
    pub async fn snapshot(&self, volume: &str) -> String {
        let made = self.post("/snapshots", json!({"snapshot": {"volume_id": volume}})).await.expect(202);
        let id = made["snapshot"]["id"].as_str().unwrap().to_string();
        self.becomes("snapshot", &id, "available").await;
        id
    }
    pub async fn gone(&self, kind: &str, id: &str) {
        self.cloud.until(&self.member, &format!("/volume/v3/{kind}s/{id}"), PATIENCE, |a| a.status == 404).await;
    }
    pub async fn nothing_left(&self) {
        let started = std::time::Instant::now();
        while !self.cloud.hosts[0].hypervisor.layer_files().is_empty() {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.cloud.hosts[0].hypervisor.layer_files());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volumes_day() {
    let w = World::new().await;
    let id = w.volume(json!({"name": "v", "size": 1, "metadata": {"k": "v"}})).await;
    let shown = w.get(&format!("/volumes/{id}")).await.expect(200)["volume"].clone();
    assert_eq!((&shown["size"], &shown["bootable"], &shown["volume_type"]), (&json!(1), &json!("false"), &json!("local")));
    assert!(shown.get("os-vol-host-attr:host").is_none(), "hosts are for administrators");
    let admin = w.cloud.admin().await;
    let shown = w.cloud.get(&admin, &format!("/volume/v3/volumes/{id}")).await.expect(200)["volume"].clone();
    assert!(shown["os-vol-host-attr:host"].is_string() && shown.get("os-vol-tenant-attr:tenant_id").is_some());
    // Public suites check the answers to create and update against a closed schema.
    let update = json!({"volume": {"name": "v"}});
    let shown = w.cloud.put(&admin, &format!("/volume/v3/volumes/{id}"), update).await.expect(200)["volume"].clone();
    assert!(!shown.as_object().unwrap().keys().any(|key| key.starts_with("os-vol-")), "{shown}");
    let listed = w.get("/volumes/detail?name=v&metadata=%7B%27k%27%3A%20%27v%27%7D&sort=size:asc&limit=1").await.expect(200);
    assert_eq!(listed["volumes"][0]["id"], id.as_str());
    assert!(listed["volumes_links"][0]["href"].as_str().unwrap().contains("marker="));
    assert_eq!(w.get("/volumes?name=other").await.expect(200)["volumes"], json!([]));
    let summary = w.get("/volumes/summary").await.expect(200);
    assert_eq!(summary["volume-summary"], json!({"total_count": 1, "total_size": 1, "metadata": {"k": ["v"]}}));

    let snapshot = w.snapshot(&id).await;
    assert_eq!(w.delete(&format!("/volumes/{id}")).await.status, 400, "it has a snapshot");
    let second = w.volume(json!({"snapshot_id": snapshot})).await;
    let third = w.volume(json!({"source_volid": second, "size": 3})).await;
    assert_eq!(w.post("/volumes", json!({"volume": {"source_volid": third, "size": 1}})).await.status, 400);
    assert_eq!(w.act(&id, json!({"os-extend": {"new_size": 4}})).await.status, 202);
    assert_eq!(w.becomes("volume", &id, "available").await["size"], 4);
    assert_eq!(w.act(&id, json!({"os-extend": {"new_size": 4}})).await.status, 400);
    assert_eq!(w.act(&id, json!({"revert": {"snapshot_id": snapshot}})).await.status, 400, "it is larger now");
    let later = w.snapshot(&id).await;
    assert_eq!(w.act(&id, json!({"revert": {"snapshot_id": later}})).await.status, 202);
    w.becomes("volume", &id, "available").await;

    assert_eq!(w.delete(&format!("/snapshots/{snapshot}")).await.status, 202);
    w.gone("snapshot", &snapshot).await;
    assert_eq!(w.delete(&format!("/volumes/{id}?cascade=true")).await.status, 202);
    for other in [&second, &third] {
        assert_eq!(w.delete(&format!("/volumes/{other}")).await.status, 202);
    }
    for gone in [&id, &second, &third] {
        w.gone("volume", gone).await;
    }
    w.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_make_bootable_volumes() {
    let w = World::new().await;
    let image = json!({"name": "i", "disk_format": "raw", "container_format": "bare", "min_disk": 2});
    let image = w.cloud.post(&w.member, "/image/v2/images", image).await.expect(201)["id"].as_str().unwrap().to_string();
    let path = format!("/image/v2/images/{image}/file");
    assert_eq!(w.cloud.request("PUT", &path).token(&w.member).text("application/octet-stream", vec![7u8; 4096]).send().await.status, 204);
    assert_eq!(w.post("/volumes", json!({"volume": {"imageRef": image, "size": 1}})).await.status, 400, "smaller than the image asks");
    assert_eq!(w.post("/volumes", json!({"volume": {"imageRef": "11111111-2222-4333-8444-555555555555", "size": 1}})).await.status, 400);
    let id = w.volume(json!({"imageRef": image, "size": 2})).await;
    let shown = w.get(&format!("/volumes/{id}")).await.expect(200)["volume"].clone();
    assert_eq!((&shown["bootable"], &shown["volume_image_metadata"]["image_id"]), (&json!("true"), &json!(image)));
    assert_eq!(w.act(&id, json!({"os-set_image_metadata": {"metadata": {"a": "b"}}})).await.expect(200)["metadata"]["a"], "b");
    assert_eq!(w.act(&id, json!({"os-unset_image_metadata": {"key": "a"}})).await.status, 200);
    assert_eq!(w.act(&id, json!({"os-unset_image_metadata": {"key": "a"}})).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_becomes_an_image() {
    let w = World::new().await;
    let image = json!({"name": "i", "disk_format": "raw", "container_format": "bare"});
    let image = w.cloud.post(&w.member, "/image/v2/images", image).await.expect(201)["id"].as_str().unwrap().to_string();
    let id = w.volume(json!({"size": 1})).await;
    let reimage = json!({"os-reimage": {"image_id": image}});
    assert_eq!(w.act(&id, reimage.clone()).await.status, 400, "it has no content");
    let path = format!("/image/v2/images/{image}/file");
    assert_eq!(w.cloud.request("PUT", &path).token(&w.member).text("application/octet-stream", vec![7u8; 4096]).send().await.status, 204);
    assert_eq!(w.call(&w.member, "POST", &format!("/volumes/{id}/action"), reimage.clone(), "3.67").await.status, 400, "since 3.68");
    assert_eq!(w.act(&id, json!({"os-reimage": {"image_id": "x"}})).await.status, 400);
    let layers = w.cloud.hosts[0].hypervisor.layer_files();
    assert_eq!(w.act(&id, reimage.clone()).await.status, 202);
    let shown = w.becomes("volume", &id, "available").await;
    assert_eq!((&shown["bootable"], &shown["volume_image_metadata"]["image_id"]), (&json!("true"), &json!(image)));
    assert_ne!(w.cloud.hosts[0].hypervisor.layer_files(), layers, "what it held is gone");
    let attachment = w.post("/attachments", json!({"attachment": {"volume_uuid": id, "instance_uuid": base::id::uuid()}})).await;
    assert_eq!(attachment.status, 200, "{}", attachment.text());
    assert_eq!(w.act(&id, reimage).await.status, 400, "it is reserved");
    assert_eq!(w.act(&id, json!({"os-reimage": {"image_id": image, "reimage_reserved": true}})).await.status, 202);
    w.becomes("volume", &id, "reserved").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_make_images() {
    let w = World::new().await;
    let id = w.volume(json!({"name": "v", "size": 1})).await;
    w.act(&id, json!({"os-set_image_metadata": {"metadata": {"os_distro": "sturnus", "image_name": "origin"}}})).await.expect(200);
    let path = format!("/volumes/{id}/action");
    let ask = |body: Value| json!({ "os-volume_upload_image": body });
    for bad in [
        json!({}),
        json!({"image_name": ""}),
        json!({"image_name": "i", "disk_format": "floppy"}),
        json!({"image_name": "i", "disk_format": "ploop"}),
        json!({"image_name": "i", "container_format": "box"}),
        json!({"image_name": "i", "visibility": "secret"}),
        json!({"image_name": "i", "force": "perhaps"}),
        json!({"image_name": "i", "other": 1}),
    ] {
        assert_eq!(w.post(&path, ask(bad.clone())).await.status, 400, "{bad}");
    }
    let early = ask(json!({"image_name": "i", "protected": true}));
    assert_eq!(w.call(&w.member, "POST", &path, early, "3.0").await.status, 400, "since 3.1");
    let public = ask(json!({"image_name": "i", "visibility": "public"}));
    assert_eq!(w.post(&path, public).await.status, 403);
    let stranger = w.cloud.tenant("stranger", "member").await;
    assert_eq!(w.call(&stranger, "POST", &path, ask(json!({"image_name": "i"})), "3.71").await.status, 404);
    assert_eq!(w.cloud.get(&w.member, "/image/v2/images?name=i").await.expect(200)["images"], json!([]), "nothing was begun");

    let whole = ask(json!({"image_name": "i", "disk_format": "raw", "visibility": "private", "protected": true}));
    let made = w.post(&path, whole).await.expect(202)["os-volume_upload_image"].clone();
    assert_eq!((&made["status"], &made["id"], &made["protected"]), (&json!("uploading"), &json!(id), &json!(true)));
    assert_eq!(made["volume_type"]["name"], "local");
    let image = format!("/image/v2/images/{}", made["image_id"].as_str().unwrap());
    w.becomes("volume", &id, "available").await;
    let image = w.cloud.until(&w.member, &image, PATIENCE, |a| a.json()["status"] == "active").await.json();
    assert_eq!((&image["protected"], &image["os_distro"], &image["size"]), (&json!(true), &json!("sturnus"), &json!(1 << 20)));
    assert!(image.get("image_name").is_none(), "{image}");

    w.act(&id, json!({"os-attach": {"host_name": "h", "mountpoint": "/dev/vdb"}})).await;
    w.becomes("volume", &id, "in-use").await;
    assert_eq!(w.post(&path, ask(json!({"image_name": "j"}))).await.status, 400, "it is in use");
    let made = w.post(&path, ask(json!({"image_name": "j", "force": true, "disk_format": "raw"}))).await.expect(202);
    let image = format!("/image/v2/images/{}", made["os-volume_upload_image"]["image_id"].as_str().unwrap());
    w.cloud.until(&w.member, &image, PATIENCE, |a| a.json()["status"] == "active").await;
    w.becomes("volume", &id, "in-use").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_no_host_has_ends_in_a_message() {
    let w = World::new().await;
    let made = |name: &str, specs: Value| json!({"volume_type": {"name": name, "extra_specs": specs}});
    let fits = made(
        "fits",
        json!({"volume_backend_name": "local", "storage_protocol": "local", "capabilities:multiattach": "<is> True", "hw:x": "y"}),
    );
    w.call(&w.admin, "POST", "/types", fits, "3.0").await.expect(200);
    let odd = w.call(&w.admin, "POST", "/types", made("odd", json!({"vendor_name": "nobody"})), "3.0").await.expect(200);
    assert!(odd["volume_type"].get("qos_specs_id").is_none(), "the answer to a create is without extensions");
    w.volume(json!({"size": 1, "volume_type": "fits"})).await;
    let id = w.post("/volumes", json!({"volume": {"size": 1, "volume_type": "odd"}})).await.expect(202)["volume"]["id"]
        .as_str()
        .unwrap()
        .to_string();
    w.becomes("volume", &id, "error").await;
    let listed = w.get(&format!("/messages?resource_uuid={id}&sort=created_at:desc")).await.expect(200);
    let message = listed["messages"][0].clone();
    assert_eq!((&message["resource_uuid"], &message["event_id"]), (&json!(id), &json!("VOLUME_VOLUME_001_003")));
    assert_eq!((&message["message_level"], &message["resource_type"]), (&json!("ERROR"), &json!("VOLUME")));
    assert!(message["user_message"].as_str().unwrap().starts_with("schedule allocate volume:"));
    let path = format!("/messages/{}", message["id"].as_str().unwrap());
    assert_eq!(w.get(&path).await.expect(200)["message"], message);
    let stranger = w.cloud.tenant("stranger", "member").await;
    assert_eq!(w.call(&stranger, "GET", &path, Value::Null, "3.71").await.status, 404);
    assert_eq!(w.call(&stranger, "GET", "/messages", Value::Null, "3.71").await.expect(200)["messages"], json!([]));
    assert_eq!(w.call(&w.member, "GET", "/messages", Value::Null, "3.2").await.status, 404);
    assert_eq!(w.get(&format!("/messages?marker={id}")).await.status, 404);
    assert_eq!(w.delete(&path).await.status, 204);
    assert_eq!(w.get(&path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_host_keeps_what_it_has() {
    let w = World::new().await;
    let id = w.volume(json!({"size": 1})).await;
    let turn =
        async |how: &str, host: &str| w.call(&w.admin, "PUT", &format!("/os-services/{how}"), json!({ "host": host }), "3.0").await.status;
    assert_eq!(turn("freeze", "nowhere@local").await, 400);
    assert_eq!(w.call(&w.member, "PUT", "/os-services/freeze", json!({"host": "host-0@local"}), "3.0").await.status, 403);
    assert_eq!(turn("freeze", "host-0@local").await, 200);
    let services = w.call(&w.admin, "GET", "/os-services?binary=cinder-volume", Value::Null, "3.71").await.expect(200);
    assert_eq!(services["services"][0]["frozen"], json!(true));
    assert_eq!(w.delete(&format!("/volumes/{id}")).await.status, 400);
    assert_eq!(w.act(&id, json!({"os-extend": {"new_size": 2}})).await.status, 400);
    assert_eq!(w.post("/snapshots", json!({"snapshot": {"volume_id": id}})).await.status, 400);
    assert_eq!(turn("thaw", "host-0@local").await, 200);
    assert_eq!(w.delete(&format!("/volumes/{id}")).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn detaching_by_force_frees_a_volume_whose_status_was_set_by_hand() {
    let w = World::new().await;
    let id = w.volume(json!({"size": 1})).await;
    assert_eq!(w.act(&id, json!({"os-attach": {"host_name": "h", "mountpoint": "/dev/vdb"}})).await.status, 202);
    let attachment = w.becomes("volume", &id, "in-use").await["attachments"][0]["attachment_id"].clone();
    let act = async |body: Value| w.call(&w.admin, "POST", &format!("/volumes/{id}/action"), body, "3.0").await.status;
    assert_eq!(act(json!({"os-reset_status": {"status": "error"}})).await, 202);
    assert_eq!(act(json!({"os-force_detach": {"attachment_id": attachment, "connector": null}})).await, 202);
    assert_eq!(w.becomes("volume", &id, "available").await["attachments"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what() {
    let w = World::new().await;
    let id = w.volume(json!({"size": 1})).await;
    let stranger = w.cloud.tenant("stranger", "member").await;
    let reader = w.cloud.tenant("reader", "reader").await;
    for (method, body) in [("GET", Value::Null), ("PUT", json!({"volume": {"name": "x"}})), ("DELETE", Value::Null)] {
        assert_eq!(w.call(&stranger, method, &format!("/volumes/{id}"), body, "3.71").await.status, 404);
    }
    assert_eq!(w.call(&reader, "POST", "/volumes", json!({"volume": {"size": 1}}), "3.71").await.status, 403);
    assert_eq!(w.call(&reader, "GET", "/volumes", Value::Null, "3.71").await.status, 200);
    assert_eq!(w.act(&id, json!({"os-reset_status": {"status": "error"}})).await.status, 403);
    let reset = w.call(&w.admin, "POST", &format!("/volumes/{id}/action"), json!({"os-reset_status": {"status": "error"}}), "3.0").await;
    assert_eq!(reset.status, 202);
    assert_eq!(w.get("/os-services").await.status, 403);
    let services = w.call(&w.admin, "GET", "/os-services?binary=cinder-volume", Value::Null, "3.71").await.expect(200);
    assert_eq!((&services["services"][0]["state"], &services["services"][0]["host"]), (&json!("up"), &json!("host-0@local")));
    for bad in [
        json!({"volume": {"size": 0}}),
        json!({"volume": {"size": "x"}}),
        json!({"volume": {}}),
        json!({"volume": {"size": 1, "flavour": 1}}),
        json!({"volume": {"size": 1, "availability_zone": "nowhere"}}),
        json!({"volume": {"size": 1, "metadata": {"": "v"}}}),
        json!({"volume": {"size": 1, "snapshot_id": "x"}}),
    ] {
        let answer = w.post("/volumes", bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad} {}", answer.text());
        assert!(answer.json()["badRequest"]["message"].is_string());
    }
    let typed = json!({"volume": {"size": 1, "volume_type": "nothing"}});
    assert_eq!(w.post("/volumes", typed).await.status, 404);
    // Limits.
    let quota = json!({"quota_set": {"volumes": 1, "gigabytes": 1}});
    let path = format!("/os-quota-sets/{}", w.member.project_id);
    assert_eq!(w.call(&w.admin, "PUT", &path, quota, "3.0").await.expect(200)["quota_set"]["volumes"], 1);
    let refused = w.post("/volumes", json!({"volume": {"size": 1}})).await;
    assert_eq!((refused.status, refused.json()["overLimit"]["code"].clone()), (413, json!(413)));
    let usage = w.get(&format!("{path}?usage=true")).await.expect(200);
    assert_eq!(usage["quota_set"]["gigabytes"], json!({"limit": 1, "in_use": 1, "reserved": 0}));
    // Versions.
    assert_eq!(w.call(&w.member, "GET", "/attachments", Value::Null, "3.26").await.status, 404);
    assert_eq!(w.call(&w.member, "GET", "/volumes", Value::Null, "3.72").await.status, 406);
    assert_eq!(w.cloud.get(&w.member, "/volume/v3/volumes").await.header("openstack-api-version"), "volume 3.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_a_shared_type_has_an_attachment_for_each_server() {
    let w = World::new().await;
    let kind = |name: &str, specs: Value| json!({"volume_type": {"name": name, "extra_specs": specs}});
    for (name, specs) in [("shared", json!({"multiattach": "<is> True"})), ("plain", json!({}))] {
        w.call(&w.admin, "POST", "/types", kind(name, specs), "3.71").await.expect(200);
    }
    assert_eq!(w.post("/volumes", json!({"volume": {"size": 1, "multiattach": true}})).await.status, 400, "only types say so");
    let id = w.volume(json!({"size": 1, "volume_type": "shared"})).await;
    assert_eq!(w.get(&format!("/volumes/{id}")).await.expect(200)["volume"]["multiattach"], true);
    let servers: Vec<String> = (0..3).map(|_| base::id::uuid()).collect();
    let mut made = Vec::new();
    for (n, server) in servers.iter().enumerate().take(2) {
        let body = json!({"attachment": {"volume_uuid": id, "instance_uuid": server, "mode": "rw"}});
        let attachment = w.post("/attachments", body).await.expect(200)["attachment"]["id"].as_str().unwrap().to_string();
        w.becomes("volume", &id, "reserved").await;
        // One after the other.
        let another = json!({"attachment": {"volume_uuid": id, "instance_uuid": servers[2]}});
        assert_eq!(w.post("/attachments", another).await.status, 400);
        let path = format!("/attachments/{attachment}");
        let connector = json!({"attachment": {"connector": {"host": format!("h{n}"), "mountpoint": "/dev/vdb"}}});
        let shown = w.call(&w.member, "PUT", &path, connector, "3.71").await.expect(200)["attachment"].clone();
        assert_eq!((&shown["attach_mode"], &shown["status"]), (&json!("rw"), &json!("attaching")));
        assert_eq!(w.post(&format!("{path}/action"), json!({"os-complete": {}})).await.status, 204);
        let shown = w.becomes("volume", &id, "in-use").await;
        assert_eq!(shown["attachments"].as_array().unwrap().len(), n + 1);
        assert_eq!(shown["attachments"][n]["host_name"], Value::Null, "hosts are for administrators");
        made.push(attachment);
    }
    for body in [json!({"os-retype": {"new_type": "plain", "migration_policy": "never"}}), json!({"os-detach": {}})] {
        assert_eq!(w.act(&id, body.clone()).await.status, 400, "{body}");
    }
    assert_eq!(w.delete(&format!("/volumes/{id}")).await.status, 400);
    assert_eq!(w.act(&id, json!({"os-begin_detaching": null})).await.status, 202);
    w.becomes("volume", &id, "detaching").await;
    assert_eq!(w.act(&id, json!({"os-detach": {"attachment_id": made[0]}})).await.status, 202);
    let left = w.becomes("volume", &id, "in-use").await["attachments"].clone();
    assert_eq!((left.as_array().unwrap().len(), &left[0]["server_id"]), (1, &json!(servers[1])));
    assert_eq!(w.delete(&format!("/attachments/{}", made[1])).await.expect(200)["attachments"], json!([]));
    w.becomes("volume", &id, "available").await;

    // To another type and back, over which the volume is kept in another way.
    for (name, shared) in [("plain", false), ("shared", true)] {
        assert_eq!(w.act(&id, json!({"os-retype": {"new_type": name, "migration_policy": "never"}})).await.status, 202);
        // Public suites take a volume that has its new type for one that is ready.
        let path = format!("/volume/v3/volumes/{id}");
        let shown = w.cloud.until(&w.member, &path, PATIENCE, |a| a.json()["volume"]["volume_type"] == name).await.json()["volume"].clone();
        assert_eq!((&shown["status"], &shown["multiattach"]), (&json!("available"), &json!(shared)));
    }
    let plain = w.volume(json!({"size": 1, "volume_type": "plain"})).await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.layers_fail.push_back("no space".into()));
    assert_eq!(w.act(&plain, json!({"os-retype": {"new_type": "shared", "migration_policy": "never"}})).await.status, 202);
    let fits = |a: &Answer| a.json()["volume"]["status"] == "available";
    let shown = w.cloud.until(&w.member, &format!("/volume/v3/volumes/{plain}"), PATIENCE, fits).await.json()["volume"].clone();
    assert_eq!((&shown["volume_type"], &shown["multiattach"]), (&json!("plain"), &json!(false)), "it is what it was");

    // A volume that is not shared has two attachments only while a server moves, and never two that are open.
    let reserve = json!({"attachment": {"volume_uuid": plain, "instance_uuid": servers[0]}});
    let connected = json!({"attachment": {"volume_uuid": plain, "instance_uuid": servers[0], "connector": {"host": "h0"}}});
    let first = w.post("/attachments", connected).await.expect(200)["attachment"]["id"].as_str().unwrap().to_string();
    let second = w.post("/attachments", reserve).await.expect(200)["attachment"]["id"].as_str().unwrap().to_string();
    let connector = json!({"attachment": {"connector": {"host": "h1"}}});
    let answer = w.call(&w.member, "PUT", &format!("/attachments/{second}"), connector, "3.71").await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    for attachment in [&first, &second] {
        w.delete(&format!("/attachments/{attachment}")).await.expect(200);
    }
    for volume in [&id, &plain] {
        w.becomes("volume", volume, "available").await;
        assert_eq!(w.delete(&format!("/volumes/{volume}")).await.status, 202);
        w.gone("volume", volume).await;
    }
    w.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attachments_reserve_connect_complete_and_release() {
    let w = World::new().await;
    let id = w.volume(json!({"size": 1})).await;
    let server = base::id::uuid();
    let made = w.post("/attachments", json!({"attachment": {"volume_uuid": id, "instance_uuid": server}})).await.expect(200);
    let attachment = made["attachment"]["id"].as_str().unwrap().to_string();
    w.becomes("volume", &id, "reserved").await;
    assert_eq!(w.post("/attachments", json!({"attachment": {"volume_uuid": id, "instance_uuid": base::id::uuid()}})).await.status, 400);
    assert_eq!(w.delete(&format!("/volumes/{id}")).await.status, 400);
    let connector = json!({"attachment": {"connector": {"host": "h", "mountpoint": "/dev/vdb", "mode": "rw"}}});
    let path = format!("/attachments/{attachment}");
    let connected = w.call(&w.member, "PUT", &path, connector, "3.71").await.expect(200);
    assert_eq!(connected["attachment"]["connection_info"]["driver_volume_type"], "local");
    assert_eq!(w.post(&format!("{path}/action"), json!({"os-complete": {}})).await.status, 204);
    let shown = w.becomes("volume", &id, "in-use").await;
    assert_eq!((&shown["attachments"][0]["server_id"], &shown["attachments"][0]["device"]), (&json!(server), &json!("/dev/vdb")));
    assert_eq!(w.get(&format!("/attachments?instance_id={server}")).await.expect(200)["attachments"].as_array().unwrap().len(), 1);
    assert_eq!(w.delete(&path).await.expect(200)["attachments"], json!([]));
    w.becomes("volume", &id, "available").await;
    // The older way.
    for (action, status) in [
        (json!({"os-reserve": null}), "attaching"),
        (json!({"os-attach": {"instance_uuid": server, "mountpoint": "/dev/vdb"}}), "in-use"),
        (json!({"os-begin_detaching": null}), "detaching"),
        (json!({"os-roll_detaching": null}), "in-use"),
        (json!({"os-detach": {}}), "available"),
    ] {
        let answer = w.act(&id, action.clone()).await;
        assert_eq!(answer.status, 202, "{action} {}", answer.text());
        w.becomes("volume", &id, status).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_and_transfers() {
    let w = World::new().await;
    let made = w
        .call(&w.admin, "POST", "/types", json!({"volume_type": {"name": "fast", "os-volume-type-access:is_public": false}}), "3.0")
        .await
        .expect(200);
    let kind = made["volume_type"]["id"].as_str().unwrap().to_string();
    assert_eq!(w.post("/volumes", json!({"volume": {"size": 1, "volume_type": "fast"}})).await.status, 404);
    let access = json!({"addProjectAccess": {"project": w.member.project_id}});
    assert_eq!(w.call(&w.admin, "POST", &format!("/types/{kind}/action"), access.clone(), "3.0").await.status, 202);
    assert_eq!(w.call(&w.admin, "POST", &format!("/types/{kind}/action"), access, "3.0").await.status, 409);
    let id = w.volume(json!({"size": 1, "volume_type": "fast"})).await;
    assert_eq!(w.call(&w.admin, "DELETE", &format!("/types/{kind}"), Value::Null, "3.0").await.status, 400, "in use");
    assert_eq!(w.act(&id, json!({"os-retype": {"new_type": "local", "migration_policy": "never"}})).await.status, 202);
    assert_eq!(w.call(&w.admin, "DELETE", &format!("/types/{kind}"), Value::Null, "3.0").await.status, 202);

    let offered = w.post("/os-volume-transfer", json!({"transfer": {"volume_id": id, "name": "t"}})).await.expect(202);
    let (transfer, key) = (offered["transfer"]["id"].as_str().unwrap(), offered["transfer"]["auth_key"].as_str().unwrap());
    w.becomes("volume", &id, "awaiting-transfer").await;
    let other = w.cloud.tenant("other", "member").await;
    let path = format!("/os-volume-transfer/{transfer}/accept");
    let body = |key: &str| json!({"accept": {"auth_key": key}});
    assert_eq!(w.call(&other, "POST", &path, body("wrong"), "3.0").await.status, 400);
    assert_eq!(w.call(&other, "POST", &path, body(key), "3.0").await.status, 202);
    w.gone("volume", &id).await;
    assert_eq!(w.call(&other, "GET", &format!("/volumes/{id}"), Value::Null, "3.0").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_controller_changes_nothing_that_was_promised() {
    let mut w = World::new().await;
    let kept = w.volume(json!({"size": 1})).await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.delay = Duration::from_millis(100));
    let made =
        w.post("/volumes", json!({"volume": {"source_volid": kept}})).await.expect(202)["volume"]["id"].as_str().unwrap().to_string();
    let doomed = w.post("/volumes", json!({"volume": {"size": 1}})).await.expect(202)["volume"]["id"].as_str().unwrap().to_string();
    let snapshot = w.post("/snapshots", json!({"snapshot": {"volume_id": kept}})).await.expect(202)["snapshot"]["id"].clone();
    let (admin, member) = (w.admin, w.member);
    w = World { cloud: w.cloud.crash().await, admin, member };
    w.becomes("volume", &made, "available").await;
    w.becomes("volume", &doomed, "available").await;
    w.becomes("snapshot", snapshot.as_str().unwrap(), "available").await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.delay = Duration::ZERO);
    for id in [&made, &doomed, &kept] {
        assert_eq!(w.delete(&format!("/volumes/{id}?cascade=true")).await.status, 202);
        w.gone("volume", id).await;
    }
    w.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_cannot_make_ends_in_error_and_holds_nothing() {
    let mut w = World::new().await;
    w.cloud.hosts[0].hypervisor.trouble(|t| t.layers_fail.push_back("no space".into()));
    let made = w.post("/volumes", json!({"volume": {"size": 1}})).await.expect(202)["volume"]["id"].as_str().unwrap().to_string();
    w.becomes("volume", &made, "error").await;
    w.nothing_left().await;
    assert_eq!(w.delete(&format!("/volumes/{made}")).await.status, 202);
    w.gone("volume", &made).await;
    // A host that is away is told when it returns.
    let id = w.volume(json!({"size": 1})).await;
    w.cloud.hosts[0].vanish().await;
    assert_eq!(w.delete(&format!("/volumes/{id}")).await.status, 202);
    w.gone("volume", &id).await;
    assert_eq!(w.cloud.hosts[0].hypervisor.layer_files().len(), 1);
    w.cloud.host_return(0).await;
    w.nothing_left().await;
}

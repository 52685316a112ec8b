//! Staging, imports, tasks, and several stores.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use base::{Config, Result};
use image::ImageImport;
use serde_json::{Value, json};
use task::testing::Fixture;
use task::{Engine, Filter, Operation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Answer, TABLES, World};

const RAW: fn() -> Value = || json!({"disk_format": "raw", "container_format": "bare"});

fn by(method: &str) -> Value {
    json!({"method": {"name": method}})
}

pub async fn staged_content_is_imported(world: World) {
    world.core.tasks.start().await.unwrap();
    let id = world.image("alice", RAW()).await;
    world.stage("alice", &id, "content").await.is(204);
    let staged = world.show("alice", &id).await;
    assert_eq!((&staged["status"], &staged["size"], &staged["checksum"]), (&json!("uploading"), &json!(7), &Value::Null));
    world.stage("alice", &id, "content").await.is(409);
    world.upload("alice", &id, "content").await.is(409);
    world.import("alice", &id, by("glance-direct")).await.is(202);
    let image = world.imported("alice", &id).await;
    assert_eq!((&image["status"], &image["size"], &image["virtual_size"]), (&json!("active"), &json!(7), &json!(7)));
    assert_eq!(image["checksum"], "9a0364b9e99bb480dd25e1f0284c8555");
    assert_eq!((&image["os_glance_importing_to_stores"], &image["os_glance_failed_import"]), (&json!(""), &json!("")));
    assert_eq!((&image["stores"], image["os_hash_value"].as_str().unwrap().len()), (&json!("local"), 128));
    assert_eq!(world.get("alice", &format!("/v2/images/{id}/file")).await.is(200).text(), "content");
    assert_eq!(world.files().len(), 1, "{:?}", world.files());
    world.import("alice", &id, by("glance-direct")).await.is(409);
    // What an import refuses can be tried again.
    let wrong = world.image("alice", json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    world.stage("alice", &wrong, "content").await.is(204);
    world.import("alice", &wrong, by("glance-direct")).await.is(202);
    let image = world.imported("alice", &wrong).await;
    assert_eq!((&image["status"], &image["size"], &image["os_glance_failed_import"]), (&json!("queued"), &Value::Null, &json!("local")));
    let tasks = world.get("alice", &format!("/v2/images/{wrong}/tasks")).await.is(200).json();
    assert_eq!(tasks["tasks"][0]["status"], "failure");
    assert!(tasks["tasks"][0]["message"].as_str().unwrap().contains("disk_format is qcow2"), "{tasks}");
    assert_eq!(world.files().len(), 1);
    // Deleted while it waits.
    world.stage("alice", &wrong, "other").await.is(204);
    assert_eq!(world.files().len(), 2);
    world.delete("alice", &format!("/v2/images/{wrong}")).await.is(204);
    assert_eq!(world.files().len(), 1);
    world.core.tasks.stop().await;
}

pub async fn what_cannot_be_imported_is_told(world: World) {
    let queued = world.image("alice", RAW()).await;
    let bare = world.image("alice", json!({})).await;
    let active = world.active("alice", json!({}), b"content").await;
    let download = |uri: &str| json!({"method": {"name": "web-download", "uri": uri}});
    let with = |field: &str, value: Value| {
        let mut body = download("http://example.org/x");
        body[field] = value;
        body
    };
    for (status, words, token, image, body) in [
        (400, "'method'", "alice", &queued, json!({})),
        (400, "'name'", "alice", &queued, json!({"method": {}})),
        (400, "Unknown import method", "alice", &queued, by("magic")),
        (400, "boolean", "alice", &queued, with("all_stores", json!("yes"))),
        (400, "boolean", "alice", &queued, with("all_stores_must_succeed", json!(1))),
        (400, "'stores'", "alice", &queued, with("stores", json!("local"))),
        (400, "Only one", "alice", &queued, json!({"method": {"name": "glance-direct"}, "stores": ["local"], "all_stores": true})),
        (409, "not configured", "alice", &queued, with("stores", json!(["local", "none"]))),
        (400, "'glance_region'", "alice", &queued, by("glance-download")),
        (400, "'glance_image_id'", "alice", &queued, json!({"method": {"name": "glance-download", "glance_region": "west"}})),
        (400, "UUID", "alice", &queued, json!({"method": {"name": "glance-download", "glance_region": "west", "glance_image_id": "x"}})),
        (409, "staged before", "alice", &queued, by("glance-direct")),
        (409, "'queued' state", "alice", &active, json!({"method": {"name": "glance-direct"}})),
        (409, "Only images with status active", "admin", &queued, by("copy-image")),
        (400, "already present", "admin", &active, by("copy-image")),
        (409, "disk_format", "alice", &bare, download("http://example.org/x")),
        (400, "filtering", "alice", &queued, by("web-download")),
        (400, "filtering", "alice", &queued, download("file:///etc/passwd")),
        (400, "filtering", "alice", &queued, download("http://127.0.0.1/x")),
        (400, "filtering", "alice", &queued, download("http://example.org:22/x")),
    ] {
        let answer = world.import(token, image, body.clone()).await;
        let words = if status == 409 && image == &active && token == "alice" { "status active" } else { words };
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert!(answer.text().contains(words), "{body}: {}", answer.text());
    }
    let path = format!("/v2/images/{queued}/import");
    let header = [("x-image-meta-store", "none"), ("content-type", "application/json")];
    world.send("alice", "POST", &path, &header, download("http://example.org/x").to_string().into()).await.is(409);
    let header = [("x-image-meta-store", "none"), ("content-type", "application/octet-stream")];
    world.send("alice", "PUT", &format!("/v2/images/{queued}/file"), &header, "x".into()).await.is(400);
    world.send("alice", "PUT", &format!("/v2/images/{queued}/stage"), &[("content-type", "text/plain")], "x".into()).await.is(415);
    world.get("alice", &format!("/v2/images/{active}/file?prefer=none")).await.is(400);
    assert_eq!(world.show("alice", &queued).await["status"], "queued");
    // One at a time: nothing runs here, so the first one stays.
    world.import("alice", &queued, download("http://example.org/x")).await.is(202);
    let answer = world.import("alice", &queued, download("http://example.org/x")).await.is(409);
    assert!(answer.text().contains("active task"));
    let copied =
        world.post("admin", &format!("/v2/images/{active}/import"), json!({"method": {"name": "copy-image"}, "all_stores": true})).await;
    copied.is(202);
    let image = world.show("alice", &active).await;
    assert_eq!((image.get("os_glance_import_task"), &image["os_glance_importing_to_stores"]), (None, &json!("")));
}

pub async fn tasks_tell_of_imports(world: World) {
    let mut images = Vec::new();
    for _ in 0..3 {
        let id = world.image("alice", RAW()).await;
        world.import("alice", &id, json!({"method": {"name": "web-download", "uri": "http://example.org/x"}})).await.is(202);
        images.push(id);
    }
    let list = async |query: &str| -> Vec<String> {
        let body = world.get("admin", &format!("/v2/tasks?{query}")).await.is(200).json();
        body["tasks"].as_array().unwrap().iter().map(|t| t["image_id"].as_str().unwrap().to_string()).collect()
    };
    let newest: Vec<String> = images.iter().rev().cloned().collect();
    assert_eq!(list("").await, newest);
    assert_eq!(list("sort_dir=asc").await, images);
    assert_eq!(list("status=pending&type=api_image_import").await, newest);
    assert!(list("status=success").await.is_empty() && list("type=import").await.is_empty());
    for query in ["status=done", "type=magic", "sort_key=colour", "sort_dir=up", "marker=x", "limit=x"] {
        world.get("admin", &format!("/v2/tasks?{query}")).await.is(400);
    }
    world.get("admin", &format!("/v2/tasks?marker={}", base::id::uuid())).await.is(400);
    let page = world.get("admin", "/v2/tasks?limit=2").await.is(200).json();
    let rest = world.get("admin", page["next"].as_str().unwrap()).await.is(200).json();
    assert_eq!((rest["tasks"].as_array().unwrap().len(), rest.get("next")), (1, None));
    // One of them, whole and in the list.
    let part = page["tasks"][0].clone();
    assert!(part.get("input").is_none() && part.get("message").is_none());
    let task = world.get("admin", part["self"].as_str().unwrap()).await.is(200).json();
    assert_eq!((&task["type"], &task["status"], &task["owner"]), (&json!("api_image_import"), &json!("pending"), &json!("a")));
    assert_eq!(task["input"]["import_req"]["method"]["uri"], "http://example.org/x");
    assert_eq!((&task["input"]["backend"], &task["user_id"], &task["expires_at"]), (&json!(["local"]), &json!("user-alice"), &Value::Null));
    assert_eq!(world.show("alice", &images[2]).await["os_glance_import_task"], task["id"]);
    let own = world.get("alice", &format!("/v2/images/{}/tasks", images[2])).await.is(200).json();
    assert_eq!((&own["tasks"][0]["id"], &own["tasks"][0]["deleted"]), (&task["id"], &json!(false)));
    world.get("bob", &format!("/v2/images/{}/tasks", images[2])).await.is(404);
    world.delete("admin", part["self"].as_str().unwrap()).await.is(405);
    // The older way: a task that makes the image too.
    let input = |change: fn(&mut Value)| {
        let mut input = json!({"import_from": "http://example.org/y", "import_from_format": "raw", "image_properties": {"name": "t"}});
        change(&mut input);
        json!({"type": "import", "input": input})
    };
    for bad in [
        json!({}),
        json!({"type": "clone", "input": {}}),
        json!({"type": "import"}),
        input(|i| i["import_from"] = Value::Null),
        input(|i| i["import_from"] = json!("file:///etc/passwd")),
        input(|i| i["import_from_format"] = Value::Null),
        input(|i| i["image_properties"] = Value::Null),
        input(|i| i["image_properties"]["disk_format"] = json!("wrong")),
    ] {
        world.post("admin", "/v2/tasks", bad.clone()).await.is(400);
    }
    let made = world.post("admin", "/v2/tasks", input(|_| ())).await.is(201);
    assert!(made.header("location").ends_with(made.json()["self"].as_str().unwrap()));
    let image = world.show("admin", made.json()["image_id"].as_str().unwrap()).await;
    assert_eq!((&image["name"], &image["disk_format"], &image["container_format"]), (&json!("t"), &json!("raw"), &json!("bare")));
}

/// An image service of another region: its images are told apart by the last digit of their ids.
fn region(path: &str, request: &str) -> String {
    let say = |status: &str, body: &str| format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let id = path.trim_start_matches("/glance/v2/images/");
    if !request.to_ascii_lowercase().contains("x-auth-token: a") {
        return say("401 Unauthorized", "");
    }
    let image = |status: &str, size: u64| {
        let image = json!({"status": status, "size": size, "disk_format": "raw", "container_format": "bare", "hw_disk_bus": "scsi",
            "trait:CUSTOM_X": "required", "secret": "kept", "os_type": "linux", "name": "there"});
        say("200 OK", &image.to_string())
    };
    match id.split_once('/') {
        Some((_, "file")) => say("200 OK", "content"),
        None if id.ends_with('1') => image("active", 7),
        None if id.ends_with('2') => image("queued", 7),
        None if id.ends_with('3') => image("active", 8),
        _ => say("404 Not Found", ""),
    }
}

fn from_region(region: &str, digit: u8) -> Value {
    json!({"method": {"name": "glance-download", "glance_region": region, "glance_image_id": format!("11111111-2222-4333-8444-55555555555{digit}")}})
}

fn regions(world: &World, port: u16) {
    let endpoints = move |_: &store::Tx, region: &str, interface: &str| {
        Ok((region == "west" && interface == "public").then(|| format!("http://localhost:{port}/glance")))
    };
    world.images.endpoints_set(Box::new(endpoints));
}

#[tokio::test]
async fn images_come_from_another_region() {
    let world = World::new().await;
    regions(&world, server().await);
    world.core.tasks.start().await.unwrap();
    let other = || json!({"disk_format": "qcow2", "container_format": "ova", "hw_disk_bus": "ide", "own": "x"});
    let id = world.image("alice", other()).await;
    world.import("alice", &id, from_region("west", 1)).await.is(202);
    let image = world.imported("alice", &id).await;
    assert_eq!((&image["status"], &image["disk_format"], &image["container_format"]), (&json!("active"), &json!("raw"), &json!("bare")));
    assert_eq!((&image["hw_disk_bus"], &image["trait:CUSTOM_X"], &image["os_type"]), (&json!("scsi"), &json!("required"), &json!("linux")));
    assert_eq!((&image["own"], image.get("secret"), &image["name"]), (&json!("x"), None, &Value::Null));
    // The token is nowhere to be read.
    let operations = world.core.tasks.list(&Filter::default()).await.unwrap();
    assert_eq!(operations.len(), 1);
    let params = world.core.store.read(|tx| tx.query_one("SELECT params FROM operation", &[], |row| row.text(0))).await.unwrap();
    assert!(params.contains("\"token\"") && !params.contains("alice"), "{params}");
    for (region, digit, words) in [
        ("west", 2, "active instead of queued"),
        ("west", 3, "8 bytes, but 7"),
        ("west", 4, "status 404"),
        ("east", 1, "endpoint not found"),
    ] {
        let id = world.image("alice", other()).await;
        world.import("alice", &id, from_region(region, digit)).await.is(202);
        let image = world.imported("alice", &id).await;
        assert_eq!((&image["status"], &image["disk_format"]), (&json!("queued"), &json!("qcow2")));
        let task = world.get("alice", &format!("/v2/images/{id}/tasks")).await.is(200).json()["tasks"][0].clone();
        assert!(task["message"].as_str().unwrap().contains(words), "{task}");
    }
    assert_eq!(world.files().len(), 1);
    world.core.tasks.stop().await;
}

/// A server that answers by path: `/content`, `/away` (leads to another path), `/out` (to another port), `/loop`, `/gone`, `/short`.
async fn server() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                    if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let lead = |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let answer = match text.split(' ').nth(1).unwrap() {
                    path if path.starts_with("/glance/") => region(path, &text),
                    "/content" => "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\ncontent".to_string(),
                    "/short" => "HTTP/1.1 200 OK\r\ncontent-length: 70\r\nconnection: close\r\n\r\ncontent".to_string(),
                    "/away" => lead("/content"),
                    "/out" => lead("http://127.0.0.1:1/content"),
                    "/file" => lead("file:///etc/passwd"),
                    "/loop" => lead("/loop"),
                    _ => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_string(),
                };
                let _ = connection.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

fn open_to(port: u16) -> impl FnOnce(&mut Config) {
    move |config| {
        config.set("image.import_private_addresses", "true");
        config.set("image.import_allowed_ports", &port.to_string());
    }
}

#[tokio::test]
async fn content_is_downloaded_and_nothing_else() {
    let port = server().await;
    let world = World::with(open_to(port)).await;
    world.core.tasks.start().await.unwrap();
    for (path, message) in [
        ("content", None),
        ("away", None),
        ("out", Some("does not pass filtering")),
        ("file", Some("does not pass filtering")),
        ("loop", Some("too often")),
        ("gone", Some("status 404")),
        ("short", Some("ended early")),
    ] {
        let id = world.image("alice", RAW()).await;
        let uri = format!("http://localhost:{port}/{path}");
        world.import("alice", &id, json!({"method": {"name": "web-download", "uri": uri}})).await.is(202);
        let image = world.imported("alice", &id).await;
        let task = world.get("alice", &format!("/v2/images/{id}/tasks")).await.is(200).json()["tasks"][0].clone();
        match message {
            None => {
                assert_eq!(
                    (&image["status"], &task["status"], &task["result"]["image_id"]),
                    (&json!("active"), &json!("success"), &json!(id))
                );
                assert_eq!(world.get("alice", &format!("/v2/images/{id}/file")).await.is(200).text(), "content");
                assert!(task["expires_at"].is_string());
            }
            Some(words) => {
                assert_eq!((&image["status"], &task["status"]), (&json!("queued"), &json!("failure")), "{path}");
                assert!(task["message"].as_str().unwrap().contains(words), "{path}: {task}");
            }
        }
    }
    assert_eq!(world.files().len(), 1, "{:?}", world.files());
    // A name that is resolved to this machine is not asked where that is not allowed.
    world.core.tasks.stop().await;
    let world = World::with(|config| config.set("image.import_allowed_ports", &port.to_string())).await;
    world.core.tasks.start().await.unwrap();
    let id = world.image("alice", RAW()).await;
    world
        .import("alice", &id, json!({"method": {"name": "web-download", "uri": format!("http://localhost:{port}/content")}}))
        .await
        .is(202);
    assert_eq!(world.imported("alice", &id).await["status"], "queued");
    let tasks = world.get("alice", &format!("/v2/images/{id}/tasks")).await.is(200).json();
    assert!(tasks["tasks"][0]["message"].as_str().unwrap().contains("may not be asked"));
    world.core.tasks.stop().await;
}

fn inode(file: &std::path::Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(file).unwrap())
}

/// A world with a second store, and the store's directory.
async fn two_stores(configure: impl FnOnce(&mut Config)) -> (World, PathBuf) {
    let dir = tempfile::tempdir().unwrap().keep();
    let second = dir.join("second");
    let stores = format!("second={}:5", second.display());
    let world = World::with(move |config| {
        config.set("image.stores", &stores);
        configure(config);
    });
    (world.await, second)
}

#[tokio::test]
async fn an_image_is_in_several_stores() {
    let (world, second) = two_stores(|_| {}).await;
    world.core.tasks.start().await.unwrap();
    let stores = world.get("alice", "/v2/info/stores").await.is(200).json();
    assert_eq!((stores["stores"][1]["id"].as_str(), stores["stores"][1].get("default")), (Some("second"), None));
    let id = world.active("alice", json!({}), b"content").await;
    world.import("alice", &id, json!({"method": {"name": "copy-image"}, "stores": ["second"]})).await.is(403);
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["second"]})).await.is(202);
    assert_eq!(world.imported("alice", &id).await["stores"], "local,second");
    assert_eq!(world.files_of(&second), world.files());
    let download = async |query: &str| -> Answer { world.get("alice", &format!("/v2/images/{id}/file{query}")).await };
    // The store of the greater weight gives it out, another one when it is preferred or has it alone.
    assert_ne!(inode(&second.join(&world.files()[0])), inode(&world.images.directory().join(&world.files()[0])));
    std::fs::write(second.join(&world.files()[0]), b"CONTENT").unwrap();
    assert_eq!(download("").await.is(200).text(), "CONTENT");
    assert_eq!(download("?prefer=local").await.is(200).text(), "content");
    world.delete("admin", &format!("/v2/stores/none/{id}")).await.is(409);
    world.delete("alice", &format!("/v2/stores/second/{id}")).await.is(403);
    world.delete("admin", &format!("/v2/stores/second/{id}")).await.is(204);
    world.delete("admin", &format!("/v2/stores/second/{id}")).await.is(404);
    world.delete("admin", &format!("/v2/stores/local/{id}")).await.is(403);
    assert_eq!((world.show("alice", &id).await["stores"].clone(), world.files_of(&second).len()), (json!("local"), 0));
    assert_eq!(download("?prefer=second").await.is(200).text(), "content");
    // An upload and an import to the store that is named.
    let made = world.image("alice", RAW()).await;
    let header = [("x-image-meta-store", "second"), ("content-type", "application/octet-stream")];
    world.send("alice", "PUT", &format!("/v2/images/{made}/file"), &header, "there".into()).await.is(204);
    assert_eq!((world.show("alice", &made).await["stores"].clone(), world.files_of(&second).len()), (json!("second"), 1));
    let both = world.image("alice", RAW()).await;
    world.stage("alice", &both, "both").await.is(204);
    world.import("alice", &both, json!({"method": {"name": "glance-direct"}, "all_stores": true})).await.is(202);
    assert_eq!(world.imported("alice", &both).await["stores"], "local,second");
    // Guests are started from either.
    let boot = async |id: &str| world.images.boot_image(&crate::world::context("alice").unwrap(), id).await.unwrap().sha256.len();
    assert_eq!((boot(&made).await, boot(&both).await), (64, 64));
    for id in [&id, &made, &both] {
        world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    }
    assert!(world.files().is_empty() && world.files_of(&second).is_empty());
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn an_import_may_do_without_a_store() {
    let (world, second) = two_stores(|_| {}).await;
    world.core.tasks.start().await.unwrap();
    // Nothing can be written where the directory was.
    std::fs::remove_dir(&second).unwrap();
    std::fs::write(&second, b"no directory").unwrap();
    for (all, status, stores, failed) in [(true, "queued", Value::Null, "local,second"), (false, "active", json!("local"), "second")] {
        let id = world.image("alice", RAW()).await;
        world.stage("alice", &id, "content").await.is(204);
        let body = json!({"method": {"name": "glance-direct"}, "all_stores": true, "all_stores_must_succeed": all});
        world.import("alice", &id, body).await.is(202);
        let image = world.imported("alice", &id).await;
        assert_eq!((&image["status"], &image["stores"], &image["os_glance_failed_import"]), (&json!(status), &stores, &json!(failed)));
    }
    // None is too few.
    let id = world.image("alice", RAW()).await;
    world.stage("alice", &id, "content").await.is(204);
    world
        .import("alice", &id, json!({"method": {"name": "glance-direct"}, "stores": ["second"], "all_stores_must_succeed": false}))
        .await
        .is(202);
    assert_eq!(world.imported("alice", &id).await["status"], "queued");
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn a_store_out_of_reach_keeps_nobody_from_tidying_the_others() {
    let home = tempfile::tempdir().unwrap();
    let (broken, good) = (home.path().join("broken"), home.path().join("good"));
    let stores = format!("broken={},good={}", broken.display(), good.display());
    let world = World::with(move |config| config.set("image.stores", &stores)).await;
    std::fs::remove_dir(&broken).unwrap();
    std::fs::write(&broken, b"no directory").unwrap();
    // Of a crash, and of a task whose time is over; what others have put there is theirs.
    for name in ["0".repeat(64), format!(".staged-{}", base::id::uuid()), "notes".to_string()] {
        std::fs::write(good.join(name), b"x").unwrap();
    }
    let id = world.image("alice", RAW()).await;
    world.import("alice", &id, json!({"method": {"name": "web-download", "uri": "http://example.org/x"}})).await.is(202);
    let old = "UPDATE image_task SET status = 'failure', expires_at = 1";
    world.core.store.write(move |tx| tx.execute(old, &[]).map(drop)).await.unwrap();
    world.core.store.write(|tx| tx.execute("DELETE FROM operation", &[]).map(drop)).await.unwrap();
    world.core.tasks.start().await.unwrap();
    for _ in 0..1000 {
        if world.files_of(&good) == ["notes"] {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(world.files_of(&good), ["notes"]);
    assert_eq!(world.get("alice", &format!("/v2/images/{id}/tasks")).await.is(200).json(), json!({"tasks": []}));
    world.core.tasks.stop().await;
}

#[test]
fn stores_that_cannot_be_are_named_at_start() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (key, value, words) in [
        ("image.stores", "x", "id=directory"),
        ("image.stores", "x=relative", "in full"),
        ("image.stores", "local=/tmp/x", "another store"),
        ("image.stores", "a b=/tmp/x", "good name"),
        ("image.stores", "x=/tmp/x:heavy", "no number"),
        ("image.stores", "x=http,y=http", "second of its kind"),
        ("image.stores", "x=rbd+ceph.conf", "in full"),
        ("image.stores", "x=rbd+/nowhere/ceph.conf:3", "no configuration of Ceph"),
        ("image.default_store", "none", "no store `none`"),
    ] {
        let attempt =
            runtime.block_on(async { tokio::spawn(World::with(move |config| config.set(key, value))).await.err().map(|e| e.into_panic()) });
        let panic = attempt.unwrap_or_else(|| panic!("{key}={value} is accepted"));
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(text.contains(words), "{key}={value}: {text}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Direct,
    /// The same, compressed.
    Packed,
    Web,
    Copy,
    Region,
    /// Content of others that stays where it is.
    Location,
}

/// One import to two stores.
struct Runs {
    world: World,
    second: PathBuf,
    method: Method,
    id: String,
    port: u16,
}

impl Runs {
    async fn new(method: Method) -> Runs {
        let port = server().await;
        let home = tempfile::tempdir().unwrap();
        let url = store::testing::url(home.path(), &TABLES).await;
        let configure = move |config: &mut Config| {
            open_to(port)(config);
            if method == Method::Packed {
                config.set("image.import_plugins", "image_decompression,image_conversion");
            }
            if !url.starts_with("sqlite") {
                config.set("store", &url);
            }
            if method == Method::Location {
                let stores = config.text("image.stores").to_string();
                config.set("image.stores", &format!("{stores},web=http"));
            }
        };
        let (world, second) = two_stores(configure).await;
        let id = match method {
            Method::Copy => world.active("alice", json!({}), b"content").await,
            _ => world.image("alice", RAW()).await,
        };
        regions(&world, port);
        if method == Method::Direct {
            world.stage("alice", &id, "content").await.is(204);
        }
        if method == Method::Packed {
            world.stage("alice", &id, crate::plugins::gzip(b"content")).await.is(204);
        }
        Runs { world, second, method, id, port }
    }

    async fn task(&self) -> Value {
        self.world.get("alice", &format!("/v2/images/{}/tasks", self.id)).await.is(200).json()["tasks"][0].clone()
    }
}

#[async_trait]
impl Fixture for Runs {
    fn store(&self) -> store::Store {
        self.world.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        Arc::new(ImageImport(self.world.images.clone()))
    }
    async fn submit(&self, engine: &Engine) -> Result<String> {
        if self.method == Method::Location {
            let url = format!("http://localhost:{}/content", self.port);
            self.world.post("alice", &format!("/v2/images/{}/locations", self.id), json!({ "url": url })).await.is(202);
            let all = engine.list(&Filter { resource_id: Some(self.id.clone()), ..Filter::default() }).await?;
            return Ok(all[0].id.clone());
        }
        let (method, stores) = match self.method {
            Method::Direct | Method::Packed => (json!({"name": "glance-direct"}), json!(["local", "second"])),
            Method::Web => {
                (json!({"name": "web-download", "uri": format!("http://localhost:{}/content", self.port)}), json!(["local", "second"]))
            }
            Method::Copy => (json!({"name": "copy-image"}), json!(["second"])),
            Method::Region | Method::Location => (from_region("west", 1)["method"].clone(), json!(["local", "second"])),
        };
        self.world.import("admin", &self.id, json!({"method": method, "stores": stores})).await.is(202);
        let all = engine.list(&Filter { resource_id: Some(self.id.clone()), ..Filter::default() }).await?;
        Ok(all[0].id.clone())
    }
    async fn check_done(&self) {
        let image = self.world.show("alice", &self.id).await;
        let (stores, files) = if self.method == Method::Location { ("web", 0) } else { ("local,second", 1) };
        assert_eq!((&image["status"], &image["stores"], &image["size"]), (&json!("active"), &json!(stores), &json!(7)), "{image}");
        assert_eq!((image.get("os_glance_import_task"), &image["os_glance_importing_to_stores"]), (None, &json!("")));
        assert_eq!((self.world.files().len(), self.world.files_of(&self.second)), (files, self.world.files()));
        assert_eq!(self.task().await["status"], "success");
    }
    async fn check_undone(&self) {
        let image = self.world.show("alice", &self.id).await;
        let (status, files) = if self.method == Method::Copy { ("active", 1) } else { ("queued", 0) };
        assert_eq!((&image["status"], image.get("os_glance_import_task")), (&json!(status), None), "{image}");
        assert_eq!((self.world.files().len(), self.world.files_of(&self.second).len()), (files, 0), "{:?}", self.world.files());
        assert_eq!(self.task().await["status"], "failure");
        let failed = match self.method {
            Method::Copy => "second",
            Method::Location => "web",
            _ => "local,second",
        };
        assert_eq!(image["os_glance_failed_import"], failed);
    }
    async fn leave(&self) {
        self.world.core.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staged_content_survives_everything() {
    task::testing::four_runs(|| Runs::new(Method::Direct)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_content_survives_everything() {
    task::testing::four_runs(|| Runs::new(Method::Packed)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_survive_everything() {
    task::testing::four_runs(|| Runs::new(Method::Web)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_survive_everything() {
    task::testing::four_runs(|| Runs::new(Method::Copy)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locations_survive_everything() {
    task::testing::four_runs(|| Runs::new(Method::Location)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_other_regions_survive_everything() {
    task::testing::four_runs(|| Runs::new(Method::Region)).await;
}

//! Images whose content others keep, read by HTTP. The others are a server of this test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base::Config;
use serde_json::{Value, json};
use store::params;

use crate::world::{TABLES, World, context};

const RAW: fn() -> Value = || json!({"disk_format": "raw", "container_format": "bare"});

/// Content by path. `/away/...` leads to the path behind it; below `/whole` no ranges are known, below `/endless` no sizes, and what is below
/// `/growing` never ends.
#[derive(Clone, Default)]
pub struct Site(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Site {
    pub fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap()
    }
    pub fn set(&self, path: &str, content: &[u8]) {
        self.files().insert(path.to_string(), content.to_vec());
    }
}

async fn answer(State(site): State<Site>, request: Request) -> Response {
    let path = request.uri().path();
    if let Some(path) = path.strip_prefix("/away") {
        return (StatusCode::FOUND, [("location", path.to_string())]).into_response();
    }
    let Some(content) = site.files().get(path).cloned() else { return StatusCode::NOT_FOUND.into_response() };
    if path.starts_with("/endless") {
        let pieces = futures_util::stream::iter(content.into_iter().map(|byte| std::io::Result::Ok(vec![byte])));
        return Body::from_stream(pieces).into_response();
    }
    if path.starts_with("/growing") && request.method() == "GET" {
        return Body::from_stream(futures_util::stream::repeat_with(move || std::io::Result::Ok(content.clone()))).into_response();
    }
    let range = request.headers().get("range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    match range.filter(|_| !path.starts_with("/whole")) {
        Some((first, last)) => {
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let given = format!("bytes {first}-{last}/{}", content.len());
            let Some(part) = content.get(first..=last) else { return StatusCode::RANGE_NOT_SATISFIABLE.into_response() };
            (StatusCode::PARTIAL_CONTENT, [("content-range", given)], part.to_vec()).into_response()
        }
        None => content.into_response(),
    }
}

/// A cloud with the store `web` beside another one, and a site that it may ask.
pub async fn world(configure: impl FnOnce(&mut Config)) -> (World, Site, String) {
    let site = Site::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = Router::new().fallback(answer).with_state(site.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut config = Config::for_home(dir.path());
    let database = store::testing::url(dir.path(), &TABLES).await;
    if !database.starts_with("sqlite") {
        config.set("store", &database);
    }
    config.set("image.stores", &format!("web=http,second={}", dir.path().join("second").display()));
    config.set("image.show_multiple_locations", "true");
    config.set("image.show_image_direct_url", "true");
    config.set("image.import_private_addresses", "true");
    config.set("image.import_allowed_ports", &port.to_string());
    configure(&mut config);
    (World::open(dir, config).await, site, format!("http://localhost:{port}"))
}

fn add(url: &str) -> Value {
    json!([{"op": "add", "path": "/locations/-", "value": {"url": url, "metadata": {}}}])
}

fn add_known(url: &str, validation: Value) -> Value {
    json!([{"op": "add", "path": "/locations/-", "value": {"url": url, "metadata": {}, "validation_data": validation}}])
}

fn replace(locations: Value) -> Value {
    json!([{"op": "replace", "path": "/locations", "value": locations}])
}

fn sha512(content: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha512::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A queued image that has become active by a patch.
pub async fn linked(world: &World, url: &str) -> String {
    let id = world.image("alice", RAW()).await;
    world.patch("alice", &id, add(url)).await.is(200);
    id
}

/// Whether a download comes to its end.
async fn whole(world: &World, id: &str) -> bool {
    let response = world.raw("alice", &format!("/v2/images/{id}/file")).await;
    assert_eq!(response.status(), 200);
    axum::body::to_bytes(response.into_body(), usize::MAX).await.is_ok()
}

async fn sha256_of(world: &World, id: &str) -> String {
    world.images.boot_image(&context("alice").unwrap(), id).await.unwrap().sha256
}

#[tokio::test]
async fn an_address_is_given_to_an_image() {
    let (world, site, url) = world(|_| {}).await;
    for path in ["/content", "/whole/content", "/endless/content"] {
        site.set(path, b"content");
    }
    let stores = world.get("admin", "/v2/info/stores/detail").await.is(200).json();
    let web = stores["stores"].as_array().unwrap().iter().find(|store| store["id"] == "web").unwrap().clone();
    assert_eq!((&web["type"], &web["read-only"], &web["properties"]), (&json!("http"), &json!("true"), &json!({})));
    assert_eq!(stores["stores"][0].get("read-only"), None);

    let id = world.image("alice", json!({})).await;
    let at = |path: &str| format!("{url}{path}");
    for (words, patch) in [
        ("container_format", add(&at("/content"))),
        ("Invalid location", add("gopher://example.org/x")),
        ("Invalid location", add("file:///etc/passwd")),
        ("filtering", add("http://localhost:1/content")),
        ("filtering", add("http://user@localhost/content")),
    ] {
        let answer = world.patch("alice", &id, patch.clone()).await.is(400);
        assert!(answer.text().contains(words), "{patch}: {}", answer.text());
        world.patch("alice", &id, json!([{"op": "replace", "path": "/disk_format", "value": "raw"}])).await.is(200);
        world.patch("alice", &id, json!([{"op": "replace", "path": "/container_format", "value": "bare"}])).await.is(200);
    }
    for (words, patch) in [("status 404", add(&at("/gone"))), ("how much content", add(&at("/endless/content")))] {
        let answer = world.patch("alice", &id, patch.clone()).await.is(400);
        assert!(answer.text().contains(words), "{patch}: {}", answer.text());
    }
    assert_eq!(world.show("alice", &id).await["status"], "queued");

    let location = json!({"url": at("/content"), "metadata": {"speed": "88mph"}});
    let active = world.patch("alice", &id, json!([{"op": "add", "path": "/locations/-", "value": location}])).await.is(200).json();
    assert_eq!((&active["status"], &active["size"], &active["stores"]), (&json!("active"), &json!(7), &json!("web")));
    assert_eq!((&active["os_hash_value"], &active["checksum"]), (&Value::Null, &Value::Null));
    let shown = world.show("alice", &id).await;
    assert_eq!(shown["locations"], json!([{"url": at("/content"), "metadata": {"speed": "88mph", "store": "web"}}]));
    assert_eq!(shown["direct_url"], at("/content"));
    // Others read it wherever they may.
    let path = format!("/v2/images/{id}/file");
    let read = world.get("alice", &path).await.is(200);
    assert_eq!((read.text().as_str(), read.header("content-length")), ("content", "7"));
    for other in [id.clone(), linked(&world, &at("/whole/content")).await, linked(&world, &at("/away/content")).await] {
        let path = format!("/v2/images/{other}/file");
        let part = world.send("alice", "GET", &path, &[("range", "bytes=3-5")], Body::empty()).await.is(206);
        assert_eq!((part.text().as_str(), part.header("content-range")), ("ten", "bytes 3-5/7"));
        let rest = world.send("alice", "GET", &path, &[("range", "bytes=-4")], Body::empty()).await.is(206);
        assert_eq!(rest.text(), "tent");
    }
    // Nobody has looked into it: no host gets it.
    assert_eq!((sha256_of(&world, &id).await.as_str(), world.files().len()), ("", 0));

    // A second address, and what can be changed afterwards.
    let answer = world.patch("alice", &id, add(&at("/content"))).await.is(400);
    assert!(answer.text().contains("already"), "{}", answer.text());
    site.set("/longer", b"content and more");
    let answer = world.patch("alice", &id, add(&at("/longer"))).await.is(400);
    assert!(answer.text().contains("has 16 bytes"), "{}", answer.text());
    world.patch("alice", &id, add(&at("/whole/content"))).await.is(200);
    let shown = world.show("alice", &id).await["locations"].clone();
    assert_eq!((shown.as_array().unwrap().len(), &shown[1]["url"]), (2, &json!(at("/whole/content"))));
    world.patch("alice", &id, replace(shown.clone())).await.is(200);
    let mut turned = json!([shown[1], shown[0]]);
    turned[1]["metadata"]["date"] = "2015-10-15".into();
    world.patch("alice", &id, replace(turned.clone())).await.is(200);
    assert_eq!((&world.show("alice", &id).await["locations"], &world.show("alice", &id).await["stores"]), (&turned, &json!("web")));
    for wrong in [json!([shown[0]]), json!([shown[0], {"url": at("/away/content"), "metadata": {}}]), json!([shown[0], shown[0]])] {
        world.patch("alice", &id, replace(wrong)).await.is(400);
    }
    for n in 0..8 {
        world.patch("alice", &id, add(&at(&format!("/content?{n}")))).await.is(200);
    }
    let answer = world.patch("alice", &id, add(&at("/content?more"))).await.is(413);
    assert!(answer.text().contains("Maximum: 10"), "{}", answer.text());
    // The next address serves when the first one has something else, or nothing.
    site.files().remove("/whole/content");
    assert_eq!(world.get("alice", &path).await.is(200).text(), "content");
    site.set("/content", b"other content");
    world.get("alice", &path).await.is(503);
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
}

#[tokio::test]
async fn what_is_known_of_content_must_be_what_comes() {
    let (world, site, url) = world(|_| {}).await;
    let at = |path: &str| format!("{url}{path}");
    site.set("/content", b"content");
    site.set("/other", b"c0ntent");
    let known = |hash: &str| json!({"checksum": "1".repeat(32), "os_hash_algo": "sha512", "os_hash_value": hash});
    let right = sha512(b"content");
    let id = world.image("alice", RAW()).await;
    for (words, wrong) in [
        ("must be sha512", json!({"os_hash_algo": "md5", "os_hash_value": "1".repeat(32)})),
        ("64 bytes", json!({"os_hash_algo": "sha512", "os_hash_value": "1".repeat(32)})),
        ("64 bytes", json!({"os_hash_algo": "sha512", "os_hash_value": "x".repeat(128)})),
        ("16 bytes", json!({"checksum": "x".repeat(32), "os_hash_algo": "sha512", "os_hash_value": "1".repeat(128)})),
    ] {
        let answer = world.patch("alice", &id, add_known(&at("/content"), wrong)).await.is(409);
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    let active = world.patch("alice", &id, add_known(&at("/content"), known(&right))).await.is(200).json();
    assert_eq!((&active["status"], &active["os_hash_algo"], &active["os_hash_value"]), (&json!("active"), &json!("sha512"), &json!(right)));
    assert_eq!((&active["checksum"], active["locations"][0].get("validation_data")), (&json!("1".repeat(32)), None));
    let other = json!({"os_hash_algo": "sha512", "os_hash_value": "2".repeat(128)});
    let answer = world.patch("alice", &id, add_known(&at("/other"), other.clone())).await.is(409);
    assert!(answer.text().contains("different value"), "{}", answer.text());
    world.patch("alice", &id, add_known(&at("/content?same"), known(&right))).await.is(200);
    assert!(whole(&world, &id).await);
    // Where nothing is known later addresses cannot say it.
    let unknown = linked(&world, &at("/content")).await;
    let answer = world.patch("alice", &unknown, add_known(&at("/content?same"), known(&right))).await.is(409);
    assert!(answer.text().contains("'queued'"), "{}", answer.text());
    let conflicting = json!([
        {"url": at("/content"), "metadata": {}, "validation_data": known(&right)},
        {"url": at("/other"), "metadata": {}, "validation_data": other},
    ]);
    let queued = world.image("alice", RAW()).await;
    let answer = world.patch("alice", &queued, replace(conflicting)).await.is(409);
    assert!(answer.text().contains("Conflicting"), "{}", answer.text());
    let both = json!([{"url": at("/content"), "metadata": {}}, {"url": at("/other"), "metadata": {}}]);
    assert_eq!(world.patch("alice", &queued, replace(both)).await.is(200).json()["status"], "active");
    // Content of the same size that is another one is not given out to its end; parts cannot be told.
    site.set("/content", b"c0ntent");
    assert!(!whole(&world, &id).await && whole(&world, &unknown).await);
    // Signatures are verified of what is read here.
    let mut signed = RAW();
    for (name, value) in [
        ("img_signature", "AAAA"),
        ("img_signature_hash_method", "SHA-256"),
        ("img_signature_key_type", "RSA-PSS"),
        ("img_signature_certificate_uuid", "0e7ef1a6-1c9a-4f7f-8f5d-0b3a0c5d9d10"),
    ] {
        signed[name] = value.into();
    }
    let signed = world.image("alice", signed).await;
    world.patch("alice", &signed, add(&at("/content"))).await.is(409);
}

#[tokio::test]
async fn content_of_others_comes_to_hosts_when_somebody_has_looked_into_it() {
    let (world, site, url) = world(|_| {}).await;
    let at = |path: &str| format!("{url}{path}");
    site.set("/content", b"content");
    world.core.tasks.start().await.unwrap();
    let id = linked(&world, &at("/content")).await;
    let cached = async |id: &str| {
        world.put("admin", &format!("/v2/cache/{id}"), json!({})).await.is(202);
        crate::crashes::until("the image is cached", async || !sha256_of(&world, id).await.is_empty()).await;
    };
    cached(&id).await;
    let shown = world.show("alice", &id).await;
    assert_eq!((&shown["os_hash_value"], &shown["virtual_size"]), (&json!(sha512(b"content")), &json!(7)));
    assert_eq!((&shown["checksum"], world.files().len()), (&json!("9a0364b9e99bb480dd25e1f0284c8555"), 1));
    // From now on the address is held to it.
    assert!(whole(&world, &id).await);
    site.set("/content", b"c0ntent");
    assert!(!whole(&world, &id).await);
    world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
    assert!(world.files().is_empty());
    site.set("/content", b"content");
    // A store of ours gets a copy, and the address is forgotten, not what is there.
    let second = linked(&world, &at("/content")).await;
    world.import("admin", &second, json!({"method": {"name": "copy-image"}, "stores": ["web"]})).await.is(409);
    world.import("admin", &second, json!({"method": {"name": "copy-image"}, "all_stores": true})).await.is(202);
    let copied = world.imported("admin", &second).await;
    assert_eq!((&copied["stores"], &copied["os_hash_value"]), (&json!("web,local,second"), &json!(sha512(b"content"))), "{copied}");
    world.delete("admin", &format!("/v2/stores/web/{second}")).await.is(204);
    assert_eq!(world.show("alice", &second).await["stores"], "local,second");
    assert!(site.files().contains_key("/content"));
    let only = world.delete("admin", &format!("/v2/stores/web/{id}")).await.is(403);
    assert!(only.text().contains("no other store"), "{}", only.text());
    // What is not what it is called comes to nobody.
    let wrong = world.image("alice", json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    world.patch("alice", &wrong, add(&at("/content"))).await.is(200);
    world.import("admin", &wrong, json!({"method": {"name": "copy-image"}, "stores": ["local"]})).await.is(202);
    let refused = world.imported("admin", &wrong).await;
    assert_eq!((&refused["stores"], &refused["os_glance_failed_import"]), (&json!("web"), &json!("local")));
    assert_eq!(sha256_of(&world, &wrong).await, "");
    for image in [&id, &second, &wrong] {
        world.delete("alice", &format!("/v2/images/{image}")).await.is(204);
    }
    assert!(world.files().is_empty(), "{:?}", world.files());
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn the_next_place_is_tried() {
    let far = |config: &mut Config| {
        std::fs::create_dir_all(config.home().join("keys")).unwrap();
        std::fs::write(config.home().join("keys/store-far"), "access:secret").unwrap();
        let stores = format!("{},far=s3+http://127.0.0.1:1/bucket:9", config.text("image.stores"));
        config.set("image.stores", &stores);
    };
    let (world, site, url) = world(far).await;
    let at = |path: &str| format!("{url}{path}");
    site.set("/content", b"content");
    site.set("/whole/content", b"content");
    let id = world.image("alice", RAW()).await;
    let known = json!({"os_hash_algo": "sha512", "os_hash_value": sha512(b"content")});
    world.patch("alice", &id, add_known(&at("/content"), known)).await.is(200);
    world.patch("alice", &id, add(&at("/whole/content"))).await.is(200);
    // A bucket that is out of reach, an address that has something else by now, and one that is right.
    let image = id.clone();
    let insert = "INSERT INTO image_location (image_id, store, url, metadata, position) VALUES (?1, 'far', '', '{}', 2)";
    world.core.store.write(move |tx| tx.execute(insert, params![image])).await.unwrap();
    site.set("/content", b"c0ntent");
    world.core.tasks.start().await.unwrap();
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["second"]})).await.is(202);
    assert_eq!(world.imported("admin", &id).await["os_glance_failed_import"], "");
    world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
    // And a copy of our own that is damaged.
    let sha256 = sha256_of(&world, &id).await;
    std::fs::write(world.dir.path().join("second").join(&sha256), b"c0ntent").unwrap();
    world.put("admin", &format!("/v2/cache/{id}"), json!({})).await.is(202);
    crate::crashes::until("the image is cached", async || world.files() == [sha256.clone()]).await;
    assert_eq!(std::fs::read(world.images.directory().join(&sha256)).unwrap(), b"content");
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn no_more_comes_than_an_image_has() {
    let (world, site, url) = world(|_| {}).await;
    site.set("/growing/content", b"content");
    world.core.tasks.start().await.unwrap();
    let id = linked(&world, &format!("{url}/growing/content?token=secret")).await;
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["local"]})).await.is(202);
    assert_eq!(world.imported("admin", &id).await["os_glance_failed_import"], "local");
    let task = world.get("admin", &format!("/v2/images/{id}/tasks")).await.is(200).json()["tasks"][0].clone();
    assert!(task["message"].as_str().unwrap().contains("is not there") && !task["message"].to_string().contains("secret"), "{task}");
    assert!(world.files().is_empty(), "{:?}", world.files());
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn anybody_gives_addresses_by_the_locations_api() {
    let (world, site, url) = world(|_| {}).await;
    let at = |path: &str| format!("{url}{path}");
    site.set("/content", b"content");
    world.core.tasks.start().await.unwrap();
    let path = |id: &str| format!("/v2/images/{id}/locations");
    let id = world.image("alice", RAW()).await;
    world.post("alice", &path(&id), json!({"url": "file:///etc/passwd"})).await.is(403);
    world.post("alice", &path(&id), json!({"url": "http://localhost:1/content"})).await.is(400);
    world.post("bob", &path(&id), json!({"url": at("/content")})).await.is(404);
    for (body, words) in [
        (json!({"url": at("/gone")}), "status 404"),
        (json!({"url": at("/content"), "validation_data": {"os_hash_algo": "md5", "os_hash_value": "0".repeat(32)}}), "not matched"),
    ] {
        world.post("alice", &path(&id), body).await.is(202);
        assert_eq!(world.imported("alice", &id).await["status"], "queued");
        let task = world.get("alice", &format!("/v2/images/{id}/tasks")).await.is(200).json()["tasks"][0].clone();
        assert!(task["message"].as_str().unwrap().contains(words), "{task}");
    }
    world.post("alice", &path(&id), json!({"url": at("/content")})).await.is(202);
    let active = world.imported("alice", &id).await;
    assert_eq!((&active["status"], &active["stores"], &active["size"]), (&json!("active"), &json!("web"), &json!(7)));
    assert_eq!((&active["os_hash_value"], &active["locations"][0]["url"]), (&json!(sha512(b"content")), &json!(at("/content"))));
    assert!(whole(&world, &id).await && world.files().is_empty());
    // Nothing can be put there.
    let queued = world.image("alice", RAW()).await;
    let header = [("x-image-meta-store", "web"), ("content-type", "application/octet-stream")];
    world.send("alice", "PUT", &format!("/v2/images/{queued}/file"), &header, "x".into()).await.is(410);
    world.import("alice", &queued, json!({"method": {"name": "web-download", "uri": at("/content")}, "stores": ["web"]})).await.is(409);
    assert_eq!(world.show("alice", &queued).await["status"], "queued");
    world.core.tasks.stop().await;
}

//! A store in a bucket. The object store is one of this test, which checks hashes and signatures' form, or a real one:
//! `STURNUS_TEST_S3=http://host:port/bucket`, with `STURNUS_TEST_S3_KEY=access:secret`; the bucket must be there and empty.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use sha2::Digest;

use crate::world::{World, context};

#[derive(Clone, Default)]
pub struct Objects {
    kept: Arc<Mutex<Kept>>,
    /// Whoever holds it keeps the second half of every object back.
    pub door: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
pub struct Kept {
    /// How often an object was asked for.
    pub gets: u32,
    /// How many requests met a store that was broken.
    pub refused: u32,
    objects: BTreeMap<String, Vec<u8>>,
    /// Of the object on its way.
    parts: BTreeMap<u32, Vec<u8>>,
    /// Answers everything with this.
    pub broken: Option<u16>,
}

impl Objects {
    pub fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }
}

async fn answer(State(objects): State<Objects>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap().to_string()).unwrap_or_default();
    let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
    let hash: String = sha2::Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
    let authorization = header("authorization");
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=access/"), "{authorization}");
    if header("x-amz-content-sha256") != hash {
        return (StatusCode::BAD_REQUEST, "<Error><Code>XAmzContentSHA256Mismatch</Code></Error>").into_response();
    }
    let mut kept = objects.kept();
    if let Some(status) = kept.broken {
        kept.refused += 1;
        return (StatusCode::from_u16(status).unwrap(), "<Error><Code>Broken</Code></Error>").into_response();
    }
    let name = parts.uri.path().strip_prefix("/bucket").unwrap().trim_start_matches('/').to_string();
    match (parts.method.as_str(), name.as_str()) {
        ("GET", "") => {
            let keys: String = kept.objects.keys().map(|name| format!("<Contents><Key>{name}</Key></Contents>")).collect();
            format!("<ListBucketResult>{keys}<IsTruncated>false</IsTruncated></ListBucketResult>").into_response()
        }
        ("POST", _) if parts.uri.query() == Some("uploads=") => "<R><UploadId>one</UploadId></R>".into_response(),
        ("POST", _) => {
            let whole: Vec<u8> = std::mem::take(&mut kept.parts).into_values().flatten().collect();
            kept.objects.insert(name, whole);
            "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>".into_response()
        }
        ("PUT", _) if parts.uri.query().is_some() => {
            let number = parts.uri.query().unwrap().strip_prefix("partNumber=").unwrap().split('&').next().unwrap();
            kept.parts.insert(number.parse().unwrap(), body);
            [("etag", "\"tag\"")].into_response()
        }
        ("PUT", _) => {
            kept.objects.insert(name, body);
            StatusCode::OK.into_response()
        }
        ("DELETE", _) => {
            kept.objects.remove(&name);
            StatusCode::NO_CONTENT.into_response()
        }
        ("GET", _) => {
            kept.gets += 1;
            match kept.objects.get(&name) {
                Some(content) => halves(content, objects.door.clone()).into_response(),
                None => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response(),
            }
        }
        _ => match kept.objects.get(&name) {
            Some(content) => Body::from(content.clone()).into_response(),
            None => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response(),
        },
    }
}

fn halves(content: &[u8], door: Arc<tokio::sync::Mutex<()>>) -> Body {
    let (first, second) = content.split_at(content.len() / 2);
    let (first, second) = (Bytes::copy_from_slice(first), Bytes::copy_from_slice(second));
    let later = async move {
        drop(door.lock().await);
        Ok::<_, std::io::Error>(second)
    };
    Body::from_stream(futures_util::stream::once(async { Ok(first) }).chain(futures_util::stream::once(later)))
}

/// A world with a bucket as its default store; the objects, unless they are in a real store.
pub async fn world() -> (World, Option<Objects>) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (url, credentials, objects) = match std::env::var("STURNUS_TEST_S3") {
        Ok(url) => (url, std::env::var("STURNUS_TEST_S3_KEY").unwrap(), None),
        Err(_) => {
            let objects = Objects::default();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/bucket", listener.local_addr().unwrap());
            let routes = Router::new().fallback(answer).with_state(objects.clone());
            tokio::spawn(async move { axum::serve(listener, routes).await });
            (url, "access:secret".to_string(), Some(objects))
        }
    };
    std::fs::create_dir_all(dir.path().join("keys")).unwrap();
    std::fs::write(dir.path().join("keys/store-far"), credentials).unwrap();
    let mut config = base::Config::for_home(dir.path());
    config.set("image.stores", &format!("far=s3+{url}?part=5:3"));
    config.set("image.default_store", "far");
    (World::open(dir, config).await, objects)
}

pub fn some_content(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
async fn content_is_kept_in_a_bucket() {
    let (world, objects) = world().await;
    let held = |count: usize| objects.iter().for_each(|objects| assert_eq!(objects.kept().objects.len(), count));
    world.core.tasks.start().await.unwrap();
    let content = some_content(12_000_000);
    let id = world.active("alice", json!({}), &content).await;
    let image = world.show("alice", &id).await;
    assert_eq!((&image["status"], &image["stores"], &image["size"]), (&json!("active"), &json!("far"), &json!(12_000_000)));
    held(1);
    assert!(world.files().is_empty(), "{:?}", world.files());
    // What is read comes here first, and is verified.
    assert!(world.get("alice", &format!("/v2/images/{id}/file")).await.is(200).bytes == content);
    assert_eq!(world.files().len(), 1);
    let boot = world.images.boot_image(&context("alice").unwrap(), &id).await.unwrap();
    assert_eq!(world.files(), [boot.sha256]);
    world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
    // From it and to it.
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["local"]})).await.is(202);
    assert_eq!(world.imported("admin", &id).await["stores"], "far,local");
    world.delete("admin", &format!("/v2/stores/far/{id}")).await.is(204);
    held(0);
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["far"]})).await.is(202);
    world.imported("admin", &id).await;
    held(1);
    // Equal content is one object, as long as anyone has it.
    let second = world.active("bob", json!({}), &content).await;
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    held(1);
    assert!(world.get("bob", &format!("/v2/images/{second}/file")).await.is(200).bytes == content);
    world.delete("bob", &format!("/v2/images/{second}")).await.is(204);
    held(0);
    assert!(world.files().is_empty(), "{:?}", world.files());
    let stores = world.get("admin", "/v2/info/stores/detail").await.is(200).json();
    let far = stores["stores"].as_array().unwrap().iter().find(|store| store["id"] == "far").unwrap().clone();
    assert_eq!((&far["type"], &far["weight"], &far["default"]), (&json!("s3"), &json!(3), &json!("true")), "{far}");
    assert!(!far.to_string().contains("secret"));
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn a_bucket_that_fails_leaves_images_as_they_were() {
    let (world, objects) = world().await;
    // A real one is not told to fail.
    let Some(objects) = objects else { return };
    let queued = world.image("alice", json!({"disk_format": "raw", "container_format": "bare"})).await;
    objects.kept().broken = Some(503);
    let answer = world.upload("alice", &queued, "content").await.is(503);
    assert!(answer.text().contains("object store"), "{}", answer.text());
    assert_eq!(world.show("alice", &queued).await["status"], "queued");
    assert!(world.files().is_empty());
    objects.kept().broken = None;
    world.upload("alice", &queued, "content").await.is(204);
    // Damaged or lost there, it is given to nobody.
    let path = format!("/v2/images/{queued}/file");
    let before: Vec<(String, Vec<u8>)> = objects.kept().objects.clone().into_iter().collect();
    let name = before[0].0.clone();
    objects.kept().objects.insert(name.clone(), b"c0ntent".to_vec());
    world.get("alice", &path).await.is(500);
    objects.kept().objects.remove(&name);
    world.get("alice", &path).await.is(503);
    assert!(world.files().is_empty());
    objects.kept().objects.insert(name, b"content".to_vec());
    assert_eq!(world.get("alice", &path).await.is(200).text(), "content");
    // What no image has goes, and nothing that is not ours.
    let orphan = "0123456789abcdef".repeat(4);
    objects.kept().objects.insert(orphan.clone(), b"x".to_vec());
    objects.kept().objects.insert("foreign".into(), b"x".to_vec());
    world.core.tasks.start().await.unwrap();
    crate::crashes::until("the orphan goes", async || !objects.kept().objects.contains_key(&orphan)).await;
    assert!(objects.kept().objects.contains_key("foreign"));
    world.core.tasks.stop().await;
}

#[test]
fn buckets_that_cannot_be_are_named_at_start() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (entry, words) in [
        ("a=s3+http://127.0.0.1:1/bucket", "has no credentials"),
        ("far=s3+http://127.0.0.1:1/", "the name of a bucket"),
        ("far=s3+nothing", "is no URL"),
    ] {
        let attempt = runtime.block_on(async {
            let start = async move {
                let dir = Arc::new(tempfile::tempdir().unwrap());
                std::fs::create_dir_all(dir.path().join("keys")).unwrap();
                std::fs::write(dir.path().join("keys/store-far"), "access:secret").unwrap();
                let mut config = base::Config::for_home(dir.path());
                config.set("image.stores", entry);
                World::open(dir, config).await
            };
            tokio::spawn(start).await.err().map(|e| e.into_panic())
        });
        let text = attempt.unwrap().downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(text.contains(words), "{entry}: {text}");
    }
}

//! Signed images, with signatures made by OpenSSL and a key manager of this test.
//!
//! In `data/signatures` are the certificates and `signatures.tsv`, all by `openssl dgst -sign` over [`CONTENT`].

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base::Result;
use image::{Barbican, Endpoint};
use serde_json::{Value, json};

use crate::world::World;

const CONTENT: &str = "What is signed.";
const SIGNATURES: &str = include_str!("../data/signatures/signatures.tsv");
const ID: &str = "0e7ef1a6-1c9a-4f7f-8f5d-0b3a0c5d9d10";

/// A key manager with one secret, which it gives to `alice` only.
#[derive(Clone, Default)]
struct Keys(Arc<Mutex<Secret>>);

#[derive(Clone, Default)]
struct Secret {
    kind: &'static str,
    content: Vec<u8>,
    /// In place of any answer.
    status: Option<u16>,
    asked: u32,
}

impl Keys {
    async fn start(world: &World, path: &str) -> Keys {
        let keys = Keys::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        let routes =
            Router::new().route("/v1/secrets/{id}", get(describe)).route("/v1/secrets/{id}/payload", get(payload)).with_state(keys.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        world.images.key_manager_set(Barbican::new(&world.core.config, At(Some(url))).unwrap());
        keys
    }
    fn has(&self, kind: &'static str, content: &[u8]) {
        *self.0.lock().unwrap() = Secret { kind, content: content.to_vec(), status: None, asked: 0 };
    }
    /// The secret, when this caller may have it.
    fn asked(&self, id: &str, headers: &HeaderMap, accept: &str) -> std::result::Result<Secret, StatusCode> {
        let mut secret = self.0.lock().unwrap();
        secret.asked += 1;
        if let Some(status) = secret.status {
            return Err(StatusCode::from_u16(status).unwrap());
        }
        let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_string()).unwrap_or_default();
        match (header("x-auth-token").as_str(), id == ID, header("accept") == accept) {
            ("alice", true, true) => Ok(secret.clone()),
            ("alice", true, false) => Err(StatusCode::NOT_ACCEPTABLE),
            ("alice", false, _) => Err(StatusCode::NOT_FOUND),
            _ => Err(StatusCode::FORBIDDEN),
        }
    }
}

async fn describe(State(keys): State<Keys>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    match keys.asked(&id, &headers, "application/json") {
        Ok(secret) => {
            json!({"secret_type": secret.kind, "content_types": {"default": "application/pkix-cert"}}).to_string().into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

async fn payload(State(keys): State<Keys>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    match keys.asked(&id, &headers, "application/pkix-cert") {
        Ok(secret) => secret.content.into_response(),
        Err(refused) => refused.into_response(),
    }
}

struct At(Option<String>);

#[async_trait]
impl Endpoint for At {
    async fn url(&self) -> Result<Option<String>> {
        Ok(self.0.clone())
    }
}

fn certificate(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/signatures/{name}.pem", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Certificate, key type, hash and signature.
fn signatures() -> Vec<[&'static str; 4]> {
    SIGNATURES.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>().try_into().unwrap()).collect()
}

fn signed(key: &str, hash: &str, signature: &str) -> Value {
    json!({
        "disk_format": "raw", "container_format": "bare", "img_signature": signature, "img_signature_hash_method": hash,
        "img_signature_key_type": key, "img_signature_certificate_uuid": ID,
    })
}

/// The upload is refused with a message that has `why` in it, and nothing is left of it.
async fn refused(world: &World, image: Value, content: &str, why: &str) {
    let id = world.image("alice", image).await;
    let answer = world.upload("alice", &id, content.to_string()).await.is(400);
    let text = answer.text();
    assert!(text.contains(&format!("Signature verification failed for image {id}: ")) && text.contains(why), "{why}: {text}");
    let shown = world.show("alice", &id).await;
    assert_eq!((shown["status"].as_str().unwrap(), shown["checksum"].is_null()), ("queued", true), "{why}");
    assert!(world.files().is_empty(), "{why}");
}

pub async fn every_kind_of_signature_is_verified(world: World) {
    let keys = Keys::start(&world, "").await;
    for [name, key, hash, signature] in signatures() {
        keys.has("certificate", &certificate(name));
        refused(&world, signed(key, hash, signature), "what is signed.", "the signature is not of this content").await;
        let id = world.image("alice", signed(key, hash, signature)).await;
        world.upload("alice", &id, CONTENT).await.is(204);
        assert_eq!(world.show("alice", &id).await["status"], "active", "{key} {hash}");
        world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    }
    assert_eq!(signatures().len(), 16);
}

pub async fn a_signature_counts_for_its_key_and_hash_only(world: World) {
    let keys = Keys::start(&world, "/v1/").await;
    let of = |wanted: &str, method: &str| {
        signatures().into_iter().find(|[_, key, hash, _]| *key == wanted && *hash == method).map(|[_, _, _, signature]| signature).unwrap()
    };
    let rsa = of("RSA-PSS", "SHA-256");
    let not_of_this = "the signature is not of this content";
    keys.has("certificate", &certificate("rsa"));
    refused(&world, signed("RSA-PSS", "SHA-512", rsa), CONTENT, not_of_this).await;
    refused(&world, signed("RSA-PSS", "SHA-256", of("RSA-PSS", "SHA-512")), CONTENT, not_of_this).await;
    refused(&world, signed("RSA-PSS", "SHA-256", ""), CONTENT, not_of_this).await;
    refused(&world, signed("RSA-PSS", "SHA-256", of("ECC_SECP384R1", "SHA-256")), CONTENT, not_of_this).await;
    refused(&world, signed("ECC_SECP384R1", "SHA-256", rsa), CONTENT, "its key is not of type SECP384R1").await;
    for (name, key, why) in [
        ("p384", "RSA-PSS", "its key is not of type RSA"),
        ("p384", "ECC_SECP521R1", "its key is not of type SECP521R1"),
        ("p256", "ECC_SECP384R1", "its key is not of type SECP384R1"),
        ("dsa", "RSA-PSS", "its key is not of type RSA"),
        ("short", "RSA-PSS", "its key of 1024 bits is not of 2048 to 8192"),
    ] {
        keys.has("certificate", &certificate(name));
        refused(&world, signed(key, "SHA-256", rsa), CONTENT, why).await;
    }
    keys.has("certificate", &certificate("p384"));
    refused(&world, signed("ECC_SECP384R1", "SHA-256", rsa), CONTENT, not_of_this).await;
}

pub async fn what_cannot_be_verified_is_refused(world: World) {
    let keys = Keys::start(&world, "").await;
    let [name, key, hash, signature] = signatures()[0];
    let whole = signed(key, hash, signature);
    let with = |name: &str, value: &str| {
        let mut image = whole.clone();
        image[name] = value.into();
        image
    };
    keys.has("certificate", &certificate(name));
    for (name, value, why) in [
        ("img_signature_key_type", "DSA", "which this cloud does not verify"),
        ("img_signature_key_type", "ECC_SECT571R1", "which this cloud does not verify"),
        ("img_signature_key_type", "none", "img_signature_key_type is 'none'"),
        ("img_signature_hash_method", "MD5", "img_signature_hash_method is 'MD5'"),
        ("img_signature", "***", "img_signature is not base64"),
        ("img_signature_certificate_uuid", "../orders", "which is no UUID"),
    ] {
        refused(&world, with(name, value), CONTENT, why).await;
    }
    assert_eq!(keys.0.lock().unwrap().asked, 0, "nothing is asked for what cannot be checked anyway");
    let other = "11111111-2222-4333-8444-555555555555";
    refused(&world, with("img_signature_certificate_uuid", other), CONTENT, "could not be found").await;
    keys.has("opaque", &certificate(name));
    refused(&world, whole.clone(), CONTENT, "is of type opaque, not a certificate").await;
    keys.has("certificate", b"-----BEGIN CERTIFICATE-----\nnot one");
    refused(&world, whole.clone(), CONTENT, "it is no X.509 certificate").await;
    keys.has("certificate", &vec![0; 70_000]);
    refused(&world, whole.clone(), CONTENT, "answers with more than 65536 bytes").await;
    keys.0.lock().unwrap().status = Some(403);
    refused(&world, whole.clone(), CONTENT, "does not give certificate").await;
    keys.0.lock().unwrap().status = Some(500);
    refused(&world, whole.clone(), CONTENT, "answers with status 500").await;
    // Three properties are no signature.
    let mut half = whole.clone();
    half.as_object_mut().unwrap().remove("img_signature");
    let id = world.image("alice", half).await;
    world.upload("alice", &id, "anything").await.is(204);
}

pub async fn imports_are_verified_too(world: World) {
    let keys = Keys::start(&world, "").await;
    let [name, key, hash, signature] = signatures()[0];
    keys.has("certificate", &certificate(name));
    world.core.tasks.start().await.unwrap();
    let direct = || json!({"method": {"name": "glance-direct"}});
    let wrong = world.image("alice", signed(key, hash, signature)).await;
    world.stage("alice", &wrong, "what is signed.").await.is(204);
    world.import("alice", &wrong, direct()).await.is(202);
    assert_eq!(world.imported("alice", &wrong).await["status"], "queued");
    let tasks = world.get("alice", &format!("/v2/images/{wrong}/tasks")).await.is(200).json();
    assert!(tasks["tasks"][0]["message"].as_str().unwrap().contains("the signature is not of this content"), "{tasks}");
    assert!(world.files().is_empty());
    let right = world.image("alice", signed(key, hash, signature)).await;
    world.stage("alice", &right, CONTENT).await.is(204);
    world.import("alice", &right, direct()).await.is(202);
    assert_eq!(world.imported("alice", &right).await["status"], "active");
    // Without its certificate none begins.
    keys.0.lock().unwrap().status = Some(404);
    let unknown = world.image("alice", signed(key, hash, signature)).await;
    world.stage("alice", &unknown, CONTENT).await.is(204);
    let answer = world.import("alice", &unknown, direct()).await.is(400);
    assert!(answer.text().contains("could not be found"), "{}", answer.text());
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn without_a_key_manager_nothing_signed_is_taken() {
    let [_, key, hash, signature] = signatures()[0];
    let world = World::new().await;
    refused(&world, signed(key, hash, signature), CONTENT, "There is no key manager").await;
    let world = World::new().await;
    world.images.key_manager_set(Barbican::new(&world.core.config, At(None)).unwrap());
    refused(&world, signed(key, hash, signature), CONTENT, "There is no key manager").await;
    // Another service, which has no token, does not get around it.
    let id = world.image("alice", signed(key, hash, signature)).await;
    let ctx = crate::world::context("alice").unwrap();
    let error = world.images.content_put(&ctx, &id, http_api::body::Upload::new(axum::body::Body::from(CONTENT))).await.unwrap_err();
    assert!(error.message().contains("only be asked for with a user's token"), "{}", error.chain());
}

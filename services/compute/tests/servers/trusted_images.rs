//! Servers of signed images, whose signers' certificates are validated. The certificates are OpenSSL's, those of the image service's tests; the
//! key manager is one of this test.

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use testing::Cloud;

use crate::world::World;

const CONTENT: &str = "What is signed.";
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../image/tests/data/chain");
/// What the key manager has, by the end of an id.
const CERTIFICATES: [&str; 4] = ["leaf", "inter", "root", "other-root"];

fn id(name: &str) -> String {
    let number = CERTIFICATES.iter().position(|known| *known == name).unwrap_or(99);
    format!("0e7ef1a6-1c9a-4f7f-8f5d-0b3a0c5d9d{number:02}")
}

fn named(id_: &str) -> Option<&'static str> {
    CERTIFICATES.into_iter().find(|name| id(name) == id_)
}

async fn describe(Path(id): Path<String>) -> Response {
    match named(&id) {
        Some(_) => json!({"secret_type": "certificate", "content_types": {"default": "application/pkix-cert"}}).to_string().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn payload(Path(id): Path<String>) -> Response {
    let document = std::fs::read(format!("{DATA}/{}.pem", named(&id).unwrap())).unwrap();
    ([(header::CONTENT_TYPE, "application/pkix-cert")], document).into_response()
}

async fn world(settings: &[(&'static str, &str)]) -> World {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/v1/secrets/{id}", get(describe)).route("/v1/secrets/{id}/payload", get(payload));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let mut all = vec![("image.key_manager", url.as_str())];
    all.extend(settings);
    World::on(Cloud::with_settings(1, &all).await, 1).await
}

fn signature(hash: &str) -> String {
    let all = std::fs::read_to_string(format!("{DATA}/signatures.tsv")).unwrap();
    all.lines().find_map(|line| line.strip_prefix(hash)?.strip_prefix('\t').map(str::to_string)).unwrap()
}

impl World {
    /// An image that is signed by the leaf's key.
    async fn signed(&self, hash: &str) -> String {
        let image = json!({"name": hash, "disk_format": "raw", "container_format": "bare", "img_signature": signature(hash),
            "img_signature_hash_method": hash, "img_signature_key_type": "RSA-PSS", "img_signature_certificate_uuid": id("leaf")});
        let image = self.cloud.post(&self.tenant, "/image/v2/images", image).await.expect(201);
        let image = image["id"].as_str().unwrap().to_string();
        let file = format!("/image/v2/images/{image}/file");
        let stored = self.cloud.request("PUT", &file).token(&self.tenant).text("application/octet-stream", CONTENT).send().await;
        assert_eq!(stored.status, 204, "{}", stored.text());
        image
    }

    /// The same with a signature that is not its content's: the properties of an image can be changed after its upload.
    async fn forged(&self, hash: &str) -> String {
        let image = self.signed(hash).await;
        let patch = json!([{"op": "replace", "path": "/img_signature", "value": signature("SHA-512")}]);
        let request = self.cloud.request("PATCH", &format!("/image/v2/images/{image}")).token(&self.tenant);
        let patched = request.text("application/openstack-images-v2.1-json-patch", patch.to_string()).send().await;
        assert_eq!(patched.status, 200, "{}", patched.text());
        image
    }

    /// The newest action of the server is this one, and failed.
    async fn failed(&self, server: &str, action: &str) {
        let actions = self.get(&format!("/servers/{server}/os-instance-actions"), "2.1").await.expect(200);
        let newest = &actions["instanceActions"][0];
        assert_eq!((&newest["action"], &newest["message"]), (&json!(action), &json!("Error")), "{newest}");
    }

    async fn trusting(&self, image: &str, trusted: &[&str]) -> String {
        let ids: Vec<String> = trusted.iter().map(|name| id(name)).collect();
        self.create(json!({"imageRef": image, "trusted_image_certificates": ids})).await
    }

    /// The server cannot be built, for a reason with these words; no host has heard of it.
    async fn refused(&self, server: &str, words: &str) {
        let shown = self.wait(server, "ERROR").await;
        assert!(shown["fault"]["message"].as_str().unwrap().contains(words), "{words}: {}", shown["fault"]);
        assert!(!self.cloud.hosts[0].hypervisor.running().contains(&server.to_string()));
    }

    async fn shown(&self, server: &str, version: &str) -> Value {
        self.get(&format!("/servers/{server}"), version).await.expect(200)["server"]["trusted_image_certificates"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_names_whose_signatures_it_trusts() {
    let w = world(&[]).await;
    let signed = w.signed("SHA-256").await;
    let server = w.trusting(&signed, &["root", "inter"]).await;
    w.wait(&server, "ACTIVE").await;
    assert_eq!(w.shown(&server, "2.63").await, json!([id("root"), id("inter")]));
    let shown = w.get(&format!("/servers/{server}"), "2.62").await.expect(200);
    assert!(shown["server"].get("trusted_image_certificates").is_none());
    // By the hash that is known of the content, and by one for which it has to be read.
    for hash in ["SHA-512", "SHA-224"] {
        let other = w.signed(hash).await;
        let server = w.trusting(&other, &["inter", "root"]).await;
        w.wait(&server, "ACTIVE").await;
    }
    for (image, trusted, words) in [
        (&signed, &["other-root", "inter"][..], "Certificate chain building failed"),
        // The key manager does not have it: it vouches for nobody.
        (&signed, &["inter", "none"], "Certificate chain building failed"),
        (&w.image, &["root", "inter"], "the image is not signed"),
    ] {
        w.refused(&w.trusting(image, trusted).await, words).await;
    }
    for hash in ["SHA-256", "SHA-224"] {
        let forged = w.forged(hash).await;
        w.refused(&w.trusting(&forged, &["root", "inter"]).await, "Signature verification for the image failed").await;
    }
    // Without names nothing is asked.
    let plain = w.active(json!({})).await;
    assert_eq!(w.shown(&plain, "2.104").await, Value::Null);
    let volume = json!({"imageRef": "", "trusted_image_certificates": [id("root")], "block_device_mapping_v2": [{"boot_index": 0,
        "uuid": signed, "source_type": "image", "destination_type": "volume", "volume_size": 1}]});
    let answer = w.post("/servers", w.body(volume), "2.104").await;
    assert!(answer.status == 400 && answer.text().contains("trusted_image_certificates"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_image_is_verified_too() {
    let w = world(&[]).await;
    let signed = w.signed("SHA-256").await;
    let server = w.trusting(&signed, &["root", "inter"]).await;
    w.wait(&server, "ACTIVE").await;
    let rebuild = async |body: Value| w.act(&server, json!({ "rebuild": body })).await;
    let answer = rebuild(json!({"imageRef": w.image})).await;
    assert!(answer.status == 400 && answer.text().contains("not signed"), "{}", answer.text());
    assert_eq!(rebuild(json!({"imageRef": signed, "trusted_image_certificates": [id("other-root")]})).await.status, 400);
    assert_eq!(w.act(&server, json!({"rescue": {"rescue_image_ref": w.image}})).await.status, 400);
    // It is as it was.
    assert_eq!(w.wait(&server, "ACTIVE").await["image"]["id"], json!(signed));
    rebuild(json!({"imageRef": w.signed("SHA-224").await})).await.expect(202);
    w.wait(&server, "ACTIVE").await;
    w.act(&server, json!({"rescue": {"rescue_image_ref": signed}})).await.expect(200);
    w.wait(&server, "RESCUE").await;
    w.act(&server, json!({"unrescue": null})).await;
    w.wait(&server, "ACTIVE").await;
    let shown = rebuild(json!({"imageRef": w.image, "trusted_image_certificates": null})).await.expect(202);
    assert_eq!(shown["server"]["trusted_image_certificates"], Value::Null);
    w.wait(&server, "ACTIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_what_it_has_when_another_image_turns_out_forged() {
    let w = world(&[]).await;
    let signed = w.signed("SHA-256").await;
    let server = w.trusting(&signed, &["root", "inter"]).await;
    w.wait(&server, "ACTIVE").await;
    let forged = w.forged("SHA-224").await;
    let begun = w.act(&server, json!({"rebuild": {"imageRef": forged, "trusted_image_certificates": [id("inter"), id("root")]}})).await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    // It has its old image and its old trust, and its host hears of it.
    let shown = w.wait(&server, "ACTIVE").await;
    assert_eq!((&shown["image"]["id"], w.shown(&server, "2.63").await), (&json!(signed), json!([id("root"), id("inter")])));
    w.failed(&server, "rebuild").await;
    let hypervisor = &w.cloud.hosts[0].hypervisor;
    assert!(hypervisor.running().contains(&server));
    w.act(&server, json!({"rescue": {"rescue_image_ref": forged}})).await.expect(200);
    w.wait(&server, "ACTIVE").await;
    w.failed(&server, "rescue").await;
    w.act(&server, json!({"os-stop": null})).await;
    w.wait(&server, "SHUTOFF").await;
    assert!(!hypervisor.running().contains(&server));
    // What was off is off afterwards.
    w.act(&server, json!({"rescue": {"rescue_image_ref": forged}})).await.expect(200);
    w.wait(&server, "SHUTOFF").await;
    assert!(!hypervisor.running().contains(&server));
    w.act(&server, json!({"os-start": null})).await;
    w.wait(&server, "ACTIVE").await;
    w.act(&server, json!({"rebuild": {"imageRef": w.signed("SHA-224").await}})).await.expect(202);
    w.wait(&server, "ACTIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_may_take_signed_images_only() {
    let verify = ("compute.verify_glance_signatures", "true");
    let w = world(&[verify]).await;
    let signed = w.signed("SHA-256").await;
    let server = w.active(json!({"imageRef": signed})).await;
    assert_eq!(w.shown(&server, "2.63").await, Value::Null);
    w.refused(&w.create(json!({})).await, "the image is not signed").await;

    let validate = ("compute.enable_certificate_validation", "true");
    let w = world(&[verify, validate]).await;
    let signed = w.signed("SHA-256").await;
    w.refused(&w.create(json!({"imageRef": signed})).await, "no trusted certificate IDs").await;
    let server = w.trusting(&signed, &["root", "inter"]).await;
    w.wait(&server, "ACTIVE").await;

    let ids = format!("{}, {}", id("root"), id("inter"));
    let w = world(&[verify, validate, ("compute.default_trusted_certificate_ids", &ids)]).await;
    let signed = w.signed("SHA-256").await;
    let server = w.active(json!({"imageRef": signed})).await;
    assert_eq!(w.shown(&server, "2.63").await, json!([id("root"), id("inter")]));
    w.refused(&w.trusting(&signed, &["other-root"]).await, "Certificate chain building failed").await;
}

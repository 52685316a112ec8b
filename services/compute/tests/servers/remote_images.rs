//! Servers and volumes of an image that only another store has: it comes to the controller by itself.

use axum::Router;
use axum::routing::get;
use serde_json::json;
use testing::Cloud;

use crate::moves;
use crate::world::{PATIENCE, World};

impl World {
    /// Whether hosts can take the image from the controller; it is not there afterwards.
    async fn was_brought(&self) -> bool {
        let cache = self.cloud.get(&self.admin, "/image/v2/cache").await.expect(200);
        let brought = cache["cached_images"].as_array().unwrap().iter().any(|entry| entry["image_id"] == json!(self.image));
        assert_eq!(cache["queued_images"], json!([]));
        if brought {
            assert_eq!(self.cloud.delete(&self.admin, &format!("/image/v2/cache/{}", self.image)).await.status, 204);
        }
        brought
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_made_of_an_image_brings_it() {
    let directory = tempfile::tempdir().unwrap();
    let stores = format!("second={}", directory.path().join("second").display());
    let cloud = Cloud::with_settings(1, &[("image.stores", &stores), ("image.default_store", "second")]).await;
    let w = World::on(cloud, 1).await;
    assert!(!w.was_brought().await);
    // Several at once wait for the same.
    let made =
        w.post("/servers", w.body(json!({"min_count": 3, "max_count": 3, "return_reservation_id": true})), "2.100").await.expect(202);
    let reserved = format!("/compute/v2.1/servers/detail?reservation_id={}", made["reservation_id"].as_str().unwrap());
    let running = |a: &testing::Answer| {
        let servers = a.json()["servers"].as_array().unwrap().clone();
        servers.len() == 3 && servers.iter().all(|server| server["status"] == "ACTIVE")
    };
    let servers = w.cloud.until(&w.tenant, &reserved, PATIENCE, running).await.json();
    assert!(w.was_brought().await);
    let id = servers["servers"][0]["id"].as_str().unwrap();
    for action in [json!({"rebuild": {"imageRef": w.image}}), json!({"rescue": {"rescue_image_ref": w.image}})] {
        let begun = w.act(id, action.clone()).await;
        assert!(matches!(begun.status, 200 | 202), "{action}: {}", begun.text());
        w.wait(id, if action.get("rescue").is_some() { "RESCUE" } else { "ACTIVE" }).await;
        assert!(w.was_brought().await, "{action}");
    }
    // What needs no image brings none.
    w.act(id, json!({"unrescue": null})).await;
    w.wait(id, "ACTIVE").await;
    w.act(id, json!({"os-stop": null})).await;
    w.wait(id, "SHUTOFF").await;
    assert!(!w.was_brought().await);
    let made = w.cloud.post(&w.tenant, "/volume/v3/volumes", json!({"volume": {"size": 1, "imageRef": w.image}})).await.expect(202);
    let volume = format!("/volume/v3/volumes/{}", made["volume"]["id"].as_str().unwrap());
    let available = |a: &testing::Answer| a.json()["volume"]["status"] == "available";
    w.cloud.until(&w.tenant, &volume, PATIENCE, available).await;
    assert!(w.was_brought().await);
    let reimage = w.cloud.request("POST", &format!("{volume}/action")).token(&w.tenant).header("openstack-api-version", "volume 3.68");
    let reimage = reimage.json(&json!({"os-reimage": {"image_id": w.image}})).send().await;
    assert_eq!(reimage.status, 202, "{}", reimage.text());
    w.cloud.until(&w.tenant, &volume, PATIENCE, available).await;
    assert!(w.was_brought().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_may_have_what_its_store_does_not_give() {
    let directory = tempfile::tempdir().unwrap();
    let second = directory.path().join("second");
    let stores = format!("second={}", second.display());
    let cloud = Cloud::with_settings(2, &[("image.stores", &stores), ("image.default_store", "second")]).await;
    let mut w = World::on(cloud, 2).await;
    let id = moves::on(&w, "host-0").await;
    assert!(w.was_brought().await);
    let image = json!({"rebuild": {"imageRef": w.image}});
    std::fs::rename(&second, directory.path().join("away")).unwrap();
    let rebuilt = w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(image), "2.1").await;
    assert_eq!(rebuilt.status, 202, "{}", rebuilt.text());
    moves::settled(&w, &id, "ACTIVE").await;
    moves::lose(&mut w, 0).await;
    let begun = moves::evacuate(&w, &id, json!({}), "2.94").await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    moves::settled(&w, &id, "ACTIVE").await;
    assert_eq!(moves::host_of(&w, &id).await, json!("host-1"));
    assert!(!w.was_brought().await);
    // A server that no host had is not built without.
    std::fs::rename(directory.path().join("away"), &second).unwrap();
    let other = moves::on(&w, "host-1").await;
    assert!(w.was_brought().await);
    moves::settled(&w, &other, "ACTIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_of_an_image_that_nobody_has_read() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = Router::new().route("/disk", get(|| async { vec![3u8; 65536] }));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let port_text = port.to_string();
    let settings = [
        ("image.stores", "web=http"),
        ("image.show_multiple_locations", "true"),
        ("image.import_private_addresses", "true"),
        ("image.import_allowed_ports", port_text.as_str()),
    ];
    let w = World::on(Cloud::with_settings(1, &settings).await, 1).await;
    let server = w.active(json!({})).await;
    let image = json!({"name": "elsewhere", "disk_format": "raw", "container_format": "bare"});
    let image = w.cloud.post(&w.tenant, "/image/v2/images", image).await.expect(201)["id"].as_str().unwrap().to_string();
    let place = json!({"url": format!("http://localhost:{port}/disk"), "metadata": {}});
    let patch = json!([{"op": "add", "path": "/locations/-", "value": place}]);
    let request = w.cloud.request("PATCH", &format!("/image/v2/images/{image}")).token(&w.tenant);
    let patched = request.text("application/openstack-images-v2.1-json-patch", patch.to_string()).send().await;
    assert_eq!((patched.status, &patched.json()["status"]), (200, &json!("active")), "{}", patched.text());

    let root = json!({"imageRef": "", "block_device_mapping_v2": [{"boot_index": 0, "uuid": image, "source_type": "image",
        "destination_type": "volume", "volume_size": 1}]});
    for refused in [
        w.post("/servers", w.body(json!({"imageRef": image})), "2.104").await,
        w.post("/servers", w.body(root), "2.104").await,
        w.act(&server, json!({"rebuild": {"imageRef": image}})).await,
        w.act(&server, json!({"rescue": {"rescue_image_ref": image}})).await,
        w.cloud.post(&w.tenant, "/volume/v3/volumes", json!({"volume": {"size": 1, "imageRef": image}})).await,
    ] {
        assert!(refused.status == 400 && refused.text().contains("has not been read yet"), "{}: {}", refused.status, refused.text());
    }
    w.wait(&server, "ACTIVE").await;

    let queued = w.cloud.request("PUT", &format!("/image/v2/cache/{image}")).token(&w.admin).send().await;
    assert_eq!(queued.status, 202, "{}", queued.text());
    let cached = |a: &testing::Answer| a.json()["cached_images"].as_array().unwrap().iter().any(|entry| entry["image_id"] == json!(image));
    w.cloud.until(&w.admin, "/image/v2/cache", PATIENCE, cached).await;
    let made = w.create(json!({"imageRef": image})).await;
    w.wait(&made, "ACTIVE").await;
    let compute = &w.cloud.controller.compute;
    let made = compute.core.store.read(|tx| compute::db::servers::server_get_in(tx, &made)).await.unwrap();
    assert_eq!(made.doc.image.unwrap().sha256.len(), 64);
}

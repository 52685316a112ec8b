//! Servers and volumes of an image that only another store has: it comes to the controller by itself.

use serde_json::json;
use testing::Cloud;

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

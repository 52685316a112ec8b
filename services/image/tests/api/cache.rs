//! The cache and its management.

use serde_json::{Value, json};

use crate::world::{World, context};

async fn cached(world: &World) -> Value {
    world.get("admin", "/v2/cache").await.is(200).json()
}

/// Waits until nothing is queued.
async fn filled(world: &World) -> Value {
    for _ in 0..1000 {
        let now = cached(world).await;
        if now["queued_images"] == json!([]) {
            return now;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the queue of the cache does not empty");
}

#[tokio::test]
async fn images_of_other_stores_are_brought() {
    let directory = tempfile::tempdir().unwrap();
    let second = directory.path().join("second");
    let stores = format!("second={}", second.display());
    let world = World::with(move |config| {
        config.set("image.stores", &stores);
        config.set("image.default_store", "second");
        config.set("image.cache_max_bytes", "8");
    });
    let world = world.await;
    let raw = || json!({"disk_format": "raw", "container_format": "bare"});
    let (one, two) = (world.active("alice", json!({}), b"content").await, world.active("alice", json!({}), b"other").await);
    assert!(world.files().is_empty());
    let queued = world.image("alice", raw()).await;
    world.put("admin", &format!("/v2/cache/{queued}"), json!({})).await.is(400);
    world.put("admin", &format!("/v2/cache/{}", base::id::uuid()), json!({})).await.is(404);
    // Queued while nothing runs here; taken out again.
    for id in [&one, &two] {
        world.put("admin", &format!("/v2/cache/{id}"), json!({})).await.is(202);
    }
    assert_eq!(cached(&world).await["queued_images"].as_array().unwrap().len(), 2);
    world.delete("admin", &format!("/v2/cache/{two}")).await.is(204);
    let boot = async |id: &str| world.images.boot_image(&context("alice").unwrap(), id).await.unwrap().sha256.len();
    assert_eq!((boot(&one).await, world.files().len()), (64, 0));
    world.core.tasks.start().await.unwrap();
    let now = filled(&world).await;
    let entry = &now["cached_images"][0];
    assert_eq!((&entry["image_id"], &entry["size"], &entry["hits"]), (&json!(one), &json!(7), &json!(0)));
    assert!(entry["last_accessed"].as_f64().unwrap() > 1.6e9 && entry["last_modified"] == entry["last_accessed"]);
    // Hosts take it now, and the directory is kept as the records say.
    assert_eq!((boot(&one).await, boot(&two).await, world.files().len()), (64, 64, 1));
    assert_eq!(cached(&world).await["cached_images"][0]["hits"], 1);
    let nodes = world.get("admin", &format!("/v2/cache/nodes/{one}")).await.is(200).json();
    assert_eq!(
        (nodes.as_array().unwrap().len(), world.get("admin", &format!("/v2/cache/nodes/{two}")).await.is(200).json()),
        (1, json!([]))
    );
    world.get("admin", &format!("/v2/cache/nodes/{}", base::id::uuid())).await.is(404);
    // Too much is cached: what was not wanted for longest goes.
    world.put("admin", &format!("/v2/cache/{two}"), json!({})).await.is(202);
    assert_eq!(filled(&world).await["cached_images"].as_array().unwrap().len(), 2);
    let pruned = world.post("admin", "/v2/cache/prune", json!({})).await.is(200).json();
    assert_eq!(pruned, json!({"total_files_pruned": 1, "total_bytes_pruned": 7}));
    assert_eq!((cached(&world).await["cached_images"][0]["image_id"].clone(), world.files().len()), (json!(two), 1));
    world.post("admin", "/v2/cache/clean", json!({})).await.is(200);
    for path in ["clean", "prune"] {
        world.send("admin", "POST", &format!("/v2/cache/{path}"), &[], axum::body::Body::empty()).await.is(200);
        world.send("admin", "POST", &format!("/v2/cache/{path}"), &[], "{".into()).await.is(400);
    }
    // The content of a deleted image does not stay, nor its entry.
    world.delete("alice", &format!("/v2/images/{two}")).await.is(204);
    assert_eq!((cached(&world).await["cached_images"].clone(), world.files().len()), (json!([]), 0));
    world.put("admin", &format!("/v2/cache/{one}"), json!({})).await.is(202);
    filled(&world).await;
    let clear = async |target: &'static str| {
        let headers = [("x-image-cache-clear-target", target)];
        world.send("admin", "DELETE", "/v2/cache", &headers, axum::body::Body::empty()).await
    };
    clear("all").await.is(400);
    clear("queue").await.is(204);
    assert_eq!(world.files().len(), 1);
    clear("cache").await.is(204);
    assert_eq!((cached(&world).await["cached_images"].clone(), world.files().len()), (json!([]), 0));
    world.delete("admin", "/v2/cache").await.is(204);
    world.core.tasks.stop().await;
}

//! Unified limits and usage.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::world::World;

const MIB: usize = 1 << 20;

pub async fn limits_hold(world: World) {
    world.core.tasks.start().await.unwrap();
    let raw = || json!({"disk_format": "raw", "container_format": "bare"});
    let usage = async |token: &str| world.get(token, "/v2/info/usage").await.is(200).json()["usage"].clone();
    // Nobody has said anything.
    let nothing = json!({"usage": 0, "limit": -1});
    for name in ["image_size_total", "image_stage_total", "image_count_total", "image_count_uploading"] {
        assert_eq!(usage("alice").await[name], nothing, "{name}");
    }
    let kept: Arc<Mutex<HashMap<&str, i64>>> = Arc::default();
    let asked = kept.clone();
    let limits = move |_: &store::Tx, project: &str, name: &str| Ok(asked.lock().unwrap().get(name).copied().filter(|_| project == "a"));
    world.images.limits_set(Box::new(limits));
    let limit = |name: &'static str, limit: i64| {
        kept.lock().unwrap().insert(name, limit);
    };

    limit("image_count_total", 3);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.image("alice", raw()).await);
    }
    let answer = world.post("alice", "/v2/images", raw()).await.is(413);
    assert!(answer.text().contains("image_count_total is limited to 3"), "{}", answer.text());
    world.image("bob", raw()).await;
    assert_eq!(usage("alice").await["image_count_total"], json!({"usage": 3, "limit": 3}));
    // What is announced counts before it comes; without it the last upload may be too much, and is the last.
    limit("image_size_total", 2);
    world.upload("alice", &ids[0], vec![0; 3 * MIB]).await.is(204);
    assert_eq!(usage("alice").await["image_size_total"], json!({"usage": 3, "limit": 2}));
    let answer = world.upload("alice", &ids[1], "x").await.is(413);
    assert!(answer.text().contains("image_size_total"), "{}", answer.text());
    world.stage("alice", &ids[1], "x").await.is(204);
    let import = json!({"method": {"name": "glance-direct"}});
    world.import("alice", &ids[1], import.clone()).await.is(413);
    limit("image_size_total", -1);
    // Staged content has a limit of its own.
    limit("image_stage_total", 1);
    let size = [("x-openstack-image-size", "2097152"), ("content-type", "application/octet-stream")];
    let path = format!("/v2/images/{}/stage", ids[2]);
    world.send("alice", "PUT", &path, &size, vec![0; 2 * MIB].into()).await.is(413);
    assert_eq!(world.show("alice", &ids[2]).await["status"], "queued");
    // One is on its way already.
    limit("image_count_uploading", 1);
    let answer = world.stage("alice", &ids[2], "x").await.is(413);
    assert!(answer.text().contains("image_count_uploading"), "{}", answer.text());
    assert_eq!(world.show("alice", &ids[2]).await["status"], "queued");
    assert_eq!(usage("alice").await["image_count_uploading"], json!({"usage": 1, "limit": 1}));
    world.import("alice", &ids[1], import).await.is(202);
    assert_eq!(world.imported("alice", &ids[1]).await["status"], "active");
    world.stage("alice", &ids[2], vec![0; MIB]).await.is(204);
    let now: Value = usage("alice").await;
    assert_eq!((&now["image_stage_total"]["usage"], &now["image_count_uploading"]["usage"]), (&json!(1), &json!(1)));
    world.get("", "/v2/info/usage").await.is(401);
    world.core.tasks.stop().await;
}

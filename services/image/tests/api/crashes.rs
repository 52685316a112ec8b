//! Nothing that was answered well is lost, and nothing is left over, wherever the process ends.

use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use serde_json::json;
use store::params;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::world::World;

pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done().await {
        assert!(Instant::now() < end, "{what}");
        tokio::task::yield_now().await;
    }
}

/// A body that the test sends piece by piece.
fn slow_body() -> (mpsc::Sender<std::io::Result<Bytes>>, Body) {
    let (pieces, stream) = mpsc::channel(1);
    (pieces, Body::from_stream(ReceiverStream::new(stream)))
}

#[tokio::test]
async fn a_crash_before_the_record_leaves_no_file() {
    let world = World::new().await;
    let kept = world.active("alice", json!({"name": "kept"}), b"kept").await;
    let kept_file = world.files();
    let dying = world.image("alice", json!({"name": "dying", "disk_format": "raw", "container_format": "bare"})).await;
    // As the process would leave it: the content has its name or not yet, the record still says that an upload is under way.
    let upload = base::id::uuid();
    let directory = world.images.directory();
    std::fs::write(directory.join(format!(".upload-{upload}")), "half").unwrap();
    std::fs::write(directory.join("0123456789abcdef".repeat(4)), "whole").unwrap();
    std::fs::write(directory.join("not-ours.txt"), "foreign").unwrap();
    let id = dying.clone();
    let died = world.core.store.write(move |tx| {
        tx.execute(
            "UPDATE image SET status = 'saving', upload = ?2, upload_at = ?3 WHERE id = ?1",
            params![id, upload, base::Timestamp::now()],
        )
    });
    died.await.unwrap();

    let world = world.restart().await;
    world.core.tasks.start().await.unwrap();
    let mut wanted = kept_file;
    wanted.push("not-ours.txt".into());
    until("the leftovers go", async || world.files() == wanted).await;
    assert_eq!(world.show("alice", &dying).await["status"], "queued");
    assert_eq!(world.get("alice", &format!("/v2/images/{kept}/file")).await.is(200).text(), "kept");
    world.upload("alice", &dying, "again").await.is(204);
    assert_eq!(world.get("alice", &format!("/v2/images/{dying}/file")).await.is(200).text(), "again");
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn a_crash_after_the_record_loses_nothing() {
    let world = World::new().await;
    let id = world.active("alice", json!({"name": "i"}), b"content").await;
    let world = world.restart().await;
    world.core.tasks.start().await.unwrap();
    assert_eq!(world.show("alice", &id).await["status"], "active");
    assert_eq!(world.get("alice", &format!("/v2/images/{id}/file")).await.is(200).text(), "content");
    // The record of a deleted image is gone, its file not yet.
    let gone = id.clone();
    world.core.store.write(move |tx| tx.execute("DELETE FROM image WHERE id = ?1", params![gone])).await.unwrap();
    let world = world.restart().await;
    world.core.tasks.start().await.unwrap();
    until("the file goes", async || world.files().is_empty()).await;
    world.core.tasks.stop().await;
}

pub async fn the_reconciler_leaves_uploads_under_way_alone(world: World) {
    let id = world.image("alice", json!({"disk_format": "raw", "container_format": "bare"})).await;
    let (pieces, body) = slow_body();
    let upload = world.upload("alice", &id, body);
    let meanwhile = async {
        pieces.send(Ok(Bytes::from("first "))).await.unwrap();
        until("the upload has begun", async || world.files().len() == 1).await;
        assert_eq!(world.show("alice", &id).await["status"], "saving");
        world.upload("alice", &id, "another").await.is(409);
        world.core.tasks.start().await.unwrap();
        let orphan = world.images.directory().join("f".repeat(64));
        std::fs::write(&orphan, "x").unwrap();
        let other = world.active("alice", json!({}), b"other").await;
        world.delete("alice", &format!("/v2/images/{other}")).await.is(204);
        pieces.send(Ok(Bytes::from("second"))).await.unwrap();
        drop(pieces);
    };
    let (answer, ()) = tokio::join!(upload, meanwhile);
    answer.is(204);
    assert_eq!(world.get("alice", &format!("/v2/images/{id}/file")).await.is(200).text(), "first second");
    world.core.tasks.stop().await;
}

pub async fn a_client_that_goes_away_leaves_the_image_queued(world: World) {
    let id = world.image("alice", json!({"disk_format": "raw", "container_format": "bare"})).await;
    let (pieces, body) = slow_body();
    {
        // The connection's end drops the handler in the middle.
        let mut upload = Box::pin(world.upload("alice", &id, body));
        pieces.send(Ok(Bytes::from("half"))).await.unwrap();
        until("the upload has begun", async || {
            let _ = tokio::time::timeout(Duration::from_millis(1), &mut upload).await;
            world.files().len() == 1
        })
        .await;
    }
    pieces.send(Err(std::io::Error::other("connection reset"))).await.unwrap();
    until("the image is queued again", async || world.show("alice", &id).await["status"] == "queued").await;
    until("the file goes", async || world.files().is_empty()).await;
    world.upload("alice", &id, "whole").await.is(204);
}

pub async fn an_image_deleted_during_its_upload_is_gone(world: World) {
    let id = world.image("alice", json!({"disk_format": "raw", "container_format": "bare"})).await;
    let (pieces, body) = slow_body();
    let upload = world.upload("alice", &id, body);
    let meanwhile = async {
        pieces.send(Ok(Bytes::from("half"))).await.unwrap();
        until("the upload has begun", async || world.files().len() == 1).await;
        world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
        drop(pieces);
    };
    let (answer, ()) = tokio::join!(upload, meanwhile);
    answer.is(410);
    assert!(world.files().is_empty());
    world.get("alice", &format!("/v2/images/{id}")).await.is(404);
}

/// Uploads and deletions of one content at once: every image that is active has it, and none is left when all are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_content_from_many_sides() {
    let world = std::sync::Arc::new(World::new().await);
    let clients = (0..8).map(|n| {
        let world = world.clone();
        tokio::spawn(async move {
            for _ in 0..12 {
                let id = world.active("alice", json!({"name": format!("n{n}")}), b"the same content").await;
                assert_eq!(world.get("alice", &format!("/v2/images/{id}/file")).await.is(200).text(), "the same content");
                world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert!(world.files().is_empty());
}

//! Images that only another store has, as servers and volumes are made of them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result};
use image::Images;
use serde_json::json;
use task::{Effect, Filter, New, Operation, State, StepContext};

use crate::crashes::until;
use crate::s3;
use crate::web;
use crate::world::{World, context};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a boot does about its image.
struct Boot(Images);

#[async_trait]
impl Operation for Boot {
    fn kind(&self) -> &'static str {
        "test.boot"
    }
    fn steps(&self) -> &'static [&'static str] {
        &["image"]
    }
    async fn run(&self, cx: &StepContext, _: &str) -> Result<Effect> {
        self.0.content_bring(cx, &cx.param::<String>()?).await.map(|()| Effect::none())
    }
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }
    fn failed(&self, _: &store::Tx, _: &StepContext, _: &Error) -> Result<()> {
        Ok(())
    }
}

/// Begins a boot of an image; each is of a server of its own.
async fn boot(world: &World, id: &str) -> String {
    let found = world.images.boot_image(&context("alice").unwrap(), id).await.unwrap();
    let tasks = world.core.tasks.clone();
    let submitted = world.core.store.write(move |tx| {
        tasks.submit(tx, New::new("test.boot", "server", base::id::uuid()).context(context("alice").unwrap()).params(found.sha256.into()))
    });
    submitted.await.unwrap()
}

async fn started(world: &World) {
    world.core.tasks.register(Arc::new(Boot(world.images.clone())));
    world.core.tasks.start().await.unwrap();
}

#[tokio::test]
async fn two_boots_bring_an_image_once_and_tell_how_far_it_is() {
    let (world, objects) = s3::world().await;
    // A real one sends all at once.
    let Some(objects) = objects else { return };
    started(&world).await;
    let content = s3::some_content(3_000_000);
    let id = world.active("alice", json!({}), &content).await;
    let closed = objects.door.clone().lock_owned().await;
    let boots = [boot(&world, &id).await, boot(&world, &id).await];
    let progress = async || {
        let shown = [world.core.tasks.show(&boots[0]).await.unwrap(), world.core.tasks.show(&boots[1]).await.unwrap()];
        shown.iter().all(|operation| (1..100).contains(&operation.progress))
    };
    until("both tell how far they are", progress).await;
    // Others publish meanwhile.
    let other = world.image("alice", json!({"disk_format": "raw", "container_format": "bare"})).await;
    let header = [("x-image-meta-store", "local"), ("content-type", "application/octet-stream")];
    world.send("alice", "PUT", &format!("/v2/images/{other}/file"), &header, "other".into()).await.is(204);
    drop(closed);
    for operation in &boots {
        assert_eq!(world.core.tasks.wait(operation, PATIENCE).await.unwrap().state, State::Done);
    }
    assert_eq!((objects.kept().gets, world.files().len()), (1, 2));
    let cached = world.get("admin", "/v2/cache").await.is(200).json();
    assert_eq!(cached["cached_images"][0]["image_id"], json!(id));
    // What is here is not brought again; once it is taken out of the cache it is.
    let again = boot(&world, &id).await;
    assert_eq!(world.core.tasks.wait(&again, PATIENCE).await.unwrap().state, State::Done);
    assert_eq!(objects.kept().gets, 1);
    world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
    let again = boot(&world, &id).await;
    assert_eq!(world.core.tasks.wait(&again, PATIENCE).await.unwrap().state, State::Done);
    assert_eq!((objects.kept().gets, world.files().len()), (2, 2));
    // What no image has any more is with the hosts, or nowhere.
    let found = world.images.boot_image(&context("alice").unwrap(), &id).await.unwrap();
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    let tasks = world.core.tasks.clone();
    let late = world.core.store.write(move |tx| tasks.submit(tx, New::new("test.boot", "server", "late").params(found.sha256.into())));
    assert_eq!(world.core.tasks.wait(&late.await.unwrap(), PATIENCE).await.unwrap().state, State::Done);
    assert_eq!(objects.kept().gets, 2);
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn a_boot_waits_for_a_store_that_is_out_of_reach_and_ends_when_it_is_cancelled() {
    let (world, objects) = s3::world().await;
    // A real one is not told to fail.
    let Some(objects) = objects else { return };
    started(&world).await;
    let id = world.active("alice", json!({}), &s3::some_content(100_000)).await;
    objects.kept().broken = Some(503);
    let first = boot(&world, &id).await;
    until("it was tried", async || objects.kept().refused > 0).await;
    objects.kept().broken = None;
    assert_eq!(world.core.tasks.wait(&first, PATIENCE).await.unwrap().state, State::Done);
    world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
    let closed = objects.door.clone().lock_owned().await;
    let second = boot(&world, &id).await;
    until("it comes", async || !world.files().is_empty()).await;
    world.core.tasks.cancel(&second).await.unwrap();
    assert_eq!(world.core.tasks.wait(&second, PATIENCE).await.unwrap().state, State::Cancelled);
    // Nothing of it stays, no wish either.
    let cache = world.get("admin", "/v2/cache").await.is(200).json();
    assert_eq!((cache["cached_images"].clone(), cache["queued_images"].clone()), (json!([]), json!([])));
    assert!(world.files().is_empty(), "{:?}", world.files());
    drop(closed);
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn any_image_of_the_content_serves_and_no_address_is_told() {
    let (world, site, url) = web::world(|_| {}).await;
    started(&world).await;
    let paths = ["/one", "/two"];
    let mut ids = Vec::new();
    for path in paths {
        site.set(path, b"content");
        let id = web::linked(&world, &format!("{url}{path}?token=secret")).await;
        world.put("admin", &format!("/v2/cache/{id}"), json!({})).await.is(202);
        until("it is known", async || world.get("admin", "/v2/cache").await.json()["queued_images"] == json!([])).await;
        ids.push(id);
    }
    let forget = async || {
        for id in &ids {
            world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
        }
        assert!(world.files().is_empty());
    };
    // Whichever is asked first, the other one's address is as good.
    for dead in paths {
        forget().await;
        let kept = site.files().remove(dead).unwrap();
        for id in &ids {
            let operation = boot(&world, id).await;
            assert_eq!(world.core.tasks.wait(&operation, PATIENCE).await.unwrap().state, State::Done);
            assert_eq!(world.files().len(), 1);
            forget().await;
        }
        site.set(dead, &kept);
    }
    site.files().clear();
    let operation = boot(&world, &ids[0]).await;
    let failed = world.core.tasks.wait(&operation, PATIENCE).await.unwrap();
    let said = failed.error.unwrap_or_default();
    assert!(failed.state == State::Failed && said.contains("is not there") && !said.contains("secret"), "{said}");
    let answer = world.get("alice", &format!("/v2/images/{}/file", ids[0])).await.is(503);
    assert!(answer.text().contains("is not there") && !answer.text().contains("secret"), "{}", answer.text());
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn imports_that_wait_for_a_store_leave_room_for_others() {
    let (world, objects) = s3::world().await;
    // A real one sends all at once.
    let Some(objects) = objects else { return };
    started(&world).await;
    let content = s3::some_content(100_000);
    let mut waiting = Vec::new();
    // As many as steps that run at once.
    for _ in 0..64 {
        waiting.push(world.active("alice", json!({}), &content).await);
    }
    let closed = objects.door.clone().lock_owned().await;
    for id in &waiting {
        world.import("admin", id, json!({"method": {"name": "copy-image"}, "stores": ["local"]})).await.is(202);
    }
    let imports = || Filter { kind: Some("image.import".into()), ..Filter::default() };
    let brought = async || world.core.tasks.list(&imports()).await.unwrap().iter().filter(|import| import.step == "bring").count();
    until("all wait for the store", async || brought().await == waiting.len()).await;
    let other = world.image("alice", json!({"disk_format": "raw", "container_format": "bare"})).await;
    world.stage("alice", &other, "other").await.is(204);
    world.import("alice", &other, json!({"method": {"name": "glance-direct"}, "stores": ["local"]})).await.is(202);
    assert_eq!(world.imported("alice", &other).await["status"], "active");
    drop(closed);
    for id in &waiting {
        assert_eq!(world.imported("admin", id).await["stores"], "far,local");
    }
    world.core.tasks.stop().await;
}

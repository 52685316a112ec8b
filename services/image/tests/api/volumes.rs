//! A store in volumes, as far as it is this service's: who keeps the volumes is played here, and block storage does it in its own tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base::{Config, Error, Result};
use bytes::Bytes;
use futures_util::StreamExt;
use image::ImageImport;
use image::volumes::{Held, Keeper, Kept, Pieces};
use serde_json::{Value, json};
use store::params;
use task::testing::Fixture;
use task::{Engine, Filter, Operation};

use crate::crashes::until;
use crate::world::{TABLES, World, context};

const RAW: fn() -> Value = || json!({"disk_format": "raw", "container_format": "bare"});

/// Volumes by their ids: of which image, by which upload, and what is in them.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Books>>);

#[derive(Default)]
struct Books {
    volumes: BTreeMap<String, (Held, Vec<u8>)>,
    /// Ids of what has not come to its end.
    broken: Vec<String>,
    away: bool,
}

impl Shelf {
    fn with<T>(&self, look: impl FnOnce(&mut Books) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
    fn books<T>(&self, look: impl FnOnce(&mut Books) -> T) -> Result<T> {
        self.with(|books| if books.away { Err(Error::unavailable("The host is away.")) } else { Ok(look(books)) })
    }
    /// Images that volumes hold, sorted.
    fn images(&self) -> Vec<String> {
        let mut images: Vec<String> = self.with(|books| books.volumes.values().map(|(held, _)| held.image.clone()).collect());
        images.sort();
        images
    }
}

#[async_trait]
impl Keeper for Shelf {
    async fn put(&self, held: &Held, file: &Path) -> Result<String> {
        let (bytes, id) = (std::fs::read(file).unwrap(), base::id::uuid());
        assert_eq!(bytes.len() as u64, held.size);
        self.books(|books| {
            books.volumes.retain(|_, (other, _)| other.image != held.image);
            books.volumes.insert(id.clone(), (held.clone(), bytes));
        })?;
        Ok(id)
    }
    async fn read(&self, _store: &str, image: &str, _reader: &str) -> Result<Option<Pieces>> {
        let found = self.books(|books| books.volumes.values().find(|(held, _)| held.image == image).map(|(_, bytes)| bytes.clone()))?;
        let pieces = |bytes: Vec<u8>| bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>();
        Ok(found.map(|bytes| futures_util::stream::iter(pieces(bytes)).boxed()))
    }
    async fn has(&self, _store: &str, image: &str) -> Result<bool> {
        self.books(|books| books.volumes.values().any(|(held, _)| held.image == image))
    }
    async fn remove(&self, store: &str, image: &str) -> Result<()> {
        assert_eq!(store, "far");
        self.books(|books| books.volumes.retain(|_, (held, _)| held.image != image))
    }
    async fn remove_upload(&self, _store: &str, upload: &str) -> Result<()> {
        self.books(|books| books.broken.retain(|id| id != upload))
    }
    async fn list(&self, _store: &str) -> Result<Kept> {
        self.books(|books| Kept {
            images: books.volumes.values().map(|(held, _)| held.image.clone()).collect(),
            uploads: books.broken.clone(),
        })
    }
}

async fn world(shelf: &Shelf) -> World {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut config = Config::for_home(dir.path());
    let database = store::testing::url(dir.path(), &TABLES).await;
    if !database.starts_with("sqlite") {
        config.set("store", &database);
    }
    config.set("image.stores", "far=cinder?project=images&type=slow:3");
    config.set("image.default_store", "far");
    config.set("image.show_multiple_locations", "true");
    let world = World::open(dir, config).await;
    world.images.volumes_set(shelf.clone());
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_kept_in_volumes() {
    let shelf = Shelf::default();
    let world = world(&shelf).await;
    let content: Vec<u8> = (0..90_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let id = world.active("alice", json!({}), &content).await;
    let image = world.show("alice", &id).await;
    assert_eq!((&image["stores"], &image["size"]), (&json!("far"), &json!(90_001)));
    assert!(world.files().is_empty(), "{:?}", world.files());
    let (volume, held) = shelf.with(|books| books.volumes.iter().map(|(id, (held, _))| (id.clone(), held.clone())).next().unwrap());
    assert_eq!((held.image.as_str(), held.owner.as_str(), held.project.as_str()), (id.as_str(), "a", "images"));
    assert_eq!((held.kind.as_deref(), held.store.as_str()), (Some("slow"), "far"));
    assert_eq!(image["locations"][0], json!({"url": format!("cinder://far/{volume}"), "metadata": {"store": "far"}}));
    let stores = world.get("admin", "/v2/info/stores/detail").await.is(200).json();
    let far = stores["stores"].as_array().unwrap().iter().find(|store| store["id"] == "far").unwrap().clone();
    assert_eq!((&far["type"], &far["weight"]), (&json!("cinder"), &json!(3)));
    assert_eq!(far["properties"], json!({"volume_type": "slow", "use_multipath": false}));
    // What is read of it comes here first, and is verified.
    let path = format!("/v2/images/{id}/file");
    let part = world.send("alice", "GET", &path, &[("range", "bytes=50000-50009")], axum::body::Body::empty()).await.is(206);
    assert_eq!(part.bytes, content[50_000..50_010]);
    let boot = world.images.boot_image(&context("alice").unwrap(), &id).await.unwrap();
    assert_eq!(world.files(), [boot.sha256]);
    world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
    assert!(world.get("alice", &path).await.is(200).bytes == content);
    // A note at its location, and no other address for it.
    let at = |url: &str, note: &str| json!([{"op": "replace", "path": "/locations", "value": [{"url": url, "metadata": {"a": note}}]}]);
    let noted = world.patch("alice", &id, at(&format!("cinder://far/{volume}"), "b")).await.is(200).json();
    assert_eq!(noted["locations"][0]["metadata"], json!({"a": "b", "store": "far"}));
    world.patch("alice", &id, at(&format!("cinder://far/{}", base::id::uuid()), "b")).await.is(400);
    // From it and to it.
    world.core.tasks.start().await.unwrap();
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["local"]})).await.is(202);
    assert_eq!(world.imported("admin", &id).await["stores"], "far,local");
    world.delete("admin", &format!("/v2/stores/far/{id}")).await.is(204);
    assert!(shelf.images().is_empty());
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["far"]})).await.is(202);
    let image = world.imported("admin", &id).await;
    assert_eq!(image["stores"], "local,far");
    let volume = shelf.with(|books| books.volumes.keys().next().unwrap().clone());
    assert_eq!(image["locations"][1]["url"], json!(format!("cinder://far/{volume}")));
    world.delete("admin", &format!("/v2/stores/local/{id}")).await.is(204);
    // What is damaged there is given to nobody.
    world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
    shelf.with(|books| books.volumes.values_mut().for_each(|(_, bytes)| bytes[7] ^= 1));
    assert!(matches!(world.get("alice", &path).await.status, 500 | 503));
    assert!(world.files().is_empty(), "{:?}", world.files());
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    assert!(shelf.images().is_empty());
    world.core.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_is_away_is_waited_for() {
    let shelf = Shelf::default();
    let world = world(&shelf).await;
    let id = world.active("alice", json!({}), b"content").await;
    shelf.with(|books| books.away = true);
    let queued = world.image("alice", RAW()).await;
    world.upload("alice", &queued, "more").await.is(503);
    assert_eq!((world.show("alice", &queued).await["status"].as_str(), world.files().len()), (Some("queued"), 0));
    world.get("alice", &format!("/v2/images/{id}/file")).await.is(503);
    world.core.tasks.start().await.unwrap();
    world.stage("alice", &queued, "more").await.is(204);
    world.import("alice", &queued, json!({"method": {"name": "glance-direct"}})).await.is(202);
    until("it is being stored", async || world.show("alice", &queued).await["status"] == "importing").await;
    shelf.with(|books| books.away = false);
    assert_eq!(world.imported("alice", &queued).await["status"], "active");
    assert_eq!(world.get("alice", &format!("/v2/images/{queued}/file")).await.is(200).text(), "more");
    world.core.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_leaves_no_volume() {
    let shelf = Shelf::default();
    let world = world(&shelf).await;
    let kept = world.active("alice", json!({}), b"kept").await;
    let (dying, gone) = (world.image("alice", RAW()).await, world.active("alice", json!({}), b"gone").await);
    // As the process would leave it: half a volume, and one that is whole and has no record.
    let upload = base::id::uuid();
    let (id, other, sent) = (dying.clone(), gone.clone(), upload.clone());
    let died = world.core.store.write(move |tx| {
        let now = base::Timestamp(1_000_000_000_000_000);
        tx.execute("UPDATE image SET status = 'saving', upload = ?2, upload_at = ?3 WHERE id = ?1", params![id, sent, now])?;
        tx.execute("DELETE FROM image_location WHERE image_id = ?1", params![other])
    });
    died.await.unwrap();
    shelf.with(|books| books.broken.push(upload));
    let world = world.restart().await;
    world.images.volumes_set(shelf.clone());
    world.core.tasks.start().await.unwrap();
    until("nothing else stays", async || shelf.images() == [kept.clone()] && shelf.with(|books| books.broken.is_empty())).await;
    until("it is queued again", async || world.show("alice", &dying).await["status"] == "queued").await;
    assert_eq!(world.get("alice", &format!("/v2/images/{kept}/file")).await.is(200).text(), "kept");
    world.core.tasks.stop().await;
}

/// An import into volumes.
struct Runs {
    shelf: Shelf,
    world: World,
    id: String,
}

#[async_trait]
impl Fixture for Runs {
    fn store(&self) -> store::Store {
        self.world.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        Arc::new(ImageImport(self.world.images.clone()))
    }
    async fn submit(&self, engine: &Engine) -> Result<String> {
        let import = json!({"method": {"name": "glance-direct"}, "stores": ["far"]});
        self.world.import("admin", &self.id, import).await.is(202);
        let all = engine.list(&Filter { resource_id: Some(self.id.clone()), ..Filter::default() }).await?;
        Ok(all[0].id.clone())
    }
    async fn check_done(&self) {
        let image = self.world.show("alice", &self.id).await;
        assert_eq!((&image["status"], &image["stores"]), (&json!("active"), &json!("far")), "{image}");
        let volume = self.shelf.with(|books| books.volumes.keys().next().unwrap().clone());
        assert_eq!(image["locations"][0]["url"], json!(format!("cinder://far/{volume}")));
        assert_eq!((self.shelf.images(), self.world.files().len()), (vec![self.id.clone()], 0), "{:?}", self.world.files());
    }
    async fn check_undone(&self) {
        assert_eq!(self.world.show("alice", &self.id).await["status"], "queued");
        assert!(self.shelf.images().is_empty() && self.world.files().is_empty(), "{:?}", self.world.files());
    }
    async fn leave(&self) {
        self.world.core.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_into_volumes_survive_everything() {
    task::testing::four_runs(|| async {
        let shelf = Shelf::default();
        let world = world(&shelf).await;
        let id = world.image("alice", RAW()).await;
        world.stage("alice", &id, "content").await.is(204);
        Runs { shelf, world, id }
    })
    .await;
}

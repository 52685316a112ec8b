//! Images in formats that hosts lay no disk over.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, Result};
use image::Images;
use image::formats::Inspector;
use serde_json::{Value, json};
use task::{Effect, New, Operation, State, StepContext};

use crate::crashes::until;
use crate::plugins::{as_format, bare, some_disk};
use crate::world::{World, context};

const PATIENCE: Duration = Duration::from_secs(60);

/// What hosts are told of an image.
struct Ready(Images, Arc<Mutex<Vec<(String, String)>>>);

#[async_trait]
impl Operation for Ready {
    fn kind(&self) -> &'static str {
        "test.ready"
    }
    fn steps(&self) -> &'static [&'static str] {
        &["image"]
    }
    async fn run(&self, cx: &StepContext, _: &str) -> Result<Effect> {
        let (sha256, format): (String, String) = cx.param()?;
        let told = self.0.content_ready(cx, &sha256, &format).await?;
        self.1.lock().unwrap().push(told);
        Ok(Effect::none())
    }
    async fn undo(&self, _: &StepContext, _: &str) -> Result<Effect> {
        Ok(Effect::none())
    }
    fn failed(&self, _: &store::Tx, _: &StepContext, _: &Error) -> Result<()> {
        Ok(())
    }
}

type Told = Arc<Mutex<Vec<(String, String)>>>;

async fn started(world: &World) -> Told {
    let told = Told::default();
    world.core.tasks.register(Arc::new(Ready(world.images.clone(), told.clone())));
    world.core.tasks.start().await.unwrap();
    told
}

async fn begin(world: &World, content: (&str, &str)) -> String {
    let (tasks, params) = (world.core.tasks.clone(), json!([content.0, content.1]));
    let submitted = world.core.store.write(move |tx| tasks.submit(tx, New::new("test.ready", "server", base::id::uuid()).params(params)));
    submitted.await.unwrap()
}

async fn uploaded(world: &World, format: &str, content: Vec<u8>) -> (String, String) {
    let id = world.image("alice", bare(format)).await;
    world.upload("alice", &id, content).await.is(204);
    let sha256 = world.images.boot_image(&context("alice").unwrap(), &id).await.unwrap().sha256;
    (id, sha256)
}

fn is_qcow2_of(file: &Path, disk: &[u8]) -> bool {
    let bytes = std::fs::read(file).unwrap();
    let raw = as_raw(&bytes);
    let mut inspector = Inspector::new();
    inspector.feed(&bytes);
    inspector.judge("qcow2").is_ok() && raw.starts_with(disk) && raw[disk.len()..].iter().all(|b| *b == 0)
}

fn as_raw(qcow2: &[u8]) -> Vec<u8> {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("disk"), qcow2).unwrap();
    crate::plugins::qemu_img(home.path(), &["convert", "-f", "qcow2", "-O", "raw", "disk", "raw"]);
    std::fs::read(home.path().join("raw")).unwrap()
}

pub async fn what_hosts_cannot_use_is_converted_once(world: World) {
    let told = started(&world).await;
    let (disk, mut all) = (some_disk(), BTreeSet::new());
    for (ours, qemu) in [("vmdk", "vmdk"), ("vdi", "vdi"), ("vhdx", "vhdx"), ("vhd", "vpc")] {
        let (id, sha256) = uploaded(&world, ours, as_format(&disk, qemu)).await;
        // Those who want it at once get the same.
        let both = [begin(&world, (&sha256, ours)).await, begin(&world, (&sha256, ours)).await];
        for operation in &both {
            assert_eq!(world.core.tasks.wait(operation, PATIENCE).await.unwrap().state, State::Done, "{ours}");
        }
        let first = told.lock().unwrap().pop().unwrap();
        assert_eq!(told.lock().unwrap().pop().unwrap(), first);
        assert_eq!(first.1, "qcow2");
        let file = world.images.directory().join(&first.0);
        assert!(is_qcow2_of(&file, &disk), "{ours}");
        // Equal disks become equal content, which is there once.
        all.extend([sha256.clone(), first.0.clone()]);
        assert_eq!(world.files(), all.iter().cloned().collect::<Vec<_>>(), "{ours}");
        // Users see nothing of it.
        let shown = world.show("alice", &id).await;
        assert_eq!((&shown["disk_format"], shown["os_hash_value"].as_str().unwrap().len()), (&json!(ours), 128));
        // A file that was lost is made again, and the same.
        std::fs::remove_file(&file).unwrap();
        let again = begin(&world, (&sha256, ours)).await;
        assert_eq!(world.core.tasks.wait(&again, PATIENCE).await.unwrap().state, State::Done);
        assert_eq!(told.lock().unwrap().pop().unwrap(), first);
        assert!(is_qcow2_of(&file, &disk));
        // What was handed out is content as any other, to whoever asks for it by that name.
        let later = begin(&world, (&first.0, "qcow2")).await;
        assert_eq!(world.core.tasks.wait(&later, PATIENCE).await.unwrap().state, State::Done);
        assert_eq!(told.lock().unwrap().pop().unwrap(), first);
    }
    world.core.tasks.stop().await;
}

pub async fn raw_disks_qcow2_and_discs_stay_what_they_are(world: World) {
    let told = started(&world).await;
    let disk = some_disk();
    for (format, content, hosts) in [("raw", disk.clone(), "raw"), ("qcow2", as_format(&disk, "qcow2"), "qcow2"), ("iso", disc(), "raw")] {
        let (_, sha256) = uploaded(&world, format, content).await;
        let ready = begin(&world, (&sha256, format)).await;
        assert_eq!(world.core.tasks.wait(&ready, PATIENCE).await.unwrap().state, State::Done);
        assert_eq!(told.lock().unwrap().pop().unwrap(), (sha256, hosts.to_string()));
    }
    assert_eq!(world.files().len(), 3);
    world.core.tasks.stop().await;
}

/// An ISO 9660 file system without any file.
fn disc() -> Vec<u8> {
    let mut bytes = vec![0u8; 40 << 10];
    bytes[32768..32774].copy_from_slice(b"\x01CD001");
    bytes[32774] = 1;
    bytes
}

#[tokio::test]
async fn converted_content_goes_with_its_image_and_outlives_a_restart() {
    let world = World::new().await;
    let told = started(&world).await;
    let (id, sha256) = uploaded(&world, "vmdk", as_format(&some_disk(), "vmdk")).await;
    let first = begin(&world, (&sha256, "vmdk")).await;
    assert_eq!(world.core.tasks.wait(&first, PATIENCE).await.unwrap().state, State::Done);
    let (converted, _) = told.lock().unwrap().pop().unwrap();
    // Half of another one, and one whose record was never written.
    std::fs::write(world.images.directory().join("f".repeat(64)), "x").unwrap();
    std::fs::write(world.images.directory().join(format!(".upload-{}", base::id::uuid())), "x").unwrap();
    world.core.tasks.stop().await;
    let world = world.restart().await;
    started(&world).await;
    until("what has no record goes", async || world.files().len() == 2).await;
    assert!(world.files().contains(&converted));
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    world.core.tasks.stop().await;
    let world = world.restart().await;
    started(&world).await;
    until("it goes with its image", async || world.files().is_empty()).await;
    world.core.tasks.stop().await;
}

#[tokio::test]
async fn nothing_is_made_of_what_is_not_what_it_says() {
    let world = World::with(|c| c.set("image.require_format_match", "false")).await;
    let told = started(&world).await;
    let alice = context("alice").unwrap();
    let (disk, qcow2) = (some_disk(), as_format(&some_disk(), "qcow2"));
    let mut table = vec![0u8; 1 << 20];
    // One partition from sector 1.
    (table[446 + 4], table[446 + 8], table[446 + 12]) = (0x83, 1, 255);
    table[510..512].copy_from_slice(b"\x55\xaa");
    for (declared, content, found) in [
        ("raw", disk.clone(), None),
        ("raw", table, None),
        ("qcow2", qcow2.clone(), None),
        ("raw", qcow2, Some("qcow2")),
        ("raw", disc(), Some("iso")),
        ("vmdk", disk.clone(), Some("raw")),
        ("ami", disk, None),
    ] {
        let id = world.image("alice", bare_or_ami(declared)).await;
        world.upload("alice", &id, content).await.is(204);
        let image = world.images.boot_image(&alice, &id).await.unwrap();
        let text = found.map(|found| format!("Image {id} is unacceptable: disk_format is {declared}, but the content is {found}."));
        assert_eq!(image.content_unfit(), text, "{declared}");
        if declared == "vmdk" {
            let refused = begin(&world, (&image.sha256, declared)).await;
            let ended = world.core.tasks.wait(&refused, PATIENCE).await.unwrap();
            assert_eq!(ended.state, State::Failed);
            assert!(told.lock().unwrap().is_empty());
        }
    }
    world.core.tasks.stop().await;
}

fn bare_or_ami(format: &str) -> Value {
    let mut body = bare(format);
    if format == "ami" {
        body["container_format"] = "ami".into();
    }
    body
}

//! Content in several places of one file system that shares blocks: a real XFS on a loop device, which takes root.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::world::World;

fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A file system of its own, gone with this value.
struct Mounted {
    home: tempfile::TempDir,
}

impl Mounted {
    fn new() -> Mounted {
        let home = tempfile::tempdir().unwrap();
        let (image, place) = (home.path().join("image"), home.path().join("mounted"));
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        std::fs::create_dir(&place).unwrap();
        run("mkfs.xfs", &["-q", "-m", "reflink=1", image.to_str().unwrap()]);
        run("mount", &["-o", "loop", image.to_str().unwrap(), place.to_str().unwrap()]);
        Mounted { home }
    }
    fn path(&self) -> PathBuf {
        self.home.path().join("mounted")
    }
    /// Bytes in use.
    fn used(&self) -> u64 {
        run("sync", &["-f", self.path().to_str().unwrap()]);
        let said = run("df", &["--output=used", "-B1", self.path().to_str().unwrap()]);
        said.lines().nth(1).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn only_file(directory: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path());
    let file = files.next().unwrap();
    assert_eq!(files.next(), None);
    file
}

#[tokio::test]
async fn stores_of_one_file_system_share_blocks() {
    let disk = Mounted::new();
    let (first, second) = (disk.path().join("first"), disk.path().join("second"));
    let stores = format!("first={},second={}", first.display(), second.display());
    let world = World::with(move |config| {
        config.set("image.stores", &stores);
        config.set("image.default_store", "first");
    })
    .await;
    world.core.tasks.start().await.unwrap();
    let content: Vec<u8> = (0..32u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let before = disk.used();
    let id = world.active("admin", json!({}), &content).await;
    let once = disk.used() - before;
    assert!(once >= 32 << 20, "{once}");
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["second"]})).await.is(202);
    assert_eq!(world.imported("admin", &id).await["stores"], "first,second");
    let twice = disk.used() - before;
    assert!(twice < once + (4 << 20), "a copy took {} bytes", twice - once);
    assert!(std::fs::read(only_file(&second)).unwrap() == content);
    // Two files, not one: each store has its own.
    std::fs::remove_file(only_file(&first)).unwrap();
    assert!(world.get("admin", &format!("/v2/images/{id}/file")).await.is(200).bytes == content);
    world.core.tasks.stop().await;
}

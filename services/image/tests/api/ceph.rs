//! A store in a pool of Ceph: a real one, of a monitor and an OSD that keeps its objects in memory, started by each test.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::body::Body;
use base::{Config, Result};
use image::ImageImport;
use serde_json::{Value, json};
use store::params;
use task::testing::Fixture;
use task::{Engine, Filter, Operation};

use crate::crashes::until;
use crate::world::{TABLES, World, context};

const RAW: fn() -> Value = || json!({"disk_format": "raw", "container_format": "bare"});

/// A cluster with the pool `images`, which its user `glance` may use.
struct Ceph {
    home: tempfile::TempDir,
    daemons: Vec<Child>,
}

fn run(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

impl Ceph {
    fn start() -> Ceph {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name).display().to_string();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (fsid, osd, monitor) = (base::id::uuid(), base::id::uuid(), format!("v2:127.0.0.1:{port}"));
        let configuration = format!(
            "[global]\nfsid = {fsid}\nmon host = {monitor}\nmon initial members = a\nms bind ipv4 = true\nms bind msgr1 = false\n\
             public addr = 127.0.0.1\nauth cluster required = cephx\nauth service required = cephx\nauth client required = cephx\n\
             osd crush chooseleaf type = 0\nosd pool default size = 1\nosd pool default min size = 1\nmon allow pool size one = true\nmon data avail crit = 1\n\
             osd pool default pg num = 8\nosd pool default pgp num = 8\nmon max pg per osd = 1000\nosd objectstore = memstore\n\
             memstore device bytes = 1073741824\nkeyring = {keyring}\nrun dir = {home}\nadmin socket = {home}/$name.asok\n\
             log file = {home}/$name.log\n[mon.a]\nmon data = {mon}\n[osd.0]\nosd data = {data}\nkeyring = {data}/keyring\n",
            keyring = at("keyring"),
            home = home.path().display(),
            mon = at("mon"),
            data = at("osd"),
        );
        std::fs::write(at("ceph.conf"), configuration).unwrap();
        let tool = |name: &str, args: &[&str], input: &str| {
            run(Command::new(name).args(args).current_dir(home.path()).env("CEPH_CONF", home.path().join("ceph.conf")), input)
        };
        let caps = |who: &str, mon: &str, osd: &str| {
            tool("ceph-authtool", &["keyring", "--gen-key", "-n", who, "--cap", "mon", mon, "--cap", "osd", osd], "")
        };
        std::fs::write(at("keyring"), "").unwrap();
        caps("mon.", "allow *", "allow *");
        caps("client.admin", "allow *", "allow *");
        caps("client.glance", "profile rbd", "profile rbd pool=images");
        tool("monmaptool", &["--create", "--fsid", &fsid, "--addv", "a", &format!("[{monitor}]"), "monmap"], "");
        std::fs::create_dir(at("mon")).unwrap();
        std::fs::create_dir(at("osd")).unwrap();
        tool("ceph-mon", &["-i", "a", "--mkfs", "--monmap", "monmap", "--keyring", "keyring"], "");
        let daemon = |name: &str, id: &str| {
            let mut command = Command::new(name);
            command.args(["-f", "-i", id, "-c"]).arg(home.path().join("ceph.conf"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut daemons = vec![daemon("ceph-mon", "a")];
        let key = tool("ceph-authtool", &["--gen-print-key"], "");
        let secret = json!({"cephx_secret": key.trim()}).to_string();
        tool("ceph", &["--connect-timeout", "60", "osd", "new", &osd, "0", "-i", "-"], &secret);
        tool("ceph-authtool", &["--create-keyring", "osd/keyring", "--name", "osd.0", "--add-key", key.trim()], "");
        tool("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &osd], "");
        daemons.push(daemon("ceph-osd", "0"));
        tool("ceph", &["osd", "pool", "create", "images", "8"], "");
        tool("rbd", &["pool", "init", "images"], "");
        Ceph { home, daemons }
    }

    fn conf(&self) -> String {
        self.home.path().join("ceph.conf").display().to_string()
    }

    fn rbd(&self, args: &[&str]) -> String {
        run(Command::new("rbd").args(["--conf", &self.conf()]).args(args), "")
    }

    /// Names in the pool, sorted.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = serde_json::from_str(&self.rbd(&["ls", "--format", "json", "images"])).unwrap();
        names.sort();
        names
    }

    /// Waits until these are the names in the pool.
    async fn becomes(&self, names: &[String]) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.names() != names {
            assert!(Instant::now() < end, "{:?}, not {names:?}", self.names());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Stops the OSD in its tracks, or lets it go on.
    fn signal(&self, signal: &str) {
        run(Command::new("kill").arg(signal).arg(self.daemons[1].id().to_string()), "");
    }

    /// How many exports from this cluster are running.
    fn exports(&self) -> usize {
        let conf = self.conf();
        let commands = std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
        let of_ours = |command: &Vec<u8>| {
            let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
            words.contains(&conf.as_bytes()) && words.contains(&&b"export"[..])
        };
        commands.filter(of_ours).count()
    }

    /// A cloud on this cluster, whose default store is the pool.
    async fn world(&self) -> World {
        self.world_as("glance").await
    }

    async fn world_as(&self, user: &str) -> World {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = Config::for_home(dir.path());
        let database = store::testing::url(dir.path(), &TABLES).await;
        if !database.starts_with("sqlite") {
            config.set("store", &database);
        }
        config.set("image.stores", &format!("far=rbd+{}?pool=images&user={user}&chunk=4:3", self.conf()));
        config.set("image.default_store", "far");
        config.set("image.show_multiple_locations", "true");
        World::open(dir, config).await
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn some_content(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_kept_in_a_pool_of_ceph() {
    let ceph = tokio::task::spawn_blocking(Ceph::start).await.unwrap();
    let world = ceph.world().await;
    let content = some_content(9_000_001);
    let id = world.active("alice", json!({}), &content).await;
    let image = world.show("alice", &id).await;
    assert_eq!((&image["status"], &image["stores"], &image["size"]), (&json!("active"), &json!("far"), &json!(9_000_001)));
    assert!(world.files().is_empty(), "{:?}", world.files());
    assert_eq!(ceph.names(), [id.as_str()]);
    // As glance keeps it, for those who clone it.
    let spec = format!("images/{id}");
    let info: Value = serde_json::from_str(&ceph.rbd(&["info", "--format", "json", &spec])).unwrap();
    assert_eq!((&info["size"], &info["object_size"]), (&json!(9_000_001), &json!(4 << 20)));
    let snapshots: Value = serde_json::from_str(&ceph.rbd(&["snap", "ls", "--format", "json", &spec])).unwrap();
    assert_eq!((&snapshots[0]["name"], &snapshots[0]["protected"]), (&json!("snap"), &json!("true")), "{snapshots}");
    let url = image["locations"][0]["url"].as_str().unwrap().to_string();
    let fsid = std::fs::read_to_string(ceph.conf()).unwrap().lines().nth(1).unwrap().strip_prefix("fsid = ").unwrap().to_string();
    assert_eq!(url, format!("rbd://{fsid}/images/{id}/snap"));
    let stores = world.get("admin", "/v2/info/stores/detail").await.is(200).json();
    let far = stores["stores"].as_array().unwrap().iter().find(|store| store["id"] == "far").unwrap().clone();
    assert_eq!((&far["type"], &far["weight"]), (&json!("rbd"), &json!(3)));
    assert_eq!(far["properties"], json!({"chunk_size": 4 << 20, "pool": "images", "fsid": fsid, "thin_provisioning": true}));
    // What is read of it comes here first, and is verified.
    let path = format!("/v2/images/{id}/file");
    let part = world.send("alice", "GET", &path, &[("range", "bytes=5000000-5000009")], Body::empty()).await.is(206);
    assert_eq!(part.bytes, content[5_000_000..5_000_010]);
    assert!(world.get("alice", &path).await.is(200).bytes == content);
    let boot = world.images.boot_image(&context("alice").unwrap(), &id).await.unwrap();
    assert_eq!(world.files(), [boot.sha256]);
    world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
    assert!(world.files().is_empty());
    // An image of its own for each, however equal, small or empty.
    let mut ids = vec![id.clone()];
    for content in [&content[..], b"seven b", b""] {
        let other = world.active("bob", json!({}), content).await;
        assert!(world.get("bob", &format!("/v2/images/{other}/file")).await.is(200).bytes == content);
        ids.push(other);
    }
    ids.sort();
    assert_eq!(ceph.names(), ids);
    for other in ids.iter().filter(|other| **other != id) {
        world.delete("bob", &format!("/v2/images/{other}")).await.is(204);
    }
    assert_eq!((ceph.names(), world.files().len()), (vec![id.clone()], 0));
    // From it and to it.
    world.core.tasks.start().await.unwrap();
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["local"]})).await.is(202);
    assert_eq!(world.imported("admin", &id).await["stores"], "far,local");
    world.delete("admin", &format!("/v2/stores/far/{id}")).await.is(204);
    assert!(ceph.names().is_empty());
    world.import("admin", &id, json!({"method": {"name": "copy-image"}, "stores": ["far"]})).await.is(202);
    assert_eq!(world.imported("admin", &id).await["stores"], "local,far");
    world.delete("admin", &format!("/v2/stores/local/{id}")).await.is(204);
    assert!(world.get("alice", &path).await.is(200).bytes == content);
    // One that is cloned stays as long as it is.
    world.delete("admin", &format!("/v2/cache/{id}")).await.is(204);
    ceph.rbd(&["clone", &format!("{spec}@snap"), "images/volume-1"]);
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    assert_eq!(ceph.names(), [id.as_str(), "volume-1"]);
    ceph.rbd(&["rm", "--no-progress", "images/volume-1"]);
    world.core.tasks.stop().await;
    let world = world.restart().await;
    world.core.tasks.start().await.unwrap();
    ceph.becomes(&[]).await;
    world.core.tasks.stop().await;
    // Whoever may not write changes nothing.
    drop(world);
    let world = ceph.world_as("nobody").await;
    let queued = world.image("alice", RAW()).await;
    let answer = world.upload("alice", &queued, "content").await.is(503);
    assert!(answer.text().contains("Ceph"), "{}", answer.text());
    assert_eq!((world.show("alice", &queued).await["status"].as_str(), world.files().len()), (Some("queued"), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_given_up_does_not_begin_another_beside_it() {
    let ceph = tokio::task::spawn_blocking(Ceph::start).await.unwrap();
    let world = Arc::new(ceph.world().await);
    let id = world.active("alice", json!({}), b"content").await;
    let ask = || {
        let (world, path) = (world.clone(), format!("/v2/images/{id}/file"));
        tokio::spawn(async move { world.get("alice", &path).await })
    };
    ceph.signal("-STOP");
    let first = ask();
    until("it is exported", async || ceph.exports() == 1).await;
    first.abort();
    assert!(first.await.is_err());
    let second = ask();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(ceph.exports(), 1);
    }
    ceph.signal("-CONT");
    assert_eq!(second.await.unwrap().is(200).text(), "content");
    until("nothing else stays", async || world.files().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_leaves_nothing_in_ceph() {
    let ceph = tokio::task::spawn_blocking(Ceph::start).await.unwrap();
    let world = ceph.world().await;
    let kept = world.active("alice", json!({}), b"kept").await;
    let dying = world.image("alice", RAW()).await;
    // As the process would leave it: half an image, one that is whole and has no record yet, and what is not ours.
    let (upload, orphan) = (base::id::uuid(), base::id::uuid());
    for name in [format!("sturnus-upload-{upload}"), orphan, "volume-1".into(), "sturnus-upload-x".into()] {
        ceph.rbd(&["create", "--size", "8M", &format!("images/{name}")]);
        if name != "volume-1" {
            ceph.rbd(&["snap", "create", "--no-progress", &format!("images/{name}@snap")]);
        }
    }
    let id = dying.clone();
    let died = world.core.store.write(move |tx| {
        let now = base::Timestamp(1_000_000_000_000_000);
        tx.execute("UPDATE image SET status = 'saving', upload = ?2, upload_at = ?3 WHERE id = ?1", params![id, upload, now])
    });
    died.await.unwrap();
    let world = world.restart().await;
    world.core.tasks.start().await.unwrap();
    let mut left = vec![kept.clone(), "sturnus-upload-x".into(), "volume-1".into()];
    left.sort();
    ceph.becomes(&left).await;
    assert_eq!(world.show("alice", &dying).await["status"], "queued");
    assert_eq!(world.get("alice", &format!("/v2/images/{kept}/file")).await.is(200).text(), "kept");
    // What is lost there is told, and given to nobody.
    world.delete("admin", &format!("/v2/cache/{kept}")).await.is(204);
    ceph.rbd(&["snap", "unprotect", &format!("images/{kept}@snap")]);
    ceph.rbd(&["snap", "rm", "--no-progress", &format!("images/{kept}@snap")]);
    world.get("alice", &format!("/v2/images/{kept}/file")).await.is(503);
    world.core.tasks.stop().await;
}

/// An import into the pool.
struct Runs {
    ceph: Arc<Ceph>,
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
        assert_eq!((self.ceph.names().contains(&self.id), self.world.files().len()), (true, 0), "{:?}", self.world.files());
    }
    async fn check_undone(&self) {
        assert_eq!(self.world.show("alice", &self.id).await["status"], "queued");
        assert!(self.ceph.names().iter().all(|name| *name != self.id && !name.starts_with("sturnus")), "{:?}", self.ceph.names());
        assert!(self.world.files().is_empty(), "{:?}", self.world.files());
    }
    async fn leave(&self) {
        self.world.core.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_into_ceph_survive_everything() {
    let ceph = Arc::new(tokio::task::spawn_blocking(Ceph::start).await.unwrap());
    task::testing::four_runs(|| {
        let ceph = ceph.clone();
        async move {
            let world = ceph.world().await;
            let id = world.image("alice", RAW()).await;
            world.stage("alice", &id, "content").await.is(204);
            Runs { ceph, world, id }
        }
    })
    .await;
}

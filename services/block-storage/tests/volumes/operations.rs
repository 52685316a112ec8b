//! Every operation in the four runs: whole, failing at each step, each step twice, killed at each step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::{Config, Context, Result, Scope};
use block_storage::db::{snapshots, types, volumes as db};
use block_storage::op::{Change, VolumeChange, VolumeCreate, VolumeDelete, VolumeMigrate, VolumeUpload};
use block_storage::{UploadWish, VolumeWish, Volumes, op};
use host::simulated::{SimulatedHypervisor, SimulatedWire};
use host::{Agent, AgentHandle, Options};
use service::{Core, HostLinks};
use task::testing::{Fixture, four_runs};
use task::{Engine, Operation};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Create,
    Delete,
    Snapshot,
    Extend,
    Retype,
    Upload,
    Migrate,
    /// With two snapshots.
    MigrateLayers,
    /// As `Migrate`, in storage that both hosts share.
    Pass,
}

impl Kind {
    fn migrates(self) -> bool {
        matches!(self, Kind::Migrate | Kind::MigrateLayers | Kind::Pass)
    }
}

/// The service on a store of its own, with one simulated host (two when a volume goes to another) and an engine that is never started: the run's engine works.
struct World {
    kind: Kind,
    volumes: Volumes,
    hypervisor: SimulatedHypervisor,
    /// Of the host that a volume goes to.
    second: SimulatedHypervisor,
    id: String,
    agents: Vec<AgentHandle>,
    _home: tempfile::TempDir,
}

fn context() -> Context {
    Context {
        request_id: format!("req-{}", base::id::uuid()),
        user_id: "u1".into(),
        scope: Scope::Project { id: "p1".into(), name: "p1".into(), domain_id: "default".into(), domain_name: "Default".into() },
        roles: vec!["member".into(), "reader".into()],
        ..Context::default()
    }
}

async fn until(mut fits: impl FnMut() -> bool) {
    let started = Instant::now();
    while !fits() {
        assert!(started.elapsed() < PATIENCE, "it never came true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl World {
    async fn new(kind: Kind) -> World {
        let home = tempfile::tempdir().unwrap();
        let tables = [
            ("events", events::MIGRATIONS),
            ("task", task::MIGRATIONS),
            ("image", image::MIGRATIONS),
            ("placement", placement::MIGRATIONS),
            (block_storage::KIND, block_storage::MIGRATIONS),
        ];
        let store = store::Store::open(&store::testing::url(home.path(), &tables).await).await.unwrap();
        for (name, migrations) in tables {
            store.migrate(name, migrations).await.unwrap();
        }
        let (hosts, heard) = rpc::session::Hosts::new();
        let core = Core {
            config: Arc::new(Config::for_home(home.path())),
            policy: policy::Policy::new(
                policy::Enforcer::load(&[(block_storage::KIND, &[block_storage::RULES]), ("image", &[image::RULES])], None).unwrap(),
            ),
            tasks: Engine::new(store.clone(), "idle"),
            hosts: HostLinks::new(hosts),
            metrics: Default::default(),
            store,
        };
        let images = image::Images::new(core.clone()).await.unwrap();
        let placement = placement::Placement::new(core.clone()).await.unwrap();
        let volumes = Volumes::new(core.clone(), images, placement).await.unwrap();
        let links = core.hosts.clone();
        tokio::spawn(async move { links.dispatch(heard).await });
        let (hypervisor, second) = (SimulatedHypervisor::default(), SimulatedHypervisor::default());
        std::fs::create_dir(home.path().join("storage")).unwrap();
        std::fs::write(home.path().join("storage/sturnus-storage"), base::id::uuid()).unwrap();
        let mut world = World { kind, volumes, hypervisor, second, id: String::new(), agents: Vec::new(), _home: home };
        let first = world.host("host-0", &world.hypervisor).await;
        world.agents.push(first);
        world.hosts(1).await;
        let mut world = world.ready().await;
        if kind.migrates() {
            let second = world.host("host-1", &world.second).await;
            world.agents.push(second);
            world.hosts(2).await;
        }
        if kind == Kind::Pass {
            world.storage_seen().await;
        }
        world
    }

    fn storage(&self) -> std::path::PathBuf {
        self._home.path().join("storage")
    }

    /// Files of volumes in the storage that hosts share, apart from what simulated hosts keep beside them.
    fn records(&self) -> usize {
        let all = std::fs::read_dir(self.storage().join("volumes")).unwrap();
        all.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "json")).count()
    }

    /// Waits until every host has said that it sees that storage.
    async fn storage_seen(&self) {
        let started = Instant::now();
        let seen = |h: &block_storage::db::hosts::Host| h.info.storage.is_some();
        while !self.store().read(|tx| Ok(block_storage::db::hosts::host_list_in(tx)?.iter().all(seen))).await.unwrap() {
            assert!(started.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn host(&self, name: &str, hypervisor: &SimulatedHypervisor) -> AgentHandle {
        let sessions = self.volumes.core.hosts.sessions().clone();
        let mut config = Config::for_home(self._home.path().join(name));
        config.set("host.name", name);
        if self.kind == Kind::Pass {
            config.set("host.shared_storage", self.storage().to_str().unwrap());
        }
        let options = Options {
            guard: None,
            config,
            hypervisor: Arc::new(hypervisor.clone()),
            wire: Arc::new(SimulatedWire::default()),
            dial: Arc::new(move || {
                let (host, controller) = rpc::session::link();
                let sessions = sessions.clone();
                tokio::spawn(async move { sessions.serve(controller).await });
                Box::pin(async move { Ok(host) })
            }),
            sync: false,
            id: None,
        };
        Agent::start(options).await.unwrap()
    }

    async fn hosts(&self, count: usize) {
        let started = Instant::now();
        while self.store().read(|tx| Ok(db_hosts(tx))).await.unwrap() != count {
            assert!(started.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What the operation under test needs: a volume that is made, unless making it is the test.
    async fn ready(mut self) -> World {
        let mut wish = VolumeWish { size: Some(1), ..VolumeWish::default() };
        if self.kind == Kind::Pass {
            self.storage_seen().await;
            let kind = new_type("volume_backend_name", "shared");
            self.store().write(move |tx| types::type_put_in(tx, &kind)).await.unwrap();
            wish.volume_type = Some("shared".into());
        }
        let volume = self.volumes.volume_create(&context(), wish).await.unwrap();
        self.id = volume.id;
        if self.kind != Kind::Create {
            let engine = Engine::new(self.store(), "first");
            engine.register(Arc::new(VolumeCreate(self.volumes.clone())));
            // It may be over a moment after it could begin.
            let operation = self.newest().await;
            engine.start().await.unwrap();
            engine.wait(&operation, PATIENCE).await.unwrap();
            engine.stop().await;
            assert_eq!(self.stored().await.unwrap().status, "available");
        }
        for _ in 0..if self.kind == Kind::MigrateLayers { 2 } else { 0 } {
            let (this, id) = (self.volumes.clone(), self.id.clone());
            self.store().write(move |tx| this.server_snapshot_in(tx, &context(), &id, None)).await.unwrap();
            let engine = Engine::new(self.store(), "snapshots");
            engine.register(Arc::new(VolumeChange(self.volumes.clone())));
            let operation = self.newest().await;
            engine.start().await.unwrap();
            engine.wait(&operation, PATIENCE).await.unwrap();
            engine.stop().await;
        }
        self
    }

    async fn newest(&self) -> String {
        let all = self.volumes.core.tasks.list(&task::Filter::default()).await.unwrap();
        all.first().unwrap().id.clone()
    }

    async fn stored(&self) -> Option<block_storage::model::Volume> {
        let id = self.id.clone();
        self.store().read(|tx| db::volume_fetch_in(tx, &id)).await.unwrap()
    }

    /// All allocations are those that the rows call for: a volume and its snapshots, where they are.
    async fn promised(&self) {
        let volume = self.stored().await.filter(|volume| volume.host.is_some());
        let wanted: Vec<(String, String, i64)> = match volume {
            None => Vec::new(),
            Some(volume) => {
                let id = volume.id.clone();
                let below = self.store().read(|tx| snapshots::snapshots_of_in(tx, &id)).await.unwrap();
                let frozen: i64 = below.iter().filter(|s| s.status != "error").map(|s| s.size).sum();
                let place = match &volume.storage {
                    Some(storage) => format!("shared-storage-{storage}"),
                    None => format!("{}@local#local", volume.host.unwrap()),
                };
                vec![(volume.id, place, volume.size + frozen)]
            }
        };
        let sql = "SELECT c.uuid, p.name, a.used FROM consumer c LEFT JOIN allocation a ON a.consumer = c.uuid \
                   LEFT JOIN provider p ON p.uuid = a.provider ORDER BY p.name";
        let held = self.store().read(|tx| tx.query(sql, &[], |r| Ok((r.text(0)?, r.text(1)?, r.int(2)?)))).await.unwrap();
        assert_eq!(held, wanted);
    }

    async fn snapshot_statuses(&self) -> Vec<String> {
        let id = self.id.clone();
        let all = self.store().read(|tx| snapshots::snapshots_of_in(tx, &id)).await.unwrap();
        all.into_iter().map(|s| s.status).collect()
    }

    async fn images(&self) -> Vec<&'static str> {
        let page = self.volumes.images.image_list(&context(), &http_api::Query(Vec::new())).await.unwrap();
        page.images.iter().map(|i| i.status.as_str()).collect()
    }

    /// The volume is free, and the host has forgotten the copy.
    async fn exported_no_more(&self) {
        let volume = self.stored().await.unwrap();
        assert_eq!((volume.status.as_str(), volume.doc.exports.len()), ("available", 0));
        // The volume's own layers, and the one that was laid over them for the copy; copies have the names of UUIDs.
        let most = if self.kind == Kind::MigrateLayers { 4 } else { 2 };
        let settled = |files: Vec<String>| files.len() <= most && files.iter().all(|name| !name.contains('-'));
        until(|| settled(self.hypervisor.layer_files())).await;
    }

    async fn migrated(&self, how: &str, host: &str) {
        let volume = self.stored().await.unwrap();
        assert_eq!((volume.status.as_str(), volume.migration_status.as_deref()), ("available", Some(how)));
        assert_eq!((volume.host.as_deref(), volume.doc.parcel), (Some(host), None));
    }

    async fn layers(&self, count: usize) {
        until(|| self.hypervisor.layer_files().len() == count).await;
    }
}

/// A type called `shared` with one extra spec.
fn new_type(key: &str, value: &str) -> types::VolumeType {
    let mut doc = types::TypeDoc::default();
    doc.extra_specs.insert(key.into(), value.into());
    let now = base::Timestamp::now();
    types::VolumeType {
        id: base::id::uuid(),
        name: "shared".into(),
        description: None,
        is_public: true,
        qos_specs_id: None,
        created_at: now,
        updated_at: now,
        doc,
    }
}

fn db_hosts(tx: &store::Tx) -> usize {
    block_storage::db::hosts::host_list_in(tx).unwrap().iter().filter(|h| h.connected).count()
}

#[async_trait]
impl Fixture for World {
    fn store(&self) -> store::Store {
        self.volumes.core.store.clone()
    }
    fn operation(&self) -> Arc<dyn Operation> {
        match self.kind {
            Kind::Create => Arc::new(VolumeCreate(self.volumes.clone())),
            Kind::Delete => Arc::new(VolumeDelete(self.volumes.clone())),
            Kind::Upload => Arc::new(VolumeUpload(self.volumes.clone())),
            Kind::Migrate | Kind::MigrateLayers | Kind::Pass => Arc::new(VolumeMigrate(self.volumes.clone())),
            Kind::Snapshot | Kind::Extend | Kind::Retype => Arc::new(VolumeChange(self.volumes.clone())),
        }
    }
    async fn submit(&self, _: &Engine) -> Result<String> {
        match self.kind {
            Kind::Create => {}
            Kind::Delete => self.volumes.volume_delete(&context(), &self.id, false, false).await?,
            Kind::Snapshot => {
                let (this, id) = (self.volumes.clone(), self.id.clone());
                let wish = move |tx: &store::Tx| this.server_snapshot_in(tx, &context(), &id, None);
                self.store().write(wish).await?;
            }
            Kind::Extend => self.volumes.volume_extend(&context(), &self.id, 5, true).await?,
            Kind::Migrate | Kind::MigrateLayers | Kind::Pass => {
                let pool = if self.kind == Kind::Pass { "host-1@shared#shared" } else { "host-1@local#local" };
                let admin = Context { roles: vec!["admin".into(), "member".into(), "reader".into()], ..context() };
                self.volumes.volume_migrate(&admin, &self.id, pool, true).await?;
            }
            Kind::Retype => {
                let shared = new_type("multiattach", "<is> True");
                self.store().write(move |tx| types::type_put_in(tx, &shared)).await?;
                self.volumes.volume_retype(&context(), &self.id, "shared".into(), None).await?;
            }
            Kind::Upload => {
                let wish = UploadWish {
                    name: "copy".into(),
                    disk_format: "raw".into(),
                    container_format: "bare".into(),
                    visibility: None,
                    protected: true,
                    force: false,
                };
                self.volumes.volume_upload(&context(), &self.id, wish).await?;
            }
        }
        Ok(self.newest().await)
    }
    async fn check_done(&self) {
        self.promised().await;
        match self.kind {
            Kind::Create => {
                assert_eq!(self.stored().await.unwrap().status, "available");
                self.layers(1).await;
            }
            Kind::Delete => {
                assert!(self.stored().await.is_none());
                self.layers(0).await;
            }
            Kind::Snapshot => {
                assert_eq!(self.snapshot_statuses().await, ["available"]);
                self.layers(2).await;
            }
            Kind::Extend => {
                let volume = self.stored().await.unwrap();
                assert_eq!((volume.status.as_str(), volume.size), ("available", 5));
            }
            Kind::Retype => {
                let volume = self.stored().await.unwrap();
                let name = volume.doc.type_name.as_deref();
                assert_eq!((volume.status.as_str(), volume.multiattach, name), ("available", true, Some("shared")));
                self.layers(1).await;
                assert!(self.hypervisor.layer_files()[0].starts_with('r'), "a raw one");
            }
            Kind::Upload => {
                assert_eq!(self.images().await, ["active"]);
                self.exported_no_more().await;
            }
            Kind::Migrate | Kind::MigrateLayers => {
                self.migrated("success", "host-1").await;
                let layers = if self.kind == Kind::MigrateLayers { 3 } else { 1 };
                until(|| self.second.layer_files().len() == layers && self.hypervisor.layer_files().is_empty()).await;
                assert!(self.snapshot_statuses().await.iter().all(|status| status == "available"));
            }
            Kind::Pass => {
                self.migrated("success", "host-1").await;
                assert_eq!(self.records(), 1);
            }
        }
    }
    async fn leave(&self) {
        self.store().close().await;
    }

    async fn check_undone(&self) {
        self.promised().await;
        match self.kind {
            Kind::Create => {
                let volume = self.stored().await.unwrap();
                assert_eq!((volume.status.as_str(), volume.host_id), ("error", None));
                self.layers(0).await;
            }
            // Only forward: it can be deleted again.
            Kind::Delete => assert_eq!(self.stored().await.unwrap().status, "error_deleting"),
            Kind::Snapshot => assert_eq!(self.snapshot_statuses().await, ["error"]),
            Kind::Extend => {
                let volume = self.stored().await.unwrap();
                assert_eq!((volume.status.as_str(), volume.size), ("error_extending", 1));
            }
            Kind::Retype => {
                let volume = self.stored().await.unwrap();
                let name = volume.doc.type_name.as_deref();
                assert_eq!((volume.status.as_str(), volume.multiattach, name), ("available", false, Some("local")));
                self.layers(1).await;
            }
            Kind::Upload => {
                assert!(self.images().await.is_empty());
                self.exported_no_more().await;
            }
            // It had arrived, and stays.
            Kind::Migrate | Kind::MigrateLayers | Kind::Pass if self.stored().await.unwrap().host.as_deref() == Some("host-1") => {
                self.check_done().await
            }
            Kind::Pass => self.migrated("error", "host-0").await,
            Kind::Migrate | Kind::MigrateLayers => {
                self.migrated("error", "host-0").await;
                assert!(self.snapshot_statuses().await.iter().all(|status| status == "available"));
                self.exported_no_more().await;
                until(|| self.second.layer_files().is_empty()).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn create_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Create)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Delete)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Snapshot)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Extend)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn becoming_shared_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Retype)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Upload)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_to_another_host_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Migrate)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_to_another_host_with_snapshots_survives_the_four_runs() {
    four_runs(|| World::new(Kind::MigrateLayers)).await;
}

#[test]
fn changes_are_stored_by_name() {
    let text = serde_json::to_string(&Change::SnapshotDelete { snapshot: "s".into() }).unwrap();
    assert_eq!(text, r#"{"kind":"snapshot_delete","snapshot":"s"}"#);
    assert!([op::CREATE, op::DELETE, op::CHANGE, op::UPLOAD, op::MIGRATE].iter().all(|k| k.starts_with("block_storage.")));
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_a_volume_on_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Pass)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_on_its_way_is_promised_to_both_hosts() {
    let world = World::new(Kind::MigrateLayers).await;
    let (volumes, id) = (world.volumes.clone(), world.id.clone());
    let second = world.agents[1].host_id().to_string();
    let places = async || {
        let sql = "SELECT p.name, a.used FROM allocation a JOIN provider p ON p.uuid = a.provider ORDER BY p.name";
        world.store().read(|tx| tx.query(sql, &[], |r| Ok((r.text(0)?, r.int(1)?)))).await.unwrap()
    };
    let on = |host: &str| (format!("{host}@local#local"), 3);
    assert_eq!(places().await, [on("host-0")], "with its two snapshots");
    let (this, volume, to) = (volumes.clone(), id.clone(), second.clone());
    world.store().write(move |tx| this.visit_begin_in(tx, "an operation", &volume, &to)).await.unwrap();
    assert_eq!(places().await, [on("host-0"), on("host-1")], "from when what it is made of is carried");
    let (this, volume, to) = (volumes.clone(), id.clone(), second.clone());
    world.store().write(move |tx| this.visit_in(tx, &volume, &to)).await.unwrap();
    assert_eq!(places().await, [on("host-0"), on("host-1")]);
    world.store().write(move |tx| volumes.visit_arrived_in(tx, &id, &second, "host-1")).await.unwrap();
    assert_eq!(places().await, [on("host-1")]);
    world.promised().await;
}

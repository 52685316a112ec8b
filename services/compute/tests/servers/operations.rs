//! Every operation in the four runs: whole, failing at each step, each step twice, killed at each step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::{Config, Context, Result, Scope, Timestamp};
use compute::Compute;
use compute::db::migrations::migration_begin_in;
use compute::db::servers::{self as db, ImageFacts, Server, ServerDoc, Source};
use compute::flavors::{Flavor, FlavorDoc};
use compute::gate::Gated;
use compute::op::{
    self, aggregate_images, server_copy, server_create, server_delete, server_evacuate, server_gate, server_live, server_move,
    server_move_back, server_nic, server_power, server_resize, server_scale, server_shelve, server_unshelve,
};
use compute::servers::{Evacuate, PowerAction};
use host::simulated::{Scales, SimulatedHypervisor, SimulatedWire};
use host::{Agent, AgentHandle, Options};
use rpc::instance::Power;
use service::{Core, HostLinks};
use task::testing::{Fixture, four_runs};
use task::{Engine, Operation};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Create,
    Delete,
    Stop,
    Images,
    Suspend,
    Copy,
    Resize,
    Shelve,
    Unshelve,
    Evacuate,
    Live,
    Move,
    MoveBack,
    Attach,
    Detach,
    Gate,
    Down,
    Up,
}

/// The service on a store of its own, with one simulated host and an engine that is never started: the run's engine works.
struct World {
    kind: Kind,
    compute: Compute,
    hypervisor: SimulatedHypervisor,
    /// Of the host that a server is evacuated to; the first one is away then.
    second: SimulatedHypervisor,
    id: String,
    agents: Vec<AgentHandle>,
    home: tempfile::TempDir,
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

fn server(id: &str) -> Server {
    let now = Timestamp::now();
    let flavor = Flavor {
        id: "1".into(),
        name: "m1.tiny".into(),
        vcpus: 1,
        memory_mb: 64,
        root_gb: 1,
        ephemeral_gb: 0,
        swap_mb: 0,
        is_public: true,
        disabled: false,
        created_at: now,
        updated_at: None,
        doc: FlavorDoc::default(),
    };
    let image = ImageFacts { id: "i".into(), sha256: "00".repeat(32), disk_format: "raw".into(), size: 1, ..ImageFacts::default() };
    Server {
        id: id.into(),
        generation: 1,
        number: 1,
        project_id: "p1".into(),
        user_id: "u1".into(),
        display_name: "vm".into(),
        display_description: None,
        hostname: "vm".into(),
        vm_state: "building".into(),
        task_state: Some("scheduling".into()),
        power_state: 0,
        host_id: None,
        host: None,
        node: None,
        availability_zone: None,
        image_ref: "i".into(),
        flavor_id: "1".into(),
        vcpus: 1,
        memory_mb: 64,
        key_name: None,
        config_drive: String::new(),
        reservation_id: "r-1".into(),
        launch_index: 0,
        root_device_name: None,
        locked_by: None,
        access_ip_v4: None,
        access_ip_v6: None,
        auto_disk_config: false,
        progress: 0,
        created_at: now,
        updated_at: now,
        launched_at: None,
        terminated_at: None,
        deleted: false,
        wanted: Power::Running,
        spec_generation: 1,
        boot: 0,
        doc: ServerDoc { flavor: Some(flavor), image: Some(image), ..ServerDoc::default() },
    }
}

/// What every provider that is a host meets, and none below it.
fn computes() -> placement::Requirements {
    placement::Requirements { required: vec!["COMPUTE_NODE".into()], ..Default::default() }
}

impl World {
    async fn new(kind: Kind) -> World {
        let home = tempfile::tempdir().unwrap();
        let tables = [
            ("events", events::MIGRATIONS),
            ("task", task::MIGRATIONS),
            ("image", image::MIGRATIONS),
            ("placement", placement::MIGRATIONS),
            ("network", network::MIGRATIONS),
            ("fault", fault::MIGRATIONS),
            (block_storage::KIND, block_storage::MIGRATIONS),
            ("compute", compute::MIGRATIONS),
        ];
        let store = store::Store::open(&store::testing::url(home.path(), &tables).await).await.unwrap();
        for (name, migrations) in tables {
            store.migrate(name, migrations).await.unwrap();
        }
        let (hosts, heard) = rpc::session::Hosts::new();
        let core = Core {
            config: Arc::new(Config::for_home(home.path())),
            policy: policy::Policy::new(
                policy::Enforcer::load(
                    &[("compute", &[compute::RULES]), ("image", &[image::RULES]), ("block-storage", &[block_storage::RULES])],
                    None,
                )
                .unwrap(),
            ),
            tasks: Engine::new(store.clone(), "never started"),
            hosts: HostLinks::new(hosts),
            metrics: http_api::metrics::Metrics::default(),
            store,
        };
        let images = image::Images::new(core.clone()).await.unwrap();
        let placement = placement::Placement::new(core.clone()).await.unwrap();
        let network = network::Network::new(core.clone()).await.unwrap();
        let faults = fault::Faults::new(core.clone()).await.unwrap();
        let volumes = block_storage::Volumes::new(core.clone(), images.clone(), placement.clone()).await.unwrap();
        let compute = Compute::new(core.clone(), images, placement, network, volumes, faults).await.unwrap();
        let links = core.hosts.clone();
        tokio::spawn(async move { links.dispatch(heard).await });
        let (hypervisor, second) = (SimulatedHypervisor::default(), SimulatedHypervisor::default());
        let mut world = World { kind, compute, hypervisor, second, id: base::id::uuid(), agents: Vec::new(), home };
        world.agents.push(world.host("host-0", &world.hypervisor).await);
        let started = Instant::now();
        while world.compute.placement.candidates(&computes(), 10).await.unwrap().is_empty() {
            assert!(started.elapsed() < PATIENCE, "the host never came");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        match kind {
            Kind::Create => {}
            Kind::Images => world.aggregate().await,
            Kind::Unshelve => {
                world.build().await;
                world.shelve().await;
            }
            Kind::Evacuate => {
                world.build().await;
                let lost = world.agents.remove(0);
                let id = lost.host_id().to_string();
                lost.stop().await;
                world.until("the host is away", || !world.compute.core.hosts.is_connected(&id)).await;
                world.agents.push(world.host("host-1", &world.second).await);
                let started = Instant::now();
                while world.compute.placement.candidates(&computes(), 10).await.unwrap().len() < 2 {
                    assert!(started.elapsed() < PATIENCE, "the second host never came");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            Kind::Live | Kind::Move | Kind::MoveBack => {
                world.build().await;
                world.agents.push(world.host("host-1", &world.second).await);
                let started = Instant::now();
                while world.compute.placement.candidates(&computes(), 10).await.unwrap().len() < 2 {
                    assert!(started.elapsed() < PATIENCE, "the second host never came");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                if kind == Kind::MoveBack {
                    world.work(Arc::new(server_move::ServerMove(world.compute.clone())), Kind::Move).await;
                }
            }
            Kind::Gate => {
                let manner = host::simulated::Manner::default();
                manner.mood().settings.name = "vm".into();
                world.hypervisor.speaking(manner);
                world.build().await;
                let server = world.stored().await;
                world.until("its heart beats", || world.compute.guest_beats(&server)).await;
            }
            Kind::Down | Kind::Up => {
                world.build().await;
                world.hypervisor.members().scales(&world.id, Scales::Does(None));
                if kind == Kind::Up {
                    world.work(Arc::new(server_scale::ServerScale(world.compute.clone())), Kind::Down).await;
                }
            }
            _ => world.build().await,
        }
        world
    }

    async fn host(&self, name: &'static str, hypervisor: &SimulatedHypervisor) -> AgentHandle {
        let sessions = self.compute.core.hosts.sessions().clone();
        let dial: host::Dial = Arc::new(move || {
            let (host, controller) = rpc::session::link();
            let sessions = sessions.clone();
            tokio::spawn(async move { sessions.serve(controller).await });
            Box::pin(async move { Ok(host) })
        });
        let mut config = Config::for_home(self.home.path().join(name));
        config.set("host.name", name);
        if matches!(self.kind, Kind::Down | Kind::Up) {
            config.set("host.cpu_dedicated_set", "2-3");
        }
        let wire = Arc::new(SimulatedWire::default());
        Agent::start(Options { config, hypervisor: Arc::new(hypervisor.clone()), wire, dial, sync: false, id: None, guard: None })
            .await
            .unwrap()
    }

    /// A running server, by an engine that ends before the run.
    async fn build(&self) {
        let engine = Engine::new(self.store(), "builder");
        engine.register(Arc::new(server_create::ServerCreate(self.compute.clone())));
        engine.start().await.unwrap();
        let operation = self.submit_create(&engine).await.unwrap();
        let done = engine.wait(&operation, PATIENCE).await.unwrap();
        assert_eq!(done.state, task::State::Done, "{done:?}");
        engine.stop().await;
    }

    /// An aggregate with the host in it.
    async fn aggregate(&self) {
        let aggregate = self.compute.aggregate_create(&context(), "rack".into(), None).await.unwrap();
        self.compute.aggregate_host_add(&context(), aggregate.number, "host-0".into()).await.unwrap();
    }

    /// The server on the shelf, by an engine that ends before the run.
    async fn shelve(&self) {
        self.work(Arc::new(server_shelve::ServerShelve(self.compute.clone())), Kind::Shelve).await;
    }

    async fn work(&self, operation: Arc<dyn Operation>, kind: Kind) {
        let engine = Engine::new(self.store(), "worker");
        engine.register(operation);
        engine.start().await.unwrap();
        let operation = self.submit_kind(&engine, kind).await.unwrap();
        let done = engine.wait(&operation, PATIENCE).await.unwrap();
        assert_eq!(done.state, task::State::Done, "{done:?}");
        engine.stop().await;
    }

    /// So many of two: written down, claimed, and where they run.
    async fn has_vcpus(&self, server: &Server, count: u32) {
        let offline: Vec<u32> = (count..2).collect();
        assert_eq!((server.vm_state.as_str(), server.vcpus), ("active", count));
        assert!(server.doc.offline.iter().eq(&offline), "{:?}", server.doc.offline);
        let sql = "SELECT used FROM allocation WHERE class = 'PCPU' AND consumer = ?1";
        let id = self.id.clone();
        let claimed = self.store().read(move |tx| tx.query(sql, store::params![&id], |r| r.count(0))).await.unwrap();
        assert_eq!(claimed, [u64::from(count)]);
        self.until("its vCPUs are there", || {
            let (vcpus, _) = self.hypervisor.affinity(&self.id).unwrap();
            vcpus.iter().collect::<std::collections::BTreeSet<_>>().len() == count as usize
        })
        .await;
    }

    async fn submit_create(&self, engine: &Engine) -> Result<String> {
        let (engine, mut server) = (engine.clone(), server(&self.id));
        if self.kind == Kind::Gate
            && let Some(flavor) = &mut server.doc.flavor
        {
            flavor.doc.extra_specs.insert("sw:wrs:guest:heartbeat".into(), "true".into());
        }
        if let (Kind::Down | Kind::Up, Some(flavor)) = (self.kind, &mut server.doc.flavor) {
            for (key, value) in [("hw:cpu_policy", "dedicated"), ("hw:wrs:min_vcpus", "1")] {
                flavor.doc.extra_specs.insert(key.into(), value.into());
            }
            (flavor.vcpus, server.vcpus) = (2, 2);
        }
        let params = serde_json::to_value(server_create::Params { nics: Vec::new() }).unwrap();
        self.store()
            .write(move |tx| {
                db::server_insert_in(tx, &server)?;
                engine.submit(tx, op::submit(server_create::KIND, &server, &context(), params))
            })
            .await
    }

    async fn submit_kind(&self, engine: &Engine, kind: Kind) -> Result<String> {
        let (engine, id, kind, compute) = (engine.clone(), self.id.clone(), kind, self.compute.clone());
        self.store()
            .write(move |tx| {
                let mut server = db::server_get_in(tx, &id)?;
                let power = |action, generation| server_power::Params { action, generation, migration: None, former: None };
                let (name, params) = match kind {
                    Kind::Create | Kind::Images | Kind::Delete => {
                        server.task_state = Some("deleting".into());
                        (server_delete::KIND, serde_json::json!({"action": "delete"}))
                    }
                    Kind::Stop => {
                        server.task_state = Some("powering-off".into());
                        server.want(Power::Stopped);
                        let params = power(PowerAction::Stop, server.spec_generation);
                        (server_power::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::Gate => {
                        let (permit, wish) = (base::id::uuid(), Gated::Power(PowerAction::Stop));
                        server.doc.gate = Some(db::Gate { permit: permit.clone(), action: "stop".into(), operation: String::new() });
                        (server_gate::KIND, serde_json::to_value(server_gate::Params { permit, wish }).unwrap())
                    }
                    Kind::Down | Kind::Up => {
                        server.task_state = Some("scaling".into());
                        let params = server_scale::Params { permit: base::id::uuid(), cpu: (kind == Kind::Up).then_some(1) };
                        (server_scale::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::Suspend => {
                        server.task_state = Some("suspending".into());
                        server.want(Power::Suspended);
                        let params = power(PowerAction::Suspend, server.spec_generation);
                        (server_power::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::Copy => {
                        server.task_state = Some("image_snapshot".into());
                        let body = serde_json::json!({"name": "copy", "disk_format": "qcow2", "container_format": "bare"});
                        let image = compute.images.image_draft(&context(), body.as_object().unwrap().clone())?;
                        compute.images.image_insert_in(tx, &context(), &image)?;
                        let params = server_copy::Params {
                            image_id: image.id,
                            snapshot: base::id::uuid(),
                            backup: None,
                            volumes: false,
                            snapshots: Vec::new(),
                        };
                        (server_copy::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::Resize => {
                        server.task_state = Some("resize_prep".into());
                        let flavor = Flavor { id: "2".into(), memory_mb: 128, root_gb: 2, ..server.flavor()?.clone() };
                        let migration = base::id::uuid();
                        let params = server_resize::Params { migration, flavor, vm_state: "active".into() };
                        (server_resize::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::Shelve => {
                        server.task_state = Some("shelving".into());
                        server.want(Power::Stopped);
                        let body = serde_json::json!({"name": "shelved", "disk_format": "qcow2", "container_format": "bare"});
                        let image = compute.images.image_draft(&context(), body.as_object().unwrap().clone())?;
                        compute.images.image_insert_in(tx, &context(), &image)?;
                        let copy = Some(server_shelve::Copy { image_id: image.id, snapshot: base::id::uuid() });
                        let params = server_shelve::Params { copy, offload: true, volumes: false, vm_state: "active".into() };
                        (server_shelve::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::Unshelve => {
                        server.task_state = Some("unshelving".into());
                        let image_id = server.doc.shelved.clone().unwrap().image_id;
                        let params = server_unshelve::Params { image_id, vm_state: server.vm_state.clone() };
                        (server_unshelve::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::Evacuate => {
                        let operation = compute.evacuate_prepare_in(tx, &context(), &mut server, &Evacuate::default())?;
                        return engine.submit(tx, operation);
                    }
                    Kind::Move => {
                        server.task_state = Some("resize_prep".into());
                        let migration = migration_begin_in(tx, &context(), &id, "migration", "pre-migrating", Some("host-0"), None)?;
                        let source = Source { host_id: server.host_id.clone().unwrap(), host: "host-0".into(), zone: Some("nova".into()) };
                        let (vm_state, wanted) = (server.vm_state.clone(), server.wanted);
                        let params = server_move::Params { migration, flavor: None, target: None, source, vm_state, wanted };
                        (server_move::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::Live => {
                        server.task_state = Some("migrating".into());
                        let migration = migration_begin_in(tx, &context(), &id, "live-migration", "accepted", Some("host-0"), None)?;
                        let source = Source { host_id: server.host_id.clone().unwrap(), host: "host-0".into(), zone: Some("nova".into()) };
                        let vm_state = server.vm_state.clone();
                        let params = server_live::Params { migration, target: None, forced: false, block: None, source, vm_state };
                        (server_live::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::MoveBack => {
                        server.task_state = Some("resize_reverting".into());
                        let migration = server.doc.resize.clone().unwrap().migration;
                        let params = server_move_back::Params { migration, wanted: server.wanted };
                        server.want(Power::Stopped);
                        (server_move_back::KIND, serde_json::to_value(params).unwrap())
                    }
                    Kind::Attach | Kind::Detach => {
                        let port_id = base::id::uuid();
                        if kind == Kind::Detach {
                            server.doc.detaching.push(port_id.clone());
                        }
                        server.spec_generation += 1;
                        let params = server_nic::Params { port_id, attach: kind == Kind::Attach };
                        (server_nic::KIND, serde_json::to_value(params).unwrap())
                    }
                };
                db::server_update_in(tx, &mut server)?;
                engine.submit(tx, op::submit(name, &server, &context(), params))
            })
            .await
    }

    async fn stored(&self) -> Server {
        self.store().read(|tx| db::server_fetch_in(tx, &self.id, true)).await.unwrap().unwrap()
    }

    /// States of all images.
    async fn images(&self) -> Vec<String> {
        let page = self.compute.images.image_list(&context(), &http_api::Query(vec![])).await.unwrap();
        page.images.iter().map(|i| i.status.as_str().to_string()).collect()
    }

    async fn until(&self, what: &str, fits: impl Fn() -> bool) {
        let started = Instant::now();
        while !fits() {
            assert!(started.elapsed() < PATIENCE, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The server went to the second host while it ran.
    async fn check_moved(&self, server: &Server) {
        assert_eq!((server.vm_state.as_str(), server.host.as_deref(), server.doc.live.is_none()), ("active", Some("host-1"), true));
        assert_eq!(self.second.running(), std::slice::from_ref(&self.id));
        assert_eq!((self.hypervisor.starts(), self.second.starts()), (1, 1), "nobody booted it again");
        assert_eq!((self.consumers().await, self.migration().await), (vec![self.id.clone()], "completed".to_string()));
        self.until("nothing is left on the first host", || self.hypervisor.traces().is_empty()).await;
        self.until("it runs", || self.second.state(&self.id) == Some(host::hypervisor::RunState::Running)).await;
    }

    /// The status of the only migration.
    async fn migration(&self) -> String {
        self.store().read(|tx| tx.query_one("SELECT status FROM server_migration", &[], |r| r.text(0))).await.unwrap()
    }

    async fn consumers(&self) -> Vec<String> {
        self.compute.placement.consumers().await.unwrap()
    }
}

#[async_trait]
impl Fixture for World {
    fn store(&self) -> store::Store {
        self.compute.core.store.clone()
    }

    fn operation(&self) -> Arc<dyn Operation> {
        let compute = self.compute.clone();
        match self.kind {
            Kind::Create => Arc::new(server_create::ServerCreate(compute)),
            Kind::Delete => Arc::new(server_delete::ServerDelete(compute)),
            Kind::Stop | Kind::Suspend => Arc::new(server_power::ServerPower(compute)),
            Kind::Copy => Arc::new(server_copy::ServerCopy(compute)),
            Kind::Resize => Arc::new(server_resize::ServerResize(compute)),
            Kind::Shelve => Arc::new(server_shelve::ServerShelve(compute)),
            Kind::Unshelve => Arc::new(server_unshelve::ServerUnshelve(compute)),
            Kind::Move => Arc::new(server_move::ServerMove(compute)),
            Kind::Live => Arc::new(server_live::ServerLive(compute)),
            Kind::MoveBack => Arc::new(server_move_back::ServerMoveBack(compute)),
            Kind::Evacuate => Arc::new(server_evacuate::ServerEvacuate(compute)),
            Kind::Down | Kind::Up => Arc::new(server_scale::ServerScale(compute)),
            Kind::Gate => Arc::new(server_gate::ServerGate(compute)),
            Kind::Attach | Kind::Detach => Arc::new(server_nic::ServerNic(compute)),
            Kind::Images => Arc::new(aggregate_images::AggregateImages(compute)),
        }
    }

    fn others(&self) -> Vec<Arc<dyn Operation>> {
        match self.kind {
            Kind::Gate => vec![Arc::new(server_power::ServerPower(self.compute.clone()))],
            _ => Vec::new(),
        }
    }

    async fn submit(&self, engine: &Engine) -> Result<String> {
        if self.kind == Kind::Create {
            return self.submit_create(engine).await;
        }
        if self.kind == Kind::Images {
            let engine = engine.clone();
            let params = serde_json::to_value(aggregate_images::Params { number: 1, images: vec![base::id::uuid()] }).unwrap();
            let new = task::New::new(aggregate_images::KIND, "aggregate", &self.id).context(context()).params(params);
            return self.store().write(move |tx| engine.submit(tx, new)).await;
        }
        self.submit_kind(engine, self.kind).await
    }

    async fn check_done(&self) {
        if self.kind == Kind::Images {
            let sql = "SELECT COUNT(*) FROM event WHERE event_type LIKE 'aggregate.cache_images.%'";
            assert_eq!(self.store().read(|tx| tx.query_one(sql, &[], |r| r.int(0))).await.unwrap(), 3, "start, one host, end");
            return;
        }
        let server = self.stored().await;
        let running = self.hypervisor.running();
        if self.kind == Kind::Gate {
            // What it has begun comes after it, once.
            assert_eq!((&server.doc.gate, server.wanted), (&None, Power::Stopped));
            let begun = task::Filter { kind: Some(server_power::KIND.into()), ..Default::default() };
            assert_eq!(self.compute.core.tasks.list(&begun).await.unwrap().len(), 1);
            let open = task::Filter { open: true, ..Default::default() };
            let started = Instant::now();
            while !self.compute.core.tasks.list(&open).await.unwrap().is_empty() {
                assert!(started.elapsed() < PATIENCE, "it never ends");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(self.stored().await.vm_state, "stopped");
            return;
        }
        assert_eq!(server.task_state, None);
        match self.kind {
            Kind::Gate => {}
            Kind::Create => {
                assert_eq!((server.vm_state.as_str(), server.power_state), ("active", 1));
                assert_eq!((running, self.consumers().await), (vec![self.id.clone()], vec![self.id.clone()]));
            }
            Kind::Delete => {
                assert!(server.deleted);
                assert_eq!((running, self.consumers().await), (vec![], vec![]));
            }
            Kind::Stop => {
                assert_eq!((server.vm_state.as_str(), server.power_state), ("stopped", 4));
                assert_eq!(running, Vec::<String>::new());
            }
            Kind::Down => self.has_vcpus(&server, 1).await,
            Kind::Up => self.has_vcpus(&server, 2).await,
            Kind::Suspend => {
                assert_eq!(server.vm_state, "suspended");
                assert!(running.is_empty() && self.hypervisor.has_memory(&self.id));
            }
            Kind::Copy => {
                assert_eq!((server.vm_state.as_str(), server.doc.snapshot.as_ref()), ("active", None));
                assert_eq!(self.images().await, ["active"]);
                self.until("no copy is left on the host", || self.hypervisor.copies() == 0).await;
            }
            Kind::Resize => {
                assert_eq!((server.vm_state.as_str(), server.memory_mb), ("resized", 128));
                assert_eq!((running, self.consumers().await.len()), (vec![self.id.clone()], 2));
                assert_eq!(self.hypervisor.disks(&self.id), ["root", "root-1"]);
            }
            Kind::Shelve => {
                assert_eq!((server.vm_state.as_str(), server.host_id, server.host), ("shelved_offloaded", None, None));
                assert_eq!((self.consumers().await, self.images().await), (vec![], vec!["active".to_string()]));
                self.until("nothing is left on the host", || self.hypervisor.traces().is_empty() && self.hypervisor.copies() == 0).await;
            }
            Kind::Unshelve => {
                assert_eq!((server.vm_state.as_str(), server.doc.shelved.as_ref()), ("active", None));
                assert_eq!((running, self.consumers().await), (vec![self.id.clone()], vec![self.id.clone()]));
                assert_eq!(self.images().await, Vec::<String>::new());
            }
            Kind::Evacuate => {
                assert_eq!((server.vm_state.as_str(), server.host.as_deref()), ("active", Some("host-1")));
                assert_eq!((self.second.running(), self.consumers().await.len()), (vec![self.id.clone()], 2));
                // The lost host comes back: the guest goes there, and what was kept for it is free.
                let _back = self.host("host-0", &self.hypervisor).await;
                self.until("the guest is gone from the first host", || self.hypervisor.traces().is_empty()).await;
                let started = Instant::now();
                while self.migration().await != "completed" || self.consumers().await != std::slice::from_ref(&self.id) {
                    assert!(started.elapsed() < PATIENCE, "the host's word was not taken in");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert_eq!(self.second.running(), std::slice::from_ref(&self.id));
            }
            Kind::Move => {
                assert_eq!((server.vm_state.as_str(), server.host.as_deref()), ("resized", Some("host-1")));
                assert_eq!((running, self.second.running()), (vec![], vec![self.id.clone()]));
                assert_eq!((self.hypervisor.disks(&self.id), self.second.disks(&self.id)), (vec!["root".into()], vec!["root".into()]));
                assert!(self.second.came(&self.id).contains(&"root".to_string()), "its disk was not brought");
                assert_eq!((self.consumers().await.len(), self.migration().await.as_str()), (2, "finished"));
            }
            Kind::Live => self.check_moved(&server).await,
            Kind::MoveBack => {
                assert_eq!((server.vm_state.as_str(), server.host.as_deref()), ("active", Some("host-0")));
                assert_eq!((running, self.hypervisor.disks(&self.id)), (vec![self.id.clone()], vec!["root".to_string()]));
                assert_eq!((self.consumers().await, self.migration().await), (vec![self.id.clone()], "reverted".to_string()));
                self.until("nothing is left on the second host", || self.second.traces().is_empty()).await;
            }
            Kind::Attach | Kind::Detach => {
                assert_eq!((server.vm_state.as_str(), server.doc.detaching.len()), ("active", 0));
                assert_eq!(running, std::slice::from_ref(&self.id));
            }
            Kind::Images => unreachable!("it has no server"),
        }
    }

    async fn leave(&self) {
        self.store().close().await;
    }

    async fn check_undone(&self) {
        if self.kind == Kind::Images {
            // Nothing was made that somebody would have to clear away, and nobody was told of an end.
            let sql = "SELECT COUNT(*) FROM event WHERE event_type LIKE 'aggregate.cache_images.%'";
            assert_eq!(self.store().read(|tx| tx.query_one(sql, &[], |r| r.int(0))).await.unwrap(), 0);
            return;
        }
        let server = self.stored().await;
        assert_eq!(server.task_state, None);
        match self.kind {
            Kind::Create => {
                assert_eq!((server.vm_state.as_str(), server.host), ("error", None));
                assert_eq!((self.hypervisor.traces(), self.consumers().await), (vec![], vec![]));
            }
            // A delete is not undone: what is there can be deleted again.
            Kind::Delete => assert_eq!((server.vm_state.as_str(), server.deleted), ("error", false)),
            Kind::Stop => assert!(!server.deleted),
            Kind::Gate => {
                assert_eq!((server.vm_state.as_str(), server.doc.gate, server.wanted), ("active", None, Power::Running));
                assert_eq!(self.hypervisor.running(), std::slice::from_ref(&self.id));
            }
            Kind::Down => self.has_vcpus(&server, 2).await,
            Kind::Up => self.has_vcpus(&server, 1).await,
            Kind::Suspend => assert_eq!(server.wanted, Power::Running, "nobody suspends it when it is no more expected"),
            Kind::Copy => {
                assert_eq!((server.vm_state.as_str(), server.doc.snapshot.as_ref()), ("active", None));
                assert_eq!(self.images().await, Vec::<String>::new());
                self.until("no copy is left on the host", || self.hypervisor.copies() == 0).await;
            }
            Kind::Resize => {
                assert_eq!((server.vm_state.as_str(), server.memory_mb, server.doc.resize), ("active", 64, None));
                assert_eq!(self.consumers().await, std::slice::from_ref(&self.id));
                self.until("the old disk is back", || self.hypervisor.disks(&self.id) == ["root"]).await;
                self.until("it runs", || self.hypervisor.running() == [self.id.clone()]).await;
            }
            Kind::Shelve => {
                assert_eq!((server.vm_state.as_str(), server.doc.shelved), ("active", None));
                assert_eq!(self.images().await, Vec::<String>::new());
                self.until("it runs, and no copy is left", || {
                    self.hypervisor.running() == [self.id.clone()] && self.hypervisor.copies() == 0
                })
                .await;
            }
            // Once it runs it stays: only its image may be left over.
            Kind::Unshelve if server.doc.shelved.is_none() => {
                assert_eq!((server.vm_state.as_str(), self.hypervisor.running()), ("active", vec![self.id.clone()]));
            }
            Kind::Unshelve => {
                assert_eq!((server.vm_state.as_str(), server.host_id), ("shelved_offloaded", None));
                assert_eq!(self.consumers().await, Vec::<String>::new());
                self.until("nothing is left on the host", || self.hypervisor.traces().is_empty()).await;
            }
            Kind::Evacuate => {
                assert_eq!((server.vm_state.as_str(), server.host.as_deref()), ("error", Some("host-0")));
                assert_eq!(self.consumers().await, std::slice::from_ref(&self.id));
                assert_eq!(self.migration().await, "failed");
                self.until("nothing is left on the second host", || self.second.traces().is_empty()).await;
                // The lost host comes back, and has it as it was.
                let _back = self.host("host-0", &self.hypervisor).await;
                let started = Instant::now();
                while self.stored().await.vm_state != "active" {
                    assert!(started.elapsed() < PATIENCE, "it is never well again");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert_eq!((self.hypervisor.running(), self.hypervisor.disks(&self.id)), (vec![self.id.clone()], vec!["root".to_string()]));
                assert_eq!(self.hypervisor.starts(), 1, "it was never touched");
            }
            Kind::Move => {
                assert_eq!((server.vm_state.as_str(), server.host.as_deref(), server.doc.resize), ("active", Some("host-0"), None));
                assert_eq!((self.consumers().await, self.migration().await), (vec![self.id.clone()], "error".to_string()));
                self.until("nothing is left on the second host", || self.second.traces().is_empty()).await;
                self.until("it runs", || self.hypervisor.running() == [self.id.clone()]).await;
                assert_eq!(self.hypervisor.disks(&self.id), ["root"]);
            }
            // It had got there before it should have been taken back: there it is.
            Kind::Live if server.host.as_deref() == Some("host-1") => self.check_moved(&server).await,
            Kind::Live => {
                assert_eq!((server.vm_state.as_str(), server.host.as_deref(), server.doc.live.is_none()), ("active", Some("host-0"), true));
                assert_eq!((self.consumers().await, self.migration().await), (vec![self.id.clone()], "error".to_string()));
                self.until("nothing is left on the second host", || self.second.traces().is_empty()).await;
                self.until("it runs", || self.hypervisor.state(&self.id) == Some(host::hypervisor::RunState::Running)).await;
                assert_eq!(self.hypervisor.starts(), 1, "it never stopped");
            }
            // It had not begun to go back: it runs where it was.
            Kind::MoveBack if server.doc.resize.is_some() => {
                assert_eq!((server.vm_state.as_str(), self.migration().await.as_str()), ("resized", "finished"));
                self.until("it runs", || self.second.running() == [self.id.clone()]).await;
            }
            Kind::MoveBack => {
                assert_eq!(server.host.as_deref(), Some("host-0"));
                assert_eq!(self.consumers().await, std::slice::from_ref(&self.id));
                self.until("nothing is left on the second host", || self.second.traces().is_empty()).await;
            }
            Kind::Attach | Kind::Detach => assert_eq!((server.vm_state.as_str(), server.doc.detaching.len()), ("active", 0)),
            Kind::Images => unreachable!("it has no server"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn create_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Create)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspend_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Suspend)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Copy)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resize_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Resize)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shelve_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Shelve)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unshelve_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Unshelve)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evacuate_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Evacuate)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn move_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Move)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_migration_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Live)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_back_survives_the_four_runs() {
    four_runs(|| World::new(Kind::MoveBack)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Attach)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detach_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Detach)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Delete)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Stop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_vcpu_less_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Down)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_vcpu_more_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Up)).await;
}

/// A guest may think for ten minutes each time.
#[tokio::test(flavor = "multi_thread")]
async fn asking_a_guest_is_not_cut_short() {
    let world = World::new(Kind::Gate).await;
    let gate = world.operation();
    for step in ["vote", "notice"] {
        assert!(gate.retry(step).within > Duration::from_secs(600), "{step}");
    }
    assert!(gate.deadline() > 2 * Duration::from_secs(600));
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_a_guest_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Gate)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caching_images_survives_the_four_runs() {
    four_runs(|| World::new(Kind::Images)).await;
}

/// A document read while the server was there and sent when it had left made the guest again, and nothing removed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_hears_nothing_of_a_server_that_left_it() {
    let world = World::new(Kind::Unshelve).await;
    world.until("nothing is left on the host", || world.hypervisor.traces().is_empty()).await;
    let host_id = world.compute.core.hosts.sessions().connected()[0].id.clone();
    for _ in 0..20 {
        // Either nobody is told any more, or that the guest must be gone.
        if let Err(error) = world.compute.instance_send(&host_id, &world.id).await {
            assert_eq!(error.kind(), base::Kind::NotFound);
        }
        assert_eq!(world.hypervisor.traces(), Vec::<String>::new());
    }
    let left = "SELECT COUNT(*) FROM instance_tombstone";
    let started = Instant::now();
    while world.store().read(|tx| tx.query_one(left, &[], |r| r.int(0))).await.unwrap() > 0 {
        assert!(started.elapsed() < PATIENCE, "the host never said that the guest is gone");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.hypervisor.traces(), Vec::<String>::new());
}

//! A host's agent with a controller that only listens: what tests drive and watch.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base::{Config, Timestamp};
use futures_util::FutureExt;
use host::hypervisor::Hypervisor;
use host::simulated::SimulatedWire;
use host::{Agent, AgentHandle, Dial, ImageSource, Options, Qemu};
use rpc::instance::{Disk, DiskSource, InstanceSpec, InstanceState, InstanceStatus, Machine, Metadata, Power, Recovery, Restart};
use rpc::message::{HostEvent, HostEventKind, Request, Response, ToController, ToHost};
use rpc::session::{Hosts, Said, link};
use rpc::volume::{VolumeSource, VolumeSpec, VolumeState, VolumeStatus};
use tempfile::TempDir;
use tokio::sync::watch;

#[derive(Clone, Default)]
pub struct Heard {
    pub statuses: HashMap<String, InstanceStatus>,
    pub events: Vec<(u64, HostEvent)>,
    pub network: Option<ToController>,
    pub connected: Vec<String>,
    pub volumes: HashMap<String, VolumeStatus>,
    /// Guests whose hearts beat.
    pub beating: std::collections::BTreeSet<String>,
    /// What guests have said to their groups.
    pub groups: Vec<(String, rpc::guest::GroupSaid)>,
}

pub struct Bench {
    pub home: TempDir,
    pub hosts: Hosts,
    pub heard: watch::Receiver<Heard>,
    pub wire: SimulatedWire,
    /// Used in place of `wire` when there is one.
    pub real_wire: Option<Arc<dyn host::wire::Wire>>,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub config: Config,
    agent: Option<AgentHandle>,
    dial: Dial,
    /// Whether the host syncs its files.
    pub sync: bool,
    /// The id that its certificate names.
    pub id: Option<String>,
    /// Every guest that was wanted.
    wanted: Mutex<std::collections::BTreeSet<String>>,
    /// Whether events are acknowledged.
    pub acknowledge: Arc<Mutex<bool>>,
}

impl Bench {
    pub fn new(hypervisor: impl FnOnce(&Config) -> Arc<dyn Hypervisor>) -> Bench {
        let home = tempfile::Builder::new().prefix("sturnus-test-").tempdir().unwrap();
        let mut config = Config::for_home(home.path());
        config.set("host.name", "bench");
        let (hosts, mut from_hosts) = Hosts::new();
        let (sender, heard) = watch::channel(Heard::default());
        let acknowledge = Arc::new(Mutex::new(true));
        let (answer, acknowledging) = (hosts.clone(), acknowledge.clone());
        tokio::spawn(async move {
            while let Some(message) = from_hosts.recv().await {
                let host_id = message.host_id;
                match message.message {
                    Said::Connected(_) => sender.send_modify(|h| h.connected.push(host_id)),
                    Said::Message(ToController::Status(status)) => sender.send_modify(|h| {
                        h.statuses.insert(status.id.clone(), status);
                    }),
                    Said::Message(ToController::Volume(status)) => sender.send_modify(|h| {
                        h.volumes.insert(status.id.clone(), status);
                    }),
                    Said::Message(ToController::Guest(status)) => sender.send_modify(|h| match status.beat {
                        Some(_) => drop(h.beating.insert(status.instance_id)),
                        None => drop(h.beating.remove(&status.instance_id)),
                    }),
                    Said::Message(ToController::Group { instance_id, said }) => sender.send_modify(|h| h.groups.push((instance_id, said))),
                    Said::Message(ToController::Event { number, event }) => {
                        sender.send_modify(|h| h.events.push((number, event)));
                        if *acknowledging.lock().unwrap() {
                            let _ = answer.send(&host_id, ToHost::EventsStored { up_to: number }).await;
                        }
                    }
                    Said::Message(message @ ToController::Network { .. }) => sender.send_modify(|h| h.network = Some(message)),
                    _ => {}
                }
            }
        });
        let serving = hosts.clone();
        let dial: Dial = Arc::new(move || {
            let (host, controller) = link();
            let serving = serving.clone();
            tokio::spawn(async move { serving.serve(controller).await });
            async move { Ok(host) }.boxed()
        });
        let hypervisor = hypervisor(&config);
        Bench {
            home,
            hosts,
            heard,
            wire: SimulatedWire::default(),
            real_wire: None,
            hypervisor,
            config,
            agent: None,
            dial,
            sync: true,
            id: None,
            wanted: Mutex::default(),
            acknowledge,
        }
    }

    /// With QEMU and the test image.
    pub fn qemu() -> Bench {
        Bench::qemu_with(None)
    }

    /// The same, with a directory that it shares with others.
    pub fn qemu_sharing(storage: &Path) -> Bench {
        Bench::qemu_with(storage.to_str())
    }

    fn qemu_with(storage: Option<&str>) -> Bench {
        let storage = storage.unwrap_or_default();
        let mut bench = Bench::new(|config| {
            let images = config.home().join("images");
            std::fs::create_dir_all(&images).unwrap();
            let (hash, path) = guest_image();
            if std::fs::hard_link(path, images.join(&hash)).is_err() {
                std::fs::copy(path, images.join(&hash)).unwrap();
            }
            let mut config = config.clone();
            if std::env::var_os("STURNUS_TEST_PROBE").is_none() {
                config.set("host.accelerator", "tcg");
            }
            config.set("host.shared_storage", storage);
            Qemu::open(&config, ImageSource::Directory(images)).unwrap()
        });
        bench.config.set("host.shared_storage", storage);
        bench
    }

    pub async fn start(&mut self) {
        let options = Options {
            guard: None,
            id: self.id.clone(),
            config: self.config.clone(),
            hypervisor: self.hypervisor.clone(),
            wire: self.real_wire.clone().unwrap_or_else(|| Arc::new(self.wire.clone())),
            dial: self.dial.clone(),
            sync: self.sync,
        };
        let before = self.heard.borrow().connected.len();
        self.agent = Some(Agent::start(options).await.unwrap());
        self.until("the host connects", Duration::from_secs(10), |h| h.connected.len() > before).await;
    }

    pub async fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
    }

    /// The agent ends in the middle of whatever it does.
    pub async fn cut(&mut self) {
        drop(self.agent.take());
        // What was cut off in the middle of a write on another thread ends there.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    pub fn host_id(&self) -> String {
        self.agent.as_ref().unwrap().host_id().to_string()
    }

    pub async fn want(&self, spec: &InstanceSpec) {
        self.wanted.lock().unwrap().insert(spec.id.clone());
        self.hosts.send(&self.host_id(), ToHost::Instance(Box::new(spec.clone()))).await.unwrap();
    }

    pub async fn want_volume(&self, spec: &VolumeSpec) {
        self.hosts.send(&self.host_id(), ToHost::Volume(Box::new(spec.clone()))).await.unwrap();
    }

    /// Waits until a volume's newest document has led to this state.
    pub async fn volume_state(&self, spec: &VolumeSpec, state: VolumeState) -> VolumeStatus {
        let (id, generation) = (spec.id.clone(), spec.generation);
        let fits = move |h: &Heard| h.volumes.get(&id).is_some_and(|s| s.state == state && s.generation >= generation);
        let heard = self.until(&format!("volume {state:?}"), Duration::from_secs(30), fits).await;
        heard.volumes[&spec.id].clone()
    }

    /// Sends a document and waits until it is applied.
    pub async fn volume(&self, spec: &VolumeSpec) -> VolumeStatus {
        self.want_volume(spec).await;
        self.volume_state(spec, if spec.absent { VolumeState::Absent } else { VolumeState::Ready }).await
    }

    pub async fn ask(&self, request: Request) -> base::Result<Response> {
        self.hosts.ask(&self.host_id(), request).await
    }

    pub async fn until(&self, what: &str, limit: Duration, condition: impl Fn(&Heard) -> bool) -> Heard {
        let mut heard = self.heard.clone();
        let outcome = tokio::time::timeout(limit, heard.wait_for(|h| condition(h))).await.map(|h| h.unwrap().clone());
        match outcome {
            Ok(heard) => heard,
            Err(_) => panic!("not within {limit:?}: {what}; heard {:?} {:?}", self.heard.borrow().statuses, self.heard.borrow().events),
        }
    }

    /// Waits until the newest document has led to this state.
    pub async fn state(&self, spec: &InstanceSpec, state: InstanceState) -> InstanceStatus {
        let id = spec.id.clone();
        let generation = spec.generation;
        let fits = move |h: &Heard| h.statuses.get(&id).is_some_and(|s| s.state == state && s.generation >= generation);
        self.until(&format!("{state:?}"), Duration::from_secs(60), fits).await.statuses[&spec.id].clone()
    }

    pub async fn event(&self, what: &str, fits: impl Fn(&HostEventKind) -> bool) -> (Timestamp, HostEventKind) {
        let heard = self.until(what, Duration::from_secs(60), |h| h.events.iter().any(|(_, e)| fits(&e.kind))).await;
        let event = heard.events.into_iter().rev().find(|(_, e)| fits(&e.kind)).unwrap().1;
        (event.at, event.kind)
    }

    pub async fn console(&self, spec: &InstanceSpec) -> String {
        match self.ask(Request::ConsoleLog { instance_id: spec.id.clone(), lines: None }).await.unwrap() {
            Response::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the console shows `text` (`count` times).
    pub async fn console_shows(&self, spec: &InstanceSpec, text: &str, count: usize) {
        let limit = Instant::now() + Duration::from_secs(150);
        loop {
            let log = self.console(spec).await;
            if log.matches(text).count() >= count {
                return;
            }
            let tail: String = log.chars().rev().take(1500).collect::<Vec<_>>().into_iter().rev().collect();
            assert!(Instant::now() < limit, "console does not show `{text}` {count} times:\n{tail}");
            // The console has no bell; a look every quarter second is its condition.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    pub fn directory(&self, spec: &InstanceSpec) -> PathBuf {
        self.home.path().join("instances").join(&spec.id)
    }

    /// What the leak check finds wrong, of everything but the network.
    pub fn leaks(&self) -> Vec<leak::Item> {
        let report = leak::take_stock(self.home.path()).unwrap();
        let wanted = self.wanted.lock().unwrap();
        let ours = |item: &&leak::Item| match item.kind {
            leak::Kind::Link | leak::Kind::Namespace | leak::Kind::Table => false,
            // Other tests have groups on this machine too.
            leak::Kind::ControlGroup => wanted.iter().any(|id| item.name.ends_with(id.as_str())),
            _ => true,
        };
        report.findings().filter(ours).cloned().collect()
    }

    /// Waits until the leak check finds nothing: a host that has just acted is between two states.
    pub async fn no_leaks(&self) {
        let limit = Instant::now() + Duration::from_secs(5);
        while !self.leaks().is_empty() {
            assert!(Instant::now() < limit, "{:#?}", self.leaks());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends every guest of this bench, so that nothing outlives a test.
    pub async fn clean(&mut self, specs: &[&InstanceSpec]) {
        for spec in specs {
            let mut last = (*spec).clone();
            last.generation += 1000;
            last.power = Power::Absent;
            self.want(&last).await;
            self.state(&last, InstanceState::Absent).await;
        }
        self.no_leaks().await;
        self.stop().await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A test that failed leaves its guests: end those that listen in this home.
        for id in std::fs::read_dir(self.home.path().join("instances")).into_iter().flatten().flatten() {
            let socket = id.path().join("qmp.sock");
            if let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) {
                let credentials = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).unwrap();
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(credentials.pid()), nix::sys::signal::Signal::SIGKILL);
                while std::fs::read_to_string(format!("/proc/{}/stat", credentials.pid())).is_ok_and(|s| !s.contains(") Z ")) {
                    std::thread::yield_now();
                }
            }
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            for id in self.wanted.lock().unwrap().iter() {
                let _ = std::fs::remove_dir(hierarchy.path().join("sturnus").join(id));
            }
        }
    }
}

/// The guest image that `make test` builds: its hash and place.
pub fn guest_image() -> (String, &'static Path) {
    use sha2::{Digest, Sha256};
    static IMAGE: std::sync::OnceLock<(String, PathBuf)> = std::sync::OnceLock::new();
    let (hash, path) = IMAGE.get_or_init(|| {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest-image/disk.qcow2");
        let path = std::env::var_os("STURNUS_TEST_GUEST_IMAGE").map_or(built, PathBuf::from);
        let data = std::fs::read(&path)
            .unwrap_or_else(|e| panic!("no guest image at {}: {e}; build it or set STURNUS_TEST_GUEST_IMAGE", path.display()));
        (Sha256::digest(&data).iter().map(|b| format!("{b:02x}")).collect(), path)
    });
    (hash.clone(), path)
}

/// A guest on the test image.
pub fn vm() -> InstanceSpec {
    let source = DiskSource::Image { sha256: guest_image().0, format: "qcow2".into() };
    let mut spec = blank();
    spec.disks = vec![Disk {
        name: "root".into(),
        revision: 0,
        copy_of: None,
        bytes: 1 << 30,
        source,
        boot_index: Some(0),
        serial: "root-disk".into(),
        cdrom: false,
    }];
    spec
}

/// A volume of one GiB.
pub fn volume(source: VolumeSource) -> VolumeSpec {
    VolumeSpec { absent: false, bytes: 1 << 30, source, ..rpc::volume::absent(&base::id::uuid(), 1) }
}

/// The next generation of a volume's document.
pub fn volume_next(spec: &VolumeSpec, change: impl FnOnce(&mut VolumeSpec)) -> VolumeSpec {
    let mut spec = spec.clone();
    spec.generation += 1;
    change(&mut spec);
    spec
}

/// A guest's disk that is a volume.
pub fn volume_disk(volume: &VolumeSpec, boot_index: Option<u32>) -> Disk {
    let source = DiskSource::Volume { id: volume.id.clone(), read_only: false, stored: volume.stored.is_some() };
    Disk {
        name: format!("vol-{}", base::id::short(&volume.id, 13)),
        bytes: 0,
        source,
        boot_index,
        serial: volume.id.clone(),
        cdrom: false,
        copy_of: None,
        revision: 0,
    }
}

/// A guest without disks: QEMU runs, and its firmware finds nothing to boot.
pub fn blank() -> InstanceSpec {
    InstanceSpec {
        id: base::id::uuid(),
        generation: 1,
        name: "vm".into(),
        project_id: base::id::hex(),
        power: Power::Running,
        boot: 0,
        restart: Restart::Hard,
        shutdown_seconds: 60,
        vcpus: 1,
        memory_mib: 128,
        machine: Machine::default(),
        disks: vec![],
        kept: vec![],
        nics: vec![],
        metadata: Metadata::default(),
        recovery: Recovery::default(),
        snapshots: vec![],
        moving: None,
        heartbeat: false,
        messaging: false,
        dedicated: None,
    }
}

/// The next generation of a document.
pub fn next(spec: &InstanceSpec, change: impl FnOnce(&mut InstanceSpec)) -> InstanceSpec {
    let mut spec = spec.clone();
    spec.generation += 1;
    change(&mut spec);
    spec
}

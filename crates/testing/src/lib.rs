//! A whole cloud in a test's process: the real router, services and store, on simulated hosts that can be told
//! to fail, delay, lie or vanish. Nothing listens on a port; requests go straight to the router.
//!
//! ```no_run
//! # async fn example() {
//! let cloud = testing::Cloud::start().await;
//! let admin = cloud.admin().await;
//! let answer = cloud.get(&admin, "/compute/v2.1/servers").await;
//! assert_eq!(answer.status, 200);
//! # }
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answer;
mod client;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::Config;
use host::simulated::{SimulatedHypervisor, SimulatedWire};
use host::{Agent, AgentHandle, Options};
use tempfile::TempDir;

pub use answer::Answer;
pub use client::{Request, Token};

/// A running cloud. Dropping it is a crash: nothing is ended in an orderly manner.
pub struct Cloud {
    pub controller: sturnus::cloud::Cloud,
    pub hosts: Vec<Host>,
    home: Arc<TempDir>,
    config: Config,
}

/// A simulated host: its hypervisor and network take orders from the test.
pub struct Host {
    pub hypervisor: SimulatedHypervisor,
    pub wire: SimulatedWire,
    /// The program that is its guard from its next start on, and keys of its configuration.
    pub guard: Option<PathBuf>,
    pub settings: Vec<(&'static str, String)>,
    home: PathBuf,
    agent: Option<AgentHandle>,
}

impl Host {
    /// The host vanishes: its agent stops in the middle of whatever it does. Guests go on.
    pub async fn vanish(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
    }
}

impl Cloud {
    /// A new cloud with one simulated host.
    pub async fn start() -> Cloud {
        Self::with_hosts(1).await
    }

    pub async fn with_hosts(count: usize) -> Cloud {
        Self::with_settings(count, &[]).await
    }

    /// The same with keys of the configuration set.
    pub async fn with_settings(count: usize, settings: &[(&'static str, &str)]) -> Cloud {
        let home = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let mut config = Config::for_home(home.path());
        // Hashing as such is tested elsewhere; here it would only take time.
        config.set("password.memory_kib", "64");
        config.set("password.passes", "1");
        config.set("store", &store::testing::url(home.path(), &sturnus::cloud::tables()).await);
        for (name, value) in settings {
            config.set(name, value);
        }
        let mut cloud = Self::open(home, config).await;
        for number in 0..count {
            let name = format!("host-{number}");
            cloud.host_add(&name).await;
            // One after the other: of equal hosts the scheduler takes the oldest, and tests count on the first.
            while !cloud.offers(&name).await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        cloud
    }

    /// Whether placement knows what a host has to give.
    async fn offers(&self, host: &str) -> bool {
        let sql = "SELECT 1 FROM provider p JOIN inventory i ON i.provider = p.uuid WHERE p.name = ?1 LIMIT 1";
        let found = self.controller.core.store.read(|tx| tx.query_opt(sql, store::params![host], |row| row.int(0))).await;
        found.expect("placement's tables").is_some()
    }

    async fn open(home: Arc<TempDir>, config: Config) -> Cloud {
        let controller = sturnus::cloud::Cloud::open(config.clone()).await.expect("the cloud opens");
        Cloud { controller, hosts: Vec::new(), home, config }
    }

    pub async fn host_add(&mut self, name: &str) {
        let home = self.home.path().join(name);
        let host = Host {
            hypervisor: SimulatedHypervisor::default(),
            wire: SimulatedWire::default(),
            guard: None,
            settings: Vec::new(),
            home,
            agent: None,
        };
        self.hosts.push(host);
        self.host_return(self.hosts.len() - 1).await;
    }

    /// A vanished host comes back with its disk as it left it.
    pub async fn host_return(&mut self, number: usize) {
        let dial = self.controller.dial();
        let host = &mut self.hosts[number];
        let mut config = Config::for_home(&host.home);
        let name = host.home.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        config.set("host.name", &name);
        for (name, value) in &host.settings {
            config.set(name, value);
        }
        let options = Options {
            config,
            hypervisor: Arc::new(host.hypervisor.clone()),
            wire: Arc::new(host.wire.clone()),
            dial,
            sync: false,
            id: None,
            guard: host.guard.clone(),
        };
        host.agent = Some(Agent::start(options).await.expect("the host starts"));
    }

    /// The controller dies and a new one starts on the same store; hosts and guests go on.
    pub async fn crash(self) -> Cloud {
        let Cloud { controller, mut hosts, home, config } = self;
        for host in &mut hosts {
            // Their sessions end with the controller; in one process that is easiest done by a new agent.
            host.vanish().await;
        }
        controller.kill().await;
        let mut cloud = Self::open(home, config).await;
        cloud.hosts = hosts;
        for number in 0..cloud.hosts.len() {
            cloud.host_return(number).await;
        }
        cloud
    }

    pub fn home(&self) -> &std::path::Path {
        self.home.path()
    }
}

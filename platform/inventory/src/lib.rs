//! The hosts of a cloud (StarlingX's configuration API, `ihosts`): how they join and leave, and what state they are in.
//!
//! A host joins with a one-time token ([`join`]): it proves that it holds the token, and gets a certificate for a key that
//! never leaves it. From then on its certificate is all that counts; deleting the host revokes it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod act;
mod api;
mod bmc;
mod cycle;
mod db;
mod dropped;
mod enable;
mod heartbeat;
mod hosts;
mod in_service;
mod join;
mod lock;
mod monitor;
mod out_of_service;
mod parameters;
mod policy;
mod remote_log;
mod rounds;
mod self_reboot;
pub mod sensors;
mod site;
mod streak;
mod system;

pub use act::{Act, HostAct};
pub use bmc::{BmcChange, UNREACHABLE};
pub use cycle::HostCycle;
pub use db::Host;
pub use enable::{Cause, Enabling, HostEnable, Pulses, Upkeep};
pub use heartbeat::Health;
pub use join::hostname_check;
pub use lock::{Forcing, HostLock, force_try};
pub use parameters::OnLoss;
pub use policy::RULES;
pub use remote_log::RemoteLog;
pub use site::Site;
pub use streak::Streaks;

use std::path::PathBuf;
use std::sync::Arc;

use base::{Context, Result};
use block_storage::Volumes;
use compute::Compute;
use fault::Faults;
use network::Network;
use service::{Core, Service};

/// Official service type.
pub const KIND: &str = "platform";

pub static MIGRATIONS: &[store::Migration] = &[
    store::Migration { name: "0001_hosts", sql: include_str!("../migrations/0001_hosts.sql") },
    store::Migration { name: "0002_heartbeat", sql: include_str!("../migrations/0002_heartbeat.sql") },
    store::Migration { name: "0003_tasks", sql: include_str!("../migrations/0003_tasks.sql") },
    store::Migration { name: "0004_bmc", sql: include_str!("../migrations/0004_bmc.sql") },
    store::Migration { name: "0005_monitor", sql: include_str!("../migrations/0005_monitor.sql") },
    store::Migration { name: "0006_sensors", sql: include_str!("../migrations/0006_sensors.sql") },
    store::Migration { name: "0007_upkeep", sql: include_str!("../migrations/0007_upkeep.sql") },
    store::Migration { name: "0008_site", sql: include_str!("../migrations/0008_site.sql") },
    store::Migration { name: "0009_parameters", sql: include_str!("../migrations/0009_parameters.sql") },
    store::Migration { name: "0010_system", sql: include_str!("../migrations/0010_system.sql") },
];

/// The service's handle. Cheap to clone.
#[derive(Clone)]
pub struct Inventory(Arc<Inner>);

pub struct Inner {
    core: Core,
    network: Network,
    volumes: Volumes,
    compute: Compute,
    faults: Faults,
    bmcs: bmc::Bmcs,
    /// How often in a row each host's clock was wrong.
    clocks: Streaks,
    dropped: dropped::Counts,
    /// Who knows how hosts answer pulses, once they are sent any.
    pulses: std::sync::RwLock<Option<Pulses>>,
    /// More than half of the site is silent.
    cut_off: std::sync::atomic::AtomicBool,
}

impl std::ops::Deref for Inventory {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Inventory {
    /// Brings the tables up to date and begins to listen to hosts.
    pub async fn new(core: Core, network: Network, volumes: Volumes, compute: Compute, faults: Faults) -> Result<Inventory> {
        core.store.migrate(KIND, MIGRATIONS).await?;
        // Hosts connect again after a start; until then none is there.
        core.store.write(db::all_disconnected_in).await?;
        core.store.write(Inventory::parameters_prepare_in).await?;
        core.store.write(Inventory::system_prepare_in).await?;
        let bmcs = bmc::Bmcs::open(&core.config)?;
        let (clocks, pulses, cut_off) = Default::default();
        let dropped = dropped::Counts::new(&core.metrics);
        let inventory = Inventory(Arc::new(Inner { core, network, volumes, compute, faults, bmcs, clocks, dropped, pulses, cut_off }));
        inventory.core.hosts.listen(Arc::new(inventory.clone()));
        inventory.core.tasks.register(Arc::new(lock::HostLock(inventory.clone())));
        inventory.core.tasks.register(Arc::new(act::HostAct(inventory.clone())));
        inventory.core.tasks.register(Arc::new(cycle::HostCycle(inventory.clone())));
        inventory.core.tasks.register(Arc::new(enable::HostEnable(inventory.clone())));
        inventory.core.tasks.reconcile(Arc::new(enable::Enabler(inventory.clone())));
        inventory.core.tasks.reconcile(Arc::new(in_service::InService::new(inventory.clone())));
        inventory.core.tasks.reconcile(Arc::new(out_of_service::OutOfService::new(inventory.clone())));
        inventory.core.tasks.reconcile(Arc::new(self_reboot::SelfReboot(inventory.clone())));
        inventory.core.tasks.reconcile(Arc::new(RemoteLog::new(inventory.clone())));
        Ok(inventory)
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: KIND,
            name: "sysinv",
            description: "Hosts of this cloud",
            mounts: &["/inventory"],
            endpoint: "/inventory/v1",
            routes: api::routes(self.clone())?,
        })
    }

    fn authorize(&self, rule: &str, ctx: &Context) -> Result<()> {
        self.core.authorize(KIND, rule, ctx, &())
    }

    /// The authority's directory.
    fn pki(&self) -> PathBuf {
        self.core.config.home().join("pki")
    }
}

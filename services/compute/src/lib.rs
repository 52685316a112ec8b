//! The compute service: servers and the flavors, keys, limits and hosts they stand on.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod aggregates;
pub mod api;
mod claims;
mod conditions;
pub mod consoles;
mod cpus;
pub mod db;
pub mod fields;
pub mod flavors;
pub mod gate;
mod host_logs;
pub mod hosts;
pub mod keypairs;
mod messages;
mod metadata;
mod notify;
pub mod op;
pub mod policy;
pub mod quotas;
pub mod scheduler;
pub mod server_groups;
pub mod servers;
mod spec;
mod ssh;
pub mod states;
mod statuses;
mod sync;
mod vim;
pub mod volumes;

use std::sync::Arc;

use base::{Context, Result};
use block_storage::Volumes;
use fault::Faults;
use http_api::{Version, Versions};
use image::Images;
use network::Network;
use placement::Placement;
use service::{Core, Service};

pub use db::MIGRATIONS;
pub use policy::RULES;

/// The microversions served: all of them. Requests without one get the oldest.
pub const VERSIONS: Versions = Versions {
    service: "compute",
    legacy_header: Some("x-openstack-nova-api-version"),
    min: Version::new(2, 1),
    max: Version::new(2, 104),
};

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Compute(Arc<Inner>);

pub struct Inner {
    pub core: Core,
    pub images: Images,
    pub placement: Placement,
    pub network: Network,
    pub volumes: Volumes,
    pub faults: Faults,
    pub(crate) statuses: statuses::Statuses,
    pub(crate) told: hosts::Told,
    pub beats: gate::Beats,
    pub(crate) held: gate::Held,
    pub(crate) mail: messages::Mail,
    pub(crate) recovery: spec::RecoveryLimits,
    /// For what is started from the thread that commits.
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) started: std::time::Instant,
}

impl std::ops::Deref for Compute {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Compute {
    /// Brings the tables up to date and registers operations, reconcilers and the ear for hosts.
    pub async fn new(
        core: Core,
        images: Images,
        placement: Placement,
        network: Network,
        volumes: Volumes,
        faults: Faults,
    ) -> Result<Compute> {
        core.store.migrate("compute", MIGRATIONS).await?;
        // Hosts connect again after a start; until then none is there.
        core.store.write(db::nodes::nodes_all_disconnected_in).await?;
        let limit = |key: &str| u32::try_from(core.config.int(key)).unwrap_or(u32::MAX);
        let recovery = spec::RecoveryLimits { attempts: limit("recovery.attempts"), window_seconds: limit("recovery.window_seconds") };
        let runtime = tokio::runtime::Handle::current();
        let statuses = statuses::Statuses::default();
        let held = gate::Held::new(core.config.int("compute.guest_waiting"));
        let compute = Compute(Arc::new(Inner {
            core,
            images,
            placement,
            network,
            volumes,
            faults,
            statuses,
            told: hosts::Told::default(),
            beats: gate::Beats::default(),
            held,
            mail: messages::Mail::default(),
            recovery,
            runtime,
            started: std::time::Instant::now(),
        }));
        fn until_fenced(compute: &Compute, inner: impl task::Operation) {
            compute.core.tasks.register(Arc::new(op::UntilFenced { compute: compute.clone(), inner }));
        }
        compute.core.tasks.register(Arc::new(op::aggregate_images::AggregateImages(compute.clone())));
        compute.core.tasks.register(Arc::new(op::server_create::ServerCreate(compute.clone())));
        compute.core.tasks.register(Arc::new(op::server_delete::ServerDelete(compute.clone())));
        compute.core.tasks.register(Arc::new(op::server_gate::ServerGate(compute.clone())));
        until_fenced(&compute, op::server_power::ServerPower(compute.clone()));
        until_fenced(&compute, op::server_evacuate::ServerEvacuate(compute.clone()));
        compute.core.tasks.register(Arc::new(op::server_reimage::ServerReimage(compute.clone())));
        compute.core.tasks.register(Arc::new(op::server_copy::ServerCopy(compute.clone())));
        compute.core.tasks.register(Arc::new(op::server_scale::ServerScale(compute.clone())));
        until_fenced(&compute, op::server_resize::ServerResize(compute.clone()));
        compute.core.tasks.register(Arc::new(op::server_live::ServerLive(compute.clone())));
        until_fenced(&compute, op::server_move::ServerMove(compute.clone()));
        until_fenced(&compute, op::server_move_back::ServerMoveBack(compute.clone()));
        until_fenced(&compute, op::server_shelve::ServerShelve(compute.clone()));
        until_fenced(&compute, op::server_unshelve::ServerUnshelve(compute.clone()));
        compute.core.tasks.register(Arc::new(op::server_nic::ServerNic(compute.clone())));
        for attach in [true, false] {
            compute.core.tasks.register(Arc::new(op::server_volume::ServerVolumeChange { compute: compute.clone(), attach }));
        }
        compute.core.tasks.reconcile(Arc::new(sync::server_power::ServerPower(compute.clone())));
        compute.core.tasks.reconcile(Arc::new(messages::GroupMessages::new(compute.clone())));
        compute.core.tasks.reconcile(Arc::new(sync::server_alarms::ServerAlarms::new(compute.clone())));
        compute.core.tasks.reconcile(Arc::new(sync::group_alarms::GroupAlarms::new(compute.clone())));
        let this = compute.clone();
        compute.network.devices_listen(Box::new(move |tx, device| {
            // Last in the transaction: whoever changes the interfaces may have the server in hand and write it back.
            let (this, device) = (this.clone(), device.to_string());
            tx.before_commit(move |tx| this.interfaces_changed_in(tx, &device));
            Ok(())
        }));
        let this = compute.clone();
        compute.network.demands_listen(Box::new(move |tx, device| this.demands_changed_in(tx, device)));
        compute.network.devices_owned(Box::new(db::servers::server_project_in));
        compute.core.hosts.listen(Arc::new(compute.clone()));
        Ok(compute)
    }

    /// Whether `ctx` may do what `rule` guards, on `target`.
    pub fn authorize(&self, rule: &str, ctx: &Context, target: &dyn ::policy::Target) -> Result<()> {
        self.core.authorize("compute", rule, ctx, target)
    }

    /// As [`Compute::authorize`], as an answer instead of an error.
    pub fn may(&self, rule: &str, ctx: &Context, target: &dyn ::policy::Target) -> bool {
        self.core.policy.check("compute", rule, ctx, target)
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: "compute",
            name: "nova",
            description: "OpenStack Compute",
            mounts: &["/compute"],
            endpoint: "/compute/v2.1",
            routes: api::routes(self)?,
        })
    }
}

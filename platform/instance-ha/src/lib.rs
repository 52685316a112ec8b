//! Masakari's API (instance-ha, versions 1.0 to 1.3) on this cloud's own recovery.
//!
//! Segments name hosts that stand in for each other, notifications tell of failures, and moves show what became of each
//! instance. Hosts that are lost are found, fenced and emptied with no segment and no notification; a segment makes that visible
//! here, and lets monitors of other makes tell what they have seen. What they say is never enough to start an instance
//! elsewhere: a host is fenced first ([`recovery`]).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod api;
mod db;
mod hosts;
mod notifications;
mod policy;
mod recovery;
mod segments;

pub use policy::RULES;

use std::sync::Arc;

use base::{Context, Result};
use compute::Compute;
use inventory::Inventory;
use service::{Core, Service};
use task::Nudge;

/// Official service type.
pub const KIND: &str = "instance-ha";

pub static MIGRATIONS: &[store::Migration] =
    &[store::Migration { name: "0001_segments", sql: include_str!("../migrations/0001_segments.sql") }];

/// The service's handle. Cheap to clone.
#[derive(Clone)]
pub struct InstanceHa {
    core: Core,
    inventory: Inventory,
    recovery: Nudge,
}

impl InstanceHa {
    /// Brings the tables up to date; notifications are worked on when the core's tasks start.
    pub async fn new(core: Core, inventory: Inventory, compute: Compute) -> Result<InstanceHa> {
        core.store.migrate(KIND, MIGRATIONS).await?;
        let work = recovery::Recovery { core: core.clone(), inventory: inventory.clone(), compute };
        let recovery = core.tasks.reconcile(Arc::new(work));
        Ok(InstanceHa { core, inventory, recovery })
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: KIND,
            name: "masakari",
            description: "Instances High Availability",
            mounts: &["/instance-ha"],
            endpoint: "/instance-ha/v1",
            routes: api::routes(self.clone())?,
        })
    }

    fn authorize(&self, rule: &str, ctx: &Context) -> Result<()> {
        self.core.authorize(KIND, rule, ctx, &())
    }
}
